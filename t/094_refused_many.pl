# Events that a topic refuses, among many others: whichever way events are
# delivered, others are not sent one at a time for that, and a relay does not
# start over for each.

use strict;
use warnings;

use lib 't';
use OutboxRefused;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

# Records of Kafka's own in a topic: one of each partition for every Kafka
# transaction.
sub hidden_records
{
	my ($topic) = @_;
	my ($count, %end) = (0);
	foreach (consume_lines($topic, '%p %o', undef, '-X', 'isolation.level=read_uncommitted'))
	{
		my ($partition, $offset) = split / /;
		$count++;
		$end{$partition} = $offset + 1 if $offset + 1 > ($end{$partition} // 0);
	}
	$count = -$count;
	$count += $_ foreach values %end;
	return $count;
}

foreach my $case (
	[ 'exactly_once', 'none' ],
	[ 'exactly_once', 'lz4' ],
	[ 'at_least_once', 'lz4' ])
{
	my ($delivery, $codec) = @$case;
	note("$delivery, $codec");
	my $node = new_server("refused_${delivery}_$codec");
	create_extension($node, 'postgres');
	publish_from($node);
	change_settings("ALTER SERVER kafka OPTIONS (ADD delivery '$delivery', ADD \"compression.codec\" '$codec')");
	create_functions();

	# One refused event, and batches that are larger than the topic takes.
	my $topic = make_topic(topic_name("few.$delivery.$codec"), 1, 'max.message.bytes' => 20000);
	my $offset = -s $node->logfile;
	sql("SELECT small('$topic', 'k', 1, 10000), refused('$topic'), small('$topic', 'k', 10001, 20000)");
	wait_until_confirmed($node, 'postgres');
	my @sequence = sequence($topic);
	is_deeply([ first_occurrences(@sequence) ], [ 1 .. 20000 ], 'all others arrive, in order');
	is(scalar @sequence, 20000, 'once') if $delivery eq 'exactly_once';
	is(sql("SELECT count(*), min(error_code) FROM outbox.dead_letter"), '1|MSG_SIZE_TOO_LARGE', 'the refused one is a dead letter');
	my $restarts = () = slurp_file($node->logfile, $offset) =~ /starts over/g;
	cmp_ok($restarts, '<', 12, "the relay has started over a few times: $restarts");

	# Many of them.
	$topic = make_topic(topic_name("many.$delivery.$codec"), 4, 'max.message.bytes' => 20000);
	$offset = -s $node->logfile;
	sql("SELECT refused('$topic'), small('$topic', i::text, i * 20 + 1, i * 20 + 20) FROM generate_series(0, 499) i");
	sql("SELECT refused('$topic'), small('$topic', i::text, i * 20 + 1, i * 20 + 20) FROM generate_series(500, 549) i");
	wait_until_confirmed($node, 'postgres');
	is(scalar(first_occurrences(consume_lines($topic, '%k %s'))), 11000, 'of many refused ones the others arrive, too');
	is(sql("SELECT count(*), count(DISTINCT event_id), max(attempts) FROM outbox.dead_letter WHERE topic = '$topic'"),
		'550|550|1', 'and they are dead letters');
	$restarts = () = slurp_file($node->logfile, $offset) =~ /starts over/g;
	cmp_ok($restarts, '<', 12, "with few new beginnings: $restarts");
	if ($delivery eq 'exactly_once')
	{
		my $hidden = hidden_records($topic);
		cmp_ok($hidden, '<', 200, "Kafka is not asked about each: $hidden hidden records");
	}

	# Smaller batches are kept by later relays, and who retries is asked.
	sql("SELECT outbox.retry(event_id) FROM outbox.dead_letter WHERE topic = '$topic' LIMIT 3");
	wait_until("SELECT count(*) = 3 FROM outbox.dead_letter WHERE attempts = 2");
	kafka('alter-topic', $ENV{OUTBOX_TEST_KAFKA_DIR}, $topic, 'max.message.bytes=1000000');
	sql("SELECT outbox.retry_all('$topic')");
	wait_until("SELECT count(*) = 0 FROM outbox.dead_letter WHERE topic = '$topic'");
	pass('they are sent when the topic takes them');

	# Refused for another reason than their size.
	$topic = make_topic(topic_name("compacted.$delivery.$codec"), 2, 'cleanup.policy' => 'compact');
	$offset = -s $node->logfile;
	sql("SELECT small('$topic', NULL, 0, 0), small('$topic', 'k', i * 20 + 1, i * 20 + 20) FROM generate_series(0, 199) i");
	wait_until_confirmed($node, 'postgres');
	@sequence = sequence($topic);
	is_deeply([ first_occurrences(@sequence) ], [ 1 .. 4000 ], 'beside those without a key that a compacted topic refuses all arrive, in order');
	is(scalar @sequence, 4000, 'once') if $delivery eq 'exactly_once';
	is(sql("SELECT count(*), min(error_code), max(attempts) FROM outbox.dead_letter WHERE topic = '$topic'"),
		'200|INVALID_RECORD|1', 'and they are dead letters');
	$restarts = () = slurp_file($node->logfile, $offset) =~ /starts over/g;
	note("$restarts new beginnings");
	cmp_ok($restarts, '<', 12, "with few new beginnings: $restarts") if $delivery eq 'exactly_once';

	# Large for its headers, behind many that are not.
	$topic = make_topic(topic_name("headers.$delivery.$codec"), 1, 'max.message.bytes' => 20000);
	$offset = -s $node->logfile;
	sql(<<SQL);
SELECT small('$topic', 'k', 1, 1000),
	   outbox.publish('Big', 'k', 'Big', '{}', topic => '$topic', headers => jsonb_build_object('noise', convert_from(noise(60000), 'UTF8'))),
	   small('$topic', 'k', 1001, 2000);
SQL
	wait_until_confirmed($node, 'postgres');
	is_deeply([ first_occurrences(sequence($topic)) ], [ 1 .. 2000 ], 'all arrive that are beside one with large headers');
	is(sql("SELECT count(*), min(error_code) FROM outbox.dead_letter WHERE topic = '$topic'"), '1|MSG_SIZE_TOO_LARGE', 'which is a dead letter');
	if ($delivery eq 'exactly_once')
	{
		my $hidden = hidden_records($topic);
		cmp_ok($hidden, '<', 200, "and does not make others suspect: $hidden hidden records");
	}

	# A database whose keys have more bytes in Kafka than here; not compressed.
	if ($delivery eq 'exactly_once' && $codec ne 'none')
	{
		$node->stop;
		next;
	}
	$topic = make_topic(topic_name("latin.$delivery.$codec"), 1, 'max.message.bytes' => 20000);
	sql("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'");
	$node->safe_psql('latin', 'CREATE EXTENSION outbox');
	create_server($node, 'latin');
	$node->safe_psql('latin', "ALTER SERVER kafka OPTIONS (ADD delivery '$delivery', ADD \"compression.codec\" 'none')");
	wait_for_state($node, 'latin', 'streaming');
	$offset = -s $node->logfile;
	$node->safe_psql('latin', <<SQL);
SELECT outbox.publish('Big', 'schl' || chr(252) || 'ssel', 'Big', to_jsonb(repeat('x', 150000)), topic => '$topic');
SELECT outbox.publish('Small', 'schl' || chr(252) || 'ssel', 'Small', to_jsonb(i), topic => '$topic') FROM generate_series(1, 10) i;
SQL
	wait_until_confirmed($node, 'latin');
	is($node->safe_psql('latin', 'SELECT count(*), min(error_code) FROM outbox.dead_letter'),
		'1|MSG_SIZE_TOO_LARGE', 'a key with other bytes in Kafka does not hide what was refused');
	my @lines = consume_lines($topic, '%k %s');
	# What was sent behind a refused event may come again when that is sent anew.
	@lines = first_occurrences(@lines) if $delivery ne 'exactly_once';
	is(join(' ', @lines), join(' ', map { "schl\xC3\xBCssel $_" } 1 .. 10), 'what came behind it arrives');
	$restarts = () = slurp_file($node->logfile, $offset) =~ /starts over/g;
	cmp_ok($restarts, '<', 12, "with few new beginnings: $restarts");
	$node->stop;
}

done_testing();
