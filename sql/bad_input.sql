-- Whatever is wrong with an event, publishing it fails with an error that says
-- so, and stores nothing.
\pset format unaligned
\pset null (none)
CREATE EXTENSION outbox;

-- Calls that have to fail.
CREATE TABLE bad (n serial, call text, refused_by text DEFAULT 'outbox');

-- what every event needs
INSERT INTO bad (call) VALUES
    ($$publish(NULL, '1', 'T', '{}')$$),
    ($$publish('', '1', 'T', '{}')$$),
    ($$publish('A', '1', NULL, '{}')$$),
    ($$publish('A', '1', '', '{}')$$),
    ($$publish(NULL, NULL, NULL, NULL)$$),
    ($$publish('', '', '', 'null')$$),
    ($$publish(NULL, '1', 'T', '{}', topic => 'topic')$$),
    ($$publish('', '1', 'T', '{}', topic => 'topic')$$),
    ($$publish_bytes(NULL, '1', 'T', '')$$),
    ($$publish_bytes('', '1', 'T', '')$$),
    ($$publish_bytes('A', '1', NULL, '')$$),
    ($$publish_bytes('A', '1', '', '')$$),
    ($$publish_bytes(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)$$);

-- names of topics: every ASCII character that is not allowed
INSERT INTO bad (call)
SELECT format(call, i)
FROM generate_series(1, 127) i,
     (VALUES ($$publish(chr(%s), '1', 'T', '{}')$$),
             ($$publish_bytes('A', '1', 'T', '', topic => 'to' || chr(%s) || 'pic')$$)) c (call)
WHERE chr(i) !~ '[a-zA-Z0-9._-]' ORDER BY call, i;

-- names of topics: other characters, lengths, and what means a directory
INSERT INTO bad (call) VALUES
    ($$publish('Größe', '1', 'T', '{}')$$),
    ($$publish('заказ', '1', 'T', '{}')$$),
    ($$publish('注文', '1', 'T', '{}')$$),
    ($$publish('order😀', '1', 'T', '{}')$$),
    ($$publish(E'order\u00a0', '1', 'T', '{}')$$),
    ($$publish(E'order\u200b', '1', 'T', '{}')$$),
    ($$publish(E'\u202eredro', '1', 'T', '{}')$$),
    ($$publish(E'Order\n', '1', 'T', '{}')$$),
    ($$publish('Order''; DROP TABLE outbox.event; --', '1', 'T', '{}')$$),
    ($$publish('../../etc/passwd', '1', 'T', '{}')$$),
    ($$publish('%s%n', '1', 'T', '{}')$$),
    ($$publish(repeat('ü', 200), '1', 'T', '{}')$$),
    ($$publish(repeat('a', 63) || 'ü', '1', 'T', '{}')$$),
    ($$publish(repeat('a', 237), '1', 'T', '{}')$$),
    ($$publish(repeat('a', 249), '1', 'T', '{}', topic => 'topic')$$),
    ($$publish(repeat('a', 100000), '1', 'T', '{}')$$),
    ($$publish('a b', '1', 'T', '{}', topic => 'topic')$$),
    ($$publish('A', '1', 'T', '{}', topic => '')$$),
    ($$publish('A', '1', 'T', '{}', topic => '.')$$),
    ($$publish('A', '1', 'T', '{}', topic => '..')$$),
    ($$publish('A', '1', 'T', '{}', topic => repeat('t', 250))$$),
    ($$publish('A', '1', 'T', '{}', topic => repeat('t', 100000))$$),
    ($$publish('A', '1', 'T', '{}', topic => 'größe')$$),
    ($$publish('A', '1', 'T', '{}', topic => 'a,b')$$),
    ($$publish_bytes('A', '1', 'T', '', topic => '')$$),
    ($$publish_bytes('A', '1', 'T', '', topic => '..')$$);

-- headers
INSERT INTO bad (call) VALUES
    ($$publish('A', '1', 'T', '{}', 'null')$$),
    ($$publish('A', '1', 'T', '{}', '"text"')$$),
    ($$publish('A', '1', 'T', '{}', '""')$$),
    ($$publish('A', '1', 'T', '{}', '1')$$),
    ($$publish('A', '1', 'T', '{}', '-1.5e10')$$),
    ($$publish('A', '1', 'T', '{}', 'true')$$),
    ($$publish('A', '1', 'T', '{}', 'false')$$),
    ($$publish('A', '1', 'T', '{}', '[]')$$),
    ($$publish('A', '1', 'T', '{}', '[null]')$$),
    ($$publish('A', '1', 'T', '{}', '[1, 2]')$$),
    ($$publish('A', '1', 'T', '{}', '[{"a": "b"}]')$$),
    ($$publish('A', '1', 'T', '{}', '{"a": []}')$$),
    ($$publish('A', '1', 'T', '{}', '{"a": {}}')$$),
    ($$publish('A', '1', 'T', '{}', '{"a": [1]}')$$),
    ($$publish('A', '1', 'T', '{}', '{"a": [[]]}')$$),
    ($$publish('A', '1', 'T', '{}', '{"a": {"b": "c"}}')$$),
    ($$publish('A', '1', 'T', '{}', '{"a": "b", "c": {"d": "e"}, "f": "g"}')$$),
    ($$publish('A', '1', 'T', '{}', '{"a\n\"b": []}')$$),
    ($$publish('A', '1', 'T', '{}', jsonb_build_object(repeat('n', 1000), ARRAY[1]))$$),
    ($$publish('A', '1', 'T', '{}', '{"": "b"}')$$),
    ($$publish('A', '1', 'T', '{}', '{"": null, "a": "b"}')$$),
    ($$publish('A', '1', 'T', '{}', '{"": {}}')$$),
    ($$publish('A', '1', 'T', '{}', '{"id": "b"}')$$),
    ($$publish('A', '1', 'T', '{}', '{"id": null}')$$),
    ($$publish('A', '1', 'T', '{}', '{"type": "b"}')$$),
    ($$publish('A', '1', 'T', '{}', '{"aggregate_type": "b"}')$$),
    ($$publish('A', '1', 'T', '{}', '{"replay": true}')$$),
    ($$publish('A', '1', 'T', '{}', '{"a": "b", "type": "c", "z": 1}')$$),
    ($$publish_bytes('A', '1', 'T', '', headers => '[]')$$),
    ($$publish_bytes('A', '1', 'T', '', headers => '"a=b"')$$),
    ($$publish_bytes('A', '1', 'T', '', headers => '{"a": [1]}')$$),
    ($$publish_bytes('A', '1', 'T', '', headers => '{"": "b"}')$$),
    ($$publish_bytes('A', '1', 'T', '', headers => '{"id": "b"}')$$);

-- content types: control characters and lengths
INSERT INTO bad (call)
SELECT format($$publish_bytes('A', '1', 'T', '', 'text/plain' || chr(%s))$$, i)
FROM generate_series(1, 127) i WHERE i < 32 OR i = 127 ORDER BY i;
INSERT INTO bad (call) VALUES
    ($$publish_bytes('A', '1', 'T', '', '')$$),
    ($$publish_bytes('A', '1', 'T', '', repeat('x', 256))$$),
    ($$publish_bytes('A', '1', 'T', '', repeat('ü', 128))$$),
    ($$publish_bytes('A', '1', 'T', '', repeat('x', 100000))$$);

-- what this release does not do
INSERT INTO bad (call) VALUES
    ($$publish('A', '1', 'T', '{}', deliver_at => now())$$),
    ($$publish('A', '1', 'T', '{}', deliver_at => '2000-01-01')$$),
    ($$publish('A', '1', 'T', '{}', deliver_at => 'infinity')$$),
    ($$publish('A', '1', 'T', '{}', deliver_at => '-infinity')$$),
    ($$publish('A', '1', 'T', '{}', idempotency_key => '')$$),
    ($$publish('A', '1', 'T', '{}', idempotency_key => 'key')$$),
    ($$publish_bytes('A', '1', 'T', '', deliver_at => now())$$),
    ($$publish_bytes('A', '1', 'T', '', idempotency_key => 'key')$$);

-- too large
INSERT INTO bad (call) VALUES
    ($$publish('A', '1', 'T', to_jsonb(repeat('x', 1000000)))$$),
    ($$publish('A', '1', 'T', to_jsonb(repeat('"', 500000)))$$),
    ($$publish('A', repeat('k', 1000000), 'T', '{}')$$),
    ($$publish('A', '1', 'T', '{}', partition_key => repeat('k', 1000000))$$),
    ($$publish('A', '1', repeat('t', 1000000), '{}')$$),
    ($$publish('A', '1', 'T', '{}', jsonb_build_object('h', repeat('v', 1000000)))$$),
    ($$publish('A', '1', 'T', '{}', jsonb_build_object(repeat('h', 1000000), NULL))$$),
    ($$publish('A', '1', 'T', '{}', (SELECT jsonb_object_agg(i, '1e100000'::numeric) FROM generate_series(1, 10) i))$$),
    ($$publish('A', '1', 'T', '{}', (SELECT jsonb_object_agg(i, repeat('v', 100)) FROM generate_series(1, 10000) i))$$),
    ($$publish_bytes('A', '1', 'T', convert_to(repeat('x', 1000000), 'UTF8'))$$),
    ($$publish_bytes('A', '1', 'T', convert_to(repeat('x', 20000000), 'UTF8'))$$),
    ($$publish_bytes('A', repeat('k', 500000), 'T', convert_to(repeat('x', 500000), 'UTF8'))$$);

-- values that PostgreSQL itself refuses
ALTER TABLE bad ALTER refused_by SET DEFAULT 'PostgreSQL';
INSERT INTO bad (call) VALUES
    ($$publish('A', '1', 'T', '')$$),
    ($$publish('A', '1', 'T', '{')$$),
    ($$publish('A', '1', 'T', '{a: 1}')$$),
    ($$publish('A', '1', 'T', '{"a": NaN}')$$),
    ($$publish('A', '1', 'T', '{"a": "\u0000"}')$$),
    ($$publish('A', '1', 'T', '{"a": "\ud800"}')$$),
    ($$publish('A', '1', 'T', repeat('[', 100000)::jsonb)$$),
    ($$publish('A', '1', 'T', '{}', '')$$),
    ($$publish('A', '1', 'T', '{}', 'a=b')$$),
    ($$publish('A', '1', 'T', '{}', event_id => '')$$),
    ($$publish('A', '1', 'T', '{}', event_id => '42')$$),
    ($$publish('A', '1', 'T', '{}', event_id => '00000000-0000-0000-0000-00000000000g')$$),
    ($$publish('A', '1', 'T', '{}', deliver_at => 'soon')$$),
    ($$publish('A' || chr(0), '1', 'T', '{}')$$),
    ($$publish(convert_from('\xff', 'UTF8'), '1', 'T', '{}')$$),
    ($$publish('A', convert_from('\xc3', 'UTF8'), 'T', '{}')$$),
    ($$publish_bytes('A', '1', 'T', '\x0')$$),
    ($$publish_bytes('A', '1', 'T', '\xgg')$$),
    ($$publish_bytes('A', '1', 'T', 'a\b')$$);

-- calls that fit no function
INSERT INTO bad (call) VALUES
    ($$publish()$$),
    ($$publish('A')$$),
    ($$publish('A', '1', 'T')$$),
    ($$publish('A', 1, 'T', '{}')$$),
    ($$publish('A', '1', 'T', '{}'::text)$$),
    ($$publish('A', '1', 'T', '{}'::json)$$),
    ($$publish('A', '1', 'T', '{}'::bytea)$$),
    ($$publish('A', '1', 'T', '{}', key => 'k')$$),
    ($$publish('A', '1', 'T', '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL)$$),
    ($$publish_bytes('A', '1', 'T')$$),
    ($$publish_bytes('A', '1', 'T', '{}'::jsonb)$$),
    ($$publish(ROW('A', '1', 'T', '{}'))$$),
    ($$check_event()$$);

-- the check by itself
ALTER TABLE bad ALTER refused_by SET DEFAULT 'outbox';
INSERT INTO bad (call) VALUES
    ($$check_event(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)$$),
    ($$check_event('', '1', 'T', NULL, NULL, NULL, NULL, NULL)$$),
    ($$check_event('A', '1', NULL, NULL, NULL, NULL, NULL, NULL)$$),
    ($$check_event('A', '1', '', NULL, NULL, NULL, NULL, NULL)$$),
    ($$check_event('A', '1', 'T', NULL, '', NULL, NULL, NULL)$$),
    ($$check_event('A', '1', 'T', NULL, NULL, '[]', NULL, NULL)$$),
    ($$check_event('A', '1', 'T', NULL, NULL, NULL, 'a b', NULL)$$);

-- rows
INSERT INTO bad (call)
SELECT format('INSERT INTO outbox.event (event_id, aggregate_type, event_type, %s) VALUES (gen_random_uuid(), %s)', name, vals)
FROM (VALUES
    ('topic', $$'', 'T', NULL$$),
    ('topic', $$'a/b', 'T', NULL$$),
    ('topic', $$repeat('a', 237), 'T', NULL$$),
    ('topic', $$'A', '', NULL$$),
    ('topic', $$'A', 'T', '.'$$),
    ('headers', $$'A', 'T', '{"a": {}}'$$),
    ('headers', $$'A', 'T', '{"id": 1}'$$),
    ('content_type', $$'A', 'T', chr(10)$$)
) r (name, vals);

-- Tries them all.
CREATE TABLE outcome (n int, state text, message text, detail text, hint text);
DO $$
DECLARE
    bad record;
    outcome outcome;
BEGIN
    FOR bad IN SELECT * FROM bad ORDER BY n LOOP
        BEGIN
            EXECUTE CASE WHEN bad.call LIKE 'INSERT%' THEN bad.call ELSE 'SELECT outbox.' || bad.call END;
            outcome = (bad.n, 'accepted', NULL, NULL, NULL);
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS outcome.state = RETURNED_SQLSTATE, outcome.message = MESSAGE_TEXT,
                outcome.detail = PG_EXCEPTION_DETAIL, outcome.hint = PG_EXCEPTION_HINT;
            outcome.n = bad.n;
        END;
        INSERT INTO outcome SELECT outcome.*;
    END LOOP;
END $$;

SELECT call, state, message, detail FROM bad JOIN outcome USING (n) WHERE refused_by = 'outbox' ORDER BY n;
SELECT DISTINCT state, hint FROM bad JOIN outcome USING (n) WHERE refused_by = 'outbox' ORDER BY 1, 2;
-- the words of these differ between releases of PostgreSQL
SELECT call, state FROM bad JOIN outcome USING (n) WHERE refused_by = 'PostgreSQL' ORDER BY n;

-- all in all
SELECT count(*) >= 200 AS enough,
       count(*) FILTER (WHERE state = 'accepted') AS accepted,
       count(*) FILTER (WHERE state LIKE 'XX%') AS internal,
       count(*) FILTER (WHERE refused_by = 'outbox' AND
           (message !~ '^[a-z].*[^.]$' OR length(message) > 200 OR detail !~ '^[A-Z].*\.$' OR hint !~ '^[A-Z].*\.$')) AS badly_put
FROM bad JOIN outcome USING (n);
SELECT count(*) AS stored FROM outbox.event;

DROP TABLE bad, outcome;
DROP EXTENSION outbox;
