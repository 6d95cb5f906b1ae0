# Whatever is wrong with Kafka, the relay waits, says why without filling the
# log, confirms nothing that is not acknowledged, and goes on by itself.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxTest;

my $kafka = own_kafka('outage', '--property', 'auto.create.topics.enable=false');
my $bootstrap = kafka_bootstrap($kafka);
my $node = new_server('outage');
create_extension($node, 'postgres', $bootstrap);

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

sub publish
{
	my ($arguments) = @_;
	return sql("SELECT outbox.publish($arguments)");
}

# A new aggregate type and its topic, created unless it is to be missing.
sub new_type
{
	my ($suffix, %options) = @_;
	my $type = aggregate_type($suffix);
	make_topic("outbox.event.$type", 1, dir => $kafka, %options)
	  unless $options{missing};
	return ($type, "outbox.event.$type");
}

# Payloads of a topic, once it holds that many.
sub arrived
{
	my ($topic, $count) = @_;
	return [ map { $_->{payload} } wait_for_events($topic, $count, $bootstrap) ];
}

# Waits until an error has been met some times since the call, which is known
# by its time; returns the pauses between those times, in ms.
sub wait_for_errors
{
	my ($count) = @_;
	return split /,/, sql("SELECT watch_errors($count)");
}

# Waits until the relay waits for Kafka, for a reason that matches.
sub waits_for
{
	my ($reason, $name) = @_;
	wait_for_error($node, 'postgres', 'waiting for kafka', $reason);
	pass($name);
	return;
}

# Waits until so many events wait for a topic.
sub wait_until_parked
{
	my ($name, $count) = @_;
	$node->poll_query_until('postgres',
		"SELECT waiting_events = $count FROM outbox.stat_topic WHERE topic = '$name'")
	  or die "not $count events wait for $name\n";
	return;
}

# Five kilobytes that do not get smaller by compression.
my $noise = <<'SQL';
CREATE FUNCTION noise() RETURNS bytea LANGUAGE sql AS
	$$ SELECT string_agg(sha512(i::text::bytea), '') FROM generate_series(1, 80) i $$;
SQL

sql($noise . <<'SQL');
CREATE FUNCTION watch_errors(wanted integer) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	seen timestamptz := clock_timestamp();
	latest timestamptz;
	pauses integer[] := '{}';
BEGIN
	SET LOCAL statement_timeout = '180 s';
	WHILE cardinality(pauses) < wanted LOOP
		SELECT last_error_at INTO latest FROM outbox.stat_relay;
		IF latest > seen THEN
			pauses := pauses || (extract(epoch FROM latest - seen) * 1000)::integer;
			seen := latest;
		END IF;
		PERFORM pg_sleep(0.01);
	END LOOP;
	RETURN array_to_string(pauses, ',');
END
$$;
SQL

# What the relay and librdkafka logged about obstacles from an offset on.
sub complaints
{
	my ($offset) = @_;
	my $log = slurp_file($node->logfile, $offset);
	my @relay = $log =~ /LOG:  outbox relay waits: (.*)/g;
	my @library = $log =~ /LOG:  librdkafka: (.*)/g;
	note("logged: $_") foreach @relay, @library;
	return (scalar @relay, scalar @library);
}

my ($offset, $relay_lines, $library_lines, $type, $topic);

# ---------------------------------------------------------------------------
# A broker that accepts connections and does not answer

($type, $topic) = new_type('Frozen');
publish("'$type', 'k', 'Thing', '0'");
wait_until_confirmed($node, 'postgres');

signal_kafka('STOP', $kafka);
my $lsn = sql("SELECT count(outbox.publish('$type', 'k', 'Thing', to_jsonb(i))) FROM generate_series(1, 100) i; SELECT pg_current_wal_insert_lsn()"
);
$lsn =~ s/.*\n//;
publish("'$type', 'k', 'Thing', '101'");
wait_for_state($node, 'postgres', 'waiting for kafka');
is(relay_status($node, 'postgres', "confirmed_lsn < '$lsn'"),
	't', 'what Kafka has not acknowledged is not confirmed');
is( sql("SELECT confirmed_flush_lsn < '$lsn' FROM pg_replication_slots"),
	't', 'nor confirmed to the slot');
is( sql("SELECT DISTINCT status FROM outbox.events WHERE aggregate_type = '$type' AND payload <> '0'"
	),
	'pending',
	'nor shown as published');
is(relay_status($node, 'postgres', 'in_flight'),
	101, 'but shown as in flight');

signal_kafka('CONT', $kafka);
wait_for_state($node, 'postgres', 'streaming');
is_deeply(arrived($topic, 102), [ 0 .. 101 ],
	'when the broker answers again everything arrives, in order and once');
wait_until_confirmed($node, 'postgres');
is(relay_status($node, 'postgres', "confirmed_lsn >= '$lsn'"),
	't', 'and is confirmed');

# ---------------------------------------------------------------------------
# A broker that is down

$offset = -s $node->logfile;
kafka('kill', $kafka);
publish("'$type', 'k', 'Thing', '102'");
waits_for("\Q$bootstrap\E|brokers are down",
	'an unreachable broker is the last error');
wait_for_errors(4);
($relay_lines, $library_lines) = complaints($offset);
is($relay_lines, 1, 'which is logged once, though it is tried again and again');
cmp_ok($library_lines, '<=', 3, 'and librdkafka adds little to it');

kafka('restart', $kafka);
wait_for_state($node, 'postgres', 'streaming');
is_deeply(arrived($topic, 103), [ 0 .. 102 ],
	'when the broker is back the relay goes on by itself');
like(relay_status($node, 'postgres', 'last_error'),
	qr/\Q$bootstrap\E|brokers are down/, 'and still shows the last error');

# ---------------------------------------------------------------------------
# A host that nobody knows

$offset = -s $node->logfile;
set_bootstrap($node, 'postgres', 'no-such-host.invalid:9092');
waits_for('no-such-host\.invalid',
	'the relay waits for a host that nobody knows and names it as the last error'
);
wait_for_errors(3);
is((complaints($offset))[0], 1, 'which is logged once');
publish("'$type', 'k', 'Thing', '103'");
set_bootstrap($node, 'postgres', $bootstrap);
is_deeply(arrived($topic, 104), [ 0 .. 103 ],
	'with the right host it goes on');

# ---------------------------------------------------------------------------
# A topic that does not exist, where Kafka does not create topics

($type, $topic) = new_type('Missing', missing => 1);
$offset = -s $node->logfile;
publish("'$type', 'k', 'Thing', '1'");
publish("'$type', 'k', 'Thing', '2'");
wait_until_parked($topic, 2);
like(
	sql("SELECT last_error FROM outbox.stat_topic"),
	qr{^topic "\Q$topic\E" does not exist},
	'events for a missing topic wait');
is(relay_status($node, 'postgres', 'state'),
	'streaming', 'and the relay does not');
my @parked = slurp_file($node->logfile, $offset) =~ /parks events for topic "\Q$topic\E"/g;
is(scalar @parked, 1, 'which is logged once');
is((complaints($offset))[0], 0, 'as no obstacle');
make_topic($topic, 1, dir => $kafka);
is_deeply(arrived($topic, 2), [ 1, 2 ], 'once it exists the events arrive');
wait_for_state($node, 'postgres', 'streaming');

# ---------------------------------------------------------------------------
# A topic that somebody deletes

($type, $topic) = new_type('Deleted');
publish("'$type', 'k', 'Thing', '1'");
wait_until_confirmed($node, 'postgres');
$offset = -s $node->logfile;
kafka('tool', $kafka, 'org.apache.kafka.tools.TopicCommand',
	'--delete', '--topic', $topic);
publish("'$type', 'k', 'Thing', '2'");
publish("'$type', 'k', 'Thing', '3'");
wait_until_parked($topic, 2);
pass('events for a topic that was deleted wait');
make_topic($topic, 1, dir => $kafka);
is_deeply(arrived($topic, 2), [ 2, 3 ],
	'once it is there again the events arrive');
wait_for_state($node, 'postgres', 'streaming');
cmp_ok((complaints($offset))[0], '<=', 2, 'and the log says little about it');

# ---------------------------------------------------------------------------
# A message that the broker refuses for good

($type, $topic) = new_type('Refused', 'max.message.bytes' => 1000);
sql("SELECT count(outbox.publish('$type', 'k', 'Small', to_jsonb(i))) FROM generate_series(1, 50) i"
);
sql(<<SQL);
BEGIN;
SELECT count(outbox.publish('$type', 'k', 'Small', to_jsonb(i))) FROM generate_series(51, 100) i;
SELECT outbox.publish_bytes('$type', 'k', 'Big',
	noise(),
	event_id => 'b10cced0-0000-4000-8000-000000000000');
SELECT count(outbox.publish('$type', 'k', 'Small', to_jsonb(i))) FROM generate_series(101, 150) i;
COMMIT;
SQL
publish("'$type', 'k', 'Small', '151'");
wait_until_confirmed($node, 'postgres');
is(sql('SELECT event_id FROM outbox.dead_letter'),
	'b10cced0-0000-4000-8000-000000000000',
	'an event that the broker refuses becomes a dead letter');

# A topic's events in their order: the payload of small ones, else "big".
sub sequence
{
	my ($topic) = @_;
	return
	  map { header($_, 'type') eq 'Big' ? 'big' : $_->{payload} }
	  consume($topic, $bootstrap);
}

# Waits until the relay has a number of dead letters.
sub wait_for_letters
{
	my ($db, $count) = @_;
	$node->poll_query_until($db,
		"SELECT dead_letters = $count FROM outbox.stat_relay")
	  or die "there are not $count dead letters\n";
	return;
}

my @after = sequence($topic);
is_deeply([ first_occurrences(@after) ],
	[ 1 .. 151 ], 'and its neighbours are delivered, in order');
note(sprintf '%d duplicates', @after - 151);
cmp_ok(@after - 151, '<=', 100, 'hardly an event came twice');
kafka('alter-topic', $kafka, $topic, 'max.message.bytes=100000');
sql("SELECT outbox.retry_all('$topic')");
wait_for_letters('postgres', 0);
is((sequence($topic))[-1], 'big', 'with a higher limit it is taken, too');

# Others are on their way to other partitions when the broker refuses it.
$type = aggregate_type('Partitions');
$topic = make_topic("outbox.event.$type", 12,
	dir => $kafka, 'max.message.bytes' => 2000);
sql(<<SQL);
BEGIN;
SELECT count(outbox.publish('$type', 'k' || i % 60, 'Small', to_jsonb(i))) FROM generate_series(1, 1500) i;
SELECT outbox.publish_bytes('$type', 'k0', 'Big', noise());
SELECT count(outbox.publish('$type', 'k' || i % 60, 'Small', to_jsonb(i))) FROM generate_series(1501, 3000) i;
COMMIT;
SQL
wait_until_confirmed($node, 'postgres');
wait_for_letters('postgres', 1);
my (%numbers, %seen);
my ($duplicates, $overtaken) = (0, 0);
foreach my $message (consume($topic, $bootstrap))
{
	my ($key, $payload) = @$message{qw(key payload)};
	if ($seen{"$key $payload"}++)
	{
		$duplicates++;
		next;
	}
	$overtaken++ if $payload < ($numbers{$key} || 0);
	$numbers{$key} = $payload;
}
is(scalar keys %seen, 3000, 'with many partitions nothing is lost either');
is($overtaken, 0, 'and each key keeps its order');
note("$duplicates duplicates");
cmp_ok($duplicates, '<=', 3000, 'what was in flight came at most twice');

# Events older than the slot, of which many are acknowledged already.
$node->safe_psql('postgres', 'CREATE DATABASE old');
$node->safe_psql('old', "$noise CREATE EXTENSION outbox;");
($type, $topic) = new_type('Old', 'max.message.bytes' => 1000);
$node->safe_psql('old', <<SQL);
SELECT count(outbox.publish('$type', 'k', 'Small', to_jsonb(i))) FROM generate_series(1, 2000) i;
SELECT outbox.publish_bytes('$type', 'k', 'Big', noise());
SELECT count(outbox.publish('$type', 'k', 'Small', to_jsonb(i))) FROM generate_series(2001, 3000) i;
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '$bootstrap', "batch.size" '500');
SQL
wait_for_state($node, 'old', 'streaming');
wait_for_letters('old', 1);
@after = sequence($topic);
is_deeply([ first_occurrences(@after) ],
	[ 1 .. 3000 ], 'among older events its neighbours are delivered, too');
note(sprintf '%d duplicates', @after - 3000);
cmp_ok(@after - 3000, '<=', 100, 'hardly an event came twice');

$node->stop;
done_testing();
