# Certificates that are renewed on disk are read again, without a command.

use strict;
use warnings;

use lib 't';
use OutboxPoison;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $files = PostgreSQL::Test::Utils::tempdir('certificates');

sub openssl
{
	my (@arguments) = @_;
	system_log('openssl', @arguments) == 0 or die "openssl @arguments failed\n";
	return;
}

# A key and a certificate of that name, from an authority or by itself.
sub make_certificate
{
	my ($name, $authority) = @_;
	my $path = "$files/$name";
	my @new = (
		'req', '-new', '-newkey', 'rsa:2048', '-nodes', '-subj', "/CN=$name",
		'-keyout', "$path.key");
	if (!$authority)
	{
		openssl(@new, '-x509', '-days', 2, '-out', "$path.pem");
		return;
	}
	openssl(@new, '-out', "$path.csr");
	append_to_file("$path.ext", "subjectAltName = IP:127.0.0.1\n");
	openssl('x509', '-req', '-in', "$path.csr", '-extfile', "$path.ext", '-days', 2,
		'-CA', "$files/$authority.pem", '-CAkey', "$files/$authority.key", '-CAcreateserial',
		'-out', "$path.pem");
	return;
}

# Renews what clients use.
sub use_certificate
{
	my ($name) = @_;
	foreach my $kind ('key', 'pem')
	{
		unlink "$files/client.$kind.new";
		append_to_file("$files/client.$kind.new", slurp_file("$files/$name.$kind"));
		chmod 0600, "$files/client.$kind.new";
		rename "$files/client.$kind.new", "$files/client.$kind" or die "rename: $!\n";
	}
	return;
}

plan skip_all => 'openssl is not installed' if system('openssl version >/dev/null 2>&1') != 0;

make_certificate($_) foreach 'ca', 'stranger';
make_certificate($_, 'ca') foreach 'broker', 'first', 'second';
append_to_file("$files/broker.store", slurp_file("$files/broker.key") . slurp_file("$files/broker.pem"));
my $kafka = own_kafka(
	'tls',
	map { ('--property', $_) }
	  'listener.security.protocol.map=CLIENT:SSL,PROXIED:PLAINTEXT,BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT',
	'ssl.client.auth=required',
	'ssl.keystore.type=PEM', "ssl.keystore.location=$files/broker.store",
	'ssl.truststore.type=PEM', "ssl.truststore.location=$files/ca.pem");
my $bootstrap = kafka_bootstrap($kafka);

my $node = new_server('tls');
publish_from($node, $kafka);
use_certificate('stranger');
sql(<<SQL);
CREATE EXTENSION outbox;
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '$bootstrap',
	"security.protocol" 'ssl', "ssl.ca.location" '$files/ca.pem',
	"ssl.certificate.location" '$files/client.pem', "ssl.key.location" '$files/client.key');
CREATE TABLE effect (key text);
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE sql AS 'INSERT INTO effect VALUES (m.aggregate_id)';
SQL
my $topic = topic_name('tls');
sql("SELECT inbox.subscribe('s', ARRAY['$topic'], 'handle')");

sub wait_for_effects
{
	my ($keys) = @_;
	wait_until("SELECT coalesce(string_agg(key, ' ' ORDER BY key), '') = '$keys' FROM effect");
	return;
}

wait_until("SELECT r.state = 'waiting for kafka' AND s.state = 'waiting for kafka' FROM outbox.stat_relay r, inbox.stat_subscription s");
publish_key($node, 'postgres', $topic, 1);
use_certificate('first');
wait_for_effects('1');
pass('relay and subscription go on with a certificate that replaces a useless one');

# While all is well.
my $pids = 'SELECT ARRAY[r.pid, c.pid] FROM outbox.stat_relay r, inbox.consumer_status() c';
my $before = sql($pids);
use_certificate('second');
wait_until("SELECT p.pids[1] <> o.pids[1] AND p.pids[2] <> o.pids[2] FROM ($pids) p(pids), (VALUES ('$before'::int[])) o(pids)");
publish_key($node, 'postgres', $topic, 2);
wait_for_effects('1 2');
is(sql('SELECT duplicates FROM inbox.stat_subscription'), 0, 'both read a renewed one, and repeat nothing');

# A file may be missing for a while.
unlink "$files/client.pem" or die "unlink: $!\n";
wait_for_state($node, 'postgres', 'waiting for configuration');
wait_until("SELECT state = 'stopped' FROM inbox.stat_subscription");
publish_key($node, 'postgres', $topic, 3);
use_certificate('first');
wait_for_effects('1 2 3');
pass('they wait for a file that is missing');

$node->stop;
done_testing();
