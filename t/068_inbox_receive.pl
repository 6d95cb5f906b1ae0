# inbox.receive() says true once for each message, however many ask at the same
# time, roll back, or find that the ring of chunks has moved on.

use strict;
use warnings;

use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;

use OutboxTest;

my $node = new_server('inbox_receive');
$node->safe_psql('postgres', 'CREATE EXTENSION outbox');
$node->safe_psql('postgres', <<'SQL');
CREATE TABLE effect (id text);
CREATE SEQUENCE latest;
SQL

# Many receive the same few messages, the newest ones, and roll every fourth
# back.  Meanwhile the ring moves on, again and again.
my $receive = $node->basedir . '/receive.sql';
append_to_file($receive, <<'SQL');
\set back random(0, 20)
\set fail random(1, 4)
BEGIN;
INSERT INTO effect
SELECT id FROM (SELECT (last_value + :back)::text AS id FROM latest) s WHERE inbox.receive('shop', id);
\if :fail = 1
ROLLBACK;
\else
COMMIT;
\endif
SQL
my $move = $node->basedir . '/move.sql';
append_to_file($move, <<'SQL');
SELECT nextval('latest') FROM generate_series(1, 5);
SELECT nextval('inbox.received_chunk_seq');
\sleep 3 ms
SQL
my %files = (receive => $receive, move => $move);
my ($moves, $effects) = (0, 0);
my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
until (($moves > 100 && $effects > 1000) || time > $deadline)
{
	my @clients = map {
		IPC::Run::start(
			[
				'pgbench', '-n', '-T', 5, '-c', ($_ eq 'move' ? 1 : 8), '-j', 2,
				'--max-tries=10', '-f', $files{$_}, $node->connstr('postgres')
			],
			'<', \undef,
			'>', $node->basedir . "/$_.log",
			'2>&1')
	} qw(receive move);
	IPC::Run::finish($_) or die 'pgbench failed' foreach @clients;
	note(slurp_file($node->basedir . '/receive.log'));
	$moves += $1 if slurp_file($node->basedir . '/move.log') =~ /actually processed: (\d+)/;
	$effects = $node->safe_psql('postgres', 'SELECT count(*) FROM effect');
}
cmp_ok($moves, '>', 100, "the ring has moved on $moves times");
cmp_ok($effects, '>', 1000, 'many messages were received');
is( $node->safe_psql('postgres',
		'SELECT count(*) FROM (SELECT FROM effect GROUP BY id HAVING count(*) > 1) s'),
	0,
	'none of them twice');
is( $node->safe_psql('postgres',
		'SELECT count(*) FROM inbox.received r FULL JOIN effect e ON e.id = r.event_id WHERE r.event_id IS NULL OR e.id IS NULL'),
	0,
	'there is an entry for each effect and no other');
is($node->safe_psql('postgres', 'SELECT count(DISTINCT tableoid) FROM inbox.received'),
	4, 'in all chunks');

# Old entries leave by themselves, where nobody subscribes to anything.
$node->safe_psql('postgres', "ALTER SYSTEM SET inbox.dedupe_window = '3 s'");
$node->reload;
ok( $node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM inbox.received'),
	'entries leave after inbox.dedupe_window');
is($node->safe_psql('postgres', "SELECT inbox.receive('shop', '1')"),
	't', 'then a message is new again');

done_testing();
