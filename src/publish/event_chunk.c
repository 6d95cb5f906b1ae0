/*-------------------------------------------------------------------------
 *
 * event_chunk.c
 *	  The chunks of outbox.event, and the numbers of its rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "publish/event_chunk.h"

#include "access/relation.h"
#include "catalog/pg_class.h"
#include "commands/sequence.h"
#include "fmgr.h"
#include "utils/rel.h"

#include "core/extension_relations.h"
#include "event/event.h"
#include "publish/publisher_session.h"

#define CHUNK_SEQUENCE "event_chunk_seq"
#define ID_SEQUENCE "event_id_seq"

/* Chunks, by number. */
static const char *const chunk_names[NCHUNKS] = {
	"event_0", "event_1", "event_2", "event_3",
	"event_4", "event_5", "event_6", "event_7"
};

/* Where our relations are. */
typedef struct StoreOids
{
	Oid			chunk_sequence;
	Oid			id_sequence;
	Oid			chunks[NCHUNKS];
} StoreOids;

static StoreOids oids;
static OwnRelations own = {
	.schema = STORE_SCHEMA,
	.oids = (Oid *) &oids,
	.count = sizeof(oids) / sizeof(Oid)
};

PG_FUNCTION_INFO_V1(outbox_current_chunk);

/*
 * The chunk that takes new rows: the last value of a sequence.  Raises an
 * error when the extension is not there.
 */
int16
event_chunk_current_chunk(void)
{
	int64		chunk = extension_sequence_value(&own, &oids.chunk_sequence,
												 CHUNK_SEQUENCE);

	if (chunk < 0 || chunk >= NCHUNKS)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("there is no chunk " INT64_FORMAT " of %s.event",
						chunk, STORE_SCHEMA),
				 errdetail("Sequence \"%s.%s\" was set to a value that extension outbox does not use.",
						   STORE_SCHEMA, CHUNK_SEQUENCE),
				 errhint("Set it to a value from 0 to %d.", NCHUNKS - 1)));
	return (int16) chunk;
}

/*
 * Opens a chunk, and takes a lock that shall last until the end of the
 * transaction.  Raises an error when it is not as the extension made it.
 */
Relation
event_chunk_open_chunk(int16 chunk, LOCKMODE lockmode)
{
	const char *name = chunk_names[chunk];
	Relation	relation = extension_relation_open(&own, &oids.chunks[chunk], name,
												   RELKIND_RELATION, lockmode);

	if (!event_tupdesc_matches(RelationGetDescr(relation)) ||
		!RelationIsPermanent(relation))
		extension_relation_is_wrong(STORE_SCHEMA, name);
	return relation;
}

/*
 * The next number of a row.  The chunk must have been opened before: its lock
 * keeps the sequence from being dropped.
 */
int64
event_chunk_next_id(void)
{
	Oid			sequence = oids.id_sequence;

	if (!OidIsValid(sequence))
	{
		Relation	relation = extension_relation_open(&own, &oids.id_sequence,
													   ID_SEQUENCE, RELKIND_SEQUENCE,
													   AccessShareLock);

		sequence = RelationGetRelid(relation);
		relation_close(relation, NoLock);
	}
	return nextval_internal(sequence, false);
}

/*
 * current_chunk() RETURNS smallint
 *
 * The chunk of outbox.event that takes new rows.
 */
Datum
outbox_current_chunk(PG_FUNCTION_ARGS)
{
	/* It is the default of a column: somebody inserts without publish(). */
	session_publishes();
	PG_RETURN_INT16(event_chunk_current_chunk());
}
