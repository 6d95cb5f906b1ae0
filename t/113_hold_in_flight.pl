# A key is held behind a dead letter that is not stored yet, too: what is to be
# sent again is looked for while something in front of it is under way.

use strict;
use warnings;

use lib 't';
use OutboxRefused;
use OutboxProxy;
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $kafka = own_kafka('hold');
my $network = OutboxProxy->new($kafka);
my $node = new_server('hold', "outbox.on_dead_letter = hold\n");
create_extension($node, 'postgres', $network->bootstrap);
publish_from($node, $kafka);
# What is not compressed and too large is refused unasked for a second.
change_settings(q{ALTER SERVER kafka OPTIONS (ADD "compression.codec" 'none', ADD "batch.num.messages" '10')});
create_functions();

my $topic = limited_topic('held');
my $other = make_topic(topic_name('other'), 1, dir => $kafka);
sql("SELECT small('$topic', 'before', 1, 1), small('$other', 'before', 1, 1)");
wait_until_confirmed($node, 'postgres');

foreach my $round (1 .. 3)
{
	# In one go, while it is known that the topic refuses such.
	$network->slow(0.02);
	sql(<<SQL);
SELECT refused('$topic', 'a$round');
DO \$\$ BEGIN WHILE NOT EXISTS (SELECT FROM outbox.dead_letter WHERE key = 'a$round') LOOP PERFORM pg_sleep(0.001); END LOOP; END \$\$;
SELECT small('$other', 'k', 1, 1000), refused('$topic', 'b$round'), small('$topic', 'b$round', 1, 10);
SELECT outbox.discard(event_id) FROM outbox.dead_letter WHERE key = 'a$round';
SQL
	wait_until("SELECT EXISTS (SELECT FROM outbox.dead_letter WHERE key = 'b$round')");
	$network->heal;
	sql("SELECT small('$topic', 'b$round', 11, 20)");
	wait_until_confirmed($node, 'postgres');
	is(scalar sequence($topic, "b$round"), 0, 'nothing passes a dead letter that was not stored');
	is(sql("SELECT count(*) FROM outbox.held_event WHERE key = 'b$round'"), 20, 'all of its key wait');
	sql("SELECT outbox.discard(event_id) FROM outbox.dead_letter WHERE key = 'b$round'");
	is_deeply([ wait_for_sequence(20, $topic, "b$round") ], [ 1 .. 20 ], 'and are sent in order when it is discarded');
}

$node->stop;
done_testing();
