# What transactions do to tables that hold no events does not reach the reorder
# buffer, let alone the disk; and whatever becomes of tables and of the chunks of
# outbox.event, no event is taken for such a change.
#
# FOREIGN_ROWS is the number of rows of a large foreign transaction (200000).

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxTest;

my $rows = $ENV{FOREIGN_ROWS} || 200_000;

# Anything that is decoded in one transaction goes to disk.
my $node = new_server('foreign', <<'CONF');
logical_decoding_work_mem = '64kB'
autovacuum = off
CONF
create_extension($node, 'postgres');
my $topic = make_topic(topic_name('foreign'), 1);
my @expected;

sub sql { return $node->safe_psql('postgres', $_[0]) }

# SQL that publishes the next event, with a text of so many random characters.
sub event
{
	my ($length) = @_;
	push @expected, scalar @expected;
	my $text = $length ? "(SELECT string_agg(md5(i::text), '') FROM generate_series(1, $length / 32) i)" : "''";
	return "SELECT outbox.publish('Test', 'k', 'Made', jsonb_build_object('number', $expected[-1], 'text', $text), topic => '$topic');";
}

sub statistics
{
	wait_until_confirmed($node, 'postgres');
	my ($spilled, $total) = split /\|/,
	  sql("SELECT spill_bytes, total_bytes FROM pg_stat_replication_slots WHERE slot_name LIKE 'outbox%'");
	return ($spilled, $total);
}

# Runs statements, of which nothing must be spilled, nor decoded beyond some
# events' size.
sub is_skipped
{
	my ($name, $statements) = @_;
	my ($spilled_before, $total_before) = statistics();
	sql($statements);
	my ($spilled, $total) = statistics();
	is($spilled - $spilled_before, 0, "$name: nothing goes to disk");
	cmp_ok($total - $total_before, '<', 40_000, "$name: nothing is decoded");
	return;
}

# ---------------------------------------------------------------------------

sql('CREATE TABLE thing (id int PRIMARY KEY, name text); CREATE TABLE part (id int, name text) PARTITION BY RANGE (id); CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (1000000000)');
wait_for_state($node, 'postgres', 'streaming');

my $fill = "INSERT INTO thing SELECT i, repeat('x', 50) FROM generate_series(1, $rows) i;";
is_skipped('insertions', 'BEGIN;' . event() . $fill . event() . 'COMMIT');
is_skipped('updates', 'UPDATE thing SET name = name || id');
is_skipped('subtransactions', <<"SQL" . event() . 'COMMIT');
BEGIN;
@{[ event() ]}
DO \$\$ BEGIN
	FOR i IN 1 .. 2000 LOOP
		BEGIN
			UPDATE thing SET name = i WHERE id = i;
			IF i % 2 = 0 THEN RAISE division_by_zero; END IF;
		EXCEPTION WHEN division_by_zero THEN NULL;
		END;
	END LOOP;
END \$\$;
SQL
is_skipped('speculative insertions', "INSERT INTO thing SELECT i, 'y' FROM generate_series($rows - 5000, $rows + 5000) i ON CONFLICT (id) DO UPDATE SET name = 'z'");
is_skipped('COPY', "COPY part FROM PROGRAM 'seq -f %.0f,some-text 1 $rows' (FORMAT csv)");
is_skipped('deletions', 'DELETE FROM thing WHERE id > 1000');
is_skipped('a rewrite', 'VACUUM FULL thing; CLUSTER thing USING thing_pkey; ALTER TABLE thing ALTER id TYPE bigint');
is_skipped('TRUNCATE and the like', 'BEGIN; TRUNCATE thing;' . $fill . event() . 'COMMIT');
is_skipped('a table of this transaction',
	"BEGIN; CREATE TABLE new_thing AS SELECT * FROM thing; INSERT INTO new_thing SELECT * FROM thing;" . event() . 'COMMIT');
is_skipped('large values',
	"CREATE TABLE large AS SELECT i, (SELECT string_agg(md5(j::text), '') FROM generate_series(1, 1000) j) FROM generate_series(1, 100) i");
is_skipped('a transaction that is rolled back', 'BEGIN;' . $fill =~ s/thing/new_thing/r . 'ROLLBACK');
is_skipped('a prepared transaction', "BEGIN; UPDATE thing SET name = 'p';" . event() . "PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p'");
is_skipped('events that are deleted',
	"INSERT INTO new_thing VALUES (0, ''); DELETE FROM outbox.event WHERE false;");

# ---------------------------------------------------------------------------
# Chunks that change, in all ways in which a table gets another file or becomes
# a chunk.

# A chunk with events that are not published cannot be truncated.
sub wait_until_published
{
	$node->poll_query_until('postgres',
		"SELECT NOT EXISTS (SELECT FROM outbox.events WHERE status <> 'published')")
	  or die "events were not published\n";
	return;
}

my $number = sql('SELECT outbox.current_chunk()');
my $chunk = "outbox.event_$number";
sql(event(100_000));
sql("VACUUM FULL $chunk");
sql(event(100_000));
wait_until_published();
sql("BEGIN;TRUNCATE $chunk;" . event(100_000) . 'COMMIT');
wait_until_published();
sql("BEGIN; SAVEPOINT s; TRUNCATE $chunk; ROLLBACK TO s;" . event(100_000) . 'COMMIT');

# A foreign table, known as such, that is made a chunk.
sql("CREATE TABLE outbox.stand_in (LIKE $chunk INCLUDING ALL)");
sql("INSERT INTO outbox.stand_in SELECT * FROM $chunk WHERE false; INSERT INTO outbox.stand_in SELECT * FROM $chunk");
wait_until_published();
sql(<<"SQL");
SET allow_system_table_mods = on;
BEGIN;
TRUNCATE outbox.stand_in;
ALTER TABLE outbox.event DETACH PARTITION $chunk;
ALTER TABLE $chunk RENAME TO was_chunk;
ALTER TABLE outbox.event ATTACH PARTITION outbox.stand_in FOR VALUES IN ($number);
ALTER TABLE outbox.stand_in RENAME TO event_$number;
@{[ event(100_000) ]}
COMMIT;
@{[ event(100_000) ]}
SQL

wait_until_confirmed($node, 'postgres');
my @numbers = map { /"number": (\d+)/ } consume_lines($topic, '%s');
is_deeply([ first_occurrences(@numbers) ], \@expected, 'all events are there, in order');
is(scalar @numbers, scalar @expected, 'once');

# After a crash the same WAL is read again.
sql("BEGIN;" . event() . $fill =~ s/INTO thing/INTO new_thing/r . event(100_000) . 'COMMIT');
$node->stop('immediate');
$node->start;
wait_for_state($node, 'postgres', 'streaming');
is_skipped('after a crash', "UPDATE new_thing SET name = 'after'");
is_deeply([ first_occurrences(map { /"number": (\d+)/ } consume_lines($topic, '%s')) ],
	\@expected, 'nothing is lost in a crash');

$node->stop;
done_testing();
