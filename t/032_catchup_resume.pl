# A catch-up that is killed goes on where it was, holds no transaction open
# while Kafka is away, and shows how far it is.

use strict;
use warnings;

use lib 't';
use OutboxProxy;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = own_kafka('resume');
my $bootstrap = kafka_bootstrap($kafka);
my $topic = topic_name('resumed');
make_topic($topic, 4, dir => $kafka);
my $node = new_server('resume', "restart_after_crash = on\n");
$node->safe_psql('postgres', 'CREATE EXTENSION outbox');
my $published = 0;

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

# Numbered events of 100 keys, several transactions at a time.
sub publish
{
	my ($count) = @_;
	sql(<<SQL);
DO \$\$
BEGIN
	FOR n IN $published + 1 .. $published + $count LOOP
		PERFORM outbox.publish('Order', (n % 100)::text, 'OrderCreated', to_jsonb(n), topic => '$topic');
		IF n % 5000 = 0 THEN
			COMMIT;
		END IF;
	END LOOP;
END
\$\$
SQL
	$published += $count;
	return;
}

sub payloads
{
	return consume_lines($topic, '%k %s', $bootstrap);
}

# Waits until the table holds progress beyond the given number of events, and
# returns that.  Between two looks a round may end, and its progress go.
sub wait_for_progress
{
	my ($beyond) = @_;
	my $done = 0;
	while ($done <= $beyond)
	{
		$node->poll_query_until('postgres',
			"SELECT coalesce(max(events_done), 0) > $beyond FROM outbox.catchup")
		  or die "no progress beyond $beyond is stored\n";
		$done = sql('SELECT coalesce(max(events_done), 0) FROM outbox.catchup');
	}
	return $done;
}

# Kafka at walking pace, or not.
sub set_pace
{
	my ($options, $brokers) = @_;
	$brokers ||= $bootstrap;
	sql("DROP SERVER IF EXISTS kafka");
	sql("CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS (\"bootstrap.servers\" '$brokers'$options)"
	);
	return;
}

sub kill_relay
{
	my $pid = relay_pid($node, 'postgres');
	kill 'KILL', $pid;
	$node->poll_query_until('postgres',
		"SELECT coalesce(pid, 0) NOT IN (0, $pid) FROM outbox.stat_relay")
	  or die "no relay after a crash\n";
	return;
}

# One event a request, one request at a time: some seconds for it all.
my $slow =
  q{, "batch.num.messages" '1', "queue.buffering.max.messages" '50'};

# An open transaction whose events have the lowest ids and are committed while
# the catch-up is under way.
sql(<<SQL);
BEGIN;
SELECT outbox.publish('Order', 'early', 'OrderCreated', '0', topic => '$topic');
PREPARE TRANSACTION 'early';
SQL

# So far away that what is read at once takes seconds.  How far it is shows all
# the time, not only when it is sent.
my $proxy = OutboxProxy->new($kafka);
$proxy->slow(0.01);
publish(400);
set_pace($slow, $proxy->bootstrap);
ok( $node->poll_query_until('postgres',
		'SELECT catchup_done > 0 AND catchup_left > 200 AND catchup_done + catchup_left = 400 FROM outbox.stat_relay'
	),
	'stat_relay shows what is done and what is left');
undef $proxy;

publish(59_600);
set_pace($slow);
# The round of the first 400 counts to 400 at most; here the next one counts.
my $done = wait_for_progress(400);
cmp_ok($done, '<', 60_000, "progress is stored on the way: $done");
ok( $node->poll_query_until('postgres', <<'SQL'), 'no transaction stays open meanwhile');
SELECT catchup_left > 0 AND started_at < now() - interval '1 s'
   AND NOT EXISTS (SELECT FROM pg_stat_activity
                   WHERE backend_type = 'outbox relay' AND xact_start < now() - interval '500 ms')
FROM outbox.stat_relay
SQL

# Killed three times; and once more with what committed late.
foreach my $round (1 .. 3)
{
	kill_relay();
	$done = wait_for_progress($done);
}
sql("COMMIT PREPARED 'early'");
publish(10);
kill_relay();
$done = wait_for_progress($done);
cmp_ok($done, '<', 60_000, "after four crashes it is still under way: $done");

# The whole server.
$node->stop('immediate');
$node->start;
$done = wait_for_progress($done);

# Other settings, which end the process in good order.
my $offset = -s $node->logfile;
set_pace('');
wait_for_state($node, 'postgres', 'streaming');
like(
	slurp_file($node->logfile, $offset),
	qr/starts over with changed Kafka settings.*goes on with a catch-up/s,
	'other settings count at once');
publish(100);
wait_until_confirmed($node, 'postgres');

my @arrived = payloads();
my (%seen, %last);
my $disorder = 0;
foreach (@arrived)
{
	my ($key, $number) = split / /;
	next if $seen{$_}++;
	$disorder++ if $number < ($last{$key} || 0);
	$last{$key} = $number;
}
is(scalar keys %seen, $published + 1, 'nothing is lost');
ok($seen{'early 0'}, 'nor what was numbered early and committed late');
is($disorder, 0, 'each key keeps its order');
my $repeated = @arrived - keys %seen;
diag("$repeated of $published events came twice, after five crashes");
is(sql('SELECT count(*) FROM outbox.catchup'),
	'0', 'progress is forgotten when all is done');
ok( $node->poll_query_until(
		'postgres',
		"SELECT NOT EXISTS (SELECT FROM outbox.events WHERE status <> 'published')"
	),
	'and everything counts as published');
is(relay_status($node, 'postgres', 'catchup_left'),
	'', 'there is nothing left to show');

$node->stop;
done_testing();
