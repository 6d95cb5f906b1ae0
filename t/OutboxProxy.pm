# OutboxProxy.pm
#
# A network between the relay and the brokers that can be hurt: a process that
# passes on TCP connections, and what to do to them.

package OutboxProxy;

use strict;
use warnings;

use IPC::Open2 qw(open2);
use PostgreSQL::Test::Utils;

# Starts a proxy for the brokers of a Kafka in a directory.  Its kernel takes
# about so many bytes of a client that are not read, if that is given.
sub new
{
	my ($class, $dir, $unread) = @_;
	my @routes = split /\n/, slurp_file("$dir/proxied");
	my $pid = open2(my $answers, my $commands, program(), "$dir/proxied", $unread || ());
	my $self = bless {
		bootstrap => join(',', map { (split ' ')[0] } @routes),
		commands => $commands,
		answers => $answers,
		pid => $pid
	  },
	  $class;
	$commands->autoflush(1);
	$self->wait_for_answer;
	return $self;
}

# Compiled once for a test.
my $program;

sub program
{
	return $program if $program;
	my $source = __FILE__ =~ s{[^/]*$}{../dev/proxy.c}r;
	my $file = PostgreSQL::Test::Utils::tempdir('proxy') . '/proxy';
	system_or_bail($ENV{CC} || 'cc', '-O2', '-o', $file, $source);
	return $program = $file;
}

# Where clients connect to.
sub bootstrap { return $_[0]{bootstrap} }

# All is well again.
sub heal { return command($_[0], 'heal') }

# Connections break, and new ones with them.
sub cut { return command($_[0], 'cut') }

# Nothing comes through any more, and nobody is told.
sub swallow { return command($_[0], 'swallow') }

# The same to and from brokers of these numbers.
sub mute { return command(shift, "mute @_") }

# The connections that there are carry nothing any more, and nobody is told; new
# ones do.
sub forget { return command($_[0], 'forget') }

# Everything takes some seconds longer, each way.
sub slow { return command($_[0], "slow $_[1]") }

# When it returns, the network is what it was told to be.
sub command
{
	my ($self, $command) = @_;
	local $SIG{PIPE} = 'IGNORE';
	print { $self->{commands} } "$command\n" or die "the proxy has gone: $!";
	return $self->wait_for_answer;
}

sub wait_for_answer
{
	my ($self) = @_;
	readline $self->{answers} or die 'the proxy has gone';
	return;
}

# It would end with its commands, too, when nobody comes here.
sub DESTROY
{
	my ($self) = @_;
	local ($?, $!);
	kill 'KILL', $self->{pid};
	waitpid $self->{pid}, 0;
	return;
}

1;
