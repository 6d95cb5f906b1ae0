# OutboxInbox.pm
#
# What the tests of subscriptions share: statements in the database that
# subscribes, and conditions that are waited for.

package OutboxInbox;

use strict;
use warnings;

use Exporter 'import';
use Test::More;

use OutboxTest;

our @EXPORT = qw(subscribe_in subscribe_noting sql wait_for);

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

# A topic of its own, and a subscription whose handler runs a statement for
# each message, and notes those that it has come through; with a sequence to count
# in.  Returns the topic.
sub subscribe_noting
{
	my ($name, $body, $options, $partitions) = @_;
	my $topic = make_topic(topic_name($name), $partitions || 1);
	sql(<<SQL);
CREATE TABLE done_$name (id bigserial, key text, value text);
CREATE SEQUENCE tries_$name;
CREATE FUNCTION handle_$name(m inbox.message) RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE
	v text := inbox.payload_text(m);
BEGIN
	INSERT INTO done_$name (key, value) VALUES (m.aggregate_id, v);
	$body
END
\$\$;
SQL
	my $arguments = join '', map { ", $_ => $options->{$_}" } sort keys %$options;
	sql("SELECT inbox.subscribe('$name', ARRAY['$topic'], 'handle_$name'$arguments)");
	return $topic;
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
