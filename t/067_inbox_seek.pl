# Subscriptions that are paused, moved, changed and ended while messages come.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxTest;

my $node = new_server('inbox_seek', "max_worker_processes = 16\n");
my $topic = make_topic(topic_name('Orders'));
create_extension($node, 'postgres');

sub sql
{
	return $node->safe_psql('postgres', $_[0]);
}

sub wait_for_effects
{
	my ($expected, $what) = @_;
	$node->poll_query_until('postgres',
		"SELECT coalesce(string_agg(value, ' ' ORDER BY id), '') = '$expected' FROM effect");
	return is(sql("SELECT string_agg(value, ' ' ORDER BY id) FROM effect"),
		$expected, $what);
}

# All that there is has been read, and the worker is at work.
sub wait_until_read
{
	my ($offset) = @_;
	return $node->poll_query_until('postgres',
		"SELECT next_offset = $offset AND seek_time IS NULL FROM inbox.position WHERE topic = '$topic'");
}

sub wait_for_state_of
{
	my ($name, $state) = @_;
	return ok($node->poll_query_until('postgres',
		"SELECT state = '$state' FROM inbox.stat_subscription WHERE name = '$name'"),
		"$name is $state");
}

sql(<<SQL);
CREATE TABLE effect (id bigserial, value text);
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE sql AS
\$\$ INSERT INTO effect (value) VALUES (inbox.payload_text(m)) \$\$;
CREATE FUNCTION handle_all(m inbox.message[]) RETURNS void LANGUAGE sql AS
\$\$ INSERT INTO effect (value) SELECT 'batch ' || inbox.payload_text(x) FROM unnest(m) x \$\$;
SQL

# latest: what was there before is not seen, what came after is, even if it
# came before the first worker had started
produce($topic, "a\told");
sql("SELECT inbox.subscribe('s', ARRAY['$topic'], 'handle', start => 'latest')");
produce($topic, "a\t1", "a\t2");
wait_for_effects('1 2', 'latest begins with what comes after subscribe()');

# pause and resume
sql("SELECT inbox.pause('s')");
wait_for_state_of('s', 'paused');
ok($node->poll_query_until('postgres',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'outbox consumer'"),
	'a paused subscription has no process');
produce($topic, "a\t3");
sql("SELECT inbox.resume('s')");
wait_for_effects('1 2 3', 'resume() goes on where it was');

# seek: what was received is passed over
sql("SELECT inbox.seek('s', '$topic', 0, '1')");
ok($node->poll_query_until('postgres',
		'SELECT duplicates = 3 FROM inbox.stat_subscription'),
	'after seek() messages are recognized');
wait_for_effects('1 2 3', 'and not handled again');
# ... what was not, because latest passed it, is handled
sql("SELECT inbox.seek('s', '$topic', 0, 'earliest')");
wait_for_effects('1 2 3 old', 'seek() to the beginning finds what was never received');
wait_until_read(4);
# ... rerun handles again, and only what had been passed
sql("SELECT inbox.seek('s', '$topic', 0, 2, rerun => true)");
produce($topic, "a\t4");
wait_for_effects('1 2 3 old 2 3 4', 'rerun handles messages again');
wait_until_read(5);
sql("SELECT inbox.seek('s', '$topic', 0, 'latest')");
produce($topic, "a\t5");
wait_for_effects('1 2 3 old 2 3 4 5', 'seek() to the end goes on with what comes');
wait_until_read(6);
# ... to a time
my $time = sql(
	"SELECT created_at FROM inbox.message WHERE convert_from(payload, 'UTF8') = '5'");
sql("SELECT inbox.seek('s', '$topic', 0, timestamptz '$time', rerun => true)");
wait_for_effects('1 2 3 old 2 3 4 5 5', 'seek() to a time finds the message of that time');
# ... while paused
sql("SELECT inbox.pause('s')");
sql("SELECT inbox.seek('s', '$topic', 0, 5, rerun => true)");
sql("SELECT inbox.resume('s')");
wait_for_effects('1 2 3 old 2 3 4 5 5 5', 'seek() works while paused');

# Changes the subscription, and waits until a worker that knows it is at work:
# the one before may still take a message.
sub change
{
	my ($statement) = @_;
	my $before = sql("SELECT coalesce(max(started_at), '-infinity') FROM inbox.consumer_status()");
	sql($statement);
	$node->poll_query_until('postgres',
		"SELECT bool_and(pid IS NOT NULL AND started_at > '$before') FROM inbox.consumer_status()")
	  or die "no worker after the change\n";
	return;
}

# changed in place: another handler, and a filter
sql('TRUNCATE effect');
wait_until_read(6);
change("SELECT inbox.subscribe('s', ARRAY['$topic'], 'handle_all', start => 'latest')");
produce($topic, "a\t6");
wait_for_effects('batch 6', 'the handler is changed in place');
wait_until_read(7);
change("SELECT inbox.subscribe('s', ARRAY['$topic'], 'handle', filter_event_types => ARRAY['Wanted'])");
produce($topic, { headers => ['type=Unwanted'] }, "a\t7");
produce($topic, { headers => ['type=Wanted'] }, "a\t8");
produce($topic, "a\t9");
wait_until_read(10);
wait_for_effects('batch 6 8', 'messages of other types are passed over');

# ended and begun again: with its memory, and without
sql("SELECT inbox.unsubscribe('s')");
is(sql('SELECT count(*) FROM inbox.position'), 0, 'unsubscribe() forgets the position');
produce($topic, "a\t10");
sql("SELECT inbox.subscribe('s', ARRAY['$topic'], 'handle')");
ok(wait_until_read(11), 'a new subscription begins at the beginning');
is(sql("SELECT string_agg(value, ' ' ORDER BY id) FROM effect"),
	'batch 6 8 7 9 10', 'but handles only what was never handled');
sql("SELECT inbox.unsubscribe('s', keep_messages => false)");
sql('TRUNCATE effect');
sql("SELECT inbox.subscribe('s', ARRAY['$topic'], 'handle')");
wait_for_effects('old 1 2 3 4 5 6 7 8 9 10', 'without its memory it handles everything');
sql('TRUNCATE effect');
sql("BEGIN; SELECT inbox.unsubscribe('s', keep_messages => false); SELECT inbox.subscribe('s', ARRAY['$topic'], 'handle'); COMMIT");
wait_for_effects('old 1 2 3 4 5 6 7 8 9 10', 'also when a worker of the old one is still there');

# where an old consumer group stopped
sql("SELECT inbox.unsubscribe('s', keep_messages => false)");
sql('TRUNCATE effect');
sql("BEGIN; SELECT inbox.subscribe('s', ARRAY['$topic'], 'handle'); SELECT inbox.seek('s', '$topic', 0, 8); COMMIT");
wait_for_effects('8 9 10', 'seek() before the first message');

# a pattern
my $more = make_topic("$topic.more");
sql('TRUNCATE effect');
sql("SELECT inbox.subscribe('s', ARRAY['^' || replace('$topic', '.', '\\.')], 'handle')");
produce($more, "a\tmore");
wait_for_effects('more', 'a topic that matches a pattern is found');
is(sql("SELECT string_agg(topic, ' ' ORDER BY topic) FROM inbox.position"),
	"$topic $more", 'and the positions of the others stay');

# keep => 0: nothing is stored but what tells duplicates
sql('TRUNCATE effect');
sql("SELECT inbox.unsubscribe('s', keep_messages => false)");
sql("SELECT inbox.subscribe('s', ARRAY['$more'], 'handle', keep => '0')");
wait_for_effects('more', 'with keep => 0 messages are handled');
is(sql('SELECT count(*) FROM inbox.message'), 0, 'and not stored');
sql("SELECT inbox.seek('s', '$more', 0, 0)");
ok($node->poll_query_until('postgres',
		'SELECT duplicates = 1 FROM inbox.stat_subscription'),
	'but recognized');

# latest is a time, that of subscribe(); producers have clocks of their own.
# When theirs are behind, it is the end of the topic as the worker first sees
# it; when they are ahead, older messages count as new.
sql('TRUNCATE effect');
my $unsubscribe = "SELECT inbox.unsubscribe('s', keep_messages => false)";
my $latest = "SELECT inbox.subscribe('s', ARRAY['$topic'], 'handle', start => 'latest')";
sql("BEGIN; $unsubscribe; $latest; UPDATE inbox.subscription SET created_at = created_at + interval '1 hour'; COMMIT");
ok(wait_until_read(11), 'clocks behind: latest begins at the end');
produce($topic, "a\t11");
wait_for_effects('11', 'and what comes is handled');
sql('TRUNCATE effect');
sql("BEGIN; $unsubscribe; $latest; UPDATE inbox.subscription SET created_at = created_at - interval '1 hour'; COMMIT");
wait_for_effects('old 1 2 3 4 5 6 7 8 9 10 11', 'clocks ahead: latest begins with messages from before');

# unsubscribe() while messages are tried again: the worker holds the first one,
# and waits in its handler for the second
sql($unsubscribe);
sql('TRUNCATE effect');
sql(<<SQL);
CREATE TABLE obstacle AS SELECT 1 AS a;
CREATE FUNCTION try(m inbox.message) RETURNS void LANGUAGE plpgsql AS
\$\$ BEGIN
	IF EXISTS (SELECT FROM obstacle) AND inbox.payload_text(m) = 'first' THEN RAISE 'not yet'; END IF;
	IF inbox.payload_text(m) = 'second' THEN PERFORM pg_advisory_xact_lock(67); END IF;
	INSERT INTO effect (value) VALUES (inbox.payload_text(m));
END \$\$;
SELECT inbox.subscribe('s', ARRAY['$more'], 'try', retry_backoff => '10 ms', max_attempts => 1000, start => 'latest');
SQL
produce($more, "a\tfirst", "a\tsecond");
ok($node->poll_query_until('postgres', "SELECT count(*) = 2 AND max(attempts) > 0 FROM inbox.message WHERE status = 'pending'"),
	'a message is tried again, another one waits');
my $gate = $node->background_psql('postgres');
$gate->query('SELECT pg_advisory_lock(67)');
sql('TRUNCATE obstacle');
my $before = sql('SELECT count(*) FROM effect');
my $waits = "FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 $waits AND backend_type = 'outbox consumer'"), 'the worker is between them');
my $session = start_psql($node, 'postgres', $unsubscribe);
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 $waits AND backend_type = 'client backend'"), 'unsubscribe() waits for it');
$gate->query('SELECT pg_advisory_unlock(67)');
ok($session->finish, 'and gets through');
$gate->quit;
ok($node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'outbox consumer'"), 'the worker leaves');
is(sql("SELECT (SELECT count(*) FROM inbox.message), (SELECT count(*) FROM inbox.position), (SELECT count(*) FROM inbox.received WHERE consumer = '\@s')"),
	'0|0|0', 'nothing is left');
is(sql('SELECT count(*) FROM effect'), $before, 'and what the worker was doing is undone');

# a new subscription of the name, with a position of its own, while the worker
# of the old one is in its handler
my $late = make_topic("$topic.late");
$gate = $node->background_psql('postgres');
$gate->query('SELECT pg_advisory_lock(67)');
sql(<<SQL);
TRUNCATE effect;
CREATE FUNCTION handle_late(m inbox.message) RETURNS void LANGUAGE sql AS
\$\$ SELECT pg_advisory_xact_lock(67); INSERT INTO effect (value) VALUES ('late') \$\$;
SELECT inbox.subscribe('s', ARRAY['$late'], 'handle_late');
SQL
produce($late, "a\t1");
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 $waits AND backend_type = 'outbox consumer'"), 'a worker is in its handler');
sql("SELECT inbox.unsubscribe('s')");
sql("SELECT inbox.subscribe('s', ARRAY['$late'], 'handle')");
sql("SELECT inbox.seek('s', '$late', 0, 0)");
$gate->query('SELECT pg_advisory_unlock(67)');
wait_for_effects('1', 'a worker of the old subscription does not move the position of the new one');
$gate->quit;

done_testing();
