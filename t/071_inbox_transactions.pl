# What subscriptions make of producers' Kafka transactions.

use strict;
use warnings;

use IO::Handle;
use PostgreSQL::Test::Utils;
use Test::More;

use OutboxTest;

my $node = new_server('inbox_transactions', "max_worker_processes = 20\n");
create_extension($node, 'postgres');
my $topic = make_topic(topic_name('Transactions'));

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

# The values that a subscription has handled.
sub done
{
	my ($name) = @_;
	return sql("SELECT string_agg(value, ' ' ORDER BY id) FROM effect WHERE subscription = '$name'");
}

sub wait_for_done
{
	my ($name, $expected, $what) = @_;
	$node->poll_query_until('postgres',
		"SELECT string_agg(value, ' ' ORDER BY id) = '$expected' FROM effect WHERE subscription = '$name'");
	return is(done($name), $expected, $what);
}

# A producer with a message in an open transaction; returns its process and a
# pipe, whose end commits.  kcat sends when it has read enough.
sub begin
{
	my ($value) = @_;
	my $pid = open(my $pipe, '|-', 'exec kcat -P -b ' . kafka_bootstrap() . " -t $topic -K '\\t' -X linger.ms=5 -X transactional.id=$topic 2>/dev/null")
	  or die "kcat: $!\n";
	$pipe->autoflush(1);
	print $pipe "k\t$value\n", map { "k\tpadding" . 'x' x 100 . "\n" } 1 .. 200;
	wait_for_read_uncommitted($value);
	return ($pid, $pipe);
}

# Whoever reads uncommitted messages has handled it: others had their chance.
sub wait_for_read_uncommitted
{
	my ($value) = @_;
	return $node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM effect WHERE subscription = 'uncommitted' AND value = '$value'")
	  || die "$value was not read: " . sql('TABLE inbox.stat_subscription') . "\n";
}

sql(<<SQL);
CREATE TABLE effect (id bigserial, subscription text, value text);
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE sql AS \$\$
	INSERT INTO effect (subscription, value)
	SELECT m.subscription, inbox.payload_text(m) WHERE inbox.payload_text(m) NOT LIKE 'padding%'
\$\$;
SELECT inbox.subscribe('committed', ARRAY['$topic'], 'handle'),
	inbox.subscribe('uncommitted', ARRAY['$topic'], 'handle', isolation => 'read_uncommitted');
SQL
produce($topic, "k\tbefore");
wait_for_done('committed', 'before', 'a message is handled');

my ($pid, $pipe) = begin('open');
produce($topic, "k\tbetween");
wait_for_read_uncommitted('between');
is(done('uncommitted'), 'before open between', 'read_uncommitted: an open transaction is seen');
is(done('committed'), 'before', 'read_committed: it is not, nor what follows');
ok(close($pipe), 'it commits');
wait_for_done('committed', 'before open between', 'then it is seen, and what follows');
ok( $node->poll_query_until('postgres', "SELECT lag = 0 AND lag_seconds = 0 FROM inbox.stat_subscription WHERE name = 'committed'"),
	'there is no lag: what ends a transaction is no message');

# The same producer again: Kafka aborts what the killed one left.
($pid, $pipe) = begin('aborted');
kill 'KILL', $pid;
close($pipe);
($pid, $pipe) = begin('after');
is(done('uncommitted'), 'before open between aborted after', 'read_uncommitted: an aborted transaction is seen');
is(done('committed'), 'before open between', 'read_committed: the next one is not seen while it is open');
ok(close($pipe), 'it commits');
wait_for_done('committed', 'before open between after', 'read_committed: an aborted transaction is never seen');

# At the end of the topic, too.
($pid, $pipe) = begin('aborted again');
kill 'KILL', $pid;
close($pipe);
produce_nothing();
ok( $node->poll_query_until('postgres', "SELECT bool_and(lag = 0 AND lag_seconds = 0) FROM inbox.stat_subscription"),
	'an aborted transaction at the end is no lag');
is(done('committed'), 'before open between after', 'nor is it seen');

# Kafka removes all that there is, while nobody looks.
# Who reads uncommitted messages has met the last of them; so both are beyond.
ok( $node->poll_query_until('postgres',
		"SELECT count(DISTINCT next_offset) = 1 AND bool_and(next_offset = end_offset) FROM inbox.position"),
	'the positions are at the end of the topic');
my $end = sql("SELECT next_offset FROM inbox.position WHERE subscription = 'committed'");
sql("SELECT inbox.pause('committed')");
ok( $node->poll_query_until('postgres',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'outbox consumer' AND application_name = 'committed'"),
	'it is paused');
my $list = PostgreSQL::Test::Utils::tempdir() . '/records.json';
append_to_file($list, qq({"partitions": [{"topic": "$topic", "partition": 0, "offset": $end}], "version": 1}));
kafka('tool', $ENV{OUTBOX_TEST_KAFKA_DIR}, 'org.apache.kafka.tools.DeleteRecordsCommand', '--offset-json-file', $list);
sql("SELECT inbox.resume('committed')");
produce($topic, "k\tlast");
wait_for_done('committed', 'before open between after last', 'what no consumer sees is not missed when Kafka removes it');
is( sql("SELECT count(*) FROM inbox.message WHERE subscription = 'committed'"),
	sql("SELECT processed FROM inbox.stat_subscription WHERE name = 'committed'"),
	'messages are counted without those of aborted transactions');

# A transaction of the same producer without a message aborts the last one.
sub produce_nothing
{
	PostgreSQL::Test::Utils::system_log("kcat -P -b " . kafka_bootstrap() . " -t $topic -X transactional.id=$topic </dev/null 2>/dev/null") == 0
	  or die "kcat failed\n";
	return;
}

done_testing();
