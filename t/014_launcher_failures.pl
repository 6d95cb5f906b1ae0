# A relay that ends comes back: at once, or after a while that grows as long as
# it gets nothing done.  A server without room for it gets it later.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

use OutboxTest;

my $node = new_server('failures', "restart_after_crash = on\n");
my $topic = topic_name('failures');

# Less than what a relay waits for that failed four times.
my $soon = 10;

create_extension($node, 'postgres');
publish_key($node, 'postgres', $topic, 'a');
wait_until_confirmed($node, 'postgres');

# Waits until another relay streams; returns its process id.
sub next_relay
{
	my ($before) = @_;
	$node->poll_query_until('postgres',
		"SELECT pid <> $before AND state = 'streaming' FROM outbox.stat_relay")
	  or die 'no other relay streams';
	return relay_pid($node, 'postgres');
}

# ---------------------------------------------------------------------------
# A relay that ends

my $pid = relay_pid($node, 'postgres');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 10000)");
cmp_ok(seconds_of(sub { $pid = next_relay($pid) }),
	'<', $soon, 'a relay that was terminated is back at once');
publish_key($node, 'postgres', $topic, 'b');
wait_until_confirmed($node, 'postgres');
is(keys_in(consume($topic)), 'a b', 'nothing is lost, nothing sent again');

my $offset = -s $node->logfile;
kill 'KILL', $pid;
wait_for_log($node, qr/all server processes terminated; reinitializing/,
	$offset);
$node->wait_until_up;
cmp_ok(seconds_of(sub { $pid = next_relay($pid) }),
	'<', $soon,
	'when a killed relay makes PostgreSQL start over, the relay is back at once');
is( $node->safe_psql('postgres',
		"SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'outbox launcher'"
	),
	1,
	'so is the launcher');
publish_key($node, 'postgres', $topic, 'c');
wait_until_confirmed($node, 'postgres');
like(keys_in(consume($topic)), qr/^a b.* c$/, 'and events go on arriving');

# ---------------------------------------------------------------------------
# A relay that fails again and again

# When relays of the database ended, in seconds.
sub failed_at
{
	my $log = slurp_file($node->logfile, $offset);
	return
	  map { /(\d\d):(\d\d):(\d\d\.\d+)/ ? $1 * 3600 + $2 * 60 + $3 : () }
	  $log =~ /^(.*outbox relay .*ERROR:  the replication slot .*)$/gm;
}

# Its slot becomes somebody else's.
$node->safe_psql('postgres', 'CREATE DATABASE db');
my $oid = $node->safe_psql('postgres',
	"SELECT oid FROM pg_database WHERE datname = 'db'");
$node->safe_psql('db',
	"SELECT pg_create_logical_replication_slot('outbox_$oid', 'pgoutput')"
);
$offset = -s $node->logfile;
$node->safe_psql('db', 'CREATE EXTENSION outbox');
create_server($node, 'db');
publish_key($node, 'db', $topic, 'd');
my @times;
foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	last if (@times = failed_at()) >= 4;
	Time::HiRes::usleep(100_000);
}
my @delays = map { $times[$_] - $times[ $_ - 1 ] } 1 .. 3;
foreach my $i (0 .. 2)
{
	my $expected = 2**$i;
	ok($delays[$i] > $expected - 0.2 && $delays[$i] < $expected + 5,
		"failure number @{[$i + 1]} is followed by a wait of $expected s")
	  or diag "it was $delays[$i] s";
}
wait_for_state($node, 'db', 'stopped');
pass('meanwhile stat_relay shows that no relay runs');
like(
	relay_status($node, 'db', 'last_error'),
	qr/^the replication slot of the outbox relay exists and is not ours \(Drop the slot "outbox_$oid" .*\)$/,
	'and why, and what to do');
is(relay_pid($node, 'postgres'), $pid, 'other databases do not notice');

$node->safe_psql('db', "SELECT pg_drop_replication_slot('outbox_$oid')");
wait_for_state($node, 'db', 'streaming');
wait_until_confirmed($node, 'db');
is(keys_in(grep { $_->{key} eq 'd' } consume($topic)),
	'd', 'it recovers by itself when the cause is gone');

# Progress made the next start an early one.
$pid = relay_pid($node, 'db');
$node->safe_psql('db', "SELECT pg_terminate_backend($pid, 10000)");
cmp_ok(
	seconds_of(sub { wait_for_state($node, 'db', 'streaming') }),
	'<', $soon, 'after progress a relay is restarted at once again');
$node->stop;

# ---------------------------------------------------------------------------
# No free replication slot

$node = new_server('slots', "max_replication_slots = 1\n");
$topic = topic_name('slots');
$node->safe_psql('postgres',
	"SELECT pg_create_physical_replication_slot('other')");
$node->safe_psql('postgres', 'CREATE EXTENSION outbox');
create_server($node, 'postgres');
publish_key($node, 'postgres', $topic, 'event');
wait_for_log($node, qr/outbox relay .*ERROR:  all replication slots are in use/);
wait_for_state($node, 'postgres', 'stopped');
like(
	relay_status($node, 'postgres', 'last_error'),
	qr/^all replication slots are in use \(.*max_replication_slots"?\.\)/,
	'when no replication slot is free, stat_relay says so');
$node->safe_psql('postgres', "SELECT pg_drop_replication_slot('other')");
is(keys_in(wait_for_events($topic, 1)),
	'event', 'when one becomes free, the events arrive');
$node->stop;

# ---------------------------------------------------------------------------
# No free background worker

# The logical replication launcher, our launcher and one relay.
$node = new_server('workers', "max_worker_processes = 3\n");
$topic = topic_name('workers');
create_extension($node, 'postgres');
publish_key($node, 'postgres', $topic, 'first');
wait_for_events($topic, 1);
$offset = -s $node->logfile;
$node->safe_psql('postgres', "CREATE DATABASE $_") foreach 'db1', 'db2';
$node->safe_psql($_, 'CREATE EXTENSION outbox') foreach 'db1', 'db2';
create_server($node, 'db1');
publish_key($node, 'db1', $topic, 'second');

foreach my $db ('db1', 'db2')
{
	wait_for_log(
		$node,
		qr/WARNING:  no free background worker slot for the outbox relay of database "$db"\n.*DETAIL:.*\n.*HINT:  Raise max_worker_processes/,
		$offset);
	pass("the log says that $db finds no free background worker");
	$node->poll_query_until($db,
		'SELECT last_error IS NOT NULL FROM outbox.stat_relay');
	like(
		relay_status($node, $db, "state || ': ' || last_error"),
		qr/^stopped: .*max_worker_processes/,
		"stat_relay in $db says so too");
}

# It goes on trying, and says so in stat_relay alone.
my $tried = relay_status($node, 'db1', 'last_error_at');
ok( $node->poll_query_until(
		'db1',
		"SELECT last_error_at > '$tried'::timestamptz + interval '1 s' FROM outbox.stat_relay"
	),
	'the launcher keeps trying');
is( () = slurp_file($node->logfile, $offset) =~
	  /WARNING:  no free background worker slot .*"db1"/g,
	1, 'the log says so once');

$node->safe_psql('db2', 'DROP EXTENSION outbox');
$node->safe_psql('postgres', 'DROP EXTENSION outbox CASCADE');
wait_for_state($node, 'db1', 'streaming');
is(keys_in(wait_for_events($topic, 2)),
	'first second', 'when a worker becomes free, the events arrive');
$node->stop;

done_testing();
