# Where Kafka is far away, events of many partitions go through several
# connections, and keep their order: whatever a broker refuses, whether
# partitions are added, and in which ways the relay starts over.

use strict;
use warnings;

use lib 't';
use OutboxRefused;
use OutboxProxy;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = own_kafka('connections');
my $bootstrap = kafka_bootstrap($kafka);
my $network = OutboxProxy->new($kafka);
my $node = new_server('connections');
create_extension($node, 'postgres', $network->bootstrap);
publish_from($node, $kafka);
create_functions();

# Publishes transactions of a number of events each, numbers 1 and so on of keys
# in turns.
sql(<<'SQL');
CREATE TABLE counter (topic text, key int, n int NOT NULL, PRIMARY KEY (topic, key));
CREATE PROCEDURE publish_more(topic text, transactions int, size int, keys int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. transactions LOOP
		WITH c AS (
			INSERT INTO counter SELECT topic, (i * size + k) % keys, 1 FROM generate_series(1, size) k
			ON CONFLICT ON CONSTRAINT counter_pkey DO UPDATE SET n = counter.n + 1 RETURNING key, n)
		SELECT count(outbox.publish('thing', key::text, 'made', to_jsonb(n), topic => publish_more.topic)) INTO size FROM c;
		COMMIT;
	END LOOP;
END $$;
SQL

# How many producers the relay has.
sub producers
{
	my $pid = relay_pid($node, 'postgres');
	return scalar grep { (eval { slurp_file($_) } || '') eq "rdk:main\n" } glob "/proc/$pid/task/*/comm";
}

# Each key's events must have come in order, each once, or those that came twice
# behind what was refused in their first order.
sub check_order
{
	my ($topic, $name, $repeats) = @_;
	wait_until_confirmed($node, 'postgres');
	my (%next, %seen, $wrong, $again);
	foreach my $line (committed_lines(sql("SELECT sum(n) FROM counter WHERE topic = '$topic'"), $topic, '%k %s', $bootstrap))
	{
		my ($key, $n) = split ' ', $line;
		if ($seen{$key}{$n}++) { $again++ }
		elsif ($n != ++$next{$key}) { $wrong++ }
	}
	my %expected = map { split /\|/ } split /\n/, sql("SELECT key, n FROM counter WHERE topic = '$topic'");
	is($wrong || 0, 0, "$name: every key is in order");
	is_deeply(\%next, \%expected, "$name: every event has come");
	is($again || 0, 0, "$name: and once") unless $repeats;
	return;
}

my $topic = make_topic(topic_name('many'), 24, dir => $kafka);
sql("CALL publish_more('$topic', 50, 50, 300)");
check_order($topic, 'near');

$network->slow(0.01);
sql("CALL publish_more('$topic', 400, 50, 300)");
cmp_ok(producers(), '>', 4, 'far away, there are several producers');
note producers(), ' producers';
check_order($topic, 'far');

# Of one of many events only that one is refused.
my $limited = make_topic(topic_name('limited'), 24, dir => $kafka, 'max.message.bytes' => 100_000);
sql("CALL publish_more('$limited', 20, 50, 300)");
sql("CALL publish_more('$limited', 20, 50, 300); SELECT refused('$limited'); CALL publish_more('$limited', 20, 50, 300)");
wait_until('SELECT count(*) = 1 FROM outbox.dead_letter');
is(sql('SELECT outbox.discard(event_id) FROM outbox.dead_letter'), 't', 'an event is refused');
check_order($limited, 'neighbours of a refused event', 'repeated');

# Partitions are added under way: a key may move to another one, but it does not
# go there before what was sent has arrived.
my $growing = make_topic(topic_name('growing'), 6, dir => $kafka);
change_settings('ALTER SERVER kafka OPTIONS (ADD "topic.metadata.refresh.interval.ms" \'1000\')');
sql("CALL publish_more('$growing', 20, 50, 300)");
my $publisher = start_psql($node, 'postgres', "CALL publish_more('$growing', 2000, 50, 300)");
kafka('alter-topic', $kafka, $growing, 'partitions=20');
$publisher->finish;
wait_until_confirmed($node, 'postgres');
sql("CALL publish_more('$growing', 20, 50, 300)") until consume_lines($growing, '%p', $bootstrap, '-p', 15);
wait_until_confirmed($node, 'postgres');
my (%last, %place, %moved, $early);
foreach my $line (sort { (split ' ', $a)[2] <=> (split ' ', $b)[2] } consume_lines($growing, '%p %k %s', $bootstrap))
{
	my ($partition, $key, $n) = split ' ', $line;
	$early++ if $n != ++$last{$key};
	$moved{$key}++ if defined $place{$key} && $place{$key} != $partition;
	$place{$key} = $partition;
}
my @moves = grep { $_ > 1 } values %moved;
ok(!$early, 'with more partitions, every event has come, once') or diag $early;
cmp_ok(scalar keys %moved, '>', 0, 'keys move');
is(scalar @moves, 0, 'and each once');

# The administrator's limit.
change_settings(q{ALTER SERVER kafka OPTIONS (ADD connections '1')});
sql("CALL publish_more('$topic', 100, 50, 300)");
is(producers(), 1, 'with connections = 1 there is one');
change_settings(q{ALTER SERVER kafka OPTIONS (SET connections '3')});
sql("CALL publish_more('$topic', 400, 50, 300)");
is(producers(), 3, 'with connections = 3 there are three');
check_order($topic, 'fewer connections');
foreach my $value ('0', '65', 'many', '2x')
{
	my (undef, undef, $error) =
	  $node->psql('postgres', "ALTER SERVER kafka OPTIONS (SET connections '$value')");
	like($error, qr/invalid value for option "connections": "$value".*Valid values: 1 to 64/s, "not $value");
}
change_settings(q{ALTER SERVER kafka OPTIONS (DROP connections)});

# The network breaks, and the relay ends, while all of them are at work.
foreach my $what ('cut', 'forget', 'restart')
{
	$publisher = start_psql($node, 'postgres', "CALL publish_more('$topic', 600, 50, 300)");
	my $events = sql('SELECT events FROM outbox.stat_relay');
	wait_until("SELECT events > $events + 3000 FROM outbox.stat_relay");
	if ($what eq 'restart')
	{
		sql('SELECT pg_terminate_backend(pid) FROM outbox.stat_relay');
	}
	else
	{
		$network->$what;
		wait_for_state($node, 'postgres', 'waiting for kafka') if $what eq 'cut';
		$network->heal if $what eq 'cut';
		$network->slow(0.01);
	}
	$publisher->finish;
	check_order($topic, $what, 'repeated');
}

# What waits behind a dead letter stays in order, too.
$node->append_conf('postgresql.conf', 'outbox.on_dead_letter = hold');
$node->reload;
my $held = make_topic(topic_name('held'), 24, dir => $kafka);
sql("CALL publish_more('$held', 400, 50, 300)");
cmp_ok(producers(), '>', 4, 'where keys are held, there are several producers');
check_order($held, 'keys that could be held');

$node->stop;
done_testing();
