/*-------------------------------------------------------------------------
 *
 * xids.h
 *	  Sorted lists of transaction ids, whole ones of 64 bits.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_XIDS_H
#define OUTBOX_XIDS_H

#include "postgres.h"

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

#endif							/* OUTBOX_XIDS_H */
