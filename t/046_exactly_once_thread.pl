# The thread that commits a Kafka transaction has its memory and its pipe until
# its end, however late that comes.

use strict;
use warnings;

use IPC::Run ();
use PostgreSQL::Test::Utils;
use Test::More;

use OutboxTest;

# Between saying that it is done and waking the relay the thread sleeps for
# longer than the relay waits before it looks.  What the relay gives back
# meanwhile is overwritten, and the thread looks whether its own was.
my $expression = <<'PERL';
s/pg_atomic_write_u32\(&call->done, 1\);/$& usleep(1300000); if (call->wake < 0) abort();/;
s/free\(call\);(\s+return)/memset(call, 255, sizeof(TransactionCall));$1/;
PERL

my $dir = PostgreSQL::Test::Utils::tempdir_short();
my ($bindir, $said) = ('', '');
IPC::Run::run(
	[
		'dev/flawed', "$dir/flawed", 'src/kafka/producer/producer_transaction.c', $expression
	],
	'<', \undef, '>', \$bindir, '2>', \$said)
  or die "dev/flawed failed: $said\n";
chomp $bindir;

local $ENV{PATH} = "$bindir:$ENV{PATH}";
my $node = new_server('thread');
my $topic = topic_name('thread');
$node->safe_psql('postgres', 'CREATE EXTENSION outbox');
$node->safe_psql('postgres',
		'CREATE SERVER kafka FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" \''
	  . kafka_bootstrap()
	  . "', delivery 'exactly_once')");
wait_for_state($node, 'postgres', 'streaming');
foreach my $key (1 .. 3)
{
	publish_key($node, 'postgres', $topic, $key);
	wait_until_confirmed($node, 'postgres');
}
is_deeply(
	[ committed_lines(3, $topic, '%k') ],
	[ 1 .. 3 ],
	'transactions are committed');
unlike(slurp_file($node->logfile),
	qr/terminated by signal/, 'no thread saw memory that was given back');

$node->stop;
done_testing();
