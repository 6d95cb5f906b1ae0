/*-------------------------------------------------------------------------
 *
 * settings_watch.h
 *	  Whether a relay still goes by the Kafka settings that are valid now.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SETTINGS_WATCH_H
#define OUTBOX_SETTINGS_WATCH_H

#include "postgres.h"

#include "kafka/config/config.h"
#include "relay/state/relay.h"

extern bool settings_watch_outdated(Relay *relay);
extern KafkaConfig *settings_watch_load(Relay *relay);
extern void settings_watch_forget(KafkaConfig *config);

#endif							/* OUTBOX_SETTINGS_WATCH_H */
