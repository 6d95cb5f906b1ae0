# inbox.expire() keeps nobody waiting, whatever there is to move and whoever reads.
#
#   INBOX_EXPIRE_ROWS      messages that have failed (100000)
#   INBOX_EXPIRE_SECONDS   so long somebody stays in a transaction that reads them,
#                          while messages are published and handled, and all
#                          sessions are watched: instead of the rest (0)

use strict;
use warnings;

use OutboxInbox;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $rows = $ENV{INBOX_EXPIRE_ROWS} || 100_000;
my $seconds = $ENV{INBOX_EXPIRE_SECONDS} || 0;
my $node = new_server('inbox_expire', <<'CONF');
inbox.dedupe_window = '1 d'
log_lock_waits = on
deadlock_timeout = '50 ms'
CONF
subscribe_in($node);
$node->safe_psql('postgres', 'CREATE EXTENSION outbox');
create_server($node, 'postgres', $seconds ? undef : closed_port());
sql(<<'SQL');
CREATE FUNCTION handle(inbox.message) RETURNS void LANGUAGE sql AS '';
SELECT inbox.subscribe('s', ARRAY['t'], 'handle'), inbox.pause('s');
CREATE TABLE waited (seconds float8, reason text);

-- Does something again and again; notes how long that took at most.
CREATE PROCEDURE measure(what text, until_empty regclass, pause float8, reason text) LANGUAGE plpgsql AS $$
DECLARE
	longest float8 := 0;
	began timestamptz;
BEGIN
	WHILE pg_relation_size(until_empty) > 0 LOOP
		began := clock_timestamp();
		EXECUTE what;
		COMMIT;
		longest := greatest(longest, extract(epoch FROM clock_timestamp() - began));
		PERFORM pg_sleep(pause);
	END LOOP;
	INSERT INTO waited VALUES (longest, reason);
END $$;
-- What workers do now and then.
CREATE PROCEDURE expire(until_empty regclass) LANGUAGE plpgsql AS $$
BEGIN
	WHILE pg_relation_size(until_empty) > 0 LOOP
		PERFORM inbox.expire();
		COMMIT;
	END LOOP;
END $$;
-- All that is to be done.  The lock is the one that inbox.expire() takes; it does nothing
-- as long as a worker has it.
CREATE PROCEDURE expire_all() LANGUAGE plpgsql AS $$
DECLARE
	more boolean := true;
BEGIN
	WHILE more LOOP
		LOCK TABLE inbox.ring IN SHARE ROW EXCLUSIVE MODE;
		more := inbox.expire();
		COMMIT;
	END LOOP;
END $$;
-- All is so much older.
CREATE FUNCTION age() RETURNS void LANGUAGE sql AS $$
	UPDATE inbox.ring SET ended_at = ended_at - interval '2 d' $$;
SQL

# Measures a statement beside the test, until a chunk is empty.
sub start_measuring
{
	my ($statement, $until_empty, $pause, $reason) = @_;
	return start_psql($node, 'postgres', "CALL measure(\$q\$$statement\$q\$, '$until_empty', $pause, '$reason')");
}

# The longest wait for a lock of which the log tells, in ms; the time after which
# expire() gives up waiting itself is none.
sub longest_lock_wait
{
	my ($offset) = @_;
	my @waits = sort { $a->[0] <=> $b->[0] }
	  map { /(acquired|still waiting for) (.*) after ([\d.]+) ms/ ? [ $3, $_ ] : () }
	  grep { !/AccessExclusiveLock/ } split /\n/, slurp_file($node->logfile, $offset);
	my $longest = $waits[-1] || [ 0, 'none' ];
	my $long = grep { $_->[0] > 100 && $_->[1] !~ /still waiting/ } @waits;
	note("$long waits for locks of more than 100 ms; the longest: $longest->[1]");
	return $longest->[0];
}

# So many blocks a statement looks at, when it has been run before.
sub blocks_read
{
	my ($statement, $again) = @_;
	my $plan = sql("$statement; EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) $again");
	my ($hit) = $plan =~ /"Shared Hit Blocks": (\d+)/ or die "no blocks in $plan\n";
	my ($read) = $plan =~ /"Shared Read Blocks": (\d+)/;
	return $hit + $read;
}

# The same for long, with everything else that goes on in a database.
sub stay
{
	my ($seconds) = @_;
	my $topic = make_topic(topic_name('live'), 2);
	my $result = make_topic(topic_name('result'), 2);
	my $offset = -s $node->logfile;
	sql(<<SQL);
CREATE TABLE handled (event_id text, delay float8);
CREATE FUNCTION handle_live(m inbox.message) RETURNS void LANGUAGE sql AS \$\$
	INSERT INTO public.handled VALUES (m.event_id, extract(epoch FROM clock_timestamp() - m.created_at));
	SELECT outbox.publish('Result', m.aggregate_id, 'Handled', '{}', topic => '$result');
\$\$;
SELECT inbox.subscribe('live', ARRAY['$topic'], 'handle_live');
SQL
	# What is discarded and retried, beside what is counted.
	my $more = 20 * $seconds;
	sql(<<SQL);
CREATE SEQUENCE discarded;
INSERT INTO inbox.message (subscription, event_id, topic, partition, "offset", status, attempts, chunk)
SELECT 's', i, 't', 1, 0, 'failed', 5, 0
FROM (SELECT 'extra ' || generate_series(1, $more) UNION ALL SELECT 'kept ' || generate_series(1, 1000)) m (i);
SQL
	wait_for("SELECT state = 'running' FROM inbox.stat_subscription WHERE name = 'live'", 'a subscription runs');
	wait_until_confirmed($node, 'postgres');
	# Not by a session of the test, which would be given up before long.
	my $long = start_psql($node, 'postgres', 'BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM inbox.message; SELECT pg_sleep(1000000)');
	my $reads_long = q{query ~ 'pg_sleep.1000000' AND state = 'active' AND pid <> pg_backend_pid()};
	wait_for("SELECT count(*) = 1 FROM pg_stat_activity WHERE $reads_long", 'somebody reads for long');
	sql('SELECT age()');
	my $full = 'inbox.message_0';
	my @measuring = (
		start_measuring("SELECT FROM inbox.message WHERE subscription = 's' AND status = 'pending' LIMIT 1", $full, 0.005, 'long: a look'),
		start_measuring("SELECT outbox.publish('Live', (random() * 100)::integer::text, 'Sent', '{}', topic => '$topic')", $full, 0.02, 'long: a publisher'),
		start_measuring("UPDATE inbox.message SET attempts = attempts + 1 WHERE subscription = 's' AND status = 'failed' AND event_id = (SELECT (1 + random() * ($rows - 1))::integer::text)", $full, 0.05, 'long: a change'),
		start_measuring("SELECT inbox.discard('s', 'no such message')", $full, 0.05, 'long: discard() of none'),
		start_measuring("SELECT inbox.discard('s', 'extra ' || nextval('discarded'))", $full, 0.05, 'long: discard()'),
		start_measuring("SELECT inbox.retry('s', 'kept ' || (1 + random() * 999)::integer)", $full, 0.1, 'long: retry()'),
		start_measuring("SELECT FROM inbox.message WHERE subscription = 'live' ORDER BY received_at DESC LIMIT 1", $full, 1, 'long: a reader'),
		start_measuring('SELECT * FROM inbox.stat_subscription', $full, 10, 'long: the view, which counts all'));
	my $until = time + $seconds;
	my $aged = time;
	my $handled = 0;
	while (time < $until)
	{
		# As workers do: on and on as long as there is something to do.
		my $steps = sql('SET synchronous_commit = off;' . 'SELECT inbox.expire();' x 100);
		select undef, undef, undef, 5 if $steps !~ /t/;
		if (time > $aged + 120)
		{
			$aged = time;
			sql("UPDATE inbox.ring SET ended_at = ended_at - interval '1 d'");
			my $now = sql('SELECT count(*) FROM handled');
			cmp_ok($now, '>', $handled, 'messages are handled');
			$handled = $now;
			note(sprintf '%d seconds left; %s', $until - time, sql("SELECT pg_size_pretty(sum(pg_total_relation_size('inbox.message_' || c))) FROM generate_series(0, 3) c"));
		}
	}
	is(sql("SELECT count(*) FROM inbox.message WHERE status = 'failed' AND partition = 0"), $rows, 'no message is lost');
	sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE $reads_long");
	$long->finish;
	sql('SELECT age()');
	$node->poll_query_until('postgres', "SELECT inbox.expire() IS NOT NULL AND pg_relation_size('$full') = 0")
	  or die "$full is not emptied\n";
	$_->finish foreach @measuring;
	is(sql("SELECT count(*) || ' ' || count(DISTINCT event_id) FROM inbox.message WHERE status = 'failed' AND partition = 0"), "$rows $rows", 'no message is lost');
	is(sql("SELECT count(*) FROM inbox.message WHERE event_id LIKE 'kept %'"), 1000, 'nor one that is retried');
	is(sql("SELECT count(*) FROM inbox.message, (SELECT last_value FROM discarded) d WHERE event_id LIKE 'extra %'"),
		sql("SELECT greatest($more - last_value, 0) FROM discarded"), 'and those that are discarded have gone');
	note("seconds at most:\n" . sql("SELECT reason, round(seconds::numeric, 3) FROM waited WHERE reason LIKE 'long: %' ORDER BY 1"));
	note("delay of messages (count, median, 99 %, max):\n"
		  . sql('SELECT count(*), (percentile_cont(ARRAY[0.5, 0.99, 1]) WITHIN GROUP (ORDER BY delay))::numeric(10,3)[] FROM handled'));
	cmp_ok(longest_lock_wait($offset), '<', 1000, 'nobody has waited for a lock for long');
	return;
}

sql(<<SQL);
INSERT INTO inbox.message (subscription, event_id, topic, partition, "offset", payload, status, attempts, error, error_at)
SELECT 's', i::text, 't', 0, i, convert_to(repeat('x', 200), 'UTF8'), 'failed', 5, 'it is broken ' || i, now() FROM generate_series(1, $rows) i;
INSERT INTO inbox.message (subscription, event_id, topic, partition, "offset", status)
SELECT 's', 'done ' || i, 't', 0, i, 'processed' FROM generate_series(1, 1000) i;
INSERT INTO inbox.received (chunk, consumer, event_id) SELECT 0, '\@s', i::text FROM generate_series(1, 1000) i;
SELECT inbox.expire();
SELECT age();
CALL expire_all();
SQL
is(sql('SELECT last_value FROM inbox.message_chunk_seq'), 1, 'the ring has moved on');
if ($seconds)
{
	stay($seconds);
	done_testing();
	exit;
}

# One is found among many, though no statistics tell how many there are.
cmp_ok(blocks_read("SELECT inbox.discard('s', 'no such message')", "SELECT inbox.discard('s', 'none')"),
	'<', 200, 'discard() looks one message up');
cmp_ok(blocks_read("SELECT inbox.retry('s', 'no such message')", "SELECT inbox.retry('s', 'none')"), '<', 200, 'and so does retry()');

# Somebody reads for long: nothing can be emptied, but nothing waits for that.
my $reader = $node->background_psql('postgres');
$reader->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM inbox.message');
sql('SELECT age()');
expire_until("SELECT count(*) FROM inbox.message WHERE chunk = 1 AND status = 'failed'", $rows);
is(sql("SELECT pg_relation_size('inbox.received_0')"), 0, 'what was received expires, though messages are being read');
isnt(sql("SELECT pg_relation_size('inbox.message_0')"), 0, 'the messages stay for who reads them');
is(sql("SELECT count(*) FROM inbox.message WHERE chunk = 1 AND status = 'failed'"), $rows, 'what is not processed is moved already');
# A look for what there is to do keeps nobody waiting, whose end is this one's.
my $looker = $node->background_psql('postgres');
$looker->query_safe('BEGIN; SELECT inbox.expire()');
is(sql("SET lock_timeout = '10 s'; SELECT inbox.discard('s', 'no such message')"), 'f', 'who discards does not wait for who looks for what is old');
$looker->query_safe('COMMIT');
$looker->quit;
$reader->query_safe('COMMIT');
# With many, not before autovacuum has removed what the index has of them.
wait_for("SELECT inbox.expire() IS NOT NULL AND pg_relation_size('inbox.message_0') = 0", 'then the chunk is emptied');
is(sql("SELECT count(*) || ' ' || count(DISTINCT event_id) FROM inbox.message WHERE status = 'failed'"), "$rows $rows", 'no message is lost');

# The ring moves on, and the chunk that has the messages is old; returns its number.
sub leave_behind
{
	my $chunk = sql("SELECT max(chunk) FROM inbox.message WHERE status = 'failed'");
	foreach my $try (1 .. 20)
	{
		last if sql('SELECT last_value % 4 FROM inbox.message_chunk_seq') != $chunk;
		sql('SELECT age(); SELECT inbox.expire()');
	}
	isnt(sql('SELECT last_value % 4 FROM inbox.message_chunk_seq'), $chunk, 'the ring has moved on');
	sql('SELECT age()');
	return $chunk;
}

# Does all that is to be done, until so many rows are moved: others may be at it, and
# then there is nothing to do for this session.
sub expire_until
{
	my ($count, $n) = @_;
	foreach my $try (1 .. 1000)
	{
		last if sql($count) == $n;
		sql('CALL expire_all()');
	}
	return sql($count);
}

# Who has discarded one, and does not end, keeps the subscription's from being moved,
# and no other subscription's.
my $chunk = leave_behind();
sql("SELECT inbox.subscribe('t', ARRAY['t'], 'handle'), inbox.pause('t')");
sql("INSERT INTO inbox.message (subscription, event_id, topic, partition, \"offset\", status, chunk) SELECT 't', i, 't', 0, i, 'failed', $chunk FROM generate_series(1, 100) i");
$reader->query_safe("BEGIN; SELECT inbox.discard('s', 'no such message')");
my $of_s = "SELECT count(*) FROM inbox.message WHERE subscription = 's' AND status = 'failed' AND chunk";
my $stay = sql("$of_s = $chunk");
is(expire_until("SELECT count(*) FROM inbox.message WHERE subscription = 't' AND chunk <> $chunk", 100), 100, 'of a subscription that nobody has locked all is moved');
is(sql("$of_s = $chunk"), $stay, 'of one that somebody has locked none');
$reader->query_safe('COMMIT');
is(expire_until("$of_s <> $chunk", $rows), $rows, 'and then that, too');
wait_for("SELECT inbox.expire() IS NOT NULL AND pg_relation_size('inbox.message_$chunk') = 0", 'and the chunk is emptied');
sql("SELECT inbox.unsubscribe('t', keep_messages => false)");

# Many may have one id.
$chunk = leave_behind();
sql("SELECT inbox.subscribe('t', ARRAY['t'], 'handle', dedupe => 'none'), inbox.pause('t')");
sql("UPDATE inbox.ring SET step = 1; INSERT INTO inbox.message (subscription, event_id, topic, partition, \"offset\", status, chunk) SELECT 't', 'same', 't', 0, i, 'failed', $chunk FROM generate_series(1, 10000) i");
sql('CALL expire_all()') foreach 1 .. 10;
is(sql("SELECT count(*) FROM inbox.message WHERE subscription = 't' AND chunk = $chunk"), 0, 'all that have one id are moved at once');
is(sql("SELECT count(*) FROM inbox.message WHERE subscription = 't'"), 10000, 'and are all there');
sql("SELECT inbox.unsubscribe('t', keep_messages => false)");
is(expire_until("$of_s <> $chunk", $rows), $rows, 'with those of others');

# As they are moved, others look, and some are locked.
$chunk = leave_behind();
$reader->query_safe("BEGIN; UPDATE inbox.message SET attempts = 6 WHERE event_id = '77'");
my $look = start_measuring("SELECT FROM inbox.message WHERE subscription = 's' AND status = 'pending' LIMIT 1", "inbox.message_$chunk", 0.001, 'a look');
my $expire = start_psql($node, 'postgres', "CALL expire('inbox.message_$chunk')");
wait_for("SELECT count(*) = $rows - 1 FROM inbox.message WHERE status = 'failed' AND chunk <> $chunk", 'all but what is locked is moved');
$reader->query_safe('COMMIT');
$expire->finish;
$look->finish;
is(sql("SELECT count(*) || ' ' || count(DISTINCT event_id) FROM inbox.message WHERE status = 'failed' AND chunk <> $chunk"),
	"$rows $rows", 'and then that, too');
is(sql("SELECT attempts FROM inbox.message WHERE event_id = '77'"), 6, 'as it was changed');
my $waited = sql('SELECT max(seconds) FROM waited');
note("a look took up to $waited seconds");
cmp_ok($waited, '<', 1, 'nobody has waited for long');
$reader->quit;

my $start = time;
like(sql('SELECT failed, last_error FROM inbox.stat_subscription'), qr/^$rows\|/, 'the view counts them');
note(sprintf 'in %.1f seconds', time - $start);
cmp_ok(longest_lock_wait(0), '<', 1000, 'nor for a lock');

done_testing();
