/*-------------------------------------------------------------------------
 *
 * gate_step.h
 *	  Hands messages that wait at a producer's gate to the library, in groups.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_GATE_STEP_H
#define OUTBOX_GATE_STEP_H

#include "postgres.h"

#include "kafka/producer/producer.h"

extern void gate_step(Producer *producer, bool release);
extern bool gate_is_shut(const Producer *producer);

#endif							/* OUTBOX_GATE_STEP_H */
