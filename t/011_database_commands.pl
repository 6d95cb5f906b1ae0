# Commands that need a database for themselves just work: its relay leaves
# before and is back afterwards.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxTest;

# A command that waits for the relay in vain shall fail, not hang.
$ENV{PGOPTIONS} = '-c statement_timeout=60s';

# PostgreSQL itself fails when others do not leave a database in 5 seconds.
my $patience = 20;

my $node = new_server('commands');
my $tablespace = PostgreSQL::Test::Utils::tempdir('tablespace');
$node->safe_psql('postgres',
	"CREATE TABLESPACE elsewhere LOCATION '$tablespace'");

# Runs a command that must succeed, and soon.
sub succeeds
{
	my ($command, $name, $db) = @_;
	my ($result, $stderr);
	my $seconds = seconds_of(
		sub {
			($result, undef, $stderr) =
			  $node->psql($db || 'postgres', $command);
		});
	is($result, 0, $name) or diag $stderr;
	cmp_ok($seconds, '<', $patience, "$name: within $patience s");
	return;
}

sub fails
{
	my ($command, $pattern, $name, @options) = @_;
	my ($result, $stdout, $stderr) =
	  $node->psql('postgres', $command, @options);
	like($stderr, $pattern, $name);
	return;
}

sub slots
{
	my ($oid) = @_;
	return $node->safe_psql('postgres',
		"SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'outbox_$oid'"
	);
}

sub oid_of
{
	my ($db) = @_;
	return $node->safe_psql('postgres',
		"SELECT oid FROM pg_database WHERE datname = '$db'");
}

# Waits until a relay is in the database again, doing what it did.
sub comes_back
{
	my ($db, $state, $name) = @_;
	wait_for_state($node, $db, $state);
	pass($name);
	return;
}

# ---------------------------------------------------------------------------
# Every command, in every state that a relay can be in for long

# A database whose relay streams to a Kafka that is there.
sub prepare_streaming
{
	my ($db, $topic) = @_;
	create_extension($node, $db);
	publish_key($node, $db, $topic, 'before');
	$node->poll_query_until($db,
		"SELECT bool_and(status = 'published') FROM outbox.events")
	  or die 'the event is not published';
	return;
}

# One whose relay holds an event, inside of a decoding callback.
sub prepare_waiting
{
	my ($db, $topic) = @_;
	create_extension($node, $db);
	set_bootstrap($node, $db, closed_port());
	publish_key($node, $db, $topic, 'before');
	$node->poll_query_until($db,
		'SELECT lag_seconds > 0 FROM outbox.stat_relay')
	  or die 'relay does not wait with the event';
	wait_for_state($node, $db, 'waiting for kafka');
	return;
}

# One whose relay is in the middle of a catch-up when Kafka stops to answer.
my $halted = own_kafka('halted');

sub prepare_catching_up
{
	my ($db, $topic) = @_;
	$node->safe_psql($db, 'CREATE EXTENSION outbox');
	publish_key($node, $db, $topic, 'before');
	begin_catchup($node, $db, $topic, kafka_bootstrap($halted));
	halt_catchup($node, $db, $halted);
	return;
}

# One whose relay polls the table.
sub prepare_polling
{
	my ($db, $topic) = @_;
	$node->append_conf('postgresql.conf', "outbox.capture = poll\n");
	$node->reload;
	$node->safe_psql($db, 'CREATE EXTENSION outbox');
	create_server($node, $db);
	wait_for_state($node, $db, 'polling');
	publish_key($node, $db, $topic, 'before');
	wait_for_events($topic, 1);
	return;
}

# How to get there, the state it is, and the one when Kafka is there.
my %situations = (
	'streaming' => [ \&prepare_streaming, 'streaming', 'streaming' ],
	'waiting with an event' =>
	  [ \&prepare_waiting, 'waiting for kafka', 'streaming' ],
	'catching up' =>
	  [ \&prepare_catching_up, 'waiting for kafka', 'streaming' ],
	'polling' => [ \&prepare_polling, 'polling', 'polling' ]);

foreach my $situation (sort keys %situations)
{
	my ($prepare, $state, $later) = @{ $situations{$situation} };
	my $topic = topic_name('commands');

	$node->safe_psql('postgres', 'CREATE DATABASE db');
	$prepare->('db', $topic);

	# It goes on with a catch-up, until it is halted again.
	my $again = sub {
		halt_catchup($node, 'renamed', $halted) if $situation eq 'catching up';
	};

	succeeds('ALTER DATABASE db RENAME TO renamed',
		"$situation: ALTER DATABASE RENAME");
	comes_back('renamed', $state, "$situation: the relay is back after RENAME");
	$again->();

	succeeds(
		'ALTER DATABASE renamed SET TABLESPACE elsewhere',
		"$situation: ALTER DATABASE SET TABLESPACE");
	comes_back('renamed', $state,
		"$situation: the relay is back after SET TABLESPACE");
	$again->();

	succeeds('CREATE DATABASE copy TEMPLATE renamed',
		"$situation: CREATE DATABASE TEMPLATE");
	comes_back('renamed', $state,
		"$situation: the relay is back after TEMPLATE");
	$again->();
	comes_back('copy', '(?!stopped).*',
		"$situation: the copy has a relay of its own");
	succeeds('DROP DATABASE copy', "$situation: DROP DATABASE of the copy");

	publish_key($node, 'renamed', $topic, 'after');
	if ($situation eq 'catching up')
	{
		end_catchup($node, 'renamed', kafka_bootstrap());
	}
	elsif ($state ne $later)
	{
		set_bootstrap($node, 'renamed', kafka_bootstrap());
	}
	wait_for_events($topic, $situation eq 'catching up' ? 1 : 2);
	wait_for_state($node, 'renamed', $later);
	$node->poll_query_until('renamed',
		"SELECT bool_and(status = 'published') FROM outbox.events")
	  or die 'events are not published';
	# What came first is on the Kafka that was halted.
	my @messages = consume($topic);
	if ($situation eq 'catching up')
	{
		signal_kafka('CONT', $halted);
		unshift @messages, (consume($topic, kafka_bootstrap($halted)))[0];
	}
	is(keys_in(@messages), 'before after',
		"$situation: events from before and after arrive once");

	my $oid = oid_of('renamed');
	is(slots($oid), $later eq 'polling' ? 0 : 1,
		"$situation: the database has a slot unless its relay polls");
	set_bootstrap($node, 'renamed', closed_port()) if $state ne $later;
	publish_key($node, 'renamed', $topic, 'last');
	succeeds('DROP DATABASE renamed WITH (FORCE)',
		"$situation: DROP DATABASE WITH (FORCE)");
	is(slots($oid), 0, "$situation: its slot went with it");
	$node->append_conf('postgresql.conf', "outbox.capture = auto\n");
	$node->reload;
}

# ---------------------------------------------------------------------------
# Commands that fail, or are rolled back

$node->safe_psql('postgres', 'CREATE DATABASE db');
create_extension($node, 'db');
my $topic = topic_name('failing');

fails(
	"BEGIN;\nDROP DATABASE db;\n",
	qr/DROP DATABASE cannot run inside a transaction block/,
	'DROP DATABASE fails in a transaction block');
comes_back('db', 'streaming', 'the relay is back');

fails(
	'ALTER DATABASE db RENAME TO postgres',
	qr/database "postgres" already exists/,
	'RENAME to a name that exists fails');
comes_back('db', 'streaming', 'the relay is back');

fails(
	'ALTER DATABASE db SET TABLESPACE nowhere',
	qr/tablespace "nowhere" does not exist/,
	'SET TABLESPACE to one that does not exist fails');
comes_back('db', 'streaming', 'the relay is back');

fails(
	'CREATE DATABASE postgres TEMPLATE db',
	qr/database "postgres" already exists/,
	'CREATE DATABASE with a name that exists fails');
comes_back('db', 'streaming', 'the relay is back');

my $session = $node->background_psql('db');
fails(
	'ALTER DATABASE db RENAME TO renamed',
	qr/database "db" is being accessed by other users/,
	'RENAME fails when others are connected');
$session->quit;
comes_back('db', 'streaming', 'the relay is back');

succeeds("BEGIN;\nALTER DATABASE db RENAME TO renamed;\nROLLBACK;\n",
	'RENAME can be rolled back');
comes_back('db', 'streaming', 'the relay is back');

succeeds(
	"BEGIN;\nALTER DATABASE db RENAME TO between;\nALTER DATABASE between RENAME TO renamed;\nCOMMIT;\n",
	'RENAME twice in a transaction');
comes_back('renamed', 'streaming', 'the relay is back');

succeeds(
	q{DO $$ BEGIN EXECUTE 'ALTER DATABASE renamed RENAME TO db'; END $$},
	'RENAME inside of DO');
comes_back('db', 'streaming', 'the relay is back');

succeeds(
	"BEGIN;\nALTER DATABASE db RENAME TO renamed;\nPREPARE TRANSACTION 'rename';\n",
	'RENAME in a prepared transaction');
succeeds("COMMIT PREPARED 'rename'", 'which commits');
comes_back('renamed', 'streaming', 'the relay is back');
succeeds('ALTER DATABASE renamed RENAME TO db', 'RENAME back');
comes_back('db', 'streaming', 'the relay is back');

publish_key($node, 'db', $topic, 'on');
is(keys_in(wait_for_events($topic, 1)), 'on',
	'after all of that events arrive');

# ---------------------------------------------------------------------------
# Who may not run a command disturbs nobody

$node->safe_psql('postgres', 'CREATE ROLE nobody; CREATE ROLE maker CREATEDB');
my $pid = relay_pid($node, 'db');
my $refused = qr/ERROR:  (must be owner of database|permission denied)/;
fails("SET ROLE nobody;\nDROP DATABASE db;\n",
	$refused, 'a stranger cannot drop the database');
fails("SET ROLE nobody;\nALTER DATABASE db RENAME TO mine;\n",
	$refused, 'nor rename it');
fails("SET ROLE nobody;\nALTER DATABASE db SET TABLESPACE elsewhere;\n",
	$refused, 'nor move it');
fails("SET ROLE nobody;\nCREATE DATABASE mine TEMPLATE db;\n",
	$refused, 'nor copy it');
fails("SET ROLE maker;\nCREATE DATABASE mine TEMPLATE db;\n",
	$refused, 'not even when it may create databases');
fails('DROP DATABASE nothing',
	qr/"nothing" does not exist/, 'a database that is not there');
is(relay_pid($node, 'db'), $pid, 'the relay runs on');

# ---------------------------------------------------------------------------
# A session that ends while it waits for the relay

kill 'STOP', $pid;
my $dropping = start_psql($node, 'postgres', 'DROP DATABASE db');
$node->poll_query_until('postgres',
	"SELECT count(*) = 1 FROM pg_stat_activity WHERE query ~ '^DROP DATABASE' AND state = 'active' AND wait_event_type = 'Extension'"
) or die 'DROP DATABASE does not wait for the relay';
is( $node->safe_psql('postgres',
		"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE query ~ '^DROP DATABASE'"
	),
	't',
	'a session that waits for the relay to leave can be terminated');
kill 'CONT', $pid;
$dropping->finish;
comes_back('db', 'streaming', 'and the relay is back');
publish_key($node, 'db', $topic, 'again');
wait_until_confirmed($node, 'db');
like(keys_in(consume($topic)), qr/^on.* again$/, 'and publishes');

kill 'STOP', $pid = relay_pid($node, 'db');
$dropping = start_psql($node, 'postgres', 'DROP DATABASE db');
$node->poll_query_until('postgres',
	"SELECT count(*) = 1 FROM pg_stat_activity WHERE query ~ '^DROP DATABASE' AND state = 'active' AND wait_event_type = 'Extension'"
) or die 'DROP DATABASE does not wait for the relay';
$node->safe_psql('postgres',
	"SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query ~ '^DROP DATABASE'"
);
$dropping->finish;
kill 'CONT', $pid;
comes_back('db', 'streaming', 'so it is when the command is cancelled');
publish_key($node, 'db', $topic, 'last');
wait_until_confirmed($node, 'db');
like(keys_in(consume($topic)), qr/^on.* again.* last$/, 'and publishes');

$node->stop;
done_testing();
