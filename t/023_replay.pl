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

is($node->safe_psql('postgres', "SELECT outbox.replay('-infinity')"),
	'0', 'there is nothing to replay yet');

$node->safe_psql('postgres',
	publish_sql('Order', 1, 2000) . publish_sql('Invoice', 2001, 2100));
$node->poll_query_until('postgres',
	"SELECT NOT EXISTS (SELECT FROM outbox.events WHERE status = 'pending')")
  or die 'the watermark does not move';
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

# Across a restart of the relay.
$node->poll_query_until('postgres',
	"SELECT NOT EXISTS (SELECT FROM outbox.events WHERE status = 'pending')")
  or die 'the watermark does not move';
$node->safe_psql('postgres', "SELECT outbox.replay('-infinity')");
$node->safe_psql('postgres',
	'SELECT pg_terminate_backend(pid) FROM outbox.stat_relay');
ok( $node->poll_query_until(
		'postgres',
		'SELECT bool_and(finished_at IS NOT NULL) FROM outbox.replay_job'),
	'a replay goes on after the relay was terminated');
my %ids = map { header($_, 'id') => 1 }
  (wait_for_events($topic, 4300 + 2300))[ 4300 .. 4300 + 2299 ];
cmp_ok(scalar keys %ids, '>=', 1800, 'and repeats a batch at most');

my ($status, $out, $err) =
  $node->psql('postgres', "SELECT outbox.replay(now(), now() - interval '1 day')");
like($err, qr/since is later than until/, 'an impossible range is refused');
($status, $out, $err) = $node->psql('postgres', 'SELECT outbox.replay(NULL)');
like($err, qr/must not be NULL/, 'so is NULL');

$node->safe_psql('postgres', <<SQL);
BEGIN;
SELECT outbox.replay('-infinity');
DELETE FROM outbox.replay_job WHERE finished_at IS NULL;
COMMIT;
SELECT outbox.publish('Order', 'last', 'Counted', '0', topic => '$topic');
SELECT outbox.wait_published();
SQL
is((consume($topic))[-1]->{key}, 'last', 'a job that is deleted ends');
$node->stop;

done_testing();
