/*-------------------------------------------------------------------------
 *
 * event_log.c
 *	  What librdkafka says in its log and in its error events.
 *
 * A broker that is away makes librdkafka report the same failure again and
 * again.  What is being repeated is logged once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/client/event_log.h"

#include <ctype.h>

#include "common/hashfn.h"
#include "utils/timestamp.h"

#include "core/monotonic_clock.h"
#include "kafka/client/error_hints.h"
#include "kafka/config/config.h"

/* librdkafka's log levels are those of syslog. */
#define LEVEL_ERROR 3
#define LEVEL_WARNING 4
#define LEVEL_DEBUG 7

/* Messages that were logged lately, and how long a pause makes one new. */
#define LOGGED_MESSAGES 16
#define REPEAT_MS 60000

typedef struct LoggedMessage
{
	uint32		hash;
	TimestampTz seen;
} LoggedMessage;

/* Outlives the producer, which may be opened again and again. */
static LoggedMessage logged[LOGGED_MESSAGES];

/*
 * Was such a message seen within the last minute?  Numbers make no
 * difference, save in the name of the broker in front.
 */
static bool
is_repeated(const char *text)
{
	TimestampTz now = monotonic_now();
	const char *body = strstr(text, ": ");
	LoggedMessage *oldest = &logged[0];
	uint32		hash = 0;
	bool		repeated;

	for (const char *p = text; *p; p++)
		if (p < body || !isdigit((unsigned char) *p))
			hash = hash_combine(hash, (unsigned char) *p);
	for (int i = 0; i < LOGGED_MESSAGES; i++)
	{
		if (logged[i].hash == hash)
		{
			oldest = &logged[i];
			break;
		}
		if (logged[i].seen < oldest->seen)
			oldest = &logged[i];
	}
	repeated = oldest->hash == hash && oldest->seen != 0 &&
		!TimestampDifferenceExceeds(oldest->seen, now, REPEAT_MS);
	oldest->hash = hash;
	oldest->seen = now;
	return repeated;
}

/*
 * Copies a message of the library without what is of no use to a reader or
 * changes each time: the thread in front, the circumstances behind.
 */
static void
copy_message(char *target, const char *text)
{
	const char *end = strstr(text, "]: ");
	char	   *circumstances;

	if (strncmp(text, "[thrd:", 6) == 0 && end)
		text = end + 3;

	strlcpy(target, text, PRODUCER_ERROR_LEN);
	circumstances = strstr(target, " (after ");
	if (circumstances)
		*circumstances = '\0';
}

/*
 * Is it no more than a lost connection?  Those come and go; when Kafka cannot
 * be reached again, another message says why.
 */
static bool
is_mere_disconnect(const char *message)
{
	static const char end[] = ": Disconnected";
	size_t		len = strlen(message);

	return len >= strlen(end) &&
		strcmp(message + len - strlen(end), end) == 0;
}

/*
 * Passes a message of the library's log on to the server's.  Newer releases
 * only log that a broker closes connections: if this is such a message, and it
 * can be explained, copies that to error (PRODUCER_ERROR_LEN bytes) and returns
 * true.
 */
bool
event_log_log(const rd_kafka_t *handle, rd_kafka_event_t *event, char *error)
{
	char		message[PRODUCER_ERROR_LEN];
	const char *facility;
	const char *text;
	int			level;

	if (rd_kafka_event_log(event, &facility, &text, &level) != 0)
		return false;
	copy_message(message, text);

	/*
	 * CONFWARN is about what we set on purpose, and FATAL comes as an error
	 * event too.
	 */
	if (level > LEVEL_WARNING || strcmp(facility, "CONFWARN") == 0 ||
		strcmp(facility, "FATAL") == 0 || is_mere_disconnect(message))
		ereport(level < LEVEL_DEBUG ? DEBUG1 : DEBUG2,
				(errmsg_internal("librdkafka: %s: %s", facility, message)));
	else if (!is_repeated(message))
		ereport(LOG,
				(errmsg("librdkafka: %s: %s", facility, message)));
	/* What is worse comes as an error event, too. */
	if (level <= LEVEL_ERROR || level >= LEVEL_DEBUG ||
		strcmp(facility, "FAIL") != 0 || !error_hints_connection(handle, text, message))
		return false;
	strlcpy(error, message, PRODUCER_ERROR_LEN);
	return true;
}

/*
 * Copies the text of an error event to error (PRODUCER_ERROR_LEN bytes), and
 * returns whether the event is worth counting.  "All brokers are down" says
 * less than the error of the last broker, which is there already (has_error)
 * and is kept, or else comes next.
 */
bool
event_log_error_text(const rd_kafka_t *handle, rd_kafka_event_t *event,
					 char *error, bool has_error)
{
	bool		vague = rd_kafka_event_error(event) ==
	RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN;
	char		message[PRODUCER_ERROR_LEN];

	copy_message(message, rd_kafka_event_error_string(event));
	if (is_mere_disconnect(message) || (vague && !has_error))
		return false;
	if (vague)
		return true;
	(void) error_hints_connection(handle, rd_kafka_event_error_string(event), message);
	strlcpy(error, message, PRODUCER_ERROR_LEN);
	return true;
}
