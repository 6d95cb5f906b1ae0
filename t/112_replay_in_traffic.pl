# A replay goes on while events are published without a pause, so that there is
# always one in flight.

use strict;
use warnings;

use lib 't';
use OutboxRefused;
use OutboxProxy;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = own_kafka('traffic');
my $network = OutboxProxy->new($kafka);
my $node = new_server('traffic');
create_extension($node, 'postgres', $network->bootstrap);
publish_from($node, $kafka);
my $topic = make_topic(topic_name('old'), 1, dir => $kafka);
my $live = make_topic(topic_name('live'), 1, dir => $kafka);
my $script = PostgreSQL::Test::Utils::tempdir('script') . '/publish.sql';
append_to_file($script, "SELECT outbox.publish('Live', 'k', 'Made', '{}', topic => '$live');\n");
sql("SELECT count(outbox.publish('Old', 'k', 'Made', to_jsonb(i), topic => '$topic')) FROM generate_series(1, 2500) i");
wait_until_confirmed($node, 'postgres');

my $expected = 2500;
foreach my $delivery ('at_least_once', 'exactly_once')
{
	change_settings("ALTER SERVER kafka OPTIONS (ADD delivery '$delivery')")
	  if $delivery ne 'at_least_once';
	wait_until("SELECT NOT EXISTS (SELECT FROM outbox.events WHERE status = 'pending')");
	$network->slow(0.03);
	my $writers = IPC::Run::start(
		[
			$node->installed_command('pgbench'), '-n', '-c', '4', '-R', '300', '-T', '36000', '-f', $script,
			$node->connstr('postgres')
		],
		'<', \undef, '&>', "$script.log");
	wait_until('SELECT in_flight > 0 FROM outbox.stat_relay');
	is(sql("SELECT outbox.replay('-infinity', aggregate_type => 'Old')"), 2500, "$delivery: a replay is asked for");
	wait_until('SELECT bool_and(finished_at IS NOT NULL) FROM outbox.replay_job');
	my $made = sql("SELECT count(*) FROM outbox.event WHERE aggregate_type = 'Live'");
	wait_until("SELECT count(*) > $made FROM outbox.event WHERE aggregate_type = 'Live'");
	pass('it has ended, and the traffic goes on');
	$writers->kill_kill;
	$network->heal;
	$expected += 2500;
	is(scalar committed_lines($expected, $topic, '%s', $network->bootstrap), $expected, 'it was sent once');
}

$node->stop;
done_testing();
