# Exactly once with many partitions: a Kafka that is far away delays a transaction
# by a few round trips, not by one for each partition.  Events keep their order
# whatever their size, and go to the partition that others would choose.

use strict;
use warnings;

use lib 't';
use Compress::Zlib qw(crc32);
use OutboxProxy;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $round_trip = 0.3;
my $partitions = 25;

my $kafka = own_kafka('far');
my $bootstrap = kafka_bootstrap($kafka);
my $proxy = OutboxProxy->new($kafka);
my $node = new_server('far_exact');
create_extension($node, 'postgres', $proxy->bootstrap);
sql(q{ALTER SERVER kafka OPTIONS (ADD delivery 'exactly_once', ADD partitioner 'consistent_random', ADD "topic.metadata.refresh.interval.ms" '300')}
);

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

# Events of keys, numbered each, in one transaction, of about so many bytes at
# most; NULL for events without a key.
sub publish
{
	my ($topic, $keys, $count, $bytes) = @_;
	sql(<<SQL);
SELECT count(outbox.publish('Thing', k, 'Made', jsonb_build_object('n', n, 'x', repeat('x', (random() * $bytes)::int)),
                            topic => '$topic'))
FROM generate_series(1, $count) n, unnest($keys) k
SQL
	wait_until_confirmed($node, 'postgres');
	return;
}

# A key for each of so many partitions, as an array of SQL.
sub keys_for
{
	my ($count) = @_;
	my %key;
	for (my $key = 1; keys %key < $count; $key++)
	{
		$key{ crc32($key) % $count } ||= $key;
	}
	return '{' . join(',', sort values %key) . '}';
}

# What is wrong with what a consumer of committed messages sees of a topic: each
# key's numbers in order, in the partition that the key leads to.
sub faults
{
	my ($topic, $count, $npartitions) = @_;
	my (%last, %faults);
	foreach my $line (committed_lines($count, $topic, '%k %p %s', $bootstrap))
	{
		my ($key, $partition, $n) = $line =~ /^(\S*) (\d+) \{"n": (\d+)/;
		$faults{"$key is in partition $partition"} = 1
		  if $key ne '' && crc32($key) % $npartitions != $partition;
		$faults{"$n of $key comes after " . ($last{$key} || 0)} = 1
		  if $key ne '' && $n != ($last{$key} || 0) + 1;
		$last{$key} = $n;
	}
	return join ', ', sort keys %faults;
}

# Small ones, and some that are larger than a batch.
my $topic = make_topic(topic_name('sizes'), $partitions, dir => $kafka, 'max.message.bytes' => 2_000_000);
my $all = keys_for($partitions);
publish($topic, "'$all'::text[]", 200, 300);
is(faults($topic, 200 * $partitions, $partitions), '', 'small events are in order');

my $large = make_topic(topic_name('large'), 5, dir => $kafka);
sql('ALTER SERVER kafka OPTIONS (ADD "batch.size" \'20000\')');
publish($large, "'{@{[keys_for(5) =~ /([\d,]+)/]}}'::text[]", 200, 60_000);
is(faults($large, 1000, 5), '', 'so are those of any size');
sql('ALTER SERVER kafka OPTIONS (DROP "batch.size")');

# Without a key.
my $keyless = make_topic(topic_name('keyless'), 4, dir => $kafka);
publish($keyless, 'ARRAY[NULL::text]', 1000, 300) foreach 1 .. 4;
my %in;
$in{$_}++ foreach committed_lines(4000, $keyless, '%p', $bootstrap);
is(join(' ', sort keys %in), '0 1 2 3', 'events without a key go to all partitions');

# A topic grows.
kafka('tool', $kafka, 'org.apache.kafka.tools.TopicCommand', '--alter', '--topic', $keyless,
	'--partitions', 8);
my $both = keys_for(8);
my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
my $found = 0;
until ($found || time > $deadline)
{
	publish($keyless, "'$both'::text[]", 1, 10);
	my @lines = consume_lines($keyless, '%k %p', $bootstrap);
	$found = grep { /^\d+ [4567]$/ } @lines;
}
ok($found, 'keys go to partitions that a topic has got later');

# Far away.
sub seconds_for
{
	my ($keys) = @_;
	return seconds_of(sub { publish($topic, "'$keys'::text[]", 1, 10) });
}

$proxy->slow($round_trip / 2);
seconds_for('{1}');
my $one = seconds_for('{1}');
my $many = seconds_for($all);
note sprintf 'one partition: %.1f s, %d partitions: %.1f s', $one, $partitions, $many;
cmp_ok($many - $one, '<', $partitions * $round_trip * 0.6,
	'many partitions do not take a round trip each');

# What one event after the other has published is sent together there.
sub batches
{
	my ($topic) = @_;
	my $log = slurp_file("$kafka/node-1/data/$topic-0/00000000000000000000.log");
	my $count = 0;
	while (length $log > 23)
	{
		my ($length, $attributes) = unpack 'x8 N x9 n', $log;
		$count++ if !($attributes & 0x20);	# of Kafka's own
		substr $log, 0, 12 + $length, '';
	}
	return $count;
}

$node->safe_psql('postgres', q{ALTER SYSTEM SET outbox.transaction_interval = '1s'});
$node->reload;
# The library tells how far Kafka is every few seconds.
my $batches;
$deadline = time + $PostgreSQL::Test::Utils::timeout_default;
do
{
	my $single = make_topic(topic_name('single'), 1, dir => $kafka);
	sql(<<SQL);
DO \$\$
BEGIN
	FOR n IN 1 .. 30 LOOP
		PERFORM outbox.publish('Thing', 'k', 'Made', jsonb_build_object('n', n), topic => '$single');
		COMMIT;
		PERFORM pg_sleep(0.02);
	END LOOP;
END \$\$
SQL
	wait_until_confirmed($node, 'postgres');
	committed_lines(30, $single, '%s', $bootstrap);
	$batches = batches($single);
	note "$batches batches";
} until $batches < 12 || time > $deadline;
cmp_ok($batches, '<', 12, 'events of one Kafka transaction are in one request');
$node->stop;
undef $proxy;
done_testing();
