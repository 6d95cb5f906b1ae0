# Messages with one id, and of one key, in whatever order they come, fail, and
# are sought, retried and discarded: each is handled once, and in order.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxInbox;
use OutboxTest;

my $node = new_server('inbox_same_id', "max_worker_processes = 24\n");
create_extension($node, 'postgres');
subscribe_in($node);

# A subscription whose handler notes what it handles, and fails for values that
# are in the table "broken".
sql('CREATE TABLE broken (value text)');
sub subscribe
{
	my ($name, $options, $partitions) = @_;
	my $topic = make_topic(topic_name($name), $partitions || 1);
	sql(<<SQL);
CREATE TABLE done_$name (id bigserial, value text);
CREATE FUNCTION handle_$name(m inbox.message) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	IF EXISTS (SELECT FROM broken WHERE value = inbox.payload_text(m)) THEN RAISE 'broken'; END IF;
	INSERT INTO done_$name (value) VALUES (inbox.payload_text(m));
END
\$\$;
SQL
	my $arguments = join '', map { ", $_ => $options->{$_}" } sort keys %$options;
	sql("SELECT inbox.subscribe('$name', ARRAY['$topic'], 'handle_$name'$arguments)");
	return $topic;
}

sub done
{
	my ($name) = @_;
	return sql("SELECT coalesce(string_agg(value, ' ' ORDER BY id), '') FROM done_$name");
}

sub wait_for_done
{
	my ($name, $values, $what) = @_;
	return wait_for("SELECT coalesce(string_agg(value, ' ' ORDER BY id), '') = '$values' FROM done_$name", $what)
	  || diag(done($name));
}

# The messages that are not processed: status, and attempts.
sub unprocessed
{
	my ($name) = @_;
	return "(SELECT coalesce(string_agg(status || ' ' || attempts, ', ' ORDER BY \"offset\"), 'none') FROM inbox.message WHERE subscription = '$name' AND status <> 'processed')";
}

sub read_to
{
	my ($name, $offset) = @_;
	return "(SELECT bool_and(next_offset >= $offset AND rerun_until IS NULL) FROM inbox.position WHERE subscription = '$name')";
}

my %once = (max_attempts => 1);
my %waits = (max_attempts => 1000, retry_backoff => "'1 h'");

# ---------------------------------------------------------------------------
# Failed, and run again

my $topic = subscribe('failed', \%once);
sql("INSERT INTO broken VALUES ('bad')");
produce($topic, "k\tbad", "k\t1");
wait_for("SELECT @{[ unprocessed('failed') ]} = 'failed 1'", 'a message fails');
sql("SELECT inbox.seek('failed', '$topic', 0, 0, rerun => true)");
wait_for("SELECT @{[ read_to('failed', 2) ]}", 'it is run again');
is(sql("SELECT @{[ unprocessed('failed') ]}"), 'failed 1', 'and has failed once, not twice');
is(sql("SELECT inbox.retry('failed')"), 1, 'it is one that is tried again');
wait_for("SELECT @{[ unprocessed('failed') ]} = 'failed 1'", 'in vain');
sql('TRUNCATE broken');
sql("SELECT inbox.seek('failed', '$topic', 0, 0, rerun => true)");
wait_for_done('failed', '1 1 bad 1', 'run again once more, it succeeds');
is(sql("SELECT @{[ unprocessed('failed') ]}"), 'none', 'and has not failed any more');
is(sql("SELECT inbox.retry('failed')"), 0, 'so that nothing is left to be tried again');

# ---------------------------------------------------------------------------
# Waiting, and run again

$topic = subscribe('waiting', \%waits);
sql("INSERT INTO broken VALUES ('bad')");
produce($topic, "k\tbad", "k\t1", "l\t1");
wait_for("SELECT @{[ unprocessed('waiting') ]} = 'pending 1, pending 0'", 'messages wait');
sql("SELECT inbox.seek('waiting', '$topic', 0, 0, rerun => true)");
wait_for_done('waiting', '1 1', 'what does not wait is run again');
wait_for("SELECT @{[ read_to('waiting', 3) ]}", 'all was read again');
is(sql("SELECT @{[ unprocessed('waiting') ]}"), 'pending 1, pending 0', 'what waits goes on waiting');
sql('TRUNCATE broken');
is(sql("SELECT inbox.retry('waiting')"), 1, 'it is tried again');
wait_for_done('waiting', '1 1 bad 1', 'and handled once, and what is behind it too');

# ---------------------------------------------------------------------------
# The same id again, when inbox.received has forgotten it

$topic = subscribe('forgotten', \%once);
sql("INSERT INTO broken VALUES ('bad')");
produce($topic, { headers => ['id=same'] }, "k\tbad");
wait_for("SELECT @{[ unprocessed('forgotten') ]} = 'failed 1'", 'a message with an id fails');
sql("DELETE FROM inbox.received WHERE event_id LIKE '%same'");
produce($topic, { headers => ['id=same'] }, "k\tbad");
produce($topic, "k\t1");
wait_for_done('forgotten', '1', 'the same one comes again');
is(sql("SELECT @{[ unprocessed('forgotten') ]} || (SELECT duplicates FROM inbox.stat_subscription WHERE name = 'forgotten')"),
	'failed 11', 'which is a repetition of the one that has failed');
sql('TRUNCATE broken');
sql("SELECT inbox.retry('forgotten')");
wait_for_done('forgotten', '1 bad', 'that is handled once when it is tried again');

# ---------------------------------------------------------------------------
# Two with one id, run again

$topic = subscribe('repeated', {});
produce($topic, { headers => ['id=twice'] }, "k\ta", "k\ta");
produce($topic, "k\tb");
wait_for_done('repeated', 'a b', 'of two messages with one id one is handled');
sql("SELECT inbox.seek('repeated', '$topic', 0, 0, rerun => true)");
wait_for_done('repeated', 'a b a b', 'and one when they are run again');
wait_for("SELECT @{[ read_to('repeated', 3) ]}", 'all was read again');
is(done('repeated'), 'a b a b', 'and no more');

# ---------------------------------------------------------------------------
# In front of what waits

$topic = make_topic(topic_name('before'), 1);
produce($topic, "k\told", "l\told");
sql(<<SQL);
CREATE TABLE done_before (id bigserial, value text);
CREATE FUNCTION handle_before(m inbox.message) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	IF EXISTS (SELECT FROM broken WHERE value = inbox.payload_text(m)) THEN RAISE 'broken'; END IF;
	INSERT INTO done_before (value) VALUES (inbox.payload_text(m));
END
\$\$;
INSERT INTO broken VALUES ('bad'), ('old');
SELECT inbox.subscribe('before', ARRAY['$topic'], 'handle_before', start => 'latest', max_attempts => 1000, retry_backoff => '100 ms');
SQL
wait_for("SELECT @{[ read_to('before', 2) ]}", 'a subscription begins at the end');
produce($topic, "k\tbad", "k\t1");
wait_for("SELECT (SELECT count(*) = 2 AND bool_or(attempts > 0) FROM inbox.message WHERE subscription = 'before' AND status = 'pending')", 'a key waits');
sql("SELECT inbox.seek('before', '$topic', 0, 0)");
wait_for("SELECT (SELECT count(*) = 4 FROM inbox.message WHERE subscription = 'before' AND status = 'pending')", 'older ones of the key are stored');
sql("TRUNCATE broken");
wait_for("SELECT @{[ unprocessed('before') ]} = 'none'", 'all are handled');
is(sql("SELECT string_agg(value, ' ' ORDER BY id) FROM done_before WHERE id NOT IN (SELECT id FROM done_before WHERE value = 'old' ORDER BY id DESC LIMIT 1)"),
	'old bad 1', 'those of the key in order');

# ---------------------------------------------------------------------------
# Several workers that stop

$topic = subscribe('stopping', { max_attempts => 1, on_failure => "'stop'", workers => 4 }, 4);
sql("INSERT INTO broken VALUES ('bad')");
sql("SELECT inbox.pause('stopping')");
produce($topic, { partition => $_ }, "k$_\tbad", "k$_\tp$_") foreach 0 .. 3;
sql("SELECT inbox.resume('stopping')");
foreach my $left (reverse 1 .. 4)
{
	wait_for("SELECT stopped_by IS NOT NULL FROM inbox.subscription WHERE name = 'stopping'", 'the subscription stops');
	is(sql("SELECT count(*) FROM inbox.message WHERE subscription = 'stopping' AND status = 'failed'"), 1,
		'at one message');
	is(done('stopping'), '', 'nothing goes on without one that has failed') if $left == 4;
	is(sql("SELECT inbox.discard('stopping', stopped_by) FROM inbox.subscription WHERE name = 'stopping'"), 't',
		'which is given up');
}
wait_for('SELECT count(*) = 4 FROM done_stopping', 'then all partitions go on');
sql('TRUNCATE broken');

# ---------------------------------------------------------------------------
# The first of a key is discarded while it is tried again

$topic = subscribe('discarded', { max_attempts => 1000, retry_backoff => "'20 ms'" });
sql("INSERT INTO broken VALUES ('bad')");
my @expected;
foreach my $round (1 .. 20)
{
	produce($topic, "k\tbad", "k\ta$round");
	wait_for("SELECT count(*) = 2 FROM inbox.message WHERE subscription = 'discarded' AND status = 'pending'", "two wait ($round)");
	produce($topic, "k\tb$round");
	sql("SELECT inbox.discard('discarded', event_id) FROM inbox.message WHERE subscription = 'discarded' AND payload = 'bad' AND status = 'pending'");
	push @expected, "a$round", "b$round";
	wait_for_done('discarded', "@expected", 'what was behind it is handled in order');
}

$node->stop;
done_testing();
