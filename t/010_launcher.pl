# The launcher gives each database that holds the extension its relay, without
# being told which databases those are.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxTest;

# A database has its relay within a second, if anybody tells the launcher, which
# does not look by itself.
my $soon = 20;

my $node = new_server('launcher');

sub relays
{
	return $node->safe_psql('postgres',
		"SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_stat_activity WHERE backend_type = 'outbox relay'"
	);
}

# ---------------------------------------------------------------------------
# Finding databases

ok( $node->poll_query_until(
		'postgres',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'outbox launcher'"
	),
	'pg_stat_activity shows the launcher');

$node->safe_psql('postgres', 'CREATE EXTENSION outbox');
cmp_ok(
	seconds_of(sub { wait_for_state($node, 'postgres', '(?!stopped).*') }),
	'<', $soon, 'CREATE EXTENSION brings a relay at once');
create_server($node, 'postgres');
wait_for_state($node, 'postgres', 'streaming');
is(relays(), 'postgres', 'pg_stat_activity shows the relay, in its database');

$node->safe_psql('postgres', 'CREATE DATABASE second');
$node->safe_psql('second', 'CREATE EXTENSION outbox');
cmp_ok(
	seconds_of(sub { wait_for_state($node, 'second', '(?!stopped).*') }),
	'<', $soon, 'CREATE EXTENSION in a new database brings a relay at once');

my $other_kafka = own_kafka('second');
create_server($node, 'second', kafka_bootstrap($other_kafka));
wait_for_state($node, 'second', 'streaming');

my ($topic, $other_topic) = (topic_name('first'), topic_name('second'));
publish_key($node, 'postgres', $topic, 'a');
publish_key($node, 'second', $other_topic, 'b');
is(keys_in(wait_for_events($topic, 1)),
	'a', 'the first database publishes to its Kafka');
is( keys_in(wait_for_events($other_topic, 1, kafka_bootstrap($other_kafka))),
	'b',
	'the second database publishes to another');
is(keys_in(consume($other_topic)),
	'', 'what the second publishes is not in the Kafka of the first');

$node->safe_psql('postgres', 'CREATE DATABASE plain');
$node->restart;
cmp_ok(
	seconds_of(
		sub {
			wait_for_state($node, $_, 'streaming') foreach 'postgres', 'second';
		}),
	'<', $soon, 'after a restart every relay is back at once');
publish_key($node, 'postgres', $topic, 'c');
publish_key($node, 'second', $other_topic, 'd');
wait_until_confirmed($node, $_) foreach 'postgres', 'second';
like(keys_in(consume($topic)),
	qr/^a.* c$/, 'and the first database publishes again');
like(keys_in(consume($other_topic, kafka_bootstrap($other_kafka))),
	qr/^b.* d$/, 'so does the second');
ok( $node->poll_query_until(
		'postgres',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'outbox relay' AND datname = 'plain'"
	),
	'a database without the extension keeps no relay');
is(relays(), 'postgres second', 'each database with the extension has one');

# ---------------------------------------------------------------------------
# The launcher itself

$node->safe_psql('postgres',
	"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE backend_type = 'outbox launcher'"
);
my $pid = relay_pid($node, 'postgres');
$node->safe_psql('plain', 'CREATE EXTENSION outbox');
wait_for_state($node, 'plain', '(?!stopped).*');
is(relays(), 'plain postgres second',
	'a launcher that was terminated comes back and finds what it missed');
is(relay_pid($node, 'postgres'),
	$pid, 'and leaves the relays that run alone');

$node->safe_psql('postgres', "ALTER DATABASE plain ALLOW_CONNECTIONS false");
$node->restart;
wait_for_state($node, 'postgres', 'streaming');
unlike(relays(),
	qr/plain/, 'a database that takes no connections has no relay');
$node->safe_psql('postgres', "ALTER DATABASE plain ALLOW_CONNECTIONS true");
cmp_ok(
	seconds_of(sub { wait_for_state($node, 'plain', '(?!stopped).*') }),
	'<', $soon, 'it gets one when it takes connections again');

# What an interrupted DROP DATABASE leaves behind.
$node->safe_psql('postgres',
	"UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'plain'");
my $offset = -s $node->logfile;
$node->restart;
wait_for_state($node, $_, 'streaming') foreach 'postgres', 'second';
unlike(
	slurp_file($node->logfile, $offset),
	qr/FATAL:.*plain/,
	'an invalid database is left alone');
$node->safe_psql('postgres', 'DROP DATABASE plain');
$node->stop;

# ---------------------------------------------------------------------------
# Limits

$node = new_server('few', "outbox.max_databases = 3\n");
$node->safe_psql('postgres', "CREATE DATABASE db$_") foreach 1 .. 5;
$node->safe_psql('db5', 'CREATE EXTENSION outbox');
$offset = -s $node->logfile;
$node->restart;
wait_for_state($node, 'db5', '(?!stopped).*');
unlike(slurp_file($node->logfile, $offset),
	qr/WARNING:/,
	'databases without the extension take no room from those with it');

# One of them may not be forgotten yet when the next one comes.  A relay that is
# slow to leave is terminated.
$offset = -s $node->logfile;
foreach my $i (1 .. 4)
{
	$node->safe_psql('postgres', 'CREATE DATABASE brief');
	$node->safe_psql('brief', 'CREATE EXTENSION outbox');
	wait_for_state($node, 'brief', '(?!stopped).*');
	$node->safe_psql('postgres', 'DROP DATABASE brief');
}
unlike(
	slurp_file($node->logfile, $offset),
	qr/ERROR:|FATAL:(?!  terminating background worker)|WARNING:/,
	'databases that come and go use nothing up');

foreach my $db ('db3', 'db4')
{
	$node->safe_psql($db, 'CREATE EXTENSION outbox');
	wait_for_state($node, $db, '(?!stopped).*');
}
my ($result, $stdout, $stderr) =
  $node->psql('db2', 'CREATE EXTENSION outbox');
like(
	$stderr,
	qr/WARNING:  no room for a relay in this database\nHINT:  Raise outbox\.max_databases/,
	'CREATE EXTENSION warns when there is no room for a relay');
like(
	relay_status($node, 'db2', "state || ': ' || last_error"),
	qr/^stopped: .*outbox\.max_databases/,
	'and stat_relay says so');
$node->safe_psql('db3', 'DROP EXTENSION outbox');
wait_for_state($node, 'db2', '(?!stopped).*');
pass('it gets its relay when there is room');

$node->safe_psql('db1', 'CREATE EXTENSION outbox');
$node->stop;
$offset = -s $node->logfile;
$node->start;
wait_for_log($node, qr/WARNING:  not every database can have a relay/,
	$offset);
is( () = slurp_file($node->logfile, $offset) =~
	  /WARNING:  not every database can have a relay/g,
	1, 'a server with more databases than there is room for says so once');
$node->stop;

done_testing();
