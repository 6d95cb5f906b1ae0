/*-------------------------------------------------------------------------
 *
 * producer_events.h
 *	  Serves what librdkafka has to say: deliveries, errors, log messages and
 *	  statistics.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PRODUCER_EVENTS_H
#define OUTBOX_PRODUCER_EVENTS_H

#include "postgres.h"

#include <librdkafka/rdkafka.h>

#endif							/* OUTBOX_PRODUCER_EVENTS_H */
