# Where not everybody can have a worker, it shows, and whoever comes to have room
# is served at once; relays come before subscriptions.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxInbox;
use OutboxTest;

my $node = new_server('inbox_room', "outbox.max_consumers = 3\nmax_worker_processes = 20\n");
my $topic = make_topic(topic_name('Room'), 4);

# A database that can subscribe.
sub make_database
{
	my ($name) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $name") unless $name eq 'postgres';
	create_extension($node, $name);
	$node->safe_psql($name, <<SQL);
CREATE TABLE effect (value text);
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE sql AS
	\$\$ INSERT INTO effect VALUES (inbox.payload_text(m)) \$\$;
SQL
	return;
}

sub subscribe
{
	my ($database, $name, $workers) = @_;
	$node->safe_psql($database,
		"SELECT inbox.subscribe('$name', ARRAY['$topic'], 'handle', workers => $workers)");
	return;
}

# Waits until a subscription is in a state, with as many processes.
sub wait_for_workers
{
	my ($database, $name, $state, $n, $what) = @_;
	return ok($node->poll_query_until($database, <<SQL), $what)
SELECT s.state = '$state' AND (SELECT count(pid) = $n FROM inbox.consumer_status() c WHERE c.subscription = s.name)
FROM inbox.stat_subscription s WHERE s.name = '$name'
SQL
	  || diag($node->safe_psql($database, 'TABLE inbox.stat_subscription; SELECT * FROM inbox.consumer_status()'));
}

subscribe_in($node);
make_database('postgres');
make_database('two');

# All places are taken by workers, and none by those who look for subscriptions.
subscribe('postgres', 'all', 3);
wait_for_workers('postgres', 'all', 'running', 3, 'as many workers as there may be');
subscribe('postgres', 'other', 2);
wait_for_workers('postgres', 'other', 'stopped', 0, 'one that has none is stopped');
like(sql("SELECT last_error FROM inbox.stat_subscription WHERE name = 'other'"),
	qr/raise outbox\.max_consumers/, 'and says what to do');
subscribe('two', 'third', 2);
wait_for_workers('two', 'third', 'stopped', 0, 'so is one of another database');
wait_for_workers('postgres', 'all', 'running', 3, 'the first still runs');

# The change of one database makes room in another.
sql("SELECT inbox.unsubscribe('other'); SELECT inbox.unsubscribe('all')");
wait_for_workers('two', 'third', 'running', 2, 'who had no room has it when somebody leaves');
subscribe('postgres', 'most', 3);
wait_for_workers('postgres', 'most', 'stopped', 1, 'with some of its workers a subscription is not running');
like(sql("SELECT last_error FROM inbox.stat_subscription"), qr/no room for all of its workers/, 'and says why');
$node->safe_psql('two', "SELECT inbox.pause('third')");
wait_for_workers('postgres', 'most', 'running', 3, 'it runs when a pause of others makes room');

# The relay's own list takes all places when the server starts.
$node->restart;
wait_for_workers('postgres', 'most', 'running', 3, 'all places are taken from the start');
$node->safe_psql('two', "SELECT inbox.resume('third')");
wait_for_workers('two', 'third', 'stopped', 0, 'there is no room for more');
sql("SELECT inbox.unsubscribe('most')");
wait_for_workers('two', 'third', 'running', 2, 'a change is noticed all the same');
is(sql('SELECT count(*) FROM inbox.consumer_status()'), 0, 'nothing is left of what has gone');
$node->safe_psql('two', "SELECT inbox.unsubscribe('third')");

# Processes: all that are left are for workers, until a relay needs one.
$node->append_conf('postgresql.conf', "max_worker_processes = 6\noutbox.max_consumers = 20\n");
$node->restart;
wait_for_state($node, $_, 'streaming') foreach qw(postgres two);
subscribe('postgres', 'many', 4);
wait_for_workers('postgres', 'many', 'stopped', 2, 'as many workers as there are processes');
like(sql('SELECT last_error FROM inbox.stat_subscription'), qr/raise max_worker_processes/, 'it says what to do about it');
my $taken = "SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type = 'outbox consumer' AND application_name = 'many'";
ok($node->poll_query_until('postgres', $taken), 'all are taken');
foreach my $round (1 .. 3)
{
	$node->safe_psql('two', 'SELECT pg_terminate_backend(pid) FROM outbox.stat_relay');
	ok( $node->poll_query_until('two', "SELECT state = 'streaming' AND pid IS NOT NULL FROM outbox.stat_relay"),
		"a relay that has lost its process to a worker has it back ($round)");
}
ok($node->poll_query_until('postgres', $taken), 'and workers what is left');
$node->safe_psql('two', "SELECT outbox.publish('thing', '1', 'made', '{}', topic => '$topic')");
ok($node->poll_query_until('two', "SELECT bool_and(status = 'published') FROM outbox.events"), 'which publishes');

done_testing();
