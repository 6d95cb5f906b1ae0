# OutboxCertificates.pm
#
# An authority, certificates from it for brokers and for a client, and the files
# in which the client finds its own.

package OutboxCertificates;

use strict;
use warnings;

use POSIX qw(strftime);
use PostgreSQL::Test::Utils;

# Can there be certificates on this machine?
sub available { return system('openssl version >/dev/null 2>&1') == 0 }

sub new
{
	my ($class) = @_;
	my $directory = PostgreSQL::Test::Utils::tempdir('certificates');
	my $self = bless { directory => $directory }, $class;
	append_to_file("$directory/index", '');
	append_to_file("$directory/conf", <<CONF);
[ca]
default_ca = authority
[authority]
database = $directory/index
new_certs_dir = $directory
certificate = $directory/ca.pem
private_key = $directory/ca.key
rand_serial = yes
default_md = sha256
policy = names
unique_subject = no
x509_extensions = host
[names]
commonName = supplied
[host]
subjectAltName = IP:127.0.0.1
CONF
	$self->sign('ca');
	return $self;
}

sub openssl
{
	my (@arguments) = @_;
	system_log('openssl', @arguments) == 0 or die "openssl @arguments failed\n";
	return;
}

sub path
{
	my ($self, $file) = @_;
	return "$self->{directory}/$file";
}

# The arguments for a new key, and a request for a certificate of that subject.
sub request
{
	my ($self, $name, $subject) = @_;
	return (
		'req', '-new', '-newkey', 'rsa:2048', '-nodes',
		'-subj', "/CN=$subject", '-keyout', $self->path("$name.key"));
}

# A key and a certificate that nobody else has signed.
sub sign
{
	my ($self, $name) = @_;
	openssl($self->request($name, $name), '-x509', '-days', 2, '-out', $self->path("$name.pem"));
	return;
}

# A key and a certificate from the authority.  Options: subject, if that is not
# the name, and seconds, for how long it is valid; returns until when.
sub issue
{
	my ($self, $name, %options) = @_;
	my $end = time + ($options{seconds} || 2 * 86_400);
	openssl($self->request($name, $options{subject} || $name), '-out', $self->path("$name.csr"));
	openssl('ca', '-batch', '-notext', '-config', $self->path('conf'),
		'-in', $self->path("$name.csr"), '-out', $self->path("$name.pem"),
		'-enddate', strftime('%Y%m%d%H%M%SZ', gmtime $end));
	return $end;
}

# Renews what the client uses.
sub install
{
	my ($self, $name) = @_;
	foreach my $kind ('key', 'pem')
	{
		my $file = $self->path("client.$kind");
		unlink "$file.new";
		append_to_file("$file.new", slurp_file($self->path("$name.$kind")));
		chmod 0600, "$file.new";
		rename "$file.new", $file or die "rename: $!\n";
	}
	return;
}

# Properties of brokers that ask for certificates of this authority, at the
# listener of that name.
sub broker_properties
{
	my ($self, $listener) = @_;
	my %protocol = (map({ ($_ => 'PLAINTEXT') } qw(CLIENT PROXIED BROKER CONTROLLER)), $listener => 'SSL');
	my $store = $self->path('broker.store');
	$self->issue('broker');
	append_to_file($store, slurp_file($self->path("broker.$_"))) foreach 'key', 'pem';
	return (
		'listener.security.protocol.map=' . join(',', map { "$_:$protocol{$_}" } sort keys %protocol),
		'ssl.client.auth=required',
		'ssl.keystore.type=PEM',
		"ssl.keystore.location=$store",
		'ssl.truststore.type=PEM',
		'ssl.truststore.location=' . $self->path('ca.pem'));
}

# Options of a foreign server whose client uses them.
sub client_options
{
	my ($self) = @_;
	my %file = (ca => 'ca.pem', certificate => 'client.pem', key => 'client.key');
	return join ', ', q("security.protocol" 'ssl'),
	  map { sprintf q("ssl.%s.location" '%s'), $_, $self->path($file{$_}) } sort keys %file;
}

1;
