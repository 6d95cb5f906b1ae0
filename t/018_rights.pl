# Nobody gains a right: neither who owns a database, nor who may create objects
# in it, nor who may publish.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use OutboxTrap;
use PostgreSQL::Test::Utils;
use Test::More;

# Without it, sessions of the test would find the traps as well.
$ENV{PGOPTIONS} = '-c search_path=pg_catalog,public';

my $db = 'shop';
my $node;

sub sql
{
	my ($statements) = @_;
	return $node->safe_psql($db, $statements);
}

sub wait_until
{
	my ($query) = @_;
	$node->poll_query_until($db, $query)
	  or die "not true: $query\n",
	  map { sql($_) . "\n" } 'SELECT * FROM outbox.stat_relay', 'TABLE outbox.dead_letter',
	  'SELECT * FROM outbox.events ORDER BY id DESC LIMIT 5', 'TABLE inbox.stat_subscription';
	return;
}

# A server with a database whose owner is no superuser, and has laid traps.
sub new_database
{
	my ($name) = @_;
	$node = new_server($name, "max_worker_processes = 24\n");
	$node->safe_psql('postgres', <<SQL);
CREATE ROLE mallory LOGIN;
CREATE ROLE bob LOGIN;
CREATE DATABASE $db OWNER mallory;
SQL
	my $traps = set_traps($node, $db, 'mallory');
	my %count = reverse $traps =~ /^(\d+) (\w+)s$/mg;
	ok($count{function} > 1500 && $count{operator} > 500 && $count{aggregate} > 80
		&& $count{relation} > 100 && $count{type} > 40, 'there are traps of each kind')
	  or diag $traps;
	return;
}

# Has relay and consumers run all kinds of their statements.
sub exercise
{
	my $topic = make_topic(topic_name('Rights'), 1, 'max.message.bytes' => 100_000);
	my $bulk = make_topic(topic_name('Bulk'), 1);
	my $in = make_topic(topic_name('In'), 1);

	sql('CREATE EXTENSION outbox');
	create_server($node, $db);
	wait_for_state($node, $db, 'streaming');
	sql("SELECT outbox.publish('Thing', 'k', 'Made', to_jsonb(i), topic => '$topic') FROM generate_series(1, 10) i");
	wait_until("SELECT bool_and(status = 'published') FROM outbox.events");

	# Dead letters and what waits behind them
	$node->safe_psql('postgres', "ALTER SYSTEM SET outbox.on_dead_letter = hold");
	$node->reload;
	wait_until("SELECT current_setting('outbox.on_dead_letter') = 'hold'");
	foreach my $round (1 .. 2)
	{
		sql("SELECT outbox.publish('Thing', 'k', 'Made', to_jsonb(string_agg(md5(i::text), '')), topic => '$topic') FROM generate_series(1, 6000) i");
		sql("SELECT outbox.publish('Thing', 'k', 'Made', '0', topic => '$topic')");
		wait_until('SELECT count(*) = 1 FROM outbox.held_event');
		is(sql('SELECT outbox.retry_all() > 0'), 't', 'a dead letter is tried again');
		wait_until('SELECT bool_and(attempts = 2) FROM outbox.dead_letter');
		sql('SELECT outbox.discard(event_id) FROM outbox.dead_letter');
		wait_until('SELECT count(*) = 0 FROM outbox.held_event');

		# Sent again, and out of the table
		sql("SELECT outbox.replay('-infinity')");
		wait_until('SELECT bool_and(finished_at IS NOT NULL) FROM outbox.replay_job');
		$node->safe_psql('postgres', 'ALTER SYSTEM SET outbox.capture = poll');
		$node->reload;
		wait_for_state($node, $db, 'polling');
		sql("SELECT outbox.publish('Thing', 'k', 'Made', '1', topic => '$topic')");
		wait_until("SELECT bool_and(status <> 'pending') FROM outbox.events");
		$node->safe_psql('postgres', 'ALTER SYSTEM SET outbox.capture = log');
		set_bootstrap($node, $db, closed_port());
		$node->reload;
		sql("SELECT outbox.publish('Thing', i::text, 'Made', '2', topic => '$bulk') FROM generate_series(1, 20000) i");
		set_bootstrap($node, $db, kafka_bootstrap());
		wait_for_state($node, $db, 'streaming');

		# The second time with Kafka transactions
		sql("ALTER SERVER kafka OPTIONS (ADD delivery 'exactly_once')") if $round == 1;
		wait_until('SELECT EXISTS (SELECT FROM outbox.exactly_once)');
	}
	sql("ALTER SERVER kafka OPTIONS (SET delivery 'at_least_once')");
	wait_until('SELECT NOT EXISTS (SELECT FROM outbox.exactly_once)');

	# Subscriptions
	sql(<<SQL);
CREATE TABLE public.seen (subscription text, value text);
CREATE FUNCTION public.handle(m inbox.message) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS \$\$
BEGIN
	IF inbox.payload_text(m) = 'bad' THEN RAISE 'bad'; END IF;
	INSERT INTO public.seen VALUES (m.subscription, inbox.payload_text(m));
END
\$\$;
SELECT inbox.subscribe(name, ARRAY['$in'], 'public.handle', max_attempts => 1, ordering => ordering,
	retry_backoff => '10 ms', keep => CASE WHEN name = 'b' THEN interval '0' END)
FROM (VALUES ('a', 'key'), ('b', 'partition'), ('c', 'none')) s (name, ordering);
SELECT inbox.subscribe('c', ARRAY['$in', '^nothing'], 'public.handle', max_attempts => 2, on_failure => 'stop');
SQL
	produce($in, "k\tone", "k\tbad", "k\ttwo");
	wait_until("SELECT count(*) = 3 FROM inbox.message WHERE status = 'failed'");
	wait_until("SELECT state = 'stopped' FROM inbox.stat_subscription WHERE name = 'c'");
	sql(<<SQL);
SELECT inbox.retry('a');
SELECT inbox.discard('c', event_id) FROM inbox.message WHERE subscription = 'c' AND status = 'failed';
SELECT inbox.pause('b');
SELECT inbox.resume('b');
SQL
	wait_until("SELECT count(*) = 2 FROM public.seen WHERE subscription = 'c'");
	wait_until("SELECT count(*) = 2 FROM inbox.message WHERE status = 'failed'");
	sql("SELECT inbox.seek('a', '$in', 0, 0, rerun => true)");
	wait_until("SELECT count(*) = 4 FROM public.seen WHERE subscription = 'a'");
	sql("SELECT inbox.unsubscribe(name, keep_messages => name = 'b') FROM inbox.subscription");
	$node->restart;
	wait_for_state($node, $db, 'streaming');
	return;
}

# ---------------------------------------------------------------------------
# The owner of a database puts a schema of his own in front of pg_catalog

new_database('rights');
$node->safe_psql($db, <<SQL);
SET SESSION AUTHORIZATION mallory;
ALTER DATABASE $db SET search_path = evil, pg_catalog;
SQL
exercise();
is(sprung_traps($node), '', 'nothing that has our rights finds the traps');

# Tries statements as a role; returns those that are not refused for want of a
# right, and what became of them.
sub not_refused
{
	my ($role, @statements) = @_;
	return sql(<<SQL);
SET SESSION AUTHORIZATION $role;
CREATE FUNCTION pg_temp.try(statement text) RETURNS text LANGUAGE plpgsql AS \$\$
BEGIN
	EXECUTE statement;
	RAISE 'it was done';
EXCEPTION
	WHEN insufficient_privilege THEN RETURN NULL;
	WHEN others THEN RETURN statement || ': ' || SQLERRM;
END
\$\$;
SELECT string_agg(pg_temp.try(s), E'\\n') FROM (VALUES @{[ join ', ', map { '($try$' . $_ . '$try$)' } @statements ]}) t (s);
SQL
}

my @tables = split /\n/, sql(<<SQL);
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname IN ('outbox', 'inbox') AND c.relkind IN ('r', 'p')
SQL
my @everything = sql(<<SQL) =~ /^(\w+\.\w+)$/mg;
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname IN ('outbox', 'inbox') AND c.relkind IN ('r', 'p', 'v')
SQL
ok(@tables > 20 && @everything > @tables, 'there are tables to try it on');
foreach my $role ('mallory', 'bob')
{
	is( not_refused(
			$role,
			(map { ("SELECT 1 FROM $_", "DELETE FROM $_", "INSERT INTO $_ DEFAULT VALUES") } @everything),
			(map {
					(   "TRUNCATE $_",
						"CREATE TRIGGER t AFTER INSERT ON $_ FOR EACH ROW EXECUTE FUNCTION outbox.wake_relay()",
						"CREATE RULE r AS ON INSERT TO $_ DO ALSO NOTHING",
						"CREATE POLICY p ON $_",
						"ALTER TABLE $_ ENABLE ROW LEVEL SECURITY",
						"ALTER TABLE $_ ADD COLUMN c int",
						"ALTER TABLE $_ OWNER TO $role",
						"LOCK TABLE $_")
			} @tables),
			(map {
					(   "CREATE FUNCTION $_.f() RETURNS int LANGUAGE sql RETURN 1",
						"CREATE OPERATOR $_.= (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq)",
						"CREATE DOMAIN $_.d AS int",
						"CREATE TABLE $_.t ()",
						"ALTER SCHEMA $_ OWNER TO $role",
						"DROP SCHEMA $_ CASCADE")
			} 'outbox', 'inbox'),
			'CREATE CAST (inbox.message AS text) WITH INOUT AS IMPLICIT',
			'ALTER DEFAULT PRIVILEGES FOR ROLE postgres GRANT ALL ON TABLES TO PUBLIC',
			'CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION outbox.wake_relay()',
			'ALTER EXTENSION outbox UPDATE',
			'DROP EXTENSION outbox CASCADE',
			'DROP SERVER kafka',
			q(ALTER SERVER kafka OPTIONS (ADD "client.id" 'x')),
			q(CREATE USER MAPPING FOR postgres SERVER kafka),
			q(CREATE SERVER kafka2 FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" 'h')),
			q(SELECT outbox.publish('a', 'b', 'c', '{}')),
			q(SELECT inbox.subscribe('a', ARRAY['b'], 'c')),
			q(ALTER DATABASE shop SET session_replication_role = replica),
			q(SELECT pg_drop_replication_slot('outbox_1'))),
		'',
		"$role can change nothing of ours");
}

# ---------------------------------------------------------------------------
# Who may publish, and who may decide about dead letters

sql(<<SQL);
GRANT USAGE ON SCHEMA outbox TO bob;
GRANT EXECUTE ON FUNCTION outbox.publish, outbox.publish_bytes, outbox.wait_published(interval),
	outbox.retry(text), outbox.retry_all(text), outbox.discard(text) TO bob;
GRANT CREATE ON SCHEMA public TO bob;
GRANT USAGE ON SCHEMA evil TO bob;
SQL
my $topic = make_topic(topic_name('Bob'), 1);
sql(<<SQL);
SET SESSION AUTHORIZATION bob;
SET search_path = evil, pg_temp, public, pg_catalog;
SELECT outbox.publish('Thing', 'k', 'Made', '{}', '{"a": 1}', topic => '$topic');
SELECT outbox.publish_bytes('Thing', 'k', 'Made', '\\x00', 'a/b', topic => '$topic');
SELECT outbox.wait_published();
SELECT outbox.retry('0190a6b2-0000-7000-8000-000000000000'), outbox.discard('0190a6b2-0000-7000-8000-000000000000'), outbox.retry_all();
SQL
is(scalar(wait_for_events($topic, 2)), 2, 'who may publish publishes');
is(sprung_traps($node), '', 'and nothing runs with other rights than his');
is($node->safe_psql('postgres', 'SELECT string_agg(rolname, $$ $$) FROM pg_roles WHERE rolsuper'),
	'postgres', 'nobody became a superuser');

# ---------------------------------------------------------------------------
# A schema "outbox" that is there before the extension

my $databases = 0;

# Makes a database that mallory owns, with something in it, and tries to create
# the extension there; returns the error.
sub error_of_extension
{
	my ($statements) = @_;
	my $name = 'before' . ++$databases;
	$node->safe_psql('postgres', "CREATE DATABASE $name OWNER mallory");
	$node->safe_psql($name, $statements);
	my ($code, $output, $error) = $node->psql($name, 'CREATE EXTENSION outbox');
	return $error;
}

like(
	error_of_extension('CREATE SCHEMA outbox AUTHORIZATION mallory'),
	qr/schema "outbox" belongs to role "mallory".*DETAIL.*HINT/s,
	'is refused if it is not ours');
like(
	error_of_extension('CREATE SCHEMA outbox; CREATE FUNCTION outbox.publish(text, text, text, text) RETURNS int LANGUAGE sql RETURN 1'),
	qr/schema "outbox" is not empty.*function outbox\.publish/s,
	'or not empty');
like(
	error_of_extension('CREATE SCHEMA outbox; GRANT CREATE ON SCHEMA outbox TO bob'),
	qr/others than its owner may create objects in schema "outbox".*role "bob"/s,
	'or open to others');
is(error_of_extension('CREATE SCHEMA outbox; GRANT USAGE ON SCHEMA outbox TO bob'), '', 'else it is taken');
is(error_of_extension(<<SQL), '', 'default privileges are no obstacle');
ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO PUBLIC;
ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC, bob;
ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO bob;
ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO bob;
SQL
is( $node->safe_psql("before$databases", <<SQL), '', 'and give nobody a right');
SELECT o.name, a.grantee::regrole, a.privilege_type
FROM (SELECT n.nspname AS schema, n.nspname AS name, n.nspowner AS owner, n.nspacl AS acl FROM pg_namespace n
      UNION ALL SELECT relnamespace::regnamespace::name, relname, relowner, relacl FROM pg_class
      UNION ALL SELECT pronamespace::regnamespace::name, proname, proowner, coalesce(proacl, acldefault('f', proowner)) FROM pg_proc) o,
	aclexplode(o.acl) a
WHERE o.schema IN ('outbox', 'inbox') AND a.grantee <> o.owner AND a.grantee <> 'pg_monitor'::regrole AND a.privilege_type <> 'USAGE'
SQL
$node->stop;

# ---------------------------------------------------------------------------
# The statements alone would do, without the fixed search_path

{
	my $dir = PostgreSQL::Test::Utils::tempdir_short();
	my ($bindir, $said) = ('', '');
	IPC::Run::run(
		[ 'dev/flawed', "$dir/flawed", 'src/core/worker_session.c', 's/"search_path", "\Kpg_catalog, pg_temp/evil, pg_catalog/' ],
		'<', \undef, '>', \$bindir, '2>', \$said)
	  or die "dev/flawed failed: $said\n";
	chomp $bindir;
	local $ENV{PATH} = "$bindir:$ENV{PATH}";
	new_database('unpinned');
	exercise();
	is(sprung_traps($node), '', 'statements name schemas and operators in full');
	$node->stop;
}

done_testing();
