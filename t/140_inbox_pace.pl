# A handler that takes long and comes to nothing, because what it depends on is
# away, is called ever more rarely, which shows; whoever changes something sees
# it at once, and other messages and subscriptions are not touched.

use strict;
use warnings;

use OutboxInbox;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_server('inbox_pace', "max_worker_processes = 20\n");
subscribe_in($node);
create_extension($node, 'postgres');
sql('CREATE TABLE away (value text)');

# What takes long and fails: messages whose value is like that.
my $body = "IF EXISTS (SELECT FROM away a WHERE v LIKE a.value) THEN PERFORM pg_sleep(0.3); RAISE 'no answer from %', v USING DETAIL = 'secret'; END IF;";
my %options = (batch_time => "'200 ms'", max_attempts => 1000, retry_backoff => "'100 ms'");

# A subscription that notes when its handler was called, whatever came of it.
my %topic;
sub subscribe
{
	my ($name, %more) = @_;
	$topic{$name} = subscribe_noting($name, "PERFORM nextval('tries_$name'); $body", { %options, %more });
	return;
}

sub tries { return sql("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM tries_$_[0]") }

# The state of a subscription, with a condition on its other columns.
sub wait_for_pause
{
	my ($name, $condition, $what) = @_;
	return wait_for("SELECT state = 'backing off' AND $condition FROM inbox.stat_subscription WHERE name = '$name'", $what);
}

# All of the messages, each once and in order of their key.
sub check_done
{
	my ($name, $n, $what) = @_;
	wait_for("SELECT count(*) >= $n FROM done_$name", "$what: all are handled");
	is(sql("SELECT count(*) || ' ' || count(DISTINCT value) FROM done_$name"), "$n $n", "$what: each once");
	is(sql("SELECT count(*) FROM (SELECT value::int < lag(value::int) OVER (PARTITION BY key ORDER BY id) AS back FROM done_$name) o WHERE back"),
		0, "$what: in order");
	wait_for("SELECT state = 'running' AND waiting = 0 AND lag = 0 AND received = $n AND processed = $n AND duplicates = 0 FROM inbox.stat_subscription WHERE name = '$name'",
		"$what: and counted once");
	return;
}

my @named = qw(waits retries seeks resumes changes leaves);
subscribe($_) foreach @named;
subscribe('other');
sql("INSERT INTO away VALUES ('%')");
my $began = time;
foreach my $name (@named)
{
	produce($topic{$name}, map { 'k' . $_ % 10 . "\t$_" } 1 .. 200);
}
wait_for_pause('waits', 'state_since IS NOT NULL', 'a slow handler that fails is backed off from');
like(sql("SELECT last_error FROM inbox.stat_subscription WHERE name = 'waits'"),
	qr/takes long and fails, so it is called again in \d+ s: no answer from \d+$/, 'it says why, without the detail');
my $since = sql("SELECT state_since FROM inbox.stat_subscription WHERE name = 'waits'");
wait_for_pause('waits', "last_error ~ ' in 4 s'", 'the pauses get longer');
cmp_ok(tries('waits'), '<=', 6, 'the handler was called a few times');
cmp_ok(time - $began, '>=', 3, 'in some seconds');
is(sql("SELECT waiting + retrying <= 12 AND lag >= 190 FROM inbox.stat_subscription WHERE name = 'waits'"), 't',
	'most messages have not used up an attempt, and count as lag');
is(sql("SELECT state_since FROM inbox.stat_subscription WHERE name = 'waits'"), $since, 'it is known since when');

# Others go on.
sql("CREATE OR REPLACE FUNCTION handle_other(m inbox.message) RETURNS void LANGUAGE sql AS \$\$ INSERT INTO done_other (key, value) VALUES (m.aggregate_id, inbox.payload_text(m)) \$\$");
produce($topic{other}, map { "k\t$_" } 1 .. 20);
check_done('other', 20, 'another subscription');

# It costs nothing meanwhile.
wait_for_pause($_, "last_error ~ ' in 16 s'", "a long pause of $_") foreach reverse @named;
my $pause_began = time;
is(sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = ANY ('{" . join(',', @named) . "}') AND xact_start < now() - interval '2 s'"),
	0, 'nobody stays in a transaction');

# What somebody does counts at once.
sql('DELETE FROM away');
sql("SELECT inbox.retry('retries')");
sql("SELECT inbox.seek('seeks', '$topic{seeks}', 0, 150)");
sql("SELECT inbox.pause('resumes')");
wait_for("SELECT state = 'paused' FROM inbox.stat_subscription WHERE name = 'resumes'", 'it can be paused');
sql("SELECT inbox.resume('resumes')");
sql("SELECT inbox.subscribe('changes', ARRAY['$topic{changes}'], 'handle_changes', max_attempts => 1000)");
sql("SELECT inbox.unsubscribe('leaves')");
wait_for("SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'leaves'", 'unsubscribed at once');
check_done($_, 200, $_) foreach qw(retries resumes changes);
wait_for("SELECT max(value::int) = 200 AND count(*) >= 51 FROM done_seeks", 'sought');
my $taken = time - $pause_began;
SKIP:
{
	skip "this machine is slow: $taken s", 1 if tries('waits') > 12;
	is(sql("SELECT state FROM inbox.stat_subscription WHERE name = 'waits'"), 'backing off',
		"before the pause of who does nothing is over ($taken s)");
}

# And by itself.
check_done('waits', 200, 'it goes on by itself');
$node->log_check('what was logged', 0,
	log_like => [
		qr/consumer of subscription "waits" backs off: its handler takes long and fails, with SQLSTATE P0001/,
		qr/consumer of subscription "waits" goes on/
	]);
my @lines = grep { /outbox consumer/ } split /\n/, slurp_file($node->logfile);
is(scalar(grep { /subscription "waits" backs off/ } @lines), 1, 'once');
is(scalar(grep { /no answer from/ } @lines), 0, 'without the words of the handler');
sql("SELECT inbox.unsubscribe('$_')") foreach grep { $_ ne 'leaves' } @named, 'other';

# Messages that are slow and fail by themselves do not hold up others.
subscribe('mixed');
sql("INSERT INTO away VALUES ('9__')");
produce($topic{mixed}, map { "bad$_\t9" . sprintf('%02d', $_) } 1 .. 5);
wait_for_pause('mixed', "last_error ~ ' in [24] s'", 'with nothing but those there are pauses');
foreach my $n (1 .. 10)
{
	produce($topic{mixed}, "k$n\t$n");
	wait_for("SELECT count(*) = $n FROM done_mixed", "message $n gets through");
}
cmp_ok(sql("SELECT min(attempts) FROM inbox.message WHERE subscription = 'mixed' AND status = 'pending'"), '>', 0, 'all of them are tried');
sql("DELETE FROM away; SELECT inbox.retry('mixed')");
wait_for('SELECT count(*) = 15 FROM done_mixed', 'they succeed in the end');
sql("SELECT inbox.unsubscribe('mixed')");

# One that has failed for good leaves nothing to wait for.
subscribe('last', max_attempts => 1);
sql("INSERT INTO away VALUES ('%')");
produce($topic{last}, "k\t1");
wait_for("SELECT failed = 1 AND state = 'running' AND lag = 0 FROM inbox.stat_subscription WHERE name = 'last'", 'nothing is left to wait for');
sql("SELECT inbox.unsubscribe('last'); DELETE FROM away");

# Of many messages at once a slow handler is called for all and for one.
my $arrays = make_topic(topic_name('arrays'));
sql(<<SQL);
CREATE SEQUENCE tries_arrays;
CREATE FUNCTION handle_arrays(m inbox.message[]) RETURNS void LANGUAGE plpgsql AS \$\$ BEGIN
	PERFORM nextval('tries_arrays'); PERFORM pg_sleep(0.3); RAISE 'no answer';
END \$\$;
SQL
produce($arrays, map { "k$_\t$_" } 1 .. 100);
sql("SELECT inbox.subscribe('arrays', ARRAY['$arrays'], 'handle_arrays', batch_time => '200 ms', max_attempts => 1000)");
wait_for("SELECT retrying >= 1 FROM inbox.stat_subscription WHERE name = 'arrays'", 'one of many has failed');
cmp_ok(tries('arrays'), '<=', 4, 'the handler was not called for half of them, and so on');
sql("SELECT inbox.unsubscribe('arrays')");

$node->stop;
done_testing();
