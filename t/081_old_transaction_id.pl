# What a relay leaves to the next one about a transaction does not count for
# another one that has the same 32-bit id, four thousand million later.  The
# server runs all the time: shared memory remembers.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use List::Util qw(min);
use Test::More;

my $topic = make_topic(topic_name('events'), 1, 'max.message.bytes' => 4000);
my $node = new_server('old_xid',
	"autovacuum = off\nmax_wal_size = '4GB'\nfsync = off\n");
create_extension($node, 'postgres');

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

# A function that sets the next transaction id.  The id has to be within two
# thousand million of the oldest that is in use, and the first one on a page
# of the commit log, or one that is on a page which is in use.
my $library = $node->basedir . '/set_xid';
my $source = <<'C';
#include "postgres.h"
#include "access/transam.h"
#include "fmgr.h"
#include "storage/lwlock.h"
#include "utils/fmgrprotos.h"
#include "utils/xid8.h"

#if PG_VERSION_NUM < 170000
#define TransamVariables ShmemVariableCache
#endif

PG_MODULE_MAGIC;
PG_FUNCTION_INFO_V1(set_xid);

Datum
set_xid(PG_FUNCTION_ARGS)
{
	LWLockAcquire(XidGenLock, LW_EXCLUSIVE);
	TransamVariables->nextXid = PG_GETARG_FULLTRANSACTIONID(0);
	LWLockRelease(XidGenLock);
	PG_RETURN_VOID();
}
C
append_to_file("$library.c", $source);
my $include = `pg_config --includedir-server`;
chomp $include;
system_or_bail('cc', '-shared', '-fPIC', "-I$include", '-o', "$library.so",
	"$library.c");
sql("CREATE FUNCTION set_xid(xid8) RETURNS void LANGUAGE C AS '$library'");
sql('UPDATE pg_database SET datallowconn = true');

# Lets the relay's slot forget old transactions, and freezes all rows.
sub freeze
{
	my $oldest = sql('SELECT pg_current_xact_id()::xid');
	sql('CHECKPOINT');
	until ($node->safe_psql('postgres',
			"SELECT bool_and(age(catalog_xmin) <= age('$oldest'::xid)) FROM pg_replication_slots"
		) eq 't')
	{
		sql('CHECKPOINT');
	}
	$node->command_ok(
		[
			'vacuumdb', '--all', '--freeze', '-j', 2, '-h', $node->host,
			'-p', $node->port
		],
		'all rows are frozen');
	return;
}

# A transaction of which the first five events are acknowledged when Kafka
# refuses the sixth.
my $xid = sql(<<SQL);
BEGIN;
SELECT FROM (SELECT outbox.publish('Order', 'old ' || i, 'A', '{}', topic => '$topic') FROM generate_series(1, 5) i) e;
SELECT FROM outbox.publish('Order', 'large', 'A', to_jsonb((SELECT string_agg(md5(i::text), '') FROM generate_series(1, 200) i)), topic => '$topic');
SELECT pg_current_xact_id();
COMMIT;
SQL
$xid =~ s/\s//g;
$node->poll_query_until('postgres',
	'SELECT count(*) = 1 FROM outbox.dead_letter')
  or die "there is no dead letter\n";
wait_until_confirmed($node, 'postgres');
is(keys_in(consume($topic)), join(' ', map { "old $_" } 1 .. 5),
	'the relay went on in the middle of a transaction');

# One relay after the other goes on from there.
foreach (1 .. 2)
{
	my $pid = relay_pid($node, 'postgres');
	sql("SELECT pg_terminate_backend($pid)");
	$node->poll_query_until('postgres',
		"SELECT pid <> $pid AND state = 'streaming' FROM outbox.stat_relay")
	  or die "no relay takes over\n";
}

# Up to the transaction that has the same 32 bits.
my $target = $xid + 2**32;
my $next = $xid;
until ($next > $target - 2**15)
{
	$next = min($next + 2_000_000_000, $target);
	$next -= $next % 2**15;
	freeze();
	sql("SELECT set_xid('$next'); SELECT pg_current_xact_id()");
}
is( sql("SELECT set_xid('$target'); SELECT FROM (SELECT outbox.publish('Order', 'new ' || i, 'A', '{}', topic => '$topic') FROM generate_series(1, 10) i) e; SELECT DISTINCT xid FROM outbox.event WHERE aggregate_id = 'new 1'"
	) =~ /^\s*(\d+)\s*$/ ? $1 : '',
	$target,
	'a transaction has the same 32-bit id');
is( keys_in(wait_for_events($topic, 15)),
	join(' ', (map { "old $_" } 1 .. 5), map { "new $_" } 1 .. 10),
	'all of its events are published');
$node->stop;
done_testing();
