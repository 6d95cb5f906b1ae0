-- What the output plugin makes of changes, seen through PostgreSQL's own
-- decoding functions.
\pset format unaligned
CREATE EXTENSION outbox;
CREATE TABLE other (id int PRIMARY KEY, note text);
SELECT 'created' FROM pg_create_logical_replication_slot('regress', 'outbox');

-- Shows what was decoded since, without the row numbers that differ.
CREATE VIEW decoded AS
    SELECT regexp_replace(data, '^event id=\d+ ', 'event ') AS data
    FROM pg_logical_slot_get_changes('regress', NULL, NULL);

-- one event
SELECT outbox.publish('Order', '42', 'OrderCreated', '{"total": 10}', event_id => '00000000-0000-0000-0000-000000000001');
SELECT * FROM decoded;

-- every column
SELECT outbox.publish('Order', '42', 'OrderCreated', '{"total": 10}', '{"source": "shop", "n": 1, "ok": true, "none": null}',
    '00000000-0000-0000-0000-000000000002', 'my.topic', 'my-key');
SELECT * FROM decoded;

-- tombstone, null key, bytes, and text that needs quoting
SELECT outbox.publish('Order', NULL, 'OrderDeleted', NULL, event_id => '00000000-0000-0000-0000-000000000003');
SELECT outbox.publish_bytes('Order', '7', 'Blob', '\x00ff10', event_id => '00000000-0000-0000-0000-000000000004');
SELECT outbox.publish_bytes('Order', E'a "b" \\ c', 'Text', E'two\nlines'::text::bytea, 'text/plain', event_id => '00000000-0000-0000-0000-000000000005');
SELECT * FROM decoded;

-- several rows in one statement, and COPY
INSERT INTO outbox.event (event_id, aggregate_type, aggregate_id, event_type, payload, content_type)
SELECT ('00000000-0000-0000-0000-00000000010' || i)::uuid, 'Order', i::text, 'Bulk', convert_to('{}', 'UTF8'), 'application/json'
FROM generate_series(1, 3) i;
COPY outbox.event (event_id, aggregate_type, aggregate_id, event_type, payload) FROM stdin;
00000000-0000-0000-0000-000000000201	Order	1	Copied	\\x7b7d
00000000-0000-0000-0000-000000000202	Order	2	Copied	\N
\.
SELECT * FROM decoded;

-- nothing that was rolled back, whole or to a savepoint
BEGIN;
SELECT outbox.publish('Order', '1', 'RolledBack', '{}', event_id => '00000000-0000-0000-0000-000000000301');
ROLLBACK;
BEGIN;
SELECT outbox.publish('Order', '1', 'Kept', '{}', event_id => '00000000-0000-0000-0000-000000000302');
SAVEPOINT s;
SELECT outbox.publish('Order', '1', 'RolledBack', '{}', event_id => '00000000-0000-0000-0000-000000000303');
ROLLBACK TO s;
SELECT outbox.publish('Order', '1', 'KeptToo', '{}', event_id => '00000000-0000-0000-0000-000000000304');
COMMIT;
SELECT * FROM decoded;

-- a payload of 1 MB that does not compress, stored out of line
CREATE TEMP TABLE big AS
SELECT to_jsonb(string_agg(md5(i::text), '')) AS payload FROM generate_series(1, 31000) i;
SELECT outbox.publish('Order', '1', 'Big', payload, event_id => '00000000-0000-0000-0000-000000000401') FROM big;
SELECT length(data), data LIKE '%' || (SELECT payload #>> '{}' FROM big) || '%' AS whole FROM decoded;

-- a payload that compresses
SELECT outbox.publish('Order', '1', 'Compressed', to_jsonb(repeat('x', 100000)), event_id => '00000000-0000-0000-0000-000000000402');
SELECT length(data) > 100000 AS whole FROM decoded;

-- other tables, truncation and definitions in between are ignored
BEGIN;
INSERT INTO other VALUES (1, 'one');
SELECT outbox.publish('Order', '1', 'Mixed', '{}', event_id => '00000000-0000-0000-0000-000000000501');
UPDATE other SET note = 'uno';
ALTER TABLE other ADD COLUMN more int;
DELETE FROM other;
SELECT outbox.publish('Order', '1', 'Mixed', '{}', event_id => '00000000-0000-0000-0000-000000000502');
TRUNCATE other;
COMMIT;
INSERT INTO other VALUES (2, 'two');
SELECT * FROM decoded;

-- updates and deletes of events are not events
SET session_replication_role = replica;
UPDATE outbox.event SET aggregate_id = '43' WHERE aggregate_id = '42';
DELETE FROM outbox.event WHERE event_type = 'Bulk';
RESET session_replication_role;
SELECT * FROM decoded;

-- a table that is only called "event" is not ours
CREATE SCHEMA elsewhere;
CREATE TABLE elsewhere.event (LIKE outbox.event);
INSERT INTO elsewhere.event SELECT * FROM outbox.event LIMIT 1;
SELECT * FROM decoded;

-- prepared transactions count when they are committed
BEGIN;
SELECT outbox.publish('Order', '1', 'Prepared', '{}', event_id => '00000000-0000-0000-0000-000000000601');
PREPARE TRANSACTION 'outbox_1';
SELECT * FROM decoded;
COMMIT PREPARED 'outbox_1';
SELECT * FROM decoded;
BEGIN;
SELECT outbox.publish('Order', '1', 'Prepared', '{}', event_id => '00000000-0000-0000-0000-000000000602');
PREPARE TRANSACTION 'outbox_2';
ROLLBACK PREPARED 'outbox_2';
SELECT * FROM decoded;

-- every chunk is recognised
INSERT INTO outbox.event (event_id, aggregate_type, aggregate_id, event_type, payload, chunk)
SELECT ('00000000-0000-0000-0000-00000000070' || i)::uuid, 'Order', i::text, 'Chunk', NULL, i FROM generate_series(0, 7) i;
SELECT * FROM decoded;

-- what is published while other changes are applied is an event like any other
SELECT pg_replication_origin_create('regress_origin') IS NOT NULL AS created;
SELECT pg_replication_origin_session_setup('regress_origin');
SELECT outbox.publish('Order', '1', 'Applied', '{}', event_id => '00000000-0000-0000-0000-000000000801');
SELECT pg_replication_origin_session_reset();
SELECT pg_replication_origin_drop('regress_origin');
SELECT * FROM decoded;

-- rows that came from another database are that one's events
INSERT INTO outbox.event (event_id, aggregate_type, event_type, database_id)
VALUES ('00000000-0000-0000-0000-000000000802', 'Order', 'Replicated', outbox.database_id() + 1),
       ('00000000-0000-0000-0000-000000000803', 'Order', 'Own', outbox.database_id());
SELECT * FROM decoded;

-- rows that are inserted in other ways
INSERT INTO outbox.event (event_id, aggregate_type, event_type)
VALUES ('00000000-0000-0000-0000-000000000811', 'Order', 'Speculative') ON CONFLICT DO NOTHING;
INSERT INTO outbox.event (event_id, aggregate_type, event_type)
VALUES ('00000000-0000-0000-0000-000000000811', 'Order', 'Conflict') ON CONFLICT DO NOTHING;
MERGE INTO outbox.event e USING (VALUES ('00000000-0000-0000-0000-000000000812'::uuid)) v (id) ON e.event_id = v.id
WHEN NOT MATCHED THEN INSERT (event_id, aggregate_type, event_type) VALUES (v.id, 'Order', 'Merged');
INSERT INTO outbox.event_5 (event_id, aggregate_type, event_type, chunk)
VALUES ('00000000-0000-0000-0000-000000000813', 'Order', 'Direct', 5);
SET session_replication_role = replica;
BEGIN;
TRUNCATE outbox.event_6;
COPY outbox.event_6 (event_id, aggregate_type, event_type, chunk) FROM stdin (FREEZE);
00000000-0000-0000-0000-000000000814	Order	Frozen	6
\.
COMMIT;
RESET session_replication_role;
SELECT * FROM decoded;

-- events in a chunk that is written anew, before and after
SELECT outbox.publish('Order', '1', 'Before', to_jsonb((SELECT string_agg(md5(i::text), '') FROM generate_series(1, 200) i)),
    event_id => '00000000-0000-0000-0000-000000000821');
VACUUM FULL outbox.event_0;
CLUSTER outbox.event_0 USING event_0_pkey;
BEGIN;
SELECT outbox.publish('Order', '1', 'During', '{}', event_id => '00000000-0000-0000-0000-000000000822');
ALTER TABLE outbox.event ADD COLUMN added text DEFAULT clock_timestamp()::text;
SELECT outbox.publish('Order', '1', 'During', '{}', event_id => '00000000-0000-0000-0000-000000000823');
ALTER TABLE outbox.event ALTER added DROP DEFAULT, ALTER added TYPE timestamptz USING added::timestamptz;
SELECT outbox.publish('Order', '1', 'During', '{}', event_id => '00000000-0000-0000-0000-000000000824');
ALTER TABLE outbox.event DROP COLUMN added;
COMMIT;
SELECT outbox.publish('Order', '1', 'After', '{}', event_id => '00000000-0000-0000-0000-000000000825');
SELECT left(data, 110) FROM decoded;

-- the binary frame: version, id, event id, eight fields, times, xid
BEGIN;
SELECT outbox.publish('Order', NULL, 'Framed', '{}', '{"a": "b"}', '00000000-0000-0000-0000-000000000901');
COMMIT;
SELECT get_byte(data, 0) AS version,
       encode(substr(data, 10, 16), 'hex') AS event_id,
       encode(substr(data, 26, length(data) - 25 - 32), 'escape') AS fields,
       length(data)
FROM pg_logical_slot_peek_binary_changes('regress', NULL, NULL, 'format', 'binary');
-- text and binary must fit the function that asks
SELECT * FROM pg_logical_slot_get_changes('regress', NULL, NULL, 'format', 'binary');
SELECT * FROM decoded;

-- options are checked
SELECT * FROM pg_logical_slot_get_changes('regress', NULL, NULL, 'format', 'xml');
SELECT * FROM pg_logical_slot_get_changes('regress', NULL, NULL, 'include-xids', '1');

-- a chunk whose rows cannot be read is not passed over
SET allow_system_table_mods = on;
ALTER TABLE outbox.event DETACH PARTITION outbox.event_3;
CREATE TABLE other_chunk (dropped integer, LIKE outbox.event INCLUDING ALL);
ALTER TABLE other_chunk DROP COLUMN dropped;
ALTER TABLE outbox.event ATTACH PARTITION other_chunk FOR VALUES IN (3);
RESET allow_system_table_mods;
INSERT INTO outbox.event (event_id, aggregate_type, event_type, chunk)
VALUES ('00000000-0000-0000-0000-000000000a01', 'Order', 'Unreadable', 3);
\set VERBOSITY terse
SELECT * FROM decoded;
\set VERBOSITY default

SELECT pg_drop_replication_slot('regress');
DROP VIEW decoded;
DROP TABLE other, elsewhere.event;
DROP SCHEMA elsewhere;
DROP EXTENSION outbox CASCADE;
