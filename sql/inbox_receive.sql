-- inbox.receive(): true the first time, false afterwards.
CREATE EXTENSION outbox;

SELECT inbox.receive('shop', 'e1');
SELECT inbox.receive('shop', 'e1');
SELECT inbox.receive('bank', 'e1');
SELECT inbox.receive(consumer => 'shop', event_id => 'E1');

-- it is part of the transaction
BEGIN;
SELECT inbox.receive('shop', 'e2');
SELECT inbox.receive('shop', 'e2');
ROLLBACK;
SELECT inbox.receive('shop', 'e2');
BEGIN;
SAVEPOINT s;
SELECT inbox.receive('shop', 'e3');
ROLLBACK TO s;
SELECT inbox.receive('shop', 'e3');
COMMIT;
SELECT inbox.receive('shop', 'e3');

-- twice in one statement
SELECT inbox.receive('shop', id) FROM (VALUES ('e4'), ('e5'), ('e4')) v (id);

-- the same id with another content
SELECT inbox.receive('shop', 'e6', sha256('one'));
SELECT inbox.receive('shop', 'e6', sha256('one'));
SELECT inbox.receive('shop', 'e6', sha256('two'));
SELECT inbox.receive('shop', 'e6');
SELECT inbox.receive('bank', 'e6', sha256('two'));
-- came without a hash: nothing to compare with
SELECT inbox.receive('shop', 'e1', sha256('two'));

-- found in every chunk
SELECT setval('inbox.received_chunk_seq', 1);
SELECT inbox.receive('shop', 'f1'), inbox.receive('shop', 'e1');
SELECT setval('inbox.received_chunk_seq', 2);
SELECT inbox.receive('shop', 'f2'), inbox.receive('shop', 'f1'), inbox.receive('shop', 'e1');
SELECT setval('inbox.received_chunk_seq', 3);
SELECT inbox.receive('shop', 'f2'), inbox.receive('shop', 'f1'), inbox.receive('shop', 'e1');
SELECT inbox.receive('shop', 'e6', sha256('two'));
-- and gone with its chunk
TRUNCATE inbox.received_0;
SELECT inbox.receive('shop', 'e1'), inbox.receive('shop', 'f1');
SELECT tableoid::regclass, consumer, event_id FROM inbox.received ORDER BY 1, 2, 3;

-- what it refuses
SELECT inbox.receive(NULL, 'e1');
SELECT inbox.receive('shop', NULL);
SELECT inbox.receive('', 'e1');
SELECT inbox.receive('shop', '');
SELECT inbox.receive('@shop', 'e1');
SELECT inbox.receive(repeat('s', 256), 'e1');
SELECT inbox.receive('shop', repeat('e', 2001));
SELECT inbox.receive('shop', 'e1', '');
SELECT inbox.receive('shop', 'e1', convert_to(repeat('p', 1025), 'UTF8'));
BEGIN READ ONLY;
SELECT inbox.receive('shop', 'e1');
ROLLBACK;
SELECT setval('inbox.received_chunk_seq', 1);
-- the longest
SELECT inbox.receive(repeat('s', 255), string_agg(md5(i::text), '')) FROM generate_series(1, 62) i;

-- who may: those who are told so, and they need no rights on tables
CREATE ROLE outbox_test_receiver;
SET ROLE outbox_test_receiver;
SELECT inbox.receive('shop', 'g1');
RESET ROLE;
GRANT USAGE ON SCHEMA inbox TO outbox_test_receiver;
SET ROLE outbox_test_receiver;
SELECT inbox.receive('shop', 'g1');
RESET ROLE;
GRANT EXECUTE ON FUNCTION inbox.receive TO outbox_test_receiver;
SET ROLE outbox_test_receiver;
SELECT inbox.receive('shop', 'g1');
SELECT * FROM inbox.received;
RESET ROLE;
DROP OWNED BY outbox_test_receiver;
DROP ROLE outbox_test_receiver;

-- many, and again
SELECT count(*) FILTER (WHERE inbox.receive('many', i::text)) FROM generate_series(1, 5000) i;
SELECT count(*) FILTER (WHERE inbox.receive('many', i::text)) FROM generate_series(1, 5001) i;

SHOW inbox.dedupe_window;
DROP EXTENSION outbox;
