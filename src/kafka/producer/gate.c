/*-------------------------------------------------------------------------
 *
 * gate.c
 *	  Several requests in flight in a producer for Kafka transactions, but one
 *	  of a partition.
 *
 * Why not two of a partition.  A leader that knows a producer takes its batches
 * in their order only.  One that does not takes any batch as the first: a new
 * producer's, and also that of an old one after producer.id.expiration.ms, for
 * a topic that was made again, from a replica that never had or has lost what
 * the producer wrote (a reassignment after retention, an unclean election).  If
 * such a leader refuses a batch because it is just becoming one, or lacks
 * replicas, and takes the next that is under way already, librdkafka concludes
 * from the second acknowledgement that the first batch was written as well
 * ("implicit ack"): it is lost, and the transaction is committed without it.
 * And where the leader does know the producer, the second batch fails, and with
 * it the transaction.
 *
 * Why several at all.  A request carries one partition.  With one in flight,
 * each partition of a transaction costs a round trip, one after the other.
 *
 * So the gate hands a partition's messages to the library in groups.  Each
 * group is one request, and the next is handed over when all of the one before
 * is acknowledged; until then messages wait here.  For a partition the library
 * then does exactly what it does with max.in.flight=1.  That holds whatever
 * brokers know or forget, whoever leads, and whichever producer id or epoch the
 * library has, so there is nothing to remember of any of these.
 *
 * Nobody sees a message before its transaction is committed, and a broker that
 * is far away takes few requests in a second.  So if it is far, a group grows
 * until the end of its transaction comes, or somebody waits for what is in it,
 * or it is large (gate_step.c).  The end takes a round trip for every five partitions, and one
 * for the coordinator.  That it has added the partitions by then takes none.
 *
 * That a group is one request (as librdkafka 2.0.2 and 2.14.0 are written; what
 * of them counts here is the same):
 *
 *	 - It is no larger than what the library puts into one: batch.num.messages,
 *	   and batch.size by an estimate that is never too low.  A message that is
 *	   larger alone is a group of its own, which cannot be cut.
 *	 - The library's thread takes all that waits for a partition, under the
 *	   partition's lock.  For it not to come in between, the partition is paused
 *	   as long as messages may be added to the group; the call returns when that
 *	   is in force.  Where the library does not know the partition (yet), so
 *	   that it cannot be paused, a group is one message.
 *	 - When the group has to be sent again, the library makes the same batch of
 *	   it, or the producer is beyond use: a batch keeps the id of its last
 *	   message for that, whatever the error was.  Another leader gets all that
 *	   was not sent yet at once, from the old one's thread, under that lock.
 *	 - A message that times out fails its transaction.
 *
 * The partition of a message has to be known here: see partition_placement.c.
 *
 * With the gate the library need not linger (flush.c): it has nothing of a
 * partition that it could not send, save until the coordinator has added the
 * partition to the transaction, or one of the five requests is answered, and it
 * does not turn round and round for that.  Where the administrator wants
 * messages to linger there is no gate, and one request is in flight.
 *
 * When a delivery fails, so has the transaction, and all that waits here fails
 * likewise.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/producer/gate.h"

#include "utils/memutils.h"

#include "kafka/client/property_value.h"
#include "kafka/config/config.h"
#include "kafka/producer/error_class.h"
#include "kafka/producer/flush.h"
#include "kafka/producer/gate_queue.h"
#include "kafka/producer/gate_state.h"
#include "kafka/producer/gate_step.h"
#include "kafka/producer/header_pool.h"
#include "kafka/producer/producer.h"
#include "kafka/producer/producer_error.h"
#include "kafka/producer/producer_partitions.h"
#include "kafka/producer/producer_state.h"

#define IN_FLIGHT "5"			/* requests, the most of an idempotent
								 * producer */
#define REQUEST_BYTES 2048		/* of a request without messages and names
								 * that users choose, at most */
#define MESSAGES_PER_STEP 256
#define WORTH_BYTES (64 * 1024) /* of a group that is sent before others */

/*
 * Is there to be a gate?
 */
bool
gate_is_wanted(const KafkaConfig *config)
{
	return config->transactional_id != NULL && !flush_is_unwanted(config);
}

/*
 * Makes the library's configuration one for a gate.  Returns false, with the
 * reason in error (PRODUCER_ERROR_LEN bytes), when the library refuses it.
 */
bool
gate_configure(rd_kafka_conf_t *conf, const KafkaConfig *config, char *error)
{
	/* Two names of one property. */
	bool		chosen = kafka_config_has(config, "max.in.flight") ||
	kafka_config_has(config, "max.in.flight.requests.per.connection");

	return (chosen ||
			rd_kafka_conf_set(conf, "max.in.flight", IN_FLIGHT, error,
							  PRODUCER_ERROR_LEN) == RD_KAFKA_CONF_OK) &&
		rd_kafka_conf_set(conf, "linger.ms", "0", error,
						  PRODUCER_ERROR_LEN) == RD_KAFKA_CONF_OK;
}

/* How long a name is that the configuration has; 0 if it has none. */
static int
name_length(const rd_kafka_conf_t *conf, const char *property)
{
	size_t		size = 0;

	if (rd_kafka_conf_get(conf, property, NULL, &size) != RD_KAFKA_CONF_OK)
		return 0;
	return (int) size;
}

/*
 * Makes the gate of a producer with that configuration, whose batch_bytes are
 * known.  May raise an error for want of memory.
 */
void
gate_create(Producer *producer, const rd_kafka_conf_t *conf)
{
	Gate	   *gate = MemoryContextAllocZero(producer->context, sizeof(Gate));

	dlist_init(&gate->holding);
	dlist_init(&gate->open);
	gate->group_messages = client_number(conf, "batch.num.messages");
	gate->group_bytes = producer->batch_bytes - REQUEST_BYTES -
		name_length(conf, "client.id") - name_length(conf, "transactional.id");
	gate->worth_bytes = Min(gate->group_bytes, WORTH_BYTES);
	gate->max_held = client_number(conf, "queue.buffering.max.messages");
	gate->max_held_bytes = Max(client_number(conf, "queue.buffering.max.kbytes") * 1024 / 2,
							   producer->batch_bytes);
	producer->gate = gate;
}

/* Is there no room for another message? */
static bool
is_full(const Gate *gate, int64 bytes)
{
	return gate->nheld >= gate->max_held ||
		(gate->nheld > 0 && gate->held_bytes + bytes > gate->max_held_bytes);
}

/*
 * Can a message be handed over at once, as a group of its own, or, if nobody
 * knows its partition, as the only one there is?
 */
static bool
may_pass(const Producer *producer, const GatePartition *partition)
{
	if (gate_is_shut(producer))
		return false;
	if (partition == NULL)
		return producer->gate->nheld == 0 && producer->outstanding == 0;
	return partition->in_flight == 0 && partition->nheld == 0;
}

/*
 * Takes a message for which there is a gate, for that partition, or -1 if
 * nobody knows it.  Sets result, as producer_send() returns it, or returns
 * false: then it is to be sent now, and gate_note_sent() told of it.  May raise
 * an error for want of memory.
 */
bool
gate_send(Producer *producer, const Message *message, int number,
		  SendResult *result)
{
	Gate	   *gate = producer->gate;
	GatePartition *partition = NULL;
	int64		bytes = gate_message_bytes(message);

	if (gate->err != RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		producer_set_error(producer, gate->err);
		*result = SEND_FATAL;
		return true;
	}
	if (number >= 0)
		partition = gate_partition(producer, message->topic, number);
	*result = SEND_QUEUE_FULL;
	if (partition == NULL || bytes > gate->group_bytes)
	{
		gate_step(producer, false);
		return !may_pass(producer, partition);
	}
	if (is_full(gate, bytes))
		gate_step(producer, false);
	if (is_full(gate, bytes))
		return true;
	gate_hold(producer, partition, message, bytes);
	producer_partitions_note_sent(message->topic);
	if (++gate->nsent % MESSAGES_PER_STEP == 0 ||
		gate_has_worthy_group(gate, partition))
		gate_step(producer, false);
	*result = SEND_QUEUED;
	return true;
}

/*
 * The library has taken a message that passed.
 */
void
gate_note_sent(Producer *producer, const Message *message, int number)
{
	if (number >= 0)
		gate_find_partition(message->topic, number)->in_flight++;
	else
		producer->gate->alone = true;
}

/*
 * The library is done with a message.
 */
void
gate_note_reported(Producer *producer, const rd_kafka_message_t *message)
{
	Gate	   *gate = producer->gate;
	ProducerTopic *topic = message->rkt ? rd_kafka_topic_opaque(message->rkt) : NULL;
	GatePartition *partition = NULL;

	if (topic && !gate->alone)
		partition = gate_find_partition(topic, message->partition);
	if (partition)
		partition->in_flight--;
	if (producer->outstanding == 0)
		gate->alone = false;
	if (message->err != RD_KAFKA_RESP_ERR_NO_ERROR &&
		errors_classify(message->err) != DELIVERY_OK &&
		gate->err == RD_KAFKA_RESP_ERR_NO_ERROR)
		gate->err = RD_KAFKA_RESP_ERR__PURGE_QUEUE;
}

/* Tells the handler that a message will not be sent. */
static void
failure_report_failed(Producer *producer, GatePartition *partition,
					  DeliveryHandler handler, void *arg)
{
	HeldMessage *held = gate_take(producer->gate, partition);
	rd_kafka_resp_err_t err = producer->gate->err;
	Delivery	delivery = {
		.opaque = held->opaque,
		.result = errors_classify(err),
		.error_name = rd_kafka_err2name(err),
		.error_text = rd_kafka_err2str(err),
		.topic = partition->topic->name,
		.bytes = Max(held->key_len, 0) + Max(held->value_len, 0),
		.value_bytes = Max(held->value_len, 0),
		.offset = -1,
	};

	headers_keep(producer, held->headers);
	pfree(held);
	partition->topic->outstanding--;
	producer->doubts++;
	handler(arg, &delivery);
}

/*
 * The library's reports were served: hands over what may go now, or, when the
 * transaction has failed, tells the handler of all that waits.
 */
void
gate_poll(Producer *producer, DeliveryHandler handler, void *arg)
{
	Gate	   *gate = producer->gate;

	gate_step(producer, false);
	while (gate->err != RD_KAFKA_RESP_ERR_NO_ERROR &&
		   !dlist_is_empty(&gate->holding))
		failure_report_failed(producer,
							  dlist_head_element(GatePartition, node, &gate->holding),
							  handler, arg);
}

/*
 * Another transaction begins.  Nothing is under way.
 */
void
gate_begin(Producer *producer)
{
	Assert(producer->gate->nheld == 0);
	producer->gate->err = RD_KAFKA_RESP_ERR_NO_ERROR;
	gate_step(producer, true);
}

/*
 * Gives the headers of what waits back, as the producer goes.
 */
void
gate_destroy(Producer *producer)
{
	Gate	   *gate = producer->gate;

	while (gate && !dlist_is_empty(&gate->holding))
		headers_keep(producer,
					 gate_take(gate, dlist_head_element(GatePartition, node,
														&gate->holding))->headers);
}
