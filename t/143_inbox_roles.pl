# What roles that subscribe may take: credentials of the server; and a role that
# is renamed.

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
