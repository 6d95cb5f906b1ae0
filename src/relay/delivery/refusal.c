/*-------------------------------------------------------------------------
 *
 * refusal.c
 *	  What was refused before says whether an event may be refused as well.
 *
 * For its size that is known when the event is compressed as its batch will be.
 * What topics have refused is kept in suspect_topics.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/delivery/refusal.h"

#include <limits.h>

#include "utils/timestamp.h"

#include "core/monotonic_clock.h"
#include "event/event.h"
#include "event/topic_name.h"
#include "kafka/producer/producer.h"
#include "registry/relay_values.h"
#include "relay/delivery/destination.h"
#include "relay/state/record_encoder.h"
#include "relay/state/relay.h"
#include "relay/state/set_aside.h"
#include "relay/state/suspect_topics.h"

#define ASK_AGAIN_MS 1000		/* whether a topic still refuses */
#define ASK_AGAIN_EXACT_MS 10000	/* where that costs a Kafka transaction */
#define SUSPICION_MS 10000		/* where one event does not tell of another */

/* What its topic may refuse it for; as it is sent, whatever the encoding. */
static int
event_size(const Event *event)
{
	return Max(event->payload.len, 1);
}

/*
 * What a broker gets of it when it is sent alone, in bytes; -1 if that is not
 * known.  It is asked for more than once, and takes time.
 */
static int
sent_bytes(Relay *relay, const Event *event)
{
	static int64 last_id = -1;
	static bool last_replay;
	static int	last_bytes;
	Message		message = {0};

	if (event->id == last_id && event->replay == last_replay)
		return last_bytes;
	record_encoder_message(&relay->encoder, event, TIMESTAMP_NOW, &message);
	last_bytes = producer_sent_bytes(relay->producer, &message);
	last_id = event->id;
	last_replay = event->replay;
	return last_bytes;
}

/*
 * What the topic of an event has refused, if it may refuse that as well; NULL
 * if not.  What was large for its key or headers does not make others suspect.
 * Cheap as long as nothing was refused.
 */
const SuspectTopic *
refusal_expected(Relay *relay, const Event *event)
{
	bool		has_key = event_key(event).data != NULL;
	const SuspectTopic *suspect;
	char		name[TOPIC_MAX_LEN + 1];
	int			bytes;

	if (!suspect_topics_any() || !topic_name_of(event, name))
		return NULL;
	suspect = suspect_topics_find(name, event_size(event), has_key);
	if (suspect == NULL || suspect->wire_size == INT_MAX || suspect->size == 0 ||
		suspect->single || (suspect->keyless && !has_key))
		return suspect;
	bytes = sent_bytes(relay, event);
	return bytes < 0 || bytes >= suspect->wire_size ? suspect : NULL;
}

/*
 * The broker has taken the event: its topic is not what we thought.  Unless
 * nothing that we know tells the event from those that were refused: the next
 * one may be.
 */
void
refusal_dispel(Relay *relay, const Event *event)
{
	const SuspectTopic *suspect = refusal_expected(relay, event);
	bool		may_differ;

	if (suspect == NULL)
		return;
	may_differ = suspect->single ||
		(suspect->size > 0 && suspect->size < INT_MAX &&
		 (suspect->wire_size == INT_MAX || sent_bytes(relay, event) < 0));
	if (may_differ &&
		!TimestampDifferenceExceeds(suspect->refused_at, monotonic_now(), SUSPICION_MS))
		return;
	if (relay->exact)
		suspect_topics_note_taken(suspect->name);
	else
		suspect_topics_clear(suspect->name);
}

/*
 * Keeps in mind what the event's topic has just refused, for the failure that is
 * noted.
 */
void
refusal_learn(Relay *relay, const Event *event)
{
	SuspectTopic refusal = {.refused_at = monotonic_now()};
	char		name[TOPIC_MAX_LEN + 1];

	if (!topic_name_of(event, name))
		return;
	if (relay->failure == DELIVERY_TOO_LARGE)
	{
		int			bytes = sent_bytes(relay, event);

		refusal.size = event_size(event);
		refusal.wire_size = bytes < 0 ? INT_MAX : bytes;
	}
	else if (relay->failure == DELIVERY_REFUSED)
	{
		refusal.size = refusal.wire_size = INT_MAX;
		refusal.keyless = event_key(event).data == NULL;
		refusal.single = !refusal.keyless;
	}
	strlcpy(refusal.error_name, relay->failure_name, sizeof(refusal.error_name));
	strlcpy(refusal.error, relay->failure_text, sizeof(refusal.error));
	suspect_topics_learn(name, &refusal);
}

/*
 * Has the event's topic refused the like of it lately?  Then there is no need
 * to ask it again; notes the failure.
 */
bool
refusal_is_certain(Relay *relay, const Event *event)
{
	const SuspectTopic *suspect = refusal_expected(relay, event);

	if (suspect == NULL || deadletter_resend() == RESEND_FAILED ||
		event_size(event) < suspect->size ||
		TimestampDifferenceExceeds(suspect->refused_at, monotonic_now(),
								   relay->exact ? ASK_AGAIN_EXACT_MS : ASK_AGAIN_MS))
		return false;
	if (suspect->size > 0 && sent_bytes(relay, event) < suspect->wire_size)
		return false;
	destination_note_failure(relay, suspect->size > 0 ? DELIVERY_TOO_LARGE :
							 DELIVERY_TOPIC_REFUSED, suspect_topics_error_name(suspect),
							 suspect->error);
	return true;
}
