/*-------------------------------------------------------------------------
 *
 * uuid7.c
 *	  UUIDs of version 7 (RFC 9562, section 5.7).
 *
 * 48 bits of Unix time in milliseconds, 12 bits of the millisecond's fraction
 * (method 3 of section 6.2) and 62 random bits, so that ids follow the order
 * of time and index pages fill one after the other.  Within a backend every
 * id is greater than the one before, also when the clock was set back.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "event/uuid7.h"

#include <time.h>

#define NS_PER_MS INT64CONST(1000000)
#define FRACTION_BITS 12

/* One system call, or worse, for so many ids. */
#define RANDOM_POOL_IDS 32
#define RANDOM_PER_ID 8

/*
 * The clock in units of 1/4096 ms, but always later than the last time.
 */
static uint64
next_tick(void)
{
	static uint64 last = 0;
	struct timespec now;
	uint64		tick;

	clock_gettime(CLOCK_REALTIME, &now);
	tick = ((uint64) now.tv_sec * 1000 + now.tv_nsec / NS_PER_MS) << FRACTION_BITS;
	tick |= ((now.tv_nsec % NS_PER_MS) << FRACTION_BITS) / NS_PER_MS;
	if (tick <= last)
		tick = last + 1;
	last = tick;
	return tick;
}

/*
 * Writes RANDOM_PER_ID cryptographically strong random bytes, never the same
 * twice, to bytes.
 */
static void
next_random(uint8 *bytes)
{
	static uint8 pool[RANDOM_POOL_IDS * RANDOM_PER_ID];
	static int	left = 0;

	if (left == 0)
	{
		if (!pg_strong_random(pool, sizeof(pool)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random values")));
		left = RANDOM_POOL_IDS;
	}
	left--;
	memcpy(bytes, pool + left * RANDOM_PER_ID, RANDOM_PER_ID);
}

/*
 * Writes a new UUID of version 7 to uuid.  Raises an error when there is no
 * source of random numbers.
 */
void
uuid7_generate(pg_uuid_t *uuid)
{
	uint64		tick = next_tick();
	uint64		ms = tick >> FRACTION_BITS;

	for (int i = 0; i < 6; i++)
		uuid->data[i] = (uint8) (ms >> (40 - 8 * i));
	uuid->data[6] = 0x70 | ((tick >> 8) & 0x0f);	/* version */
	uuid->data[7] = tick & 0xff;
	next_random(uuid->data + 8);
	uuid->data[8] = 0x80 | (uuid->data[8] & 0x3f);	/* variant */
}
