-- What may be done to the rows of outbox.event, and what has to wait until they
-- are on Kafka.  What a relay would store is stored by hand.
CREATE EXTENSION outbox;
CREATE FUNCTION publish(n integer) RETURNS bigint LANGUAGE sql AS $$
    SELECT count(outbox.publish('Order', i::text, 'OrderCreated', '{}',
        event_id => ('00000000-0000-0000-0000-' || to_char(n * 10 + i, 'FM000000000000'))::uuid))
    FROM generate_series(1, 2) i
$$;
CREATE PROCEDURE all_published() LANGUAGE sql AS $$
    INSERT INTO outbox.watermark (lsn, snapshot) VALUES (pg_current_wal_insert_lsn(), pg_current_snapshot())
$$;
CREATE VIEW stored AS
    SELECT v.event_id, e.chunk, v.payload, v.status FROM outbox.events v JOIN outbox.event e USING (id) ORDER BY id;

-- nothing of what is pending, in whichever way
SELECT publish(1);
DELETE FROM outbox.event;
DELETE FROM outbox.event_0 WHERE aggregate_id = '2';
UPDATE outbox.event SET payload = NULL;
UPDATE outbox.event SET chunk = 1;
TRUNCATE outbox.event;
TRUNCATE outbox.event_0;
INSERT INTO outbox.event (event_id, aggregate_type, event_type) VALUES ('00000000-0000-0000-0000-000000000011', 'Order', 'Again')
ON CONFLICT (event_id, chunk) WHERE id_given DO UPDATE SET event_type = 'Again';
MERGE INTO outbox.event e USING (VALUES ('00000000-0000-0000-0000-000000000011'::uuid)) v (id) ON e.event_id = v.id
WHEN MATCHED THEN DELETE;
SELECT * FROM stored;
-- nor by the transaction that publishes it
BEGIN;
SELECT publish(2);
DELETE FROM outbox.event WHERE xid = pg_current_xact_id();
ROLLBACK;
BEGIN;
SELECT publish(2);
TRUNCATE outbox.event;
ROLLBACK;
-- other chunks are free
TRUNCATE outbox.event_1, outbox.event_7;

-- what is published may go
CALL all_published();
SELECT publish(3);
SELECT * FROM stored;
DELETE FROM outbox.event;
TRUNCATE outbox.event;
DELETE FROM outbox.event e USING outbox.events v WHERE v.id = e.id AND v.status = 'published' AND v.aggregate_id = '1';
SELECT * FROM stored;
UPDATE outbox.event SET payload = 'gone' WHERE event_id = '00000000-0000-0000-0000-000000000012';
-- but not become another event, or one of somebody else
UPDATE outbox.event SET chunk = 1 WHERE event_id = '00000000-0000-0000-0000-000000000012';
UPDATE outbox.event SET id = id + 1000 WHERE event_id = '00000000-0000-0000-0000-000000000012';
UPDATE outbox.event SET xid = pg_current_xact_id() WHERE event_id = '00000000-0000-0000-0000-000000000012';
UPDATE outbox.event SET database_id = database_id + 1 WHERE event_id = '00000000-0000-0000-0000-000000000012';
SELECT * FROM stored;

-- a transaction that was still running when the watermark was taken
BEGIN;
SELECT publish(4);
CALL all_published();
COMMIT;
DELETE FROM outbox.event WHERE event_id = '00000000-0000-0000-0000-000000000031';
DELETE FROM outbox.event WHERE event_id = '00000000-0000-0000-0000-000000000041';
TRUNCATE outbox.event;
CALL all_published();
TRUNCATE outbox.event;

-- dead letters, and events that wait behind one
SELECT publish(5);
CALL all_published();
INSERT INTO outbox.dead_letter (event_id, topic, key, error_code, error, holds, replay, id, chunk, xid, database_id)
SELECT event_id, 'outbox.event.Order', '1', 'MSG_SIZE_TOO_LARGE', 'too large', true, false, id, chunk, xid, database_id
FROM outbox.event WHERE aggregate_id = '1';
INSERT INTO outbox.held_event (event_id, topic, key, id, chunk, xid, database_id)
SELECT event_id, 'outbox.event.Order', '1', id, chunk, xid, database_id
FROM outbox.event WHERE aggregate_id = '2';
SELECT * FROM stored;
DELETE FROM outbox.event WHERE aggregate_id = '1';
DELETE FROM outbox.event WHERE aggregate_id = '2';
TRUNCATE outbox.event;
UPDATE outbox.event SET payload = 'short';
SELECT outbox.discard('00000000-0000-0000-0000-000000000051'::uuid);
DELETE FROM outbox.event WHERE aggregate_id = '1';
TRUNCATE outbox.event;
DELETE FROM outbox.held_event;
TRUNCATE outbox.event;
-- what was refused in a replay is published
SELECT publish(6);
CALL all_published();
INSERT INTO outbox.dead_letter (event_id, topic, key, error_code, error, holds, replay, id, chunk, xid, database_id)
SELECT event_id, 'outbox.event.Order', '1', 'MSG_SIZE_TOO_LARGE', 'too large', false, true, id, chunk, xid, database_id
FROM outbox.event;
SELECT * FROM stored;
DELETE FROM outbox.event WHERE aggregate_id = '1';
TRUNCATE outbox.event;
DELETE FROM outbox.dead_letter;

-- rows of other databases: of one that this is a copy of, and of others
INSERT INTO outbox.event (event_id, aggregate_type, event_type, database_id, xid)
SELECT ('00000000-0000-0000-0000-00000000007' || i)::uuid, 'Order', 'OrderCreated', outbox.database_id() + i % 2, '700'
FROM generate_series(1, 3) i WHERE i <> 2;
DELETE FROM outbox.event WHERE event_id = '00000000-0000-0000-0000-000000000071';
INSERT INTO outbox.identity SELECT outbox.database_id() + 1, 1, 1, 'original';
DELETE FROM outbox.event WHERE event_id = '00000000-0000-0000-0000-000000000073';
TRUNCATE outbox.event;
INSERT INTO outbox.watermark (database_id, lsn, snapshot) VALUES (outbox.database_id() + 1, '0/0', '700:700:');
TRUNCATE outbox.event;
INSERT INTO outbox.watermark (database_id, lsn, snapshot) VALUES (outbox.database_id() + 1, '0/0', '701:701:');
DELETE FROM outbox.event WHERE event_id = '00000000-0000-0000-0000-000000000073';
DELETE FROM outbox.identity WHERE database_id = outbox.database_id() + 1;

-- who may delete needs no other right, and no operator of his own is used
CREATE ROLE regress_cleaner;
GRANT USAGE ON SCHEMA outbox TO regress_cleaner;
GRANT SELECT, DELETE, TRUNCATE ON outbox.event, outbox.event_0 TO regress_cleaner;
GRANT CREATE ON DATABASE regression TO regress_cleaner;
SELECT publish(8);
SET ROLE regress_cleaner;
CREATE SCHEMA evil;
CREATE FUNCTION evil.equal(integer, integer) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'called as %', current_user;
END $$;
CREATE OPERATOR evil.= (LEFTARG = integer, RIGHTARG = integer, FUNCTION = evil.equal);
SET search_path = evil, pg_catalog;
DELETE FROM outbox.event_0;
TRUNCATE outbox.event_0;
RESET search_path;
RESET ROLE;
CALL all_published();
SET ROLE regress_cleaner;
SET search_path = evil, pg_catalog;
DELETE FROM outbox.event WHERE aggregate_id = '1';
TRUNCATE outbox.event_0;
SELECT outbox.keep_rows();
RESET search_path;
RESET ROLE;
REVOKE ALL ON DATABASE regression FROM regress_cleaner;
DROP OWNED BY regress_cleaner;
DROP ROLE regress_cleaner;

-- who may set this throws away what he likes
SELECT publish(9);
SET session_replication_role = replica;
UPDATE outbox.event SET payload = NULL;
DELETE FROM outbox.event WHERE aggregate_id = '1';
TRUNCATE outbox.event;
RESET session_replication_role;
SELECT * FROM stored;

DROP VIEW stored;
DROP FUNCTION publish;
DROP PROCEDURE all_published;
DROP EXTENSION outbox;
