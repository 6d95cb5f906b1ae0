# A slot that is given up, invalidated or dropped: the table has the events.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $topic = make_topic(topic_name('slotless'));
my $node = new_server('slots', "outbox.max_slot_wal = '32MB'\n");
create_extension($node, 'postgres');
my $published = 0;

sub publish
{
	my ($count) = @_;
	$node->safe_psql('postgres',
		"SELECT outbox.publish('Order', (i % 7)::text, 'OrderCreated', to_jsonb(i), topic => '$topic') FROM generate_series($published + 1, $published + $count) i"
	);
	$published += $count;
	return;
}

# What is on Kafka: how many events, how often they come, in order by key?
sub check
{
	my ($what) = @_;
	my @messages = wait_for_events($topic, $published);
	my (%last, $disorder);
	foreach (@messages)
	{
		$disorder++ if ($last{ $_->{key} } || 0) >= $_->{payload};
		$last{ $_->{key} } = $_->{payload};
	}
	is(scalar @messages, $published, "$what: each event once");
	ok(!$disorder, "$what: in order");
	return;
}

sub kafka_away
{
	$node->safe_psql('postgres',
		q{ALTER SERVER kafka OPTIONS (SET "bootstrap.servers" '127.0.0.1:1')});
	wait_for_state($node, 'postgres', 'waiting for kafka');
	return;
}

sub kafka_back
{
	my $bootstrap = kafka_bootstrap();
	$node->safe_psql('postgres',
		qq{ALTER SERVER kafka OPTIONS (SET "bootstrap.servers" '$bootstrap')});
	wait_for_state($node, 'postgres', 'streaming');
	return;
}

# WAL that has nothing to do with us, in megabytes.
sub write_wal
{
	my ($megabytes) = @_;
	$node->safe_psql('postgres', <<SQL);
CREATE TABLE IF NOT EXISTS filler (data text);
ALTER TABLE filler ALTER data SET STORAGE EXTERNAL;
INSERT INTO filler SELECT repeat('x', 1000000) FROM generate_series(1, $megabytes);
SELECT pg_switch_wal();
CHECKPOINT;
SQL
	return;
}

sub slot_is_gone
{
	return $node->poll_query_until('postgres',
		'SELECT count(*) = 0 FROM pg_replication_slots');
}

sub wait_for_watermark
{
	$node->poll_query_until('postgres',
		"SELECT NOT EXISTS (SELECT FROM outbox.events WHERE status = 'pending')"
	) or die 'the watermark does not move';
	return;
}

publish(100);
wait_for_watermark();

# Kafka is away for so long that the slot holds too much.
kafka_away();
publish(100);
write_wal(60);
ok(slot_is_gone(), 'a slot that holds more than outbox.max_slot_wal is given up');
publish(100);
is( $node->safe_psql('postgres',
		"SELECT count(*) FROM outbox.events WHERE status = 'pending'"),
	'200',
	'the events wait in the table');
kafka_back();
check('slot given up');
publish(100);
check('and afterwards');
wait_for_watermark();

# The server invalidates the slot.
$node->append_conf('postgresql.conf',
	"outbox.max_slot_wal = -1\nmax_slot_wal_keep_size = '16MB'\n");
$node->reload;
$node->poll_query_until('postgres',
	"SELECT current_setting('outbox.max_slot_wal') = '-1'")
  or die "the server did not reload\n";
kafka_away();
publish(100);
my $offset = -s $node->logfile;
write_wal(60);
ok(slot_is_gone(), 'a slot that the server invalidated is dropped');
my $log = slurp_file($node->logfile, $offset);
like($log, qr/outbox relay lost its replication slot: the server invalidated it/,
	'which the log says');
unlike($log, qr/outbox relay gives up/, 'it was not given up');
publish(100);
kafka_back();
check('slot invalidated');
wait_for_watermark();

# Somebody drops the slot while the server's library is not loaded.
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$node->restart;
publish(100);
$node->safe_psql('postgres',
	'SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots');
publish(100);
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'outbox'\n");
$node->restart;
wait_for_state($node, 'postgres', 'streaming');
check('slot dropped by hand');

# The server invalidates the slot because nobody uses it for too long.
if ($node->pg_version >= 18)
{
	wait_for_watermark();
	$node->append_conf('postgresql.conf',
		"shared_preload_libraries = ''\nidle_replication_slot_timeout = '1s'\n");
	$node->restart;
	publish(100);
	$node->poll_query_until('postgres',
		"CHECKPOINT; SELECT invalidation_reason = 'idle_timeout' FROM pg_replication_slots",
		"CHECKPOINT\nt")
	  or die "the slot is not invalidated\n";
	publish(100);
	$node->append_conf('postgresql.conf',
		"shared_preload_libraries = 'outbox'\nidle_replication_slot_timeout = 0\n");
	$offset = -s $node->logfile;
	$node->restart;
	wait_for_state($node, 'postgres', 'streaming');
	like(slurp_file($node->logfile, $offset),
		qr/outbox relay lost its replication slot: the server invalidated it/,
		'a slot that was idle for too long is lost, too');
	check('slot idle for too long');
}

# The slot is given up when a part of a transaction is on Kafka: that part comes
# once more, out of the table, and nothing that is decoded later is taken for it.
$node->append_conf('postgresql.conf',
	"outbox.max_slot_wal = '32MB'\nmax_slot_wal_keep_size = -1\n");
$node->reload;
$node->safe_psql('postgres',
	q{ALTER SERVER kafka OPTIONS (ADD "batch.num.messages" '1', ADD "max.in.flight.requests.per.connection" '1')});
publish(1);
wait_until_confirmed($node, 'postgres');
wait_for_watermark();
my $sent = relay_status($node, 'postgres', 'events');
publish(10000);
$node->poll_query_until('postgres',
	"SELECT events > $sent + 100 FROM outbox.stat_relay")
  or die "nothing is sent\n";
$node->safe_psql('postgres', <<'SQL');
ALTER SERVER kafka OPTIONS (SET "bootstrap.servers" '127.0.0.1:1', DROP "batch.num.messages", DROP "max.in.flight.requests.per.connection");
SELECT pg_terminate_backend(pid) FROM outbox.stat_relay;
SQL
wait_for_state($node, 'postgres', 'waiting for kafka');
my @before = consume_lines($topic, '%s');
my $part = @before - $published + 10000;
cmp_ok($part, '>=', 100, 'a part of a transaction is on Kafka');
cmp_ok($part, '<', 10000, 'and only a part');
write_wal(60);
ok(slot_is_gone(), 'the slot is given up then');
kafka_back();
publish(10000);
wait_until_confirmed($node, 'postgres');
my %times;
$times{$_}++ foreach consume_lines($topic, '%s');
is(scalar(keys %times), $published, 'slot given up in a transaction: no event is lost');
is_deeply(
	[ sort { $a <=> $b } grep { $times{$_} > 1 } keys %times ],
	[ sort { $a <=> $b } @before[ -$part .. -1 ] ],
	'and those come again that were on Kafka before');
is(scalar(grep { $_ > 2 } values %times), 0, 'once more');
$node->stop;

done_testing();
