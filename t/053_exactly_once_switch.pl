# Switching between the two kinds of delivery repeats and loses nothing, nor
# does the loss of the slot, a replay or a huge transaction when deliveries are
# exact.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $topic = make_topic(topic_name('switch'), 3);
my $node = new_server('switch', 'restart_after_crash = on');

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

# Publishes a number of events, each in a transaction of its own.
my $published = 0;

sub publish
{
	my ($count) = @_;
	sql("DO \$\$ BEGIN FOR i IN $published + 1 .. $published + $count LOOP PERFORM outbox.publish('Order', i::text, 'OrderCreated', '{}', topic => '$topic'); COMMIT; END LOOP; END \$\$"
	);
	$published += $count;
	return;
}

# The next relay remembers whether deliveries are exact, before it streams.
sub set_delivery
{
	my ($delivery) = @_;
	my $exact = $delivery eq 'exactly_once' ? 'true' : 'false';
	sql("ALTER SERVER kafka OPTIONS (SET delivery '$delivery')");
	$node->poll_query_until('postgres',
		"SELECT state = 'streaming' AND EXISTS (SELECT FROM outbox.exactly_once) = $exact FROM outbox.stat_relay"
	) or die "the relay does not start over\n";
	return;
}

# Each event is there once.
sub is_exact
{
	my ($name) = @_;
	wait_until_confirmed($node, 'postgres');
	my @keys = sort { $a <=> $b } committed_lines($published, $topic, '%k');
	is_deeply(\@keys, [ 1 .. $published ], $name);
	return;
}

# Kills the server; after that nothing that was handed over in memory helps.
sub crash
{
	$node->stop('immediate');
	$node->start;
	return;
}

sql('CREATE EXTENSION outbox');
create_server($node, 'postgres');
sql("ALTER SERVER kafka OPTIONS (ADD delivery 'at_least_once')");
wait_for_state($node, 'postgres', 'streaming');

# A relay that is not exact and leaves waits for Kafka, but not for ever.
publish(50);
wait_until_confirmed($node, 'postgres');
set_delivery('exactly_once');
publish(50);
is_exact('from at least once to exactly once');
set_delivery('at_least_once');
publish(50);
is_exact('and back');
set_delivery('exactly_once');
publish(50);
is_exact('and again');
is(sql('SELECT count(*) FROM outbox.exactly_once'),
	'1', 'the database remembers that deliveries are exact');

# A crash, and the mode is changed before the relay has come up again.
wait_until_confirmed($node, 'postgres');
crash();
set_delivery('at_least_once');
is_exact('switched after a crash');
is(sql('SELECT count(*) FROM outbox.exactly_once'), '0', 'or are not');
wait_until_confirmed($node, 'postgres');
$node->poll_query_until('postgres',
	"SELECT count(*) = 0 FROM outbox.events WHERE status = 'pending'")
  or die "the watermark does not move\n";

# The slot is lost together with all that was in memory.
set_delivery('exactly_once');
for my $round (1 .. 3)
{
	publish(20);
	wait_until_confirmed($node, 'postgres');
	crash();
	wait_for_state($node, 'postgres', 'streaming');
	sql('ALTER SYSTEM SET outbox.capture = poll');
	sql('SELECT pg_reload_conf()');
	wait_for_state($node, 'postgres', 'polling');
	publish(20);
	$node->poll_query_until('postgres',
		"SELECT count(*) = 0 FROM outbox.events WHERE status = 'pending'")
	  or die "polling does not publish\n";
	sql('ALTER SYSTEM RESET outbox.capture');
	sql('SELECT pg_reload_conf()');
	wait_for_state($node, 'postgres', 'streaming');
	is_exact("lost slot and polling, round $round");
}

# A huge transaction is one Kafka transaction.
my $many = 200_000;
my $huge = make_topic(topic_name('huge'), 3);
sql("SELECT count(outbox.publish('Huge', i::text, 'Counted', to_jsonb(i), topic => '$huge')) FROM generate_series(1, $many) i"
);
wait_until_confirmed($node, 'postgres');
my @keys = committed_lines($many, $huge, '%k');
my %keys = map { $_ => 1 } @keys;
is(scalar keys %keys, $many, 'a huge transaction arrives');
is(scalar @keys, $many, 'each event once');
is_exact('the others are as before');

# A replay, while the server crashes.
$node->poll_query_until('postgres',
	'SELECT count(*) = 0 FROM outbox.event WHERE NOT pg_visible_in_snapshot(xid, (SELECT snapshot FROM outbox.watermark ORDER BY id DESC LIMIT 1))'
) or die "the watermark does not move\n";
my $replayed = sql("SELECT outbox.replay('-infinity', aggregate_type => 'Huge')");
is($replayed, $many, 'all of it is to be sent again');
$node->poll_query_until('postgres', 'SELECT sent > 20000 FROM outbox.replay_job')
  or die "the replay does not begin\n";
crash();
$node->poll_query_until('postgres',
	'SELECT finished_at IS NOT NULL FROM outbox.replay_job')
  or die "the replay does not end\n";
is(scalar(() = committed_lines(2 * $many, $huge, '%k')),
	2 * $many, 'a replay that a crash interrupts repeats nothing');

$node->stop;
done_testing();
