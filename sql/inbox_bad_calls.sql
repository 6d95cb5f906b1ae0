-- What the functions of the inbox refuse, and how.  None of the calls leaves
-- anything behind.
SET client_min_messages = warning;
CREATE EXTENSION outbox;
CREATE FOREIGN DATA WRAPPER other;
CREATE SERVER other FOREIGN DATA WRAPPER other;
CREATE SERVER cluster FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1');
CREATE SERVER closed FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" '127.0.0.1:1');
CREATE FUNCTION good(message inbox.message) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION both_kinds(message inbox.message) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION both_kinds(messages inbox.message[]) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION no_message(payload jsonb) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION no_message(payload text, number integer) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION two_arguments(message inbox.message, number integer DEFAULT 1) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION returns_text(message inbox.message) RETURNS text LANGUAGE sql AS 'SELECT ''x''';
CREATE FUNCTION returns_set(message inbox.message) RETURNS SETOF integer LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION returns_out(message inbox.message, OUT number integer) LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION variadic_one(VARIADIC messages inbox.message[]) RETURNS void LANGUAGE sql AS '';
CREATE PROCEDURE a_procedure(message inbox.message) LANGUAGE sql AS '';
CREATE FUNCTION step(state integer, message inbox.message) RETURNS integer LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE an_aggregate(inbox.message) (SFUNC = step, STYPE = integer);
CREATE FUNCTION pg_temp.temporary(message inbox.message) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION any_element(element anyelement) RETURNS void LANGUAGE sql AS '';

-- names
SELECT inbox.subscribe(NULL, ARRAY['t'], 'good', server => 'cluster');
SELECT inbox.subscribe('', ARRAY['t'], 'good', server => 'cluster');
SELECT inbox.subscribe('two words', ARRAY['t'], 'good', server => 'cluster');
SELECT inbox.subscribe('größe', ARRAY['t'], 'good', server => 'cluster');
SELECT inbox.subscribe(repeat('n', 64), ARRAY['t'], 'good', server => 'cluster');

-- topics
SELECT inbox.subscribe('s', NULL, 'good', server => 'cluster');
SELECT inbox.subscribe('s', '{}', 'good', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t', NULL], 'good', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t', 't'], 'good', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY(SELECT 't' || i FROM generate_series(1, 150000) i), 'good', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', filter_event_types => ARRAY(SELECT 't' || i FROM generate_series(1, 10001) i), server => 'cluster');
SELECT inbox.subscribe('s', ARRAY[ARRAY['t'], ARRAY['u']], 'good', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t', ''], 'good', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['a topic'], 'good', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['..'], 'good', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY[repeat('t', 250)], 'good', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['^orders[.'], 'good', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['^*'], 'good', server => 'cluster');

-- handlers
SELECT inbox.subscribe('s', ARRAY['t'], NULL, server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], '', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'nowhere', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'nowhere.good', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'a.b.c.d', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'a.b.good', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'good; DROP TABLE t', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'good(inbox.message)', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'GOOD"', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'no_message', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'any_element', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'two_arguments', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'both_kinds', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'returns_text', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'returns_set', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'returns_out', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'variadic_one', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'a_procedure', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'an_aggregate', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'pg_temp.temporary', server => 'cluster');

-- values out of range
SELECT inbox.subscribe('s', ARRAY['t'], 'good', start => 'yesteryear', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', start => 'Earliest', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', start => 'infinity', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', start => '1969-12-31 00:00:00+00', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', start => NULL, server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', max_attempts => 0, server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', max_attempts => 1001, server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', max_attempts => NULL, server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', retry_backoff => '-1 s', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', retry_backoff => '1 month', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', ordering => 'total', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', ordering => 'Key', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', on_failure => 'ignore', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', batch_size => 0, server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', batch_size => 100001, server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', workers => 0, server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', workers => 65, server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', filter_event_types => '{}', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', filter_event_types => ARRAY['A', ''], server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', filter_event_types => ARRAY['A', NULL], server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', isolation => 'read uncommitted', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', keep => '-1 day', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', keep => '100 years', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', handler_timeout => '0', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', handler_timeout => '2 days', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', batch_time => '0', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', group_id => '', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', group_id => E'a\tb', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', group_id => repeat('g', 256), server => 'cluster');

-- what identifies messages
SELECT inbox.subscribe('s', ARRAY['t'], 'good', server => 'cluster', dedupe => 'id');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', server => 'cluster', dedupe => NULL);
SELECT inbox.subscribe('s', ARRAY['t'], 'good', server => 'cluster', dedupe => 'field');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', server => 'cluster', dedupe => 'offset', id_field => 'id');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', server => 'cluster', id_header => '');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', server => 'cluster', type_header => '');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', server => 'cluster', id_field => '');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', server => 'cluster', id_field => '.id');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', server => 'cluster', type_field => 'meta.');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', server => 'cluster', aggregate_id_field => 'a..b');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', server => 'cluster', dedupe_scope => 'partition');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', server => 'cluster', dedupe_scope => NULL);
SELECT inbox.subscribe('s', ARRAY['t'], 'good', server => 'cluster', on_conflict => 'fail');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', server => 'cluster', on_conflict => NULL);

-- servers
SELECT inbox.subscribe('s', ARRAY['t'], 'good');
SELECT inbox.subscribe('s', ARRAY['t'], 'good', server => NULL);
SELECT inbox.subscribe('s', ARRAY['t'], 'good', server => 'other');

-- rights
CREATE ROLE regress_inbox_bad;
GRANT USAGE ON SCHEMA inbox TO regress_inbox_bad;
CREATE SCHEMA private;
CREATE FUNCTION private.good(message inbox.message) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION forbidden(message inbox.message) RETURNS void LANGUAGE sql AS '';
REVOKE EXECUTE ON FUNCTION forbidden FROM PUBLIC;
SET ROLE regress_inbox_bad;
SELECT inbox.subscribe('s', ARRAY['t'], 'good', server => 'cluster');
RESET ROLE;
GRANT EXECUTE ON FUNCTION inbox.subscribe TO regress_inbox_bad;
SET ROLE regress_inbox_bad;
SELECT inbox.subscribe('s', ARRAY['t'], 'good', server => 'closed');
SELECT inbox.subscribe('s', ARRAY['t'], 'private.good', server => 'cluster');
SELECT inbox.subscribe('s', ARRAY['t'], 'forbidden', server => 'cluster');
RESET ROLE;

-- in a transaction that cannot write
BEGIN READ ONLY;
SELECT inbox.subscribe('s', ARRAY['t'], 'good', server => 'cluster');
ROLLBACK;

-- nothing is left
SELECT count(*) FROM inbox.subscription;

-- subscriptions that do not exist
SELECT inbox.unsubscribe('s');
SELECT inbox.pause('s');
SELECT inbox.resume('s');
SELECT inbox.seek('s', 't', 0, '0');
SELECT inbox.retry('s');
SELECT inbox.retry('s', 'e1');
SELECT inbox.discard('s', 'e1');
SELECT inbox.unsubscribe(NULL);
SELECT inbox.pause(NULL);
SELECT inbox.resume(NULL);
SELECT inbox.retry(NULL);

-- and one that does
BEGIN;
SELECT inbox.subscribe('s', ARRAY['t', '^orders\.'], 'good', server => 'cluster');
SELECT inbox.pause('s');
COMMIT;
SELECT inbox.subscribe('s', ARRAY['t'], 'both_kinds', server => 'cluster');
SELECT inbox.unsubscribe('s', NULL);
SELECT inbox.seek('s', NULL, 0, '0');
SELECT inbox.seek('s', 'u', 0, '0');
SELECT inbox.seek('s', 'xorders.1', 0, '0');
SELECT inbox.seek('s', 't', NULL, '0');
SELECT inbox.seek('s', 't', -1, '0');
SELECT inbox.seek('s', 't', 0, NULL::text);
SELECT inbox.seek('s', 't', 0, '');
SELECT inbox.seek('s', 't', 0, '-1');
SELECT inbox.seek('s', 't', 0, -1);
SELECT inbox.seek('s', 't', 0, '9223372036854775808');
SELECT inbox.seek('s', 't', 0, 'the end');
SELECT inbox.seek('s', 't', 0, '0', rerun => NULL);
SELECT inbox.discard('s', NULL);
UPDATE inbox.subscription SET paused = false, stopped_by = 'e7';
SELECT inbox.resume('s');
UPDATE inbox.subscription SET paused = true;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA inbox TO regress_inbox_bad;
SET ROLE regress_inbox_bad;
SELECT inbox.subscribe('s', ARRAY['t'], 'good', server => 'cluster');
SELECT inbox.pause('s');
RESET ROLE;
-- it is as it was
SELECT name, topics, handler, paused, generation FROM inbox.subscription;
SELECT count(*) FROM inbox.position;

DROP OWNED BY regress_inbox_bad;
DROP ROLE regress_inbox_bad;
DROP EXTENSION outbox CASCADE;
DROP SCHEMA private;
DROP FOREIGN DATA WRAPPER other CASCADE;
