# Messages that were read and are still to be handled can be seen.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxTest;

my $node = new_server('handled');
my $topic = make_topic(topic_name('handled'));
create_extension($node, 'postgres');
$node->safe_psql('postgres', <<SQL);
CREATE FUNCTION handler(message inbox.message) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	ASSERT message.aggregate_id <> 'bad';
END
\$\$;
SELECT inbox.subscribe('all', ARRAY['$topic'], 'handler', retry_backoff => '1 hour', max_attempts => 2);
SQL
produce($topic, "bad\t1", "good\t2", "bad\t3", "bad\t4");

sub shows
{
	my ($numbers, $what) = @_;
	ok( $node->poll_query_until('postgres',
			'SELECT concat_ws(\' \', processed, failed, retrying, waiting, lag) FROM inbox.stat_subscription',
			$numbers),
		$what);
	return;
}

shows('1 0 1 3 0', 'a message that is retried waits, and those behind it');
$node->safe_psql('postgres', 'SELECT inbox.retry(\'all\')');
shows('1 0 1 3 0', 'so they do when it has failed again');
$node->safe_psql('postgres',
	'BEGIN; SELECT inbox.pause(\'all\'); SELECT inbox.retry(\'all\'); COMMIT');
shows('1 0 0 3 0', 'and before it is tried again');

done_testing();
