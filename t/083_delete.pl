# A transaction that has committed has its events on Kafka, whatever it did to
# their rows; and rows can be removed when they are.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $topic = make_topic(topic_name('deleted'));
my $node = new_server('delete', "outbox.poll_interval = '100ms'\n");
create_extension($node, 'postgres');

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

my @committed;

# Publishes, and does something to the row in the same transaction.  What
# commits has to be on Kafka as it was published.
sub publish_and
{
	my ($key, $statement) = @_;
	my $code = $node->psql('postgres', <<SQL, on_error_stop => 1);
BEGIN;
SELECT outbox.publish('Order', '$key', 'OrderCreated', '"$key"', topic => '$topic');
$statement;
COMMIT;
SQL
	push @committed, $key if $code == 0;
	return $code == 0;
}

sub publish_all
{
	my ($mode) = @_;
	publish_and("plain $mode", 'SELECT');
	publish_and("deleted $mode", "DELETE FROM outbox.event WHERE aggregate_id = 'deleted $mode'");
	publish_and("deleted directly $mode",
		"DELETE FROM outbox.event_0 WHERE aggregate_id = 'deleted directly $mode'");
	publish_and("changed $mode",
		"UPDATE outbox.event SET payload = '1', partition_key = 'wrong' WHERE aggregate_id = 'changed $mode'");
	publish_and("moved $mode",
		"UPDATE outbox.event SET chunk = 3 WHERE aggregate_id = 'moved $mode'");
	publish_and("marked $mode",
		"UPDATE outbox.event SET xid = '3' WHERE aggregate_id = 'marked $mode'");
	publish_and("truncated $mode", 'TRUNCATE outbox.event_0');
	publish_and("last $mode", 'SELECT');
	return;
}

sub check
{
	my ($mode) = @_;
	my @messages = wait_for_events($topic, scalar @committed);
	is(keys_in(@messages), join(' ', @committed),
		"$mode: what has committed is on Kafka");
	is(join(' ', map { $_->{payload} } @messages),
		join(' ', map { "\"$_\"" } @committed), "$mode: as it was published");
	$node->poll_query_until('postgres',
		"SELECT NOT EXISTS (SELECT FROM outbox.events WHERE status <> 'published')"
	) or die "the watermark does not move\n";
	return;
}

publish_all('streaming');
check('streaming');

$node->append_conf('postgresql.conf', "outbox.capture = poll\n");
$node->reload;
wait_for_state($node, 'postgres', 'polling');
publish_all('polling');
check('polling');

my $port = closed_port();
set_bootstrap($node, 'postgres', $port);
wait_for_state($node, 'postgres', 'waiting for kafka');
publish_all('catch-up');
set_bootstrap($node, 'postgres', kafka_bootstrap());
$node->append_conf('postgresql.conf', "outbox.capture = log\n");
$node->reload;
check('catch-up');
wait_for_state($node, 'postgres', 'streaming');

# Clean-up: rows that are on Kafka go, and nothing else.
sql("SELECT count(outbox.publish('Order', 'many', 'OrderCreated', 'null', topic => '$topic')) FROM generate_series(1, 2000)"
);
push @committed, ('many') x 2000;
$node->poll_query_until('postgres',
	"SELECT NOT EXISTS (SELECT FROM outbox.events WHERE status <> 'published')"
) or die "the watermark does not move\n";
set_bootstrap($node, 'postgres', $port);
publish_and('pending', 'SELECT');
my $clean_up =
  "DELETE FROM outbox.event e USING outbox.events v WHERE v.id = e.id AND v.status = 'published'";
sql($clean_up);
is(sql('SELECT aggregate_id, status FROM outbox.events'),
	'pending|pending', 'what is on Kafka can be removed');
isnt($node->psql('postgres', 'DELETE FROM outbox.event'),
	0, 'what is not cannot');
sql("SET session_replication_role = replica; DELETE FROM outbox.event WHERE aggregate_id = 'pending'"
);
is(sql('SELECT count(*) FROM outbox.event'),
	'0', 'but by somebody who may');
set_bootstrap($node, 'postgres', kafka_bootstrap());
is(scalar(wait_for_events($topic, scalar @committed)),
	scalar @committed, 'which is published, as the slot has it');

$node->stop;
done_testing();
