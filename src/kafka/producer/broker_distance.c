/*-------------------------------------------------------------------------
 *
 * broker_distance.c
 *	  How far away Kafka is.
 *
 * That is what the fastest of the last requests took.  Large batches and a busy
 * machine make most of them slower, and more connections would help against
 * neither.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/producer/broker_distance.h"

#include "kafka/producer/request_counter.h"

#define REQUESTS 16				/* of which there is a fastest one; the
								 * fastest of those before counts as well */

/*
 * A handle's request was answered.
 */
void
distance_note_answered(Producer *producer, ProducerHandle *handle)
{
	uint32		us = request_counter_fastest_us(handle->counter);

	if (++producer->nanswered % REQUESTS == 0)
	{
		producer->fastest_before_us = producer->fastest_us;
		producer->fastest_us = 0;
	}
	if (us != 0 && (producer->fastest_us == 0 || us < producer->fastest_us))
		producer->fastest_us = us;
}

/*
 * How long a request takes, in microseconds, at best; 0 if that is not known.
 */
double
distance_us(const Producer *producer)
{
	if (producer->fastest_us == 0 || producer->fastest_before_us == 0)
		return Max(producer->fastest_us, producer->fastest_before_us);
	return Min(producer->fastest_us, producer->fastest_before_us);
}
