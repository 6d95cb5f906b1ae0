/*-------------------------------------------------------------------------
 *
 * published_set.c
 *	  The exact set of transactions whose events are on Kafka, as a record of
 *	  the progress topic tells it.
 *
 * The set is what a snapshot shows, and the "extras": transactions that were
 * published after the snapshot was taken, or whose commit record was written
 * when they still ran for the snapshot.  published_set_json.c writes it down.
 *
 * Pure: no I/O, no globals.  What is allocated is in the current memory
 * context unless another is named.
 *
 *-------------------------------------------------------------------------
 */
#include "relay/state/published_set.h"

#include "utils/memutils.h"

#include "relay/state/xid_array.h"

#define INITIAL_EXTRAS 64

/* A pg_snapshot in parts; xip in ascending order. */
typedef struct Parts
{
	uint64		xmin;
	uint64		xmax;
	uint64	   *xip;
	int			nxip;
} Parts;

/* Reads a number and moves on behind it; false when there is none. */
static bool
read_number(const char **p, uint64 *number)
{
	char	   *end;

	if (**p < '0' || **p > '9')
		return false;
	errno = 0;
	*number = strtoull(*p, &end, 10);
	*p = end;
	return errno == 0;
}

/* Takes a snapshot apart, into xip too; false when it is malformed. */
static bool
read_snapshot(Parts *parts, const char *snapshot)
{
	const char *p = snapshot;
	uint64		last;

	parts->nxip = 0;
	if (!read_number(&p, &parts->xmin) || *p++ != ':' ||
		!read_number(&p, &parts->xmax) || *p++ != ':' ||
		parts->xmin == 0 || parts->xmin > parts->xmax)
		return false;
	last = parts->xmin;
	while (*p)
	{
		uint64		xid;

		if ((parts->nxip > 0 && *p++ != ',') || !read_number(&p, &xid) ||
			xid < last || xid >= parts->xmax)
			return false;
		parts->xip[parts->nxip++] = last = xid;
	}
	return true;
}

/* Makes room for the parts of a snapshot. */
static void
allocate_parts(Parts *parts, const char *snapshot)
{
	int			commas = 1;

	for (const char *c = snapshot; *c; c++)
		commas += *c == ',';
	parts->xip = MemoryContextAllocHuge(CurrentMemoryContext,
										commas * sizeof(uint64));
}

static void
parse_snapshot(Parts *parts, const char *snapshot)
{
	allocate_parts(parts, snapshot);
	if (!read_snapshot(parts, snapshot))
		elog(ERROR, "malformed snapshot: %s", snapshot);
}

/*
 * The upper end of a snapshot; 0 when it is malformed.
 */
uint64
published_set_snapshot_end(const char *snapshot)
{
	Parts		parts;
	bool		valid;

	allocate_parts(&parts, snapshot);
	valid = read_snapshot(&parts, snapshot);
	pfree(parts.xip);
	return valid ? parts.xmax : 0;
}

/* Does the snapshot show the transaction, given that it has ended? */
static bool
parts_show(const Parts *parts, uint64 xid)
{
	if (xid < parts->xmin)
		return true;
	if (xid >= parts->xmax)
		return false;
	return bsearch(&xid, parts->xip, parts->nxip, sizeof(uint64),
				   compare_xids) == NULL;
}

/*
 * Adds a transaction; context is for the list of extras.  A transaction that
 * comes several times in a row is added once.
 */
void
published_set_add(PublishedSet *set, uint64 xid, MemoryContext context)
{
	if (set->nextras > 0 && set->extras[set->nextras - 1] == xid)
		return;
	if (set->nextras == set->size)
	{
		int			size = Max(set->size * 2, INITIAL_EXTRAS);

		if (set->extras)
			set->extras = repalloc_huge(set->extras, size * sizeof(uint64));
		else
			set->extras = MemoryContextAlloc(context, size * sizeof(uint64));
		set->size = size;
	}
	set->extras[set->nextras++] = xid;
}

/*
 * Replaces the snapshot, whose text is copied to context, by a later one that
 * shows nothing but what is in the set, and drops the extras that it shows.
 */
void
published_set_rebase(PublishedSet *set, const char *snapshot,
					 MemoryContext context)
{
	char	   *old = set->snapshot;
	Parts		parts;
	int			kept = 0;

	parse_snapshot(&parts, snapshot);
	for (int i = 0; i < set->nextras; i++)
		if (!parts_show(&parts, set->extras[i]))
			set->extras[kept++] = set->extras[i];
	set->nextras = kept;
	pfree(parts.xip);
	set->snapshot = MemoryContextStrdup(context, snapshot);
	if (old)
		pfree(old);
}

/*
 * The extras in ascending order, each once; returns their number.
 */
int
published_set_extras(const PublishedSet *set, uint64 **result)
{
	int			n = 0;
	uint64	   *extras = MemoryContextAllocHuge(CurrentMemoryContext,
												(set->nextras + 1) * sizeof(uint64));

	if (set->nextras > 0)
		memcpy(extras, set->extras, set->nextras * sizeof(uint64));
	qsort(extras, set->nextras, sizeof(uint64), compare_xids);
	for (int i = 0; i < set->nextras; i++)
		if (n == 0 || extras[n - 1] != extras[i])
			extras[n++] = extras[i];
	*result = extras;
	return n;
}

/*
 * The set as one pg_snapshot: transactions between the extras count as
 * running.
 */
char *
published_set_fold(const PublishedSet *set)
{
	Parts		parts;
	uint64	   *extras;
	int			nextras = published_set_extras(set, &extras);
	StringInfoData buf;
	StringInfoData running;
	uint64		xmax;
	uint64		xmin = 0;
	int			next = 0;

	parse_snapshot(&parts, set->snapshot);
	xmax = parts.xmax;
	if (nextras > 0)
		xmax = Max(xmax, extras[nextras - 1] + 1);
	initStringInfo(&running);
	for (int i = 0; i < parts.nxip; i++)
	{
		if (bsearch(&parts.xip[i], extras, nextras, sizeof(uint64), compare_xids))
			continue;
		xmin = xmin ? xmin : parts.xip[i];
		appendStringInfo(&running, running.len > 0 ? "," UINT64_FORMAT : UINT64_FORMAT,
						 parts.xip[i]);
	}
	for (uint64 xid = parts.xmax; xid < xmax; xid++)
	{
		while (next < nextras && extras[next] < xid)
			next++;
		if (next < nextras && extras[next] == xid)
			continue;
		xmin = xmin ? xmin : xid;
		appendStringInfo(&running, running.len > 0 ? "," UINT64_FORMAT : UINT64_FORMAT,
						 xid);
	}
	initStringInfo(&buf);
	appendStringInfo(&buf, UINT64_FORMAT ":" UINT64_FORMAT ":%s",
					 xmin ? xmin : xmax, xmax, running.data);
	pfree(running.data);
	pfree(extras);
	pfree(parts.xip);
	return buf.data;
}
