# Records as only careless producers send them: with times that are none, and
# with more headers than anybody needs.  All of it arrives, and harms nobody.

use strict;
use warnings;

use lib 't';
use OutboxInbox;
use OutboxRecord;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('inbox_records', "max_worker_processes = 16\n");
subscribe_in($node);
create_extension($node, 'postgres');
my $topic = make_topic(topic_name('Odd'), 1, 'message.timestamp.after.max.ms' => '9223372036854775807');

# Times in microseconds and nanoseconds, as far as they go, and the first ones
my $ms = 1764115200000;
my @times = ($ms, "${ms}000", "${ms}000000", '9223372036854775807', '9224318016000000', 0);
produce_record($topic, { key => 'k', value => '{}', timestamp => $_ }) foreach @times;
sql(<<SQL);
CREATE TABLE effect (id bigserial, created_at timestamptz, message jsonb);
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE sql AS
\$\$ INSERT INTO public.effect (created_at, message) VALUES (m.created_at, to_jsonb(m)) \$\$;
SELECT inbox.subscribe('times', ARRAY['$topic'], 'handle', max_attempts => 1);
SQL
wait_for("SELECT processed = 6 AND failed = 0 FROM inbox.stat_subscription", 'all messages are handled, whatever their time');
my $seen = "string_agg(coalesce(extract(year FROM created_at AT TIME ZONE 'UTC')::text, '-'), ' '";
is(sql("SELECT $seen ORDER BY \"offset\") FROM inbox.message"), '2025 57872 - - - 1970',
	'a time that PostgreSQL does not have is NULL');
is(sql("SELECT $seen ORDER BY id) FROM effect"), '2025 57872 - - - 1970', 'also for the handler');
is(sql("SELECT lag_seconds >= 0 OR lag_seconds IS NULL FROM inbox.stat_subscription"), 't', 'the lag can be read');
command_ok([ 'pg_dump', '-f', "$PostgreSQL::Test::Utils::tmp_check/dump", $node->connstr('postgres') ],
	'and the database can be dumped');

# 5000 headers, of which the last ones are those that matter
my $many = make_topic(topic_name('Many'));
my @headers = ((map { [ "h$_", $_ ] } 1 .. 3000), (map { [ 'same', $_ ] } 1 .. 1999), [ 'same', "\xff" ]);
produce_record($many, { key => 'k', value => 'v', headers => [ @headers, [ 'id', 'the-id' ], [ 'type', 'Paid' ] ] });
produce_record($many, { key => 'k', value => 'v', headers => [ [ 'id', 'the-id' ], [ 'type', 'Paid' ] ] });
produce_record($many, { key => 'k', value => 'v', headers => [ [ "\xff", 'a' ], [ '/w==', 'b' ], [ '', 'c' ], [ 'null', undef ], [ 'type', 'Paid' ] ] });
sql(<<SQL);
SELECT inbox.subscribe('paid', ARRAY['$many'], 'handle', filter_event_types => ARRAY['Paid']);
SQL
wait_for("SELECT processed = 2 AND duplicates = 1 FROM inbox.stat_subscription WHERE name = 'paid'",
	'id and type are found behind 5000 headers');
is( sql("SELECT event_id, event_type, (SELECT count(*) FROM jsonb_object_keys(headers)), jsonb_array_length(headers->'same') FROM inbox.message WHERE subscription = 'paid' AND \"offset\" = 0"),
	'the-id|Paid|3003|2000', 'and all of them are there');
is( sql("SELECT headers->>'h1', headers->>'h3000', headers->'same'->>0, headers->'same'->>1998, headers->'same'->1999->>'base64' FROM inbox.message WHERE subscription = 'paid' AND \"offset\" = 0"),
	'1|3000|1|1999|/w==', 'in their order');
is( sql("SELECT event_id, headers FROM inbox.message WHERE subscription = 'paid' AND \"offset\" = 2"),
	"$many/0/2|" . '{"": "c", "/w==": ["a", "b"], "null": null, "type": "Paid"}',
	'a name that is no text does not hide another header');

done_testing();
