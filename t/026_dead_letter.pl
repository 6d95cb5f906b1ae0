# An event that Kafka refuses for good becomes a dead letter and holds nothing
# up.  It can be sent again, or given up.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use lib 't';
use OutboxRefused;
use OutboxTest;

# Topics of these tests take messages of 100 kB.  Batches must be smaller.
my $limit = 100_000;
my $node = new_server('dead');
create_extension($node, 'postgres');
publish_from($node);
create_functions();

sub raise_limit
{
	my ($topic) = @_;
	kafka('alter-topic', $ENV{OUTBOX_TEST_KAFKA_DIR},
		$topic, 'max.message.bytes=1000000');
	return;
}

sub letters
{
	my ($topic) = @_;
	return sql("SELECT count(*) FROM outbox.dead_letter WHERE topic = '$topic'");
}

sub wait_for_letters
{
	my ($topic, $count) = @_;
	$node->poll_query_until('postgres',
		"SELECT count(*) = $count FROM outbox.dead_letter WHERE topic = '$topic'")
	  or die "there are not $count dead letters\n";
	return;
}

# Publishes events, of which some may be refused, and waits until all of them
# are done with; returns the seconds that it took.
sub publish
{
	my ($statements) = @_;
	return seconds_of(sub {
		like(sql("$statements; SELECT outbox.wait_published('120 s')"),
			qr/t$/, 'all of it is done with');
	});
}

# ---------------------------------------------------------------------------
# The last error, before another one can take its place

my $letter = sql("SELECT refused('" . limited_topic('error') . "')");
wait_until("SELECT last_error ~* '^event $letter became a dead letter: .*too large' FROM outbox.stat_relay");
pass('stat_relay names a dead letter as the last error');
is( relay_status($node, 'postgres', "last_error_at BETWEEN now() - interval '5 min' AND now()"),
	't', 'of just now');
wait_until('SELECT count(*) = 1 FROM outbox.dead_letter');
sql("SELECT outbox.discard('$letter')");

# ---------------------------------------------------------------------------
# In the stream

change_settings("ALTER SERVER kafka OPTIONS (ADD \"batch.size\" '50000')");
my $topic = limited_topic('stream', 4);
my $load = <<SQL;
DO \$\$
BEGIN
	FOR i IN 1 .. 10000 LOOP
		PERFORM outbox.publish('Small', 'one', 'Small', to_jsonb(i), topic => '$topic');
		PERFORM outbox.publish('Small', 'other' || i % 100, 'Small', to_jsonb(i), topic => '$topic');
		IF i % 100 = 0 THEN COMMIT; END IF;
	END LOOP;
END \$\$
SQL
my $refusing = $load =~ s/IF i % 100/IF i = 5000 THEN PERFORM refused('$topic', 'one'); END IF;\n\t\tIF i % 100/r;
$refusing =~ s/'one', 'Small', to_jsonb\(i\)/'one', 'Small', to_jsonb(CASE i WHEN 5000 THEN 0 ELSE i END)/;

my $before = publish($load);
my $during = publish($refusing =~ s/to_jsonb\((.*?)\), topic/to_jsonb(20000 + ($1)), topic/gr);
my ($after, @after);

# A stall is soon over: what has become slow is slow each time.
foreach my $first (40000, 60000, 80000)
{
	$after = publish($load =~ s/to_jsonb\(i\)/to_jsonb($first + i)/gr);
	push @after, $first + 1 .. $first + 10000;
	last if $after < 2 * $before + 1;
}
note("20,000 events took $before s, with refusals $during s, afterwards $after s");
is(letters($topic), 1, 'one dead letter');
my %sequence;
foreach my $line (first_occurrences(consume_lines($topic, '%k %s')))
{
	my ($key, $payload) = split / /, $line;
	push @{ $sequence{$key} }, $payload;
}
is_deeply(
	delete $sequence{one},
	[ 1 .. 10000, 20001 .. 24999, 20000, 25001 .. 30000, @after ],
	'the other events of its key are delivered in order');
my $disorder = 0;
my $others = 0;
foreach my $sequence (values %sequence)
{
	$others += @$sequence;
	$disorder++ if "@$sequence" ne join ' ', sort { $a <=> $b } @$sequence;
}
is($others, 20000 + @after, 'and so are all events of other keys');
is($disorder, 0, 'in order, too');
cmp_ok($after, '<', 2 * $before + 1, 'afterwards it is as fast as before');

$letter = sql("SELECT event_id FROM outbox.dead_letter WHERE topic = '$topic'");
is( sql("SELECT key, error_code, attempts, state, holds, error ~* 'too large', failed_at > now() - interval '5 min' FROM outbox.dead_letter WHERE topic = '$topic'"),
	'one|MSG_SIZE_TOO_LARGE|1|failed|f|t|t',
	'the dead letter says what happened');
is( sql("SELECT status, error ~* 'too large', published_at IS NULL FROM outbox.events WHERE event_id = '$letter'"),
	'failed|t|t',
	'outbox.events shows it as failed');
is( sql("SELECT count(*) FROM outbox.events WHERE status = 'failed'"),
	1, 'and nothing else');
is(sql('SELECT dead_letters FROM outbox.stat_relay'),
	1, 'stat_relay counts it');
like(slurp_file($node->logfile), qr/outbox event $letter became a dead letter/, 'and the log names it');
wait_for_state($node, 'postgres', 'streaming');

# ---------------------------------------------------------------------------
# retry and discard

is(sql("SELECT outbox.retry('$letter')"), 't', 'retry() finds it');
$node->poll_query_until('postgres',
	"SELECT attempts = 2 AND state = 'failed' FROM outbox.dead_letter")
  or die 'it was not tried again';
pass('refused again, it stays, and the attempts are counted');

raise_limit($topic);
is(sql("SELECT outbox.retry('$letter'::uuid)"), 't', 'retry() takes a uuid, too');
wait_for_letters($topic, 0);
pass('once Kafka takes it the dead letter is gone');
my ($sent) = grep { /^one (\d+) / && $1 > $limit } consume_lines($topic, '%k %S %h');
like($sent, qr/[ ,]id=$letter(,|$)/, 'it has its id');
like($sent, qr/[ ,]origin=test(,|$)/, 'and its headers');
is( sql("SELECT status FROM outbox.events WHERE event_id = '$letter'"),
	'published', 'it counts as published');

$topic = limited_topic('discard');
sql("SELECT refused('$topic') FROM generate_series(1, 3)");
wait_for_letters($topic, 3);
$letter = sql("SELECT min(event_id) FROM outbox.dead_letter");
is(sql("SELECT outbox.discard('$letter')"), 't', 'discard() finds a dead letter');
is(letters($topic), 2, 'and it is gone');
is(sql("SELECT outbox.discard('$letter'), outbox.retry('$letter')"),
	'f|f', 'it is not found twice');
raise_limit($topic);
is(sql("SELECT outbox.retry_all('$topic.other')"), 0, 'retry_all() is about one topic');
is(sql("SELECT outbox.retry_all('$topic')"), 2, 'and says how many it found');
wait_for_letters($topic, 0);
is(scalar(first_occurrences(sequence($topic))), 1, 'all of it is sent') or diag join ' ', sequence($topic);
is(scalar(consume_lines($topic, '%o')), 2, 'but what was discarded');

# ---------------------------------------------------------------------------
# Many refused among others

$topic = limited_topic('many');
my $seconds = publish(
	"SELECT small('$topic', 'k', i * 10 + 1, i * 10 + 10), refused('$topic') FROM generate_series(0, 99) i");
note("1000 events and 100 refused ones took $seconds s");
is(letters($topic), 100, 'each refused event of many is a dead letter');
is_deeply([ first_occurrences(sequence($topic)) ], [ 1 .. 1000 ], 'the others are delivered, in order');
cmp_ok($seconds, '<', 60, 'in reasonable time');
sql("DELETE FROM outbox.dead_letter");

# ---------------------------------------------------------------------------
# A record that the topic does not take

$topic = make_topic(topic_name('compacted'), 1, 'cleanup.policy' => 'compact');
publish("SELECT small('$topic', 'k', 1, 10), small('$topic', NULL, 0, 0), small('$topic', 'k', 11, 20)");
is( sql("SELECT error_code, key IS NULL FROM outbox.dead_letter WHERE topic = '$topic'"),
	'INVALID_RECORD|t',
	'an event without a key for a compacted topic is a dead letter');
is_deeply([ first_occurrences(sequence($topic)) ], [ 1 .. 20 ], 'the others are delivered, in order');
sql("DELETE FROM outbox.dead_letter");

# ---------------------------------------------------------------------------
# An event above a limit of our own

$topic = make_topic(topic_name('own'));
change_settings("ALTER SERVER kafka OPTIONS (ADD \"message.max.bytes\" '120000')");
sql("SELECT small('$topic', 'k', 1, 10), refused('$topic'), small('$topic', 'k', 11, 20)");
wait_for_letters($topic, 1);
wait_for_events($topic, 20);
is_deeply([ first_occurrences(sequence($topic)) ], [ 1 .. 20 ], 'a limit of ours makes dead letters, too');
change_settings('ALTER SERVER kafka OPTIONS (DROP "message.max.bytes")');
sql('SELECT outbox.retry_all()');
wait_for_letters($topic, 0);
is_deeply([ first_occurrences(sequence($topic)) ], [ 1 .. 20, 'big' ], 'which can be sent when it is gone');

# ---------------------------------------------------------------------------
# Replay

$topic = make_topic(topic_name('replayed'));
sql("SELECT small('$topic', 'k', 1, 10), refused('$topic'), small('$topic', 'k', 11, 20)");
wait_for_events($topic, 21);
wait_until("SELECT NOT EXISTS (SELECT FROM outbox.events WHERE status = 'pending')");
kafka('alter-topic', $ENV{OUTBOX_TEST_KAFKA_DIR}, $topic, "max.message.bytes=$limit");
my $since = sql("SELECT min(created_at) FROM outbox.event WHERE topic = '$topic'");
is(sql("SELECT outbox.replay('$since')"), 21, 'a replay');
wait_until('SELECT bool_and(finished_at IS NOT NULL) FROM outbox.replay_job');
is( sql("SELECT replay FROM outbox.dead_letter WHERE topic = '$topic'"),
	't', 'of which an event is refused makes a dead letter');
is( sql("SELECT DISTINCT status FROM outbox.events WHERE topic = '$topic'"),
	'published', 'though the event is published');
is(scalar(consume_lines($topic, '%o')), 41, 'and sends all others again');
raise_limit($topic);
sql('SELECT outbox.retry_all()');
wait_for_letters($topic, 0);
is(header((consume($topic))[-1], 'replay'), 'true', 'sent again it is still a replay');

# ---------------------------------------------------------------------------
# Catch-up and polling

$topic = limited_topic('old');
sql('DROP SERVER kafka');
wait_for_state($node, 'postgres', 'waiting for configuration');
sql("SELECT small('$topic', 'k', 1, 2000), refused('$topic'), small('$topic', 'k', 2001, 4000), refused('$topic')");
create_server($node, 'postgres');
sql("ALTER SERVER kafka OPTIONS (ADD \"batch.size\" '50000')");
wait_for_state($node, 'postgres', 'streaming');
is(letters($topic), 2, 'in catch-up refused events become dead letters as well');
is_deeply([ first_occurrences(sequence($topic)) ], [ 1 .. 4000 ], 'and the others are delivered, in order');

$node->append_conf('postgresql.conf', "outbox.capture = 'poll'");
$node->reload;
wait_for_state($node, 'postgres', 'polling');
publish("SELECT small('$topic', 'k', 4001, 5000), refused('$topic'), small('$topic', 'k', 5001, 6000)");
is(letters($topic), 3, 'and so they do when the table is polled');
is_deeply([ first_occurrences(sequence($topic)) ], [ 1 .. 6000 ], 'where the others are delivered, too');
raise_limit($topic);
is(sql("SELECT outbox.retry_all('$topic')"), 3, 'dead letters of both kinds');
wait_for_letters($topic, 0);
is((sequence($topic))[-1], 'big', 'are sent again by a relay that polls');

# ---------------------------------------------------------------------------
# What a relay that lives on for long keeps

sub memory_in_use
{
	my $offset = -s $node->logfile;
	my $pid = relay_pid($node, 'postgres');
	is(sql("SELECT pg_log_backend_memory_contexts($pid)"), 't', 'the relay is asked for its memory');
	wait_for_log($node, qr/\[$pid\].*Grand total: \d+ bytes/, $offset);
	slurp_file($node->logfile, $offset) =~ /\[$pid\].*Grand total: .* (\d+) used/;
	return $1;
}
my $memory = memory_in_use();
sql(join '', ("SELECT outbox.retry_all();\n", "SELECT pg_sleep(0.01);\n") x 1200);
cmp_ok(memory_in_use() - $memory, '<', 150_000, 'it does not keep what it has looked at');

$node->stop;
done_testing();
