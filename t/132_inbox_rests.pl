# What waits and nobody reads any more; as much as a worker keeps in mind; and
# changes that others have prepared.

use strict;
use warnings;

use OutboxInbox;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = new_server('inbox_rests');
subscribe_in($node);
create_extension($node, 'postgres');
sql(<<'SQL');
CREATE TABLE effect (topic text, value text);
CREATE TABLE broken (value text);
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF EXISTS (SELECT FROM broken b WHERE inbox.payload_text(m) LIKE b.value) THEN
		RAISE 'it is broken';
	END IF;
	INSERT INTO effect VALUES (m.topic, inbox.payload_text(m));
END $$;
SQL

# Messages of a topic that is not named any more.
my ($old, $new) = map { make_topic(topic_name($_), 2) } qw(Old New);
sql("INSERT INTO broken VALUES ('%bad%')");
sql("SELECT inbox.subscribe('changed', ARRAY['$old', '$new'], 'handle', max_attempts => 100, retry_backoff => '100 ms')");
produce($old, "k\tbad one", "k\tbehind it", "j\tbad two");
produce($new, "k\tgood");
wait_for("SELECT retrying = 2 AND waiting = 3 FROM inbox.stat_subscription WHERE name = 'changed'", 'messages wait');
sql("SELECT inbox.subscribe('changed', ARRAY['$new'], 'handle', max_attempts => 100, retry_backoff => '100 ms')");
wait_for("SELECT state = 'running' FROM inbox.stat_subscription WHERE name = 'changed'", 'their topic is not named any more');
produce($old, "k\tnot for us");
sql('DELETE FROM broken');
wait_for("SELECT array_agg(value ORDER BY value) = ARRAY['bad one', 'bad two', 'behind it'] FROM effect WHERE topic = '$old'",
	'what was received is handled');
wait_for("SELECT waiting = 0 AND retrying = 0 AND state = 'running' FROM inbox.stat_subscription WHERE name = 'changed'",
	'and nothing waits any more');
produce($new, "k\tthe last");
wait_for("SELECT count(*) = 1 FROM effect WHERE value = 'the last'", 'the topic that is named is read');
is(sql("SELECT count(*) FROM effect WHERE value = 'not for us'"), 0, 'and the other one is not');
sql("SELECT inbox.subscribe('changed', ARRAY['$old', '$new'], 'handle')");
wait_for("SELECT count(*) = 1 FROM effect WHERE value = 'not for us'", 'until it is named again: it goes on where it was');

# A change that was prepared before the server was started.
sql("BEGIN; SELECT inbox.pause('changed'); PREPARE TRANSACTION 'rest'");
$node->restart;
wait_for("SELECT state = 'running' FROM inbox.stat_subscription WHERE name = 'changed'", 'a change that is prepared does not count');
sql("COMMIT PREPARED 'rest'");
wait_for("SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'outbox consumer'", 'until it is committed, after a restart too');
sql("SELECT inbox.unsubscribe('changed')");

# As many keys wait as a worker keeps in mind.  A slow machine takes its time.
$PostgreSQL::Test::Utils::timeout_default *= 4;
my $many = make_topic(topic_name('Many'));
sql("INSERT INTO broken VALUES ('%')");
sql("SELECT inbox.subscribe('full', ARRAY['$many'], 'handle', max_attempts => 2, retry_backoff => '1 h')");
produce($many, map { "$_\t$_" } 1 .. 101_500);
wait_for("SELECT state = 'full' FROM inbox.stat_subscription", 'what waits may be too much');
like(sql('SELECT last_error FROM inbox.stat_subscription'), qr/100000 keys wait/, 'it says why');
my $pid = sql('SELECT pid FROM inbox.consumer_status()');
my ($start, $before) = (time, cpu_of($pid));
produce($many, "more\t$_") foreach 1 .. 10;
sleep 1 while time < $start + 10;
my $used = cpu_of($pid) - $before;
note("it used $used seconds of ten");
cmp_ok($used, '<', 3, 'it does not burn processor time meanwhile');
my $session = $node->background_psql('postgres');
my $backend = $session->query_safe('SELECT pg_backend_pid()');
$before = cpu_of($backend);
$session->query_safe('TABLE inbox.stat_subscription');
$used = cpu_of($backend) - $before;
$session->quit;
note("the view used $used seconds");
cmp_ok($used, '<', 5, 'the view tells about many errors without much work');
my $log = -s $node->logfile;
sql('DELETE FROM broken');
sql("SELECT inbox.retry('full')");
wait_for("SELECT state = 'running' FROM inbox.stat_subscription", 'when fewer wait, it runs');
wait_for("SELECT max(value::integer) > 100000 FROM effect WHERE topic = '$many'", 'and reads on');
sql("SELECT inbox.unsubscribe('full')");

done_testing();
