# Kafka refuses records for their time, and counts from it for how long to keep
# them.  So what is sent late has the time of sending; and what is refused for
# its time is no dead letter.

use strict;
use warnings;

use lib 't';
use OutboxRefused;
use OutboxProxy;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $limit_s = 3;
my $kafka = own_kafka('timestamps');
my $bootstrap = kafka_bootstrap($kafka);
my $proxy = OutboxProxy->new($kafka);
my $node;

# A topic that takes no older records.
sub strict_topic
{
	my ($name, $limit_ms) = @_;
	return make_topic(
		topic_name($name), 1,
		dir => $kafka,
		'message.timestamp.before.max.ms' => $limit_ms);
}

# Lets events become too old before they can be sent.
sub publish_during_outage
{
	my ($statements) = @_;
	$proxy->cut;
	sql($statements);
	wait_until("SELECT max(created_at) < clock_timestamp() - interval '$limit_s s' FROM outbox.event");
	$proxy->heal;
	wait_until_confirmed($node, 'postgres');
	return;
}

# The present time of the server, in milliseconds.
sub now_ms { return sql('SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)') }

# Do the last messages of a topic, which has so many in all, have a later time?
sub have_time_of_sending
{
	my ($since, $topic, $all, $count, $name) = @_;
	my @times = committed_lines($all, $topic, '%T', $bootstrap);
	is(scalar grep({ $_ >= $since } @times[ -$count .. -1 ]), $count, "$name: the time of sending");
	return;
}

sub no_dead_letters
{
	is(sql('SELECT count(*) FROM outbox.dead_letter'), 0, $_[0]);
	return;
}

foreach my $delivery ('at_least_once', 'exactly_once')
{
	$node = new_server("timestamps_$delivery");
	create_extension($node, 'postgres', $proxy->bootstrap);
	publish_from($node, $kafka);
	sql("ALTER SERVER kafka OPTIONS (ADD delivery '$delivery')");
	create_functions();
	my $strict = strict_topic("$delivery.strict", $limit_s * 1000);
	my $other = topic_name("$delivery.other");

	# In one transaction, and each in its own.
	publish_during_outage("SELECT small('$other', 'k', 1, 5), small('$strict', 'k', 1, 5);\n" . join '',
		map { "SELECT small('$strict', 'k', $_, $_);\nSELECT small('$other', 'k', $_, $_);\n" } 6 .. 25);
	foreach my $topic ($strict, $other)
	{
		is_deeply([ first_occurrences(committed_lines(25, $topic, '%s', $bootstrap)) ],
			[ 1 .. 25 ], "$delivery: what waited arrives, in order");
	}
	no_dead_letters('and none of it is a dead letter');

	# The way to the broker makes each of them too old for this one.
	my $stricter = strict_topic("$delivery.stricter", 100);
	$proxy->slow(0.12);
	sql("SELECT small('$stricter', 'k', 1, 5), small('$other', 'k', 26, 30)");
	wait_until_confirmed($node, 'postgres');
	is_deeply(
		[ first_occurrences(committed_lines(30, $other, '%s', $bootstrap)) ],
		[ 1 .. 30 ],
		'a topic that takes no time at all holds up no other');
	is(sql("SELECT waiting_events, last_error FROM outbox.stat_topic WHERE topic = '$stricter'"),
		'5|Broker: Invalid timestamp', 'its events wait');
	no_dead_letters('and are no dead letters');
	kafka('alter-topic', $kafka, $stricter, 'message.timestamp.before.max.ms=');
	is_deeply([ committed_lines(5, $stricter, '%s', $bootstrap) ],
		[ 1 .. 5 ], 'until it takes them');
	wait_until('SELECT count(*) = 0 FROM outbox.stat_topic');
	$proxy->heal;
	$node->stop unless $delivery eq 'exactly_once';
}

# What is sent again is as new as any to Kafka.
my $topic = limited_topic('again');
sql("SELECT small('$topic', 'k', 1, 3), refused('$topic')");
wait_until('SELECT count(*) = 1 FROM outbox.dead_letter');
wait_until("SELECT count(*) = 0 FROM outbox.events WHERE status = 'pending'");
my $since = now_ms();
sql("SELECT outbox.replay('-infinity')");
have_time_of_sending($since, $topic, 6, 3, 'a replay');
wait_until('SELECT bool_and(finished_at IS NOT NULL) FROM outbox.replay_job');
kafka('alter-topic', $kafka, $topic, 'max.message.bytes=');
$since = now_ms();
sql('SELECT outbox.retry_all()');
wait_until('SELECT count(*) = 0 FROM outbox.dead_letter');
have_time_of_sending($since, $topic, 7, 1, 'a dead letter');

# Out of the table.
sql('DROP SERVER kafka');
my $caught_up = topic_name('caught_up');
sql("SELECT small('$caught_up', 'k', 1, 3)");
$since = now_ms();
create_server($node, 'postgres', $proxy->bootstrap);
have_time_of_sending($since, $caught_up, 3, 3, 'a catch-up');
wait_for_state($node, 'postgres', 'streaming');

# By choice.
change_settings("ALTER SERVER kafka OPTIONS (ADD timestamp 'send')");
my $chosen = topic_name('chosen');
$proxy->cut;
sql("SELECT small('$chosen', 'k', 1, 3)");
$since = now_ms();
set_bootstrap($node, 'postgres', $bootstrap);
have_time_of_sending($since, $chosen, 3, 3, 'if so chosen');

$node->stop;
undef $proxy;
done_testing();
