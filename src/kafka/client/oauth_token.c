/*-------------------------------------------------------------------------
 *
 * oauth_token.c
 *	  Tokens of the SASL mechanism OAUTHBEARER, which are to be renewed in
 *	  time.
 *
 * When it is time, the library puts a request into a queue, and whoever serves
 * that runs the function that gets a new token.  We have only the library's
 * own functions: the one that asks a server, for sasl.oauthbearer.method=oidc,
 * and the one that makes tokens up, for tests.  So the queue goes to a thread
 * of the library's, as it does for oidc in any case.  Out of an event nobody
 * could call those functions; and while we wait for a call of the library, no
 * event would be served.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/client/oauth_token.h"

#include <librdkafka/rdkafka.h>

#include "kafka/client/property_value.h"
#include "kafka/config/config.h"

#define MECHANISM "OAUTHBEARER"

static bool
is_set(const rd_kafka_conf_t *conf, const char *name, const char *value)
{
	char		present[VALUE_LEN];

	client_property(conf, name, present);
	return pg_strcasecmp(present, value) == 0;
}

/*
 * Makes a configuration one whose tokens are renewed.  Returns false, with the
 * reason in error (PRODUCER_ERROR_LEN bytes), when there is nobody to get a
 * token from.
 */
bool
oauth_token_configure(rd_kafka_conf_t *conf, char *error)
{
	rd_kafka_conf_enable_sasl_queue(conf, 1);
	if (!is_set(conf, "sasl.mechanisms", MECHANISM) ||
		(!is_set(conf, "security.protocol", "sasl_plaintext") &&
		 !is_set(conf, "security.protocol", "sasl_ssl")) ||
		is_set(conf, "sasl.oauthbearer.method", "oidc") ||
		is_set(conf, "enable.sasl.oauthbearer.unsecure.jwt", "true"))
		return true;
	strlcpy(error, "the SASL mechanism " MECHANISM " needs a token, and there is nobody to get one from; set sasl.oauthbearer.method = oidc",
			PRODUCER_ERROR_LEN);
	return false;
}

/*
 * Has the tokens of a handle renewed.  Signals must be blocked, since this
 * makes a thread.
 */
void
oauth_token_start(rd_kafka_t *handle)
{
	/* There is none to be renewed if the handle has no such queue. */
	rd_kafka_error_destroy(rd_kafka_sasl_background_callbacks_enable(handle));
}
