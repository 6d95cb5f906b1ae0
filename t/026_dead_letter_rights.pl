# A topic that the relay may not write to makes dead letters, holds nothing
# else up, and is written to once the right is there.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use lib 't';
use OutboxPoison;
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

my $node = new_server('rights', "log_statement = none\n");
publish_from($node, $kafka, $bootstrap);

sql(<<SQL);
CREATE EXTENSION outbox;
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS
	("bootstrap.servers" '$sasl_bootstrap', "security.protocol" 'SASL_PLAINTEXT', "sasl.mechanism" 'PLAIN');
CREATE USER MAPPING FOR CURRENT_USER SERVER kafka OPTIONS ("sasl.username" '$user', "sasl.password" '$password');
SQL
wait_for_state($node, 'postgres', 'streaming');
create_functions();

# Denies the relay an operation on a topic, or takes that back.
sub change_right
{
	my ($action, $operation, $topic) = @_;
	kafka('tool', $kafka, 'org.apache.kafka.tools.AclCommand', $action,
		($action eq '--remove' ? '--force' : ()),
		'--deny-principal', "User:$user", '--operation', $operation, '--topic', $topic);
	return;
}

sub letters
{
	my ($topic) = @_;
	return sql("SELECT count(*), min(error_code), max(error_code) FROM outbox.dead_letter WHERE topic = '$topic'");
}

my %topic;
foreach my $operation ('Write', 'Describe')
{
	my $topic = make_topic(topic_name($operation), 1, dir => $kafka);
	my $other = make_topic(topic_name('other'), 1, dir => $kafka);
	change_right('--add', $operation, $topic);
	if ($operation eq 'Write')
	{
		# As long as an ACL is there at all, others must be allowed by one.
		kafka('tool', $kafka, 'org.apache.kafka.tools.AclCommand', '--add',
			'--allow-principal', "User:$user", '--operation', 'Describe', '--topic', $topic);
	}
	my $count = 2000;
	my $seconds = seconds_of(sub {
		sql("SELECT small('$topic', 'k' || i % 50, i, i), small('$other', 'k', i, i) FROM generate_series(1, $count) i; SELECT outbox.wait_published('120 s')");
	});
	note("$operation: $count events refused and $count delivered in $seconds s");
	is(letters($topic), "$count|TOPIC_AUTHORIZATION_FAILED|TOPIC_AUTHORIZATION_FAILED",
		"without the right to $operation, events become dead letters");
	is_deeply([ first_occurrences(sequence($other)) ], [ 1 .. $count ], 'those to other topics are delivered, in order');
	cmp_ok($seconds, '<', 60, 'and not held up for long');

	change_right('--remove', $operation, $topic);
	kafka('tool', $kafka, 'org.apache.kafka.tools.AclCommand', '--add',
		'--allow-principal', "User:$user", '--operation', 'Write', '--operation', 'Describe', '--topic', $topic);
	is(sql("SELECT outbox.retry_all('$topic')"), $count, 'once it is granted they can be sent');
	wait_until("SELECT NOT EXISTS (SELECT FROM outbox.dead_letter WHERE topic = '$topic')");
	is_deeply([ sort { $a <=> $b } first_occurrences(sequence($topic)) ], [ 1 .. $count ], 'and all are');
	my %last;
	my $disorder = 0;
	foreach my $line (first_occurrences(consume_lines($topic, '%k %s', $bootstrap)))
	{
		my ($key, $payload) = split / /, $line;
		$disorder++ if $payload < ($last{$key} || 0);
		$last{$key} = $payload;
	}
	is($disorder, 0, 'in the order of each key');
}

# More than fits into memory, in one transaction, as keys are long: the relay
# stores what it has and starts over in the middle.
my $topic = make_topic(topic_name('huge'), 1, dir => $kafka);
change_right('--add', 'Describe', $topic);
my $count = 15_000;
my $pid = relay_pid($node, 'postgres');
sql("SELECT small('$topic', repeat('k', 600), 1, $count), small('$topic', NULL, 1, 1)");
wait_until("SELECT count(*) = $count + 1 FROM outbox.dead_letter");
isnt(relay_pid($node, 'postgres'), $pid, 'the relay starts over when there are too many');
wait_until_confirmed($node, 'postgres');
is( sql('SELECT count(*), max(attempts) FROM outbox.dead_letter'),
	($count + 1) . '|1',
	'each is stored once');
is( sql('SELECT count(*) FROM (SELECT id < lag(id) OVER (ORDER BY position) AS wrong FROM outbox.dead_letter) x WHERE wrong'),
	0, 'in order');

$node->stop;
done_testing();
