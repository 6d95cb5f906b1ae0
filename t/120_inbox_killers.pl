# Messages that end their process, in whatever attempt, or whose handler cannot
# be committed: each is found, and fails, and all others go on.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxInbox;
use OutboxTest;

my $node = new_server('inbox_killers', "max_worker_processes = 24\nrestart_after_crash = on\n");
create_extension($node, 'postgres');
subscribe_in($node);
$node->safe_psql('postgres', 'CREATE DATABASE other');

sub failed
{
	my ($name) = @_;
	return "(SELECT count(*) FROM inbox.message WHERE subscription = '$name' AND status = 'failed')";
}

# So many processes of the subscription have died in its handler.
sub deaths
{
	my ($name) = @_;
	return sql("SELECT last_value - (NOT is_called)::int FROM tries_$name");
}

my %quick = (retry_backoff => "'10 ms'", max_attempts => 2);
my $die = 'PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(60);';
my $kill = "IF v = 'bad' THEN PERFORM nextval('tries_%s'); $die END IF;";

# ---------------------------------------------------------------------------
# One behind another, of one key

my $topic = subscribe_noting('twice', sprintf($kill, 'twice'), \%quick);
produce($topic, "b\tbad", "b\tbad", "c\t1", "b\tlast");
wait_for("SELECT @{[ failed('twice') ]} = 2 AND (SELECT count(*) FROM done_twice) = 2",
	'two of one key that kill are found, and what is behind them goes on');
produce($topic, "c\t2");
wait_for('SELECT count(*) = 3 FROM done_twice', 'new messages come through');
cmp_ok(deaths('twice'), '<=', 6, 'each costs one death among others, and one for each attempt');

$topic = subscribe_noting('behind', <<"SQL", \%quick);
	IF v = 'raise' THEN RAISE 'never'; END IF;
	@{[ sprintf($kill, 'behind') ]}
SQL
produce($topic, "k\traise", "k\tbad", "k\t1", "l\t1");
wait_for("SELECT @{[ failed('behind') ]} = 2 AND (SELECT count(*) FROM done_behind) = 2",
	'so is one that waits behind one that raises an error');

# An ordinary failure is no excuse for what comes later.
$topic = subscribe_noting('later', "IF v = 'bad' THEN IF nextval('tries_later') % 2 = 1 THEN RAISE 'for now'; END IF; $die END IF;",
	{ %quick, max_attempts => 6 });
produce($topic, "k\t1", "k\tbad", "k\t2");
wait_for("SELECT @{[ failed('later') ]} = 1 AND (SELECT count(*) FROM done_later) = 2",
	'one that kills in a later attempt is found');

# ---------------------------------------------------------------------------
# Many, among others that fail

$topic = subscribe_noting('many', <<"SQL", \%quick);
	IF v = 'raise' THEN RAISE 'never'; END IF;
	@{[ sprintf($kill, 'many') ]}
SQL
produce($topic, (map { "a$_\t$_" } 1 .. 200), "r\traise", (map { "b$_\t$_" } 1 .. 200),
	"k\tbad", (map { "c$_\t$_" } 1 .. 200));
wait_for("SELECT @{[ failed('many') ]} = 2 AND (SELECT count(DISTINCT key) FROM done_many) = 600",
	'one that kills and one that raises are found in a large batch');
cmp_ok(deaths('many'), '<=', 3, 'in as few deaths as alone');
is(sql('SELECT count(*) FROM done_many'), 600, 'and nothing is done twice');

$topic = subscribe_noting('spread', sprintf($kill, 'spread'), \%quick, 12);
produce($topic, (map { "a$_\t$_" } 1 .. 100), (map { "k$_\tbad" } 1 .. 5), (map { "b$_\t$_" } 1 .. 100));
wait_for("SELECT @{[ failed('spread') ]} = 5 AND (SELECT count(*) FROM done_spread) = 200",
	'five in twelve partitions are found');
cmp_ok(deaths('spread'), '<=', 15, 'in a number of deaths that goes by their number');

# With a single attempt, a message has a second one when its process ended.
$topic = subscribe_noting('single', sprintf($kill, 'single'), { %quick, max_attempts => 1 });
produce($topic, "k\tbad", "k\t1");
wait_for("SELECT @{[ failed('single') ]} = 1 AND (SELECT count(*) FROM done_single) = 1",
	'one that may be tried once only fails, too');
is(sql("SELECT attempts FROM inbox.message WHERE subscription = 'single' AND status = 'failed'"), 2,
	'after two attempts, since something else may have ended the process');

# Put back, it kills again, and is found again.
my $died = deaths('single');
is(sql("SELECT inbox.retry('single')"), 1, 'one that has failed is tried again');
wait_for("SELECT @{[ failed('single') ]} = 1", 'and fails again');
cmp_ok(deaths('single'), '>', $died, 'after it has killed again');

# ---------------------------------------------------------------------------
# What the handler does to its own subscription

foreach my $move ("inbox.seek('moving', m.topic, m.partition, 'latest')", "inbox.unsubscribe('moving')")
{
	my ($function) = $move =~ /(\w+)\(/;
	(my $statement = $move) =~ s/moving/$function/;
	$topic = subscribe_noting($function, "IF v = 'bad' THEN PERFORM $statement; END IF;", \%quick);
	produce($topic, "a\t1", "b\tbad", "c\t2");
	wait_for("SELECT @{[ failed($function) ]} = 1 AND (SELECT count(*) FROM done_$function) = 2",
		"a handler that calls inbox.$function() for its own subscription fails");
	like(sql("SELECT error FROM inbox.message WHERE subscription = '$function' AND status = 'failed'"),
		qr/^the handler of subscription "$function" cannot move or end it/, 'and says why');
}

# It finds a way round that: another session.
sql('CREATE EXTENSION dblink');
my $dsn = $node->connstr('postgres') =~ s/'/''/gr;
$topic = subscribe_noting('outside', "IF v = 'bad' THEN PERFORM dblink_exec('$dsn', format('DO \$d\$ BEGIN PERFORM inbox.seek(%L, %L, %s, 0); END \$d\$', 'outside', m.topic, m.partition)); END IF;", \%quick);
produce($topic, "a\t1", "b\tbad", "c\t2");
wait_for("SELECT @{[ failed('outside') ]} = 1 AND (SELECT count(*) FROM done_outside WHERE value <> 'bad') = 2",
	'one that moves it in another session fails in the end');
is(sql("SELECT count(*) FROM done_outside"), 2, 'and what it did is undone');

# The same in a later attempt, and where it waits behind another one.
foreach my $isolation ('read_committed', 'repeatable_read', 'serializable')
{
	my $name = "late_$isolation";
	$topic = subscribe_noting($name, "IF v = 'bad' THEN IF nextval('tries_$name') <= 2 THEN RAISE 'for now'; END IF; PERFORM dblink_exec('$dsn', format('DO \$d\$ BEGIN PERFORM inbox.seek(%L, %L, %s, 0); END \$d\$', '$name', m.topic, m.partition)); END IF;",
		{ %quick, max_attempts => 5, isolation => "'$isolation'" });
	produce($topic, "k\tbad", "k\tbehind", "l\t1");
	wait_for("SELECT @{[ failed($name) ]} = 1 AND (SELECT count(*) FROM done_$name) = 2",
		"one that does so in a later attempt fails, too ($isolation)");
}

# A message that is tried again discards itself.
$topic = subscribe_noting('discarding', "IF v = 'bad' THEN IF nextval('tries_discarding') <= 2 THEN RAISE 'later'; END IF; PERFORM inbox.discard('discarding', m.event_id); END IF;",
	{ %quick, max_attempts => 10 });
produce($topic, "k\tbad", "k\t1");
wait_for("SELECT (SELECT count(*) FROM done_discarding) = 2 AND NOT EXISTS (SELECT FROM inbox.message WHERE subscription = 'discarding' AND status <> 'processed')",
	'a handler may discard the message that it handles');

# ---------------------------------------------------------------------------
# The commit

# Remote constraints are checked when the remote transaction is committed.
$node->safe_psql('other', 'CREATE TABLE remote (v text UNIQUE DEFERRABLE INITIALLY DEFERRED); INSERT INTO remote VALUES (\'bad\')');
my ($host, $port) = ($node->host, $node->port);
sql(<<SQL);
CREATE EXTENSION postgres_fdw;
CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'other');
CREATE USER MAPPING FOR CURRENT_USER SERVER other OPTIONS (user 'postgres');
CREATE FOREIGN TABLE remote (v text) SERVER other;
SQL
$topic = subscribe_noting('remote', 'INSERT INTO remote VALUES (v);', \%quick);
produce($topic, (map { "a$_\t$_" } 1 .. 20), "k\tbad", "k\tbehind", (map { "b$_\tb$_" } 1 .. 20));
wait_for("SELECT @{[ failed('remote') ]} = 1 AND (SELECT count(*) FROM done_remote) = 41",
	'a message whose transaction cannot be committed is found, and fails');
like(sql("SELECT error || error_sqlstate FROM inbox.message WHERE subscription = 'remote' AND status = 'failed'"),
	qr/duplicate key.*23505$/s, 'with the error of the commit');
is($node->safe_psql('other', "SELECT count(*) FROM remote"), 42, 'the others are there once');

# ---------------------------------------------------------------------------
# Who ends for another reason is not to blame

$topic = subscribe_noting('innocent', "IF v = 'slow' THEN PERFORM pg_sleep(3600); END IF;", { max_attempts => 2, retry_backoff => "'10 ms'", handler_timeout => "'1 h'" });
produce($topic, "k\tslow");
foreach my $round (1 .. 3)
{
	wait_for("SELECT count(*) = 1 FROM pg_stat_activity WHERE application_name = 'innocent' AND wait_event = 'PgSleep'",
		'a handler takes long');
	if ($round == 1)
	{
		sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'innocent'");
		wait_for("SELECT attempts = 1 FROM inbox.message WHERE subscription = 'innocent' AND error_sqlstate = '57P02'",
			'its process is ended: that counts as an attempt before the next begins');
		next;
	}
	$node->restart if $round == 2;
	sql("SELECT inbox.pause('innocent')") if $round == 3;
	wait_for("SELECT attempts <= 1 FROM inbox.message WHERE subscription = 'innocent' AND status = 'pending'",
		$round == 2 ? 'the server is restarted' : 'the subscription is paused');
}
wait_for("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'innocent')", 'the process has gone');
is(sql("SELECT status || attempts FROM inbox.message WHERE subscription = 'innocent'"), 'pending0',
	'which counts as no attempt');

# ---------------------------------------------------------------------------
# A crash of the server

$node->append_conf('postgresql.conf', "synchronous_commit = off\n");
$node->reload;
$topic = subscribe_noting('crasher', "IF v = 'bad' THEN COPY (SELECT 1) TO PROGRAM 'kill -9 \$PPID; sleep 5'; END IF;", \%quick);
# The crash must not take the subscription with it.
sql('SET synchronous_commit = on; CREATE TABLE flushed ()');
produce($topic, (map { "k$_\t$_" } 1 .. 20), "b\tbad", "b\tbad", "b\tlast");
sub survived
{
	my ($query) = @_;
	my $deadline = time + 2 * $PostgreSQL::Test::Utils::timeout_default;
	while (time < $deadline)
	{
		my ($code, $output) = $node->psql('postgres', $query);
		return 1 if $code == 0 && $output eq 't';
		select undef, undef, undef, 0.1;
	}
	return 0;
}
ok(survived("SELECT @{[ failed('crasher') ]} = 2 AND (SELECT count(*) FROM done_crasher) = 21"),
	'two of one key that crash the server are found');
my $crashes = () = slurp_file($node->logfile) =~ /was terminated by signal 9/g;
cmp_ok($crashes, '<=', 6, 'each costs one crash among others, and one for each attempt');
produce($topic, "z\tlast");
wait_for("SELECT count(*) = 1 FROM done_crasher WHERE key = 'z'", 'the worker goes on');
wait_for("SELECT count(*) = 1 FROM inbox.crash_marker WHERE subscription = 'crasher'",
	'and suspects nobody any more, though hardly anything has come');

$node->stop;
done_testing();
