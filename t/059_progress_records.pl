# Whatever others write into the progress topic: the last record of the relay
# itself counts, unless a newer release has written one.

use strict;
use warnings;

use lib 't';
use IPC::Run ();
use OutboxProgress;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = own_kafka('records', '--property', 'transaction.abort.timed.out.transaction.cleanup.interval.ms=500');
my $bootstrap = kafka_bootstrap($kafka);
my $topic = make_topic(topic_name('records'), 1, dir => $kafka);
my $node = new_server('records', 'restart_after_crash = on');
deliver_from($node, $topic, $bootstrap);

# Has the server forget all but what Kafka has, while no relay can write it
# again: then the last record tells what is published, or nothing does.
sub crash_without_watermark
{
	$node->stop('immediate');
	$node->append_conf('postgresql.conf', "shared_preload_libraries = ''\n");
	$node->start;
	sql('DELETE FROM outbox.watermark');
	$node->stop;
	$node->append_conf('postgresql.conf', "shared_preload_libraries = 'outbox'\n");
	$node->start;
	return;
}

sub check_watermark
{
	my ($name) = @_;
	is( sql('SELECT count(*) FROM outbox.event WHERE NOT pg_visible_in_snapshot(xid, (SELECT snapshot FROM outbox.watermark ORDER BY id DESC LIMIT 1))'),
		0, $name);
	return;
}

sql('CREATE EXTENSION outbox');
sql("CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS (\"bootstrap.servers\" '$bootstrap', delivery 'exactly_once')");
wait_for_state($node, 'postgres', 'streaming');
my $system = sql('SELECT system_identifier FROM pg_control_system()');
my $database = sql('SELECT oid FROM pg_database WHERE datname = current_database()');
my $progress = progress_topic($node, 'postgres');

# Produces records; the first of each pair is the key, or undef for ours.
sub foreign
{
	my @records = @_;
	my @lines;
	while (my ($key, $value) = splice @records, 0, 2)
	{
		push @lines, ($key // $progress) . "\t$value";
	}
	produce($progress, { bootstrap => $bootstrap }, @lines);
	return;
}

sub last_record
{
	return (grep { /^\{.*"database": $database\b/ } committed_lines(1, $progress, '%s', $bootstrap))[-1];
}

# ---------------------------------------------------------------------------
# What is none of ours.

publish_confirmed('first');
my $record = last_record();
my $later = $record =~ s/"snapshot": "[^"]*"/"snapshot": "900:900:"/r;
foreign(
	'other key' => $later,
	undef, 'garbage',
	undef, '{}',
	undef, $later =~ s/"lsn": "/"lsn": "x/r,
	undef, $later =~ s/"database": \d+/"database": 1/r,
	undef, $later =~ s/"system_identifier": "\d/"system_identifier": "9/r,
	undef, '');
my $offset = -s $node->logfile;
crash_without_watermark();
wait_for_state($node, 'postgres', 'streaming');
check_watermark('the last record of the relay counts');
my $log = slurp_file($node->logfile, $offset);
my @warnings = $log =~ /WARNING:  outbox relay passes over records of the topic "\Q$progress\E" that are not its own/g;
is(scalar @warnings, 1, 'and the others are reported, once');
like($log, qr/DETAIL:  The first one has the offset \d+: it has another key\./, 'with a reason');
publish_confirmed('second');
check_events('nothing comes twice');

# More of them than the relay reads at first.
foreign(map { (undef, "garbage $_") } 1 .. 3000);
crash_without_watermark();
wait_for_state($node, 'postgres', 'streaming');
check_watermark('it is found behind thousands of others, too');
publish_confirmed('third');
check_events('nothing comes twice');

# ---------------------------------------------------------------------------
# A newer release was here.

$record = last_record();
foreign(undef, qq({"version": 3, "system_identifier": "$system", "database": $database, "something": ["new"]}));
crash_without_watermark();
wait_for_error($node, 'postgres', 'waiting for configuration',
	"the topic \"$progress\" has a record of version 3, which a newer release of outbox has written");
publish('fourth');
is(sql('SELECT count(*) FROM outbox.watermark'), 0, 'a record of a newer release is not passed over');
foreign(undef, $record);
wait_for_state($node, 'postgres', 'streaming');
pass('and no longer in the way when it is not the last');
publish_confirmed('fifth');
check_events('nothing comes twice');

# ---------------------------------------------------------------------------
# Somebody has a Kafka transaction open there, which hides what comes behind it.

my $program = PostgreSQL::Test::Utils::tempdir() . '/open_transaction';
append_to_file("$program.c", <<'C');
#include <librdkafka/rdkafka.h>
#include <unistd.h>

/* open_transaction SERVERS TOPIC: sends a record in a transaction, and waits */
int
main(int argc, char **argv)
{
	char		error[512];
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *producer;

	rd_kafka_conf_set(conf, "bootstrap.servers", argv[1], error, sizeof(error));
	rd_kafka_conf_set(conf, "transactional.id", "foreign", error, sizeof(error));
	rd_kafka_conf_set(conf, "transaction.timeout.ms", "5000", error, sizeof(error));
	producer = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof(error));
	if (producer == NULL ||
		rd_kafka_init_transactions(producer, 60000) != NULL ||
		rd_kafka_begin_transaction(producer) != NULL ||
		rd_kafka_producev(producer, RD_KAFKA_V_TOPIC(argv[2]),
						  RD_KAFKA_V_PARTITION(0), RD_KAFKA_V_KEY("key", 3),
						  RD_KAFKA_V_VALUE("value", 5), RD_KAFKA_V_END) != 0 ||
		rd_kafka_flush(producer, 60000) != 0)
		return 1;
	return write(1, "open\n", 5) == 5 ? pause() : 1;
}
C
my @flags = split ' ', `pkg-config --cflags --libs rdkafka`;

SKIP:
{
	skip 'there is no C compiler', 3
	  unless IPC::Run::run([ 'cc', '-o', $program, "$program.c", @flags ], '2>', \my $errors);

	my $output = '';
	my $writer = IPC::Run::start([ $program, $bootstrap, $progress ], '<', \undef, '>', \$output);
	$writer->pump until $output =~ /open/;
	publish_confirmed('hidden');
	$writer->kill_kill(grace => 0);
	crash_without_watermark();
	wait_for_error($node, 'postgres', 'waiting for kafka', 'a Kafka transaction that is open hides what comes behind it');
	pass('an open transaction of somebody else is waited for');
	wait_for_state($node, 'postgres', 'streaming');
	check_watermark('and then the last record counts');
	publish_confirmed('last');
	check_events('nothing comes twice');
}

# ---------------------------------------------------------------------------
# Another relay publishes for this database, and Kafka has not fenced this one.

wait_until_confirmed($node, 'postgres');
foreign(undef, last_record() =~ s/"instance": "..../"instance": "ffff/r);
publish('split');
wait_for_state($node, 'postgres', 'fenced');
my @events = consume_lines($topic, '%s', $bootstrap);
is(scalar(grep { /split/ } @events), 0, 'a relay that finds the record of another one publishes nothing more');

$node->stop;
done_testing();
