# Exactly once, whatever happens: faults of all kinds while messages are
# consumed, and handlers that make trouble of all kinds; at the end each message
# has had its effect once, in order, and those that make trouble for ever, and
# nobody else, have failed.
#
# INBOX_FIRE_MESSAGES is the number of messages (20000); INBOX_FIRE_FAULTS that
# of faults (8), which are of eight kinds in turn; INBOX_FIRE_PARTITIONS=add adds
# partitions on the way, which moves keys, so that only their order is not
# compared; INBOX_FIRE_SEED repeats the messages of a run.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

use OutboxFire;
use OutboxTest;

my $messages = $ENV{INBOX_FIRE_MESSAGES} || 20_000;
my $faults = $ENV{INBOX_FIRE_FAULTS} || 8;
my $adds_partitions = ($ENV{INBOX_FIRE_PARTITIONS} || '') eq 'add';
my $seed = $ENV{INBOX_FIRE_SEED} || int(time) % 100_000;
my $accounts = 1000;
my $began = time;

srand $seed;
diag "seed $seed: INBOX_FIRE_SEED=$seed repeats this run";

my $kafka = own_kafka('fire');
my $topic = make_topic('transfers', 6, dir => $kafka);
my $remade = make_topic('remade', 1, dir => $kafka);
my $node = new_server('fire',
	"restart_after_crash = on\nmax_worker_processes = 24\nlog_statement = none\njit = off\n");
unaware_of_settings();
create_extension($node, 'postgres', kafka_bootstrap($kafka));

# Runs a statement, again if a handler has just crashed the server: so it must be
# one that may run twice.
sub sql
{
	my ($statements) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	my ($code, $output, $error);
	do
	{
		$node->wait_until_up if defined $code;
		($code, $output, $error) = $node->psql('postgres', $statements, on_error_stop => 1);
		return $output if $code == 0;
	} while (time < $deadline && $error =~ /the database system is|server closed the connection|could not connect|connection to server|terminating connection/);
	die "$statements: $error\n";
}

create_handlers($node, $topic, $remade, $accounts);

# Each transfer has a number of its own among those of its key; one in twenty
# is sent again, a while later.
my $trouble = choose_trouble($messages);
my (@lines, %number, @again);
foreach my $i (1 .. $messages)
{
	my $from = 1 + int rand $accounts;
	my $to = 1 + int rand $accounts;
	my $makes = $trouble->{$i};
	my $line = sprintf "id:m%d,type:Transfer\t%d\t"
	  . '{"from": %d, "to": %d, "amount": %d, "number": %d%s}',
	  $i, $from, $from, $to, 1 + int rand 10, ++$number{$from},
	  $makes ? qq(, "in": "$makes->{in}", "kind": "$makes->{kind}", "when": "$makes->{when}") : '';
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
	die "$most of $count transfers, and no progress any more:\n" . state_of_all();
}

sub state_of_all
{
	my ($code, $output, $error) = $node->psql('postgres', <<'SQL');
SELECT * FROM inbox.stat_subscription;
TABLE inbox.position;
SELECT * FROM inbox.consumer_status();
SELECT subscription, event_id, partition, "offset", status, attempts, error_sqlstate, error, next_attempt_at, convert_from(payload, 'UTF8')
	FROM inbox.message WHERE status <> 'processed';
SQL
	return "$output\n$error\n";
}

# Waits until the server answers with true; dies when it does not.
sub wait_until
{
	my ($query, $what) = @_;
	$node->poll_query_until('postgres', $query) or die "in vain: $what\n" . state_of_all();
	return;
}

# One of the processes that make transfers; waits until there is one that a
# function, which is given its number, can do something about.
sub with_worker
{
	my ($code) = @_;
	my $query = "SELECT min(pid) FROM inbox.consumer_status() WHERE subscription = 'transfers'";
	my ($done, $pid);
	until ($done)
	{
		wait_until("SELECT ($query) > 0", 'a worker runs');
		$pid = sql($query);
		$done = $pid && $code->($pid);
	}
	return $pid;
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

# Messages of the topic that is made anew, so many for each of its lives.
my $lives = 0;

sub live
{
	$lives++;
	produce($remade, { bootstrap => kafka_bootstrap($kafka) }, map { "k\tv$lives.$_" } 1 .. 20);
	return;
}

sub wait_for_life
{
	wait_until("SELECT count(*) >= 20 * $lives FROM remade", "what the topic has in life $lives is handled");
	return;
}

my $setting_rounds = 0;
my @kinds = (
	'worker terminated' => sub {
		my $pid = with_worker(sub { sql("SELECT pg_terminate_backend($_[0])") eq 't' });
		wait_until("SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid",
			'the worker has ended');
	},
	'worker killed' => sub {
		my $offset = -s $node->logfile;
		with_worker(sub { kill 'KILL', $_[0] });
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
	'settings changed' => sub {
		$setting_rounds++;
		my ($of_database, $of_role) = map { my $of = $_; join '', map { "ALTER $of SET $_;\n" } random_settings(4) } 'DATABASE postgres', 'ROLE shop';
		note("$of_database$of_role");
		meanwhile_slowly(sub {
			sql("ALTER DATABASE postgres RESET ALL; ALTER ROLE shop RESET ALL; $of_database $of_role ALTER ROLE shop SET app.round = '$setting_rounds'");
			wait_until("SELECT EXISTS (SELECT FROM setting_round WHERE round = '$setting_rounds')", 'the settings count');
		});
	},
	'topic made again' => sub {
		meanwhile_slowly(sub {
			wait_for_life();
			kafka('tool', $kafka, 'org.apache.kafka.tools.TopicCommand', '--delete', '--topic', $remade);
			wait_until("SELECT state IN ('waiting for kafka', 'topic replaced') FROM inbox.stat_subscription WHERE name = 'remade'",
				'the topic is missing');
			make_topic($remade, 1, dir => $kafka);
			live();
			wait_until("SELECT state = 'topic replaced' FROM inbox.stat_subscription WHERE name = 'remade'",
				'it is seen that the topic is another one');
			sql("SELECT inbox.seek('remade', '$remade', 0, 'earliest')");
			wait_for_life();
		});
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
live();
sql("SET SESSION AUTHORIZATION shop; SELECT subscribe_again(name) FROM unnest(ARRAY['transfers', 'counts', 'bystander', 'remade']) name");

my %happened;
my $idle = 0;
my @jostling;
foreach my $fault (1 .. $faults)
{
	my $kind = 2 * (($fault - 1) % (@kinds / 2));
	push @jostling, start_psql($node, 'postgres', 'CALL jostle()');
	my $at = wait_for_progress(int(($fault - 0.5) * $messages / $parts));
	$idle++ if sql("SELECT sum(next_offset) >= $produced FROM inbox.position WHERE subscription = 'transfers'") eq 't';
	note(sprintf 'fault %d: %s, after %d transfers and %d seconds', $fault, $kinds[$kind], $at, time - $began);
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

# ---------------------------------------------------------------------------
# Those that always make trouble are found, and nobody else

my $at_rest = "bool_and(lag = 0 AND waiting = 0) FROM inbox.stat_subscription";
wait_for_progress($messages - scalar grep { defined $_->{sqlstate} } values %$trouble);
sub wait_for_rest
{
	my $deadline = time + 3 * $PostgreSQL::Test::Utils::timeout_default;
	while (time < $deadline)
	{
		return 1 if sql("SELECT $at_rest") eq 't'
		  && sql("SELECT bool_and(n = $sent) FROM (SELECT sum(next_offset) n FROM inbox.position WHERE topic = '$topic' AND seek_time IS NULL GROUP BY subscription) p") eq 't';
		usleep(100_000);
	}
	diag(state_of_all());
	return 0;
}
ok(wait_for_rest(), 'everything was read, and nothing waits');
note(sprintf 'at rest after %d seconds', time - $began);

my %failed = map { my ($in, $id, $sqlstate) = split /\|/; ("$in $id" => $sqlstate) } split /\n/,
  sql("SELECT subscription, event_id, error_sqlstate FROM inbox.message WHERE status = 'failed'");
foreach my $number (sort { $a <=> $b } grep { defined $trouble->{$_}{sqlstate} } keys %$trouble)
{
	my $makes = $trouble->{$number};
	like(delete $failed{"$makes->{in} m$number"} // 'did not fail', qr/^\w{5}$/, "$makes->{kind} in $makes->{in}, m$number, was found");
}

# Who was alone on its way each time that somebody else crashed the server, or kept
# it waiting, may have failed as well.
note('innocent: ' . join(', ', map { "$_ $failed{$_}" } sort keys %failed));
is(scalar(grep { !/^(57P02|57014|55P03)$/ } values %failed), 0, 'nobody has failed of itself without cause');
cmp_ok(scalar(keys %failed), '<=', $messages / 1000, 'and hardly anybody because of others');
is(sql("SELECT count(*) FROM transfer t JOIN inbox.message m USING (event_id) WHERE m.subscription = 'transfers' AND m.status = 'failed'"),
	0, 'none that has failed has had an effect');

# The order of each key, but for those.
sub is_in_order
{
	my ($table) = @_;
	return is( sql("SELECT count(*) FROM (SELECT number, lag(number, 1, 0) OVER (PARTITION BY key ORDER BY id) AS before FROM $table) t WHERE number <= before"),
		0, "$table: the order of each key was kept");
}
unless ($adds_partitions) { is_in_order($_) foreach qw(transfer counted bystander) }

# Sequences know that it was made, however that ended; but not of crashes.
my %made = map { $_ => sql(qq(SELECT last_value - (NOT is_called)::int FROM "made $_")) } kinds_of_trouble();
my %chosen = map { $_->{kind} => 1 } values %$trouble;
is(join(', ', grep { $_ ne 'crash' && !$made{$_} } sort keys %chosen), '', 'no kind of trouble was left out');
my $crashes = () = slurp_file($node->logfile) =~ /was terminated by signal 9/g;
note("$crashes crashes");
cmp_ok($crashes, '>', grep({ $_->{kind} eq 'crash' } values %$trouble), 'the server has crashed for those who crash it');

# ---------------------------------------------------------------------------
# When all is calm, what has failed succeeds

sql("INSERT INTO calm SELECT now() WHERE NOT EXISTS (SELECT FROM calm)");
sql("SELECT inbox.retry(name) FROM inbox.stat_subscription");
wait_for_progress($messages);
ok(wait_for_rest(), 'what has failed is tried again');
$_->finish foreach @jostling;
is(sql('SELECT sum(failed) FROM inbox.stat_subscription'), 0, 'and succeeds');
foreach my $table (qw(transfer counted bystander))
{
	is(sql("SELECT count(*), count(DISTINCT event_id) FROM $table"),
		"$messages|$messages", "$table: every message has had its effect once");
}
is(sql('SELECT sum(balance) FROM account'), $accounts * 1000, 'the sum is what it was');
is(sql("SELECT received, processed, duplicates FROM inbox.stat_subscription WHERE name = 'bystander'"),
	join('|', $sent, $messages, $sent - $messages), 'the counters of a subscription that nobody has moved are right');
is(sql('SELECT count(*), count(DISTINCT value) FROM remade'), join('|', 20 * $lives, 20 * $lives),
	'every message of a topic that was made again has had its effect once');
is( sql('SELECT count(*) FROM bystander t JOIN inbox.message m USING (event_id) WHERE hashtext(t.event_id) % 100 = 0 AND m.subscription = \'bystander\' AND m.attempts = 0'),
	0, 'each handler that was to fail did');
cmp_ok(sql("SELECT count(*) FROM inbox.message WHERE subscription = 'bystander' AND attempts > 0"),
	'>', $messages / 200, 'one in a hundred');
note(sql('SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()') . ' deadlocks');
note(sprintf '%d messages, %d of them with trouble, in %d seconds', $messages, scalar keys %$trouble, time - $began);
unlike(slurp_file($node->logfile), qr/PANIC|signal 11|TRAP/, 'no process has crashed by itself');

done_testing();
