/*-------------------------------------------------------------------------
 *
 * gate.h
 *	  What the files about the gate of a producer share; see gate.c.
 *
 * Only for files under src/kafka: it needs librdkafka's types.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_GATE_H
#define OUTBOX_GATE_H

#include "postgres.h"

#include "lib/ilist.h"

#endif							/* OUTBOX_GATE_H */
