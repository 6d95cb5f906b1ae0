# A subscription that cannot fetch messages says so, why, and since when, and
# goes on by itself.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxInbox;
use OutboxTest;

my ($user, $password) = ('reader', 'open-s3same');
my $kafka = own_kafka('unreadable', '--sasl', "$user:$password",
	'--property', 'authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer',
	'--property', 'super.users=User:ANONYMOUS');
my $sasl_bootstrap = kafka_bootstrap($kafka);

# Its other listener asks for no password and lets everybody do everything.
my ($bootstrap) = slurp_file("$kafka/node-1/server.properties") =~
  m{^advertised\.listeners=.*BROKER://([0-9.:]+)}m;

sub change_rights
{
	my ($action, $operations, @resources) = @_;
	kafka('tool', $kafka, 'org.apache.kafka.tools.AclCommand', $action,
		($action eq '--remove' ? '--force' : ()), '--allow-principal', "User:$user",
		(map { ('--operation', $_) } @$operations), @resources);
	return;
}

# Waits until subscriptions are in a state for a reason that matches, and for so
# long that they have looked again and again meanwhile.
sub waits
{
	my ($names, $reason, $what) = @_;
	wait_for(<<SQL, $what);
SELECT bool_and(state = 'waiting for kafka' AND last_error ~ \$re\$$reason\$re\$ AND state_since < clock_timestamp() - interval '3 s')
FROM inbox.stat_subscription WHERE name = ANY ('{$names}')
SQL
	return;
}

sub runs
{
	my ($names, $what) = @_;
	wait_for("SELECT bool_and(state = 'running') FROM inbox.stat_subscription WHERE name = ANY ('{$names}')", $what);
	return;
}

my $node = new_server('unreadable', "log_statement = none\n");
my $topic = make_topic(topic_name('unreadable'), 2, dir => $kafka);
subscribe_in($node);
produce($topic, { bootstrap => $bootstrap }, "a\t1");
change_rights('--add', ['Describe'], '--topic', $topic);
sql(<<SQL);
CREATE EXTENSION outbox;
CREATE SERVER other FOREIGN DATA WRAPPER outbox_kafka OPTIONS
	("bootstrap.servers" '$sasl_bootstrap', "security.protocol" 'SASL_PLAINTEXT', "sasl.mechanism" 'PLAIN');
CREATE USER MAPPING FOR CURRENT_USER SERVER other OPTIONS ("sasl.username" '$user', "sasl.password" '$password');
CREATE FUNCTION handler(message inbox.message) RETURNS void LANGUAGE sql AS '';
SELECT inbox.subscribe('named', ARRAY['$topic'], 'handler', server => 'other');
SELECT inbox.subscribe('found', ARRAY['^$topic'], 'handler', server => 'other');
SQL
my $forbidden = qq(topic "$topic": .*Topic authorization failed; the principal needs the rights Describe and Read);
waits('named, found', qq(partition [01] of $forbidden), 'without the right to read the topic it waits');

change_rights('--add', ['Read'], '--topic', $topic);
runs('named, found', 'with it, it goes on');
wait_for("SELECT bool_and(processed = 1 AND last_error ~ 'cannot report offsets to the consumer group .*Group authorization failed; the principal needs the right Read on the group') FROM inbox.stat_subscription",
	'a right on the group is missed, and handled are messages nevertheless');
runs('named, found', 'so it runs');

change_rights('--add', ['Read'], '--group', 'postgres.', '--resource-pattern-type', 'prefixed');
my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
my $reported = '';
until ($reported =~ /postgres\.named +\Q$topic\E +[01] +1 +1 +0/ || time > $deadline)
{
	$reported = kafka('tool', $kafka, 'org.apache.kafka.tools.consumer.group.ConsumerGroupCommand',
		'--describe', '--group', 'postgres.named');
}
like($reported, qr/postgres\.named +\Q$topic\E +[01] +1 +1 +0/, 'once it is given, offsets are reported');

# There is nothing new to read.
change_rights('--remove', ['Read'], '--topic', $topic);
waits('named, found', qq(partition [01] of $forbidden), 'when the right is taken back it waits');
change_rights('--add', ['Read'], '--topic', $topic);
runs('named, found', 'and goes on without a message');

change_rights('--remove', [ 'Read', 'Describe' ], '--topic', $topic);
waits('named, found', $forbidden, 'a topic that is hidden is waited for');
change_rights('--add', [ 'Read', 'Describe' ], '--topic', $topic);
runs('named, found', 'until it can be seen');
produce($topic, { bootstrap => $bootstrap }, "a\t2");
wait_for('SELECT bool_and(processed = 2) FROM inbox.stat_subscription', 'nothing was missed');

sql(q(ALTER USER MAPPING FOR CURRENT_USER SERVER other OPTIONS (SET "sasl.password" 'wrong')));
waits('named, found', 'SASL authentication error', 'so is somebody who knows the password');
sql(qq(ALTER USER MAPPING FOR CURRENT_USER SERVER other OPTIONS (SET "sasl.password" '$password')));
runs('named, found', 'who is found');

kafka('kill', $kafka);
waits('named, found', 'Connection refused', 'and so are brokers that are away');
kafka('restart', $kafka);
runs('named, found', 'and come back');

kafka('tool', $kafka, 'org.apache.kafka.tools.TopicCommand', '--delete', '--topic', $topic);
waits('named', qq(topic "$topic": .*Unknown topic or partition), 'and a topic that is deleted');
runs('found', 'unless it was found by a pattern');

# There are 128 workers at most, of which few can run here.
sql("SELECT inbox.subscribe('many' || i, ARRAY['$topic'], 'handler', workers => 64, server => 'other') FROM generate_series(1, 2) i");
wait_for("SELECT state = 'stopped' AND last_error ~ 'outbox.max_consumers' FROM inbox.stat_subscription WHERE name = 'many2'",
	'without room for all of its workers it does not look as if it would run');

unlike(slurp_file($node->logfile), qr/outbox consumer .*ERROR:/, 'no worker ran into an error');
$node->stop;
done_testing();
