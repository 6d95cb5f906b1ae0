# A topic that the relay may not write to makes no dead letters and holds nothing
# else up, and is written to once the right is there.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use lib 't';
use OutboxRefused;
use OutboxTest;

my ($user, $password) = ('relay', 'open-s3same');
my $kafka = own_kafka('rights', '--sasl', "$user:$password",
	'--property', 'authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer',
	'--property', 'super.users=User:ANONYMOUS',
	'--property', 'allow.everyone.if.no.acl.found=true');
my $sasl_bootstrap = kafka_bootstrap($kafka);

# Its other listener asks for no password and lets everybody do everything.
my ($bootstrap) = slurp_file("$kafka/node-1/server.properties") =~
  m{^advertised\.listeners=.*BROKER://([0-9.:]+)}m;

# Denies the relay an operation on a topic, or takes that back.
sub change_right
{
	my ($action, $operation, $topic) = @_;
	kafka('tool', $kafka, 'org.apache.kafka.tools.AclCommand', $action,
		($action eq '--remove' ? '--force' : ()),
		'--deny-principal', "User:$user", '--operation', $operation, '--topic', $topic);
	return;
}

my $node = new_server('rights', "log_statement = none\n");
publish_from($node, $kafka, $bootstrap);

sql(<<SQL);
CREATE EXTENSION outbox;
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS
	("bootstrap.servers" '$sasl_bootstrap', "security.protocol" 'SASL_PLAINTEXT', "sasl.mechanism" 'PLAIN', delivery 'at_least_once');
CREATE USER MAPPING FOR CURRENT_USER SERVER kafka OPTIONS ("sasl.username" '$user', "sasl.password" '$password');
SQL
wait_for_state($node, 'postgres', 'streaming');
create_functions();

foreach my $case (['at_least_once', 'Write'], ['at_least_once', 'Describe'],
	['exactly_once', 'Write'], ['exactly_once', 'Describe'])
{
	my ($delivery, $operation) = @$case;
	my $topic = make_topic(topic_name("$operation.$delivery"), 1, dir => $kafka);
	my $other = make_topic(topic_name("other.$operation.$delivery"), 1, dir => $kafka);
	note("$delivery, without the right to $operation");
	change_settings("ALTER SERVER kafka OPTIONS (SET delivery '$delivery')")
	  if $operation eq 'Write' && $delivery eq 'exactly_once';
	change_right('--add', $operation, $topic);
	if ($operation eq 'Write')
	{
		# As long as an ACL is there at all, others must be allowed by one.
		kafka('tool', $kafka, 'org.apache.kafka.tools.AclCommand', '--add',
			'--allow-principal', "User:$user", '--operation', 'Describe', '--topic', $topic);
	}
	my $count = 2000;
	my $seconds = seconds_of(sub {
		sql("SELECT small('$topic', 'k' || i % 50, i, i), small('$other', 'k', i, i) FROM generate_series(1, $count) i");
		wait_until_confirmed($node, 'postgres');
	});
	note("$count events that wait and $count delivered in $seconds s");
	is( sql("SELECT topic, state, waiting_events, last_error LIKE '%uthorization failed%' FROM outbox.stat_topic"),
		"$topic|waiting|$count|t", 'events of the topic wait');
	is(sql('SELECT count(*) FROM outbox.dead_letter'), 0, 'none is a dead letter');
	my @others = committed_lines($count, $other, '%s', $bootstrap);
	is_deeply([ first_occurrences(@others) ], [ 1 .. $count ], 'those to other topics are delivered, in order');
	is(scalar @others, $count, 'once') if $delivery eq 'exactly_once';
	cmp_ok($seconds, '<', 60, 'and not held up for long');

	# The topic is tried again and again, and that disturbs nobody.
	my $pid = relay_pid($node, 'postgres');
	foreach (1 .. ($operation eq 'Write' ? 3 : 0))
	{
		my $before = relay_status($node, 'postgres', 'last_error_at');
		wait_until("SELECT last_error_at > '$before' FROM outbox.stat_relay");
	}
	is(relay_pid($node, 'postgres'), $pid, 'and no relay ends because it is tried again');

	change_right('--remove', $operation, $topic);
	kafka('tool', $kafka, 'org.apache.kafka.tools.AclCommand', '--add',
		'--allow-principal', "User:$user", '--operation', 'Write', '--operation', 'Describe', '--topic', $topic);
	wait_until('SELECT count(*) = 0 FROM outbox.stat_topic');
	my @lines = committed_lines($count, $topic, '%k %s', $bootstrap);
	is(scalar first_occurrences(@lines), $count, 'once it is granted all are sent');
	is(scalar @lines, $count, 'once') if $delivery eq 'exactly_once';
	my (%last, $disorder);
	foreach my $line (first_occurrences(@lines))
	{
		my ($key, $payload) = split / /, $line;
		$disorder++ if $payload < ($last{$key} || 0);
		$last{$key} = $payload;
	}
	ok(!$disorder, 'in the order of each key');
}

# More than fits into memory, in one transaction, as keys are long: the relay
# stores what it has and starts over in the middle.
my $topic = make_topic(topic_name('huge'), 1, dir => $kafka);
change_right('--add', 'Describe', $topic);
my $count = 15_000;
sql("SELECT small('$topic', repeat('k', 600), 1, $count), small('$topic', NULL, 1, 1)");
wait_until("SELECT count(*) = $count + 1 FROM outbox.held_event");
wait_until_confirmed($node, 'postgres');
is( sql('SELECT count(*) FROM (SELECT id < lag(id) OVER (ORDER BY position) AS wrong FROM outbox.held_event) x WHERE wrong'),
	0, 'any number waits, in order');

$node->stop;
done_testing();
