/*
 * outbox--1.0.sql: the objects of the extension.
 *
 * Whoever changes something here has outbox--0.9--1.0.sql change it in
 * databases that have it already.  t/115_upgrade.pl compares what both make.
 */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION outbox" to load this file. \quit

-- Names without a schema are PostgreSQL's own, whatever is in schema outbox.
SET LOCAL search_path = pg_catalog, pg_temp;

-- Functions of somebody else in the schema would be found beside ours: publish()
-- of another signature would be called instead of ours.
DO $$
DECLARE
    installed_by oid := (SELECT oid FROM pg_roles WHERE rolname = current_user);
    schema record;
    found text;
BEGIN
    SELECT oid, nspowner, nspacl, xmin = pg_current_xact_id()::xid AS is_new INTO schema
    FROM pg_namespace WHERE nspname = 'outbox';
    IF schema.nspowner <> installed_by
        AND NOT (SELECT rolsuper FROM pg_roles WHERE oid = schema.nspowner) THEN
        RAISE EXCEPTION 'schema "outbox" belongs to role "%"', pg_get_userbyid(schema.nspowner)
            USING ERRCODE = 'insufficient_privilege',
                  DETAIL = 'Its owner could put functions there that are called instead of those of the extension.',
                  HINT = 'Drop the schema, or make it that of the role that creates the extension.';
    END IF;
    SELECT string_agg(pg_describe_object(classid, objid, 0), ', ') INTO found
    FROM (SELECT classid, objid FROM pg_depend
          WHERE refclassid = 'pg_namespace'::regclass AND refobjid = schema.oid
            AND classid <> 'pg_extension'::regclass
          LIMIT 3) d;
    IF found IS NOT NULL THEN
        RAISE EXCEPTION 'schema "outbox" is not empty'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = format('It contains, for example, %s.', found),
                  HINT = 'Drop what is in it, or the schema.';
    END IF;
    SELECT string_agg(DISTINCT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE format('role "%s"', pg_get_userbyid(grantee)) END, ', ')
    INTO found
    FROM aclexplode(schema.nspacl)
    WHERE privilege_type = 'CREATE' AND grantee <> schema.nspowner AND NOT schema.is_new;
    IF found IS NOT NULL THEN
        RAISE EXCEPTION 'others than its owner may create objects in schema "outbox"'
            USING ERRCODE = 'insufficient_privilege',
                  DETAIL = format('Privilege CREATE on it belongs to %s.', found),
                  HINT = 'Revoke that, or drop the schema.';
    END IF;
END
$$;

CREATE SCHEMA inbox;

COMMENT ON SCHEMA outbox IS
    'publish events to Kafka as part of a transaction';
COMMENT ON SCHEMA inbox IS
    'take Kafka messages into the database exactly once';

--
-- Events.
--
-- Rows live in a fixed ring of partitions, the chunks.  All inserts go to the
-- current chunk, so old chunks can be given back whole with TRUNCATE, which
-- blocks no publisher.  The ring is fixed so that a dump, which cannot carry
-- an extension's later-made tables, restores.
--

CREATE SEQUENCE outbox.event_id_seq;
COMMENT ON SEQUENCE outbox.event_id_seq IS 'numbers the rows of outbox.event';

CREATE SEQUENCE outbox.event_chunk_seq AS smallint MINVALUE 0 MAXVALUE 7 CYCLE;
COMMENT ON SEQUENCE outbox.event_chunk_seq IS
    'last_value is the chunk of outbox.event that takes new rows';

CREATE FUNCTION outbox.current_chunk() RETURNS smallint
LANGUAGE C STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'outbox_current_chunk';
COMMENT ON FUNCTION outbox.current_chunk() IS
    'the chunk of outbox.event that takes new rows';

CREATE FUNCTION outbox.database_id() RETURNS integer
LANGUAGE C STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'outbox_database_id';
COMMENT ON FUNCTION outbox.database_id() IS
    'the number of this database: other numbers mark rows that were published elsewhere';

CREATE FUNCTION outbox.check_event(aggregate_type text, aggregate_id text, event_type text,
    payload bytea, content_type text, headers jsonb, topic text, partition_key text) RETURNS boolean
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'outbox_check_event';
COMMENT ON FUNCTION outbox.check_event(text, text, text, bytea, text, jsonb, text, text) IS
    'true for an event that Kafka can take; else an error that says what is wrong with it';

CREATE TABLE outbox.event (
    id             bigint      NOT NULL DEFAULT pg_catalog.nextval('outbox.event_id_seq'::pg_catalog.regclass),
    event_id       uuid        NOT NULL,
    aggregate_type text        NOT NULL,
    aggregate_id   text,
    event_type     text        NOT NULL,
    payload        bytea,
    content_type   text,
    headers        jsonb,
    topic          text,
    partition_key  text,
    deliver_at     timestamptz,
    created_at     timestamptz NOT NULL DEFAULT pg_catalog.now(),
    xid            xid8        NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
    chunk          smallint    NOT NULL DEFAULT outbox.current_chunk(),
    database_id    integer     NOT NULL DEFAULT outbox.database_id(),
    id_given       boolean     DEFAULT true,
    PRIMARY KEY (id, chunk, database_id),
    CONSTRAINT event_check CHECK (outbox.check_event(aggregate_type, aggregate_id, event_type,
        payload, content_type, headers, topic, partition_key))
) PARTITION BY LIST (chunk);

-- The ids that outbox.publish() makes are like no others: for those it need not
-- be ascertained.
CREATE UNIQUE INDEX event_event_id_chunk_key ON outbox.event (event_id, chunk) WHERE id_given;

-- Lets a relay that reads the table skip what is published long since, at next
-- to no cost for those who publish, and finds ids that outbox.publish() made,
-- which follow the order of time.  Vacuum summarizes it, and relays that poll;
-- to ask for that as rows come in would flood the log.
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

COMMENT ON TABLE outbox.event IS
    'events, one row each, inserted by outbox.publish(); those that are on Kafka may be deleted';
COMMENT ON COLUMN outbox.event.id IS 'order in which events were published within a session';
COMMENT ON COLUMN outbox.event.event_id IS 'identity of the event, sent as Kafka header "id"';
COMMENT ON COLUMN outbox.event.aggregate_type IS 'kind of thing that the event is about; decides the topic';
COMMENT ON COLUMN outbox.event.aggregate_id IS 'which thing; the Kafka key, so that events of one thing keep their order';
COMMENT ON COLUMN outbox.event.event_type IS 'what happened, sent as Kafka header "type"';
COMMENT ON COLUMN outbox.event.payload IS 'the Kafka value, byte for byte; NULL is a tombstone';
COMMENT ON COLUMN outbox.event.content_type IS 'media type of payload; NULL means application/json unless id_given is true';
COMMENT ON COLUMN outbox.event.headers IS 'further Kafka headers, a flat object';
COMMENT ON COLUMN outbox.event.topic IS 'Kafka topic instead of the one that aggregate_type leads to';
COMMENT ON COLUMN outbox.event.partition_key IS 'Kafka key instead of aggregate_id';
COMMENT ON COLUMN outbox.event.deliver_at IS 'not to be sent before this time';
COMMENT ON COLUMN outbox.event.created_at IS 'start of the transaction that published';
COMMENT ON COLUMN outbox.event.xid IS 'transaction that published; tells with outbox.watermark whether the event is on Kafka';
COMMENT ON COLUMN outbox.event.chunk IS 'partition that holds the row';
COMMENT ON COLUMN outbox.event.database_id IS 'database that published; xid has a meaning there';
COMMENT ON COLUMN outbox.event.id_given IS 'did the publisher choose event_id, so that it must be unique? NULL where outbox.publish() made it';

CREATE TABLE outbox.event_0 PARTITION OF outbox.event FOR VALUES IN (0);
CREATE TABLE outbox.event_1 PARTITION OF outbox.event FOR VALUES IN (1);
CREATE TABLE outbox.event_2 PARTITION OF outbox.event FOR VALUES IN (2);
CREATE TABLE outbox.event_3 PARTITION OF outbox.event FOR VALUES IN (3);
CREATE TABLE outbox.event_4 PARTITION OF outbox.event FOR VALUES IN (4);
CREATE TABLE outbox.event_5 PARTITION OF outbox.event FOR VALUES IN (5);
CREATE TABLE outbox.event_6 PARTITION OF outbox.event FOR VALUES IN (6);
CREATE TABLE outbox.event_7 PARTITION OF outbox.event FOR VALUES IN (7);

-- As users know them.
ALTER INDEX outbox.event_0_event_id_chunk_idx RENAME TO event_0_event_id_chunk_key;
ALTER INDEX outbox.event_1_event_id_chunk_idx RENAME TO event_1_event_id_chunk_key;
ALTER INDEX outbox.event_2_event_id_chunk_idx RENAME TO event_2_event_id_chunk_key;
ALTER INDEX outbox.event_3_event_id_chunk_idx RENAME TO event_3_event_id_chunk_key;
ALTER INDEX outbox.event_4_event_id_chunk_idx RENAME TO event_4_event_id_chunk_key;
ALTER INDEX outbox.event_5_event_id_chunk_idx RENAME TO event_5_event_id_chunk_key;
ALTER INDEX outbox.event_6_event_id_chunk_idx RENAME TO event_6_event_id_chunk_key;
ALTER INDEX outbox.event_7_event_id_chunk_idx RENAME TO event_7_event_id_chunk_key;
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

-- Their rows need not have what is the same in all of them.
CREATE FUNCTION outbox.note_places() RETURNS void
LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'outbox_note_places';
SELECT outbox.note_places();
DROP FUNCTION outbox.note_places();

-- The relay may have to read what is not on Kafka yet.
CREATE FUNCTION outbox.keep_rows() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'outbox_keep_rows';
COMMENT ON FUNCTION outbox.keep_rows() IS
    'refuses to delete, change or truncate rows of outbox.event that are not on Kafka';
CREATE TRIGGER keep_rows BEFORE UPDATE OR DELETE ON outbox.event
FOR EACH ROW EXECUTE FUNCTION outbox.keep_rows();
CREATE TRIGGER keep_chunk BEFORE TRUNCATE ON outbox.event_0
FOR EACH STATEMENT EXECUTE FUNCTION outbox.keep_rows();
CREATE TRIGGER keep_chunk BEFORE TRUNCATE ON outbox.event_1
FOR EACH STATEMENT EXECUTE FUNCTION outbox.keep_rows();
CREATE TRIGGER keep_chunk BEFORE TRUNCATE ON outbox.event_2
FOR EACH STATEMENT EXECUTE FUNCTION outbox.keep_rows();
CREATE TRIGGER keep_chunk BEFORE TRUNCATE ON outbox.event_3
FOR EACH STATEMENT EXECUTE FUNCTION outbox.keep_rows();
CREATE TRIGGER keep_chunk BEFORE TRUNCATE ON outbox.event_4
FOR EACH STATEMENT EXECUTE FUNCTION outbox.keep_rows();
CREATE TRIGGER keep_chunk BEFORE TRUNCATE ON outbox.event_5
FOR EACH STATEMENT EXECUTE FUNCTION outbox.keep_rows();
CREATE TRIGGER keep_chunk BEFORE TRUNCATE ON outbox.event_6
FOR EACH STATEMENT EXECUTE FUNCTION outbox.keep_rows();
CREATE TRIGGER keep_chunk BEFORE TRUNCATE ON outbox.event_7
FOR EACH STATEMENT EXECUTE FUNCTION outbox.keep_rows();

COMMENT ON TABLE outbox.event_0 IS 'chunk 0 of outbox.event';
COMMENT ON TABLE outbox.event_1 IS 'chunk 1 of outbox.event';
COMMENT ON TABLE outbox.event_2 IS 'chunk 2 of outbox.event';
COMMENT ON TABLE outbox.event_3 IS 'chunk 3 of outbox.event';
COMMENT ON TABLE outbox.event_4 IS 'chunk 4 of outbox.event';
COMMENT ON TABLE outbox.event_5 IS 'chunk 5 of outbox.event';
COMMENT ON TABLE outbox.event_6 IS 'chunk 6 of outbox.event';
COMMENT ON TABLE outbox.event_7 IS 'chunk 7 of outbox.event';

CREATE TABLE outbox.identity (
    database_id       integer     NOT NULL PRIMARY KEY,
    system_identifier bigint      NOT NULL,
    database          oid         NOT NULL,
    database_name     name        NOT NULL,
    adopted           boolean     NOT NULL DEFAULT false
);

COMMENT ON TABLE outbox.identity IS
    'the database that this is, and those that it is a copy of; see outbox.resume()';
COMMENT ON COLUMN outbox.identity.database_id IS 'as in outbox.event';
COMMENT ON COLUMN outbox.identity.system_identifier IS 'database cluster, as pg_control_system() shows it';
COMMENT ON COLUMN outbox.identity.database IS 'oid of the database there';
COMMENT ON COLUMN outbox.identity.database_name IS 'name of the database when its relay first ran';
COMMENT ON COLUMN outbox.identity.adopted IS 'may the pending events of an original be published from here?';

-- A restored dump brings the identity of the original: the relay shall notice.
CREATE FUNCTION outbox.wake_relay() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'outbox_wake_relay';
COMMENT ON FUNCTION outbox.wake_relay() IS
    'makes the relay look at its settings and at outbox.identity again when the transaction commits';
CREATE TRIGGER wake_relay AFTER INSERT OR UPDATE OR DELETE ON outbox.identity
FOR EACH STATEMENT EXECUTE FUNCTION outbox.wake_relay();
-- Like the others that wake somebody: whatever session_replication_role is.
ALTER TABLE outbox.identity ENABLE ALWAYS TRIGGER wake_relay;

CREATE TABLE outbox.watermark (
    id          bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    database_id integer     NOT NULL DEFAULT outbox.database_id(),
    lsn         pg_lsn      NOT NULL,
    snapshot    pg_snapshot NOT NULL,
    upper_xid   xid8        NOT NULL GENERATED ALWAYS AS (pg_catalog.pg_snapshot_xmax(snapshot)) STORED,
    taken_at    timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (database_id, id)
);
CREATE INDEX watermark_upper_xid_idx ON outbox.watermark (database_id, upper_xid);
CREATE INDEX watermark_taken_at_idx ON outbox.watermark (taken_at);

COMMENT ON TABLE outbox.watermark IS
    'how far the relay has come: an event whose xid is visible in the latest snapshot of its database is on Kafka';
COMMENT ON COLUMN outbox.watermark.id IS 'order of the rows; the latest counts';
COMMENT ON COLUMN outbox.watermark.database_id IS 'database whose events it is about';
COMMENT ON COLUMN outbox.watermark.lsn IS 'everything committed up to here is acknowledged by Kafka';
COMMENT ON COLUMN outbox.watermark.snapshot IS 'transactions whose events are acknowledged';
COMMENT ON COLUMN outbox.watermark.upper_xid IS 'upper end of snapshot, to find the first row that shows a transaction';
COMMENT ON COLUMN outbox.watermark.taken_at IS 'when it became true';

CREATE TABLE outbox.exactly_once (
    database_id integer     NOT NULL PRIMARY KEY DEFAULT outbox.database_id(),
    since       timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    timeline    bigint      NOT NULL
);

COMMENT ON TABLE outbox.exactly_once IS
    'has a row while the relay delivers exactly once, and until it has gone on from what that left on Kafka';
COMMENT ON COLUMN outbox.exactly_once.database_id IS 'as in outbox.event';
COMMENT ON COLUMN outbox.exactly_once.since IS 'when it began to';
COMMENT ON COLUMN outbox.exactly_once.timeline IS
    'where it did so last; a server that was restored since to a point in time is perhaps a copy';

CREATE FUNCTION outbox.progress_snapshot(record text) RETURNS pg_snapshot
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'outbox_progress_snapshot';
COMMENT ON FUNCTION outbox.progress_snapshot(text) IS
    'transactions whose events are on Kafka according to a record of the progress topic, not counting a catch-up under way';

CREATE TABLE outbox.catchup (
    database_id  integer     NOT NULL PRIMARY KEY,
    snapshot     pg_snapshot NOT NULL,
    lsn          pg_lsn      NOT NULL,
    last_id      bigint      NOT NULL,
    from_id      bigint,
    events_done  bigint      NOT NULL,
    events_total bigint      NOT NULL,
    saved_at     timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);

COMMENT ON TABLE outbox.catchup IS
    'how far a catch-up has come that takes more than a second: of the events whose xid is visible in the snapshot of their database, those up to last_id are on Kafka';
COMMENT ON COLUMN outbox.catchup.database_id IS 'database whose events it publishes';
COMMENT ON COLUMN outbox.catchup.snapshot IS 'what it publishes: the transactions seen here and not in the latest watermark of that database';
COMMENT ON COLUMN outbox.catchup.lsn IS 'what the snapshot shows was committed before';
COMMENT ON COLUMN outbox.catchup.last_id IS 'without from_id, events up to this id are on Kafka; with from_id, all events of those transactions whose last event has this id or a lower one';
COMMENT ON COLUMN outbox.catchup.from_id IS 'NULL when events are published in the order of ids; else transactions are, in the order of their last events, but for events up to this id, which are on Kafka already';
COMMENT ON COLUMN outbox.catchup.events_done IS 'number of events that Kafka has acknowledged';
COMMENT ON COLUMN outbox.catchup.events_total IS 'number of events to publish, those included';
COMMENT ON COLUMN outbox.catchup.saved_at IS 'when the row was last written, about once a second';

CREATE TABLE outbox.replay_job (
    id             bigint      NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    since          timestamptz NOT NULL,
    until          timestamptz NOT NULL,
    aggregate_type text,
    published      pg_snapshot NOT NULL,
    last_id        bigint      NOT NULL,
    through_id     bigint      NOT NULL,
    total          bigint      NOT NULL,
    sent           bigint      NOT NULL DEFAULT 0,
    requested_by   name        NOT NULL DEFAULT SESSION_USER,
    requested_at   timestamptz NOT NULL DEFAULT pg_catalog.now(),
    finished_at    timestamptz
);
CREATE TRIGGER wake_relay AFTER INSERT ON outbox.replay_job
FOR EACH STATEMENT EXECUTE FUNCTION outbox.wake_relay();
ALTER TABLE outbox.replay_job ENABLE ALWAYS TRIGGER wake_relay;

COMMENT ON TABLE outbox.replay_job IS
    'replays that were asked for, and how far each has come; delete a row to cancel it';
COMMENT ON COLUMN outbox.replay_job.since IS 'events created from then on';
COMMENT ON COLUMN outbox.replay_job.until IS 'up to then';
COMMENT ON COLUMN outbox.replay_job.aggregate_type IS 'of this type only, when not NULL';
COMMENT ON COLUMN outbox.replay_job.published IS 'what was published when it was asked for';
COMMENT ON COLUMN outbox.replay_job.last_id IS 'id of the last event that was sent';
COMMENT ON COLUMN outbox.replay_job.through_id IS 'id of the last event to send';
COMMENT ON COLUMN outbox.replay_job.total IS 'number of events to send';
COMMENT ON COLUMN outbox.replay_job.sent IS 'number of events that Kafka has acknowledged';
COMMENT ON COLUMN outbox.replay_job.requested_by IS 'who asked';
COMMENT ON COLUMN outbox.replay_job.requested_at IS 'when';
COMMENT ON COLUMN outbox.replay_job.finished_at IS 'when all of it was on Kafka';

--
-- Events that Kafka refuses for good.  Written by the relay alone; retry() and
-- discard() mark or remove.
--

CREATE TABLE outbox.dead_letter (
    position    bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    event_id    text        NOT NULL,
    topic       text        NOT NULL,
    key         text,
    error_code  text        NOT NULL,
    error       text        NOT NULL,
    attempts    integer     NOT NULL DEFAULT 1,
    failed_at   timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    state       text        NOT NULL DEFAULT 'failed' CHECK (state OPERATOR(pg_catalog.=) ANY (ARRAY['failed', 'retrying'])),
    holds       boolean     NOT NULL,
    replay      boolean     NOT NULL,
    id          bigint      NOT NULL PRIMARY KEY,
    chunk       smallint    NOT NULL,
    xid         xid8        NOT NULL,
    database_id integer     NOT NULL
);
CREATE INDEX dead_letter_event_id_idx ON outbox.dead_letter (event_id);
CREATE INDEX dead_letter_topic_idx ON outbox.dead_letter (topic);
CREATE INDEX dead_letter_retrying_idx ON outbox.dead_letter (position) WHERE state OPERATOR(pg_catalog.=) 'retrying';
CREATE INDEX dead_letter_holds_idx ON outbox.dead_letter (position) WHERE holds;
CREATE TRIGGER wake_relay AFTER UPDATE OR DELETE OR TRUNCATE ON outbox.dead_letter
FOR EACH STATEMENT EXECUTE FUNCTION outbox.wake_relay();
ALTER TABLE outbox.dead_letter ENABLE ALWAYS TRIGGER wake_relay;

COMMENT ON TABLE outbox.dead_letter IS
    'events that Kafka refuses for good; see outbox.retry() and outbox.discard()';
COMMENT ON COLUMN outbox.dead_letter.position IS 'order in which they were refused, and are sent again';
COMMENT ON COLUMN outbox.dead_letter.event_id IS 'as in outbox.event';
COMMENT ON COLUMN outbox.dead_letter.topic IS 'Kafka topic that it was sent to';
COMMENT ON COLUMN outbox.dead_letter.key IS 'Kafka key that it was sent with';
COMMENT ON COLUMN outbox.dead_letter.error_code IS 'librdkafka''s name of the error';
COMMENT ON COLUMN outbox.dead_letter.error IS 'what Kafka said when it was last refused';
COMMENT ON COLUMN outbox.dead_letter.attempts IS 'how often it was refused';
COMMENT ON COLUMN outbox.dead_letter.failed_at IS 'when it was last refused';
COMMENT ON COLUMN outbox.dead_letter.state IS 'failed, or retrying when it is to be sent again';
COMMENT ON COLUMN outbox.dead_letter.holds IS 'do later events of topic and key wait behind it, in outbox.held_event?';
COMMENT ON COLUMN outbox.dead_letter.replay IS 'was it published before, and refused when outbox.replay() sent it again?';
COMMENT ON COLUMN outbox.dead_letter.id IS 'row in outbox.event';
COMMENT ON COLUMN outbox.dead_letter.chunk IS 'partition of outbox.event';
COMMENT ON COLUMN outbox.dead_letter.xid IS 'transaction that published';
COMMENT ON COLUMN outbox.dead_letter.database_id IS 'database that published';

CREATE TABLE outbox.held_event (
    position    bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    event_id    text        NOT NULL,
    topic       text        NOT NULL,
    key         text,
    partition   integer,
    held_at     timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    replay      boolean     NOT NULL DEFAULT false,
    id          bigint      NOT NULL PRIMARY KEY,
    chunk       smallint    NOT NULL,
    xid         xid8        NOT NULL,
    database_id integer     NOT NULL,
    CHECK (key IS NOT NULL OR partition IS NOT NULL)
);
-- A key may be longer than an index has room for.
CREATE INDEX held_event_key_idx ON outbox.held_event
    (topic, pg_catalog.hashtextextended(key, 0::pg_catalog.int8), position) WHERE partition IS NULL;
CREATE INDEX held_event_parked_idx ON outbox.held_event (topic, partition, position) WHERE partition IS NOT NULL;
CREATE INDEX held_event_event_id_idx ON outbox.held_event (event_id);

COMMENT ON TABLE outbox.held_event IS
    'events that wait: for their topic, which cannot be written now (outbox.stat_topic), or behind a dead letter of the same topic and key (outbox.on_dead_letter)';
COMMENT ON COLUMN outbox.held_event.position IS 'order in which they will be sent';
COMMENT ON COLUMN outbox.held_event.event_id IS 'as in outbox.event';
COMMENT ON COLUMN outbox.held_event.topic IS 'Kafka topic';
COMMENT ON COLUMN outbox.held_event.key IS 'Kafka key';
COMMENT ON COLUMN outbox.held_event.partition IS 'partition that cannot be written, or -1 for its topic as a whole; NULL when it waits behind a dead letter';
COMMENT ON COLUMN outbox.held_event.held_at IS 'when the relay met it';
COMMENT ON COLUMN outbox.held_event.replay IS 'was it published before, and is to be sent again by outbox.replay()?';
COMMENT ON COLUMN outbox.held_event.id IS 'row in outbox.event';
COMMENT ON COLUMN outbox.held_event.chunk IS 'partition of outbox.event';
COMMENT ON COLUMN outbox.held_event.xid IS 'transaction that published';
COMMENT ON COLUMN outbox.held_event.database_id IS 'database that published';

-- Topics, or partitions of them, that cannot be written now.  Written by the
-- relay alone.
CREATE TABLE outbox.parked_topic (
    topic      text        NOT NULL,
    partition  integer     NOT NULL,
    state      text        NOT NULL CHECK (state OPERATOR(pg_catalog.=) ANY (ARRAY['waiting', 'sending'])),
    error_code text        NOT NULL,
    error      text        NOT NULL,
    since      timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (topic, partition)
);
COMMENT ON TABLE outbox.parked_topic IS
    'topics and partitions that cannot be written now, so that their events wait in outbox.held_event; see outbox.stat_topic';
COMMENT ON COLUMN outbox.parked_topic.topic IS 'Kafka topic';
COMMENT ON COLUMN outbox.parked_topic.partition IS 'partition of it, or -1 for all';
COMMENT ON COLUMN outbox.parked_topic.state IS 'waiting, or sending when it can be written again and those that waited are being sent';
COMMENT ON COLUMN outbox.parked_topic.error_code IS 'librdkafka''s name of the error';
COMMENT ON COLUMN outbox.parked_topic.error IS 'why it cannot be written';
COMMENT ON COLUMN outbox.parked_topic.since IS 'when the relay found out';

CREATE TABLE outbox.discarded_event (
    id           bigint      NOT NULL PRIMARY KEY,
    chunk        smallint    NOT NULL,
    xid          xid8        NOT NULL,
    database_id  integer     NOT NULL,
    event_id     text        NOT NULL,
    topic        text        NOT NULL,
    key          text,
    error        text        NOT NULL,
    discarded_by name        NOT NULL DEFAULT session_user,
    discarded_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE outbox.discarded_event IS
    'events that outbox.discard() gave up; rows go some time after the event has left outbox.event';
COMMENT ON COLUMN outbox.discarded_event.id IS 'row in outbox.event';
COMMENT ON COLUMN outbox.discarded_event.chunk IS 'partition of outbox.event';
COMMENT ON COLUMN outbox.discarded_event.xid IS 'transaction that published';
COMMENT ON COLUMN outbox.discarded_event.database_id IS 'database that published';
COMMENT ON COLUMN outbox.discarded_event.event_id IS 'as in outbox.event';
COMMENT ON COLUMN outbox.discarded_event.topic IS 'Kafka topic that it was for';
COMMENT ON COLUMN outbox.discarded_event.key IS 'Kafka key';
COMMENT ON COLUMN outbox.discarded_event.error IS 'why it was not on Kafka';
COMMENT ON COLUMN outbox.discarded_event.discarded_by IS 'role that gave it up';
COMMENT ON COLUMN outbox.discarded_event.discarded_at IS 'when';

-- What a dump of the database carries.
SELECT pg_catalog.pg_extension_config_dump('outbox.event', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.event_0', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.event_1', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.event_2', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.event_3', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.event_4', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.event_5', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.event_6', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.event_7', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.event_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.event_chunk_seq', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.identity', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.watermark', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.watermark_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.dead_letter', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.dead_letter_position_seq', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.held_event', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.held_event_position_seq', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.parked_topic', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.discarded_event', '');
SELECT pg_catalog.pg_extension_config_dump('outbox.catchup', '');

--
-- Publishing.
--

CREATE FUNCTION outbox.publish(
    aggregate_type  text,
    aggregate_id    text,
    event_type      text,
    payload         jsonb,
    headers         jsonb       DEFAULT NULL,
    event_id        uuid        DEFAULT NULL,
    topic           text        DEFAULT NULL,
    partition_key   text        DEFAULT NULL,
    deliver_at      timestamptz DEFAULT NULL,
    idempotency_key text        DEFAULT NULL
) RETURNS uuid
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'outbox_publish';
COMMENT ON FUNCTION outbox.publish(text, text, text, jsonb, jsonb, uuid, text, text, timestamptz, text) IS
    'publish a JSON event to Kafka if and when this transaction commits; returns the event''s id';

CREATE FUNCTION outbox.publish_bytes(
    aggregate_type  text,
    aggregate_id    text,
    event_type      text,
    payload         bytea,
    content_type    text        DEFAULT 'application/octet-stream',
    headers         jsonb       DEFAULT NULL,
    event_id        uuid        DEFAULT NULL,
    topic           text        DEFAULT NULL,
    partition_key   text        DEFAULT NULL,
    deliver_at      timestamptz DEFAULT NULL,
    idempotency_key text        DEFAULT NULL
) RETURNS uuid
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'outbox_publish_bytes';
COMMENT ON FUNCTION outbox.publish_bytes(text, text, text, bytea, text, jsonb, uuid, text, text, timestamptz, text) IS
    'publish an event of any bytes to Kafka if and when this transaction commits; returns the event''s id';

CREATE FUNCTION outbox.wait_published(timeout interval DEFAULT '10 s') RETURNS boolean
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'outbox_wait_published';
COMMENT ON FUNCTION outbox.wait_published(interval) IS
    'waits until the relay is done with everything that this session committed: it is on Kafka, or a dead letter, or waits behind one or for its topic; false when it takes longer';

CREATE FUNCTION outbox.resume(pending boolean) RETURNS void
LANGUAGE plpgsql STRICT VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    LOCK TABLE outbox.identity IN EXCLUSIVE MODE;
    IF NOT EXISTS (SELECT FROM outbox.identity WHERE database_id <> outbox.database_id() AND NOT adopted) THEN
        RAISE EXCEPTION 'this database is not a copy that waits to be adopted'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = format('Its relay is in state "%s".', (SELECT state FROM outbox.relay_status())),
                  HINT = 'outbox.resume() is for a database that was restored from a dump or copied.';
    END IF;
    IF pending THEN
        UPDATE outbox.identity SET adopted = true WHERE database_id <> outbox.database_id();
    ELSE
        -- a snapshot that shows every transaction that there can be
        INSERT INTO outbox.watermark (database_id, lsn, snapshot)
        SELECT database_id, '0/0', '9223372036854775807:9223372036854775807:'
        FROM outbox.identity WHERE database_id <> outbox.database_id();
        INSERT INTO outbox.watermark (lsn, snapshot)
        VALUES (pg_current_wal_insert_lsn(), pg_current_snapshot());
        DELETE FROM outbox.held_event WHERE database_id <> outbox.database_id();
        DELETE FROM outbox.dead_letter WHERE database_id <> outbox.database_id();
        DELETE FROM outbox.discarded_event WHERE database_id <> outbox.database_id();
        DELETE FROM outbox.catchup;
        DELETE FROM outbox.identity WHERE database_id <> outbox.database_id();
    END IF;
END
$$;
COMMENT ON FUNCTION outbox.resume(boolean) IS
    'adopt a copied database: publish what its original had not published (true) or count it as done (false)';

CREATE FUNCTION outbox.replay(since timestamptz, until timestamptz DEFAULT pg_catalog.now(), aggregate_type text DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    mark pg_snapshot;
    events bigint;
BEGIN
    IF replay.since IS NULL OR replay.until IS NULL THEN
        RAISE EXCEPTION 'since and until must not be NULL'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Use ''-infinity'' for everything that is still in the table.';
    END IF;
    IF replay.since > replay.until THEN
        RAISE EXCEPTION 'since is later than until'
            USING ERRCODE = 'invalid_parameter_value',
                  DETAIL = format('since is %s, until is %s.', replay.since, replay.until),
                  HINT = 'Exchange them.';
    END IF;
    SELECT w.snapshot INTO mark FROM outbox.watermark w
    WHERE w.database_id = outbox.database_id() ORDER BY w.id DESC LIMIT 1;
    IF mark IS NULL THEN
        RETURN 0;
    END IF;

    INSERT INTO outbox.replay_job AS j (since, until, aggregate_type, published, last_id, through_id, total)
    SELECT replay.since, replay.until, replay.aggregate_type, mark, min(e.id) - 1, max(e.id), count(*)
    FROM outbox.event e
    WHERE e.created_at BETWEEN replay.since AND replay.until
      AND (replay.aggregate_type IS NULL OR e.aggregate_type = replay.aggregate_type)
      AND e.database_id = outbox.database_id() AND pg_visible_in_snapshot(e.xid, mark)
      AND NOT EXISTS (SELECT FROM outbox.dead_letter d WHERE d.id = e.id AND d.database_id = e.database_id)
      AND NOT EXISTS (SELECT FROM outbox.held_event h WHERE h.id = e.id AND h.database_id = e.database_id)
      AND NOT EXISTS (SELECT FROM outbox.discarded_event x WHERE x.id = e.id AND x.database_id = e.database_id)
    HAVING count(*) > 0
    RETURNING j.total INTO events;
    RETURN coalesce(events, 0);
END
$$;
COMMENT ON FUNCTION outbox.replay(timestamptz, timestamptz, text) IS
    'send published events again, in order, with header "replay"; returns how many, outbox.replay_job shows the progress';

CREATE FUNCTION outbox.retry(event_id uuid) RETURNS boolean
LANGUAGE plpgsql STRICT VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM outbox.dead_letter d WHERE d.event_id = retry.event_id::text
               AND NOT EXISTS (SELECT FROM outbox.event e WHERE e.id = d.id AND e.chunk = d.chunk AND e.database_id = d.database_id)) THEN
        RAISE EXCEPTION 'event % cannot be sent again', retry.event_id
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  DETAIL = 'It is no longer in outbox.event.',
                  HINT = 'Use outbox.discard() to forget it.';
    END IF;
    UPDATE outbox.dead_letter d SET state = 'retrying' WHERE d.event_id = retry.event_id::text;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION outbox.retry(uuid) IS
    'send a dead letter again, once this transaction commits; false when there is no such dead letter';

CREATE FUNCTION outbox.retry(event_id text) RETURNS boolean
LANGUAGE plpgsql STRICT VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN outbox.retry(retry.event_id::uuid);
END
$$;
COMMENT ON FUNCTION outbox.retry(text) IS
    'send a dead letter again, once this transaction commits; false when there is no such dead letter';

CREATE FUNCTION outbox.retry_all(topic text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    letters bigint;
BEGIN
    UPDATE outbox.dead_letter d SET state = 'retrying'
    WHERE d.state = 'failed' AND (retry_all.topic IS NULL OR d.topic = retry_all.topic)
      AND EXISTS (SELECT FROM outbox.event e WHERE e.id = d.id AND e.chunk = d.chunk AND e.database_id = d.database_id);
    GET DIAGNOSTICS letters = ROW_COUNT;
    RETURN letters;
END
$$;
COMMENT ON FUNCTION outbox.retry_all(text) IS
    'send all dead letters of a topic again, or of all topics; returns how many';

-- Gives events up that are not on Kafka; rows are the arguments' ids.
CREATE FUNCTION outbox.discard_rows(ids bigint[]) RETURNS bigint
LANGUAGE plpgsql STRICT VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    events bigint;
BEGIN
    DELETE FROM outbox.discarded_event x
    WHERE NOT EXISTS (SELECT FROM outbox.event e WHERE e.id = x.id AND e.chunk = x.chunk AND e.database_id = x.database_id);
    WITH letters AS (
        DELETE FROM outbox.dead_letter d WHERE d.id = ANY (ids)
        RETURNING d.id, d.chunk, d.xid, d.database_id, d.event_id, d.topic, d.key, d.error, d.replay
    ), held AS (
        DELETE FROM outbox.held_event h WHERE h.id = ANY (ids)
        RETURNING h.id, h.chunk, h.xid, h.database_id, h.event_id, h.topic, h.key,
                  coalesce((SELECT p.error FROM outbox.parked_topic p WHERE p.topic = h.topic AND p.partition = h.partition),
                           'waited behind a dead letter') AS error, h.replay
    ), both_kinds AS (
        SELECT * FROM letters UNION ALL SELECT * FROM held
    ), noted AS (
        -- one that was published before, and was only to be replayed, still counts as published
        INSERT INTO outbox.discarded_event (id, chunk, xid, database_id, event_id, topic, key, error)
        SELECT id, chunk, xid, database_id, event_id, topic, key, error FROM both_kinds WHERE NOT replay
        ON CONFLICT (id) DO NOTHING
    )
    SELECT count(*) INTO events FROM both_kinds;
    RETURN events;
END
$$;
COMMENT ON FUNCTION outbox.discard_rows(bigint[]) IS
    'for outbox.discard() and outbox.discard_all()';

CREATE FUNCTION outbox.discard(event_id uuid) RETURNS boolean
LANGUAGE plpgsql STRICT VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN outbox.discard_rows(ARRAY(
        SELECT d.id FROM outbox.dead_letter d WHERE d.event_id = discard.event_id::text
        UNION ALL
        SELECT h.id FROM outbox.held_event h WHERE h.event_id = discard.event_id::text)) > 0;
END
$$;
COMMENT ON FUNCTION outbox.discard(uuid) IS
    'give up an event that is a dead letter or waits, and let those go on that wait behind it; false when it is neither';

CREATE FUNCTION outbox.discard(event_id text) RETURNS boolean
LANGUAGE plpgsql STRICT VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN outbox.discard(discard.event_id::uuid);
END
$$;
COMMENT ON FUNCTION outbox.discard(text) IS
    'give up an event that is a dead letter or waits, and let those go on that wait behind it; false when it is neither';

CREATE FUNCTION outbox.discard_all(topic text) RETURNS bigint
LANGUAGE plpgsql STRICT VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN outbox.discard_rows(ARRAY(
        SELECT d.id FROM outbox.dead_letter d WHERE d.topic = discard_all.topic
        UNION ALL
        SELECT h.id FROM outbox.held_event h WHERE h.topic = discard_all.topic));
END
$$;
COMMENT ON FUNCTION outbox.discard_all(text) IS
    'give up all events of a topic that are dead letters or wait; returns how many';

--
-- Kafka settings.
--

CREATE FUNCTION outbox.kafka_validator(options text[], catalog oid) RETURNS void
LANGUAGE C STRICT VOLATILE
AS 'MODULE_PATHNAME', 'outbox_kafka_validator';
COMMENT ON FUNCTION outbox.kafka_validator(text[], oid) IS
    'checks the options of servers and user mappings of outbox_kafka, asking librdkafka';

CREATE FOREIGN DATA WRAPPER outbox_kafka VALIDATOR outbox.kafka_validator;
COMMENT ON FOREIGN DATA WRAPPER outbox_kafka IS
    'Kafka settings: the options of the server named "kafka" are librdkafka properties';

--
-- Monitoring.
--

CREATE FUNCTION outbox.utf8_text(bytes bytea) RETURNS text
LANGUAGE C STRICT IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'outbox_utf8_text';
COMMENT ON FUNCTION outbox.utf8_text(bytea) IS
    'bytes in UTF-8 as text; NULL when they are not, or have characters that the encoding of the database does not have';

CREATE VIEW outbox.events AS
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
COMMENT ON VIEW outbox.events IS
    'events with a readable payload and whether each is on Kafka yet, or was refused';

CREATE FUNCTION outbox.relay_status(
    OUT state                  text,
    OUT pid                    integer,
    OUT slot_name              name,
    OUT received_lsn           pg_lsn,
    OUT confirmed_lsn          pg_lsn,
    OUT lag_bytes              bigint,
    OUT lag_seconds            double precision,
    OUT events                 bigint,
    OUT bytes                  bigint,
    OUT in_flight              bigint,
    OUT retries                bigint,
    OUT round_trip_ms          double precision,
    OUT last_error             text,
    OUT last_error_at          timestamptz,
    OUT started_at             timestamptz,
    OUT librdkafka_version     text,
    OUT catchup_done           bigint,
    OUT catchup_left           bigint,
    OUT state_since            timestamptz,
    OUT held_bytes             bigint,
    OUT pinned_bytes           bigint,
    OUT pinned_xid             xid,
    OUT pinned_pid             integer
) RETURNS record
LANGUAGE C VOLATILE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'outbox_relay_status';
COMMENT ON FUNCTION outbox.relay_status() IS
    'the state of this database''s relay, out of shared memory; see outbox.stat_relay';

-- Ids follow commits but for transactions that overlap, so the place where
-- events begin that no watermark shows is found by halves; those of overlapping
-- transactions are not far in front of it.
CREATE FUNCTION outbox.pending_since() RETURNS timestamptz
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off
AS $$
DECLARE
    place integer;
    mark pg_snapshot;
    first bigint;
    low bigint;
    high bigint;
    event record;
    oldest timestamptz;
BEGIN
    FOR place IN SELECT outbox.database_id() UNION SELECT i.database_id FROM outbox.identity i WHERE i.adopted LOOP
        SELECT e.id INTO high FROM outbox.event e WHERE e.database_id = place ORDER BY e.id DESC LIMIT 1;
        CONTINUE WHEN high IS NULL;
        high := high + 1;
        mark := coalesce((SELECT w.snapshot FROM outbox.watermark w WHERE w.database_id = place ORDER BY w.id DESC LIMIT 1),
                         '1:1:');
        -- a catch-up has published what is in front
        first := coalesce((SELECT coalesce(c.from_id, c.last_id) + 1 FROM outbox.catchup c WHERE c.database_id = place), 0);
        SELECT e.id INTO low FROM outbox.event e WHERE e.database_id = place AND e.id >= first ORDER BY e.id LIMIT 1;
        WHILE low < high LOOP
            SELECT e.id, e.xid INTO event FROM outbox.event e
            WHERE e.database_id = place AND e.id >= low + (high - low) / 2 ORDER BY e.id LIMIT 1;
            IF pg_visible_in_snapshot(event.xid, mark) THEN
                low := event.id + 1;
            ELSE
                high := low + (high - low) / 2;
            END IF;
        END LOOP;
        SELECT e.created_at INTO event FROM outbox.event e
        WHERE e.database_id = place AND e.id >= greatest(first, high - 10000) AND NOT pg_visible_in_snapshot(e.xid, mark)
        ORDER BY e.id LIMIT 1;
        oldest := least(oldest, event.created_at);
    END LOOP;
    RETURN oldest;
END
$$;
COMMENT ON FUNCTION outbox.pending_since() IS
    'when the oldest event was published that no watermark shows, as the table tells; NULL when there is none';

CREATE VIEW outbox.stat_relay AS
SELECT s.state, s.pid, coalesce(s.slot_name, r.slot_name) AS slot_name, s.received_lsn,
       coalesce(s.confirmed_lsn, r.confirmed_flush_lsn) AS confirmed_lsn,
       coalesce(s.lag_bytes, CASE WHEN NOT pg_catalog.pg_is_in_recovery()
                             THEN pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_insert_lsn(), r.confirmed_flush_lsn)::bigint
                             END) AS lag_bytes,
       -- what it sends it knows best; else the table tells whether there is something to send
       CASE WHEN s.lag_seconds > 0 OR s.state IN ('streaming', 'polling') THEN s.lag_seconds
            ELSE coalesce(greatest(extract(epoch FROM pg_catalog.clock_timestamp() - outbox.pending_since()), 0)::float8, 0)
       END AS lag_seconds,
       s.events, s.bytes, s.in_flight, s.retries, s.round_trip_ms,
       (SELECT pg_catalog.count(*) FROM outbox.dead_letter) AS dead_letters,
       s.last_error, s.last_error_at, s.started_at, s.librdkafka_version,
       s.catchup_done, s.catchup_left,
       (SELECT pg_catalog.count(*) FROM outbox.held_event) AS waiting_events,
       s.state_since,
       s.held_bytes, s.pinned_bytes, t.pinned_by, t.pinned_since
FROM outbox.relay_status() s
-- one that is left over, while no relay tells of it
LEFT JOIN pg_catalog.pg_replication_slots r ON s.slot_name IS NULL AND r.plugin = 'outbox'
      AND r.datoid = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
      AND r.slot_name = 'outbox_' || r.datoid
LEFT JOIN LATERAL (
    SELECT 'process ' || a.pid AS pinned_by, a.xact_start AS pinned_since
    FROM pg_catalog.pg_stat_get_activity(s.pinned_pid) a
    WHERE a.pid = s.pinned_pid
    UNION ALL
    SELECT pg_catalog.format('prepared transaction "%s"', p.gid), p.prepared
    FROM pg_catalog.pg_prepared_xact() p
    WHERE p.transaction = s.pinned_xid
) t ON true;
COMMENT ON VIEW outbox.stat_relay IS
    'one row: what the relay of this database does, how far behind it is and what went wrong last';
COMMENT ON COLUMN outbox.stat_relay.state_since IS 'since when it is in that state';
COMMENT ON COLUMN outbox.stat_relay.lag_seconds IS
    'age of the oldest event that waits to be acknowledged, 0 when there is none: since its commit, or, where the relay does not know that, since the start of its transaction';
COMMENT ON COLUMN outbox.stat_relay.catchup_done IS
    'events of the present catch-up that Kafka has acknowledged, those before a restart included as far as they were stored; NULL when there is none';
COMMENT ON COLUMN outbox.stat_relay.catchup_left IS
    'events that it has still to publish: counted when the catch-up, or this relay, began it, so rows removed since still count; events published since are not among them';

COMMENT ON COLUMN outbox.stat_relay.waiting_events IS
    'events in outbox.held_event, which wait for their topic or behind a dead letter; see outbox.stat_topic';
COMMENT ON COLUMN outbox.stat_relay.held_bytes IS
    'WAL that the server keeps for the slot; NULL when there is none';
COMMENT ON COLUMN outbox.stat_relay.pinned_bytes IS
    'the part of it that is done with, and kept for transactions that were open in it';
COMMENT ON COLUMN outbox.stat_relay.pinned_by IS
    'the first open transaction that has written, in any database: WAL is kept for it, or a new slot waits for it to end';
COMMENT ON COLUMN outbox.stat_relay.pinned_since IS
    'when that began, or was prepared; NULL for who may not see it';

CREATE VIEW outbox.stat_topic AS
SELECT p.topic,
       CASE WHEN pg_catalog.bool_or(p.state = 'sending') THEN 'sending' ELSE 'waiting' END AS state,
       CASE WHEN pg_catalog.min(p.partition) >= 0 THEN pg_catalog.array_agg(p.partition ORDER BY p.partition) END AS partitions,
       pg_catalog.sum(h.events)::bigint AS waiting_events,
       pg_catalog.min(h.oldest) AS oldest,
       (pg_catalog.array_agg(p.error ORDER BY p.since DESC))[1] AS last_error,
       pg_catalog.min(p.since) AS since
FROM outbox.parked_topic p,
LATERAL (
    SELECT pg_catalog.count(*) AS events,
           (SELECT e.created_at FROM outbox.held_event f
            JOIN outbox.event e ON e.id = f.id AND e.chunk = f.chunk AND e.database_id = f.database_id
            WHERE f.topic = p.topic AND f.partition = p.partition ORDER BY f.position LIMIT 1) AS oldest
    FROM outbox.held_event h WHERE h.topic = p.topic AND h.partition = p.partition
) h
GROUP BY p.topic;
COMMENT ON VIEW outbox.stat_topic IS
    'topics that cannot be written now: their events wait, and all others go on';
COMMENT ON COLUMN outbox.stat_topic.state IS
    'waiting, or sending when it can be written again and those that waited are being sent';
COMMENT ON COLUMN outbox.stat_topic.partitions IS 'those that cannot be written; NULL for all';
COMMENT ON COLUMN outbox.stat_topic.waiting_events IS 'how many events wait';
COMMENT ON COLUMN outbox.stat_topic.oldest IS 'when the first of them was published';
COMMENT ON COLUMN outbox.stat_topic.last_error IS 'why the topic cannot be written';
COMMENT ON COLUMN outbox.stat_topic.since IS 'when the relay found out';

CREATE FUNCTION outbox.watch_extension() RETURNS void
LANGUAGE C VOLATILE
AS 'MODULE_PATHNAME', 'outbox_watch_extension';
COMMENT ON FUNCTION outbox.watch_extension() IS
    'has the replication slot go with the extension, should this session drop it';

-- In a server that was started without the library nothing of it runs in a
-- session before this.  Whoever gives the command needs no right for it: that
-- is the command's affair.  Without the library's file it is not known what the
-- command drops, but then nobody can publish, either, and a slot that is dropped
-- in vain does no harm: the next relay takes the events from the table.
CREATE FUNCTION outbox.drop_slot() RETURNS event_trigger
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
CREATE EVENT TRIGGER outbox_drop_slot ON ddl_command_start
WHEN TAG IN ('DROP EXTENSION', 'DROP LANGUAGE', 'DROP OWNED', 'DROP SCHEMA')
EXECUTE FUNCTION outbox.drop_slot();
COMMENT ON EVENT TRIGGER outbox_drop_slot IS
    'the replication slot goes with the extension, whether or not its library is loaded';

--
-- Inbox: who takes what from Kafka, and how far they are.
--

CREATE FUNCTION inbox.wake_consumers() RETURNS trigger
LANGUAGE C AS 'MODULE_PATHNAME', 'outbox_wake_consumers';
COMMENT ON FUNCTION inbox.wake_consumers() IS
    'makes the consumers look at inbox.subscription again when the transaction commits';

CREATE TABLE inbox.subscription (
    name               text        NOT NULL PRIMARY KEY,
    topics             text[]      NOT NULL,
    handler            text        NOT NULL,
    role_id            oid         NOT NULL,
    role_name          name        NOT NULL,
    server             name        NOT NULL,
    start              text        NOT NULL,
    max_attempts       integer     NOT NULL,
    retry_backoff      interval    NOT NULL,
    ordering           text        NOT NULL CHECK (ordering OPERATOR(pg_catalog.=) ANY (ARRAY['key', 'partition', 'none'])),
    on_failure         text        NOT NULL CHECK (on_failure OPERATOR(pg_catalog.=) ANY (ARRAY['dead_letter', 'stop'])),
    batch_size         integer     NOT NULL,
    workers            integer     NOT NULL,
    filter_event_types text[],
    isolation          text        NOT NULL CHECK (isolation OPERATOR(pg_catalog.=) ANY
                                   (ARRAY['read_committed', 'read_uncommitted', 'repeatable_read', 'serializable'])),
    keep               interval,
    handler_timeout    interval    NOT NULL,
    group_id           text,
    paused             boolean     NOT NULL DEFAULT false,
    stopped_by         text,
    database_id        integer     NOT NULL DEFAULT outbox.database_id(),
    generation         bigint      NOT NULL DEFAULT 1,
    created_at         timestamptz NOT NULL DEFAULT pg_catalog.now(),
    changed_at         timestamptz NOT NULL DEFAULT pg_catalog.now(),
    takes_array        boolean,
    dedupe             text        NOT NULL DEFAULT 'header' CHECK (dedupe OPERATOR(pg_catalog.=) ANY (ARRAY['header', 'field', 'offset', 'none'])),
    id_header          text        DEFAULT 'id',
    type_header        text        DEFAULT 'type',
    id_field           text,
    aggregate_id_field text,
    type_field         text,
    dedupe_scope       text        NOT NULL DEFAULT 'topic' CHECK (dedupe_scope OPERATOR(pg_catalog.=) ANY (ARRAY['topic', 'subscription'])),
    on_conflict        text        NOT NULL DEFAULT 'ignore' CHECK (on_conflict OPERATOR(pg_catalog.=) ANY (ARRAY['ignore', 'error'])),
    batch_time         interval    NOT NULL DEFAULT '1 s',
    stopped_topic      text
);
CREATE TRIGGER wake_consumers AFTER INSERT OR UPDATE OR DELETE ON inbox.subscription
FOR EACH STATEMENT EXECUTE FUNCTION inbox.wake_consumers();
ALTER TABLE inbox.subscription ENABLE ALWAYS TRIGGER wake_consumers;

COMMENT ON TABLE inbox.subscription IS
    'who takes what from Kafka; changed by inbox.subscribe() and its kin only';
COMMENT ON COLUMN inbox.subscription.name IS 'name of the subscription';
COMMENT ON COLUMN inbox.subscription.topics IS 'topics; one that begins with ^ is a regular expression';
COMMENT ON COLUMN inbox.subscription.handler IS
    'name of the function, qualified and quoted; see takes_array';
COMMENT ON COLUMN inbox.subscription.role_id IS
    'role that subscribed: the handler runs as it, with the settings that its sessions have';
COMMENT ON COLUMN inbox.subscription.role_name IS 'name that the role had; finds the role again after a restore';
COMMENT ON COLUMN inbox.subscription.server IS 'foreign server with the Kafka settings';
COMMENT ON COLUMN inbox.subscription.start IS
    'where a partition begins that has no position yet: earliest, or a time, in ISO 8601, or latest, which is created_at';
COMMENT ON COLUMN inbox.subscription.max_attempts IS 'calls of the handler for a message before it counts as failed';
COMMENT ON COLUMN inbox.subscription.retry_backoff IS 'pause after the first attempt; doubles, to 1 minute';
COMMENT ON COLUMN inbox.subscription.ordering IS 'what waits for a message that is retried: its key, its partition or nothing';
COMMENT ON COLUMN inbox.subscription.on_failure IS 'dead_letter: go on without a failed message; stop: stop at it';
COMMENT ON COLUMN inbox.subscription.batch_size IS 'messages of one transaction, at most';
COMMENT ON COLUMN inbox.subscription.workers IS 'number of workers; partition p belongs to worker p modulo workers';
COMMENT ON COLUMN inbox.subscription.filter_event_types IS 'only messages of these event types; NULL for all';
COMMENT ON COLUMN inbox.subscription.isolation IS
    'read_uncommitted: messages of aborted Kafka transactions too; repeatable_read, serializable: what the handler''s transaction sees';
COMMENT ON COLUMN inbox.subscription.keep IS
    'how long processed messages stay in inbox.message, at least; zero: they are not stored; NULL: as long as inbox.dedupe_window';
COMMENT ON COLUMN inbox.subscription.handler_timeout IS 'longest time that one call of the handler may take';
COMMENT ON COLUMN inbox.subscription.group_id IS
    'Kafka group that the offsets are reported to; NULL: <name of the database>.<name>';
COMMENT ON COLUMN inbox.subscription.paused IS 'set by inbox.pause()';
COMMENT ON COLUMN inbox.subscription.stopped_by IS
    'event_id of the message that stopped the subscription; reset by inbox.retry() or inbox.discard() of it';
COMMENT ON COLUMN inbox.subscription.stopped_topic IS 'topic of that message; NULL: not known';
COMMENT ON COLUMN inbox.subscription.database_id IS
    'database that it is for, see outbox.database_id(): in a copy, where it differs, nothing is consumed until inbox.resume()';
COMMENT ON COLUMN inbox.subscription.generation IS
    'grows with every change that workers shall notice, those of seek, retry and discard too';
COMMENT ON COLUMN inbox.subscription.created_at IS 'when it was made';
COMMENT ON COLUMN inbox.subscription.changed_at IS 'when it was changed last';
COMMENT ON COLUMN inbox.subscription.takes_array IS
    'of two functions of the handler''s name: is it the one for an array of messages? NULL: not known, and two are an error';
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

-- A worker makes the row of a partition when it first meets it, and takes it
-- over by raising its fence.  Every batch moves next_offset WHERE the fence is
-- still its own.  inbox.seek() raises the fence too, so that a batch that is
-- under way fails, and the worker reads the row again.  It sets next_offset
-- when it was given an offset; given a time, it sets seek_time, which the
-- worker turns into next_offset ('-infinity' is the first offset there is,
-- 'infinity' the end) and resets to NULL.  Duplicates below rerun_until are
-- processed once more, unless they were since rerun_since.  A fence begins at random, so that a worker of a
-- subscription that has ended finds its own nowhere in a new one of the name.
CREATE TABLE inbox.position (
    subscription text        NOT NULL REFERENCES inbox.subscription ON DELETE CASCADE,
    topic        text        NOT NULL,
    partition    integer     NOT NULL,
    next_offset  bigint,
    fence        bigint      NOT NULL DEFAULT pg_catalog.hashtextextended(
        pg_catalog.gen_random_uuid()::pg_catalog.text, 0::pg_catalog.int8) OPERATOR(pg_catalog.>>) 1::pg_catalog.int4,
    seek_time    timestamptz,
    rerun_until  bigint,
    end_offset   bigint,
    lost_from    bigint,
    lost_until   bigint,
    received     bigint      NOT NULL DEFAULT 0,
    processed    bigint      NOT NULL DEFAULT 0,
    duplicates   bigint      NOT NULL DEFAULT 0,
    updated_at   timestamptz NOT NULL DEFAULT pg_catalog.now(),
    rerun_since  timestamptz,
    conflicts    bigint      NOT NULL DEFAULT 0,
    last_offset     bigint      NOT NULL DEFAULT -1,
    last_checksum   bigint      NOT NULL DEFAULT 0,
    before_offset   bigint      NOT NULL DEFAULT -1,
    before_checksum bigint      NOT NULL DEFAULT 0,
    cluster_id      text,
    lost_reason     text        CHECK (lost_reason OPERATOR(pg_catalog.=) ANY (ARRAY['removed', 'cut', 'replaced', 'beyond'])),
    latest_receipt  timestamptz,
    PRIMARY KEY (subscription, topic, partition)
) WITH (fillfactor = 50);

COMMENT ON TABLE inbox.position IS
    'how far each subscription is: moves in the transaction that processes the messages';
COMMENT ON COLUMN inbox.position.subscription IS 'name of the subscription';
COMMENT ON COLUMN inbox.position.topic IS 'topic';
COMMENT ON COLUMN inbox.position.partition IS 'partition of the topic';
COMMENT ON COLUMN inbox.position.next_offset IS 'offset of the next message; NULL: not known yet, see seek_time and the subscription''s start';
COMMENT ON COLUMN inbox.position.fence IS 'raised by whoever takes the partition over: others that write then find that they are late';
COMMENT ON COLUMN inbox.position.seek_time IS 'time to go to, asked for by inbox.seek()';
COMMENT ON COLUMN inbox.position.rerun_until IS 'messages before this offset are processed though they were before; NULL: none';
COMMENT ON COLUMN inbox.position.end_offset IS 'end of the partition when it was last seen';
COMMENT ON COLUMN inbox.position.lost_from IS 'first offset that Kafka removed before it was read, or see lost_reason; NULL: nothing is lost';
COMMENT ON COLUMN inbox.position.lost_until IS 'first offset after it that is still there';
COMMENT ON COLUMN inbox.position.received IS 'number of messages that were read, duplicates too';
COMMENT ON COLUMN inbox.position.processed IS 'number of messages whose handler committed';
COMMENT ON COLUMN inbox.position.duplicates IS 'number of messages that had been received before';
COMMENT ON COLUMN inbox.position.updated_at IS 'time of the last change';
COMMENT ON COLUMN inbox.position.rerun_since IS
    'when rerun_until was set, or, where the clock was set back, the time after the latest_receipt of the subscription';
COMMENT ON COLUMN inbox.position.latest_receipt IS
    'the latest time that messages of the partition have in inbox.received, whatever became of the clock; NULL: not known';
COMMENT ON COLUMN inbox.position.conflicts IS 'number of messages whose id had been received before with another key or payload';
COMMENT ON COLUMN inbox.position.last_offset IS 'offset of the last message that was read, by which the partition is recognized; -1: none was since inbox.seek()';
COMMENT ON COLUMN inbox.position.last_checksum IS 'checksum of that message';
COMMENT ON COLUMN inbox.position.before_offset IS 'offset of the message before it; -1: none was read';
COMMENT ON COLUMN inbox.position.before_checksum IS 'checksum of that message';
COMMENT ON COLUMN inbox.position.cluster_id IS 'id of the Kafka cluster; NULL: not known';
COMMENT ON COLUMN inbox.position.lost_reason IS 'what happened from lost_from until lost_until: removed; cut: gone, and other messages take their place; replaced: all of the partition are others; beyond: the partition ended at lost_until, and inbox.seek() asked for lost_from. NULL: removed, if anything';

--
-- Inbox: messages, and what tells a repeated one.
--
-- Both tables are a ring of four chunks, as outbox.event is.  Rows go into the
-- current chunk; inbox.expire() truncates the oldest once everything in it is
-- old enough, and then moves on.  Between them the chunks that are in use hold
-- between one and one and a third of the time that rows shall stay.
--
-- An entry of inbox.received must be unique over all chunks.  Who adds one
-- looks for it in the other chunks, seeing uncommitted entries too and
-- waiting for them, and checks afterwards that the ring has not moved on
-- meanwhile: see src/inbox/table/dedup.c, which also has the functions for a
-- consumer's batch.
--

-- They only ever grow, so that nobody takes a ring that has moved all the way
-- round for one that has not moved.
CREATE SEQUENCE inbox.message_chunk_seq MINVALUE 0;
COMMENT ON SEQUENCE inbox.message_chunk_seq IS
    'last_value modulo 4 is the chunk of inbox.message that takes new rows';
CREATE SEQUENCE inbox.received_chunk_seq MINVALUE 0;
COMMENT ON SEQUENCE inbox.received_chunk_seq IS
    'last_value modulo 4 is the chunk of inbox.received that takes new rows';

CREATE FUNCTION inbox.current_message_chunk() RETURNS smallint
LANGUAGE C STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'outbox_current_message_chunk';
COMMENT ON FUNCTION inbox.current_message_chunk() IS
    'the chunk of inbox.message that takes new rows';

-- Processed messages need no index, so that they cost little to store.
CREATE TABLE inbox.message (
    subscription   text        NOT NULL,
    event_id       text        NOT NULL,
    topic          text        NOT NULL,
    partition      integer     NOT NULL,
    "offset"       bigint      NOT NULL,
    key            bytea,
    event_type     text,
    aggregate_type text,
    aggregate_id   text,
    payload        bytea,
    headers        jsonb,
    status         text        NOT NULL DEFAULT 'pending' CHECK (status OPERATOR(pg_catalog.=) ANY (ARRAY['pending', 'processed', 'failed'])),
    attempts       integer     NOT NULL DEFAULT 0,
    error          text,
    received_at    timestamptz NOT NULL DEFAULT pg_catalog.now(),
    processed_at   timestamptz,
    created_at     timestamptz,
    error_sqlstate text,
    error_context  text,
    error_at       timestamptz,
    next_attempt_at timestamptz,
    chunk          smallint    NOT NULL DEFAULT inbox.current_message_chunk()
) PARTITION BY LIST (chunk);
CREATE INDEX message_unprocessed_idx ON inbox.message (subscription, status, event_id)
    WHERE status OPERATOR(pg_catalog.<>) 'processed';
CREATE INDEX message_pending_idx ON inbox.message (subscription, topic, partition, "offset")
    WHERE status OPERATOR(pg_catalog.=) 'pending';
-- Keys may be longer than what an index takes.
CREATE INDEX message_pending_key_idx ON inbox.message (subscription, topic, (pg_catalog.sha256(key)), "offset")
    WHERE status OPERATOR(pg_catalog.=) 'pending' AND key IS NOT NULL;

COMMENT ON TABLE inbox.message IS
    'messages that subscriptions received; also the type of a handler''s argument';
COMMENT ON COLUMN inbox.message.subscription IS 'name of the subscription';
COMMENT ON COLUMN inbox.message.event_id IS
    'identity of the message, from where the subscription says: by default its header "id", else <topic>/<partition>/<offset>';
COMMENT ON COLUMN inbox.message.topic IS 'Kafka topic';
COMMENT ON COLUMN inbox.message.partition IS 'partition of the topic';
COMMENT ON COLUMN inbox.message."offset" IS 'offset in the partition';
COMMENT ON COLUMN inbox.message.key IS 'Kafka key, byte for byte; NULL when there is none';
COMMENT ON COLUMN inbox.message.event_type IS 'what happened: by default header "type"';
COMMENT ON COLUMN inbox.message.aggregate_type IS 'kind of thing that the event is about: header "aggregate_type"';
COMMENT ON COLUMN inbox.message.aggregate_id IS 'which thing: by default the key as text, when it is valid UTF-8';
COMMENT ON COLUMN inbox.message.payload IS 'Kafka value, byte for byte; NULL is a tombstone; see inbox.payload_json()';
COMMENT ON COLUMN inbox.message.headers IS
    'all headers: text, or an array where a name is repeated, or {"base64": ...} for bytes that are no text; a name that is no text is in base64';
COMMENT ON COLUMN inbox.message.status IS 'pending, processed or failed';
COMMENT ON COLUMN inbox.message.attempts IS 'number of times that the handler failed';
COMMENT ON COLUMN inbox.message.error IS 'error message of the last attempt, and after a line break DETAIL, where there is one';
COMMENT ON COLUMN inbox.message.received_at IS 'when it came into the database';
COMMENT ON COLUMN inbox.message.processed_at IS 'when the handler succeeded';
COMMENT ON COLUMN inbox.message.created_at IS 'timestamp of the Kafka message; NULL when it is none that PostgreSQL has';
COMMENT ON COLUMN inbox.message.error_sqlstate IS 'SQLSTATE of that error';
COMMENT ON COLUMN inbox.message.error_context IS 'where in the handler it was raised';
COMMENT ON COLUMN inbox.message.error_at IS 'when it was raised';
COMMENT ON COLUMN inbox.message.next_attempt_at IS 'when the handler is called again, while pending after an error';
COMMENT ON COLUMN inbox.message.chunk IS 'partition of the table that holds the row';

CREATE TABLE inbox.message_0 PARTITION OF inbox.message FOR VALUES IN (0);
CREATE TABLE inbox.message_1 PARTITION OF inbox.message FOR VALUES IN (1);
CREATE TABLE inbox.message_2 PARTITION OF inbox.message FOR VALUES IN (2);
CREATE TABLE inbox.message_3 PARTITION OF inbox.message FOR VALUES IN (3);
COMMENT ON TABLE inbox.message_0 IS 'chunk 0 of inbox.message';
COMMENT ON TABLE inbox.message_1 IS 'chunk 1 of inbox.message';
COMMENT ON TABLE inbox.message_2 IS 'chunk 2 of inbox.message';
COMMENT ON TABLE inbox.message_3 IS 'chunk 3 of inbox.message';

-- Where a publication of all tables takes them in, updates need an identity.
ALTER TABLE inbox.message_0 REPLICA IDENTITY FULL;
ALTER TABLE inbox.message_1 REPLICA IDENTITY FULL;
ALTER TABLE inbox.message_2 REPLICA IDENTITY FULL;
ALTER TABLE inbox.message_3 REPLICA IDENTITY FULL;

CREATE TABLE inbox.received (
    received_at  timestamptz NOT NULL DEFAULT pg_catalog.now(),
    chunk        smallint    NOT NULL,
    consumer     text        NOT NULL COLLATE "C",
    event_id     text        NOT NULL COLLATE "C",
    payload_hash bytea,
    PRIMARY KEY (consumer, event_id, chunk)
) PARTITION BY LIST (chunk);

COMMENT ON TABLE inbox.received IS
    'what consumers have received, to tell a repeated message; entries stay for inbox.dedupe_window';
COMMENT ON COLUMN inbox.received.received_at IS 'when it came';
COMMENT ON COLUMN inbox.received.chunk IS 'partition of the table that holds the row';
COMMENT ON COLUMN inbox.received.consumer IS
    'as inbox.receive() was told, or @ and the name of a subscription, and / and the topic where ids count within topics';
COMMENT ON COLUMN inbox.received.event_id IS 'identity of the message';
COMMENT ON COLUMN inbox.received.payload_hash IS
    'as inbox.receive() was told: another one under the same id is an error; of a subscription 64 bits about key and payload';

CREATE TABLE inbox.received_0 PARTITION OF inbox.received FOR VALUES IN (0);
CREATE TABLE inbox.received_1 PARTITION OF inbox.received FOR VALUES IN (1);
CREATE TABLE inbox.received_2 PARTITION OF inbox.received FOR VALUES IN (2);
CREATE TABLE inbox.received_3 PARTITION OF inbox.received FOR VALUES IN (3);
COMMENT ON TABLE inbox.received_0 IS 'chunk 0 of inbox.received';
COMMENT ON TABLE inbox.received_1 IS 'chunk 1 of inbox.received';
COMMENT ON TABLE inbox.received_2 IS 'chunk 2 of inbox.received';
COMMENT ON TABLE inbox.received_3 IS 'chunk 3 of inbox.received';

CREATE TABLE inbox.ring (
    name     text        NOT NULL,
    chunk    smallint    NOT NULL,
    ended_at timestamptz NOT NULL,
    moved_past text[],
    step     integer,
    PRIMARY KEY (name, chunk)
);
COMMENT ON TABLE inbox.ring IS 'when the chunks of inbox.message and inbox.received took their last rows';
COMMENT ON COLUMN inbox.ring.name IS 'message or received';
COMMENT ON COLUMN inbox.ring.chunk IS 'chunk that does not take rows any more';
COMMENT ON COLUMN inbox.ring.ended_at IS 'no row of the chunk is younger';
COMMENT ON COLUMN inbox.ring.moved_past IS
    'how far its unprocessed rows were moved on: subscription, status and event_id of the last, without a subscription when all were seen; and the same of the first that others had locked; NULL: not at all';
COMMENT ON COLUMN inbox.ring.step IS 'how many of them were moved at a time, as quickly as shall be; NULL: not known';

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

-- Emptied by a crash of the server, and by nothing else: a subscription that is
-- made anew knows whether there was one.
CREATE UNLOGGED TABLE inbox.crash_marker (
    subscription text    NOT NULL,
    worker       integer NOT NULL,
    PRIMARY KEY (subscription, worker)
);
COMMENT ON TABLE inbox.crash_marker IS
    'workers that have worked since the server last crashed; one that is not here takes its first messages one by one, since a handler may have been the cause';
COMMENT ON COLUMN inbox.crash_marker.subscription IS 'name of the subscription';
COMMENT ON COLUMN inbox.crash_marker.worker IS 'number of the worker';

-- What a dump of the database carries.  Not inbox.ring: consumers may have
-- filled it before it is restored, and without it rows just stay longer.
SELECT pg_catalog.pg_extension_config_dump('inbox.subscription', '');
SELECT pg_catalog.pg_extension_config_dump('inbox.position', '');
SELECT pg_catalog.pg_extension_config_dump('inbox.message', '');
SELECT pg_catalog.pg_extension_config_dump('inbox.message_0', '');
SELECT pg_catalog.pg_extension_config_dump('inbox.message_1', '');
SELECT pg_catalog.pg_extension_config_dump('inbox.message_2', '');
SELECT pg_catalog.pg_extension_config_dump('inbox.message_3', '');
SELECT pg_catalog.pg_extension_config_dump('inbox.message_chunk_seq', '');
SELECT pg_catalog.pg_extension_config_dump('inbox.received', '');
SELECT pg_catalog.pg_extension_config_dump('inbox.received_0', '');
SELECT pg_catalog.pg_extension_config_dump('inbox.received_1', '');
SELECT pg_catalog.pg_extension_config_dump('inbox.received_2', '');
SELECT pg_catalog.pg_extension_config_dump('inbox.received_3', '');
SELECT pg_catalog.pg_extension_config_dump('inbox.received_chunk_seq', '');

CREATE FUNCTION inbox.receive(consumer text, event_id text, payload_hash bytea DEFAULT NULL) RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'outbox_receive';
COMMENT ON FUNCTION inbox.receive(text, text, bytea) IS
    'true when the consumer receives the message for the first time, false afterwards; atomic with the transaction';

-- The setting that a role's own sessions would have, for its handlers.
CREATE FUNCTION inbox.role_search_path(role_id oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(
        (SELECT substr(setting, length('search_path=') + 1)
         FROM pg_db_role_setting r CROSS JOIN unnest(setconfig) setting
         WHERE r.setrole IN (0, role_id)
           AND r.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
           AND setting LIKE 'search\_path=%'
         ORDER BY r.setrole = 0, r.setdatabase = 0
         LIMIT 1),
        (SELECT setting FROM pg_file_settings
         WHERE name = 'search_path' AND applied ORDER BY seqno DESC LIMIT 1),
        (SELECT boot_val FROM pg_settings WHERE name = 'search_path'))
$$;
COMMENT ON FUNCTION inbox.role_search_path(oid) IS
    'the search_path that a role''s sessions in this database begin with';

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

CREATE FUNCTION inbox.expire() RETURNS boolean
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

--
-- Inbox: the functions for users.
--

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

CREATE FUNCTION inbox.unsubscribe(name text, keep_messages boolean DEFAULT true) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'outbox_unsubscribe';
COMMENT ON FUNCTION inbox.unsubscribe(text, boolean) IS
    'ends a subscription; its messages, and the memory of them, stay until they are old, or go at once';

CREATE FUNCTION inbox.pause(name text) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'outbox_subscription_pause';
COMMENT ON FUNCTION inbox.pause(text) IS 'makes a subscription rest until inbox.resume()';

CREATE FUNCTION inbox.resume(name text) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'outbox_subscription_resume';
COMMENT ON FUNCTION inbox.resume(text) IS
    'makes a subscription go on that was paused, or that came with a copy of the database';

CREATE FUNCTION inbox.seek(name text, topic text, partition integer, "position" text, rerun boolean DEFAULT false)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'outbox_subscription_seek_text';
COMMENT ON FUNCTION inbox.seek(text, text, integer, text, boolean) IS
    'makes a subscription go on at an offset or a time; rerun processes again what was processed before';
CREATE FUNCTION inbox.seek(name text, topic text, partition integer, "position" bigint, rerun boolean DEFAULT false)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'outbox_subscription_seek_offset';
COMMENT ON FUNCTION inbox.seek(text, text, integer, bigint, boolean) IS
    'makes a subscription go on at an offset; rerun processes again what was processed before';
CREATE FUNCTION inbox.seek(name text, topic text, partition integer, "position" timestamptz, rerun boolean DEFAULT false)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'outbox_subscription_seek_time';
COMMENT ON FUNCTION inbox.seek(text, text, integer, timestamptz, boolean) IS
    'makes a subscription go on at a time; rerun processes again what was processed before';

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

CREATE FUNCTION inbox.payload_text(message inbox.message) RETURNS text
LANGUAGE C STRICT IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'outbox_payload_text';
COMMENT ON FUNCTION inbox.payload_text(inbox.message) IS
    'the payload of a message as text; NULL for a tombstone';

CREATE FUNCTION inbox.payload_json(message inbox.message) RETURNS jsonb
LANGUAGE C STRICT IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'outbox_payload_json';
COMMENT ON FUNCTION inbox.payload_json(inbox.message) IS
    'the payload of a message as JSON; NULL for a tombstone';

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

CREATE VIEW inbox.stat_subscription AS
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
COMMENT ON VIEW inbox.stat_subscription IS
    'one row for each subscription: what it does, how far behind it is and what went wrong last';

COMMENT ON COLUMN inbox.stat_subscription.state_since IS
    'since when it is in that state; NULL when that is not known: it is paused, or the server runs no subscriptions';
COMMENT ON COLUMN inbox.stat_subscription.waiting IS
    'messages that were read and wait: to be tried, for the first time, again or after inbox.retry(), or behind such a one';
COMMENT ON COLUMN inbox.stat_subscription.conflicts IS
    'messages whose id had been received before with another key or payload; they count as duplicates, too, unless on_conflict is error';

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

--
-- Rights: nothing for PUBLIC; monitoring roles may look at relay and subscriptions.
--

-- Default privileges of the role that installs may have granted more.
DO $$
DECLARE
    role text;
BEGIN
    FOR role IN
        SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE format('%I', pg_get_userbyid(a.grantee)) END
        FROM (SELECT n.oid, acl.owner, acl.list
              FROM pg_namespace n
              CROSS JOIN LATERAL (
                  SELECT n.nspowner, n.nspacl
                  UNION ALL SELECT relowner, relacl FROM pg_class WHERE relnamespace = n.oid
                  UNION ALL SELECT proowner, coalesce(proacl, acldefault('f', proowner)) FROM pg_proc
                  WHERE pronamespace = n.oid) acl (owner, list)
              WHERE n.nspname IN ('outbox', 'inbox')) o
        CROSS JOIN LATERAL aclexplode(o.list) a
        WHERE a.grantee <> o.owner
    LOOP
        EXECUTE format('REVOKE CREATE ON SCHEMA outbox, inbox FROM %s', role);
        EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA outbox, inbox FROM %s', role);
        EXECUTE format('REVOKE ALL ON ALL SEQUENCES IN SCHEMA outbox, inbox FROM %s', role);
        EXECUTE format('REVOKE ALL ON ALL ROUTINES IN SCHEMA outbox, inbox FROM %s', role);
    END LOOP;
END
$$;
GRANT USAGE ON SCHEMA outbox TO pg_monitor;
GRANT EXECUTE ON FUNCTION outbox.relay_status(), outbox.pending_since() TO pg_monitor;
GRANT SELECT ON outbox.stat_relay, outbox.stat_topic TO pg_monitor;
GRANT USAGE ON SCHEMA inbox TO pg_monitor;
GRANT EXECUTE ON FUNCTION outbox.database_id(), inbox.consumer_status() TO pg_monitor;
GRANT SELECT ON inbox.stat_subscription TO pg_monitor;
