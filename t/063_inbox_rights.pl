# The handler runs as the role that subscribed, and nothing that it does or
# leaves behind gets at the worker's rights.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxInbox;
use OutboxTest;

my $node = new_server('inbox_rights', "max_worker_processes = 32\n");
create_extension($node, 'postgres');
subscribe_in($node);

sub as_alice
{
	my ($statements) = @_;
	return sql("SET SESSION AUTHORIZATION alice;\n$statements");
}

sql(<<SQL);
CREATE ROLE alice LOGIN;
CREATE SCHEMA shop AUTHORIZATION alice;
ALTER ROLE alice SET search_path = shop;
GRANT USAGE ON SCHEMA inbox, outbox TO alice;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA inbox TO alice;
GRANT EXECUTE ON FUNCTION outbox.publish TO alice;
GRANT USAGE ON FOREIGN SERVER kafka TO alice;
CREATE TABLE public.secret (x text);
SQL
as_alice(<<SQL);
CREATE TABLE shop.seen (what text, who text DEFAULT current_user, value text);
SQL

# One topic for all: each subscription sees the same messages.
my $topic = make_topic(topic_name('Rights'), 1);
produce($topic, "a\t1");

# Subscribes alice with a handler of this body.
sub subscribe
{
	my ($name, $body, $options) = @_;
	as_alice(<<SQL);
CREATE FUNCTION shop.handle_$name(m inbox.message) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	$body
END
\$\$;
SQL
	as_alice("SELECT inbox.subscribe('$name', ARRAY['$topic'], 'shop.handle_$name', max_attempts => 1" . ($options || '') . ")");
	return;
}

# What the handler's error was.
sub error_of
{
	my ($name) = @_;
	$node->poll_query_until('postgres',
		"SELECT count(*) = 1 FROM inbox.message WHERE subscription = '$name' AND status = 'failed'");
	return sql("SELECT error FROM inbox.message WHERE subscription = '$name'");
}

# ---------------------------------------------------------------------------
# While it runs

subscribe('plain', "INSERT INTO seen VALUES ('plain', DEFAULT, current_setting('search_path'));");
wait_for("SELECT count(*) = 1 FROM shop.seen WHERE what = 'plain'", 'the handler runs');
is(sql("SELECT who, value FROM shop.seen WHERE what = 'plain'"), 'alice|shop',
	'as its role, with the search_path of the role');

subscribe('secret', "INSERT INTO public.secret VALUES ('x');");
like(error_of('secret'), qr/permission denied for table secret/, 'with no other rights');
subscribe('reset_role', 'RESET ROLE;');
like(error_of('reset_role'), qr/cannot set parameter "role" within security-definer function/,
	'RESET ROLE is refused');
subscribe('set_role', 'SET ROLE postgres;');
like(error_of('set_role'), qr/cannot set parameter "role"/, 'SET ROLE is refused');
subscribe('authorization', 'SET SESSION AUTHORIZATION postgres;');
like(error_of('authorization'), qr/cannot set parameter "session_authorization" within security-definer function/,
	'SET SESSION AUTHORIZATION is refused');
subscribe('set_config', q{PERFORM set_config('role', 'none', false);});
like(error_of('set_config'), qr/cannot set parameter "role"/, 'and so is set_config()');
subscribe('forge', q{UPDATE inbox.position SET next_offset = 1000;});
like(error_of('forge'), qr/permission denied/, 'the position is out of its reach');

# ---------------------------------------------------------------------------
# What it leaves for the commit

as_alice(<<SQL);
CREATE TABLE shop.trap (x integer);
CREATE FUNCTION shop.spring() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	INSERT INTO shop.seen VALUES ('deferred trigger');
	BEGIN
		INSERT INTO public.secret VALUES ('from the trigger');
	EXCEPTION WHEN insufficient_privilege THEN
		INSERT INTO shop.seen VALUES ('trigger refused');
	END;
	RETURN NULL;
END
\$\$;
CREATE CONSTRAINT TRIGGER spring AFTER INSERT ON shop.trap
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION shop.spring();
CREATE FUNCTION shop.evil() RETURNS integer LANGUAGE plpgsql AS \$\$
BEGIN
	INSERT INTO shop.seen VALUES ('cursor');
	INSERT INTO public.secret VALUES ('from the cursor');
	RETURN 1;
END
\$\$;
SQL
subscribe('trigger', 'INSERT INTO trap VALUES (1);');
wait_for("SELECT count(*) = 1 FROM shop.seen WHERE what = 'trigger refused'", 'a deferred trigger runs');
is(sql("SELECT who FROM shop.seen WHERE what = 'deferred trigger'"), 'alice', 'as the role');

subscribe('cursor', q{EXECUTE 'DECLARE c CURSOR WITH HOLD FOR SELECT shop.evil()'; INSERT INTO seen VALUES ('after cursor');});
wait_for("SELECT count(*) = 1 FROM shop.seen WHERE what = 'after cursor'", 'a cursor WITH HOLD can be declared');
is(sql("SELECT count(*) FROM shop.seen WHERE what = 'cursor'"), 0, 'and is closed before the commit');

as_alice(<<SQL);
CREATE TABLE shop.parent (id integer PRIMARY KEY);
CREATE TABLE shop.child (id integer REFERENCES shop.parent DEFERRABLE INITIALLY DEFERRED);
SQL
subscribe('foreign_key', 'INSERT INTO child VALUES (1); INSERT INTO parent VALUES (1);');
wait_for('SELECT count(*) = 1 FROM shop.child', 'a deferrable foreign key may be filled in any order');
subscribe('broken_key', 'INSERT INTO child VALUES (2);');
like(error_of('broken_key'), qr/violates foreign key constraint/, 'and a violation is the handler\'s failure');
is(sql('SELECT count(*) FROM shop.child'), 1, 'without effect');

# ---------------------------------------------------------------------------
# What it leaves in the session

subscribe('listen', 'LISTEN litter;');
like(error_of('listen'), qr/cannot execute LISTEN/, 'it cannot listen');
subscribe('litter', <<'SQL');
	IF m."offset" = 0 THEN
		CREATE TEMP TABLE litter (x integer);
		SET work_mem = '12345kB';
		SET search_path = pg_temp, pg_catalog;
		PERFORM pg_advisory_lock(4711);
		EXECUTE 'PREPARE litter AS SELECT 1';
	ELSE
		INSERT INTO shop.seen SELECT 'left', current_user, v FROM (
			SELECT 'temp table' WHERE to_regclass('pg_temp.litter') IS NOT NULL
			UNION ALL SELECT 'work_mem' WHERE current_setting('work_mem') = '12345kB'
			UNION ALL SELECT 'search_path' WHERE current_setting('search_path') <> 'shop'
			UNION ALL SELECT 'lock' WHERE EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory')
			UNION ALL SELECT 'statement' WHERE EXISTS (SELECT FROM pg_prepared_statements WHERE name = 'litter')
			UNION ALL SELECT 'nothing else') x (v);
	END IF;
SQL
wait_for("SELECT sum(processed) = 1 FROM inbox.position WHERE subscription = 'litter'", 'a handler may litter');
produce($topic, "a\t2");
wait_for("SELECT count(*) > 0 FROM shop.seen WHERE what = 'left'", 'and the next batch');
is(sql("SELECT string_agg(value, ', ') FROM shop.seen WHERE what = 'left'"), 'nothing else', 'finds nothing of it');

is(sql('SELECT count(*) FROM public.secret'), 0, 'nobody has got at what is not his');

# ---------------------------------------------------------------------------
# What it may do

my $type = aggregate_type('Effect');
subscribe('publisher', "PERFORM outbox.publish('$type', m.aggregate_id, 'Effect', jsonb_build_object('offset', m.\"offset\"));");
wait_for("SELECT sum(processed) = 2 FROM inbox.position WHERE subscription = 'publisher'", 'a handler publishes');
wait_until_confirmed($node, 'postgres');
my %published = map { header($_, 'id') => 1 } consume("outbox.event.$type");
is(scalar(keys %published), 2, 'and may do so');

# ---------------------------------------------------------------------------
# When the role loses its rights

subscribe('revoked', "INSERT INTO seen VALUES ('revoked');");
wait_for("SELECT count(*) = 2 FROM shop.seen WHERE what = 'revoked'", 'a handler works');
as_alice('REVOKE EXECUTE ON FUNCTION shop.handle_revoked FROM PUBLIC, alice');
produce($topic, "a\t3");
wait_for("SELECT state = 'stopped' AND last_error ~ 'permission denied for handler' FROM inbox.stat_subscription WHERE name = 'revoked'",
	'without the right to execute it, it does not');
is(sql("SELECT count(*) FROM inbox.message WHERE subscription = 'revoked' AND status <> 'processed'"), 0,
	'and no message is to blame');

# ---------------------------------------------------------------------------
# When the role is dropped, which nothing prevents

sql('CREATE ROLE bob; GRANT USAGE ON SCHEMA inbox TO bob; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA inbox TO bob; GRANT USAGE ON FOREIGN SERVER kafka TO bob;');
sql(<<SQL);
CREATE TABLE public.counted (value bytea);
CREATE FUNCTION public.handle_orphan(m inbox.message) RETURNS void LANGUAGE sql SECURITY DEFINER
AS 'INSERT INTO public.counted VALUES (m.payload)';
SET SESSION AUTHORIZATION bob;
SELECT inbox.subscribe('orphan', ARRAY['$topic'], 'public.handle_orphan');
SQL
wait_for('SELECT count(*) = 3 FROM public.counted', 'a role has subscribed');
sql('DROP OWNED BY bob; DROP ROLE bob;');
produce($topic, "a\t4");
wait_for("SELECT state = 'stopped' AND last_error = 'role \"bob\", which made the subscription, does not exist any more; call inbox.unsubscribe(''orphan'') and subscribe as another role' FROM inbox.stat_subscription WHERE name = 'orphan'",
	'without its role the subscription stops, and says what to do');
my ($status, $out, $error) = $node->psql('postgres', "SELECT inbox.subscribe('orphan', ARRAY['$topic'], 'public.handle_orphan')");
like($error, qr/role "bob" of subscription "orphan" does not exist any more\nHINT:  Call inbox.unsubscribe\('orphan'\)/,
	'it cannot be taken over as it is');
sql("CREATE ROLE bob; SELECT inbox.pause('orphan');");
($status, $out, $error) = $node->psql('postgres', "SELECT inbox.resume('orphan')");
like($error, qr/role "bob" of subscription "orphan" does not exist.*HINT:  Unsubscribe/s, 'another role of the name is another role');
is(sql('SELECT count(*) FROM public.counted'), 3, 'nothing was done for nobody');
sql("SELECT inbox.unsubscribe('orphan'); SELECT inbox.subscribe('orphan', ARRAY['$topic'], 'public.handle_orphan')");
wait_for('SELECT count(*) = 4 FROM public.counted', 'one who unsubscribes and subscribes goes on');
is(sql('SELECT count(DISTINCT value) FROM public.counted'), 4, 'with nothing twice');

done_testing();
