/*
 * outbox--0.9--1.0.sql: makes of the last snapshot before 1.0, which is
 * t/upgrade/outbox--0.9.sql, what outbox--1.0.sql makes.
 *
 * New columns come last there, too.  New objects get their rights here as they
 * do at its end, where default privileges may have granted more; those of
 * others stay as they are, since users have granted some.
 */

-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION outbox UPDATE TO '1.0'" to load this file. \quit

-- Names without a schema are PostgreSQL's own, whatever is in schema outbox.
SET LOCAL search_path = pg_catalog, pg_temp;

CREATE FUNCTION outbox.watch_extension() RETURNS void
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME', 'outbox_watch_extension';
COMMENT ON FUNCTION outbox.watch_extension() IS
    'has the replication slot go with the extension, should this session drop it';

-- Who is woken is woken whatever session_replication_role is.
ALTER TABLE outbox.identity ENABLE ALWAYS TRIGGER wake_relay;
ALTER TABLE outbox.replay_job ENABLE ALWAYS TRIGGER wake_relay;
ALTER TABLE outbox.dead_letter ENABLE ALWAYS TRIGGER wake_relay;
ALTER TABLE inbox.subscription ENABLE ALWAYS TRIGGER wake_consumers;

-- Ids that outbox.publish() makes need not be in a unique index.  Rows that exist
-- are as if their ids had been given.
ALTER TABLE outbox.event ADD COLUMN id_given boolean DEFAULT true;
COMMENT ON COLUMN outbox.event.content_type IS 'media type of payload; NULL means application/json unless id_given is true';
COMMENT ON COLUMN outbox.event.id_given IS 'did the publisher choose event_id, so that it must be unique? NULL where outbox.publish() made it';
ALTER TABLE outbox.event DROP CONSTRAINT event_event_id_chunk_key;
CREATE UNIQUE INDEX event_event_id_chunk_key ON outbox.event (event_id, chunk) WHERE id_given;
ALTER INDEX outbox.event_0_event_id_chunk_idx RENAME TO event_0_event_id_chunk_key;
ALTER INDEX outbox.event_1_event_id_chunk_idx RENAME TO event_1_event_id_chunk_key;
ALTER INDEX outbox.event_2_event_id_chunk_idx RENAME TO event_2_event_id_chunk_key;
ALTER INDEX outbox.event_3_event_id_chunk_idx RENAME TO event_3_event_id_chunk_key;
ALTER INDEX outbox.event_4_event_id_chunk_idx RENAME TO event_4_event_id_chunk_key;
ALTER INDEX outbox.event_5_event_id_chunk_idx RENAME TO event_5_event_id_chunk_key;
ALTER INDEX outbox.event_6_event_id_chunk_idx RENAME TO event_6_event_id_chunk_key;
ALTER INDEX outbox.event_7_event_id_chunk_idx RENAME TO event_7_event_id_chunk_key;
DROP INDEX outbox.event_xid_idx;
DROP OPERATOR FAMILY outbox.xid8_minmax_ops USING brin;
CREATE FUNCTION outbox.xid8_add_value(internal, internal, internal, internal) RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'outbox_xid8_add_value';
COMMENT ON FUNCTION outbox.xid8_add_value(internal, internal, internal, internal) IS
    'for the index on xid: adds a value to the summary of pages, whose maximum grows by a little more than it must';
CREATE FUNCTION outbox.uuid_add_value(internal, internal, internal, internal) RETURNS boolean
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'outbox_uuid_add_value';
COMMENT ON FUNCTION outbox.uuid_add_value(internal, internal, internal, internal) IS
    'for the index on event_id: adds a value to the summary of pages, whose maximum grows by a little more than it must';
CREATE OPERATOR CLASS outbox.xid8_minmax_ops FOR TYPE xid8 USING brin AS
    OPERATOR 1 pg_catalog.<,
    OPERATOR 2 pg_catalog.<=,
    OPERATOR 3 pg_catalog.=,
    OPERATOR 4 pg_catalog.>=,
    OPERATOR 5 pg_catalog.>,
    FUNCTION 1 pg_catalog.brin_minmax_opcinfo(internal),
    FUNCTION 2 outbox.xid8_add_value(internal, internal, internal, internal),
    FUNCTION 3 pg_catalog.brin_minmax_consistent(internal, internal, internal),
    FUNCTION 4 pg_catalog.brin_minmax_union(internal, internal, internal);
CREATE OPERATOR CLASS outbox.uuid_minmax_ops FOR TYPE uuid USING brin AS
    OPERATOR 1 pg_catalog.<,
    OPERATOR 2 pg_catalog.<=,
    OPERATOR 3 pg_catalog.=,
    OPERATOR 4 pg_catalog.>=,
    OPERATOR 5 pg_catalog.>,
    FUNCTION 1 pg_catalog.brin_minmax_opcinfo(internal),
    FUNCTION 2 outbox.uuid_add_value(internal, internal, internal, internal),
    FUNCTION 3 pg_catalog.brin_minmax_consistent(internal, internal, internal),
    FUNCTION 4 pg_catalog.brin_minmax_union(internal, internal, internal);
CREATE INDEX event_xid_idx ON outbox.event USING brin (xid outbox.xid8_minmax_ops, event_id outbox.uuid_minmax_ops);
ALTER INDEX outbox.event_0_xid_event_id_idx RENAME TO event_0_xid_idx;
ALTER INDEX outbox.event_1_xid_event_id_idx RENAME TO event_1_xid_idx;
ALTER INDEX outbox.event_2_xid_event_id_idx RENAME TO event_2_xid_idx;
ALTER INDEX outbox.event_3_xid_event_id_idx RENAME TO event_3_xid_idx;
ALTER INDEX outbox.event_4_xid_event_id_idx RENAME TO event_4_xid_idx;
ALTER INDEX outbox.event_5_xid_event_id_idx RENAME TO event_5_xid_idx;
ALTER INDEX outbox.event_6_xid_event_id_idx RENAME TO event_6_xid_idx;
ALTER INDEX outbox.event_7_xid_event_id_idx RENAME TO event_7_xid_idx;
-- Ids come in order, but for those of transactions side by side.
ALTER INDEX outbox.event_0_pkey SET (fillfactor = 97);
ALTER INDEX outbox.event_1_pkey SET (fillfactor = 97);
ALTER INDEX outbox.event_2_pkey SET (fillfactor = 97);
ALTER INDEX outbox.event_3_pkey SET (fillfactor = 97);
ALTER INDEX outbox.event_4_pkey SET (fillfactor = 97);
ALTER INDEX outbox.event_5_pkey SET (fillfactor = 97);
ALTER INDEX outbox.event_6_pkey SET (fillfactor = 97);
ALTER INDEX outbox.event_7_pkey SET (fillfactor = 97);
CREATE OR REPLACE VIEW outbox.events AS
SELECT e.id, e.event_id, e.aggregate_type, e.aggregate_id, e.event_type,
       coalesce(CASE WHEN t.content_type ~* '^(application/json|text/)' THEN outbox.utf8_text(e.payload) END,
                pg_catalog.encode(e.payload, 'escape')) AS payload,
       t.content_type, e.headers, e.topic, e.partition_key, e.deliver_at, e.created_at, e.xid,
       CASE WHEN d.id IS NOT NULL THEN 'failed'
            WHEN x.id IS NOT NULL THEN 'discarded'
            WHEN w.taken_at IS NULL OR h.id IS NOT NULL THEN 'pending'
            ELSE 'published' END AS status,
       CASE WHEN d.id IS NULL AND h.id IS NULL AND x.id IS NULL THEN w.taken_at END AS published_at,
       coalesce(d.error, x.error, p.error) AS error
FROM outbox.event e
-- outbox.publish() leaves the commonest out
CROSS JOIN LATERAL (SELECT CASE WHEN e.content_type IS NULL AND e.id_given IS NOT TRUE THEN 'application/json'
                                ELSE e.content_type END AS content_type) t
LEFT JOIN outbox.dead_letter d ON d.id = e.id AND d.database_id = e.database_id AND NOT d.replay
LEFT JOIN outbox.held_event h ON h.id = e.id AND h.database_id = e.database_id AND NOT h.replay
LEFT JOIN outbox.parked_topic p ON p.topic = h.topic AND p.partition = h.partition
LEFT JOIN outbox.discarded_event x ON x.id = e.id AND x.database_id = e.database_id
LEFT JOIN LATERAL (
    SELECT w.taken_at
    FROM outbox.watermark w
    WHERE w.database_id = e.database_id AND w.upper_xid > e.xid AND pg_catalog.pg_visible_in_snapshot(e.xid, w.snapshot)
    ORDER BY w.upper_xid, w.id
    LIMIT 1
) w ON true;

ALTER TABLE inbox.position ADD COLUMN rerun_since timestamptz;
UPDATE inbox.position SET rerun_since = clock_timestamp() WHERE rerun_until IS NOT NULL;
COMMENT ON COLUMN inbox.position.rerun_since IS
    'when rerun_until was set, or, where the clock was set back, the time after the latest_receipt of the subscription';

-- A subscription that is made anew knows whether the server has crashed since.
ALTER TABLE inbox.crash_marker DROP CONSTRAINT crash_marker_subscription_fkey;

CREATE OR REPLACE FUNCTION outbox.drop_slot() RETURNS event_trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    slot name;
BEGIN
    PERFORM outbox.watch_extension();
EXCEPTION WHEN OTHERS THEN
    SELECT r.slot_name INTO slot FROM pg_replication_slots r
    WHERE r.plugin = 'outbox' AND r.database = current_database() AND r.slot_name = 'outbox_' || r.datoid AND NOT r.active;
    IF slot IS NULL THEN
        RETURN;
    ELSIF (SELECT r.rolsuper OR r.rolreplication FROM pg_roles r WHERE r.rolname = current_user) THEN
        PERFORM pg_drop_replication_slot(slot);
    ELSE
        RAISE WARNING 'replication slot "%" stays and keeps WAL, since extension outbox cannot tell whether it is dropped: %', slot, SQLERRM
            USING HINT = format('If this command drops the extension, have a superuser call pg_drop_replication_slot(%L).', slot);
    END IF;
END
$$;
COMMENT ON FUNCTION outbox.drop_slot() IS
    'has the replication slot go with the extension, also in a server that was started without the library';
DROP EVENT TRIGGER outbox_drop_slot;
CREATE EVENT TRIGGER outbox_drop_slot ON ddl_command_start
WHEN TAG IN ('DROP EXTENSION', 'DROP LANGUAGE', 'DROP OWNED', 'DROP SCHEMA')
EXECUTE FUNCTION outbox.drop_slot();
COMMENT ON EVENT TRIGGER outbox_drop_slot IS
    'the replication slot goes with the extension, whether or not its library is loaded';

ALTER TABLE inbox.subscription ADD takes_array boolean;
COMMENT ON COLUMN inbox.subscription.handler IS
    'name of the function, qualified and quoted; see takes_array';
COMMENT ON COLUMN inbox.subscription.role_id IS
    'role that subscribed: the handler runs as it, with the settings that its sessions have';
COMMENT ON COLUMN inbox.subscription.takes_array IS
    'of two functions of the handler''s name: is it the one for an array of messages? NULL: not known, and two are an error';

-- Another column of a function makes another function.  The view keeps its
-- rights, and what depends on it.
ALTER FUNCTION inbox.consumer_status() RENAME TO old_consumer_status;
CREATE FUNCTION inbox.consumer_status(
    OUT subscription text,
    OUT worker       integer,
    OUT pid          integer,
    OUT state        text,
    OUT partitions   integer,
    OUT lag          bigint,
    OUT lag_seconds  double precision,
    OUT error        text,
    OUT error_at     timestamptz,
    OUT started_at   timestamptz,
    OUT state_since  timestamptz
) RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'outbox_consumer_status';
COMMENT ON FUNCTION inbox.consumer_status() IS
    'the workers of this database''s subscriptions, out of shared memory; see inbox.stat_subscription';

-- What identifies the messages of a subscription is its choice.  Entries that it
-- has in inbox.received so far are those of all its topics, and count for each
-- of them until they are old: nothing is processed again.
ALTER TABLE inbox.subscription
    ADD COLUMN dedupe             text        NOT NULL DEFAULT 'header' CHECK (dedupe OPERATOR(pg_catalog.=) ANY (ARRAY['header', 'field', 'offset', 'none'])),
    ADD COLUMN id_header          text        DEFAULT 'id',
    ADD COLUMN type_header        text        DEFAULT 'type',
    ADD COLUMN id_field           text,
    ADD COLUMN aggregate_id_field text,
    ADD COLUMN type_field         text,
    ADD COLUMN dedupe_scope       text        NOT NULL DEFAULT 'topic' CHECK (dedupe_scope OPERATOR(pg_catalog.=) ANY (ARRAY['topic', 'subscription'])),
    ADD COLUMN on_conflict        text        NOT NULL DEFAULT 'ignore' CHECK (on_conflict OPERATOR(pg_catalog.=) ANY (ARRAY['ignore', 'error'])),
    ADD COLUMN batch_time         interval    NOT NULL DEFAULT '1 s',
    ADD COLUMN stopped_topic      text;
COMMENT ON COLUMN inbox.subscription.stopped_topic IS 'topic of that message; NULL: not known';
COMMENT ON COLUMN inbox.subscription.dedupe IS
    'what tells a repeated message: a header, a field of the payload, its offset, or none: nothing is remembered';
COMMENT ON COLUMN inbox.subscription.id_header IS 'header that event_id comes from';
COMMENT ON COLUMN inbox.subscription.type_header IS 'header that event_type comes from';
COMMENT ON COLUMN inbox.subscription.id_field IS 'field of JSON payloads that event_id comes from; dots separate the parts';
COMMENT ON COLUMN inbox.subscription.aggregate_id_field IS 'field of JSON payloads that aggregate_id comes from; NULL: the key';
COMMENT ON COLUMN inbox.subscription.type_field IS 'field of JSON payloads that event_type comes from; NULL: type_header';
COMMENT ON COLUMN inbox.subscription.dedupe_scope IS
    'within what an id tells a repeated message: a topic, or the whole subscription';
COMMENT ON COLUMN inbox.subscription.on_conflict IS
    'what becomes of a message whose id came with another key or payload: it is ignored as a repeated one, or fails with an error';
COMMENT ON COLUMN inbox.subscription.batch_time IS 'how long a transaction may take, but for one call of the handler';
ALTER TABLE inbox.position ADD COLUMN conflicts bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN inbox.position.conflicts IS 'number of messages whose id had been received before with another key or payload';
ALTER TABLE inbox.position
    ADD last_offset bigint NOT NULL DEFAULT -1,
    ADD last_checksum bigint NOT NULL DEFAULT 0,
    ADD before_offset bigint NOT NULL DEFAULT -1,
    ADD before_checksum bigint NOT NULL DEFAULT 0,
    ADD cluster_id text,
    ADD lost_reason text CHECK (lost_reason OPERATOR(pg_catalog.=) ANY (ARRAY['removed', 'cut', 'replaced', 'beyond'])),
    ADD latest_receipt timestamptz;
COMMENT ON COLUMN inbox.position.latest_receipt IS
    'the latest time that messages of the partition have in inbox.received, whatever became of the clock; NULL: not known';
COMMENT ON COLUMN inbox.position.lost_from IS 'first offset that Kafka removed before it was read, or see lost_reason; NULL: nothing is lost';
COMMENT ON COLUMN inbox.position.last_offset IS 'offset of the last message that was read, by which the partition is recognized; -1: none was since inbox.seek()';
COMMENT ON COLUMN inbox.position.last_checksum IS 'checksum of that message';
COMMENT ON COLUMN inbox.position.before_offset IS 'offset of the message before it; -1: none was read';
COMMENT ON COLUMN inbox.position.before_checksum IS 'checksum of that message';
COMMENT ON COLUMN inbox.position.cluster_id IS 'id of the Kafka cluster; NULL: not known';
COMMENT ON COLUMN inbox.position.lost_reason IS 'what happened from lost_from until lost_until: removed; cut: gone, and other messages take their place; replaced: all of the partition are others; beyond: the partition ended at lost_until, and inbox.seek() asked for lost_from. NULL: removed, if anything';
-- Finds what waits behind a message of the same key.
CREATE INDEX message_pending_key_idx ON inbox.message (subscription, topic, (pg_catalog.sha256(key)), "offset")
    WHERE status OPERATOR(pg_catalog.=) 'pending' AND key IS NOT NULL;

COMMENT ON COLUMN inbox.message.event_id IS
    'identity of the message, from where the subscription says: by default its header "id", else <topic>/<partition>/<offset>';
COMMENT ON COLUMN inbox.message.event_type IS 'what happened: by default header "type"';
COMMENT ON COLUMN inbox.message.aggregate_id IS 'which thing: by default the key as text, when it is valid UTF-8';
COMMENT ON COLUMN inbox.received.consumer IS
    'as inbox.receive() was told, or @ and the name of a subscription, and / and the topic where ids count within topics';
COMMENT ON COLUMN inbox.received.payload_hash IS
    'as inbox.receive() was told: another one under the same id is an error; of a subscription 64 bits about key and payload';
COMMENT ON COLUMN inbox.message.created_at IS 'timestamp of the Kafka message; NULL when it is none that PostgreSQL has';

ALTER FUNCTION inbox.subscribe(text, text[], text, text, integer, interval, text, text, integer, integer, text[],
    text, interval, interval, text, text) RENAME TO old_subscribe;
CREATE FUNCTION inbox.subscribe(
    name               text,
    topics             text[],
    handler            text,
    start              text     DEFAULT 'earliest',
    max_attempts       integer  DEFAULT 5,
    retry_backoff      interval DEFAULT '1 s',
    ordering           text     DEFAULT 'key',
    on_failure         text     DEFAULT 'dead_letter',
    batch_size         integer  DEFAULT 1000,
    workers            integer  DEFAULT 1,
    filter_event_types text[]   DEFAULT NULL,
    isolation          text     DEFAULT 'read_committed',
    keep               interval DEFAULT NULL,
    handler_timeout    interval DEFAULT '1 min',
    group_id           text     DEFAULT NULL,
    server             text     DEFAULT 'kafka',
    dedupe             text     DEFAULT 'header',
    id_header          text     DEFAULT 'id',
    type_header        text     DEFAULT 'type',
    id_field           text     DEFAULT NULL,
    aggregate_id_field text     DEFAULT NULL,
    type_field         text     DEFAULT NULL,
    dedupe_scope       text     DEFAULT 'topic',
    on_conflict        text     DEFAULT 'ignore',
    batch_time         interval DEFAULT '1 s'
) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'outbox_subscribe';
COMMENT ON FUNCTION inbox.subscribe(text, text[], text, text, integer, interval, text, text, integer, integer, text[],
    text, interval, interval, text, text, text, text, text, text, text, text, text, text, interval) IS
    'call a function for every message of some Kafka topics, exactly once each; called again, changes the subscription';

CREATE OR REPLACE VIEW inbox.stat_subscription AS
SELECT s.name,
       CASE WHEN s.paused OR s.database_id <> outbox.database_id() THEN 'paused'
            WHEN s.stopped_by IS NOT NULL OR pg_catalog.pg_is_in_recovery() OR b.error IS NOT NULL THEN 'stopped'
            WHEN f.error IS NOT NULL THEN 'stopped'
            WHEN l.error IS NOT NULL THEN l.state
            -- others of its workers are still to come
            WHEN c.workers < s.workers AND c.state = 'running' THEN 'starting'
            ELSE coalesce(c.state, 'starting') END AS state,
       s.topics,
       s.workers,
       p.partitions,
       coalesce(c.lag, p.lag) AS lag,
       c.lag_seconds,
       p.received,
       p.processed,
       p.duplicates,
       m.failed,
       m.retrying,
       CASE WHEN s.database_id <> outbox.database_id()
            THEN pg_catalog.format('this database is a copy and consumes nothing; call inbox.resume(%L) to consume here too', s.name)
            WHEN pg_catalog.pg_is_in_recovery()
            THEN 'this server is a standby, and consumes when it is promoted'
            ELSE coalesce(b.error, f.error, e.error) END AS last_error,
       CASE WHEN s.database_id <> outbox.database_id() OR pg_catalog.pg_is_in_recovery() OR coalesce(b.error, f.error) IS NOT NULL THEN NULL
            ELSE e.error_at END AS last_error_at,
       m.waiting,
       CASE WHEN s.paused OR s.database_id <> outbox.database_id() OR pg_catalog.pg_is_in_recovery() OR b.error IS NOT NULL THEN NULL
            WHEN s.stopped_by IS NOT NULL THEN m.stopped_at
            WHEN f.error IS NOT NULL THEN NULL
            WHEN l.error IS NOT NULL THEN l.lost_at
            ELSE c.state_since END AS state_since,
       p.conflicts
FROM inbox.subscription s
-- where there cannot be a relay there are no workers either, and nobody to tell
LEFT JOIN LATERAL (
    SELECT r.last_error AS error FROM outbox.relay_status() r
    WHERE r.events IS NULL AND r.last_error IS NOT NULL
) b ON true
CROSS JOIN LATERAL (
    SELECT count(*)::integer AS partitions,
           sum(greatest(p.end_offset - p.next_offset, 0))::bigint AS lag,
           coalesce(sum(p.received), 0)::bigint AS received,
           coalesce(sum(p.processed), 0)::bigint AS processed,
           coalesce(sum(p.duplicates), 0)::bigint AS duplicates,
           coalesce(sum(p.conflicts), 0)::bigint AS conflicts
    FROM inbox.position p
    WHERE p.subscription = s.name
) p
LEFT JOIN LATERAL (
    SELECT CASE p.lost_reason
           WHEN 'cut' THEN pg_catalog.format('Topic "%s", partition %s, was cut: what it had from about offset %s on, up to the position %s, is not there any more, and other messages take its place; call inbox.seek() to go on there',
                                             p.topic, p.partition, p.lost_from, p.lost_until)
           WHEN 'replaced' THEN pg_catalog.format('Topic "%s", partition %s, is not the one that was read up to offset %s: it was made anew, or is that of another cluster; call inbox.seek() to go on, for example at "earliest"',
                                                  p.topic, p.partition, p.lost_until)
           WHEN 'beyond' THEN pg_catalog.format('Topic "%s", partition %s, ends at offset %s, before the position %s, at which nothing was read yet; call inbox.seek() again',
                                                p.topic, p.partition, p.lost_until, p.lost_from)
           ELSE pg_catalog.format('Kafka removed offsets %s to %s of topic "%s", partition %s, before they were read; call inbox.seek() to go on',
                                  p.lost_from, p.lost_until - 1, p.topic, p.partition)
           END AS error,
           CASE p.lost_reason WHEN 'replaced' THEN 'topic replaced' WHEN 'beyond' THEN 'stopped' ELSE 'data lost' END AS state,
           p.updated_at AS lost_at
    FROM inbox.position p
    WHERE p.subscription = s.name AND p.lost_from IS NOT NULL
    ORDER BY p.lost_reason IS NOT DISTINCT FROM 'beyond', p.topic, p.partition
    LIMIT 1
) l ON true
CROSS JOIN LATERAL (
    -- of several workers the one that is worst, and the first that was
    SELECT (pg_catalog.array_agg(c.state ORDER BY k.rank))[1] AS state,
           (pg_catalog.array_agg(c.state_since ORDER BY k.rank, c.state_since))[1] AS state_since,
           count(*) AS workers,
           CASE WHEN bool_and(c.lag IS NOT NULL) THEN sum(c.lag)::bigint END AS lag,
           max(c.lag_seconds) AS lag_seconds,
           (pg_catalog.array_agg(c.error ORDER BY c.error_at DESC) FILTER (WHERE c.error IS NOT NULL))[1] AS error,
           max(c.error_at) AS error_at
    FROM inbox.consumer_status() c
    CROSS JOIN LATERAL pg_catalog.array_position(
        ARRAY['stopped', 'data lost', 'waiting for kafka', 'waiting for lock', 'backing off', 'full', 'starting', 'running'], c.state) k (rank)
    WHERE c.subscription = s.name
) c
LEFT JOIN LATERAL (
    SELECT f.error FROM inbox.consumer_status() f WHERE f.subscription IS NULL AND c.workers < s.workers
) f ON true
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE m.status = 'failed') AS failed,
           count(*) FILTER (WHERE m.status = 'pending' AND m.attempts > 0) AS retrying,
           count(*) FILTER (WHERE m.status = 'pending') AS waiting,
           max(m.error_at) FILTER (WHERE m.event_id = s.stopped_by AND coalesce(m.topic = s.stopped_topic, true)) AS stopped_at
    FROM inbox.message m
    WHERE m.subscription = s.name AND m.status <> 'processed'
) m
LEFT JOIN LATERAL (
    -- the newest only: there may be millions
    SELECT n.error, n.error_at
    FROM inbox.message n
    WHERE n.subscription = s.name AND n.status <> 'processed' AND n.error IS NOT NULL
    ORDER BY n.error_at DESC NULLS LAST
    LIMIT 1
) n ON true
-- The newest error, of a worker or a message, without its detail, which may quote
-- data; lost messages wait for somebody to act.
LEFT JOIN LATERAL (
    SELECT v.error, v.error_at
    FROM (VALUES (1, l.error, l.lost_at), (2, c.error, c.error_at), (2, pg_catalog.split_part(n.error, E'\nDETAIL:  ', 1), n.error_at)) v (rank, error, error_at)
    WHERE v.error IS NOT NULL
    ORDER BY v.rank, v.error_at DESC NULLS LAST
    LIMIT 1
) e ON true;
COMMENT ON COLUMN inbox.stat_subscription.state_since IS
    'since when it is in that state; NULL when that is not known: it is paused, or the server runs no subscriptions';
COMMENT ON COLUMN inbox.stat_subscription.conflicts IS
    'messages whose id had been received before with another key or payload; they count as duplicates, too, unless on_conflict is error';
COMMENT ON COLUMN inbox.message.error IS 'error message of the last attempt, and after a line break DETAIL, where there is one';

CREATE FUNCTION inbox.my_subscriptions() RETURNS SETOF inbox.stat_subscription
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'outbox_my_subscriptions';
COMMENT ON FUNCTION inbox.my_subscriptions() IS
    'the rows of inbox.stat_subscription about subscriptions of the caller''s role, and of roles that it is a member of';

CREATE FUNCTION inbox.my_failed_messages() RETURNS SETOF inbox.message
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'outbox_my_failed_messages';
COMMENT ON FUNCTION inbox.my_failed_messages() IS
    'messages of those subscriptions that failed, or are tried again after an error';

CREATE TABLE inbox.sweep (
    began_at timestamptz NOT NULL,
    chunk    smallint    NOT NULL,
    block    bigint      NOT NULL,
    step     integer     NOT NULL
);
ALTER TABLE inbox.sweep REPLICA IDENTITY FULL;
COMMENT ON TABLE inbox.sweep IS
    'one row at most: where inbox.sweep_messages() is, which removes what subscriptions keep for less time than others';
COMMENT ON COLUMN inbox.sweep.began_at IS 'when it began the last time';
COMMENT ON COLUMN inbox.sweep.chunk IS 'chunk of inbox.message that it goes on with; 4 when it is done';
COMMENT ON COLUMN inbox.sweep.block IS 'block of the chunk';
COMMENT ON COLUMN inbox.sweep.step IS 'how many rows were deleted at a time, as quickly as shall be';

ALTER TABLE inbox.ring ADD COLUMN moved_past text[], ADD COLUMN step integer;
COMMENT ON COLUMN inbox.ring.moved_past IS
    'how far its unprocessed rows were moved on: subscription, status and event_id of the last, without a subscription when all were seen; and the same of the first that others had locked; NULL: not at all';
COMMENT ON COLUMN inbox.ring.step IS 'how many of them were moved at a time, as quickly as shall be; NULL: not known';

-- Rows that are not processed stay, however old they are: a step of moving them
-- out of an old chunk, in the order of the index, from where the last one ended.
-- Who changes a subscription's messages locks it before, and so does this; then
-- neither meets the other's rows halfway.  Others wait for it from then on, until
-- the transaction ends.  So the rows are looked for before, which takes long where
-- the index leads to many that somebody might still see and that have been moved;
-- and the step ends with what it has moved, by the clock, whatever a row costs,
-- which may be large and have triggers: it takes one first, however late it is by
-- then, and more as long as that is quick, in this step and those after it.
CREATE FUNCTION inbox.move_unprocessed(old_chunk smallint, new_chunk smallint) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
DECLARE
    began CONSTANT timestamptz := clock_timestamp();
    past text[] := (SELECT r.moved_past FROM inbox.ring r WHERE r.name = 'message' AND r.chunk = old_chunk);
    left_at text[] := past[4:6];
    waits boolean := false;
    owners text[] := ARRAY(SELECT s.name FROM inbox.subscription s);
    size integer := coalesce((SELECT r.step FROM inbox.ring r WHERE r.name = 'message' AND r.chunk = old_chunk), 1);
    looks_at CONSTANT integer := 20 * size;
    places tid[];
    statuses text[];
    ids text[];
    bytes bigint[];
    seen integer;
    first integer;
    taken integer := 0;
    moved integer := 0;
    n integer;
    locked boolean := false;
    locked_at timestamptz;
    tried_at timestamptz;
BEGIN
    IF past IS NOT NULL AND past[1] IS NULL THEN
        RETURN false;
    ELSIF past IS NULL OR past[1] <> ALL (owners) THEN
        past := ARRAY[(SELECT min(o) FROM unnest(owners) o WHERE past IS NULL OR o > past[1]), '', ''];
    END IF;
    WHILE past[1] IS NOT NULL AND NOT locked AND (seen IS NULL OR clock_timestamp() - began < '20 ms') LOOP
        EXECUTE format($query$
            SELECT count(*), array_agg(c.place ORDER BY c.number), array_agg(c.status ORDER BY c.number),
                   array_agg(c.event_id ORDER BY c.number), array_agg(c.bytes ORDER BY c.number)
            FROM (SELECT m.ctid AS place, m.status, m.event_id, row_number() OVER w AS number,
                         sum(coalesce(pg_column_size(m.payload), 0) + coalesce(pg_column_size(m.headers), 0)
                             + coalesce(pg_column_size(m.key), 0) + coalesce(pg_column_size(m.aggregate_id), 0)
                             + coalesce(pg_column_size(m.error), 0) + coalesce(pg_column_size(m.error_context), 0)) OVER w AS bytes
                  FROM inbox.%I m
                  WHERE m.status <> 'processed' AND m.subscription = $1 AND (m.status, m.event_id) > ($2, $3)
                  WINDOW w AS (ORDER BY m.status, m.event_id ROWS UNBOUNDED PRECEDING)
                  LIMIT $4) c
            $query$, 'message_' || old_chunk) INTO seen, places, statuses, ids, bytes USING past[1], past[2], past[3], looks_at;
        IF seen > 0 THEN
            BEGIN
                PERFORM FROM inbox.subscription s WHERE s.name = past[1] FOR UPDATE;
                locked := FOUND;
            EXCEPTION
                WHEN lock_not_available THEN
                    left_at := CASE WHEN left_at[1] IS NULL THEN past[1:3] ELSE left_at END;
            END;
        END IF;
        locked_at := clock_timestamp();
        WHILE locked AND taken < seen AND (taken = 0 OR clock_timestamp() - locked_at < '10 ms') LOOP
            tried_at := clock_timestamp();
            first := taken + 1;
            taken := first;
            WHILE taken < least(seen, first + size - 1)
                AND bytes[taken + 1] - CASE first WHEN 1 THEN 0 ELSE bytes[first - 1] END < 1000000 LOOP
                taken := taken + 1;
            END LOOP;
            EXECUTE format($query$
                UPDATE inbox.message m SET chunk = $1
                WHERE m.chunk = %s AND m.ctid = ANY (ARRAY(
                    SELECT u.ctid FROM inbox.%I u
                    WHERE u.ctid = ANY ($2) AND u.subscription = $3 AND u.status <> 'processed' FOR UPDATE SKIP LOCKED))
                $query$, old_chunk, 'message_' || old_chunk) USING new_chunk, places[first:taken], past[1];
            GET DIAGNOSTICS n = ROW_COUNT;
            moved := moved + n;
            size := CASE WHEN clock_timestamp() - tried_at < '3 ms' THEN least(2 * size, 50)
                         WHEN clock_timestamp() - tried_at > '5 ms' THEN greatest(size / 2, 1) ELSE size END;
        END LOOP;
        -- Any number of rows may have one id: it is not passed as long as some of them are moved.
        n := taken;
        WHILE moved > 0 AND n > 0 AND (statuses[n], ids[n]) = (statuses[taken], ids[taken])
            AND (taken = seen OR (statuses[taken], ids[taken]) = (statuses[taken + 1], ids[taken + 1])) LOOP
            n := n - 1;
        END LOOP;
        past := CASE WHEN NOT locked OR (taken = seen AND seen < looks_at)
                     THEN ARRAY[(SELECT min(o) FROM unnest(owners) o WHERE o > past[1]), '', '']
                     WHEN n > 0 THEN ARRAY[past[1], statuses[n], ids[n]]
                     ELSE past[1:3] END;
    END LOOP;
    -- A subscription that others keep locked holds up no other; it has its turn when they have had theirs.
    IF past[1] IS NULL AND left_at[1] IS NOT NULL THEN
        past := left_at;
        left_at := NULL;
        waits := true;
    END IF;
    UPDATE inbox.ring r SET moved_past = past || left_at, step = size WHERE r.name = 'message' AND r.chunk = old_chunk;
    RETURN locked OR (past[1] IS NOT NULL AND NOT waits);
END
$$;
COMMENT ON FUNCTION inbox.move_unprocessed(smallint, smallint) IS
    'a step of what inbox.expire() does; false when it has come to the end, or to what others have locked';

CREATE FUNCTION inbox.has_unprocessed(chunk smallint) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
AS $$
DECLARE
    found boolean;
BEGIN
    EXECUTE format($query$
        SELECT EXISTS (SELECT FROM inbox.subscription s WHERE EXISTS (
            SELECT FROM inbox.%I m WHERE m.subscription = s.name AND m.status <> 'processed'))
        $query$, 'message_' || chunk) INTO found;
    RETURN found;
END
$$;
COMMENT ON FUNCTION inbox.has_unprocessed(smallint) IS
    'whether a chunk of inbox.message has rows that are not processed, of subscriptions that exist';

-- Nobody waits for long: neither behind who waits for the lock, nor while it is
-- held.  What takes time is therefore seen before, without it, and only when the
-- lock is to be had: rows that others have locked are left, and so may be index
-- entries of what was moved, as long as somebody might still see them.
CREATE FUNCTION inbox.truncate_chunk(ring_name text, old_chunk smallint) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    chunk_name text := format('inbox.%I', ring_name || '_' || old_chunk);
    began timestamptz;
BEGIN
    IF ring_name = 'message' THEN
        BEGIN
            EXECUTE 'LOCK TABLE ' || chunk_name || ' IN ACCESS EXCLUSIVE MODE';
            RAISE SQLSTATE 'OB000';
        EXCEPTION
            WHEN SQLSTATE 'OB000' THEN
                -- it was to be had, and is given back
                NULL;
        END;
    END IF;
    FOR try IN 1 .. CASE ring_name WHEN 'message' THEN 3 ELSE 0 END LOOP
        began := clock_timestamp();
        IF inbox.has_unprocessed(old_chunk) THEN
            UPDATE inbox.ring r SET moved_past = NULL WHERE r.name = ring_name AND r.chunk = old_chunk;
            RETURN false;
        END IF;
        EXIT WHEN clock_timestamp() - began < '20 ms';
        IF try = 3 OR clock_timestamp() - began > '100 ms' THEN
            RETURN false;
        END IF;
    END LOOP;
    EXECUTE 'LOCK TABLE ' || chunk_name || ' IN ACCESS EXCLUSIVE MODE';
    IF ring_name = 'message' AND inbox.has_unprocessed(old_chunk) THEN
        RETURN false;
    END IF;
    EXECUTE 'TRUNCATE ' || chunk_name;
    RETURN true;
EXCEPTION
    WHEN lock_not_available THEN
        RETURN false;
END
$$;
COMMENT ON FUNCTION inbox.truncate_chunk(text, smallint) IS
    'empties an old chunk, if that is possible at once';

CREATE FUNCTION inbox.expire_ring(ring_name text, stay interval) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    ring_position bigint;
    current_chunk smallint;
    next_chunk smallint;
    old_chunk smallint;
BEGIN
    EXECUTE format('SELECT last_value FROM inbox.%I', ring_name || '_chunk_seq') INTO ring_position;
    current_chunk := ring_position % 4;
    next_chunk := (current_chunk + 1) % 4;
    -- Where nothing is known, as after a crash, now is late enough.
    DELETE FROM inbox.ring r WHERE r.name = ring_name AND r.chunk = current_chunk;
    INSERT INTO inbox.ring (name, chunk, ended_at)
    SELECT ring_name, c, clock_timestamp() FROM generate_series(0, 3) c WHERE c <> current_chunk
    ON CONFLICT DO NOTHING;
    -- The same when the clock was set back since.
    UPDATE inbox.ring r SET ended_at = clock_timestamp() WHERE r.name = ring_name AND r.ended_at > clock_timestamp();

    SELECT r.chunk INTO old_chunk
    FROM inbox.ring r
    WHERE r.name = ring_name AND r.ended_at <= now() - stay
      AND pg_relation_size(format('inbox.%I', ring_name || '_' || r.chunk)) > 0
    ORDER BY r.ended_at LIMIT 1;
    IF FOUND THEN
        IF ring_name = 'message' AND inbox.move_unprocessed(old_chunk, current_chunk) THEN
            RETURN true;
        ELSIF EXISTS (SELECT FROM inbox.ring r WHERE r.name = ring_name AND r.chunk = old_chunk AND r.moved_past[1] IS NOT NULL) THEN
            NULL;
        ELSIF inbox.truncate_chunk(ring_name, old_chunk) THEN
            UPDATE inbox.ring r SET moved_past = NULL WHERE r.name = ring_name AND r.chunk = old_chunk;
            RETURN true;
        END IF;
    END IF;
    IF pg_relation_size(format('inbox.%I', ring_name || '_' || next_chunk)) = 0
        AND pg_relation_size(format('inbox.%I', ring_name || '_' || current_chunk)) > 0
        AND EXISTS (
            SELECT FROM inbox.ring r
            WHERE r.name = ring_name AND r.chunk = (current_chunk + 3) % 4 AND r.ended_at <= now() - stay / 3)
    THEN
        PERFORM setval(format('inbox.%I', ring_name || '_chunk_seq')::regclass, ring_position + 1);
        DELETE FROM inbox.ring r WHERE r.name = ring_name AND r.chunk = next_chunk;
        INSERT INTO inbox.ring (name, chunk, ended_at) VALUES (ring_name, current_chunk, clock_timestamp());
        RETURN true;
    END IF;
    RETURN false;
END
$$;
COMMENT ON FUNCTION inbox.expire_ring(text, interval) IS
    'a step of inbox.expire() with inbox.message or inbox.received';

-- What one subscription keeps for long does not keep what others do not: rows whose
-- time is over leave by themselves, a few at a time, as above.
CREATE FUNCTION inbox.sweep_messages(dedupe_window interval) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    began CONSTANT timestamptz := clock_timestamp();
    blocks CONSTANT integer := 8;
    size integer;
    last timestamptz;
    gone integer;
    shortest interval;
    longest interval;
    place inbox.sweep;
BEGIN
    SELECT min(coalesce(s.keep, dedupe_window)), max(coalesce(s.keep, dedupe_window)) INTO shortest, longest
    FROM inbox.subscription s WHERE s.keep > '0' OR s.keep IS NULL;
    IF shortest IS NULL OR shortest = longest THEN
        RETURN false;
    END IF;
    INSERT INTO inbox.sweep (began_at, chunk, block, step) SELECT now(), 4, 0, 1 WHERE NOT EXISTS (SELECT FROM inbox.sweep);
    SELECT s.* INTO place FROM inbox.sweep s;
    IF place.chunk = 4 AND place.began_at BETWEEN now() - shortest / 3 AND now() THEN
        RETURN false;
    ELSIF place.chunk = 4 THEN
        place := ROW(now(), 0, 0, place.step);
    END IF;
    size := place.step;
    WHILE place.chunk < 4 AND (gone IS NULL OR clock_timestamp() - began < '20 ms') LOOP
        IF pg_relation_size(format('inbox.%I', 'message_' || place.chunk)) <= place.block * current_setting('block_size')::bigint THEN
            place.chunk := place.chunk + 1;
            place.block := 0;
            CONTINUE;
        END IF;
        last := clock_timestamp();
        EXECUTE format($query$
            DELETE FROM inbox.%1$I m WHERE m.ctid = ANY (ARRAY(
                SELECT u.ctid FROM inbox.%1$I u JOIN inbox.subscription s ON s.name = u.subscription
                WHERE u.ctid >= $1 AND u.ctid < $2 AND u.status = 'processed'
                  AND coalesce(u.processed_at, u.received_at) <= now() - coalesce(s.keep, $3)
                LIMIT $4 FOR UPDATE OF u SKIP LOCKED))
            $query$, 'message_' || place.chunk)
        USING format('(%s,0)', place.block)::tid, format('(%s,0)', place.block + blocks)::tid, dedupe_window, size;
        GET DIAGNOSTICS gone = ROW_COUNT;
        IF gone < size THEN
            place.block := place.block + blocks;
        END IF;
        size := CASE WHEN clock_timestamp() - last < '10 ms' THEN least(2 * size, 200)
                     WHEN clock_timestamp() - last > '20 ms' THEN greatest(size / 2, 1) ELSE size END;
    END LOOP;
    UPDATE inbox.sweep s SET began_at = place.began_at, chunk = place.chunk, block = place.block, step = size;
    RETURN place.chunk < 4;
END
$$;
COMMENT ON FUNCTION inbox.sweep_messages(interval) IS
    'a step of inbox.expire(): deletes processed messages that are older than their subscription keeps them';

CREATE OR REPLACE FUNCTION inbox.expire() RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET lock_timeout = '30ms'
AS $$
DECLARE
    dedupe_window interval := current_setting('inbox.dedupe_window');
    longest interval := (
        SELECT coalesce(max(coalesce(s.keep, dedupe_window)) FILTER (WHERE s.keep > '0' OR s.keep IS NULL), dedupe_window)
        FROM inbox.subscription s);
BEGIN
    -- one does it for all
    LOCK TABLE inbox.ring IN SHARE ROW EXCLUSIVE MODE NOWAIT;
    -- a step ends with the locks that it has taken, and the next one is another transaction's
    IF inbox.expire_ring('received', dedupe_window) THEN
        RETURN true;
    ELSIF inbox.expire_ring('message', longest) THEN
        RETURN true;
    END IF;
    RETURN inbox.sweep_messages(dedupe_window);
EXCEPTION
    WHEN lock_not_available THEN
        RETURN false;
END
$$;
COMMENT ON FUNCTION inbox.expire() IS
    'gives back what is old enough in inbox.message and inbox.received, a step at a time; called by consumers once a minute';

-- Ids count within topics.
ALTER FUNCTION inbox.retry(text, text) RENAME TO old_retry;
ALTER FUNCTION inbox.discard(text, text) RENAME TO old_discard;
CREATE FUNCTION inbox.retry(name text, event_id text DEFAULT NULL, topic text DEFAULT NULL) RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'outbox_inbox_retry';
COMMENT ON FUNCTION inbox.retry(text, text, text) IS
    'calls the handler again, now, for messages that failed: those with an id, or of a topic, or all; returns how many';

CREATE FUNCTION inbox.discard(name text, event_id text, topic text DEFAULT NULL) RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'outbox_inbox_discard';
COMMENT ON FUNCTION inbox.discard(text, text, text) IS
    'gives up the messages with an id, of a topic or of all, that failed or wait; false when there is none';

DO $$
DECLARE
    role text;
    old regprocedure;
    new regprocedure;
    made regprocedure[] := ARRAY['outbox.watch_extension()'::regprocedure, 'inbox.consumer_status()',
        'outbox.xid8_add_value(internal, internal, internal, internal)',
        'outbox.uuid_add_value(internal, internal, internal, internal)',
        'inbox.move_unprocessed(smallint, smallint)', 'inbox.has_unprocessed(smallint)',
        'inbox.truncate_chunk(text, smallint)', 'inbox.expire_ring(text, interval)', 'inbox.sweep_messages(interval)',
        'inbox.my_subscriptions()', 'inbox.my_failed_messages()', 'inbox.subscribe'::regproc::regprocedure,
        'inbox.retry'::regproc::regprocedure, 'inbox.discard'::regproc::regprocedure];
BEGIN
    FOR role IN
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE format('%I', pg_get_userbyid(a.grantee)) END
        FROM pg_proc p
        CROSS JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
        WHERE p.oid = ANY (made) AND a.grantee <> p.proowner
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM %s', array_to_string(made, ', '), role);
    END LOOP;
    -- What users may call, with the right to let others.  It does not become a
    -- right that comes with the extension, which no dump would have.
    FOR old, new IN
        VALUES ('inbox.old_consumer_status'::regproc, 'inbox.consumer_status'::regproc),
               ('inbox.old_subscribe', 'inbox.subscribe'),
               ('inbox.old_retry', 'inbox.retry'),
               ('inbox.old_discard', 'inbox.discard')
    LOOP
        FOR role IN
            SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE format('%I', pg_get_userbyid(a.grantee)) END
                || CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
            FROM pg_proc p
            CROSS JOIN LATERAL aclexplode(p.proacl) a
            WHERE p.oid = old AND a.grantee <> p.proowner
        LOOP
            EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', new, role);
        END LOOP;
        UPDATE pg_init_privs n SET initprivs = o.initprivs
        FROM pg_init_privs o
        WHERE n.classoid = 'pg_proc'::regclass AND n.objoid = new AND o.classoid = n.classoid AND o.objoid = old;
    END LOOP;
    FOR role IN
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE format('%I', pg_get_userbyid(a.grantee)) END
        FROM pg_class c
        CROSS JOIN LATERAL aclexplode(c.relacl) a
        WHERE c.oid = 'inbox.sweep'::regclass AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('REVOKE ALL ON inbox.sweep FROM %s', role);
    END LOOP;
END
$$;
DROP FUNCTION inbox.old_consumer_status(), inbox.old_subscribe, inbox.old_retry, inbox.old_discard;
