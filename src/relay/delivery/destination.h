/*-------------------------------------------------------------------------
 *
 * destination.h
 *	  Where an event goes, and whether it can go there now.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_DESTINATION_H
#define OUTBOX_DESTINATION_H

#include "postgres.h"

#include "event/event.h"
#include "event/topic_name.h"
#include "kafka/producer/producer.h"
#include "relay/state/relay.h"

typedef enum DestinationState
{
	DESTINATION_READY,
	DESTINATION_PARKED,			/* cannot be written now, for some time */
	DESTINATION_REFUSED,		/* can never be written */
	DESTINATION_NEW,			/* not known yet; not asked for */
	DESTINATION_BROKEN			/* what is in flight has to be sent again */
} DestinationState;

typedef struct Destination
{
	char		name[TOPIC_MAX_LEN + 1];
	ProducerTopic *topic;		/* valid if ready */
	int			partition;		/* if parked: that, or WHOLE_TOPIC */
} Destination;

extern void destination_note_failure(Relay *relay, DeliveryResult failure,
									 const char *name, const char *message);
extern DestinationState destination_wait(Relay *relay, const Event *event,
										 bool pipelined,
										 Destination *destination);
extern long destination_moment(long spent);
extern void destination_check_stuck(Relay *relay);

#endif							/* OUTBOX_DESTINATION_H */
