# A topic that cannot be written holds up itself, and nothing else.

use strict;
use warnings;

use lib 't';
use OutboxRefused;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = own_kafka('parked', '--property', 'auto.create.topics.enable=false');
my $bootstrap = kafka_bootstrap($kafka);

foreach my $delivery ('at_least_once', 'exactly_once')
{
	note($delivery);
	my $short = $delivery eq 'exactly_once' ? 'exact' : 'least';
	my $node = new_server("parked_$short", "restart_after_crash = on\n");
	create_extension($node, 'postgres', $bootstrap);
	$node->safe_psql('postgres', "ALTER SERVER kafka OPTIONS (ADD delivery '$delivery')");
	publish_from($node, $kafka);
	create_functions();
	my $good = make_topic(topic_name("good.$short"), 3, dir => $kafka);
	my $typo = topic_name("typo.$short");

	sql("SELECT small('$good', 'k', 1, 10), small('$typo', 'k', 1, 10), small('$typo', NULL, 11, 11)");
	sql("SELECT small('$good', 'k', 11, 20)");
	is_deeply([ first_occurrences(wait_for_sequence(20, $good)) ],
		[ 1 .. 20 ], 'events for other topics are not held up');
	wait_until("SELECT waiting_events = 11 FROM outbox.stat_topic");
	is( sql("SELECT topic, state, partitions, oldest < now(), since < now(), last_error FROM outbox.stat_topic"),
		"$typo|waiting||t|t|topic \"$typo\" does not exist and Kafka does not create it; topics whose names differ only in \".\" and \"_\" exclude each other",
		'the one in the way is shown');
	is(sql('SELECT state, waiting_events, dead_letters FROM outbox.stat_relay'),
		'streaming|11|0', 'stat_relay counts what waits');
	wait_until_confirmed($node, 'postgres');
	is(sql("SELECT DISTINCT status FROM outbox.events WHERE topic = '$typo'"),
		'pending', 'they are not published yet');

	# What is committed later waits behind, across restarts.
	sql("SELECT small('$typo', 'k', 12, 20)");
	my $pid = relay_pid($node, 'postgres');
	sql("SELECT pg_terminate_backend($pid)");
	wait_until("SELECT pid <> $pid FROM outbox.stat_relay");
	sql("SELECT small('$typo', 'k', 21, 30), small('$good', 'k', 21, 30)");
	$pid = relay_pid($node, 'postgres');
	kill 'KILL', $pid;
	wait_until("SELECT pid <> $pid FROM outbox.stat_relay");
	sql("SELECT small('$typo', 'k', 31, 40), small('$good', 'k', 31, 40)");
	is_deeply([ first_occurrences(wait_for_sequence(40, $good)) ],
		[ 1 .. 40 ], 'others go on after restarts and a crash');
	wait_until("SELECT waiting_events = 40 FROM outbox.stat_topic");

	# One is given up.
	my $id = sql("SELECT event_id FROM outbox.events WHERE topic = '$typo' AND payload = '15'");
	is(sql("SELECT outbox.discard('$id'::uuid)"), 't', 'an event that waits can be discarded');
	is(sql("SELECT status FROM outbox.events WHERE event_id = '$id'"), 'discarded', 'it is shown as discarded');
	is( sql("SELECT topic, key, discarded_by = current_user, error LIKE '%does not exist%' FROM outbox.discarded_event WHERE event_id = '$id'"),
		"$typo|k|t|t", 'and by whom');

	make_topic($typo, 3, dir => $kafka);
	wait_until('SELECT count(*) = 0 FROM outbox.stat_topic');
	is_deeply([ sort { $a <=> $b } first_occurrences(sequence($typo)) ],
		[ 1 .. 14, 16 .. 40 ], 'once the topic is there, all others arrive');
	is_deeply([ grep { $_ != 11 } first_occurrences(sequence($typo)) ],
		[ 1 .. 10, 12 .. 14, 16 .. 40 ], 'in the order of the key');
	is( sql("SELECT count(*) FROM outbox.events WHERE topic = '$typo' AND status <> 'published'"),
		1, 'and count as published');
	is(sql('SELECT count(*) FROM outbox.held_event'), 0, 'none waits any more');

	# All of a topic are given up.
	my $never = topic_name("never.$short");
	sql("SELECT small('$never', 'k', 1, 5)");
	wait_until("SELECT waiting_events = 5 FROM outbox.stat_topic");
	is(sql("SELECT outbox.discard_all('$never')"), 5, 'discard_all() gives all of a topic up');
	is(sql("SELECT outbox.discard_all('$never')"), 0, 'once');
	is(sql("SELECT DISTINCT status FROM outbox.events WHERE topic = '$never'"), 'discarded', 'they are discarded');
	$node->stop;
}

done_testing();
