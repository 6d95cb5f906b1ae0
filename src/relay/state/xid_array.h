/*-------------------------------------------------------------------------
 *
 * xid_array.h
 *	  Transaction ids, whole ones of 64 bits, and sorted lists of them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_XID_ARRAY_H
#define OUTBOX_XID_ARRAY_H

#include "postgres.h"

#include "access/transam.h"

/*
 * A transaction id out of the WAL with its epoch; "next" is from now, so it is
 * later.
 */
static inline uint64
full_xid(TransactionId xid, FullTransactionId next)
{
	uint32		epoch = EpochFromFullTransactionId(next);

	if (xid > XidFromFullTransactionId(next))
		epoch--;
	return ((uint64) epoch << 32) | xid;
}

/*
 * For qsort() and bsearch() of uint64.
 */
static inline int
compare_xids(const void *a, const void *b)
{
	uint64		x = *(const uint64 *) a;
	uint64		y = *(const uint64 *) b;

	return x < y ? -1 : x > y;
}

#endif							/* OUTBOX_XID_ARRAY_H */
