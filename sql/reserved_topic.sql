-- The topics in which relays keep how far they have come are no event's.
CREATE EXTENSION outbox;

-- by publish(), of this database or another one
SELECT outbox.publish('A', '1', 'T', '{}', topic => 'outbox.progress.7345.5');
SELECT outbox.publish_bytes('A', '1', 'T', '', topic => 'outbox.progress.');

-- a name that Kafka takes for the same is in the way of the right one
SELECT outbox.publish('A', '1', 'T', '{}', topic => 'outbox_progress_7345.5');
SELECT outbox.publish('A', '1', 'T', '{}', topic => 'outbox.progress_7345.5');

-- by rows that come in another way
INSERT INTO outbox.event (event_id, aggregate_type, event_type, topic)
VALUES (gen_random_uuid(), 'A', 'A', 'outbox.progress.7345.5');
COPY outbox.event (event_id, aggregate_type, event_type, topic) FROM stdin;
00000000-0000-0000-0000-000000000001	A	Copied	outbox.progress.7345.5
\.
SELECT outbox.check_event('A', '1', 'A', '{}', NULL, NULL, 'outbox.progress.7345.5', NULL);
SELECT count(*) FROM outbox.event;

-- nor are those that Kafka has for itself
SELECT outbox.publish('A', '1', 'T', '{}', topic => '__transaction_state');
SELECT outbox.publish('A', '1', 'T', '{}', topic => '__consumer_offsets');

-- no aggregate type leads there, and other names are free
SELECT count(outbox.publish(aggregate_type, '1', 'T', '{}', topic => topic))
FROM (VALUES ('progress.7345.5', NULL), ('outbox.progress.7345.5', NULL), ('A', 'outbox.progress'),
             ('A', 'outbox.progress-7345'), ('A', 'OUTBOX.PROGRESS.7345'), ('A', 'my.outbox.progress.7345')) t (aggregate_type, topic);

DROP EXTENSION outbox;
