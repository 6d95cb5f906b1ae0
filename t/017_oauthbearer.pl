# SASL OAUTHBEARER: tokens are renewed by whoever can, and where nobody can the
# settings are refused, or relay and subscription say so and wait.

use strict;
use warnings;

use IO::Socket::INET;
use JSON::PP ();
use MIME::Base64 qw(encode_base64url);
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use version;

use OutboxTest;

use constant LIFE => 4;    # of a token, in seconds

my $node = new_server('oauth', "max_worker_processes = 16\n");
$node->safe_psql('postgres', 'CREATE EXTENSION outbox');
my $started = sql('SELECT pg_postmaster_start_time()');
my $version = version->parse(library_version($node, 'postgres'));
my ($kafka, $token_server);

END
{
	kill 'TERM', $token_server if $token_server;
}

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

sub error_of
{
	my ($statement) = @_;
	my (undef, undef, $errors) = $node->psql('postgres', $statement);
	return $errors;
}

sub wait_for_subscription
{
	my ($condition) = @_;
	return $node->poll_query_until('postgres',
		"SELECT $condition FROM inbox.stat_subscription");
}

# ---------------------------------------------------------------------------
# Nobody to get a token from

sql(<<SQL);
CREATE TABLE effect (value text);
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE sql AS
	'INSERT INTO effect VALUES (inbox.payload_text(m))';
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '${\ closed_port()}',
	"security.protocol" 'SASL_PLAINTEXT', "sasl.mechanism" 'OAUTHBEARER');
SELECT inbox.subscribe('tokens', ARRAY['outbox.event.Token'], 'handle');
SQL
my $reason = 'nobody to get one from; set sasl.oauthbearer.method';
wait_for_error($node, 'postgres', 'waiting for configuration', $reason);
pass('without a way to get a token the relay waits and says so');
ok(wait_for_subscription("state = 'stopped' AND last_error ~ '$reason'"),
	'and so does a subscription');

# ---------------------------------------------------------------------------
# Tokens that an old library cannot renew

my $unsecure = '"enable.sasl.oauthbearer.unsecure.jwt"';
SKIP:
{
	skip "librdkafka $version renews them", 4 if $version >= version->parse('2.2.0');

	my $refused =
	  qr/option "enable\.sasl\.oauthbearer\.unsecure\.jwt" cannot be "true".*before 2\.2 crash/s;
	like(error_of("ALTER SERVER kafka OPTIONS (ADD $unsecure 'true')"),
		$refused, 'a server is refused what would crash the library');
	like(
		error_of(
			"CREATE USER MAPPING FOR CURRENT_USER SERVER kafka OPTIONS ($unsecure 'true')"
		),
		$refused,
		'and so is a user mapping');

	# As if another release had been there when it was set.
	sql("UPDATE pg_foreign_server SET srvoptions = srvoptions || '{enable.sasl.oauthbearer.unsecure.jwt=true}'"
	);
	sql("ALTER SERVER kafka OWNER TO CURRENT_USER");
	$reason = 'enable.sasl.oauthbearer.unsecure.jwt.*before 2\.2 crash';
	wait_for_error($node, 'postgres', 'waiting for configuration', $reason);
	pass('what another release took is not used');
	ok(wait_for_subscription("state = 'stopped' AND last_error ~ '$reason'"),
		'by a subscription, either');
}
sql('DROP SERVER kafka CASCADE');

# ---------------------------------------------------------------------------
# Tokens that are renewed

# A Kafka that believes whatever a token says.
sub start_kafka
{
	$kafka ||= own_kafka(
		'oauth',
		map { ('--property', $_) }
		  'listener.security.protocol.map=CLIENT:SASL_PLAINTEXT,PROXIED:PLAINTEXT,BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT',
		'listener.name.client.sasl.enabled.mechanisms=OAUTHBEARER',
		'listener.name.client.oauthbearer.connections.max.reauth.ms=3600000',
		'listener.name.client.oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="admin";'
	);
	return kafka_bootstrap($kafka);
}

# Publishes events and has them handled for as long as some tokens live.
sub outlives_tokens
{
	my ($server, $mapping, $delivery) = @_;
	my ($published, $until) = (0, time + 2 * LIFE);
	my $bootstrap = start_kafka();

	sql(<<SQL);
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '$bootstrap', delivery '$delivery',
	"security.protocol" 'SASL_PLAINTEXT', "sasl.mechanism" 'OAUTHBEARER', $server);
CREATE USER MAPPING FOR CURRENT_USER SERVER kafka OPTIONS ($mapping);
TRUNCATE effect;
SQL
	do
	{
		$published++;
		sql("SELECT outbox.publish('Token', 'k', 'Made', '{}')");
		$node->poll_query_until('postgres',
			"SELECT count(*) = $published FROM effect")
		  or return diag(map { sql("TABLE $_") } 'outbox.stat_relay',
			'inbox.stat_subscription')
		  && undef;
	} while (time < $until);
	sql('DROP SERVER kafka CASCADE');
	return $published;
}

SKIP:
{
	skip "librdkafka $version cannot renew them", 2
	  if $version < version->parse('2.2.0');

	foreach my $delivery (qw(at_least_once exactly_once))
	{
		ok( outlives_tokens(
				"$unsecure 'true'",
				'"sasl.oauthbearer.config" \'principal=admin lifeSeconds='
				  . LIFE . '\'',
				$delivery),
			"relay and subscription outlive the tokens they make up, $delivery");
	}
}

# ---------------------------------------------------------------------------
# Tokens of a server

# A server that gives tokens to whoever asks; returns its process and port.
sub start_token_server
{
	my $listener =
	  IO::Socket::INET->new(Listen => 10, LocalAddr => '127.0.0.1')
	  or die "cannot listen: $!\n";
	my $pid = fork // die "cannot fork: $!\n";
	return ($pid, $listener->sockport) if $pid;

	$SIG{TERM} = 'DEFAULT';
	while (my $client = $listener->accept)
	{
		my ($length, $body) = (0);
		while (my $line = <$client>)
		{
			$length = $1 if $line =~ /^Content-Length: (\d+)/i;
			last if $line =~ /^\r?$/;
		}
		read $client, $body, $length;
		my $now = time;
		my $token = join '.', map { encode_base64url($_) } '{"alg":"none"}',
		  JSON::PP::encode_json(
			{ sub => 'admin', iat => $now, exp => $now + LIFE }), '';
		my $answer = JSON::PP::encode_json({ access_token => $token });
		print $client "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n",
		  'Content-Length: ', length $answer,
		  "\r\nConnection: close\r\n\r\n$answer";
		close $client;
	}
	POSIX::_exit(0);
}

SKIP:
{
	my $errors = error_of(
		'CREATE SERVER oidc FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" \'b:1\', "sasl.oauthbearer.method" \'oidc\')'
	);
	skip "librdkafka was built without OIDC: $errors", 1 if $errors;

	($token_server, my $port) = start_token_server();
	ok( outlives_tokens(
			"\"sasl.oauthbearer.method\" 'oidc', \"sasl.oauthbearer.token.endpoint.url\" 'http://127.0.0.1:$port/token'",
			'"sasl.oauthbearer.client.id" \'me\', "sasl.oauthbearer.client.secret" \'s3same\'',
			'at_least_once'),
		'relay and subscription outlive the tokens of a server');
}

is(sql('SELECT pg_postmaster_start_time()'),
	$started, 'the server did not crash');

$node->stop;
done_testing();
