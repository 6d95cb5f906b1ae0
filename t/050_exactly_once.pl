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

# Keys of the events that a consumer of committed messages sees.
sub committed_keys
{
	return join ' ', map { $_->{key} }
	  consume($topic, undef, '-X', 'isolation.level=read_committed');
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
wait_for_state($node, 'postgres', 'streaming');
publish('first');
wait_until_confirmed($node, 'postgres');
is(committed_keys(), 'first', 'an event is committed');
publish($_) foreach 1 .. 5;
wait_until_confirmed($node, 'postgres');
is(committed_keys(), 'first 1 2 3 4 5', 'more events are committed in order');

my $system = sql('SELECT system_identifier FROM pg_control_system()');
my $oid = sql("SELECT oid FROM pg_database WHERE datname = 'postgres'");
my $progress = "outbox.progress.$system.$oid";
my @records = consume($progress, undef, '-X', 'isolation.level=read_committed');
cmp_ok(scalar @records, '>=', 2, 'the progress topic has records');
diag $records[-1]{payload};
is( sql("SELECT count(*) FROM outbox.event WHERE NOT pg_visible_in_snapshot(xid, outbox.progress_snapshot('$records[-1]{payload}'))"
	),
	'0',
	'the last record shows all that is published');

$node->restart;
wait_for_state($node, 'postgres', 'streaming');
publish('restarted');
wait_until_confirmed($node, 'postgres');
is( committed_keys(),
	'first 1 2 3 4 5 restarted',
	'after an orderly restart nothing comes twice');

$node->stop;
done_testing();
