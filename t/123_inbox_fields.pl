# Identity, type and subject of messages can be fields of their JSON.  A message
# that lacks one fails by itself, where everybody sees it, and no handler has it.

use strict;
use warnings;

use lib 't';
use OutboxInbox;
use OutboxRecord;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('inbox_fields', "max_worker_processes = 24\n", extra => [ '--encoding=UTF8', '--no-locale' ]);
subscribe_in($node);
create_extension($node, 'postgres');
my $topic = make_topic(topic_name('Fields'));
my $handler = <<'SQL';
CREATE TABLE effect (id bigserial, subscription text, event_id text, event_type text, aggregate_id text, position bigint);
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE sql AS
$$ INSERT INTO public.effect (subscription, event_id, event_type, aggregate_id, position)
VALUES (m.subscription, m.event_id, m.event_type, m.aggregate_id, m."offset") $$;
SQL
sql($handler);

# Payloads, and what comes of them: an id, or why there is none.
my $lacks = 'payload of the message has no field "meta.eventId", which id_field names';
my $deep = '[' x 200_000 . ']' x 200_000;
my @cases = (
	[ '{"meta": {"eventId": "e1"}, "text": "plain"}', 'e1' ],
	[ '{"meta": {"eventId": "e\u00fc\u20ac"}}', "e\xc3\xbc\xe2\x82\xac" ],
	[ '{"meta": {"eventId": 42.0}}', '42.0' ],
	[ '{"meta": {"eventId": -1e3}}', '-1e3' ],
	[ '{"met\u0061": {"eventId": "first", "eventId": "last"}}', 'last' ],
	[ '{"meta": {"eventId": "a\"b\\\\\u0041"}}', 'a"b\\A' ],
	[ '{"text": "\u0000 \ud83d \\\\u0000", "number": 1E400000, "meta": {"eventId": "e2"}}', 'e2' ],
	[ '{"meta": {"eventId": "' . 'x' x 2001 . '"}}', qr/^sha256:[0-9a-f]{64}$/ ],
	[ '{"meta": {"eventId": "' . 'y' x 2000 . '"}}', 'y' x 2000 ],
	[ '{"meta": {"eventId": "e1"}, "text": "again"}', undef ],
	[ '{"text": "no id"}', \"$lacks|2203A" ],
	[ '{"meta": {"eventId": null}}', \"$lacks|2203A" ],
	[ '{"meta": "eventId"}', \"$lacks|2203A" ],
	[ '["meta", "eventId"]', \"$lacks|2203A" ],
	[ '{"meta": {"eventId": {"a": 1}}}', \'field "meta.eventId" of the payload, which id_field names, is neither a string nor a number|2203F' ],
	[ '{"meta": {"eventId": true}}', \'field "meta.eventId" of the payload, which id_field names, is neither a string nor a number|2203F' ],
	[ '{"meta": {"eventId": ""}}', \'field "meta.eventId" of the payload, which id_field names, is empty|2200F' ],
	[ '{"meta": {"eventId": "e\u0000"}}', \qr/^field "meta.eventId" of the payload, which id_field names, cannot be text \(unsupported Unicode escape sequence: .u0000 cannot be converted to text\.\)\|22P05$/ ],
	[ '{"meta": {"eventId": "e\ud83d"}}', \qr/^field "meta.eventId" of the payload, which id_field names, cannot be text \(.*surrogate.*\)\|22P02$/ ],
	[ 'no JSON', \qr/^payload of the message is not JSON, and so has no field "meta.eventId", which id_field names \(invalid input syntax for type json: Token "no" is invalid\.\)\|22P02$/ ],
	[ 'x' x 10_000, \qr/^payload of the message is not JSON, .{0,350}\.\.\.\)\|22P02$/ ],
	[ '{"meta": {"eventId": "cut', \qr/^payload of the message is not JSON, .*\|22P02$/ ],
	[ $deep, \qr/^payload of the message cannot be read as JSON, .*stack depth.*\|54001$/ ],
	[ undef, \'message has no payload, and so no field "meta.eventId", which id_field names|2203A' ],
	[ '', \qr/^payload of the message is not JSON, .*\|22P02$/ ],
	[ "\"\xff\"", \qr/^payload of the message is not text in this database, and so has no field "meta.eventId", which id_field names\|22021$/ ],
	[ '{"meta": {"eventId": "end"}}', 'end' ]);
produce_record($topic, { key => 'k', value => $_->[0], headers => [ [ 'id', 'the same' ] ] }) foreach @cases;

my $subscribe = "SELECT inbox.subscribe('s', ARRAY['$topic'], 'handle', max_attempts => 3, dedupe => 'field', id_field => 'meta.eventId')";
sql($subscribe);
my $all = scalar @cases;
my $failing = grep { ref $_->[1] eq 'REF' || ref $_->[1] eq 'SCALAR' } @cases;
my $good = $all - $failing - 1;
wait_for("SELECT (received, processed, duplicates, conflicts, failed, waiting)::text = '($all,$good,1,1,$failing,0)' FROM inbox.stat_subscription",
	'each message is handled, or fails by itself');
my @rows = map { [ split /\t/, $_, -1 ] }
  split /\n/, sql("SELECT concat_ws(E'\t', \"offset\", status, event_id, error || '|' || error_sqlstate) FROM inbox.message ORDER BY \"offset\"");
foreach my $i (0 .. $#cases)
{
	my ($payload, $expected) = @{ $cases[$i] };
	my ($row) = grep { $_->[0] == $i } @rows;
	my $name = substr($payload // 'a tombstone', 0, 60);
	$name =~ s/[^ -~]/?/g;
	if (!defined $expected)
	{
		is($row, undef, "$name: recognized");
	}
	elsif (ref $expected eq 'SCALAR' || ref $expected eq 'REF')
	{
		is("$row->[1] $row->[2]", "failed $topic/0/$i", "$name: fails");
		ref $$expected ? like($row->[3], $$expected, 'and the error is true') : is($row->[3], $$expected, 'and the error is true');
	}
	else
	{
		ref $expected ? like($row->[2], $expected, "$name: its id") : is($row->[2], $expected, "$name: its id");
	}
}
is(sql('SELECT count(*) FROM effect'), $good, 'no handler was called for those that failed');
is(sql("SELECT sum(attempts) FROM inbox.message"), 0, 'and they have had no attempt');

# Again from the beginning: nothing new, and nothing fails twice
sql("SELECT inbox.seek('s', '$topic', 0, 'earliest')");
wait_for("SELECT (received, processed, duplicates, failed) = (2 * $all, $good, $all + 1, $failing) FROM inbox.stat_subscription",
	'what comes again is recognized, also by its position');

# retry() looks again, at what the subscription says now
is(sql("SELECT inbox.retry('s')"), $failing, 'all are tried');
wait_for("SELECT failed = $failing AND waiting = 0 FROM inbox.stat_subscription", 'and fail again');
is(sql('SELECT count(*) FROM effect'), $good, 'without the handler');
sql("SELECT inbox.subscribe('s', ARRAY['$topic'], 'handle', id_field => 'text', on_failure => 'stop')");
is(sql('SELECT dedupe FROM inbox.subscription'), 'field', 'who names a field means it');
is(sql("SELECT inbox.retry('s', '$topic/0/10')"), 1, 'with another field');
wait_for("SELECT processed = $good + 1 AND waiting = 0 FROM inbox.stat_subscription", 'one of them is handled');
is(sql("SELECT event_id, status FROM inbox.message WHERE \"offset\" = 10"), 'no id|processed', 'with an id of its own');
is(sql("SELECT event_id FROM effect ORDER BY id DESC LIMIT 1"), 'no id', 'that the handler sees');
my $twice = '{"text": "no id"}';
produce_record($topic, { key => 'k', value => $twice });
wait_for("SELECT duplicates = $all + 2 FROM inbox.stat_subscription", 'which is known from then on');

# on_failure => stop: it stops there, what was before is handled, the rest waits
sql('TRUNCATE effect');
my $stops = make_topic(topic_name('Stops'));
produce_record($stops, { key => $_->[0], value => $_->[1] })
  foreach [ 'a', '{"id": 1}' ], [ 'b', 'broken' ], [ 'a', '{"id": 2}' ], [ 'c', 'broken, too' ], [ 'c', '{"id": 3}' ];
sql("SELECT inbox.subscribe('stop', ARRAY['$stops'], 'handle', id_field => 'id', on_failure => 'stop')");
my $state = "(SELECT concat_ws(' ', v.state, s.stopped_by, v.failed, v.waiting) FROM inbox.stat_subscription v JOIN inbox.subscription s USING (name) WHERE name = 'stop')";
my $effects = "(SELECT string_agg(event_id, ' ' ORDER BY id) FROM effect WHERE subscription = 'stop')";
wait_for("SELECT $state = 'stopped $stops/0/1 1 0'", 'a subscription stops at what it cannot identify');
is(sql("SELECT $effects"), '1', 'all before it is handled, and nothing behind it');
sql("SELECT inbox.retry('stop', '$stops/0/1')");
wait_for("SELECT $state = 'stopped $stops/0/1 1 0'", 'and stops there again');
sql("SELECT inbox.discard('stop', '$stops/0/1')");
wait_for("SELECT $state = 'stopped $stops/0/3 1 0'", 'without it, it goes on to the next');
is(sql("SELECT $effects"), '1 2', 'and no further');
sql("SELECT inbox.subscribe('stop', ARRAY['$stops'], 'handle', on_failure => 'stop')");
sql("SELECT inbox.retry('stop', '$stops/0/3')");
wait_for("SELECT $state = 'running 0 0'", 'without the field, it is handled');
wait_for("SELECT coalesce($effects = '1 2 $stops/0/3 $stops/0/4', false)", 'by its position, and what is behind it');

# Type and subject, and a filter
my $typed = make_topic(topic_name('Typed'));
produce_record($typed, { key => 'k', value => $_, headers => [ [ 'type', 'Header' ], [ 'id', substr($_, -3, 1) ] ] })
  foreach '{"kind": "Paid", "order": {"number": [7]}, "n": 1 }', '{"kind": "Sent", "order": {"number": [8]}, "n": 2 }',
  '{"order": {"number": [9]}, "n": 3 }', '{"kind": "Paid", "n": 4 }', '{"kind": "Sent", "n": 5 }';
sql(<<SQL);
SELECT inbox.subscribe('typed', ARRAY['$typed'], 'handle', filter_event_types => ARRAY['Paid'],
	type_field => 'kind', aggregate_id_field => 'order.number.0'),
	inbox.subscribe('header', ARRAY['$typed'], 'handle', filter_event_types => ARRAY['Header']);
SQL
wait_for("SELECT (received, processed, failed) = (5, 1, 2) FROM inbox.stat_subscription WHERE name = 'typed'",
	'the filter goes by the field');
wait_for("SELECT processed = 5 FROM inbox.stat_subscription WHERE name = 'header'", 'and by the header else');
is( sql("SELECT string_agg(concat_ws(' ', event_id, event_type, aggregate_id, status, error_sqlstate), ', ' ORDER BY \"offset\") FROM inbox.message WHERE subscription = 'typed'"),
	'1 Paid 7 processed, 3 9 failed 2203A, 4 Paid failed 2203A', 'what the filter cannot judge fails, what it can does not matter');
is( sql("SELECT error FROM inbox.message WHERE subscription = 'typed' AND event_id = '3'"),
	'payload of the message has no field "kind", which type_field names', 'and says why');

# What the filter excludes now is not handled when it is tried again
sql("SELECT inbox.subscribe('typed', ARRAY['$typed'], 'handle', filter_event_types => ARRAY['Paid'], aggregate_id_field => 'n')");
is(sql("SELECT inbox.retry('typed')"), 2, 'both are tried again');
wait_for("SELECT (failed, waiting) = (0, 0) FROM inbox.stat_subscription WHERE name = 'typed'", 'and are done');
is(sql("SELECT string_agg(event_id, ' ' ORDER BY id) FROM effect WHERE subscription = 'typed'"), '1 4',
	'but for the one without a type the handler is called');

# Another encoding: names of headers and fields, and characters that it lacks
my $latin = make_topic(topic_name('Latin'));
my ($u, $euro) = ("\xc3\xbc", "\xe2\x82\xac");
produce_record($latin, { key => 'k', value => $_, headers => [ [ "gr${u}n", 'header' ] ] })
  foreach "{\"gr${u}n\": \"field\"}", "{\"gr\\u00fcn\": \"\\u00fc\", \"price\": \"\\u20ac\"}", "{\"gr${u}n\": \"\\u20ac\"}", "{\"gr${u}n\": \"$euro\"}";
$node->safe_psql('postgres', "CREATE DATABASE latin TEMPLATE template0 ENCODING LATIN1 LOCALE 'C'");
create_extension($node, 'latin');
$node->safe_psql('latin', $handler . <<SQL);
SET client_encoding = 'UTF8';
SELECT inbox.subscribe('header', ARRAY['$latin'], 'handle', id_header => 'gr${u}n'),
	inbox.subscribe('field', ARRAY['$latin'], 'handle', id_field => 'gr${u}n');
SQL
ok( $node->poll_query_until('latin', "SELECT count(*) = 2 FROM inbox.stat_subscription WHERE (name, processed, duplicates, failed) IN (('header', 1, 3, 0), ('field', 2, 0, 2))"),
	'in LATIN1 names are the same')
  || diag($node->safe_psql('latin', 'TABLE inbox.stat_subscription; TABLE inbox.message'));
is( $node->safe_psql('latin', "SET client_encoding = 'UTF8'; SELECT string_agg(concat_ws(' ', status, error_sqlstate, CASE status WHEN 'processed' THEN event_id END), ', ' ORDER BY \"offset\") FROM inbox.message WHERE subscription = 'field'"),
	"processed field, processed $u, failed 22P05, failed 22021", 'and only who lacks a character fails');

done_testing();
