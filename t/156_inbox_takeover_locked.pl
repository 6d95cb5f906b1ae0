# A worker that begins while another session has positions locked, as by inbox.seek()
# in a transaction that stays open: it takes the others over, says what it waits for,
# and nobody waits for it.  Nor does it wait for rows that it could do without.

use strict;
use warnings;

use lib 't';
use OutboxInbox;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('inbox_takeover_locked');
subscribe_in($node);
create_extension($node, 'postgres');
sql(<<'SQL');
CREATE TABLE effect (id bigserial, subscription text, value text);
CREATE TABLE obstacle (value text);
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF EXISTS (SELECT FROM obstacle WHERE value = inbox.payload_text(m)) THEN
		RAISE 'not yet';
	END IF;
	IF inbox.payload_text(m) = 'slow' THEN
		PERFORM pg_advisory_xact_lock(1);
	END IF;
	INSERT INTO effect (subscription, value) VALUES (m.subscription, inbox.payload_text(m));
END $$;
SQL
my $other = $node->background_psql('postgres');

sub effects
{
	my ($name, $values, $what) = @_;
	return wait_for("SELECT coalesce(string_agg(value, ' ' ORDER BY value), '') = '$values' FROM effect WHERE subscription = '$name'", $what);
}

sub state_is
{
	my ($name, $state, $what) = @_;
	return wait_for("SELECT state = '$state' FROM inbox.stat_subscription WHERE name = '$name'", $what);
}

sub error_is
{
	my ($name, $pattern, $what) = @_;
	return like(sql("SELECT last_error FROM inbox.stat_subscription WHERE name = '$name'"), $pattern, $what);
}

# Ends the workers of a subscription, and waits until others have begun.
sub begin_anew
{
	my ($name) = @_;
	my $pids = sql("SELECT string_agg(pid::text, ',') FROM inbox.consumer_status() WHERE subscription = '$name'");
	sql("SELECT pg_terminate_backend(pid) FROM inbox.consumer_status() WHERE subscription = '$name' AND pid IS NOT NULL");
	return wait_for("SELECT bool_and(pid IS NOT NULL AND pid NOT IN ($pids)) FROM inbox.consumer_status() WHERE subscription = '$name'", 'a worker begins');
}

# Whether any process of ours waits for a lock, at several looks.
sub nobody_waits
{
	my ($what) = @_;
	my $longest = 0;
	foreach (1 .. 20)
	{
		my $waiting = sql("SELECT coalesce(max(extract(epoch FROM clock_timestamp() - l.waitstart)), 0) FROM pg_locks l WHERE NOT l.granted");
		$longest = $waiting if $waiting > $longest;
		select undef, undef, undef, 0.1;
	}
	return cmp_ok($longest, '<', 0.5, $what);
}

sub send_to
{
	my ($topic, $partition, @values) = @_;
	return produce($topic, { partition => $partition }, map { "k\t$_" } @values);
}

# ---------------------------------------------------------------------------
# A position that there is

my $topic = make_topic(topic_name('Sought'), 3);
sql("SELECT inbox.subscribe('s', ARRAY['$topic'], 'handle')");
send_to($topic, $_, "a$_") foreach 0 .. 2;
effects('s', 'a0 a1 a2', 'messages of all partitions are handled');
$other->query_safe("BEGIN; SELECT inbox.seek('s', '$topic', 1, 1)");
begin_anew('s');
send_to($topic, $_, "b$_") foreach 0 .. 2;
effects('s', 'a0 a1 a2 b0 b2', 'those of other partitions are, while one is locked');
state_is('s', 'waiting for lock', 'the state says so');
error_is('s', qr/^the position of partition 1 of topic "\Q$topic\E" is locked by another transaction, such as one that has called inbox\.seek\(\)/, 'and last_error');
nobody_waits('and no worker waits with locks');
sql("SET lock_timeout = '20 s'; SELECT FROM inbox.position WHERE subscription = 's' AND partition <> 1 FOR UPDATE");
pass('nor anybody for the positions that it has');
$other->query_safe('ROLLBACK');
effects('s', 'a0 a1 a2 b0 b1 b2', 'after it the partition is read, too');
state_is('s', 'running', 'and the state is what it was');

# What the other one asked for counts, when it commits.
$other->query_safe("BEGIN; SELECT inbox.seek('s', '$topic', 2, 0, rerun => true)");
begin_anew('s');
state_is('s', 'waiting for lock', 'it waits again');
$other->query_safe('COMMIT');
effects('s', 'a0 a1 a2 a2 b0 b1 b2 b2', 'and goes on where it was sent to');
state_is('s', 'running', 'and runs');

# All of them, by who removes the subscription.
$other->query_safe("BEGIN; SELECT inbox.unsubscribe('s')");
begin_anew('s');
state_is('s', 'waiting for lock', 'a transaction with inbox.unsubscribe() is open: the state says so');
nobody_waits('and nobody waits');
$other->query_safe('ROLLBACK');
send_to($topic, 0, 'c0');
effects('s', 'a0 a1 a2 a2 b0 b1 b2 b2 c0', 'after it the subscription goes on');
state_is('s', 'running', 'and the state is what it was');

# ---------------------------------------------------------------------------
# A position that is being made: of a topic that is still to come

$other->quit;
$other = $node->background_psql('postgres');
my $new = topic_name('New');
sql("SELECT inbox.subscribe('n', ARRAY['^\Q$new\E'], 'handle')");
state_is('n', 'running', 'a subscription runs without a topic');
$other->query_safe("BEGIN; SELECT inbox.seek('n', '$new', 1, 1)");
make_topic($new, 3);
send_to($new, $_, "d$_") foreach 0 .. 2;
effects('n', 'd0 d2', 'its topic comes, and messages of other partitions are handled');
state_is('n', 'waiting for lock', 'while the first position of one is being made');
error_is('n', qr/^the position of partition 1 of topic "\Q$new\E" is locked/, 'and last_error says so');
nobody_waits('and nobody waits');
send_to($new, 1, 'e1');
$other->query_safe('COMMIT');
effects('n', 'd0 d2 e1', 'after it that partition is read from where was asked for');
sql("SELECT inbox.unsubscribe('n')");

# ---------------------------------------------------------------------------
# Rows that need not be changed now

$other->quit;
$other = $node->background_psql('postgres');
# A position in a partition that does not exist is not removed while it is locked.
sql("SELECT inbox.seek('s', '$topic', 7, 0)");
$other->query_safe("BEGIN; SELECT FROM inbox.position WHERE partition = 7 FOR UPDATE");
begin_anew('s');
foreach my $i (1 .. 8)
{
	send_to($topic, 0, "f$i");
	sql('SELECT pg_sleep(1)');
}
wait_for("SELECT count(*) = 8 FROM effect WHERE value ~ '^f'", 'a position that is to go and is locked holds up nobody');
is(sql("SELECT count(*) FROM inbox.position WHERE partition = 7"), 1, 'it is there');
$other->query_safe('ROLLBACK');
wait_for("SELECT count(*) = 0 FROM inbox.position WHERE partition = 7", 'and goes later');

# A new name of the role is noted later.
sql('TRUNCATE effect');
$other->query_safe('CREATE ROLE reader; GRANT USAGE ON FOREIGN SERVER kafka TO reader; GRANT ALL ON effect, obstacle, effect_id_seq TO reader; GRANT USAGE ON SCHEMA inbox TO reader; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA inbox TO reader');
sql("SET ROLE reader; SELECT inbox.subscribe('r', ARRAY['$topic'], 'handle', start => 'latest')");
state_is('r', 'running', 'a subscription of a role runs');
$other->query_safe("BEGIN; SELECT inbox.discard('r', 'no such message')");
sql('ALTER ROLE reader RENAME TO writer');
foreach my $i (1 .. 4)
{
	send_to($topic, 0, "g$i");
	sql('SELECT pg_sleep(1)');
}
wait_for("SELECT count(*) = 4 FROM effect WHERE subscription = 'r'", 'a role that has another name, while its subscription is locked, holds up nobody');
nobody_waits('and nobody waits');
$other->query_safe('ROLLBACK');
wait_for("SELECT role_name = 'writer' FROM inbox.subscription WHERE name = 'r'", 'the name is noted later');
sql("SELECT inbox.unsubscribe('r'), inbox.unsubscribe('s')");

# ---------------------------------------------------------------------------
# A message that has failed, is to be replaced by itself, and is locked

$other->quit;
$other = $node->background_psql('postgres');
$topic = make_topic(topic_name('Failed'), 1);
sql("TRUNCATE effect; INSERT INTO obstacle VALUES ('bad')");
sql("SELECT inbox.subscribe('f', ARRAY['$topic'], 'handle', max_attempts => 1, batch_size => 1)");
send_to($topic, 0, 'slow', 'bad', 'good');
wait_for("SELECT count(*) = 1 FROM inbox.message WHERE status = 'failed'", 'a message fails');
effects('f', 'good slow', 'others are handled');
my $holder = $node->background_psql('postgres');
$holder->query_safe('SELECT pg_advisory_lock(1)');
sql("SELECT inbox.seek('f', '$topic', 0, 0, rerun => true)");
wait_for("SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted", 'a rerun comes to the message in front of it');
my $id = sql("SELECT event_id FROM inbox.message WHERE status = 'failed'");
sql('DELETE FROM obstacle');
$other->query_safe("BEGIN; SELECT inbox.discard('f', '$id')");
$holder->query_safe('SELECT pg_advisory_unlock(1)');
state_is('f', 'waiting for lock', 'the failed one is discarded in a transaction that is open: the state says so');
nobody_waits('and the worker waits without a lock');
$other->query_safe('ROLLBACK');
effects('f', 'bad good good slow slow', 'after it the rerun goes on');
is(sql("SELECT count(*) FROM inbox.message WHERE status = 'failed'"), 0, 'and the message has not failed any more');

$other->quit;
$holder->quit;
$node->stop;
done_testing();
