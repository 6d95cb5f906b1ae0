-- What the owner of outbox.event adds to it holds for published events too.
CREATE EXTENSION outbox;

-- No relay publishes what is here, so it can only be removed in this way.
\set empty 'SET session_replication_role = replica; TRUNCATE outbox.event; RESET session_replication_role;'

-- triggers for each row, before and after
CREATE TABLE log (n serial, entry text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO log (entry) VALUES (format('%s %s, %s stored', TG_WHEN, NEW.event_type,
        (SELECT count(*) FROM outbox.event)));
    RETURN NEW;
END $$;
CREATE TRIGGER before_event BEFORE INSERT ON outbox.event FOR EACH ROW EXECUTE FUNCTION note();
CREATE TRIGGER after_event AFTER INSERT ON outbox.event FOR EACH ROW EXECUTE FUNCTION note();
SELECT outbox.publish('Order', '1', 'A', '{}', event_id => '00000000-0000-0000-0000-000000000001');
SELECT outbox.publish('Order', '1', 'A', '{}', event_id => '00000000-0000-0000-0000-000000000001');
SELECT count(outbox.publish_bytes('Order', '1', 'B', NULL));
SELECT entry FROM log ORDER BY n;
DROP TRIGGER before_event ON outbox.event;
DROP TRIGGER after_event ON outbox.event;
TRUNCATE log;
:empty

-- a trigger can change an event, stop it, or refuse it, as for any INSERT
CREATE FUNCTION meddle() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    CASE NEW.event_type
        WHEN 'Change' THEN NEW.aggregate_id = 'changed'; RETURN NEW;
        WHEN 'Spoil' THEN NEW.aggregate_type = 'a b'; RETURN NEW;
        WHEN 'Move' THEN NEW.chunk = 3; RETURN NEW;
        WHEN 'Stop' THEN RETURN NULL;
        WHEN 'Publish' THEN PERFORM outbox.publish('Order', '2', 'Inner', '{}'); RETURN NEW;
        ELSE RETURN NEW;
    END CASE;
END $$;
CREATE TRIGGER meddle BEFORE INSERT ON outbox.event FOR EACH ROW EXECUTE FUNCTION meddle();
SELECT count(outbox.publish('Order', '1', 'Change', '{}'));
SELECT outbox.publish('Order', '1', 'Spoil', '{}');
SELECT outbox.publish('Order', '1', 'Move', '{}', event_id => '00000000-0000-0000-0000-000000000002') IS NULL;
SELECT count(outbox.publish('Order', '1', 'Stop', '{}'));
SELECT count(outbox.publish('Order', '1', 'Publish', '{}'));
SELECT aggregate_id, event_type, chunk FROM outbox.event ORDER BY id;
DROP TRIGGER meddle ON outbox.event;
:empty

-- deferred to the commit
CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON outbox.event DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION note();
BEGIN;
SELECT count(outbox.publish('Order', '1', 'First', '{}'));
SELECT count(outbox.publish('Order', '1', 'Second', '{}'));
SELECT entry FROM log ORDER BY n;
COMMIT;
SELECT entry FROM log ORDER BY n;
DROP TRIGGER deferred ON outbox.event;
:empty

-- constraints; the failing row has an id and a time
\set VERBOSITY terse
ALTER TABLE outbox.event ADD CONSTRAINT small_payload CHECK (length(payload) < 10);
SELECT count(outbox.publish('Order', '1', 'Small', '{}'));
SELECT count(outbox.publish('Order', '1', 'Large', '"1234567890"'));
ALTER TABLE outbox.event DROP CONSTRAINT small_payload;
ALTER TABLE outbox.event ALTER aggregate_id SET NOT NULL;
SELECT count(outbox.publish('Order', NULL, 'NoKey', '{}'));
ALTER TABLE outbox.event ALTER aggregate_id DROP NOT NULL;
CREATE UNIQUE INDEX once ON outbox.event (aggregate_id, event_type, chunk);
SELECT count(outbox.publish('Order', '1', 'Small', '{}'));
SELECT count(outbox.publish('Order', '1', 'Small', '{}', event_id => '00000000-0000-0000-0000-000000000003'));
DROP INDEX outbox.once;
CREATE TABLE kind (name text PRIMARY KEY);
INSERT INTO kind VALUES ('Order');
ALTER TABLE outbox.event ADD CONSTRAINT known_kind FOREIGN KEY (aggregate_type) REFERENCES kind;
SELECT count(outbox.publish('Order', '1', 'Known', '{}'));
SELECT count(outbox.publish('Other', '1', 'Unknown', '{}'));
\set VERBOSITY default
ALTER TABLE outbox.event DROP CONSTRAINT known_kind;
SELECT event_type FROM outbox.event ORDER BY id;
:empty

-- what a session knows of the table is what the table is, whatever was rolled back
CREATE TABLE stored (event_type text);
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO stored VALUES (NEW.event_type);
    RETURN NEW;
END $$;
CREATE FUNCTION by_index() RETURNS text LANGUAGE sql
SET enable_seqscan = off SET enable_bitmapscan = off
AS $$ SELECT string_agg(event_type, ' ' ORDER BY event_type) FROM outbox.event_0 WHERE event_type >= 'A' $$;
SELECT count(outbox.publish('Order', '1', 'A', '{}'));
BEGIN;
CREATE INDEX by_type ON outbox.event_0 (event_type);
SELECT count(outbox.publish('Order', '1', 'B', '{}'));
SELECT by_index();
SAVEPOINT s;
DROP INDEX outbox.by_type;
CREATE TRIGGER keep AFTER INSERT ON outbox.event FOR EACH ROW EXECUTE FUNCTION keep();
SELECT count(outbox.publish('Order', '1', 'C', '{}'));
ROLLBACK TO s;
SELECT count(outbox.publish('Order', '1', 'D', '{}'));
SELECT by_index();
COMMIT;
SELECT * FROM stored;
CREATE TRIGGER keep AFTER INSERT ON outbox.event_0 FOR EACH ROW EXECUTE FUNCTION keep();
SELECT count(outbox.publish('Order', '1', 'E', '{}'));
DROP TRIGGER keep ON outbox.event_0;
SELECT count(outbox.publish('Order', '1', 'F', '{}'));
SELECT * FROM stored;
SELECT by_index();
DROP INDEX outbox.by_type;
-- more than columns in an index, and an index of another kind
CREATE INDEX by_type ON outbox.event_0 (event_type) WHERE event_type > 'G';
CREATE INDEX by_expression ON outbox.event_0 (upper(event_type));
CREATE INDEX by_hash ON outbox.event_0 USING hash (event_type);
SELECT count(outbox.publish('Order', '1', 'G', '{}')), count(outbox.publish('Order', '1', 'H', '{}'));
SET enable_seqscan = off;
SELECT count(*) FROM outbox.event_0 WHERE event_type = 'G';
EXPLAIN (COSTS OFF) SELECT count(*) FROM outbox.event_0 WHERE event_type = 'G';
DROP INDEX outbox.by_hash;
SELECT count(*) FROM outbox.event_0 WHERE upper(event_type) = 'G';
DROP INDEX outbox.by_expression;
SELECT count(*) FROM outbox.event_0 WHERE event_type > 'G';
RESET enable_seqscan;
DROP INDEX outbox.by_type;
-- a table that was written anew, or its indexes; what rows may leave out is in all of them
CREATE VIEW places AS
SELECT count(*), count(DISTINCT id) AS ids, min(chunk) || '-' || max(chunk) AS chunks, bool_and(database_id = outbox.database_id()) AS database_id,
       count(*) FILTER (WHERE chunk = 0 AND database_id = outbox.database_id()) AS found, count(id_given) AS given
FROM outbox.event_0;
SELECT * FROM places;
VACUUM FULL outbox.event_0;
SELECT count(outbox.publish('Order', '1', 'I', '{}'));
SELECT * FROM places;
REINDEX TABLE outbox.event_0;
SELECT count(outbox.publish('Order', '1', 'J', '{}'));
SELECT * FROM places;
SET session_replication_role = replica;
UPDATE outbox.event SET payload = convert_to(repeat('x', 100000), 'UTF8');
RESET session_replication_role;
SELECT * FROM places;
DROP VIEW places;
-- in each chunk
SELECT count(outbox.publish('Order', setval('outbox.event_chunk_seq', i)::text, 'K', '{}')) FROM generate_series(0, 7) i;
SELECT aggregate_id, chunk, tableoid::regclass, database_id = outbox.database_id() AS database_id FROM outbox.event WHERE event_type = 'K' ORDER BY id;
SELECT setval('outbox.event_chunk_seq', 0);
DROP TABLE stored;
DROP FUNCTION keep(), by_index();
:empty

-- columns
ALTER TABLE outbox.event ADD COLUMN dropped int;
ALTER TABLE outbox.event DROP COLUMN dropped;
ALTER TABLE outbox.event ADD COLUMN note text,
    ADD COLUMN kind text GENERATED ALWAYS AS (aggregate_type || '/' || event_type) STORED;
SELECT count(outbox.publish('Order', '1', 'Wider', '{}'));
SELECT event_type, note, kind FROM outbox.event;

-- row-level security is not in the way of publish()
ALTER TABLE outbox.event ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
SELECT count(outbox.publish('Order', '1', 'Secured', '{}'));
SELECT event_type FROM outbox.event ORDER BY id;

DROP EXTENSION outbox;
DROP TABLE log, kind;
DROP FUNCTION note(), meddle();
