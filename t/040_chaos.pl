# Faults of all kinds while writers are at work; at the end what is on Kafka is
# compared with what was committed.
#
# CHAOS_FAULTS is the number of faults (8), CHAOS_SEED repeats a run, and
# CHAOS_BREAK=phantom or =loss breaks the comparison's input on purpose, to
# show that the comparison can fail.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use OutboxTest;

my $faults = $ENV{CHAOS_FAULTS} || 8;
my $seed = $ENV{CHAOS_SEED} || int(time) % 100_000;
my $break = $ENV{CHAOS_BREAK} || '';
my $keys = 100;
my $clients = 6;

srand $seed;
diag "seed $seed: CHAOS_SEED=$seed CHAOS_FAULTS=$faults repeats this run";

my $kafka = own_kafka('chaos');
my $bootstrap = kafka_bootstrap($kafka);
my $topic = make_topic('chaos', 4, dir => $kafka);
my $node = new_server('chaos', "restart_after_crash = on\nmax_prepared_transactions = 20\n");
create_extension($node, 'postgres', $bootstrap);

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

# Each key counts its events, in the transaction that publishes them: what was
# committed for a key is 1 to its count.  What is to be rolled back says so.
sql(<<SQL);
CREATE TABLE counter (key integer PRIMARY KEY, events integer NOT NULL DEFAULT 0);
INSERT INTO counter SELECT generate_series(1, $keys);
CREATE FUNCTION publish_next(k integer, fate text) RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE
	n integer;
BEGIN
	UPDATE counter SET events = events + 1 WHERE key = k RETURNING events INTO n;
	PERFORM outbox.publish('Chaos', k::text, fate, to_jsonb(n), topic => '$topic');
END
\$\$;
SQL

my $script = $node->basedir . '/chaos.sql';
append_to_file($script, <<'SQL');
\set key random(1, 100)
\set fate random(1, 100)
BEGIN;
SELECT publish_next(:key, 'kept');
\if :fate <= 10
ROLLBACK;
\elif :fate <= 20
SAVEPOINT s;
SELECT publish_next(:key, 'undone');
ROLLBACK TO s;
COMMIT;
\elif :fate <= 22
PREPARE TRANSACTION 'chaos_:client_id';
COMMIT PREPARED 'chaos_:client_id';
\else
COMMIT;
\endif
SQL

my $writers;
my $said = $node->basedir . '/pgbench.log';

# Lets the writers work; a crash of the server ends them.
sub start_writers
{
	finish_writers();
	$writers = IPC::Run::start(
		[
			$node->installed_command('pgbench'), '-n', '-c', $clients,
			'-R', '400', '-T', '3600', '-f', $script, '-d',
			$node->connstr('postgres')
		],
		'<', \undef, '&>', $said);
	return;
}

# Ends the writers.  What they had prepared is in nobody's hands then.
sub finish_writers
{
	$writers->kill_kill if $writers;
	$writers = undef;
	$node->poll_query_until('postgres',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'pgbench'"
	) or die "sessions of the writers do not end\n";
	foreach my $gid (split /\n/, sql('SELECT gid FROM pg_prepared_xacts'))
	{
		sql("COMMIT PREPARED '$gid'");
	}
	return;
}

# Waits until the writers have written more than they had, and it is published.
sub wait_for_progress
{
	my $events = sql('SELECT sum(events) FROM counter');
	$node->poll_query_until('postgres',
		"SELECT sum(events) > $events + 20 FROM counter")
	  or die "the writers have stopped: " . slurp_file($said);
	my $lsn = sql('SELECT pg_current_wal_lsn()');
	$node->poll_query_until('postgres',
		"SELECT confirmed_lsn > '$lsn' AND state = 'streaming' FROM outbox.stat_relay"
	) or die 'the relay does not recover: ' . sql('TABLE outbox.stat_relay') . "\n";
	return;
}

sub server_answers
{
	$node->poll_query_until('postgres', 'SELECT true')
	  or die "the server does not recover\n";
	return;
}

# Kills processes and waits until the last of them has gone.
sub kill_all
{
	my @pids = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	kill 'KILL', @pids;
	while (kill 0, @pids)
	{
		die "processes @pids do not go\n" if time > $deadline;
		select undef, undef, undef, 0.01;
	}
	return;
}

my %fault = (
	'relay terminated' => sub {
		sql('SELECT pg_terminate_backend(pid) FROM outbox.stat_relay WHERE pid IS NOT NULL');
	},
	'relay killed' => sub {
		kill 'KILL', relay_pid($node, 'postgres') || return;
		server_answers();
	},
	'server stopped at once' => sub {
		$node->stop('immediate');
		$node->start;
	},
	'postmaster killed' => sub {
		my $postmaster = slurp_file($node->data_dir . '/postmaster.pid');
		$postmaster =~ s/\n.*//s;
		my @children = split ' ', `ps -o pid= --ppid $postmaster`;
		$node->kill9;
		kill_all($postmaster, @children);
		$node->start;
	},
	'server restarted' => sub { $node->restart },
	'broker killed' => sub {
		kafka('kill', $kafka);
		kafka('restart', $kafka);
	},
	'broker frozen' => sub {
		signal_kafka('STOP', $kafka);
		$node->poll_query_until('postgres',
			"SELECT state = 'waiting for kafka' FROM outbox.stat_relay");
		signal_kafka('CONT', $kafka);
	},
	'settings changed' => sub {
		my $linger = int(rand 5);
		sql('ALTER SERVER kafka OPTIONS ('
			  . (sql("SELECT srvoptions::text LIKE '%linger%' FROM pg_foreign_server") eq 't'
				? 'SET' : 'ADD')
			  . qq{ "linger.ms" '$linger')});
	},
	'slot dropped' => sub {
		sql(<<'SQL');
DO $$
BEGIN
	LOOP
		PERFORM pg_terminate_backend(pid) FROM outbox.stat_relay WHERE pid IS NOT NULL;
		BEGIN
			PERFORM pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active;
			EXIT WHEN FOUND;
		EXCEPTION WHEN object_in_use OR undefined_object THEN
		END;
		PERFORM pg_stat_clear_snapshot();
	END LOOP;
END
$$
SQL
	});

start_writers();
my %recovery;
foreach my $number (1 .. $faults)
{
	wait_for_progress();
	my $name = (sort keys %fault)[ rand keys %fault ];
	note "fault $number: $name";
	my $start = time;
	$fault{$name}->();
	start_writers();
	wait_for_progress();
	push @{ $recovery{$name} }, time - $start;
}
finish_writers();
wait_until_confirmed($node, 'postgres');

# What was committed, by key, against what is there.
my %committed = map { split /\|/ } split /\n/,
  sql('SELECT key, events FROM counter');
my ($total, $lost, $phantom, $overtaken, $duplicates) = (0, 0, 0, 0, 0);
my (%seen, %last);
my @lines = consume_lines($topic, '%k %s %h', $bootstrap);
splice @lines, @lines / 2, 1 if $break eq 'loss';
push @lines, '1 999999 id=x,type=undone,aggregate_type=Chaos'
  if $break eq 'phantom';
foreach my $line (@lines)
{
	my ($key, $n, $type) = $line =~ /^(\d+) (\d+) id=[^,]+,type=(\w+),/
	  or die "unexpected message: $line\n";
	if ($type ne 'kept' || $n > $committed{$key})
	{
		$phantom++;
	}
	elsif ($seen{"$key $n"}++)
	{
		$duplicates++;
	}
	else
	{
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
diag "$total events, $duplicates duplicates";
diag sprintf('%s: %s s to recover',
	$_, join ' ', map { sprintf '%.1f', $_ } @{ $recovery{$_} })
  foreach sort keys %recovery;
$node->stop;

done_testing();
