# The example of docs/subscribing.md: an order comes from Kafka, takes goods out of
# stock, and that is announced on Kafka.  One database publishes the order,
# another one subscribes to it.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxDocuments;
use OutboxTest;

my $node = new_server('inbox_example', "max_worker_processes = 16\n");
my $orders = aggregate_type('Order');
my $stock = aggregate_type('Stock');
my $order_topic = make_topic("outbox.event.$orders");
my $stock_topic = make_topic("outbox.event.$stock");

# An SQL block under a heading that holds a word, with topics of this test.
sub example_here
{
	my $sql = example('docs/subscribing.md', @_);
	$sql =~ s/outbox\.event\.Order/$order_topic/g;
	$sql =~ s/outbox\.publish\('Stock'/outbox.publish('$stock'/;
	return $sql;
}

foreach my $db (qw(sales store))
{
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	create_extension($node, $db);
}
$node->safe_psql('store', example_here('Subscribing', 'CREATE TABLE stock'));
$node->safe_psql('store', "INSERT INTO stock VALUES ('pen', 10), ('ink', 1)");

sub order
{
	my ($id, $product, $quantity) = @_;
	$node->safe_psql('sales',
		qq(SELECT outbox.publish('$orders', '$id', 'OrderCreated', '{"product": "$product", "quantity": $quantity}'))
	);
	return;
}

sub wait_for_stock
{
	my ($expected, $what) = @_;
	my $stock = "SELECT string_agg(product || ' ' || quantity, ', ' ORDER BY product DESC)";
	$node->poll_query_until('store', "$stock = '$expected' FROM stock");
	return is($node->safe_psql('store', "$stock FROM stock"), $expected, $what);
}

order('o1', 'pen', 3);
wait_for_events($stock_topic, 1);
my ($event) = consume($stock_topic);
is($event->{key}, 'pen', 'the goods are reserved, and that is announced');
is($event->{payload}, '{"order": "o1"}', 'with the order');
wait_for_stock('pen 7, ink 1', 'and they are out of stock');
is( $node->safe_psql('store',
		'SELECT event_type, aggregate_type = '
		  . "'$orders', aggregate_id, status, event_id ~ '^[0-9a-f-]{36}\$' FROM inbox.message"),
	'OrderCreated|t|o1|processed|t',
	'the message has what publish() was told');

# It can be looked into, what fails leaves nothing behind, and can be retried.
$node->safe_psql('store', 'ALTER TABLE stock RENAME TO wares');
order('o2', 'ink', 1);
ok( $node->poll_query_until('store',
		"SELECT retrying = 1 FROM inbox.stat_subscription WHERE name = 'stock'"),
	'a message whose handler fails is tried again');
like($node->safe_psql('store', 'SELECT last_error FROM inbox.stat_subscription'),
	qr/relation "stock" does not exist/, 'and shows why');
$node->safe_psql('store', 'ALTER TABLE wares RENAME TO stock');
$node->safe_psql('store', "SELECT inbox.retry('stock')");
wait_for_events($stock_topic, 2);
wait_for_stock('pen 7, ink 0', 'retry() makes it happen at once');

order('o3', 'ink', 1);
order('o4', 'pen', 1);
wait_for_events($stock_topic, 3);
wait_for_stock('pen 6, ink 0', 'others go on while one cannot succeed');
my $id = $node->safe_psql('store', "SELECT event_id FROM inbox.message WHERE aggregate_id = 'o3'");
is($node->safe_psql('store', "SELECT inbox.discard('stock', '$id')"), 't', 'it is given up');
ok( $node->poll_query_until('store',
		"SELECT state = 'running' AND lag = 0 FROM inbox.stat_subscription"),
	'the subscription is at work');
is( $node->safe_psql('store', 'SELECT failed, retrying, received - duplicates, processed FROM inbox.stat_subscription'),
	'0|0|4|3', 'and its counters tell what happened');
my %announced = map { header($_, 'id') => 1 } consume($stock_topic);
is(scalar(keys %announced), 3, 'what failed has announced nothing');

# The handler for batches, in a database of its own.
$node->safe_psql('postgres', 'CREATE DATABASE log');
create_extension($node, 'log');
$node->safe_psql('log', 'CREATE TABLE order_log (id text PRIMARY KEY, content jsonb)');
$node->safe_psql('log', example_here('Handlers', 'on_orders'));
$node->safe_psql('log', "SELECT inbox.subscribe('log', ARRAY['$order_topic'], 'on_orders')");
ok($node->poll_query_until('log', 'SELECT count(*) = 4 FROM order_log'), 'a handler for batches');
is( $node->safe_psql('log', "SELECT string_agg(content->>'product', ' ' ORDER BY id) FROM order_log"),
	'pen ink ink pen', 'gets the same messages');

# The rights that the page grants are enough.
$node->safe_psql('postgres', 'CREATE DATABASE grants');
create_extension($node, 'grants');
$node->safe_psql('postgres', 'CREATE ROLE shop LOGIN');
$node->safe_psql('grants', example_here('Let a role subscribe', 'GRANT USAGE ON SCHEMA inbox'));
$node->safe_psql('grants', 'CREATE SCHEMA shop AUTHORIZATION shop');
$node->safe_psql('grants', <<SQL, extra_params => [ '-U', 'shop' ]);
CREATE TABLE shop.seen (id text, content jsonb, by_role name, path text);
CREATE FUNCTION shop.see(message inbox.message) RETURNS void LANGUAGE sql AS
\$\$ INSERT INTO seen VALUES (message.aggregate_id, inbox.payload_json(message), current_user, current_setting('search_path')) \$\$;
SELECT inbox.subscribe('stock', ARRAY['$order_topic'], 'shop.see');
SQL
ok($node->poll_query_until('grants', 'SELECT count(*) = 4 FROM shop.seen'),
	'a role without other rights can subscribe');
is($node->safe_psql('grants', 'SELECT DISTINCT by_role, path FROM shop.seen'),
	'shop|"$user", public', 'its handler runs as the role, with its search_path');

done_testing();
