# When an event was published can be told for as long as its row stays.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $topic = make_topic(topic_name('published'));
my $node = new_server('published_at');
create_extension($node, 'postgres');

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

sub publish
{
	my ($key) = @_;
	sql("SELECT outbox.publish('Order', '$key', 'OrderCreated', NULL, topic => '$topic')"
	);
	$node->poll_query_until('postgres',
		"SELECT status = 'published' FROM outbox.events WHERE aggregate_id = '$key'"
	) or die "the watermark does not move\n";
	return;
}

# Lets the watermarks of the last hour be older, and many more before them.
sub age
{
	my ($interval) = @_;
	sql(<<SQL);
UPDATE outbox.watermark SET taken_at = taken_at - interval '$interval' WHERE taken_at > now() - interval '1 hour';
INSERT INTO outbox.watermark (id, database_id, lsn, snapshot, taken_at) OVERRIDING SYSTEM VALUE
SELECT first - i, outbox.database_id(), '0/0', '1:1:', now() - interval '$interval' - i * interval '1 s'
FROM (SELECT min(id) AS first FROM outbox.watermark) w, generate_series(1, 10000) i;
SQL
	return;
}

# Are the times those when the events were published, within an hour?
sub check
{
	my ($what) = @_;
	is( sql(<<SQL), 'month day hour now', "$what: when events were published");
SELECT string_agg(aggregate_id, ' ' ORDER BY id) FROM outbox.events
WHERE aggregate_id <> 'last' AND status = 'published' AND published_at - now() + CASE aggregate_id
	WHEN 'month' THEN interval '30 days' WHEN 'day' THEN '25 hours' WHEN 'hour' THEN '5 hours' ELSE '0' END
	BETWEEN interval '-10 minutes' AND CASE WHEN aggregate_id IN ('month', 'day') THEN interval '1 hour' ELSE '1 second' END
SQL
	return;
}

publish('month');
age('30 days');
publish('day');
age('25 hours');
publish('hour');
age('5 hours');

# The relay that starts now thins out what is old.
sql('SELECT pg_terminate_backend(pid) FROM outbox.stat_relay');
publish('now');
check('thinned out');
cmp_ok(
	sql("SELECT count(*) FROM outbox.watermark WHERE taken_at < now() - interval '25 hours'"
	),
	'<', 15, 'a watermark an hour stays');
cmp_ok(
	sql("SELECT count(*) FROM outbox.watermark WHERE taken_at > now() - interval '1 day'"
	),
	'>', 9000, 'younger ones all stay');

sql('SELECT pg_terminate_backend(pid) FROM outbox.stat_relay');
sql("SELECT outbox.publish('Order', 'last', 'OrderCreated', NULL, topic => '$topic')"
);
is(keys_in(wait_for_events($topic, 5)),
	'month day hour now last', 'the latest watermark counts');
check('again');

$node->stop;
done_testing();
