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
#include "inbox/ring.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "commands/sequence.h"
#include "fmgr.h"
#include "storage/bufmgr.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "base/guc.h"

#define SHORTEST_INTERVAL_MS 1000

/*
 * Where the relations of a ring are, InvalidOid when that is not known yet.
 * Forgotten when one of them changes, because it may have been dropped and
 * made anew.
 */
typedef struct RingOids
{
	Oid			sequence;
	Oid			chunks[RING_SIZE];
} RingOids;

static const char *const ring_names[] = {"message", "received"};
static RingOids ring_oids[lengthof(ring_names)];

PG_FUNCTION_INFO_V1(outbox_current_message_chunk);

/* Relcache callback: forgets where our relations are. */
static void
forget_oids(Datum arg, Oid relid)
{
	const Oid  *known = (const Oid *) ring_oids;

	for (int i = 0; i < lengthof(ring_oids) * (RING_SIZE + 1); i++)
	{
		if (!OidIsValid(relid) || known[i] == relid)
		{
			memset(ring_oids, 0, sizeof(ring_oids));
			return;
		}
	}
}

/* Looks up a relation in our schema; InvalidOid when there is none. */
static Oid
find_relation(const char *name)
{
	static bool registered = false;

	if (!registered)
	{
		CacheRegisterRelcacheCallback(forget_oids, (Datum) 0);
		registered = true;
	}
	return get_relname_relid(name, get_namespace_oid(INBOX_SCHEMA, true));
}

/*
 * Opens one of our relations, locked.  *oid is its place in ring_oids.  Raises
 * an error when it does not exist or is something else.
 */
static Relation
open_relation(Oid *oid, const char *name, char kind, LOCKMODE lockmode)
{
	Relation	relation = NULL;

	/* What is known may be outdated until there is a lock. */
	for (int i = 0; i < 2 && relation == NULL; i++)
	{
		if (!OidIsValid(*oid))
			*oid = find_relation(name);
		if (!OidIsValid(*oid))
			break;
		relation = try_relation_open(*oid, lockmode);
		if (relation == NULL)
			*oid = InvalidOid;
	}
	if (relation == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s.%s\" does not exist", INBOX_SCHEMA, name),
				 errdetail("Extension outbox made it, and it was renamed or dropped since."),
				 errhint("Undo that, or drop the extension and create it again.")));
	if (relation->rd_rel->relkind != kind ||
		(kind == RELKIND_RELATION && !relation->rd_rel->relispartition))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("relation \"%s.%s\" is not what extension outbox made",
						INBOX_SCHEMA, name),
				 errdetail("It was detached or replaced."),
				 errhint("Undo that, or drop the extension and create it again.")));
	return relation;
}

/*
 * How far the ring has moved since it was made.  It is read from the
 * sequence's page, because there is no cheaper function for it.  The page's
 * lock orders reads: who sees the ring moved on sees everything that was done
 * before it moved.
 */
int64
ring_position(Ring ring)
{
	char		name[NAMEDATALEN];
	Relation	sequence;
	Buffer		buffer;
	Page		page;
	HeapTupleHeader tuple;
	int64		position;

	snprintf(name, sizeof(name), "%s_chunk_seq", ring_names[ring]);
	sequence = open_relation(&ring_oids[ring].sequence, name, RELKIND_SEQUENCE,
							 AccessShareLock);
	buffer = ReadBuffer(sequence, 0);
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	tuple = (HeapTupleHeader) PageGetItem(page,
										  PageGetItemId(page, FirstOffsetNumber));
	position = ((Form_pg_sequence_data) ((char *) tuple + tuple->t_hoff))->last_value;
	UnlockReleaseBuffer(buffer);
	relation_close(sequence, AccessShareLock);

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
	return open_relation(&ring_oids[ring].chunks[chunk], name,
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
