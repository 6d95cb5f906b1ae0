# OutboxClock.pm
#
# A small library in front of the C library that shifts a clock of a server's
# processes, by seconds that are in a file that all of them map.

package OutboxClock;

use strict;
use warnings;

use Exporter qw(import);
use PostgreSQL::Test::Utils;

our @EXPORT = qw(make_clock command_to_set_clock set_clock restart_with_clock);

my $directory;

my $source = <<'C';
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

/* Seconds to add, in a file that all processes map. */
static volatile long *shift;

static void __attribute__((constructor))
open_shift(void)
{
	int			fd = open(getenv("TEST_CLOCK"), O_RDONLY);
	void	   *map = mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, fd, 0);

	if (fd < 0 || map == MAP_FAILED)
		abort();
	shift = map;
	close(fd);
}

int
clock_gettime(clockid_t id, struct timespec *now)
{
	int			result = syscall(SYS_clock_gettime, id, now);

	if (result == 0 && id == SHIFTED && shift != NULL)
		now->tv_sec += *shift;
	return result;
}
C

# Makes the library, which shifts a clock (CLOCK_REALTIME or CLOCK_MONOTONIC) by so
# many seconds at first, with more functions in C that use it.
sub make_clock
{
	my ($shifted, $seconds, $more) = @_;
	$directory = PostgreSQL::Test::Utils::tempdir('clock');
	append_to_file("$directory/clock.c", "#define SHIFTED $shifted\n$source" . ($more || ''));
	system($ENV{CC} || 'cc', '-shared', '-fPIC', '-pthread', '-o', "$directory/clock.so", "$directory/clock.c") == 0
	  or die "cannot compile a clock\n";
	append_to_file("$directory/shift", pack('q', $seconds));
	return;
}

# A shell command that sets the shift.
sub command_to_set_clock
{
	my ($seconds) = @_;
	return qq($^X -e 'open F, "+<", "$directory/shift"; syswrite F, pack "q", $seconds');
}

sub set_clock
{
	my ($seconds) = @_;
	system(command_to_set_clock($seconds)) == 0 or die "clock is not set\n";
	return;
}

# Has a server that runs begin anew with that clock.
sub restart_with_clock
{
	my ($node) = @_;
	local $ENV{LD_PRELOAD} = join ' ', grep { $_ } $ENV{LD_PRELOAD}, "$directory/clock.so";
	local $ENV{TEST_CLOCK} = "$directory/shift";
	$node->restart;
	return;
}

1;
