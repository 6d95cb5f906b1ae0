# What becomes of messages whose handler fails, in whatever way.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxInbox;
use OutboxTest;

my $node = new_server('inbox_failures',
	"max_worker_processes = 16\nrestart_after_crash = on\n");
create_extension($node, 'postgres');
subscribe_in($node);

sub done
{
	my ($name) = @_;
	return sql("SELECT string_agg(key || value, ' ' ORDER BY id) FROM done_$name");
}

# ---------------------------------------------------------------------------
# Errors

sql('CREATE TABLE obstacle AS SELECT 1 AS a');
my $topic = subscribe_noting('obstructed', <<'SQL', { retry_backoff => "'300 ms'", max_attempts => 1000 });
	IF v = 'bad' AND EXISTS (SELECT FROM obstacle) THEN
		PERFORM nextval('tries_obstructed');
		RAISE 'not yet' USING ERRCODE = 'P0042';
	END IF;
SQL
produce($topic, "a\t1", "b\tbad", "a\t2", "b\t3", "c\t4", "b\t5");
wait_for("SELECT count(*) = 3 FROM done_obstructed WHERE key <> 'b'",
	'other keys go on while one waits');
wait_for("SELECT count(*) = 3 FROM inbox.message WHERE subscription = 'obstructed' AND aggregate_id = 'b'",
	'later messages of the key are stored');
is( sql("SELECT string_agg(status || (attempts > 0) || coalesce(error, '') || coalesce(error_sqlstate, ''), ' ' ORDER BY \"offset\") FROM inbox.message WHERE subscription = 'obstructed' AND aggregate_id = 'b'"
	),
	'pendingtruenot yetP0042 pendingfalse pendingfalse',
	'the error is stored, and they wait');
like(sql("SELECT error_context FROM inbox.message WHERE subscription = 'obstructed' AND attempts > 0"),
	qr/handle_obstructed/, 'with its context');
sql('TRUNCATE obstacle');
wait_for('SELECT count(*) = 6 FROM done_obstructed', 'the key goes on when its message succeeds');
is( sql("SELECT string_agg(value, ' ' ORDER BY id) FROM done_obstructed WHERE key = 'b'"),
	'bad 3 5', 'in order');
is( sql("SELECT status, attempts = (SELECT last_value - 1 FROM tries_obstructed) FROM inbox.message WHERE subscription = 'obstructed' AND attempts > 0"
	), 'processed|t', 'the attempts are counted, but for the first, with the batch');

$topic = subscribe_noting('never', <<'SQL', { retry_backoff => "'10 ms'", max_attempts => 3 });
	IF v = 'bad' THEN PERFORM nextval('tries_never'); RAISE 'never'; END IF;
SQL
produce($topic, "a\tbad", "a\t2");
wait_for('SELECT count(*) = 1 FROM done_never', 'after the last attempt the key goes on');
is(sql('SELECT last_value FROM tries_never'), 4, 'first with the batch, and max_attempts times alone');
is(sql("SELECT status, attempts FROM inbox.message WHERE subscription = 'never' AND status <> 'processed'"),
	'failed|3', 'the message has failed');

$topic = subscribe_noting('stopping', <<'SQL', { max_attempts => 1, on_failure => "'stop'" });
	IF v = 'bad' AND nextval('tries_stopping') <= 2 THEN RAISE 'never'; END IF;
SQL
produce($topic, "a\t1", "a\tbad", "b\t3");
wait_for("SELECT stopped_by IS NOT NULL FROM inbox.subscription WHERE name = 'stopping'",
	'on_failure = stop stops the subscription');
is(done('stopping'), 'a1', 'nothing after the message is processed');
produce($topic, "c\t4");
is(sql("SELECT inbox.retry('stopping', (SELECT stopped_by FROM inbox.subscription WHERE name = 'stopping'))"), 1,
	'the message can be tried again');
wait_for('SELECT count(*) = 4 FROM done_stopping', 'then it goes on');
is(done('stopping'), 'a1 abad b3 c4', 'with nothing left out');

$topic = subscribe_noting('serial', <<'SQL', {});
	IF v = 'bad' AND nextval('tries_serial') <= 10 THEN
		RAISE 'once more' USING ERRCODE = 'serialization_failure';
	END IF;
	IF v = 'worse' AND nextval('tries_serial') <= 15 THEN
		RAISE 'once more' USING ERRCODE = 'deadlock_detected';
	END IF;
SQL
produce($topic, "a\t1", "a\tbad", "a\tworse");
wait_for('SELECT count(*) = 3 FROM done_serial', 'serialization failures and deadlocks are retried');
is(sql("SELECT sum(attempts) FROM inbox.message WHERE subscription = 'serial'"), 0,
	'without counting as attempts');

$topic = subscribe_noting('slow', <<'SQL', { handler_timeout => "'1 s'", max_attempts => 4, retry_backoff => "'10 ms'" });
	IF v = 'bad' THEN LOOP END LOOP; END IF;
SQL
produce($topic, "a\t1", "b\tbad", "c\t3");
wait_for('SELECT count(*) = 2 FROM done_slow', 'a handler that runs for ever holds nobody up');

# When the process does not come to that, it is ended for good.
wait_for("SELECT count(*) = 1 FROM inbox.message WHERE subscription = 'slow' AND error_sqlstate = '57014' AND error = 'handler was canceled after handler_timeout (1000 ms)'",
	'handler_timeout ends it, and says so');
wait_for("SELECT count(*) = 1 FROM inbox.message WHERE subscription = 'slow' AND status = 'failed' AND attempts = 4",
	'until it has been tried as often as it may');

$topic = subscribe_noting('memory', <<'SQL', { max_attempts => 1 });
	IF v = 'bad' THEN v := repeat('x', 2000000000); END IF;
SQL
produce($topic, "a\t1", "b\tbad", "c\t3");
wait_for('SELECT count(*) = 2 FROM done_memory', 'nor does one that asks for too much memory');

# ---------------------------------------------------------------------------
# The handler itself

$topic = subscribe_noting('dropped', '', {});
sql('ALTER FUNCTION handle_dropped RENAME TO handle_gone');
produce($topic, "a\t1");
wait_for("SELECT bool_or(error ~ 'handle_dropped') FROM inbox.consumer_status() WHERE subscription = 'dropped'",
	'a handler that is gone is reported');
sql('ALTER FUNCTION handle_gone RENAME TO handle_dropped');
wait_for('SELECT count(*) = 1 FROM done_dropped', 'and found when it is back');
is(sql("SELECT sum(attempts) FROM inbox.message WHERE subscription = 'dropped'"), 0,
	'which counts as no attempt');

# ---------------------------------------------------------------------------
# The end of the process

$topic = subscribe_noting('killer', <<'SQL', { max_attempts => 2, retry_backoff => "'10 ms'" });
	IF v = 'bad' THEN
		PERFORM pg_terminate_backend(pg_backend_pid());
		PERFORM pg_sleep(10);
	END IF;
SQL
produce($topic, (map { "k$_\t$_" } 1 .. 20), "b\tbad", (map { "k$_\t$_" } 21 .. 40));
wait_for('SELECT count(*) = 40 FROM done_killer', 'a handler that ends its process holds nobody up');
wait_for("SELECT count(*) = 1 FROM inbox.message WHERE subscription = 'killer' AND status = 'failed' AND attempts = 2",
	'the message is found and fails');
is(sql('SELECT count(DISTINCT value) FROM done_killer'), 40, 'nothing was done twice');

$topic = subscribe_noting('crasher', <<'SQL', { max_attempts => 2, retry_backoff => "'10 ms'" });
	IF v = 'bad' THEN
		COPY (SELECT 1) TO PROGRAM 'kill -9 $PPID; sleep 5';
	END IF;
SQL
produce($topic, (map { "k$_\t$_" } 1 .. 20), "b\tbad", (map { "k$_\t$_" } 21 .. 40));
sub survived
{
	my ($query) = @_;
	my $deadline = time + 2 * $PostgreSQL::Test::Utils::timeout_default;
	while (time < $deadline)
	{
		my ($code, $output) = $node->psql('postgres', $query);
		return 1 if $code == 0 && $output eq 't';
		select undef, undef, undef, 0.1;
	}
	return 0;
}
ok( survived(
		"SELECT (SELECT count(*) = 40 FROM done_crasher) AND EXISTS (SELECT FROM inbox.message WHERE subscription = 'crasher' AND status = 'failed' AND attempts = 2)"
	),
	'a handler that crashes the server is isolated too');
is(sql('SELECT count(DISTINCT value) FROM done_crasher'), 40, 'and nothing was done twice');
produce($topic, "z\tlast");
wait_for("SELECT count(*) = 1 FROM done_crasher WHERE key = 'z'", 'the worker goes on');

done_testing();
