# A server that was started without the library shows what the slot keeps, and
# the slot goes with the extension.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxTest;

my $node = new_server('bare');
$node->safe_psql('postgres', "CREATE DATABASE $_") foreach 'one', 'two';
create_extension($node, $_) foreach 'one', 'two';
my $slots = 'SELECT string_agg(database, \' \' ORDER BY database) FROM pg_replication_slots';
is($node->safe_psql('postgres', $slots), 'one two', 'relays have slots');

$node->safe_psql('one', <<'SQL');
CREATE FUNCTION handler(message inbox.message) RETURNS void LANGUAGE sql AS '';
SELECT inbox.subscribe('all', ARRAY['some'], 'handler');
SQL
$node->append_conf('postgresql.conf', 'shared_preload_libraries = \'\'');
$node->restart;
$node->safe_psql('one', 'SELECT pg_switch_wal()');
is( $node->safe_psql('one',
		'SELECT state, s.slot_name = r.slot_name, lag_bytes > 0, confirmed_lsn = confirmed_flush_lsn FROM outbox.stat_relay s, pg_replication_slots r WHERE r.database = current_database()'
	),
	'stopped|t|t|t',
	'without the library stat_relay shows the slot and what it keeps');

is( $node->safe_psql('one',
		'SELECT state, last_error ~ \'shared_preload_libraries\' FROM inbox.stat_subscription'),
	'stopped|t',
	'a subscription does not look as if it were about to start');

my $errors;
$node->psql('one', 'DROP EXTENSION outbox', stderr => \$errors);
like($errors, qr/server kafka depends/, 'the extension is not dropped while something depends on it');
$node->safe_psql('one', 'CREATE SCHEMA other; DROP SCHEMA other; DROP EXTENSION outbox CASCADE');
is($node->safe_psql('postgres', $slots), 'two', 'the slot goes with the extension');
$node->safe_psql('two', 'DROP SCHEMA outbox CASCADE');
is($node->safe_psql('postgres', $slots), '', 'and with its schema');

done_testing();
