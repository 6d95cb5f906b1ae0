/*-------------------------------------------------------------------------
 *
 * error_class.c
 *	  Whose fault a Kafka error is: the message's, or the world's.
 *
 * A message is only ever given up for an error that says that the broker
 * will never take it.  Anything that is not in the list, new codes included,
 * counts as something that may pass.  So does what is wrong with all messages
 * alike: a right on the whole cluster that is missing, a compression that the
 * broker does not know.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/producer/error_class.h"

#include "kafka/producer/producer.h"

/*
 * What the error of a delivery report, or of a metadata answer, means.
 */
DeliveryResult
errors_classify(rd_kafka_resp_err_t error)
{
	switch (error)
	{
		case RD_KAFKA_RESP_ERR_NO_ERROR:
			/* The broker had it already: our retry was the duplicate. */
		case RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER:
			return DELIVERY_OK;

		case RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE:
		case RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE:
		case RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE:
			return DELIVERY_TOO_LARGE;

		case RD_KAFKA_RESP_ERR_INVALID_RECORD:
		case RD_KAFKA_RESP_ERR_INVALID_MSG:
		case RD_KAFKA_RESP_ERR_POLICY_VIOLATION:
		case RD_KAFKA_RESP_ERR_UNSUPPORTED_FOR_MESSAGE_FORMAT:
			return DELIVERY_REFUSED;

		case RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP:
			return DELIVERY_TIME_REFUSED;

		case RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION:
			return DELIVERY_TOPIC_REFUSED;

		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
			return DELIVERY_TOPIC_FORBIDDEN;

		case RD_KAFKA_RESP_ERR__PURGE_QUEUE:
		case RD_KAFKA_RESP_ERR__PURGE_INFLIGHT:
		case RD_KAFKA_RESP_ERR__DESTROY:
		case RD_KAFKA_RESP_ERR__FATAL:
		case RD_KAFKA_RESP_ERR__GAPLESS_GUARANTEE:
			return DELIVERY_PURGED;

		default:
			return DELIVERY_RETRY;
	}
}
