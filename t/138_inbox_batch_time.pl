# However slow the handler is, and whether or not it fails, a transaction ends
# after batch_time with what is done.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxInbox;
use OutboxTest;

my $node = new_server('inbox_batch_time', "max_worker_processes = 16\n");
create_extension($node, 'postgres');
subscribe_in($node);

# A subscription that takes its time for each message, and notes in which
# transaction it was.
sub subscribe
{
	my ($name, $argument, $body, $options) = @_;
	my $topic = make_topic(topic_name($name), 2);
	sql(<<SQL);
CREATE TABLE done_$name (id bigserial, value text, key text, xid xid8 DEFAULT pg_current_xact_id(), began timestamptz DEFAULT now(), at timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION handle_$name(m $argument) RETURNS void LANGUAGE plpgsql AS \$\$ BEGIN $body END \$\$;
SELECT inbox.subscribe('$name', ARRAY['$topic'], 'handle_$name', $options);
SQL
	return $topic;
}

my $slow = subscribe('slow', 'inbox.message', 'PERFORM pg_sleep(0.02); INSERT INTO done_slow (value, key) VALUES (inbox.payload_text(m), m.aggregate_id);',
	"batch_time => '200 ms'");
produce($slow, map { "k" . $_ % 7 . "\t$_" } 1 .. 200);
wait_for('SELECT count(*) = 200 FROM done_slow', 'all messages are handled by a slow handler');
is(sql("SELECT count(DISTINCT value) FROM done_slow"), 200, 'each once');
cmp_ok(sql("SELECT max(at - began) < '2 s' FROM done_slow"), 'eq', 't', 'no transaction took all the time');
cmp_ok(sql('SELECT count(DISTINCT xid) FROM done_slow'), '>=', 4, 'there were several');
is(sql("SELECT count(*) FROM (SELECT value::int < lag(value::int) OVER (PARTITION BY key ORDER BY id) AS back FROM done_slow) o WHERE back"),
	0, 'in order');
wait_for("SELECT received = 200 AND processed = 200 AND duplicates = 0 AND lag = 0 FROM inbox.stat_subscription WHERE name = 'slow'",
	'what a transaction did not come to counts once');

# With calls for arrays, the next batch is smaller.
my $arrays = subscribe('arrays', 'inbox.message[]', 'PERFORM pg_sleep(0.02 * cardinality(m)); INSERT INTO done_arrays (value) SELECT inbox.payload_text(x) FROM unnest(m) x;',
	"batch_time => '200 ms'");
produce($arrays, map { "k\t$_" } 1 .. 100);
wait_for('SELECT count(*) = 100 FROM done_arrays', 'all are handled by one that takes arrays');
produce($arrays, map { "k\t$_" } 101 .. 150);
wait_for('SELECT count(*) = 150 FROM done_arrays', 'and more');
cmp_ok(sql("SELECT count(DISTINCT xid) FROM done_arrays WHERE value::int > 100"), '>=', 3, 'in smaller batches');

# What comes to nothing within handler_timeout.
my $failing = subscribe('failing', 'inbox.message', 'INSERT INTO done_failing (value) VALUES (inbox.payload_text(m)); PERFORM pg_sleep(60);',
	"handler_timeout => '300 ms', max_attempts => 1, batch_time => '200 ms'");
produce($failing, map { "k$_\t$_" } 1 .. 20);
my $longest = 0;
my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
until (sql("SELECT count(*) >= 5 FROM inbox.message WHERE subscription = 'failing' AND status = 'failed'") eq 't' || time > $deadline)
{
	my $seconds = sql("SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0) FROM pg_stat_activity WHERE application_name = 'failing'");
	$longest = $seconds if $seconds > $longest;
}
is(sql("SELECT count(*) >= 5 FROM inbox.message WHERE subscription = 'failing' AND status = 'failed'"), 't',
	'messages fail one after another, and what is done is stored');
cmp_ok($longest, '<', 4, 'no transaction takes all their time');
is(sql("SELECT inbox.unsubscribe('failing')"), '', 'and the subscription can be ended');

$node->stop;
done_testing();
