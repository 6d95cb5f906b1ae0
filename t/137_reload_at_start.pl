# The configuration is reloaded while processes start: all of them go by it,
# though the server lets a background worker miss the signal just after its start.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use List::Util qw(max);
use Test::More;
use Time::HiRes qw(sleep time);

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

# Changed Kafka settings make all relays start over, at the same time; at some time
# just then the configuration is reloaded.
my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
foreach my $round (1 .. $rounds)
{
	my ($capture, $state) = $round % 2 ? ('poll', 'polling') : ('log', 'streaming');
	my $add = $round == 1 ? 'ADD' : 'SET';
	my $time = time + 1.5;
	my @sessions = map {
		start_psql($node, $_,
			"DO \$\$ BEGIN PERFORM pg_sleep($time - extract(epoch FROM clock_timestamp())); ALTER SERVER kafka OPTIONS ($add \"linger.ms\" '$round'); END \$\$")
	} @databases;
	$node->append_conf('postgresql.conf', "outbox.capture = $capture\n");
	sleep(max(0, $time + rand(0.1) - time));
	kill 'HUP', $postmaster or die "cannot signal the postmaster: $!\n";
	$_->finish or die "cannot change the settings\n" foreach @sessions;
	my @others = grep {
		!$node->poll_query_until($_, "SELECT state = '$state' FROM outbox.stat_relay")
	} @databases;
	is("@others", '', "all relays go by outbox.capture = $capture ($round)");
	last if @others;
}

$node->stop;
done_testing();
