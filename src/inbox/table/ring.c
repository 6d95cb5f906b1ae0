/*-------------------------------------------------------------------------
 *
 * ring.c
 *	  The chunks of inbox.message and inbox.received.
 *
 * Each of the two tables is a ring of chunks.  The last value of a sequence,
 * modulo the number of chunks, says which chunk takes new rows: it is the same
 * for everybody, whatever their snapshots, as soon as it is set.
 *
 *-------------------------------------------------------------------------
 */
#include "inbox/table/ring.h"

#include "catalog/pg_class.h"
#include "fmgr.h"

#include "core/extension_relations.h"
#include "core/guc.h"

#define SHORTEST_INTERVAL_MS 1000

/* Where the relations of a ring are. */
typedef struct RingOids
{
	Oid			sequence;
	Oid			chunks[RING_SIZE];
} RingOids;

static const char *const ring_names[] = {"message", "received"};
static RingOids ring_oids[lengthof(ring_names)];
static OwnRelations own = {
	.schema = INBOX_SCHEMA,
	.oids = (Oid *) ring_oids,
	.count = sizeof(ring_oids) / (sizeof(Oid))
};

PG_FUNCTION_INFO_V1(outbox_current_message_chunk);

/*
 * How far the ring has moved since it was made.
 */
int64
ring_position(Ring ring)
{
	char		name[NAMEDATALEN];
	int64		position;

	snprintf(name, sizeof(name), "%s_chunk_seq", ring_names[ring]);
	position = extension_sequence_value(&own, &ring_oids[ring].sequence, name);
	if (position < 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("sequence \"%s.%s\" is not what extension outbox made",
						INBOX_SCHEMA, name),
				 errdetail("Its value is " INT64_FORMAT ".", position),
				 errhint("Set it to a value that is not negative.")));
	return position;
}

/*
 * The chunk that takes new rows while the ring is at a position.
 */
int16
ring_chunk_at(int64 position)
{
	return (int16) (position % RING_SIZE);
}

/*
 * The chunk that takes new rows.
 */
int16
ring_current_chunk(Ring ring)
{
	return ring_chunk_at(ring_position(ring));
}

/*
 * How often somebody should look whether a chunk is old enough, in ms: often
 * enough for inbox.dedupe_window, within limits.
 */
long
ring_expire_interval(long longest)
{
	int64		interval = inbox_dedupe_window * INT64CONST(1000) / (4 * RING_SIZE);

	return (long) Max(SHORTEST_INTERVAL_MS, Min(interval, longest));
}

/*
 * Opens a chunk with a lock.  Raises an error when it is not there.
 */
Relation
ring_open_chunk(Ring ring, int16 chunk, LOCKMODE lockmode)
{
	char		name[NAMEDATALEN];

	snprintf(name, sizeof(name), "%s_%d", ring_names[ring], chunk);
	return extension_relation_open(&own, &ring_oids[ring].chunks[chunk], name,
								   RELKIND_RELATION, lockmode);
}

/*
 * SQL function inbox.current_message_chunk() RETURNS smallint: the chunk of
 * inbox.message that takes new rows.
 */
Datum
outbox_current_message_chunk(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT16(ring_current_chunk(RING_MESSAGE));
}
