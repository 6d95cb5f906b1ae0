/*-------------------------------------------------------------------------
 *
 * socket_options.c
 *	  Sockets that notice soon that nobody is at the other end.
 *
 * A firewall, address translation or load balancer may forget a connection
 * that was idle, or all of them, and drop what comes without a word.  The
 * library would wait for its answer until socket.timeout.ms, and the kernel
 * for a quarter of an hour.  So an idle connection is kept alive, and one
 * whose data the other kernel does not even acknowledge is closed.  The
 * library then connects again and repeats its requests.  A broker that is slow
 * does not suffer from that: its kernel acknowledges at once.  One that does not
 * even read what it is sent, because it throttles, gets another connection.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka/client/socket_options.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <librdkafka/rdkafka.h>

/*
 * An idle connection is asked for a sign of life, and again while there is
 * none.  A consumer's is idle while it waits for the answer to a fetch, so that
 * has to be soon.
 */
#define IDLE_S 2
#define ASK_AGAIN_S 1

/* Without a sign of life, or with data that is not acknowledged. */
#define GIVE_UP_MS 4000

static void
set_option(int s, int option, int value)
{
	/* Without it, the library's own time-out is left. */
	(void) setsockopt(s, IPPROTO_TCP, option, &value, sizeof(value));
}

/*
 * Makes a socket for the library, in a thread of the library's.  Whether idle
 * connections are asked at all is its option socket.keepalive.enable.
 */
static int
open_socket(int domain, int type, int protocol, void *opaque)
{
	int			s;

#ifdef SOCK_CLOEXEC
	type |= SOCK_CLOEXEC;
#endif
	s = socket(domain, type, protocol);
	if (s < 0)
		return s;
#ifndef SOCK_CLOEXEC
	(void) fcntl(s, F_SETFD, FD_CLOEXEC);
#endif
#ifdef TCP_KEEPIDLE
	set_option(s, TCP_KEEPIDLE, IDLE_S);
	set_option(s, TCP_KEEPINTVL, ASK_AGAIN_S);
#endif
#ifdef TCP_USER_TIMEOUT
	set_option(s, TCP_USER_TIMEOUT, GIVE_UP_MS);
#endif
	return s;
}

/*
 * Has a handle use such sockets.
 */
void
socket_options_configure(rd_kafka_conf_t *conf)
{
	rd_kafka_conf_set_socket_cb(conf, open_socket);
}
