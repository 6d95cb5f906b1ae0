# The rights on the progress topic that exactly once needs: what is missing is
# said, and what is granted is enough.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my ($user, $password) = ('relay', 'open-s3same');
my $kafka = own_kafka('exactrights', '--sasl', "$user:$password",
	'--property', 'authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer',
	'--property', 'super.users=User:ANONYMOUS');
my $sasl_bootstrap = kafka_bootstrap($kafka);

# Its other listener asks for no password and lets everybody do everything.
my ($bootstrap) = slurp_file("$kafka/node-1/server.properties") =~
  m{^advertised\.listeners=.*BROKER://([0-9.:]+)}m;

my $topic = make_topic(topic_name('rights'), 1, dir => $kafka);
my $node = new_server('exactrights');

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

sub grant
{
	my ($operations, @resources) = @_;
	kafka('tool', $kafka, 'org.apache.kafka.tools.AclCommand', '--add', '--allow-principal', "User:$user",
		(map { ('--operation', $_) } @$operations), @resources);
	return;
}

sql('CREATE EXTENSION outbox');
my $name = sql("SELECT format('%s.%s', (SELECT system_identifier FROM pg_control_system()), (SELECT oid FROM pg_database WHERE datname = current_database()))");
my $progress = "outbox.progress.$name";

grant([ 'Write', 'Describe' ], '--topic', $topic, '--transactional-id', "outbox.$name");
sql(<<SQL);
CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS
	("bootstrap.servers" '$sasl_bootstrap', "security.protocol" 'SASL_PLAINTEXT', "sasl.mechanism" 'PLAIN', delivery 'exactly_once');
CREATE USER MAPPING FOR CURRENT_USER SERVER kafka OPTIONS ("sasl.username" '$user', "sasl.password" '$password');
SQL
wait_for_error($node, 'postgres', 'waiting for configuration', qq(the relay may not use the topic "$progress": .*; grant it Create, Describe, DescribeConfigs, Read and Write));
pass('a topic that the relay may not see');
my $pid = relay_pid($node, 'postgres');

grant(['Describe'], '--topic', $progress);
wait_for_error($node, 'postgres', 'waiting for configuration', qq(the topic "$progress" does not exist and the relay could not create it: .*; grant it Create));
pass('one that it may not create');

grant(['Create'], '--topic', $progress);
wait_for_error($node, 'postgres', 'waiting for configuration', qq(the relay may not see the settings of the topic "$progress": .*; grant it DescribeConfigs));
pass('one whose settings it may not see');

publish_key($node, 'postgres', $topic, 'event');
grant(['DescribeConfigs'], '--topic', $progress);
wait_for_error($node, 'postgres', 'waiting for configuration', qq(the relay may not read the topic "$progress"; grant it Read));
pass('one that it may not read');
is(relay_pid($node, 'postgres'), $pid, 'the relay waits for each without starting over');

grant(['Read'], '--topic', $progress);
wait_for_error($node, 'postgres', 'waiting for configuration', qq(the relay could not write to the topic "$progress": .*; it needs the right Write));
pass('one that it may not write to');

grant(['Write'], '--topic', $progress);
wait_for_state($node, 'postgres', 'streaming');
wait_until_confirmed($node, 'postgres');
is(join(' ', committed_lines(1, $topic, '%k', $bootstrap)), 'event', 'these rights are enough');

$node->stop;
done_testing();
