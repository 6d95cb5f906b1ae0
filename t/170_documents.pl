# Each SQL block of the documents runs, in the order of its page, in a database
# of the page's own.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxDocuments;
use OutboxTest;

# What a page presupposes, by page, beside the extension and the server "kafka".
my $account = 'CREATE TABLE account AS SELECT 42 AS id, 100 AS balance;';
my %before = (
	'README.md' => $account,
	'docs/failover.md' => q(ALTER SERVER kafka OPTIONS (ADD delivery 'exactly_once');),
	'docs/publishing.md' => $account,
	'docs/subscribing.md' => 'CREATE TABLE order_log (id text PRIMARY KEY, content jsonb);',
);

# Pages that make the extension or the server themselves.
my %lacks_extension = map { $_ => 1 } qw(README.md docs/install.md);
my %lacks_server = (%lacks_extension, 'docs/kafka-settings.md' => 1);

# The transactions that a new slot has to wait for are those of other pages, too.
my $node = new_server('documents', "max_worker_processes = 64\nmax_replication_slots = 32\n");
$node->safe_psql('postgres', 'CREATE ROLE shop; CREATE ROLE operator;');
my $bootstrap = kafka_bootstrap();
my $database = 0;
my $blocks = 0;

foreach my $file (documents())
{
	my @blocks = sql_blocks($file) or next;
	my $db = 'page_' . ++$database;

	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, 'CREATE EXTENSION outbox') unless $lacks_extension{$file};
	create_server($node, $db, $bootstrap) unless $lacks_server{$file};
	$node->safe_psql($db, $before{$file}) if $before{$file};
	foreach my $number (1 .. @blocks)
	{
		my $sql = $blocks[ $number - 1 ] =~ s/'kafka-1:9092,kafka-2:9092'/'$bootstrap'/r;
		my ($result, $output, $error) = $node->psql($db, $sql, on_error_stop => 1);
		is($result == 0 ? '' : $error, '', "$file, SQL block $number") or diag $sql;
		$blocks++;
	}
}
cmp_ok($blocks, '>', 20, 'blocks were found');

# What README begins with works: the event arrives, and says what README says.
ok($node->poll_query_until('page_1', q(SELECT state = 'streaming' FROM outbox.stat_relay)),
	'the relay of README works');
is($node->safe_psql('page_1', 'SELECT balance FROM account'), 90, 'the account is charged');
ok( $node->poll_query_until('page_1',
		q(SELECT status = 'published' FROM outbox.events WHERE event_type = 'MoneyWithdrawn')),
	'its event is published');
ok($node->poll_query_until('page_1', q(SELECT state IN ('running', 'waiting for kafka') FROM inbox.stat_subscription)),
	'and its subscription begins');

$node->stop;
done_testing();
