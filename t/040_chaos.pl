# Faults of all kinds while writers are at work; at the end what is on Kafka is
# compared with what was committed.
#
#   CHAOS_FAULTS     number of faults (8)
#   CHAOS_SEED       repeats a run
#   CHAOS_ONLY       names of the faults to draw from, separated by commas
#   CHAOS_DELIVERY   exactly_once, for that option of the foreign server

use strict;
use warnings;

use lib 't';
use List::Util qw(max);
use OutboxChaos;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $faults = $ENV{CHAOS_FAULTS} || 8;
my $seed = $ENV{CHAOS_SEED} || int(time) % 100_000;
my $delivery = $ENV{CHAOS_DELIVERY} || '';
my @choice =
  $ENV{CHAOS_ONLY} ? split /,/, $ENV{CHAOS_ONLY} : OutboxChaos::faults();
my $keys = 100;

# Events of the keys above this one go to the topic whose partitions have but one
# replica.  Two keys more are those of an old transaction.
my $shared = 80;
my $old = $keys + 1;
my $clients = 6;

# What a transaction may take, in seconds: some messages carry the time of its
# beginning.
my $grace = 1;

plan skip_all => 'openssl is not installed' unless OutboxCertificates::available();

srand $seed;
diag "seed $seed: CHAOS_SEED=$seed CHAOS_FAULTS=$faults repeats this run";

my $chaos = OutboxChaos->new(
	outage => $faults > 20 ? 20 : 3,
	delivery => $delivery,
	publish => "SELECT publish_next($old, 'kept'), publish_next($old + 1, 'kept')",
	while_down => $delivery eq 'exactly_once' ? \&check_wholeness : undef);
my @topics = ($chaos->topic, $chaos->lone_topic);

# Each key counts its events, in the transaction that publishes them: what was
# committed for a key is 1 to its count.  What is to be rolled back says so.
# Every transaction publishes two events, of neighbouring keys, and its id.
$chaos->sql(<<SQL);
CREATE TABLE counter (key integer PRIMARY KEY, events integer NOT NULL DEFAULT 0);
INSERT INTO counter SELECT generate_series(1, $keys + 2);
CREATE FUNCTION publish_next(k integer, fate text) RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE
	n integer;
BEGIN
	UPDATE counter SET events = events + 1 WHERE key = k RETURNING events INTO n;
	PERFORM outbox.publish('Chaos', k::text, fate,
		to_jsonb(n || ' ' || pg_current_xact_id()), topic => CASE WHEN k <= $shared THEN '$topics[0]' ELSE '$topics[1]' END);
END
\$\$;
SQL

my $directory = PostgreSQL::Test::Utils::tempdir('writers');
my $script = "$directory/chaos.sql";
my $last = $keys - 1;
append_to_file($script, <<SQL);
\\set key random(1, $last)
\\set fate random(1, 100)
BEGIN;
SELECT publish_next(:key, 'kept');
SELECT publish_next(:key + 1, 'kept');
\\if :fate <= 10
ROLLBACK;
\\elif :fate <= 20
SAVEPOINT s;
SELECT publish_next(:key + 1, 'undone');
ROLLBACK TO s;
COMMIT;
\\elif :fate <= 22
PREPARE TRANSACTION 'chaos_:client_id';
COMMIT PREPARED 'chaos_:client_id';
\\else
COMMIT;
\\endif
SQL

my $writers;
my $said = "$directory/pgbench.log";

# Lets the writers work; a crash of the server ends them.
sub start_writers
{
	finish_writers();
	local $ENV{PGAPPNAME} = 'pgbench';
	$writers = IPC::Run::start(
		[
			$chaos->node->installed_command('pgbench'), '-n', '-c', $clients,
			'-R', '300', '-T', '36000', '-f', $script, '-d',
			$chaos->node->connstr('postgres')
		],
		'<', \undef, '&>', $said);
	return;
}

# Ends the writers.  What they had prepared is in nobody's hands then, but for a
# session that has not noticed, or waits for another one's.
sub finish_writers
{
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	$writers->kill_kill if $writers;
	$writers = undef;
	$chaos->wait_for('SELECT true', 'the server does not answer');
	while ($chaos->sql(
			"SELECT count(*) FROM (SELECT FROM pg_stat_activity WHERE application_name = 'pgbench' UNION ALL SELECT FROM pg_prepared_xacts) left_over"))
	{
		die "sessions of the writers do not end\n" if time > $deadline;
		$chaos->node->psql('postgres', "COMMIT PREPARED '$_'")
		  foreach split /\n/, $chaos->sql('SELECT gid FROM pg_prepared_xacts');
	}
	return;
}

# Waits until the writers have written more than they had, and it is published.
sub wait_for_progress
{
	my $events = $chaos->sql('SELECT sum(events) FROM counter');
	$chaos->node->poll_query_until('postgres',
		"SELECT sum(events) > $events + 20 FROM counter")
	  or die 'the writers have stopped: ' . slurp_file($said);
	my $lsn = $chaos->sql('SELECT pg_current_wal_lsn()');
	# Nor does any wait for a partition without a leader, or for what was in
	# front of it.
	$chaos->node->poll_query_until('postgres',
		"SELECT confirmed_lsn > '$lsn' AND state = 'streaming' AND waiting_events = 0 AND NOT EXISTS (SELECT FROM outbox.stat_topic) FROM outbox.stat_relay"
	  )
	  or die 'the relay does not recover: '
	  . $chaos->sql('TABLE outbox.stat_relay') . "\n";
	return;
}

# Waits until the relay's watermark, safe on disk, shows what is committed now:
# all transactions before the next.  Only what comes later may come twice.
# Returns that time.
sub wait_for_watermark
{
	my ($time, $xid) = split /\|/, $chaos->sql(
		'SELECT extract(epoch FROM statement_timestamp()), pg_snapshot_xmax(pg_current_snapshot())');
	$chaos->wait_for(
		"SELECT count(*) > 0 FROM outbox.watermark WHERE pg_snapshot_xmin(snapshot) >= '$xid'",
		'the watermark does not move');
	my $written = $chaos->sql('SELECT pg_current_wal_insert_lsn()');
	$chaos->wait_for("SELECT pg_current_wal_flush_lsn() >= '$written'",
		'WAL is not flushed');
	return $time;
}

sub topic_of { return $topics[ $_[0] <= $shared ? 0 : 1 ] }

# All messages so far, or those that are committed, so many of each topic at
# least: time in ms, key, number, transaction and type of each.
sub messages
{
	my ($counts) = @_;
	my @messages;
	foreach my $topic (@topics)
	{
		my @source = ($topic, '%T %k %s %h', $chaos->bootstrap);
		foreach my $line (
			$counts ? committed_lines($counts->{$topic} || 0, @source) : consume_lines(@source))
		{
			my ($time, $key, $n, $xid, $type) =
			  $line =~ /^(\d+) (\d+) "(\d+) (\d+)" id=[^,]+,type=(\w+),/
			  or die "unexpected message: $line\n";
			$topic eq topic_of($key) or die "message of another topic: $line\n";
			push @messages,
			  { time => $time, key => $key, n => $n, xid => $xid, type => $type };
		}
	}
	return @messages;
}

# How many events there are for each topic.
sub count_by_topic
{
	my ($events) = @_;
	my %count;
	$count{ topic_of($_) } += $events->{$_} foreach keys %$events;
	return \%count;
}

# Transactions of which a part can be seen.  Each has two events, but for those
# that undid a third.  What was seen before is there still.  A transaction may
# wait in part when a partition has no leader, so only the topic with replicas
# is looked at: the part that is there has no key that leads to the other one.
my $seen_before = {};

sub split_transactions
{
	my %events;
	my %seen;
	foreach my $message (messages($seen_before))
	{
		$seen{ topic_of($message->{key}) }++;
		$events{"$message->{xid}"}{"$message->{key} $message->{n}"} = $message->{key};
	}
	$seen_before = \%seen;
	return grep { keys %{ $events{$_} } != 2 && max(values %{ $events{$_} }) < $shared } keys %events;
}

my $split = 0;

# With the server down, no transaction may be seen in part: for a moment, until
# the brokers have finished what the relay began, but not for longer.
sub check_wholeness
{
	my $deadline = time + 30;
	my @split;
	while (@split = split_transactions())
	{
		next if time < $deadline;
		$split += @split;
		diag "split transactions: @split";
		last;
	}
	return;
}

# Something shall have been published long before the first fault.
start_writers();
$chaos->sql("SELECT pg_sleep(2 * $grace)");
my (%recovery, @hits);
foreach my $number (1 .. $faults)
{
	wait_for_progress();
	my $settled = wait_for_watermark();
	my $name = $choice[ rand @choice ];
	note "fault $number: $name";
	my $start = time;
	$chaos->hit($name);
	start_writers();
	wait_for_progress();
	push @{ $recovery{$name} }, time - $start;
	push @hits,
	  { name => $name, settled => $settled, from => $start, to => time };
}
finish_writers();
wait_until_confirmed($chaos->node, 'postgres');
$chaos->wait_for('SELECT count(*) = 0 FROM outbox.held_event',
	'events wait for ever');

# What was committed, by key, against what is there.
my %committed = map { split /\|/ } split /\n/,
  $chaos->sql('SELECT key, events FROM counter');
my ($total, $lost, $phantom, $overtaken, $duplicates) = (0) x 5;
my ($oldest, %old, %repeated) = (0);
my (%seen, %last);
my $expected = $delivery eq 'exactly_once' ? count_by_topic(\%committed) : undef;
foreach my $message (messages($expected))
{
	my ($key, $n) = @$message{qw(key n)};
	if ($message->{type} ne 'kept' || $n > $committed{$key})
	{
		$phantom++;
	}
	elsif ($seen{"$key $n"})
	{
		# What comes out of the table has the time of sending, the stream that
		# of the commit.
		my $time = $seen{"$key $n"} / 1000;
		my ($hit) = grep { $time <= $_->{to} } @hits;
		my $name = $hit ? $hit->{name} : 'no fault';
		$duplicates++;
		$repeated{$name}++;
		$old{$name}++
		  if !$hit || $time < $hit->{settled} - $grace;
		$oldest = max($oldest, $hit->{from} - $time) if $hit;
	}
	else
	{
		$seen{"$key $n"} = $message->{time};
		$overtaken++ if $n <= ($last{$key} || 0);
		$last{$key} = $n;
	}
}
foreach my $key (keys %committed)
{
	$total += $committed{$key};
	foreach my $n (1 .. $committed{$key})
	{
		$lost++ unless $seen{"$key $n"};
	}
}

cmp_ok($total, '>', 0, 'the writers worked');
is($lost, 0, 'lost');
is($phantom, 0, 'phantom: rolled back, but visible');
is($overtaken, 0, 'order broken');
is(join(', ', map { "$_: $old{$_}" } sort keys %old),
	'', 'repeated, though published long before a fault');
if ($delivery eq 'exactly_once')
{
	is($duplicates, 0, 'duplicates');
	is($split, 0, 'transactions that were seen in part');
}
diag sprintf '%d events, %d duplicates, committed at most %.1f s before a fault',
  $total, $duplicates, $oldest;
diag sprintf('%s: %s s to recover, %d duplicates',
	$_, join(' ', map { sprintf '%.1f', $_ } @{ $recovery{$_} }), $repeated{$_} || 0)
  foreach sort keys %recovery;
$chaos->end;

done_testing();
