# OutboxChaosKafka.pm
#
# Faults of Kafka, and of what is between it and the relay: the network, rights
# and certificates.  They are methods of the chaos.

package OutboxChaosKafka;

use strict;
use warnings;

use List::Util qw(max);
use Test::More;
use Time::HiRes qw(time);

use OutboxTest;

sub kill_a_broker
{
	my ($self, $meanwhile) = @_;
	my $broker = 1 + int(rand 3);
	kafka('kill', $self->{kafka}, $broker);
	$self->$meanwhile if $meanwhile;
	kafka('restart', $self->{kafka}, $broker);
	return;
}

# Until the only replica of a partition is back, its events wait.
sub take_leader
{
	my ($self) = @_;
	$self->kill_a_broker(sub {
		$self->wait_until_parked($self->{lone_topic});
		$self->last_for(3);
	});
	return;
}

sub wait_until_parked
{
	my ($self, $topic) = @_;
	$self->wait_for("SELECT count(*) > 0 FROM outbox.stat_topic WHERE topic = '$topic' AND waiting_events > 0",
		"no events for $topic wait");
	return;
}

sub kill_all_brokers
{
	my ($self) = @_;
	kafka('kill', $self->{kafka});
	$self->last_for($self->{outage});
	kafka('restart', $self->{kafka});
	return;
}

# The right to write, to one of what the relay needs it for.
sub take_right
{
	my ($self) = @_;
	my @resources = ([ '--topic', $self->{topic} ]);
	push @resources, map { [ $_, 'outbox.', '--resource-pattern-type', 'prefixed' ] }
	  '--transactional-id', '--topic'
	  if $self->{delivery} eq 'exactly_once';
	my $number = int(rand @resources);
	my @right = ('Write', @{ $resources[$number] });
	note "right: @right";
	$self->{brokers}->take_right(@right);
	if ($number == 0) { $self->wait_until_parked($self->{topic}) }
	else { $self->wait_until_held_up }
	$self->last_for(3);
	$self->{brokers}->give_back_right(@right);
	return;
}

# A certificate of which little is left is renewed, and then expires: whatever
# still used it would not come through.
sub renew_certificate
{
	my ($self) = @_;
	my $end = $self->use_short_certificate;
	$self->{brokers}->renew_certificate;
	$self->last_for(max(0, $end + 1 - time));
	$self->{brokers}->reconnect;
	return;
}

# It is renewed too late.
sub expire_certificate
{
	my ($self) = @_;
	my $end = $self->use_short_certificate;
	$self->last_for(max(0, $end + 1 - time));
	$self->{brokers}->reconnect;
	$self->wait_for("SELECT state = 'waiting for kafka' AND last_error LIKE '%alert certificate%' FROM outbox.stat_relay",
		'the relay does not say that its certificate is not accepted');
	$self->{brokers}->renew_certificate;
	return;
}

# Renews the relay's certificate by one for some seconds, and waits for a relay
# that has it; returns when it expires.
sub use_short_certificate
{
	my ($self) = @_;
	my $pid = relay_pid($self->{node}, 'postgres');
	my $end = $self->{brokers}->renew_certificate(10);
	$self->wait_for("SELECT pid <> $pid FROM outbox.stat_relay",
		'the relay does not see that its certificate was renewed');
	return $end;
}

sub wait_until_held_up
{
	my ($self) = @_;
	$self->wait_for("SELECT state <> 'streaming' FROM outbox.stat_relay",
		'the relay does not notice');
	return;
}

# Another topic of the same database is deleted while there are events for it;
# the brokers make it again.
sub delete_topic
{
	my ($self) = @_;
	my $publish = q{SELECT count(outbox.publish('Side', i::text, 'kept', '1', topic => 'side')) FROM generate_series(1, 100) i};
	$self->sql($publish);
	kafka('tool', $self->{kafka}, 'org.apache.kafka.tools.TopicCommand', '--delete', '--if-exists', '--topic', 'side');
	$self->sql($publish);
	return;
}

# With something that happens meanwhile, unless that is nothing.
sub freeze_brokers
{
	my ($self, $meanwhile) = @_;
	signal_kafka('STOP', $self->{kafka});
	$self->wait_until_held_up;
	$self->$meanwhile if $meanwhile;
	signal_kafka('CONT', $self->{kafka});
	return;
}

sub hurt_network
{
	my ($self, $how, @arguments) = @_;
	$self->{proxy}->$how(@arguments);
	$self->last_for(3);
	$self->{proxy}->heal;
	return;
}

1;
