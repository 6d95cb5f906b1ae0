/*-------------------------------------------------------------------------
 *
 * timeline_history.c
 *	  Was this server restored to a point in time?
 *
 * Such a server begins a timeline, as a standby does that is promoted.  But
 * while a standby takes the place of a primary that is gone, a restore is most
 * often a copy for a look at the past, or for a test, and the original goes on.
 * The history of a timeline tells them apart: it says at which target recovery
 * was ended, and a standby has none.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "relay/progress/timeline_history.h"

#include <unistd.h>

#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "storage/fd.h"

/* What the server writes when recovery had no target. */
#define NO_TARGET "no recovery target specified"

/*
 * The last timeline that this server has left at a recovery target; 0 if there
 * is none.
 */
TimeLineID
timeline_restored_from(void)
{
	TimeLineID	ours = GetWALInsertionTimeLine();
	TimeLineID	found = 0;
	char		path[MAXPGPATH];
	char		line[MAXPGPATH];
	FILE	   *file;

	if (ours == 1)
		return 0;
	TLHistoryFilePath(path, ours);
	file = AllocateFile(path, "r");
	/* Without a history, the server itself knows of no other timeline. */
	if (file == NULL && errno == ENOENT)
		return 0;
	if (file == NULL)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", path)));
	while (fgets(line, sizeof(line), file))
	{
		TimeLineID	timeline;
		uint32		high;
		uint32		low;
		int			reason = 0;

		if (sscanf(line, "%u\t%X/%X\t%n", &timeline, &high, &low, &reason) == 3 &&
			reason > 0 && strncmp(line + reason, NO_TARGET, strlen(NO_TARGET)) != 0)
			found = timeline;
	}
	FreeFile(file);
	return found;
}
