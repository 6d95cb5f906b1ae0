# A transaction of any size arrives whole, in bounded memory, and the relay can
# be told to leave in the middle of it.
#
# LARGE_EVENTS is the number of events of that transaction (300000).

use strict;
use warnings;

use List::Util qw(max);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

use OutboxTest;

my $events = $ENV{LARGE_EVENTS} || 300_000;

my $kafka = own_kafka('large');
my $bootstrap = kafka_bootstrap($kafka);
my $node = new_server('large');
create_extension($node, 'postgres', $bootstrap);

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

# One transaction with all events of a type.
sub publish_all
{
	my ($type) = @_;
	sql("SELECT count(outbox.publish('$type', (i % 100)::text, 'Counted', jsonb_build_object('number', i, 'text', repeat('x', 200)))) FROM generate_series(1, $events) i"
	);
	return;
}

# Numbers of a type's events on Kafka, in the order of their first occurrence.
sub numbers
{
	my ($type) = @_;
	my %seen;
	return grep { !$seen{$_}++ }
	  map { /"number": (\d+)/ } consume_lines("outbox.event.$type", '%s', $bootstrap);
}

# Ends the relay; returns the seconds until its process has gone.
sub terminate
{
	my ($pid) = @_;
	my $start = time;
	sql("SELECT pg_terminate_backend($pid)");
	usleep(10_000) while kill(0, $pid) && time < $start + 30;
	return time - $start;
}

# ---------------------------------------------------------------------------

my $pid = relay_pid($node, 'postgres');
my $type = aggregate_type('Whole');
publish_all($type);
my $start = time;
my $lsn = sql('SELECT pg_current_wal_flush_lsn()');
my $largest = 0;
do
{
	$largest = max($largest, memory_of($pid));
  } until relay_status($node, 'postgres', "confirmed_lsn >= '$lsn'") eq 't'
  || time > $start + $PostgreSQL::Test::Utils::timeout_default;
diag(sprintf '%d events of one transaction: %.1f s, %.0f MB at most',
	$events, time - $start, $largest / 1024);
is(relay_pid($node, 'postgres'), $pid, 'one relay sends a large transaction');
is_deeply(
	[ numbers($type) ],
	[ 1 .. $events ],
	'which arrives whole and in order');
cmp_ok($largest, '>', 0, 'its memory was measured');
cmp_ok($largest / 1024, '<=', 100, 'and stays below 100 MB');

# ---------------------------------------------------------------------------

$pid = relay_pid($node, 'postgres');
my $acknowledged = relay_status($node, 'postgres', 'events');
$type = aggregate_type('Terminated');
publish_all($type);
$lsn = sql('SELECT pg_current_wal_flush_lsn()');
$node->poll_query_until('postgres',
	"SELECT events > $acknowledged FROM outbox.stat_relay");
my $seconds = terminate($pid);
is(sql("SELECT confirmed_flush_lsn < '$lsn' FROM pg_replication_slots"),
	't', 'a relay can leave in the middle of a transaction');
note(sprintf 'the relay left in %.1f s', $seconds);
cmp_ok($seconds, '<', 20, 'pg_terminate_backend ends the relay at once');
wait_until_confirmed($node, 'postgres');
isnt(relay_pid($node, 'postgres'), $pid, 'another one takes over');
is_deeply(
	[ numbers($type) ],
	[ 1 .. $events ],
	'and completes the transaction');

$pid = relay_pid($node, 'postgres');
$type = aggregate_type('Stuck');
sql("SELECT outbox.publish('$type', '0', 'Counted', '{\"number\": 0}')");
wait_until_confirmed($node, 'postgres');
signal_kafka('STOP', $kafka);
publish_all($type);
ok( $node->poll_query_until(
		'postgres',
		"SELECT in_flight > 5000 AND state = 'waiting for kafka' FROM outbox.stat_relay"
	),
	'with a broker that does not answer the queue fills');
cmp_ok(memory_of($pid) / 1024, '<=', 100, 'and memory stays below 100 MB');
$seconds = terminate($pid);
signal_kafka('CONT', $kafka);
note(sprintf 'the relay left in %.1f s', $seconds);
cmp_ok($seconds, '<', 20, 'pg_terminate_backend ends the relay all the same');
wait_until_confirmed($node, 'postgres');
is_deeply(
	[ numbers($type) ],
	[ 0 .. $events ],
	'and everything arrives in the end');

$node->stop;
done_testing();
