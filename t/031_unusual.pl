# Big, strange and concurrent transactions.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('unusual', "max_connections = 250\n");
create_extension($node, 'postgres');

sub count_on_kafka
{
	my ($topic, $expected) = @_;
	my @messages = wait_for_events($topic, $expected);
	my %ids = map { header($_, 'id') => 1 } @messages;
	return scalar(keys %ids) . ' of ' . scalar(@messages);
}

# Many subtransactions, every other rolled back.
my $topic = make_topic(topic_name('subtransactions'));
$node->safe_psql('postgres', <<SQL);
DO \$\$
BEGIN
	FOR i IN 1 .. 10000 LOOP
		BEGIN
			PERFORM outbox.publish('Order', i::text, 'OrderCreated', NULL, topic => '$topic');
			IF i % 2 = 0 THEN
				RAISE EXCEPTION 'rolled back';
			END IF;
		EXCEPTION WHEN raise_exception THEN
		END;
	END LOOP;
END
\$\$
SQL
is(count_on_kafka($topic, 5000),
	'5000 of 5000', '10,000 subtransactions, half of them rolled back');
is(scalar(grep { $_->{key} % 2 == 0 } consume($topic)),
	0, 'no event of a subtransaction that rolled back');

# From a trigger, a function and DO.
$topic = make_topic(topic_name('trigger'));
$node->safe_psql('postgres', <<SQL);
CREATE TABLE orders (id int PRIMARY KEY);
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM outbox.publish('Order', NEW.id::text, 'OrderCreated', to_jsonb(NEW), topic => '$topic');
	RETURN NULL;
END
\$\$;
CREATE TRIGGER tell AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION tell();
INSERT INTO orders SELECT generate_series(1, 100);
SQL
is(count_on_kafka($topic, 100), '100 of 100', 'publish() in a trigger');

# A prepared transaction that outlives a restart.
$topic = make_topic(topic_name('prepared'));
$node->safe_psql('postgres', <<SQL);
BEGIN;
SELECT outbox.publish('Order', '1', 'OrderCreated', NULL, topic => '$topic');
PREPARE TRANSACTION 'outbox';
SQL
$node->restart;
wait_for_state($node, 'postgres', 'streaming');
publish_key($node, 'postgres', $topic, 'behind');
is(keys_in(wait_for_events($topic, 1)), 'behind', 'a prepared transaction is not published');
$node->safe_psql('postgres', "COMMIT PREPARED 'outbox'");
is(keys_in(wait_for_events($topic, 2)), 'behind 1', 'until it is committed');

# 200 connections at once.
$topic = make_topic(topic_name('connections'));
my $script = $node->basedir . '/publish.sql';
append_to_file($script,
	"SELECT outbox.publish('Order', :client_id::text, 'OrderCreated', NULL, topic => '$topic');\n"
);
$node->command_ok(
	[
		'pgbench', '-n', '-c', '200', '-j', '2', '-t', '5', '-f', $script,
		'-h', $node->host, '-p', $node->port, 'postgres'
	],
	'200 connections publish');
is(count_on_kafka($topic, 1000), '1000 of 1000', 'and all events arrive');

# Maintenance of outbox.event by its owner.
$topic = make_topic(topic_name('maintenance'));
my $publish =
  "SELECT outbox.publish('Order', i::text, 'OrderCreated', NULL, topic => '$topic') FROM generate_series(1, 100) i;\n";
$node->safe_psql('postgres', $publish);
$node->safe_psql('postgres',
	'CREATE INDEX ON outbox.event ((aggregate_type || aggregate_id))');
$node->safe_psql('postgres', $publish);
$node->safe_psql('postgres', 'VACUUM FULL outbox.event_0');
$node->safe_psql('postgres', $publish);
$node->safe_psql('postgres', 'CLUSTER outbox.event_0 USING event_0_pkey');
$node->safe_psql('postgres',
	$publish . 'SET session_replication_role = replica; TRUNCATE outbox.event');
is(count_on_kafka($topic, 400), '400 of 400',
	'CREATE INDEX, VACUUM FULL, CLUSTER and TRUNCATE lose and repeat nothing');

# Transaction ids beyond 32 bits.
$topic = make_topic(topic_name('wraparound'));
$node->stop;
$node = new_server('epoch');
$node->stop;
$node->command_ok(
	[ 'pg_resetwal', '-e', '3', '-D', $node->data_dir ],
	'the epoch of transaction ids is advanced');
$node->start;
create_extension($node, 'postgres');
$node->safe_psql('postgres',
	"SELECT outbox.publish('Order', '1', 'OrderCreated', NULL, topic => '$topic')"
);
is(count_on_kafka($topic, 1), '1 of 1', 'an event of epoch 3 arrives');
is( $node->safe_psql(
		'postgres',
		"SELECT xid::text::numeric >= 3 * 2::numeric ^ 32 FROM outbox.event WHERE topic = '$topic'"
	),
	't',
	'with its whole transaction id');
ok( $node->poll_query_until(
		'postgres',
		"SELECT status = 'published' FROM outbox.events WHERE topic = '$topic'"
	),
	'and counts as published');
$node->stop;

done_testing();
