# Exactly once where brokers make topics by themselves, with settings of their
# own: the progress topic is made by the relay, whoever deletes it and whenever,
# and nothing comes twice.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = own_kafka('six', '--property', 'num.partitions=6');
my $bootstrap = kafka_bootstrap($kafka);
my $topic = make_topic(topic_name('progress'), 1, dir => $kafka);
my $node = new_server('progress', <<'CONF');
restart_after_crash = on
outbox.transaction_interval = '20ms'
CONF
my $published = 0;

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

# Publishes some events, each in a transaction of its own.
sub publish
{
	my ($count) = @_;
	my ($first, $last) = ($published + 1, $published + $count);
	sql(<<SQL);
DO \$\$
BEGIN
	FOR i IN $first .. $last LOOP
		PERFORM outbox.publish('Test', 'k', 'Counted', to_jsonb(i), topic => '$topic');
		COMMIT;
	END LOOP;
END
\$\$;
SQL
	$published = $last;
	return;
}

# Are all events there, once and in order?
sub check_events
{
	my ($name) = @_;
	is_deeply(
		[ committed_lines($published, $topic, '%s', $bootstrap) ],
		[ 1 .. $published ], $name);
	return;
}

sub topic_tool
{
	return kafka('tool', $kafka, 'org.apache.kafka.tools.TopicCommand', @_);
}

sql('CREATE EXTENSION outbox');
sql("CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS (\"bootstrap.servers\" '$bootstrap', delivery 'exactly_once')");
wait_for_state($node, 'postgres', 'streaming');
my $progress = progress_topic($node, 'postgres');

sub check_topic
{
	my ($name) = @_;
	my $description = topic_tool('--describe', '--topic', $progress);
	like($description, qr/PartitionCount: 1\b/, "$name: it has one partition");
	like($description, qr/\bcleanup\.policy=compact(,[^d]|\s|$)/, 'and is compacted');
	return;
}

check_topic('a relay makes the topic');
cmp_ok(scalar consume($progress, $bootstrap), '>', 0, 'and writes there');

for (1 .. 2)
{
	publish(100);
	my $pid = relay_pid($node, 'postgres');
	kill 'KILL', $pid;
	$node->poll_query_until('postgres', "SELECT state = 'streaming' AND pid <> $pid FROM outbox.stat_relay")
	  or die "no relay after the crash\n";
}
publish(1);
check_events('after crashes nothing comes twice');

# ---------------------------------------------------------------------------
# The topic is deleted.  The producer of a relay that runs may have a broker
# make it anew before the relay starts over; then somebody has to delete that.

topic_tool('--delete', '--topic', $progress);
publish(50);
my $lsn = sql('SELECT pg_current_wal_flush_lsn()');
$node->poll_query_until('postgres',
	"SELECT state = 'waiting for configuration' OR confirmed_lsn >= '$lsn' FROM outbox.stat_relay")
  or die "the relay does not go on\n";
if (relay_status($node, 'postgres', 'state') eq 'waiting for configuration')
{
	note(relay_status($node, 'postgres', 'last_error'));
	topic_tool('--delete', '--topic', $progress);
}
wait_for_state($node, 'postgres', 'streaming');
check_topic('deleted while a relay runs');
publish(1);
check_events('nothing is lost and nothing comes twice');

$node->stop;
topic_tool('--delete', '--topic', $progress);
$node->start;
wait_for_state($node, 'postgres', 'streaming');
check_topic('deleted while no relay runs');
publish(1);
check_events('nothing is lost and nothing comes twice');

$node->stop;
done_testing();
