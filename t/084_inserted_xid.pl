# A row whose xid somebody wrote is judged by the transaction that inserted it
# where the relay reads the log: it is published, and spoils nothing else.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $topic = make_topic(topic_name('inserted'));
my $node = new_server('inserted_xid');
create_extension($node, 'postgres');
my @expected;

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

sub publish
{
	my ($key) = @_;
	push @expected, $key;
	return sql(
		"SELECT outbox.publish('Order', '$key', 'OrderCreated', NULL, topic => '$topic')"
	);
}

sub insert
{
	my ($key, $xid) = @_;
	push @expected, $key;
	return sql(
		"INSERT INTO outbox.event (event_id, aggregate_type, aggregate_id, event_type, topic, xid) VALUES (gen_random_uuid(), 'Order', '$key', 'OrderCreated', '$topic', $xid)"
	);
}

sub check
{
	my ($what) = @_;
	return is(keys_in(wait_for_events($topic, scalar @expected)),
		join(' ', @expected), $what);
}

sub wait_for_watermark
{
	return $node->poll_query_until('postgres',
		"SELECT NOT EXISTS (SELECT FROM outbox.events WHERE status <> 'published' AND aggregate_id LIKE 'proper%')"
	);
}

# A relay that starts leaves out what the watermark shows.
publish('proper-1');
ok(wait_for_watermark(), 'an event counts as published');
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$node->restart;
insert('old', "'3'");
publish('proper-2');
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'outbox'\n");
$node->restart;
check('the xid of another transaction does not make a row a published one');

# One that none can have for long.
foreach my $delivery ('at_least_once', 'exactly_once')
{
	sql("ALTER SERVER kafka OPTIONS (ADD delivery 'exactly_once')")
	  if $delivery eq 'exactly_once';
	insert("future-$delivery", "'1000000000000'");
	publish("proper-$delivery");
	check("$delivery: an xid out of the future does no harm");
	ok(wait_for_watermark(), "$delivery: other events count as published");
	is( sql("SELECT count(*) FROM outbox.watermark WHERE upper_xid > '1000000000'"
		),
		'0',
		"$delivery: and future transactions do not");
}

insert('own', 'pg_current_xact_id()');
check('nor does the proper one, written by hand');
$node->stop;
done_testing();
