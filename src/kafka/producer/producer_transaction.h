/*-------------------------------------------------------------------------
 *
 * producer_transaction.h
 *	  Kafka transactions of a producer.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_PRODUCER_TRANSACTION_H
#define OUTBOX_PRODUCER_TRANSACTION_H

#include "postgres.h"

#include "kafka/producer/producer.h"

/* By which a call may outlast its time-out. */
#define TRANSACTION_GRACE_MS 200

/* librdkafka's; its header is not for those who include this one. */
struct rd_kafka_conf_s;

/* What takes time. */
typedef enum TransactionOperation
{
	TRANSACTION_INIT,			/* get to be the only producer of our name,
								 * and end what others left */
	TRANSACTION_COMMIT,
	TRANSACTION_ABORT
} TransactionOperation;

/* What came of it. */
typedef enum TransactionResult
{
	TRANSACTION_RUNNING,
	TRANSACTION_DONE,
	TRANSACTION_RETRY,			/* may succeed when it is started again */
	TRANSACTION_OCCUPIED,		/* likewise, once the last transaction of our
								 * name has ended */
	TRANSACTION_FAILED,			/* the outcome is unknown, or an abort */
	TRANSACTION_FENCED			/* another producer has taken our name */
} TransactionResult;

extern bool transaction_try_start(Producer *producer, TransactionOperation operation,
								  int timeout_ms);
extern void transaction_start(Producer *producer, TransactionOperation operation,
							  int timeout_ms);
extern TransactionResult transaction_result(Producer *producer);
extern TransactionResult transaction_begin(Producer *producer);
extern const char *transaction_failure(Producer *producer, bool *refused);
extern void transaction_leave(Producer *producer, int timeout_ms);
extern bool transaction_is_running(const Producer *producer);
extern bool transaction_is_fenced(const Producer *producer);
extern bool transaction_configure(struct rd_kafka_conf_s *conf,
								  const char *transactional_id, char *error);
extern bool transaction_abandon(Producer *producer);

#endif							/* OUTBOX_PRODUCER_TRANSACTION_H */
