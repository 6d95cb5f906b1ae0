# What owners and neighbours do to outbox.event while events are on their way.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = own_kafka('traffic');
my $bootstrap = kafka_bootstrap($kafka);
my $node = new_server('traffic');
$node->safe_psql('postgres', 'CREATE DATABASE app');
create_extension($node, 'app', $bootstrap);
my $topic = make_topic(topic_name('traffic'), 1, dir => $kafka);

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('app', $statements);
}

sub publish
{
	my ($from, $to) = @_;
	return sql(
		"SELECT count(outbox.publish('Order', i::text, 'OrderCreated', NULL, topic => '$topic')) FROM generate_series($from, $to) i"
	);
}

sub keys_on_kafka
{
	my ($count) = @_;
	return [ map { $_->{key} } wait_for_events($topic, $count, $bootstrap) ];
}

# TRUNCATE while Kafka does not answer, by somebody who may: the slot has the
# events.
publish(1, 1);
wait_until_confirmed($node, 'app');
signal_kafka('STOP', $kafka);
publish(2, 1000);
sql('SET session_replication_role = replica; TRUNCATE outbox.event');
publish(1001, 1100);
sql('VACUUM FULL outbox.event_0');
sql('CLUSTER outbox.event_0 USING event_0_pkey');
signal_kafka('CONT', $kafka);
is_deeply(keys_on_kafka(1100), [ 1 .. 1100 ],
	'what the slot holds is delivered, though its rows have gone');

# Another name for the database.  What is on its way when the relay has to leave
# may come again.
publish(1101, 1200);
wait_until_confirmed($node, 'app');
$node->safe_psql('postgres', 'ALTER DATABASE app RENAME TO renamed');
$node->safe_psql('postgres', 'ALTER DATABASE renamed RENAME TO app');
publish(1201, 1300);
is_deeply(keys_on_kafka(1300), [ 1 .. 1300 ],
	'renaming the database loses and repeats nothing');

# The table as a neighbour's replication left it: rows of another database.
wait_until_confirmed($node, 'app');
sql(<<SQL);
INSERT INTO outbox.event (event_id, aggregate_type, aggregate_id, event_type, topic, database_id)
SELECT gen_random_uuid(), 'Order', 'foreign', 'OrderCreated', '$topic', outbox.database_id() + 1 FROM generate_series(1, 10);
SQL
publish(1301, 1301);
is_deeply(keys_on_kafka(1301), [ 1 .. 1301 ],
	'the stream leaves rows of another database to that one');
$node->poll_query_until('app',
	"SELECT status = 'published' FROM outbox.events WHERE aggregate_id = '1301'")
  or die "the watermark does not move\n";
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$node->restart;
publish(1302, 1302);
sql('SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots');
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'outbox'\n");
$node->restart;
is_deeply(keys_on_kafka(1302), [ 1 .. 1302 ], 'and so does catch-up');
wait_for_state($node, 'app', 'streaming');
is_deeply(keys_on_kafka(1302), [ 1 .. 1302 ], 'to its end');

# A new slot holds back the vacuum of catalogs, not that of tables.  Others may
# have a snapshot still that shows the row.
sql('CREATE TABLE plain AS SELECT 1 AS a; DELETE FROM plain;');
my $removed = qr/\b1 removed|removed 1 /;
my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
my ($ret, $out, $err);
do
{
	($ret, $out, $err) = $node->psql('app', 'VACUUM (VERBOSE) plain');
} until ($err =~ $removed || time > $deadline);
like($err, $removed, 'dead rows can be removed');

$node->stop;
done_testing();
