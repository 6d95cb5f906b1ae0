# OutboxRecord.pm
#
# Writes Kafka records byte by byte, with what producers do not offer: any
# timestamp, any number of headers of any bytes, and values of any size, which are
# compressed so that brokers take them.  They go to partition 0.

package OutboxRecord;

use strict;
use warnings;

use Compress::Raw::Zlib;
use Exporter 'import';
use IO::Socket::INET;

use OutboxTest;

our @EXPORT = qw(produce_record);

# CRC-32C, which Kafka checks.
my @crc_table = map {
	my $crc = $_;
	$crc = $crc & 1 ? ($crc >> 1) ^ 0x82f63b78 : $crc >> 1 foreach 1 .. 8;
	$crc;
} 0 .. 255;

sub crc32c
{
	my ($bytes) = @_;
	my $crc = 0xffffffff;
	$crc = $crc_table[ ($crc ^ $_) & 0xff ] ^ ($crc >> 8) foreach unpack('C*', $bytes);
	return $crc ^ 0xffffffff;
}

# A number of variable length.
sub varint
{
	my ($number) = @_;
	my $rest = $number < 0 ? -2 * $number - 1 : 2 * $number;
	my $bytes = '';
	for (; $rest > 0x7f; $rest >>= 7)
	{
		$bytes .= chr($rest & 0x7f | 0x80);
	}
	return $bytes . chr($rest);
}

# Bytes, or undef, and their length.
sub sized
{
	my ($bytes) = @_;
	return defined $bytes ? varint(length $bytes) . $bytes : varint(-1);
}

# Some bytes, so many spaces, and more bytes, as gzip compresses them.
sub compressed
{
	my ($begin, $size, $end) = @_;
	my $deflate = Compress::Raw::Zlib::Deflate->new(-WindowBits => WANT_GZIP, -AppendOutput => 1)
	  or die 'cannot compress';
	my $output = '';
	my $spaces = ' ' x (1 << 20);
	$deflate->deflate($begin, $output);
	for (; $size > 0; $size -= length $spaces)
	{
		$spaces = ' ' x $size if $size < length $spaces;
		$deflate->deflate($spaces, $output);
	}
	$deflate->deflate($end, $output);
	$deflate->flush($output);
	return $output;
}

sub record_batch
{
	my ($record) = @_;
	my @headers = @{ $record->{headers} || [] };
	my $timestamp = $record->{timestamp} // time * 1000;
	my $size = $record->{size};
	my $begin = "\0" . varint(0) . varint(0) . sized($record->{key}) . ($size ? varint($size) : sized($record->{value}));
	my $end = varint(scalar @headers) . join('', map { sized($_->[0]) . sized($_->[1]) } @headers);
	my $body = $size ? compressed(varint(length($begin . $end) + $size) . $begin, $size, $end) : sized($begin . $end);
	my $checked = pack('s> l> q> q> q> s> l> l>', $size ? 1 : 0, 0, $timestamp, $timestamp, -1, -1, -1, 1) . $body;
	return pack('q> l> l> c L>', 0, 9 + length $checked, 0, 2, crc32c($checked)) . $checked;
}

sub receive
{
	my ($socket, $length) = @_;
	my $bytes = '';
	while (length $bytes < $length)
	{
		sysread($socket, $bytes, $length - length $bytes, length $bytes)
		  or die "the broker has closed the connection\n";
	}
	return $bytes;
}

# Sends a record to partition 0 of a topic, and waits until Kafka has it: a hash
# of key and value (undef or left out: none), timestamp, and headers, a list of
# pairs.  With size the value is so many spaces.
sub produce_record
{
	my ($topic, $record) = @_;
	my $batch = record_batch($record);
	my $request = pack('s> s> l> s>/a s> s> l> l> s>/a l> l> l>/a',
		0, 3, 1, 'test', -1, -1, 60_000, 1, $topic, 1, 0, $batch);
	my $socket = IO::Socket::INET->new(PeerAddr => kafka_bootstrap())
	  or die "cannot connect to Kafka: $!\n";
	print {$socket} pack('L>/a', $request) or die "cannot write to Kafka: $!\n";
	$socket->flush;
	my $answer = receive($socket, unpack('L>', receive($socket, 4)));
	my (undef, undef, undef, undef, undef, $error) = unpack('l> l> s>/a l> l> s>', $answer);
	die "Kafka does not take the record: error $error\n" if $error;
	close $socket;
	return;
}

1;
