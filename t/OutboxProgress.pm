# OutboxProgress.pm
#
# What the tests of unusual progress topics share: a server whose events are
# delivered exactly once, known by their keys, and the question whether all of
# them have come, once and in order.

package OutboxProgress;

use strict;
use warnings;

use Exporter 'import';
use Test::More;

use OutboxTest;

our @EXPORT = qw(deliver_from sql publish publish_confirmed check_events);

my ($node, $topic, $bootstrap);
my @keys;

# The server to work with, and where its events go.
sub deliver_from
{
	($node, $topic, $bootstrap) = @_;
	return;
}

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

# Publishes an event; a relay that is held up may send it much later.
sub publish
{
	my ($key) = @_;
	publish_key($node, 'postgres', $topic, $key);
	push @keys, $key;
	return;
}

# The same, and waits until it is on Kafka.
sub publish_confirmed
{
	my ($key) = @_;
	publish($key);
	wait_until_confirmed($node, 'postgres');
	return;
}

# Are all events there that were published, once and in order?
sub check_events
{
	my ($name) = @_;
	is(join(' ', committed_lines(scalar @keys, $topic, '%k', $bootstrap)), "@keys", $name);
	return;
}

1;
