/*-------------------------------------------------------------------------
 *
 * gate_queue.h
 *	  The messages that wait at a producer's gate, by partition.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_GATE_QUEUE_H
#define OUTBOX_GATE_QUEUE_H

#include "postgres.h"

#include "kafka/producer/gate_state.h"
#include "kafka/producer/producer.h"
#include "kafka/producer/producer_state.h"

extern GatePartition *gate_find_partition(const ProducerTopic *topic,
										  int32 number);
extern GatePartition *gate_partition(Producer *producer, ProducerTopic *topic,
									 int32 number);
extern bool gate_has_worthy_group(const Gate *gate,
								  const GatePartition *partition);
extern int64 gate_message_bytes(const Message *message);
extern void gate_hold(Producer *producer, GatePartition *partition,
					  const Message *message, int bytes);
extern HeldMessage *gate_take(Gate *gate, GatePartition *partition);
extern bool gate_may_grow(const GatePartition *partition);

#endif							/* OUTBOX_GATE_QUEUE_H */
