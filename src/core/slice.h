/*-------------------------------------------------------------------------
 *
 * slice.h
 *	  Bytes somewhere else.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SLICE_H
#define OUTBOX_SLICE_H

#include "postgres.h"

/* Bytes somewhere else.  data == NULL means SQL NULL. */
typedef struct Slice
{
	const char *data;
	int			len;
} Slice;

#define SLICE_NULL	((Slice) {NULL, 0})

#endif							/* OUTBOX_SLICE_H */
