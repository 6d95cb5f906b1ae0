-- inbox.subscribe() and its kin: what they store.
SET client_min_messages = warning;
CREATE EXTENSION outbox;
CREATE SERVER cluster FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1');
CREATE SCHEMA "Stock";
CREATE FUNCTION "Stock"."On order"(message inbox.message) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION on_batch(messages inbox.message[]) RETURNS void LANGUAGE sql AS '';
CREATE VIEW shown AS
SELECT name, topics, handler, start, max_attempts, retry_backoff, ordering, on_failure, batch_size, workers,
       filter_event_types, isolation, keep, handler_timeout, group_id, server, role_name = current_user AS mine,
       paused, stopped_by, generation, dedupe, id_header, type_header, id_field, aggregate_id_field, type_field,
       dedupe_scope, on_conflict, batch_time
FROM inbox.subscription ORDER BY name;
\x on

-- the defaults
BEGIN;
SELECT inbox.subscribe('stock', ARRAY['orders'], '"Stock"."On order"', server => 'cluster');
SELECT inbox.pause('stock');
COMMIT;
SELECT * FROM shown;

-- again, with the same arguments: nothing changes
SELECT inbox.subscribe('stock', ARRAY['orders'], '"Stock"."On order"', server => 'cluster');
SELECT generation, changed_at = created_at AS unchanged FROM inbox.subscription;
-- with others: exactly these, and the pause stays
SELECT inbox.subscribe(name => 'stock', topics => ARRAY['^orders\.', 'returns'], handler => 'on_batch',
    start => '2026-01-31 12:00+02', max_attempts => 1, retry_backoff => '0', ordering => 'partition',
    on_failure => 'stop', batch_size => 100000, workers => 64, filter_event_types => ARRAY['OrderCreated'],
    isolation => 'serializable', keep => '0', handler_timeout => '1 ms', group_id => 'the group', server => 'cluster',
    dedupe => 'none', id_header => 'ce_id', type_header => NULL, id_field => 'meta.eventId', aggregate_id_field => 'order.0',
    type_field => 'kind', dedupe_scope => 'subscription', on_conflict => 'error', batch_time => '5 s');
SELECT * FROM shown;
-- by position, as it is stored; a field for the id says that messages are told by it
SELECT inbox.subscribe('stock', ARRAY['orders'], 'on_batch', 'earliest', 5, '1 s', 'key', 'dead_letter', 1000, 1, NULL,
    'read_committed', NULL, '1 min', NULL, 'cluster', 'header', 'id', NULL, 'eventId', NULL, NULL, 'topic', 'ignore');
SELECT dedupe, id_header, type_header, id_field FROM inbox.subscription;
\x off

-- the handler is found by the search_path, and stored with its schema
SET search_path = "Stock", public;
SELECT inbox.subscribe('stock', ARRAY['orders'], '"On order"', server => 'cluster');
SELECT handler, paused FROM inbox.subscription;
RESET search_path;

-- a rolled-back subscription leaves nothing
BEGIN;
SELECT inbox.subscribe('other', ARRAY['orders'], 'on_batch', server => 'cluster');
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT inbox.subscribe('other', ARRAY['orders'], 'on_batch', server => 'cluster');
ROLLBACK TO s;
SELECT current_user = session_user AS myself, current_setting('search_path') AS search_path;
COMMIT;
SELECT name FROM inbox.subscription;

-- inside other functions, and after their errors
DO $$
BEGIN
    PERFORM inbox.subscribe('stock', ARRAY['orders'], 'nowhere', server => 'cluster');
EXCEPTION WHEN undefined_function THEN
    RAISE WARNING '% as %, %', sqlerrm, current_user = session_user, current_setting('search_path');
END $$;

-- the words for start, and times
SELECT inbox.subscribe('stock', ARRAY['orders'], 'on_batch', start => 'latest', server => 'cluster');
SELECT start FROM inbox.subscription;
SET timezone = 'Asia/Tokyo';
SELECT inbox.subscribe('stock', ARRAY['orders'], 'on_batch', start => '2026-07-01 09:00:00.5', server => 'cluster');
SELECT start FROM inbox.subscription;
RESET timezone;

-- pause and resume, at once: no worker shall try its luck
BEGIN;
SELECT inbox.resume('stock');
SELECT paused FROM inbox.subscription;
SELECT inbox.resume('stock');
SELECT inbox.pause('stock');
SELECT paused FROM inbox.subscription;
SELECT inbox.pause('stock');
COMMIT;
SELECT name, state, topics, workers, partitions, received, processed, duplicates, failed, retrying, last_error
FROM inbox.stat_subscription;

-- seek: before the first message, and after some
SELECT inbox.seek('stock', 'orders', 0, '100');
SELECT inbox.seek('stock', 'orders', 1, 100);
SELECT inbox.seek('stock', 'orders', 2, 'earliest', rerun => true);
SELECT inbox.seek('stock', 'orders', 3, timestamptz '2026-01-01 00:00+00');
SELECT inbox.seek('stock', 'orders', 4, '2026-01-01 00:00+00');
SELECT inbox.seek('stock', 'orders', 5, 'latest');
CREATE VIEW positions AS
SELECT topic, partition, next_offset, to_char(seek_time AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') AS seek_time,
       isfinite(seek_time) AS finite, rerun_until, lost_from, lost_until
FROM inbox.position ORDER BY topic, partition;
SELECT * FROM positions;
UPDATE inbox.position SET next_offset = 1000, lost_from = 10, lost_until = 20;
SELECT name, state, partitions, last_error FROM inbox.stat_subscription;
SELECT inbox.seek('stock', 'orders', 0, '500');
SELECT inbox.seek('stock', 'orders', 1, '500', rerun => true);
SELECT inbox.seek('stock', 'orders', 2, 'earliest', rerun => true);
SELECT * FROM positions;
-- further back, before all is processed again: what was processed is known
SELECT inbox.seek('stock', 'orders', 1, '400', rerun => true);
SELECT inbox.seek('stock', 'orders', 1, '300', rerun => false);
SELECT * FROM positions WHERE partition = 1;

-- topics that are taken out are forgotten
SELECT inbox.subscribe('stock', ARRAY['^return', 'orders'], 'on_batch', server => 'cluster');
SELECT inbox.seek('stock', 'returns', 0, '5');
SELECT inbox.subscribe('stock', ARRAY['^return'], 'on_batch', server => 'cluster');
SELECT * FROM positions;
SELECT inbox.subscribe('stock', ARRAY['returns'], 'on_batch', server => 'cluster');
SELECT topic FROM positions;

-- another database's subscription, as a restored dump brings it, rests until
-- it is resumed here
SELECT inbox.resume('stock');
UPDATE inbox.subscription SET database_id = database_id + 1, role_id = 1;
SELECT name, state, last_error FROM inbox.stat_subscription;
SELECT inbox.subscribe('stock', ARRAY['returns'], 'on_batch', batch_size => 10, server => 'cluster');
SELECT inbox.resume('stock');
SELECT database_id = outbox.database_id() AS ours, role_id = (SELECT oid FROM pg_roles WHERE rolname = current_user) AS mine
FROM inbox.subscription;
SELECT inbox.pause('stock');

-- unsubscribe: messages stay, or not
CREATE FUNCTION fill() RETURNS void LANGUAGE sql AS $$
    INSERT INTO inbox.message (subscription, event_id, topic, partition, "offset", status)
    VALUES ('stock', 'e1', 'returns', 0, 1, 'processed'), ('other', 'e1', 'returns', 0, 1, 'processed');
    INSERT INTO inbox.received_0 (consumer, event_id, chunk)
    VALUES ('@stock', 'e1', 0), ('@stock/returns', 'e1', 0), ('@stock.1/returns', 'e1', 0), ('@stock0', 'e1', 0), ('stock', 'e1', 0);
$$;
SELECT fill();
SELECT inbox.unsubscribe('stock');
SELECT (SELECT count(*) FROM inbox.subscription) AS subscriptions, (SELECT count(*) FROM inbox.position) AS positions,
       (SELECT count(*) FROM inbox.message) AS messages, (SELECT count(*) FROM inbox.received) AS received;
BEGIN;
SELECT inbox.subscribe('stock', ARRAY['returns'], 'on_batch', server => 'cluster');
SELECT inbox.unsubscribe('stock', keep_messages => false);
COMMIT;
SELECT subscription, event_id FROM inbox.message;
SELECT consumer, event_id FROM inbox.received;

DROP VIEW shown, positions;
DROP FUNCTION fill, on_batch, "Stock"."On order";
DROP SCHEMA "Stock";
DROP EXTENSION outbox CASCADE;
