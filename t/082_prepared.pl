# wait_published() after commits of every kind: prepared transactions, those in
# the middle of a procedure; while Kafka is away, streaming and polling.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $topic = make_topic(topic_name('prepared'));
my $node = new_server('prepared',
	"outbox.poll_interval = '1h'\nmax_prepared_transactions = 100\n");
create_extension($node, 'postgres');
$node->safe_psql('postgres', <<SQL);
CREATE PROCEDURE publish_and_wait(key text, seconds interval, INOUT published boolean) LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM outbox.publish('Order', key, 'OrderCreated', '{}', topic => '$topic');
	COMMIT;
	published := outbox.wait_published(seconds);
	PERFORM outbox.publish('Order', 'never', 'OrderCreated', '{}', topic => '$topic');
	ROLLBACK;
END \$\$;
SQL

# What a new session gets.
sub sql
{
	my ($statements) = @_;
	return join ' ', split /\n+/, $node->safe_psql('postgres', $statements);
}

# Publishes in a transaction that is then prepared.
sub prepare
{
	my ($name) = @_;
	return sql(
		"BEGIN; SELECT FROM outbox.publish('Order', '$name', 'OrderCreated', '{}', topic => '$topic'); PREPARE TRANSACTION '$name'"
	);
}

# Has a session's COMMIT PREPARED to be waited for, and no other?  Kafka is
# away.
sub check_away
{
	my ($mode) = @_;
	my $ask = "SELECT outbox.wait_published('0');";
	my $own =
	  "SELECT FROM outbox.publish('Order', 'own $mode', 'OrderCreated', '{}', topic => '$topic');";

	prepare("given up $mode");
	is(sql("ROLLBACK PREPARED 'given up $mode'; $ask"),
		't', "$mode: there is nothing to wait for after ROLLBACK PREPARED");
	prepare("new $mode");
	my $session = $node->background_psql('postgres');
	is($session->query_safe($ask), 't', "$mode: nor before COMMIT PREPARED");
	is(sql("COMMIT PREPARED 'new $mode'; $ask"),
		'f', "$mode: a new session waits for what it has committed");
	is($session->query_safe($ask), 't', "$mode: another one does not");
	prepare("later $mode");
	$session->query_safe("COMMIT PREPARED 'later $mode'");
	is($session->query_safe($ask), 'f', "$mode: nor one that did so later");
	$session->quit;
	is( sql("CALL publish_and_wait('procedure $mode', '0', NULL)"),
		'f', "$mode: a procedure waits for what it has committed");
	is(sql("$own $ask"), 'f', "$mode: so it is for an ordinary transaction");
	return;
}

# Kafka is there.
sub check_present
{
	my ($mode) = @_;
	my $wait = "SELECT outbox.wait_published('60 s');";

	prepare("present $mode");
	is(sql("COMMIT PREPARED 'present $mode'; $wait"),
		't', "$mode: a prepared transaction is published");
	is( sql("CALL publish_and_wait('present too $mode', '60 s', NULL)"),
		't', "$mode: so is one of a procedure");
	like(
		join(' ', map { $_->{key} } consume($topic)),
		qr/present $mode present too $mode$/,
		"$mode: that is true");
	return;
}

my $port = closed_port();
foreach my $mode ('streaming', 'polling')
{
	wait_for_state($node, 'postgres', $mode);
	check_present($mode);
	set_bootstrap($node, 'postgres', $port);
	wait_for_state($node, 'postgres', 'waiting for kafka');
	check_away($mode);
	set_bootstrap($node, 'postgres', kafka_bootstrap());
	wait_for_state($node, 'postgres', $mode);
	is( sql("BEGIN; SELECT FROM outbox.publish('Order', 'last $mode', 'OrderCreated', '{}', topic => '$topic'); COMMIT; SELECT outbox.wait_published('60 s')"
		),
		't',
		"$mode: the wait ends when Kafka is back");
	next if $mode eq 'polling';

	# Who reads the table goes by the watermark.
	$node->poll_query_until('postgres',
		"SELECT NOT EXISTS (SELECT FROM outbox.events WHERE status <> 'published')"
	) or die "the watermark does not move\n";
	$node->append_conf('postgresql.conf', "outbox.capture = poll\n");
	$node->reload;
}
is( join(' ', sort map { $_->{key} } consume($topic)),
	join(' ', sort map {
			my $mode = $_;
			map { "$_ $mode" } 'present', 'present too', 'new', 'later',
			  'procedure', 'own', 'last'
	} qw(streaming polling)),
	'all that was committed is there once, and nothing else');

# However many transactions are running.
sql("BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'open $_'")
  foreach 1 .. 70;
check_present('polling');

$node->stop;
done_testing();
