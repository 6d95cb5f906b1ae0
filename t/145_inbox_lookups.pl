# What a subscription asks Kafka and writes down about partitions: a broker that
# does not answer, an answer that is outdated, and positions that others have
# locked or that belong to another subscription by now hold up nobody else.

use strict;
use warnings;

use lib 't';
use OutboxInbox;
use OutboxProxy;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = own_kafka('lookups', '--nodes', '3', '--compiler', '1');
my %kcat = (bootstrap => kafka_bootstrap($kafka));
my $proxy = OutboxProxy->new($kafka);
my $node = new_server('inbox_lookups', "max_worker_processes = 24\n");
subscribe_in($node);
create_extension($node, 'postgres', $proxy->bootstrap);
sql(<<'SQL');
CREATE TABLE effect (id bigserial, subscription text, partition integer, value text);
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE sql AS
	$$ INSERT INTO effect (subscription, partition, value) VALUES (m.subscription, m.partition, inbox.payload_text(m)) $$;
SQL

sub make
{
	my ($topic, $partitions) = @_;
	return make_topic($topic, $partitions, dir => $kafka, replicas => 1, 'min.insync.replicas' => 1);
}

sub produce_to
{
	my ($topic, $partition, @values) = @_;
	produce($topic, { %kcat, partition => $partition }, map { "k\t$_" } @values);
	return;
}

sub effect
{
	my ($name) = @_;
	return "(SELECT coalesce(string_agg(value, ' ' ORDER BY id), '') FROM effect WHERE subscription = '$name')";
}

# ---------------------------------------------------------------------------
# Brokers that do not answer

make('spread', 3);
produce_to('spread', $_, "p$_") foreach 0 .. 2;
$proxy->mute(1, 2);
sql("SELECT inbox.subscribe('spread', ARRAY['spread'], 'handle', start => '2020-01-01')");
wait_for("SELECT count(*) = 1 FROM effect WHERE subscription = 'spread'", 'two of three brokers do not answer: what the other one has is handled');
wait_for("SELECT state = 'waiting for kafka' FROM inbox.stat_subscription WHERE name = 'spread'", 'and that some is missing is told');
is(sql('SELECT count(*) FROM inbox.position'), '1', 'where others begin is not known');
$proxy->heal;
wait_for("SELECT count(DISTINCT value) = 3 AND count(*) = 3 FROM effect WHERE subscription = 'spread'", 'all is handled when they answer again');
sql("SELECT inbox.unsubscribe('spread')");

# ---------------------------------------------------------------------------
# An answer that lacks a partition which was just added

make('grows', 1);
sql("SELECT inbox.subscribe('grows', ARRAY['grows'], 'handle')");
my $running = "SELECT pid FROM inbox.consumer_status() WHERE subscription = 'grows' AND state = 'running'";
wait_for("SELECT EXISTS ($running)", 'a subscription runs');
my $pid = sql($running);
sql("SELECT inbox.seek('grows', 'grows', 1, 2)");
wait_for("SELECT EXISTS ($running AND pid <> $pid)", 'its worker has looked, and not found the partition that was sought');
$proxy->swallow;
kafka('alter-topic', $kafka, 'grows', 'partitions=2');
produce_to('grows', 1, 'a', 'b', 'c');
$proxy->heal;
wait_for("SELECT @{[ effect('grows') ]} <> ''", 'when it is there');
is(sql("SELECT @{[ effect('grows') ]}"), 'c', 'it is read from where it was sought');
sql("SELECT inbox.unsubscribe('grows')");

# ---------------------------------------------------------------------------
# Messages that Kafka has removed, in a partition whose position is locked

make('lost', 2);
produce_to('lost', $_, "p$_") foreach 0, 1;
sql("SELECT inbox.subscribe('lost', ARRAY['lost'], 'handle')");
wait_for("SELECT count(*) = 2 FROM effect WHERE subscription = 'lost'", 'two partitions are read');
$proxy->cut;
produce_to('lost', 0, map { "gone$_" } 1 .. 5);
my $list = PostgreSQL::Test::Utils::tempdir() . '/offsets.json';
append_to_file($list, '{"partitions": [{"topic": "lost", "partition": 0, "offset": 4}], "version": 1}');
kafka('tool', $kafka, 'org.apache.kafka.tools.DeleteRecordsCommand', '--offset-json-file', $list);
my $session = $node->background_psql('postgres');
$session->query_safe("BEGIN; SELECT FROM inbox.position WHERE topic = 'lost' AND partition = 0 FOR UPDATE");
$proxy->heal;
produce_to('lost', 1, 'first');
wait_for("SELECT @{[ effect('lost') ]} ~ 'first'", 'one of them is read');

# Some looks of a second later.
foreach my $i (1 .. 3)
{
	produce_to('lost', 1, "more$i");
	wait_for("SELECT @{[ effect('lost') ]} ~ 'more$i'", 'it goes on');
	wait_for("SELECT clock_timestamp() > timestamptz '@{[ sql('SELECT clock_timestamp()') ]}' + '1 s'", 'after a while');
}
unlike(sql("SELECT @{[ effect('lost') ]}"), qr/gone/, 'nothing is passed over in the other one');
$session->query_safe('COMMIT');
$session->quit;
wait_for("SELECT state = 'data lost' FROM inbox.stat_subscription WHERE name = 'lost'", 'that is told when its position is not locked any more');
sql("SELECT inbox.unsubscribe('lost')");

# ---------------------------------------------------------------------------
# A subscription that ends while its worker takes over, and another one of the
# name

make('names', 1);
produce_to('names', 0, 'old');
my $lock = $node->background_psql('postgres');
$lock->query_safe('BEGIN; LOCK TABLE inbox.position IN SHARE MODE');
sql("SELECT inbox.subscribe('names', ARRAY['names'], 'handle')");
wait_for("SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = 'names'", 'a worker takes over');
$lock->query_safe("SELECT inbox.unsubscribe('names'), inbox.subscribe('names', ARRAY['names'], 'handle', start => 'latest'); COMMIT");
$lock->quit;
wait_for("SELECT state = 'running' AND partitions = 1 FROM inbox.stat_subscription WHERE name = 'names'", 'another subscription of the name runs');
produce_to('names', 0, 'new');
wait_for("SELECT @{[ effect('names') ]} ~ 'new'", 'and reads');
is(sql("SELECT @{[ effect('names') ]}"), 'new', 'from where it was to begin');

$node->stop;
done_testing();
