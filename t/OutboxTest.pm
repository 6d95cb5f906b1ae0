# OutboxTest.pm
#
# What the tests share: servers with the extension, a real Kafka, and kcat to
# read back what arrived.

package OutboxTest;

use strict;
use warnings;

use Exporter 'import';
use File::Basename qw(dirname);
use File::Spec;
use IPC::Run ();
use JSON::PP ();
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes ();

use OutboxServer;

our @EXPORT = qw(new_server create_extension create_server kafka_bootstrap
  kafka own_kafka topic_name make_topic consume wait_for_events wait_for_state
  wait_for_error relay_status wait_for_log header aggregate_type consume_lines
  wait_until_confirmed start_psql signal_kafka relay_pid seconds_of
  set_bootstrap begin_catchup halt_catchup
  end_catchup closed_port wait_for_catchup_progress produce
  produce_with_headers first_occurrences publish_key keys_in memory_of
  committed_lines create_counter library_version progress_topic cpu_of);

my $root = File::Spec->rel2abs(dirname(__FILE__) . '/..');

# One Kafka serves all tests.  Every topic is one test's own.
sub kafka_dir
{
	return $ENV{OUTBOX_TEST_KAFKA_DIR}
	  || die "OUTBOX_TEST_KAFKA_DIR is not set: run make installcheck\n";
}

sub kafka_bootstrap
{
	my ($dir) = @_;
	my $bootstrap = slurp_file(($dir || kafka_dir()) . '/bootstrap');
	chomp $bootstrap;
	return $bootstrap;
}

# dev/kafka with arguments; dies when it fails.
sub kafka
{
	my @command = ("$root/dev/kafka", @_);
	my $output = '';
	IPC::Run::run(\@command, '<', \undef, '>', \$output, '2>&1')
	  or die "@command failed: $output\n";
	return $output;
}

my @own_kafkas;

# A Kafka for this test alone, to be hurt; returns its directory.
sub own_kafka
{
	my ($name, @options) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir("kafka_$name");
	push @own_kafkas, $dir;
	kafka('start', $dir, @options);
	return $dir;
}

END
{
	my $status = $?;
	foreach my $dir (grep { -d "$_/node-1" } @own_kafkas)
	{
		diag $@ unless eval { kafka('kill', $dir); 1 };
	}
	$? = $status;
}

my $topics = 0;

# A topic name that no other test uses.
sub topic_name
{
	my ($suffix) = @_;
	return join('.', 'test', $$, ++$topics, $suffix || 'topic');
}

# An aggregate type that no other test uses; its topic is outbox.event.<it>.
sub aggregate_type
{
	return 'Test-' . topic_name(@_);
}

# Creates a topic, of the shared Kafka unless a directory is given.
sub make_topic
{
	my ($name, $partitions, %options) = @_;
	my $dir = delete $options{dir} || kafka_dir();
	kafka('topic', $dir, $name, $partitions || 1,
		map { "$_=$options{$_}" } sort keys %options);
	return $name;
}

# A running server with the settings of the extension, and those given.
sub new_server
{
	my ($name, $settings, %options) = @_;
	my $node = OutboxServer->new($name, install_path => delete $options{install_path});
	$node->init(%options);
	my $known = `postgres --describe-config`;
	$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'outbox'
wal_level = logical
max_prepared_transactions = 10
max_wal_senders = 4
log_line_prefix = '%m [%p] %b %d '
CONF
	$node->append_conf('postgresql.conf',
		"output_plugin_libraries = 'pgoutput, test_decoding, outbox'\n")
	  if $known =~ /^output_plugin_libraries\t/m;
	$node->append_conf('postgresql.conf', $settings) if $settings;
	$node->start;
	return $node;
}

# The foreign server "kafka" of a database.
sub create_server
{
	my ($node, $db, $bootstrap) = @_;
	$bootstrap ||= kafka_bootstrap();
	$node->safe_psql($db,
		"CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS (\"bootstrap.servers\" '$bootstrap')"
	);
	return;
}

# Events to another topic, and then a server for them that sends one at a time:
# a catch-up that lasts longer than anybody who looks for it is held up.
sub begin_catchup
{
	my ($node, $db, $topic, $bootstrap) = @_;
	$node->safe_psql($db,
		"SELECT count(outbox.publish('bulk', i::text, 'made', '{}', topic => '$topic.bulk')) FROM generate_series(1, 100000) i"
	);
	$node->safe_psql($db, 'DROP SERVER IF EXISTS kafka');
	create_server($node, $db, $bootstrap);
	$node->safe_psql($db,
		q{ALTER SERVER kafka OPTIONS (ADD "batch.num.messages" '1', ADD "queue.buffering.max.messages" '50')}
	);
	return;
}

# Lets a catch-up go on for a moment, and halts it: its Kafka answers no more.
sub halt_catchup
{
	my ($node, $db, $dir) = @_;
	my $done = relay_status($node, $db, 'catchup_done') || 0;
	signal_kafka('CONT', $dir);
	wait_for_catchup_progress($node, $db, $done, 1000);
	signal_kafka('STOP', $dir);
	wait_for_state($node, $db, 'waiting for kafka');
	return;
}

# All at full speed, to that Kafka.
sub end_catchup
{
	my ($node, $db, $bootstrap) = @_;
	$node->safe_psql($db,
		qq{ALTER SERVER kafka OPTIONS (SET "bootstrap.servers" '$bootstrap', DROP "batch.num.messages", DROP "queue.buffering.max.messages")}
	);
	return;
}

# The extension and the server, and waits until the relay streams.
sub create_extension
{
	my ($node, $db, $bootstrap) = @_;
	$node->safe_psql($db, 'CREATE EXTENSION outbox');
	create_server($node, $db, $bootstrap);
	wait_for_state($node, $db, 'streaming');
	return;
}

sub relay_status
{
	my ($node, $db, $column) = @_;
	return $node->safe_psql($db, "SELECT $column FROM outbox.stat_relay");
}

# Waits until stat_relay shows the state, or one of several joined by "|".
sub wait_for_state
{
	my ($node, $db, $state) = @_;
	$node->poll_query_until($db,
		"SELECT state ~ '^($state)\$' FROM outbox.stat_relay")
	  or die "relay is not $state but: "
	  . $node->safe_psql($db, 'SELECT * FROM outbox.stat_relay') . "\n";
	return;
}

# Waits until stat_relay shows the state for a reason that matches (POSIX).
sub wait_for_error
{
	my ($node, $db, $state, $reason) = @_;
	$node->poll_query_until($db,
		"SELECT state = '$state' AND last_error ~ \$re\$$reason\$re\$ FROM outbox.stat_relay"
	  )
	  or die "relay is not $state because of $reason but: "
	  . $node->safe_psql($db, 'SELECT * FROM outbox.stat_relay') . "\n";
	return;
}

# Waits until the server's log, from an offset on, matches; returns it.
sub wait_for_log
{
	my ($node, $pattern, $offset) = @_;
	$node->wait_for_log($pattern, $offset || 0);
	return slurp_file($node->logfile, $offset || 0);
}

# The progress topic of a database with the extension.
sub progress_topic
{
	my ($node, $db) = @_;
	return $node->safe_psql($db,
		"SELECT format('outbox.progress.%s.%s', (SELECT system_identifier FROM pg_control_system()), (SELECT oid FROM pg_database WHERE datname = current_database()))"
	);
}

# All that a topic holds, as kcat prints it; nothing of a topic that does not
# exist.  Waits for brokers that are away for a moment.
sub read_topic
{
	my ($topic, $bootstrap, @options) = @_;
	my @command = (
		'kcat', '-C', '-q', '-e', '-m', 30, '-o', 'beginning',
		'-X', 'fetch.wait.max.ms=10',
		'-b', $bootstrap || kafka_bootstrap(),
		'-t', $topic, @options);
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	my ($output, $errors);
	until (IPC::Run::run(\@command, '<', \undef, '>', \$output, '2>', \$errors))
	{
		return '' if $errors =~ /Topic \Q$topic\E error: .*Unknown topic/;
		die "kcat failed: $errors\n" if time > $deadline;
		Time::HiRes::usleep(100_000);
	}
	return $output;
}

# All messages of a topic so far: a list of hashes with topic, partition,
# offset, ts, key, payload and headers (a list of name, value pairs).
sub consume
{
	my ($topic, $bootstrap, @options) = @_;
	return decode_messages(split /\n/, read_topic($topic, $bootstrap, '-J', @options));
}

sub decode_messages
{
	my $json = JSON::PP->new->utf8(0)->allow_nonref;
	return map { $json->decode($_) } @_;
}

# Consumes until a topic holds at least a number of messages.
sub wait_for_events
{
	my ($topic, $count, $bootstrap) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	my @lines;
	do
	{
		# To decode them takes much longer than to read them.
		@lines = split /\n/, read_topic($topic, $bootstrap, '-J');
		return decode_messages(@lines) if @lines >= $count;
	} while (time < $deadline);
	diag sprintf '%s: %d messages of %d', $topic, scalar @lines, $count;
	return decode_messages(@lines);
}

# All messages of a topic so far, each formatted as "kcat -f" does, one line
# each.  Quick enough for hundreds of thousands.
sub consume_lines
{
	my ($topic, $format, $bootstrap, @options) = @_;
	return split /\n/,
	  read_topic($topic, $bootstrap, '-f', "$format\\n", @options);
}

# As consume_lines() has it, what a consumer of committed messages sees once it
# sees at least a number of them.  Kafka accepts a commit before it is carried
# out: then a relay has gone on, and a consumer may see it a moment later.
sub committed_lines
{
	my ($count, $topic, $format, $bootstrap) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	my @lines;
	do
	{
		@lines = consume_lines($topic, $format, $bootstrap,
			'-X', 'isolation.level=read_committed');
		return @lines if @lines >= $count;
	} while (time < $deadline);
	diag sprintf '%s: %d committed messages of %d', $topic, scalar @lines, $count;
	return @lines;
}

# Publishes an event with a key, of no interest otherwise.
sub publish_key
{
	my ($node, $db, $topic, $key) = @_;
	$node->safe_psql($db,
		"SELECT outbox.publish('thing', '$key', 'made', '{}', topic => '$topic')"
	);
	return;
}

# The keys of messages that consume() returned, as one line.
sub keys_in
{
	return join ' ', map { $_->{key} } @_;
}

# Seconds of CPU that a process has had, with all its threads.
sub cpu_of
{
	my ($pid) = @_;
	my @fields = split / /, slurp_file("/proc/$pid/stat") =~ s/.*\) //sr;
	return ($fields[11] + $fields[12]) / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

# Memory of a process that is its own, in kB; 0 when it has gone.
sub memory_of
{
	my ($pid) = @_;
	open my $status, '<', "/proc/$pid/status" or return 0;
	my ($memory) = map { /^RssAnon:\s+(\d+) kB/ } <$status>;
	return $memory || 0;
}

# Each value when it comes first.  What was on its way to Kafka when a relay
# had to start over may be there twice.
sub first_occurrences
{
	my %seen;
	return grep { !$seen{$_}++ } @_;
}

# Waits until everything that is committed now is acknowledged by Kafka.
sub wait_until_confirmed
{
	my ($node, $db) = @_;
	my $lsn = $node->safe_psql($db, 'SELECT pg_current_wal_flush_lsn()');
	$node->poll_query_until($db,
		"SELECT confirmed_lsn >= '$lsn' FROM outbox.stat_relay")
	  or die "relay did not confirm $lsn but: "
	  . $node->safe_psql($db, 'SELECT * FROM outbox.stat_relay') . "\n";
	return;
}

# Starts a psql that runs a command beside the test; finish() the result.
sub start_psql
{
	my ($node, $db, $command) = @_;
	my ($output, $errors) = ('', '');
	return IPC::Run::start(
		[
			$node->installed_command('psql'), '-XAtq',
			'-d', $node->connstr($db), '-c', $command
		],
		'<', \undef, '>', \$output, '2>', \$errors);
}

# Sends a signal to the nodes of a Kafka, such as STOP to freeze it.
sub signal_kafka
{
	my ($signal, $dir) = @_;
	foreach my $file (glob "$dir/node-*/pid")
	{
		my $pid = slurp_file($file);
		chomp $pid;
		kill $signal, $pid or die "cannot signal Kafka $pid: $!\n";
	}
	return;
}

# The value of a message's last header of that name.
sub header
{
	my ($message, $name) = @_;
	my @headers = @{ $message->{headers} || [] };
	my $value;
	while (my ($n, $v) = splice @headers, 0, 2)
	{
		$value = $v if $n eq $name;
	}
	return $value;
}

# Process id of a database's relay; waits for it between two relays.
sub relay_pid
{
	my ($node, $db) = @_;
	my $pid;
	until ($pid)
	{
		$node->poll_query_until($db, 'SELECT pid > 0 FROM outbox.stat_relay')
		  or die "no relay runs\n";
		$pid = relay_status($node, $db, 'pid');
	}
	return $pid;
}

# Waits until more than so many events of a catch-up are on Kafka and, if that
# is given, more than so many are not; returns how many are.
sub wait_for_catchup_progress
{
	my ($node, $db, $done, $left) = @_;
	my $far = "catchup_done > $done";
	$far .= " AND catchup_left > $left" if defined $left;
	my $now;
	until ($now)
	{
		$node->poll_query_until($db,
			"SELECT coalesce($far, false) FROM outbox.stat_relay")
		  or die "the catch-up does not get beyond $done events\n";

		# Unless the relay has just started over.
		$now = relay_status($node, $db, 'catchup_done');
	}
	return $now;
}

# Makes a table whose rows count the events of keys, and publish_some(), which
# publishes the next n of key k.  Each tells its transaction t and its number.
sub create_counter
{
	my ($node, $topic) = @_;
	$node->safe_psql('postgres', <<SQL);
CREATE TABLE counter (key integer PRIMARY KEY, events integer NOT NULL DEFAULT 0) WITH (fillfactor = 10);
CREATE FUNCTION publish_some(t integer, k integer, n integer) RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE
	last integer;
BEGIN
	UPDATE counter SET events = events + n WHERE key = k RETURNING events INTO last;
	PERFORM outbox.publish('Test', k::text, 'Counted', to_jsonb(t || '/' || i), topic => '$topic')
		FROM generate_series(last - n + 1, last) i;
END
\$\$;
SQL
	return;
}

# Runs code; returns the seconds that it took.
sub seconds_of
{
	my ($code) = @_;
	my $start = Time::HiRes::time();
	$code->();
	return Time::HiRes::time() - $start;
}

# Sends the relay of a database to other brokers.
sub set_bootstrap
{
	my ($node, $db, $bootstrap) = @_;
	$node->safe_psql($db,
		"ALTER SERVER kafka OPTIONS (SET \"bootstrap.servers\" '$bootstrap')");
	return;
}

# The version of librdkafka that the server runs with, such as 2.3.0.
sub library_version
{
	my ($node, $db) = @_;
	my $errors;
	$node->psql($db,
		'CREATE SERVER none FOREIGN DATA WRAPPER outbox_kafka OPTIONS (none \'\')',
		stderr => \$errors);
	my ($version) = $errors =~ /librdkafka (\d+(\.\d+)+)/
	  or die "no version of librdkafka in: $errors\n";
	return $version;
}

# A broker that is away: an address at which nobody listens.
sub closed_port
{
	return '127.0.0.1:' . PostgreSQL::Test::Cluster::get_free_port();
}

# Produces messages with kcat, each once and in order: a hash of options
# (bootstrap, partition, headers as a list of "name=value") may come first, then
# lines of key, tab, value.
sub produce
{
	my ($topic, @lines) = @_;
	my $options = ref $lines[0] ? shift @lines : {};
	my $input = join('', map { "$_\n" } @lines);
	my $errors = '';
	IPC::Run::run(
		[
			'kcat', '-P', '-b', $options->{bootstrap} || kafka_bootstrap(),
			'-t', $topic, '-K', '\t', '-Z', '-X', 'linger.ms=5',
			'-X', 'enable.idempotence=true',
			(defined $options->{partition} ? ('-p', $options->{partition}) : ()),
			map { ('-H', $_) } @{ $options->{headers} || [] }
		],
		'<', \$input, '2>', \$errors) or die "kcat failed: $errors\n";
	return;
}

# Produces messages with Kafka's own producer: lines of headers ("name:value"
# with commas between), tab, key, tab, value.
sub produce_with_headers
{
	my ($topic, $dir, @lines) = @_;
	my $input = PostgreSQL::Test::Utils::tempdir() . '/messages';
	append_to_file($input, join('', map { "$_\n" } @lines));
	my @command = (
		"$root/dev/kafka", 'tool', $dir || kafka_dir(),
		'org.apache.kafka.tools.ConsoleProducer', '--topic', $topic,
		'--request-timeout-ms', 60_000, '--message-send-max-retries', 100,
		map { ('--property', $_) } 'parse.key=true', 'parse.headers=true');
	my $output = '';

	# It ends well, too, when it has given up a message.
	IPC::Run::run(\@command, '<', $input, '&>', \$output)
	  && $output !~ /ERROR/
	  or die "the producer failed: $output\n";
	return;
}

1;
