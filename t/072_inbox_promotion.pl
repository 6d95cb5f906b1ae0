# A promoted standby beside its old primary, which lives on: both hold the
# subscription, under one name and one group, and both consume.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxServer;
use OutboxTest;

my $settings = "max_worker_processes = 16\n";
my $primary = new_server('old', $settings, allows_streaming => 1);
create_extension($primary, 'postgres');
my $topic = make_topic(topic_name('Orders'), 2);
my $sent = 0;

# Messages of ten keys, the next numbers; each sent twice.
sub send_messages
{
	my ($n) = @_;
	foreach my $i ($sent + 1 .. $sent + $n)
	{
		produce($topic, { headers => ["id=$i"] }, "k" . $i % 10 . "\t$i", "k" . $i % 10 . "\t$i") if $i % 20 == 0;
	}
	produce($topic, map { "k" . $_ % 10 . "\t$_" } grep { $_ % 20 } $sent + 1 .. $sent + $n);
	$sent += $n;
	return;
}

sub wait_for_all
{
	my ($node, $what) = @_;
	$node->poll_query_until('postgres', "SELECT count(DISTINCT value) = $sent FROM effect")
	  or diag($node->safe_psql('postgres', 'TABLE inbox.stat_subscription'));
	return is($node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT value) FROM effect'), "$sent|$sent", $what);
}

# One message in seven fails at first.  Positions that go back are noted.
$primary->safe_psql('postgres', <<SQL);
CREATE TABLE effect (id bigserial, key text, value integer, topic_partition integer, topic_offset bigint);
CREATE TABLE gone_back (LIKE inbox.position);
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	IF inbox.payload_text(m)::integer % 7 = 0 AND m.attempts = 0 THEN RAISE 'not yet'; END IF;
	INSERT INTO effect (key, value, topic_partition, topic_offset)
	VALUES (m.aggregate_id, inbox.payload_text(m)::integer, m.partition, m."offset");
END
\$\$;
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN INSERT INTO public.gone_back VALUES (OLD.*); RETURN NEW; END
\$\$;
CREATE TRIGGER goes_back BEFORE UPDATE ON inbox.position FOR EACH ROW
	WHEN (NEW.next_offset < OLD.next_offset OR NEW.fence < OLD.fence) EXECUTE FUNCTION note();
SELECT inbox.subscribe('orders', ARRAY['$topic'], 'handle', workers => 2, retry_backoff => '10 ms', batch_size => 10);
SQL
send_messages(100);
wait_for_all($primary, 'the primary consumes');

$primary->backup('base');
my $standby = OutboxServer->new('new');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
$primary->wait_for_catchup($standby, 'replay');
is($standby->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'outbox consumer'"),
	0, 'a standby does not consume');
is($standby->safe_psql('postgres', 'SELECT state, last_error FROM inbox.stat_subscription'),
	'stopped|this server is a standby, and consumes when it is promoted', 'and says so');
is($standby->safe_psql('postgres', 'SELECT count(*), (SELECT count(*) FROM inbox.my_failed_messages()) FROM inbox.my_subscriptions()'),
	$standby->safe_psql('postgres', q{SELECT count(*), 0 FROM inbox.stat_subscription}), 'a role sees its own there, too');

# The standby does not get what the primary does last.
$standby->stop;
send_messages(100);
wait_for_all($primary, 'the primary is ahead');
$standby->append_conf('postgresql.conf', "primary_conninfo = ''\n");
$standby->start;
$standby->promote;
send_messages(100);
wait_for_all($standby, 'the promoted standby goes on where it was');
wait_for_all($primary, 'so does the old primary');

# Both go on, whatever happens to them.
send_messages(50);
$primary->stop('immediate');
send_messages(50);
$primary->start;
$standby->stop('immediate');
send_messages(50);
$standby->start;
send_messages(50);
foreach my $node ($primary, $standby)
{
	my $name = $node->name;
	wait_for_all($node, "$name: each message had its effect once");
	is($node->safe_psql('postgres', 'SELECT count(*) FROM gone_back'), 0, "$name: no position has gone back");
	is( $node->safe_psql('postgres', <<'SQL'), 0, "$name: keys are in order");
SELECT count(*) FROM (
	SELECT topic_offset < lag(topic_offset) OVER (PARTITION BY key ORDER BY id) AS wrong FROM effect) e WHERE wrong
SQL
	ok( $node->poll_query_until('postgres', "SELECT state = 'running' AND lag = 0 AND failed = 0 FROM inbox.stat_subscription"),
		"$name: all is well");
	is( $node->safe_psql('postgres', 'SELECT processed, duplicates FROM inbox.stat_subscription'),
		join('|', $sent, $sent / 20), "$name: each has counted for itself");
}

# What a user does about it: one of them is told to rest, here one that was
# started without us so that it does nothing before.
$standby->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
$standby->restart;
$standby->safe_psql('postgres', "SELECT inbox.pause('orders')");
$standby->append_conf('postgresql.conf', "shared_preload_libraries = 'outbox'\n");
$standby->restart;
send_messages(20);
wait_for_all($primary, 'one goes on');
# The relay lists the subscriptions before it begins.
wait_for_state($standby, 'postgres', 'streaming');
is($standby->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'outbox consumer' AND application_name <> ''"),
	0, 'the other one has no worker');
is($standby->safe_psql('postgres', 'SELECT state FROM inbox.stat_subscription'), 'paused', 'the other one is paused');
$sent -= 20;
wait_for_all($standby, 'and has done nothing');

# Would a position that goes back have been noted?
$standby->safe_psql('postgres', "SELECT inbox.seek('orders', '$topic', 0, 0)");
is($standby->safe_psql('postgres', 'SELECT count(*) FROM gone_back'), 1, 'inbox.seek() is the one thing that moves a position back');

done_testing();
