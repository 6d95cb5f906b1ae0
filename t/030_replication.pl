# Synchronous standbys and promotion: an event never outlives its transaction.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $topic = make_topic(topic_name('replicated'));

my $primary = new_server('primary', '', allows_streaming => 1);
create_extension($primary, 'postgres');
$primary->backup('base');
my $standby = OutboxServer->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;

# A crash may repeat events of the last second: each counts once.
sub keys_on_kafka
{
	my %seen;
	return join ' ', map { $_->{key} }
	  grep { !$seen{ header($_, 'id') }++ } consume($topic);
}

# Waits until an event has come.
sub wait_for_key
{
	my ($key) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	until (keys_on_kafka() =~ /\b$key\b/)
	{
		die "$key did not come\n" if time > $deadline;
	}
	return;
}

sub publish_sql
{
	my ($id) = @_;
	return
	  "SELECT outbox.publish('Order', '$id', 'OrderCreated', '{}', topic => '$topic')";
}

# Has the relay publish what it may: it has, when it was asked for a replay after
# that and has done it.
sub let_relay_work
{
	my $sent = $primary->safe_psql('postgres',
		"SET synchronous_commit = local; SELECT outbox.replay('-infinity')");
	$sent or die "there is nothing to replay\n";
	$primary->poll_query_until('postgres',
		'SELECT bool_and(finished_at IS NOT NULL) FROM outbox.replay_job')
	  or die "the relay does not work\n";
	return;
}

# Waits until an event counts as published.
sub wait_for_status
{
	my ($key) = @_;
	$primary->poll_query_until('postgres',
		"SELECT status = 'published' FROM outbox.events WHERE aggregate_id = '$key'")
	  or die "the watermark does not move\n";
	return;
}

# A standby refuses to publish and has no workers.
my ($status, $out, $err) = $standby->psql('postgres', publish_sql('standby'));
like($err, qr/recovery|read-only/, 'publish() is refused on a standby');
like($err, qr/HINT/, 'with a hint');
is( $standby->safe_psql(
		'postgres',
		"SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'outbox%'"
	),
	'0',
	'a standby runs no workers of ours');

# Synchronous replication: with the standby away nothing is published.
$primary->append_conf('postgresql.conf',
	"synchronous_standby_names = 'standby'\n");
$primary->reload;
$primary->poll_query_until('postgres',
	"SELECT sync_state = 'sync' FROM pg_stat_replication")
  or die "the standby is not synchronous\n";

# Commits wait when the checkpointer has told them to.
$primary->safe_psql('postgres', 'CHECKPOINT');
$primary->safe_psql('postgres', publish_sql('both'));
wait_for_key('both');
is(keys_on_kafka(), 'both', 'a confirmed commit is published');
wait_for_status('both');

$standby->stop;
my $session = $primary->background_psql('postgres', on_error_stop => 0);
$session->query_until(qr/waiting/, "\\echo waiting\n" . publish_sql('unconfirmed') . ";\n");
$primary->poll_query_until('postgres',
	"SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
  or die 'the commit does not wait for the standby';

# The WAL is flushed here, and still nothing may be published.
my $flushed = $primary->safe_psql('postgres', 'SELECT pg_current_wal_flush_lsn()');
let_relay_work();
is(relay_status($primary, 'postgres', "received_lsn < '$flushed'"),
	't', 'the relay does not read what no standby has');
is(keys_on_kafka(), 'both', 'a commit that no standby has is not published');

# Not after a crash and restart either, while the standby is away.
$primary->stop('immediate');
$primary->start;
wait_for_state($primary, 'postgres', 'streaming');
let_relay_work();
is( $primary->safe_psql(
		'postgres',
		"SELECT count(*) FROM outbox.event WHERE aggregate_id = 'unconfirmed'"),
	'1',
	'after a crash the commit is there');
is(keys_on_kafka(), 'both', 'and still not published');

$standby->start;
wait_for_key('unconfirmed');
is(keys_on_kafka(), 'both unconfirmed',
	'it is published when the standby is back');

# Promotion: the new primary has no slot, and goes on from the watermark.
# A commit that the standby has confirmed comes after that.
wait_for_status('unconfirmed');
$primary->safe_psql('postgres', 'CREATE TABLE later ()');
$primary->wait_for_catchup($standby, 'replay');
my $before = consume($topic);
$primary->stop('immediate');
$standby->append_conf('postgresql.conf', "synchronous_standby_names = ''\n");
$standby->promote;
wait_for_state($standby, 'postgres', 'streaming');
$standby->safe_psql('postgres', publish_sql('promoted'));
wait_for_key('promoted');
is(keys_on_kafka(), 'both unconfirmed promoted',
	'a promoted standby publishes what is new');
is(scalar consume($topic), $before + 1, 'and nothing again');
$standby->stop;

done_testing();
