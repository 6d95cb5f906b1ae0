# inbox.expire() keeps nobody waiting, whatever there is to move and whoever reads.

use strict;
use warnings;

use OutboxInbox;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_server('inbox_expire', "inbox.dedupe_window = '1 d'\n");
subscribe_in($node);
$node->safe_psql('postgres', 'CREATE EXTENSION outbox');
create_server($node, 'postgres', closed_port());
sql(<<'SQL');
CREATE FUNCTION handle(inbox.message) RETURNS void LANGUAGE sql AS '';
SELECT inbox.subscribe('s', ARRAY['t'], 'handle'), inbox.pause('s');
CREATE TABLE waited (seconds float8, reason text);

-- Looks as workers and views do, and changes a message, again and again; notes
-- how long that took at most.
CREATE PROCEDURE look(until_empty regclass) LANGUAGE plpgsql AS $$
DECLARE
	longest float8 := 0;
	began timestamptz;
BEGIN
	WHILE pg_relation_size(until_empty) > 0 LOOP
		began := clock_timestamp();
		PERFORM FROM inbox.message WHERE subscription = 's' AND status = 'pending' LIMIT 1;
		COMMIT;
		longest := greatest(longest, extract(epoch FROM clock_timestamp() - began));
		PERFORM pg_sleep(0.001);
	END LOOP;
	INSERT INTO waited VALUES (longest, 'a look');
END $$;
-- What workers do now and then.
CREATE PROCEDURE expire(until_empty regclass) LANGUAGE plpgsql AS $$
BEGIN
	WHILE pg_relation_size(until_empty) > 0 LOOP
		PERFORM inbox.expire();
		COMMIT;
	END LOOP;
END $$;
CREATE PROCEDURE expire_all() LANGUAGE plpgsql AS $$
BEGIN
	WHILE inbox.expire() LOOP
		COMMIT;
	END LOOP;
END $$;
-- All is so much older.
CREATE FUNCTION age() RETURNS void LANGUAGE sql AS $$
	UPDATE inbox.ring SET ended_at = ended_at - interval '2 d' $$;
SQL

my $rows = 100_000;
sql(<<SQL);
INSERT INTO inbox.message (subscription, event_id, topic, partition, "offset", payload, status, attempts, error, error_at)
SELECT 's', i::text, 't', 0, i, convert_to(repeat('x', 200), 'UTF8'), 'failed', 5, 'it is broken ' || i, now() FROM generate_series(1, $rows) i;
INSERT INTO inbox.message (subscription, event_id, topic, partition, "offset", status)
SELECT 's', 'done ' || i, 't', 0, i, 'processed' FROM generate_series(1, 1000) i;
INSERT INTO inbox.received (chunk, consumer, event_id) SELECT 0, '\@s', i::text FROM generate_series(1, 1000) i;
SELECT inbox.expire();
SELECT age();
SELECT inbox.expire();
SQL
is(sql('SELECT last_value FROM inbox.message_chunk_seq'), 1, 'the ring has moved on');

# Somebody reads for long: nothing can be emptied, but nothing waits for that.
my $reader = $node->background_psql('postgres');
$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM inbox.message');
sql('SELECT age()');
sql('CALL expire_all()');
is(sql("SELECT pg_relation_size('inbox.received_0')"), 0, 'what was received expires, though messages are being read');
isnt(sql("SELECT pg_relation_size('inbox.message_0')"), 0, 'the messages stay for who reads them');
is(sql("SELECT count(*) FROM inbox.message WHERE chunk = 1 AND status = 'failed'"), $rows, 'what is not processed is moved already');
$reader->query_safe('COMMIT');
is(sql('SELECT inbox.expire()'), 't', 'then the chunk is emptied');
is(sql("SELECT pg_relation_size('inbox.message_0')"), 0, 'at once');
is(sql("SELECT count(*) || ' ' || count(DISTINCT event_id) FROM inbox.message WHERE status = 'failed'"), "$rows $rows", 'no message is lost');

# As they are moved, others look, and some are locked.
sql('SELECT age(); SELECT inbox.expire(); SELECT age()');
is(sql('SELECT last_value FROM inbox.message_chunk_seq'), 2, 'the ring has moved on');
$reader->query_safe("BEGIN; UPDATE inbox.message SET attempts = 6 WHERE event_id = '77'");
my $look = start_psql($node, 'postgres', "CALL look('inbox.message_1')");
my $expire = start_psql($node, 'postgres', "CALL expire('inbox.message_1')");
wait_for("SELECT count(*) = $rows - 1 FROM inbox.message WHERE chunk = 2", 'all but what is locked is moved');
$reader->query_safe('COMMIT');
$expire->finish;
$look->finish;
is(sql("SELECT count(*) || ' ' || count(DISTINCT event_id) FROM inbox.message WHERE status = 'failed' AND chunk <> 1"),
	"$rows $rows", 'and then that, too');
is(sql("SELECT attempts FROM inbox.message WHERE event_id = '77'"), 6, 'as it was changed');
my $waited = sql('SELECT max(seconds) FROM waited');
note("a look took up to $waited seconds");
cmp_ok($waited, '<', 1, 'nobody has waited for long');
$reader->quit;

my $start = time;
like(sql('SELECT failed, last_error FROM inbox.stat_subscription'), qr/^$rows\|/, 'the view counts them');
note(sprintf 'in %.1f seconds', time - $start);

done_testing();
