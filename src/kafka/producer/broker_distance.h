/*-------------------------------------------------------------------------
 *
 * broker_distance.h
 *	  How far away Kafka is.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_BROKER_DISTANCE_H
#define OUTBOX_BROKER_DISTANCE_H

#include "postgres.h"

#include "kafka/producer/producer_state.h"

extern void distance_note_answered(Producer *producer, ProducerHandle *handle);
extern double distance_us(const Producer *producer);

#endif							/* OUTBOX_BROKER_DISTANCE_H */
