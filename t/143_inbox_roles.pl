# What roles that subscribe may take: credentials of the server, workers, and time
# to keep messages; and a role that is renamed.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxInbox;
use OutboxTest;

my $node = new_server('inbox_roles', "max_worker_processes = 32\n");
create_extension($node, 'postgres');
subscribe_in($node);

my $topic = make_topic(topic_name('roles'), 1);
my $bootstrap = kafka_bootstrap();

sub as
{
	my ($role, $statements) = @_;
	return sql("SET SESSION AUTHORIZATION $role;\n$statements");
}

# The error of a statement, as a role.
sub error_as
{
	my ($role, $statement) = @_;
	my ($status, $out, $error) =
	  $node->psql('postgres', "SET SESSION AUTHORIZATION $role;\n$statement");
	return $error;
}

sql(<<SQL);
CREATE ROLE bob;
CREATE SCHEMA shop AUTHORIZATION bob;
GRANT USAGE ON SCHEMA inbox TO bob;
GRANT USAGE ON FOREIGN SERVER kafka TO bob;
GRANT USAGE ON FOREIGN DATA WRAPPER outbox_kafka TO bob;
GRANT EXECUTE ON FUNCTION inbox.subscribe, inbox.unsubscribe, inbox.pause, inbox.resume TO bob;
SQL
as('bob', <<SQL);
CREATE FUNCTION shop.handle(m inbox.message) RETURNS void LANGUAGE sql AS '';
SQL

# ---------------------------------------------------------------------------
# Kerberos credentials of the database server, which librdkafka uses unless it is
# told otherwise

as('bob', <<SQL);
CREATE SERVER mine FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '$bootstrap', "security.protocol" 'SASL_PLAINTEXT');
SELECT inbox.subscribe('mine', ARRAY['$topic'], 'shop.handle', server => 'mine');
SQL
my $refused = q{state = 'stopped' AND last_error ~ 'option "sasl.mechanism" is missing: for GSSAPI, the default.*pg_read_server_files'};
wait_for("SELECT $refused FROM inbox.stat_subscription WHERE name = 'mine'", 'an owner without rights gets no tickets of the server');
as('bob', q{ALTER SERVER mine OPTIONS (ADD "sasl.mechanism" 'PLAIN')});
wait_for("SELECT NOT ($refused) FROM inbox.stat_subscription WHERE name = 'mine'", 'another mechanism is tried');
as('bob', q{ALTER SERVER mine OPTIONS (DROP "sasl.mechanism")});
wait_for("SELECT $refused FROM inbox.stat_subscription WHERE name = 'mine'", 'and again');
sql('GRANT pg_read_server_files TO bob');
as('bob', q{ALTER SERVER mine OPTIONS (ADD "client.id" 'bob')});
wait_for("SELECT NOT ($refused) FROM inbox.stat_subscription WHERE name = 'mine'", 'who may read all files gets them');
sql('REVOKE pg_read_server_files FROM bob');
as('bob', "SELECT inbox.unsubscribe('mine')");

# ---------------------------------------------------------------------------
# How much its subscriptions may take

sub subscribe_as_bob
{
	my ($name, $arguments) = @_;
	return "SELECT inbox.subscribe('$name', ARRAY['$topic'], 'shop.handle'$arguments)";
}

sql("ALTER ROLE bob LOGIN; ALTER ROLE bob SET inbox.max_workers_per_role = 3; ALTER ROLE bob SET inbox.max_keep = '1 h'");

# A session of his own, with his settings.
sub as_bob
{
	my ($statement) = @_;
	my ($status, $out, $error) = $node->psql('postgres', $statement, connstr => $node->connstr('postgres') . ' user=bob');
	return $error;
}

is(as_bob(subscribe_as_bob('one', ', workers => 2')), '', 'a role may have as many workers as it is allowed');
is(as_bob(subscribe_as_bob('two', '')), '', 'in several subscriptions');
is(as_bob("SELECT inbox.pause('two')"), '', 'one of them is paused');
like(as_bob(subscribe_as_bob('three', '')),
	qr/too many workers for subscriptions of role "bob".*Its other subscriptions have 3 workers, "three" is to have 1, and inbox.max_workers_per_role is 3\./s,
	'but no more');
like(as_bob(subscribe_as_bob('one', ', workers => 3')), qr/Its other subscriptions have 1 workers, "one" is to have 3/, 'nor when it changes one');
is(as_bob(subscribe_as_bob('one', ', workers => 2, max_attempts => 7')), '', 'which it may, otherwise');
like(as_bob('SET inbox.max_workers_per_role = 10'), qr/permission denied to set parameter "inbox.max_workers_per_role"/, 'it may not set that itself');
like(as_bob('ALTER ROLE bob SET inbox.max_keep = -1'), qr/permission denied to set parameter "inbox.max_keep"/, 'not even for later');
sql('ALTER ROLE bob SET inbox.max_workers_per_role = 1');
is(as_bob(subscribe_as_bob('one', ', workers => 2, max_attempts => 8')), '', 'what it has when the limit is lowered it keeps');
is(as_bob(subscribe_as_bob('two', ", keep => '1 h'")), '', 'it may keep messages for as long as it is allowed');
like(as_bob(subscribe_as_bob('two', ", keep => '61 min'")), qr/"keep" of subscription "two" is too long.*Allowed by inbox.max_keep is 1h/s, 'and no longer');
is(as_bob(subscribe_as_bob('two', '')), '', 'as long as all others is always allowed');
sql("ALTER ROLE bob RESET ALL; SELECT inbox.subscribe('super', ARRAY['$topic'], 'shop.handle', workers => 5, keep => '30 d'), inbox.unsubscribe('super')");
is(as_bob(subscribe_as_bob('two', ', workers => 5')), '', 'without a limit there is none');

# Two at a time do not get in together what one may not.
sql('ALTER ROLE bob SET inbox.max_workers_per_role = 8');
my $first = $node->background_psql('postgres');
$first->query_safe("SET inbox.max_workers_per_role = 8; SET SESSION AUTHORIZATION bob; BEGIN; " . subscribe_as_bob('first', ''));
my $second = start_psql($node, 'postgres', "SET inbox.max_workers_per_role = 8; SET SESSION AUTHORIZATION bob; " . subscribe_as_bob('second', ''));
wait_for("SELECT count(*) = 1 FROM pg_locks WHERE NOT granted AND locktype = 'object' AND classid = 'pg_authid'::regclass", 'who asks meanwhile waits');
$first->query_safe('COMMIT');
$first->quit;
ok(!$second->finish, 'and gets none');
is(sql("SELECT count(*) FROM inbox.subscription WHERE name IN ('first', 'second')"), '1', 'so that there is one');
sql("ALTER ROLE bob RESET ALL; SELECT inbox.unsubscribe(name) FROM inbox.subscription");

# ---------------------------------------------------------------------------
# A role that is renamed: a copy of the database finds it by the new name

as('bob', "SELECT inbox.subscribe('$_', ARRAY['$topic'], 'shop.handle')") foreach 'runs', 'rests';
as('bob', "SELECT inbox.pause('rests')");
sql('ALTER ROLE bob RENAME TO robert');
wait_for("SELECT bool_and(role_name = 'robert') FROM inbox.subscription", 'its new name is noted');
wait_for("SELECT state = 'running' FROM inbox.stat_subscription WHERE name = 'runs'", 'and the subscription goes on');
sql('CREATE ROLE bob; GRANT USAGE ON SCHEMA inbox TO bob; GRANT EXECUTE ON FUNCTION inbox.pause TO bob');
like(error_as('bob', "SELECT inbox.pause('runs')"), qr/permission denied.*It belongs to role "robert"/s, 'another one with the former name is somebody else');

$node->stop;
done_testing();
