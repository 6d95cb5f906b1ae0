# What commits arrives on Kafka, as it should look, at once and in the order
# of the commits; what does not commit never arrives.

use strict;
use warnings;

use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use OutboxTest;

my $node = new_server('relay', "track_commit_timestamp = on\n",
	extra => [ '--encoding=UTF8', '--no-locale' ]);
# Of the tables of the extension, too, which change.
$node->safe_psql('postgres', 'CREATE PUBLICATION everything FOR ALL TABLES');
create_extension($node, 'postgres');

# Runs SQL in the database of most of these tests.
sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

# Publishes; the arguments are SQL.  Returns the event's id.
sub publish
{
	my ($arguments) = @_;
	return sql("SELECT outbox.publish($arguments)");
}

# Values of a topic's messages.
sub payloads
{
	return map { $_->{payload} } @_;
}

# Java's murmur2, by which the Java client and Debezium choose partitions.
sub multiply
{
	my ($x, $y) = @_;
	return (($x & 0xffff) * $y + ((($x >> 16) * $y & 0xffff) << 16)) &
	  0xffffffff;
}

sub murmur2
{
	my ($bytes) = @_;
	my $m = 0x5bd1e995;
	my $h = 0x9747b28c ^ length $bytes;
	my @tail = unpack 'C*', substr($bytes, length($bytes) & ~3);

	foreach my $k (unpack 'V' . (length($bytes) >> 2), $bytes)
	{
		$k = multiply($k, $m);
		$k ^= $k >> 24;
		$h = multiply($h, $m) ^ multiply($k, $m);
	}
	if (@tail)
	{
		$h ^= $tail[$_] << 8 * $_ foreach 0 .. $#tail;
		$h = multiply($h, $m);
	}
	$h ^= $h >> 13;
	$h = multiply($h, $m);
	return $h ^ $h >> 15;
}

# ---------------------------------------------------------------------------
# The message

my $type = aggregate_type('Wire');
my $topic = "outbox.event.$type";
my $json = '{"b": [1, 2.50, null], "a": {"ä": "Grüße\n"}, "long": 1}';
my $id = publish(
	"'$type', 'order-7', 'OrderPaid', '$json', '{\"s\": \"text\", \"n\": 1.50, \"b\": true, \"z\": null}'"
);
my ($message) = wait_for_events($topic, 1);

is($message->{topic}, $topic, 'the topic is the prefix and the type, case kept');
is($message->{key}, 'order-7', 'the key is aggregate_id');
is( join("\n", consume_lines($topic, '%s')),
	sql("SELECT '$json'::jsonb"),
	'the value is the JSON byte for byte as PostgreSQL prints it');
is_deeply(
	[ @{ $message->{headers} }[ 0 .. 5 ] ],
	[ id => $id, type => 'OrderPaid', aggregate_type => $type ],
	'headers id, type and aggregate_type come first');
my %own = @{ $message->{headers} }[ 6 .. $#{ $message->{headers} } ];
is_deeply(
	\%own,
	{ s => 'text', n => '1.50', b => 'true', z => undef },
	'own headers follow: string, number, boolean, null');
is( $message->{ts},
	sql(
		"SELECT floor(extract(epoch FROM pg_xact_commit_timestamp(xid::xid)) * 1000) FROM outbox.event WHERE event_id = '$id'"
	),
	'the timestamp is the time of the commit in milliseconds');

$type = aggregate_type('Tombstone');
publish("'$type', 'order-7', 'OrderGone', NULL");
is((wait_for_events("outbox.event.$type", 1))[0]{payload},
	undef, 'a NULL payload is a tombstone');
is_deeply([ consume_lines("outbox.event.$type", '%S') ],
	['-1'], 'which has no value, not an empty one');

$type = aggregate_type('NoKey');
publish("'$type', NULL, 'Thing', '{}'");
publish("'$type', '', 'Thing', '{}'");
wait_for_events("outbox.event.$type", 2);
is_deeply([ consume_lines("outbox.event.$type", '%K') ],
	[ '-1', '0' ], 'a NULL aggregate_id makes no key, an empty one an empty key');

$type = aggregate_type('Elsewhere');
$topic = topic_name('Named');
publish(
	"'$type', 'order-7', 'Thing', '{}', topic => '$topic', partition_key => 'customer-3'"
);
($message) = wait_for_events($topic, 1);
is($message->{key}, 'customer-3', 'an event goes where topic and partition_key say');
is(header($message, 'aggregate_type'),
	$type, 'and keeps its aggregate type');

$type = aggregate_type('Bytes');
sql("SELECT outbox.publish_bytes('$type', 'b', 'Blob', '\\x00ff0d0ac3287f00')");
wait_for_events("outbox.event.$type", 1);
is(join(',', consume_lines("outbox.event.$type", '%S')),
	8, 'publish_bytes sends as many bytes as it was given');
is( unpack('H*', join "\n", consume_lines("outbox.event.$type", '%s')),
	'00ff0d0ac3287f00', 'and those bytes');

$type = aggregate_type('Large');
sql(<<SQL);
CREATE FUNCTION noise(len integer) RETURNS bytea LANGUAGE sql AS
	\$\$ SELECT substr(string_agg(sha512(i::text::bytea), ''), 1, len) FROM generate_series(0, len / 64) i \$\$;
DO \$\$
BEGIN
	FOR size IN REVERSE 1000000 .. 990000 BY 10 LOOP
		BEGIN
			PERFORM outbox.publish_bytes('$type', 'b', 'Large', noise(size));
			RETURN;
		EXCEPTION WHEN program_limit_exceeded THEN
		END;
	END LOOP;
	RAISE 'none is small enough';
END
\$\$
SQL
wait_until_confirmed($node, 'postgres');
my $size = sql("SELECT length(payload) FROM outbox.event WHERE aggregate_type = '$type'");
cmp_ok($size, '>', 990000, 'publish_bytes takes a megabyte');
is_deeply([ consume_lines("outbox.event.$type", '%S') ],
	[$size], 'the largest event that it takes arrives whole');
sql("SELECT outbox.publish_bytes('$type', 'b', 'Large', convert_to(encode(noise(400000), 'hex'), 'UTF8'))");
wait_until_confirmed($node, 'postgres');
ok( ( grep {
			$_ eq sql("SELECT encode(noise(400000), 'hex')")
	  } consume_lines("outbox.event.$type", '%s', undef, '-o', '-1')),
	'a payload that is stored out of line arrives as it was');

$type = aggregate_type('Utf8');
publish("'$type', 'ключ-ä', 'Ändern', '\"€ 🙂\"', '{\"ü\": \"值\"}'");
($message) = wait_for_events("outbox.event.$type", 1);
is_deeply(
	[ @$message{qw(key payload)}, header($message, 'type'), header($message, 'ü') ],
	[ 'ключ-ä', '"€ 🙂"', 'Ändern', '值' ],
	'text beyond ASCII arrives in UTF-8');

$node->safe_psql('postgres',
	"CREATE DATABASE latin1 TEMPLATE template0 ENCODING LATIN1 LOCALE 'C'");
create_extension($node, 'latin1');
$type = aggregate_type('Latin1');
$node->safe_psql('latin1',
	"SET client_encoding = 'UTF8'; SELECT outbox.publish('$type', 'schlüssel', 'Ändern', '\"Grüße\"', '{\"ü\": \"ß\"}')"
);
($message) = wait_for_events("outbox.event.$type", 1);
is_deeply(
	[ @$message{qw(key payload)}, header($message, 'type'), header($message, 'ü') ],
	[ 'schlüssel', '"Grüße"', 'Ändern', 'ß' ],
	'and so does the text of a database in another encoding');

is( join(' ', map { murmur2($_) } '21', 'foobar', 'a-little-bit-long-string'),
	join(' ', map { $_ & 0xffffffff } -973932308, -790332482, -985981536),
	'the partitioner that we compare with is that of Java');
$type = aggregate_type('Partitions');
$topic = make_topic("outbox.event.$type", 12);
sql("SELECT count(outbox.publish('$type', repeat('x', i % 5) || i, 'Thing', '{}')) FROM generate_series(1, 200) i"
);
my @messages = wait_for_events($topic, 200);
is_deeply(
	[ map { "$_->{key}: $_->{partition}" } @messages ],
	[ map { "$_->{key}: " . (murmur2($_->{key}) & 0x7fffffff) % 12 } @messages ],
	'keys go to the partitions where Java clients put them');

# ---------------------------------------------------------------------------
# Which events arrive

$type = aggregate_type('Transactions');
$topic = "outbox.event.$type";
sql(<<SQL);
BEGIN;
SELECT outbox.publish('$type', 'k', 'Rolled back', '1');
ROLLBACK;
BEGIN;
SELECT outbox.publish('$type', 'k', 'Committed', '2');
SAVEPOINT a;
SELECT outbox.publish('$type', 'k', 'Released', '3');
RELEASE a;
SAVEPOINT b;
SELECT outbox.publish('$type', 'k', 'Savepoint rolled back', '4');
ROLLBACK TO b;
SELECT outbox.publish('$type', 'k', 'Committed', '5');
COMMIT;
SQL
publish("'$type', 'k', 'Last', '6'");
is_deeply(
	[ payloads(wait_for_events($topic, 4)) ],
	[ 2, 3, 5, 6 ],
	'what was rolled back, whole or to a savepoint, does not arrive');

$type = aggregate_type('Prepared');
$topic = "outbox.event.$type";
sql(<<SQL);
BEGIN;
SELECT outbox.publish('$type', 'k', 'To be committed', '1');
PREPARE TRANSACTION 'to be committed';
BEGIN;
SELECT outbox.publish('$type', 'k', 'To be rolled back', '2');
PREPARE TRANSACTION 'to be rolled back';
SELECT outbox.publish('$type', 'k', 'Between', '3');
SQL
is_deeply([ payloads(wait_for_events($topic, 1)) ],
	[3], 'a prepared transaction holds its events back, and nothing else');
sql("ROLLBACK PREPARED 'to be rolled back'");
sql("COMMIT PREPARED 'to be committed'");
wait_until_confirmed($node, 'postgres');
publish("'$type', 'k', 'Last', '4'");
is_deeply(
	[ payloads(wait_for_events($topic, 3)) ],
	[ 3, 1, 4 ],
	'it publishes them then, and ROLLBACK PREPARED does not');

$type = aggregate_type('Asynchronous');
sql("SET synchronous_commit = off; SELECT outbox.publish('$type', 'k', 'Thing', '1')");
is_deeply([ payloads(wait_for_events("outbox.event.$type", 1)) ],
	[1], 'an asynchronous commit arrives');

$type = aggregate_type('Rows');
$topic = "outbox.event.$type";
sql(<<SQL);
COPY outbox.event (event_id, aggregate_type, aggregate_id, event_type, payload) FROM stdin;
00000000-0000-0000-0000-000000000001	$type	k	Copied	\\\\x31
00000000-0000-0000-0000-000000000002	$type	k	Copied	\\\\x32
00000000-0000-0000-0000-000000000003	$type	k	Copied	\\N
\\.
SQL
is_deeply(
	[ payloads(wait_for_events($topic, 3)) ],
	[ 1, 2, undef ],
	'rows that COPY brought arrive');
sql(<<SQL);
INSERT INTO outbox.event (event_id, aggregate_type, aggregate_id, event_type, payload)
	SELECT gen_random_uuid(), '$type', 'k', 'Inserted', i::text::bytea FROM generate_series(4, 1000) i
SQL
is_deeply(
	[ payloads(wait_for_events($topic, 1000)) ],
	[ 1, 2, undef, 4 .. 1000 ],
	'and those of an INSERT of many rows, in their order');

# ---------------------------------------------------------------------------
# When they arrive

$type = aggregate_type('Soon');
$topic = "outbox.event.$type";
publish("'$type', 'k', 'First', '0'");
wait_for_events($topic, 1);
my ($arrived, @delays) = ('');
my $kcat = IPC::Run::start(
	[
		'kcat', '-C', '-q', '-u', '-o', 'beginning', '-f', '%s %T\n',
		'-X', 'fetch.wait.max.ms=1000', '-b', kafka_bootstrap(), '-t', $topic
	],
	'<', \undef, '>', \$arrived, '2>', \my $errors,
	IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
$kcat->pump until $arrived =~ /^0 /m;
foreach my $i (1 .. 20)
{
	publish("'$type', 'k', 'Next', '$i'");
	$kcat->pump until $arrived =~ /^$i (\d+)$/m;
	$arrived =~ /^$i (\d+)$/m;
	push @delays, time * 1000 - $1;
}
$kcat->kill_kill;
@delays = sort { $a <=> $b } @delays;
note(sprintf 'from commit to consumer: median %.0f ms, longest %.0f ms',
	$delays[10], $delays[-1]);

# With a timer of a second the median would be half of one.
cmp_ok($delays[10], '<', 200, 'an event arrives at once after its commit');

# The same of COMMIT PREPARED, by the broker's clock.  Without a wake some are
# in time by chance, with it some may be late.
$topic = make_topic(topic_name('Wake'), 1,
	'message.timestamp.type' => 'LogAppendTime');
sql("BEGIN; SELECT outbox.publish('Wake', '$_', 'Prepared', '1', topic => '$topic'); PREPARE TRANSACTION '$_'"
) foreach 1 .. 9;
foreach my $i (1 .. 9)
{
	sql("COMMIT PREPARED '$i'");
	wait_for_events($topic, $i);
}
my %committed_at = map { split /\|/ } split /\n/,
  sql("SELECT aggregate_id, extract(epoch FROM pg_xact_commit_timestamp(xid::xid)) * 1000 FROM outbox.event WHERE topic = '$topic'"
  );
@delays =
  sort { $a <=> $b } map { $_->{ts} - $committed_at{ $_->{key} } } consume($topic);
note(sprintf 'from COMMIT PREPARED to the broker: %s ms',
	join ' ', map { sprintf '%.0f', $_ } @delays);
cmp_ok($delays[6], '<', 250, 'COMMIT PREPARED wakes the relay');

my $lsn = sql('SELECT pg_current_wal_flush_lsn()');
$node->safe_psql('template1',
	'CREATE TABLE other AS SELECT FROM generate_series(1, 10000); CHECKPOINT; SELECT pg_switch_wal(); CHECKPOINT'
);
ok( $node->poll_query_until(
		'postgres',
		"SELECT confirmed_flush_lsn > '$lsn' AND restart_lsn > '$lsn' FROM pg_replication_slots WHERE database = 'postgres'"
	),
	'a database without events holds no WAL back');

# ---------------------------------------------------------------------------
# Events that are older than the slot

$node->safe_psql('postgres', 'CREATE DATABASE early');
$node->safe_psql('early', 'CREATE EXTENSION outbox');
$type = aggregate_type('Early');
$topic = "outbox.event.$type";
$node->safe_psql('early', <<SQL);
SELECT count(outbox.publish('$type', 'k', 'Early', to_jsonb(i))) FROM generate_series(1, 2000) i;
BEGIN;
SELECT outbox.publish('$type', 'k', 'Rolled back', '-1');
ROLLBACK;
BEGIN;
SELECT outbox.publish('$type', 'k', 'Undecided', '2001');
PREPARE TRANSACTION 'undecided';
SQL
is( $node->safe_psql('early',
		"SELECT DISTINCT status, published_at IS NULL FROM outbox.events"),
	'pending|t',
	'without a Kafka server events are pending');

create_server($node, 'early');
ok( $node->poll_query_until(
		'early', "SELECT count(*) = 2000 FROM outbox.events WHERE status = 'published'"),
	'and published while a prepared transaction keeps a slot from being created');
$node->safe_psql('early',
	"SELECT outbox.publish('$type', 'k', 'After CREATE SERVER', '2002')");
$node->safe_psql('early', "COMMIT PREPARED 'undecided'");
wait_for_state($node, 'early', 'streaming');
$node->safe_psql('early',
	"SELECT outbox.publish('$type', 'k', 'Streamed', '2003')");
wait_until_confirmed($node, 'early');
@messages = payloads(consume($topic));
is_deeply(
	[ grep { $_ <= 2000 } @messages ],
	[ 1 .. 2000 ],
	'events older than the server arrive once and in order');
is_deeply(
	[ sort { $a <=> $b } grep { $_ > 2000 } @messages ],
	[ 2001 .. 2003 ],
	'and events around its creation once');
ok( $node->poll_query_until(
		'early',
		"SELECT count(*) = 2003 AND bool_and(status = 'published' AND published_at BETWEEN created_at AND now()) FROM outbox.events"
	),
	'then they are shown as published');

$node->stop;
done_testing();
