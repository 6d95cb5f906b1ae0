-- publish() and publish_bytes(): what is stored, and when nothing is.
CREATE EXTENSION outbox;

-- No relay publishes what is here, so it can only be removed in this way.
\set empty 'SET session_replication_role = replica; TRUNCATE outbox.event; RESET session_replication_role;'

-- What is in the table, without what differs from run to run.
CREATE VIEW stored AS
    SELECT aggregate_type, aggregate_id, event_type, convert_from(payload, 'UTF8') AS payload,
           content_type, headers, topic, partition_key, deliver_at
    FROM outbox.event ORDER BY id;

-- the least that an event needs, and everything that it can have
SELECT outbox.publish('Order', '42', 'OrderCreated', '{"total": 10}') IS NOT NULL AS published;
SELECT outbox.publish('Order', '42', 'OrderCreated', '{"total": 10, "lines": [1, {"a": null}]}',
    '{"source": "shop", "n": 1.50, "ok": true, "none": null}',
    '00000000-0000-0000-0000-000000000001', 'my.topic', 'my-key', NULL, NULL);
SELECT outbox.publish(aggregate_type => 'Order', aggregate_id => '43', event_type => 'OrderPaid',
    payload => '"paid"', topic => 'a_b-C.9') IS NOT NULL AS published;
SELECT outbox.publish_bytes('Order', '44', 'Text', 'any bytes') IS NOT NULL AS published;
SELECT outbox.publish_bytes('Order', '44', 'Text', 'plain', 'text/plain; charset=utf-8', '{"h": "v"}',
    '00000000-0000-0000-0000-000000000002', 'my.topic', 'my-key', NULL, NULL);
SELECT outbox.publish_bytes('Order', '44', 'Text', 'untyped', NULL) IS NOT NULL AS published;
SELECT * FROM stored;
-- what a row leaves out is there where events are shown, and nothing that was not said
SELECT s.content_type AS stored, s.id_given, e.content_type, e.payload
FROM outbox.events e JOIN outbox.event s USING (id) ORDER BY id;
:empty

-- the id that is returned is the id that is stored, with or without one given
SELECT outbox.publish('Order', '1', 'A', '1') AS a,
       outbox.publish('Order', '1', 'B', '2', event_id => 'ABCDEF00-0000-0000-0000-000000000001') AS b,
       outbox.publish_bytes('Order', '1', 'C', '3') AS c \gset
SELECT event_type, event_id IN (:'a', :'b', :'c') AS as_returned FROM outbox.event ORDER BY id;
SELECT :'b' AS b;

-- the other columns
BEGIN;
SELECT count(outbox.publish('Order', '1', 'D', '4'));
SELECT created_at = now() AS created_at, xid = pg_current_xact_id() AS xid,
       chunk = outbox.current_chunk() AS chunk, tableoid::regclass AS stored_in,
       id = currval('outbox.event_id_seq') AS id
FROM outbox.event WHERE event_type = 'D';
COMMIT;
:empty

-- ids are UUIDs of version 7: made now, rising
SELECT count(outbox.publish('Order', i::text, 'Many', '{}')) FROM generate_series(1, 1000) i;
SELECT count(*), count(DISTINCT event_id) AS different,
       bool_and(event_id::text ~ '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$') AS version_7,
       bool_and(abs(extract(epoch FROM clock_timestamp())
           - ('x' || left(replace(event_id::text, '-', ''), 12))::bit(48)::bigint / 1000.0) < 60) AS recent
FROM outbox.event;
SELECT bool_and(event_id > before) AS rising, bool_and(id > id_before) AS ids_rising
FROM (SELECT id, event_id, lag(event_id) OVER (ORDER BY aggregate_id::int) AS before,
             lag(id) OVER (ORDER BY aggregate_id::int) AS id_before
      FROM outbox.event) e;
:empty

-- NULL payload is a tombstone, JSON null is a payload; NULL aggregate_id is no key
SELECT count(outbox.publish('Order', NULL, 'Tombstone', NULL)),
       count(outbox.publish('Order', '', 'Null', 'null')),
       count(outbox.publish_bytes('Order', NULL, 'Tombstone', NULL)),
       count(outbox.publish_bytes('Order', NULL, 'Empty', ''));
SELECT event_type, aggregate_id, payload, content_type FROM outbox.event ORDER BY id;
:empty

-- JSON is stored as PostgreSQL prints it, whatever is in it
SELECT count(outbox.publish('Order', 'schlüssel', 'Ünïcödé', '{"b": "grün \u20ac \n \"", "a": 1e30, "b2": [[], {}]}',
    '{"ключ": "значение"}'));
SELECT * FROM stored;
:empty

-- the longest names
SELECT count(outbox.publish(repeat('a', 236), '1', 'Long', '{}', topic => repeat('t', 249)));
SELECT count(outbox.publish('..', '1', repeat('e', 1000), '{}', topic => '...'));
SELECT length(aggregate_type), length(event_type), length(topic) FROM outbox.event ORDER BY id;
:empty

-- values that are stored out of line, or compressed, in another table
CREATE TEMP TABLE source (id text, payload jsonb, bytes bytea, headers jsonb);
ALTER TABLE source ALTER id SET STORAGE EXTERNAL, ALTER bytes SET STORAGE EXTERNAL;
INSERT INTO source
SELECT repeat('k', 5000), jsonb_build_object('x', repeat('y', 50000)), decode(repeat('00ff', 20000), 'hex'),
       jsonb_build_object('h', repeat('z', 20000));
SELECT count(outbox.publish('Order', id, 'Big', payload, headers)),
       count(outbox.publish_bytes('Order', id, 'Big', bytes, headers => headers)) FROM source;
SELECT e.aggregate_id = s.id AS key, e.headers = s.headers AS headers,
       e.payload IN (convert_to(s.payload::text, 'UTF8'), s.bytes) AS payload
FROM outbox.event e, source s ORDER BY e.id;
:empty

-- what is rolled back was never published
BEGIN;
SELECT count(outbox.publish('Order', '1', 'Kept', '{}'));
SAVEPOINT s;
SELECT count(outbox.publish('Order', '1', 'RolledBack', '{}'));
ROLLBACK TO s;
SELECT count(outbox.publish('Order', '1', 'KeptToo', '{}'));
COMMIT;
BEGIN;
SELECT count(outbox.publish('Order', '1', 'RolledBack', '{}'));
ROLLBACK;
SELECT event_type FROM outbox.event ORDER BY id;
:empty

-- in PL/pgSQL a row is there at once, and an error takes it away
DO $$
BEGIN
    PERFORM outbox.publish('Order', '1', 'First', '{}');
    RAISE NOTICE '% stored', (SELECT count(*) FROM outbox.event);
    BEGIN
        PERFORM outbox.publish('Order', '1', 'Second', '{}');
        PERFORM outbox.publish('Order', '1', '', '{}');
    EXCEPTION WHEN invalid_parameter_value THEN
        RAISE NOTICE '% stored', (SELECT count(*) FROM outbox.event);
    END;
END $$;
:empty

-- an event_id can be used once
SELECT outbox.publish('Order', '1', 'A', '{}', event_id => '00000000-0000-0000-0000-000000000003');
SELECT outbox.publish('Order', '1', 'B', '{}', event_id => '00000000-0000-0000-0000-000000000003');
SELECT outbox.publish_bytes('Order', '1', 'C', '', event_id => '00000000-0000-0000-0000-000000000003');
BEGIN;
SELECT outbox.publish('Order', '1', 'D', '{}', event_id => '00000000-0000-0000-0000-000000000004'),
       outbox.publish('Order', '1', 'E', '{}', event_id => '00000000-0000-0000-0000-000000000004');
ROLLBACK;
SELECT event_type FROM outbox.event ORDER BY id;
-- also one that was not published, and by the others
INSERT INTO outbox.event (event_id, aggregate_type, event_type) VALUES ('00000000-0000-0000-0000-000000000005', 'Order', 'F');
SELECT outbox.publish('Order', '1', 'G', '{}', event_id => '00000000-0000-0000-0000-000000000005');
-- ids that are made are in no such index, but can be found
SELECT count(outbox.publish('Order', i::text, 'H', '{}')) FROM generate_series(1, 10) i;
SELECT event_id AS made FROM outbox.event WHERE aggregate_id = '7' \gset
SET enable_seqscan = off;
BEGIN;
SET LOCAL enable_bitmapscan = off;
SELECT count(*) FROM outbox.event_0 WHERE id_given AND event_id > '00000000-0000-0000-0000-000000000000';
EXPLAIN (COSTS OFF) SELECT count(*) FROM outbox.event_0 WHERE id_given AND event_id > '00000000-0000-0000-0000-000000000000';
COMMIT;
VACUUM outbox.event_0;
EXPLAIN (COSTS OFF) SELECT aggregate_id FROM outbox.event_0 WHERE event_id = '00000000-0000-0000-0000-000000000001';
SELECT aggregate_id, status FROM outbox.events WHERE event_id = :'made';
RESET enable_seqscan;
:empty

-- rows go into the current chunk
SELECT setval('outbox.event_chunk_seq', 5), outbox.current_chunk();
SELECT count(outbox.publish('Order', '1', 'Five', '{}'));
SELECT setval('outbox.event_chunk_seq', 0), outbox.current_chunk();
SELECT count(outbox.publish('Order', '1', 'Zero', '{}'));
SELECT event_type, chunk, tableoid::regclass FROM outbox.event ORDER BY id;
:empty

-- not where nothing can be written
BEGIN READ ONLY;
SELECT outbox.publish('Order', '1', 'A', '{}');
ROLLBACK;
BEGIN READ ONLY;
SELECT outbox.publish_bytes('Order', '1', 'A', '{}');
ROLLBACK;
SET default_transaction_read_only = on;
SELECT outbox.publish('Order', '1', 'A', '{}');
RESET default_transaction_read_only;
CREATE FUNCTION mislabelled(i int) RETURNS uuid LANGUAGE plpgsql PARALLEL SAFE
    AS $$ BEGIN RETURN outbox.publish('Order', i::text, 'A', '{}'); END $$;
SELECT name AS parallel FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query') ORDER BY 1 LIMIT 1 \gset
\set SHOW_CONTEXT never
SET :parallel = on;
SELECT mislabelled(1);
RESET :parallel;
\set SHOW_CONTEXT errors
SELECT count(*) FROM outbox.event;

-- the limit on the size
SHOW outbox.max_event_size;
SELECT outbox.publish_bytes('Order', '1', 'TooLarge', convert_to(repeat('x', 1000000), 'UTF8'));
SET outbox.max_event_size = '1kB';
-- 20 bytes of header names, 36 + 5 + 5 of their values, 1 of the key, and 957
SELECT count(outbox.publish_bytes('Order', '1', 'Limit', convert_to(repeat('x', 957), 'UTF8')));
SELECT outbox.publish_bytes('Order', '1', 'Limit', convert_to(repeat('x', 958), 'UTF8'));
SELECT outbox.publish('Order', repeat('k', 1000), 'LargeKey', '{}');
SELECT outbox.publish('Order', '1', 'LargeKey', '{}', partition_key => repeat('k', 1000));
SELECT outbox.publish('Order', '1', 'LargeHeaders', '{}', jsonb_build_object('h', repeat('v', 1000)));
SELECT outbox.publish('Order', '1', 'LargeNames', '{}', jsonb_build_object(repeat('n', 1000), ''));
SELECT outbox.publish('Order', '1', 'LargeNumber', '{}', '{"n": 1e1000}');
SELECT outbox.publish('Order', '1', repeat('e', 1000), '{}');
RESET outbox.max_event_size;
SELECT event_type FROM outbox.event;

-- the extension may go and come again within a session
DROP VIEW stored;
DROP EXTENSION outbox;
CREATE EXTENSION outbox;
SELECT count(outbox.publish('Order', '1', 'Again', '{}')), outbox.current_chunk();
BEGIN;
DROP EXTENSION outbox;
ROLLBACK;
SELECT count(outbox.publish('Order', '1', 'StillThere', '{}'));
SELECT event_type FROM outbox.event ORDER BY id;

-- a damaged extension says so
SET allow_system_table_mods = on;
BEGIN;
ALTER TABLE outbox.event_0 SET UNLOGGED;
SELECT outbox.publish('Order', '1', 'A', '{}');
ROLLBACK;
BEGIN;
ALTER TABLE outbox.event_0 RENAME TO event_9;
SELECT outbox.publish('Order', '1', 'A', '{}');
ROLLBACK;
BEGIN;
ALTER SEQUENCE outbox.event_chunk_seq RENAME TO renamed;
SELECT outbox.publish('Order', '1', 'A', '{}');
ROLLBACK;
BEGIN;
ALTER TABLE outbox.event DETACH PARTITION outbox.event_0;
SELECT outbox.publish('Order', '1', 'A', '{}');
ROLLBACK;
BEGIN;
ALTER TABLE outbox.event_0 RENAME TO event_9;
CREATE TABLE outbox.event_0 (id int);
SELECT outbox.publish('Order', '1', 'A', '{}');
ROLLBACK;
BEGIN;
ALTER SEQUENCE outbox.event_id_seq RENAME TO renamed;
CREATE VIEW outbox.event_id_seq AS SELECT 1;
SELECT outbox.publish('Order', '1', 'A', '{}');
ROLLBACK;
BEGIN;
ALTER SEQUENCE outbox.event_chunk_seq MAXVALUE 99;
SELECT setval('outbox.event_chunk_seq', 8);
SELECT outbox.publish('Order', '1', 'A', '{}');
ROLLBACK;
BEGIN;
ALTER SCHEMA outbox RENAME TO elsewhere;
SELECT elsewhere.publish('Order', '1', 'A', '{}');
ROLLBACK;
RESET allow_system_table_mods;
SELECT setval('outbox.event_chunk_seq', 0);
SELECT count(outbox.publish('Order', '1', 'A', '{}'));

DROP FUNCTION mislabelled;
DROP EXTENSION outbox;
