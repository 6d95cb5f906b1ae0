-- Rows that come into outbox.event by INSERT or COPY: the columns fill
-- themselves, and the same rules hold.
CREATE EXTENSION outbox;

INSERT INTO outbox.event (event_id, aggregate_type, aggregate_id, event_type, payload)
SELECT ('00000000-0000-0000-0000-00000000000' || i)::uuid, 'Order', i::text, 'Row', '{}'
FROM generate_series(1, 3) i;
COPY outbox.event (event_id, aggregate_type, aggregate_id, event_type, payload, content_type, headers, topic) FROM stdin;
00000000-0000-0000-0000-000000000011	Order	1	Copied	{}	application/json	{"a": "b"}	t
00000000-0000-0000-0000-000000000012	Order	\N	Copied	\N	\N	\N	\N
\.
SELECT event_id, aggregate_id, event_type, payload, content_type, headers, topic, created_at <= now() AS created_at,
       xid < pg_current_xact_id() AS xid, chunk
FROM outbox.event ORDER BY id;
SELECT count(DISTINCT id) FROM outbox.event;

-- what publish() refuses
INSERT INTO outbox.event (event_id, aggregate_type, event_type) VALUES (gen_random_uuid(), '', 'A');
INSERT INTO outbox.event (event_id, aggregate_type, event_type) VALUES (gen_random_uuid(), 'a b', 'A');
INSERT INTO outbox.event (event_id, aggregate_type, event_type) VALUES (gen_random_uuid(), 'A', '');
INSERT INTO outbox.event (event_id, aggregate_type, event_type, topic) VALUES (gen_random_uuid(), 'A', 'A', '..');
INSERT INTO outbox.event (event_id, aggregate_type, event_type, headers) VALUES (gen_random_uuid(), 'A', 'A', '[]');
INSERT INTO outbox.event (event_id, aggregate_type, event_type, content_type) VALUES (gen_random_uuid(), 'A', 'A', E'\t');
\set VERBOSITY terse
INSERT INTO outbox.event (event_id, aggregate_type, event_type) VALUES (gen_random_uuid(), NULL, 'A');
INSERT INTO outbox.event (event_id, aggregate_type, event_type) VALUES (gen_random_uuid(), 'A', NULL);
INSERT INTO outbox.event (event_id, aggregate_type, event_type) VALUES (NULL, 'A', 'A');
INSERT INTO outbox.event (event_id, aggregate_type, event_type)
VALUES ('00000000-0000-0000-0000-000000000001', 'A', 'A');
\set VERBOSITY default
SET session_replication_role = replica;
UPDATE outbox.event SET headers = '{"id": "x"}';
RESET session_replication_role;
COPY outbox.event (event_id, aggregate_type, event_type) FROM stdin;
00000000-0000-0000-0000-000000000013	Order	Copied
00000000-0000-0000-0000-000000000014	Or/der	Copied
\.
SELECT count(*) FROM outbox.event;

-- the limit on the size is publish()'s alone: a dump loads whatever the settings
SET outbox.max_event_size = '1kB';
INSERT INTO outbox.event (event_id, aggregate_type, event_type, payload)
VALUES (gen_random_uuid(), 'Order', 'Large', convert_to(repeat('x', 2000), 'UTF8'));
RESET outbox.max_event_size;

-- the rules by themselves
SELECT outbox.check_event('Order', '1', 'A', '{}', 'text/plain', '{"a": 1}', 'topic', 'key');
SELECT outbox.check_event('Order', NULL, 'A', NULL, NULL, NULL, NULL, NULL);
SELECT outbox.check_event(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
SELECT outbox.check_event('Order', NULL, NULL, NULL, NULL, NULL, NULL, NULL);

DROP EXTENSION outbox;
