-- Commands that would hide events from the relay are refused; the owner may
-- add to outbox.event what he likes.
CREATE EXTENSION outbox;
\set VERBOSITY terse
ALTER TABLE outbox.event DETACH PARTITION outbox.event_3;
ALTER TABLE outbox.event DETACH PARTITION outbox.event_3 CONCURRENTLY;
ALTER TABLE outbox.event DETACH PARTITION outbox.event_3 FINALIZE;
CREATE TABLE more (LIKE outbox.event INCLUDING ALL);
ALTER TABLE outbox.event ATTACH PARTITION more FOR VALUES IN (8);
CREATE TABLE outbox.event_8 PARTITION OF outbox.event FOR VALUES IN (8);
CREATE TABLE outbox.event_8 PARTITION OF outbox.event DEFAULT;
ALTER TABLE outbox.event_3 SET UNLOGGED;
ALTER TABLE outbox.event_3 SET ACCESS METHOD heap;
ALTER TABLE outbox.event RENAME TO events_of_old;
ALTER TABLE outbox.event_3 RENAME TO chunk_3;
ALTER INDEX outbox.event RENAME TO events_of_old;
ALTER TABLE outbox.event SET SCHEMA public;
ALTER TABLE outbox.event_3 SET SCHEMA public;
SET search_path = outbox;
ALTER TABLE event SET SCHEMA public;
RESET search_path;
DO $$ BEGIN EXECUTE 'ALTER TABLE outbox.event DETACH PARTITION outbox.event_3'; END $$;

-- the triggers that keep rows until they are on Kafka
DROP TRIGGER keep_rows ON outbox.event;
DROP TRIGGER IF EXISTS keep_chunk ON outbox.event_3 CASCADE;
SET search_path = outbox;
DROP TRIGGER keep_rows ON event;
RESET search_path;
ALTER TABLE outbox.event DISABLE TRIGGER keep_rows;
ALTER TABLE ONLY outbox.event_3 DISABLE TRIGGER keep_rows;
ALTER TABLE outbox.event_3 DISABLE TRIGGER keep_chunk;
ALTER TABLE outbox.event_3 DISABLE TRIGGER ALL;
ALTER TABLE outbox.event DISABLE TRIGGER USER;
ALTER TABLE outbox.event ENABLE REPLICA TRIGGER keep_rows;
ALTER TRIGGER keep_rows ON outbox.event RENAME TO keep_nothing;
CREATE OR REPLACE TRIGGER keep_chunk BEFORE TRUNCATE ON outbox.event_3
FOR EACH STATEMENT EXECUTE FUNCTION outbox.wake_relay();
\set VERBOSITY default
ALTER TABLE outbox.event RENAME TO events_of_old;

-- who may change system tables knows what he does
BEGIN;
SET LOCAL allow_system_table_mods = on;
ALTER TABLE outbox.event RENAME TO events_of_old;
ROLLBACK;

-- what is not ours
CREATE TABLE event (id int, chunk int) PARTITION BY LIST (chunk);
CREATE TRIGGER keep_rows AFTER INSERT ON event FOR EACH STATEMENT EXECUTE FUNCTION outbox.wake_relay();
ALTER TABLE event DISABLE TRIGGER keep_rows;
DROP TRIGGER keep_rows ON event;
DROP TRIGGER missing ON outbox.missing;
CREATE TABLE event_1 PARTITION OF event FOR VALUES IN (1);
ALTER TABLE event DETACH PARTITION event_1;
ALTER TABLE event_1 SET UNLOGGED;
ALTER TABLE event RENAME TO mine;
ALTER TABLE mine SET SCHEMA outbox;
DROP TABLE outbox.mine, event_1, more;

-- what does no harm
ALTER TABLE outbox.event ADD COLUMN note text;
ALTER TABLE outbox.event RENAME COLUMN note TO remark;
ALTER TABLE outbox.event ADD CONSTRAINT short CHECK (length(remark) < 10);
ALTER TABLE outbox.event RENAME CONSTRAINT short TO brief;
CREATE INDEX by_remark ON outbox.event (remark);
ALTER INDEX outbox.by_remark RENAME TO by_note;
ALTER TABLE outbox.event_3 SET (fillfactor = 90);
ALTER TABLE outbox.event ALTER COLUMN payload SET STORAGE EXTERNAL;
SELECT count(outbox.publish('Order', '1', 'A', '{}'));
ALTER TABLE outbox.event ENABLE ALWAYS TRIGGER keep_rows;
CREATE TRIGGER announce AFTER INSERT ON outbox.event FOR EACH STATEMENT EXECUTE FUNCTION outbox.wake_relay();
ALTER TABLE outbox.event DISABLE TRIGGER announce;
ALTER TRIGGER announce ON outbox.event RENAME TO tell;
DROP TRIGGER tell ON outbox.event;

DROP EXTENSION outbox;

-- without the extension nothing is ours
CREATE TABLE outbox.event (id int);
ALTER TABLE outbox.event RENAME TO other;
DROP TABLE outbox.other;
