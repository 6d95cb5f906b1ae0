# While a relay works off a backlog, what is published is known: the slot moves,
# and if the relay loses it then, little comes again.

use strict;
use warnings;

use lib 't';
use OutboxProxy;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = own_kafka('backlog');
my $network = OutboxProxy->new($kafka);
my $topic = make_topic(topic_name('backlog'), 1, dir => $kafka);
my $node = new_server('backlog');
create_extension($node, 'postgres', kafka_bootstrap($kafka));

sub sql { return $node->safe_psql('postgres', $_[0]) }

# The backlog: transactions of 100 events, and now and then a snapshot of the
# server's own, as there is in a real one.
set_bootstrap($node, 'postgres', closed_port());
wait_for_state($node, 'postgres', 'waiting for kafka');
my $events = 20_000;
my $before = sql('SELECT pg_current_wal_lsn()');
foreach my $part (0 .. 19)
{
	sql(join ';', map {
			my $first = $part * 1000 + $_ * 100 + 1;
			"SELECT outbox.publish('Test', i::text, 'Made', to_jsonb(i), topic => '$topic') FROM generate_series($first, $first + 99) i"
	} 0 .. 9);
	sql('CHECKPOINT');
}

# The relay has some written as well, without a checkpoint.
my $waited_from = sql('SELECT pg_current_wal_lsn()');
my $records;
my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
do
{
	sql("SELECT pg_logical_emit_message(false, 'test', 'more WAL')");
	my $to = sql('SELECT pg_current_wal_flush_lsn()');
	my ($stdout, $stderr) = run_command(
		[ 'pg_waldump', '-p', $node->data_dir . '/pg_wal', '-r', 'Standby', '-s', $waited_from, '-e', $to ]);
	$records = () = $stdout =~ /RUNNING_XACTS/g;
} while ($records < 4 && time < $deadline);
cmp_ok($records, '>=', 4, 'a relay that waits has snapshots written');

# Kafka is back, slowly.
$network->slow(0.03);
sql(qq{ALTER SERVER kafka OPTIONS (SET "bootstrap.servers" '@{[ $network->bootstrap ]}', ADD "batch.num.messages" '10', ADD "queue.buffering.max.messages" '2000')});
$node->poll_query_until('postgres',
	"SELECT count(*) >= 3000 FROM outbox.event, (SELECT snapshot FROM outbox.watermark ORDER BY id DESC LIMIT 1) w WHERE pg_visible_in_snapshot(xid, snapshot)"
) or die "the watermark does not move\n";

# The slot is lost.  Until then nothing more gets through.
$network->swallow;
sql(<<'SQL');
CREATE FUNCTION lose_slot() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_terminate_backend(pid) FROM outbox.stat_relay WHERE pid IS NOT NULL;
	PERFORM pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE active_pid IS NULL;
	RETURN NOT EXISTS (SELECT FROM pg_replication_slots);
EXCEPTION WHEN object_in_use OR undefined_object THEN
	RETURN false;
END
$$;
SQL
$node->poll_query_until('postgres', 'SELECT lose_slot()') or die "the slot cannot be dropped\n";
my $sent = () = consume_lines($topic, '%k', kafka_bootstrap($kafka));
note("$sent events were sent");
cmp_ok($sent, '<', $events, 'the slot is lost before all is sent');
$network->heal;
sql(q{ALTER SERVER kafka OPTIONS (SET "batch.num.messages" '2000', DROP "queue.buffering.max.messages")});
wait_for_state($node, 'postgres', 'streaming');
wait_until_confirmed($node, 'postgres');
my @keys = consume_lines($topic, '%k', kafka_bootstrap($kafka));
my %seen;
$seen{$_}++ foreach @keys;
is(scalar keys %seen, $events, 'nothing is lost');
my $again = @keys - $events;
cmp_ok($again, '<', $sent - 1500, "what was known to be published does not come again ($again of $sent did)");

# A relay that has decoded all there is looks for what is to be sent again, and
# where there is nothing it does not wait for what is on its way.
sql(q{ALTER SERVER kafka OPTIONS (SET "batch.num.messages" '10')});
wait_for_state($node, 'postgres', 'streaming');
$network->slow(0.03);
sql(join ';', ("SELECT count(outbox.publish('Test', i::text, 'Made', to_jsonb(i), topic => '$topic')) FROM generate_series(1, 100) i") x 50);
my $pid = relay_pid($node, 'postgres');
sql("SELECT pg_terminate_backend($pid)");
$node->poll_query_until('postgres', "SELECT pid <> $pid AND in_flight > 3000 FROM outbox.stat_relay")
  or die "nothing is under way\n";
my $confirmed = sql('SELECT confirmed_flush_lsn FROM pg_replication_slots');
ok( $node->poll_query_until('postgres',
		"SELECT confirmed_flush_lsn > '$confirmed' AND in_flight BETWEEN 1 AND 2500 FROM outbox.stat_relay, pg_replication_slots"),
	'the slot moves though nothing more is decoded');
$network->heal;
wait_until_confirmed($node, 'postgres');

$node->stop;
done_testing();
