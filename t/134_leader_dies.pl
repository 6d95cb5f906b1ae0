# A broker dies, and before the others have noticed, a relay and a subscription
# begin that need to hear from it: they go on as soon as another one leads.

use strict;
use warnings;

use lib 't';
use OutboxInbox;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = own_kafka('leader', '--nodes', 3);
my $bootstrap = kafka_bootstrap($kafka);
my $node = new_server('leader_dies', "max_worker_processes = 16\n");
subscribe_in($node);
sql('CREATE EXTENSION outbox');
sql("CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS (\"bootstrap.servers\" '$bootstrap', delivery 'exactly_once')");
wait_for_state($node, 'postgres', 'streaming');

my $topic = make_topic(topic_name('read'), 3, dir => $kafka);
sql('CREATE TABLE done (value text)');
sql('CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE sql AS $$ INSERT INTO done VALUES (inbox.payload_text(m)) $$');
sql("SELECT inbox.subscribe('reader', ARRAY['$topic'], 'handle')");
wait_for("SELECT state = 'running' FROM inbox.stat_subscription", 'the subscription reads');

# The broker that leads a topic's first partition.
sub leader_of
{
	my ($name) = @_;
	my $output = `kcat -b $bootstrap -L -t $name`;
	my ($leader) = $output =~ /partition 0, leader (\d+)/
	  or die "no leader in: $output\n";
	return $leader;
}

# Kills the broker that leads the topic, and lets something begin at once; it has
# to come to an end with the two that are left.
sub lose_leader
{
	my ($name, $begin, $end) = @_;
	my $broker = leader_of($name);
	kafka('kill', $kafka, $broker);
	$begin->();
	$end->();
	kafka('restart', $kafka, $broker);
	return;
}

my $progress = progress_topic($node, 'postgres');
foreach my $round (1 .. 3)
{
	my $pid = relay_pid($node, 'postgres');
	lose_leader(
		$progress,
		sub { sql("SELECT pg_terminate_backend($pid)") },
		sub {
			publish_key($node, 'postgres', $topic, "k$round");
			wait_for("SELECT state = 'streaming' AND pid <> $pid FROM outbox.stat_relay",
				'a relay goes on without the broker that led its progress topic');
			wait_for("SELECT count(*) = $round FROM outbox.events WHERE status = 'published'",
				'and publishes');
		});
	wait_for("SELECT count(*) = $round FROM done", 'the event comes to the handler');
}

foreach my $round (1 .. 3)
{
	my $position = sql("SELECT sum(next_offset) FROM inbox.position");
	sql("SELECT inbox.pause('reader')");
	wait_for("SELECT NOT EXISTS (SELECT FROM inbox.consumer_status() WHERE subscription = 'reader' AND pid IS NOT NULL)",
		'the subscription rests');
	lose_leader(
		$topic,
		sub {
			sql("SELECT inbox.seek('reader', '$topic', p, 'latest') FROM generate_series(0, 2) p");
			sql("SELECT inbox.resume('reader')");
		},
		sub {
			wait_for("SELECT state = 'running' AND partitions = 3 FROM inbox.stat_subscription",
				'a subscription finds its partitions without the broker that led one');
		});
}

$node->stop;
done_testing();
