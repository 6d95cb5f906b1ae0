-- Dead letters: the functions, their errors and rights.  What the relay does
-- with them is for the tests with a real Kafka.
CREATE EXTENSION outbox;
SELECT outbox.publish('Order', '1', 'Placed', '1', event_id => 'dead0000-0000-4000-8000-000000000001');
SELECT outbox.publish('Order', '1', 'Placed', '2', event_id => 'dead0000-0000-4000-8000-000000000002');
SELECT outbox.publish('Order', '1', 'Placed', '3', event_id => 'dead0000-0000-4000-8000-000000000003');
-- as the relay would
INSERT INTO outbox.dead_letter (event_id, topic, key, error_code, error, holds, replay, id, chunk, xid, database_id)
SELECT event_id, 'outbox.event.Order', '1', 'MSG_SIZE_TOO_LARGE', 'too large', false, false, id, chunk, xid, database_id
FROM outbox.event WHERE event_id::text LIKE '%1';
INSERT INTO outbox.held_event (event_id, topic, key, id, chunk, xid, database_id)
SELECT event_id, 'outbox.event.Order', '1', id, chunk, xid, database_id
FROM outbox.event WHERE event_id::text LIKE '%2';

-- What a user sees.
SELECT event_id, status, published_at, error FROM outbox.events ORDER BY id;
SELECT event_id, topic, error, attempts, failed_at IS NOT NULL AS failed, state FROM outbox.dead_letter;
SELECT dead_letters FROM outbox.stat_relay;

-- A dead letter can be named by a text or a uuid.
SELECT outbox.retry('dead0000-0000-4000-8000-000000000001');
SELECT state FROM outbox.dead_letter;
SELECT outbox.retry('DEAD0000-0000-4000-8000-000000000001'::uuid);
-- what is retried already is not counted again
SELECT outbox.retry_all('outbox.event.Order');
UPDATE outbox.dead_letter SET state = 'failed';
SELECT outbox.retry_all('outbox.event.Other');
SELECT outbox.retry_all();

-- Others are none.
SELECT outbox.retry('dead0000-0000-4000-8000-000000000002');
SELECT outbox.discard('dead0000-0000-4000-8000-000000000003'::uuid);
SELECT outbox.retry(NULL::text) IS NULL AS nothing;
SELECT outbox.retry('no uuid');
SELECT outbox.discard('no uuid');

-- An event that has gone cannot be sent again, but it can be discarded.
SET session_replication_role = replica;
DELETE FROM outbox.event WHERE event_id = 'dead0000-0000-4000-8000-000000000001';
RESET session_replication_role;
SELECT outbox.retry('dead0000-0000-4000-8000-000000000001');
UPDATE outbox.dead_letter SET state = 'failed';
SELECT outbox.retry_all();
SELECT outbox.discard('dead0000-0000-4000-8000-000000000001');
SELECT count(*) FROM outbox.dead_letter;
SELECT outbox.discard('dead0000-0000-4000-8000-000000000001');

-- Rights: PUBLIC has none, and the functions need no more than EXECUTE.
CREATE ROLE regress_operator;
SET ROLE regress_operator;
SELECT outbox.retry('dead0000-0000-4000-8000-000000000001');
RESET ROLE;
GRANT USAGE ON SCHEMA outbox TO regress_operator;
SET ROLE regress_operator;
SELECT outbox.retry('dead0000-0000-4000-8000-000000000001');
SELECT outbox.retry('dead0000-0000-4000-8000-000000000001'::uuid);
SELECT outbox.discard('dead0000-0000-4000-8000-000000000001');
SELECT outbox.discard('dead0000-0000-4000-8000-000000000001'::uuid);
SELECT outbox.retry_all('outbox.event.Order');
SELECT outbox.discard_all('outbox.event.Order');
SELECT outbox.discard_rows('{1}');
SELECT outbox.replay('-infinity');
TABLE outbox.dead_letter;
TABLE outbox.held_event;
RESET ROLE;
GRANT EXECUTE ON FUNCTION outbox.retry(text), outbox.retry(uuid), outbox.retry_all, outbox.discard(text),
    outbox.discard(uuid), outbox.discard_all, outbox.replay TO regress_operator;
SET ROLE regress_operator;
SELECT outbox.replay('-infinity');
SELECT outbox.retry('dead0000-0000-4000-8000-000000000001'), outbox.retry_all(),
       outbox.discard('dead0000-0000-4000-8000-000000000001');
-- What waits can be given up, and stays visible.
SELECT outbox.discard_all('outbox.event.Other'), outbox.discard_all('outbox.event.Order'),
       outbox.discard_all('outbox.event.Order');
RESET ROLE;
SELECT event_id, status, published_at, error FROM outbox.events ORDER BY id;
SELECT event_id, topic, key, error, discarded_by = session_user AS by_session, discarded_at <= now() AS discarded
FROM outbox.discarded_event;

-- The setting.
SHOW outbox.on_dead_letter;
SET outbox.on_dead_letter = 'hold';
ALTER SYSTEM SET outbox.on_dead_letter = 'stop';

DROP OWNED BY regress_operator;
DROP ROLE regress_operator;
DROP EXTENSION outbox;
