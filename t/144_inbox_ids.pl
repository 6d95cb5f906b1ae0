# Messages that have one id: in several topics, and with another content.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxInbox;
use OutboxTest;

my $node = new_server('inbox_ids', "max_worker_processes = 24\n");
create_extension($node, 'postgres');
subscribe_in($node);

# All of a topic was read, and what was to be run again was.
sub read_to
{
	my ($topic, $offset) = @_;
	return "(SELECT next_offset >= $offset AND rerun_until IS NULL FROM inbox.position WHERE topic = '$topic')";
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

# ---------------------------------------------------------------------------
# One id in two topics

my @topics = map { make_topic(topic_name("two$_"), 1) } 1, 2;
sql(<<SQL);
CREATE TABLE broken (value text);
INSERT INTO broken VALUES ('bad');
CREATE TABLE done_two (id bigserial, value text);
CREATE FUNCTION handle_two(m inbox.message) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	IF EXISTS (SELECT FROM broken WHERE value = inbox.payload_text(m)) THEN RAISE 'broken'; END IF;
	INSERT INTO done_two (value) VALUES (m.topic);
END
\$\$;
SELECT inbox.subscribe('two', ARRAY['$topics[0]', '$topics[1]'], 'handle_two', max_attempts => 1);
SQL
produce($_, { headers => ['id=same'] }, "k\tbad") foreach @topics;
wait_for("SELECT failed = 2 FROM inbox.stat_subscription WHERE name = 'two'", 'messages of two topics with one id fail');
sql('TRUNCATE broken');
is(sql("SELECT inbox.retry('two', 'same', topic => '$topics[1]')"), '1', 'one of them is tried again');
wait_for_done('two', $topics[1], 'and handled');
is(sql("SELECT inbox.discard('two', 'same', '$topics[1]')"), 'f', 'nothing is left of it');
is(sql("SELECT topic FROM inbox.message WHERE subscription = 'two' AND status = 'failed'"), $topics[0], 'the other one stays');
is(sql("SELECT inbox.discard('two', 'same')"), 't', 'until it is given up');
is(done('two'), $topics[1], 'and is not handled');

# A message that stops the subscription is told from others by its topic, too.
sql(<<SQL);
INSERT INTO broken VALUES ('bad');
SELECT inbox.subscribe('two', ARRAY['$topics[0]', '$topics[1]'], 'handle_two', max_attempts => 1, on_failure => 'stop');
SQL
produce($topics[0], { headers => ['id=stops'] }, "k\tbad");
wait_for("SELECT state = 'stopped' FROM inbox.stat_subscription WHERE name = 'two'", 'a message stops the subscription');
is(sql("SELECT stopped_by, stopped_topic FROM inbox.subscription"), "stops|$topics[0]", 'which says which one');
is(sql("SELECT inbox.retry('two', 'stops', '$topics[1]')"), '0', 'one of another topic');
is(sql("SELECT stopped_by FROM inbox.subscription WHERE name = 'two'"), 'stops', 'does not let it go on');
is(sql("SELECT inbox.discard('two', 'stops', '$topics[0]')"), 't', 'that one');
wait_for("SELECT state = 'running' FROM inbox.stat_subscription WHERE name = 'two'", 'does');

# ---------------------------------------------------------------------------
# One id with two contents, run again

my $topic = subscribe_noting('other', '', {});
produce($topic, { headers => ['id=x'] }, "k\ta", "k\tother");
produce($topic, "k\tb");
wait_for_done('other', 'a b', 'of two contents under one id the first is handled');
sql("SELECT inbox.seek('other', '$topic', 0, 1, rerun => true)");
wait_for_done('other', 'a b b', 'run again from the second on, that is not');
sql("SELECT inbox.seek('other', '$topic', 0, 0, rerun => true)");
wait_for_done('other', 'a b b a b', 'and the first one has its turn');
wait_for("SELECT @{[ read_to($topic, 3) ]}", 'all was read');
is(done('other'), 'a b b a b', 'and nothing more was handled');

# ---------------------------------------------------------------------------
# The same for one that has failed, when inbox.received has forgotten it

$topic = subscribe_noting('failed', "IF EXISTS (SELECT FROM broken WHERE value = v) THEN RAISE 'broken'; END IF;", { max_attempts => 1 });
produce($topic, { headers => ['id=y'] }, "k\tbad");
wait_for("SELECT failed = 1 FROM inbox.stat_subscription WHERE name = 'failed'", 'a message fails');
my $forget = "DELETE FROM inbox.received WHERE event_id = 'y'";
sql($forget);
produce($topic, { headers => ['id=y'] }, "k\tother");
wait_for("SELECT @{[ read_to($topic, 2) ]}", 'another content comes under its id');
is(sql("SELECT conflicts, duplicates, failed FROM inbox.stat_subscription WHERE name = 'failed'"), '1|1|1', 'and is counted as such');
sql($forget);
sql("SELECT inbox.seek('failed', '$topic', 0, 1, rerun => true)");
wait_for("SELECT @{[ read_to($topic, 2) ]}", 'it is run again');
is(sql("SELECT inbox.payload_text(m) FROM inbox.message m WHERE subscription = 'failed' AND status = 'failed'"), 'bad',
	'and does not take the place of the one that has failed');
sql('TRUNCATE broken');
sql("SELECT inbox.seek('failed', '$topic', 0, 0, rerun => true)");
wait_for_done('failed', 'bad', 'which is handled when it is run again');
wait_for("SELECT @{[ read_to($topic, 2) ]}", 'and all was read');
is(done('failed'), 'bad', 'it alone');

$node->stop;
done_testing();
