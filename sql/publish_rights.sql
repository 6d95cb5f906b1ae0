-- Who may publish, and that nobody can make it do something else.
CREATE EXTENSION outbox;
CREATE ROLE regress_publisher;
CREATE ROLE regress_stranger;
GRANT USAGE ON SCHEMA outbox TO regress_publisher, regress_stranger;
GRANT EXECUTE ON FUNCTION outbox.publish, outbox.publish_bytes TO regress_publisher;

-- EXECUTE is enough to publish, and is all that it gives
SET ROLE regress_publisher;
SELECT outbox.publish('Order', '1', 'A', '{}', event_id => '00000000-0000-0000-0000-000000000001');
SELECT outbox.publish_bytes('Order', '1', 'B', '{}', event_id => '00000000-0000-0000-0000-000000000002');
SELECT * FROM outbox.event;
SELECT * FROM outbox.event_0;
SELECT * FROM outbox.events;
INSERT INTO outbox.event (event_id, aggregate_type, event_type)
VALUES ('00000000-0000-0000-0000-000000000003', 'Order', 'C');
DELETE FROM outbox.event_0;
TRUNCATE outbox.event;
SELECT nextval('outbox.event_id_seq');
SELECT last_value FROM outbox.event_chunk_seq;
SELECT setval('outbox.event_chunk_seq', 3);
SELECT outbox.current_chunk();
SET outbox.max_event_size = '1GB';

-- not even what exists already is told, but for the id that was asked for
SELECT outbox.publish('Order', '1', 'A', '{}', event_id => '00000000-0000-0000-0000-000000000001');

-- without it, no
SET ROLE regress_stranger;
SELECT outbox.publish('Order', '1', 'A', '{}');
SELECT outbox.publish_bytes('Order', '1', 'A', '{}');
RESET ROLE;

-- without the schema, no
REVOKE USAGE ON SCHEMA outbox FROM regress_publisher;
SET ROLE regress_publisher;
SELECT outbox.publish('Order', '1', 'A', '{}');
RESET ROLE;
GRANT USAGE ON SCHEMA outbox TO regress_publisher;

-- nothing more when the owner has added to the table
CREATE FUNCTION regress_note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE FUNCTION regress_who(text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT current_user = 'regress_publisher' $$;
REVOKE ALL ON FUNCTION regress_note(), regress_who(text) FROM PUBLIC;
BEGIN;
CREATE TRIGGER before_event BEFORE INSERT ON outbox.event FOR EACH ROW EXECUTE FUNCTION regress_note();
CREATE TRIGGER after_event AFTER INSERT ON outbox.event FOR EACH ROW EXECUTE FUNCTION regress_note();
ALTER TABLE outbox.event ADD CONSTRAINT regress_is_publisher CHECK (regress_who(aggregate_id)) NOT VALID;
ALTER TABLE outbox.event ADD COLUMN published_by name DEFAULT current_user;
-- what the owner's constraint calls needs its right, as in an INSERT
SAVEPOINT denied;
SET LOCAL ROLE regress_publisher;
SELECT outbox.publish('Order', '1', 'Extra', '{}');
ROLLBACK TO denied;
GRANT EXECUTE ON FUNCTION regress_who(text) TO regress_publisher;
SET LOCAL ROLE regress_publisher;
SELECT count(outbox.publish('Order', '1', 'Extra', '{}'));
RESET ROLE;
SELECT published_by FROM outbox.event WHERE event_type = 'Extra';
\set VERBOSITY terse
SELECT outbox.publish('Order', '1', 'Extra', '{}', event_id => '00000000-0000-0000-0000-000000000009');
\set VERBOSITY default
ROLLBACK;

-- through a function of somebody else's, yes
CREATE FUNCTION place_order() RETURNS uuid LANGUAGE sql SECURITY DEFINER
    AS $$ SELECT outbox.publish('Order', '2', 'Placed', '{}', event_id => '00000000-0000-0000-0000-000000000004') $$;
SET ROLE regress_stranger;
SELECT place_order();
RESET ROLE;

-- a search_path full of look-alikes changes nothing
CREATE SCHEMA regress_hostile AUTHORIZATION regress_publisher;
SET ROLE regress_publisher;
CREATE TABLE regress_hostile.event (stolen text);
CREATE TABLE regress_hostile.event_0 (stolen text);
CREATE SEQUENCE regress_hostile.event_id_seq START 1000000;
CREATE SEQUENCE regress_hostile.event_chunk_seq START 7;
CREATE FUNCTION regress_hostile.nextval(regclass) RETURNS bigint LANGUAGE plpgsql
    AS $$ BEGIN RAISE 'nextval was called'; END $$;
CREATE FUNCTION regress_hostile.now() RETURNS timestamptz LANGUAGE plpgsql
    AS $$ BEGIN RAISE 'now was called'; END $$;
CREATE FUNCTION regress_hostile.current_chunk() RETURNS smallint LANGUAGE plpgsql
    AS $$ BEGIN RAISE 'current_chunk was called'; END $$;
CREATE FUNCTION regress_hostile.same(uuid, uuid) RETURNS boolean LANGUAGE plpgsql
    AS $$ BEGIN RAISE 'same was called'; END $$;
CREATE OPERATOR regress_hostile.= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = regress_hostile.same);
SET search_path = regress_hostile, pg_catalog;
SELECT outbox.publish('Order', '1', 'Hostile', '{}', event_id => '00000000-0000-0000-0000-000000000005');
SELECT outbox.publish_bytes('Order', '1', 'Hostile', '{}', event_id => '00000000-0000-0000-0000-000000000006');
CREATE TEMP TABLE event_0 (stolen text);
SET search_path = pg_temp, regress_hostile, pg_catalog;
SELECT outbox.publish('Order', '1', 'Hostile', '{}', event_id => '00000000-0000-0000-0000-000000000007');
SET search_path = '';
SELECT outbox.publish('Order', '1', 'Hostile', '{}', event_id => '00000000-0000-0000-0000-000000000008');
RESET search_path;
RESET ROLE;

-- what the owner's constraint finds there runs as the publisher, in planning too
\set SHOW_CONTEXT never
BEGIN;
CREATE FUNCTION regress_planned(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN regress_found(); END $$;
ALTER TABLE outbox.event ADD CONSTRAINT regress_planned CHECK (regress_planned('a constant')) NOT VALID;
SET LOCAL ROLE regress_publisher;
CREATE FUNCTION regress_hostile.regress_found() RETURNS boolean LANGUAGE plpgsql
    AS $$ BEGIN RAISE NOTICE 'found by %', current_user; RETURN true; END $$;
SET LOCAL search_path = regress_hostile, public;
SELECT count(outbox.publish('Order', '1', 'Hostile', '{}'));
ROLLBACK;
\set SHOW_CONTEXT errors
SELECT event_id, event_type, chunk, id < 1000000 AS id FROM outbox.event ORDER BY id;

-- PUBLIC has no rights
SELECT p.proname FROM pg_proc p
WHERE p.pronamespace IN ('outbox'::regnamespace, 'inbox'::regnamespace) AND has_function_privilege('public', p.oid, 'EXECUTE');
SELECT c.relname FROM pg_class c
WHERE c.relnamespace IN ('outbox'::regnamespace, 'inbox'::regnamespace) AND c.relkind IN ('r', 'p', 'v')
  AND has_table_privilege('public', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER');

\set VERBOSITY terse
DROP FUNCTION place_order();
SET client_min_messages = warning;
DROP SCHEMA regress_hostile CASCADE;
DROP EXTENSION outbox;
DROP OWNED BY regress_publisher, regress_stranger;
DROP ROLE regress_publisher, regress_stranger;
