# DROP EXTENSION, in whatever way, ends the relay and its slot; CREATE
# EXTENSION begins anew.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxTest;

# A command that waits for the relay in vain shall fail, not hang.
$ENV{PGOPTIONS} = '-c statement_timeout=60s';

# What the relay waits for lasts for ever.
my $patience = 20;

my $node = new_server('extension');

sub is_gone
{
	my ($name) = @_;
	ok( $node->poll_query_until(
			'postgres',
			"SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'outbox relay') = 0"
		),
		"$name: relay and slot go away");
	return;
}

# Creates the extension and publishes one event.
sub begin_anew
{
	my ($name) = @_;
	my $topic = topic_name('anew');
	create_extension($node, 'postgres');
	publish_key($node, 'postgres', $topic, 'event');
	is(keys_in(wait_for_events($topic, 1)),
		'event', "$name: CREATE EXTENSION publishes");
	return $topic;
}

begin_anew('first');
my %ways = (
	'DROP EXTENSION CASCADE' => 'DROP EXTENSION outbox CASCADE',
	'DROP EXTENSION' => 'DROP SERVER kafka; DROP EXTENSION outbox',
	'DROP SCHEMA CASCADE' => 'DROP SCHEMA outbox CASCADE',
	'DROP EXTENSION in DO' =>
	  q{DO $$ BEGIN DROP EXTENSION outbox CASCADE; END $$},
	'DROP and CREATE in one transaction' =>
	  'BEGIN; DROP EXTENSION outbox CASCADE; CREATE EXTENSION outbox; DROP EXTENSION outbox; COMMIT');

foreach my $way (sort keys %ways)
{
	$node->safe_psql('postgres', $ways{$way});
	is_gone($way);
	begin_anew($way);
}

# ---------------------------------------------------------------------------
# Rolled back

my $topic = topic_name('rollback');
publish_key($node, 'postgres', $topic, 'before');
wait_until_confirmed($node, 'postgres');
$node->safe_psql('postgres',
	"BEGIN;\nDROP EXTENSION outbox CASCADE;\nROLLBACK;\n");
wait_for_state($node, 'postgres', 'streaming');
publish_key($node, 'postgres', $topic, 'after');
wait_until_confirmed($node, 'postgres');
is(keys_in(consume($topic)),
	'before after',
	'a DROP EXTENSION that is rolled back leaves everything as it was');

my ($result, $stdout, $stderr) =
  $node->psql('postgres', 'DROP EXTENSION outbox');
like($stderr, qr/because other objects depend on it/,
	'DROP EXTENSION without CASCADE fails because of the server');
wait_for_state($node, 'postgres', 'streaming');
publish_key($node, 'postgres', $topic, 'then');
wait_until_confirmed($node, 'postgres');
is(keys_in(consume($topic)),
	'before after then', 'and leaves everything as it was');

$node->safe_psql('postgres', 'CREATE ROLE nobody');
my $pid = relay_pid($node, 'postgres');
($result, $stdout, $stderr) = $node->psql('postgres',
	"SET ROLE nobody;\nDROP EXTENSION outbox CASCADE;\n");
like(
	$stderr,
	qr/must be owner of extension outbox/,
	'a stranger cannot drop the extension');
($result, $stdout, $stderr) = $node->psql('postgres',
	"SET ROLE nobody;\nDROP SCHEMA outbox CASCADE;\n");
like($stderr, qr/must be owner of schema outbox/, 'nor its schema');
is(relay_pid($node, 'postgres'), $pid, 'and does not disturb the relay');

# ---------------------------------------------------------------------------
# While the relay is busy

set_bootstrap($node, 'postgres', closed_port());
publish_key($node, 'postgres', $topic, 'never');
wait_for_state($node, 'postgres', 'waiting for kafka');
cmp_ok(
	seconds_of(
		sub {
			$node->safe_psql('postgres', 'DROP EXTENSION outbox CASCADE');
		}),
	'<', $patience,
	'DROP EXTENSION does not wait for Kafka while the relay waits with an event'
);
is_gone('waiting for Kafka');

my $halted = own_kafka('halted');
$node->safe_psql('postgres', 'CREATE EXTENSION outbox');
begin_catchup($node, 'postgres', $topic, kafka_bootstrap($halted));
halt_catchup($node, 'postgres', $halted);
cmp_ok(
	seconds_of(
		sub {
			$node->safe_psql('postgres', 'DROP EXTENSION outbox CASCADE');
		}),
	'<', $patience,
	'DROP EXTENSION does not wait for Kafka while the relay catches up');
is_gone('catching up');

# The relay ends by itself, and has something to store in a table that the
# session that drops the extension has locked.
signal_kafka('CONT', $halted);
$node->append_conf('postgresql.conf', 'outbox.max_event_size = 2MB');
$node->reload;
$node->safe_psql('postgres', 'CREATE EXTENSION outbox');
create_server($node, 'postgres', kafka_bootstrap($halted));
publish_key($node, 'postgres', $topic, 'known');
wait_until_confirmed($node, 'postgres');
signal_kafka('STOP', $halted);
my $offset = -s $node->logfile;
$node->safe_psql('postgres', <<"SQL");
BEGIN;
SELECT outbox.publish_bytes('Big', 'k', 'Big', convert_to(repeat('x', 1500000), 'UTF8'), topic => '$topic');
SELECT count(outbox.publish('Small', 'k', 'Small', to_jsonb(repeat('x', 1000)), topic => '$topic'))
FROM generate_series(1, 50000);
COMMIT;
SQL
$node->wait_for_log(qr/became a dead letter/, $offset);
$pid = relay_pid($node, 'postgres');
my $owner = $node->background_psql('postgres');
$owner->query_safe('SET client_min_messages = warning; BEGIN; LOCK TABLE outbox.dead_letter');
$offset = -s $node->logfile;
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
$node->wait_for_log(qr/\[$pid\].*terminating background worker "outbox relay"/, $offset);
$owner->query_safe('DROP EXTENSION outbox CASCADE; COMMIT');
$owner->quit;
is_gone('ending by itself');

# A slot is being created, and waits for a transaction to end.
my $first = $node->background_psql('postgres');
$first->query_safe('BEGIN; SELECT pg_current_xact_id()');
$node->safe_psql('postgres', 'CREATE EXTENSION outbox');
publish_key($node, 'postgres', $topic, 'soon');
create_server($node, 'postgres');
$node->poll_query_until('postgres',
	'SELECT pinned_by IS NOT NULL FROM outbox.stat_relay')
  or die 'the relay does not wait';
my $session = $node->background_psql('postgres');
$session->query_safe('BEGIN; SELECT pg_current_xact_id()');
$first->quit;
$node->poll_query_until('postgres',
	'SELECT count(*) = 1 FROM pg_replication_slots')
  or die 'no slot is being created';
cmp_ok(
	seconds_of(
		sub {
			$node->safe_psql('postgres', 'DROP EXTENSION outbox CASCADE');
		}),
	'<', $patience,
	'DROP EXTENSION does not wait for transactions that a new slot waits for');
is_gone('creating the slot');
$session->quit;

$node->safe_psql('postgres', 'CREATE EXTENSION outbox');
wait_for_state($node, 'postgres', 'waiting for configuration');
$node->safe_psql('postgres', 'DROP EXTENSION outbox');
is_gone('waiting for configuration');

# No trace in the log of relays that lost their tables.
unlike(
	slurp_file($node->logfile),
	qr/outbox (relay|launcher) .*ERROR:/,
	'no relay ran into an error');

# ---------------------------------------------------------------------------
# In prepared transactions

$node->safe_psql('postgres',
	"BEGIN; CREATE EXTENSION outbox; PREPARE TRANSACTION 'extension'");
$node->safe_psql('postgres', "COMMIT PREPARED 'extension'");
wait_for_state($node, 'postgres', 'waiting for configuration');
pass('COMMIT PREPARED of CREATE EXTENSION brings a relay');

$node->safe_psql('postgres',
	"BEGIN; CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS (\"bootstrap.servers\" '@{[kafka_bootstrap()]}'); PREPARE TRANSACTION 'settings'"
);
$node->safe_psql('postgres', "COMMIT PREPARED 'settings'");
wait_for_state($node, 'postgres', 'streaming');
pass('COMMIT PREPARED of Kafka settings makes it go on');

$node->safe_psql('postgres',
	"BEGIN; DROP EXTENSION outbox CASCADE; PREPARE TRANSACTION 'drop'");
is($node->safe_psql('postgres', 'SELECT count(*) FROM pg_replication_slots'),
	1, 'a prepared DROP EXTENSION leaves the slot');
$node->safe_psql('postgres', "COMMIT PREPARED 'drop'");
is_gone('COMMIT PREPARED of DROP EXTENSION');

$node->stop;
done_testing();
