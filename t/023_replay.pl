# Published events are sent again on request.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $topic = make_topic(topic_name('replayed'));
my $node = new_server('replay');
create_extension($node, 'postgres');

sub publish_sql
{
	my ($type, $first, $last) = @_;
	return
	  "SELECT outbox.publish('$type', (i % 5)::text, 'Counted', to_jsonb(i), topic => '$topic') FROM generate_series($first, $last) i;";
}

sub wait_for_watermark
{
	$node->poll_query_until('postgres',
		"SELECT NOT EXISTS (SELECT FROM outbox.events WHERE status = 'pending')")
	  or die "the watermark does not move\n";
	return;
}

# Waits until all replays have ended.
sub wait_for_replays
{
	return $node->poll_query_until('postgres',
		'SELECT bool_and(finished_at IS NOT NULL) FROM outbox.replay_job');
}

# start_replay() returns when the first events of a replay have been sent.
$node->safe_psql('postgres', <<'SQL');
CREATE PROCEDURE start_replay() LANGUAGE plpgsql AS $$
BEGIN
	PERFORM outbox.replay('-infinity');
	COMMIT;
	WHILE EXISTS (SELECT FROM outbox.replay_job WHERE finished_at IS NULL AND sent = 0) LOOP
		PERFORM pg_sleep(0.001);
	END LOOP;
END
$$;
SQL

is($node->safe_psql('postgres', "SELECT outbox.replay('-infinity')"),
	'0', 'there is nothing to replay yet');

$node->safe_psql('postgres',
	publish_sql('Order', 1, 2000) . publish_sql('Invoice', 2001, 2100));
wait_for_watermark();
my $middle = $node->safe_psql('postgres', 'SELECT clock_timestamp()');
$node->safe_psql('postgres', publish_sql('Order', 3001, 3100));
wait_for_events($topic, 2200);

# One type, while others publish.
is( $node->safe_psql(
		'postgres',
		"SELECT outbox.replay('-infinity', '$middle', 'Order');"),
	'2000',
	'replay() says how many');
$node->safe_psql('postgres', publish_sql('Order', 4001, 4100));
ok( $node->poll_query_until(
		'postgres',
		'SELECT bool_and(finished_at IS NOT NULL AND sent = total) FROM outbox.replay_job'
	),
	'the job shows its progress and ends');
my @messages = wait_for_events($topic, 4300);
is(scalar @messages, 4300, 'nothing else is sent again');
my @again = grep { (header($_, 'replay') || '') eq 'true' } @messages;
is_deeply(
	[ map { $_->{payload} } @again ],
	[ 1 .. 2000 ],
	'replayed events come in order, marked');
my %first = map { header($_, 'id') => $_ } @messages[0 .. 1999];
is( scalar(grep { $first{ header($_, 'id') } } @again),
	2000, 'with the ids they had');
is(scalar(grep { !defined header($_, 'replay') } @messages),
	2300, 'others are not marked');

# Across a restart of the relay.  A replay may be too quick for that: then once
# more.
wait_for_watermark();
my $batch = 500;
my $before;
my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
do
{
	$before = consume($topic);
	my $pid = relay_pid($node, 'postgres');
	$node->safe_psql('postgres',
		"CALL start_replay(); SELECT pg_terminate_backend($pid)");
	$node->poll_query_until('postgres', "SELECT pid <> $pid AND state = 'streaming' FROM outbox.stat_relay")
	  or die "no relay after that\n";
	wait_for_replays() or die "the replay does not go on\n";
	die "no replay was hit\n" if time > $deadline;
} until $node->safe_psql('postgres',
	'SELECT (SELECT max(finished_at) FROM outbox.replay_job) > started_at FROM outbox.stat_relay') eq 't';
pass('a replay goes on after the relay was terminated');
@again = wait_for_events($topic, $before + 2300);
splice @again, 0, $before;
my %ids = map { header($_, 'id') => 1 } @again;
is(scalar keys %ids, 2300, 'and loses nothing');
cmp_ok(scalar @again, '<=', 2300 + $batch, 'and repeats a batch at most');

my ($status, $out, $err) =
  $node->psql('postgres', "SELECT outbox.replay(now(), now() - interval '1 day')");
like($err, qr/since is later than until/, 'an impossible range is refused');
($status, $out, $err) = $node->psql('postgres', 'SELECT outbox.replay(NULL)');
like($err, qr/must not be NULL/, 'so is NULL');

# A job is deleted while it runs.  Whether it has ended shows in what comes
# after it.
my $sent;
do
{
	$before = consume($topic);
	$sent = $node->safe_psql('postgres',
		'CALL start_replay(); DELETE FROM outbox.replay_job WHERE finished_at IS NULL AND sent <= 1000 RETURNING sent'
	);
	wait_for_replays() or die "the replay does not end\n";
	die "no replay was deleted\n" if time > $deadline;
} until $sent;
publish_key($node, 'postgres', $topic, 'last');
wait_for_watermark();
is( $node->safe_psql('postgres', "SELECT outbox.replay(max(created_at), 'infinity') FROM outbox.event"),
	1, 'another replay');
ok(wait_for_replays(), 'ends');
@messages = wait_for_events($topic, $before + $sent + 2);
is(keys_in(@messages[ -2, -1 ]), 'last last', 'a job that is deleted has ended');
cmp_ok(@messages - $before, '<=', $sent + $batch + 2, 'with the batch that was under way');
$node->stop;

done_testing();
