# Workers run in a session of their own: no setting of the server, of a database
# or of a role changes what their statements mean or do, and none of the others
# keeps them from working.

use strict;
use warnings;

use lib 't';
use OutboxTest;
use PostgreSQL::Test::Utils;
use Test::More;

# Settings that are not for this test, and why.
my %left_out = (
	'output_plugin_libraries' => 'says whether relays may decode',
	'log_min_messages' => 'the test looks for errors in the log',
	'temp_file_limit' => 'what looks at the settings needs some',
	'dynamic_library_path' => 'since release 18 a handler, which has the one of its role, finds no function in C with a wrong one',
	'post_auth_delay' => 'each process would begin with a long pause',
	'debug_discard_caches' => 'everything would take minutes');

# Of the groups that are pinned, what is pinned to something else than it was
# built with, or not at all.
my %exceptional = (
	'search_path' => 'pg_catalog, pg_temp',
	'client_encoding' => undef,
	'lc_messages' => undef,
	'timezone_abbreviations' => undef,
	# Those of the server, which are other ones than it was built with
	'logical_decoding_work_mem' => '1024',
	'synchronous_commit' => 'remote_write',
	# Those of the present transaction
	'transaction_isolation' => 'read committed',
	'transaction_read_only' => undef,
	'transaction_deferrable' => undef);

my $groups = q{category ~ '^(Client Connection Defaults / (Statement|Locale|Other)|Version and Platform|Error Handling)'};

my $topic = make_topic(topic_name('Session'), 1);
my $node = new_server('session', <<'CONF');
max_worker_processes = 24
logical_decoding_work_mem = '1MB'
synchronous_commit = remote_write
CONF
$node->safe_psql('postgres', 'CREATE ROLE tester SUPERUSER LOGIN; CREATE ROLE nobody');

# Workers are the bootstrap superuser; the test is somebody else, whom settings
# of that role do not concern.
$ENV{PGUSER} = 'tester';

sub sql { return $node->safe_psql('postgres', $_[0]) }

sub wait_until
{
	my ($query, $what) = @_;
	return ok($node->poll_query_until('postgres', $query), $what)
	  || diag map { sql($_) . "\n" } 'SELECT * FROM outbox.stat_relay', 'SELECT * FROM inbox.stat_subscription';
}

create_extension($node, 'postgres');
sql(<<SQL);
CREATE TABLE seen (n bigint, timezone text, work_mem text);
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE sql AS
	\$\$ INSERT INTO seen VALUES (inbox.payload_text(m)::bigint, current_setting('TimeZone'), current_setting('logical_decoding_work_mem')) \$\$;
SELECT inbox.subscribe('s', ARRAY['$topic'], 'handle');
-- What workers see when they write about themselves
CREATE TABLE observed (who text, name text, setting text, boot_val text);
CREATE FUNCTION observe() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	INSERT INTO public.observed SELECT TG_TABLE_NAME, name, setting, boot_val FROM pg_settings WHERE $groups AND context IN ('user', 'superuser') OR name IN ('logical_decoding_work_mem', 'synchronous_commit');
	INSERT INTO public.observed VALUES (TG_TABLE_NAME, 'role', current_setting('role'), 'none');
	RETURN NULL;
END
\$\$;
CREATE TRIGGER observe AFTER INSERT ON outbox.watermark FOR EACH STATEMENT EXECUTE FUNCTION observe();
CREATE TRIGGER observe AFTER UPDATE ON inbox.position FOR EACH STATEMENT EXECUTE FUNCTION observe();
SQL

my $published = 0;

# Events go out and come back in, through workers that have just started, or
# through those that are there.  Nothing fails, and the settings are as they
# shall be.
sub check_work
{
	my ($what, $restart) = @_;
	sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type ~ '^outbox'}) if $restart;
	my $offset = -s $node->logfile;
	sql('TRUNCATE observed');
	$published += 3;
	sql("SELECT outbox.publish('Test', i::text, 'Made', to_jsonb(i), topic => '$topic') FROM generate_series($published - 2, $published) i");
	wait_until("SELECT count(*) = $published AND count(DISTINCT n) = $published FROM seen", "$what: events come through");
	wait_until("SELECT bool_and(status = 'published') FROM outbox.events", "$what: and are known to be published");
	wait_until('SELECT count(DISTINCT who) = 2 FROM observed', "$what: both workers were looked at");
	my $wrong = sql(<<SQL);
-- A worker's own, for the one statement that may have to wait for others.
DELETE FROM observed WHERE who = 'position' AND name = 'lock_timeout' AND setting = '50';
SELECT DISTINCT format('%s: %s = %s', who, name, setting) FROM observed
WHERE setting IS DISTINCT FROM boot_val
	AND name <> ALL (ARRAY[@{[ join ', ', map { "'$_'" } keys %exceptional ]}])
	OR @{[ join ' OR ', map { "name = '$_' AND setting <> '$exceptional{$_}'" } grep { defined $exceptional{$_} } keys %exceptional ]}
SQL
	is($wrong, '', "$what: what shapes statements is as it was built");
	my @errors = grep { !/due to administrator command|invalid value for parameter/ }
	  slurp_file($node->logfile, $offset) =~ /^.*outbox (?:relay|consumer|launcher) +(?:ERROR|FATAL|PANIC|WARNING):.*$/mg;
	is(join("\n", @errors), '', "$what: no worker complains");
	return;
}

check_work('defaults', 0);

# What a handler sees is that of its database.
sql("ALTER DATABASE postgres SET timezone = 'Asia/Tokyo'");
sql("ALTER DATABASE postgres SET logical_decoding_work_mem = '2MB'");
sql('ALTER DATABASE postgres SET synchronous_commit = off');
check_work('settings of the database', 1);
is(sql("SELECT timezone, work_mem FROM seen WHERE n = $published"), 'Asia/Tokyo|2MB', 'a handler has those');
sql('ALTER DATABASE postgres RESET ALL');

# Sets all settings there are for a role, to one end or the other of what each
# takes; those that cannot be set so stay.
foreach my $end ('lowest', 'highest')
{
	my $set = sql(<<SQL);
CREATE OR REPLACE FUNCTION pg_temp.try(statement text) RETURNS int LANGUAGE plpgsql AS \$\$
BEGIN
	EXECUTE statement;
	RETURN 1;
EXCEPTION WHEN others THEN
	RETURN 0;
END
\$\$;
SELECT sum(pg_temp.try(format('ALTER ROLE postgres SET %s = %L', name, CASE
	WHEN vartype = 'bool' THEN CASE boot_val WHEN 'on' THEN 'off' ELSE 'on' END
	WHEN vartype = 'enum' THEN (SELECT v FROM unnest(enumvals) WITH ORDINALITY u (v, n) WHERE v <> boot_val
	                            ORDER BY CASE '$end' WHEN 'lowest' THEN n ELSE -n END LIMIT 1)
	WHEN vartype IN ('integer', 'real') THEN
		CASE WHEN '$end' = 'highest' THEN max_val WHEN min_val = boot_val THEN (min_val::numeric + 1)::text ELSE min_val END
	WHEN name = 'DateStyle' THEN 'SQL, DMY'
	WHEN name = 'TimeZone' THEN 'America/Sao_Paulo'
	WHEN name = 'search_path' THEN 'nowhere'
	ELSE 'all' END)))
FROM pg_catalog.pg_settings
WHERE context IN ('user', 'superuser', 'backend', 'superuser-backend')
	AND name <> ALL (ARRAY[@{[ join ', ', map { "'$_'" } keys %left_out ]}]);
SQL
	cmp_ok($set, '>', 150, "settings of a role, $end: there are many");
	sql("ALTER ROLE postgres SET role = nobody");
	sql("ALTER ROLE postgres SET session_authorization = nobody");
	sql("ALTER ROLE postgres SET plpgsql.extra_errors = 'all'");
	check_work("settings of a role, $end", 1);
	sql('ALTER ROLE postgres RESET ALL');
}

# The same from the configuration files, in the life of a worker.  Sessions of
# the test are spared.
sql(<<SQL);
SELECT 'ALTER ROLE tester SET ' || name || ' = ' || quote_literal(boot_val)
FROM pg_settings WHERE $groups AND context IN ('user', 'superuser') AND name !~ '^transaction_|encoding|^search_path|lc_messages'
\\gexec
ALTER ROLE tester SET search_path = public;
SQL
check_work('before a reload', 1);
my @statements = split /\n/, sql(<<SQL);
SELECT format('ALTER SYSTEM SET %s = %L', name, CASE
	WHEN vartype = 'bool' THEN CASE boot_val WHEN 'on' THEN 'off' ELSE 'on' END
	WHEN vartype = 'enum' THEN (SELECT v FROM unnest(enumvals) v WHERE v <> boot_val ORDER BY v DESC LIMIT 1)
	ELSE '1' END)
FROM pg_settings
WHERE $groups AND context IN ('user', 'superuser') AND vartype <> 'string' AND name !~ '^transaction_'
SQL
$node->psql('postgres', $_) foreach @statements;
sql("ALTER SYSTEM SET search_path = 'nowhere'");
$node->reload;
$node->poll_query_until('postgres',
	"SELECT setting = 'on' FROM pg_file_settings WHERE name = 'default_transaction_read_only' AND applied")
  or die "the settings are not there\n";
check_work('after a reload', 0);
check_work('settings of the server', 1);

$node->stop;
done_testing();
