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
my $proxy = fork;
die "cannot fork: $!" unless defined $proxy;
if ($proxy == 0)
{
	eval { run_proxy() };
	warn $@ if $@;
	POSIX::_exit(1);
}
close $tell;

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

# Sits between the relay and the broker.  The first produce request asks the
# broker for a topic that does not exist, so that the relay gets an error which
# is worth another try; it gets it when its next request has passed.
sub run_proxy
{
	my $select = IO::Select->new($listener);
	my $absent = substr($topic, 0, -1) . '-';
	my (%peer, %buffer, %is_relay, %held, $broken, $held_since);

	while (1)
	{
		foreach my $socket ($select->can_read(0.05))
		{
			if ($socket == $listener)
			{
				my $relay = $listener->accept;
				my $broker = IO::Socket::INET->new("127.0.0.1:$broker_port")
				  or die "cannot connect: $!";
				@peer{ $relay, $broker } = ($broker, $relay);
				$is_relay{$relay} = 1;
				$select->add($relay, $broker);
				next;
			}
			my $peer = $peer{$socket} or next;
			if (!sysread $socket, $buffer{$socket}, 65536,
				length($buffer{$socket} // ''))
			{
				$select->remove($socket, $peer);
				delete @peer{ $socket, $peer };
				close $socket;
				close $peer;
				next;
			}
			foreach my $frame (take_frames(\$buffer{$socket}))
			{
				my $wait = 0;
				if ($is_relay{$socket})
				{
					my $api = unpack 'x4 n', $frame;
					if ($api == 0 && !defined $broken)
					{
						$broken = unpack 'x8 N', $frame;
						$frame =~ s/\Q$topic\E/$absent/;
						$held_since = time;
						syswrite $tell, "held\n";
					}
					elsif ($api == 0)
					{
						$held_since = 0;
					}
				}
				else
				{
					$frame =~
					  s/127\.0\.0\.1\K\Q@{[pack 'N', $broker_port]}\E/pack 'N', $proxy_port/ge;
					$wait = $frame =~ s/\Q$absent\E/$topic/
					  || $held{$peer};
				}
				if ($wait)
				{
					push @{ $held{$peer} }, $frame;
				}
				else
				{
					syswrite $peer, $frame;
				}
			}
		}
		if (%held && time > $held_since + $patience)
		{
			foreach my $relay ($select->handles)
			{
				syswrite $relay, $_ foreach @{ delete $held{$relay} || [] };
			}
		}
	}
	return;
}

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
