# Topics that nobody uses any more do not add up: the relay lets go of them.
#
# "Not used" is an hour, so a small library in front of the C library puts the
# clock forward by which the server's processes measure time.

use strict;
use warnings;

use lib 't';
use OutboxClock;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

make_clock('CLOCK_MONOTONIC', 0);

# More partitions than a relay keeps that are not used.
my $wide = make_topic(topic_name('wide'), 300);
my $narrow = make_topic(topic_name('narrow'));

my $node = new_server('many');
restart_with_clock($node);
create_extension($node, 'postgres');

# The library writes that into its statistics as it is.
$node->safe_psql('postgres', q{ALTER SERVER kafka OPTIONS ("client.id" 'a "quote"')});

sub publish_to
{
	my ($key, @topics) = @_;
	publish_key($node, 'postgres', $_, $key) foreach @topics;
	wait_until_confirmed($node, 'postgres');
	return;
}

my $hours = 0;
foreach my $delivery ('at_least_once', 'exactly_once')
{
	$node->safe_psql('postgres', "ALTER SERVER kafka OPTIONS (ADD delivery '$delivery')")
	  if $delivery ne 'at_least_once';
	$node->poll_query_until('postgres',
		"SELECT state = 'streaming' AND EXISTS (SELECT FROM outbox.exactly_once) = ('$delivery' = 'exactly_once') FROM outbox.stat_relay")
	  or die "the relay does not deliver $delivery\n";
	publish_to(++$hours, $wide, $narrow);
	my $pid = relay_pid($node, 'postgres');
	set_clock(3700 * $hours);
	ok( $node->poll_query_until('postgres', "SELECT pid <> $pid FROM outbox.stat_relay"),
		"$delivery: an hour later the relay lets go of topics");
	publish_to("$hours, later", $narrow);
}
is(join('; ', committed_lines(4, $narrow, '%k')), '1; 1, later; 2; 2, later', 'others go on, each event once');
is(scalar(() = slurp_file($node->logfile) =~ /starts over to let go of topics/g), 2, 'it starts over once each time');

$node->poll_query_until('postgres', 'SELECT round_trip_ms > 0 FROM outbox.stat_relay');
is(relay_status($node, 'postgres', 'round_trip_ms > 0 AND retries = 0'), 't', 'statistics are read, whatever is in front of them');

$node->stop;
done_testing();
