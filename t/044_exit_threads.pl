# However a process of ours ends: while what libraries do in exit() runs, it has
# no threads of librdkafka's any more.  They could crash on what is taken away
# from them, and a crash restarts the server.

use strict;
use warnings;

use lib 't';
use IPC::Run ();
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

# A library that has each process of the server tell of its threads then.
my $dir = PostgreSQL::Test::Utils::tempdir();
append_to_file("$dir/exit_threads.c", <<'C');
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int
threads(void)
{
	DIR		   *dir = opendir("/proc/self/task");
	int			count = -2;		/* "." and ".." */

	while (dir && readdir(dir))
		count++;
	if (dir)
		closedir(dir);
	return count;
}

/* One that is just ending may take a moment. */
static void
report(void)
{
	char		title[256] = "";
	int			fd = open("/proc/self/cmdline", O_RDONLY);
	FILE	   *out = fopen(getenv("EXIT_THREADS"), "a");
	int			tries = 0;

	while (threads() > 1 && tries++ < 50)
		usleep(10000);
	if (fd >= 0 && read(fd, title, sizeof(title) - 1) > 0 && out)
		fprintf(out, "%s: %d\n", title, threads());
	if (out)
		fclose(out);
}

__attribute__((constructor)) static void
begin(void)
{
	atexit(report);
}
C
plan skip_all => 'there is no C compiler'
  unless IPC::Run::run(
	[ 'cc', '-shared', '-fPIC', '-o', "$dir/exit_threads.so", "$dir/exit_threads.c" ],
	'2>', \my $errors);

# The processes that had threads when they ended; those before are forgotten.
sub exited
{
	my $report = slurp_file("$dir/report");
	unlink "$dir/report";
	append_to_file("$dir/report", '');
	return join ', ', grep { /^postgres: .* outbox / && !/: 1$/ } split /\n/, $report;
}

my ($user, $password) = ('relay', 'open-s3same');
my $kafka = own_kafka('threads', '--sasl', "$user:$password",
	'--property', 'authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer',
	'--property', 'super.users=User:ANONYMOUS',
	'--property', 'allow.everyone.if.no.acl.found=true');
my $bootstrap = kafka_bootstrap($kafka);
my $topic = make_topic(topic_name('threads'), 1, dir => $kafka);
my $node = new_server('threads');
$node->stop;
append_to_file("$dir/report", '');
{
	local $ENV{LD_PRELOAD} = join ' ', grep { $_ } $ENV{LD_PRELOAD}, "$dir/exit_threads.so";
	local $ENV{EXIT_THREADS} = "$dir/report";
	$node->start;
}

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

# Terminates all processes of ours of a kind, and waits until they have gone.
sub terminate
{
	my ($kind) = @_;
	sql("SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE backend_type = 'outbox $kind'");
	return;
}

sql('CREATE EXTENSION outbox');
sql('CREATE FUNCTION handle(inbox.message) RETURNS void LANGUAGE sql AS $$ SELECT $$');
sql(<<SQL);
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS
	("bootstrap.servers" '$bootstrap', "security.protocol" 'SASL_PLAINTEXT', "sasl.mechanism" 'PLAIN');
CREATE USER MAPPING FOR CURRENT_USER SERVER kafka OPTIONS ("sasl.username" '$user', "sasl.password" '$password');
SQL
wait_for_state($node, 'postgres', 'streaming');
sql("SELECT inbox.subscribe('s', ARRAY['$topic'], 'handle')");
$node->poll_query_until('postgres', "SELECT state = 'running' FROM inbox.stat_subscription")
  or die "the subscription does not run\n";
like(slurp_file("$dir/report"), qr/^postgres: .* outbox /m, 'the processes tell of their threads');

terminate('relay');
terminate('consumer');
is(exited(), '', 'processes at work are terminated');

# Without one of the rights on its progress topic a relay waits in the middle of
# reading that.
sub grant
{
	kafka('tool', $kafka, 'org.apache.kafka.tools.AclCommand', '--add', '--allow-principal', "User:$user",
		'--topic', progress_topic($node, 'postgres'),
		map { ('--operation', $_) } @_);
	return;
}

grant('Create', 'DescribeConfigs', 'Write');
sql("ALTER SERVER kafka OPTIONS (ADD delivery 'exactly_once')");
for (1 .. 2)
{
	wait_for_state($node, 'postgres', 'waiting for (kafka|configuration)');
	terminate('relay');
}
is(exited(), '', 'a relay that waits for the last record');
grant('Read');
$node->poll_query_until('postgres', "SELECT state = 'streaming' AND EXISTS (SELECT FROM outbox.exactly_once) FROM outbox.stat_relay")
  or die "deliveries do not become exact\n";
publish_key($node, 'postgres', $topic, 'event');
wait_until_confirmed($node, 'postgres');
terminate('relay');
is(exited(), '', 'a relay whose deliveries are exact is terminated');

# Brokers that do not answer: whatever a process is about to do, it waits.
wait_for_state($node, 'postgres', 'streaming');
signal_kafka('STOP', $kafka);
publish_key($node, 'postgres', $topic, 'stopped');
wait_for_state($node, 'postgres', 'waiting for kafka');
terminate('relay');
is(exited(), '', 'one that waits for Kafka to take an event');
for (1 .. 2)
{
	wait_for_state($node, 'postgres', 'waiting for kafka');
	terminate('relay');
}
is(exited(), '', 'one that waits for answers as it begins');
terminate('consumer');
$node->poll_query_until('postgres', "SELECT state = 'waiting for kafka' FROM inbox.stat_subscription")
  or die "the subscription does not wait\n";
terminate('consumer');
is(exited(), '', 'a consumer that does');
wait_for_state($node, 'postgres', 'waiting for kafka');
$node->stop;
is(exited(), '', 'all of them, with the server');

done_testing();
