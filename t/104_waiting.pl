# While events wait, outbox.stat_relay says since when, in whichever state the
# relay is; and what was acknowledged counts as published after a restart of the
# server.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxTest;

my $node = new_server('waiting');
my $topic = topic_name('waiting');

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

# Waits until the state shows a lag that is that of the table's oldest event.
sub lag_is_shown
{
	my ($state, $what) = @_;
	wait_for_state($node, 'postgres', $state);
	ok( $node->poll_query_until('postgres',
			"SELECT state = '$state' AND lag_seconds > 0 AND abs(lag_seconds - extract(epoch FROM clock_timestamp() - (SELECT min(created_at) FROM outbox.event))) < 5 AND state_since IS NOT NULL FROM outbox.stat_relay"
		),
		$what);
	return;
}

# ---------------------------------------------------------------------------
# No Kafka settings, no Kafka, no library

sql('CREATE EXTENSION outbox');
wait_for_state($node, 'postgres', 'waiting for configuration');
is(relay_status($node, 'postgres', 'lag_seconds'), '0', 'nothing waits: no lag');
publish_key($node, 'postgres', $topic, 'first');
lag_is_shown('waiting for configuration', 'an event that waits for settings is a lag');

create_server($node, 'postgres', closed_port());
lag_is_shown('waiting for kafka', 'one that waits for Kafka too');
my $since = relay_status($node, 'postgres', 'state_since');
$node->safe_psql('postgres', 'SELECT outbox.wait_published(\'1.5 s\')');
is(relay_status($node, 'postgres', 'state_since'),
	$since, 'the state says since when it lasts');

$node->append_conf('postgresql.conf', 'shared_preload_libraries = \'\'');
$node->restart;
lag_is_shown('stopped', 'without the library an event that waits is a lag');
sql('DROP SERVER kafka');
$node->append_conf('postgresql.conf', 'shared_preload_libraries = \'outbox\'');
$node->restart;

# ---------------------------------------------------------------------------
# Acknowledged, but no watermark shows it when the server is restarted

sub is_published
{
	my ($key) = @_;
	return $node->poll_query_until('postgres',
		"SELECT status = 'published' FROM outbox.events WHERE aggregate_id = '$key'");
}

create_server($node, 'postgres');
publish_key($node, 'postgres', $topic, 'noted');
is_published('noted') or die;
is(relay_status($node, 'postgres', 'lag_seconds'), '0', 'when all is published there is no lag');
is( sql(
		"SELECT outbox.publish('thing', 'last', 'made', '{}', topic => '$topic') IS NULL;
		 SELECT outbox.wait_published('1 min')"),
	"f\nt",
	'an event is acknowledged');
$node->restart;
ok(is_published('last'), 'and counts as published after a restart');

# ---------------------------------------------------------------------------
# outbox.pending_since() finds the oldest event, however transactions overlap

sql('DROP SERVER kafka');
sql('CREATE TABLE mark (snapshot pg_snapshot)');
my @sessions = map { $node->background_psql('postgres') } 1 .. 5;
$_->query_safe('BEGIN') foreach @sessions;
foreach my $i (1 .. 100)
{
	$sessions[ $i * 7919 % 5 ]->query_safe('SELECT outbox.publish(\'a\', \'1\', \'t\', \'{}\')');
	$sessions[ $i * 104_729 % 17 % 5 ]->query_safe(
		'COMMIT; BEGIN; INSERT INTO mark SELECT pg_current_snapshot()')
	  if $i % 4 == 0;
}
foreach my $session (@sessions)
{
	$session->query_safe('COMMIT');
	$session->quit;
}
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE wrong (snapshot pg_snapshot, told timestamptz, oldest timestamptz);
DO $$
DECLARE
	s pg_snapshot;
	n integer := 0;
BEGIN
	FOR s IN SELECT snapshot FROM mark UNION ALL SELECT pg_current_snapshot() LOOP
		INSERT INTO outbox.watermark (lsn, snapshot) VALUES (pg_current_wal_lsn(), s);
		INSERT INTO wrong
		SELECT s, told, oldest FROM outbox.pending_since() told,
			(SELECT e.created_at AS oldest FROM outbox.event e WHERE NOT pg_visible_in_snapshot(e.xid, s) ORDER BY e.id LIMIT 1) o
		WHERE told IS DISTINCT FROM oldest;
		n := n + 1;
	END LOOP;
	ASSERT n > 20, n;
	ASSERT outbox.pending_since() IS NULL;
END
$$;
SQL
is(sql('SELECT * FROM wrong'), '', 'the oldest event is found');

# ---------------------------------------------------------------------------
# A library of another version waits until they go together

sql("UPDATE pg_extension SET extversion = '0.9' WHERE extname = 'outbox'");
create_server($node, 'postgres');
sql("CREATE FUNCTION handler(message inbox.message) RETURNS void LANGUAGE sql AS ''");
sql("SELECT inbox.subscribe('all', ARRAY['$topic'], 'handler')");
my $consumers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'outbox consumer'";
publish_key($node, 'postgres', $topic, 'old version');
$node->restart;
wait_for_error($node, 'postgres', 'waiting for configuration',
	'of version 0.9 and the library.*of version 1.*ALTER EXTENSION outbox UPDATE');
is(sql($consumers), '0', 'and subscriptions wait with it');
sql("UPDATE pg_extension SET extversion = default_version FROM pg_available_extensions a WHERE extname = 'outbox' AND a.name = extname");
$node->restart;
ok(is_published('old version'), 'then publishes what was published meanwhile');
ok($node->poll_query_until('postgres', $consumers, '1'), 'and subscriptions work');

done_testing();
