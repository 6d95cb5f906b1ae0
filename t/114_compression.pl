# Whether a topic refuses an event for its size depends on what compression
# makes of it.  Whatever the codec, exactly those are dead letters that Kafka
# refuses, though it is not asked about each.

use strict;
use warnings;

use lib 't';
use OutboxRefused;
use OutboxTest;
use Test::More;

use constant EVENTS => 300;

my $node = new_server('compression');
create_extension($node, 'postgres');
publish_from($node);
change_settings("ALTER SERVER kafka OPTIONS (ADD \"compression.codec\" 'none')");
create_functions();

# From 14 to 35 kB that hardly compress, and 100 kB that do in one of two.
sql(<<'SQL');
CREATE FUNCTION mixed(topic text, i int) RETURNS uuid LANGUAGE sql AS
	$$ SELECT outbox.publish_bytes('Mixed', (i % 7)::text, 'Mixed',
		convert_to(i || ' ' || CASE WHEN i % 2 = 0 THEN repeat('compressible ', 8000) ELSE '' END, 'UTF8')
		|| noise(10000 + i * 37 % 16000), topic => topic) $$;
SQL

# Numbers of the events in a topic, by key.
sub arrived
{
	my ($topic) = @_;
	my %events;
	foreach (consume_lines($topic, '%k %s'))
	{
		my ($key, $number) = split / /;
		push @{ $events{$key} }, $number;
	}
	return \%events;
}

foreach my $codec ('none', 'lz4', 'zstd', 'gzip', 'snappy')
{
	note($codec);
	my $topic = make_topic(topic_name($codec), 2, 'max.message.bytes' => 20000);
	change_settings("ALTER SERVER kafka OPTIONS (SET \"compression.codec\" '$codec')")
		if $codec ne 'none';
	sql("SELECT mixed('$topic', i) FROM generate_series(1, @{[EVENTS]}) i");
	wait_until_confirmed($node, 'postgres');
	my $letters = sql('SELECT count(*) FROM outbox.dead_letter');
	my $events = arrived($topic);
	my %seen;
	$seen{$_}++ foreach map { @$_ } values %$events;
	cmp_ok($letters, '>', EVENTS / 10, "$letters events are refused");
	is($letters + keys %seen, EVENTS, 'all others arrive');
	is_deeply([ map { [ first_occurrences(@{ $events->{$_} }) ] } 0 .. 6 ],
		[ map { [ sort { $a <=> $b } first_occurrences(@{ $events->{$_} }) ] } 0 .. 6 ],
		'those of a key in their order');

	# Who retries is asked: Kafka itself says that it takes none of them.
	sql("SELECT outbox.retry_all('$topic')");
	wait_until('SELECT count(*) = 0 FROM outbox.dead_letter WHERE attempts < 2');
	is(sql('SELECT count(*) FROM outbox.dead_letter'), $letters, 'Kafka refuses each of them');
	sql('SELECT outbox.discard(event_id) FROM outbox.dead_letter');
}

$node->stop;
done_testing();
