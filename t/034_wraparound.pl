# Transaction ids wrap around after four thousand million: stream, catch-up and
# status go by the whole id.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $topic = make_topic(topic_name('wraparound'));
my $node = new_server('wraparound', "autovacuum = off\n");
create_extension($node, 'postgres');

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

sub publish
{
	my ($id) = @_;
	return sql(
		"SELECT outbox.publish('Order', '$id', 'OrderCreated', NULL, topic => '$topic')"
	);
}

sub keys_on_kafka
{
	my ($count) = @_;
	return join ' ', map { $_->{key} } wait_for_events($topic, $count);
}

sub wait_for_watermark
{
	return $node->poll_query_until('postgres',
		"SELECT NOT EXISTS (SELECT FROM outbox.events WHERE status <> 'published')"
	);
}

# Runs code while no relay does, and drops the slot.
sub without_relay
{
	my ($code) = @_;
	$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
	$node->restart;
	$code->();
	sql('SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots');
	$node->append_conf('postgresql.conf',
		"shared_preload_libraries = 'outbox'\n");
	return;
}

publish('old');
ok(wait_for_watermark(), 'an event counts as published');

# The server stands shortly before the wrap, with all rows frozen.
my $next = 2**32 - 200;
without_relay(
	sub {
		$node->command_ok(
			[ 'vacuumdb', '--all', '--freeze', '-h', $node->host, '-p', $node->port ],
			'all rows are frozen');
	});
$node->stop;
open my $file, '>', $node->data_dir . '/pg_xact/0FFF' or die $!;
print $file "\0" x (32 * 8192);
close $file or die $!;
$node->command_ok(
	[ 'pg_resetwal', '-x', $next, '-u', $next, '-D', $node->data_dir ],
	'the counter is advanced');
$node->start;
wait_for_state($node, 'postgres', 'streaming');
cmp_ok(sql('SELECT pg_current_xact_id()::text'),
	'>=', $next, 'the next transaction is shortly before the wrap');

publish('before');
sql("DO \$\$ BEGIN FOR i IN 1 .. 400 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END \$\$"
);
cmp_ok(sql('SELECT pg_current_xact_id()::text'),
	'>', 2**32, 'transaction ids have wrapped around');
publish('after');
is(keys_on_kafka(3), 'old before after', 'the stream goes on');
ok(wait_for_watermark(), 'and everything counts as published');

without_relay(sub { publish('without a relay') });
$node->restart;
is(keys_on_kafka(4), 'old before after without a relay',
	'catch-up sends what is new, and nothing again');
wait_for_state($node, 'postgres', 'streaming');
publish('last');
is(keys_on_kafka(5), 'old before after without a relay last',
	'and streaming goes on');
ok(wait_for_watermark(), 'all of it counts as published');

$node->stop;
done_testing();
