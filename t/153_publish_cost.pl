# What publish() writes, how its events are found by their ids, and that a
# session which has published heeds what others do to the table since.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

# Bytes of WAL an event of 500 bytes of payload costs at most, without full pages.
my $most = 760;

my $node = new_server('cost', "full_page_writes = off\nautovacuum = off\n");

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

# Bytes of WAL an event, of 10,000 in transactions of so many.
sub wal_per_event
{
	my ($size, $arguments) = @_;
	my $before = sql('SELECT pg_current_wal_insert_lsn()');
	my $transactions = 10_000 / $size;

	sql(<<SQL);
DO \$\$
DECLARE
    payload jsonb := jsonb_build_object('note', repeat('x', 488));
BEGIN
    FOR t IN 1 .. $transactions LOOP
        FOR i IN 1 .. $size LOOP
            PERFORM outbox.publish('Order', (i % 1000)::text, 'OrderCreated', payload $arguments);
        END LOOP;
        COMMIT;
    END LOOP;
END
\$\$;
SQL
	return sql("SELECT (pg_current_wal_insert_lsn() - '$before') / 10000");
}

# Without settings for Kafka there is no relay that writes, too.
sql('CREATE EXTENSION outbox');
wal_per_event(100, '');
is(sql('SELECT min(length(payload)) FROM outbox.event'), 500, 'payloads have 500 bytes');
foreach my $size (1, 100)
{
	my $bytes = wal_per_event($size, '');

	diag(sprintf '%.1f bytes of WAL an event in transactions of %d', $bytes, $size);
	cmp_ok($bytes, '<=', $most, "an event in transactions of $size is at most $most bytes of WAL");
}

# ---------------------------------------------------------------------------
# Ids

# Pages that a statement touches.
sub pages
{
	my ($statement) = @_;
	my $plan = sql("EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF) $statement");
	my ($hit) = $plan =~ /Buffers: shared hit=(\d+)/;
	my ($read) = $plan =~ /Buffers: shared[^\n]*read=(\d+)/;
	return ($hit || 0) + ($read || 0);
}

sql(<<'SQL');
SELECT count(outbox.publish('Order', '1', 'Many', to_jsonb(repeat('x', 498)))) FROM generate_series(1, 100000);
CREATE TABLE given AS
SELECT outbox.publish('Order', '1', 'Given', NULL, event_id => gen_random_uuid()) AS event_id FROM generate_series(1, 100);
VACUUM ANALYZE outbox.event;
SQL
my $all = sql("SELECT pg_relation_size('outbox.event_0') / current_setting('block_size')::int");
my ($made, $key) = split /\|/, sql("SELECT event_id, id FROM outbox.event WHERE event_type = 'Many' ORDER BY id OFFSET 50000 LIMIT 1");
is(sql("SELECT id FROM outbox.events WHERE event_id = '$made'"), $key, 'an id that was made is found');
my $looked_at = pages("SELECT status FROM outbox.events WHERE event_id = '$made'");
diag("$looked_at of $all pages looked at");
# Ids are summarized by the quarter of a second, in which a machine may write much.
cmp_ok($looked_at, '<', $all * 3 / 4, 'in a part of the table');
my $one = sql('SELECT event_id FROM given LIMIT 1');
is(sql("SELECT count(*) FROM outbox.event WHERE event_id = '$one'"), 1, 'an id that was given is found');
cmp_ok(pages("SELECT FROM outbox.event WHERE id_given AND event_id = '$one'"), '<', 50, 'at once by who says so');
my (undef, undef, $error) = $node->psql('postgres', "SELECT outbox.publish('Order', '1', 'Given', NULL, event_id => '$one')");
like($error, qr/an event with this event_id was published before/, 'and cannot be given again');

# ---------------------------------------------------------------------------
# Pages that are used again

# The largest difference that an index may make for each row.
my $new_page = wal_per_event(1, '');
sql('SET session_replication_role = replica; DELETE FROM outbox.event');
sql('VACUUM outbox.event');
my $used_page = wal_per_event(1, '');
diag(sprintf '%.1f bytes of WAL an event in new pages, %.1f in those of deleted ones', $new_page, $used_page);
cmp_ok($used_page - $new_page, '<', 10, 'an event that takes the place of others costs no more');
my ($last) = sql("SELECT event_id FROM outbox.event ORDER BY id DESC LIMIT 1");
is( sql("SET enable_seqscan = off; SELECT count(*) FROM outbox.event WHERE event_id = '$last'"),
	1, 'and is found by its id');
is( sql("SET enable_seqscan = off; SELECT count(*) FROM outbox.event WHERE event_id = '$last' AND xid = (SELECT xid FROM outbox.event WHERE event_id = '$last')"),
	1, 'and its transaction');
sql('SET session_replication_role = replica; TRUNCATE outbox.event');

# ---------------------------------------------------------------------------
# Changes by others

my $session = $node->background_psql('postgres', on_error_stop => 0);

# Publishes in that session, perhaps within its open transaction.
sub publish
{
	my ($type) = @_;
	$session->query_safe("SELECT outbox.publish('Order', '1', '$type', '{}')");
	return;
}

sub noted
{
	return sql("SELECT string_agg(event_type, ' ' ORDER BY event_type) FROM noted");
}

sql(<<'SQL');
CREATE TABLE noted (event_type text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.noted VALUES (NEW.event_type);
    RETURN NEW;
END
$$;
SQL
publish('A');
sql('CREATE TRIGGER note AFTER INSERT ON outbox.event FOR EACH ROW EXECUTE FUNCTION note()');
publish('B');
sql('DROP TRIGGER note ON outbox.event');
publish('C');
is(noted(), 'B', 'a trigger fires in a session that has published before');

$session->query_safe('BEGIN');
publish('D');
my $builder = start_psql($node, 'postgres', 'CREATE INDEX CONCURRENTLY by_type ON outbox.event_0 (event_type)');
ok( $node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONC%' AND wait_event_type = 'Lock'"),
	'an index is being built, and waits for the transaction');
publish('E');
$session->query_safe('COMMIT');
publish('F');
ok($builder->finish, 'it is built');
publish('G');
is( sql(<<'SQL'), 'A B C D E F G', 'and has all rows, whenever they were published');
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SELECT string_agg(event_type, ' ' ORDER BY event_type) FROM outbox.event_0 WHERE event_type < 'Given';
SQL
sql('ALTER TABLE outbox.event ADD COLUMN origin text DEFAULT session_user');
publish('H');
is(sql("SELECT origin = session_user FROM outbox.event WHERE event_type = 'H'"), 't', 'a column gets its default');
sql('ALTER TABLE outbox.event ADD CONSTRAINT short CHECK (length(event_type) < 3) NOT VALID');
$session->query("SELECT outbox.publish('Order', '1', 'Long', '{}')");
like($session->{stderr}, qr/violates check constraint "short"/, 'and a constraint is heeded');

$session->quit;
$node->stop;
done_testing();
