-- Messages: what is in them, retry() and discard().
SET client_min_messages = warning;
CREATE EXTENSION outbox;
CREATE SERVER cluster FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1');
CREATE FUNCTION on_order(message inbox.message) RETURNS void LANGUAGE sql AS '';

-- the payload as text and as JSON
CREATE FUNCTION with_payload(payload bytea) RETURNS inbox.message LANGUAGE sql AS $$
    SELECT jsonb_populate_record(NULL::inbox.message,
        jsonb_build_object('topic', 'orders', 'partition', 3, 'offset', 42, 'payload', payload))
$$;
SELECT inbox.payload_json(with_payload('{"a": [1, "größe"], "a": 2}'));
SELECT inbox.payload_json(with_payload(' null '));
SELECT inbox.payload_json(with_payload(NULL)) IS NULL AS tombstone;
SELECT inbox.payload_json(NULL) IS NULL AS nothing;
SELECT inbox.payload_text(with_payload('any text, größe'));
SELECT inbox.payload_text(with_payload('')) = '' AS empty;
SELECT inbox.payload_text(with_payload(NULL)) IS NULL AS tombstone;
SELECT inbox.payload_json(with_payload('{"a": '));
SELECT inbox.payload_json(with_payload(''));
SELECT inbox.payload_json(with_payload(convert_to('{"a": "\u0000"}', 'UTF8')));
-- what the context shows of it depends on the release
\set SHOW_CONTEXT never
SELECT inbox.payload_json(with_payload(convert_to('{"a": "\ud83d"}', 'UTF8')));
SELECT inbox.payload_json(with_payload(convert_to('{"a": "\ude00\ud83d"}', 'UTF8')));
SELECT inbox.payload_json(with_payload('{"a": 1E400000}'));
SELECT inbox.payload_json(with_payload(convert_to('{"a": "\u00"}', 'UTF8')));
SELECT inbox.payload_json(with_payload('{"a": NaN}'));
SELECT inbox.payload_json(with_payload('\xefbbbf7b7d'));
\set SHOW_CONTEXT errors
SELECT inbox.payload_json(with_payload('\x7b22ff'));
SELECT inbox.payload_text(with_payload('\x61620063'));
SELECT inbox.payload_text(with_payload('\xc3'));
SELECT inbox.payload_json(jsonb_populate_record(NULL::inbox.message, '{"payload": "\\x00"}'));
SELECT inbox.payload_json(m) FROM (SELECT m FROM inbox.message m) s (m);
-- as part of a handler, whose error is caught
DO $$
BEGIN
    PERFORM inbox.payload_json(with_payload('no JSON'));
EXCEPTION WHEN invalid_text_representation THEN
    RAISE WARNING 'caught: %', sqlerrm;
END $$;

-- retry and discard
BEGIN;
SELECT inbox.subscribe('stock', ARRAY['orders'], 'on_order', server => 'cluster');
SELECT inbox.pause('stock');
COMMIT;
CREATE FUNCTION fill() RETURNS void LANGUAGE sql AS $$
    DELETE FROM inbox.message;
    INSERT INTO inbox.message (subscription, event_id, topic, partition, "offset", status, attempts, error, next_attempt_at)
    VALUES ('stock', 'done', 'orders', 0, 1, 'processed', 0, NULL, NULL),
           ('stock', 'failed1', 'orders', 0, 2, 'failed', 5, 'no such order', NULL),
           ('stock', 'failed2', 'orders', 0, 3, 'failed', 5, 'no such order', NULL),
           ('stock', 'retrying', 'orders', 0, 4, 'pending', 2, 'no such order', 'infinity'),
           ('stock', 'waiting', 'orders', 0, 5, 'pending', 0, NULL, NULL),
           ('other', 'failed1', 'orders', 0, 2, 'failed', 5, 'no such order', NULL);
$$;
CREATE VIEW messages AS
SELECT subscription, event_id, status, attempts, error, next_attempt_at = now() AS now
FROM inbox.message ORDER BY subscription, "offset";
SELECT fill();
SELECT state, failed, retrying, last_error FROM inbox.stat_subscription;
BEGIN;
SELECT inbox.retry('stock', 'failed1');
SELECT * FROM messages;
SELECT inbox.retry('stock', 'retrying');
SELECT inbox.retry('stock', 'done');
SELECT inbox.retry('stock', 'waiting');
SELECT inbox.retry('stock', 'unknown');
SELECT * FROM messages;
ROLLBACK;
BEGIN;
SELECT inbox.retry('stock');
SELECT * FROM messages;
ROLLBACK;
SELECT inbox.discard('stock', 'failed1');
SELECT inbox.discard('stock', 'failed1');
SELECT inbox.discard('stock', 'waiting');
SELECT inbox.discard('stock', 'done');
SELECT * FROM messages;

-- the message that stopped a subscription lets it go on
SELECT fill();
UPDATE inbox.subscription SET paused = false, stopped_by = 'failed1';
SELECT state, failed, last_error FROM inbox.stat_subscription;
BEGIN;
SELECT inbox.retry('stock', 'failed2');
SELECT paused, stopped_by FROM inbox.subscription;
SELECT inbox.retry('stock', 'failed1');
SELECT paused, stopped_by FROM inbox.subscription;
ROLLBACK;
BEGIN;
SELECT inbox.discard('stock', 'failed2');
SELECT paused, stopped_by FROM inbox.subscription;
SELECT inbox.discard('stock', 'failed1');
SELECT paused, stopped_by FROM inbox.subscription;
ROLLBACK;
BEGIN;
SELECT inbox.retry('stock');
SELECT paused, stopped_by FROM inbox.subscription;
ROLLBACK;
-- ids count within topics: all that have one, or that of a topic
SELECT fill();
INSERT INTO inbox.message (subscription, event_id, topic, partition, "offset", status, attempts)
VALUES ('stock', 'failed1', 'returns', 0, 2, 'failed', 1), ('stock', 'waiting', 'returns', 0, 3, 'pending', 0);
CREATE VIEW by_topic AS
SELECT topic, event_id, status, attempts FROM inbox.message WHERE subscription = 'stock' AND status <> 'processed' ORDER BY topic, "offset";
UPDATE inbox.subscription SET stopped_by = 'failed1', stopped_topic = 'returns';
BEGIN;
SELECT inbox.retry('stock', 'failed1', 'unknown');
SELECT inbox.retry('stock', 'failed1', topic => 'orders');
SELECT * FROM by_topic;
SELECT stopped_by, stopped_topic FROM inbox.subscription;
SELECT inbox.retry('stock', 'failed1', topic => 'returns');
SELECT stopped_by, stopped_topic FROM inbox.subscription;
ROLLBACK;
BEGIN;
SELECT inbox.retry('stock', topic => 'orders');
SELECT stopped_by, stopped_topic FROM inbox.subscription;
SELECT inbox.retry('stock', topic => 'returns');
SELECT stopped_by, stopped_topic FROM inbox.subscription;
ROLLBACK;
BEGIN;
SELECT inbox.retry('stock', 'failed1');
SELECT stopped_by, stopped_topic FROM inbox.subscription;
ROLLBACK;
SET client_min_messages = notice;
SELECT inbox.discard('stock', 'failed1', 'orders');
SELECT inbox.discard('stock', 'failed1', 'orders');
SELECT stopped_by, stopped_topic FROM inbox.subscription;
SELECT inbox.discard('stock', 'waiting');
SET client_min_messages = warning;
SELECT * FROM by_topic;
-- of one that was stopped by an earlier release the topic is not known
UPDATE inbox.subscription SET stopped_topic = NULL;
SELECT inbox.discard('stock', 'failed1', 'returns');
SELECT stopped_by, stopped_topic FROM inbox.subscription;
UPDATE inbox.subscription SET stopped_by = 'failed1';

-- the message gets another id when its topic was made anew, and stops it under that
BEGIN;
INSERT INTO inbox.message (subscription, event_id, topic, partition, "offset", status, created_at)
VALUES ('stock', 'orders/1/7', 'orders', 1, 7, 'failed', '2026-01-01 00:00:00+00');
INSERT INTO inbox.position (subscription, topic, partition, lost_from, lost_until, lost_reason)
VALUES ('stock', 'orders', 1, 0, 8, 'replaced');
UPDATE inbox.subscription SET stopped_by = 'orders/1/7', stopped_topic = 'orders';
SELECT inbox.seek('stock', 'orders', 1, 'earliest');
SELECT stopped_by FROM inbox.subscription;
SELECT inbox.discard('stock', 'orders/1/7@1767225600000');
SELECT stopped_by, stopped_topic FROM inbox.subscription;
ROLLBACK;

-- paused and stopped
UPDATE inbox.subscription SET paused = true;
SELECT inbox.resume('stock');
SELECT state FROM inbox.stat_subscription;
SELECT inbox.pause('stock');

-- the operator's questions use the index
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT * FROM inbox.message_0 WHERE subscription = 'stock' AND status = 'failed';
EXPLAIN (COSTS OFF) SELECT * FROM inbox.message_0 WHERE subscription = 'stock' AND status <> 'processed';

DROP VIEW messages;
DROP FUNCTION fill, with_payload, on_order;
DROP EXTENSION outbox CASCADE;
