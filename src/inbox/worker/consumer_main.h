/*-------------------------------------------------------------------------
 *
 * consumer_main.h
 *	  The consumer: a background worker that takes a subscription's messages
 *	  from Kafka into the database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_CONSUMER_MAIN_H
#define OUTBOX_CONSUMER_MAIN_H

#include "postgres.h"

extern PGDLLEXPORT void outbox_consumer_main(Datum arg);

#endif							/* OUTBOX_CONSUMER_MAIN_H */
