# When messages leave for Kafka: at once, also when an acknowledgement has let
# them go, but without keeping a processor busy until then; and later if the
# administrator wants that.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

use OutboxTest;

my $kafka = own_kafka('flush');
my $bootstrap = kafka_bootstrap($kafka);
my $node = new_server('flush');
create_extension($node, 'postgres', $bootstrap);

# Publishes transactions of some events, each once the one before is with
# Kafka, to topics in turns; notes how long each takes.
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE took (topic text, seconds float8);
CREATE PROCEDURE publish_singly(transactions int, size int, VARIADIC topics text[]) LANGUAGE plpgsql AS $$
DECLARE
	before bigint;
	start timestamptz;
BEGIN
	DELETE FROM took;
	FOR i IN 1 .. transactions LOOP
		SELECT events, clock_timestamp() INTO before, start FROM outbox.stat_relay;
		PERFORM outbox.publish('thing', k::text, 'made', '{}', topic => topics[1 + i % cardinality(topics)])
		FROM generate_series(1, size) k;
		COMMIT;
		WHILE (SELECT events < before + size FROM outbox.stat_relay) LOOP
			PERFORM pg_sleep(0.001);
		END LOOP;
		INSERT INTO took VALUES (topics[1 + i % cardinality(topics)], extract(epoch FROM clock_timestamp() - start));
	END LOOP;
END $$;
SQL

sub publish_singly
{
	my ($transactions, $events, @topics) = @_;
	my $topics = join ', ', map { "'$_'" } @topics;
	$node->safe_psql('postgres', "CALL publish_singly($transactions, $events, $topics)");
	return;
}

# What so large a part of the transactions to every topic took at most.
sub quickest
{
	my ($part) = @_;
	return $node->safe_psql('postgres',
		"SELECT max(seconds) FROM (SELECT percentile_disc($part) WITHIN GROUP (ORDER BY seconds) AS seconds FROM took GROUP BY topic) t"
	);
}

sub publish
{
	my ($topic, $count) = @_;
	$node->safe_psql('postgres',
		"SELECT count(outbox.publish('thing', i::text, 'made', '{}', topic => '$topic')) FROM generate_series(1, $count) i"
	);
	return;
}

sub wait_for_in_flight
{
	my ($count) = @_;
	$node->poll_query_until('postgres',
		"SELECT in_flight = $count FROM outbox.stat_relay")
	  or die "not $count in flight\n";
	return;
}

my $one = make_topic(topic_name('one'), 1, dir => $kafka);
my $several = make_topic(topic_name('several'), 7, dir => $kafka);
publish_singly(1, 20, $one);
publish_singly(1, 20, $several);

# Messages that nobody flushes are found after a tenth of a second.  On a busy
# machine many take longer, but not all.
sub sends_at_once
{
	my ($size, $name, @topics) = @_;
	publish_singly(100, $size, @topics);
	cmp_ok(quickest(0.2), '<', 0.05, "$name are sent at once");
	note join ' ', 'quickest, fifth, half:', map { quickest($_) } 0, 0.2, 0.5;
	return;
}

sends_at_once(1, 'single events', $one);
sends_at_once(20, 'events of one partition', $one);
sends_at_once(20, 'events of several partitions', $several);
sends_at_once(5, 'events of two topics in turns', $one, $several);

# Messages without a key go anywhere.
$node->safe_psql('postgres',
	"SELECT count(outbox.publish('thing', NULL, 'made', '{}', topic => '$several')) FROM generate_series(1, 100)"
);
wait_until_confirmed($node, 'postgres');
my %partitions = map { $_->{partition} => 1 } grep { !defined $_->{key} } consume($several, $bootstrap);
cmp_ok(scalar keys %partitions, '>', 1, 'messages without a key are spread');

# What waits behind a request that is not answered.
my $pid = relay_pid($node, 'postgres');
signal_kafka('STOP', $kafka);
publish($one, 10);
wait_for_in_flight(10);
publish($one, 10);
wait_for_in_flight(20);
my ($cpu, $since) = (cpu_of($pid), Time::HiRes::time());
Time::HiRes::sleep(2);
my $share = (cpu_of($pid) - $cpu) / (Time::HiRes::time() - $since);
signal_kafka('CONT', $kafka);
cmp_ok($share, '<', 0.25, 'the relay waits for an answer without being busy');
note sprintf 'share of a processor: %.3f', $share;
wait_for_in_flight(0);
is(relay_pid($node, 'postgres'), $pid, 'it went on when Kafka did');

# The administrator may want fuller batches.
$node->safe_psql('postgres', 'ALTER SERVER kafka OPTIONS (ADD "linger.ms" \'3000\')');
$node->poll_query_until('postgres', "SELECT pid <> $pid AND state = 'streaming' FROM outbox.stat_relay")
  or die "the relay did not take the new setting\n";
publish_singly(1, 1, $one);
cmp_ok(quickest(1), '>=', 3, 'linger.ms is respected');

done_testing();
