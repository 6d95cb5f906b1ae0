# A connection that something between us and the broker has forgotten is noticed
# long before the library itself would.

use strict;
use warnings;

use lib 't';
use OutboxProxy;
use OutboxTest;
use Test::More;

my $kafka = own_kafka('forgotten');
my $bootstrap = kafka_bootstrap($kafka);
my $proxy = OutboxProxy->new($kafka, 4096);
my $node = new_server('forgotten');
create_extension($node, 'postgres', $proxy->bootstrap);

# Longer than anything here waits.
$node->safe_psql('postgres', q{ALTER SERVER kafka OPTIONS ("socket.timeout.ms" '300000')});
wait_for_state($node, 'postgres', 'streaming');
my $topic = topic_name('forgotten');

# More than the proxy's kernel takes without anybody reading it.
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION publish_much(topic text, key text) RETURNS uuid LANGUAGE sql AS
	$$ SELECT outbox.publish_bytes('Test', key, 'Large', string_agg(sha512(i::text::bytea), ''), topic => topic)
	   FROM generate_series(1, 10000) i $$;
SQL

sub publish
{
	my ($key) = @_;
	$node->safe_psql('postgres', "SELECT publish_much('$topic', '$key')");
	return;
}

publish('before');
is(join(' ', committed_lines(1, $topic, '%k', $bootstrap)), 'before', 'an event arrives');
$proxy->forget;
my $seconds = seconds_of(
	sub {
		publish('after');
		wait_until_confirmed($node, 'postgres');
	});
note "$seconds seconds";
is(join(' ', consume_lines($topic, '%k', $bootstrap)), 'before after', 'an event does not wait until socket.timeout.ms, and comes once');

$node->stop;
undef $proxy;
done_testing();
