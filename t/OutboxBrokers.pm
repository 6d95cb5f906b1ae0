# OutboxBrokers.pm
#
# Three brokers, and a network between them and the relay.  The relay is known to
# them by its certificate, and may do what they were told.

package OutboxBrokers;

use strict;
use warnings;

use OutboxCertificates;
use OutboxProxy;
use OutboxTest;

my $relay = 'relay';

# Starts Kafka and the proxy.
sub new
{
	my ($class, $name) = @_;
	my $self = bless { certificates => OutboxCertificates->new, renewals => 0 }, $class;

	# Other listeners know nobody, and let everybody do everything.
	my @properties = (
		'authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer',
		'super.users=User:ANONYMOUS',
		$self->{certificates}->broker_properties('PROXIED'));
	$self->{dir} = own_kafka($name, '--nodes', 3, map { ('--property', $_) } @properties);
	$self->{proxy} = OutboxProxy->new($self->{dir});
	$self->change_rights('--add', '--allow-principal', 'All',
		'--topic', '*', '--transactional-id', '*', '--group', '*', '--cluster');
	$self->renew_certificate;
	return $self;
}

# The directory of the cluster.
sub dir { return $_[0]{dir} }

# The network.
sub proxy { return $_[0]{proxy} }

# Options of the foreign server.
sub options
{
	my ($self) = @_;
	my $bootstrap = $self->{proxy}->bootstrap;
	return qq("bootstrap.servers" '$bootstrap', ) . $self->{certificates}->client_options;
}

# What the relay may do, or may not: an operation on resources, as arguments of
# Kafka's tool.
sub change_rights
{
	my ($self, $action, $kind, $operation, @resources) = @_;
	kafka('tool', $self->{dir}, 'org.apache.kafka.tools.AclCommand', $action,
		($action eq '--remove' ? '--force' : ()),
		$kind, "User:CN=$relay", '--operation', $operation, @resources);
	return;
}

sub take_right
{
	my ($self, @right) = @_;
	return $self->change_rights('--add', '--deny-principal', @right);
}

sub give_back_right
{
	my ($self, @right) = @_;
	return $self->change_rights('--remove', '--deny-principal', @right);
}

# Another key and certificate for the relay, for some seconds if that is given;
# returns when they expire.
sub renew_certificate
{
	my ($self, $seconds) = @_;
	my $name = "$relay." . ++$self->{renewals};
	my $end = $self->{certificates}->issue($name, subject => $relay, seconds => $seconds);
	$self->{certificates}->install($name);
	return $end;
}

# All connections have to be made anew.
sub reconnect
{
	my ($self) = @_;
	$self->{proxy}->cut;
	$self->{proxy}->heal;
	return;
}

1;
