# A copy of a database consumes nothing by itself, however it was made, and
# goes on from its own positions when it is told to.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxTest;

my $node = new_server('inbox_copies', "max_worker_processes = 20\n");
my $topic = make_topic(topic_name('Orders'));

sub effects
{
	my ($server, $db) = @_;
	return $server->safe_psql($db,
		"SELECT string_agg(value, ' ' ORDER BY id) FROM effect");
}

sub wait_for_effects
{
	my ($server, $db, $expected, $what) = @_;
	$server->poll_query_until($db,
		"SELECT string_agg(value, ' ' ORDER BY id) = '$expected' FROM effect");
	return is(effects($server, $db), $expected, $what);
}

sub is_held
{
	my ($server, $db, $what) = @_;
	is( $server->safe_psql($db, "SELECT state, last_error LIKE '%inbox.resume(''orders'')%' FROM inbox.stat_subscription"),
		'paused|t', "$what does not consume, and says what to do");
	is($server->safe_psql($db, 'SELECT count(*) FROM inbox.consumer_status()'),
		0, 'it has no worker');
	return;
}

$node->safe_psql('postgres', 'CREATE DATABASE original');
create_extension($node, 'original');
$node->safe_psql('original', <<SQL);
CREATE TABLE effect (id bigserial, value text);
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	IF inbox.payload_text(m) = 'bad' THEN RAISE 'bad'; END IF;
	INSERT INTO effect (value) VALUES (inbox.payload_text(m));
END
\$\$;
SELECT inbox.subscribe('orders', ARRAY['$topic'], 'handle', max_attempts => 1);
SQL
produce($topic, "a\t1", "b\tbad", "a\t2");
wait_for_effects($node, 'original', '1 2', 'the original consumes');
ok($node->poll_query_until('original', 'SELECT failed = 1 FROM inbox.stat_subscription'),
	'and has a failed message');

# A template.  What comes later is the original's alone.
$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE original');
mkdir $node->backup_dir;
my $dump = $node->backup_dir . '/original.sql';
$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('original') ],
	'the original is dumped');
produce($topic, "a\t3");
wait_for_effects($node, 'original', '1 2 3', 'the original goes on');
is_held($node, 'copy', 'a copy of a database');
is(effects($node, 'copy'), '1 2', 'it has done nothing');

$node->safe_psql('copy', "SELECT inbox.resume('orders')");
wait_for_effects($node, 'copy', '1 2 3', 'resume() makes it go on from its own position');
is($node->safe_psql('copy', 'SELECT failed FROM inbox.stat_subscription'),
	1, 'the failed message came along');

# A dump, in another cluster, where roles have other oids.
my $other = new_server('inbox_elsewhere', "max_worker_processes = 16\n");
$other->safe_psql('postgres', 'CREATE DATABASE restored');
$other->command_ok(
	[ 'psql', '-X', '-v', 'ON_ERROR_STOP=1', '-q', '-f', $dump, $other->connstr('restored') ],
	'the dump is restored');
is_held($other, 'restored', 'a restored dump');
is(effects($other, 'restored'), '1 2', 'it has done nothing');
is( $other->safe_psql('restored',
		'SELECT event_id, status FROM inbox.message WHERE status <> \'processed\''),
	"$topic/0/1|failed",
	'messages came along');
$other->safe_psql('restored', "SELECT inbox.resume('orders')");
wait_for_effects($other, 'restored', '1 2 3', 'resume() makes it go on');

# What was received before the dump is recognized: the ring came along.
$other->safe_psql('restored', "SELECT inbox.seek('orders', '$topic', 0, 0)");
ok($other->poll_query_until('restored', 'SELECT duplicates = 4 FROM inbox.stat_subscription'),
	'messages from before the dump are recognized');
is(effects($other, 'restored'), '1 2 3', 'and not handled again');

done_testing();
