# What random handlers and faults have found (t/062_inbox_fire.pl).

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxInbox;
use OutboxTest;

my $node = new_server('inbox_fire_found', "max_worker_processes = 24\nrestart_after_crash = on\n");
create_extension($node, 'postgres');
subscribe_in($node);

# ---------------------------------------------------------------------------
# A partition whose turn has not come is not said to wait for a transaction

# Longer than after which that would be said, whichever of the two comes first.
my $topic = make_topic(topic_name('turn'), 2);
foreach my $partition (0, 1)
{
	produce($topic, { partition => $partition }, map { "k\t$partition" } 1 .. 14);
}
sql(<<SQL);
CREATE TABLE done (id bigserial, value text);
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM pg_sleep(1);
	INSERT INTO done (value) VALUES (inbox.payload_text(m));
END
\$\$;
SELECT inbox.subscribe('turn', ARRAY['$topic'], 'handle', batch_size => 1);
SQL
wait_for('SELECT count(DISTINCT value) = 2 FROM done', 'there is a message of each partition at last');
cmp_ok(sql('SELECT count(*) FROM done WHERE id < (SELECT max(first) FROM (SELECT min(id) AS first FROM done GROUP BY value) f)'),
	'>', 10, 'after many of the other one');
unlike(slurp_file($node->logfile), qr/wait for a transaction of a producer/, 'meanwhile it waited for no transaction');
unlike(sql('SELECT last_error FROM inbox.stat_subscription'), qr/transaction/, 'nor does the view say so');

# ---------------------------------------------------------------------------
# A message that moves its subscription, in another session, and then crashes the
# server, is found: neither hides it from the other

# True when a query comes to give true, though the server may crash meanwhile.
sub survived
{
	my ($query) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	while (time < $deadline)
	{
		my ($code, $output) = $node->psql('postgres', $query);
		return 1 if $code == 0 && $output eq 't';
		select undef, undef, undef, 0.1;
	}
	return 0;
}

sub crashes
{
	my $crashes = () = slurp_file($node->logfile) =~ /was terminated by signal 9/g;
	return $crashes;
}

sql(<<'SQL');
CREATE EXTENSION dblink;
-- Its locks may meet those of the handler, which nobody would notice.
CREATE FUNCTION elsewhere(dsn text, statement text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM dblink_exec(dsn, format('DO %L', 'BEGIN PERFORM ' || statement || '; END'));
EXCEPTION WHEN OTHERS THEN
	NULL;
END
$$;
SQL
my $dsn = ($node->connstr('postgres') . " options='-c lock_timeout=500'") =~ s/'/''/gr;
my %quick = (batch_size => 10, retry_backoff => "'10 ms'", max_attempts => 2);
my $arguments = join ', ', map { "$_ => $quick{$_}" } sort keys %quick;
foreach my $name ('seeks', 'subscribes')
{
	my $move = $name eq 'seeks' ? 'inbox.seek(m.subscription, m.topic, m.partition, 0)' : 'anew()';
	$move =~ s/m\.(\w+)/' || quote_literal(m.$1) || '/g;
	my $topic_of_moving = subscribe_noting($name, "IF v = 'bad' THEN PERFORM elsewhere('$dsn', '$move'); COPY (SELECT 1) TO PROGRAM 'kill -9 \$PPID; sleep 5'; END IF;", \%quick);
	sql(<<SQL);
CREATE OR REPLACE FUNCTION anew() RETURNS void LANGUAGE sql AS \$\$
	SELECT inbox.unsubscribe('$name');
	SELECT inbox.subscribe('$name', ARRAY['$topic_of_moving'], 'handle_$name', $arguments);
\$\$
SQL
	produce($topic_of_moving, map { "k$_\t$_" } 1 .. 40);
	wait_for("SELECT count(*) = 40 FROM done_$name", "$name: messages are handled");
	my $before = crashes();
	produce($topic_of_moving, "b\tbad", "c\tlast");
	ok(survived("SELECT (SELECT count(*) FROM done_$name) = 41 AND EXISTS (SELECT FROM inbox.message WHERE subscription = '$name' AND status = 'failed')"),
		"$name: it fails, and the next one is handled");
	cmp_ok(crashes() - $before, '<=', 3, 'after one crash among others, and one for each attempt');
	is(sql("SELECT count(*), count(DISTINCT value) FROM done_$name"), '41|41', 'nothing is handled twice');
}

# ---------------------------------------------------------------------------
# What is changed counts for workers and relay, though the session that changes it
# fires no triggers, by a setting of its role

my $replica = 'SET session_replication_role = replica; ';
my $topic_of_replica = subscribe_noting('replica', '', {});
produce($topic_of_replica, map { "k$_\t$_" } 1 .. 3);
wait_for('SELECT count(*) = 3 FROM done_replica', 'without triggers: messages are handled');
my $state = q(FROM inbox.stat_subscription WHERE name = 'replica');
sql("$replica SELECT inbox.pause('replica')");
wait_for("SELECT count(pid) = 0 FROM inbox.consumer_status() WHERE subscription = 'replica'", 'a pause counts');
sql("$replica SELECT inbox.resume('replica')");
wait_for("SELECT state = 'running' $state", 'and its end');
sql("$replica SELECT inbox.seek('replica', '$topic_of_replica', 0, 'earliest', true)");
wait_for('SELECT count(*) = 6 FROM done_replica', 'workers go to where they are sent');
sql("$replica SELECT inbox.unsubscribe('replica')");
is(sql("SELECT count(*) FROM inbox.position WHERE subscription = 'replica'"), 0, 'nothing is left of a subscription that has gone');

my $limited = make_topic(topic_name('limited'), 1, 'max.message.bytes' => 1000);
sql("SELECT outbox.publish('Big', 'k', 'Big', (SELECT to_jsonb(string_agg(md5(i::text), '')) FROM generate_series(1, 300) i), topic => '$limited')");
wait_for('SELECT count(*) = 1 FROM outbox.dead_letter', 'a dead letter');
sql("$replica SELECT outbox.retry(event_id) FROM outbox.dead_letter");
wait_for('SELECT attempts = 2 FROM outbox.dead_letter', 'it is tried again');
is(sql("SELECT string_agg(format('%s of %s', tgname, tgrelid::regclass), ', ') FROM pg_trigger WHERE tgfoid IN ('outbox.wake_relay'::regproc, 'inbox.wake_consumers'::regproc) AND tgenabled <> 'A'"),
	'', 'nor does anybody else wait who is woken by a trigger');

$node->stop;
done_testing();
