/*-------------------------------------------------------------------------
 *
 * last_error.h
 *	  The error that ends a worker, for the status that it leaves.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_LAST_ERROR_H
#define OUTBOX_LAST_ERROR_H

#include "postgres.h"

#define LAST_WORDS_LEN 1024

extern void last_error_keep(void);
extern bool last_error_failed(int code);
extern const char *last_words(void);

#endif							/* OUTBOX_LAST_ERROR_H */
