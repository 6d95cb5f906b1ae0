/*-------------------------------------------------------------------------
 *
 * consumer_metadata.h
 *	  What a consumer asks the brokers: which topics there are, and where
 *	  partitions begin.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CONSUMER_METADATA_H
#define OUTBOX_CONSUMER_METADATA_H

#include "postgres.h"

#include "kafka/consumer/consumer.h"

extern void discovery_forget(Consumer *consumer);

#endif							/* OUTBOX_CONSUMER_METADATA_H */
