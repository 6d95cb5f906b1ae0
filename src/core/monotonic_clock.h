/*-------------------------------------------------------------------------
 *
 * monotonic_clock.h
 *	  A clock that nobody sets, to measure how long something takes.
 *
 * The time of day can jump, by hours when an administrator corrects it.  What
 * is to happen a second later must not happen an hour later because of that.
 * So intervals are measured with this clock, and only times that people read
 * are times of day.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_MONOTONIC_CLOCK_H
#define OUTBOX_MONOTONIC_CLOCK_H

#include "postgres.h"

#include "datatype/timestamp.h"

extern TimestampTz monotonic_now(void);

/*
 * The earlier one of two times.  Unlike Min(), takes what has an effect only
 * once.
 */
static inline TimestampTz
steady_earlier(TimestampTz a, TimestampTz b)
{
	return Min(a, b);
}

#endif							/* OUTBOX_MONOTONIC_CLOCK_H */
