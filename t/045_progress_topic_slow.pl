# Three brokers that are far away: however long their answers take, the progress
# topic is made, with the replicas that are usual there, and read; and the relay
# can be ended meanwhile.

use strict;
use warnings;

use lib 't';
use OutboxProxy;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = own_kafka('slow', '--nodes', 3, '--property', 'num.partitions=6');
my $bootstrap = kafka_bootstrap($kafka);
my $network = OutboxProxy->new($kafka);
my $far = $network->bootstrap;
my $node = new_server('slow');
my $progress;

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

sub records
{
	return committed_lines($_[0], $progress, '%s', $bootstrap);
}

# Ends the relay; how long does that take?
sub terminate
{
	my $pid = relay_pid($node, 'postgres');
	return seconds_of(sub { sql("SELECT pg_terminate_backend($pid, 60000)") });
}

sql('CREATE EXTENSION outbox');
$progress = progress_topic($node, 'postgres');

# No answers at all.
$network->swallow;
sql("CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS (\"bootstrap.servers\" '$far', delivery 'exactly_once')");
wait_for_state($node, 'postgres', 'waiting for kafka');
cmp_ok(terminate(), '<', 20, 'a relay that waits for an answer can be ended');

# Late ones.
$network->slow(0.15);
is(scalar records(1), 1, 'the topic is made, and the relay writes there');
like(kafka('tool', $kafka, 'org.apache.kafka.tools.TopicCommand', '--describe', '--topic', $progress),
	qr/PartitionCount: 1\s+ReplicationFactor: 3\s.*\bcleanup\.policy=compact/, 'it is as it must be');
cmp_ok(terminate(), '<', 20, 'the relay is ended');
my @records = records(2);
is(scalar @records, 2, 'the next one has read that, and writes too');
isnt(($records[0] =~ /"instance": "([^"]*)"/)[0], ($records[1] =~ /"instance": "([^"]*)"/)[0], 'as another one');

$network->swallow;
$node->stop;
done_testing();
