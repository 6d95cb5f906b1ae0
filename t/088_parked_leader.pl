# A partition without a leader holds up itself, and nothing else: neither other
# partitions of its topic, nor other topics, nor those that are new.

use strict;
use warnings;

use lib 't';
use OutboxRefused;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

# Whose own topics have replicas everywhere.
my $kafka = own_kafka('leader', '--nodes', 3, '--property', 'default.replication.factor=3',
	'--property', 'transaction.state.log.replication.factor=3');
my $bootstrap = kafka_bootstrap($kafka);

# Waits until a topic has so many events, in whatever Kafka transaction.
sub wait_for_uncommitted
{
	my ($topic, $count) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	while (consume_lines($topic, '%s', $bootstrap, '-X', 'isolation.level=read_uncommitted') < $count)
	{
		die "$topic does not have $count events\n" if time > $deadline;
	}
	return;
}

foreach my $delivery ('at_least_once', 'exactly_once')
{
	note($delivery);
	my $short = $delivery eq 'exactly_once' ? 'exact' : 'least';
	my $node = new_server("leader_$short");
	create_extension($node, 'postgres', $bootstrap);
	$node->safe_psql('postgres', "ALTER SERVER kafka OPTIONS (ADD delivery '$delivery')");
	wait_for_state($node, 'postgres', 'streaming');
	publish_from($node, $kafka);
	create_functions();

	# The first topic has its first partition on the broker that dies.
	my %topic = map { $_ => topic_name("$_.$short") } qw(bad good mixed new);
	my $on = sub {
		my ($topic, $assignment) = @_;
		kafka('tool', $kafka, 'org.apache.kafka.tools.TopicCommand', '--create',
			'--topic', $topic, '--replica-assignment', $assignment);
	};
	$on->($topic{bad}, '3');
	$on->($topic{good}, '1');
	$on->($topic{mixed}, '3,1,2,1,2');
	my $publish = sub {
		my ($first, $last) = @_;
		sql("SELECT small('$topic{good}', 'k', $first, $last); SELECT small('$topic{mixed}', i::text, $first, $first) FROM generate_series(1, 50) i");
	};
	sql("SELECT small('$topic{bad}', 'k', 1, 10)");
	$publish->(1, 10);
	wait_until_confirmed($node, 'postgres');

	# In the midst of a Kafka transaction, which ends only where there is a leader.
	if ($delivery eq 'exactly_once')
	{
		$node->safe_psql('postgres', 'ALTER SYSTEM SET outbox.transaction_interval = 10000');
		$node->reload;
	}
	sql("SELECT small('$topic{bad}', 'k', 11, 11); SELECT small('$topic{good}', 'k', 11, 11)");
	if ($delivery eq 'exactly_once')
	{
		wait_for_uncommitted($topic{bad}, 11);
		wait_for_uncommitted($topic{good}, 11);
	}
	else
	{
		wait_until_confirmed($node, 'postgres');
	}
	kafka('kill', $kafka, 3);
	$node->safe_psql('postgres', 'ALTER SYSTEM RESET outbox.transaction_interval');
	$node->reload;
	# More than the library's queue takes.
	sql("SELECT small('$topic{bad}', 'k', 12, 15000)");
	sql("SELECT small('$topic{new}', 'k', 1, 20)");
	$publish->(12, 20);
	wait_until_confirmed($node, 'postgres');
	is_deeply([ first_occurrences(wait_for_sequence(20, $topic{good})) ],
		[ 1 .. 20 ], 'another topic goes on');
	is_deeply([ first_occurrences(wait_for_sequence(20, $topic{new})) ],
		[ 1 .. 20 ], 'so does a new one');
	wait_until_confirmed($node, 'postgres');
	wait_until("SELECT count(*) = 2 AND sum(waiting_events) > 14990 FROM outbox.stat_topic");
	is(sql("SELECT partitions FROM outbox.stat_topic WHERE topic = '$topic{mixed}'"), '{0}', 'one partition of a topic waits');
	my $waiting = sql("SELECT waiting_events FROM outbox.stat_topic WHERE topic = '$topic{mixed}'");
	cmp_ok($waiting, '<', 50, "the others do not: $waiting of 50 events wait");
	like(sql("SELECT last_error FROM outbox.stat_topic WHERE topic = '$topic{bad}'"),
		qr/partition 0 of topic ".*" has no leader/, 'stat_topic says why');
	is(relay_status($node, 'postgres', 'state'), 'streaming', 'the relay streams');

	if ($delivery eq 'exactly_once')
	{
		$node->restart;
		$publish->(21, 21);
		wait_until_confirmed($node, 'postgres');
		my @changes = slurp_file($node->logfile) =~ /goes on with another transactional.id/g;
		is(scalar @changes, 1, 'though a Kafka transaction cannot end, also after a restart');
	}
	else
	{
		$publish->(21, 21);
	}

	kafka('restart', $kafka, 3);
	wait_until('SELECT count(*) = 0 FROM outbox.stat_topic');
	my @bad = sequence($topic{bad});
	is_deeply([ first_occurrences(@bad) ], [ 1 .. 15000 ], 'once there is a leader all arrive, in order');
	my %times;
	my @twice = grep { $times{$_}++ } @bad;
	is(scalar @twice, 0, 'once') or diag("twice: $twice[0] to $twice[-1]");
	my @mixed = consume_lines($topic{mixed}, '%k %s', $bootstrap);
	is(scalar(first_occurrences(@mixed)), 150, 'in all partitions');
	$node->stop;
}

done_testing();
