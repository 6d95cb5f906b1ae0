# What consumers make of Kafka's ways: topics that come and grow, brokers that
# go, messages that are removed.

use strict;
use warnings;

use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use OutboxInbox;
use OutboxTest;

my $kafka = own_kafka('inbox');
my $bootstrap = kafka_bootstrap($kafka);
my $node = new_server('inbox_kafka', "max_worker_processes = 32\n");
create_extension($node, 'postgres', $bootstrap);
subscribe_in($node);

sub subscribe
{
	my ($name, $topics, $options) = @_;
	sql("SELECT inbox.subscribe('$name', ARRAY['$topics'], 'handle'" . ($options || '') . ')');
	return;
}

# The values that a subscription has handled.
sub done
{
	my ($name) = @_;
	return sql("SELECT string_agg(value, ' ' ORDER BY id) FROM effect WHERE subscription = '$name'");
}

sql(<<'SQL');
CREATE TABLE effect (id bigserial, subscription text, value text, message inbox.message);
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE sql AS
	$$ INSERT INTO effect (subscription, value, message) VALUES (m.subscription, encode(m.payload, 'escape'), m) $$;
SQL

my %kcat = (bootstrap => $bootstrap);

# ---------------------------------------------------------------------------
# What a message carries

my $topic = topic_name('Message');
make_topic($topic, 1, dir => $kafka);
subscribe('message', $topic);
produce($topic, { %kcat, headers => [ 'id=one', 'type=Paid', 'aggregate_type=Order', 'a=1', 'a=2', "b=\xff" ] }, "key\tv1");
produce($topic, { %kcat, headers => [ 'id=wrong', 'id=one' ] }, "key\tagain");
produce($topic, { %kcat, headers => ['id="two"'] }, "key\tv2");
produce($topic, { %kcat, headers => ['id=two'] }, "key\tagain");
produce($topic, { %kcat, headers => [ 'id=' . 'x' x 3000 ] }, "\xfe\xff\tv3");
produce($topic, { %kcat, headers => [ 'id=' . 'x' x 3000 ] }, "\xfe\xff\tagain");
produce($topic, \%kcat, "key\t", "key\t\\x00");
wait_for("SELECT sum(processed) = 5 AND sum(duplicates) = 3 FROM inbox.position WHERE subscription = 'message'",
	'the last header "id" tells a message, in quotes or not, however long');
is( sql(<<'SQL'),
SELECT string_agg(concat_ws(',', (message).event_type, (message).aggregate_type, (message).aggregate_id, (message).headers), E'\n' ORDER BY id)
FROM effect WHERE subscription = 'message' AND value = 'v1'
SQL
	'Paid,Order,key,{"a": ["1", "2"], "b": {"base64": "/w=="}, "id": "one", "type": "Paid", "aggregate_type": "Order"}',
	'headers: ours, repeated ones, and bytes');
is(sql("SELECT (message).aggregate_id IS NULL, (message).key FROM effect WHERE value = 'v3'"), 't|\xfeff',
	'a key that is no text has no aggregate_id');
is(sql("SELECT count(*) FROM effect WHERE subscription = 'message' AND (message).payload IS NULL"), 1,
	'a tombstone has no payload');
is(sql("SELECT (message).event_id = '$topic/0/7' FROM effect WHERE subscription = 'message' ORDER BY id DESC LIMIT 1"),
	't', 'without an id, topic, partition and offset tell a message');

# ---------------------------------------------------------------------------
# Where it begins

subscribe('latest', $topic, ", start => 'latest'");
wait_for("SELECT count(*) = 1 FROM inbox.position WHERE subscription = 'latest'", 'it has a position');
produce($topic, \%kcat, "key\tnew");
wait_for("SELECT count(*) = 1 FROM effect WHERE subscription = 'latest'", 'start => latest');
is(done('latest'), 'new', 'begins with what is new');

subscribe('filtered', $topic, ", filter_event_types => ARRAY['Paid']");
wait_for("SELECT sum(next_offset) = 9 FROM inbox.position WHERE subscription = 'filtered'", 'a filtered subscription reads all');
is(done('filtered'), 'v1', 'and handles what it wants');

# ---------------------------------------------------------------------------
# Topics that come later, and grow

my $base = topic_name('Later');
subscribe('pattern', '^' . quotemeta($base), ', workers => 2');
subscribe('missing', "$base.missing");
wait_for("SELECT state = 'waiting for kafka' AND last_error ~ 'missing' FROM inbox.stat_subscription WHERE name = 'missing'",
	'a topic that is missing is reported');
make_topic("$base.missing", 1, dir => $kafka);
produce("$base.missing", \%kcat, "k\tfound");
wait_for("SELECT count(*) = 1 FROM effect WHERE subscription = 'missing'", 'and found when it is there');
wait_for("SELECT state = 'running' FROM inbox.stat_subscription WHERE name = 'missing'", 'then all is well');

# The next look for topics is ten seconds away.
sql("SELECT inbox.pause('pattern'), inbox.resume('pattern')");
wait_for("SELECT count(*) = 1 FROM effect WHERE subscription = 'pattern'", 'a pattern finds new topics');
kafka('alter-topic', $kafka, "$base.missing", 'partitions=3');
produce("$base.missing", { %kcat, partition => 1 }, "k\tone");
produce("$base.missing", { %kcat, partition => 2 }, "k\ttwo");
wait_for("SELECT count(*) = 3 FROM effect WHERE subscription = 'missing'", 'and new partitions are found');
wait_for("SELECT count(*) = 3 FROM effect WHERE subscription = 'pattern'", 'by every worker');

# ---------------------------------------------------------------------------
# One that all of the following is about

$topic = topic_name('Committed');
make_topic($topic, 1, dir => $kafka);
subscribe('committed', $topic);

produce($topic, \%kcat, "k\tone", "k\ttwo");
wait_for("SELECT count(*) = 2 FROM effect WHERE subscription = 'committed'", 'a subscription works');

# ---------------------------------------------------------------------------
# Kafka's own tools

wait_for("SELECT lag = 0 FROM inbox.stat_subscription WHERE name = 'committed'", 'there is no lag');
my $groups = '';
my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
do
{
	$groups = kafka('tool', $kafka, 'org.apache.kafka.tools.consumer.group.ConsumerGroupCommand',
		'--describe', '--group', 'postgres.committed');
} until ($groups =~ /\Q$topic\E +0 +(\d+) +\1 +0 / || time > $deadline);
like($groups, qr/\Q$topic\E +0 +(\d+) +\1 +0 /, 'the group has the offsets');

# ---------------------------------------------------------------------------
# A broker that goes

kafka('kill', $kafka);
wait_for("SELECT bool_and(state = 'waiting for kafka') FROM inbox.stat_subscription", 'without a broker, it waits for Kafka');
kafka('restart', $kafka);
produce($topic, \%kcat, "k\tback");
wait_for("SELECT count(*) = 3 FROM effect WHERE subscription = 'committed'", 'and goes on when it is back');
wait_for("SELECT bool_and(state = 'running') FROM inbox.stat_subscription", 'all of them');

# ---------------------------------------------------------------------------
# Pause, resume, seek

my $no_worker = "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'outbox consumer' AND application_name = 'committed'";
sql("SELECT inbox.pause('committed')");
wait_for($no_worker, 'a paused subscription has no worker');
is(sql("SELECT state FROM inbox.stat_subscription WHERE name = 'committed'"), 'paused', 'its state says so');
produce($topic, \%kcat, "k\tpaused");
sql("SELECT inbox.resume('committed')");
wait_for("SELECT count(*) = 4 FROM effect WHERE subscription = 'committed'", 'after resume() it goes on');

my $effects = sql("SELECT count(*) FROM effect WHERE subscription = 'committed'");
sql("SELECT inbox.seek('committed', '$topic', 0, 0)");
wait_for("SELECT duplicates > 0 AND lag = 0 FROM inbox.stat_subscription WHERE name = 'committed'", 'seek() reads again');
is(sql("SELECT count(*) FROM effect WHERE subscription = 'committed'"), $effects, 'which has no effect twice');
sql("SELECT inbox.seek('committed', '$topic', 0, 0, rerun => true)");
wait_for("SELECT count(*) = 2 * $effects FROM effect WHERE subscription = 'committed'", 'but with rerun it has');

# ---------------------------------------------------------------------------
# Messages that Kafka has removed

sql("SELECT inbox.pause('committed')");
wait_for($no_worker, 'a pause');
my $end = (sql("SELECT next_offset FROM inbox.position WHERE subscription = 'committed'")) + 5;
produce($topic, \%kcat, map { "k\tremoved$_" } 1 .. 5);
my $list = PostgreSQL::Test::Utils::tempdir() . '/records.json';
append_to_file($list, qq({"partitions": [{"topic": "$topic", "partition": 0, "offset": $end}], "version": 1}));
kafka('tool', $kafka, 'org.apache.kafka.tools.DeleteRecordsCommand', '--offset-json-file', $list);
sql("SELECT inbox.resume('committed')");
wait_for("SELECT state = 'data lost' FROM inbox.stat_subscription WHERE name = 'committed'", 'messages that were removed are missed');
is(sql("SELECT lost_until - lost_from FROM inbox.position WHERE subscription = 'committed'"), 5, 'and counted');
produce($topic, \%kcat, "k\tafter");
sql("SELECT inbox.seek('committed', '$topic', 0, '$end')");
wait_for("SELECT count(*) = 1 FROM effect WHERE subscription = 'committed' AND value = 'after'", 'seek() goes on');
wait_for("SELECT state = 'running' FROM inbox.stat_subscription WHERE name = 'committed'", 'and all is well');

done_testing();
