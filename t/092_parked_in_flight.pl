# What is in flight for a partition that loses its leader, or for a topic that
# takes nothing though brokers answer, holds up the others for a while only.  An
# outage of all brokers parks nothing.

use strict;
use warnings;

use lib 't';
use OutboxRefused;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = own_kafka('flight', '--nodes', 3, '--property', 'default.replication.factor=3');
my $bootstrap = kafka_bootstrap($kafka);
my $node = new_server('flight');
create_extension($node, 'postgres', $bootstrap);
publish_from($node, $kafka);
create_functions();

my ($mixed, $silent, $good) = map { topic_name($_) } qw(mixed silent good);

sub create_on
{
	my ($topic, $brokers, @settings) = @_;
	kafka('tool', $kafka, 'org.apache.kafka.tools.TopicCommand', '--create', '--topic', $topic,
		'--replica-assignment', $brokers, map { ('--config', $_) } @settings);
	return;
}

create_on($mixed, '3,1,3,3,3,3');
create_on($silent, '1:3', 'min.insync.replicas=2');
create_on($good, '1');
sub publish_mixed
{
	my ($n) = @_;
	sql("SELECT small('$mixed', i::text, $n, $n) FROM generate_series(1, 20) i");
	return;
}
publish_mixed(0);
sql("SELECT small('$silent', 'k', 0, 0), small('$good', 'k', 0, 0)");
wait_until_confirmed($node, 'postgres');

# Events for the partition are in flight long before the brokers know that it
# has no leader, and more follow all the time.
my $offset = -s $node->logfile;
kafka('kill', $kafka, 3);
my $rounds = 0;
do
{
	publish_mixed(++$rounds);
} until sql("SELECT waiting_events > 0 FROM pg_sleep(0.2), outbox.stat_topic WHERE topic = '$mixed'") eq 't';
wait_until_confirmed($node, 'postgres');
is(sql("SELECT partitions FROM outbox.stat_topic WHERE topic = '$mixed'"),
	'{0,2,3,4,5}', 'while leaders are missing, their partitions wait');
my $restarts = () = slurp_file($node->logfile, $offset) =~ /starts over/g;
cmp_ok($restarts, '<', 3, "which costs a new beginning, or two: $restarts");
pass('and what was in flight for it does not hold up the slot');

# One replica is too few for this topic.
sql("SELECT small('$silent', 'k', 1, 5)");
wait_until("SELECT waiting_events = 5 FROM outbox.stat_topic WHERE topic = '$silent'");
is(sql("SELECT last_error FROM outbox.stat_topic WHERE topic = '$silent'"),
	'Kafka answers, but acknowledges nothing', 'a topic that takes nothing waits');
sql("SELECT small('$good', 'k', 1, 5)");
wait_until_confirmed($node, 'postgres');
is_deeply([ first_occurrences(sequence($good)) ], [ 0 .. 5 ], 'and others go on');

kafka('restart', $kafka, 3);
wait_until('SELECT count(*) = 0 FROM outbox.stat_topic');
is_deeply([ first_occurrences(sequence($silent)) ], [ 0 .. 5 ], 'with all replicas it is sent');
my @mixed = first_occurrences(consume_lines($mixed, '%k %s', $bootstrap));
is(scalar @mixed, 20 * ($rounds + 1), 'and so is what waited for the leader');
my (%last, $disorder);
foreach my $line (@mixed)
{
	my ($key, $n) = split / /, $line;
	$disorder++ if defined $last{$key} && $n < $last{$key};
	$last{$key} = $n;
}
ok(!$disorder, 'in order');

# Longer than a topic may take to acknowledge.
$offset = -s $node->logfile;
signal_kafka('STOP', $kafka);
sql("SELECT small('$good', 'k', 6, 10)");
wait_until("SELECT lag_seconds > 33 FROM outbox.stat_relay");
signal_kafka('CONT', $kafka);
wait_until_confirmed($node, 'postgres');
unlike(slurp_file($node->logfile, $offset), qr/parks events/, 'an outage parks nothing');
is_deeply([ first_occurrences(sequence($good)) ], [ 0 .. 10 ], 'and loses nothing');

$node->stop;
done_testing();
