# With outbox.on_dead_letter = hold, events of a key wait behind the one that Kafka
# refuses, and go on in order when that is sent or given up.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use lib 't';
use OutboxRefused;
use OutboxTest;

my $node = new_server('hold', "outbox.on_dead_letter = hold\n");
create_extension($node, 'postgres');
publish_from($node);

create_functions();

sub held
{
	my ($topic) = @_;
	return sql("SELECT count(*) FROM outbox.held_event WHERE topic = '$topic'");
}

# ---------------------------------------------------------------------------

my $topic = limited_topic('held');
my $other = limited_topic('other');
sql("SELECT small('$topic', 'a', 1, 10), refused('$topic', 'a')");
sql("SELECT small('$topic', 'a', 11, 20), small('$topic', 'b', 1, 20), small('$other', 'a', 1, 20)");
wait_until_confirmed($node, 'postgres');
is_deeply([ first_occurrences(sequence($topic, 'a')) ], [ 1 .. 10 ], 'the key waits behind what was refused');
is_deeply([ first_occurrences(sequence($topic, 'b')) ], [ 1 .. 20 ], 'other keys go on');
is_deeply([ first_occurrences(sequence($other, 'a')) ], [ 1 .. 20 ], 'and so does the same key of another topic');
is(sql('SELECT count(*) FROM outbox.dead_letter WHERE holds'), 1, 'there is one dead letter');
is(held($topic), 10, 'and the others are known to wait');
is( sql("SELECT status, count(*) FROM outbox.events WHERE topic = '$topic' AND aggregate_id = 'a' AND id > (SELECT id FROM outbox.dead_letter) GROUP BY 1"),
	'pending|10',
	'they are pending');
wait_until("SELECT bool_and(status = 'published') FROM outbox.events WHERE topic = '$other'");

$node->stop('immediate');
$node->start;
wait_for_state($node, 'postgres', 'streaming');
sql("SELECT small('$topic', 'a', 21, 25), small('$topic', 'b', 21, 25)");
wait_until_confirmed($node, 'postgres');
is((sequence($topic, 'b'))[-1], 25, 'after a crash of the server other keys go on');
is(scalar(grep { $_ > 10 } sequence($topic, 'a')), 0, 'and the key waits still');
is(held($topic), 15, 'new events with the old ones');

my $letter = sql('SELECT event_id FROM outbox.dead_letter');
is(sql("SELECT outbox.retry('$letter')"), 't', 'a retry');
wait_until("SELECT attempts > 1 AND state = 'failed' FROM outbox.dead_letter");
is(held($topic), 15, 'that fails lets nothing go on');
is(sql("SELECT outbox.retry(event_id) FROM outbox.held_event LIMIT 1"),
	'f', 'what waits cannot be sent out of turn');

sql("SELECT outbox.discard('$letter')");
wait_until("SELECT NOT EXISTS (SELECT FROM outbox.held_event)");
is_deeply([ first_occurrences(sequence($topic, 'a')) ],
	[ 1 .. 25 ], 'once it is discarded those behind it are sent, in order');
sql("SELECT small('$topic', 'a', 26, 27)");
wait_until_confirmed($node, 'postgres');
wait_until("SELECT NOT EXISTS (SELECT FROM outbox.held_event)");
is_deeply([ (sequence($topic, 'a'))[ -2, -1 ] ], [ 26, 27 ], 'and the key is free');

# ---------------------------------------------------------------------------
# Keys that are longer than an entry of an index may be

$topic = limited_topic('long');
$other = limited_topic('beside');
sql(<<'SQL');
CREATE TABLE long_key AS
SELECT length, left(string_agg(md5(i::text), '' ORDER BY i), length) AS key
FROM generate_series(1, 1500) i, (VALUES (3000), (40000)) l (length) GROUP BY length
SQL
sql("SELECT refused('$topic', key) FROM long_key");
sql("SELECT small('$topic', key, 1, 5) FROM long_key");
sql("SELECT small('$other', 'a', 1, 5)");
wait_until_confirmed($node, 'postgres');
is_deeply([ wait_for_sequence(5, $other) ], [ 1 .. 5 ], 'a long key that is held holds up nothing');
is(sql("SELECT count(*) FROM outbox.dead_letter JOIN long_key USING (key) WHERE holds"), 2, 'its events are dead letters');
is(held($topic), 10, 'and those behind them wait');
sql('SELECT outbox.discard(event_id) FROM outbox.dead_letter');
wait_until('SELECT NOT EXISTS (SELECT FROM outbox.held_event)');
foreach my $key (split /\n/, sql('SELECT key FROM long_key'))
{
	is_deeply([ sequence($topic, $key) ], [ 1 .. 5 ], 'until they may go on');
}

# ---------------------------------------------------------------------------
# One after the other

$topic = limited_topic('several');
sql("SELECT refused('$topic'), small('$topic', 'k', 1, 5), refused('$topic'), small('$topic', 'k', 6, 10)");
sql("SELECT outbox.publish('Small', NULL, 'Small', '11', topic => '$topic')");
wait_until_confirmed($node, 'postgres');
is_deeply([ first_occurrences(sequence($topic)) ], [11], 'an event without a key waits for none');
is(held($topic), 11, 'what may be refused waits like others');
sql("SELECT outbox.discard(event_id) FROM outbox.dead_letter");
wait_until("SELECT count(*) = 5 FROM outbox.held_event");
is_deeply([ first_occurrences(sequence($topic, 'k')) ], [ 1 .. 5 ], 'those before the next one are sent');
wait_until("SELECT count(*) = 1 FROM outbox.dead_letter");
kafka('alter-topic', $ENV{OUTBOX_TEST_KAFKA_DIR}, $topic, 'max.message.bytes=1000000');
sql('SELECT outbox.retry_all()');
wait_until("SELECT NOT EXISTS (SELECT FROM outbox.held_event)");
is_deeply([ first_occurrences(sequence($topic, 'k')) ], [ 1 .. 5, 'big', 6 .. 10 ], 'and after it, the others');

# ---------------------------------------------------------------------------
# Many, while more come, and a change of the setting

$topic = limited_topic('many');
sql("SELECT refused('$topic')");
sql("SELECT small('$topic', 'k', 1, 3000)");
wait_until_confirmed($node, 'postgres');
is(held($topic), 3000, 'thousands wait');
$node->append_conf('postgresql.conf', "outbox.on_dead_letter = skip\n");
$node->reload;
sql("SELECT small('$topic', 'k', 3001, 3100)");
wait_until_confirmed($node, 'postgres');
is(held($topic), 3100, 'what is held stays held when the setting changes');
sql("SELECT outbox.discard(event_id) FROM outbox.dead_letter");
sql("SELECT small('$topic', 'k', $_, $_)") foreach 3101 .. 3130;
wait_until_confirmed($node, 'postgres');
wait_until("SELECT NOT EXISTS (SELECT FROM outbox.held_event)");
is_deeply([ first_occurrences(sequence($topic)) ], [ 1 .. 3130 ], 'and nothing overtakes it');

# ---------------------------------------------------------------------------
# When the table is polled

$node->append_conf('postgresql.conf', "outbox.on_dead_letter = hold\noutbox.capture = poll\n");
$node->reload;
wait_for_state($node, 'postgres', 'polling');

# A broker that knows nothing of a producer yet would take what follows the
# first message although it refuses that.  Each round has a new producer.
foreach my $round (1 .. 5)
{
	$topic = limited_topic("polled$round", $round);
	sql("SELECT refused('$topic', 'a'), small('$topic', 'a', 1, 10), small('$topic', 'b', 1, 10)");
	sql("SELECT small('$topic', 'a', 11, 20)");
	wait_until("SELECT count(*) = 20 FROM outbox.held_event WHERE topic = '$topic'");
	wait_for_sequence(10, $topic, 'b');
	is_deeply([ map { [ first_occurrences(sequence($topic, $_)) ] } 'a', 'b' ],
		[ [], [ 1 .. 10 ] ], "only the key waits when the table is polled ($round)");
}
sql("SELECT outbox.discard(event_id) FROM outbox.dead_letter");
wait_until("SELECT NOT EXISTS (SELECT FROM outbox.held_event)");
is_deeply([ first_occurrences(sequence($topic, 'a')) ], [ 1 .. 20 ], 'and goes on in order');

$node->stop;
done_testing();
