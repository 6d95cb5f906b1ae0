/*-------------------------------------------------------------------------
 *
 * brin_opclass.c
 *	  What the BRIN index of outbox.event remembers of a range of pages.
 *
 * Its operator classes are those for minima and maxima, with one difference.
 * Transaction ids and the ids that publish() makes only ever grow.  So where new
 * rows take the place of deleted ones, in pages that are summarized, each row
 * would be a new maximum, and the index would have to be written for it.  That
 * would cost more than all that the index saves.  Instead a maximum that has to
 * grow grows by a little more, and is written once for several rows.  What an
 * index of this kind tells is where a value may be, so a maximum that is too
 * large makes no answer wrong.
 *
 * It must not be much too large, or a relay that polls would read again what it
 * has sent: each page of the last transactions, which may be large.  Pages that
 * few transactions have filled know that.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/brin_internal.h"
#include "access/brin_tuple.h"
#include "access/transam.h"
#include "fmgr.h"
#include "utils/fmgrprotos.h"
#include "utils/uuid.h"
#include "utils/xid8.h"

/* So many transactions a maximum may be too large. */
#define MORE_XIDS 15

/* The first bytes of an id: what is left is about a quarter of a second. */
#define UUID_KEPT 5

PG_FUNCTION_INFO_V1(outbox_xid8_add_value);
PG_FUNCTION_INFO_V1(outbox_uuid_add_value);

/*
 * Makes a summary, which a support function was called with, include a value.
 * Returns whether that has changed the summary.
 */
static bool
include(FunctionCallInfo fcinfo, Datum value)
{
	return DatumGetBool(DirectFunctionCall4Coll(brin_minmax_add_value,
												PG_GET_COLLATION(),
												PG_GETARG_DATUM(0),
												PG_GETARG_DATUM(1), value,
												BoolGetDatum(false)));
}

static uint64
xid_from_datum(Datum value)
{
	return U64FromFullTransactionId(DatumGetFullTransactionId(value));
}

/*
 * The support function of an operator class with which a value is added to a
 * summary, for transaction ids.
 */
Datum
outbox_xid8_add_value(PG_FUNCTION_ARGS)
{
	const BrinValues *column = (const BrinValues *) PG_GETARG_POINTER(1);
	uint64		xid = xid_from_datum(PG_GETARG_DATUM(2));

	if (!column->bv_allnulls && xid > xid_from_datum(column->bv_values[1]))
		xid += Min(xid - xid_from_datum(column->bv_values[0]), MORE_XIDS);
	PG_RETURN_BOOL(include(fcinfo,
						   FullTransactionIdGetDatum(FullTransactionIdFromU64(xid))));
}

/*
 * The same for ids of events.
 */
Datum
outbox_uuid_add_value(PG_FUNCTION_ARGS)
{
	const BrinValues *column = (const BrinValues *) PG_GETARG_POINTER(1);
	pg_uuid_t	id = *PG_GETARG_UUID_P(2);

	if (!column->bv_allnulls &&
		memcmp(&id, DatumGetUUIDP(column->bv_values[1]), UUID_LEN) > 0)
		memset(id.data + UUID_KEPT, 0xff, UUID_LEN - UUID_KEPT);
	PG_RETURN_BOOL(include(fcinfo, UUIDPGetDatum(&id)));
}
