/*-------------------------------------------------------------------------
 *
 * output_plugin.h
 *	  The logical decoding output plugin, and its short cut to the relay.
 *
 *-------------------------------------------------------------------------
 */
#ifndef OUTBOX_OUTPUT_PLUGIN_H
#define OUTBOX_OUTPUT_PLUGIN_H

#include "postgres.h"

#include "replication/logical.h"

#include "event/event.h"
#include "relay/state/commit.h"

/*
 * Takes events straight from the plugin, without a frame in between.  Both
 * functions run inside a decoding callback: no SPI, no catalog changes.  The
 * event lives until its function returns, in a short-lived memory context.
 */
typedef struct EventSink
{
	void		(*event) (void *arg, const Event *event, const Commit *commit);
	void		(*commit) (void *arg, XLogRecPtr end);
	void	   *arg;
} EventSink;

extern PGDLLEXPORT void _PG_output_plugin_init(OutputPluginCallbacks *cb);
extern void plugin_set_sink(LogicalDecodingContext *ctx, const EventSink *sink);

#endif							/* OUTBOX_OUTPUT_PLUGIN_H */
