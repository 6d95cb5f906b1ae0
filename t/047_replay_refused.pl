# Events that are refused without asking a broker are no reason to start over,
# also in a replay or when dead letters are sent again; and no transaction is
# open in the database while Kafka is waited for.

use strict;
use warnings;

use lib 't';
use OutboxRefused;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = own_kafka('refused');
my $bootstrap = kafka_bootstrap($kafka);
my $node = new_server('refused', "outbox.transaction_interval = '1s'\n");
publish_from($node, $kafka);
sql('CREATE EXTENSION outbox');
create_functions();
create_server($node, 'postgres', $bootstrap);
wait_for_state($node, 'postgres', 'streaming');

my $topic = make_topic(topic_name('good'), 1, dir => $kafka);
my $big = make_topic(topic_name('big'), 1, dir => $kafka);
my $count = 1800;

sql("SELECT refused('$big'), small('$topic', 'k', 1, 700)");
sql("SELECT refused('$big'), small('$topic', 'k', 701, $count), refused('$big')");
wait_until("SELECT count(*) FILTER (WHERE status <> 'published') = 0 FROM outbox.events");

# How often each event is there; expects that of all.
sub check_copies
{
	my ($copies, $name) = @_;
	my %copies;
	$copies{$_}++
	  foreach committed_lines($count * $copies, $topic, '%s', $bootstrap);
	my %times = map { $_ => 1 } values %copies;
	is(join(' ', scalar keys %copies, sort keys %times), "$count $copies", $name);
	return;
}

# From now on the library itself refuses large messages.
sql('ALTER SERVER kafka OPTIONS (ADD "message.max.bytes" \'100000\', ADD delivery \'at_least_once\')');
my $copies = 1;
foreach my $capture ('poll', 'log')
{
	$node->append_conf('postgresql.conf', "outbox.capture = $capture\n");
	$node->reload;
	foreach my $delivery ('at_least_once', 'exactly_once')
	{
		my $mode = "$delivery, $capture";
		my $state = $capture eq 'poll' ? 'polling' : 'streaming';
		sql("ALTER SERVER kafka OPTIONS (SET delivery '$delivery')");
		wait_until("SELECT state = '$state' AND (EXISTS (SELECT FROM outbox.exactly_once)) = ('$delivery' = 'exactly_once') FROM outbox.stat_relay");
		my $pid = relay_pid($node, 'postgres');

		is(sql("SELECT outbox.replay('-infinity')"), $count + 3, "$mode: a replay of all");
		wait_until('SELECT bool_and(finished_at IS NOT NULL AND sent = total) FROM outbox.replay_job');
		check_copies(++$copies, 'sends each event once');
		wait_until('SELECT count(*) = 3 FROM outbox.dead_letter WHERE attempts = 1');
		sql('SELECT outbox.retry_all()');
		wait_until("SELECT count(*) = 3 FROM outbox.dead_letter WHERE state = 'failed' AND attempts = 2");
		is(relay_pid($node, 'postgres'), $pid, 'those that are refused end nothing');
		sql('SELECT outbox.discard(event_id) FROM outbox.dead_letter');
		sql('TRUNCATE outbox.replay_job');
	}
}
unlike(slurp_file($node->logfile), qr/ERROR: /, 'there was no error');

# ---------------------------------------------------------------------------

# Kafka is away for a while.
sub check_transaction
{
	my ($name) = @_;
	wait_for_state($node, 'postgres', 'waiting for kafka');
	is(sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'outbox relay' AND (xact_start IS NOT NULL OR backend_xmin IS NOT NULL)"),
		0, $name);
	signal_kafka('CONT', $kafka);
	wait_for_state($node, 'postgres', 'streaming');
	return;
}

signal_kafka('STOP', $kafka);
sql("SELECT outbox.replay('-infinity')");
check_transaction('no transaction is open while a replay waits for Kafka');
wait_until('SELECT bool_and(finished_at IS NOT NULL) FROM outbox.replay_job');
check_copies(++$copies, 'which sends each event once');
change_settings('ALTER SERVER kafka OPTIONS (SET "message.max.bytes" \'1000000\')');
signal_kafka('STOP', $kafka);
sql('SELECT outbox.retry_all()');
check_transaction('nor while dead letters do');
wait_until('SELECT NOT EXISTS (SELECT FROM outbox.dead_letter)');
is(scalar committed_lines(6, $big, '%S', $bootstrap), 6, 'which are sent once');

$node->stop;
done_testing();
