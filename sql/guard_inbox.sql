-- What consumers would pass over is refused for inbox.message and
-- inbox.received; the rest is their owner's.
CREATE EXTENSION outbox;
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER alert AFTER INSERT ON inbox.message FOR EACH ROW EXECUTE FUNCTION nothing();
\set VERBOSITY terse
CREATE TRIGGER alert BEFORE INSERT OR UPDATE ON inbox.message_2 FOR EACH ROW EXECUTE FUNCTION nothing();
CREATE TRIGGER alert AFTER INSERT ON inbox.received FOR EACH STATEMENT EXECUTE FUNCTION nothing();
CREATE CONSTRAINT TRIGGER alert AFTER INSERT ON inbox.message_0 FOR EACH ROW EXECUTE FUNCTION nothing();
CREATE RULE alert AS ON INSERT TO inbox.message DO ALSO NOTIFY alert;
CREATE RULE alert AS ON UPDATE TO inbox.message_1 DO INSTEAD NOTHING;
ALTER TABLE inbox.message ADD CHECK (attempts < 10);
ALTER TABLE inbox.message_3 ADD CONSTRAINT payload_there CHECK (payload IS NOT NULL);
ALTER TABLE inbox.message ADD FOREIGN KEY (subscription) REFERENCES inbox.subscription;
ALTER TABLE inbox.message ADD UNIQUE (subscription, event_id, chunk);
ALTER TABLE inbox.message ALTER payload SET NOT NULL;
CREATE UNIQUE INDEX ON inbox.message_0 (event_id);
ALTER TABLE inbox.message ADD COLUMN tenant text;
ALTER TABLE inbox.message DROP COLUMN headers;
ALTER TABLE inbox.message ALTER event_id TYPE uuid USING event_id::uuid;
ALTER TABLE inbox.message RENAME event_id TO id;
ALTER TABLE inbox.received RENAME TO seen;
ALTER TABLE inbox.message SET SCHEMA public;
ALTER TABLE inbox.message DETACH PARTITION inbox.message_1;
ALTER TABLE inbox.received_1 SET UNLOGGED;
CREATE TABLE inbox.message_4 PARTITION OF inbox.message FOR VALUES IN (4);
\set VERBOSITY default

-- what works
CREATE TRIGGER alert AFTER UPDATE OR DELETE ON inbox.message FOR EACH ROW EXECUTE FUNCTION nothing();
ALTER TRIGGER alert ON inbox.message RENAME TO other;
DROP TRIGGER other ON inbox.message;
CREATE INDEX ON inbox.message (aggregate_id);
ALTER TABLE inbox.message_0 SET (autovacuum_enabled = off);
ALTER TABLE inbox.message ALTER payload SET STATISTICS 0;
CREATE TRIGGER alert AFTER INSERT ON inbox.subscription FOR EACH STATEMENT EXECUTE FUNCTION nothing();

-- what is not ours
CREATE TABLE message (id int);
CREATE TRIGGER alert AFTER INSERT ON message FOR EACH ROW EXECUTE FUNCTION nothing();
ALTER TABLE message ADD CHECK (id > 0), ADD COLUMN other int;
CREATE RULE alert AS ON INSERT TO message DO ALSO NOTIFY alert;
DROP TABLE message;

-- who may change system tables knows what he does
BEGIN;
SET LOCAL allow_system_table_mods = on;
ALTER TABLE inbox.message ADD CHECK (attempts < 10);
ROLLBACK;
DROP EXTENSION outbox;
DROP FUNCTION nothing();
