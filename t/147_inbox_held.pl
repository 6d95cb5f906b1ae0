# A partition whose turn has not come yet is not said to wait for a transaction.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxInbox;
use OutboxTest;

my $node = new_server('inbox_held', "max_worker_processes = 24\n");
create_extension($node, 'postgres');
subscribe_in($node);

# Longer than after which that would be said, whichever of the two comes first.
my $topic = make_topic(topic_name('turn'), 2);
foreach my $partition (0, 1)
{
	produce($topic, { partition => $partition }, map { "k\t$partition" } 1 .. 14);
}
sql(<<SQL);
CREATE TABLE done (id bigserial, value text);
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM pg_sleep(1);
	INSERT INTO done (value) VALUES (inbox.payload_text(m));
END
\$\$;
SELECT inbox.subscribe('turn', ARRAY['$topic'], 'handle', batch_size => 1);
SQL
wait_for('SELECT count(DISTINCT value) = 2 FROM done', 'there is a message of each partition at last');
cmp_ok(sql('SELECT count(*) FROM done WHERE id < (SELECT max(first) FROM (SELECT min(id) AS first FROM done GROUP BY value) f)'),
	'>', 10, 'after many of the other one');
unlike(slurp_file($node->logfile), qr/wait for a transaction of a producer/, 'meanwhile it waited for no transaction');
unlike(sql('SELECT last_error FROM inbox.stat_subscription'), qr/transaction/, 'nor does the view say so');

$node->stop;
done_testing();
