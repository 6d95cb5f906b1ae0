# Settings that do not fit the world are explained in words that say what to do.

use strict;
use warnings;

use IO::Socket::INET;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;

use OutboxTest;

my $node = new_server('explained');
my $kafka = kafka_bootstrap();
my @servers;

# Something that gives one answer to whoever connects and says something, and
# is no Kafka; returns its address.
sub answer_with
{
	my ($answer) = @_;
	my $listen = IO::Socket::INET->new(
		LocalAddr => '127.0.0.1',
		Listen => 10,
		ReuseAddr => 1) or die "cannot listen: $!\n";
	my $pid = fork;
	if ($pid == 0)
	{
		local $SIG{PIPE} = 'IGNORE';
		while (my $client = $listen->accept)
		{
			sysread $client, my $said, 1000;
			syswrite $client, $answer;
				close $client;
		}
		POSIX::_exit(0);
	}
	push @servers, $pid;
	return '127.0.0.1:' . $listen->sockport;
}

END
{
	my $status = $?;
	kill 'KILL', @servers;
	waitpid $_, 0 foreach @servers;
	$? = $status;
}

# The relay says why it cannot work with such a server.
sub explains
{
	my ($state, $reason, $what, $brokers, %options) = @_;
	my $list = join ', ',
	  map { "\"$_\" '$options{$_}'" } sort keys %options;
	$node->safe_psql('postgres', <<SQL);
BEGIN;
DROP SERVER IF EXISTS kafka;
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka
	OPTIONS ("bootstrap.servers" '$brokers'@{[ $list ? ", $list" : '' ]});
COMMIT;
SQL
	wait_for_error($node, 'postgres', $state, $reason);
	pass($what);
	return;
}

$node->safe_psql('postgres', 'CREATE EXTENSION outbox');
my %tls = ('security.protocol' => 'SSL');

explains('waiting for kafka', 'does not speak Kafka.s protocol',
	'a web server', answer_with("HTTP/1.1 400 Bad Request\r\n\r\n"));
explains('waiting for kafka', 'closes the connection; perhaps the port speaks TLS.*"security.protocol" is plaintext',
	'a port with TLS', answer_with("\x15\x03\x03\x00\x02\x02\x50"));
explains('waiting for kafka', 'speaks no TLS.*"security.protocol" is ssl',
	'a broker without TLS', $kafka, %tls);
explains('waiting for kafka', 'speaks no TLS',
	'something else without TLS', answer_with("HTTP/1.1 400 Bad Request\r\n\r\n"), %tls);
explains('waiting for configuration',
	'cannot read "/no/such/ca.pem", which option "ssl.ca.location" names: No such file',
	'a file that is missing', $kafka, %tls, 'ssl.ca.location' => '/no/such/ca.pem');
explains('waiting for configuration', 'CREATE USER MAPPING FOR the owner',
	'a user that is missing', $kafka,
	'security.protocol' => 'SASL_PLAINTEXT', 'sasl.mechanism' => 'PLAIN');
explains('waiting for configuration', 'leave the protocol out of the address',
	'a protocol that is not that of the option', "SSL://$kafka");

# Subscriptions say the same.
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION handler(message inbox.message) RETURNS void LANGUAGE sql AS '';
SELECT inbox.subscribe('all', ARRAY['some'], 'handler');
SQL
ok( $node->poll_query_until('postgres',
		"SELECT state = 'stopped' AND last_error ~ 'leave the protocol out of the address' FROM inbox.stat_subscription"
	),
	'a subscription explains it as well');

done_testing();
