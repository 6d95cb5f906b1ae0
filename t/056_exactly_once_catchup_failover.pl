# A server is lost in the middle of an exact catch-up.  Who takes over goes on
# where Kafka is, though the standby knows of less: a consumer of committed
# messages sees each event once, in order, and never a part of a transaction.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $keys = 40;
my $transactions = 600;
my $size = 100;    # events of a transaction: as many of each of five keys

my $topic = make_topic(topic_name('taken-over'), 1);
my $bootstrap = kafka_bootstrap();
my $node = new_server('first', "outbox.transaction_interval = '10ms'\n",
	allows_streaming => 1);

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

sub wait_for
{
	my ($condition) = @_;
	$node->poll_query_until('postgres', "SELECT $condition")
	  or die "this does not come true: $condition\n";
	return;
}

# A standby of a server, with what is there now.
sub new_standby
{
	my ($name, $of) = @_;
	my $standby = OutboxServer->new($name);
	$of->backup($name) if $of == $node;
	$standby->init_from_backup($node, $of == $node ? $name : $of->name);
	$standby->enable_streaming($of);
	$standby->start;
	return $standby;
}

# From now on nothing is committed without its standby.
sub keep_in_step
{
	sql("ALTER SYSTEM SET synchronous_standby_names = '*'");
	$node->reload;
	wait_for("(SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync')");
	return;
}

sub let_go
{
	my ($server) = @_;
	$server->safe_psql('postgres', 'ALTER SYSTEM RESET synchronous_standby_names');
	$server->reload;
	return;
}

# What a consumer of committed messages sees, so many at least; checks that it
# is in order, without gaps and repetitions, and made of whole transactions.
sub check_now
{
	my ($name, $count) = @_;
	my (%last, %seen);
	my $disorder = 0;
	my @messages = map { [/^(\d+) "(\d+)\/(\d+)"$/] }
	  committed_lines($count, $topic, '%k %s', $bootstrap);
	foreach (@messages)
	{
		my ($key, $transaction, $number) = @$_;
		$seen{$transaction}++;
		$disorder++ if $number != ++$last{$key};
	}
	is($disorder, 0, "$name: each key in order, without gaps, and once");
	my @parts = grep { $seen{$_} != $size } keys %seen;
	is("@parts", '', "$name: no transaction is seen in part");
	return scalar @messages;
}

# Nothing is published as long as there is no foreign server.
sql('CREATE EXTENSION outbox');
create_counter($node, $topic);
sql(<<SQL);
INSERT INTO counter SELECT generate_series(0, $keys - 1);
DO \$\$
BEGIN
	FOR t IN 1 .. $transactions LOOP
		PERFORM publish_some(t, (t + k) % $keys, $size / 5) FROM generate_series(1, 5) k;
		COMMIT;
	END LOOP;
END
\$\$;
SQL
my $first = $node;
my $second = new_standby('second', $first);
my $third = new_standby('third', $second);
keep_in_step();

# One event a request and one request at a time.
sql(<<SQL);
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS (
	"bootstrap.servers" '$bootstrap', delivery 'exactly_once',
	"batch.num.messages" '1', "queue.buffering.max.messages" '50')
SQL

# ---------------------------------------------------------------------------
# The server is gone.

my $done = wait_for_catchup_progress($node, 'postgres', 1500, 5000);
$first->stop('immediate');
cmp_ok(check_now('stopped', $done), '>=', $done, 'all is there that was told of');
$second->promote;
$node = $second;
keep_in_step();

# ---------------------------------------------------------------------------
# It lives on, and is in the way.  What its relay writes for itself does not
# reach the standby any more, but each event that it sends has.

$done = wait_for_catchup_progress($node, 'postgres', $done + 1500, 5000);
$third->append_conf('postgresql.conf', "primary_conninfo = ''");
$third->reload;
wait_for('NOT EXISTS (SELECT FROM pg_stat_replication)');
let_go($second);
my $relay = relay_pid($second, 'postgres');
sql("SELECT pg_terminate_backend($relay)");
wait_for("(SELECT pid <> $relay FROM outbox.stat_relay)");
$done = wait_for_catchup_progress($node, 'postgres', $done + 500, 5000);
$third->promote;
$node = $third;
$done = wait_for_catchup_progress($node, 'postgres', $done + 1500, 5000);
wait_for_state($second, 'postgres', 'fenced');
check_now('fenced', $done);

# ---------------------------------------------------------------------------

my $offset = -s $third->logfile;
sql('ALTER SERVER kafka OPTIONS (DROP "batch.num.messages", DROP "queue.buffering.max.messages")');
wait_for_state($node, 'postgres', 'streaming');
like(
	slurp_file($third->logfile, $offset),
	qr/starts over with changed Kafka settings.*goes on with a catch-up/s,
	'settings that are changed on the way count at once');
my $all = $transactions * $size;
is(check_now('in the end', $all), $all, 'all events are there');
wait_for("NOT EXISTS (SELECT FROM outbox.events WHERE status <> 'published')");
pass('and count as published');

$second->stop('immediate');
$node->stop;
done_testing();
