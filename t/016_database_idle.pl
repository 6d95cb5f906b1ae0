# A relay with nothing to do stands in nobody's way.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

use OutboxTest;

my $node = new_server('idle', "autovacuum = off\n");
my $topic = topic_name('idle');

sub publish
{
	my ($db, $key) = @_;
	$node->safe_psql($db,
		"SELECT outbox.publish('thing', '$key', 'made', '{}', topic => '$topic')"
	);
	return;
}

sub slot
{
	my ($column) = @_;
	return $node->safe_psql('idle', "SELECT $column FROM pg_replication_slots");
}

$node->safe_psql('postgres', 'CREATE DATABASE idle');
create_extension($node, 'idle');
publish('idle', $_) foreach 1 .. 3;
wait_until_confirmed($node, 'idle');
$node->poll_query_until('idle',
	"SELECT bool_and(status = 'published') FROM outbox.events")
  or die 'events are not published';

ok( $node->poll_query_until(
		'idle',
		"SELECT backend_xmin IS NULL AND backend_xid IS NULL AND xact_start IS NULL AND state IS DISTINCT FROM 'idle in transaction' FROM pg_stat_activity WHERE backend_type = 'outbox relay'"
	),
	'an idle relay has no transaction open and holds back no vacuum');
ok( $node->poll_query_until(
		'idle',
		"SELECT count(*) = 0 FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE a.backend_type = 'outbox relay'"
	),
	'and has nothing locked');

# WAL that concerns other databases
my $before = $node->safe_psql('postgres', 'SELECT pg_current_wal_lsn()');
my $oldest = $node->safe_psql('postgres',
	'SELECT name FROM pg_ls_waldir() ORDER BY name LIMIT 1');
$node->safe_psql('postgres', 'CREATE TABLE noise (line text)');
foreach (1 .. 4)
{
	$node->safe_psql('postgres',
		"INSERT INTO noise SELECT repeat('x', 1000) FROM generate_series(1, 10000)"
	);
	$node->safe_psql('postgres', 'SELECT pg_switch_wal()');
}
$node->safe_psql('postgres', 'CHECKPOINT');
ok( $node->poll_query_until(
		'postgres',
		"SELECT confirmed_flush_lsn > '$before' AND restart_lsn > '$before' FROM pg_replication_slots"
	),
	'the slot of an idle database moves on with the others\' WAL');
ok( $node->poll_query_until(
		'postgres',
		"SELECT pg_walfile_name(restart_lsn) > '$oldest' FROM pg_replication_slots"
	),
	'and keeps no file of it');
my $removed;
foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	$node->safe_psql('postgres', 'CHECKPOINT');
	$removed = $node->safe_psql('postgres',
		"SELECT count(*) = 0 FROM pg_ls_waldir() WHERE name = '$oldest'") eq 't';
	last if $removed;
	Time::HiRes::usleep(100_000);
}
ok($removed, 'so that it is removed');

# Catalogs are all that a slot keeps from being vacuumed, and not for long.
my $xid = $node->safe_psql('postgres',
	"CREATE TABLE late (); SELECT pg_current_xact_id()");
$node->safe_psql('postgres', 'CHECKPOINT');
ok( $node->poll_query_until(
		'postgres',
		"SELECT xmin IS NULL AND catalog_xmin::text::bigint > $xid FROM pg_replication_slots"
	),
	'the slot of an idle database does not hold back vacuum');

publish('idle', 4);
is(join(' ', map { $_->{key} } wait_for_events($topic, 4)),
	'1 2 3 4', 'and after all of that the next event arrives');

# ---------------------------------------------------------------------------
# The same, when it polls the table

$node->append_conf('postgresql.conf', "outbox.capture = poll\n");
$node->reload;
wait_for_state($node, 'idle', 'polling');
my $pid = relay_pid($node, 'idle');
publish('idle', 5);
$node->poll_query_until('idle',
	"SELECT bool_and(status = 'published') FROM outbox.events")
  or die 'the event is not published';
# The library reports statistics every 5 seconds.
ok( $node->poll_query_until(
		'idle',
		"SELECT round_trip_ms IS NOT NULL AND started_at < now() - interval '6 s' FROM outbox.stat_relay"
	),
	'a polling relay has statistics of the library');
ok( $node->poll_query_until(
		'idle',
		"SELECT backend_xmin IS NULL AND backend_xid IS NULL AND xact_start IS NULL FROM pg_stat_activity WHERE backend_type = 'outbox relay'"
	),
	'and no transaction open');
is($node->safe_psql('idle', 'SELECT count(*) FROM pg_replication_slots'),
	0, 'and no slot');
is(relay_pid($node, 'idle'), $pid, 'and runs on');

# ---------------------------------------------------------------------------
# A dump carries what there is, and restores

$node->stop;
$node = new_server('dump');
create_extension($node, 'postgres');
$topic = topic_name('dump');
publish('postgres', 'sent');
wait_until_confirmed($node, 'postgres');
$node->poll_query_until('postgres',
	"SELECT bool_and(status = 'published') FROM outbox.events")
  or die 'the event is not published';
set_bootstrap($node, 'postgres', closed_port());
publish('postgres', 'waiting');

my $upto = $node->safe_psql('postgres', 'SELECT max(lsn) FROM outbox.watermark');
my $dump = $node->basedir . '/dump.sql';
$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ],
	'the database can be dumped');
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok(
	[
		'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, '-d',
		$node->connstr('restored')
	],
	'and restored into another database');
foreach my $query (
	'SELECT event_id, aggregate_id, payload, headers, xid FROM outbox.event ORDER BY id',
	'SELECT last_value, is_called FROM outbox.event_id_seq',
	'SELECT last_value, is_called FROM outbox.event_chunk_seq',
	"SELECT lsn, snapshot FROM outbox.watermark WHERE lsn <= '$upto' ORDER BY lsn"
  )
{
	my ($what) = $query =~ /FROM (\S+)/;
	is( $node->safe_psql('restored', $query),
		$node->safe_psql('postgres', $query),
		"the dump carries $what");
}
publish('restored', 'own');
is( $node->safe_psql('restored',
		"SELECT count(*) FROM outbox.event WHERE aggregate_id = 'own' AND id > 2"
	),
	1,
	'events of the restored database get ids of their own');

$node->stop;
done_testing();
