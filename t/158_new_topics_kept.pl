# Events of topics that are new are kept until Kafka has made these, and others
# go on meanwhile; neither a crash nor other settings lose what is kept.

use strict;
use warnings;

use lib 't';
use OutboxRefused;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

# So many events that sending them takes longer than an answer of Kafka.
use constant LARGE => 200_000;

my $kafka = own_kafka('kept');
my $bootstrap = kafka_bootstrap($kafka);
my %stamped = ('dir' => $kafka, 'message.timestamp.type' => 'LogAppendTime');

# When Kafka got the last message of a topic, in ms, once it has so many.
sub appended_at
{
	my ($topic, $count) = @_;
	my @lines = committed_lines($count, $topic, '%T %s', $bootstrap);
	return (split / /, $lines[-1])[0];
}

# Compares what a topic has with what was published for it.
sub is_complete
{
	my ($topic, $delivery, $count, $what) = @_;
	my @sequence = wait_for_sequence($count, $topic, 'k', '-X', 'isolation.level=read_committed');
	@sequence = first_occurrences(@sequence) if $delivery eq 'at_least_once';
	is("@sequence", join(' ', 1 .. $count), $what);
	return;
}

foreach my $delivery ('at_least_once', 'exactly_once')
{
	note($delivery);
	my $node = new_server("kept_$delivery");
	create_extension($node, 'postgres', $bootstrap);
	$node->safe_psql('postgres', "ALTER SERVER kafka OPTIONS (ADD delivery '$delivery')");
	publish_from($node, $kafka, $bootstrap);
	create_functions();
	my $known = make_topic(topic_name("known.$delivery"), 1, %stamped);
	my @later = map { make_topic(topic_name("later$_.$delivery"), 1, %stamped) } 1 .. 2;
	sql("SELECT small('$known', 'k', 0, 0)");
	wait_until_confirmed($node, 'postgres');

	# In the middle of a large transaction.
	sql("SELECT small('$later[0]', 'k', 1, 1), small('$later[1]', 'k', 1, 1), small('$known', 'k', 1, @{[LARGE]})");
	wait_until_confirmed($node, 'postgres');
	my $last = appended_at($known, LARGE + 1);
	cmp_ok(appended_at($_, 1), '<', $last, "$delivery: what is kept does not wait for the end of a transaction") foreach @later;

	# Topics that cannot be created, as these names exclude others.
	my @impossible = map { tr/./_/r } @later;
	sql("SELECT small('$impossible[0]', 'k', 1, 1), small('$impossible[1]', 'k', 1, 1), small('$known', 'k', 0, 0)");
	wait_until('SELECT count(*) = 2 FROM outbox.parked_topic');
	my $parked = sql('SELECT extract(epoch FROM min(since)) * 1000 FROM outbox.parked_topic');
	cmp_ok(appended_at($known, LARGE + 2), '<', $parked, 'others do not wait until Kafka has not created topics')
	  if $delivery eq 'at_least_once';
	is(sql('SELECT count(*) FROM outbox.dead_letter'), 0, 'there are no dead letters');

	# A crash, and other settings, while topics are waited for.
	foreach my $end ('crash', 'settings')
	{
		my @new = map { topic_name("$end$_.$delivery") } 1 .. 3;
		# A Kafka transaction that is being committed would be waited for.
		wait_until_confirmed($node, 'postgres');
		my $before = sql('SELECT pg_current_wal_lsn()');
		signal_kafka('STOP', $kafka);
		# All at once: one alone would be waited for.
		sql('SELECT ' . join(', ', map { "small('$_', 'k', 1, 3)" } @new));
		sql('SELECT ' . join(', ', map { "small('$_', 'k', 4, 5)" } @new));
		wait_until("SELECT received_lsn > '$before' FROM outbox.stat_relay");
		if ($end eq 'crash')
		{
			$node->stop('immediate');
			$node->start;
		}
		else
		{
			sql('ALTER SERVER kafka OPTIONS (ADD "linger.ms" $$7$$)');
		}
		signal_kafka('CONT', $kafka);
		wait_until_confirmed($node, 'postgres');
		is_complete($_, $delivery, 5, "$end: nothing that was kept is lost, and the order is that of publishing") foreach @new;
	}
	$node->stop;
}

done_testing();
