/*-------------------------------------------------------------------------
 *
 * replication_slot.c
 *	  The replication slots of relays, for whoever does not decode from them.
 *
 * A slot keeps WAL until somebody reads from it.  The relay that has acquired
 * its slot sees to it that this is no more than outbox.max_slot_wal.  Nobody
 * has acquired the slot of a relay that waits, for settings or for what Kafka
 * tells, or of one that cannot be started; and on a standby there are no
 * relays, only the slots that it had as a primary.  Those are the launcher's
 * affair.
 *
 *-------------------------------------------------------------------------
 */
#include "core/replication_slot.h"

#include "access/xlog.h"
#include "access/xlogrecovery.h"
#include "miscadmin.h"
#include "replication/slot.h"
#include "replication/walreceiver.h"
#include "storage/lwlock.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "core/background_worker.h"
#include "core/compat.h"
#include "core/guc.h"
#include "core/monotonic_clock.h"

#define LOOK_INTERVAL_MS 1000
#define GRACE_MS 5000			/* in which a relay may acquire its slot */
#define MEBIBYTE (1024 * 1024)

/*
 * Writes the name of a database's slot, which depends on the database alone,
 * to name (NAMEDATALEN bytes).
 */
void
slot_name_of(Oid database, char *name)
{
	snprintf(name, NAMEDATALEN, "outbox_%u", database);
}

/* Is the slot, whose mutex is held, that of the relay of a database? */
static bool
is_ours(const ReplicationSlot *slot, Oid database)
{
	char		name[NAMEDATALEN];

	slot_name_of(database, name);
	return slot->data.database == database &&
		strcmp(NameStr(slot->data.name), name) == 0 &&
		strcmp(NameStr(slot->data.plugin), WORKER_LIBRARY) == 0;
}

/*
 * Looks at the slot of a database without acquiring it.
 */
SlotCondition
slot_condition_of(Oid database)
{
	char		name[NAMEDATALEN];
	ReplicationSlot *slot;
	SlotCondition condition;

	slot_name_of(database, name);
	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	slot = SearchNamedReplicationSlot(name, false);
	if (slot == NULL)
		condition = SLOT_MISSING;
	else
	{
		SpinLockAcquire(&slot->mutex);
		if (!is_ours(slot, database))
			condition = SLOT_FOREIGN;
		else if (compat_slot_invalidated(slot))
			condition = SLOT_INVALIDATED;
		else
			condition = SLOT_USABLE;
		SpinLockRelease(&slot->mutex);
	}
	LWLockRelease(ReplicationSlotControlLock);
	return condition;
}

/*
 * From where on the slot of a database holds WAL, and up to where that is done
 * with.  Returns false when it holds none.
 */
bool
slot_positions(Oid database, XLogRecPtr *restart, XLogRecPtr *confirmed)
{
	char		name[NAMEDATALEN];
	ReplicationSlot *slot;
	bool		found = false;

	slot_name_of(database, name);
	LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
	slot = SearchNamedReplicationSlot(name, false);
	if (slot != NULL)
	{
		SpinLockAcquire(&slot->mutex);
		*restart = slot->data.restart_lsn;
		*confirmed = slot->data.confirmed_flush;
		found = is_ours(slot, database) && !XLogRecPtrIsInvalid(*restart) &&
			!compat_slot_invalidated(slot);
		SpinLockRelease(&slot->mutex);
	}
	LWLockRelease(ReplicationSlotControlLock);
	return found;
}

/*
 * Drops the slot of a database that nobody has acquired, if it has a slot.  The
 * next relay catches up from the table.
 */
void
slot_forget(Oid database)
{
	char		name[NAMEDATALEN];
	SlotCondition condition = slot_condition_of(database);

	slot_name_of(database, name);
	if (condition == SLOT_USABLE || condition == SLOT_INVALIDATED)
		ReplicationSlotDrop(name, true);
}

/*
 * End of the WAL that this server has.
 */
XLogRecPtr
slot_wal_end(void)
{
	if (!RecoveryInProgress())
		return GetXLogInsertRecPtr();
	return Max(GetXLogReplayRecPtr(NULL), GetWalRcvFlushRecPtr(NULL, NULL));
}

/*
 * Is this a relay's slot that nobody has acquired, and that is ours to drop?
 * One that a standby has from its primary is kept within bounds there.  If so,
 * *held is the WAL that it holds, in bytes: what waits for Kafka, or what is
 * kept for transactions that were open, whichever is more.
 */
static bool
is_unattended(ReplicationSlot *slot, XLogRecPtr end, Oid *database, uint64 *held)
{
	XLogRecPtr	restart;
	XLogRecPtr	confirmed;
	bool		result;

	SpinLockAcquire(&slot->mutex);
	*database = slot->data.database;
	restart = slot->data.restart_lsn;
	confirmed = slot->data.confirmed_flush;
	result = slot->active_pid == 0 && is_ours(slot, *database) &&
		!(compat_slot_synced(slot) && RecoveryInProgress());
	SpinLockRelease(&slot->mutex);
	*held = 0;
	if (!XLogRecPtrIsInvalid(restart))
	{
		confirmed = Max(confirmed, restart);
		*held = Max(end > confirmed ? end - confirmed : 0, confirmed - restart);
	}
	return result;
}

/* Drops a slot; when that fails, the next look will try again. */
static void
give_up(Oid database)
{
	MemoryContext context = CurrentMemoryContext;

	ereport(LOG,
			(errmsg("outbox gives up the replication slot of database %u, which holds more than outbox.max_slot_wal",
					database),
			 errdetail("Nothing is lost: a relay takes the events from the table when it can.")));
	PG_TRY();
	{
		slot_forget(database);
	}
	PG_CATCH();
	{
		LWLockReleaseAll();
		MemoryContextSwitchTo(context);
		EmitErrorReport();
		FlushErrorState();
	}
	PG_END_TRY();
}

/*
 * Since when nobody has acquired the slot at a place, by monotonic_now(); notes
 * that it is so, or not, now.
 */
static TimestampTz
unattended_since(int place, bool unattended)
{
	static TimestampTz *since = NULL;

	if (since == NULL)
		since = MemoryContextAllocZero(TopMemoryContext,
									   max_replication_slots * sizeof(TimestampTz));
	if (!unattended)
		since[place] = 0;
	else if (since[place] == 0)
		since[place] = monotonic_now();
	return since[place];
}

/*
 * Gives up slots that hold too much WAL and that nobody has acquired for a
 * while: a relay that starts over is soon back.  Returns when to look again:
 * DT_NOEND when every slot is attended to, or may hold all.
 */
TimestampTz
slot_limit_unattended(void)
{
	XLogRecPtr	end = slot_wal_end();
	TimestampTz now = monotonic_now();
	TimestampTz next = DT_NOEND;

	if (outbox_max_slot_wal < 0)
		return next;
	for (int i = 0; i < max_replication_slots; i++)
	{
		ReplicationSlot *slot = &ReplicationSlotCtl->replication_slots[i];
		Oid			database;
		uint64		held;
		bool		unattended;
		TimestampTz since;

		LWLockAcquire(ReplicationSlotControlLock, LW_SHARED);
		unattended = slot->in_use && is_unattended(slot, end, &database, &held);
		LWLockRelease(ReplicationSlotControlLock);
		since = unattended_since(i, unattended);
		if (!unattended)
			continue;
		if (held / MEBIBYTE >= outbox_max_slot_wal &&
			TimestampDifferenceExceeds(since, now, GRACE_MS))
			give_up(database);
		next = TimestampTzPlusMilliseconds(now, LOOK_INTERVAL_MS);
	}
	return next;
}
