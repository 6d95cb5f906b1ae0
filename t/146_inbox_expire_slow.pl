# Old messages whose rows take long to remove or to move on, since they are large
# or have triggers: inbox.expire() ends its steps by the clock.

use strict;
use warnings;

use OutboxInbox;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('inbox_expire_slow', "inbox.dedupe_window = '1 d'\n");
subscribe_in($node);
$node->safe_psql('postgres', 'CREATE EXTENSION outbox');
create_server($node, 'postgres', closed_port());

# A row takes a hundredth of a second.
my $rows = 100;
sql(<<SQL);
CREATE FUNCTION handle(inbox.message) RETURNS void LANGUAGE sql AS '';
SELECT inbox.subscribe(name, ARRAY['t'], 'handle', keep => keep), inbox.pause(name)
FROM (VALUES ('brief', interval '1 h'), ('long', '30 d')) s (name, keep);
CREATE FUNCTION take_long() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM pg_sleep(0.01);
	RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END \$\$;
CREATE TRIGGER slow BEFORE UPDATE OR DELETE ON inbox.message FOR EACH ROW EXECUTE FUNCTION take_long();

-- All that is to be done, and how long a step took at most.  The lock is the one that
-- inbox.expire() takes; it does nothing as long as a worker has it.
CREATE TABLE step (seconds float8);
CREATE PROCEDURE expire_all() LANGUAGE plpgsql AS \$\$
DECLARE
	longest float8 := 0;
	began timestamptz;
	more boolean := true;
BEGIN
	WHILE more LOOP
		LOCK TABLE inbox.ring IN SHARE ROW EXCLUSIVE MODE;
		began := clock_timestamp();
		more := inbox.expire();
		COMMIT;
		longest := greatest(longest, extract(epoch FROM clock_timestamp() - began));
	END LOOP;
	INSERT INTO step VALUES (longest);
END \$\$;

INSERT INTO inbox.message (subscription, event_id, topic, partition, "offset", status, received_at)
SELECT s, s || i, 't', 0, i, 'processed', now() - interval '2 h'
FROM unnest(ARRAY['brief', 'long']) s, generate_series(1, $rows) i;
INSERT INTO inbox.message (subscription, event_id, topic, partition, "offset", headers, status)
SELECT 'long', 'failed' || i, 't', 0, i, jsonb_build_object('h', repeat('x', 1000)), 'failed' FROM generate_series(1, $rows) i;
SQL

my $steps = 0;

sub expire_all
{
	my ($what) = @_;
	sql('CALL expire_all()');
	my $longest = sql('SELECT seconds FROM step');
	note("$what: a step took up to $longest seconds");
	cmp_ok($longest, '<', $rows * 0.01 / 2, "$what: steps are short");
	sql('TRUNCATE step');
	return;
}

# It is time to look for what is not kept.
my $look = "DELETE FROM inbox.sweep; INSERT INTO inbox.sweep VALUES ('-infinity', 4, 0, 1)";
sql($look);
expire_all('what is not kept any more');
is( sql("SELECT string_agg(subscription || ' ' || status || ' ' || n, ', ' ORDER BY subscription, status) FROM (SELECT subscription, status, count(*) AS n FROM inbox.message GROUP BY 1, 2) c"),
	"long failed $rows, long processed $rows",
	'has gone, all of it');

# The chunk is old, and what has failed is moved on.
sql("INSERT INTO inbox.ring (name, chunk, ended_at) SELECT 'message', c, '-infinity' FROM generate_series(1, 3) c ON CONFLICT (name, chunk) DO UPDATE SET ended_at = '-infinity'");
sql('CALL expire_all()');
is(sql('SELECT last_value FROM inbox.message_chunk_seq'), 1, 'the ring moves on');
sql("UPDATE inbox.ring SET ended_at = now() - interval '31 d'");
expire_all('what has failed');
is(sql('SELECT count(DISTINCT event_id) || min(chunk)::text FROM inbox.message WHERE status <> \'processed\''), "${rows}1", 'is moved on, all of it');
is(sql("SELECT pg_relation_size('inbox.message_0')"), 0, 'and the chunk is empty');

# A row that somebody has locked is passed over.
sql("TRUNCATE inbox.message; INSERT INTO inbox.message (subscription, event_id, topic, partition, \"offset\", status, received_at) SELECT 'brief', i, 't', 0, i, 'processed', now() - interval '2 h' FROM generate_series(1, 3) i");
sql($look);
my $locker = $node->background_psql('postgres');
$locker->query_safe("BEGIN; SELECT FROM inbox.message WHERE event_id = '2' FOR UPDATE");
expire_all('rows that are locked');
is(sql('SELECT string_agg(event_id, \' \') FROM inbox.message'), '2', 'stay, and the others go');
$locker->quit;

done_testing();
