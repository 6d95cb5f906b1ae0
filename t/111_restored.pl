# A server that was restored to a point in time, beside one that lives on, does
# not stop the original.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use Test::More;

my $topic = topic_name('restored');
my $original = new_server('original', '', allows_streaming => 1);
create_extension($original, 'postgres');
$original->safe_psql('postgres', "ALTER SERVER kafka OPTIONS (ADD delivery 'exactly_once')");

# Waits until a consumer has seen so many events; returns their keys.
sub committed_keys { return join ' ', committed_lines($_[0], $topic, '%k') }

publish_key($original, 'postgres', $topic, 'before');
is(committed_keys(1), 'before', 'the original publishes');
$original->backup('backup');
my $copy = OutboxServer->new('copy');
$copy->init_from_backup($original, 'backup');
$copy->append_conf('postgresql.conf', <<'CONF');
restore_command = 'false'
recovery_target = 'immediate'
recovery_target_action = 'promote'
CONF
$copy->set_recovery_mode;
$copy->start;

wait_for_error($copy, 'postgres', 'fenced', 'restored to a point in time.*ALTER SERVER');
publish_key($copy, 'postgres', $topic, 'copy');
publish_key($original, 'postgres', $topic, 'original');
is(committed_keys(2), 'before original', 'a copy of the past does not publish, the original does');
$copy->restart;
wait_for_state($copy, 'postgres', 'fenced');
publish_key($original, 'postgres', $topic, 'later');
is(committed_keys(3), 'before original later', 'nor does it when it starts again');
is(relay_status($original, 'postgres', 'state'), 'streaming', 'the original is not disturbed');

# A fenced relay has nothing to do.
my $pid = relay_pid($copy, 'postgres');
my $before = cpu_of($pid);
$copy->safe_psql('postgres', 'SELECT pg_sleep(2)');
cmp_ok(cpu_of($pid) - $before, '<', 0.5, 'the one that waits is not busy');

# Unless somebody wants it so.
$copy->safe_psql('postgres', "ALTER SERVER kafka OPTIONS (SET delivery 'exactly_once')");
wait_for_state($copy, 'postgres', 'streaming');
is(committed_keys(4), 'before original later copy', 'it takes over when it is told to');
publish_key($original, 'postgres', $topic, 'lost');
wait_for_state($original, 'postgres', 'fenced');
$copy->restart;
publish_key($copy, 'postgres', $topic, 'last');
is(committed_keys(5), 'before original later copy last', 'and keeps the name');

$_->stop foreach $original, $copy;
done_testing();
