# A relay that finds as much as before each time it looks at the table: it goes
# on to its slot all the same.

use strict;
use warnings;

use lib 't';
use OutboxProxy;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = own_kafka('steady');
my $network = OutboxProxy->new($kafka);
my $topic = make_topic(topic_name('steady'), 1, dir => $kafka);
my $node = new_server('steady');
$node->safe_psql('postgres', 'CREATE EXTENSION outbox');
create_server($node, 'postgres', closed_port());
wait_for_state($node, 'postgres', 'waiting for kafka');

sub sql { return $node->safe_psql('postgres', $_[0]) }

# A look takes some seconds, and during each the writer publishes what the next
# one finds.
my $looks = 11_000;
sql(<<SQL);
CREATE FUNCTION publish_some() RETURNS void LANGUAGE sql AS \$\$
	SELECT outbox.publish('Test', 'k', 'Made', to_jsonb(i), topic => '$topic')
	FROM generate_series(1, $looks) i
\$\$;
SELECT publish_some();
CREATE PROCEDURE follow() LANGUAGE plpgsql AS \$\$
DECLARE
	seen pg_lsn := '0/0';
	latest pg_lsn;
BEGIN
	LOOP
		SELECT coalesce(max(lsn), '0/1') INTO latest FROM outbox.watermark;
		IF latest > seen THEN
			PERFORM publish_some();
			seen := latest;
		END IF;
		COMMIT;
		PERFORM pg_sleep(0.02);
	END LOOP;
END
\$\$;
SQL
$network->slow(0.01);
sql(qq{ALTER SERVER kafka OPTIONS (SET "bootstrap.servers" '@{[ $network->bootstrap ]}', ADD "batch.num.messages" '100')});
$node->poll_query_until('postgres', 'SELECT catchup_done > 0 FROM outbox.stat_relay')
  or die "the relay does not look at the table\n";
my $writer = start_psql($node, 'postgres', 'CALL follow()');
wait_for_state($node, 'postgres', 'streaming');
is(sql("SELECT count(*) FROM pg_stat_activity WHERE query = 'CALL follow()'"),
	1, 'there is a slot, though much was published all the time');

sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'CALL follow()'");
$writer->finish;
$network->heal;
wait_until_confirmed($node, 'postgres');
my $events = sql('SELECT count(*) FROM outbox.event');
cmp_ok($events, '>=', 3 * $looks, 'the writer worked');
my @values = consume_lines($topic, '%s', kafka_bootstrap($kafka));
is(scalar @values, $events, 'nothing is lost, and nothing comes again');
is_deeply(\@values, [ map { 1 + $_ % $looks } 0 .. $events - 1 ], 'in order');

$node->stop;
done_testing();
