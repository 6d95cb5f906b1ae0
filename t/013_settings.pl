# What the server's settings mean for events and relay, and how the relay goes
# on when they change.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

use OutboxTest;

my $known =
  `postgres --describe-config` =~ /^output_plugin_libraries\t/m ? 1 : 0;

# ---------------------------------------------------------------------------
# The library is not preloaded

my $node = new_server('settings', "shared_preload_libraries = ''\n");
my $topic = topic_name('preload');

$node->safe_psql('postgres', 'CREATE EXTENSION outbox');
create_server($node, 'postgres');
publish_key($node, 'postgres', $topic, 'early');
is( $node->safe_psql(
		'postgres', "SELECT aggregate_id, status FROM outbox.events"),
	'early|pending',
	'publish() works without shared_preload_libraries');
is(relay_status($node, 'postgres', 'state'),
	'stopped', 'but no relay runs');
like(
	relay_status($node, 'postgres', 'last_error'),
	qr/shared_preload_libraries/,
	'and stat_relay says why');

# ---------------------------------------------------------------------------
# The level of WAL is too low

$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'outbox'
wal_level = replica
outbox.capture = log
CONF
$node->restart;
wait_for_state($node, 'postgres', 'waiting for configuration');
like(
	relay_status($node, 'postgres', 'last_error'),
	qr/wal_level/,
	'with wal_level below what outbox.capture asks for, the relay waits and says so');
publish_key($node, 'postgres', $topic, 'unlogged');
is( $node->safe_psql('postgres',
		"SELECT count(*) FROM outbox.events WHERE status = 'pending'"),
	2,
	'events wait');
$node->safe_psql('postgres', 'DROP EXTENSION outbox CASCADE');
ok( $node->poll_query_until(
		'postgres',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'outbox relay'"
	),
	'the waiting relay leaves when the extension does');

$node->safe_psql('postgres', 'CREATE EXTENSION outbox');
create_server($node, 'postgres');
publish_key($node, 'postgres', $topic, 'early');
publish_key($node, 'postgres', $topic, 'unlogged');
wait_for_state($node, 'postgres', 'waiting for configuration');

# ---------------------------------------------------------------------------
# The server does not let us decode

my $offset = -s $node->logfile;
$node->append_conf('postgresql.conf', "wal_level = logical\n");
SKIP:
{
	skip 'this release has no output_plugin_libraries', 4 unless $known;

	$node->append_conf('postgresql.conf',
		"output_plugin_libraries = 'pgoutput, test_decoding'\n");
	$node->restart;
	wait_for_state($node, 'postgres', 'waiting for configuration');
	like(
		relay_status($node, 'postgres', 'last_error'),
		qr/output_plugin_libraries/,
		'the relay waits to be listed in output_plugin_libraries and says so'
	);
	wait_for_log($node, qr/output_plugin_libraries/, $offset);
	publish_key($node, 'postgres', $topic, 'unlisted');
	my $pid = relay_pid($node, 'postgres');

	$node->safe_psql('postgres',
		"ALTER SYSTEM SET output_plugin_libraries = 'pgoutput', 'test_decoding'"
	);
	$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
	wait_for_log($node, qr/received SIGHUP/, $offset);
	is(relay_pid($node, 'postgres'), $pid,
		'a reload that does not list it changes nothing');

	$node->safe_psql('postgres',
		"ALTER SYSTEM SET output_plugin_libraries = 'pgoutput', 'outbox'");
	$node->safe_psql('postgres', 'SELECT pg_reload_conf()');
	wait_for_state($node, 'postgres', 'streaming');
	is(relay_pid($node, 'postgres'),
		$pid, 'it goes on by itself when a reload lists it');
	is( () = slurp_file($node->logfile, $offset) =~
		  /outbox relay waits: .*output_plugin_libraries/g,
		1, 'the log says so once');
}
unless ($known)
{
	publish_key($node, 'postgres', $topic, 'unlisted');
	$node->restart;
}
is( keys_in(wait_for_events($topic, 3)),
	'early unlogged unlisted',
	'events from before arrive in their order, each once');
wait_for_state($node, 'postgres', 'streaming');
publish_key($node, 'postgres', $topic, 'late');
is( keys_in(wait_for_events($topic, 4)),
	'early unlogged unlisted late',
	'and then new ones');
wait_until_confirmed($node, 'postgres');

# ---------------------------------------------------------------------------
# A reload while the relay streams

my $pid = relay_pid($node, 'postgres');
$offset = -s $node->logfile;
$node->append_conf('postgresql.conf', "log_min_messages = debug1\n");
$node->reload;

# Each checkpoint gives it something to decode and, at that level, to log.
my $reloaded;
foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	$node->safe_psql('postgres', 'CHECKPOINT');
	$reloaded =
	  slurp_file($node->logfile, $offset) =~ /\[$pid\] outbox relay .*DEBUG/;
	last if $reloaded;
	Time::HiRes::usleep(100_000);
}
ok($reloaded, 'the relay reloads settings as it streams');
is(relay_pid($node, 'postgres'), $pid, 'without a restart');
$node->append_conf('postgresql.conf', "log_min_messages = warning\n");
$node->reload;

# ---------------------------------------------------------------------------
# Back to a level of WAL that is too low: the server refuses to start with our
# slot, and says so.

$node->stop;
$node->append_conf('postgresql.conf', "wal_level = replica\n");
$offset = -s $node->logfile;
is($node->start(fail_ok => 1),
	0, 'the server does not start with a slot and wal_level below logical');
like(
	slurp_file($node->logfile, $offset),
	qr/logical replication slot "outbox_\d+" exists, but "?wal_level"? < "?logical/,
	'and names the slot');
$node->append_conf('postgresql.conf', "wal_level = logical\n");
$node->start;
publish_key($node, 'postgres', $topic, 'again');
wait_until_confirmed($node, 'postgres');
like(keys_in(consume($topic)), qr/ again$/, 'with wal_level = logical again, it goes on');

# ---------------------------------------------------------------------------
# The library was preloaded and is no longer

$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$node->restart;
publish_key($node, 'postgres', $topic, 'alone');
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'outbox'\n");
$node->restart;
wait_until_confirmed($node, 'postgres');
like(keys_in(consume($topic)), qr/ alone$/, 'events published without a relay follow later');

$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$node->restart;
$node->safe_psql('postgres', "SET session_replication_role = replica;\nDROP EXTENSION outbox CASCADE");
is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_slots'),
	1, 'without the library and without triggers nobody drops the slot');
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'outbox'\n");
$node->restart;
ok( $node->poll_query_until(
		'postgres', 'SELECT count(*) = 0 FROM pg_replication_slots'),
	'until the library is back');

$node->stop;
done_testing();
