# Logical replication brings rows of outbox.event into another database, which
# publishes too: each database publishes its own events and no others.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $topic = make_topic(topic_name('replicated'));
my %node;
foreach my $name (qw(here there))
{
	$node{$name} = new_server("subscription_$name", "autovacuum = off\n");
	$node{$name}->safe_psql('postgres', 'CREATE DATABASE app');
	create_extension($node{$name}, 'app');
}

sub publish
{
	my ($name, $from, $to) = @_;
	$node{$name}->safe_psql('app',
		"SELECT count(outbox.publish('Order', '$name ' || i, 'OrderCreated', NULL, topic => '$topic')) FROM generate_series($from, $to) i"
	);
	return;
}

# The keys on Kafka that begin with a name.
sub keys_from
{
	my ($name) = @_;
	return join ' ', map { $_->{key} =~ /^$name (\d+)$/ } consume($topic);
}

sub wait_for_rows
{
	my ($name, $from, $count) = @_;
	$node{$name}->poll_query_until('app',
		"SELECT count(*) = $count FROM outbox.event WHERE aggregate_id LIKE '$from %'"
	) or die "rows do not arrive\n";
	return;
}

# Without the slot, what the watermark does not show comes again.
sub wait_for_watermark
{
	my ($name) = @_;
	return $node{$name}->poll_query_until('app',
		"SELECT NOT EXISTS (SELECT FROM outbox.events WHERE status <> 'published' AND aggregate_id LIKE '$name %')"
	) || die "the watermark does not move\n";
}

# Both number their rows from 1, in the same chunk.
publish('here', 1, 5);
publish('there', 1, 5);
wait_for_events($topic, 10);

# Some come with the initial copy, the others in the stream.
$node{here}->safe_psql('app',
	"CREATE PUBLICATION events FOR TABLE outbox.event WITH (publish = 'insert', publish_via_partition_root)"
);
$node{there}->safe_psql('app',
	"CREATE SUBSCRIPTION events CONNECTION \$\$"
	  . $node{here}->connstr('app')
	  . '$$ PUBLICATION events');
wait_for_rows('there', 'here', 5);
$node{there}->wait_for_subscription_sync($node{here}, 'events', 'app');
publish('here', 6, 10);
publish('there', 6, 10);
wait_for_rows('there', 'here', 10);
wait_for_events($topic, 20);
wait_for_watermark('there');
is(keys_from('here'), '1 2 3 4 5 6 7 8 9 10',
	'what comes by replication is not published by the one that gets it');
is(keys_from('there'), '1 2 3 4 5 6 7 8 9 10', 'its own events are');

# In the stream's place, catch-up from the table.
$node{there}->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$node{there}->restart;
publish('there', 11, 15);
publish('here', 11, 15);
wait_for_rows('there', 'here', 15);
$node{there}->safe_psql('app',
	"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots");
$node{there}
  ->append_conf('postgresql.conf', "shared_preload_libraries = 'outbox'\n");
$node{there}->restart;
wait_for_state($node{there}, 'app', 'streaming');
wait_for_events($topic, 30);
is(keys_from('here'), join(' ', 1 .. 15), 'nor by its catch-up');
is(keys_from('there'), join(' ', 1 .. 15), 'which publishes its own');

# The polling publisher.
wait_for_watermark('there');
$node{there}->append_conf('postgresql.conf',
	"outbox.capture = poll\noutbox.poll_interval = '100ms'\n");
$node{there}->reload;
wait_for_state($node{there}, 'app', 'polling');
publish('here', 16, 20);
wait_for_rows('there', 'here', 20);
publish('there', 16, 20);
wait_for_events($topic, 40);
is(keys_from('here'), join(' ', 1 .. 20), 'nor by polling');
is(keys_from('there'), join(' ', 1 .. 20), 'which publishes its own');

# A replay is of its own events too.
wait_for_watermark('there');
is($node{there}->safe_psql('app', "SELECT outbox.replay('-infinity')"),
	20, 'a replay does not count those of others');
my @messages = wait_for_events($topic, 60);
is(scalar(grep { $_->{key} =~ /^here/ } @messages),
	20, 'and sends no others');

# Emptied chunks of the one are no business of the other.
wait_for_watermark('here');
$node{here}->safe_psql('app', 'TRUNCATE outbox.event');
publish('here', 21, 21);
wait_for_rows('there', 'here', 21);
is( $node{there}->safe_psql('app', 'SELECT count(*) FROM outbox.event'),
	41, 'TRUNCATE is not replicated');

$node{there}->safe_psql('app', 'DROP SUBSCRIPTION events');
$_->stop foreach values %node;
done_testing();
