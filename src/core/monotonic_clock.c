/*-------------------------------------------------------------------------
 *
 * monotonic_clock.c
 *	  A clock that nobody sets.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "core/monotonic_clock.h"

#include <time.h>

/*
 * Microseconds since some time before the machine started; the same clock in
 * all processes, and of no use after the machine has started again.  It has
 * the type of a time of day so that PostgreSQL's functions for differences
 * work.  Zero, which stands for "never", is more than a day ago.
 */
TimestampTz
monotonic_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return USECS_PER_DAY + (TimestampTz) now.tv_sec * USECS_PER_SEC +
		now.tv_nsec / 1000;
}
