# Topics that Kafka creates when they are used for the first time are not waited
# for one after the other.

use strict;
use warnings;

use lib 't';
use IPC::Run;
use OutboxRefused;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

use constant TOPICS => 400;

my $kafka = own_kafka('new');
my $bootstrap = kafka_bootstrap($kafka);

# What the topics hold whose names begin so: a list for each.
sub read_topics
{
	my ($prefix) = @_;
	my @command = ('kcat', '-q', '-e', '-b', $bootstrap, '-X', 'auto.offset.reset=earliest',
		'-X', 'isolation.level=read_committed', '-f', "%t %k %s\\n", '-G', topic_name('group'), "^\Q$prefix\E");
	my ($output, $errors, %payloads) = ('', '');
	IPC::Run::run(\@command, '<', \undef, '>', \$output, '2>', \$errors) or die "kcat failed: $errors\n";
	foreach (split /\n/, $output)
	{
		my ($topic, $key, $payload) = split / /;
		push @{ $payloads{"$topic $key"} }, $payload;
	}
	return %payloads;
}

# How many requests of the broker made the controller create topics whose names
# begin so, each time as many as a client wanted at once.  A broker that is slow
# to learn of new topics asks for them again, which creates nothing.
sub requests_to_create
{
	my ($prefix) = @_;
	return scalar grep { /CreateTopics result.*'\Q$prefix\E[^)]*\): SUCCESS/ } split /\n/, slurp_file("$kafka/node-1/log");
}

# Does a list begin, or if each is delivered once consist, of that?  Kafka may
# have been so slow that a relay had to start over, and sent the list again.
sub has_sequence
{
	my ($delivery, $sequence, $list) = @_;
	my $has = join(' ', @{ $list || [] });
	return $has eq $sequence if $delivery eq 'exactly_once';
	return $has =~ /^\Q$sequence\E( |$)/;
}

foreach my $delivery ('at_least_once', 'exactly_once')
{
	note($delivery);
	my $node = new_server("new_$delivery");
	create_extension($node, 'postgres', $bootstrap);
	$node->safe_psql('postgres', "ALTER SERVER kafka OPTIONS (ADD delivery '$delivery')");
	publish_from($node, $kafka);
	create_functions();
	my $known = make_topic(topic_name("known.$delivery"), 1, dir => $kafka);
	my $limited = make_topic(topic_name("limited.$delivery"), 1, dir => $kafka, 'max.message.bytes' => 100_000);
	# Names that differ in nothing else exclude each other.
	my $impossible = $known =~ tr/./_/r;
	my $prefix = topic_name("new.$delivery");
	my $first = topic_name("first.$delivery");
	# A relay that has not seen Kafka create topics is less patient.
	sql("SELECT small('$known', 'k', 0, 0), small('$first.' || i, 'k', 1, 1) FROM generate_series(1, 10) i");
	wait_until_confirmed($node, 'postgres');
	wait_until('SELECT count(*) = 0 FROM outbox.held_event');

	# One transaction, in which other events are refused or have topics.
	sql(<<SQL);
BEGIN;
SELECT small('$prefix.' || i, k, n * 2 - 1, n * 2), small('$known', 'k', i, i)
  FROM generate_series(1, 3) n, unnest('{a,b}'::text[]) k, generate_series(1, @{[TOPICS]}) i
 ORDER BY n, i, k;
SELECT refused('$limited'), small('$limited', 'k', 1, 1), small('$prefix.' || 1, 'a', 7, 7), small('$impossible', 'k', 1, 1);
COMMIT;
SQL
	wait_until_confirmed($node, 'postgres');
	wait_until("SELECT count(*) FILTER (WHERE topic <> '$impossible') = 0 FROM outbox.held_event");
	cmp_ok(requests_to_create("$prefix."), '<', TOPICS / 4, "$delivery: many new topics of one transaction are created at once");
	my %payloads = read_topics("$prefix.");
	# What was sent behind the refused one may come twice.
	my @wrong = grep { join(' ', first_occurrences(@{ $payloads{"$prefix.$_"} || [] })) ne ($_ eq '1 a' ? '1 2 3 4 5 6 7' : '1 2 3 4 5 6') }
	  map { ("$_ a", "$_ b") } 1 .. TOPICS;
	is("@wrong[0 .. ($#wrong < 3 ? $#wrong : 3)]", '', 'each key has its events, in order');
	my @behind = map { [ $delivery eq 'exactly_once' ? @{$_} : first_occurrences(@{$_}) ] }
	  grep { "@$_" =~ /^1/ } values %{ { read_topics($limited) } };
	is_deeply(\@behind, [ ['1'] ], 'so has another topic, which refused one');
	is(sql('SELECT topic, error_code FROM outbox.dead_letter'), "$limited|MSG_SIZE_TOO_LARGE", 'no other event is a dead letter');
	is(sql('SELECT topic FROM outbox.held_event'), $impossible, 'nothing waits but for a topic that cannot be created');

	# A transaction for each.
	$prefix = topic_name("small.$delivery");
	my $file = "$PostgreSQL::Test::Utils::tmp_check/$delivery.sql";
	unlink $file;
	append_to_file($file, join '', map { "SELECT small('$prefix.$_', 'k', 1, 2);\n" } 1 .. TOPICS);
	system_or_bail('psql', '-qX', '-o', '/dev/null', '-f', $file, $node->connstr('postgres'));
	wait_until_confirmed($node, 'postgres');
	wait_until("SELECT count(*) FILTER (WHERE topic <> '$impossible') = 0 FROM outbox.held_event");
	cmp_ok(requests_to_create("$prefix."), '<', TOPICS / 4, 'so are those of many transactions');
	%payloads = read_topics("$prefix.");
	is(scalar(grep { has_sequence($delivery, '1 2', $payloads{"$prefix.$_ k"}) } 1 .. TOPICS), TOPICS, 'all events arrive');

	# They are there for a relay that begins anew, and come out of the table.
	$node->stop;
	$node->start;
	$node->safe_psql('postgres', 'SELECT outbox.replay(now() - interval $$1 hour$$)');
	wait_until('SELECT count(*) > 0 AND bool_and(finished_at IS NOT NULL) FROM outbox.replay_job');
	wait_until("SELECT count(*) FILTER (WHERE topic <> '$impossible') = 0 FROM outbox.held_event");
	%payloads = read_topics("$prefix.");
	is(scalar(grep { has_sequence($delivery, '1 2 1 2', $payloads{"$prefix.$_ k"}) } 1 .. TOPICS), TOPICS, 'which sends them again');
	$node->stop;
}

done_testing();
