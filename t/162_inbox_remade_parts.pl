# A topic that was deleted and made again between two looks of the worker, which is
# seen at some of its partitions or not by the usual question: no message of any
# partition is passed over in silence.

use strict;
use warnings;

use lib 't';
use OutboxInbox;
use OutboxProxy;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = own_kafka('remade_parts');
my $bootstrap = kafka_bootstrap($kafka);
my $node = new_server('inbox_remade_parts', "max_worker_processes = 32\nlog_min_messages = debug1\n");
subscribe_in($node);
my $proxy = OutboxProxy->new($kafka);
create_extension($node, 'postgres', $proxy->bootstrap);

sql(<<'SQL');
CREATE TABLE effect (id bigserial, subscription text, value text);
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE sql AS $$
	INSERT INTO effect (subscription, value) VALUES (m.subscription, inbox.payload_text(m)) $$;
SQL

# Messages of each partition, before and after; a partition that is not named is not
# there.  The first partition of "uneven" has fewer messages then, "fewer" has fewer
# partitions, "beside" is subscribed with a topic that does not exist, and of "even" only
# one partition at a time can be asked about.
my %before = (uneven => [ 5, 5, 5, 5 ], even => [ 5, 5, 5, 5 ], fewer => [ 0, 0, 5 ], beside => [5]);
my %after = (uneven => [ 2, 12, 12, 12 ], even => [ 12, 12, 12, 12 ], fewer => [ 12, 12 ], beside => [12]);
my @topics = sort keys %before;

sub fill
{
	my ($topic, $word, $numbers) = @_;
	foreach my $p (0 .. $#$numbers)
	{
		produce($topic, { bootstrap => $bootstrap, partition => $p }, map { "k\t$word.$p.$_" } 1 .. $numbers->[$p])
		  if $numbers->[$p] > 0;
	}
	return;
}

sub wait_for_handled
{
	my ($topic, $word, $n, $what) = @_;
	return wait_for("SELECT count(*) = $n AND count(DISTINCT value) = $n FROM effect WHERE subscription = '$topic' AND value ~ '^$word'", $what);
}

sub sum
{
	my $sum = 0;
	$sum += $_ foreach @_;
	return $sum;
}

foreach my $topic (@topics)
{
	make_topic($topic, scalar @{ $before{$topic} }, dir => $kafka);
	fill($topic, 'old', $before{$topic});
}
sql("SELECT inbox.subscribe('$_', ARRAY['$_'], 'handle')") foreach qw(even fewer uneven);
sql("SELECT inbox.subscribe('beside', ARRAY['beside', 'missing'], 'handle')");
wait_for_handled($_, 'old', sum(@{ $before{$_} }), "$_: what there is is handled") foreach @topics;

# The partition of "fewer" that has messages is asked for from now on, and will be
# that which is not there any more.
my $begin = -s $node->logfile;
wait_for_log($node, qr/topic "$_" is the one that was read/, $begin) foreach qw(even fewer uneven);
fill('fewer', 'old', [ 5, 5 ]);
wait_for_handled('fewer', 'old', 15, 'fewer: other partitions have messages, too');

# An answer that comes now may be to a question from before.
foreach (1 .. 2)
{
	$begin = -s $node->logfile;
	wait_for_log($node, qr/topic "$_" is the one that was read/, $begin) foreach qw(even fewer uneven);
}

my @workers = split /\n/, sql('SELECT pid FROM inbox.consumer_status() WHERE pid IS NOT NULL');
is(scalar @workers, scalar @topics, 'each has its worker');
kill 'STOP', @workers;
kafka('tool', $kafka, 'org.apache.kafka.tools.TopicCommand', '--delete', '--topic', join '|', @topics);
foreach my $topic (@topics)
{
	make_topic($topic, scalar @{ $after{$topic} }, dir => $kafka);
	fill($topic, 'new', $after{$topic});
}

# The questions about one partition take about as long as others wait for them.
$proxy->slow(0.3);
kill 'CONT', @workers;
foreach my $topic (@topics)
{
	my $n = @{ $after{$topic} };
	wait_for("SELECT count(*) = $n FROM inbox.position WHERE subscription = '$topic' AND partition < $n AND lost_reason = 'replaced'",
		"$topic: it is seen at each partition that it was made anew");
}
$proxy->slow(0);
foreach my $topic (@topics)
{
	my $n = @{ $after{$topic} };
	sql("SELECT inbox.seek('$topic', '$topic', p, 'earliest') FROM generate_series(0, $n - 1) p");
	wait_for_handled($topic, 'new', sum(@{ $after{$topic} }), "$topic: from its beginning on, nothing is missing");
}

done_testing();
