# Each message has its own event's headers, whichever messages came before:
# lists of headers are used again, for events that have the same headers but
# for the id.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxTest;

my $events = 30_000;    # of each mixture; several times what is in flight

my $node = new_server('headers');
create_extension($node, 'postgres');
my $type = aggregate_type('Headers');
my $topic = make_topic("outbox.event.$type", 3);

# Publishes a number of events whose type and headers are SQL expressions of i.
sub publish
{
	my ($first, $event_type, $headers) = @_;
	my $last = $first + $events - 1;
	$node->safe_psql('postgres', <<~SQL);
	DO \$\$
	BEGIN
		FOR start IN $first .. $last BY 500 LOOP
			PERFORM outbox.publish('$type', i::text, $event_type, to_jsonb(i), headers => $headers)
			FROM generate_series(start, start + 499) i;
			COMMIT;
		END LOOP;
	END \$\$
	SQL
	return;
}

my @mixtures = (
	[ 'events of one type',                    "'Paid'",     'NULL' ],
	[ 'types of the same and other lengths',   "(ARRAY['Paid', 'Sent', 'Packed', 'P'])[1 + i % 4]", 'NULL' ],
	[ 'more types than there are pools',       "'Type' || i % 300", 'NULL' ],
	[ 'headers with few values',               "'Paid'",     "jsonb_build_object('tenant', 'tenant' || i % 3)" ],
	[ 'headers that are null, empty, missing', "'Paid'",     "(ARRAY['{\"a\": null}', '{\"a\": \"\"}', '{}', '{\"a\": \"\", \"b\": null}', '{\"a\": null, \"b\": \"\"}'])[1 + i % 5]::jsonb" ],
	[ 'a header that is always another',       "'Paid'",     "jsonb_build_object('trace', md5(i::text))" ],
	[ 'more headers than a pool takes',        "'Paid'",     "jsonb_build_object('long', repeat((i % 2)::text, 300 + i % 2))" ],
	[ 'all of these in turns', "(ARRAY['Paid', 'Sent', 'Type' || i])[1 + i / 3 % 3]",
		"(ARRAY[NULL, '{\"a\": null}', jsonb_build_object('trace', i), jsonb_build_object('long', repeat('x', 300))])[1 + i % 4]" ],
);
for my $i (0 .. $#mixtures)
{
	publish($i * $events, @{ $mixtures[$i] }[ 1, 2 ]);
}
wait_until_confirmed($node, 'postgres');

# kcat shows null as NULL.
my %expected = map { split / /, $_, 2 } split /\n/, $node->safe_psql('postgres', <<~SQL);
	SELECT concat(aggregate_id, ' id=', event_id, ',type=', event_type, ',aggregate_type=', aggregate_type,
		(SELECT string_agg(',' || key || '=' || coalesce(value, 'NULL'), '' ORDER BY key) FROM jsonb_each_text(headers)))
	FROM outbox.event
	SQL
my %arrived = map { split / /, $_, 2 } consume_lines($topic, '%k %h');

for my $i (0 .. $#mixtures)
{
	my @keys = $i * $events .. ($i + 1) * $events - 1;
	my @wrong = grep { ($arrived{$_} // 'nothing') ne $expected{$_} } @keys;
	is(scalar @wrong, 0, $mixtures[$i][0])
	  or diag "event $wrong[0] has $arrived{$wrong[0]} instead of $expected{$wrong[0]}";
}

done_testing();
