# What a catch-up costs depends on what is unpublished, not on what is
# retained; and its memory is bounded.

use strict;
use warnings;

use lib 't';
use List::Util qw(max);
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $retained = $ENV{OUTBOX_TEST_RETAINED} || 1_000_000;
my $pending = 50_000;

sub publish
{
	my ($node, $topic, $count) = @_;
	$node->safe_psql('postgres',
		"SELECT count(outbox.publish('Order', (i % 100)::text, 'OrderCreated', jsonb_build_object('number', i, 'text', repeat('x', 200)), topic => '$topic')) FROM generate_series(1, $count) i"
	);
	return;
}

# Publishes while the library is not loaded, drops the slot and measures the
# catch-up; returns its seconds and the largest memory seen, in kB.
sub lose_slot
{
	my ($node, $topic) = @_;
	my $largest = 0;

	$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
	$node->restart;
	publish($node, $topic, $pending);
	$node->safe_psql('postgres',
		'SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots');
	$node->append_conf('postgresql.conf',
		"shared_preload_libraries = 'outbox'\n");
	$node->restart;
	my $start = time;
	until (relay_status($node, 'postgres', 'state') eq 'streaming')
	{
		my $pid = relay_pid($node, 'postgres');
		$largest = max($largest, memory_of($pid)) if $pid;
		die "it does not end\n" if time > $start + 120;
	}
	my $seconds = time - $start;
	$largest = max($largest, memory_of(relay_pid($node, 'postgres')));
	return ($seconds, $largest);
}

sub new_publisher
{
	my ($name) = @_;
	my $node = new_server($name, "autovacuum = off\nmax_wal_size = 4GB\n");
	create_extension($node, 'postgres');
	return $node;
}

my $empty = new_publisher('empty');
my $topic = make_topic(topic_name('empty'));
my ($empty_seconds) = lose_slot($empty, $topic);
is(scalar consume_lines($topic, '%k'),
	$pending, 'all events arrive out of a table that holds no others');
$empty->stop;

my $node = new_publisher('retained');
my $old = make_topic(topic_name('old'));
publish($node, $old, $retained / 10) foreach 1 .. 10;
wait_until_confirmed($node, 'postgres');
$node->poll_query_until('postgres',
	"SELECT status = 'published' FROM outbox.events ORDER BY id DESC LIMIT 1")
  or die "the watermark does not move\n";
$node->safe_psql('postgres', 'VACUUM outbox.event');
my $before = consume_lines($old, '%k');

$topic = make_topic(topic_name('new'));
my ($seconds, $memory) = lose_slot($node, $topic);
is(scalar consume_lines($topic, '%k'),
	$pending, "all $pending events arrive with $retained published ones retained");
is(scalar consume_lines($old, '%k'), $before, 'and none of those again');
diag(sprintf '%.1f s, with an empty table %.1f s; %.0f MB at most',
	$seconds, $empty_seconds, $memory / 1024);
cmp_ok($memory, '>', 0, 'its memory was measured');
cmp_ok($memory / 1024, '<=', 100, 'and stays below 100 MB');

# The relay's query that counts what is left: the index on xid leaves out what
# is retained.
my $plan = $node->safe_psql('postgres', <<'SQL');
SET enable_seqscan = off;
SET enable_indexscan = off;
SET enable_indexonlyscan = off;
SET max_parallel_workers_per_gather = 0;
EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF)
SELECT min(id), max(id), count(*) FROM outbox.event
WHERE database_id + 0 = outbox.database_id()
AND (xid >= (SELECT pg_snapshot_xmax(pg_current_snapshot())) OR xid = ANY ('{}'::text::xid8[]))
AND pg_visible_in_snapshot(xid, pg_current_snapshot()) AND id + 0 > -1;
SQL
my $pages = $node->safe_psql('postgres',
	"SELECT pg_relation_size('outbox.event_0') / current_setting('block_size')::int");
my ($hit) = $plan =~ /Buffers: shared hit=(\d+)/;
my ($read) = $plan =~ /Buffers: shared[^\n]*read=(\d+)/;
my $looked_at = ($hit || 0) + ($read || 0);
diag("a look at the table with nothing to do: $looked_at of $pages pages");
cmp_ok($looked_at, '<', $pages / 2,
	'a look at the table with nothing to do leaves out what is summarized')
  or diag($plan);

$node->stop;
done_testing();
