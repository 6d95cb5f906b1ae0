# OutboxRefused.pm
#
# What the tests of dead letters share: a server whose events Kafka refuses,
# functions in it that publish them, and what has come of it.

package OutboxRefused;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Utils;

use OutboxTest;

our @EXPORT = qw(publish_from sql change_settings create_functions sequence
  wait_for_sequence wait_until limited_topic);

my ($node, $kafka, $bootstrap);

# The server to work with, and where its events go: the directory of a Kafka of
# the test's own, and its bootstrap servers if not those in there.
sub publish_from
{
	($node, $kafka, $bootstrap) = @_;
	$bootstrap ||= kafka_bootstrap($kafka);
	return;
}

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

# Changes the settings of the relay, and waits until one that goes by them
# streams.
sub change_settings
{
	my ($statement) = @_;
	my $pid = relay_pid($node, 'postgres');
	sql($statement);
	wait_until("SELECT pid <> $pid AND state = 'streaming' FROM outbox.stat_relay");
	return;
}

# noise() makes a third more than so many bytes, on one line, that compression
# makes hardly smaller.
sub create_functions
{
	sql(<<'SQL');
CREATE FUNCTION noise(bytes int) RETURNS bytea LANGUAGE sql AS
	$$ SELECT convert_to(translate(encode(string_agg(sha512(i::text::bytea), ''), 'base64'), E'\n', ''), 'UTF8')
	   FROM generate_series(1, bytes / 64) i $$;
CREATE FUNCTION refused(topic text, key text DEFAULT 'k') RETURNS uuid LANGUAGE sql AS
	$$ SELECT outbox.publish_bytes('Big', key, 'Big', noise(150000), topic => topic,
	                               headers => '{"origin": "test"}') $$;
CREATE FUNCTION small(topic text, key text, first int, last int) RETURNS bigint LANGUAGE sql AS
	$$ SELECT count(outbox.publish('Small', key, 'Small', to_jsonb(i), topic => topic))
	   FROM generate_series(first, last) i $$;
SQL
	return;
}

# A topic that takes messages of 100 kB.
sub limited_topic
{
	my ($name, $partitions) = @_;
	return make_topic(
		topic_name($name), $partitions || 1,
		dir => $kafka,
		'max.message.bytes' => 100_000);
}

# Payloads of a topic, or of one key there, in their order; "big" for large
# ones.
sub sequence
{
	my ($topic, $key, @options) = @_;
	my @sequence;
	foreach my $line (consume_lines($topic, '%k %S %s', $bootstrap, @options))
	{
		my ($k, $size, $payload) = split / /, $line, 3;
		next if !defined $payload || (defined $key && $k ne $key);
		push @sequence, $size > 1000 ? 'big' : $payload;
	}
	return @sequence;
}

# Waits until a topic or a key has so many messages; returns what it has.
sub wait_for_sequence
{
	my ($count, @which) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	my @sequence;
	do { @sequence = sequence(@which) } while (@sequence < $count && time < $deadline);
	return @sequence;
}

# Waits until a query gives true.
sub wait_until
{
	my ($query) = @_;
	$node->poll_query_until('postgres', $query) or die "not true: $query\n";
	return;
}

1;
