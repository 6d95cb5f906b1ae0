# What a slot holds for a session that stays in its transaction is shown, and
# bounded: the relay goes on without the slot.

use strict;
use warnings;

use lib 't';
use OutboxBoth;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('pinned', <<'CONF');
outbox.max_slot_wal = '64MB'
autovacuum = off
CONF
deliver_from($node);

sub write_wal
{
	my ($megabytes) = @_;
	sql(<<SQL);
CREATE TABLE IF NOT EXISTS filler (data text);
ALTER TABLE filler ALTER data SET STORAGE EXTERNAL;
INSERT INTO filler SELECT repeat('x', 1000000) FROM generate_series(1, $megabytes);
TRUNCATE filler;
SQL
	return;
}

foreach my $db (@databases)
{
	sql("CREATE DATABASE $db");
	create_extension($node, $db);
	$node->safe_psql($db, "ALTER SERVER kafka OPTIONS (ADD delivery '$delivery{$db}')");
	wait_for_state($node, $db, 'streaming');
}

my $session = $node->background_psql('postgres');
$session->query_safe('BEGIN');
$session->query_safe('SELECT pg_current_xact_id()');
$session->query_safe('CREATE TABLE something ()');
my $pid = $session->query_safe('SELECT pg_backend_pid()');
write_wal(40);
publish('h');
wait_until_pinned_by("process $pid");
foreach my $db (@databases)
{
	ok( $node->poll_query_until($db,
			"SELECT pinned_bytes > 39000000 AND held_bytes >= pinned_bytes AND lag_bytes < 1000000 FROM outbox.stat_relay"),
		'what the slot holds for a session is shown');
}

# What was published is stored: nothing comes twice.
foreach my $db (@databases)
{
	$node->poll_query_until($db,
		"SELECT NOT EXISTS (SELECT FROM outbox.events WHERE status = 'pending')")
	  or die "$db: the watermark does not move\n";
}
my $offset = -s $node->logfile;
write_wal(40);
foreach my $db (@databases)
{
	ok( $node->poll_query_until('postgres',
			"SELECT count(*) = 0 FROM pg_replication_slots WHERE database = '$db'"),
		'when it is too much, the slot is given up');
}
like(slurp_file($node->logfile, $offset),
	qr/outbox relay gives up its replication slot.*\n.*a transaction that is still open/,
	'which the log explains');
publish('i');
wait_until_pinned_by("process $pid");
check_events('without a slot again');
$session->query_safe('COMMIT');
$session->quit;
streams('there is a slot when the session is done');
publish('j');
check_events('with the slot again');
ok( $node->poll_query_until('exact',
		'SELECT pinned_by IS NULL AND held_bytes > 0 FROM outbox.stat_relay'),
	'nobody is in the way');

$node->stop;
done_testing();
