# Consumers are there when they are wanted, leave when they must, and cost
# nothing while they are idle.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxTest;

my $node = new_server('inbox_workers', "max_worker_processes = 12\n");
my $topic = make_topic(topic_name('Workers'), 4);

# A database with a subscription, whose workers run.
sub make_database
{
	my ($name, $workers) = @_;
	$node->safe_psql('postgres', "CREATE DATABASE $name");
	create_extension($node, $name);
	$node->safe_psql($name, <<SQL);
CREATE TABLE effect (value text);
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE sql AS
	\$\$ INSERT INTO effect VALUES (inbox.payload_text(m)) \$\$;
SELECT inbox.subscribe('$name', ARRAY['$topic'], 'handle', workers => $workers);
SQL
	$node->poll_query_until($name, "SELECT state = 'running' FROM inbox.stat_subscription")
	  or die "no worker in $name\n";
	return;
}

sub consumers
{
	my ($name) = @_;
	return $node->safe_psql('postgres',
		"SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'outbox consumer' AND datname = '$name' AND application_name <> ''");
}

make_database('one', 2);
is(consumers('one'), 2, 'as many workers as wanted');
produce($topic, map { "k$_\t$_" } 1 .. 100);
ok($node->poll_query_until('one', 'SELECT count(*) = 100 FROM effect'), 'share the partitions');

# Time that the workers have used, in ticks of the clock.
sub ticks
{
	my $sum = 0;
	foreach my $pid (split /\n/, $node->safe_psql('one', 'SELECT pid FROM inbox.consumer_status()'))
	{
		my @fields = split / /, slurp_file("/proc/$pid/stat");
		$sum += $fields[13] + $fields[14];
	}
	return $sum;
}
my $before = ticks();
sleep 10;
my $used = ticks() - $before;
note("two idle workers used $used ticks in ten seconds");
cmp_ok($used, '<=', 20, 'idle workers use next to no processor time');

$node->safe_psql('postgres', 'ALTER DATABASE one RENAME TO uno');
ok($node->poll_query_until('uno', "SELECT state = 'running' FROM inbox.stat_subscription"),
	'ALTER DATABASE RENAME: workers leave and come back');
$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE uno');
ok($node->poll_query_until('uno', "SELECT state = 'running' FROM inbox.stat_subscription"),
	'CREATE DATABASE TEMPLATE: so too');
is($node->safe_psql('copy', 'SELECT state FROM inbox.stat_subscription'), 'paused', 'the copy rests');

$node->safe_psql('uno', 'BEGIN; DROP EXTENSION outbox CASCADE; ROLLBACK');
produce($topic, "k\tstill there");
ok($node->poll_query_until('uno', "SELECT count(*) = 1 FROM effect WHERE value = 'still there'"),
	'DROP EXTENSION that is rolled back ends nothing');

# More workers than the server may have processes.  To be obeyed must not take
# a process, which there is not.
my $taken = "SELECT count(*) = 12 FROM pg_stat_activity WHERE backend_type ~ 'outbox|logical replication launcher'";

# How many processes the subscriptions of a database have: name, number and so on.
sub wait_for_workers
{
	my ($expected, $what) = @_;
	return ok( $node->poll_query_until('many',
			"SELECT coalesce(string_agg(application_name || ' ' || n, ' ' ORDER BY application_name), '') ~ '^$expected\$' FROM (
				SELECT application_name, count(*) AS n FROM pg_stat_activity
				WHERE backend_type = 'outbox consumer' AND datname = 'many' GROUP BY application_name) s"),
		$what);
}

make_database('many', 4);
$node->safe_psql('many', "SELECT inbox.subscribe('more', ARRAY['$topic'], 'handle', workers => 4)");
ok( $node->poll_query_until('many',
		"SELECT bool_or(error ~ 'max_worker_processes') FROM inbox.consumer_status() WHERE subscription = 'more'"),
	'without a free process, the state says so');
is($node->safe_psql('many', "SELECT state FROM inbox.stat_subscription WHERE name = 'more'"),
	'stopped', 'and the subscription shows it');
ok($node->poll_query_until('many', $taken), 'all processes are taken');
$node->safe_psql('many', "SELECT inbox.pause('many')");
wait_for_workers('more 4', 'pause() is obeyed, and others have the processes');
$node->safe_psql('many', "SELECT inbox.resume('many')");
wait_for_workers('many [123] more 4', 'as far as there are processes, it is resumed');
ok($node->poll_query_until('many', $taken), 'all are taken again');
$node->safe_psql('many', "SELECT inbox.unsubscribe('many')");
wait_for_workers('more 4', 'unsubscribe() is obeyed');
ok($node->poll_query_until('many', "SELECT bool_and(subscription = 'more') FROM inbox.consumer_status()"), 'nothing is left of it');

$node->safe_psql('many', 'DROP EXTENSION outbox CASCADE');
ok($node->poll_query_until('postgres',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type ~ 'outbox' AND datname = 'many'"),
	'DROP EXTENSION ends the workers');
my $pids = $node->safe_psql('uno', "SELECT string_agg(pid::text, ',') FROM inbox.consumer_status()");
$node->safe_psql('postgres', 'DROP DATABASE uno');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE pid IN ($pids)"), 0, 'and so does DROP DATABASE');
unlike(slurp_file($node->logfile), qr/PANIC|signal 11|TRAP/, 'nothing has crashed');

done_testing();
