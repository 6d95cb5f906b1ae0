# Exactly once: a consumer that reads what is committed sees each event once.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('once', 'restart_after_crash = on');
my $topic = make_topic(topic_name('once'));

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

sub publish
{
	my ($id) = @_;
	sql("SELECT outbox.publish('Order', '$id', 'OrderCreated', '{}', topic => '$topic')"
	);
	return;
}

# Keys of the events that a consumer of committed messages sees, so many at
# least.
sub committed_keys
{
	my ($count) = @_;
	return join ' ', committed_lines($count, $topic, '%k');
}

sql('CREATE EXTENSION outbox');
my ($status, $out, $err) = $node->psql('postgres',
	"CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS (\"bootstrap.servers\" 'localhost:1', delivery 'twice')"
);
like($err, qr/invalid value for option "delivery": "twice"/,
	'delivery has two values');
like($err, qr/HINT:  Valid values: at_least_once, exactly_once/,
	'and the hint names them');

create_server($node, 'postgres');
sql("ALTER SERVER kafka OPTIONS (ADD delivery 'exactly_once')");
$node->poll_query_until('postgres',
	"SELECT state = 'streaming' AND EXISTS (SELECT FROM outbox.exactly_once) FROM outbox.stat_relay"
) or die "deliveries do not become exact\n";
publish('first');
wait_until_confirmed($node, 'postgres');
is(committed_keys(1), 'first', 'an event is committed');
publish($_) foreach 1 .. 5;
wait_until_confirmed($node, 'postgres');
is(committed_keys(6), 'first 1 2 3 4 5', 'more events are committed in order');

my $system = sql('SELECT system_identifier FROM pg_control_system()');
my $oid = sql("SELECT oid FROM pg_database WHERE datname = 'postgres'");
my $progress = "outbox.progress.$system.$oid";
my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
my (@records, $hidden);
do
{
	@records = committed_lines(2, $progress, '%s');
	$hidden = sql(
		"SELECT count(*) FROM outbox.event WHERE NOT pg_visible_in_snapshot(xid, outbox.progress_snapshot('$records[-1]'))"
	);
} while ($hidden > 0 && time < $deadline);
cmp_ok(scalar @records, '>=', 2, 'the progress topic has records');
diag $records[-1];
is($hidden, 0, 'the last record shows all that is published');

$node->restart;
wait_for_state($node, 'postgres', 'streaming');
publish('restarted');
wait_until_confirmed($node, 'postgres');
is( committed_keys(7),
	'first 1 2 3 4 5 restarted',
	'after an orderly restart nothing comes twice');

$node->stop;
done_testing();
