# A copy of a database publishes nothing by itself, however it was made.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('copies');
my $topic = topic_name('copied');

sub publish
{
	my ($db, $id) = @_;
	$node->safe_psql($db,
		"SELECT outbox.publish('Order', '$id', 'OrderCreated', '{}', topic => '$topic')"
	);
	return;
}

sub keys_on_kafka
{
	return join ' ', map { $_->{key} } consume($topic);
}

sub is_published
{
	my ($db, $id) = @_;
	return $node->poll_query_until($db,
		"SELECT status = 'published' FROM outbox.events WHERE aggregate_id = '$id'"
	);
}

# Changes the Kafka settings of a copy, and waits until a relay has seen them
# and says that it is a copy still.
sub change_copy
{
	my ($server, $db, $statements) = @_;
	my $pid = relay_pid($server, $db);
	$server->safe_psql($db, "BEGIN; $statements; COMMIT");
	$server->poll_query_until($db,
		"SELECT pid <> $pid AND state = 'copied' FROM outbox.stat_relay")
	  or die "the relay of the copy does not wait\n";
	return;
}

# An original with a published event and, after its Kafka settings have gone,
# a pending one.
make_topic($topic);
$node->safe_psql('postgres', 'CREATE DATABASE original');
create_extension($node, 'original');
publish('original', 'published');
ok(is_published('original', 'published'), 'the original publishes');
$node->safe_psql('original', 'DROP SERVER kafka');
wait_for_state($node, 'original', 'waiting for configuration');
publish('original', 'pending');
create_server($node, 'original', '127.0.0.1:1');
is(keys_on_kafka(), 'published', 'one event is pending');

# A template: file copy within the cluster.
$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE original');
wait_for_state($node, 'copy', 'copied');
like(relay_status($node, 'copy', 'last_error'),
	qr/outbox\.resume/, 'the state says what to do');
publish('copy', 'new');
my $bootstrap = kafka_bootstrap();
change_copy($node, 'copy',
	"DROP SERVER kafka; CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS (\"bootstrap.servers\" '$bootstrap')"
);
is(keys_on_kafka(), 'published', 'a copy of a database publishes nothing');
$node->safe_psql('copy', 'SELECT outbox.resume(true)');
wait_for_state($node, 'copy', 'streaming');
wait_for_events($topic, 3);
is(keys_on_kafka(), 'published pending new',
	'resume(true) publishes what the original had not, and what came since');
publish('copy', 'later');
wait_for_events($topic, 4);
is(keys_on_kafka(), 'published pending new later', 'then it publishes as ever');
ok(is_published('copy', $_), "$_ counts as published")
  foreach qw(published pending new later);
my ($status, $out, $err) =
  $node->psql('copy', 'SELECT outbox.resume(true)');
like($err, qr/not a copy that waits/, 'there is nothing to resume twice');

# A dump, restored into another cluster, whose Kafka settings come along.
$node->safe_psql('original', 'DROP SERVER kafka');
create_server($node, 'original', '127.0.0.1:1');
my $dump = $node->backup_dir . '/original.sql';
mkdir $node->backup_dir;
$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('original') ],
	'the original is dumped');
my $other = new_server('elsewhere');
$other->safe_psql('postgres', 'CREATE DATABASE restored');

# The Kafka of the original is the one that must not be written to.
my $sql = slurp_file($dump);
$sql =~ s/127\.0\.0\.1:1'/$bootstrap'/
  or die "no Kafka settings in the dump\n";
append_to_file("$dump.kafka", $sql);
$other->command_ok(
	[ 'psql', '-qX', '-v', 'ON_ERROR_STOP=1', '-f', "$dump.kafka", $other->connstr('restored') ],
	'the dump is restored');
wait_for_state($other, 'restored', 'copied');
change_copy($other, 'restored',
	'ALTER SERVER kafka OPTIONS (ADD "linger.ms" \'5\')');
is(keys_on_kafka(), 'published pending new later',
	'a restored dump publishes nothing');
$other->safe_psql('restored',
	"SELECT outbox.publish('Order', 'elsewhere', 'OrderCreated', '{}', topic => '$topic')"
);
$other->safe_psql('restored', 'SELECT outbox.resume(false)');
wait_for_state($other, 'restored', 'streaming');
$other->safe_psql('restored',
	"SELECT outbox.publish('Order', 'after', 'OrderCreated', '{}', topic => '$topic')"
);
wait_for_events($topic, 5);
is( keys_on_kafka(),
	'published pending new later after',
	'resume(false) counts everything before it as done');
$node->stop;
$other->stop;

done_testing();
