# Exactly once: the position that the progress topic tells never goes back, also
# when the relay reads WAL again that it has read before.

use strict;
use warnings;

use lib 't';
use OutboxRefused;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_server('position', "autovacuum = off\n");
create_extension($node, 'postgres');
publish_from($node);
change_settings("ALTER SERVER kafka OPTIONS (ADD delivery 'exactly_once')");
wait_until('SELECT EXISTS (SELECT FROM outbox.exactly_once)');
create_functions();
sql('CREATE TABLE much (n integer)');
my $progress = progress_topic($node, 'postgres');

# Positions of all records so far, in their order.
sub positions
{
	return map { /"lsn": "([0-9A-F]+)\/([0-9A-F]+)"/ ? hex($1) * 2**32 + hex($2) : () } committed_lines(1, $progress, '%s');
}

# A dead letter, which can be sent again.
my $topic = limited_topic('position');
sql("SELECT refused('$topic')");
wait_until('SELECT count(*) = 1 FROM outbox.dead_letter');
kafka('alter-topic', $ENV{OUTBOX_TEST_KAFKA_DIR}, $topic, 'max.message.bytes=1000000');

# As long as this transaction is open, a relay that starts reads its WAL again.
my $open = $node->background_psql('postgres');
$open->query_safe('BEGIN');
$open->query_safe('INSERT INTO much SELECT generate_series(1, 20000)');
sql("SELECT small('$topic', 'k', 1, 10)");
wait_until_confirmed($node, 'postgres');
my @before = positions();

# The next relay sends the dead letter as soon as it has begun to read.
my $pid = relay_pid($node, 'postgres');
sql("SELECT outbox.retry_all(), pg_terminate_backend($pid, 60000)");
wait_until('SELECT NOT EXISTS (SELECT FROM outbox.dead_letter)');
my @positions = positions();
cmp_ok(scalar @positions, '>', scalar @before + 1, 'records were written since then');
my @back = grep { $positions[$_] < $positions[ $_ - 1 ] } 1 .. $#positions;
is_deeply(\@back, [], 'none of them tells of a position before that of an earlier one');

$open->quit;
$node->stop;
done_testing();
