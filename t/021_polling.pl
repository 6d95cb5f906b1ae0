# The polling publisher: without logical decoding the table itself is read.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $topic = make_topic(topic_name('polled'));
my $node = new_server('polling',
	"wal_level = replica\noutbox.poll_interval = '1h'\nautovacuum = off\n");
# Of the tables of the extension, too, which change.
$node->safe_psql('postgres', 'CREATE PUBLICATION everything FOR ALL TABLES');
$node->safe_psql('postgres', 'CREATE EXTENSION outbox');
create_server($node, 'postgres');
wait_for_state($node, 'postgres', 'polling');

sub publish_sql
{
	my ($id) = @_;
	return
	  "SELECT outbox.publish('Order', '$id', 'OrderCreated', '{}', topic => '$topic');\n";
}

# Runs statements and waits until what they published is on Kafka.
sub publish
{
	my ($statements) = @_;
	return like(
		$node->safe_psql('postgres',
			"$statements SELECT outbox.wait_published('120 s')"),
		qr/^t$/m,
		'wait_published() sees the event on Kafka');
}

sub keys_on_kafka
{
	return join ' ', map { $_->{key} } consume($topic);
}

is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_slots'),
	'0', 'there is no slot');

# The interval is an hour: only the commit can have woken the relay.
my $started = time;
publish(publish_sql('first'));
ok(time - $started < 600, 'a commit wakes the relay');
is(keys_on_kafka(), 'first', 'it is there');
is( $node->safe_psql('postgres', 'SELECT status FROM outbox.events'),
	'published', 'and counts as published');

# Numbers are given before the commit: a gap is not a loss.
my $session = $node->background_psql('postgres');
$session->query_safe('BEGIN');
$session->query_safe(publish_sql('early'));
publish(publish_sql('late'));
is(keys_on_kafka(), 'first late', 'an open transaction holds up nobody');
$session->query_safe('COMMIT');
is($session->query_safe("SELECT outbox.wait_published('120 s')"),
	't', 'and is not forgotten');
$session->quit;
is(keys_on_kafka(), 'first late early', 'its event comes when it commits');

publish('BEGIN; ' . publish_sql('rolled back') . 'ROLLBACK; ' . publish_sql('after'));
is( keys_on_kafka(),
	'first late early after',
	'what was rolled back is not published');

# To the log and back, losing and repeating nothing.
$node->append_conf('postgresql.conf', "wal_level = logical\n");
$node->restart;
wait_for_state($node, 'postgres', 'streaming');
publish(publish_sql('streamed'));
$node->poll_query_until('postgres',
	"SELECT status = 'published' FROM outbox.events WHERE aggregate_id = 'streamed'"
) or die 'the watermark does not move';
$node->append_conf('postgresql.conf', "outbox.capture = poll\n");
$node->reload;
wait_for_state($node, 'postgres', 'polling');
is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_slots'),
	'0', 'polling drops the slot');
$node->append_conf('postgresql.conf', "wal_level = replica\n");
$node->restart;
wait_for_state($node, 'postgres', 'polling');
publish(publish_sql('polled'));
is( keys_on_kafka(),
	'first late early after streamed polled',
	'changing the way of capture loses and repeats nothing');

# What is published long since costs nothing, vacuumed or not: the index leaves
# it out, but for pages that are not full yet.
$node->safe_psql('postgres', <<SQL);
INSERT INTO outbox.event (event_id, aggregate_type, event_type, topic)
SELECT gen_random_uuid(), 'Order', 'OrderCreated', '$topic.many' FROM generate_series(1, 50000);
SQL
my $sharing = $node->background_psql('postgres');
$sharing->query_safe('BEGIN');
$sharing->query_safe('LOCK TABLE outbox.event_0 IN SHARE UPDATE EXCLUSIVE MODE');
my $plan;
$node->poll_query_until('postgres',
	"SELECT status = 'published' FROM outbox.events ORDER BY id DESC LIMIT 1")
  or die 'the 50,000 are not published';
publish(publish_sql('while the table is locked'));
$sharing->query_safe('COMMIT');
$sharing->quit;
$node->safe_psql('postgres', 'ANALYZE outbox.event');
my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
do
{
	# Who finds the table locked tries again when there is more to send.
	publish(publish_sql('more'));
	$plan = $node->safe_psql('postgres',
		"EXPLAIN (ANALYZE, COSTS off) SELECT FROM outbox.event_0 WHERE xid >= (SELECT pg_snapshot_xmax(pg_current_snapshot()))"
	);
} until ($plan =~ /lossy=1?\d?\d\b/ || time > $deadline);
like($plan, qr/event_0_xid_idx/, 'a look at the table uses the index');
like($plan, qr/lossy=1?\d?\d\b/, 'which leaves out what was sent');
cmp_ok($node->safe_psql('postgres', 'SELECT pg_relation_size(\'outbox.event_0\') / 8192'),
	'>', 400, 'of a table that is larger');

# Many looks a second make one row of a watermark.
$node->safe_psql('postgres', <<SQL);
CREATE PROCEDURE publish_one_by_one() LANGUAGE plpgsql AS \$\$
BEGIN
	FOR i IN 1 .. 300 LOOP
		PERFORM outbox.publish('Order', i::text, 'Single', '{}', topic => '$topic.single');
		COMMIT;
		PERFORM outbox.wait_published('120 s');
	END LOOP;
END
\$\$;
CALL publish_one_by_one();
SQL
my $rows = $node->safe_psql('postgres', "SELECT count(*) FROM outbox.watermark WHERE taken_at > (SELECT min(created_at) FROM outbox.event WHERE event_type = 'Single')");
my $seconds = $node->safe_psql('postgres', "SELECT extract(epoch FROM max(created_at) - min(created_at)) FROM outbox.event WHERE event_type = 'Single'");
cmp_ok($rows, '<=', $seconds + 3, "a watermark has a row a second: $rows in $seconds s");
is(scalar consume_lines("$topic.single", '%k'), 300, 'all of them arrive');
$node->stop;

done_testing();
