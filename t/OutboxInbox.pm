# OutboxInbox.pm
#
# What the tests of subscriptions share: statements in the database that
# subscribes, and conditions that are waited for.

package OutboxInbox;

use strict;
use warnings;

use Exporter 'import';
use Test::More;

our @EXPORT = qw(subscribe_in sql wait_for);

my $node;

# The server whose database "postgres" subscribes.
sub subscribe_in
{
	($node) = @_;
	return;
}

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql('postgres', $statements);
}

# A test that a query comes to give true; shows how things are if it does not.
sub wait_for
{
	my ($query, $what) = @_;
	return ok($node->poll_query_until('postgres', $query), $what)
	  || diag(map { sql($_) }
		  'TABLE inbox.stat_subscription',
		'TABLE inbox.position',
		'SELECT * FROM inbox.consumer_status()',
		"SELECT subscription, event_id, topic, partition, \"offset\", left(payload::text, 100), headers, status, attempts, error, next_attempt_at FROM inbox.message WHERE status <> 'processed' LIMIT 20",
		"SELECT pid, application_name, wait_event, query FROM pg_stat_activity WHERE backend_type ~ 'outbox'"
	  );
}

1;
