-- Who may do what with subscriptions.
SET client_min_messages = warning;
CREATE EXTENSION outbox;
CREATE SERVER cluster FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1');
CREATE ROLE regress_inbox_shop;
CREATE ROLE regress_inbox_member IN ROLE regress_inbox_shop;
CREATE ROLE regress_inbox_other;
CREATE ROLE regress_inbox_monitor IN ROLE pg_monitor;
CREATE SCHEMA shop AUTHORIZATION regress_inbox_shop;

-- PUBLIC has nothing
SELECT p.oid::regprocedure FROM pg_proc p
WHERE pronamespace = 'inbox'::regnamespace AND has_function_privilege('regress_inbox_other', p.oid, 'EXECUTE');
SELECT c.oid::regclass FROM pg_class c
WHERE relnamespace = 'inbox'::regnamespace AND relkind IN ('r', 'p', 'v')
  AND has_table_privilege('regress_inbox_other', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER');
SELECT has_schema_privilege('regress_inbox_other', 'inbox', 'USAGE');

-- what a role needs to subscribe its own functions
GRANT USAGE ON SCHEMA inbox TO regress_inbox_shop, regress_inbox_other;
GRANT EXECUTE ON FUNCTION inbox.subscribe, inbox.unsubscribe, inbox.pause, inbox.resume, inbox.retry, inbox.discard,
    inbox.seek(text, text, integer, text, boolean), inbox.payload_json, inbox.payload_text
    TO regress_inbox_shop, regress_inbox_other;
GRANT USAGE ON FOREIGN SERVER cluster TO regress_inbox_shop, regress_inbox_other;
SET ROLE regress_inbox_shop;
CREATE FUNCTION shop.on_order(message inbox.message) RETURNS void LANGUAGE sql AS '';
SELECT inbox.subscribe('stock', ARRAY['orders'], 'shop.on_order', server => 'cluster');
SELECT inbox.pause('stock');
SELECT inbox.seek('stock', 'orders', 0, '5');
SELECT inbox.retry('stock');
SELECT inbox.discard('stock', 'e1');
SELECT * FROM inbox.subscription;
SELECT * FROM inbox.message;
INSERT INTO inbox.message (subscription, event_id, topic, partition, "offset") VALUES ('stock', 'e1', 'orders', 0, 1);
UPDATE inbox.position SET next_offset = 0;
SELECT inbox.expire();
SELECT inbox.receive('shop', 'e1');
RESET ROLE;
SELECT name, role_name, role_id = (SELECT oid FROM pg_roles WHERE rolname = 'regress_inbox_shop') AS its_role
FROM inbox.subscription;

-- others cannot touch it, members can; it stays the first one's
SET ROLE regress_inbox_other;
SELECT inbox.subscribe('stock', ARRAY['orders'], 'shop.on_order', server => 'cluster');
SELECT inbox.unsubscribe('stock');
SELECT inbox.pause('stock');
SELECT inbox.resume('stock');
SELECT inbox.seek('stock', 'orders', 0, '5');
SELECT inbox.retry('stock');
SELECT inbox.discard('stock', 'e1');
SET ROLE regress_inbox_member;
SELECT inbox.subscribe('stock', ARRAY['orders', 'returns'], 'shop.on_order', server => 'cluster');
RESET ROLE;
-- a superuser changes it, and it still runs as its role
CREATE FUNCTION secret(message inbox.message) RETURNS void LANGUAGE sql AS '';
REVOKE EXECUTE ON FUNCTION secret FROM PUBLIC;
SELECT inbox.subscribe('stock', ARRAY['orders'], 'secret', server => 'cluster');
SELECT inbox.subscribe('stock', ARRAY['orders'], 'shop.on_order', batch_size => 1, server => 'cluster');
SELECT name, topics, handler, role_name, batch_size FROM inbox.subscription;

-- a role that is no member of it has no use of SET SESSION AUTHORIZATION: the
-- role that counts is the one that calls, also within SECURITY DEFINER
CREATE FUNCTION subscribe_as_owner() RETURNS void LANGUAGE sql SECURITY DEFINER
AS $$ SELECT inbox.subscribe('inner', ARRAY['orders'], 'shop.on_order', server => 'cluster');
      SELECT inbox.pause('inner') $$;
GRANT CREATE ON SCHEMA public TO regress_inbox_shop;
ALTER FUNCTION subscribe_as_owner OWNER TO regress_inbox_shop;
SET ROLE regress_inbox_other;
SELECT subscribe_as_owner();
SELECT inbox.unsubscribe('inner');
RESET ROLE;
SELECT name, role_name FROM inbox.subscription ORDER BY name;
SELECT inbox.unsubscribe('inner');

-- a search_path with traps does not matter
CREATE SCHEMA trap AUTHORIZATION regress_inbox_other;
SET ROLE regress_inbox_other;
CREATE FUNCTION trap.now() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
CREATE FUNCTION trap.eq(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
CREATE OPERATOR trap.= (LEFTARG = text, RIGHTARG = text, FUNCTION = trap.eq);
CREATE FUNCTION trap.f(message inbox.message) RETURNS void LANGUAGE sql AS '';
SET search_path = trap, pg_catalog, inbox;
SELECT subscribe('trapped', ARRAY['orders'], 'f', server => 'cluster');
SELECT pause('trapped');
SELECT seek('trapped', 'orders', 0, '5');
SELECT retry('trapped');
SELECT unsubscribe('trapped', keep_messages => false);
SHOW search_path;
RESET search_path;
RESET ROLE;

-- a role that is gone: only superusers may clean up
SET ROLE regress_inbox_other;
SELECT inbox.subscribe('orphan', ARRAY['orders'], 'trap.f', server => 'cluster');
SELECT inbox.pause('orphan');
RESET ROLE;
DROP OWNED BY regress_inbox_other CASCADE;
DROP ROLE regress_inbox_other;
CREATE ROLE regress_inbox_other;
GRANT USAGE ON SCHEMA inbox TO regress_inbox_other;
GRANT EXECUTE ON FUNCTION inbox.resume TO regress_inbox_other;
SET ROLE regress_inbox_other;
SELECT inbox.resume('orphan');
RESET ROLE;
SELECT inbox.resume('orphan');
SELECT inbox.subscribe('orphan', ARRAY['orders'], 'shop.on_order', server => 'cluster');
SELECT inbox.unsubscribe('orphan');

-- a role that is renamed is the same role
ALTER ROLE regress_inbox_shop RENAME TO regress_inbox_store;
SET ROLE regress_inbox_store;
SELECT inbox.pause('stock');
RESET ROLE;

-- who watches
SET ROLE regress_inbox_monitor;
SELECT name, state, partitions FROM inbox.stat_subscription;
SELECT payload FROM inbox.message;
RESET ROLE;

-- the search_path that a role's handlers get
SELECT inbox.role_search_path(oid) FROM pg_roles WHERE rolname = 'regress_inbox_store';
ALTER ROLE ALL SET search_path = everybody;
SELECT inbox.role_search_path(oid) FROM pg_roles WHERE rolname = 'regress_inbox_store';
ALTER DATABASE regression SET search_path = of_database;
SELECT inbox.role_search_path(oid) FROM pg_roles WHERE rolname = 'regress_inbox_store';
ALTER ROLE regress_inbox_store SET search_path = of_role;
SELECT inbox.role_search_path(oid) FROM pg_roles WHERE rolname = 'regress_inbox_store';
ALTER ROLE regress_inbox_store IN DATABASE regression SET search_path = of_role_in_database, "$user";
SELECT inbox.role_search_path(oid) FROM pg_roles WHERE rolname = 'regress_inbox_store';
SELECT inbox.role_search_path(oid) FROM pg_roles WHERE rolname = 'regress_inbox_member';
ALTER ROLE ALL RESET search_path;
ALTER DATABASE regression RESET search_path;

DROP EXTENSION outbox CASCADE;
DROP FUNCTION IF EXISTS subscribe_as_owner;
DROP OWNED BY regress_inbox_store, regress_inbox_other CASCADE;
DROP ROLE regress_inbox_store, regress_inbox_member, regress_inbox_other, regress_inbox_monitor;
