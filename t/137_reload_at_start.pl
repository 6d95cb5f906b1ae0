# The configuration is reloaded while processes start: all of them go by it,
# though the server lets a background worker miss the signal just after its start.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my @databases = map { "d$_" } 1 .. 10;
my $rounds = 12;
my $node = new_server('reload', "max_worker_processes = 30\nmax_replication_slots = 20\nlog_statement = none\n");
foreach my $database (@databases)
{
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, 'CREATE EXTENSION outbox');
	create_server($node, $database);
}
wait_for_state($node, $_, 'streaming') foreach @databases;

foreach my $round (1 .. $rounds)
{
	my ($capture, $state) = $round % 2 ? ('poll', 'polling') : ('log', 'streaming');
	$node->append_conf('postgresql.conf', "outbox.capture = $capture\n");
	$node->safe_psql('postgres',
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'outbox relay'; SELECT pg_sleep(random() * 0.1); SELECT pg_reload_conf()");
	my @others = grep {
		!$node->poll_query_until($_, "SELECT state = '$state' FROM outbox.stat_relay")
	} @databases;
	is("@others", '', "all relays go by outbox.capture = $capture ($round)");
	last if @others;
}

$node->stop;
done_testing();
