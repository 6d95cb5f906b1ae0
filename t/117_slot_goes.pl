# The replication slot goes with the extension: whoever drops it, in whatever
# way, and whether or not the server was started with the library.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxTest;

# A command that waits for the relay in vain shall fail, not hang.
$ENV{PGOPTIONS} = '-c statement_timeout=60s';

my $node = new_server('goes');
my $slots = 'SELECT count(*) FROM pg_replication_slots';

# The extension with its slot, owned by a superuser.  Another role may own the
# schema, or the owner be a superuser no more.
sub prepare
{
	my ($db, $other, $with_library) = @_;
	$node->safe_psql('postgres', 'ALTER ROLE admin SUPERUSER');
	# The schema outlives the extension where others own it.
	$node->safe_psql($db, 'DROP SCHEMA IF EXISTS outbox; SET ROLE admin; CREATE EXTENSION outbox');
	if ($with_library)
	{
		create_server($node, $db);
		wait_for_state($node, $db, 'streaming');
	}
	else
	{
		$node->safe_psql($db,
			"SELECT pg_create_logical_replication_slot('outbox_' || oid, 'outbox') FROM pg_database WHERE datname = current_database()"
		);
	}
	$node->safe_psql($db, $other ? 'ALTER SCHEMA outbox OWNER TO tenant' : 'ALTER ROLE admin NOSUPERUSER');
	return;
}

# Runs statements that drop the extension; the slot is gone when they return.
sub drops
{
	my ($db, $statements, $what) = @_;
	my ($result, $output, $errors) = $node->psql($db, $statements, on_error_stop => 1);
	is($result, 0, "$what can drop the extension") or diag $errors;
	is($node->safe_psql($db, "SELECT count(*) FROM pg_extension WHERE extname = 'outbox'"), 0, "$what does");
	is($node->safe_psql('postgres', $slots), 0, "$what: the slot is gone");
	return;
}

# Runs statements that do not drop it.
sub keeps
{
	my ($db, $statements, $error, $what) = @_;
	my $errors = '';
	$node->psql($db, $statements, stderr => \$errors);
	like($errors, $error, "$what: as it should be");
	is($node->safe_psql('postgres', $slots), 1, "$what: the slot stays");
	return;
}

$node->safe_psql('postgres', 'CREATE ROLE admin; CREATE ROLE tenant; CREATE ROLE stranger; CREATE DATABASE shop');

# ---------------------------------------------------------------------------
# With the library

prepare('shop', 0, 1);
keeps('shop', 'BEGIN; DROP OWNED BY admin CASCADE; ROLLBACK', qr/^$|NOTICE/, 'rolled back');
wait_for_state($node, 'shop', 'streaming');
drops('shop', 'DROP OWNED BY admin CASCADE', 'DROP OWNED');
prepare('shop', 1, 1);
drops('shop', 'SET ROLE tenant; DROP SCHEMA outbox CASCADE', 'the owner of the schema');

# Template databases have no relay.
prepare('shop', 0, 1);
$node->safe_psql('postgres', 'ALTER DATABASE shop IS_TEMPLATE true');
$node->poll_query_until('postgres', "SELECT pg_terminate_backend(active_pid) IS NOT NULL FROM pg_replication_slots WHERE active");
$node->poll_query_until('postgres', 'SELECT NOT active FROM pg_replication_slots')
  or die 'the relay does not leave';
wait_for_error($node, 'shop', 'stopped', 'this is a template database');
drops('shop', 'DROP EXTENSION outbox CASCADE', 'a template database');
$node->safe_psql('postgres', 'ALTER DATABASE shop IS_TEMPLATE false');

# ---------------------------------------------------------------------------
# Without it

$node->append_conf('postgresql.conf', 'shared_preload_libraries = \'\'');
$node->restart;

prepare('shop');
keeps('shop', 'SET ROLE stranger; DROP EXTENSION outbox CASCADE', qr/must be owner of extension outbox/, 'a stranger');
keeps('shop', 'BEGIN; DROP OWNED BY admin CASCADE; ROLLBACK', qr/^$|NOTICE/, 'rolled back');
keeps('shop', 'CREATE SCHEMA outboxes; DROP SCHEMA outboxes', qr/^$/, 'another schema');
drops('shop', 'DROP OWNED BY admin CASCADE', 'DROP OWNED by a superuser');

foreach my $way (
	[ 'the owner who is no superuser', 'SET ROLE admin; DROP EXTENSION outbox CASCADE' ],
	[ 'DROP OWNED of himself',         'SET ROLE admin; DROP OWNED BY admin CASCADE' ],
	[ 'with the library loaded',       "LOAD 'outbox'; SET ROLE admin; DROP EXTENSION outbox CASCADE" ],
	[ 'the owner of the schema',       'SET ROLE tenant; DROP SCHEMA outbox CASCADE' ],
	[ 'DROP OWNED of the schema',      'SET ROLE tenant; DROP OWNED BY tenant CASCADE' ],
	[ 'a command in disguise',         q{DO $$ BEGIN EXECUTE 'DROP EXTENSION out' || 'box CASCADE'; END $$} ],
	[ 'by what it is made of',         'DROP EXTENSION plpgsql CASCADE; CREATE EXTENSION plpgsql' ],
	[ 'PREPARE TRANSACTION',           q{BEGIN; DROP EXTENSION outbox; PREPARE TRANSACTION 'drop'; COMMIT PREPARED 'drop'} ])
{
	my ($what, $statements) = @$way;
	prepare('shop', scalar $statements =~ /tenant/);
	drops('shop', $statements, $what);
}

# Somebody reads from it
prepare('shop');
my $slot = $node->safe_psql('postgres', 'SELECT slot_name FROM pg_replication_slots');
my ($output, $errors) = ('', '');
my $reader = IPC::Run::start(
	[
		$node->installed_command('pg_recvlogical'), '-d', $node->connstr('shop'), '--slot', $slot, '--start',
		'--no-loop', '-f', '-'
	],
	'<', \undef, '>', \$output, '2>', \$errors);
$node->poll_query_until('postgres', 'SELECT active FROM pg_replication_slots')
  or die "nobody reads: $errors";
keeps('shop', 'DROP EXTENSION outbox CASCADE', qr/replication slot "$slot" is active for PID/, 'a slot in use');
is($node->safe_psql('shop', "SELECT count(*) FROM pg_extension WHERE extname = 'outbox'"), 1, 'and so does the extension');
$reader->kill_kill;
$node->poll_query_until('postgres', 'SELECT NOT active FROM pg_replication_slots')
  or die 'the reader does not leave';

# The library's file has gone
$node->safe_psql('shop', 'DROP EXTENSION outbox');
prepare('shop');
$slot = $node->safe_psql('postgres', 'SELECT slot_name FROM pg_replication_slots');
$node->safe_psql('shop', "UPDATE pg_proc SET probin = '\$libdir/none' WHERE proname = 'watch_extension'");
keeps('shop', 'SET ROLE admin; DROP EXTENSION outbox CASCADE',
	qr/WARNING:  replication slot "$slot" stays.*HINT:  .*pg_drop_replication_slot\('$slot'\)/s, 'without file and rights');
$node->safe_psql('postgres', "SELECT pg_drop_replication_slot('$slot')");
prepare('shop');
$node->safe_psql('postgres', 'ALTER ROLE admin SUPERUSER');
$node->safe_psql('shop', "UPDATE pg_proc SET probin = '\$libdir/none' WHERE proname = 'watch_extension'");
drops('shop', 'DROP EXTENSION outbox CASCADE', 'without file');

prepare('shop');
$node->safe_psql('postgres', 'ALTER DATABASE shop OWNER TO tenant');
$node->safe_psql('postgres', 'SET ROLE tenant; DROP DATABASE shop');
is($node->safe_psql('postgres', $slots), 0, 'DROP DATABASE takes it along');

$node->stop;
done_testing();
