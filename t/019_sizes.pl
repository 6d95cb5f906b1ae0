# Large messages, where the administrator allows them, and the settings that
# have to give way for that; and messages that nothing has room for.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxTest;

use constant LARGE => 40_000_000;

my $kafka = own_kafka(
	'sizes',
	map { ('--property', $_) } 'message.max.bytes=62914560',
	'replica.fetch.max.bytes=62914560');
my $node = new_server('sizes', <<CONF);
max_worker_processes = 16
outbox.max_event_size = 60000000
outbox.transaction_interval = 50ms
CONF
create_extension($node, 'postgres', kafka_bootstrap($kafka));

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

sub publish
{
	my ($id, $size) = @_;
	return sql("SELECT outbox.publish_bytes('Size', '$id', 'Made', convert_to(repeat('x', $size), 'UTF8'), 'text/plain')"
	);
}

# What was handled, once it is so many messages.
sub handled
{
	my ($count) = @_;
	$node->poll_query_until('postgres', "SELECT count(*) = $count FROM effect")
	  or diag sql('TABLE outbox.stat_relay'), sql('TABLE inbox.stat_subscription');
	return sql("SELECT string_agg(id || ':' || size, ' ' ORDER BY n) FROM effect");
}

sql(<<'SQL');
CREATE TABLE effect (n serial, id text, size integer);
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE sql AS
	'INSERT INTO effect (id, size) VALUES (m.aggregate_id, length(m.payload))';
SELECT inbox.subscribe('sizes', ARRAY['outbox.event.Size'], 'handle');
SQL
publish('small', 10);
is(handled(1), 'small:10', 'the subscription works');

sql("ALTER SERVER kafka OPTIONS (ADD \"message.max.bytes\" '62914560')");
publish('large', LARGE);
publish('next', 10);
my $expected = 'small:10 large:' . LARGE . ' next:10';
is(handled(3), $expected,
	'what is larger than queue and fetches are by default is sent and handled');

sql("ALTER SERVER kafka OPTIONS (ADD delivery 'exactly_once')");
publish('large', LARGE);
publish('next', 10);
is(handled(5), "$expected large:" . LARGE . ' next:10', 'also exactly once');
sql("ALTER SERVER kafka OPTIONS (SET delivery 'at_least_once')");

my (undef, undef, $errors) = $node->psql('postgres',
	'ALTER SERVER kafka OPTIONS (ADD "queue.buffering.max.kbytes" \'32768\')');
like(
	$errors,
	qr/`queue\.buffering\.max\.kbytes` must be >= `message\.max\.bytes`/,
	'a queue that cannot hold the largest message is refused');

# As if it had been set with a library, or a release of ours, that allowed it.
sql("UPDATE pg_foreign_server SET srvoptions = srvoptions || '{queue.buffering.max.kbytes=32768}'");
sql('ALTER SERVER kafka OWNER TO CURRENT_USER');
wait_for_error($node, 'postgres', 'waiting for configuration',
	'queue.buffering.max.kbytes');
publish('last', 10);
sql('ALTER SERVER kafka OPTIONS (SET "message.max.bytes" \'33554432\')');
is(handled(6), "$expected large:" . LARGE . ' next:10 last:10',
	'and the relay waits for a change of it');

# The queue would do, but the message is too large for what is set now.
my $id = publish('excess', LARGE);
publish('after', 10);
like(handled(7), qr/ after:10$/, 'a message beyond the limit holds up nothing');
is( sql('SELECT event_id, error FROM outbox.dead_letter'),
	"$id|Broker: Message size too large",
	'but is a dead letter');

$node->stop;
done_testing();
