# A backlog for many partitions does not keep processors busy: through as many
# connections as the relay likes it takes little more of them than through a single
# one, and each key stays in order.

use strict;
use warnings;

use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $keys = 600;
my $rounds = 250;

my $kafka = own_kafka('backlog_partitions');
my $node = new_server('backlog_partitions');
create_extension($node, 'postgres', kafka_bootstrap($kafka));
$node->safe_psql('postgres', <<'SQL');
CREATE PROCEDURE publish_rounds(topic text, first int, last int, keys int) LANGUAGE plpgsql AS $$
BEGIN
	FOR n IN first .. last LOOP
		PERFORM outbox.publish('thing', k::text, 'made', to_jsonb(n), topic => publish_rounds.topic)
		FROM generate_series(1, keys) k;
		COMMIT;
	END LOOP;
END $$;
SQL

# Publishes while the relay is held, and returns the seconds of processors that
# it takes to send all of that.
sub drain
{
	my ($name, $connections) = @_;
	my $topic = make_topic(topic_name('backlog'), 100, dir => $kafka);
	$node->safe_psql('postgres', "ALTER SERVER kafka OPTIONS ($connections)");
	$node->safe_psql('postgres', "CALL publish_rounds('$topic', 1, 1, 1)");
	wait_until_confirmed($node, 'postgres');

	my $pid = relay_pid($node, 'postgres');
	kill 'STOP', $pid;
	$node->safe_psql('postgres', "CALL publish_rounds('$topic', 2, $rounds, $keys)");
	my $before = cpu_of($pid);
	kill 'CONT', $pid;
	wait_until_confirmed($node, 'postgres');
	my $took = cpu_of($pid) - $before;
	is(relay_pid($node, 'postgres'), $pid, "$name: one relay sent the backlog");

	my (%last, $wrong);
	foreach my $line (consume_lines($topic, '%k %s', kafka_bootstrap($kafka)))
	{
		my ($key, $n) = split ' ', $line;
		$wrong++ if defined $last{$key} && $n != $last{$key} + 1;
		$last{$key} = $n;
	}
	is($wrong || 0, 0, "$name: every key is in order, and each event came once");
	is_deeply([ grep { ($last{$_} || 0) != $rounds } 1 .. $keys ], [], "$name: every event came");
	return $took;
}

my $one = drain('one connection', q{ADD connections '1'});
my $several = drain('several connections', 'DROP connections');
note "CPU seconds: $one, $several";
cmp_ok($several, '<', 2 * $one, 'several connections take little more of processors');

$node->stop;
done_testing();
