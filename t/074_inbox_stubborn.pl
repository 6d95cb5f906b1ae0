# Handlers that do not end: they catch the error that their time is over, and
# go on.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxInbox;
use OutboxTest;

my $node = new_server('inbox_stubborn', "max_worker_processes = 24\n");
create_extension($node, 'postgres');
subscribe_in($node);
$node->safe_psql('postgres', 'CREATE DATABASE dropped');
create_extension($node, 'dropped');

# A topic of its own, and a subscription whose handler does something about
# messages with the value "bad".
sub subscribe
{
	my ($db, $name, $body, $options) = @_;
	my $topic = make_topic(topic_name($name), 1);
	$node->safe_psql($db, <<SQL);
CREATE TABLE done_$name (id bigserial, value text);
CREATE FUNCTION handle_$name(m inbox.message) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	INSERT INTO done_$name (value) VALUES (inbox.payload_text(m));
	IF inbox.payload_text(m) = 'bad' THEN $body END IF;
END
\$\$;
SELECT inbox.subscribe('$name', ARRAY['$topic'], 'handle_$name', $options);
SQL
	return $topic;
}

# The process of a subscription that sleeps in its handler; waits for it.
sub sleeper
{
	my ($name) = @_;
	my $process = "FROM pg_stat_activity WHERE backend_type = 'outbox consumer' AND application_name = '$name'";
	$node->poll_query_until('postgres', "SELECT count(*) = 1 $process AND wait_event = 'PgSleep'")
	  or die "the handler of $name does not sleep\n";
	return sql("SELECT pid $process");
}

my $sleep = 'LOOP BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP;';
my $busy = 'LOOP BEGIN PERFORM 1; EXCEPTION WHEN OTHERS OR query_canceled OR assert_failure THEN NULL; END; END LOOP;';

# ---------------------------------------------------------------------------
# handler_timeout

my $short = "handler_timeout => '500 ms', retry_backoff => '10 ms', max_attempts => 2";
my %topics = (
	sleeps => subscribe('postgres', 'sleeps', $sleep, $short),
	busy => subscribe('postgres', 'busy', $busy, $short),
	late => subscribe('postgres', 'late', 'BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END;', $short));
foreach my $name (sort keys %topics)
{
	produce($topics{$name}, "a\t1", "a\t2", "b\tbad", "b\t3", "c\t4");
}
foreach my $name ('sleeps', 'busy')
{
	wait_for("SELECT count(*) = 1 FROM inbox.message WHERE subscription = '$name' AND status = 'failed' AND attempts = 2",
		"$name: the message is found, and fails");
	wait_for("SELECT count(*) = 4 FROM done_$name", "$name: others are handled");
	is(sql("SELECT string_agg(value, ' ' ORDER BY value) FROM done_$name"), '1 2 3 4', "$name: once each");
	wait_for("SELECT state = 'running' FROM inbox.stat_subscription WHERE name = '$name'", "$name: the subscription goes on");
	is( sql(<<SQL), 't', "$name: and tells what went wrong last");
SELECT last_error_at > m.error_at OR (last_error_at = m.error_at AND last_error = m.error)
FROM inbox.stat_subscription s JOIN inbox.message m ON m.subscription = s.name AND m.status = 'failed' WHERE s.name = '$name'
SQL
}
like(slurp_file($node->logfile), qr/LOG:  handler of subscription "sleeps" went on after handler_timeout/, 'so does the log');
wait_for('SELECT count(*) = 5 FROM done_late', 'who catches the error and ends has succeeded');

# ---------------------------------------------------------------------------
# Those who want it to leave

my $long = "handler_timeout => '1 day'";
foreach my $name ('paused', 'removed')
{
	my $topic = subscribe('postgres', $name, $sleep, $long);
	produce($topic, "a\t1", "a\tbad", "a\t2");
}
my @pids = map { sleeper($_) } 'paused', 'removed';
sql("SELECT inbox.pause('paused'), inbox.unsubscribe('removed', false)");
wait_for("SELECT count(*) = 0 FROM pg_stat_activity WHERE pid IN ($pids[0], $pids[1])", 'pause() and unsubscribe() end a handler that does not');
is(sql("SELECT state FROM inbox.stat_subscription WHERE name = 'paused'"), 'paused', 'the subscription is paused');
is(sql("SELECT count(*) FROM (TABLE done_paused UNION ALL TABLE done_removed) d WHERE value <> '1'"), 0, 'its batch was rolled back');
is(sql("SELECT coalesce(sum(attempts), 0) FROM inbox.message WHERE subscription = 'paused'"), 0, 'which counts as no attempt');
sql("SELECT inbox.resume('paused')");
sleeper('paused');

# One that takes its time, but ends.
my $topic = subscribe('postgres', 'slow', 'PERFORM pg_sleep(0.2);', $long);
produce($topic, map { "k\tbad" } 1 .. 20);
my $pid = sleeper('slow');
sql("SELECT inbox.pause('slow')");
wait_for("SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid", 'a slow handler is paused');
is(sql('SELECT count(*) FROM done_slow'), sql("SELECT processed FROM inbox.stat_subscription WHERE name = 'slow'"),
	'after its batch');
isnt(sql('SELECT count(*) FROM done_slow'), 0, 'which is not rolled back');

# ---------------------------------------------------------------------------
# Those who want it to end

$topic = subscribe('dropped', 'dropped', $sleep, $long);
produce($topic, "a\tbad");
sleeper('dropped');
sql('DROP DATABASE dropped');
is(sql("SELECT count(*) FROM pg_database WHERE datname = 'dropped'"), 0, 'its database can be dropped');

sleeper('paused');
$node->stop('fast');
ok(!-e $node->data_dir . '/postmaster.pid', 'the server stops');

done_testing();
