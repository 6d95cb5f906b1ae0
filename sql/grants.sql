-- What docs/dead-letters.md says to grant is enough, and so is EXECUTE on any other function.
CREATE EXTENSION outbox;
\set VERBOSITY terse
CREATE ROLE regress_operator;
CREATE ROLE regress_watcher;
GRANT USAGE ON SCHEMA outbox, inbox TO regress_operator, regress_watcher;
GRANT EXECUTE ON FUNCTION outbox.retry(text), outbox.retry(uuid), outbox.retry_all, outbox.discard(text),
    outbox.discard(uuid), outbox.discard_all, outbox.replay TO regress_operator;
GRANT SELECT ON outbox.dead_letter, outbox.held_event, outbox.discarded_event, outbox.stat_topic TO regress_operator;
GRANT EXECUTE ON FUNCTION outbox.resume, outbox.wait_published, inbox.receive TO regress_operator;
GRANT SELECT ON outbox.stat_relay, outbox.stat_topic, inbox.stat_subscription TO regress_watcher;
GRANT EXECUTE ON FUNCTION outbox.relay_status, outbox.pending_since, inbox.consumer_status, outbox.database_id TO regress_watcher;

SET ROLE regress_operator;
SELECT outbox.retry('0190a6b2-0000-7000-8000-000000000000');
SELECT outbox.retry('0190a6b2-0000-7000-8000-000000000000'::uuid);
SELECT outbox.retry_all();
SELECT outbox.discard('0190a6b2-0000-7000-8000-000000000000');
SELECT outbox.discard('0190a6b2-0000-7000-8000-000000000000'::uuid);
SELECT outbox.discard_all('outbox.event.Order');
SELECT outbox.replay('-infinity');
SELECT outbox.wait_published();
SELECT outbox.resume(true);
SELECT inbox.receive('shop', 'id');
SELECT count(*) FROM outbox.dead_letter, outbox.held_event, outbox.discarded_event, outbox.stat_topic;

SET ROLE regress_watcher;
SELECT count(*), min(lag_seconds) FROM outbox.stat_relay;
SELECT count(*) FROM outbox.stat_topic;
SELECT count(*) FROM inbox.stat_subscription;
SELECT outbox.retry_all();
RESET ROLE;

-- a publication of all tables keeps nobody from changing ours
SELECT c.oid::regclass FROM pg_class c
WHERE c.relnamespace IN ('outbox'::regnamespace, 'inbox'::regnamespace) AND c.relkind = 'r' AND c.relreplident <> 'f'
  AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary);

DROP EXTENSION outbox;
DROP OWNED BY regress_operator, regress_watcher;
DROP ROLE regress_operator, regress_watcher;
