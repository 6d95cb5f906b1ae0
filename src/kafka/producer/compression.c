/*-------------------------------------------------------------------------
 *
 * compression.c
 *	  How large a message is on its way to a broker.
 *
 * A topic's max.message.bytes is about batches as they come, compressed.  So
 * whether a message is too large can be known only when it is compressed.
 * librdkafka does not tell what that made of it.  Here the same is done, with
 * the same parameters, to a batch of one message.  The size is the same where
 * librdkafka has the codec from the same shared library, and nearly so else.
 *
 * The libraries are optional.  Where one was not there at compile time, for very
 * large messages, and for snappy, which librdkafka does itself, the size is not
 * known.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/producer/compression.h"

#include <limits.h>

#ifdef OUTBOX_WITH_ZLIB
#include <zlib.h>
#endif

#ifdef OUTBOX_WITH_LZ4
#include <lz4frame.h>
#endif

#ifdef OUTBOX_WITH_ZSTD
#include <zstd.h>
#endif

#include "lib/stringinfo.h"

#include "core/slice.h"
#include "kafka/producer/producer.h"

#define BATCH_HEADER_BYTES 61	/* which are not compressed */
#define DEFAULT_LEVEL (-1)		/* in librdkafka's settings */
#define ZSTD_DEFAULT_LEVEL 3	/* librdkafka's */
#define GZIP_WINDOW_BITS (15 + 16)	/* the largest, with gzip's header */
#define GZIP_MEMORY_LEVEL 8		/* the usual one */
#define MAX_BYTES (64 * 1024 * 1024)	/* to be compressed for that */
#define GZIP_MAX_LEVEL 9		/* which librdkafka makes of a higher one */

/* Appends a number of Kafka's, zigzag and seven bits a byte. */
static void
append_number(StringInfo record, int64 number)
{
	uint64		rest = ((uint64) number << 1) ^ (uint64) (number >> 63);

	for (; rest >= 0x80; rest >>= 7)
		appendStringInfoChar(record, (char) (rest | 0x80));
	appendStringInfoChar(record, (char) rest);
}

static void
append_slice(StringInfo record, Slice slice)
{
	append_number(record, slice.data ? slice.len : -1);
	if (slice.data)
		appendBinaryStringInfo(record, slice.data, slice.len);
}

/*
 * A message as the only record of a batch, but for the record's length, which
 * comes first.
 */
static void
append_record(StringInfo record, const Message *message)
{
	appendStringInfoChar(record, '\0'); /* attributes */
	append_number(record, 0);	/* time and offset since the batch's */
	append_number(record, 0);
	append_slice(record, message->key);
	append_slice(record, message->value);
	append_number(record, message->nheaders);
	for (int i = 0; i < message->nheaders; i++)
	{
		const MessageHeader *header = &message->headers[i];
		Slice		name;

		name.data = header->name;
		name.len = header->name_len;
		append_slice(record, name);
		append_slice(record, header->value);
	}
}

/* About how many bytes a message has. */
static int64
raw_size(const Message *message)
{
	int64		size = (int64) message->key.len + message->value.len;

	for (int i = 0; i < message->nheaders; i++)
		size += (int64) message->headers[i].name_len + message->headers[i].value.len;
	return size;
}

/* How many bytes zlib makes of them; -1 if it cannot. */
static int64
gzip_size(int level, const StringInfo in)
{
#ifdef OUTBOX_WITH_ZLIB
	z_stream	stream = {0};
	uLong		bound;
	int64		size = -1;

	if (deflateInit2(&stream, level, Z_DEFLATED, GZIP_WINDOW_BITS,
					 GZIP_MEMORY_LEVEL, Z_DEFAULT_STRATEGY) != Z_OK)
		return -1;
	bound = deflateBound(&stream, in->len);
	stream.next_in = (Bytef *) in->data;
	stream.avail_in = in->len;
	stream.next_out = malloc(bound);
	stream.avail_out = bound;
	if (stream.next_out)
	{
		Bytef	   *out = stream.next_out;

		if (deflate(&stream, Z_FINISH) == Z_STREAM_END)
			size = stream.total_out;
		free(out);
	}
	(void) deflateEnd(&stream);
	return size;
#else
	return -1;
#endif
}

/* The same with lz4. */
static int64
lz4_size(int level, const StringInfo in)
{
#ifdef OUTBOX_WITH_LZ4
	LZ4F_preferences_t preferences = {
		.frameInfo = {.blockMode = LZ4F_blockIndependent},
		.compressionLevel = level
	};
	size_t		bound = LZ4F_compressFrameBound(in->len, &preferences);
	char	   *out = malloc(bound);
	size_t		size = 0;

	if (out == NULL)
		return -1;
	size = LZ4F_compressFrame(out, bound, in->data, in->len, &preferences);
	free(out);
	return LZ4F_isError(size) ? -1 : (int64) size;
#else
	return -1;
#endif
}

/*
 * The same with zstd, which is not told beforehand how much there is, as it is
 * not by a librdkafka that shares it.
 */
static int64
zstd_size(int level, const StringInfo in)
{
#ifdef OUTBOX_WITH_ZSTD
	ZSTD_CStream *stream = ZSTD_createCStream();
	ZSTD_inBuffer source = {in->data, in->len, 0};
	ZSTD_outBuffer out = {NULL, ZSTD_compressBound(in->len), 0};
	int64		size = -1;

	out.dst = malloc(out.size);
	if (stream && out.dst && !ZSTD_isError(ZSTD_initCStream(stream, level)) &&
		!ZSTD_isError(ZSTD_compressStream(stream, &out, &source)) &&
		source.pos == source.size && ZSTD_endStream(stream, &out) == 0)
		size = out.pos;
	free(out.dst);
	(void) ZSTD_freeCStream(stream);
	return size;
#else
	return -1;
#endif
}

/* How many bytes are left of some; -1 if that cannot be known. */
static int64
compressed_size(const Compression *compression, const StringInfo in)
{
	switch (compression->codec)
	{
		case CODEC_NONE:
			return in->len;
		case CODEC_GZIP:
			return gzip_size(compression->level, in);
		case CODEC_LZ4:
			return lz4_size(compression->level, in);
		case CODEC_ZSTD:
			return zstd_size(compression->level, in);
		case CODEC_OTHER:
			break;
	}
	return -1;
}

/*
 * How many bytes a batch has, on its way to a broker, with that message alone;
 * -1 if that cannot be known.  Takes as much time as compressing it, and some
 * times its memory for a moment.  May raise an error for want of memory.
 */
int
compression_size(const Compression *compression, const Message *message)
{
	StringInfoData record;
	StringInfoData batch;
	int64		size;

	if (raw_size(message) > MAX_BYTES)
		return -1;
	initStringInfo(&record);
	append_record(&record, message);
	initStringInfo(&batch);
	append_number(&batch, record.len);
	appendBinaryStringInfo(&batch, record.data, record.len);
	pfree(record.data);
	size = compressed_size(compression, &batch);
	/* What compression makes larger is sent as it is. */
	if (size >= 0)
		size = Min(size, batch.len) + BATCH_HEADER_BYTES;
	pfree(batch.data);
	return (int) Min(size, INT_MAX);
}

/*
 * How a producer with such a configuration compresses.
 */
Compression
compression_configured(const rd_kafka_conf_t *conf)
{
	Compression compression = {CODEC_OTHER, DEFAULT_LEVEL};
	char		value[32];
	size_t		size = sizeof(value);

	if (rd_kafka_conf_get(conf, "compression.level", value, &size) == RD_KAFKA_CONF_OK)
		compression.level = atoi(value);
	size = sizeof(value);
	if (rd_kafka_conf_get(conf, "compression.codec", value, &size) != RD_KAFKA_CONF_OK)
		return compression;
	if (strcmp(value, "none") == 0)
		compression.codec = CODEC_NONE;
	else if (strcmp(value, "gzip") == 0)
	{
		compression.codec = CODEC_GZIP;
		compression.level = Min(compression.level, GZIP_MAX_LEVEL);
	}
	else if (strcmp(value, "lz4") == 0)
	{
		compression.codec = CODEC_LZ4;
		if (compression.level == DEFAULT_LEVEL)
			compression.level = 0;
	}
	else if (strcmp(value, "zstd") == 0)
	{
		compression.codec = CODEC_ZSTD;
		if (compression.level == DEFAULT_LEVEL)
			compression.level = ZSTD_DEFAULT_LEVEL;
	}
	return compression;
}
