# A new slot waits for transactions that stay open.  Nothing else does: events
# are published meanwhile, and stat_relay names who is in the way.

use strict;
use warnings;

use lib 't';
use OutboxBoth;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

# Few connections: PostgreSQL's own snapshot of a new slot has room for as many
# transactions that were rolled back.
my $node = new_server('old', <<'CONF');
max_connections = 20
CONF
deliver_from($node);

sub prepare
{
	my ($name) = @_;
	sql("BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION '$name'");
	return;
}

sub slots
{
	return sql("SELECT count(*) FROM pg_replication_slots WHERE restart_lsn IS NOT NULL");
}

# ---------------------------------------------------------------------------
# A transaction of another database was forgotten before there was a slot.

prepare('first');
foreach my $db (@databases)
{
	sql("CREATE DATABASE $db");
	$node->safe_psql($db, 'CREATE EXTENSION outbox');
	create_server($node, $db);
	$node->safe_psql($db, "ALTER SERVER kafka OPTIONS (ADD delivery '$delivery{$db}')");
}
publish('a');
wait_until_pinned_by('prepared transaction "first"');
check_events('before there is a slot');
wait_for_state($node, $_, 'polling') foreach @databases;
publish('b');
check_events('and again');
is(slots(), 0, 'no slot waits with them');
unlike(relay_status($node, 'least', 'last_error'), qr/acknowledges|broker/, 'Kafka is not blamed');

# From here on there is a slot, which waits for the next one, and for one more.
prepare('second');
sql("ROLLBACK PREPARED 'first'");
wait_until_pinned_by('prepared transaction "second"');
publish('c');
check_events('while the slot waits');
is(slots(), 2, 'now there are slots');

# A standby that went on with one of them would lose what is only in the table.
sub offered
{
	my ($count, $when) = @_;
	is(sql('SELECT count(*) FROM pg_replication_slots WHERE failover'), $count, "to standbys $count are offered $when")
	  if $node->pg_version >= 17;
	return;
}
offered(0, 'before all in front of them is published');
prepare('third');
my @open = map { $node->background_psql($_) } @databases;
foreach my $i (0, 1)
{
	$open[$i]->query_safe('BEGIN');
	$open[$i]->query_safe(
		"SELECT outbox.publish('thing', 'late', 'made', '{}', topic => '$topic{$databases[$i]}')");
}

# Many that were rolled back.
sql(join '', 'SELECT 1;', ("BEGIN; SELECT pg_current_xact_id(); ROLLBACK;\n") x 200);
publish('d');
sql("COMMIT PREPARED 'second'");
wait_until_pinned_by('prepared transaction "third"');
publish('e');
check_events('while the slot waits once more');
sql("COMMIT PREPARED 'third'");

# These were open when the slot found out what runs.
publish('f');
$_->query_safe('COMMIT') foreach @open;
$_->quit foreach @open;
note_published('late');
streams('there is a slot when they have ended, whatever was rolled back');
offered(2, 'then');
publish('g');
check_events('with the slot');

$node->stop;
done_testing();
