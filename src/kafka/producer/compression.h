/*-------------------------------------------------------------------------
 *
 * compression.h
 *	  How large a message is on its way to a broker.
 *
 * Only for files under src/kafka: it needs librdkafka's types.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_COMPRESSION_H
#define OUTBOX_COMPRESSION_H

#include "postgres.h"

#include "kafka/client/client.h"

extern Compression compression_configured(const rd_kafka_conf_t *conf);
extern int	compression_size(const Compression *compression,
							 const Message *message);

#endif							/* OUTBOX_COMPRESSION_H */
