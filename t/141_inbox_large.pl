# Messages that are larger than what a row can hold: compressed, they are small
# for a broker.  They fail by themselves, and what comes behind them is handled.

use strict;
use warnings;

use lib 't';
use OutboxInbox;
use OutboxRecord;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

# It takes its time to compress and to expand them.
$PostgreSQL::Test::Utils::timeout_default *= 3;

my $node = new_server('inbox_large');
subscribe_in($node);
create_extension($node, 'postgres');
my $topic = make_topic(topic_name('Large'), 1, 'max.message.bytes' => 20_000_000);
sql(<<SQL);
CREATE TABLE done (id bigserial, event_id text, bytes bigint, subscription text);
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE sql AS
	\$\$ INSERT INTO public.done (event_id, bytes, subscription) VALUES (m.event_id, octet_length(m.payload), m.subscription) \$\$;
SELECT inbox.subscribe('large', ARRAY['$topic'], 'handle', max_attempts => 1);
SQL

# What there is no value of; what there is, but not as text; what is large.
my @sizes = (1_100_000_000, 540_000_000, 20_000_000);
foreach my $i (0 .. 2)
{
	produce_record($topic, { key => 'k', size => $sizes[$i], headers => [ [ id => "large $i" ], [ type => 'Sent' ] ] });
}
produce_record($topic, { key => 'x' x 100_000, size => $sizes[1], headers => [ [ filler => 'x' x 100_000 ] ] });
produce_record($topic, { key => 'k', value => 'small', headers => [ [ id => 'small' ] ] });
wait_for("SELECT processed = 2 AND failed = 3 AND lag = 0 AND state = 'running' FROM inbox.stat_subscription",
	'what is too large fails, and the rest is handled');
is(sql("SELECT string_agg(event_id || ' ' || bytes, ', ' ORDER BY id) FROM done"), 'large 2 20000000, small 5', 'in order');
my $failed = "FROM inbox.message WHERE subscription = 'large' AND status = 'failed'";
is( sql(qq{SELECT string_agg(concat_ws(' ', "offset", event_id, event_type, aggregate_id, headers->>'id', error_sqlstate, attempts), ', ' ORDER BY "offset") $failed}),
	"0 large 0 Sent k large 0 54000 0, 1 large 1 Sent k large 1 54000 0, 3 $topic/0/3 54000 0",
	'what there is room for is there');
is(sql(qq{SELECT error $failed AND "offset" = 1}), 'the message is too large for a row: it has 540000018 bytes', 'it says why');
is(sql("SELECT count(*) $failed AND payload IS NULL"), 3, 'without the payload');
my $pid = sql('SELECT pid FROM inbox.consumer_status()');
command_ok([ 'pg_dump', '-f', "$PostgreSQL::Test::Utils::tmp_check/dump_large", $node->connstr('postgres') ],
	'and the database can be dumped');

# Nobody gets what is left of them: it would look like a tombstone.
is(sql("SELECT inbox.retry('large')"), 3, 'they can be tried again');
wait_for("SELECT failed = 3 AND waiting = 0 AND state = 'running' FROM inbox.stat_subscription", 'and fail again');
is(sql("SELECT count(*) FROM done"), 2, 'without their handler');
is(sql("SELECT count(*) $failed AND error LIKE 'the message is too large%' AND error_context LIKE 'The row does not have all%'"), 3, 'for the same reason');
ok(sql("SELECT inbox.discard('large', 'large 0')") eq 't', 'they can be given up');
is(scalar(grep { /outbox consumer.*(ERROR|FATAL)/ && !/administrator command/ } split /\n/, slurp_file($node->logfile)), 0,
	'no worker has ended by an error');
sql("SELECT inbox.unsubscribe('large')");

# Types and ids that are to be found in what there is no room for.
sql("TRUNCATE done; SELECT inbox.subscribe('typed', ARRAY['$topic'], 'handle', filter_event_types => ARRAY['Other'], max_attempts => 1)");
wait_for("SELECT failed = 1 AND lag = 0 AND state = 'running' FROM inbox.stat_subscription WHERE name = 'typed'", 'one whose type is not known may be wanted');
sql("SELECT inbox.unsubscribe('typed')");
sql("SELECT inbox.subscribe('fields', ARRAY['$topic'], 'handle', id_field => 'id', max_attempts => 1)");
wait_for("SELECT failed = 5 AND lag = 0 AND state = 'running' FROM inbox.stat_subscription WHERE name = 'fields'", 'no field can be found');
is( sql(qq{SELECT string_agg("offset" || ' ' || error_sqlstate, ', ' ORDER BY "offset") FROM inbox.message WHERE subscription = 'fields'}),
	'0 54000, 1 54000, 2 22P02, 3 54000, 4 22P02', 'because of the size, or of what it is');

$node->stop;
done_testing();
