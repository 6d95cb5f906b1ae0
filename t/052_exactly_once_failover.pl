# Exactly once with two servers: who was replaced stops, an orderly failover
# repeats nothing, and one that lost commits loses no event.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $topic = make_topic(topic_name('failover'));

my $primary = new_server('primary', '', allows_streaming => 1);
$primary->safe_psql('postgres', 'CREATE EXTENSION outbox');
my $bootstrap = kafka_bootstrap();
$primary->safe_psql('postgres',
	"CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS (\"bootstrap.servers\" '$bootstrap', delivery 'exactly_once')"
);
wait_for_state($primary, 'postgres', 'streaming');

sub publish
{
	my ($node, $id) = @_;
	$node->safe_psql('postgres',
		"SELECT outbox.publish('Order', '$id', 'OrderCreated', '{}', topic => '$topic')"
	);
	return;
}

sub committed_keys
{
	return map { $_->{key} }
	  consume($topic, undef, '-X', 'isolation.level=read_committed');
}

# Waits until a consumer of committed messages has seen an event; returns all.
sub wait_for_key
{
	my ($key) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	while (time < $deadline)
	{
		my @keys = committed_keys();
		return join ' ', @keys if grep { $_ eq $key } @keys;
	}
	die "$key did not come\n";
}

sub new_standby
{
	my ($name, $of) = @_;
	$of->backup("base_$name");
	my $standby = OutboxServer->new($name);
	$standby->init_from_backup($of, "base_$name", has_streaming => 1);
	$standby->start;
	return $standby;
}

# ---------------------------------------------------------------------------
# A standby is promoted while the primary lives on.

publish($primary, 'before');
wait_for_key('before');
my $standby = new_standby('standby', $primary);
publish($primary, 'replicated');
wait_for_key('replicated');
$primary->wait_for_catchup($standby, 'replay');
$standby->promote;
wait_for_state($standby, 'postgres', 'streaming');
publish($standby, 'promoted');
is(wait_for_key('promoted'),
	'before replicated promoted',
	'a promoted standby goes on exactly where the primary was');

publish($primary, 'late');
wait_for_state($primary, 'postgres', 'fenced');
like(
	relay_status($primary, 'postgres', 'last_error'),
	qr/another relay publishes.*ALTER SERVER/,
	'the old primary is fenced and says what to do');
publish($standby, 'later');
is(wait_for_key('later'), 'before replicated promoted later',
	'nothing of the old primary is published');

# It does not fight back: not when its relay starts over, nor when the server
# does.
my $pid = relay_pid($primary, 'postgres');
$primary->safe_psql('postgres', "SELECT pg_terminate_backend($pid, 10000)");
$primary->poll_query_until('postgres',
	"SELECT state = 'fenced' AND pid <> $pid FROM outbox.stat_relay")
  or die "the relay is not fenced any more\n";
pass('a relay that starts over stays fenced');
$primary->restart;
wait_for_state($primary, 'postgres', 'fenced');
publish($standby, 'latest');
is(wait_for_key('latest'),
	'before replicated promoted later latest',
	'nor does it come back when its server starts again');
wait_for_state($standby, 'postgres', 'streaming');
pass('the new primary goes on');

# ---------------------------------------------------------------------------
# A failover that lost commits.

my $third = new_standby('third', $standby);
publish($standby, 'kept');
wait_for_key('kept');
$standby->wait_for_catchup($third, 'replay');
$third->stop;
publish($standby, 'lost');
wait_for_key('lost');
$standby->stop('immediate');
$third->start;
$third->promote;
wait_for_state($third, 'postgres', 'streaming');
publish($third, 'after');
my $keys = wait_for_key('after');
like($keys, qr/ lost .*after$/,
	'a new primary publishes what is new, though ids repeat');
my %count;
$count{$_}++ foreach split ' ', $keys;
cmp_ok($count{$_}, '==', 1, "$_ has not come again")
  foreach qw(before replicated promoted later);
like(
	slurp_file($third->logfile),
	qr/WARNING:  outbox relay goes on from its watermark: what Kafka has is ahead of this database/,
	'and warns that events may come twice');
publish($third, 'last');
wait_for_key('last');
$third->restart;
wait_for_state($third, 'postgres', 'streaming');
publish($third, 'restarted');
like(wait_for_key('restarted'), qr/ last restarted$/,
	'from then on it is exact again');

$primary->stop;
$third->stop;
done_testing();
