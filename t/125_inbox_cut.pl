# A log that was cut, since its broker was restored from an older copy; positions
# that do not exist; and a transaction of a producer that stays open.

use strict;
use warnings;

use lib 't';
use File::Copy qw(move);
use IO::Handle;
use OutboxInbox;
use OutboxProxy;
use OutboxTest;
use PostgreSQL::Test::RecursiveCopy;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = own_kafka('cut', '--compiler', '1');
my $bootstrap = kafka_bootstrap($kafka);
my $node = new_server('inbox_cut', "max_worker_processes = 32\n");
subscribe_in($node);
my $proxy = OutboxProxy->new($kafka);
create_extension($node, 'postgres', $proxy->bootstrap);

sql(<<'SQL');
CREATE TABLE effect (id bigserial, subscription text, value text);
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE sql AS
	$$ INSERT INTO effect (subscription, value) VALUES (m.subscription, inbox.payload_text(m)) $$;
SQL

my %kcat = (bootstrap => $bootstrap);

sub subscribe
{
	my ($name, $topic) = @_;
	sql("SELECT inbox.subscribe('$name', ARRAY['$topic'], 'handle')");
	return;
}

sub wait_for_count
{
	my ($name, $count, $what) = @_;
	return wait_for("SELECT count(*) = $count FROM effect WHERE subscription = '$name'", $what);
}

# ---------------------------------------------------------------------------
# A broker that is restored from an older copy: of the partition that is read
# while it happens, of one that is read later, and of one that was not cut

my @cut = qw(running paused);
make_topic($_, 1, dir => $kafka) foreach @cut, 'same';
produce($_, \%kcat, map { "k\ta$_" } 1 .. 50) foreach @cut, 'same';
subscribe($_, $_) foreach @cut, 'same';
wait_for_count($_, 50, "$_: the first are handled") foreach @cut, 'same';
my $data = "$kafka/node-1/data";
kafka('stop', $kafka);
PostgreSQL::Test::RecursiveCopy::copypath($data, "$kafka/old");
kafka('restart', $kafka);
produce($_, \%kcat, map { "k\tb$_" } 1 .. 50) foreach @cut;
wait_for_count($_, 100, "$_: and more") foreach @cut;
wait_for("SELECT bool_and(state = 'running') FROM inbox.stat_subscription", 'all is well');
sql("SELECT inbox.pause('paused')");
wait_for("SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'outbox consumer' AND application_name = 'paused'", 'one rests');

$proxy->cut;
kafka('kill', $kafka);
move($data, "$kafka/new") && move("$kafka/old", $data) or die "cannot move $data: $!\n";
kafka('restart', $kafka);
produce($_, \%kcat, map { "k\tc$_" } 1 .. 80) foreach @cut;
produce('same', \%kcat, "k\tc1");
$proxy->heal;
sql("SELECT inbox.resume('paused')");
wait_for("SELECT state = 'data lost' AND last_error ~ 'was cut' FROM inbox.stat_subscription WHERE name = '$_'", "$_: that it was cut is seen") foreach @cut;
is(sql("SELECT string_agg(DISTINCT concat_ws(' ', lost_reason, lost_from BETWEEN 30 AND 50, lost_until), '; ') FROM inbox.position WHERE topic <> 'same'"),
	'cut t 100', 'and where, as timestamps tell');
wait_for_count('same', 51, 'one that was not cut goes on');
is(sql("SELECT count(*) FROM effect WHERE value ~ 'c' AND subscription <> 'same'"), 0, 'nothing is handled of what was cut');
sql("SELECT inbox.seek(subscription, topic, partition, lost_from) FROM inbox.position WHERE lost_reason = 'cut'");
wait_for_count($_, 180, "$_: after seek() all is handled") foreach @cut;
is(sql("SELECT count(DISTINCT (subscription, value)) FROM effect WHERE subscription <> 'same'"), 360, 'and each once');
wait_for("SELECT bool_and(state = 'running') FROM inbox.stat_subscription", 'all is well');

# ---------------------------------------------------------------------------
# Positions that do not exist

sql("SELECT inbox.seek('same', 'same', 0, 1000000)");
wait_for("SELECT state = 'stopped' AND last_error ~ 'ends at offset 51, before the position 1000000' FROM inbox.stat_subscription WHERE name = 'same'",
	'a position behind the end is told');
sql("SELECT inbox.seek('same', 'same', 0, 51), inbox.seek('same', 'same', 7, 0)");
wait_for("SELECT last_error ~ 'partition 7 of topic \"same\", which has 1 of them, does not exist' FROM inbox.stat_subscription WHERE name = 'same'",
	'a partition that does not exist is told');
wait_for("SELECT state = 'running' AND partitions = 1 AND lag = 0 FROM inbox.stat_subscription WHERE name = 'same'", 'and does not count');
produce('same', \%kcat, "k\tc2");
wait_for_count('same', 52, 'and the other one goes on');

# ---------------------------------------------------------------------------
# One seek() after another, while the first is being carried out

my $no_worker = "SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'outbox consumer' AND application_name = 'same'";
sql("SELECT inbox.pause('same')");
wait_for($no_worker, 'a pause');
sql("SELECT inbox.seek('same', 'same', 0, 'latest')");
my $session = $node->background_psql('postgres');
$session->query("BEGIN; SELECT FROM inbox.position WHERE topic = 'same' FOR UPDATE");
sql("SELECT inbox.resume('same')");
wait_for("SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND backend_type = 'outbox consumer'", 'a worker carries out the first of two seeks');
$session->query("SELECT inbox.seek('same', 'same', 0, 50, rerun => true)");
$session->query('COMMIT');
$session->quit;
wait_for_count('same', 54, 'the second one counts');

# ---------------------------------------------------------------------------
# A transaction of a producer that stays open

make_topic('held', 1, dir => $kafka);
subscribe('held', 'held');
produce('held', \%kcat, "k\t1");
open my $producer, '|-', 'kcat', '-P', '-q', '-b', $bootstrap, '-t', 'held', '-K', '\t', '-X', 'transactional.id=held', '-X', 'linger.ms=1'
  or die "cannot start kcat: $!\n";
$producer->autoflush(1);
# It sends when it has read a megabyte or so.
print $producer "k\t2" . ' ' x 1000 . "\n" foreach 1 .. 3000;
wait_for("SELECT lag > 0 AND lag_seconds >= 0 FROM inbox.stat_subscription WHERE name = 'held'", 'an open transaction shows as a lag');
produce('held', \%kcat, "k\t3");
wait_for("SELECT state = 'running' AND last_error ~ 'partition 0 of topic \"held\" wait for a transaction of a producer, which is open since offset 1\$' FROM inbox.stat_subscription WHERE name = 'held'",
	'and that it is waited for is told');
close $producer or die "kcat failed: $?\n";
wait_for_count('held', 3002, 'it goes on when the transaction has ended');
is(sql("SELECT string_agg(value, ' ' ORDER BY id) FROM effect WHERE subscription = 'held' AND value !~ '2'"), '1 3', 'in order');

done_testing();
