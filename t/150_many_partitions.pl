# Events of many partitions, which are a request each, leave as soon as a broker
# can take them: none waits by the clock.

use strict;
use warnings;

use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = own_kafka('partitions');
my $bootstrap = kafka_bootstrap($kafka);
my $node = new_server('partitions');
create_extension($node, 'postgres', $bootstrap);

# Publishes events one by one, with the time as payload.
$node->safe_psql('postgres', <<'SQL');
CREATE PROCEDURE publish_often(topic text, events int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. events LOOP
		PERFORM outbox.publish('thing', (i % 1000)::text, 'made',
			to_jsonb((extract(epoch FROM clock_timestamp()) * 1000)::bigint), topic => publish_often.topic);
		COMMIT;
		PERFORM pg_sleep(0.001);
	END LOOP;
END $$;
SQL

# How many ms half of a topic's events take at most until the broker has them, in
# its best round; a busy machine makes every round worse.
sub median
{
	my ($topic) = @_;
	my ($best, $from) = (undef, 0);
	foreach my $round (1 .. 4)
	{
		$node->safe_psql('postgres', "CALL publish_often('$topic', 1500)");
		wait_until_confirmed($node, 'postgres');
		my @took = sort { $a <=> $b }
		  map { my ($stored, $published) = split; $published > $from ? $stored - $published : () }
		  consume_lines($topic, '%T %s', $bootstrap);
		($from) = sort { $b <=> $a } map { (split)[1] } consume_lines($topic, '%T %s', $bootstrap);
		my $median = $took[ @took / 2 ];
		note "$topic: round $round: half within $median ms, 99 % within $took[@took * 0.99] ms";
		$best = $median if !defined $best || $median < $best;
	}
	return $best;
}

my %median = map {
	$_ => median(make_topic(topic_name("of_$_"), $_, dir => $kafka,
			'message.timestamp.type' => 'LogAppendTime'))
} 1, 12, 100;
cmp_ok($median{$_}, '<', $median{1} + 15, "$_ partitions are about as quick as one") foreach 12, 100;

$node->stop;
done_testing();
