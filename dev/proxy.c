/*-------------------------------------------------------------------------
 *
 * proxy.c
 *	  A network between clients and the brokers of a Kafka, which can be slow
 *	  or broken.
 *
 *	  proxy FILE [UNREAD]
 *
 * FILE is "proxied" of a directory of dev/kafka: each line has an address that
 * a broker gives to its clients, at which the proxy listens, and the one at
 * which the broker does.  A client that connects to the former stays behind the
 * proxy, whichever broker it goes on to.  With UNREAD, the kernel takes about so
 * many bytes of a client that the proxy does not read.
 *
 * Commands come from the standard input, a line each, and a line is written to
 * the standard output when the network is what the command says; the first one
 * when clients can connect.  The proxy ends when its standard input does.
 *
 *	  slow SECONDS	everything takes so much longer, each way
 *	  cut			connections break, and new ones with them
 *	  swallow		nothing comes through any more, and nobody is told
 *	  mute N ...	the same to and from the brokers in these lines of FILE
 *	  forget		nor through the connections that there are; new ones work
 *	  heal			all is well again
 *
 * A slow network delays all bytes by the same time and takes as many of them as
 * come: it neither limits what is under way, other than by ROOM, nor adds to the
 * time what does not come from the scheduler.  Connections are made at once.
 *
 *	  cc -o proxy proxy.c
 *
 *-------------------------------------------------------------------------
 */
#define _GNU_SOURCE				/* accept4() */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

/*
 * Bytes under way in one direction of a connection.  What is beyond waits in the
 * sender's socket, as in a real network.  With 5 ms it is 3 GB/s.
 */
#define ROOM (16 * 1024 * 1024)

#define READ_SIZE (256 * 1024)
#define MAX_ROUTES 10
#define MAX_EVENTS 64
#define NEVER INT64_MAX

/* Bytes that were read together.  None of them means that the sender ended. */
typedef struct Chunk
{
	struct Chunk *next;
	int64_t		due;			/* when they are to be written, in ns */
	size_t		written;
	size_t		size;
	char		bytes[];
} Chunk;

/* What epoll knows: a listening socket, or one of the two of a connection. */
typedef struct Socket
{
	int			fd;
	struct sockaddr_in broker;	/* of a listening one: where it leads */
	int			number;			/* the line of its broker, from 1 */

	struct Socket *peer;		/* NULL for a listening one */
	struct Socket *next;		/* of all in connections */
	Chunk	   *first;			/* to be written here */
	Chunk	   *last;
	size_t		queued;			/* bytes in them */
	uint32_t	events;			/* that epoll looks for */
	bool		full;			/* the kernel took less than there was */
	bool		ended;			/* nothing more will be read */
	bool		closed;			/* to be freed */
} Socket;

static int	epoll;
static int	timer;
static Socket commands;
static Socket alarm_clock;
static Socket *sockets;

static int64_t delay;
static bool is_cut;
static bool swallows;
static bool mute[MAX_ROUTES + 1];
static int	nroutes;

static void
die(const char *what)
{
	fprintf(stderr, "proxy: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void *
allocate(size_t size)
{
	void	   *memory = calloc(1, size);

	if (memory == NULL)
		die("memory");
	return memory;
}

static int64_t
now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

/*
 * Has epoll look for events of a socket.  One that it looks for nothing of is
 * not known to it at all, for it would tell of errors nevertheless.
 */
static void
watch(Socket *socket, uint32_t events)
{
	struct epoll_event event;
	int			operation = EPOLL_CTL_MOD;

	if (events == socket->events)
		return;
	if (events == 0)
		operation = EPOLL_CTL_DEL;
	else if (socket->events == 0)
		operation = EPOLL_CTL_ADD;
	event.events = events;
	event.data.ptr = socket;
	if (epoll_ctl(epoll, operation, socket->fd, &event))
		die("epoll_ctl");
	socket->events = events;
}

/* ----------------------------------------------------------------
 * Connections
 */

static Socket *
add_socket(int fd)
{
	Socket	   *socket = allocate(sizeof(Socket));
	int			yes = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	socket->fd = fd;
	socket->next = sockets;
	sockets = socket;
	return socket;
}

static void
connect_through(Socket *listener)
{
	int			client = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);
	int			broker;
	Socket	   *pair[2];

	if (client < 0)
		return;
	broker = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (broker < 0)
		die("socket");

	/* On the loopback that succeeds or fails at once. */
	if (is_cut || connect(broker, (struct sockaddr *) &listener->broker, sizeof(listener->broker)))
	{
		close(client);
		close(broker);
		return;
	}
	pair[0] = add_socket(client);
	pair[1] = add_socket(broker);
	pair[0]->peer = pair[1];
	pair[1]->peer = pair[0];
	pair[0]->number = pair[1]->number = listener->number;
}

/* Ends both sides.  They are freed when nobody has a pointer to them. */
static void
hang_up(Socket *socket)
{
	socket->closed = socket->peer->closed = true;
}

static void
free_socket(Socket *socket)
{
	Chunk	   *chunk;

	while ((chunk = socket->first) != NULL)
	{
		socket->first = chunk->next;
		free(chunk);
	}
	close(socket->fd);
	free(socket);
}

static void
free_closed(void)
{
	Socket	  **link = &sockets;
	Socket	   *socket;

	while ((socket = *link) != NULL)
	{
		if (socket->closed)
		{
			*link = socket->next;
			free_socket(socket);
		}
		else
			link = &socket->next;
	}
}

/* Reads what has come from a socket, for its peer. */
static void
take(Socket *from)
{
	static char buffer[READ_SIZE];
	Socket	   *to = from->peer;
	ssize_t		size = recv(from->fd, buffer, sizeof(buffer), MSG_DONTWAIT);
	Chunk	   *chunk;

	if (size < 0)
	{
		if (errno != EAGAIN && errno != EINTR)
			hang_up(from);
		return;
	}
	chunk = allocate(sizeof(Chunk) + size);
	chunk->due = now() + delay;
	chunk->size = size;
	memcpy(chunk->bytes, buffer, size);
	if (to->first == NULL)
		to->first = chunk;
	else
		to->last->next = chunk;
	to->last = chunk;
	to->queued += size;
	from->ended = size == 0;
}

/* Writes the first chunk, or a part of it; tells whether there may be more. */
static bool
give(Socket *to)
{
	Chunk	   *chunk = to->first;
	ssize_t		size = send(to->fd, chunk->bytes + chunk->written, chunk->size - chunk->written,
							MSG_DONTWAIT | MSG_NOSIGNAL);

	if (chunk->size == 0 || (size < 0 && errno != EAGAIN && errno != EINTR))
	{
		hang_up(to);
		return false;
	}
	if (size < 0)
	{
		to->full = errno == EAGAIN;
		return false;
	}
	chunk->written += size;
	to->queued -= size;
	if (chunk->written == chunk->size)
	{
		to->first = chunk->next;
		free(chunk);
	}
	return true;
}

/* ----------------------------------------------------------------
 * The network
 */

/* Writes what is due; returns when something else is, or NEVER. */
static int64_t
give_all(void)
{
	int64_t		next = NEVER;
	int64_t		time = now();

	if (swallows)
		return NEVER;
	for (Socket *to = sockets; to != NULL; to = to->next)
	{
		if (mute[to->number])
			continue;
		while (!to->closed && !to->full && to->first && to->first->due <= time)
		{
			if (!give(to))
				break;
		}
		if (!to->closed && !to->full && to->first && to->first->due < next)
			next = to->first->due;
	}
	return next;
}

static void
look_for_events(void)
{
	for (Socket *socket = sockets; socket != NULL; socket = socket->next)
	{
		uint32_t	events = 0;

		bool		carries = !swallows && !mute[socket->number];

		if (carries && !socket->ended && socket->peer->queued < ROOM)
			events |= EPOLLIN;
		if (carries && socket->full)
			events |= EPOLLOUT;
		watch(socket, events);
	}
}

static void
set_timer(int64_t due)
{
	static int64_t set = NEVER;
	struct itimerspec when;

	if (due == set)
		return;
	set = due;
	memset(&when, 0, sizeof(when));
	/* A time of 0 means never. */
	if (due != NEVER)
	{
		when.it_value.tv_sec = due / 1000000000;
		when.it_value.tv_nsec = due % 1000000000;
	}
	if (timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL))
		die("timerfd_settime");
}

/* The connections that there are stay open, and that is all. */
static void
forget(void)
{
	for (; sockets != NULL; sockets = sockets->next)
		watch(sockets, 0);
}

static void
answer(void)
{
	if (write(STDOUT_FILENO, ".\n", 2) != 2)
		exit(0);
}

/* Takes the numbers of brokers out of the command to mute them, if it is that. */
static void
set_mute(const char *line)
{
	char	   *rest;

	memset(mute, 0, sizeof(mute));
	if (strncmp(line, "mute ", 5) != 0)
		return;
	for (line += 5; *line != '\0' && *line != '\n'; line = rest)
	{
		long		number = strtol(line, &rest, 10);

		if (rest == line)
			return;
		if (number >= 1 && number <= MAX_ROUTES)
			mute[number] = true;
	}
}

static void
obey(void)
{
	char		line[100];
	ssize_t		size = read(STDIN_FILENO, line, sizeof(line) - 1);

	if (size <= 0)
		exit(0);
	line[size] = '\0';
	delay = strncmp(line, "slow ", 5) == 0 ? (int64_t) (atof(line + 5) * 1e9) : 0;
	swallows = strcmp(line, "swallow\n") == 0;
	is_cut = strcmp(line, "cut\n") == 0;
	set_mute(line);
	if (strcmp(line, "forget\n") == 0)
		forget();
	for (Socket *socket = sockets; is_cut && socket != NULL; socket = socket->next)
		socket->closed = true;
	free_closed();
	look_for_events();
	answer();
}

/* Does what a socket asks for, other than a command. */
static void
handle(Socket *socket, uint32_t events)
{
	uint64_t	expirations;

	if (socket == &alarm_clock)
		(void) !read(timer, &expirations, sizeof(expirations));
	else if (socket->peer == NULL)
		connect_through(socket);
	else if (!socket->closed)
	{
		/* To read, or to write, tells what the error is. */
		if (events & ~EPOLLIN)
			socket->full = false;
		if (events & ~EPOLLOUT && socket->events & EPOLLIN)
			take(socket);
	}
}

static void
serve(void)
{
	struct epoll_event events[MAX_EVENTS];

	for (;;)
	{
		bool		commanded = false;
		int			n;

		set_timer(give_all());
		free_closed();
		look_for_events();
		n = epoll_wait(epoll, events, MAX_EVENTS, -1);
		for (int i = 0; i < n; i++)
		{
			if (events[i].data.ptr == &commands)
				commanded = true;
			else
				handle(events[i].data.ptr, events[i].events);
		}
		/* Last, for it concerns sockets that there are events of. */
		if (commanded)
			obey();
	}
}

/* ----------------------------------------------------------------
 * Start
 */

static struct sockaddr_in
parse_address(char *text)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	char	   *colon = strchr(text, ':');

	errno = EINVAL;
	if (colon == NULL)
		die(text);
	*colon = '\0';
	address.sin_port = htons(atoi(colon + 1));
	if (inet_pton(AF_INET, text, &address.sin_addr) != 1)
		die(text);
	return address;
}

static void
add_route(char *from, char *to, int unread)
{
	Socket	   *listener = allocate(sizeof(Socket));
	struct sockaddr_in address = parse_address(from);
	int			yes = 1;

	listener->broker = parse_address(to);
	listener->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (listener->fd < 0)
		die("socket");
	setsockopt(listener->fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	if (unread > 0)
		setsockopt(listener->fd, SOL_SOCKET, SO_RCVBUF, &unread, sizeof(unread));
	if (bind(listener->fd, (struct sockaddr *) &address, sizeof(address)) ||
		listen(listener->fd, 100))
		die("listen");
	listener->number = ++nroutes;
	watch(listener, EPOLLIN);
}

/*
 * A network does not wait for a processor; root can have that.  Then as many
 * connections as the system permits.
 */
static void
ask_for_resources(void)
{
	struct sched_param priority = {.sched_priority = 1};
	struct rlimit files;

	sched_setscheduler(0, SCHED_FIFO, &priority);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0)
	{
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
}

int
main(int argc, char **argv)
{
	FILE	   *file;
	char		from[100],
				to[100];

	if (argc < 2 || argc > 3)
	{
		fputs("usage: proxy FILE [UNREAD]\n", stderr);
		exit(2);
	}
	signal(SIGPIPE, SIG_IGN);
	ask_for_resources();
	epoll = epoll_create1(EPOLL_CLOEXEC);
	timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (epoll < 0 || timer < 0)
		die("epoll");
	commands.fd = STDIN_FILENO;
	watch(&commands, EPOLLIN);
	alarm_clock.fd = timer;
	watch(&alarm_clock, EPOLLIN);

	file = fopen(argv[1], "r");
	if (file == NULL)
		die(argv[1]);
	while (nroutes < MAX_ROUTES && fscanf(file, "%99s %99s", from, to) == 2)
		add_route(from, to, argc > 2 ? atoi(argv[2]) : 0);
	fclose(file);
	answer();
	serve();
	return 0;
}
