# A request that a broker did not carry out is not taken for delivered because
# a later one was.  A partition's leader refuses requests while it changes, and
# a broker that knows nothing of a producer yet takes its requests in any order.

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use OutboxTest;

# How long the answer to the first request is held back, for a second request
# to overtake it; in seconds.
my $patience = 0.5;

my $node = new_server('lost');
my $type = aggregate_type('Lost');
my $topic = make_topic("outbox.event.$type", 1);
my ($broker_port) = kafka_bootstrap() =~ /:(\d+)$/;

my $listener = IO::Socket::INET->new(
	LocalAddr => '127.0.0.1',
	Listen => 5,
	ReuseAddr => 1) or die "cannot listen: $!";
my $proxy_port = $listener->sockport;
pipe(my $seen, my $tell) or die "cannot make a pipe: $!";

my $proxy;

END
{
	my $status = $?;
	kill 'KILL', $proxy if $proxy;
	$? = $status;
}

# Complete messages of the protocol at the beginning of a buffer, taken off it.
sub take_frames
{
	my ($buffer) = @_;
	my @frames;
	while (length $$buffer >= 4)
	{
		my $length = 4 + unpack 'N', $$buffer;
		last if length $$buffer < $length;
		push @frames, substr $$buffer, 0, $length, '';
	}
	return @frames;
}

# A topic that does not exist, and its name as long as that of ours.
my $absent = substr($topic, 0, -1) . '-';

# What the proxy knows: the other end and the unfinished message of each socket,
# which of them lead to the relay, messages that it holds back for one of those
# and until when.
my (%peer, %buffer, %is_relay, %held, $held_until);

# A request of the relay, as it goes to the broker: the first produce request
# is for the topic that does not exist.
sub request
{
	my ($frame) = @_;
	return $frame if unpack('x4 n', $frame) != 0;
	if (defined $held_until)
	{
		$held_until = 0;
		return $frame;
	}
	$frame =~ s/\Q$topic\E/$absent/;
	$held_until = time + $patience;
	syswrite $tell, "held\n";
	return $frame;
}

# An answer of the broker, as it goes to the relay: the broker's port is ours,
# and the error is about our topic.  That answer, and those after it, wait.
sub answer
{
	my ($relay, $frame) = @_;
	my ($theirs, $ours) = map { pack 'N', $_ } $broker_port, $proxy_port;
	$frame =~ s/127\.0\.0\.1\K\Q$theirs\E/$ours/g;
	if ($frame =~ s/\Q$absent\E/$topic/ || $held{$relay})
	{
		push @{ $held{$relay} }, $frame;
		return '';
	}
	return $frame;
}

sub connect_relay
{
	my ($select) = @_;
	my $relay = $listener->accept;
	my $broker = IO::Socket::INET->new("127.0.0.1:$broker_port")
	  or die "cannot connect: $!";
	@peer{ $relay, $broker } = ($broker, $relay);
	$is_relay{$relay} = 1;
	@buffer{ $relay, $broker } = ('', '');
	$select->add($relay, $broker);
	return;
}

# Passes on what came from a socket.
sub forward
{
	my ($select, $socket) = @_;
	my $peer = $peer{$socket} or return;
	if (!sysread $socket, $buffer{$socket}, 65536, length $buffer{$socket})
	{
		$select->remove($socket, $peer);
		delete @peer{ $socket, $peer };
		close $_ foreach $socket, $peer;
		return;
	}
	foreach my $frame (take_frames(\$buffer{$socket}))
	{
		syswrite $peer,
		  $is_relay{$socket} ? request($frame) : answer($peer, $frame);
	}
	return;
}

# Sits between the relay and the broker.  The first produce request comes back
# with an error that is worth another try, as soon as the next one has passed.
sub run_proxy
{
	my $select = IO::Select->new($listener);
	while (1)
	{
		foreach my $socket ($select->can_read(0.05))
		{
			if   ($socket == $listener) { connect_relay($select); }
			else                        { forward($select, $socket); }
		}
		next if !%held || time < $held_until;
		foreach my $socket ($select->handles)
		{
			syswrite $socket, $_ foreach @{ delete $held{$socket} || [] };
		}
	}
	return;
}

# ---------------------------------------------------------------------------

$proxy = fork;
die "cannot fork: $!" unless defined $proxy;
if ($proxy == 0)
{
	eval { run_proxy() };
	warn $@ if $@;
	POSIX::_exit(1);
}
close $tell;

create_extension($node, 'postgres', "127.0.0.1:$proxy_port");
$node->safe_psql('postgres',
	"SELECT outbox.publish('$type', 'k', 'Thing', '1')");
is(scalar readline $seen, "held\n", 'the first request is on its way to fail');
$node->safe_psql('postgres',
	"SELECT outbox.publish('$type', 'k', 'Thing', '2')");
wait_until_confirmed($node, 'postgres');
is_deeply([ consume_lines($topic, '%s') ],
	[ 1, 2 ], 'both events arrive, in order');

$node->stop;
done_testing();
