# Relays that lag behind have the server write to its WAL which transactions
# run, but not because of what another relay had it write: when nothing else
# happens, nothing is written.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my @databases = ('postgres', 'other');
my $topic = topic_name('rest');
my $node = new_server('rest', "autovacuum = off\n");
$node->safe_psql('postgres', 'CREATE DATABASE other');
foreach my $db (@databases)
{
	$node->safe_psql($db, 'CREATE EXTENSION outbox');
	create_server($node, $db, closed_port());
	publish_key($node, $db, $topic, $db);
}
wait_for_state($node, $_, 'waiting for kafka') foreach @databases;

sub wal_position
{
	return $node->safe_psql('postgres', 'SELECT pg_current_wal_insert_lsn()');
}

# Both relays go on with what they wait for, long enough to write twice.
sub let_relays_work
{
	my $since = $node->safe_psql('postgres', 'SELECT clock_timestamp()');
	foreach my $db (@databases)
	{
		$node->poll_query_until($db,
			"SELECT last_error_at > timestamptz '$since' + interval '2 s' FROM outbox.stat_relay")
		  or die "the relay of $db does nothing\n";
	}
	return;
}

my ($before, $after) = ('', wal_position());
for (my $i = 0; $i < 5 && $before ne $after; $i++)
{
	$before = $after;
	let_relays_work();
	$after = wal_position();
}
is($after, $before, 'relays that lag write nothing because of each other');

# Something else is written: that is worth a snapshot, of each, and no more.
$node->safe_psql('postgres', 'CREATE TABLE something ()');
my $written = wal_position();
$node->poll_query_until('postgres', "SELECT pg_current_wal_insert_lsn() > '$written'")
  or die "nothing is written\n";
pass('they write when something else is written');

$node->stop;
done_testing();
