# Exactly once, whatever happens: faults of all kinds while messages are
# consumed; at the end each message has had its effect once, in order.
#
# INBOX_FIRE_MESSAGES is the number of messages (20000); INBOX_FIRE_FAULTS that
# of faults (8), which are of six kinds in turn; INBOX_FIRE_PARTITIONS=add adds
# partitions on the way, which moves keys, so that only their order is not
# compared; INBOX_FIRE_SEED repeats the messages of a run.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

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

# Transfers between accounts, in random order; and a counter of each key.
sql(<<SQL);
CREATE TABLE pace (pause float8 NOT NULL);
INSERT INTO pace VALUES (0.001);
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
	PERFORM pg_sleep(pause) FROM pace;
	IF m.attempts = 0 AND hashtext(m.event_id) % 100 = 0 THEN
		RAISE 'one in a hundred fails at first';
	END IF;
END
\$\$;
CREATE TABLE counter (key text PRIMARY KEY, n integer NOT NULL);
CREATE FUNCTION count_keys(m inbox.message[]) RETURNS void LANGUAGE sql AS \$\$
	INSERT INTO counter SELECT aggregate_id, count(*) FROM unnest(m) GROUP BY 1 ORDER BY 1
		ON CONFLICT (key) DO UPDATE SET n = counter.n + excluded.n
\$\$;
SQL

# Each transfer has a number of its own among those of its key; one in twenty
# is sent again, a while later.
my (@lines, %number, @again);
foreach my $i (1 .. $messages)
{
	my $from = 1 + int rand $accounts;
	my $to = 1 + int rand $accounts;
	my $line = sprintf "id:m%d,type:Transfer\t%d\t"
	  . '{"from": %d, "to": %d, "amount": %d, "number": %d}',
	  $i, $from, $from, $to, 1 + int rand 10, ++$number{$from};
	push @lines, $line;
	push @again, $line if rand() < 0.05;
	push @lines, shift @again if @again > 50;
}
push @lines, @again;
my $sent = @lines;

# How many transfers were made; -1 while the server does not answer.
sub processed
{
	my ($code, $output) = $node->psql('postgres', 'SELECT count(*) FROM transfer');
	return $code == 0 ? $output : -1;
}

# Waits for so many transfers, as long as there is progress now and then;
# returns how many there are.
sub wait_for_progress
{
	my ($count) = @_;
	my $patience = 3 * $PostgreSQL::Test::Utils::timeout_default;
	my $deadline = time + $patience;
	my $most = -1;
	while (time < $deadline)
	{
		my $processed = processed();
		return $processed if $processed >= $count;
		$deadline = time + $patience if $processed > $most;
		$most = $processed if $processed > $most;
		usleep(50_000);
	}
	my ($code, $output, $error) =
	  $node->psql('postgres', 'SELECT * FROM inbox.stat_subscription; SELECT * FROM inbox.consumer_status()');
	die "$most of $count transfers, and no progress any more:\n$output$error\n";
}

# Waits until the server answers with true; dies when it does not.
sub wait_until
{
	my ($query, $what) = @_;
	$node->poll_query_until('postgres', $query) or die "in vain: $what\n";
	return;
}

# The processes that make transfers; waits until there are any.
sub transfer_pids
{
	my $query = "SELECT pid FROM inbox.consumer_status() WHERE subscription = 'transfers' AND pid IS NOT NULL";
	my @pids;
	until (@pids == 2)
	{
		wait_until("SELECT count(*) = 2 FROM ($query) p", 'two workers run');
		@pids = split /\n/, sql($query);
	}
	return @pids;
}

# The server starts once the processes of the killed one have gone.
sub start_again
{
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	until ($node->start(fail_ok => 1))
	{
		die "the server does not start: " . slurp_file($node->logfile) . "\n"
		  if time > $deadline;
		usleep(100_000);
		$node->stop('fast', fail_ok => 1);
	}
	return;
}

# Does what may take long on a busy machine, while handlers work slowly: so
# that there is work left when it is done.
sub meanwhile_slowly
{
	my ($code) = @_;
	sql('UPDATE pace SET pause = 0.05');
	$code->();
	sql('UPDATE pace SET pause = 0.001');
	return;
}

my @kinds = (
	'worker terminated' => sub {
		my ($pid) = transfer_pids();
		sql("SELECT pg_terminate_backend($pid)");
		wait_until("SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid",
			'the worker has ended');
	},
	'worker killed' => sub {
		my ($pid) = transfer_pids();
		my $offset = -s $node->logfile;
		kill 'KILL', $pid or die "cannot kill worker $pid: $!\n";
		wait_for_log($node, qr/all server processes terminated; reinitializing/, $offset);
	},
	'broker killed' => sub {
		meanwhile_slowly(sub {
			kafka('kill', $kafka);
			kafka('restart', $kafka);
		});
	},
	'paused' => sub {
		sql("SELECT inbox.pause('transfers')");
		wait_until("SELECT state = 'paused' FROM inbox.stat_subscription WHERE name = 'transfers'",
			'the subscription is paused');
		wait_until("SELECT count(pid) = 0 FROM inbox.consumer_status() WHERE subscription = 'transfers'",
			'its workers have left');
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

# The messages between two faults are a part; some are left after the last
# fault.  All are there from the start; but where partitions are added, only the
# first three, and then one with each fault.
my $parts = $faults + 3;
my $size = int(@lines / $parts) + 1;
my $produced = 0;

sub produce_part
{
	my @part = splice @lines, 0, $_[0];
	produce_with_headers($topic, $kafka, @part) if @part;
	$produced += @part;
	return;
}

produce_part($adds_partitions ? 3 * $size : $sent);
sql(<<SQL);
SELECT inbox.subscribe('transfers', ARRAY['$topic'], 'transfer', workers => 2, batch_size => 200, retry_backoff => '100 ms');
SELECT inbox.subscribe('counts', ARRAY['$topic'], 'count_keys', batch_size => 200);
SQL

my %happened;
my $idle = 0;
foreach my $fault (1 .. $faults)
{
	my $kind = 2 * (($fault - 1) % (@kinds / 2));
	my $at = wait_for_progress(int(($fault - 0.5) * $messages / $parts));
	$idle++ if sql("SELECT sum(received) >= $produced FROM inbox.stat_subscription WHERE name = 'transfers'") eq 't';
	note("fault $fault: $kinds[$kind], after $at transfers");
	$kinds[ $kind + 1 ]->();
	$happened{ $kinds[$kind] }++;
	$node->wait_until_up;
	next unless $adds_partitions;
	meanwhile_slowly(sub {
		kafka('alter-topic', $kafka, $topic, 'partitions=' . (6 + $fault));
		produce_part($size);
	});
}
produce_part(scalar @lines);
note('faults: ' . join(', ', map { "$_ $happened{$_}" } sort keys %happened));
is($idle, 0, 'the faults came while there was work');

wait_for_progress($messages);
ok( $node->poll_query_until(
		'postgres',
		"SELECT bool_and(lag = 0 AND retrying = 0 AND received = $sent) FROM inbox.stat_subscription"),
	'everything was received') || diag(sql('TABLE inbox.stat_subscription; TABLE inbox.position'));
is(sql('SELECT count(*), count(DISTINCT event_id) FROM transfer'),
	"$messages|$messages", 'every message has had its effect once');
is(sql('SELECT sum(balance) FROM account'), $accounts * 1000, 'the sum is what it was');
is(sql('SELECT sum(n) FROM counter'), $messages, 'every message was counted once');
is( sql('SELECT count(*) FROM counter FULL JOIN (SELECT key, count(*) FROM transfer GROUP BY 1) t USING (key) WHERE n IS DISTINCT FROM count'),
	0, 'for its key');
is( sql("SELECT string_agg(DISTINCT processed::text, ' ') FROM inbox.stat_subscription"),
	$messages, 'the counters of processed messages are right');
is( sql("SELECT string_agg(DISTINCT duplicates::text, ' ') FROM inbox.stat_subscription"),
	$sent - $messages, 'and so are those of duplicates');
is( sql(
		'SELECT count(*) FROM (SELECT number, lag(number, 1, 0) OVER (PARTITION BY key ORDER BY id) AS before FROM transfer) t WHERE number <> before + 1'
	),
	0, 'the order of each key was kept') unless $adds_partitions;
is( sql('SELECT count(*) FROM transfer t JOIN inbox.message m USING (event_id) WHERE hashtext(t.event_id) % 100 = 0 AND m.subscription = \'transfers\' AND m.attempts = 0'),
	0, 'each handler that was to fail did');
cmp_ok(sql("SELECT count(*) FROM inbox.message WHERE subscription = 'transfers' AND attempts > 0"),
	'>', $messages / 200, 'one in a hundred');
note(sql('SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()') . ' deadlocks');
unlike(slurp_file($node->logfile), qr/PANIC|signal 11|TRAP/, 'no process has crashed by itself');

done_testing();
