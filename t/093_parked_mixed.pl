# Parked topics together with all else that sets events aside: partitions of the
# same topic, held keys, discarded events, replays, and more than memory holds.

use strict;
use warnings;

use lib 't';
use OutboxRefused;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = own_kafka('mixed', '--property', 'auto.create.topics.enable=false');
my $bootstrap = kafka_bootstrap($kafka);
my $node = new_server('mixed', "outbox.on_dead_letter = hold\n");
create_extension($node, 'postgres', $bootstrap);
publish_from($node, $kafka);
create_functions();
my $good = make_topic(topic_name('good'), 1, dir => $kafka);

sub wait_for_waiting
{
	my ($topic, $count) = @_;
	wait_until("SELECT waiting_events = $count FROM outbox.stat_topic WHERE topic = '$topic'");
	return;
}

# ---------------------------------------------------------------------------
# A topic that waits as a whole, and before that for one partition

my $both = topic_name('both');
sql("SELECT small('$both', 'k', 1, 1600)");
wait_for_waiting($both, 1600);
my $pid = relay_pid($node, 'postgres');
sql(<<SQL);
UPDATE outbox.held_event SET partition = 0
WHERE position IN (SELECT position FROM outbox.held_event ORDER BY position LIMIT 800);
INSERT INTO outbox.parked_topic (topic, partition, state, error_code, error)
VALUES ('$both', 0, 'waiting', 'LEADER_NOT_AVAILABLE', 'as if');
SELECT pg_terminate_backend($pid);
SQL
wait_until("SELECT pid <> $pid FROM outbox.stat_relay");
make_topic($both, 1, dir => $kafka);
wait_until('SELECT count(*) = 0 FROM outbox.stat_topic');
is_deeply([ first_occurrences(sequence($both)) ], [ 1 .. 1600 ],
	'a topic and a partition of it are sent, in order');

# ---------------------------------------------------------------------------
# A key that is let go while its topic is being sent

my $held = topic_name('held');
sql("SELECT refused('$held', 'k'); SELECT small('$held', 'k', 1, 5); SELECT small('$held', 'o' || i, i, i) FROM generate_series(1, 12000) i");
wait_for_waiting($held, 12_006);
make_topic($held, 1, dir => $kafka, 'max.message.bytes' => 100_000);
wait_until('SELECT count(*) = 1 FROM outbox.dead_letter');
sql('SELECT outbox.discard(event_id) FROM outbox.dead_letter');
wait_until('SELECT count(*) = 0 FROM outbox.held_event');
wait_until('SELECT count(*) = 0 FROM outbox.stat_topic');
is_deeply([ first_occurrences(sequence($held, 'k')) ], [ 1 .. 5 ],
	'a key that was held is sent, in order');
is(scalar first_occurrences(consume_lines($held, '%k %s', $bootstrap)), 12_005, 'and all others');

# ---------------------------------------------------------------------------
# Discarded events

my $given_up = topic_name('given.up');
sql("SELECT small('$given_up', 'k', 1, 3)");
wait_for_waiting($given_up, 3);
sql("SELECT outbox.discard(event_id) FROM outbox.events WHERE topic = '$given_up' AND payload = '2'");
make_topic($given_up, 1, dir => $kafka);
wait_until('SELECT count(*) = 0 FROM outbox.stat_topic');
wait_until("SELECT count(*) = 2 FROM outbox.events WHERE topic = '$given_up' AND status = 'published'");
sql("SELECT outbox.replay('-infinity')");
wait_until('SELECT bool_and(finished_at IS NOT NULL AND sent = total) FROM outbox.replay_job');
is(join(' ', sequence($given_up)), '1 3 1 3', 'a replay leaves out what was discarded');

my $never = topic_name('never');
sql("SELECT small('$never', 'k', 1, 3)");
wait_for_waiting($never, 3);
sql("SELECT outbox.discard_all('$never')");
wait_until("SELECT count(*) = 0 FROM outbox.stat_topic");
pass('a topic of which all was discarded is not shown any more');

# ---------------------------------------------------------------------------
# More than fits into memory, behind one that was sent in the same Kafka
# transaction

change_settings("ALTER SERVER kafka OPTIONS (ADD delivery 'exactly_once')");
my $huge = topic_name('huge');
sql("SELECT small('$good', 'k', 1, 1), small('$huge', repeat('k', 600), 1, 20000)");
wait_for_waiting($huge, 20_000);
wait_until_confirmed($node, 'postgres');
is(join(' ', committed_lines(1, $good, '%s', $bootstrap)), '1',
	'a transaction with more parked events than memory holds is dealt with');

# ---------------------------------------------------------------------------
# Kafka is away

kafka('kill', $kafka);
sql("SELECT small('$good', 'k', 2, 2)");
wait_for_state($node, 'postgres', 'waiting for kafka');
$pid = relay_pid($node, 'postgres');

my $before = cpu_of($pid);
sql('SELECT pg_sleep(3)');
cmp_ok(cpu_of($pid) - $before, '<', 1, 'what is parked costs nothing meanwhile');

$node->stop;
done_testing();
