# What is in the way of a batch at its end: a position that somebody else has locked
# and does not give back, and a message that cannot be stored.  It holds up nobody
# else, and shows.

use strict;
use warnings;

use lib 't';
use OutboxInbox;
use OutboxRecord;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('inbox_obstacles');
subscribe_in($node);
create_extension($node, 'postgres');

# ---------------------------------------------------------------------------
# A transaction that has called inbox.seek() and stays open

my $topic = make_topic(topic_name('Sought'), 1);
sql(<<SQL);
CREATE TABLE counter AS SELECT 0 AS n;
CREATE TABLE effect (id bigserial, value text);
CREATE TABLE obstacle (value text);
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	IF EXISTS (SELECT FROM obstacle WHERE value = inbox.payload_text(m)) THEN
		RAISE 'not yet';
	END IF;
	UPDATE counter SET n = n + 1;
	INSERT INTO effect (value) VALUES (inbox.payload_text(m));
END \$\$;
SELECT inbox.subscribe('s', ARRAY['$topic'], 'handle', retry_backoff => '10 ms', max_attempts => 1000);
SQL

sub effects
{
	my ($values, $what) = @_;
	return wait_for("SELECT coalesce(string_agg(value, ' ' ORDER BY id), '') = '$values' FROM effect", $what);
}

sub state_is
{
	my ($state, $what) = @_;
	return wait_for("SELECT state = '$state' FROM inbox.stat_subscription WHERE name = 's'", $what);
}

produce($topic, "a\t1");
effects('1', 'a message is handled');
my $seeker = $node->background_psql('postgres');
$seeker->query_safe("BEGIN; SELECT inbox.seek('s', '$topic', 0, 0)");
produce($topic, "a\t2");
state_is('waiting for lock', 'a transaction with inbox.seek() is open: the state says so');
like(sql('SELECT last_error FROM inbox.stat_subscription'), qr/^the position of partition 0 of topic "\Q$topic\E" is locked by another transaction, such as one that has called inbox\.seek\(\)/,
	'and last_error');
sql("SET lock_timeout = '20 s'; UPDATE counter SET n = n");
pass('what the handler has locked is free meanwhile');
is(sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"), 0, 'and the worker waits without a lock');
$seeker->query_safe('ROLLBACK');
effects('1 2', 'after it the message is handled, once');
state_is('running', 'and the state is what it was');

$seeker->query_safe("BEGIN; SELECT inbox.seek('s', '$topic', 0, 1)");
produce($topic, "a\t3");
state_is('waiting for lock', 'it waits again');
$seeker->query_safe('COMMIT');
effects('1 2 3', 'and goes on where it was sent to, where nothing is new but the last message');
is(sql('SELECT n FROM counter'), 3, 'and each was handled once');

# A worker that waits can end.
$seeker->query_safe("BEGIN; SELECT FROM inbox.position FOR UPDATE");
produce($topic, "a\t4");
state_is('waiting for lock', 'a row that is locked does the same');
sql("SELECT inbox.pause('s')");
state_is('paused', 'a worker that waits can be paused');
wait_for('SELECT count(*) = 0 FROM inbox.consumer_status() WHERE pid IS NOT NULL', 'and ends');
$seeker->query_safe('ROLLBACK');
sql("SELECT inbox.resume('s')");
effects('1 2 3 4', 'and the next one goes on');

# While a message is tried again.
sql("INSERT INTO obstacle VALUES ('5')");
produce($topic, "a\t5");
wait_for("SELECT attempts > 1 FROM inbox.message WHERE status = 'pending'", 'a message is tried again');
$seeker->query_safe("BEGIN; SELECT FROM inbox.position FOR UPDATE");
state_is('waiting for lock', 'retries wait, too');
sql("SET lock_timeout = '20 s'; SELECT FROM inbox.message WHERE status = 'pending' FOR UPDATE");
pass('without a lock on the message');
sql('TRUNCATE obstacle');
$seeker->query_safe('ROLLBACK');
effects('1 2 3 4 5', 'and go on');

# A transaction that has discarded or retried a message that waits, and stays open.
my $taken = "SET lock_timeout = '20 s'; UPDATE counter SET n = n";
sql("INSERT INTO obstacle VALUES ('6')");
produce($topic, "a\t6");
wait_for("SELECT attempts > 1 FROM inbox.message WHERE status = 'pending'", 'a message is tried again');
my $id = sql("SELECT event_id FROM inbox.message WHERE status = 'pending'");
$seeker->query_safe("BEGIN; SELECT inbox.discard('s', '$id')");
state_is('waiting for lock', 'it was discarded in a transaction that is open: the state says so');
like(sql('SELECT last_error FROM inbox.stat_subscription'), qr/^the subscription is locked by another transaction, such as one that has called inbox\.retry\(\) or inbox\.discard\(\)/,
	'and last_error');
is(sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"), 0, 'and the worker waits without a lock');
sql('TRUNCATE obstacle');
$seeker->query_safe('ROLLBACK');
effects('1 2 3 4 5 6', 'after it the message is handled');
state_is('running', 'and the state is what it was');
sql("SELECT inbox.unsubscribe('s')");

# A subscription that is to stop while somebody has it locked.
$topic = make_topic(topic_name('Stops'), 1);
sql("INSERT INTO obstacle VALUES ('8')");
sql("SELECT inbox.subscribe('s', ARRAY['$topic'], 'handle', max_attempts => 1, on_failure => 'stop', dedupe => 'none')");
produce($topic, "a\t7");
effects('1 2 3 4 5 6 7', 'a message is handled');
$seeker->query_safe("BEGIN; SELECT inbox.discard('s', 'no such message')");
produce($topic, "b\t7b", "a\t8", "b\t9");
state_is('waiting for lock', 'a subscription that cannot stop shows it');
sql($taken);
pass('what the handler has locked is free meanwhile');
$seeker->query_safe('ROLLBACK');
state_is('stopped', 'then it stops');
effects('1 2 3 4 5 6 7 7b', 'where it has to');
sql("TRUNCATE obstacle; SELECT inbox.retry('s')");
effects('1 2 3 4 5 6 7 7b 8 9', 'and goes on');
$seeker->quit;
sql("SELECT inbox.unsubscribe('s')");

# To wait costs little, however many partitions there are, and whatever the planner
# expects.
$node->append_conf('postgresql.conf', "plan_cache_mode = force_generic_plan");
$node->reload;
my $wide = make_topic(topic_name('Wide'), 1000);
sql("SELECT inbox.subscribe('wide', ARRAY['$wide'], 'handle')");
wait_for("SELECT state = 'running' AND partitions = 1000 AND lag = 0 FROM inbox.stat_subscription WHERE name = 'wide'", 'a subscription over many partitions runs');
$seeker = $node->background_psql('postgres');
$seeker->query_safe("BEGIN; SELECT inbox.seek('wide', '$wide', 999, 0)");
sql("TRUNCATE effect");
run_log([ 'kcat', '-P', '-b', kafka_bootstrap(), '-t', $wide, '-p', 999, $0 ]) or die "kcat failed\n";
wait_for("SELECT state = 'waiting for lock' FROM inbox.stat_subscription WHERE name = 'wide'", 'and waits');
my $pid = sql("SELECT pid FROM inbox.consumer_status() WHERE subscription = 'wide'");
my $cpu = cpu_of($pid);
sql('SELECT pg_sleep(5)');
$cpu = cpu_of($pid) - $cpu;
cmp_ok($cpu, '<', 0.3, "which takes $cpu seconds of CPU in 5 seconds");
$seeker->query_safe('ROLLBACK');
wait_for('SELECT count(*) = 1 FROM effect', 'and goes on');
$seeker->quit;
sql("SELECT inbox.unsubscribe('wide')");
$node->append_conf('postgresql.conf', "plan_cache_mode = auto");
$node->reload;

# ---------------------------------------------------------------------------
# Messages that cannot be stored, for whose sake memory lacks

my $large = make_topic(topic_name('Large'), 1, 'max.message.bytes' => 20_000_000);
sql(<<SQL);
TRUNCATE effect;
CREATE FUNCTION store(payload bytea) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS \$\$
BEGIN
	IF octet_length(payload) = 2000000 THEN
		RAISE 'out of memory' USING ERRCODE = '53200';
	ELSIF octet_length(payload) = 3000000 THEN
		RAISE 'invalid memory alloc request size 1073741824' USING ERRCODE = 'XX000';
	ELSIF octet_length(payload) = 3 THEN
		RAISE 'row is too big' USING ERRCODE = '54000';
	END IF;
	RETURN 0;
END \$\$;
CREATE INDEX stored ON inbox.message (public.store(payload));
CREATE FUNCTION handle_large(m inbox.message) RETURNS void LANGUAGE sql AS
	\$\$ INSERT INTO public.effect (value) VALUES (m.event_id) \$\$;
SQL
produce_record($large, { key => 'k', value => 'first', headers => [ [ id => 'first' ] ] });
produce_record($large, { key => 'k', size => 2_000_000, headers => [ [ id => 'memory' ], [ type => 'Sent' ] ] });
produce_record($large, { key => 'k', size => 3_000_000, headers => [ [ id => 'value' ] ] });
produce_record($large, { key => 'k', value => 'row', headers => [ [ id => 'row' ] ] });
produce_record($large, { key => 'k', value => 'last', headers => [ [ id => 'last' ] ] });
my $before = -s $node->logfile;
sql("SELECT inbox.subscribe('large', ARRAY['$large'], 'handle_large', max_attempts => 2)");
wait_for("SELECT processed = 2 AND failed = 3 AND lag = 0 AND state = 'running' FROM inbox.stat_subscription WHERE name = 'large'",
	'what cannot be stored fails, and the rest is handled');
is(sql("SELECT string_agg(value, ' ' ORDER BY id) FROM effect"), 'first last', 'what their handler did is undone');
is( sql("SELECT string_agg(concat_ws(' ', event_id, event_type, aggregate_id, error_sqlstate, payload IS NULL), ', ' ORDER BY \"offset\") FROM inbox.message WHERE subscription = 'large' AND status = 'failed'"),
	'memory Sent k 53200 t, value k XX000 t, row k 54000 t',
	'what there is room for is there');
is(sql("SELECT error FROM inbox.message WHERE event_id = 'memory'"), 'the message cannot be stored: out of memory', 'and why it is not all');
is(scalar(grep { /outbox consumer.*(ERROR|FATAL)/ && !/administrator command/ } split /\n/, slurp_file($node->logfile, $before)), 0,
	'no worker has ended by an error');

$node->stop;
done_testing();
