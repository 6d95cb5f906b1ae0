# Dead letters where deliveries are exact: a refused event costs its Kafka
# transaction, which is sent again without it, and nothing comes twice.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use lib 't';
use OutboxRefused;
use OutboxTest;

my @committed = ('-X', 'isolation.level=read_committed');
my $node = new_server('deadexact');
create_extension($node, 'postgres');
publish_from($node);
change_settings("ALTER SERVER kafka OPTIONS (ADD delivery 'exactly_once')");
wait_until('SELECT EXISTS (SELECT FROM outbox.exactly_once)');

create_functions();

# ---------------------------------------------------------------------------

my $topic = limited_topic('exact');
my $other = limited_topic('exactother');
sql("SELECT small('$topic', 'k', 1, 10)");
sql("SELECT small('$topic', 'k', 11, 20), refused('$topic'), small('$topic', 'k', 21, 30), small('$other', 'k', 1, 10), refused('$topic'), small('$topic', 'k', 31, 40)");
sql("SELECT small('$topic', 'k', 41, 50)");
wait_until_confirmed($node, 'postgres');
is(sql("SELECT count(*) FROM outbox.dead_letter WHERE topic = '$topic'"),
	2, 'refused events are dead letters');
is_deeply([ wait_for_sequence(50, $topic, 'k', @committed) ],
	[ 1 .. 50 ], 'the others are committed once, in order');
is_deeply([ wait_for_sequence(10, $other, 'k', @committed) ], [ 1 .. 10 ], 'in all topics');

kafka('alter-topic', $ENV{OUTBOX_TEST_KAFKA_DIR}, $topic, 'max.message.bytes=1000000');
is(sql("SELECT outbox.retry_all('$topic')"), 2, 'they can be sent again');
wait_until('SELECT NOT EXISTS (SELECT FROM outbox.dead_letter)');
is_deeply(
	[ wait_for_sequence(52, $topic, 'k', @committed) ],
	[ 1 .. 50, 'big', 'big' ],
	'and are committed then');

# A topic that holds.
$node->append_conf('postgresql.conf', "outbox.on_dead_letter = hold\n");
$node->reload;
wait_until("SELECT current_setting('outbox.on_dead_letter') = 'hold'");
$topic = limited_topic('exacthold');
sql("SELECT small('$topic', 'k', 1, 10)");
sql("SELECT small('$topic', 'k', 11, 20), refused('$topic'), small('$topic', 'k', 21, 30), small('$topic', 'other', 1, 10)");
sql("SELECT small('$topic', 'k', 31, 40)");
wait_until_confirmed($node, 'postgres');
is_deeply([ wait_for_sequence(20, $topic, 'k', @committed) ],
	[ 1 .. 20 ], 'when keys are held, what came before is committed');
is_deeply([ wait_for_sequence(10, $topic, 'other', @committed) ], [ 1 .. 10 ], 'other keys go on');
is(sql('SELECT count(*) FROM outbox.held_event'), 20, 'and the rest waits');
$node->stop('immediate');
$node->start;
wait_for_state($node, 'postgres', 'streaming');
sql("SELECT small('$topic', 'k', 41, 50)");
wait_until_confirmed($node, 'postgres');
is(sql('SELECT count(*) FROM outbox.held_event'), 30, 'after a crash, too');
sql('SELECT outbox.discard(event_id) FROM outbox.dead_letter');
wait_until('SELECT NOT EXISTS (SELECT FROM outbox.held_event)');
is_deeply([ wait_for_sequence(50, $topic, 'k', @committed) ],
	[ 1 .. 50 ], 'until it may go on, in order, once');

# Another one is refused among those that waited: what is in front of it is
# committed, in front.
$topic = limited_topic('exacttwo');
sql("SELECT refused('$topic'), small('$topic', 'k', 1, 1), refused('$topic'), small('$topic', 'k', 2, 2)");
wait_until("SELECT count(*) = 3 FROM outbox.held_event WHERE topic = '$topic'");
sql("SELECT outbox.discard(event_id) FROM outbox.dead_letter WHERE topic = '$topic'");
wait_until("SELECT count(*) = 1 FROM outbox.held_event WHERE topic = '$topic'");
wait_until("SELECT count(*) = 1 FROM outbox.dead_letter WHERE topic = '$topic'");
is_deeply([ wait_for_sequence(1, $topic, 'k', @committed) ],
	[ 1 ], 'one that waits is committed, up to one that is refused');
kafka('alter-topic', $ENV{OUTBOX_TEST_KAFKA_DIR}, $topic, 'max.message.bytes=1000000');
sql("SELECT outbox.retry_all('$topic')");
is_deeply([ wait_for_sequence(3, $topic, 'k', @committed) ],
	[ 1, 'big', 2 ], 'and the rest when that is taken, in order');
wait_until("SELECT NOT EXISTS (SELECT FROM outbox.held_event WHERE topic = '$topic')");

# The refused event is all that its Kafka transaction has.
foreach my $round (1 .. 2)
{
	$topic = limited_topic("exactalone$round");
	sql("SELECT refused('$topic')");
	wait_until("SELECT EXISTS (SELECT FROM outbox.dead_letter WHERE topic = '$topic')");
	wait_for_state($node, 'postgres', 'streaming');
	# The second one is refused unasked, if its topic was asked just before.
	sql("SELECT refused('$topic', 'second')") if $round == 2;
	sql("SELECT small('$topic', 'k', 1, 10)");
	sql("SELECT small('$topic', 'other', 1, 10)");
	is_deeply([ wait_for_sequence(10, $topic, 'other', @committed) ], [ 1 .. 10 ], 'other keys go on');
	is_deeply([ sequence($topic, 'k', @committed) ], [], 'and what comes behind it waits');
	sql('SELECT outbox.discard(event_id) FROM outbox.dead_letter');
	wait_until('SELECT NOT EXISTS (SELECT FROM outbox.held_event)');
	is_deeply([ wait_for_sequence(10, $topic, 'k', @committed) ], [ 1 .. 10 ], 'until it may go on');
}

# A key that is held when deliveries become exact, at once: no watermark shows
# the dead letter yet, and it does not come again.
change_settings("ALTER SERVER kafka OPTIONS (SET delivery 'at_least_once')");
wait_until('SELECT NOT EXISTS (SELECT FROM outbox.exactly_once)');
$topic = limited_topic('switched');
my $first = relay_pid($node, 'postgres');
sql(<<SQL);
SELECT refused('$topic');
DO \$\$
BEGIN
	WHILE NOT EXISTS (SELECT FROM outbox.dead_letter WHERE topic = '$topic') LOOP
		PERFORM pg_sleep(0.001);
	END LOOP;
	ALTER SERVER kafka OPTIONS (SET delivery 'exactly_once');
END
\$\$;
SQL
wait_until("SELECT pid <> $first AND state = 'streaming' FROM outbox.stat_relay");
wait_until('SELECT EXISTS (SELECT FROM outbox.exactly_once)');
sql("SELECT small('$topic', 'k', 1, 10)");
sql("SELECT small('$topic', 'other', 1, 10)");
is_deeply([ wait_for_sequence(10, $topic, 'other', @committed) ], [ 1 .. 10 ], 'when deliveries become exact, other keys go on');
is_deeply([ sequence($topic, 'k', @committed) ], [], 'and a held one is held');

# The server crashes when Kafka has committed what was sent again, and the
# database has not forgotten it.
my $kafka_dir = $ENV{OUTBOX_TEST_KAFKA_DIR};
sub crash_before_forgetting
{
	my ($table, $start) = @_;
	my $locker = start_psql($node, 'postgres', "BEGIN; SELECT FROM outbox.$table FOR KEY SHARE; SELECT pg_sleep(300)");
	wait_until("SELECT EXISTS (SELECT FROM pg_locks WHERE mode = 'RowShareLock' AND relation = 'outbox.$table'::regclass)");
	sql($start);
	wait_until('SELECT EXISTS (SELECT FROM pg_locks l JOIN outbox.stat_relay r ON r.pid = l.pid WHERE NOT granted)');
	$node->stop('immediate');
	$locker->finish;
	$node->start;
	wait_until("SELECT NOT EXISTS (SELECT FROM outbox.$table WHERE topic = '$topic')");
	wait_for_state($node, 'postgres', 'streaming');
	return;
}

$topic = limited_topic('exactforget');
sql("SELECT refused('$topic'), small('$topic', 'k', 1, 10)");
wait_until("SELECT count(*) = 10 FROM outbox.held_event WHERE topic = '$topic'");
sql("SELECT outbox.discard(event_id) FROM outbox.dead_letter WHERE topic <> '$topic'");
wait_until("SELECT NOT EXISTS (SELECT FROM outbox.held_event WHERE topic <> '$topic')");
kafka('alter-topic', $kafka_dir, $topic, 'max.message.bytes=1000000');
crash_before_forgetting('dead_letter', "SELECT outbox.retry_all('$topic')");
wait_until("SELECT NOT EXISTS (SELECT FROM outbox.held_event WHERE topic = '$topic')");
sql("SELECT small('$topic', 'k', 11, 20)");
is_deeply([ wait_for_sequence(21, $topic, 'k', @committed) ],
	[ 'big', 1 .. 20 ], 'after a crash, a dead letter that was sent again is not sent once more');

$topic = limited_topic('exactheld');
sql("SELECT refused('$topic'), small('$topic', 'k', 1, 10)");
wait_until("SELECT count(*) = 10 FROM outbox.held_event WHERE topic = '$topic'");
crash_before_forgetting('held_event', "SELECT outbox.discard(event_id) FROM outbox.dead_letter");
sql("SELECT small('$topic', 'k', 11, 20)");
is_deeply([ wait_for_sequence(20, $topic, 'k', @committed) ],
	[ 1 .. 20 ], 'nor an event that waited');

$node->stop;
done_testing();
