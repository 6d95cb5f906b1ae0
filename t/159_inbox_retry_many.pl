# Many keys wait: what it costs to try one again does not depend on their number,
# and messages of a key stay in order.

use strict;
use warnings;

use OutboxInbox;
use OutboxTest;
use Test::More;

# Nobody tells the planner about them.
my $node = new_server('inbox_retry_many', "autovacuum = off\n");
subscribe_in($node);
create_extension($node, 'postgres');
sql('CREATE TABLE broken (); CREATE TABLE effect (id bigserial, name text, key text, value integer)');
sql(<<'SQL');
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF to_regclass('broken') IS NOT NULL THEN
		RAISE 'it is broken';
	END IF;
	INSERT INTO effect (name, key, value)
	VALUES (m.subscription, encode(m.key, 'escape'), inbox.payload_text(m)::integer);
END $$;
SQL

# Each key has several messages, far apart, and one has many; some have no key,
# and one is longer than what an index takes.
my ($keys, $each) = (1000, 3);
my @messages = map { my $i = $_; map { "$_\t$i" } 1 .. $keys } 1 .. $each;
push @messages, map { "many\t$_" } 1 .. 250;
push @messages, map { ('k' x 10_000) . "\t$_" } 1 .. 5;
push @messages, map { "\t$_" } 1 .. 5;

# How many entries of indexes were read for rows that wait.
sub entries_read
{
	return sql("SELECT sum(idx_tup_read) FROM pg_stat_all_indexes WHERE relname ~ '^message_[0-3]\$'");
}

foreach my $ordering ('key', 'partition', 'none')
{
	my $topic = make_topic(topic_name("Retry-$ordering"), 1);
	my $n = @messages;

	sql('CREATE TABLE IF NOT EXISTS broken ()');
	sql("SELECT inbox.subscribe('$ordering', ARRAY['$topic'], 'handle', max_attempts => 100, retry_backoff => '1 h', ordering => '$ordering')");
	produce($topic, @messages);
	wait_for("SELECT count(*) = $n FROM inbox.message WHERE subscription = '$ordering' AND status = 'pending'",
		'all wait');
	my $before = entries_read();
	sql('DROP TABLE broken');
	sql("SELECT inbox.retry('$ordering')");
	# The view would look at all that waits.
	wait_for("SELECT count(*) >= $n FROM effect WHERE name = '$ordering'", 'all are handled');
	is(sql("SELECT count(*) FROM effect WHERE name = '$ordering'"), $n, 'once');
	is( sql("SELECT count(*) FROM (SELECT value, lag(value) OVER (PARTITION BY key ORDER BY id) AS before
		FROM effect WHERE name = '$ordering' AND key IS NOT NULL) e WHERE value <= before"),
		0, 'in order')
	  unless $ordering eq 'none';
	# Statistics come when the worker is idle, or ends.
	sql("SELECT inbox.unsubscribe('$ordering')");
	wait_for("SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'outbox consumer'", 'the worker ends');
	my $read = entries_read() - $before;
	note("$read entries of indexes were read for $n messages");
	cmp_ok($read, '<', 20 * $n, 'without a look at all that waits for each of them');
}

done_testing();
