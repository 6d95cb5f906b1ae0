# Kafka settings are a foreign server and its user mappings: what they say
# takes effect without a restart, and their secrets stay secret.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxTest;

my ($user, $password, $wrong) = ('relay', 'open-s3same', 'open-b4rley');
my $kafka = own_kafka('settings', '--sasl', "$user:$password");
my $sasl_bootstrap = kafka_bootstrap($kafka);
my @kcat_sasl = map { ('-X', $_) } 'security.protocol=SASL_PLAINTEXT',
  'sasl.mechanism=PLAIN', "sasl.username=$user", "sasl.password=$password";

# Its other listener, which asks for no password, makes it a second broker.
my ($second_bootstrap) = slurp_file("$kafka/node-1/server.properties") =~
  m{^advertised\.listeners=.*BROKER://([0-9.:]+)}m;

# The statements hold secrets, and not logging those is up to whoever sends
# them.
my $node = new_server('settings', "log_statement = none\n");
create_extension($node, 'postgres');

sub sql
{
	my ($statements, $db) = @_;
	return $node->safe_psql($db || 'postgres', $statements);
}

sub publish
{
	my ($type, $payload, $db) = @_;
	return sql("SELECT outbox.publish('$type', 'k', 'Thing', '$payload')", $db);
}

# Changes settings and waits until the relay, which logs it only while it works,
# has noticed.
sub change
{
	my ($statements) = @_;
	wait_for_state($node, 'postgres', 'streaming');
	my $offset = -s $node->logfile;
	sql($statements);
	$node->wait_for_log(qr/starts over with changed Kafka settings/, $offset);
	return;
}

sub arrived
{
	my ($type, $count, $bootstrap) = @_;
	return [ map { $_->{payload} }
		  wait_for_events("outbox.event.$type", $count, $bootstrap) ];
}

my $started = sql('SELECT pg_postmaster_start_time()');
my ($type, $errors);

# ---------------------------------------------------------------------------
# Options

(undef, undef, $errors) = $node->psql('postgres',
	'ALTER SERVER kafka OPTIONS (ADD "compresion.codec" \'zstd\')');
like(
	$errors,
	qr/option "compresion\.codec" does not exist.*Perhaps you mean "compression\.codec"/s,
	'a misspelt option is refused, with the name that was meant');
(undef, undef, $errors) = $node->psql('postgres',
	'ALTER SERVER kafka OPTIONS (ADD "compression.codec" \'zip\')');
like($errors, qr/invalid value for option "compression\.codec"/,
	'so is an invalid value');
(undef, undef, $errors) = $node->psql('postgres',
	'ALTER SERVER kafka OPTIONS (ADD "sasl.password" \'x\')');
like(
	$errors,
	qr/"sasl\.password" is a secret.*CREATE USER MAPPING/s,
	'and a secret where everybody can read it');

# ---------------------------------------------------------------------------
# Another broker

$type = aggregate_type('Moved');
publish($type, 1);
wait_until_confirmed($node, 'postgres');
change("ALTER SERVER kafka OPTIONS (SET \"bootstrap.servers\" '$second_bootstrap')");
publish($type, 2);
is_deeply(arrived($type, 1, $second_bootstrap),
	[2], 'after ALTER SERVER events go to the other broker');
is_deeply(arrived($type, 1), [1], 'and those before went to the one before');
change("ALTER SERVER kafka OPTIONS (SET \"bootstrap.servers\" '"
	  . kafka_bootstrap()
	  . "')");

# ---------------------------------------------------------------------------
# No server

$type = aggregate_type('Dropped');
publish($type, 1);
$node->poll_query_until('postgres',
	"SELECT bool_and(status = 'published') FROM outbox.events");
sql('DROP SERVER kafka');
wait_for_state($node, 'postgres', 'waiting for configuration');
like(relay_status($node, 'postgres', 'last_error'),
	qr/CREATE SERVER kafka/, 'without a server the relay says how to make one');
publish($type, 2);
publish($type, 3);
create_server($node, 'postgres');
wait_for_state($node, 'postgres', 'streaming');
publish($type, 4);
wait_until_confirmed($node, 'postgres');
is_deeply(arrived($type, 4), [ 1 .. 4 ],
	'with a new server it goes on: nothing is lost or comes twice');

# ---------------------------------------------------------------------------
# A value that is found wrong only when it is used

$type = aggregate_type('Unusable');
change("ALTER SERVER kafka OPTIONS (ADD \"security.protocol\" 'SSL', ADD \"ssl.ca.location\" '/no/such/file')"
);
wait_for_state($node, 'postgres', 'waiting for configuration');
like(relay_status($node, 'postgres', 'last_error'),
	qr/ssl\.ca\.location/, 'what librdkafka says to unusable settings is the last error');
publish($type, 1);
sql('ALTER SERVER kafka OPTIONS (DROP "security.protocol", DROP "ssl.ca.location")');
is_deeply(arrived($type, 1), [1], 'with usable settings the relay goes on');

$type = aggregate_type('Limited');
change("ALTER SERVER kafka OPTIONS (ADD \"message.max.bytes\" '1000')");
my $id = publish($type, '"' . 'x' x 2000 . '"');
$node->poll_query_until('postgres',
	'SELECT dead_letters = 1 FROM outbox.stat_relay');
is(sql('SELECT event_id FROM outbox.dead_letter'),
	$id, 'an event beyond a limit of ours becomes a dead letter');
change('ALTER SERVER kafka OPTIONS (DROP "message.max.bytes")');
sql("SELECT outbox.retry('$id')");
is(length arrived($type, 1)->[0],
	2002, 'which can be sent when the limit is changed');

# ---------------------------------------------------------------------------
# Secrets

$type = aggregate_type('Secret');
my $as_user = "\"sasl.username\" '$user', \"sasl.password\"";
sql('DROP SERVER kafka');
sql(<<SQL);
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS
	("bootstrap.servers" '$sasl_bootstrap', "security.protocol" 'SASL_PLAINTEXT', "sasl.mechanism" 'PLAIN');
CREATE USER MAPPING FOR CURRENT_USER SERVER kafka OPTIONS ($as_user '$password');
SQL
publish($type, 1);
wait_for_state($node, 'postgres', 'streaming');
is( ( wait_for_events(
			"outbox.event.$type", 1, $second_bootstrap))[0]{payload},
	1,
	'the password of the user mapping of the server\'s owner opens Kafka');

change("ALTER USER MAPPING FOR CURRENT_USER SERVER kafka OPTIONS (SET \"sasl.password\" '$wrong')"
);
wait_for_error($node, 'postgres', 'waiting for kafka', '[Aa]uthentication');
pass('a wrong password is the last error');
my $status = sql('SELECT * FROM outbox.stat_relay');
publish($type, 2);
sql(<<SQL);
BEGIN;
DROP USER MAPPING FOR CURRENT_USER SERVER kafka;
CREATE USER MAPPING FOR PUBLIC SERVER kafka OPTIONS ($as_user '$password');
COMMIT;
SQL
is_deeply(arrived($type, 2, $second_bootstrap),
	[ 1, 2 ], 'the mapping of PUBLIC counts when the owner has none');

sql("CREATE USER MAPPING FOR CURRENT_USER SERVER kafka OPTIONS ($as_user '$wrong')");
wait_for_state($node, 'postgres', 'waiting for kafka');
publish($type, 3);
sql("ALTER USER MAPPING FOR CURRENT_USER SERVER kafka OPTIONS (SET \"sasl.password\" '$password')"
);
is_deeply(arrived($type, 3, $second_bootstrap),
	[ 1 .. 3 ], 'ALTER USER MAPPING to the right password lets the relay go on');

$status .= sql(<<'SQL');
SELECT * FROM outbox.stat_relay;
SELECT * FROM pg_stat_activity WHERE backend_type <> 'client backend';
SQL
unlike($status, qr/$password|$wrong/,
	'no password is in stat_relay or pg_stat_activity');
unlike(slurp_file($node->logfile),
	qr/$password|$wrong/, 'nor in the server\'s log');

# ---------------------------------------------------------------------------
# Two databases

$node->safe_psql('postgres', 'CREATE DATABASE other');
create_extension($node, 'other');
$type = aggregate_type('Both');
publish($type, '"postgres"');
publish($type, '"other"', 'other');
is_deeply(
	[ arrived($type, 1, $second_bootstrap), arrived($type, 1) ],
	[ ['"postgres"'], ['"other"'] ],
	'two databases publish to a Kafka each');

is(sql('SELECT pg_postmaster_start_time()'),
	$started, 'none of this needed a restart');

$node->stop;
done_testing();
