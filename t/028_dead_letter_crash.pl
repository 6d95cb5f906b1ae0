# Between Kafka's refusal and the row in outbox.dead_letter nothing is lost,
# whatever ends the relay there.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use lib 't';
use OutboxRefused;
use OutboxTest;

my $kafka = own_kafka('dead', '--property', 'auto.create.topics.enable=false');
my $bootstrap = kafka_bootstrap($kafka);
my $node = new_server('deadcrash', "restart_after_crash = on\n");
create_extension($node, 'postgres', $bootstrap);
publish_from($node, $kafka);

create_functions();

sub letters
{
	my ($topic) = @_;
	return sql("SELECT count(*), min(attempts), max(attempts) FROM outbox.dead_letter WHERE topic = '$topic'");
}

# Ends the relay as a crash does, and waits until the server is back.
sub crash_relay
{
	my $pid = relay_pid($node, 'postgres');
	my $started = sql('SELECT pg_postmaster_start_time()');
	kill 'KILL', $pid or die "cannot kill $pid: $!";
	$node->poll_query_until('postgres',
		"SELECT pid <> $pid AND state <> 'stopped' FROM outbox.stat_relay")
	  or die "no relay after the crash\n";
	return;
}

# Lets nobody write dead letters until the session ends.
my $locker;

sub lock_letters
{
	$locker = start_psql($node, 'postgres',
		'BEGIN; LOCK TABLE outbox.dead_letter IN SHARE MODE; SELECT pg_sleep(300)');
	wait_until("SELECT EXISTS (SELECT FROM pg_locks WHERE mode = 'ShareLock' AND granted AND relation = 'outbox.dead_letter'::regclass)");
	return;
}

sub unlock_letters
{
	sql("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE mode = 'ShareLock' AND relation = 'outbox.dead_letter'::regclass");
	$locker->finish;
	return;
}

my $waits = "SELECT EXISTS (SELECT FROM pg_locks l JOIN outbox.stat_relay r ON r.pid = l.pid WHERE NOT granted)";

# ---------------------------------------------------------------------------
# The relay has met the refusal, and cannot store it

my $topic = limited_topic('killed');
lock_letters();
my $before = sql('SELECT pg_current_wal_insert_lsn()');
sql("SELECT small('$topic', 'k', 1, 10), refused('$topic'), small('$topic', 'k', 11, 20)");
my $published = sql('SELECT pg_current_wal_insert_lsn()');
wait_until($waits);
sql("SELECT small('$topic', 'k', 21, 30)");
is( sql("SELECT confirmed_flush_lsn < '$published' AND restart_lsn <= '$before' FROM pg_replication_slots"),
	't',
	'the slot keeps what is not stored');
is( sql("SELECT DISTINCT status FROM outbox.events WHERE topic = '$topic'"),
	'pending', 'and the watermark does not pass it');
crash_relay();
$locker->finish;
wait_until("SELECT count(*) = 1 FROM outbox.dead_letter");
wait_until_confirmed($node, 'postgres');
is(letters($topic), '1|1|1', 'killed there, the next relay finds it again');
is_deeply([ first_occurrences(sequence($topic)) ],
	[ 1 .. 30 ], 'and loses nothing');

lock_letters();
$topic = limited_topic('terminated');
sql("SELECT small('$topic', 'k', 1, 10), refused('$topic'), small('$topic', 'k', 11, 20)");
wait_until($waits);
my $pid = relay_pid($node, 'postgres');
sql("SELECT pg_terminate_backend($pid)");
wait_until("SELECT pid <> $pid FROM outbox.stat_relay");
unlock_letters();
wait_until("SELECT count(*) = 1 FROM outbox.dead_letter WHERE topic = '$topic'");
wait_until_confirmed($node, 'postgres');
is(letters($topic), '1|1|1', 'terminated there, likewise');
is_deeply([ first_occurrences(sequence($topic)) ],
	[ 1 .. 20 ], 'with nothing lost');

# ---------------------------------------------------------------------------
# It is in the middle of a transaction, where nothing can be stored

# One that is sent in small pieces.
change_settings(q{ALTER SERVER kafka OPTIONS (ADD "batch.num.messages" '10')});
foreach my $end ('terminated', 'killed')
{
	$topic = limited_topic("middle.$end");
	my $rest = make_topic(topic_name("rest.$end"), 1, dir => $kafka);
	my $many = 100_000;
	my $result = sql("SELECT small('$topic', 'k', 1, 10), refused('$topic'), small('$topic', 'k', 11, 20), small('$rest', 'k', 1, $many)");
	my ($refused) = $result =~ /([0-9a-f]{8}(?:-[0-9a-f]+)+)/ or die "no id in $result\n";
	wait_for_sequence(20, $topic);
	wait_until("SELECT last_error LIKE 'event $refused became a dead letter%' FROM outbox.stat_relay");
	signal_kafka('STOP', $kafka);
	wait_for_state($node, 'postgres', 'waiting for kafka');
	sql("SELECT small('$topic', 'k', 21, 30)");
	is(letters($topic), '0||', 'in the middle of a transaction a refused event is not stored yet');
	if ($end eq 'killed')
	{
		crash_relay();
	}
	else
	{
		$pid = relay_pid($node, 'postgres');
		sql("SELECT pg_terminate_backend($pid)");
		wait_until("SELECT pid <> $pid FROM outbox.stat_relay");
		is(letters($topic), '1|1|1', 'the relay stores it when it is terminated');
	}
	signal_kafka('CONT', $kafka);
	wait_for_state($node, 'postgres', 'streaming');
	wait_until_confirmed($node, 'postgres');
	is(letters($topic), '1|1|1', "$end there, it is a dead letter");
	my @sequence = sequence($topic);
	is_deeply([ first_occurrences(@sequence) ], [ 1 .. 30 ], 'and nothing is lost');
	is(scalar @sequence, 30, 'or repeated') if $end eq 'terminated';
	is(scalar first_occurrences(consume_lines($rest, '%s', $bootstrap)), $many, 'nowhere');
}
change_settings('ALTER SERVER kafka OPTIONS (DROP "batch.num.messages")');

# ---------------------------------------------------------------------------
# Killed again and again, with many refusals

$topic = limited_topic('often');
foreach my $round (0 .. 4)
{
	sql("SELECT small('$topic', 'k', i * 10 + 1, i * 10 + 10), refused('$topic') FROM generate_series($round * 10, $round * 10 + 9) i");
	wait_until("SELECT count(*) > $round * 10 FROM outbox.dead_letter WHERE topic = '$topic'");
	crash_relay();
}
wait_for_state($node, 'postgres', 'streaming');
wait_until_confirmed($node, 'postgres');
is( sql("SELECT count(*), count(DISTINCT event_id) FROM outbox.dead_letter WHERE topic = '$topic'"),
	'50|50',
	'whenever the relay is killed, all that is refused is stored');
is_deeply([ first_occurrences(sequence($topic)) ],
	[ 1 .. 500 ], 'and all else is delivered, in order');
is( sql("SELECT status, count(*) FROM outbox.events WHERE topic = '$topic' AND event_type = 'Big' GROUP BY 1"),
	'failed|50',
	'outbox.events agrees');

# ---------------------------------------------------------------------------
# A copy

my $dump = $node->basedir . '/dump.sql';
$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'a dump');
sql('CREATE DATABASE copy');
$node->command_ok([ 'psql', '-qXf', $dump, $node->connstr('copy') ], 'and its copy');
my $all = sql('SELECT count(*) FROM outbox.dead_letter');
is($node->safe_psql('copy', 'SELECT count(*) FROM outbox.dead_letter'),
	$all, 'dead letters go with a dump');
is( $node->safe_psql('copy', "SELECT count(*) FROM outbox.events WHERE status = 'failed'"),
	$all, 'and count as failed in the copy');
$node->safe_psql('copy', 'SELECT outbox.resume(false)');
is($node->safe_psql('copy', 'SELECT count(*) FROM outbox.dead_letter'),
	0, 'which forgets them when it counts all as done');

$node->stop;
done_testing();
