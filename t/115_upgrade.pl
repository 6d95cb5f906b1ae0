# ALTER EXTENSION UPDATE of a database with the version before: relay and
# subscription wait for it and go on with what is stored, and the objects are
# those that CREATE EXTENSION makes.

use strict;
use warnings;

use lib 't';
use File::Basename qw(basename dirname);
use File::Copy qw(copy);
use File::Path qw(make_path);
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my ($script) = glob 't/upgrade/outbox--*.sql';
my ($before) = $script =~ /outbox--(.*)\.sql$/;

# ---------------------------------------------------------------------------
# A server with that script, too.  It finds its files relative to its program,
# so where the program is copied, they are all links but for one.

sub link_files
{
	my ($from, $to) = @_;
	make_path($to);
	symlink $_, "$to/" . basename($_) or die "cannot link $_: $!\n"
	  foreach glob "$from/*";
	return;
}

my $root = PostgreSQL::Test::Utils::tempdir('server');
my ($bin, $lib, $share) =
  map { `pg_config --$_` =~ s/\n//r } 'bindir', 'pkglibdir', 'sharedir';
link_files($_, "$root$_") foreach $bin, $lib, $share;
foreach my $program (map { "$root$bin/$_" } 'postgres', 'initdb', 'pg_ctl', 'pg_config')
{
	my $original = readlink $program;
	unlink $program;
	copy($original, $program) && chmod 0755, $program or die "cannot copy $original: $!\n";
}
unlink "$root$share/extension";
link_files("$share/extension", "$root$share/extension");
copy($script, "$root$share/extension") or die "cannot copy $script: $!\n";
my $found = `$root$bin/pg_config --sharedir` =~ s/\n//r;
plan skip_all => "the server of $bin cannot be moved: its copy would look in $found"
  if $found ne "$root$share" || basename($bin) ne 'bin';

my $node = new_server('upgrade', '', install_path => dirname("$root$bin"));

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

# ---------------------------------------------------------------------------
# A database of the version before has rows in all tables

# New objects shall not be anybody's whom the installer usually trusts.
$node->safe_psql('postgres', 'CREATE DATABASE fresh; CREATE ROLE shop');
foreach my $case ([ 'postgres', "VERSION '$before'" ], [ 'fresh', '' ])
{
	my ($db, $version) = @$case;
	$node->safe_psql($db, <<SQL);
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO shop;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO shop;
ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO shop;
CREATE EXTENSION outbox $version;
GRANT EXECUTE ON FUNCTION outbox.publish TO shop;
GRANT EXECUTE ON FUNCTION inbox.subscribe TO pg_monitor WITH GRANT OPTION;
SQL
}

my $topic = make_topic(topic_name('upgrade'));
my $away = make_topic(topic_name('away'));
create_server($node, 'postgres');
produce($topic, "old\t\"handled long ago\"");
produce($topic, { headers => ['id=known'] }, "old\t\"handled long ago, too\"");

sql(<<SQL);
CREATE TABLE handled (message jsonb);
CREATE FUNCTION handler(m inbox.message) RETURNS void LANGUAGE sql AS 'INSERT INTO public.handled SELECT inbox.payload_json(m)';
-- As inbox.subscribe() of that version did: that of the library has more columns
INSERT INTO inbox.subscription (name, topics, handler, role_id, role_name, server, start, max_attempts, retry_backoff,
	ordering, on_failure, batch_size, workers, isolation, handler_timeout)
SELECT 'all', ARRAY['$topic', '$away'], 'public.handler', oid, rolname, 'kafka', 'earliest', 1, '1 s',
	'key', 'dead_letter', 1000, 1, 'read_committed', '1 min'
FROM pg_roles WHERE rolname = current_user;
INSERT INTO inbox.position (subscription, topic, partition, next_offset) VALUES ('all', '$topic', 0, 1);
INSERT INTO inbox.message (subscription, event_id, topic, partition, "offset", payload, status, chunk)
SELECT 'all', 'm' || c, '$topic', 0, c, '"failed"', CASE c WHEN 0 THEN 'failed' ELSE 'processed' END, c FROM generate_series(0, 3) c;
INSERT INTO inbox.received (consumer, event_id, chunk) SELECT 'shop', 'r' || c, c FROM generate_series(0, 3) c;
INSERT INTO inbox.received (consumer, event_id, chunk) VALUES ('\@all', 'known', 3), ('\@all', '$topic/0/0', 3);
INSERT INTO inbox.ring VALUES ('message', 3, now());
INSERT INTO inbox.crash_marker VALUES ('all', 0);

INSERT INTO outbox.identity
SELECT outbox.database_id(), system_identifier, d.oid, datname FROM pg_control_system(), pg_database d WHERE datname = 'postgres';
INSERT INTO outbox.event (event_id, aggregate_type, aggregate_id, event_type, payload, topic, chunk)
SELECT gen_random_uuid(), 'thing', 'k', 'made', '"published"', '$topic', c FROM generate_series(0, 7) c;
SELECT outbox.publish('thing', 'k', e, to_jsonb(e), topic => CASE e WHEN 'parked' THEN '$away' ELSE '$topic' END)
FROM unnest(ARRAY['refused', 'behind it', 'given up', 'parked']) e;
SELECT outbox.publish('again', 'other', 'made', '"replayed"', topic => '$topic');
INSERT INTO outbox.dead_letter (event_id, topic, key, error_code, error, holds, replay, id, chunk, xid, database_id)
SELECT event_id, topic, 'k', 'NONE', 'none', true, false, id, chunk, xid, database_id FROM outbox.event WHERE event_type = 'refused';
INSERT INTO outbox.held_event (event_id, topic, key, partition, id, chunk, xid, database_id)
SELECT event_id, topic, 'k', CASE event_type WHEN 'parked' THEN -1 END, id, chunk, xid, database_id
FROM outbox.event WHERE event_type IN ('behind it', 'parked');
INSERT INTO outbox.parked_topic VALUES ('$away', -1, 'waiting', 'NONE', 'none');
INSERT INTO outbox.discarded_event (id, chunk, xid, database_id, event_id, topic, key, error)
SELECT id, chunk, xid, database_id, event_id, topic, 'k', 'none' FROM outbox.event WHERE event_type = 'given up';
INSERT INTO outbox.watermark (lsn, snapshot) VALUES (pg_current_wal_lsn(), pg_current_snapshot());
SELECT outbox.replay('-infinity', aggregate_type => 'again');
SELECT outbox.publish('thing', 'caught', 'made', '"caught up"', topic => '$topic');
INSERT INTO outbox.catchup (database_id, snapshot, lsn, last_id, events_done, events_total)
SELECT outbox.database_id(), pg_current_snapshot(), pg_current_wal_lsn(), max(id), 1, 1 FROM outbox.event;
INSERT INTO outbox.exactly_once (timeline) VALUES (1);
SELECT outbox.publish('thing', 'pending', 'made', '"pending"', topic => '$topic');

CREATE FUNCTION stored() RETURNS TABLE (place regclass, content jsonb) LANGUAGE plpgsql AS \$\$
BEGIN
	FOR place IN
		SELECT c.oid FROM pg_class c JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
		WHERE d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'outbox') AND relkind IN ('r', 'S')
	LOOP
		RETURN QUERY EXECUTE format('SELECT %L::regclass, to_jsonb(t) FROM (SELECT * FROM %s) t', place, place);
		IF NOT FOUND THEN
			RETURN NEXT;
		END IF;
	END LOOP;
END
\$\$;
CREATE TABLE kept AS SELECT * FROM stored();
SQL
is(sql('SELECT place FROM kept WHERE content IS NULL'), '', 'all tables have rows');
cmp_ok(sql('SELECT count(*) FROM kept'), '>', 40, 'which are known');

# ---------------------------------------------------------------------------
# The update

my (undef, undef, $error) = $node->psql('postgres', "SELECT inbox.subscribe('other', ARRAY['$topic'], 'handler')");
like($error, qr/subscribe is that of another version.*ALTER EXTENSION outbox UPDATE/s, 'nobody subscribes before it');
wait_for_error($node, 'postgres', 'waiting for configuration',
	"version $before and the library.*version 1.*ALTER EXTENSION outbox UPDATE");
my $consumers =
  "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'outbox consumer'";
is(sql($consumers), '0', 'the subscription waits with the relay');

is( sql(<<'SQL'), '', 'nothing that is stored is lost or changed');
BEGIN;
ALTER EXTENSION outbox UPDATE;
SELECT * FROM kept k WHERE NOT EXISTS (SELECT FROM stored() s WHERE s.place = k.place AND s.content @> k.content);
COMMIT;
SQL

wait_for_state($node, 'postgres', 'streaming');
sql("SELECT outbox.publish('thing', 'after', 'made', '\"after\"', topic => '$topic')");
is(sql('SELECT outbox.retry_all()'), '1', 'the dead letter can be sent again');
is(sql("SELECT inbox.retry('all')"), '1', 'and the failed message be handled');
my $all = '"after" "behind it" "failed" "parked" "pending" "refused" "replayed"';
ok( $node->poll_query_until('postgres',
		"SELECT string_agg(message::text, ' ' ORDER BY message) = '$all' FROM handled"),
	'all arrives that was to arrive, published before and after')
  or diag sql('TABLE handled');
is(sql("SELECT inbox.receive('shop', 'r2')"), 'f', 'what was received is known');
is(sql("SELECT duplicates, conflicts FROM inbox.stat_subscription"), '1|0', 'also to subscriptions, whatever the topic');
sql("SELECT inbox.seek('all', '$topic', 0, 'earliest')");
ok( $node->poll_query_until('postgres', "SELECT next_offset > 2 AND seek_time IS NULL FROM inbox.position WHERE topic = '$topic'"),
	'all is read again');
is(sql("SELECT count(*) FROM handled WHERE message::text LIKE '\"handled long ago%'"), '0',
	'and what had no id is known by its position');

# ---------------------------------------------------------------------------
# The objects

my $objects = slurp_file('t/upgrade/objects.sql');

# Lines about the objects of a database, after each change; none of them lasts.
sub objects
{
	my ($db, @changes) = @_;
	my $lines = $node->safe_psql($db,
		join '', map { "BEGIN; $_;\n$objects ROLLBACK;\n\\echo ====\n" } @changes);
	return map { [ split /\n/ ] } split /^====\n?/m, $lines;
}

# Lines that are in one of two lists only.
sub difference
{
	my ($old, $new) = @_;
	my %count;
	$count{$_}-- foreach @$old;
	$count{$_}++ foreach @$new;
	return map { ($count{$_} < 0 ? '- ' : '+ ') . $_ }
	  sort grep { $count{$_} != 0 } keys %count;
}

my ($fresh) = objects('fresh', '');
my ($upgraded) = objects('postgres', '');
cmp_ok(scalar @$fresh, '>', 1000, 'there are objects: ' . @$fresh . ' lines');
is(join("\n", difference($fresh, $upgraded)), '', 'objects are those of a new extension');

# That is worth something only if it sees whatever differs.
my @changes = (
	q{DO $$ BEGIN EXECUTE replace(pg_get_functiondef('outbox.drop_slot'::regproc), 'NOT r.active', 'r.active'); END $$},
	'ALTER FUNCTION outbox.retry_all STABLE',
	'ALTER FUNCTION outbox.retry_all SECURITY INVOKER',
	'ALTER FUNCTION outbox.retry_all RESET search_path',
	'ALTER FUNCTION outbox.retry_all OWNER TO shop',
	'GRANT EXECUTE ON FUNCTION outbox.database_id TO PUBLIC',
	'GRANT SELECT (id) ON outbox.event TO shop',
	'REVOKE SELECT ON outbox.stat_relay FROM pg_monitor',
	'GRANT USAGE ON SCHEMA inbox TO shop',
	q{DELETE FROM pg_init_privs WHERE objoid = 'outbox.stat_relay'::regclass},
	q{COMMENT ON COLUMN outbox.event.id IS 'other'},
	'COMMENT ON FUNCTION inbox.pause IS NULL',
	'ALTER TABLE outbox.dead_letter ALTER attempts SET DEFAULT 2',
	'ALTER TABLE outbox.dead_letter ALTER attempts DROP NOT NULL',
	'ALTER TABLE outbox.dead_letter ALTER attempts TYPE bigint',
	'ALTER TABLE outbox.dead_letter ALTER error SET STORAGE EXTERNAL',
	'ALTER TABLE outbox.dead_letter ALTER error SET STATISTICS 7',
	'ALTER TABLE outbox.dead_letter ALTER error SET (n_distinct = 7)',
	'ALTER TABLE outbox.dead_letter DROP attempts, ADD attempts integer NOT NULL DEFAULT 1',
	'ALTER TABLE outbox.dead_letter ADD CHECK (attempts > 0)',
	'ALTER TABLE outbox.dead_letter DROP CONSTRAINT dead_letter_state_check',
	'ALTER TABLE outbox.watermark ALTER id SET GENERATED BY DEFAULT',
	'ALTER TABLE outbox.watermark ALTER upper_xid DROP EXPRESSION',
	'ALTER TABLE inbox.position SET (fillfactor = 61)',
	'ALTER TABLE inbox.ring SET (toast.autovacuum_enabled = off)',
	'ALTER TABLE inbox.crash_marker SET LOGGED',
	'ALTER TABLE inbox.message_0 REPLICA IDENTITY DEFAULT',
	'ALTER TABLE outbox.identity DISABLE TRIGGER wake_relay',
	'DROP TRIGGER wake_relay ON outbox.identity',
	'DROP INDEX outbox.dead_letter_topic_idx',
	'ALTER INDEX outbox.dead_letter_topic_idx SET (fillfactor = 61)',
	'ALTER SEQUENCE outbox.event_chunk_seq NO CYCLE',
	'ALTER VIEW outbox.stat_relay SET (security_barrier)',
	'CREATE OR REPLACE VIEW outbox.stat_topic AS SELECT NULL::text AS topic, NULL::text AS state, NULL::integer[] AS partitions, 0::bigint AS waiting_events, now() AS oldest, NULL::text AS last_error, now() AS since',
	'ALTER EVENT TRIGGER outbox_drop_slot DISABLE',
	'ALTER FOREIGN DATA WRAPPER outbox_kafka NO VALIDATOR',
	'CREATE TABLE outbox.other (); ALTER EXTENSION outbox ADD TABLE outbox.other',
	'ALTER EXTENSION outbox DROP VIEW outbox.events',
	q{UPDATE pg_extension SET extconfig = extconfig[2:], extcondition = extcondition[2:] WHERE extname = 'outbox'},
	q{UPDATE pg_extension SET extcondition[1] = 'WHERE true' WHERE extname = 'outbox'});
my @changed = objects('fresh', @changes, 'SELECT');
is(join("\n", difference($fresh, pop @changed)), '', 'no change, no difference');
isnt(join("\n", difference($fresh, shift @changed)), '', "seen: $_") foreach @changes;

done_testing();
