# What owners and administrators do while writers publish without pause: at the
# end every key has what was committed for it, once and in order.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $keys = 90;
my $db = 'app';
my $kafka = own_kafka('under_traffic');
my $bootstrap = kafka_bootstrap($kafka);
my $topic = make_topic(topic_name('under-traffic'), 4, dir => $kafka);
my $node = new_server('under_traffic', "max_connections = 250\n");
$node->safe_psql('postgres', 'CREATE DATABASE app');
create_extension($node, 'app', $bootstrap);

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql($db, $statements);
}

# The ledger: each key counts its events, in the transaction that publishes
# them.  A third of the keys publishes through a function, a third through a
# trigger, a third in DO.
sql(<<SQL);
CREATE TABLE counter (key integer PRIMARY KEY, events integer NOT NULL DEFAULT 0) WITH (fillfactor = 10);
INSERT INTO counter SELECT generate_series(0, $keys - 1);
CREATE FUNCTION publish_number(k integer, n integer) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM outbox.publish('Order', k::text, 'Counted', to_jsonb(n), topic => '$topic');
END
\$\$;
CREATE FUNCTION publish_next(k integer) RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE
	n integer;
BEGIN
	UPDATE counter SET events = events + 1 WHERE key = k RETURNING events INTO n;
	PERFORM publish_number(k, n);
END
\$\$;
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM publish_number(NEW.key, NEW.events);
	RETURN NULL;
END
\$\$;
CREATE TRIGGER tell AFTER UPDATE ON counter FOR EACH ROW WHEN (NEW.key % 3 = 1) EXECUTE FUNCTION tell();
SQL
my $directory = PostgreSQL::Test::Utils::tempdir('writers');
my $random = "\\set key 3 * random(0, $keys / 3 - 1)\n";
my %scripts = (
	function => "SELECT publish_next(:key);\n",
	trigger => "UPDATE counter SET events = events + 1 WHERE key = :key + 1;\n",
	do => 'DO $$ BEGIN PERFORM publish_next(:key + 2); END $$;' . "\n",
	undone => "BEGIN;\nSELECT publish_next(:key);\nROLLBACK;\n");
append_to_file("$directory/$_.sql", $random . $scripts{$_})
  foreach keys %scripts;
my @files = map { ('-f', "$directory/$_.sql") } sort keys %scripts;

my ($writers, $runs) = (undef, 0);

sub start_writers
{
	$writers = IPC::Run::start(
		[
			$node->installed_command('pgbench'), '-n', '-c', '4',
			'-R', '200', '-T', '36000', @files, '-d', $node->connstr($db)
		],
		'<', \undef, '&>', "$directory/log." . ++$runs);
	return;
}

# Ends the writers, in the middle of what they do; they must not have failed.
sub stop_writers
{
	$writers->kill_kill;
	$node->poll_query_until('postgres',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pgbench'"
	) or die "sessions of the writers do not end\n";
	unlike(slurp_file("$directory/log.$runs"),
		qr/ERROR|FATAL|aborted/, 'no writer failed');
	return;
}

# Waits until the writers have published something more.
sub wait_for_writers
{
	my $events = sql('SELECT sum(events) FROM counter');
	$node->poll_query_until($db,
		"SELECT sum(events) > $events + 20 FROM counter")
	  or die 'the writers have stopped: '
	  . slurp_file("$directory/log.$runs");
	return;
}

# What is committed: the number of events of each key.
sub ledger
{
	return map { split /\|/ } split /\n/,
	  sql('SELECT key, events FROM counter WHERE events > 0');
}

# Compares what is on Kafka with the ledger, which may grow meanwhile.  With
# "repeats", what was on its way to Kafka may be there twice.
sub check_ledger
{
	my ($after, %options) = @_;
	my %committed = ledger();
	wait_until_confirmed($node, $db);
	my (%arrived, @wrong);
	foreach my $line (consume_lines($topic, '%k %s', $bootstrap))
	{
		my ($key, $number) = split / /, $line;
		next if $options{repeats} && $number <= ($arrived{$key} || 0);
		push @wrong, $line if $number != ++$arrived{$key};
	}
	my %later = ledger();
	is(join(' ', grep { ($arrived{$_} || 0) < $committed{$_} } keys %committed),
		'', "$after: nothing lost");
	is(join(' ', grep { $arrived{$_} > ($later{$_} || 0) } keys %arrived),
		'', "$after: nothing phantom");
	is("@wrong[0 .. ($#wrong > 9 ? 9 : $#wrong)]",
		'', "$after: each key in order" . ($options{repeats} ? '' : ', and once'));
	return;
}

# One statement after the other, with the writers at work.
sub during_traffic
{
	my (@statements) = @_;
	foreach my $statement (@statements)
	{
		sql($statement);
		wait_for_writers();
	}
	return;
}

start_writers();
wait_for_writers();

# Maintenance of the chunk that takes the rows, and of the table.
during_traffic(
	'CREATE INDEX by_type ON outbox.event (event_type, aggregate_id)',
	'CREATE INDEX CONCURRENTLY by_topic ON outbox.event_0 (topic)',
	'REINDEX TABLE outbox.event_0',
	'REINDEX TABLE CONCURRENTLY outbox.event_0',
	'VACUUM FULL outbox.event_0',
	'CLUSTER outbox.event_0 USING event_0_pkey',
	'DROP INDEX outbox.by_type, outbox.by_topic',
	'ANALYZE outbox.event');
check_ledger('indexes, VACUUM FULL and CLUSTER');

# Other chunks, and the present one emptied, over and over, by somebody who may.
my $replica = 'SET session_replication_role = replica;';
foreach my $round (1 .. 9)
{
	my $chunk = sql('SELECT last_value FROM outbox.event_chunk_seq');
	during_traffic("$replica TRUNCATE outbox.event_$chunk",
		"SELECT nextval('outbox.event_chunk_seq')",
		"VACUUM FULL outbox.event_$chunk",
		"$replica TRUNCATE outbox.event_$chunk");
}
check_ledger('TRUNCATE of all chunks in turn');

# Kafka does not answer: what is truncated is in the slot only.
signal_kafka('STOP', $kafka);
wait_for_writers();
is(sql('SELECT count(*) > 0 FROM outbox.event'), 't', 'rows wait');
during_traffic("$replica TRUNCATE outbox.event",
	"$replica TRUNCATE outbox.event");
signal_kafka('CONT', $kafka);
check_ledger('TRUNCATE while Kafka is away');

# The extension.
my ($ret, $out, $err) = $node->psql($db, 'ALTER EXTENSION outbox UPDATE');
like($err, qr/already installed/, 'there is nothing to update to');
wait_for_writers();
during_traffic(
	"ALTER EXTENSION outbox UPDATE TO '1.0'",
	'CREATE TABLE neighbour (id integer)',
	'ALTER EXTENSION outbox ADD TABLE neighbour',
	'ALTER EXTENSION outbox DROP TABLE neighbour');
($ret, $out, $err) =
  $node->psql($db, 'ALTER EXTENSION outbox SET SCHEMA public');
like($err, qr/does not support SET SCHEMA/, 'it stays where it is');
wait_for_writers();

# A column, a constraint and a trigger of the owner's.
during_traffic(
	"ALTER TABLE outbox.event ADD COLUMN note text NOT NULL DEFAULT 'noted'",
	"ALTER TABLE outbox.event ADD CONSTRAINT noted CHECK (note = 'noted')",
	'ALTER TABLE outbox.event DROP COLUMN note',
	'CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$',
	'CREATE TRIGGER nothing AFTER INSERT ON outbox.event FOR EACH ROW EXECUTE FUNCTION nothing()',
	'DROP TRIGGER nothing ON outbox.event');
check_ledger('ALTER EXTENSION and ALTER TABLE');

# Other tables, in the same transactions and in others.
during_traffic(
	'BEGIN; CREATE TABLE other (a integer); SELECT publish_next(0); ALTER TABLE other ADD b text; SELECT publish_next(0); DROP TABLE other; COMMIT',
	'BEGIN; SELECT publish_next(1); SELECT publish_number(-1, 1); CREATE TABLE other (a integer); ROLLBACK',
	'CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.event (LIKE outbox.event); INSERT INTO elsewhere.event SELECT * FROM outbox.event',
	'ALTER TABLE counter ADD COLUMN filler text DEFAULT clock_timestamp()::text',
	'VACUUM FULL counter',
	'DROP SCHEMA elsewhere CASCADE');
check_ledger('DDL on other tables');

# 200 connections at once, of all kinds.
$node->command_ok(
	[
		$node->installed_command('pgbench'), '-n', '-c', '200', '-j', '2',
		'-t', '5', @files, '-d', $node->connstr($db)
	],
	'200 connections publish');
check_ledger('200 connections');

# The name of the database.  With writers in it PostgreSQL refuses, and the
# relay, which has left for that without waiting for Kafka, comes back.
($ret, $out, $err) =
  $node->psql('postgres', 'ALTER DATABASE app RENAME TO renamed');
like($err, qr/is being accessed by other users/,
	'a database in use is not renamed');
wait_for_writers();
wait_for_state($node, $db, 'streaming');
stop_writers();
$node->safe_psql('postgres', 'ALTER DATABASE app RENAME TO renamed');
$db = 'renamed';
start_writers();
wait_for_writers();
wait_for_state($node, $db, 'streaming');
stop_writers();
check_ledger('a new name for the database', repeats => 1);
ok( $node->poll_query_until(
		$db,
		"SELECT NOT EXISTS (SELECT FROM outbox.events WHERE status <> 'published')"
	),
	'all that is left in the table counts as published');

$node->stop;
done_testing();
