# A connection that is lost while messages that have come already wait to be handled:
# when it is back, the partition is still taken for the one that was read.

use strict;
use warnings;

use lib 't';
use OutboxInbox;
use OutboxProxy;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = own_kafka('lost_connection', '--compiler', '1');
my %kcat = (bootstrap => kafka_bootstrap($kafka));
my $proxy = OutboxProxy->new($kafka);
my $node = new_server('inbox_lost_connection');
subscribe_in($node);
create_extension($node, 'postgres', $proxy->bootstrap);

# Waits for each message that is to wait as long as somebody else has the lock.
my $topic = make_topic(topic_name('lost'), 1, dir => $kafka);
sql(<<SQL);
CREATE TABLE effect (value text);
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	IF inbox.payload_text(m) = 'waits' THEN
		PERFORM pg_advisory_xact_lock(1);
	END IF;
	INSERT INTO effect VALUES (inbox.payload_text(m));
END \$\$;
SELECT inbox.subscribe('s', ARRAY['$topic'], 'handle');
SQL
produce($topic, \%kcat, map { "k\ta$_" } 1 .. 10);
wait_for('SELECT count(*) = 10 FROM effect', 'messages are handled, by the last of which the partition is known');

my $holder = $node->background_psql('postgres');
$holder->query_safe('SELECT pg_advisory_lock(1)');
produce($topic, \%kcat, "k\twaits");
wait_for("SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted", 'the handler takes its time');
produce($topic, \%kcat, map { "k\tb$_" } 1 .. 20);
# The library fetches these meanwhile.  Kafka's own tools, and the relay, are slower.
is(scalar(() = consume($topic, $kcat{bootstrap})), 31, 'more messages come');
$proxy->cut;
wait_for_state($node, 'postgres', 'waiting for kafka');
$holder->query_safe('SELECT pg_advisory_unlock(1)');
$holder->quit;
wait_for('SELECT count(*) = 31 FROM effect', 'they are handled while the connection is lost');
$proxy->heal;
produce($topic, \%kcat, "k\tlast");
wait_for("SELECT count(*) = 1 FROM effect WHERE value = 'last'", 'when it is back, the partition is read on');
wait_for("SELECT state = 'running' FROM inbox.stat_subscription", 'and all is well');
is(sql('SELECT count(*) FROM effect'), 32, 'each was handled once');
unlike(slurp_file($node->logfile), qr/is not the one that was read|was cut/, 'nor was it ever taken for another one');

$node->stop;
done_testing();
