# A progress topic that is not as it must be: the relay says what is wrong and
# what to do, publishes nothing, and goes on by itself once that is done.

use strict;
use warnings;

use lib 't';
use OutboxProgress;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = own_kafka('unfit', '--property', 'num.partitions=6');
my $bootstrap = kafka_bootstrap($kafka);
my $topic = make_topic(topic_name('unfit'), 1, dir => $kafka);
my $node = new_server('unfit');
deliver_from($node, $topic, $bootstrap);

sub topic_tool
{
	return kafka('tool', $kafka, 'org.apache.kafka.tools.TopicCommand', @_);
}

sql('CREATE EXTENSION outbox');
my $progress = progress_topic($node, 'postgres');

sub wait_until_unfit
{
	my ($reason) = @_;
	wait_for_error($node, 'postgres', 'waiting for configuration', "the topic \"$progress\" has $reason");
	return;
}

# ---------------------------------------------------------------------------
# Made by somebody else before.

make_topic($progress, 3, dir => $kafka, 'cleanup.policy' => 'compact');
sql("CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS (\"bootstrap.servers\" '$bootstrap', delivery 'exactly_once')");
wait_until_unfit('3 partitions and must have 1; delete it');
pass('partitions are counted');
publish('partitions');
is(scalar consume($topic, $bootstrap), 0, 'nothing is sent');
sql("ALTER SERVER kafka OPTIONS (SET delivery 'at_least_once')");
wait_for_state($node, 'postgres', 'streaming');
publish_confirmed('at_least_once');
check_events('at least once does without the topic');
sql("ALTER SERVER kafka OPTIONS (SET delivery 'exactly_once')");
wait_until_unfit('3 partitions');
topic_tool('--delete', '--topic', $progress);
wait_for_state($node, 'postgres', 'streaming');
like(topic_tool('--describe', '--topic', $progress), qr/PartitionCount: 1\b/, 'it is made anew when it is deleted');

# ---------------------------------------------------------------------------
# Its settings are changed: the next relay finds out.  More replicas in sync
# than there are do no harm, Kafka asks for no more than all of them.

kafka('alter-topic', $kafka, $progress, 'cleanup.policy=[compact,delete]', 'min.insync.replicas=2');
my $pid = relay_pid($node, 'postgres');
sql("SELECT pg_terminate_backend($pid)");
wait_until_unfit('cleanup.policy=compact,delete, ');
pass('it must not be one that Kafka deletes from');
$pid = relay_pid($node, 'postgres');
publish('settings');
kafka('alter-topic', $kafka, $progress, 'cleanup.policy=compact');
wait_for_state($node, 'postgres', 'streaming');
is(relay_pid($node, 'postgres'), $pid, 'the relay waits without starting over');
wait_until_confirmed($node, 'postgres');
check_events('and publishes then');

# ---------------------------------------------------------------------------
# One that takes only small records, of which a relay that is under way learns
# when it sends one.

kafka('alter-topic', $kafka, $progress, 'max.message.bytes=100');
publish('small');
wait_until_unfit('max.message.bytes=100, .*; set max.message.bytes=65536 or more');
pass('it must take records of progress');
kafka('alter-topic', $kafka, $progress, 'max.message.bytes=65536');
wait_for_state($node, 'postgres', 'streaming');
wait_until_confirmed($node, 'postgres');
check_events('and then nothing is lost or comes twice');

# ---------------------------------------------------------------------------
# Hidden by a setting of ours: Kafka can be reached, and tells nothing about it.

sql("ALTER SERVER kafka OPTIONS (ADD \"topic.blacklist\" '^outbox[.]progress')");
wait_for_error($node, 'postgres', 'waiting for kafka', "Kafka does not tell about the topic \"$progress\"");
pass('what is waited for is shown');
sql('ALTER SERVER kafka OPTIONS (DROP "topic.blacklist")');
wait_for_state($node, 'postgres', 'streaming');

# ---------------------------------------------------------------------------
# Deleted, and made by somebody else at once: the present relay finds out.

topic_tool('--delete', '--topic', $progress);
make_topic($progress, 1, dir => $kafka);
publish('made anew');
wait_until_unfit('cleanup.policy=delete, ');
pass('that it was made anew is noticed');
kafka('alter-topic', $kafka, $progress, 'cleanup.policy=compact');
wait_for_state($node, 'postgres', 'streaming');
publish_confirmed('last');
check_events('and nothing is lost or comes twice');

$node->stop;
done_testing();
