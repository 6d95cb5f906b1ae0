# What is read of the subscriptions before a change does not undo what was read
# after it; and for one relay one worker gives way, not several.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxInbox;
use OutboxTest;

my $node = new_server('lists', "outbox.max_consumers = 20\nmax_worker_processes = 20\n");
my $topic = make_topic(topic_name('Lists'), 8);

sub workers
{
	my ($name) = @_;
	return sql("SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM inbox.consumer_status() WHERE subscription = '$name' AND pid IS NOT NULL");
}

subscribe_in($node);
create_extension($node, 'postgres');
wait_for_state($node, 'postgres', 'streaming');
sql(<<SQL);
CREATE TABLE effect (value text);
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE sql AS
	\$\$ INSERT INTO effect VALUES (inbox.payload_text(m)) \$\$;
SQL

# A relay that begins reads the subscriptions, too.  It has a snapshot already
# when it waits for the lock, and stands still until others have gone on.
my $writer = $node->background_psql('postgres');
$writer->query_safe('BEGIN');
$writer->query_safe('LOCK TABLE inbox.subscription IN ACCESS EXCLUSIVE MODE');
my $relay = relay_pid($node, 'postgres');
sql("SELECT pg_terminate_backend($relay)");
my $waiting = "FROM pg_stat_activity a JOIN pg_locks l USING (pid) WHERE a.backend_type = 'outbox relay' AND NOT l.granted AND l.relation = 'inbox.subscription'::regclass";
$node->poll_query_until('postgres', "SELECT count(*) = 1 $waiting") or die "no relay waits for the lock\n";
$relay = sql("SELECT pid $waiting");
kill 'STOP', $relay or die "the relay has gone\n";
$writer->query_safe("SELECT inbox.subscribe('one', ARRAY['$topic'], 'handle')");
$writer->query_safe('COMMIT');
$writer->quit;
wait_for("SELECT state = 'running' FROM inbox.stat_subscription WHERE name = 'one'", 'a subscription begins to run');
my $worker = workers('one');
kill 'CONT', $relay;
wait_for_state($node, 'postgres', 'streaming');
is(relay_pid($node, 'postgres'), $relay, 'the relay that read before goes on');
produce($topic, "key\tvalue");
wait_for("SELECT count(*) = 1 FROM effect", 'the subscription handles a message');
is(workers('one'), $worker, 'by the worker that it had');
sql("SELECT inbox.unsubscribe('one')");
wait_for('SELECT count(*) = 0 FROM inbox.consumer_status()', 'it ends');

# All processes that are left are taken by workers, and three more databases get
# relays.  The launcher has looked at them before.
sql("CREATE DATABASE more$_") foreach 1 .. 3;
my $taken = sql("SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ '^(outbox relay|outbox launcher|logical replication launcher)'");
$node->append_conf('postgresql.conf', 'max_worker_processes = ' . ($taken + 6) . "\n");
$node->restart;
wait_for_state($node, 'postgres', 'streaming');
wait_for("SELECT count(*) = $taken FROM pg_stat_activity WHERE backend_type ~ '^(outbox|logical replication launcher)'", 'other databases have no relay');
sql("SELECT inbox.subscribe('many', ARRAY['$topic'], 'handle', workers => 8)");
foreach my $round (1 .. 3)
{
	my $n = 7 - $round;
	wait_for("SELECT count(pid) = $n FROM inbox.consumer_status() WHERE subscription = 'many'", "$n workers take what is left");
	my @before = split / /, workers('many');
	create_extension($node, "more$round");
	wait_for_state($node, "more$round", 'streaming');
	$n--;
	wait_for("SELECT count(pid) = $n FROM inbox.consumer_status() WHERE subscription = 'many'", 'a relay has got a slot');
	my %after = map { $_ => 1 } split / /, workers('many');
	is(scalar(grep { !$after{$_} } @before), 1, 'and one worker has given way');
}
$node->stop;

done_testing();
