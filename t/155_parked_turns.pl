# What was parked and can be sent takes half of the time at most: new events do
# not wait until all of it is on Kafka.

use strict;
use warnings;

use lib 't';
use OutboxRefused;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

use constant PARKED => 20_000;
use constant NEW => 60_000;

my $kafka = own_kafka('turns', '--property', 'auto.create.topics.enable=false');
my $bootstrap = kafka_bootstrap($kafka);
my %stamped = ('dir' => $kafka, 'message.timestamp.type' => 'LogAppendTime');

# When Kafka got the message with that payload, in ms.
sub appended_at
{
	my ($lines, $payload) = @_;
	my ($line) = grep { / \Q$payload\E$/ } @$lines;
	return (split / /, $line)[0];
}

foreach my $delivery ('at_least_once', 'exactly_once')
{
	note($delivery);
	my $node = new_server("turns_$delivery");
	create_extension($node, 'postgres', $bootstrap);
	$node->safe_psql('postgres', "ALTER SERVER kafka OPTIONS (ADD delivery '$delivery')");
	publish_from($node, $kafka, $bootstrap);
	create_functions();
	my $good = make_topic(topic_name("good.$delivery"), 1, %stamped);
	my $missing = topic_name("missing.$delivery");
	sql("SELECT small('$missing', 'k', 1, @{[PARKED]})");
	wait_until_confirmed($node, 'postgres');
	is(sql('SELECT waiting_events FROM outbox.stat_topic'), PARKED, 'events are parked');

	# Both have to wait for the relay.
	my $relay = relay_pid($node, 'postgres');
	kill 'STOP', $relay;
	make_topic($missing, 1, %stamped);
	sql("DO \$\$ BEGIN FOR i IN 0 .. @{[NEW / 10 - 1]} LOOP PERFORM small('$good', 'k', i * 10 + 1, i * 10 + 10); COMMIT; END LOOP; END \$\$");
	kill 'CONT', $relay;
	wait_until_confirmed($node, 'postgres');
	wait_until('SELECT count(*) = 0 FROM outbox.held_event');

	my @new = committed_lines(NEW, $good, '%T %s', $bootstrap);
	my @parked = committed_lines(PARKED, $missing, '%T %s', $bootstrap);
	is_deeply([ first_occurrences(map { (split / /)[1] } @parked) ], [ 1 .. PARKED ], "$delivery: what was parked arrives, in order");
	is_deeply([ first_occurrences(map { (split / /)[1] } @new) ], [ 1 .. NEW ], 'and so do the new ones');
	cmp_ok(appended_at(\@new, NEW), '<', appended_at(\@parked, PARKED), 'which are not late');
	$node->stop;
}

done_testing();
