# Whoever crashes under load, and however often: a consumer of committed
# messages sees each event once and never a part of a transaction.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $keys = 50;
my $batch = 100;    # events of a transaction
my $kills = $ENV{ONCE_KILLS} || 5;

my $kafka = own_kafka('once');
my $bootstrap = kafka_bootstrap($kafka);
my $topic = make_topic(topic_name('crash'), 1, dir => $kafka);
my $node = new_server('crash', <<'CONF');
restart_after_crash = on
statement_timeout = '100s'
outbox.transaction_interval = '20ms'
CONF

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

sql('CREATE EXTENSION outbox');
sql("CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS (\"bootstrap.servers\" '$bootstrap', delivery 'exactly_once')"
);
wait_for_state($node, 'postgres', 'streaming');

# Each transaction has a number and publishes events 1 to $batch of it.
sql(<<SQL);
CREATE TABLE done (transaction serial PRIMARY KEY);
CREATE PROCEDURE write(transactions integer) LANGUAGE plpgsql AS \$\$
DECLARE
	n integer;
BEGIN
	FOR i IN 1 .. transactions LOOP
		INSERT INTO done DEFAULT VALUES RETURNING transaction INTO n;
		PERFORM outbox.publish('Test', (j % $keys)::text, 'Counted', to_jsonb(n || '/' || j), topic => '$topic')
			FROM generate_series(1, $batch) j;
		COMMIT;
	END LOOP;
END
\$\$;
SQL

# What a consumer of committed messages sees, so many at least: events by
# transaction.
sub committed
{
	my ($count) = @_;
	my (%seen, %last, $twice, $overtaken);
	$twice = $overtaken = 0;
	foreach my $line (committed_lines($count, $topic, '%k %s', $bootstrap))
	{
		my ($key, $n, $i) = $line =~ m{^(\d+) "(\d+)/(\d+)"$}
		  or die "unexpected message: $line\n";
		$twice++ if $seen{$n}{$i}++;
		$overtaken++
		  if $last{$key} && $last{$key}[0] == $n && $last{$key}[1] >= $i;
		$last{$key} = [ $n, $i ];
	}
	my $parts = grep { keys %$_ != $batch } values %seen;
	return ($twice, $overtaken, $parts, \%seen);
}

sub check
{
	my ($name) = @_;
	wait_until_confirmed($node, 'postgres');
	my @done = split /\n/, sql('TABLE done');
	my ($twice, $overtaken, $parts, $seen) = committed($batch * @done);
	my @missing = grep { !$seen->{$_} } @done;
	is(scalar @missing, 0, "$name: nothing is missing");
	is($twice, 0, "$name: nothing comes twice");
	is($parts, 0, "$name: no transaction is split");
	is($overtaken, 0, "$name: the order is kept");
	is(scalar keys %$seen,
		scalar @done, "$name: nothing is there that was not committed");
	return;
}

# Publishes for some seconds while code is called again and again.
sub under_load
{
	my ($code) = @_;
	for (1 .. $kills)
	{
		my $before = sql('SELECT count(*) FROM done');
		my $writer = start_psql($node, 'postgres', 'CALL write(100000)');
		$node->poll_query_until('postgres',
			"SELECT count(*) > $before + 20 FROM done")
		  or die "the writer does not write\n";
		$code->();
		sql("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE query LIKE 'CALL write%' AND pid <> pg_backend_pid()"
		);
		$writer->finish;
	}
	return;
}

# A consumer that looks while all goes on sees no part of a transaction.
sub look
{
	my (undef, undef, $parts) = committed(0);
	is($parts, 0, 'no transaction is seen in part');
	return;
}

sub kill_relay
{
	my $pid = relay_pid($node, 'postgres');
	kill 'KILL', $pid;
	my $start = time;

	# The writer goes down with the server, perhaps with nothing left to send.
	$node->poll_query_until('postgres',
		"SELECT outbox.publish('Wake', '1', 'Woken', '1') IS NOT NULL")
	  or die "the server does not recover\n";
	$node->poll_query_until('postgres',
		"SELECT events > 0 FROM outbox.stat_relay WHERE pid <> $pid")
	  or die "no event after the relay was killed\n";
	return time - $start;
}

# ---------------------------------------------------------------------------
# The relay.  The server restarts its other processes with it.

my @seconds;
under_load(sub { usleep(rand 200_000); push @seconds, kill_relay() });
my ($longest) = sort { $b <=> $a } @seconds;
diag sprintf 'relay killed: first event after %.1f s at most', $longest;
look();
check('relay killed');

# ---------------------------------------------------------------------------
# The whole server

under_load(
	sub {
		usleep(rand 200_000);
		$node->stop('immediate');
		$node->start;
		wait_for_state($node, 'postgres', 'streaming');
	});
look();
check('server stopped at once');

# ---------------------------------------------------------------------------
# The broker

under_load(
	sub {
		usleep(rand 200_000);
		kafka('kill', $kafka);
		kafka('restart', $kafka);
	});
check('broker killed');

$node->stop;
done_testing();
