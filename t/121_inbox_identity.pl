# What tells a repeated message is the subscriber's choice: a header, within a
# topic or not, the position, or nothing.  Messages of one id that differ are
# seen.

use strict;
use warnings;

use lib 't';
use OutboxInbox;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('inbox_identity', "max_worker_processes = 24\n");
subscribe_in($node);
create_extension($node, 'postgres');
sql(<<SQL);
CREATE TABLE effect (id bigserial, subscription text, event_id text, value text);
CREATE TABLE broken (subscription text);
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE plpgsql AS \$\$ BEGIN
	IF EXISTS (SELECT FROM public.broken b WHERE b.subscription = m.subscription) THEN RAISE 'broken'; END IF;
	INSERT INTO public.effect (subscription, event_id, value) VALUES (m.subscription, m.event_id, inbox.payload_text(m));
END \$\$;
SQL

# What a subscription has done, and how it counts that.
sub effects_of
{
	my ($name) = @_;
	return sql("SELECT string_agg(value, ' ' ORDER BY id) FROM effect WHERE subscription = '$name'");
}

# received, processed, duplicates, conflicts (* for any), failed, waiting
sub wait_for_counts
{
	my ($name, $counts, $what) = @_;
	my $shown = $counts =~ /\*/ ? "'*'" : 'conflicts';
	return wait_for("SELECT concat_ws(',', received, processed, duplicates, $shown, failed, waiting) = '$counts' FROM inbox.stat_subscription WHERE name = '$name'",
		"$what: $counts");
}

# Moves a subscription to the beginning of its topics.
sub seek_back
{
	my ($name, @topics) = @_;
	sql(join(';', map { "SELECT inbox.seek('$name', '$_', 0, 'earliest')" } @topics));
	return;
}

sub change_subscription
{
	my ($name, $topics, $more) = @_;
	return "SELECT inbox.subscribe('$name', ARRAY[" . join(', ', map { "'$_'" } @$topics) . "], 'handle', max_attempts => 1, retry_backoff => '10 ms', $more);";
}

# Two producers that both count from 1, and one whose id is that of its tenant
my @topics = map { make_topic(topic_name($_)) } 'Orders', 'Invoices';
my ($orders, $invoices) = @topics;
produce($orders, { headers => ['id=42'] }, "o1\torder 42");
produce($invoices, { headers => ['id=42'] }, "i1\tinvoice 42");
produce($orders, { headers => ['id=tenant-7'] }, "o2\tfirst", "o3\tsecond", "o4\tthird");
produce($orders, { headers => ['id=tenant-7'] }, "o2\tfirst");
sql(change_subscription('topic', \@topics, "dedupe => 'header'")
	  . change_subscription('whole', \@topics, "dedupe_scope => 'subscription'")
	  . change_subscription('error', \@topics, "on_conflict => 'error'")
	  . change_subscription('offset', \@topics, "dedupe => 'offset'")
	  . change_subscription('none', \@topics, "dedupe => 'none'")
	  . change_subscription('other', \@topics, "id_header => 'key', type_header => 'id'")
	  . change_subscription('headless', \@topics, "id_header => NULL, type_header => NULL"));

wait_for_counts('topic', '6,3,3,2,0,0', 'ids count within a topic');
is(join(' ', sort split / (?=first|invoice|order)/, effects_of('topic')),
	'first invoice 42 order 42', 'both producers are heard, and the first message of an id');
wait_for_counts('whole', '6,2,4,3,0,0', 'or over all topics');
like(effects_of('whole'), qr/^(?:(?:order|invoice) 42|first| )+$/, 'then one producer is');
wait_for_counts('error', '6,3,1,2,2,0', 'a used id can be an error');
is( sql("SELECT string_agg(concat_ws('|', event_id, encode(payload, 'escape'), attempts, error_sqlstate, error, error_at IS NOT NULL), ';' ORDER BY \"offset\") FROM inbox.message WHERE subscription = 'error' AND status = 'failed'"),
	join(';', map { "tenant-7|$_|0|23000|message \"tenant-7\" came before, with another key or payload|t" } 'second', 'third'),
	'which says what is wrong');
wait_for_counts('offset', '6,6,0,0,0,0', 'with dedupe => offset each is one by itself');
is(sql("SELECT count(*) FROM inbox.message WHERE subscription = 'offset' AND event_id = topic || '/' || partition || '/' || \"offset\""),
	6, 'and known by its position');
wait_for_counts('none', '6,6,0,0,0,0', 'with dedupe => none nothing is recognized');
is(sql("SELECT count(*) FROM inbox.message WHERE subscription = 'none' AND event_id = 'tenant-7'"), 4,
	'messages have their ids nevertheless');
is(sql("SELECT count(*) FROM inbox.received WHERE consumer ~ '^\@none'"), 0, 'and nothing is remembered');
wait_for_counts('other', '6,6,0,0,0,0', 'another header is not there');
is(sql("SELECT count(*) FROM inbox.message WHERE subscription = 'other' AND event_type = 'tenant-7'"), 4,
	'and another one is the type');
wait_for_counts('headless', '6,6,0,0,0,0', 'no header is the id');
is(sql("SELECT count(event_type) FROM inbox.message WHERE subscription = 'headless'"), 0, 'and none the type');

# Again from the beginning
seek_back($_, @topics) foreach 'topic', 'whole', 'error', 'offset', 'none';
wait_for_counts('topic', '12,3,9,4,0,0', 'what comes again is recognized');
wait_for_counts('whole', '12,2,10,6,0,0', 'over all topics');
wait_for_counts('error', '12,3,7,4,2,0', 'and fails only once');
wait_for_counts('offset', '12,6,6,0,0,0', 'by its offset');
wait_for_counts('none', '12,12,0,0,0,0', 'or is handled again');

# What to do about those that failed
is(sql("SELECT inbox.retry('error', 'tenant-7')"), 2, 'those that failed can be tried');
wait_for_counts('error', '12,5,7,4,0,0', 'and are handled then');
like(effects_of('error'), qr/second.*third/, 'in order');

# Another scope from now on: what was received stays received
sql(change_subscription('topic', \@topics, "dedupe_scope => 'subscription'")
	  . change_subscription('whole', \@topics, "dedupe_scope => 'topic'"));
seek_back($_, @topics) foreach 'topic', 'whole';
wait_for_counts('topic', '18,3,15,*,0,0', 'ids of a topic are known in all');
wait_for_counts('whole', '18,2,16,9,0,0', 'ids of all topics in each');
produce($invoices, { headers => ['id=43'] }, "i1\tinvoice 43");
wait_for_counts('topic', '19,4,15,*,0,0', 'something new in one topic');
wait_for_counts('whole', '19,3,16,9,0,0', 'for both');
produce($orders, { headers => ['id=43'] }, "o1\torder 43");
wait_for_counts('topic', '20,4,16,*,0,0', 'counts for all');
wait_for_counts('whole', '20,4,16,9,0,0', 'or for one');

# What a release before this one has remembered: no topics, no contents
wait_for_counts('offset', '14,8,6,0,0,0', 'the others have read all, too');
sql(<<SQL);
CREATE TABLE old AS SELECT * FROM inbox.received WHERE consumer ~ '^\@offset';
SELECT inbox.unsubscribe('offset', keep_messages => false);
SQL
is(sql("SELECT count(*) FROM inbox.received WHERE consumer ~ '^\@offset'"), 0, 'unsubscribe() forgets each topic');
cmp_ok(sql("SELECT count(*) FROM inbox.received WHERE consumer ~ '^\@other'"), '>', 0, 'of that subscription only');
sql(<<SQL);
INSERT INTO inbox.received (received_at, chunk, consumer, event_id)
SELECT received_at, chunk, '\@offset', event_id FROM old;
SQL
sql(change_subscription('offset', \@topics, "dedupe => 'offset'"));
wait_for_counts('offset', '8,0,8,0,0,0', 'what was remembered before there were topics still counts');

# Two messages of one id that fail, and are tried again, and given up
sql("INSERT INTO broken VALUES ('topic'), ('whole')");
produce($orders, { headers => ['id=44'] }, "o1\torder 44");
produce($invoices, { headers => ['id=44'] }, "i1\tinvoice 44");
wait_for_counts('whole', '22,4,16,9,2,0', 'two messages of one id fail');
sql("DELETE FROM broken WHERE subscription = 'whole'");
is(sql("SELECT inbox.retry('whole', '44')"), 2, 'are tried again');
wait_for_counts('whole', '22,6,16,9,0,0', 'and both handled');
is(sql("SELECT count(*) FROM effect WHERE subscription = 'whole' AND event_id = '44'"), 2, 'once each');

# Where ids tell nothing, one that failed does not stand for others
sql("INSERT INTO broken VALUES ('none')");
produce($invoices, { headers => ['id=49'] }, "i1\tfifth", "i2\tsixth");
my $none = "FROM inbox.stat_subscription WHERE name = 'none'";
wait_for("SELECT failed = 2 $none", 'messages of one id fail, each by itself');
sql("DELETE FROM broken WHERE subscription = 'none'");
seek_back('none', $invoices);
wait_for("SELECT failed + waiting = 0 AND lag = 0 $none", 'handled again from the beginning, they succeed');
is(sql("SELECT string_agg(value, ' ' ORDER BY id) FROM effect WHERE subscription = 'none' AND event_id = '49'"),
	'fifth sixth', 'once each');

# With on_failure => stop the used id stops the subscription
produce($orders, { headers => ['id=45'] }, "o1\tbefore");
produce($orders, { headers => ['id=45'] }, "o2\tconflict");
produce($orders, { headers => ['id=46'] }, "o2\tafter");
sql(<<SQL);
SELECT inbox.subscribe('stop', ARRAY['$orders'], 'handle', start => 'earliest', on_conflict => 'error', on_failure => 'stop');
SQL
my $state = "(SELECT concat_ws(' ', v.state, s.stopped_by, v.failed, v.waiting) FROM inbox.stat_subscription v JOIN inbox.subscription s USING (name) WHERE name = 'stop')";
wait_for("SELECT $state = 'stopped tenant-7 1 0'", 'it stops');
is(effects_of('stop'), 'order 42 first', 'at the first one');
sql("SELECT inbox.retry('stop', 'tenant-7')");
wait_for("SELECT $state = 'stopped tenant-7 1 0'", 'goes on with it, to the second');
is(effects_of('stop'), 'order 42 first second', 'which is next');
sql("SELECT inbox.discard('stop', 'tenant-7')");
wait_for("SELECT $state = 'stopped 45 1 0'", 'goes on without it, to the third');
is(effects_of('stop'), 'order 42 first second order 43 order 44 before', 'what is before that is handled');
sql("SELECT inbox.discard('stop', '45')");
wait_for("SELECT $state = 'running 0 0'", 'and goes on');
wait_for("SELECT processed = 7 FROM inbox.stat_subscription WHERE name = 'stop'", 'to the end');
is(effects_of('stop'), 'order 42 first second order 43 order 44 before after', 'with what is behind');

done_testing();
