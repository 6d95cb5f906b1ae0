# Certificates that are renewed on disk are read again, without a command.

use strict;
use warnings;

use lib 't';
use OutboxCertificates;
use OutboxRefused;
use OutboxTest;
use Test::More;

plan skip_all => 'openssl is not installed' unless OutboxCertificates::available();

my $certificates = OutboxCertificates->new;
my $kafka = own_kafka('tls', map { ('--property', $_) } $certificates->broker_properties('CLIENT'));
$certificates->sign('stranger');
$certificates->issue($_) foreach 'first', 'second';
my $bootstrap = kafka_bootstrap($kafka);

my $node = new_server('tls');
publish_from($node, $kafka);
$certificates->install('stranger');
my $options = $certificates->client_options;
sql(<<SQL);
CREATE EXTENSION outbox;
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '$bootstrap', $options);
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
$certificates->install('first');
wait_for_effects('1');
pass('relay and subscription go on with a certificate that replaces a useless one');

# While all is well.
my $pids = 'SELECT ARRAY[r.pid, c.pid] FROM outbox.stat_relay r, inbox.consumer_status() c';
my $before = sql($pids);
$certificates->install('second');
wait_until("SELECT p.pids[1] <> o.pids[1] AND p.pids[2] <> o.pids[2] FROM ($pids) p(pids), (VALUES ('$before'::int[])) o(pids)");
publish_key($node, 'postgres', $topic, 2);
wait_for_effects('1 2');
is(sql('SELECT duplicates FROM inbox.stat_subscription'), 0, 'both read a renewed one, and repeat nothing');

# A file may be missing for a while.
unlink $certificates->path('client.pem') or die "unlink: $!\n";
wait_for_state($node, 'postgres', 'waiting for configuration');
wait_until("SELECT state = 'stopped' FROM inbox.stat_subscription");
publish_key($node, 'postgres', $topic, 3);
$certificates->install('first');
wait_for_effects('1 2 3');
pass('they wait for a file that is missing');

$node->stop;
done_testing();
