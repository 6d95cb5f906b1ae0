# Messages that come from Kafka are handled once, in the transaction that
# stores the position.

use strict;
use warnings;

use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;

use OutboxTest;

my $node = new_server('inbox', "max_worker_processes = 16\n");
create_extension($node, 'postgres');

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

my $topic = make_topic(topic_name('Orders'), 3);

produce($topic, map { "k$_\tv$_" } 1 .. 10);
sql(<<SQL);
CREATE TABLE effect (id bigserial, event_id text, key text, value text, at timestamptz DEFAULT now());
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	INSERT INTO effect (event_id, key, value)
	VALUES (m.event_id, m.aggregate_id, inbox.payload_text(m));
END
\$\$;
SELECT inbox.subscribe('orders', ARRAY['$topic'], 'handle');
SQL
ok( $node->poll_query_until('postgres', 'SELECT count(*) = 10 FROM effect'),
	'messages from before the subscription are handled');
is( sql("SELECT string_agg(key || '=' || value, ' ' ORDER BY substr(key, 2)::int) FROM effect"),
	join(' ', map { "k$_=v$_" } 1 .. 10),
	'with key and payload');
my $between = sql('SELECT clock_timestamp()');
produce($topic, map { "k$_\tv$_" } 11 .. 20);
ok( $node->poll_query_until('postgres', 'SELECT count(*) = 20 FROM effect'),
	'and those from after it');
is(sql("SELECT sum(next_offset), sum(processed), sum(duplicates) FROM inbox.position"),
	'20|20|0', 'the position is stored');
is(sql("SELECT count(*), min(status) FROM inbox.message"),
	'20|processed', 'and so are the messages');

is(sql("SELECT count(*) FROM effect WHERE at > '$between'"),
	10, 'for a handler, now() is the time of its batch');

done_testing();
