/*-------------------------------------------------------------------------
 *
 * slot_progress.h
 *	  How acknowledgements become a slot's position and a watermark.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_SLOT_PROGRESS_H
#define OUTBOX_SLOT_PROGRESS_H

#include "postgres.h"

#include "event/event.h"
#include "relay/state/relay.h"

extern void progress_begin(void);
extern void progress_note_event(const Relay *relay, const Event *event);
extern void progress_confirm(Relay *relay);
extern void progress_move_watermark(Relay *relay);

#endif							/* OUTBOX_SLOT_PROGRESS_H */
