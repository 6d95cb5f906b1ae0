# While somebody has an old snapshot, no version of a position goes away.  What a
# transaction of a subscription costs does not grow with them.

use strict;
use warnings;

use OutboxInbox;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('inbox_position', "autovacuum = off\n");
subscribe_in($node);
create_extension($node, 'postgres');

# It begins when all is in Kafka.
my $n = 2000;
my $topic = subscribe_noting('s', "IF v = 'bad' THEN RAISE 'it is bad'; END IF;",
	{ batch_size => 1, retry_backoff => "'10 ms'", max_attempts => 3 });
produce($topic, "k\tfirst");
wait_for('SELECT count(*) = 1 FROM done_s', 'the subscription is at work');
sql("SELECT inbox.pause('s')");
produce($topic, map { "k$_\t$_" } 1 .. $n);

my $old = $node->background_psql('postgres');
$old->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
$old->query_safe('SELECT count(*) FROM inbox.position');
sql("SELECT inbox.resume('s')");
wait_for("SELECT processed = $n + 1 AND lag = 0 FROM inbox.stat_subscription", 'each message has its transaction');
sql("SELECT inbox.pause('s')");
wait_for("SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'outbox consumer'", 'statistics are reported');
my $pages = sql("SELECT pg_relation_size('inbox.position') / current_setting('block_size')::int");
my $read = sql("SELECT heap_blks_hit + heap_blks_read FROM pg_statio_all_tables WHERE relid = 'inbox.position'::regclass");
note("$read pages were looked at, of $pages");
cmp_ok($pages, '>', $n / 100, 'all versions are there');
cmp_ok($read, '<', $n * 15, 'and are not gone through each time');
$old->query_safe('COMMIT');
$old->quit;

# The row may be where the worker does not know.
sql("SELECT inbox.resume('s')");
wait_for("SELECT state = 'running' FROM inbox.stat_subscription", 'it goes on');
foreach my $round (1 .. 3)
{
	produce($topic, "k\tbefore $round");
	wait_for("SELECT count(*) = 1 FROM done_s WHERE value = 'before $round'", "a message before the table is written anew ($round)");
	sql('VACUUM FULL inbox.position');
	produce($topic, "k\tafter $round", "j\tbad");
	wait_for("SELECT count(*) = 1 FROM done_s WHERE value = 'after $round'", "and one after it ($round)");
	wait_for("SELECT failed = $round AND waiting = 0 FROM inbox.stat_subscription", "and one that is tried again ($round)");
}
is(sql('SELECT count(*) - count(DISTINCT value) FROM done_s'), 0, 'each once');
is(sql("SELECT received = $n + 10 AND processed = $n + 7 AND duplicates = 0 FROM inbox.position"), 't', 'and counted once');
is(scalar(grep { /outbox consumer.*ERROR|begins again/ } split /\n/, slurp_file($node->logfile)), 0, 'no worker has ended by an error');
sql("SELECT inbox.seek('s', '$topic', 0, 0, rerun => true)");
wait_for("SELECT count(*) = 2 FROM done_s WHERE value = 'first'", 'what is sought is handled');

$node->stop;
done_testing();
