/*-------------------------------------------------------------------------
 *
 * event_log.h
 *	  What librdkafka says in its log and in its error events.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_EVENT_LOG_H
#define OUTBOX_EVENT_LOG_H

#include "postgres.h"

#include <librdkafka/rdkafka.h>

extern bool event_log_log(const rd_kafka_t *handle, rd_kafka_event_t *event,
						  char *error);
extern bool event_log_error_text(const rd_kafka_t *handle,
								 rd_kafka_event_t *event, char *error,
								 bool has_error);

#endif							/* OUTBOX_EVENT_LOG_H */
