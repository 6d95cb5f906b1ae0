# Dead letters where deliveries are exact: a refused event costs its Kafka
# transaction, which is sent again without it, and nothing comes twice.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use lib 't';
use OutboxTest;

my @committed = ('-X', 'isolation.level=read_committed');
my $node = new_server('deadexact');
create_extension($node, 'postgres');
$node->safe_psql('postgres',
	"ALTER SERVER kafka OPTIONS (ADD delivery 'exactly_once')");

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

# A third more than so many bytes, on one line, that compression makes hardly
# smaller.
sub create_functions
{
	sql(<<'SQL');
CREATE FUNCTION noise(bytes int) RETURNS bytea LANGUAGE sql AS
	$$ SELECT convert_to(translate(encode(string_agg(sha512(i::text::bytea), ''), 'base64'), E'\n', ''), 'UTF8')
	   FROM generate_series(1, bytes / 64) i $$;
CREATE FUNCTION poison(topic text, key text DEFAULT 'k') RETURNS uuid LANGUAGE sql AS
	$$ SELECT outbox.publish_bytes('Big', key, 'Big', noise(150000), topic => topic) $$;
CREATE FUNCTION small(topic text, key text, first int, last int) RETURNS bigint LANGUAGE sql AS
	$$ SELECT count(outbox.publish('Small', key, 'Small', to_jsonb(i), topic => topic))
	   FROM generate_series(first, last) i $$;
SQL
	return;
}

# Payloads of a topic, or of one key there, in their order; "big" for large
# ones.
sub sequence
{
	my ($topic, $key, @options) = @_;
	my @sequence;
	foreach my $line (consume_lines($topic, '%k %S %s', undef, @options))
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

create_functions();

sub limited_topic
{
	my ($name) = @_;
	return make_topic(topic_name($name), 1, 'max.message.bytes' => 100_000);
}

# ---------------------------------------------------------------------------

my $topic = limited_topic('exact');
my $other = limited_topic('exactother');
sql("SELECT small('$topic', 'k', 1, 10)");
sql("SELECT small('$topic', 'k', 11, 20), poison('$topic'), small('$topic', 'k', 21, 30), small('$other', 'k', 1, 10), poison('$topic'), small('$topic', 'k', 31, 40)");
sql("SELECT small('$topic', 'k', 41, 50)");
wait_until_confirmed($node, 'postgres');
is(sql("SELECT count(*) FROM outbox.dead_letter WHERE topic = '$topic'"),
	2, 'refused events are dead letters');
is_deeply([ sequence($topic, 'k', @committed) ],
	[ 1 .. 50 ], 'the others are committed once, in order');
is_deeply([ sequence($other, 'k', @committed) ], [ 1 .. 10 ], 'in all topics');

kafka('alter-topic', $ENV{OUTBOX_TEST_KAFKA_DIR}, $topic, 'max.message.bytes=1000000');
is(sql("SELECT outbox.retry_all('$topic')"), 2, 'they can be sent again');
wait_until('SELECT NOT EXISTS (SELECT FROM outbox.dead_letter)');
is_deeply(
	[ wait_for_sequence(52, $topic, 'k', @committed) ],
	[ 1 .. 50, 'big', 'big' ],
	'and are committed then');

# A topic that holds.
$node->append_conf('postgresql.conf', "outbox.on_poison = hold\n");
$node->reload;
$topic = limited_topic('exacthold');
sql("SELECT small('$topic', 'k', 1, 10)");
sql("SELECT small('$topic', 'k', 11, 20), poison('$topic'), small('$topic', 'k', 21, 30), small('$topic', 'other', 1, 10)");
sql("SELECT small('$topic', 'k', 31, 40)");
wait_until_confirmed($node, 'postgres');
is_deeply([ sequence($topic, 'k', @committed) ],
	[ 1 .. 20 ], 'when keys are held, what came before is committed');
is_deeply([ sequence($topic, 'other', @committed) ], [ 1 .. 10 ], 'other keys go on');
is(sql('SELECT count(*) FROM outbox.held_event'), 20, 'and the rest waits');
$node->stop('immediate');
$node->start;
wait_for_state($node, 'postgres', 'streaming');
sql("SELECT small('$topic', 'k', 41, 50)");
wait_until_confirmed($node, 'postgres');
is(sql('SELECT count(*) FROM outbox.held_event'), 30, 'after a crash, too');
sql('SELECT outbox.discard(event_id) FROM outbox.dead_letter');
wait_until('SELECT NOT EXISTS (SELECT FROM outbox.held_event)');
is_deeply([ wait_for_sequence(50, $topic, 'k', @committed) ],
	[ 1 .. 50 ], 'until it may go on, in order, once');

$node->stop;
done_testing();
