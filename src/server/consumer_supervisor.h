/*-------------------------------------------------------------------------
 *
 * consumer_supervisor.h
 *	  The launcher's part in consumers: starts what is wanted and not there.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CONSUMER_SUPERVISOR_H
#define OUTBOX_CONSUMER_SUPERVISOR_H

#include "postgres.h"

#include "datatype/timestamp.h"

extern void consumer_supervisor_init(void);
extern void consumer_supervisor_make_way(void);
extern TimestampTz consumer_supervisor_tend(void);

#endif							/* OUTBOX_CONSUMER_SUPERVISOR_H */
