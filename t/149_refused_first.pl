# A partition's leader that knows nothing of a producer takes its requests in any
# order.  When it refuses one, since it is only becoming the leader, and takes the
# next, the first one must not count as delivered.  Here no leader ever knows a
# producer for long, each is some milliseconds away, and one of some requests is
# refused, on all connections, OUTBOX_TEST_REFUSALS times; no event is lost, or
# comes before an earlier one of its key.  And that would be seen: with flaws in
# the relay it is.

use strict;
use warnings;

use lib 't';
use IO::Select;
use IO::Socket::INET;
use OutboxTest;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $refusals = $ENV{OUTBOX_TEST_REFUSALS} || 300;
my $partitions = 24;
my $keys = 100;
my $one_of = 8;        # requests is refused
my $delay = 0.006;     # of answers, in seconds,
my $patience = 0.03;   # and of refusals, for another request to overtake them

# Name of the flaw; the source file, and how it is spoilt there; and what is to
# be seen.
my @flaws = (
	[
		'five requests are in flight',
		'src/kafka/producer/idempotent_producer.c',
		's/"max.in.flight", "1"/"max.in.flight", "5"/',
		'no event is lost'
	],
	[
		'a partition changes its handle while events are under way',
		'src/kafka/producer/partition_placement.c',
		's/entry->outstanding > 0 \|\| keeps_handle/keeps_handle/',
		'every key is in order'
	]);

my $kafka = own_kafka('refusing', map { ('--property', $_) } 'producer.id.expiration.ms=1',
	'producer.id.expiration.check.interval.ms=1');
my $bootstrap = kafka_bootstrap($kafka);
my ($broker_port) = $bootstrap =~ /:(\d+)$/;
my $topic = make_topic(topic_name('refused'), $partitions, dir => $kafka);

# A topic that does not exist, and its name as long as that of ours.
my $absent = substr($topic, 0, -1) . '-';

# ---------------------------------------------------------------------------
# What is between relay and broker

my $listener = IO::Socket::INET->new(
	LocalAddr => '127.0.0.1',
	Listen => 100,
	ReuseAddr => 1) or die "cannot listen: $!";
my $proxy_port = $listener->sockport;
pipe(my $count, my $counter) or die "cannot make a pipe: $!";
my $proxy;

END
{
	my $status = $?;
	kill 'KILL', $proxy if $proxy;
	$? = $status;
}

# The other end and the unfinished message of each socket, whether it leads to the
# relay, and what is to go there: times and messages.
my (%peer, %buffer, %is_relay, %queue);
my $requests = 0;

# A request of the relay, as it goes to the broker.
sub request
{
	my ($relay, $frame) = @_;
	return $frame if unpack('x4 n', $frame) != 0;
	# It has overtaken the refusal of the one before.
	$_->[0] = 0 foreach grep { $_->[2] } @{ $queue{$relay} };
	if (++$requests % $one_of == 0)
	{
		$frame =~ s/\Q$topic\E/$absent/;
		syswrite $counter, '.';
	}
	return $frame;
}

# An answer of the broker, as it goes to the relay: the broker's port is ours, and
# the error is about our topic.
sub answer
{
	my ($relay, $frame) = @_;
	my ($theirs, $ours) = map { pack 'N', $_ } $broker_port, $proxy_port;
	$frame =~ s/127\.0\.0\.1\K\Q$theirs\E/$ours/g;
	my $refused = $frame =~ s/\Q$absent\E/$topic/;
	push @{ $queue{$relay} }, [ time + ($refused ? $patience : $delay), $frame, $refused ];
	return;
}

sub hang_up
{
	my ($select, $socket) = @_;
	my $peer = $peer{$socket} or return;
	$select->remove($socket, $peer);
	delete @peer{ $socket, $peer };
	delete @queue{ $socket, $peer };
	close $_ foreach $socket, $peer;
	return;
}

sub forward
{
	my ($select, $socket) = @_;
	my $peer = $peer{$socket} or return;
	return hang_up($select, $socket)
	  if !sysread $socket, $buffer{$socket}, 65536, length $buffer{$socket};
	while (length $buffer{$socket} >= 4)
	{
		my $length = 4 + unpack 'N', $buffer{$socket};
		last if length $buffer{$socket} < $length;
		my $frame = substr $buffer{$socket}, 0, $length, '';
		if ($is_relay{$socket}) { syswrite $peer, request($socket, $frame) }
		else { answer($peer, $frame) }
	}
	return;
}

sub run_proxy
{
	my $select = IO::Select->new($listener);
	while (1)
	{
		my ($next) = sort { $a <=> $b } map { $_->[0][0] } grep { @$_ } values %queue;
		my $wait = defined $next ? $next - time : 1;
		foreach my $socket ($select->can_read($wait > 0 ? $wait : 0))
		{
			if ($socket != $listener)
			{
				forward($select, $socket);
				next;
			}
			my $relay = $listener->accept;
			my $broker = IO::Socket::INET->new("127.0.0.1:$broker_port")
			  or die "cannot connect: $!";
			@peer{ $relay, $broker } = ($broker, $relay);
			$is_relay{$relay} = 1;
			@buffer{ $relay, $broker } = ('', '');
			$queue{$relay} = [];
			$select->add($relay, $broker);
		}
		foreach my $socket (grep { $queue{$_} } $select->handles)
		{
			my $answers = $queue{$socket};
			syswrite $socket, (shift @$answers)->[1] while @$answers && $answers->[0][0] <= time;
		}
	}
	return;
}

$proxy = fork;
die "cannot fork: $!" unless defined $proxy;
if ($proxy == 0)
{
	eval { run_proxy() };
	warn $@ if $@;
	POSIX::_exit(1);
}
close $counter;

# ---------------------------------------------------------------------------

my $node = new_server('refused');
create_extension($node, 'postgres', "127.0.0.1:$proxy_port");

# Publishes numbers of keys, one after another, in small transactions.
$node->safe_psql('postgres', <<"SQL");
CREATE SEQUENCE number;
CREATE PROCEDURE publish_on(events int) LANGUAGE plpgsql AS \$\$
BEGIN
	FOR i IN 1 .. events / 4 LOOP
		PERFORM outbox.publish('thing', (n % $keys)::text, 'made', to_jsonb(n / $keys), topic => '$topic')
		FROM (SELECT nextval('number') AS n FROM generate_series(1, 4)) s;
		COMMIT;
		PERFORM pg_sleep(0.001);
	END LOOP;
END \$\$;
SELECT setval('number', $keys - 1);
SQL
my $seen = 0;
while ($seen < $refusals)
{
	$node->safe_psql('postgres', 'CALL publish_on(2000)');
	sysread $count, my $dots, 65536;
	$seen += length $dots;
}
wait_until_confirmed($node, 'postgres');
my $pid = relay_pid($node, 'postgres');
my $producers = grep { (eval { slurp_file($_) } || '') eq "rdk:main\n" } glob "/proc/$pid/task/*/comm";
cmp_ok($producers, '>', 1, 'there are several connections');
note "$seen requests refused, $producers connections";

my (%next, %came, $wrong, $total);
foreach my $line (consume_lines($topic, '%k %s', $bootstrap))
{
	my ($key, $n) = split ' ', $line;
	$next{$key} ||= 1;
	next if $came{$key}{$n}++;
	$wrong++ if $n < $next{$key};
	$next{$key} = $n + 1 if $n >= $next{$key};
	$total++;
}
my $published = $node->safe_psql('postgres', 'SELECT last_value FROM number') - $keys + 1;
is($total, $published, 'no event is lost');
is($wrong || 0, 0, 'every key is in order');
$node->stop;

# Relays that are flawed on purpose are tried when a number of refusals is asked for.
foreach my $flaw ($ENV{OUTBOX_TEST_FLAWED} || !$ENV{OUTBOX_TEST_REFUSALS} ? () : @flaws)
{
	my ($name, $file, $expression, $check) = @$flaw;
	my $dir = PostgreSQL::Test::Utils::tempdir_short();
	my ($bindir, $said) = ('', '');
	IPC::Run::run([ 'dev/flawed', "$dir/flawed", $file, $expression ], '<', \undef, '>', \$bindir, '2>', \$said)
	  or die "dev/flawed failed: $said\n";
	chomp $bindir;

	local $ENV{PATH} = "$bindir:$ENV{PATH}";
	local $ENV{OUTBOX_TEST_FLAWED} = 1;
	local $ENV{OUTBOX_TEST_REFUSALS} = 300;
	local $ENV{TESTDIR} = $dir;
	local $ENV{TESTLOGDIR} = "$dir/log";
	local $ENV{TESTDATADIR} = $dir;
	my ($output, $errors) = ('', '');
	IPC::Run::run([ $^X, '-I', 't', (map { ('-I', $_) } @INC), $0 ], '<', \undef, '>', \$output, '2>', \$errors);
	like($output, qr/^not ok \d+ - \Q$check\E$/m, "it is seen when $name") or diag "$output\n$errors";
}

done_testing();
