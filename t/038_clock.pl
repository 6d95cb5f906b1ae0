# A clock that is set back, by fifty minutes: order, status, catch-up, both kinds
# of delivery and the pauses of subscriptions do not depend on the time of day.
#
# A small library in front of the C library shifts the time of day of the
# server's processes.

use strict;
use warnings;

use lib 't';
use OutboxClock;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $ahead = 3000;
make_clock('CLOCK_REALTIME', $ahead, <<'C');

#define NANOSECONDS 1000000000L

int
gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec precise;

	clock_gettime(CLOCK_REALTIME, &precise);
	now->tv_sec = precise.tv_sec;
	now->tv_usec = precise.tv_nsec / 1000;
	return 0;
}

int
timespec_get(struct timespec *now, int base)
{
	return clock_gettime(CLOCK_REALTIME, now) == 0 ? base : 0;
}

time_t
time(time_t *result)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (result != NULL)
		*result = now.tv_sec;
	return now.tv_sec;
}

/* Nanoseconds from one time to another. */
static long
difference(const struct timespec *from, const struct timespec *to)
{
	return (to->tv_sec - from->tv_sec) * NANOSECONDS + to->tv_nsec - from->tv_nsec;
}

/* Until the clock says so: longer, when it is set back meanwhile. */
int
pthread_cond_timedwait(pthread_cond_t *restrict condition,
					   pthread_mutex_t *restrict mutex,
					   const struct timespec *restrict until)
{
	struct timespec now;
	struct timespec end;
	long		left;
	int			result;

	for (;;)
	{
		clock_gettime(CLOCK_REALTIME, &now);
		left = difference(&now, until);
		if (left <= 0)
			return ETIMEDOUT;
		clock_gettime(CLOCK_MONOTONIC, &end);
		left += end.tv_nsec;
		end.tv_sec += left / NANOSECONDS;
		end.tv_nsec = left % NANOSECONDS;
		result = pthread_cond_clockwait(condition, mutex, CLOCK_MONOTONIC, &end);
		if (result != ETIMEDOUT)
			return result;
	}
}

int
cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex,
			  const struct timespec *restrict until)
{
	switch (pthread_cond_timedwait((pthread_cond_t *) condition,
								   (pthread_mutex_t *) mutex, until))
	{
		case 0:
			return thrd_success;
		case ETIMEDOUT:
			return thrd_timedout;
		default:
			return thrd_error;
	}
}
C

my $node;

sub restart_node
{
	my ($settings) = @_;
	$node->append_conf('postgresql.conf', $settings) if $settings;
	restart_with_clock($node);
	return;
}

my $topic = make_topic(topic_name('clock'));
$node = new_server('clock', "autovacuum = off\n");
restart_node();
create_extension($node, 'postgres');

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

sub publish_command
{
	my ($key) = @_;
	return
	  "SELECT outbox.publish('Order', '$key', 'OrderCreated', NULL, topic => '$topic')";
}

sub keys_on_kafka
{
	my ($count) = @_;
	return join ' ', map { $_->{key} } wait_for_events($topic, $count);
}

sub wait_for_watermark
{
	return $node->poll_query_until('postgres',
		"SELECT NOT EXISTS (SELECT FROM outbox.events WHERE status <> 'published')"
	);
}

# Within one session.
sql(publish_command(1));
ok(wait_for_watermark(), 'an event is published');
my $set_back = command_to_set_clock(0);
my $first = publish_command(2);
my $second = publish_command(3);
is(sql(<<SQL), 't', 'ids of events grow, though the clock was set back');
$first AS first \\gset
\\! $set_back
$second AS second \\gset
SELECT :'first'::uuid < :'second'::uuid;
SQL
is( sql("SELECT age(a.created_at, b.created_at) > '45 min' FROM outbox.event a, outbox.event b WHERE a.aggregate_id = '2' AND b.aggregate_id = '3'"
	),
	't',
	'which it was');
is(keys_on_kafka(3), '1 2 3', 'events arrive in order');
ok(wait_for_watermark(), 'and soon count as published');
like(
	sql("SET synchronous_commit = off;\n" . publish_command(4) . ";\nSELECT outbox.wait_published('120 s')"),
	qr/^t$/m, 'publishers who wait are told');
wait_for_watermark() or die "4 is not published\n";
is(sql("SELECT outbox.replay('-infinity', 'infinity')"),
	4, 'a replay finds all');
is(keys_on_kafka(8), '1 2 3 4 1 2 3 4', 'and sends them in order');

# Changes the kind of delivery, and waits until a relay goes by it.
sub change_delivery
{
	my ($option, $exact) = @_;
	my $pid = relay_pid($node, 'postgres');
	sql("ALTER SERVER kafka OPTIONS ($option)");
	$node->poll_query_until('postgres',
		"SELECT pid <> $pid AND state = 'streaming' AND (SELECT count(*) = $exact FROM outbox.exactly_once) FROM outbox.stat_relay"
	) or die "deliveries do not change: $option\n";
	return;
}

# Exactly once.
set_clock($ahead);
change_delivery("ADD delivery 'exactly_once'", 1);
sql(publish_command(5));
is(keys_on_kafka(9), '1 2 3 4 1 2 3 4 5', 'a Kafka transaction');
set_clock(0);
sql(publish_command(6));
is(keys_on_kafka(10), '1 2 3 4 1 2 3 4 5 6',
	'the next one does not wait for the time of day');
ok(wait_for_watermark(), 'nor does the watermark');

# Kafka takes no records from further in the future than an hour.
set_clock(7200);
sql('SELECT pg_terminate_backend(pid) FROM outbox.stat_relay');
wait_for_error($node, 'postgres', 'waiting for configuration',
	'the relay could not write to the topic "outbox[.]progress[^"]*": .*timestamp');
pass('what Kafka refuses is shown, with the topic');
set_clock(0);
wait_for_state($node, 'postgres', 'streaming');
change_delivery('DROP delivery', 0);

# Out of the table.
restart_node("shared_preload_libraries = ''\n");
sql(publish_command(7));
set_clock($ahead);
sql(publish_command(8));
set_clock(0);
sql(publish_command(9));
sql('SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots');
restart_node("shared_preload_libraries = 'outbox'\n");
is(keys_on_kafka(13), '1 2 3 4 1 2 3 4 5 6 7 8 9',
	'catch-up goes by the order of the events');
ok(wait_for_watermark(), 'all count as published');

# Messages that are tried again.  The handler fails a key's message as often as
# the table says.
my $retried = make_topic(topic_name('clock_retried'), 1);
sql(<<SQL);
CREATE TABLE failures (key text PRIMARY KEY, n integer);
INSERT INTO failures VALUES ('awake', 2), ('asleep', 1);
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	IF m.attempts < (SELECT n FROM failures f WHERE f.key = m.aggregate_id) THEN
		RAISE 'not yet';
	END IF;
END
\$\$;
SELECT inbox.subscribe('retried', ARRAY['$retried'], 'handle', retry_backoff => '3 s', keep => '1 day');
SQL

sub publish_to_handler
{
	my ($key) = @_;
	sql("SELECT outbox.publish('Order', '$key', 'OrderCreated', NULL, topic => '$retried')");
	$node->poll_query_until('postgres',
		"SELECT EXISTS (SELECT FROM inbox.message WHERE aggregate_id = '$key' AND attempts >= 1)"
	) or die "$key was not tried\n";
	return;
}

sub wait_for_handler
{
	my ($key) = @_;
	return $node->poll_query_until('postgres',
		"SELECT status = 'processed' FROM inbox.message WHERE aggregate_id = '$key'"
	);
}

set_clock($ahead);
publish_to_handler('awake');
set_clock(0);
ok(wait_for_handler('awake'), 'the next attempts do not wait');
# Long enough to look at it in between.  The worker that does not know it yet
# must not take the message.
my $worker = sql('SELECT pid FROM inbox.consumer_status()');
sql("SELECT inbox.subscribe('retried', ARRAY['$retried'], 'handle', retry_backoff => '15 s', keep => '1 day')");
$node->poll_query_until('postgres',
	"SELECT bool_and(pid <> $worker) FROM inbox.consumer_status()")
  or die "no worker after the change\n";
set_clock($ahead);
publish_to_handler('asleep');
$node->stop;
set_clock(0);
restart_node();
is( sql("SELECT next_attempt_at > now() + interval '45 min' FROM inbox.message WHERE aggregate_id = 'asleep' AND status = 'pending'"
	),
	't',
	'an attempt is due when the clock has caught up');
ok(wait_for_handler('asleep'), 'and is not waited for');

# Messages that are run again: which were since the seek, and which before.
my $rerun = make_topic(topic_name('clock_rerun'), 1);
sql(<<SQL);
CREATE TABLE reran (id bigserial, value text);
CREATE FUNCTION rerun(m inbox.message) RETURNS void LANGUAGE sql AS
	\$\$ INSERT INTO reran (value) VALUES (inbox.payload_text(m)) \$\$;
SELECT inbox.subscribe('rerun', ARRAY['$rerun'], 'rerun');
SQL

sub reran
{
	my ($values) = @_;
	return $node->poll_query_until('postgres',
		"SELECT string_agg(value, ' ' ORDER BY id) = '$values' AND (SELECT rerun_until IS NULL AND next_offset = 3 FROM inbox.position WHERE topic = '$rerun') FROM reran"
	) || diag(sql('SELECT * FROM reran, inbox.position'));
}

set_clock($ahead);
produce($rerun, { headers => ['id=twice'] }, "k\ta", "k\ta");
produce($rerun, "k\tb");
ok(reran('a b'), 'messages are handled');
set_clock(0);
sql("SELECT inbox.seek('rerun', '$rerun', 0, 0, rerun => true)");
ok(reran('a b a b'), 'and again, though the clock was set back since');
set_clock($ahead);
sql("BEGIN; SELECT inbox.pause('rerun'); SELECT inbox.seek('rerun', '$rerun', 0, 0, rerun => true); DELETE FROM inbox.received WHERE event_id = 'twice'; COMMIT");
set_clock(0);
sql("SELECT inbox.resume('rerun')");
ok(reran('a b a b a b'), 'and once each time, though it was set back after the seek');

$node->stop;
done_testing();
