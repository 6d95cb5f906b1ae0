# Subscriptions over many topics and partitions, and of brokers that are far away
# or take long to tell of topics: what is asked takes few requests, and nobody
# waits for the answers.

use strict;
use warnings;

use lib 't';
use OutboxInbox;
use OutboxProxy;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $kafka = own_kafka('inbox_many', '--property', 'num.partitions=2');
my $proxy = OutboxProxy->new($kafka);
my $node = new_server('inbox_many');
subscribe_in($node);
create_extension($node, 'postgres', $proxy->bootstrap);
sql(<<'SQL');
CREATE TABLE effect (subscription text, value text, at timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE sql AS
	$$ INSERT INTO effect VALUES (m.subscription, inbox.payload_text(m)) $$;
SQL

my $wide = make_topic('many.wide', 200, dir => $kafka);
my @topics = map { "many.$_" } 1 .. 20;

# Messages for partitions of many topics: topic, partition, value.
sub produce_to
{
	my ($topic, @values) = @_;
	my $input = join '', map { "$_\n" } @values;
	run_log([ 'kcat', '-P', '-b', kafka_bootstrap($kafka), '-t', $topic ], '<', \$input)
	  or die "kcat failed\n";
	return;
}
produce_to($_, 1 .. 3) foreach ($wide, @topics);

# A round trip takes longer than a second, as if there were too many topics.
$proxy->slow(0.6);
my $start = time;
sql(q{SELECT inbox.subscribe('pattern', ARRAY['^many[.]'], 'handle')});
wait_for("SELECT state = 'running' AND partitions = 240 FROM inbox.stat_subscription WHERE name = 'pattern'",
	'a pattern finds its topics however long the brokers take');
my $names = join ', ', map { "'$_'" } $wide, @topics;
sql("SELECT inbox.subscribe('named', ARRAY[$names], 'handle', start => '2020-01-01')");
wait_for("SELECT state = 'running' AND partitions = 240 FROM inbox.stat_subscription WHERE name = 'named'",
	'so do those that are named, with a time to start at');
my $taken = time - $start;
note("two subscriptions took $taken seconds");
cmp_ok($taken, '<', 60, 'it takes a number of round trips that has nothing to do with that of partitions');
wait_for("SELECT count(*) = 126 FROM effect", 'messages from before are handled');

# The next look is under way while these are handled.
$proxy->slow(0);
sql("SELECT inbox.seek('named', '$wide', 7, 'earliest')");
wait_for("SELECT state = 'running' FROM inbox.stat_subscription WHERE name = 'named'", 'a subscription begins anew');
produce_to('many.new', 'new topic');
wait_for("SELECT count(*) = 1 FROM effect WHERE subscription = 'pattern' AND value = 'new topic'", 'a new topic is found');
kafka('alter-topic', $kafka, $wide, 'partitions=260');
produce_to($wide, map { "more $_" } 1 .. 2000);
wait_for("SELECT partitions = 302 FROM inbox.stat_subscription WHERE name = 'pattern'", 'and new partitions');
wait_for("SELECT count(*) = 4000 FROM effect WHERE value ~ 'more'", 'all messages are handled');
wait_for('SELECT bool_and(lag = 0) FROM inbox.stat_subscription', 'the lag is known');

# One topic that is missing.
my $log = -s $node->logfile;
sql("SELECT inbox.subscribe('missing', ARRAY['$wide', 'many.nowhere', 'many.1'], 'handle')");
wait_for("SELECT state = 'waiting for kafka' AND last_error ~ 'nowhere' FROM inbox.stat_subscription WHERE name = 'missing'",
	'a topic that is missing is told of');
wait_for("SELECT count(*) > 2000 FROM effect WHERE subscription = 'missing'", 'others are read');
produce_to('many.1', 'now');
wait_for("SELECT count(*) = 1 FROM effect WHERE subscription = 'missing' AND value = 'now'", 'all the time');
wait_for("SELECT min(at) + '12 s' < clock_timestamp() FROM effect WHERE subscription = 'missing'", 'after some looks');
my @told = slurp_file($node->logfile, $log) =~ /consumer of subscription "missing" waits/g;
is(scalar @told, 1, 'the log tells once');

# Brokers that say nothing at all.
$proxy->swallow;
wait_for("SELECT bool_and(state = 'waiting for kafka') FROM inbox.stat_subscription", 'brokers that say nothing are noticed');
$proxy->heal;
wait_for("SELECT bool_and(state = 'running') FROM inbox.stat_subscription WHERE name <> 'missing'", 'and when they answer again');

done_testing();
