# Topics that are deleted while they are read: others go on, the state tells, and
# the log does not fill.  And patterns leave out what relays write for themselves.

use strict;
use warnings;

use lib 't';
use OutboxInbox;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = own_kafka('deleted', '--compiler', '1');
my $bootstrap = kafka_bootstrap($kafka);
my $node = new_server('inbox_deleted', "max_worker_processes = 32\n");
subscribe_in($node);
create_extension($node, 'postgres', $bootstrap);

sql(<<'SQL');
CREATE TABLE effect (id bigserial, subscription text, topic text, value text);
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE sql AS
	$$ INSERT INTO effect (subscription, topic, value) VALUES (m.subscription, m.topic, inbox.payload_text(m)) $$;
SQL

my %kcat = (bootstrap => $bootstrap);
my %names = (named => q{'a.goes', 'a.stays'}, pattern => q{'^a[.]'});
my @both = sort keys %names;

sub make
{
	my ($topic, $partitions) = @_;
	make_topic($topic, $partitions, dir => $kafka);
	return;
}

# The messages of all partitions of a topic.
sub fill
{
	my ($topic, $partitions, @values) = @_;
	produce($topic, { %kcat, partition => $_ }, map { "k\t$_" } @values) foreach 0 .. $partitions - 1;
	return;
}

sub wait_for_value
{
	my ($value, $count, $what) = @_;
	wait_for("SELECT count(*) = $count FROM effect WHERE subscription = '$_' AND value = '$value'", "$_: $what") foreach @both;
	return;
}

make('a.goes', 3);
make('a.stays', 1);
fill('a.goes', 3, 1 .. 3);
fill('a.stays', 1, 'one');
sql("SELECT inbox.subscribe('$_', ARRAY[$names{$_}], 'handle')") foreach @both;
wait_for_value('3', 3, 'what there was is handled');
wait_for_value('one', 1, 'of both topics');

kafka('tool', $kafka, 'org.apache.kafka.tools.TopicCommand', '--delete', '--topic', 'a.goes');
wait_for("SELECT state = 'waiting for kafka' AND last_error ~ 'a.goes' FROM inbox.stat_subscription WHERE name = 'named'", 'one that names the topic waits for it');
wait_for("SELECT state = 'running' FROM inbox.stat_subscription WHERE name = 'pattern'", 'one with a pattern does not');
fill('a.stays', 1, 'two');
wait_for_value('two', 1, 'the other topic goes on');

my $log = -s $node->logfile;
my $since = sql("SELECT last_error_at FROM inbox.stat_subscription WHERE name = 'named'");
wait_for("SELECT last_error_at > timestamptz '$since' + '15 s' FROM inbox.stat_subscription WHERE name = 'named'", 'it looks again and again');
my @lines = grep { /outbox consumer/ } split /\n/, slurp_file($node->logfile, $log);
cmp_ok(scalar @lines, '<=', 3, 'without many words') or diag join "\n", @lines;
is(sql("SELECT string_agg(state, ' ' ORDER BY name) FROM inbox.stat_subscription"), 'waiting for kafka running', 'the states stay');

# It comes back with fewer partitions.
make('a.goes', 1);
fill('a.goes', 1, map { "new$_" } 1 .. 5);
wait_for("SELECT state = 'topic replaced' AND last_error ~ 'a.goes' FROM inbox.stat_subscription WHERE name = '$_'", "$_: that it was made anew is seen") foreach @both;
fill('a.stays', 1, 'three');
wait_for_value('three', 1, 'the other topic still goes on');
sql("SELECT inbox.seek('$_', 'a.goes', 0, 'earliest')") foreach @both;
wait_for_value('new1', 1, 'after seek() its messages are handled');
wait_for_value('new5', 1, 'all of them');
wait_for("SELECT bool_and(state = 'running' AND lag = 0) FROM inbox.stat_subscription", 'the partitions that are gone do not disturb');

# A relay writes to its progress topic what is of no use to anybody else.
my $progress = 'outbox.progress.1.1';
make($_, 1) foreach $progress, 'outbox.other';
sql("SELECT inbox.subscribe('all', ARRAY['^outbox[.]'], 'handle')");
fill($progress, 1, 'progress');
fill('outbox.other', 1, 'other');
wait_for("SELECT count(*) > 0 FROM effect WHERE subscription = 'all'", 'a pattern finds topics');
is(sql("SELECT string_agg(DISTINCT topic, ' ') FROM inbox.position WHERE subscription = 'all'"), 'outbox.other', 'but no progress topics');
sql("SELECT inbox.subscribe('one', ARRAY['$progress'], 'handle')");
wait_for("SELECT count(*) = 1 FROM effect WHERE subscription = 'one'", 'who names one gets it');

done_testing();
