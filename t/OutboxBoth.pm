# OutboxBoth.pm
#
# What tests share that do the same with both ways of delivery: a database for
# each, on one server, and what was published in both.

package OutboxBoth;

use strict;
use warnings;

use Exporter 'import';
use OutboxTest;
use Test::More;

our @EXPORT = qw(%delivery @databases %topic deliver_from sql publish
  note_published check_events wait_until_pinned_by streams);

our %delivery = (least => 'at_least_once', exact => 'exactly_once');
our @databases = sort keys %delivery;
our %topic;

my $node;
my @expected;

# The server to work with; the databases are the test's to create.
sub deliver_from
{
	($node) = @_;
	%topic = map { $_ => make_topic(topic_name($_)) } @databases;
	return;
}

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

# Publishes an event in both databases.
sub publish
{
	my ($key) = @_;
	publish_key($node, $_, $topic{$_}, $key) foreach @databases;
	note_published($key);
	return;
}

# An event was published in both databases by other means.
sub note_published
{
	push @expected, @_;
	return;
}

# All that was published is on Kafka, in order and once.
sub check_events
{
	my ($when) = @_;
	foreach my $db (@databases)
	{
		is( join(' ', committed_lines(scalar @expected, $topic{$db}, '%k')),
			join(' ', @expected),
			"$when: $delivery{$db}");
	}
	return;
}

sub wait_until_pinned_by
{
	my ($who) = @_;
	foreach my $db (@databases)
	{
		$node->poll_query_until($db,
			"SELECT pinned_by = '$who' AND pinned_since <= now() FROM outbox.stat_relay")
		  or die "$db: not $who, but " . $node->safe_psql($db, 'SELECT * FROM outbox.stat_relay');
	}
	return;
}

# Both relays stream.
sub streams
{
	my ($when) = @_;
	wait_for_state($node, $_, 'streaming') foreach @databases;
	return pass($when);
}

1;
