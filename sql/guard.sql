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
\set VERBOSITY default
ALTER TABLE outbox.event RENAME TO events_of_old;

-- who may change system tables knows what he does
BEGIN;
SET LOCAL allow_system_table_mods = on;
ALTER TABLE outbox.event RENAME TO events_of_old;
ROLLBACK;

-- what is not ours
CREATE TABLE event (id int, chunk int) PARTITION BY LIST (chunk);
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

DROP EXTENSION outbox;

-- without the extension nothing is ours
CREATE TABLE outbox.event (id int);
ALTER TABLE outbox.event RENAME TO other;
DROP TABLE outbox.other;
