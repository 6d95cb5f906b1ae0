# Deadlocks and serialization failures: the transaction begins anew, takes less,
# and by and by more again.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxInbox;
use OutboxTest;

my $node = new_server('inbox_deadlocks', "max_worker_processes = 16\n");
create_extension($node, 'postgres');
subscribe_in($node);

# ---------------------------------------------------------------------------
# A handler that only gets through in small transactions, while there is an
# obstacle.

my $topic = make_topic(topic_name('Crowded'), 1);
sql(<<SQL);
CREATE TABLE obstacle ();
CREATE SEQUENCE failures MINVALUE 0;
CREATE TABLE effect (id bigserial, xid xid8 DEFAULT pg_current_xact_id(), place bigint, timeout text);
CREATE INDEX ON effect (xid);
CREATE FUNCTION crowded(m inbox.message) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	INSERT INTO effect (place, timeout) VALUES (m."offset", current_setting('deadlock_timeout'));
	IF to_regclass('obstacle') IS NOT NULL
		AND (SELECT count(*) > 10 FROM effect WHERE xid = pg_current_xact_id())
	THEN
		PERFORM nextval('failures');
		RAISE 'too many at once' USING ERRCODE = 'serialization_failure';
	END IF;
END
\$\$;
SQL
produce($topic, map { "k$_\t$_" } 1 .. 4000);
sql("SELECT inbox.subscribe('crowded', ARRAY['$topic'], 'crowded', batch_size => 200)");
wait_for('SELECT count(*) = 4000 FROM effect', 'all come through, in smaller transactions');
my $failures = sql('SELECT last_value FROM failures');
note("$failures transactions failed");
cmp_ok($failures, '>=', 5, 'which were larger at first');
cmp_ok($failures, '<=', 60, 'what was learnt is kept from batch to batch');
is(sql("SELECT DISTINCT attempts FROM inbox.message"), '0', 'none of it counts as an attempt');
is(sql('SELECT count(*) FROM (SELECT place, lag(place, 1, -1::bigint) OVER (ORDER BY id) AS before FROM effect) t WHERE place <> before + 1'),
	'0', 'the order is kept');
is(sql('SELECT DISTINCT timeout FROM effect'), '10ms', 'workers look for deadlocks soon');

sql('DROP TABLE obstacle');
produce($topic, map { "k$_\t$_" } 1 .. 10000);
wait_for('SELECT count(*) = 14000 FROM effect', 'without the obstacle, it goes on');
is(sql('SELECT max(count) FROM (SELECT count(*) FROM effect GROUP BY xid) t'),
	'200', 'transactions have become as large as they may');
sql("SELECT inbox.unsubscribe('crowded')");

# ---------------------------------------------------------------------------
# The same when messages are tried again that failed before: many keys, and one
# key with many messages that wait for the first.

my $again = make_topic(topic_name('Again'), 1);
sql(<<SQL);
CREATE TABLE later (id bigserial, xid xid8 DEFAULT pg_current_xact_id(), key text, place bigint);
CREATE INDEX ON later (xid);
ALTER SEQUENCE failures RESTART;
CREATE FUNCTION again(m inbox.message) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	IF m.attempts = 0 AND (m.aggregate_id <> 'same' OR m."offset" = 0) THEN
		RAISE 'not yet';
	END IF;
	INSERT INTO later (key, place) VALUES (m.aggregate_id, m."offset");
	IF (SELECT count(*) > 10 FROM later WHERE xid = pg_current_xact_id()) THEN
		PERFORM nextval('failures');
		RAISE 'too many at once' USING ERRCODE = 'deadlock_detected';
	END IF;
END
\$\$;
SQL
produce($again, map { ("same\t$_", "k$_\t$_") } 1 .. 200);
sql("SELECT inbox.subscribe('again', ARRAY['$again'], 'again', batch_size => 400, retry_backoff => '1 s')");
wait_for('SELECT count(*) = 400 FROM later', 'what waits comes through in smaller transactions, too');
cmp_ok(sql('SELECT last_value FROM failures'), '>=', 1, 'which were larger at first');
is(sql("SELECT sum(attempts), max(attempts) FROM inbox.message WHERE subscription = 'again'"),
	'201|1', 'only what the handler refused counts as an attempt');
is(sql("SELECT count(*) FROM (SELECT place, lag(place, 1, -2::bigint) OVER (ORDER BY id) AS before FROM later WHERE key = 'same') t WHERE place <> before + 2"),
	'0', 'the order of the key is kept');
sql("SELECT inbox.unsubscribe('again')");

# ---------------------------------------------------------------------------
# Two workers that lock the same rows, one from the first to the last, the
# other from the last to the first.

my $count = 20000;
my $both = make_topic(topic_name('Both'), 2);
sql(<<SQL);
CREATE TABLE account (id integer PRIMARY KEY, balance bigint NOT NULL DEFAULT 0) WITH (fillfactor = 20);
INSERT INTO account SELECT generate_series(0, 99);
CREATE TABLE done (id bigserial, partition integer, place bigint);
CREATE FUNCTION opposite(m inbox.message) RETURNS void LANGUAGE sql AS \$\$
	INSERT INTO done (partition, place) VALUES (m.partition, m."offset");
	UPDATE account SET balance = balance + 1
		WHERE id = CASE m.partition WHEN 0 THEN m."offset" % 100 ELSE 99 - m."offset" % 100 END;
\$\$;
SQL
foreach my $partition (0, 1)
{
	produce($both, { partition => $partition }, map { "k$_\t$_" } 1 .. $count);
}
my $before = sql('SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()');
sql("SELECT inbox.subscribe('opposite', ARRAY['$both'], 'opposite', workers => 2, batch_size => 200)");
wait_for('SELECT count(*) = ' . 2 * $count . ' FROM done', 'two workers that deadlock get through');
ok( $node->poll_query_until('postgres',
		"SELECT deadlocks > $before FROM pg_stat_database WHERE datname = current_database()"),
	'they did deadlock');
my $deadlocks = sql("SELECT deadlocks - $before FROM pg_stat_database WHERE datname = current_database()");
note("$deadlocks deadlocks");
is(sql('SELECT sum(balance) FROM account'), 2 * $count, 'each message has had its effect once');
is( sql('SELECT count(*) FROM (SELECT place, lag(place, 1, -1::bigint) OVER (PARTITION BY partition ORDER BY id) AS before FROM done) t WHERE place <> before + 1'),
	'0', 'in order');
is(sql("SELECT DISTINCT attempts FROM inbox.message WHERE subscription = 'opposite'"),
	'0', 'deadlocks do not count as attempts');
ok( $node->poll_query_until('postgres',
		'SELECT n_tup_upd >= ' . 2 * $count . " FROM pg_stat_user_tables WHERE relname = 'account'"),
	'statistics, by which autovacuum goes, show what workers have done');

done_testing();
