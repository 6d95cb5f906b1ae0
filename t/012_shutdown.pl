# No shutdown is held up, by whatever state Kafka and the relay are in, and
# what was committed before it arrives after it.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use OutboxTest;

# Two seconds are usual.  What could hold it up lasts 30 seconds or for ever.
my $soon = 20;
my $longest = 0;

my $node = new_server('shutdown');
my $topic = topic_name('shutdown');
my $published = 0;

sub publish
{
	my ($count) = @_;
	my $first = $published + 1;
	$published += $count;
	$node->safe_psql('postgres',
		"SELECT outbox.publish('thing', i::text, 'made', '{}', topic => '$topic') FROM generate_series($first, $published) i"
	);
	return;
}

# Stops the server in each way, beginning each time in the same situation.
sub stops_soon
{
	my ($situation, $reach) = @_;
	foreach my $mode ('smart', 'fast', 'immediate')
	{
		my $offset = -s $node->logfile;
		$reach->();
		my $seconds = seconds_of(sub { $node->stop($mode) });
		$longest = $seconds if $seconds > $longest;
		cmp_ok($seconds, '<', $soon, "$situation: $mode shutdown within $soon s");
		unlike(
			slurp_file($node->logfile, $offset),
			qr/ERROR:|PANIC:|was terminated by signal|was not properly/,
			"$situation: $mode shutdown is a clean one")
		  unless $mode eq 'immediate';
		$node->start;
	}
	return;
}

$node->safe_psql('postgres', 'CREATE EXTENSION outbox');
publish(3);

stops_soon(
	'waiting for configuration',
	sub {
		wait_for_state($node, 'postgres', 'waiting for configuration');
	});

create_server($node, 'postgres', closed_port());
stops_soon(
	'no broker listens yet',
	sub { wait_for_state($node, 'postgres', 'waiting for kafka') });

# A broker that answers no more in the middle of a catch-up.
my $halted = own_kafka('halted');
begin_catchup($node, 'postgres', $topic, kafka_bootstrap($halted));
stops_soon('catching up', sub { halt_catchup($node, 'postgres', $halted) });

signal_kafka('CONT', $halted);
wait_for_events($topic, 3, kafka_bootstrap($halted));
end_catchup($node, 'postgres', kafka_bootstrap());
wait_for_state($node, 'postgres', 'streaming');
stops_soon(
	'streaming',
	sub {
		wait_for_state($node, 'postgres', 'streaming');
		publish(1000);
	});

set_bootstrap($node, 'postgres', closed_port());
publish(1);
stops_soon(
	'no broker listens',
	sub { wait_for_state($node, 'postgres', 'waiting for kafka') });

$node->append_conf('postgresql.conf', "outbox.capture = poll\n");
stops_soon(
	'polling without a broker',
	sub { wait_for_state($node, 'postgres', 'waiting for kafka') });
set_bootstrap($node, 'postgres', kafka_bootstrap());
stops_soon('polling', sub { wait_for_state($node, 'postgres', 'polling') });
$node->append_conf('postgresql.conf', "outbox.capture = auto\n");
$node->restart;

set_bootstrap($node, 'postgres', 'no-such-host.invalid:9092');
stops_soon(
	'unknown host name',
	sub { wait_for_state($node, 'postgres', 'waiting for kafka') });

# A name server that takes its time.
{
	my $dir = PostgreSQL::Test::Utils::tempdir('resolver');
	append_to_file("$dir/slow.c", <<'C');
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>
int getaddrinfo(const char *node, const char *service,
	const struct addrinfo *hints, struct addrinfo **result)
{
	int (*next)(const char *, const char *, const struct addrinfo *, struct addrinfo **) = dlsym(RTLD_NEXT, "getaddrinfo");
	if (node && strstr(node, ".invalid"))
		sleep(30);
	return next(node, service, hints, result);
}
C
	die "the C compiler, which the extension needs too, does not work\n"
	  if system('cc', '-shared', '-fPIC', '-o', "$dir/slow.so",
		"$dir/slow.c", '-ldl') != 0;

	$node->stop;
	local $ENV{LD_PRELOAD} = "$dir/slow.so";
	$node->start;
	stops_soon(
		'slow name server',
		sub {
			$node->poll_query_until('postgres',
				"SELECT state IN ('starting', 'waiting for kafka') AND started_at < now() - interval '1 s' FROM outbox.stat_relay"
			) or die 'the relay does not ask the name server';
		});
	delete $ENV{LD_PRELOAD};
	$node->restart;
}

# A broker that takes connections and never says anything.
my $kafka = own_kafka('frozen');
set_bootstrap($node, 'postgres', kafka_bootstrap($kafka));
wait_for_state($node, 'postgres', 'streaming');
$published = 0;
$topic = topic_name('frozen');
stops_soon(
	'frozen broker',
	sub {
		signal_kafka('CONT', $kafka);
		publish(1);
		wait_until_confirmed($node, 'postgres');
		signal_kafka('STOP', $kafka);
		publish(1000);
		$node->poll_query_until('postgres',
			'SELECT in_flight > 0 FROM outbox.stat_relay')
		  or die 'nothing is in flight';
	});
signal_kafka('CONT', $kafka);

wait_for_state($node, 'postgres', 'streaming');
wait_until_confirmed($node, 'postgres');
my %seen =
  map { $_->{key} => 1 } consume($topic, kafka_bootstrap($kafka));
is(scalar keys %seen,
	$published, 'every event arrives that was committed before a shutdown');
diag sprintf 'the longest shutdown took %.1f s', $longest;

$node->stop;
done_testing();
