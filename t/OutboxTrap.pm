# OutboxTrap.pm
#
# A schema that lies in wait for statements which do not name the schemas of
# what they use: it has a function, an operator, an aggregate, a type and a view
# for each that pg_catalog has, of the same name and with the same arguments.
# With it in front of pg_catalog in search_path, PostgreSQL takes those.  Each
# says so in the server's log when it runs with the rights of a superuser, and
# then does what its counterpart does.

package OutboxTrap;

use strict;
use warnings;

use Exporter 'import';
use PostgreSQL::Test::Utils;

our @EXPORT = qw(set_traps sprung_traps);

# Makes the schema "evil" of a role, in a database; returns a line for each kind
# of traps with their number.
sub set_traps
{
	my ($node, $db, $role) = @_;
	return $node->safe_psql($db, <<SQL);
SET client_min_messages = error;
CREATE SCHEMA evil AUTHORIZATION $role;
SET SESSION AUTHORIZATION $role;
CREATE FUNCTION evil.spring(name pg_catalog.text) RETURNS pg_catalog.bool LANGUAGE plpgsql STABLE
SET search_path = pg_catalog AS \$\$
BEGIN
	IF (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
		RAISE LOG 'trap sprung: %', name;
	END IF;
	RETURN true;
END
\$\$;

CREATE TABLE evil.traps (kind text, name text);

-- A type as a statement would name it, and whether a function can have it.
CREATE VIEW evil.usable AS
SELECT t.oid, format('%I.%I', n.nspname, t.typname) AS name
FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
WHERE n.nspname = 'pg_catalog' AND (t.typtype IN ('b', 'r', 'm') OR t.typname ~ '^any(element|array|nonarray|enum|range|multirange|compatible.*)\$');

CREATE FUNCTION evil.try(kind text, name text, VARIADIC statements text[]) RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE
	statement text;
BEGIN
	FOREACH statement IN ARRAY statements LOOP EXECUTE statement; END LOOP;
	INSERT INTO evil.traps VALUES (kind, name);
EXCEPTION WHEN others THEN
	NULL;  -- not all can be copied; the caller counts
END
\$\$;

-- Functions.
SELECT count(evil.try('function', p.proname, format(
	'CREATE FUNCTION evil.%I(%s) RETURNS %s %s LANGUAGE plpgsql %s AS %L',
	p.proname, a.types, CASE WHEN p.proretset THEN 'SETOF' END, r.name,
	CASE WHEN p.proisstrict THEN 'STRICT' END || CASE p.provolatile WHEN 'i' THEN ' IMMUTABLE' WHEN 's' THEN ' STABLE' ELSE '' END,
	format(CASE WHEN p.proretset
		   THEN 'BEGIN PERFORM evil.spring(%L); RETURN QUERY SELECT pg_catalog.%I(%s); END'
		   ELSE 'BEGIN PERFORM evil.spring(%L); RETURN pg_catalog.%I(%s); END' END,
		   'function ' || p.proname, p.proname, a.parameters))))
FROM pg_catalog.pg_proc p JOIN evil.usable r ON r.oid = p.prorettype
CROSS JOIN LATERAL (
	SELECT string_agg(u.name, ', ' ORDER BY n) AS types, string_agg('\$' || n, ', ' ORDER BY n) AS parameters,
		   count(u.name) = count(*) AS all_usable
	FROM unnest(p.proargtypes) WITH ORDINALITY t (oid, n) LEFT JOIN evil.usable u ON u.oid = t.oid) a
WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND p.provariadic = 0
	AND p.proallargtypes IS NULL AND (a.all_usable OR p.pronargs = 0);

-- Operators.
SELECT count(evil.try('operator', o.oprname,
	format('CREATE FUNCTION evil.op_%s(%s) RETURNS %s LANGUAGE plpgsql STRICT IMMUTABLE AS %L', o.oid,
		concat_ws(', ', l.name, r.name), t.name,
		format('BEGIN PERFORM evil.spring(%L); RETURN %s OPERATOR(pg_catalog.%s) %s; END', 'operator ' || o.oprname,
			   CASE WHEN o.oprleft <> 0 THEN '\$1' END, o.oprname, CASE WHEN o.oprleft <> 0 THEN '\$2' ELSE '\$1' END)),
	format('CREATE OPERATOR evil.%s (%s RIGHTARG = %s, FUNCTION = evil.op_%s)', o.oprname,
		   'LEFTARG = ' || l.name || ',', r.name, o.oid)))
FROM pg_catalog.pg_operator o JOIN evil.usable r ON r.oid = o.oprright JOIN evil.usable t ON t.oid = o.oprresult
LEFT JOIN evil.usable l ON l.oid = o.oprleft
WHERE o.oprnamespace = 'pg_catalog'::regnamespace AND (l.oid IS NOT NULL OR o.oprleft = 0);

-- Aggregates: they give back what they were given last.
SELECT count(evil.try('aggregate', p.proname,
	format('CREATE FUNCTION evil.agg_%s(%s, %2\$s) RETURNS %2\$s LANGUAGE plpgsql IMMUTABLE AS %L', p.oid, u.name,
		   format('BEGIN PERFORM evil.spring(%L); RETURN \$2; END', 'aggregate ' || p.proname)),
	format('CREATE AGGREGATE evil.%I(%s) (SFUNC = evil.agg_%s, STYPE = %2\$s)', p.proname, u.name, p.oid)))
FROM pg_catalog.pg_proc p JOIN evil.usable u ON u.oid = p.proargtypes[0]
WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'a' AND p.pronargs = 1;

-- What follows is found in front of pg_catalog by this session, too.
SET search_path = pg_catalog;
SELECT count(evil.try('relation', c.relname, format('CREATE VIEW evil.%I AS SELECT * FROM pg_catalog.%1\$I WHERE evil.spring(%L)', c.relname, 'relation ' || c.relname)))
FROM pg_catalog.pg_class c WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relkind IN ('r', 'v');
SELECT count(evil.try('type', t.typname, format('CREATE DOMAIN evil.%I AS pg_catalog.%1\$I CHECK (evil.spring(%L))', t.typname, 'type ' || t.typname)))
FROM pg_catalog.pg_type t WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typtype = 'b' AND t.typelem = 0;
SELECT format('%s %ss', count(*), kind) FROM evil.traps GROUP BY kind ORDER BY kind;
SQL
}

# The traps that were sprung in a server, each once.
sub sprung_traps
{
	my ($node) = @_;
	my %sprung;
	$sprung{$_}++ foreach slurp_file($node->logfile) =~ /LOG:  trap sprung: (.*)/g;
	return join ', ', sort keys %sprung;
}

1;
