# Whatever a Kafka server is set to: nothing crashes, nothing hangs, and what
# does not work is refused or says so.
#
# Each value of each property that librdkafka knows is set.  Where it is taken,
# an event goes through relay, Kafka and subscription, or one of them tells what
# is in the way.  Most values are harmless, so several are set at a time, and
# those that are not are found by halving.
#
# OUTBOX_TEST_OPTIONS=all tries more values.

use strict;
use warnings;

use lib 't';
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

use OutboxOptions;
use OutboxTest;

use constant GROUP => 12;

my $all = ($ENV{OUTBOX_TEST_OPTIONS} || '') eq 'all';
my @databases = (
	(map { [ "at_least_once_$_", 'at_least_once' ] } 1 .. 5),
	(map { [ "exactly_once_$_", 'exactly_once' ] } 1 .. 4));
my $node = new_server('options', <<CONF);
max_worker_processes = 40
outbox.max_consumers = 20
outbox.transaction_interval = 10ms
CONF
my $bootstrap = kafka_bootstrap();

my $secret = qr/password$|passphrase$|secret$|key\.pem$|oauthbearer\.config$/;

# What makes the server "kafka" one with these options.
sub statements
{
	my ($server, $delivery, $options) = @_;
	my %all = ('bootstrap.servers' => $bootstrap, delivery => $delivery, %$options);
	my %mapping = map { $_ => delete $all{$_} } grep { /$secret/ } keys %all;
	my $statements =
		"CREATE SERVER $server FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("
	  . option_clause(\%all) . ')';
	$statements .=
	  "; CREATE USER MAPPING FOR CURRENT_USER SERVER $server OPTIONS ("
	  . option_clause(\%mapping) . ')'
	  if %mapping;
	return $statements;
}

sub literal
{
	my ($text) = @_;
	$text =~ s/'/''/g;
	return "'$text'";
}

sub name_of
{
	my (@options) = @_;
	return join ', ', map {
		my $option = $_;
		map { sprintf '%s=%.60s', $_, $option->{$_} } sort keys %$option
	} @options;
}

# ---------------------------------------------------------------------------
# What is taken

$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION outbox;
CREATE FUNCTION error_of(change text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE change;
	EXECUTE 'DROP SERVER tried CASCADE';
	RETURN '';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END $$;
SQL
my ($of_kcat) = `kcat -V` =~ /librdkafka (\d[\d.]*)/;
note "librdkafka $_" foreach library_version($node, 'postgres'), "$of_kcat, of kcat";
my @options = library_options($all);
my @errors = split /\n/,
  $node->safe_psql(
	'postgres',
	join '',
	"SET client_min_messages = warning;\n",
	map {
			"SELECT regexp_replace(error_of("
		  . literal(statements('tried', 'exactly_once', $_))
		  . "), E'\\n.*', '');\n"
	} @options),
  -1;
my @taken = map { $options[$_] } grep { $errors[$_] eq '' } 0 .. $#options;
is(scalar @errors, scalar @options, 'each option is taken or refused');
is_deeply([ grep { !/^(HV|42501)|^$/ } @errors ],
	[], 'and refused as an option of a server');
cmp_ok(scalar @taken, '>', 150, 'most are taken');
note scalar(@taken), ' taken, ', @options - @taken, ' refused';

# ---------------------------------------------------------------------------
# What it does

# In groups, of options that may be set together, with each delivery.  What is
# about a connection that does not come about is tried with one of them only.
my $lonely =
  qr/^(security\.protocol|transaction\.timeout|broker\.|api\.|topic\.(black|deny)list|receive\.message)|keystore\.location/;
my @groups;
foreach my $option (@taken)
{
	my ($name, @more) = keys %$option;
	if (@more || $name =~ $lonely)
	{
		push @groups, [$option];
		next;
	}
	my ($group) =
	  grep {
		my $first = $_->[0];
		@$_ < GROUP
		  && keys %$first == 1
		  && !grep { $_ =~ $lonely } keys %$first
		  && !grep { exists $_->{$name} } @$_
	  } @groups;
	if ($group) { push @$group, $option }
	else { push @groups, [$option] }
}
my %groups = (
	at_least_once => \@groups,
	exactly_once => [ grep { !exists $_->[0]{'security.protocol'} } @groups ]);

foreach my $database (@databases)
{
	my ($db, $delivery) = @$database;
	my $topic = make_topic(topic_name($db));
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, <<SQL);
CREATE EXTENSION outbox;
CREATE TABLE effect (event text PRIMARY KEY);
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE sql AS
	'INSERT INTO effect VALUES (m.aggregate_id)';
CREATE VIEW obstacle AS
SELECT 'relay ' || state || ': ' || last_error AS what, started_at AS started FROM outbox.relay_status()
	WHERE state NOT IN ('starting', 'catching up', 'streaming')
UNION ALL
SELECT 'subscription ' || state || ': ' || error, started_at FROM inbox.consumer_status()
	WHERE state NOT IN ('starting', 'running');

-- Changes the server and publishes an event.  Says what came of it: refused,
-- arrived, through processes that have the change, an obstacle that somebody
-- tells of and that lasts, or nothing.
CREATE PROCEDURE try_options(change text, event text, patience float8, lasting float8, INOUT result text DEFAULT '') LANGUAGE plpgsql AS \$\$
DECLARE
	began timestamptz;
	seen text;
	since timestamptz;
BEGIN
	BEGIN
		DROP SERVER IF EXISTS kafka CASCADE;
		EXECUTE change;
	EXCEPTION WHEN OTHERS THEN
		result := 'refused: ' || SQLERRM;
		RETURN;
	END;
	began := clock_timestamp();
	COMMIT;
	PERFORM outbox.publish('thing', event, 'made', '{}', topic => '$topic');
	COMMIT;
	LOOP
		IF EXISTS (SELECT FROM effect e WHERE e.event = try_options.event)
			AND (SELECT started_at > began FROM outbox.relay_status())
			AND (SELECT started_at > began FROM inbox.consumer_status()) THEN
			result := 'arrived';
			RETURN;
		END IF;
		SELECT what INTO seen FROM obstacle WHERE started > began;
		IF seen IS NULL THEN
			since := NULL;
		ELSIF since IS NULL THEN
			since := clock_timestamp();
		ELSIF clock_timestamp() > since + make_interval(secs => lasting) THEN
			result := seen;
			RETURN;
		END IF;
		EXIT WHEN clock_timestamp() > began + make_interval(secs => patience);
		COMMIT;
		PERFORM pg_sleep(0.1);
	END LOOP;
	result := 'nothing: ' || (SELECT state FROM outbox.stat_relay) || ', ' ||
		(SELECT coalesce(state, '') FROM inbox.stat_subscription);
END \$\$;
${\ statements('kafka', $delivery, {})};
SELECT inbox.subscribe('options', ARRAY['$topic'], 'handle');
SQL
}

my $events = 0;

# Sets options in a database and returns what comes of it.
sub try_options
{
	my ($database, @group) = @_;
	my ($db, $delivery) = @$database;
	my ($patience, $lasting) =
	  @group > 1 ? (15, 2) : ($PostgreSQL::Test::Utils::timeout_default, 1);
	my %together = map { %$_ } @group;
	my $change = literal(statements('kafka', $delivery, \%together));
	my ($result, $errors);
	$events++;
	$node->psql(
		$db,
		"CALL try_options($change, 'event $events', $patience, $lasting)",
		stdout => \$result,
		stderr => \$errors);
	return $result ne '' ? $result : "failed: $errors";
}

# Finds out about each option of a group, and writes it to a file.
sub find_out
{
	my ($database, $file, @group) = @_;
	my $began = Time::HiRes::time();
	my $result = try_options($database, @group);
	my $took = Time::HiRes::time() - $began;
	if (@group == 1 || $result eq 'arrived')
	{
		printf $file "%s\t%s: %s (%.1f s)\n", $result =~ /^(\w+)/, $database->[1],
		  (name_of($_) . ": $result") =~ s/\s+/ /gr, $took / @group
		  foreach @group;
		return;
	}
	my $half = int(@group / 2);
	find_out($database, $file, @group[ 0 .. $half - 1 ]);
	find_out($database, $file, @group[ $half .. $#group ]);
	return;
}

# One process for each database; those with the same delivery share the groups.
my $dir = PostgreSQL::Test::Utils::tempdir();
my (%share, @pids);
my %workers;
$workers{ $_->[1] }++ foreach @databases;
foreach my $database (@databases)
{
	my ($db, $delivery) = @$database;
	my $n = $share{$delivery}++;
	my @theirs = @{ $groups{$delivery} };
	my @mine =
	  @theirs[ grep { $_ % $workers{$delivery} == $n } 0 .. $#theirs ];
	my $pid = fork // die "cannot fork: $!\n";
	push @pids, $pid;
	next if $pid;

	open my $file, '>', "$dir/$db" or POSIX::_exit(1);
	$file->autoflush;
	my $left = eval {
		find_out($database, $file, @$_) foreach @mine;
		my $last = try_options($database);
		print $file "end\t$last\n";
		$node->poll_query_until($db,
			"SELECT count(*) >= $events - (SELECT count(*) FROM outbox.dead_letter) FROM effect"
		) or print $file "lost\tevents\n";
		1;
	};
	print $file "failed\t$@\n" unless $left;
	close $file;
	POSIX::_exit(0);
}
waitpid $_, 0 foreach @pids;

my @results = map { split /\n/, slurp_file($_) } glob "$dir/*";
note $_ foreach grep { !/^arrived/ } @results;
is( scalar(grep { /^(arrived|relay|subscription|refused)\t/ } @results),
	scalar(map { map { @$_ } @$_ } values %groups),
	'each option lets events through, or says why not');
is_deeply([ grep { /^(nothing|failed|lost)\t/ } @results ],
	[], 'without a sign, nothing stops');
is( scalar(grep { $_ eq "end\tarrived" } @results),
	scalar @databases,
	'and with ordinary settings again all goes on');
is_deeply(
	[
		map { s/\S+: \Kcould not.*//r }
		grep { /exactly_once: transaction\.timeout\.ms=1000000:/ } @results
	],
	[
		"relay\texactly_once: transaction.timeout.ms=1000000: relay waiting for configuration: "
	],
	'what the brokers refuse is a matter of configuration');
unlike(
	slurp_file($node->logfile),
	qr/terminated by signal|PANIC:|TRAP:/,
	'no process crashed');

$node->stop;
done_testing();
