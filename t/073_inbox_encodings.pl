# Databases whose encoding is not UTF-8: Kafka's messages are, or are not text
# at all, and no message may harm more than itself.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxTest;

my $node = new_server('inbox_encodings', "max_worker_processes = 24\n",
	extra => [ '--encoding=UTF8', '--no-locale' ]);
my ($u, $euro, $invalid) = ("\xc3\xbc", "\xe2\x82\xac", "\xff\xfe");
my $topic = make_topic(topic_name('Text'));

sub sql
{
	my ($db, $statements) = @_;
	return $node->safe_psql($db, "SET client_encoding = 'SQL_ASCII'; $statements");
}

# Every message by itself, since headers are for all of them.
produce($topic, { headers => [ "id=plain", "type=Paid", "note=$u" ] }, "k$u\t{\"name\": \"$u\"}");
produce($topic, { headers => [ "id=id$euro", "type=Paid$euro", "note=$euro", "$euro=x" ] }, "k$euro\t{\"name\": \"$euro\"}");
produce($topic, { headers => [ "id=id$invalid", "type=$invalid", "note=$invalid" ] }, "k$invalid\t$invalid");
produce($topic, { headers => ["id=escape"] }, "k\t{\"name\": \"\\u20ac\"}");
produce($topic, { headers => ["id=id$euro"] }, "k\tagain");
produce($topic, { headers => ["id=last"] }, "k\t{\"name\": \"last\"}");

foreach my $encoding ('LATIN1', 'SQL_ASCII', 'EUC_JP')
{
	my $db = lc $encoding;
	$node->safe_psql('postgres', "CREATE DATABASE $db TEMPLATE template0 ENCODING $encoding LOCALE 'C'");
	create_extension($node, $db);
	sql($db, <<SQL);
CREATE TABLE effect (id bigserial, subscription text, value text);
CREATE FUNCTION take(m inbox.message) RETURNS void LANGUAGE sql AS
	\$\$ INSERT INTO effect (subscription, value) VALUES (m.subscription, encode(m.payload, 'escape')) \$\$;
CREATE FUNCTION take_text(m inbox.message) RETURNS void LANGUAGE sql AS
	\$\$ INSERT INTO effect (subscription, value) VALUES (m.subscription, inbox.payload_text(m)) \$\$;
CREATE FUNCTION take_json(m inbox.message) RETURNS void LANGUAGE sql AS
	\$\$ INSERT INTO effect (subscription, value) VALUES (m.subscription, inbox.payload_json(m)->>'name') \$\$;
SELECT inbox.subscribe('bytes', ARRAY['^' || replace('$topic', '.', '\\.')], 'take'),
	inbox.subscribe('text', ARRAY['$topic'], 'take_text', max_attempts => 1),
	inbox.subscribe('json', ARRAY['$topic'], 'take_json', max_attempts => 2, retry_backoff => '10 ms');
SQL
	ok( $node->poll_query_until($db, "SELECT bool_and(received = 6 AND duplicates = 1 AND retrying = 0 AND state = 'running') FROM inbox.stat_subscription"),
		"$encoding: all messages are received, and known again by an id that is no text")
	  || diag(sql($db, 'TABLE inbox.stat_subscription; TABLE inbox.message'));
	is(sql($db, "SELECT count(*) FROM effect WHERE subscription = 'bytes'"), 5, "$encoding: bytes are always there");
	my %is = expected($encoding);
	is( sql($db, "SELECT string_agg(concat_ws(' ', event_id, aggregate_id, event_type), ',' ORDER BY \"offset\") FROM inbox.message WHERE subscription = 'bytes' AND \"offset\" < 3"),
		$is{columns}, "$encoding: what is no text is NULL, or a hash as the id");
	is( sql($db, "SELECT string_agg(headers - 'id' - 'type' #>> '{}', ',' ORDER BY \"offset\") FROM inbox.message WHERE subscription = 'bytes' AND \"offset\" < 3"),
		$is{headers}, "$encoding: or base64 as a header");
	is( sql($db, "SELECT bool_and(key = decode('6b' || k, 'hex')) FROM (VALUES (0, 'c3bc'), (1, 'e282ac'), (2, 'fffe')) k (o, k), inbox.message WHERE \"offset\" = o"),
		't', "$encoding: keys are there, byte for byte");
	is(sql($db, "SELECT string_agg(value, ' ' ORDER BY id) FROM effect WHERE subscription = 'text'"),
		$is{text}, "$encoding: payload_text()");
	is(sql($db, "SELECT string_agg(value, ' ' ORDER BY id) FROM effect WHERE subscription = 'json'"),
		$is{json}, "$encoding: payload_json()");
	is( sql($db, "SELECT string_agg(concat_ws(' ', subscription, \"offset\", error_sqlstate, attempts), ',' ORDER BY subscription, \"offset\") FROM inbox.message WHERE status = 'failed'"),
		$is{failed}, "$encoding: a payload that is no text fails where text is asked for, and alone");
	is( sql($db, "SELECT count(*) FROM inbox.message WHERE status = 'failed' AND error NOT LIKE '%The message is from topic \"$topic\", partition 0, offset ' || \"offset\" || '.%'"),
		0, "$encoding: the error says which message it is");
}

# What becomes of the messages above in a database of an encoding.  Only in
# SQL_ASCII every character can be, but not be told by its number.
sub expected
{
	my ($encoding) = @_;
	my $any = $encoding eq 'SQL_ASCII';
	my $ue = { LATIN1 => "\xfc", SQL_ASCII => $u, EUC_JP => "\x8f\xab\xe4" }->{$encoding};
	my $hash = 'sha256:898744e6f8e594d53130c67aab10c330e50f62f7d41995fd70a8671ced5e6748';
	return (
		columns => "plain k$ue Paid," . ($any ? "id$euro k$euro Paid$euro" : $hash)
		  . ',sha256:ff4c100fd45de1b0c6222ccbac7257c7216cdea706d047e778ebe774a008b7e3',
		headers => qq({"note": "$ue"},) . ($any ? qq({"$euro": "x", "note": "$euro"}) : '{"4oKs": "x", "note": {"base64": "4oKs"}}')
		  . ',{"note": {"base64": "//4="}}',
		text => qq({"name": "$ue"} ) . ($any ? qq({"name": "$euro"} ) : '') . '{"name": "\u20ac"} {"name": "last"}',
		json => "$ue " . ($any ? "$euro " : '') . 'last',
		# What a character that cannot be had is called depends on the release.
		failed => $any ? 'json 2 22021 2,json 3 ' . ($node->pg_version < 16 ? '0A000' : '22P05') . ' 2,text 2 22021 1'
		: 'json 1 22P05 2,json 2 22021 2,json 3 22P05 2,text 1 22P05 1,text 2 22021 1');
}

# The other direction: what is sent is UTF-8, or refused.
my $type = aggregate_type('Text');
my %text = (latin1 => "\xfc", sql_ascii => $u, euc_jp => "\x8f\xab\xe4");
foreach my $db (sort keys %text)
{
	sql($db, <<SQL);
SELECT outbox.publish('$type', 'k$text{$db}', 'T$text{$db}', '"$text{$db}"', '{"h$text{$db}": "$text{$db}"}', partition_key => '$db$text{$db}');
SELECT outbox.publish_bytes('$type', '$db', 'Bytes', '\\xe282ac', 'text/plain');
SELECT outbox.publish_bytes('$type', '$db', 'Bytes', '\\xfffe', 'text/plain');
SQL
	wait_until_confirmed($node, $db);
	my @messages = grep { $_->{key} =~ /^$db/ } consume("outbox.event.$type", undef, '-J');
	is_deeply(
		[ map { my %h = @{ $_->{headers} }; [ $_->{key}, $_->{payload}, @h{ 'type', "h$u" } ] } @messages[ 0 .. 0 ] ],
		[ [ "$db$u", "\"$u\"", "T$u", $u ] ],
		"$db: key, payload and headers are sent in UTF-8");
	is(sql($db, "SELECT string_agg(payload, ' ' ORDER BY id) FROM outbox.events"),
		"\"$text{$db}\" " . ($db eq 'sql_ascii' ? $euro : '\\342\\202\\254') . ' \\377\\376',
		"$db: outbox.events shows text where it can");
}
my ($status, $out, $error) = $node->psql('sql_ascii', "SELECT outbox.publish('$type', E'\\xfc', 'T', '{}')");
like($error, qr/invalid byte sequence for encoding "UTF8"/, 'SQL_ASCII: what is not UTF-8 is refused');

done_testing();
