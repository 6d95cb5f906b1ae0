# Sessions with a replication origin publish like all others, with the time of
# their commits here: an apply worker whose changes fire a trigger that
# publishes, and programs that replicate.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $topic = make_topic(topic_name('origin'));
my $node = new_server('origin', "outbox.poll_interval = '1h'\n");
$node->safe_psql('postgres', 'CREATE DATABASE source');
create_extension($node, 'postgres');

sub sql
{
	my ($statements, $db) = @_;
	return $node->safe_psql($db || 'postgres', $statements);
}

sub publish_sql
{
	my ($key) = @_;
	return
	  "SELECT outbox.publish('Order', '$key', 'OrderCreated', '{}', topic => '$topic');";
}

# A subscription whose apply worker fires a trigger that publishes.
sql('CREATE TABLE account (id text PRIMARY KEY)', $_)
  foreach qw(postgres source);
sql(<<SQL);
SELECT pg_replication_origin_create('elsewhere');
CREATE FUNCTION announce() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM outbox.publish('Account', NEW.id, 'AccountCreated', '{}', topic => '$topic');
	RETURN NULL;
END \$\$;
CREATE TRIGGER announce AFTER INSERT ON account FOR EACH ROW EXECUTE FUNCTION announce();
ALTER TABLE account ENABLE ALWAYS TRIGGER announce;
SQL
sql("CREATE PUBLICATION accounts FOR TABLE account; SELECT pg_create_logical_replication_slot('accounts', 'pgoutput')",
	'source');
sql("CREATE SUBSCRIPTION accounts CONNECTION \$\$"
	  . $node->connstr('source')
	  . '$$ PUBLICATION accounts WITH (create_slot = false, copy_data = false)');

my $rounds = 0;
my @expected;

# Publishes in each way.
sub publish_all
{
	my $n = ++$rounds;
	my $setup = "SELECT pg_replication_origin_session_setup('elsewhere');";
	my $reset = 'SELECT pg_replication_origin_session_reset();';

	sql(publish_sql("plain-$n"));
	sql($setup . publish_sql("session-$n"));
	sql('BEGIN;' . publish_sql("late-$n") . "$setup COMMIT");
	sql("$setup BEGIN;" . publish_sql("early-$n") . "$reset COMMIT");
	sql("$setup BEGIN;" . publish_sql("prepared-$n") . "PREPARE TRANSACTION 'p'");
	sql("$setup COMMIT PREPARED 'p'");
	sql("INSERT INTO account VALUES ('applied-$n')", 'source');
	$node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM account WHERE id = 'applied-$n'")
	  or die "nothing is replicated\n";
	push @expected,
	  map { "$_-$n" } qw(plain session late early prepared applied);
	return;
}

# Everything is on Kafka, and counts as published only then.
sub check
{
	my ($what) = @_;
	my @messages = wait_for_events($topic, scalar @expected);
	is(keys_in(@messages), join(' ', @expected), "$what: all are published");
	ok( $node->poll_query_until(
			'postgres',
			"SELECT NOT EXISTS (SELECT FROM outbox.events WHERE status <> 'published')"
		),
		"$what: and count as published");
	return;
}

# The timestamps of events are the times of their commits, also where a session
# has not told when its source committed, or did so for an earlier commit, and
# where an apply worker comes late.
sub check_timestamps
{
	my ($what) = @_;
	my $n = ++$rounds;
	my $now = 'SELECT floor(extract(epoch FROM clock_timestamp()) * 1000);';
	my $pause = 'SELECT pg_sleep(1.2);';
	my @keys = map { "$_-$n" } qw(first later prepared applied);

	sql('ALTER SUBSCRIPTION accounts DISABLE');
	sql("INSERT INTO account VALUES ('applied-$n')", 'source');
	my @times = grep { /^\d{13}$/ } split /\n/, sql(
		"SELECT pg_replication_origin_session_setup('elsewhere');"
		  . $now . publish_sql("first-$n") . "$now $pause"
		  . $now . publish_sql("later-$n") . "$now BEGIN;" . publish_sql("prepared-$n")
		  . "PREPARE TRANSACTION 'p'; $pause $now COMMIT PREPARED 'p'; $now"
		  . "$now ALTER SUBSCRIPTION accounts ENABLE");
	$node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM account WHERE id = 'applied-$n'")
	  or die "nothing is replicated\n";
	push @times, sql($now);
	push @expected, @keys;

	my %sent = map { $_->{key} => $_->{ts} } wait_for_events($topic, scalar @expected);
	foreach my $key (@keys)
	{
		my ($before, $after) = splice @times, 0, 2;
		ok($before <= $sent{$key} && $sent{$key} <= $after,
			"$what: $key has the time of its commit")
		  or diag "$sent{$key} is not between $before and $after";
	}
	return;
}

sub set_capture
{
	my ($capture) = @_;
	$node->append_conf('postgresql.conf', "outbox.capture = $capture\n");
	$node->reload;
	return;
}

publish_all();
check('streaming');
check_timestamps('streaming');
sql('ALTER SERVER kafka OPTIONS (ADD "linger.ms" \'5000\')');
sql("SELECT pg_replication_origin_session_setup('elsewhere');" . publish_sql('waits'));
push @expected, 'waits';
ok($node->poll_query_until('postgres',
		'SELECT lag_seconds > 0 FROM outbox.stat_relay'), 'an event waits');
cmp_ok(sql('SELECT lag_seconds FROM outbox.stat_relay'), '<', 60,
	'since its commit');
sql('ALTER SERVER kafka OPTIONS (DROP "linger.ms")');

sql("ALTER SERVER kafka OPTIONS (ADD delivery 'exactly_once')");
publish_all();
check('exactly once');
check_timestamps('exactly once');

set_capture('poll');
wait_for_state($node, 'postgres', 'polling');
publish_all();
check('polling, exactly once');

sql("ALTER SERVER kafka OPTIONS (DROP delivery)");
publish_all();
check('polling');

set_bootstrap($node, 'postgres', closed_port());
publish_all();
set_capture('log');
set_bootstrap($node, 'postgres', kafka_bootstrap());
check('catch-up');
wait_for_state($node, 'postgres', 'streaming');

# A row that another database has published is that one's, wherever it is
# written.
sql("INSERT INTO outbox.event (event_id, aggregate_type, aggregate_id, event_type, topic, database_id)"
	  . " SELECT gen_random_uuid(), 'Order', 'foreign', 'OrderCreated', '$topic', outbox.database_id() + 1");
publish_all();
is(keys_in(wait_for_events($topic, scalar @expected)),
	join(' ', @expected), 'rows of another database are left out');

sql('DROP SUBSCRIPTION accounts');
$node->stop;
done_testing();
