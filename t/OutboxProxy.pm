# OutboxProxy.pm
#
# A network between the relay and the brokers that can be hurt: a process that
# passes on TCP connections, and what to do to them.

package OutboxProxy;

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use Socket qw(SOL_SOCKET SO_RCVBUF);
use POSIX ();
use PostgreSQL::Test::Utils;
use Time::HiRes qw(time);

# Of each direction of a connection; what is beyond waits in the sender's
# socket, as in a real network.
my $room = 1 << 20;

# Starts a proxy for the brokers of a Kafka in a directory.  Its kernel takes
# about so many bytes of a client that are not read, if that is given.
sub new
{
	my ($class, $dir, $unread) = @_;
	my %route = map { split ' ' } split /\n/, slurp_file("$dir/proxied");
	my @listeners = map {
		IO::Socket::INET->new(
			LocalAddr => $_,
			Listen => 50,
			Blocking => 0,
			ReuseAddr => 1)
		  or die "cannot listen at $_: $!"
	} sort keys %route;
	if ($unread)
	{
		setsockopt $_, SOL_SOCKET, SO_RCVBUF, $unread
		  or die "cannot set a buffer: $!" foreach @listeners;
	}
	pipe(my $commands, my $control) or die "cannot make a pipe: $!";
	pipe(my $done, my $answers) or die "cannot make a pipe: $!";
	my $pid = fork;
	defined $pid or die "cannot fork: $!";
	if (!$pid)
	{
		# Nothing of the test shall run in this process when it ends.
		close $_ foreach $control, $done;
		eval { serve($commands, $answers, \%route, @listeners) };
		print STDERR "proxy: $@" if $@;
		POSIX::_exit(1);
	}
	close $_ foreach $commands, $answers, @listeners;
	$control->autoflush(1);
	return bless {
		bootstrap => join(',', sort keys %route),
		control => $control,
		done => $done,
		pid => $pid
	  },
	  $class;
}

# Where clients connect to.
sub bootstrap { return $_[0]{bootstrap} }

# All is well again.
sub heal { return command($_[0], 'heal') }

# Connections break, and new ones with them.
sub cut { return command($_[0], 'cut') }

# Nothing comes through any more, and nobody is told.
sub swallow { return command($_[0], 'swallow') }

# The connections that there are carry nothing any more, and nobody is told; new
# ones do.
sub forget { return command($_[0], 'forget') }

# Everything takes some seconds longer, each way.
sub slow { return command($_[0], "slow $_[1]") }

# When it returns, the network is what it was told to be.
sub command
{
	my ($self, $command) = @_;
	print { $self->{control} } "$command\n" or die "the proxy has gone: $!";
	sysread $self->{done}, my $answer, 1 or die 'the proxy has gone';
	return;
}

sub DESTROY
{
	my ($self) = @_;
	local ($?, $!);
	kill 'KILL', $self->{pid};
	waitpid $self->{pid}, 0;
	return;
}

# ---------------------------------------------------------------------------
# In the process of the proxy.

# By socket: where it leads, what is to be written there (a list of time and
# bytes), and how much that is.
my (%peer, %queue, %queued);
my ($delay, $swallows, $is_cut) = (0, 0, 0);

# Sockets that nobody looks at.
my @forgotten;

sub serve
{
	my ($commands, $answers, $route, @listeners) = @_;
	my $listening = IO::Select->new(@listeners, $commands);
	local $SIG{PIPE} = 'IGNORE';

	while (1)
	{
		my @sockets = map { $_->[0] } values %peer;
		my $reading = IO::Select->new($listening->handles,
			$swallows ? () : grep { $queued{ $peer{$_}[1] } < $room } @sockets);
		my $writing = IO::Select->new(grep { is_due($_) } @sockets);
		my ($readable, $writable) =
		  IO::Select->select($reading, $writing, undef, time_left());
		foreach my $socket (@{ $readable || [] })
		{
			if ($socket == $commands) { obey($commands, $answers) }
			elsif ($listening->exists($socket)) { connect_through($socket, $route) }
			else { take($socket) }
		}
		give($_) foreach grep { $peer{$_} } @{ $writable || [] };
	}
	return;
}

# Is there something to write to the socket, now?
sub is_due
{
	my ($socket) = @_;
	my $first = $queue{$socket}[0];
	return !$swallows && $first && $first->[0] <= time;
}

# Seconds until something else is due; undef when nothing will be.
sub time_left
{
	my $now = time;
	my @times = sort { $a <=> $b } grep { $_ > $now }
	  map { $_->[0][0] } grep { @$_ } values %queue;
	return $swallows || !@times ? undef : $times[0] - $now;
}

sub obey
{
	my ($commands, $answers) = @_;
	sysread $commands, my $line, 4096 or POSIX::_exit(0);
	my ($what, $seconds) = split ' ', $line;
	$delay = $what eq 'slow' ? $seconds : 0;
	$swallows = $what eq 'swallow';
	$is_cut = $what eq 'cut';
	my @sockets = $is_cut ? map { $_->[0] } values %peer : ();
	hang_up($_) foreach @sockets;
	if ($what eq 'forget')
	{
		push @forgotten, map { $_->[0] } values %peer;
		(%peer, %queue, %queued) = ();
	}
	syswrite $answers, '.';
	return;
}

sub connect_through
{
	my ($listener, $route) = @_;
	my $client = $listener->accept or return;
	my $address = $listener->sockhost . ':' . $listener->sockport;
	my $broker = $is_cut ? undef : IO::Socket::INET->new($route->{$address});
	if (!$broker)
	{
		close $client;
		return;
	}
	$_->blocking(0) foreach $client, $broker;
	$peer{$client} = [ $client, $broker ];
	$peer{$broker} = [ $broker, $client ];
	$queue{$_} = [] foreach $client, $broker;
	$queued{$_} = 0 foreach $client, $broker;
	return;
}

# Closes both ends.
sub hang_up
{
	my ($socket) = @_;
	my $pair = delete $peer{$socket} or return;
	delete $peer{ $pair->[1] };
	delete @queue{@$pair};
	delete @queued{@$pair};
	close $_ foreach @$pair;
	return;
}

sub take
{
	my ($socket) = @_;
	my $pair = $peer{$socket} or return;
	my $count = sysread $socket, my $bytes, 65536;
	return if !defined $count && $!{EAGAIN};
	return hang_up($socket) unless $count;
	push @{ $queue{ $pair->[1] } }, [ time + $delay, $bytes ];
	$queued{ $pair->[1] } += $count;
	return;
}

sub give
{
	my ($socket) = @_;
	my $first = $queue{$socket}[0] or return;
	my $count = syswrite $socket, $first->[1];
	return if !defined $count && $!{EAGAIN};
	return hang_up($socket) unless defined $count;
	substr $first->[1], 0, $count, '';
	shift @{ $queue{$socket} } if $first->[1] eq '';
	$queued{$socket} -= $count;
	return;
}

1;
