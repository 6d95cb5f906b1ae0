/*-------------------------------------------------------------------------
 *
 * oauth_token.h
 *	  Tokens of the SASL mechanism OAUTHBEARER, which are to be renewed in
 *	  time.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_OAUTH_TOKEN_H
#define OUTBOX_OAUTH_TOKEN_H

#include "postgres.h"

#include <librdkafka/rdkafka.h>

extern bool oauth_token_configure(rd_kafka_conf_t *conf, char *error);
extern void oauth_token_start(rd_kafka_t *handle);

#endif							/* OUTBOX_OAUTH_TOKEN_H */
