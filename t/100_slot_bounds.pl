# outbox.max_slot_wal is kept to whatever a relay waits for, where there is none,
# and on a standby.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $topic = make_topic(topic_name('bounds'));
my $primary = new_server('primary', <<'CONF', allows_streaming => 1);
outbox.max_slot_wal = '32MB'
CONF
my $expected = 0;

sub publish
{
	my ($node, $key) = @_;
	publish_key($node, 'postgres', $topic, $key);
	$expected++;
	return;
}

# WAL that has nothing to do with us, more than a slot may hold.
sub write_wal
{
	my ($node) = @_;
	$node->safe_psql('postgres', <<'SQL');
CREATE TABLE filler (data text);
ALTER TABLE filler ALTER data SET STORAGE EXTERNAL;
INSERT INTO filler SELECT repeat('x', 1000000) FROM generate_series(1, 40);
DROP TABLE filler;
SQL
	return;
}

sub slots_of
{
	my ($node, $db) = @_;
	return $node->safe_psql('postgres',
		"SELECT count(*) FROM pg_replication_slots WHERE plugin = 'outbox' AND database = '$db'");
}

sub is_given_up
{
	my ($node, $db, $when) = @_;
	is(slots_of($node, $db), 1, "$when: there is a slot");
	write_wal($primary);
	return ok(
		$node->poll_query_until('postgres',
			"SELECT count(*) = 0 FROM pg_replication_slots WHERE plugin = 'outbox' AND database = '$db'"),
		'and it is given up');
}

sub set_options
{
	my ($options) = @_;
	$primary->safe_psql('postgres', "ALTER SERVER kafka OPTIONS ($options)");
	return;
}

create_extension($primary, 'postgres');
set_options("ADD delivery 'exactly_once'");
publish($primary, 'first');
wait_for_events($topic, $expected);
wait_for_state($primary, 'postgres', 'streaming');

# As little as possible: that which is published at once is not too much.
$primary->safe_psql('postgres', "ALTER SYSTEM SET outbox.max_slot_wal = 0");
$primary->reload;
$primary->poll_query_until('postgres', "SELECT current_setting('outbox.max_slot_wal') = '0'")
  or die "the setting does not change\n";
# Kafka may be slow for once, but not each time.
my ($streaming, $tries, @little) = (0, 0);
until ($streaming == relay_pid($primary, 'postgres') || $tries++ == 5)
{
	wait_for_state($primary, 'postgres', 'streaming');
	$streaming = relay_pid($primary, 'postgres');
	foreach my $i (1 .. 3)
	{
		push @little, "little$tries.$i";
		publish($primary, $little[-1]);
		wait_until_confirmed($primary, 'postgres');
	}
}
is(relay_pid($primary, 'postgres'), $streaming, 'a relay goes on that may hold nothing');
$primary->safe_psql('postgres', "ALTER SYSTEM RESET outbox.max_slot_wal");
$primary->reload;

# Kafka is away when a relay begins that has to know how far it is.
my $closed = closed_port();
my $bootstrap = kafka_bootstrap();
set_options(qq{SET "bootstrap.servers" '$closed'});
wait_for_state($primary, 'postgres', 'waiting for kafka');
publish($primary, 'kafka away');
is_given_up($primary, 'postgres', 'Kafka is away when the relay begins');
set_options(qq{SET "bootstrap.servers" '$bootstrap'});
wait_for_state($primary, 'postgres', 'streaming');

# Settings that make no producer.
set_options(q{ADD "security.protocol" 'SSL', ADD "ssl.ca.location" '/nowhere'});
wait_for_state($primary, 'postgres', 'waiting for configuration');
publish($primary, 'no configuration');
is_given_up($primary, 'postgres', 'the relay waits for configuration');
set_options('DROP "security.protocol", DROP "ssl.ca.location"');
wait_for_state($primary, 'postgres', 'streaming');

# No relay at all.
$primary->safe_psql('postgres', 'CREATE DATABASE other');
create_extension($primary, 'other');
my $pid = relay_pid($primary, 'other');
$primary->safe_psql('postgres', <<SQL);
ALTER DATABASE other ALLOW_CONNECTIONS false;
SELECT pg_terminate_backend($pid, 10000);
SQL
is_given_up($primary, 'other', 'the relay cannot be started');

# A switchover: the former primary keeps its slot, and has no use for it.
is(scalar consume_lines($topic, '%k', undef, '-X', 'isolation.level=read_committed'),
	$expected, 'nothing was lost or came twice');
$primary->backup('base');
my $former = $primary;
my $standby = OutboxServer->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
$former->stop;
$standby->promote;
$primary = $standby;
my $connection = $primary->connstr;
$former->append_conf('postgresql.conf', <<CONF);
primary_conninfo = '$connection'
recovery_target_timeline = 'latest'
CONF
$former->set_standby_mode;
$former->start;
wait_for_state($primary, 'postgres', 'streaming');
publish($primary, 'switched');
is_given_up($former, 'postgres', 'on a standby');

# It takes over while the other lives, which is fenced then.
wait_for_events($topic, $expected);
$primary->wait_for_catchup($former, 'replay');
$former->promote;
wait_for_state($former, 'postgres', 'streaming');
publish($former, 'promoted again');
publish_key($primary, 'postgres', $topic, 'late');
wait_for_state($primary, 'postgres', 'fenced');
is_given_up($primary, 'postgres', 'the relay is fenced');
is( join(' ', committed_lines($expected, $topic, '%k')),
	"first @little kafka away no configuration switched promoted again",
	'each event came once');
$primary->stop;
$former->stop;

done_testing();
