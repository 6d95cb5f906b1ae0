/*-------------------------------------------------------------------------
 *
 * watermark.h
 *	  A snapshot whose transactions are all on Kafka, and its LSN.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_WATERMARK_H
#define OUTBOX_WATERMARK_H

#include "postgres.h"

#include "access/xlogdefs.h"

typedef struct Watermark
{
	XLogRecPtr	lsn;
	char	   *snapshot;		/* a pg_snapshot, as text */
} Watermark;

#endif							/* OUTBOX_WATERMARK_H */
