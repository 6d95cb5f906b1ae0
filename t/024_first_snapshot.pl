# The snapshot that comes with a new slot shows transactions as committed which
# are not quite done: catch-up waits for them.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $topic = make_topic(topic_name('snapshot'));
my $node = new_server('snapshot');

# A transaction that stays open, prepared; returns its id.
sub stay_open
{
	my ($name) = @_;
	return $node->safe_psql('postgres',
		"BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION '$name'");
}

# Waits until the slot waits for the end of a transaction.
sub wait_for_relay_at
{
	my ($xid) = @_;
	return $node->poll_query_until('postgres',
		"SELECT pinned_xid = '$xid' FROM outbox.relay_status()");
}

sub set_synchronous_standbys
{
	my ($names) = @_;
	$node->safe_psql('postgres',
		"ALTER SYSTEM SET synchronous_standby_names = '$names'");
	$node->reload;
	$node->poll_query_until('postgres',
		"SELECT current_setting('synchronous_standby_names') = '$names'")
	  or die "the server did not reload\n";

	# Commits wait when the checkpointer has told them to.
	$node->safe_psql('postgres', 'CHECKPOINT');
	return;
}

$node->safe_psql('postgres', 'CREATE EXTENSION outbox');
my $first = stay_open('first');
create_server($node, 'postgres');
ok(wait_for_relay_at($first), 'a new slot waits for older transactions');

# Then there is a slot, which waits for those that began meanwhile.
my $second = stay_open('second');
$node->safe_psql('postgres', "ROLLBACK PREPARED 'first'");
ok(wait_for_relay_at($second), 'and once more');

# From here on the slot sees every transaction that begins.
my $third = stay_open('third');
$node->safe_psql('postgres', "ROLLBACK PREPARED 'second'");
ok(wait_for_relay_at($third), 'and a last time');

# One that has committed and waits for a standby, which does not exist.
set_synchronous_standbys('nobody');
my $publisher = start_psql($node, 'postgres',
	"SELECT outbox.publish('Order', '42', 'OrderCreated', '1', topic => '$topic')"
);
$node->poll_query_until('postgres',
	"SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
  or die "nobody waits for a standby\n";
my $committing = $node->safe_psql('postgres',
	"SELECT backend_xid FROM pg_stat_activity WHERE wait_event = 'SyncRep'");

$node->safe_psql('postgres',
	"SET synchronous_commit = local; ROLLBACK PREPARED 'third'");
ok(wait_for_relay_at($committing), 'a transaction that commits is waited for');
is(scalar consume($topic), 0, 'and its event not sent before');

set_synchronous_standbys('');
$publisher->finish;
wait_for_state($node, 'postgres', 'streaming');
is(scalar wait_for_events($topic, 1), 1, 'its event comes once');
$node->poll_query_until('postgres',
	"SELECT status = 'published' FROM outbox.events WHERE aggregate_id = '42'")
  or die "42 is not published\n";

# A watermark does not show such transactions either.  Here the server does not
# ask to wait for a standby, and the session does.
$node->safe_psql('postgres', 'ALTER SYSTEM SET synchronous_commit = local');
set_synchronous_standbys('nobody');
my $last = $node->safe_psql('postgres', 'SELECT coalesce(max(id), 0) FROM outbox.watermark');
$publisher = start_psql($node, 'postgres',
	"SET synchronous_commit = on; SELECT outbox.publish('Order', '43', 'OrderCreated', '1', topic => '$topic')"
);
is(scalar wait_for_events($topic, 2), 2, 'an event comes while its session waits for a standby');
$node->poll_query_until('postgres', "SELECT max(id) > $last FROM outbox.watermark")
  or die "no watermark\n";
is( $node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"),
	1, 'and there is a watermark since, that cannot show it');
set_synchronous_standbys('');
$publisher->finish;
ok( $node->poll_query_until(
		'postgres',
		"SELECT status = 'published' FROM outbox.events WHERE aggregate_id = '43'"),
	'a later one does, though no event has come since');

$node->stop;
done_testing();
