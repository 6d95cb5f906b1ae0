# A topic that was deleted and made again, or is that of another cluster, is not
# taken for the one that was read, and its messages are not taken for repeated.

use strict;
use warnings;

use lib 't';
use OutboxInbox;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = own_kafka('remade', '--compiler', '1');
my $other = own_kafka('other', '--compiler', '1');
my $bootstrap = kafka_bootstrap($kafka);
my $node = new_server('inbox_remade', "max_worker_processes = 32\n");
subscribe_in($node);
create_extension($node, 'postgres', $bootstrap);

sql(<<'SQL');
CREATE TABLE effect (id bigserial, subscription text, value text);
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF inbox.payload_text(m) ~ 'bad' THEN RAISE 'bad'; END IF;
	INSERT INTO effect (subscription, value) VALUES (m.subscription, inbox.payload_text(m));
END $$;
SQL

my %kcat = (bootstrap => $bootstrap);

sub subscribe
{
	my ($name, $arguments) = @_;
	sql("SELECT inbox.subscribe('$name', ARRAY['$name'], 'handle', retry_backoff => '10 ms', max_attempts => 1" . ($arguments || '') . ')');
	return;
}

sub wait_for_handled
{
	my ($name, $values, $what) = @_;
	return wait_for("SELECT coalesce(string_agg(value, ' ' ORDER BY id), '') = '$values' FROM effect WHERE subscription = '$name'", $what);
}

sub wait_for_pause
{
	my ($name) = @_;
	sql("SELECT inbox.pause('$name')");
	return $node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'outbox consumer' AND application_name = '$name'");
}


sub delete_topics
{
	my $names = join '|', @_;
	kafka('tool', $kafka, 'org.apache.kafka.tools.TopicCommand', '--delete', '--topic', $names);
	return;
}

sub make_topics
{
	make_topic($_, 1, dir => $kafka) foreach @_;
	return;
}

sub replaced
{
	my ($name, $what) = @_;
	return wait_for("SELECT state = 'topic replaced' AND last_error ~ 'is not the one that was read' FROM inbox.stat_subscription WHERE name = '$name'", $what);
}

# One transaction: these messages, and the record that ends it.
sub produce_transaction
{
	my ($topic, @lines) = @_;
	my $errors = '';
	my $input = join '', map { "$_\n" } @lines;
	IPC::Run::run([ 'kcat', '-P', '-b', $bootstrap, '-t', $topic, '-K', '\t', '-X', "transactional.id=$topic" ],
		'<', \$input, '2>', \$errors) or die "kcat failed: $errors\n";
	return;
}

# ---------------------------------------------------------------------------
# While it is paused, while it runs, with messages that wait, with transactions,
# and one of which nothing was read

my @topics = qw(paused running failing markers unread);
make_topics(@topics);
produce($_, \%kcat, map { "k\told$_" } 1 .. 5) foreach qw(paused running unread);
produce('failing', \%kcat, "k\tbad1", "j\told");
produce_transaction('markers', "k\t$_") foreach 1 .. 3;
subscribe($_) foreach qw(paused running failing markers);
subscribe('unread', ", start => 'latest'");
wait_for_handled($_, 'old1 old2 old3 old4 old5', "$_: what there was is handled") foreach qw(paused running);
wait_for_handled('markers', '1 2 3', 'markers: the same');
wait_for("SELECT failed = 1 AND processed = 1 FROM inbox.stat_subscription WHERE name = 'failing'", 'failing: a message has failed');
wait_for("SELECT next_offset = 6 FROM inbox.position WHERE topic = 'markers'", 'markers: the end is passed');
wait_for("SELECT last_offset = 4 FROM inbox.position WHERE topic = 'unread'", 'unread: the message in front of the position is known');
wait_for_pause($_) foreach qw(paused failing markers unread);

delete_topics(@topics);
wait_for("SELECT state = 'waiting for kafka' FROM inbox.stat_subscription WHERE name = 'running'", 'a topic that is missing is waited for');
make_topics(@topics);
produce('running', \%kcat, map { "k\tnew$_" } 1 .. 12);
produce($_, \%kcat, map { "k\tnew$_" } 1 .. 12) foreach qw(paused unread);
produce('failing', \%kcat, "k\tbad2", map { "j\tnew$_" } 1 .. 3);
produce_transaction('markers', "k\ta", "k\tb");
produce_transaction('markers', "k\t$_") foreach 'c', 'd', 'e';
sql("SELECT inbox.resume('$_')") foreach qw(paused failing markers unread);

replaced($_, "$_: it is seen that it was made anew") foreach @topics;
like(sql("SELECT count(*) FROM effect"), qr/^14$/, 'and nothing of it is handled');
is(sql("SELECT string_agg(DISTINCT lost_reason, ' ') FROM inbox.position"), 'replaced', 'which is stored');

sql("SELECT inbox.seek('$_', '$_', 0, 'earliest')") foreach @topics;
my $new = join ' ', map { "new$_" } 1 .. 12;
wait_for_handled($_, "old1 old2 old3 old4 old5 $new", "$_: after seek() all is handled") foreach qw(paused running);
wait_for_handled('unread', $new, 'unread: the same');
wait_for_handled('markers', '1 2 3 a b c d e', 'markers: the same');
wait_for_handled('failing', 'old new1 new2 new3', 'failing: the same');
wait_for("SELECT failed = 2 FROM inbox.stat_subscription WHERE name = 'failing'", 'of both topics a message has failed');
is(sql("SELECT string_agg(convert_from(payload, 'UTF8') || regexp_replace(event_id, '[0-9]{10,}', 'T'), ' ' ORDER BY received_at) FROM inbox.message WHERE status = 'failed'"),
	'bad1failing/0/0@T bad2failing/0/0', 'which have different ids');
sql("CREATE OR REPLACE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE sql AS 'INSERT INTO effect (subscription, value) VALUES (m.subscription, inbox.payload_text(m))'");
is(sql("SELECT inbox.retry('failing')"), 2, 'and can be tried again');
wait_for("SELECT sum(failed + waiting) = 0 AND bool_and(state = 'running') FROM inbox.stat_subscription", 'all is well');

# ---------------------------------------------------------------------------
# The same topic is not taken for another one, with and without its last messages

wait_for_pause($_) foreach @topics;
my $list = PostgreSQL::Test::Utils::tempdir() . '/records.json';
append_to_file($list, qq({"partitions": [{"topic": "paused", "partition": 0, "offset": 12}], "version": 1}));
kafka('tool', $kafka, 'org.apache.kafka.tools.DeleteRecordsCommand', '--offset-json-file', $list);
produce($_, \%kcat, "k\tmore") foreach @topics;
sql('TRUNCATE effect');
sql("SELECT inbox.resume('$_')") foreach @topics;
wait_for_handled($_, 'more', "$_: it goes on") foreach @topics;
wait_for("SELECT bool_and(state = 'running') FROM inbox.stat_subscription", 'and runs');
is(sql('SELECT sum(duplicates) FROM inbox.stat_subscription'), 0, 'and nothing counts as repeated');

# ---------------------------------------------------------------------------
# Another cluster

make_topic('paused', 1, dir => $other);
make_topic('running', 1, dir => $other);
make_topic('unread', 1, dir => $other);
produce($_, { bootstrap => kafka_bootstrap($other) }, map { "k\tother$_" } 1 .. 30) foreach qw(paused running);
produce('unread', { bootstrap => kafka_bootstrap($other) }, "k\tother");
sql("SELECT inbox.unsubscribe('$_')") foreach qw(failing markers);
sql("ALTER SERVER kafka OPTIONS (SET \"bootstrap.servers\" '" . kafka_bootstrap($other) . "')");
replaced($_, "$_: it is seen that it is another cluster's") foreach qw(paused running unread);
sql("SELECT inbox.seek('$_', '$_', 0, 'earliest')") foreach qw(paused running unread);
wait_for_handled($_, join(' ', 'more', map { "other$_" } 1 .. 30), "$_: after seek() all is handled") foreach qw(paused running);
wait_for_handled('unread', 'more other', 'unread: the same');
wait_for("SELECT bool_and(state = 'running') FROM inbox.stat_subscription", 'and all is well');

done_testing();
