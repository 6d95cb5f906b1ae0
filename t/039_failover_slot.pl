# Where the server keeps slots on standbys, a promoted one goes on with the slot.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = new_server('primary', <<'CONF', allows_streaming => 1);
max_replication_slots = 4
CONF
plan skip_all => 'before release 17 no slot survives a failover'
  if $primary->pg_version < 17;
my $topic = make_topic(topic_name('survives'));
create_extension($primary, 'postgres');
publish_key($primary, 'postgres', $topic, 'first');
wait_until_confirmed($primary, 'postgres');

# The standby keeps up before Kafka gets anything.
$primary->safe_psql('postgres',
	"SELECT pg_create_physical_replication_slot('standby')");
$primary->backup('base');
my $standby = OutboxServer->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
my $connection = $primary->connstr . ' dbname=postgres';
$standby->append_conf('postgresql.conf', <<CONF);
primary_conninfo = '$connection'
primary_slot_name = 'standby'
hot_standby_feedback = on
sync_replication_slots = on
CONF
$standby->start;
my $slot = "FROM pg_replication_slots WHERE plugin = 'outbox'";

# A slot is kept once the primary's has come further than the standby's copy.
my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
my $n = 0;
until ($standby->safe_psql('postgres', "SELECT count(*) $slot AND synced AND NOT temporary") eq '1')
{
	die "the slot does not come to the standby\n" if time > $deadline;
	publish_key($primary, 'postgres', $topic, 'more' . ++$n);
	wait_until_confirmed($primary, 'postgres');
	$primary->safe_psql('postgres', 'CHECKPOINT');
}
publish_key($primary, 'postgres', $topic, 'last');
wait_until_confirmed($primary, 'postgres');
$primary->wait_for_catchup($standby, 'replay');
my $before = $standby->safe_psql('postgres', "SELECT confirmed_flush_lsn $slot");
$primary->stop('immediate');

$standby->promote;
wait_for_state($standby, 'postgres', 'streaming');
publish_key($standby, 'postgres', $topic, 'promoted');
wait_until_confirmed($standby, 'postgres');
is( join(' ', first_occurrences(map { $_->{key} } consume($topic))),
	join(' ', 'first', (map { "more$_" } 1 .. $n), 'last', 'promoted'),
	'nothing is lost, and the order is kept');
is($standby->safe_psql('postgres', "SELECT synced AND confirmed_flush_lsn > '$before' $slot"),
	't', 'the relay uses the slot that came from the primary');
$standby->stop;

done_testing();
