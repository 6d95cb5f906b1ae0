-- inbox.expire(): old rows leave in whole chunks.
SET client_min_messages = warning;
-- all in a transaction, so that consumers see nothing of it and do not call
-- inbox.expire() themselves
BEGIN;
CREATE EXTENSION outbox;
CREATE SERVER cluster FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1');
CREATE FUNCTION on_order(message inbox.message) RETURNS void LANGUAGE sql AS '';
CREATE VIEW chunks AS
SELECT (SELECT last_value FROM inbox.received_chunk_seq) AS current_received,
       (SELECT string_agg(chunk || ':' || event_id, ', ' ORDER BY chunk, event_id) FROM inbox.received) AS received,
       (SELECT last_value FROM inbox.message_chunk_seq) AS current_message,
       (SELECT string_agg(chunk || ':' || event_id, ', ' ORDER BY chunk, event_id) FROM inbox.message) AS messages;
-- as if so much time had gone by; then as many calls as there is something to do
-- for, since one does one step; was there anything?
CREATE FUNCTION later(so_much interval) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    done boolean := false;
BEGIN
    UPDATE inbox.ring SET ended_at = ended_at - so_much;
    WHILE inbox.expire() LOOP
        done := true;
    END LOOP;
    RETURN done;
END $$;
CREATE FUNCTION store(event_id text, status text DEFAULT 'processed', subscription text DEFAULT 'stock') RETURNS void
LANGUAGE sql AS $$
    INSERT INTO inbox.message (subscription, event_id, topic, partition, "offset", status)
    VALUES (subscription, event_id, 'orders', 0, 1, status)
$$;

-- nothing is stored: the ring stays where it is
SELECT inbox.expire();
SELECT later('1 year');
SELECT * FROM chunks;

-- seven days are the window: a chunk takes a third of it
TRUNCATE inbox.ring;
SELECT inbox.expire();
SELECT inbox.receive('shop', 'day 0');
SELECT later('55 hours');
SELECT inbox.receive('shop', 'day 2, 7 h');
SELECT current_received, received FROM chunks;
SELECT later('2 hours');
SELECT inbox.receive('shop', 'day 2, 9 h');
SELECT current_received, received FROM chunks;
SELECT later('57 hours');
SELECT inbox.receive('shop', 'day 4, 18 h');
SELECT later('57 hours');
SELECT inbox.receive('shop', 'day 7, 3 h');
SELECT current_received, received FROM chunks;
-- the first chunk leaves when its last entry is seven days old
SELECT later('53 hours');
SELECT inbox.receive('shop', 'day 0'), inbox.receive('shop', 'day 2, 7 h');
SELECT later('2 hours');
SELECT current_received, received FROM chunks;
SELECT inbox.receive('shop', 'day 2, 7 h'), inbox.receive('shop', 'day 2, 9 h');
-- and the ring moves on, to where it began
SELECT later('2 hours');
SELECT inbox.receive('shop', 'day 9, 12 h');
SELECT current_received, received FROM chunks;
-- nothing comes for long
SELECT later('1 year'), later('1 year'), later('1 year');
SELECT current_received, received FROM chunks;

-- messages stay for the longest time that a subscription wants
SELECT inbox.subscribe('stock', ARRAY['orders'], 'on_order', keep => '30 days', server => 'cluster');
SELECT inbox.subscribe('brief', ARRAY['orders'], 'on_order', keep => '0', server => 'cluster');
TRUNCATE inbox.ring;
SELECT inbox.expire();
SELECT store('day 0'), store('failed', 'failed'), store('pending', 'pending'), store('nobody''s', 'failed', 'gone');
SELECT later('9 days');
SELECT store('day 9');
SELECT later('2 days');
SELECT store('day 11');
SELECT later('11 days');
SELECT store('day 22');
SELECT current_message, messages FROM chunks;
SELECT later('11 days');
SELECT store('day 33');
SELECT current_message, messages FROM chunks;
-- those that are not processed stay, except when their subscription has gone
SELECT later('9 days');
SELECT current_message, messages FROM chunks;
SELECT later('9 days');
SELECT current_message, messages FROM chunks;
SELECT inbox.retry('stock', 'failed'), inbox.discard('stock', 'pending');
-- a shorter time
SELECT inbox.subscribe('stock', ARRAY['orders'], 'on_order', keep => '1 hour', server => 'cluster');
SELECT later('21 minutes'), later('21 minutes'), later('21 minutes');
SELECT current_message, messages FROM chunks;

-- where nothing is known of the ring, nothing leaves too early
TRUNCATE inbox.ring;
SELECT inbox.expire();
SELECT name, count(*), bool_and(ended_at > now() - interval '1 hour') AS now FROM inbox.ring GROUP BY name ORDER BY name;

-- nor when the clock was set back since; but they do not stay until it has caught up
UPDATE inbox.ring SET ended_at = now() + interval '10 years';
SELECT inbox.expire();
SELECT name, count(*), bool_and(ended_at BETWEEN now() AND clock_timestamp()) AS now FROM inbox.ring GROUP BY name ORDER BY name;

-- what one subscription keeps for long does not keep what others do not
SELECT inbox.subscribe('stock', ARRAY['orders'], 'on_order', keep => '30 days', server => 'cluster');
SELECT inbox.subscribe('brief', ARRAY['orders'], 'on_order', keep => '1 hour', server => 'cluster');
DELETE FROM inbox.message;
SELECT store('long'), store('short', 'processed', 'brief'), store('failed', 'failed', 'brief');
UPDATE inbox.message SET received_at = now() - interval '2 hours';
SELECT store('new', 'processed', 'brief');
SELECT inbox.expire();
SELECT string_agg(event_id, ', ' ORDER BY event_id) FROM inbox.message;
UPDATE inbox.sweep SET began_at = began_at - interval '21 minutes';
DO $$ BEGIN WHILE inbox.expire() LOOP NULL; END LOOP; END $$;
SELECT string_agg(event_id, ', ' ORDER BY event_id) FROM inbox.message;

-- a step moves or deletes something, though time flies on a busy machine
CREATE SEQUENCE ticks;
CREATE FUNCTION fast_clock() RETURNS timestamptz LANGUAGE sql AS $$
    SELECT clock_timestamp() + nextval('public.ticks') * interval '30 ms'
$$;
DO $$
DECLARE
    step regproc;
BEGIN
    FOREACH step IN ARRAY '{inbox.move_unprocessed,inbox.sweep_messages}'::regproc[] LOOP
        EXECUTE replace(pg_get_functiondef(step), 'clock_timestamp()', 'public.fast_clock()');
    END LOOP;
END $$;
DELETE FROM inbox.message;
SELECT (last_value + 3) % 4 AS old_chunk FROM inbox.message_chunk_seq \gset
INSERT INTO inbox.message (subscription, event_id, topic, partition, "offset", status, chunk)
SELECT 'stock', 'failed ' || i, 'orders', 0, i, 'failed', :old_chunk FROM generate_series(1, 3) i;
SELECT store('short', 'processed', 'brief');
UPDATE inbox.message SET received_at = now() - interval '2 hours';
UPDATE inbox.ring SET ended_at = ended_at - interval '31 days';
UPDATE inbox.sweep SET began_at = began_at - interval '21 minutes';
DO $$ BEGIN FOR i IN 1 .. 100 LOOP PERFORM inbox.expire(); END LOOP; END $$;
SELECT event_id, chunk = :old_chunk AS left_behind FROM inbox.message ORDER BY event_id;

ROLLBACK;
