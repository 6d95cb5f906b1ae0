# Publishes for a long time, and sees whether any process grows; see dev/soak.
#
#   SOAK_MINUTES     how long (30)
#   SOAK_TOPICS      seconds from one topic that is used once to the next (5);
#                    0 for none

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time sleep);

my $minutes = $ENV{SOAK_MINUTES} || 30;
my $new_topics = $ENV{SOAK_TOPICS} // 5;
my $interval = 10;    # seconds between two samples

# By how much a process may grow after warming up.
my %allowed = (memory => 2048, connections => 4, threads => 2);

# What librdkafka keeps of a topic for as long as the relay leaves it there, in
# kB: until it was not used for an hour.
my $topic_memory = 40;

my $node = new_server('soak', "max_worker_processes = 16\nautovacuum_naptime = '10s'\n");
my $directory = PostgreSQL::Test::Utils::tempdir('soak');
my %databases = (least => 'at_least_once', exact => 'exactly_once');
my %topics = map { ($_ => make_topic(topic_name($_), 4)) } keys %databases;
my %refusing = map { ($_ => make_topic(topic_name("refusing_$_"), 1, 'max.message.bytes' => 10_000)) } keys %databases;
my @publishers;
my $used_once = 0;    # topics, in each database

foreach my $db (sort keys %databases)
{
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	create_extension($node, $db);
	$node->safe_psql($db, <<SQL);
ALTER SERVER kafka OPTIONS (ADD delivery '$databases{$db}');
CREATE TABLE effect (n bigint);
INSERT INTO effect VALUES (0);
CREATE FUNCTION handle(m inbox.message[]) RETURNS void LANGUAGE sql AS
	\$\$ UPDATE effect SET n = n + cardinality(m) \$\$;
SELECT inbox.subscribe('steady', ARRAY['$topics{$db}'], 'handle');
SQL
	my $script = "$directory/$db.sql";
	append_to_file($script, <<SQL);
\\set key random(1, 1000)
SELECT outbox.publish('Steady', :key::text, 'Made', '{"a": 1}', topic => '$topics{$db}');
SQL
	push @publishers,
	  IPC::Run::start(
		[
			$node->installed_command('pgbench'), '-n', '-c', 2, '-R', 100, '-T', 36000, '-f', $script,
			$node->connstr($db)
		],
		'<', \undef, '&>', "$script.log");
}

# What is done each second in each database; n counts them.
sub disturb
{
	my ($n) = @_;
	my $is_new = $new_topics && $n % $new_topics == 0;
	$used_once++ if $is_new;
	$node->reload if $n % 15 == 0;
	foreach my $db (sort keys %databases)
	{
		my @statements = ('SELECT outbox.retry_all()');
		push @statements,
		  sprintf(q{SELECT outbox.publish('Once', 'k', 'Made', '{}', topic => '%s')}, topic_name("once_$db"))
		  if $is_new;
		push @statements,
		  qq{SELECT outbox.publish_bytes('Large', 'k', 'Made', decode(repeat(md5(random()::text), 1000), 'hex'), topic => '$refusing{$db}')}
		  if $n % 20 == 0;
		push @statements, q{SELECT outbox.replay(now() - interval '3 s', now(), 'Steady')}
		  if $n % 20 == 10;

		# The same as before, which the relay has to read to know it.
		push @statements, "ALTER SERVER kafka OPTIONS (SET delivery '$databases{$db}')"
		  if $n % 30 == 0;
		push @statements, "SELECT outbox.discard_all('$refusing{$db}')" if $n % 300 == 299;
		$node->safe_psql($db, join ";\n", @statements);
	}
	return;
}

sub numbers_in
{
	my ($file, @names) = @_;
	open my $handle, '<', $file or return;
	my %found = map { /^(\w+):\s+(\d+)/ ? ($1, $2) : () } <$handle>;
	return @found{@names};
}

# Samples of processes, by what they are and their process id.
my (%samples, %restarts, %last_pid);

sub take_samples
{
	foreach my $row (split /\n/, $node->safe_psql('postgres', <<'SQL'))
SELECT pid, concat_ws(' of ', regexp_replace(backend_type, '^outbox ', ''), datname)
FROM pg_stat_activity WHERE backend_type ~ '^outbox'
SQL
	{
		my ($pid, $what) = split /\|/, $row;
		my ($memory) = numbers_in("/proc/$pid/smaps_rollup", 'Pss_Anon');
		my ($rss, $threads) = numbers_in("/proc/$pid/status", 'VmRSS', 'Threads');

		# Files of tables come and go with the server's cache of them.
		my @files = map { readlink // '' } glob "/proc/$pid/fd/*";
		next unless $memory && $rss;
		$restarts{$what}++ if $last_pid{$what} && $last_pid{$what} != $pid;
		$last_pid{$what} = $pid;
		push @{ $samples{$what}{$pid} },
		  {
			memory => $memory,
			rss => $rss,
			files => scalar @files,
			connections => scalar(grep { /^(socket|pipe|anon_inode):/ } @files),
			threads => $threads,
			topics => $used_once
		  };
	}
	return;
}

sub median
{
	my ($name, @samples) = @_;
	return (sort { $a <=> $b } map { $_->{$name} } @samples)[ @samples / 2 ];
}

# Compares the first and the last third of a process's samples after it has
# warmed up.
sub check_growth
{
	my ($what, @samples) = @_;
	splice @samples, 0, @samples / 5;
	my $third = int(@samples / 3);
	my %first = map { ($_ => median($_, @samples[ 0 .. $third - 1 ])) } keys %{ $samples[0] };
	my %last = map { ($_ => median($_, @samples[ -$third .. -1 ])) } keys %{ $samples[0] };
	my $seconds = $interval * (@samples - $third);
	my $topics = $what =~ /^relay/ ? $last{topics} - $first{topics} : 0;
	diag sprintf '%s: in %d s, with %d new topics: %s', $what, $seconds, $topics,
	  join ', ', map { "$_ $first{$_} -> $last{$_}" } qw(memory rss files connections threads);
	foreach my $name (sort keys %allowed)
	{
		my $limit = $allowed{$name} + ($name eq 'memory' ? $topics * $topic_memory : 0);
		cmp_ok($last{$name} - $first{$name}, '<=', $limit, "$what: growth of $name");
	}
	return;
}

my $end = time + 60 * $minutes;
my $next_sample = time;
for (my $n = 0; time < $end; $n++)
{
	my $second = time + 1;
	disturb($n);
	if (time >= $next_sample)
	{
		take_samples();
		$next_sample += $interval;
	}
	sleep($second - time) if $second > time;
}

$_->kill_kill foreach @publishers;
foreach my $db (sort keys %databases)
{
	$node->safe_psql($db, "SELECT outbox.discard_all('$refusing{$db}')");
	wait_until_confirmed($node, $db);
	ok( $node->poll_query_until($db,
			"SELECT NOT EXISTS (SELECT FROM outbox.events WHERE status = 'pending')"),
		"$databases{$db}: all is published");
	ok( $node->poll_query_until($db, 'SELECT sum(lag) = 0 FROM inbox.stat_subscription'),
		'and received');
}

# Who has lasted is compared with itself.  A process that was replaced late, or
# left early, has too few samples to tell.
foreach my $what (sort keys %samples)
{
	my ($longest) = sort { @$b <=> @$a } values %{ $samples{$what} };
	diag "$what: started again $restarts{$what} times" if $restarts{$what};
	next if @$longest < 15 && $restarts{$what};
	check_growth($what, @$longest);
}
ok(exists $samples{$_}, "there was a $_") foreach 'launcher', map { ("relay of $_", "consumer of $_") } keys %databases;

$node->stop;
done_testing();
