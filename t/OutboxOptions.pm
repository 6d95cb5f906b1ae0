# OutboxOptions.pm
#
# What can be set: the properties of the librdkafka that is there, and values
# for each of them.

package OutboxOptions;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT = qw(library_options option_clause);

# Values of texts, beside those that any text is tried with.
my %texts = (
	'topic.(black|deny)list' => ['^outbox.*', '('],
	'debug' => ['all'],
	'broker.version.fallback' => [ '0.8.0', '0.10.0' ],
	'ssl.cipher.suites' => ['ECDHE-RSA-AES256-GCM-SHA384'],
	'ssl.curves.list' => ['X25519'],
	'ssl.sigalgs.list' => ['RSA+SHA256'],
	'.*\.(location|file|keytab)' => [ '/no/such/file', '/', '/etc/passwd' ],
	'.*\.pem' => ["-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"],
	'sasl.mechanisms?' => [
		qw(GSSAPI PLAIN SCRAM-SHA-256 SCRAM-SHA-512 OAUTHBEARER)
	],
	'sasl.kerberos.principal' => ['me@REALM'],
	'sasl.oauthbearer.config' => [
		'principal=me', 'principal=me lifeSeconds=1', 'scope=x lifeSeconds=-1'
	],
	'sasl.oauthbearer.*url' => ['http://127.0.0.1:1/token'],
	'sasl.oauthbearer.extensions' => ['a=b,c=d'],
	'partitioner' => [
		qw(random consistent consistent_random murmur2 murmur2_random fnv1a fnv1a_random)
	],
	'group.remote.assignor' => ['uniform'],
	'client.(id|rack)' => ['quote " backslash \\ brace {']);

# What is about a connection that is secured does something only with one of
# these protocols.
my %protocols = (
	'(enable\.)?(ssl|https)\..*' => [ { 'security.protocol' => 'SSL' } ],
	'sasl\.kerberos\..*' => [
		{ 'security.protocol' => 'SASL_PLAINTEXT', 'sasl.mechanism' => 'GSSAPI' }
	],
	'sasl\.(username|password)' => [
		map { { 'security.protocol' => 'SASL_PLAINTEXT', 'sasl.mechanism' => $_ } }
		  qw(PLAIN SCRAM-SHA-256)
	],
	'(enable\.)?sasl\.oauthbearer\..*' => [
		{
			'security.protocol' => 'SASL_PLAINTEXT',
			'sasl.mechanism' => 'OAUTHBEARER',
			'enable.sasl.oauthbearer.unsecure.jwt' => 'true',
			'sasl.oauthbearer.config' => 'principal=me lifeSeconds=2'
		},
		{
			'security.protocol' => 'SASL_PLAINTEXT',
			'sasl.mechanism' => 'OAUTHBEARER',
			'sasl.oauthbearer.method' => 'oidc',
			'sasl.oauthbearer.client.id' => 'me',
			'sasl.oauthbearer.client.secret' => 's3same',
			'sasl.oauthbearer.token.endpoint.url' => 'http://127.0.0.1:1/token'
		}
	],
	'sasl\.mechanisms?' => [ { 'security.protocol' => 'SASL_PLAINTEXT' } ]);

# Properties that do more together.
my @together = (
	{ 'message.max.bytes' => 1000, 'receive.message.max.bytes' => 2000 },
	{ 'message.max.bytes' => 1000, 'fetch.max.bytes' => 1000 },
	{ 'message.max.bytes' => 1000, 'queue.buffering.max.kbytes' => 1 },
	{ 'message.max.bytes' => 1_000_000_000 },
	{ 'reconnect.backoff.ms' => 0, 'reconnect.backoff.max.ms' => 0 },
	{ 'transaction.timeout.ms' => 1000, 'socket.timeout.ms' => 1000 },
	{ 'transaction.timeout.ms' => 1000, 'linger.ms' => 900 },
	{ 'transaction.timeout.ms' => 1_000_000 },    # brokers take 900,000
	{ 'api.version.request' => 'false', 'broker.version.fallback' => '0.9.0' },
	{ 'queue.buffering.max.messages' => 1, 'batch.num.messages' => 1 },
	{ 'session.timeout.ms' => 1, 'max.poll.interval.ms' => 1 },
	{ 'fetch.min.bytes' => 100_000_000, 'fetch.wait.max.ms' => 0 },
	{ 'linger.ms' => 3000 });

# Where the end of the range means that messages are to wait for minutes.
my %instead = ('linger.ms' => [ 0, 900 ], 'queue.buffering.max.ms' => [ 0, 900 ]);

sub first_match
{
	my ($table, $name) = @_;
	my ($pattern) = grep { $name =~ /^$_$/ } sort keys %$table;
	return defined $pattern ? @{ $table->{$pattern} } : ();
}

# The values to try a property with, given what the library says of it.
sub values_of
{
	my ($name, $range, $description, $all) = @_;
	my @values;
	if ($instead{$name})
	{
		@values = @{ $instead{$name} };
	}
	elsif ($range =~ /^(-?\d+) \.\. (\d+)$/)
	{
		@values = ($1, $2);
		push @values, grep { $_ > $1 && $_ < $2 } map { 10**$_ } 0 .. 9 if $all;
	}
	elsif ($range ne '' && $description !~ /CSV/)
	{
		@values = split /, /, $range;
	}
	else
	{
		@values = ('x', first_match(\%texts, $name));
		push @values, '', 'x' x 300, 'x' x 40_000, "\xc3\xa4 \t\"'\\", '0' if $all;
	}
	return @values;
}

# All that is to be tried: a list of hashes of options.
sub library_options
{
	my ($all) = @_;
	my @options = @together;
	foreach (`kcat -X list`)
	{
		my ($name, $who, $range, undef, $description) = split /\s*\|\s*/, $_, 5;
		next unless defined $description && $name =~ /^[a-z_.]+$/;
		foreach my $value (values_of($name, $range, $description, $all))
		{
			push @options, { $name => $value };
			push @options, map { { %$_, $name => $value } }
			  first_match(\%protocols, $name);
		}
	}
	return @options;
}

# Options as SQL has them.
sub option_clause
{
	my ($options) = @_;
	return join ', ', map {
		my $value = $options->{$_};
		$value =~ s/'/''/g;
		qq{"$_" '$value'}
	} sort keys %$options;
}

1;
