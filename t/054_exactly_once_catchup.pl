# A catch-up with exact deliveries is many Kafka transactions.  Whoever is
# killed meanwhile, it goes on where it was, a consumer of committed messages
# sees each event once and in order, and never a part of a transaction.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $keys = 50;
my $writers = 8;
my $each = 115;    # transactions of a writer, of 10 to 100 events

my $kafka = own_kafka('once_catchup');
my $bootstrap = kafka_bootstrap($kafka);
my $topic = make_topic(topic_name('caught-up'), 1, dir => $kafka);
my $node = new_server('once_catchup', <<'CONF');
restart_after_crash = on
statement_timeout = '100s'
outbox.transaction_interval = '10ms'
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

# The ledger: each transaction notes how many events it publishes, and each key
# counts its events.  An event tells its transaction and its number for the key.
create_counter($node, $topic);
sql(<<SQL);
CREATE TABLE gate ();
CREATE TABLE done (transaction serial PRIMARY KEY, events integer);
INSERT INTO counter SELECT generate_series(1, $keys);
CREATE FUNCTION begin_transaction(n integer) RETURNS integer LANGUAGE sql AS
	'INSERT INTO done (events) VALUES (n) RETURNING transaction';
-- Five keys a transaction, locked in order, with others at work in between.
CREATE PROCEDURE write(transactions integer) LANGUAGE plpgsql AS \$\$
DECLARE
	size integer;
	t integer;
	k integer;
BEGIN
	PERFORM pg_advisory_lock_shared(1);
	PERFORM FROM gate;
	FOR i IN 1 .. transactions LOOP
		size := 2 + random() * 18;
		t := begin_transaction(5 * size);
		FOR k IN SELECT key FROM (SELECT key FROM counter WHERE key BETWEEN 1 AND $keys ORDER BY random() LIMIT 5) five ORDER BY key LOOP
			PERFORM publish_some(t, k, size);
			PERFORM pg_sleep(0.001);
		END LOOP;
		COMMIT;
	END LOOP;
END
\$\$;
-- Before and after all that the others write.
CREATE PROCEDURE span(k integer, n integer) LANGUAGE plpgsql AS \$\$
DECLARE
	t integer := begin_transaction(2 * n);
BEGIN
	PERFORM publish_some(t, k, n);
	PERFORM pg_advisory_lock_shared(2);
	PERFORM pg_advisory_lock(1);
	PERFORM pg_advisory_unlock(1);
	PERFORM publish_some(t, k, n);
END
\$\$;
INSERT INTO counter VALUES (0), ($keys + 1);
SQL

sub wait_for
{
	my ($condition) = @_;
	$node->poll_query_until('postgres', "SELECT $condition")
	  or die "this does not come true: $condition\n";
	return;
}

sub wait_for_locks
{
	my ($number, $count) = @_;
	wait_for("(SELECT count(*) = $count FROM pg_locks WHERE locktype = 'advisory' AND objid = $number AND mode = 'ShareLock' AND granted)"
	);
	return;
}

# Loads the library or does not, which restarts the server.
sub load_library
{
	my ($library) = @_;
	$node->append_conf('postgresql.conf',
		"shared_preload_libraries = '$library'\n");
	$node->restart;
	return;
}

# What is committed, on Kafka, so much at least: messages as lists of key,
# transaction, number.
sub committed
{
	my ($count) = @_;
	return map { [/^(\d+) "(\d+)\/(\d+)"$/] }
	  committed_lines($count, $topic, '%k %s', $bootstrap);
}

# What is wrong with what is on Kafka, which are so many events at least;
# returns how many.  So many may come again as are allowed to.
sub check_now
{
	my ($name, $count, $allowed) = @_;
	my %size = map { split /\|/ } split /\n/,
	  sql('SELECT transaction, events FROM done');
	my (%there, %seen, %last);
	my ($disorder, $repeated) = (0, 0);
	foreach (committed($count))
	{
		my ($key, $transaction, $number) = @$_;
		if ($there{"$key $number"}++)
		{
			$repeated++;
			next;
		}
		$seen{$transaction}++;
		$disorder++ if $number != ++$last{$key};
	}
	my @parts = grep { $seen{$_} != $size{$_} } keys %seen;
	is("@parts", '', "$name: no transaction is seen in part");
	is($disorder, 0, "$name: each key in order, without gaps");
	cmp_ok($repeated, '<=', $allowed || 0, "$name: each event once");
	return scalar keys %there;
}

sub lose_slot
{
	sql('SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots');
	return;
}

# Changes options of the server; ends the relay, which may be in the middle of
# a catch-up, and waits for the next.
sub set_options
{
	my ($options) = @_;
	my $pid = relay_pid($node, 'postgres');
	sql("ALTER SERVER kafka OPTIONS ($options)");
	sql("SELECT pg_terminate_backend($pid, 10000)");
	wait_for("coalesce(pid, 0) NOT IN (0, $pid) FROM outbox.stat_relay");
	return;
}

# One event a request and one request at a time.
sub walk
{
	set_options(
		q{ADD "batch.num.messages" '1', ADD "queue.buffering.max.messages" '1'}
	);
	wait_for_state($node, 'postgres', 'streaming');
	return;
}

sub run
{
	set_options(
		'DROP "batch.num.messages", DROP "queue.buffering.max.messages"');
	return;
}

# How far the catch-up had come that was the first to go on, according to a
# part of the log; -1 when none did.
sub resumption
{
	my ($from, $to) = @_;
	my $log = substr slurp_file($node->logfile, $from), 0, $to - $from;
	return $log =~ /DETAIL:  (\d+) of its \d+ events are on Kafka/ ? $1 : -1;
}

sub finish_all
{
	foreach my $session (@_)
	{
		$session->finish or die "a session that writes has failed\n";
	}
	return;
}

# ---------------------------------------------------------------------------
# The slot is lost together with all that was in memory.

sql('SELECT publish_some(begin_transaction(10), 1, 10)');
wait_until_confirmed($node, 'postgres');
walk();
load_library('');
sql("BEGIN; LOCK gate; PREPARE TRANSACTION 'gate'");
my @sessions = map { start_psql($node, 'postgres', "CALL write($each)") } 1 .. $writers;
wait_for_locks(1, $writers);
push @sessions, start_psql($node, 'postgres', 'CALL span(0, 10)');
push @sessions,
  start_psql($node, 'postgres', "CALL span($keys + 1, 600)");
wait_for_locks(2, 2);
sql("COMMIT PREPARED 'gate'");
finish_all(@sessions);
my $pending = sql('SELECT sum(events) - 10 FROM done');
cmp_ok($pending, '>', 40_000, "$pending events are pending");
lose_slot();
load_library('outbox');

# With each fault, what is on Kafka before it, and where its part of the log
# begins.
my $done = 0;
my (@before, @offsets);

sub wait_for_fault
{
	$done = wait_for_catchup_progress($node, 'postgres', $done + 1000);
	push @before, $done;
	push @offsets, -s $node->logfile;
	return;
}

foreach my $round (1 .. 4)
{
	wait_for_fault();
	my $pid = relay_pid($node, 'postgres');
	kill 'KILL', $pid;
	$node->poll_query_until('postgres',
		"SELECT coalesce(pid, 0) NOT IN (0, $pid) FROM outbox.stat_relay")
	  or die "no relay after a crash\n";
	cmp_ok(check_now("relay killed, $round", $done),
		'>=', $done, 'all is there that was told of');
}
wait_for_fault();
$node->stop('immediate');
$node->start;
check_now('server stopped at once', $done);
wait_for_fault();
cmp_ok($done, '<', $pending, "after all that it is still under way: $done");
run();
wait_for_state($node, 'postgres', 'streaming');

push @offsets, -s $node->logfile;
my @resumed = map { resumption(@offsets[ $_, $_ + 1 ]) } 0 .. $#before;
ok(!grep({ $_ < 0 } @resumed), 'after each fault a relay has gone on with it');
my @behind = grep { $resumed[$_] < $before[$_] } 0 .. $#before;
is("@behind", '', "where the one before it was: @resumed, after @before");

is(check_now('in the end', $pending + 10),
	$pending + 10, 'in the end: all events are there');
is(sql('SELECT count(*) FROM outbox.catchup'),
	'0', 'progress is forgotten when all is done');
wait_for("NOT EXISTS (SELECT FROM outbox.events WHERE status <> 'published')");
pass('and everything counts as published');

# ---------------------------------------------------------------------------
# Its Kafka transactions

my $system = sql('SELECT system_identifier FROM pg_control_system()');
my $oid = sql("SELECT oid FROM pg_database WHERE datname = 'postgres'");
my @records = consume("outbox.progress.$system.$oid", $bootstrap,
	'-X', 'isolation.level=read_committed');
my @parts =
  map { $_->{payload} =~ /"catchup".*"last_id": (\d+)/ ? $1 : () } @records;
cmp_ok(scalar @parts, '>=', 10, scalar(@parts) . ' Kafka transactions');
is("@parts", join(' ', sort { $a <=> $b } @parts), 'each goes on from the one before');

# ---------------------------------------------------------------------------
# Changing the delivery while a catch-up is under way, and before

set_options("SET delivery 'at_least_once'");
walk();
load_library('');
@sessions =
  map { start_psql($node, 'postgres', "CALL write($each)") } 1 .. $writers;
finish_all(@sessions);
my $all = sql('SELECT sum(events) FROM done');
lose_slot();
load_library('outbox');
$done = 0;
foreach my $delivery (qw(exactly_once at_least_once exactly_once at_least_once))
{
	$done = wait_for_catchup_progress($node, 'postgres', $done + 1000);
	set_options("SET delivery '$delivery'");
}
$done = wait_for_catchup_progress($node, 'postgres', $done + 1000);
cmp_ok($done, '<', $all / 2, "it is still under way: $done");
is(sql('SELECT count(*) FROM outbox.exactly_once'),
	'1', 'a catch-up that has become exact is so to its end');
run();
wait_for_state($node, 'postgres', 'streaming');
wait_for('NOT EXISTS (SELECT FROM outbox.exactly_once)');
pass('then the delivery has changed');

# What was in flight, at least once, when the first relay was terminated may
# have come again.
is(check_now('delivery changed', $all, 50),
	$all, 'delivery changed: all events are there');

$node->stop;
done_testing();
