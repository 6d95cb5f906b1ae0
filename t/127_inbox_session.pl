# A handler has what looks like a session of its role: session_user and the
# settings are the role's, and no way leads from there to the worker's own.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxInbox;
use OutboxTest;

my $node = new_server('inbox_session', <<'CONF');
max_worker_processes = 32
work_mem = '5MB'
temp_buffers = '9MB'
CONF
create_extension($node, 'postgres');
subscribe_in($node);

sub as_alice
{
	my ($statements) = @_;
	return sql("SET SESSION AUTHORIZATION alice;\n$statements");
}

# Settings at every level; those of postgres, the role of workers, are for
# nobody else.
sql(<<SQL);
CREATE ROLE alice NOLOGIN;
CREATE SCHEMA shop AUTHORIZATION alice;
GRANT USAGE ON SCHEMA inbox TO alice;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA inbox TO alice;
GRANT USAGE ON FOREIGN SERVER kafka TO alice;
ALTER ROLE alice SET search_path = shop;
ALTER ROLE alice SET timezone = 'Asia/Tokyo';
ALTER ROLE alice SET row_security = off;
ALTER ROLE alice SET work_mem = '6MB';
ALTER ROLE alice SET app.tenant = 'all';
ALTER ROLE alice SET lock_timeout = '3min';
ALTER ROLE alice SET client_encoding = 'LATIN1';
ALTER ROLE alice SET statement_timeout = '1ms';
ALTER ROLE alice IN DATABASE postgres SET app.tenant = 'shop';
ALTER DATABASE postgres SET work_mem = '7MB';
ALTER DATABASE postgres SET maintenance_work_mem = '11MB';
ALTER DATABASE postgres SET datestyle = 'SQL, DMY';
ALTER DATABASE postgres SET app.database = 'postgres';
ALTER ROLE postgres SET work_mem = '8MB';
ALTER ROLE postgres SET maintenance_work_mem = '12MB';
ALTER ROLE postgres SET temp_buffers = '13MB';
ALTER ROLE postgres SET datestyle = 'German';
ALTER ROLE postgres SET intervalstyle = 'iso_8601';
ALTER ROLE postgres SET app.database = 'postgres''s';
ALTER ROLE postgres IN DATABASE postgres SET app.who = 'the superuser';

CREATE TABLE public.secret (x text);
CREATE FUNCTION public.of_postgres_only() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS \$\$
BEGIN
	IF session_user <> 'postgres' THEN
		RAISE EXCEPTION 'not for %', session_user;
	END IF;
	INSERT INTO public.secret VALUES ('from the function');
END
\$\$;
CREATE TABLE public.rows (owner text, x integer);
INSERT INTO public.rows VALUES ('alice', 1), ('postgres', 2);
ALTER TABLE public.rows ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON public.rows USING (owner = session_user);
GRANT SELECT ON public.rows TO alice;
CREATE FUNCTION public.becomes() RETURNS void LANGUAGE sql SET session_authorization = 'postgres' AS 'INSERT INTO public.secret VALUES (''SET clause'')';
CREATE FUNCTION public.resets() RETURNS void LANGUAGE sql SET role = 'none' AS 'INSERT INTO public.secret VALUES (''SET clause'')';

-- What the worker's own statements see
CREATE TABLE public.observed (who text, now text, seen text, settings text);
CREATE FUNCTION public.observe() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	INSERT INTO public.observed VALUES (NEW.subscription, current_user, session_user,
		concat_ws('|', current_setting('TimeZone'), current_setting('row_security'), current_setting('work_mem'),
			current_setting('DateStyle'), current_setting('lock_timeout')));
	RETURN NULL;
END
\$\$;
CREATE TRIGGER observe AFTER UPDATE OF next_offset ON inbox.position FOR EACH ROW EXECUTE FUNCTION public.observe();
SQL
as_alice(<<SQL);
CREATE TABLE shop.seen (what text, who text DEFAULT current_user, value text);
CREATE FUNCTION shop.who() RETURNS text LANGUAGE sql AS \$\$
	SELECT concat_ws('|', session_user, current_user, current_setting('session_authorization'), current_setting('is_superuser'))
\$\$;
SQL

# One topic for all: each subscription sees the same messages.
my $topic = make_topic(topic_name('Session'), 1);
produce($topic, "a\t1");

# Subscribes alice with a handler of this body.
sub subscribe
{
	my ($name, $body) = @_;
	as_alice(<<SQL);
CREATE FUNCTION shop.handle_$name(m inbox.message) RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE
	statement text;
BEGIN
	$body
END
\$\$;
SELECT inbox.subscribe('$name', ARRAY['$topic'], 'shop.handle_$name', max_attempts => 1);
SQL
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

# What the handler has noted.
sub seen
{
	my ($name) = @_;
	wait_for("SELECT count(*) > 0 FROM shop.seen WHERE what = '$name'", "$name: the handler runs");
	return sql("SELECT DISTINCT value FROM shop.seen WHERE what = '$name' ORDER BY 1");
}

# ---------------------------------------------------------------------------
# Whose session it is

my $alice = 'alice|alice|alice|off';

subscribe('who', "INSERT INTO seen VALUES ('who', DEFAULT, who());");
is(seen('who'), $alice, 'the session is that of the role');
subscribe('definer', 'PERFORM public.of_postgres_only();');
is(error_of('definer'), 'not for alice', 'as functions see that are somebody else\'s');
subscribe('policy', "SET LOCAL row_security = on; INSERT INTO seen SELECT 'policy', DEFAULT, string_agg(owner, ', ') FROM public.rows;"
  =~ s/DEFAULT/current_user/r);
is(seen('policy'), 'alice', 'and policies');

# ---------------------------------------------------------------------------
# Its settings

my $values = q{concat_ws(' ', current_setting('TimeZone'), current_setting('row_security'), current_setting('work_mem'),
	current_setting('lock_timeout'), current_setting('app.tenant'), current_setting('maintenance_work_mem'),
	current_setting('temp_buffers'), current_setting('DateStyle'), current_setting('IntervalStyle'),
	current_setting('app.database'), coalesce(nullif(current_setting('app.who', true), ''), 'nobody'), current_setting('client_encoding'))};
my $expected = sql(<<SQL);
SELECT 'Asia/Tokyo off 6MB 3min shop 11MB 9MB SQL, DMY postgres postgres nobody UTF8';
SQL
subscribe('settings', "INSERT INTO seen VALUES ('settings', DEFAULT, $values);");
is(seen('settings'), $expected, 'settings are those of the role, the database and the server');
subscribe('reset', <<"SQL");
	SET LOCAL timezone = 'UTC'; SET LOCAL work_mem = '1MB'; SET LOCAL datestyle = 'ISO'; SET LOCAL temp_buffers = '1MB';
	RESET timezone; RESET work_mem; RESET datestyle; RESET temp_buffers; SET maintenance_work_mem TO DEFAULT;
	INSERT INTO seen VALUES ('reset', DEFAULT, $values);
SQL
is(seen('reset'), $expected, 'RESET brings them back');
subscribe('refused', 'PERFORM count(*) FROM public.rows;');
like(error_of('refused'), qr/query would be affected by row-level security policy/, 'they have the effect that they have elsewhere');
# It does not wait for a position for long.
is(sql("SELECT DISTINCT now, seen, settings FROM public.observed"), 'postgres|postgres|GMT|on|5MB|ISO, MDY|50ms',
	'the worker itself has nothing of all that, after failures too');

# ---------------------------------------------------------------------------
# No way back

my $attempts = join ",\n", map { s/'/''/gr =~ s/^|$/'/gr } (
	'RESET SESSION AUTHORIZATION', 'SET SESSION AUTHORIZATION DEFAULT', 'SET SESSION AUTHORIZATION postgres',
	'SET LOCAL SESSION AUTHORIZATION postgres', 'SET session_authorization TO DEFAULT', 'RESET session_authorization',
	'SET LOCAL session_authorization = postgres',
	'RESET ROLE', 'SET ROLE NONE', 'SET ROLE postgres', 'SET LOCAL ROLE postgres', 'SET LOCAL role TO DEFAULT',
	'RESET ALL', 'DISCARD ALL', 'DISCARD PLANS',
	q{SELECT set_config('session_authorization', 'postgres', true)},
	q{SELECT set_config('session_authorization', NULL, false)},
	q{SELECT set_config('role', 'none', false)},
	'SELECT public.becomes()', 'SELECT public.resets()',
	q{DO 'BEGIN COMMIT; END'}, q{DO 'BEGIN ROLLBACK; END'}, 'ROLLBACK', 'SAVEPOINT s');
subscribe('attempts', <<"SQL");
	FOREACH statement IN ARRAY ARRAY[
$attempts
	] LOOP
		BEGIN
			EXECUTE statement;
			INSERT INTO shop.seen VALUES ('allowed', DEFAULT, statement);
		EXCEPTION WHEN OTHERS THEN
			NULL;
		END;
		INSERT INTO shop.seen VALUES ('attempts', DEFAULT, shop.who());
		BEGIN
			INSERT INTO public.secret VALUES (statement);
		EXCEPTION WHEN insufficient_privilege THEN
			NULL;
		END;
	END LOOP;
SQL
is(seen('attempts'), $alice, 'whatever it tries, it stays who it is');
is(sql("SELECT string_agg(value, ', ' ORDER BY value) FROM shop.seen WHERE what = 'allowed'"), 'DISCARD PLANS, RESET ALL',
	'and is refused');

subscribe('deep', <<'SQL');
	BEGIN
		BEGIN
			INSERT INTO seen VALUES ('gone', DEFAULT, who());
			PERFORM 1 / 0;
		EXCEPTION WHEN OTHERS THEN
			INSERT INTO seen VALUES ('deep', DEFAULT, who());
			RAISE;
		END;
	EXCEPTION WHEN OTHERS THEN
		INSERT INTO seen VALUES ('deep', DEFAULT, who());
	END;
	INSERT INTO seen VALUES ('deep', DEFAULT, who());
SQL
is(seen('deep'), $alice, 'subtransactions that are rolled back lead nowhere');

my $parallel = $node->safe_psql('postgres', 'SHOW server_version_num') < 160000 ? 'force_parallel_mode' : 'debug_parallel_query';
as_alice(<<SQL);
CREATE FUNCTION shop.tell() RETURNS integer LANGUAGE plpgsql PARALLEL SAFE AS \$\$
BEGIN
	RAISE EXCEPTION '% in %', shop.who(), (SELECT backend_type FROM pg_stat_get_activity(pg_backend_pid()));
END
\$\$;
ALTER FUNCTION shop.who() PARALLEL SAFE;
SQL
subscribe('parallel', "SET LOCAL $parallel = on; PERFORM shop.tell();");
is(error_of('parallel'), "$alice in parallel worker", 'parallel workers are the role\'s, too');

as_alice(<<SQL);
CREATE TABLE shop.trap (x integer);
CREATE FUNCTION shop.spring() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	INSERT INTO shop.seen VALUES ('trigger', DEFAULT, shop.who());
	RETURN NULL;
END
\$\$;
CREATE CONSTRAINT TRIGGER spring AFTER INSERT ON shop.trap
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION shop.spring();
CREATE FUNCTION shop.late(integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS \$\$
BEGIN
	IF session_user <> 'alice' OR current_user <> 'alice' THEN
		INSERT INTO public.secret VALUES ('late');
	END IF;
	RETURN \$1;
END
\$\$;
SQL
subscribe('trigger', 'INSERT INTO trap VALUES (1);');
is(seen('trigger'), $alice, 'a deferred trigger runs in that session');
subscribe('on_commit', <<'SQL');
	CREATE TEMP TABLE emptied (x integer) ON COMMIT DELETE ROWS;
	CREATE INDEX ON emptied (shop.late(x));
	CREATE TEMP TABLE dropped (x integer) ON COMMIT DROP;
	INSERT INTO emptied VALUES (1);
	INSERT INTO dropped VALUES (1);
	EXECUTE 'DECLARE c CURSOR WITH HOLD FOR SELECT shop.late(x) FROM emptied';
	INSERT INTO seen VALUES ('on_commit', DEFAULT, who());
SQL
is(seen('on_commit'), $alice, 'what is to be done at the commit may be asked for');
is(sql('SELECT count(*) FROM public.secret'), '0', 'nobody has got at what is not his');

# ---------------------------------------------------------------------------
# Settings that change

subscribe('changed', "INSERT INTO seen VALUES ('changed', DEFAULT, concat_ws(' ', current_setting('TimeZone'), current_setting('search_path'), current_setting('work_mem')));");
wait_for("SELECT count(*) = 1 FROM shop.seen WHERE what = 'changed'", 'changed: the handler runs');
my $since = sql('SELECT clock_timestamp()');
sql(<<SQL);
ALTER ROLE alice SET timezone = 'Europe/Madrid';
ALTER ROLE alice IN DATABASE postgres SET search_path = shop, public;
ALTER ROLE alice RESET work_mem;
SQL
wait_for("SELECT started_at > '$since' FROM inbox.consumer_status() WHERE subscription = 'changed'", 'a change makes the worker begin anew');
produce($topic, "a\t2");
wait_for("SELECT count(*) = 2 FROM shop.seen WHERE what = 'changed'", 'changed: the handler runs again');
is(sql("SELECT value FROM shop.seen WHERE what = 'changed' AND value !~ 'Asia'"), 'Europe/Madrid shop, public 7MB', 'with what is set now');

# ---------------------------------------------------------------------------
# A role that is renamed, and one that has become a superuser

# Each subscription handles messages at its own pace.
wait_for("SELECT count(*) = 2 FROM shop.seen WHERE what = 'who'", 'who: the handler has run again, too');
sql('ALTER ROLE alice RENAME TO alicia');
produce($topic, "a\t3");
wait_for("SELECT count(*) = 1 FROM shop.seen WHERE what = 'who' AND value = 'alicia|alicia|alicia|off'", 'a new name counts at once');
sql('ALTER ROLE alicia SUPERUSER');
produce($topic, "a\t4");
wait_for("SELECT count(*) = 1 FROM shop.seen WHERE what = 'who' AND value = 'alicia|alicia|alicia|on'", 'and so do new attributes');
is(sql("SELECT DISTINCT now, seen FROM public.observed"), 'postgres|postgres', 'the worker is itself in between');

$node->stop;
done_testing();
