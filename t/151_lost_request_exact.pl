# Exactly once: a request that a broker did not carry out is not taken for
# delivered because another one of the same partition was.  See
# t/007_relay_lost_request.pl; here several requests are in flight, and each case
# is a partition that knows nothing of the producer yet.  Nor are two requests of
# a partition in flight when many events of any size are sent.  Relays that are
# flawed on purpose, so that they do not wait for a partition's acknowledgements,
# or do not have it paused, fail here.

use strict;
use warnings;

use lib 't';
use Compress::Zlib qw(crc32);
use File::Basename qw(dirname);
use IO::Select;
use IO::Socket::INET;
use List::Util qw(min);
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use OutboxTest;

# How many partitions; thousands take a while.  Only when told how many are
# flawed relays built and tried, too.
my $cases = $ENV{OUTBOX_TEST_LOST_REQUESTS} || 20;

# Partitions of a topic, and of those so many at a time: each takes two of five
# requests.
my $partitions = 100;
my $together = 2;

# How long the answers to the first requests are held back when the relay has had
# the events of second ones, and at most; in seconds.
my ($patience, $longest) = (0.05, 3);

# Both events of a key shall be in one transaction, on a slow machine, too.
my $settings = q{outbox.transaction_interval = '2s'};

my ($broker_port) = kafka_bootstrap() =~ /:(\d+)$/;
my $name = topic_name('exact');

# What the proxy knows: the other end and the unfinished message of each socket,
# which of them lead to the relay, how many requests of a partition it has seen,
# the partition of each request that the relay has no answer to, by socket and
# number, and the answers that it holds back for the relay's sockets, and until
# when.
my (%peer, %buffer, %is_relay, %seen, %under_way, %held);
my $held_until = 0;

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

# A request of the relay, as it goes to the broker: the first produce request of
# a partition is for a topic that does not exist.
sub request
{
	my ($relay, $frame, $say) = @_;
	return $frame
	  if unpack('x4 n', $frame) != 0
	  || $frame !~ /(\Q$name\E(?:\.\d+|-load\d+))(?:\x00\x00\x00\x01|\x02)(....)/s;
	my ($topic, $partition) = ($1, unpack 'N', $2);
	my $key = "$topic/$partition";
	syswrite $say, "overtaken\n" if grep { $_ eq $key } map { values %$_ } values %under_way;
	$under_way{$relay}{ unpack 'x8 N', $frame } = $key;
	if (++$seen{$key} == 1 && $topic =~ /\./)
	{
		my $absent = $topic =~ s/\.(?=\d+$)/-/r;
		$frame =~ s/\Q$topic\E/$absent/;
		$held_until = time + $longest;
		syswrite $say, "held\n";
	}
	return $frame;
}

# Gives the relay an answer.
sub give
{
	my ($relay, $frame) = @_;
	delete $under_way{$relay}{ unpack 'x4 N', $frame };
	syswrite $relay, $frame;
	return;
}

# An answer of the broker, as it goes to the relay: the broker's port is ours,
# and the error is about our topic.  That answer, and those after it, wait.
sub answer
{
	my ($relay, $frame, $proxy_port) = @_;
	my ($theirs, $ours) = map { pack 'N', $_ } $broker_port, $proxy_port;
	$frame =~ s/127\.0\.0\.1\K\Q$theirs\E/$ours/g;
	if ($frame =~ s/\Q$name\E\K-(?=\d)/./ || $held{$relay})
	{
		push @{ $held{$relay} }, $frame;
		return;
	}
	give($relay, $frame);
	return;
}

sub connect_relay
{
	my ($select, $listener) = @_;
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
	my ($select, $socket, $proxy_port, $say) = @_;
	my $peer = $peer{$socket} or return;
	if (!sysread $socket, $buffer{$socket}, 65536, length $buffer{$socket})
	{
		$select->remove($socket, $peer);
		delete @peer{ $socket, $peer };
		delete @held{ $socket, $peer };
		delete @under_way{ $socket, $peer };
		close $_ foreach $socket, $peer;
		return;
	}
	foreach my $frame (take_frames(\$buffer{$socket}))
	{
		if ($is_relay{$socket}) { syswrite $peer, request($socket, $frame, $say); }
		else { answer($peer, $frame, $proxy_port); }
	}
	return;
}

# Sits between the relay and the broker.  The first request of a partition comes
# back with an error that is worth another try, when the test says so.
sub run_proxy
{
	my ($listener, $say, $orders) = @_;
	my $proxy_port = $listener->sockport;
	my $select = IO::Select->new($listener, $orders);
	while (1)
	{
		foreach my $socket ($select->can_read(0.02))
		{
			if ($socket == $listener) { connect_relay($select, $listener); }
			elsif ($socket == $orders)
			{
				sysread $orders, my $order, 1 or return;
				$held_until = min($held_until, time + $patience);
			}
			else { forward($select, $socket, $proxy_port, $say); }
		}
		next if !%held || time < $held_until;
		foreach my $socket ($select->handles)
		{
			give($socket, $_) foreach @{ delete $held{$socket} || [] };
		}
	}
	return;
}

# Starts a proxy; returns its process, its port, and pipes: one that tells what
# passed, and one to say that what is held back may go.
sub start_proxy
{
	my $listener = IO::Socket::INET->new(
		LocalAddr => '127.0.0.1',
		Listen => 5,
		ReuseAddr => 1) or die "cannot listen: $!";
	pipe(my $told, my $say) or die "cannot make a pipe: $!";
	pipe(my $orders, my $go) or die "cannot make a pipe: $!";
	my $pid = fork;
	die "cannot fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		close $_ foreach $told, $go;
		eval { run_proxy($listener, $say, $orders) };
		warn $@ if $@;
		POSIX::_exit(1);
	}
	close $_ foreach $say, $orders;
	return ($pid, $listener->sockport, $told, $go);
}

my $proxy;

END
{
	my $status = $?;
	kill 'KILL', $proxy if $proxy;
	$? = $status;
}

my $topics = 0;

# A key for each partition of a topic.
sub keys_of_partitions
{
	my %key;
	for (my $key = 1; keys %key < $partitions; $key++)
	{
		$key{ crc32($key) % $partitions } ||= $key;
	}
	return map { $key{$_} } sort { $a <=> $b } keys %key;
}

# Waits until the proxy has held so many requests back; returns how many have
# overtaken one.
sub await_held
{
	my ($told, $count) = @_;
	my $overtaken = 0;
	while ($count > 0)
	{
		IO::Select->new($told)->can_read($PostgreSQL::Test::Utils::timeout_default)
		  or die "the relay sends nothing\n";
		sysread $told, my $word, length "held\n" or die "the proxy has gone\n";
		if ($word eq "held\n") { $count--; }
		else { sysread $told, $word, length "taken\n"; $overtaken++; }
	}
	return $overtaken;
}

# Publishes two events of each of some keys, for a topic that is new; returns how
# many keys there are of which a consumer of committed messages does not see
# both, in order, and how many requests have overtaken one that failed.
sub run_topic
{
	my ($node, $told, $go, @keys) = @_;
	my $topic = make_topic(sprintf('%s.%05d', $name, ++$topics), $partitions);
	my @left = @keys;
	my $overtaken = 0;
	while (my @pair = splice @left, 0, $together)
	{
		my $list = join ',', @pair;
		$node->safe_psql('postgres', "CALL publish_all('$topic', '{$list}', '1')");
		$overtaken += await_held($told, scalar @pair);
		$node->safe_psql('postgres',
			"CALL publish_all('$topic', '{$list}', '2'); CALL await('received_lsn', 1)");
		syswrite $go, '.';
		$node->safe_psql('postgres', "CALL await('confirmed_lsn', 60)");
	}
	my %values;
	foreach my $line (committed_lines(1, $topic, '%k %s'))
	{
		my ($key, $value) = split ' ', $line;
		push @{ $values{$key} }, $value;
	}
	return (scalar(grep { join(' ', @{ $values{$_} || [] }) ne '1 2' } @keys), $overtaken);
}

# Publishes many events of some keys, of any size, in transactions of any size, to
# fewer partitions than requests may be in flight; returns what is wrong with what
# a consumer of committed messages sees.
sub run_load
{
	my ($node) = @_;
	my $topic = make_topic("$name-load" . ++$topics, 3);
	my $events = 6_000;
	$node->safe_psql('postgres',
		q{ALTER SERVER kafka OPTIONS (SET "batch.num.messages" '20', ADD "batch.size" '50000')});
	$node->safe_psql('postgres', <<SQL);
DO \$\$
BEGIN
	FOR n IN 1 .. $events LOOP
		PERFORM outbox.publish('Load', (n % 48)::text, 'Made', jsonb_build_object('n', n,
			'x', repeat('x', (CASE WHEN n % 50 = 0 THEN 60000 ELSE 3000 END * random() ^ 2)::int)),
			topic => '$topic');
		IF random() < 0.02 THEN
			COMMIT;
			PERFORM pg_sleep(0.01);
		END IF;
	END LOOP;
END \$\$;
CALL await('confirmed_lsn', 60);
SQL
	my (%last, @wrong);
	foreach my $line (committed_lines($events, $topic, '%k %s'))
	{
		my ($key, $n) = $line =~ /^(\d+) \{"n": (\d+)/;
		push @wrong, "$n of $key" if $n != ($last{$key} || $key - ($key ? 48 : 0)) + 48;
		$last{$key} = $n;
	}
	push @wrong, "$_ has ended at $last{$_}" foreach grep { $last{$_} <= $events - 48 } keys %last;
	return join ', ', @wrong;
}

# So many cases with a server, and, with load, that; returns as run_topic() does,
# and what run_load() does.
sub run_cases
{
	my ($node, $count, $load) = @_;
	my ($port, $told, $go);
	($proxy, $port, $told, $go) = start_proxy();
	create_extension($node, 'postgres', "127.0.0.1:$port");
	$node->safe_psql('postgres', <<'SQL');
-- Each event is a request.
ALTER SERVER kafka OPTIONS (ADD delivery 'exactly_once', ADD partitioner 'consistent', ADD "retry.backoff.ms" '10',
	ADD "batch.num.messages" '1');
CREATE PROCEDURE publish_all(topic text, keys text[], value jsonb) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM outbox.publish('Pair', key, 'Pair', value, topic => topic) FROM unnest(keys) key;
END $$;
-- Waits until the relay is past what is committed, but no longer than that.
CREATE PROCEDURE await(what text, seconds float) LANGUAGE plpgsql AS $$
DECLARE
	lsn pg_lsn := pg_current_wal_flush_lsn();
	done boolean := false;
	until timestamptz := clock_timestamp() + make_interval(secs => seconds);
BEGIN
	WHILE NOT done AND clock_timestamp() < until LOOP
		EXECUTE format('SELECT coalesce(%I >= $1, false) FROM outbox.stat_relay', what)
			INTO done USING lsn;
		PERFORM pg_sleep(0.005);
	END LOOP;
END $$;
SQL
	my @keys = keys_of_partitions();
	my ($bad, $overtaken) = (0, 0);
	for (my $done = 0; $done < $count; $done += $partitions)
	{
		my $last = min($count - $done, $partitions) - 1;
		my ($b, $o) = run_topic($node, $told, $go, @keys[ 0 .. $last ]);
		$bad += $b;
		$overtaken += $o;
	}
	my $wrong = $load ? run_load($node) : '';
	kill 'KILL', $proxy;
	waitpid $proxy, 0;
	undef $proxy;
	return ($bad, $overtaken + grep({ /overtaken/ } <$told>), $wrong);
}

# Builds a relay that is flawed; returns the directory of its programs.
sub flawed
{
	my ($flaw) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir_short();
	my ($bindir, $said) = ('', '');
	IPC::Run::run([ 'dev/flawed', "$dir/flawed", 'src/kafka/producer/gate_step.c', $flaw ],
		'<', \undef, '>', \$bindir, '2>', \$said)
	  or die "dev/flawed failed: $said\n";
	chomp $bindir;
	return $bindir;
}

# Runs cases, or load, with a relay that is flawed; returns as run_cases() does.
sub run_flawed
{
	my ($name, $flaw, @args) = @_;
	my $bindir = flawed($flaw);
	local $ENV{PATH} = "$bindir:$ENV{PATH}";
	my $node = new_server($name, $settings, install_path => dirname($bindir));
	my @result = run_cases($node, @args);
	$node->stop;
	return @result;
}

# ---------------------------------------------------------------------------

my $node = new_server('exact', $settings);
my ($bad, $overtaken, $wrong) = run_cases($node, $cases, 1);
is($bad, 0, "$cases partitions: both events arrive, in order");
is($wrong, '', 'so do many of any size');
is($overtaken, 0, 'no request is sent before the one of its partition is answered');
$node->stop;

if ($ENV{OUTBOX_TEST_LOST_REQUESTS})
{
	($bad, $overtaken) = run_flawed('hasty',
		's/return partition->open .. partition->in_flight == 0;/return true;/; s/partition->in_flight < max/true/',
		4);
	cmp_ok($overtaken, '>', 0, 'a relay that does not wait sends some');
	cmp_ok($bad, '>', 0, 'and loses events');

	($bad, $overtaken) = run_flawed('awake',
		's/RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION/RD_KAFKA_RESP_ERR_NO_ERROR/; s/\(void\) rd_kafka_pause_partitions[^;]*;//',
		0, 1);
	cmp_ok($overtaken, '>', 0, 'so does one that does not pause partitions');
}

done_testing();
