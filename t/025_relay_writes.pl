# A process that decodes is left out of everybody's snapshots, unless it takes
# care: what the relay writes must look to others as what any session writes.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $topic = make_topic(topic_name('writes'));
my $node = new_server('writes');
create_extension($node, 'postgres');

# Storing its first watermark, a relay drops old ones but for the last of each
# hour; here it has to wait for that.
$node->safe_psql(
	'postgres', q{
	INSERT INTO outbox.watermark (id, lsn, snapshot, taken_at) OVERRIDING SYSTEM VALUE
	SELECT n, '0/1', '1:1:', date_trunc('hour', now() - interval '2 days', 'UTC') + interval '1 minute'
	FROM generate_series(-1, 0) n;
	BEGIN;
	SELECT FROM outbox.watermark WHERE id = -1 FOR UPDATE;
	PREPARE TRANSACTION 'busy';
});
my $pid = relay_pid($node, 'postgres');
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
$node->poll_query_until('postgres',
	"SELECT pid <> $pid AND state = 'streaming' FROM outbox.stat_relay")
  or die "the relay does not come back\n";
my $watermarks = 'SELECT count(*) FROM outbox.watermark';
my $before = $node->safe_psql('postgres', $watermarks);
$node->safe_psql('postgres',
	"SELECT outbox.publish('Order', '42', 'OrderCreated', '1', topic => '$topic')"
);
$node->poll_query_until('postgres',
	"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'outbox relay' AND wait_event = 'transactionid'"
) or die "the relay does not wait\n";

my $xid = $node->safe_psql('postgres',
	"SELECT backend_xid FROM pg_stat_activity WHERE backend_type = 'outbox relay'"
);
# A later transaction ends, so that the relay's is one of the past, or running.
$node->safe_psql('postgres', 'SELECT pg_current_xact_id()');
is( $node->safe_psql(
		'postgres',
		"SELECT pg_visible_in_snapshot('$xid', pg_current_snapshot())"),
	'f',
	'the transaction of the relay is running');
is($node->safe_psql('postgres', $watermarks),
	$before, 'what it writes is not there yet');

$node->safe_psql('postgres', "COMMIT PREPARED 'busy'");
ok( $node->poll_query_until(
		'postgres', "SELECT status = 'published' FROM outbox.events"),
	'and is there when it has committed');

$node->stop;
done_testing();
