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

#include <librdkafka/rdkafka.h>

#include "kafka/producer/producer.h"

/* How a producer compresses batches. */
typedef enum CompressionCodec
{
	CODEC_NONE,
	CODEC_GZIP,
	CODEC_LZ4,
	CODEC_ZSTD,
	CODEC_OTHER					/* what we know nothing of */
} CompressionCodec;

typedef struct Compression
{
	CompressionCodec codec;
	int			level;			/* as the codec's library counts */
} Compression;

extern Compression compression_configured(const rd_kafka_conf_t *conf);
extern int	compression_size(const Compression *compression,
							 const Message *message);

#endif							/* OUTBOX_COMPRESSION_H */
