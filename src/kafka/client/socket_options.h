/*-------------------------------------------------------------------------
 *
 * socket_options.h
 *	  Sockets that notice soon that nobody is at the other end.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SOCKET_OPTIONS_H
#define OUTBOX_SOCKET_OPTIONS_H

#include "postgres.h"

#include <librdkafka/rdkafka.h>

extern void socket_options_configure(rd_kafka_conf_t *conf);

#endif							/* OUTBOX_SOCKET_OPTIONS_H */
