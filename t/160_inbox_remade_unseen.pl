# A topic that was deleted and made again between two looks of the worker, and has at
# least as many messages as were read, is not taken for the one that was read: no
# message of it is passed over in silence.

use strict;
use warnings;

use OutboxInbox;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = own_kafka('remade_unseen');
my $bootstrap = kafka_bootstrap($kafka);
my $node = new_server('inbox_remade_unseen', "max_worker_processes = 32\nlog_min_messages = debug1\n");
subscribe_in($node);
create_extension($node, 'postgres', $bootstrap);

sql(<<'SQL');
CREATE TABLE effect (id bigserial, subscription text, value text);
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE sql AS $$
	INSERT INTO effect (subscription, value) VALUES (m.subscription, inbox.payload_text(m)) $$;
SQL

# Topics by what becomes of them, and the messages that they have then: as many as
# before, more, one, with keys in several partitions, old ones of which the worker knows
# only what it has stored, ones that others come after at once; and one that stays.
my %after = (same => 5, more => 12, single => 1, keyed => 200, stored => 9, busy => 8);
my %partitions = map { $_ => $_ eq 'keyed' ? 12 : 1 } keys %after, 'kept';
my %before = map { $_ => $_ eq 'single' ? 1 : $_ eq 'keyed' ? 200 : 5 } keys %partitions;

sub fill
{
	my ($topic, $word, $n) = @_;
	produce($topic, { bootstrap => $bootstrap }, map { "k$_\t$word$_" } 1 .. $n);
	return;
}

sub wait_for_handled
{
	my ($topic, $word, $n, $what) = @_;
	return wait_for("SELECT count(*) = $n AND count(DISTINCT value) = $n FROM effect WHERE subscription = '$topic' AND value ~ '^$word'", $what);
}

sub worker_of
{
	my ($topic) = @_;
	return sql("SELECT pid FROM inbox.consumer_status() WHERE subscription = '$topic' AND pid IS NOT NULL");
}

foreach my $topic (sort keys %partitions)
{
	make_topic($topic, $partitions{$topic}, dir => $kafka);
	fill($topic, 'old', $before{$topic});
	sql("SELECT inbox.subscribe('$topic', ARRAY['$topic'], 'handle')");
}
wait_for_handled($_, 'old', $before{$_}, "$_: what there is is handled") foreach sort keys %partitions;

# A worker that begins anew has read nothing yet.
sql("SELECT inbox.pause('stored')");
wait_for("SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'stored'", 'stored: the worker ends');
my $begin = -s $node->logfile;
sql("SELECT inbox.resume('stored')");
wait_for_log($node, qr/topic "stored" is the one that was read/, $begin);
wait_for_log($node, qr/topic "$_" is the one that was read/) foreach sort keys %partitions;

# They do not see that it is away.
my @remade = sort keys %after;
my @workers = map { worker_of($_) } @remade;
is(scalar(grep { /^[0-9]+$/ } @workers), scalar @remade, 'each has its worker');
kill 'STOP', @workers;
kafka('tool', $kafka, 'org.apache.kafka.tools.TopicCommand', '--delete', '--topic', join '|', @remade);
foreach my $topic (@remade)
{
	make_topic($topic, $partitions{$topic}, dir => $kafka);
	fill($topic, 'new', $after{$topic});
}
my $end = -s $node->logfile;
kill 'CONT', @workers;
fill('busy', 'more', 20);

wait_for("SELECT state = 'topic replaced' AND last_error ~ 'is not the one that was read' FROM inbox.stat_subscription WHERE name = '$_'",
	"$_: it is seen that it was made anew") foreach @remade;
is(sql("SELECT string_agg(DISTINCT lost_reason, ' ') FROM inbox.position"), 'replaced', 'which is stored');

# From its beginning on, nothing is missing.
sql("SELECT inbox.seek('$_', '$_', p, 'earliest') FROM generate_series(0, $partitions{$_} - 1) p") foreach @remade;
wait_for_handled($_, 'new', $after{$_}, "$_: all of the new topic is handled") foreach @remade;
wait_for_handled('busy', 'more', 20, 'busy: and what came at once');
wait_for("SELECT bool_and(state = 'running' AND lag = 0) FROM inbox.stat_subscription", 'all go on');

# The other one is what it was.
is(sql("SELECT duplicates, state FROM inbox.stat_subscription WHERE name = 'kept'"), '0|running', 'kept: nothing has happened');
unlike(slurp_file($node->logfile, $end), qr/topic "kept" may/, 'and is not suspected');

done_testing();
