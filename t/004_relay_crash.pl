# Whoever crashes in the middle of the work - the relay, the whole server, the
# broker - nothing is missing on Kafka afterwards and each key keeps its order.
# After an orderly shutdown nothing comes twice either.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use OutboxTest;

my $total = 200_000;
my $keys = 100;
my $batch = 1000;    # events of a transaction

my $node = new_server('crash', <<'CONF');
restart_after_crash = on
statement_timeout = '100s'
CONF
create_extension($node, 'postgres');

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

# A writer's events are numbered; how many it has committed is in a table, from
# which another goes on after a crash, if there are any left.
sql(<<SQL);
CREATE TABLE writer (type text PRIMARY KEY, events integer NOT NULL);
CREATE PROCEDURE write(writer_type text) LANGUAGE plpgsql AS \$\$
DECLARE
	last integer := (SELECT events FROM writer WHERE type = writer_type);
BEGIN
	WHILE last < $total LOOP
		UPDATE writer SET events = events + $batch WHERE type = writer_type RETURNING events INTO last;
		PERFORM outbox.publish(writer_type, (i % $keys)::text, 'Counted', to_jsonb(i))
			FROM generate_series(last - $batch + 1, last) i;
		COMMIT;
	END LOOP;
END
\$\$;
CREATE PROCEDURE wait_for_acknowledged(wanted bigint) LANGUAGE plpgsql AS \$\$
BEGIN
	WHILE (SELECT events < wanted FROM outbox.stat_relay) LOOP
		PERFORM pg_sleep(0.01);
	END LOOP;
END
\$\$;
SQL

# Starts a writer whose events are of a new type; returns type and writer.
sub start_writer
{
	my ($suffix) = @_;
	my $type = aggregate_type($suffix);
	sql("INSERT INTO writer VALUES ('$type', 0)");
	return ($type, start_psql($node, 'postgres', "CALL write('$type')"));
}

# Waits until about that many of the events that are still to come are
# acknowledged.
sub wait_for_acknowledged
{
	my ($events) = @_;
	my $wanted = relay_status($node, 'postgres', 'events') + $events;
	sql("CALL wait_for_acknowledged($wanted)");
	return;
}

# Lets a writer whose session was lost finish.
sub finish_writer
{
	my ($type) = @_;
	sql("CALL write('$type')");
	wait_until_confirmed($node, 'postgres');
	return;
}

# Compares what is on Kafka with what was committed.
sub check_arrived
{
	my ($type, $name, $bootstrap) = @_;
	my %missing = map { $_ => 1 } split /\n/,
	  sql("SELECT event_id FROM outbox.event WHERE aggregate_type = '$type'");
	my $committed = keys %missing;
	my (%seen, %last, $duplicates, $unknown, $overtaken);

	$duplicates = $unknown = $overtaken = 0;
	foreach
	  my $line (consume_lines("outbox.event.$type", '%k %s %h', $bootstrap))
	{
		my ($key, $number, $id) = $line =~ /^(\d+) (\d+) id=([^,]+),/
		  or die "unexpected message: $line\n";
		if ($seen{$id}++)
		{
			$duplicates++;
			next;
		}
		$unknown++ unless delete $missing{$id};
		$overtaken++ if $number <= ($last{$key} || 0);
		$last{$key} = $number;
	}
	is($committed, $total, "$name: the writer finished");
	is(scalar keys %missing, 0, "$name: nothing is missing on Kafka");
	is($unknown, 0, "$name: nothing is there that was not committed");
	is($overtaken, 0, "$name: each key's events came in order");
	diag("$name: $duplicates duplicates of $committed events");
	return $duplicates;
}

# ---------------------------------------------------------------------------
# Nobody

my $type = aggregate_type('Restart');
sql("SELECT count(outbox.publish('$type', 'k', 'Counted', to_jsonb(i))) FROM generate_series(1, 1000) i"
);
wait_until_confirmed($node, 'postgres');
$node->restart;
sql("SELECT outbox.publish('$type', 'k', 'Counted', '1001')");
wait_until_confirmed($node, 'postgres');
is_deeply(
	[ consume_lines("outbox.event.$type", '%s') ],
	[ 1 .. 1001 ],
	'after an orderly restart the relay repeats nothing');

# ---------------------------------------------------------------------------
# The relay

# The relay's first event after a crash, of which there may be none left.
sub wait_for_first_event
{
	$node->poll_query_until('postgres',
		"SELECT outbox.publish('Wake', '1', 'Woken', '1') IS NOT NULL")
	  or die "the server does not recover\n";
	$node->poll_query_until('postgres',
		'SELECT events > 0 FROM outbox.stat_relay')
	  or die "no event comes\n";
	return;
}

my $writer;
($type, $writer) = start_writer('Relay');
my $pid = relay_pid($node, 'postgres');
wait_for_acknowledged(60_000);
my $start = time;
kill 'KILL', $pid;
$writer->finish;
wait_for_first_event();
diag(sprintf 'relay killed: first event after %.1f s', time - $start);
finish_writer($type);

# Between two watermarks lies about a second.
my $duplicates = check_arrived($type, 'relay killed');
cmp_ok($duplicates, '<', 0.75 * $total, 'relay killed: duplicates are bounded');

# ---------------------------------------------------------------------------
# The whole server

($type, $writer) = start_writer('Server');
wait_for_acknowledged(60_000);
$node->kill_all;
$writer->finish;
$node->start;
$start = time;
wait_for_first_event();
diag(sprintf 'server killed: first event %.1f s after it takes connections',
	time - $start);
finish_writer($type);
$duplicates = check_arrived($type, 'server killed');
cmp_ok($duplicates, '<', 0.75 * $total, 'server killed: duplicates are bounded');

# ---------------------------------------------------------------------------
# The broker

my $kafka = own_kafka('crash');
set_bootstrap($node, 'postgres', kafka_bootstrap($kafka));
($type, $writer) = start_writer('Broker');
wait_for_acknowledged(60_000);
kafka('kill', $kafka);
wait_for_state($node, 'postgres', 'waiting for kafka');
kafka('restart', $kafka);
$start = time;
$node->poll_query_until('postgres',
	"SELECT state = 'streaming' FROM outbox.stat_relay");
diag(sprintf 'broker killed: streaming %.1f s after it serves again',
	time - $start);
ok($writer->finish, 'broker killed: the writer noticed nothing');
wait_until_confirmed($node, 'postgres');
$duplicates = check_arrived($type, 'broker killed', kafka_bootstrap($kafka));
cmp_ok($duplicates, '<', $total / 2, 'broker killed: duplicates are bounded');

$node->stop;
done_testing();
