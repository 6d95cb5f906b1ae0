# A copy of a database that takes over what the original had not published
# does so exactly once, whoever is killed meanwhile.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $pending = 40_000;
my $size = 20;    # events of a transaction

my $kafka = own_kafka('once_copy');
my $bootstrap = kafka_bootstrap($kafka);
my $topic = make_topic(topic_name('adopted'), 1, dir => $kafka);
my $node = new_server('once_copy', <<'CONF');
restart_after_crash = on
outbox.transaction_interval = '10ms'
CONF

# An original without Kafka settings, so that all of its events wait.
$node->safe_psql('postgres', 'CREATE DATABASE original');
$node->safe_psql('original', <<SQL);
CREATE EXTENSION outbox;
DO \$\$
BEGIN
	FOR n IN 1 .. $pending LOOP
		PERFORM outbox.publish('Order', (n / $size)::text, 'Counted', to_jsonb(n), topic => '$topic');
		IF n % $size = 0 THEN
			COMMIT;
		END IF;
	END LOOP;
END
\$\$;
SQL
$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE original');

# One event a request and one request at a time.
$node->safe_psql('copy',
	"CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS (\"bootstrap.servers\" '$bootstrap', delivery 'exactly_once', \"batch.num.messages\" '1', \"queue.buffering.max.messages\" '1')"
);
wait_for_state($node, 'copy', 'copied');
$node->safe_psql('copy', 'SELECT outbox.resume(true)');

# Checks the numbers of the events that a consumer of committed messages sees,
# so many at least; returns how many.
sub check_now
{
	my ($name, $count) = @_;
	my @numbers = committed_lines($count, $topic, '%s', $bootstrap);
	is_deeply(\@numbers, [ 1 .. @numbers ], "$name: in order, and once");
	is(@numbers % $size, 0, "$name: no transaction is seen in part");
	return scalar @numbers;
}

my $done = 0;
foreach my $round (1 .. 3)
{
	$done = wait_for_catchup_progress($node, 'copy', $done + 500);
	my $pid = relay_pid($node, 'copy');
	kill 'KILL', $pid;
	$node->poll_query_until('copy',
		"SELECT coalesce(pid, 0) NOT IN (0, $pid) FROM outbox.stat_relay")
	  or die "no relay after a crash\n";
	cmp_ok(check_now("relay killed, $round", $done),
		'>=', $done, 'all is there that was told of');
}
$done = wait_for_catchup_progress($node, 'copy', $done + 500);
$node->stop('immediate');
$node->start;
check_now('server stopped at once', $done);
cmp_ok(wait_for_catchup_progress($node, 'copy', $done), '<', $pending, 'it is still under way');

# At full speed to the end.
$node->safe_psql('copy',
	'ALTER SERVER kafka OPTIONS (DROP "batch.num.messages", DROP "queue.buffering.max.messages")'
);
my $pid = relay_pid($node, 'copy');
$node->safe_psql('copy', "SELECT pg_terminate_backend($pid, 10000)");
wait_for_state($node, 'copy', 'streaming');
is(check_now('in the end', $pending),
	$pending, 'in the end: all events are there');

# A crash after that finds nothing left to do.
$node->stop('immediate');
$node->start;
wait_for_state($node, 'copy', 'streaming');
is(check_now('afterwards', $pending),
	$pending, 'afterwards: no event comes again');

$node->stop;
done_testing();
