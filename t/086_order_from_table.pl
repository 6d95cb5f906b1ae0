# The order of a key's events, as docs/guarantees.md promises it: from the log that of the
# commits; from the table that of publish() as far as transactions overlap, and
# else that of the commits, too.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('order', "outbox.poll_interval = '100ms'\n");
create_extension($node, 'postgres');
$node->safe_psql('postgres',
	'CREATE TABLE account (id integer PRIMARY KEY, changes integer NOT NULL DEFAULT 0); INSERT INTO account VALUES (1)'
);
my ($topic, %session);

# Has a session of that name execute a statement.
sub in_session
{
	my ($name, $statement) = @_;
	$session{$name} ||= $node->background_psql('postgres');
	$session{$name}->query_safe($statement);
	return;
}

sub publish_sql
{
	my ($value) = @_;
	return
	  "SELECT FROM outbox.publish('Order', 'key', 'OrderChanged', '\"$value\"', topic => '$topic');";
}

# Waits until the one that holds a session's lock is the reason why it waits.
sub wait_for_lock
{
	$node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
	) or die "nobody waits\n";
	return;
}

# Transactions of which the first begins to publish first and ends when two
# others have; it publishes once more before.
sub overlap
{
	in_session('first', 'BEGIN;' . publish_sql('1a'));
	in_session('second', publish_sql('2'));
	in_session('third', publish_sql('3'));
	in_session('first', publish_sql('1b') . 'COMMIT;');
	in_session('fourth', publish_sql('4'));
	return;
}

# Transactions of one event each, the second of which ends first.
sub cross
{
	in_session('first', 'BEGIN;' . publish_sql('early'));
	in_session('second', publish_sql('late'));
	in_session('first', 'COMMIT;');
	return;
}

# Transactions that lock what they publish about, as it is usual; the second
# begins before the first ends.
sub serialize
{
	my $change = 'UPDATE account SET changes = changes + 1 WHERE id = 1;';
	in_session('first', 'BEGIN;' . publish_sql('unlocked') . $change . publish_sql('x1'));
	my $waiting = start_psql($node, 'postgres',
		"BEGIN; $change" . publish_sql('y1') . publish_sql('y2') . 'COMMIT');
	wait_for_lock();
	in_session('first', publish_sql('x2') . 'COMMIT;');
	$waiting->finish or die "psql failed\n";
	in_session('first', $change . publish_sql('z'));
	return;
}

sub values_on_kafka
{
	my ($count) = @_;
	return join ' ', map { $_ =~ tr/"//dr }
	  committed_lines($count, $topic, '%s');
}

sub set_capture
{
	my ($capture) = @_;
	$node->append_conf('postgresql.conf', "outbox.capture = $capture\n");
	$node->reload;
	return;
}

# All of it in one topic, in one round where the table is read.
my $port = closed_port();

sub publish_while_away
{
	my ($name) = @_;
	$topic = make_topic(topic_name($name));
	set_bootstrap($node, 'postgres', $port);
	wait_for_state($node, 'postgres', 'waiting for kafka');
	overlap();
	cross();
	serialize();
	return;
}

# Up to here everything counts as published.
sub settle
{
	$node->poll_query_until('postgres',
		"SELECT NOT EXISTS (SELECT FROM outbox.events WHERE status <> 'published')"
	) or die "the watermark does not move\n";
	return;
}

my $locked = 'x1 x2 y1 y2 z';
my $log = "2 3 1a 1b 4 late early unlocked $locked";
my %table = (
	at_least_once => "1a 2 3 1b 4 early late unlocked $locked",
	exactly_once => "2 3 1a 1b 4 early late unlocked $locked");

foreach my $delivery ('at_least_once', 'exactly_once')
{
	my $expected = $table{$delivery};

	$node->safe_psql('postgres',
		"ALTER SERVER kafka OPTIONS (ADD delivery 'exactly_once')")
	  if $delivery eq 'exactly_once';
	wait_for_state($node, 'postgres', 'streaming');

	publish_while_away("log-$delivery");
	set_bootstrap($node, 'postgres', kafka_bootstrap());
	is(values_on_kafka(13), $log, "$delivery, from the log");
	settle();

	set_capture('poll');
	publish_while_away("poll-$delivery");
	set_bootstrap($node, 'postgres', kafka_bootstrap());
	is(values_on_kafka(13), $expected, "$delivery, polling");
	settle();

	# Between two looks at the table.
	$topic = make_topic(topic_name("looks-$delivery"));
	in_session('first', 'BEGIN;' . publish_sql('early'));
	in_session('second', publish_sql('late'));
	in_session('second', "SELECT outbox.wait_published('60 s')");
	in_session('first', 'COMMIT');
	is(values_on_kafka(2), 'late early',
		"$delivery, what one look finds comes before what the next one does");
	settle();

	publish_while_away("catch-up-$delivery");
	set_capture('log');
	set_bootstrap($node, 'postgres', kafka_bootstrap());
	is(values_on_kafka(13), $expected, "$delivery, catch-up");
	settle();
}

$_->quit foreach values %session;
$node->stop;
done_testing();
