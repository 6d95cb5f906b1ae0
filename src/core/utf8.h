/*-------------------------------------------------------------------------
 *
 * utf8.h
 *	  Kafka's text, which is UTF-8, as text of the database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_UTF8_H
#define OUTBOX_UTF8_H

#include "postgres.h"

extern char *utf8_to_database(const char *data, int len);

#endif							/* OUTBOX_UTF8_H */
