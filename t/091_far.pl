# Kafka may be far away: round trips of 300 ms.

use strict;
use warnings;

use lib 't';
use OutboxRefused;
use OutboxProxy;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = own_kafka('far');
my $bootstrap = kafka_bootstrap($kafka);
my $proxy = OutboxProxy->new($kafka);
$proxy->slow(0.15);

foreach my $delivery ('at_least_once', 'exactly_once')
{
	my $node = new_server("far_$delivery");
	create_extension($node, 'postgres', $proxy->bootstrap);
	$node->safe_psql('postgres', "ALTER SERVER kafka OPTIONS (ADD delivery '$delivery')");
	publish_from($node, $kafka);
	create_functions();
	my @topics = map { topic_name("$delivery.$_") } 1 .. 3;
	make_topic($topics[0], 12, dir => $kafka);

	# Topics that are new to the relay, two of which a broker has to create.
	sql("SELECT small('$_', 'k', 1, 10)") foreach @topics;
	wait_until_confirmed($node, 'postgres');
	foreach my $topic (@topics)
	{
		is_deeply([ committed_lines(10, $topic, '%s', $bootstrap) ], [ 1 .. 10 ],
			"$delivery: events arrive");
	}
	is(relay_status($node, 'postgres', 'state'), 'streaming', 'the relay streams');
	sql("SELECT small('$topics[0]', i::text, i, i) FROM generate_series(11, 5000) i");
	wait_until_confirmed($node, 'postgres');
	is(scalar committed_lines(5000, $topics[0], '%s', $bootstrap), 5000, 'many do, once');
	is(sql('SELECT count(*) FROM outbox.stat_topic'), 0, 'and none waits');

	# Kafka transactions do not wait for more new topics than Kafka creates in
	# some seconds.
	my $new = topic_name("$delivery.new");
	sql("SELECT small('$new' || i, 'k', 1, 1) FROM generate_series(1, 100) i");
	wait_until_confirmed($node, 'postgres');
	my @parked = split /\n/, sql('SELECT topic FROM outbox.stat_topic ORDER BY topic');
	cmp_ok(scalar @parked, '>', 10, "$delivery: the last of many new topics are parked")
	  if $delivery eq 'exactly_once';
	# Each takes a Kafka transaction of its own, so a few do.
	my @given_up = $delivery eq 'exactly_once' ? splice(@parked, 5) : ();
	sql("SELECT outbox.discard_all(t) FROM unnest('{@{[join ',', @given_up]}}'::text[]) t");
	wait_until('SELECT count(*) = 0 FROM outbox.held_event');
	@parked = map { "$new$_" } 1, 50, 51, 99, 100 if $delivery eq 'at_least_once';
	is(join(' ', map { committed_lines(1, $_, '%s', $bootstrap) } @parked), '1 1 1 1 1', 'and what was published for them arrives');

	# What a broker refuses is found out there, too.
	my $limited = limited_topic("$delivery.limited");
	sql("SELECT small('$limited', 'k', 1, 5), refused('$limited'), small('$limited', 'k', 6, 10)");
	wait_until('SELECT count(*) = 1 FROM outbox.dead_letter');
	wait_until_confirmed($node, 'postgres');
	is_deeply([ first_occurrences(committed_lines(10, $limited, '%s', $bootstrap)) ], [ 1 .. 10 ],
		'a refused event is a dead letter, and others arrive');
	$node->stop;
}

undef $proxy;
done_testing();
