# Hundreds of topics that do not exist hold up others no longer than one does,
# and each is found soon after it was created.

use strict;
use warnings;

use lib 't';
use OutboxRefused;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

# At a second each, or a third, they would take longer than tests wait.
use constant MISSING => 700;

my $kafka = own_kafka('missing', '--property', 'auto.create.topics.enable=false');
my $bootstrap = kafka_bootstrap($kafka);

foreach my $delivery ('at_least_once', 'exactly_once')
{
	note($delivery);
	my $node = new_server("missing_$delivery");
	create_extension($node, 'postgres', $bootstrap);
	$node->safe_psql('postgres', "ALTER SERVER kafka OPTIONS (ADD delivery '$delivery')");
	publish_from($node, $kafka);
	create_functions();
	my $good = make_topic(topic_name("good.$delivery"), 3, dir => $kafka);
	my $missing = topic_name("missing.$delivery");

	sql("SELECT small('$missing.' || i, 'k', 1, 2), small('$good', 'k', i, i) FROM generate_series(1, @{[MISSING]}) i");
	is_deeply([ first_occurrences(wait_for_sequence(MISSING, $good)) ],
		[ 1 .. MISSING ], 'events for other topics are not held up');
	wait_until_confirmed($node, 'postgres');
	is(sql('SELECT waiting_events, dead_letters FROM outbox.stat_relay'), 2 * MISSING . '|0', 'the others wait');

	# The last ones, too.
	my @made = map { make_topic("$missing.$_", 1, dir => $kafka) } 1, 2, MISSING - 1, MISSING;
	foreach my $topic (@made)
	{
		is_deeply([ first_occurrences(wait_for_sequence(2, $topic)) ], [ 1, 2 ], "$topic is sent when it is there");
	}
	wait_until('SELECT waiting_events = ' . 2 * (MISSING - @made) . ' FROM outbox.stat_relay');
	sql("SELECT small('$good', 'k', @{[MISSING + 1]}, @{[MISSING + 10]})");
	is_deeply([ first_occurrences(wait_for_sequence(MISSING + 10, $good)) ],
		[ 1 .. MISSING + 10 ], 'others go on while many wait');
	$node->stop;
}

done_testing();
