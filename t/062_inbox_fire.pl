# Exactly once, whatever happens: faults of all kinds while messages are
# consumed; at the end each message has had its effect once, in order.
#
# INBOX_FIRE_MESSAGES is the number of messages (20000); INBOX_FIRE_FAULTS that
# of faults (8); INBOX_FIRE_PARTITIONS=add adds partitions on the way, which
# moves keys, so that only their order is not compared.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use OutboxTest;

my $messages = $ENV{INBOX_FIRE_MESSAGES} || 20_000;
my $faults = $ENV{INBOX_FIRE_FAULTS} || 8;
my $adds_partitions = ($ENV{INBOX_FIRE_PARTITIONS} || '') eq 'add';
my $seed = $ENV{INBOX_FIRE_SEED} || int(time) % 100_000;
my $accounts = 1000;

srand $seed;
diag "seed $seed: INBOX_FIRE_SEED=$seed repeats this run";

my $kafka = own_kafka('fire');
my $topic = make_topic('transfers', 6, dir => $kafka);
my $node = new_server('fire',
	"restart_after_crash = on\nmax_worker_processes = 16\nlog_statement = none\n");
create_extension($node, 'postgres', kafka_bootstrap($kafka));

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

sql(<<SQL);
CREATE TABLE account (id integer PRIMARY KEY, balance bigint NOT NULL DEFAULT 1000);
INSERT INTO account SELECT generate_series(1, $accounts);
CREATE TABLE transfer (id bigserial, event_id text, key text, number integer);
CREATE FUNCTION transfer(m inbox.message) RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE
	j jsonb := inbox.payload_json(m);
BEGIN
	INSERT INTO transfer (event_id, key, number) VALUES (m.event_id, m.aggregate_id, (j ->> 'number')::integer);
	UPDATE account SET balance = balance - (j ->> 'amount')::integer WHERE id = (j ->> 'from')::integer;
	UPDATE account SET balance = balance + (j ->> 'amount')::integer WHERE id = (j ->> 'to')::integer;
	IF m.attempts = 0 AND hashtext(m.event_id) % 100 = 0 THEN
		RAISE 'one in a hundred fails at first';
	END IF;
END
\$\$;
SQL

# Each transfer has a number of its own among those of its key; one in twenty
# is sent again, a while later.
my (@lines, %number, %expected, @again);
foreach my $i (1 .. $messages)
{
	my $from = 1 + int rand $accounts;
	my $to = 1 + int rand $accounts;
	my $line = sprintf "id:m%d,type:Transfer\t%d\t"
	  . '{"from": %d, "to": %d, "amount": %d, "number": %d}',
	  $i, $from, $from, $to, 1 + int rand 10, ++$number{$from};
	push @lines, $line;
	$expected{$from}++;
	push @again, $line if rand() < 0.05;
	push @lines, shift @again if @again > 50;
}
push @lines, @again;
my $sent = @lines;

sql("SELECT inbox.subscribe('transfers', ARRAY['$topic'], 'transfer', workers => 2, batch_size => 200, retry_backoff => '100 ms')");

sub processed
{
	my ($code, $output) = $node->psql('postgres', 'SELECT count(*) FROM transfer');
	return $code == 0 ? $output : 0;
}

# Waits until the server answers and more is processed.
sub wait_for_progress
{
	my ($count) = @_;
	my $deadline = time + 3 * $PostgreSQL::Test::Utils::timeout_default;
	while (time < $deadline)
	{
		return 1 if processed() >= $count;
		select undef, undef, undef, 0.1;
	}
	diag $node->psql('postgres', 'SELECT * FROM inbox.stat_subscription; SELECT * FROM inbox.consumer_status()');
	die "no progress beyond " . processed() . " of $count\n";
}

sub consumer_pid
{
	return (split /\n/, sql("SELECT pid FROM inbox.consumer_status() WHERE pid IS NOT NULL"))[0];
}

# The server starts once the processes of the killed one have gone.
sub start_again
{
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	until ($node->start(fail_ok => 1))
	{
		die "the server does not start\n" if time > $deadline;
		select undef, undef, undef, 0.1;
		$node->stop('fast', fail_ok => 1);
	}
	return;
}

my @kinds = (
	'worker terminated' => sub {
		sql('SELECT pg_terminate_backend(pid) FROM inbox.consumer_status() WHERE pid IS NOT NULL');
	},
	'worker killed' => sub {
		kill 'KILL', consumer_pid() || return;
		$node->poll_query_until('postgres', 'SELECT true');
	},
	'broker killed' => sub {
		kafka('kill', $kafka);
		kafka('restart', $kafka);
	},
	'paused' => sub {
		sql("SELECT inbox.pause('transfers')");
		sql("SELECT inbox.resume('transfers')");
	},
	'postmaster killed' => sub {
		$node->kill9;
		start_again();
	},
	'server restarted' => sub {
		$node->restart;
	},
);

# All messages but the last part are there from the start; the faults come
# while they are processed.
my $parts = $faults + 1;
my $size = int(@lines / $parts) + 1;
my $due = 0;
foreach my $part (1 .. $parts)
{
	my @part = splice @lines, 0, $size;
	produce_with_headers($topic, $kafka, @part);
	kafka('alter-topic', $kafka, $topic, 'partitions=' . (6 + $part))
	  if $adds_partitions && $part < $parts;
	next if $part == $parts;
	wait_for_progress($due + 1);
	$due = processed();
	my $kind = 2 * (($part - 1) % (@kinds / 2));
	note("fault: $kinds[$kind], at " . processed());
	$kinds[ $kind + 1 ]->();
	$node->poll_query_until('postgres', 'SELECT true');
}

wait_for_progress($messages);
ok( $node->poll_query_until(
		'postgres',
		"SELECT lag = 0 AND retrying = 0 AND received = $sent FROM inbox.stat_subscription"),
	'everything was received') || diag(sql('TABLE inbox.stat_subscription; TABLE inbox.position'));
is(sql('SELECT count(*), count(DISTINCT event_id) FROM transfer'),
	"$messages|$messages", 'every message has had its effect once');
is(sql('SELECT sum(balance) FROM account'), $accounts * 1000, 'the sum is what it was');
is( sql('SELECT sum(processed) FROM inbox.position'),
	$messages, 'the counter of processed messages is right');
is( sql('SELECT sum(duplicates) FROM inbox.position'),
	$sent - $messages, 'and so is that of duplicates');
is( sql(
		'SELECT count(*) FROM (SELECT number, lag(number, 1, 0) OVER (PARTITION BY key ORDER BY id) AS before FROM transfer) t WHERE number <> before + 1'
	),
	0, 'the order of each key was kept') unless $adds_partitions;
cmp_ok(sql("SELECT count(*) FROM inbox.message WHERE attempts > 0"),
	'>', $messages / 200, 'handlers did fail');

done_testing();
