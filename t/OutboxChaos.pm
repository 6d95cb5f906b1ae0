# OutboxChaos.pm
#
# What the chaos test breaks: a server with a database that publishes, brokers,
# and between them a network, rights and a certificate.  The names of the faults
# that hit those.

package OutboxChaos;

use strict;
use warnings;

use parent qw(OutboxChaosServer OutboxChaosKafka);

use OutboxBrokers;
use OutboxTest;

# Each is a method, or a list of one and its arguments.
my %fault = (
	'relay terminated' => 'terminate_relay',
	'relay killed' => 'kill_relay',
	'server stopped at once' => 'stop_server',
	'postmaster killed' => 'kill_postmaster',
	'server restarted' => 'restart_server',
	'one broker killed' => 'kill_a_broker',
	'partition without leader' => 'take_leader',
	'all brokers away' => 'kill_all_brokers',
	'brokers frozen' => 'freeze_brokers',
	'relay terminated while brokers are frozen' => [ freeze_brokers => 'end_relay' ],
	'server stopped while brokers are frozen' => [ freeze_brokers => 'stop_server' ],
	'network cut' => [ hurt_network => 'cut' ],
	'network swallows' => [ hurt_network => 'swallow' ],
	'network slow' => [ hurt_network => slow => 0.1 ],
	# A round trip of 300 ms.
	'network far' => [ hurt_network => slow => 0.15 ],
	'right taken and given back' => 'take_right',
	'certificate renewed' => 'renew_certificate',
	'certificate expired' => 'expire_certificate',
	'settings changed' => 'change_settings',
	'settings of the session' => 'change_session_settings',
	'slot dropped' => 'drop_slot',
	'slot invalidated' => 'invalidate_slot',
	'slot made while an old transaction is open' => 'remake_slot',
	'slot pinned by an old transaction' => 'pin_slot',
	'topic deleted and made again' => 'delete_topic',
	'standby promoted' => 'promote_standby');

# The names of all faults.
sub faults { return sort keys %fault }

# Starts Kafka and a server.  Options: outage, how long all brokers stay away
# (seconds); delivery; publish, a statement that publishes something which only a
# fault does; and while_down, called while nobody writes to Kafka.
sub new
{
	my ($class, %options) = @_;
	my $self = bless { outage => 3, servers => 0, %options }, $class;
	$self->{brokers} = OutboxBrokers->new('chaos');
	$self->{kafka} = $self->{brokers}->dir;
	$self->{proxy} = $self->{brokers}->proxy;
	$self->{topic} = make_topic('chaos', 4, dir => $self->{kafka});
	$self->{lone_topic} = make_topic('lone', 3,
		dir => $self->{kafka}, replicas => 1, 'min.insync.replicas' => 1);
	$self->{node} =
	  new_server('chaos', <<'CONF', allows_streaming => 1);
restart_after_crash = on
max_prepared_transactions = 20
wal_retrieve_retry_interval = '200ms'
CONF
	my $options = $self->{brokers}->options;
	$self->sql('CREATE EXTENSION outbox');
	$self->sql("CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ($options)");
	wait_for_state($self->{node}, 'postgres', 'streaming');
	$self->change_delivery if $self->{delivery};
	return $self;
}

sub sql
{
	my ($self, $statements) = @_;
	return $self->{node}->safe_psql('postgres', $statements);
}

sub node { return $_[0]{node} }

# With three replicas of each partition.
sub topic { return $_[0]{topic} }

# With one replica, on another broker for each partition.
sub lone_topic { return $_[0]{lone_topic} }

# Waits until the relay delivers that way: the one before it streams, too.
sub change_delivery
{
	my ($self) = @_;
	my $exact = $self->{delivery} eq 'exactly_once' ? 'true' : 'false';
	$self->sql("ALTER SERVER kafka OPTIONS (ADD delivery '$self->{delivery}')");
	$self->wait_for(
		"SELECT state = 'streaming' AND EXISTS (SELECT FROM outbox.exactly_once) = $exact FROM outbox.stat_relay",
		'the delivery does not change');
	return;
}

# Where to read what has come, whatever the network does.
sub bootstrap { return kafka_bootstrap($_[0]{kafka}) }

# A fault from its beginning until the cause has gone.
sub hit
{
	my ($self, $name) = @_;
	$fault{$name} or die "there is no fault \"$name\"\n";
	my ($method, @arguments) = ref $fault{$name} ? @{ $fault{$name} } : $fault{$name};
	return $self->$method(@arguments);
}

sub end
{
	my ($self) = @_;
	$self->{node}->stop;
	return;
}

# Lets a query become true, whatever happens to the server meanwhile.
sub wait_for
{
	my ($self, $query, $complaint) = @_;
	$self->{node}->poll_query_until('postgres', $query)
	  or die "$complaint\n";
	return;
}

# Something lasts for some seconds, while the writers go on.
sub last_for
{
	my ($self, $seconds) = @_;
	$self->sql("SELECT pg_sleep($seconds)");
	return;
}

1;
