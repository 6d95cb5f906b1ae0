# shellcheck shell=bash
#
# Part far of bench/relay: many partitions, and a Kafka that is far away.  To be
# sourced; what it needs of the caller is in bench/relay and lib.sh.
#
# A cell is a number of brokers, one of partitions, and a round trip.  In each,
# the modes take turns, and each has a consumer wait for events that come at some
# rates, and sends a backlog.  Variables choose among all of that; each is a list:
#
#   BROKERS      1, 3
#   PARTITIONS   of the topic
#   RTT          milliseconds between relay and brokers; at 0 there is nothing
#                between them, at more a proxy (dev/proxy.c).  Consumers and
#                PostgreSQL are near.
#   RATES        events a second, or backlog
#   MODES        at_least_once and exactly_once, of the relay; producer, which is
#                plain librdkafka (producer.c) with its own settings, and only
#                sends a backlog; debezium, which is not among them by default,
#                for it needs 65 jars (debezium.sh)
#
# SECONDS_EACH is how long events come at a rate, EVENTS how many a backlog has,
# LIMIT the seconds after which sending it is not waited for any longer: then
# what was sent counts.  PAYLOAD is the size of an event's JSON.

# shellcheck source-path=SCRIPTDIR source=debezium.sh
. "$(dirname "${BASH_SOURCE[0]}")/debezium.sh"

far_defaults()
{
	: "${EVENTS:=200000}" "${ROUNDS:=1}" "${PARTITIONS:=1 12 100}" "${CODECS:=lz4}"
	: "${BROKERS:=1 3}" "${RTT:=0 2 10}" "${RATES:=500 2000 backlog}"
	: "${MODES:=at_least_once exactly_once producer}"
	: "${SECONDS_EACH:=8}" "${LIMIT:=10}" "${PAYLOAD:=300}"
	nodes=${BROKERS%% *}
	! with_debezium || debezium_defaults
}

measure_far()
{
	local partitions rtt=0 cell

	logged cc -O2 -o "$work/growth" "$source/bench/growth.c" "${rdkafka[@]}"
	logged cc -O2 -o "$work/proxy" "$source/dev/proxy.c"
	! with_debezium || prepare_debezium
	say "From commit to consumer, and a backlog, when Kafka is far away"
	print_far_header
	for nodes in $BROKERS; do
		start_far_kafka
		for partitions in $PARTITIONS; do
			make_topic "far-$partitions" "$partitions"
			for rtt in $RTT; do
				cell=$nodes-$partitions-$rtt
				set_distance
				measure_cell
			done
		done
		stop_far_kafka
	done
}

# Modes take turns, and every second round begins with the last one.
measure_cell()
{
	local modes mode round topic=far-$partitions

	read -ra modes <<<"$MODES"
	for ((round = 1; round <= ROUNDS; round++)); do
		for mode in "${modes[@]}"; do
			"far_$mode"
		done
		mapfile -t modes < <(printf '%s\n' "${modes[@]}" | tac)
	done
	for mode in $MODES; do
		print_far "$mode"
	done
}

# ---------------------------------------------------------------------------
# Kafka and the distance

# A broker is slow at first.  The proxy ends with its commands, which end with
# this script at the latest.
start_far_kafka()
{
	if [ ! -d "$work/kafka/node-$nodes" ] || [ -d "$work/kafka/node-$((nodes + 1))" ]; then
		start_kafka "$nodes"
	fi
	near=$(cat "$work/kafka/bootstrap")
	far=$(cut -d ' ' -f 1 "$work/kafka/proxied" | paste -sd ,)
	coproc proxy { exec "$work/proxy" "$work/kafka/proxied"; }
	read -r -u "${proxy[0]}"
	make_topic warm-up 12
	produce "$results/warm-up" warm-up lz4 enable.idempotence=true
	! with_debezium || start_debezium
}

stop_far_kafka()
{
	local ended

	! with_debezium || stop_debezium
	disconnect
	ended=$proxy_PID
	exec {proxy[1]}>&-
	wait "$ended" || true
	unprivileged "$source/dev/kafka" kill "$work/kafka"
	rm -rf "$work/kafka"
}

# set_network COMMAND: the proxy answers when it is done.
set_network()
{
	echo "$1" >&"${proxy[1]}"
	read -r -u "${proxy[0]}"
}

slow_down()
{
	set_network "slow $(awk -v rtt="$rtt" 'BEGIN {print rtt / 2000}')"
}

set_distance()
{
	slow_down
	servers=$far
	[ "$rtt" != 0 ] || servers=$near
}

# ---------------------------------------------------------------------------
# The relay

far_at_least_once()
{
	far_relay at_least_once
}

far_exactly_once()
{
	far_relay exactly_once
}

# far_relay DELIVERY
far_relay()
{
	local rate

	disconnect
	empty
	connect lz4 "$1"
	pid=$(relay_pid)
	for rate in $RATES; do
		if [ "$rate" = backlog ]; then
			far_relay_backlog "$results/$cell-$1-backlog"
		else
			far_latency "$results/$cell-$1-$rate" relay_pid latency "$topic" "$rate" "$SECONDS_EACH"
		fi
	done
	disconnect
}

far_relay_backlog()
{
	local target

	hold
	publish "$EVENTS" 100 "$topic"
	target=$(sql 'SELECT pg_current_wal_insert_lsn()')
	far_drain "$1" relay_pid release
	set_network heal
	acknowledged_at "$target" >/dev/null
	slow_down
}

# ---------------------------------------------------------------------------
# Measuring, whoever sends

# far_latency FILE PIDS COMMAND...: adds to FILE what the program latency prints,
# which the command runs, and percents of a processor, threads and MB of private
# memory of the processes that the command PIDS prints.
far_latency()
{
	local file=$1 before after started latencies pids
	pids=$("$2")
	shift 2

	before=$(cpu_of "$pids")
	started=$(now)
	latencies=$("$@" || echo '- - - - - - -')
	after=$(cpu_of "$pids")
	echo "$latencies $(awk -v c="$before" -v d="$after" -v s="$started" -v t="$(now)" \
		'BEGIN {printf "%.0f", (d - c) / (t - s) * 100}') $(threads_of "$pids") $(private_of "$pids")" >>"$file"
}

# far_drain FILE PIDS COMMAND...: the command has them begin to send a backlog.
# Adds to FILE events a second, CPU seconds for a million, threads, and the peak
# of private memory, in MB.  They count from the command on, or with since_first
# from the first event on.
far_drain()
{
	local file=$1 show_pids=$2 pids growth waiter before start peak=0 anon events last
	shift 2

	exec {growth}< <("$work/growth" "$near" "$topic" "$EVENTS" "$LIMIT" 2>>"$work/log")
	waiter=$!
	read -r -u "$growth"
	if [ -n "${since_first:-}" ]; then
		"$@"
		read -r -u "$growth" start || die "$(tail -n 1 "$work/log")"
		pids=$("$show_pids")
		before=$(cpu_of "$pids")
	else
		pids=$("$show_pids")
		before=$(cpu_of "$pids")
		start=$(now)
		"$@"
		read -r -u "$growth" || die "$(tail -n 1 "$work/log")"
	fi
	while kill -0 "$waiter" 2>/dev/null; do
		anon=$(private_of "$pids")
		((anon <= peak)) || peak=$anon
		pause
	done
	read -r -u "$growth" events last || die "$(tail -n 1 "$work/log")"
	exec {growth}<&-
	echo "$events $EVENTS $last $start $(cpu_of "$pids") $before $(threads_of "$pids") $peak" | awk '
		{n = $1 < $2 ? $1 : $2; printf "%.0f %.2f %d %d\n", n / ($3 - $4), ($5 - $6) / n * 1e6, $7, $8}' >>"$file"
}

# cpu_of PIDS: CPU seconds so far.
cpu_of()
{
	local pid

	for pid in $1; do
		cpu "$pid"
	done | awk '{sum += $2} END {print sum}'
}

threads_of()
{
	local pid

	for pid in $1; do
		ls "/proc/$pid/task"
	done | wc -l
}

# Looked at often, so it starts no process.
private_of()
{
	local pid name value sum=0

	for pid in $1; do
		while read -r name value _; do
			[ "$name" != RssAnon: ] || sum=$((sum + value))
		done <"/proc/$pid/status"
	done
	echo $((sum / 1024))
}

# ---------------------------------------------------------------------------
# The plain producer

# Its own limits, as in the comparison without a distance.  It could tell by
# itself how long it took, but the others are looked at meanwhile.
far_producer()
{
	local growth

	[[ " $RATES " = *" backlog "* ]] || return 0
	exec {growth}< <("$work/growth" "$near" "$topic" "$EVENTS" "$LIMIT" 2>>"$work/log")
	read -r -u "$growth"
	produce "$results/producer" "$topic" lz4 enable.idempotence=true partitioner=murmur2_random
	cat <&"$growth" >/dev/null
	exec {growth}<&-
	tail -n 1 "$results/producer" | awk -v n="$EVENTS" \
		'{printf "%.0f %.2f - -\n", n / $1, $2 / n * 1e6}' >>"$results/$cell-producer-backlog"
}

# ---------------------------------------------------------------------------
# Output

print_far_header()
{
	local rate

	printf '%-7s %-10s %-4s %-14s' brokers partitions rtt mode
	for rate in $RATES; do
		if [ "$rate" = backlog ]; then
			printf ' %-24s' 'backlog: events/s, CPU'
		else
			printf ' %-24s' "$rate/s: p50, p99, CPU"
		fi
	done
	echo ' threads, MB'
}

# print_far MODE: medians over the rounds; the largest number of threads and of
# memory.
print_far()
{
	local rate file

	printf '%-7s %-10s %-4s %-14s' "$nodes" "$partitions" "$rtt" "$1"
	for rate in $RATES; do
		file=$results/$cell-$1-$rate
		if [ ! -e "$file" ]; then
			printf ' %-24s' -
		elif [ "$rate" = backlog ]; then
			printf ' %-24s' "$(column "$file" 1 | median), $(column "$file" 2 | median) s/M"
		else
			printf ' %-24s' "$(column "$file" 2 | median), $(column "$file" 3 | median), $(column "$file" 8 | median) %$(missed "$file" "$rate")"
		fi
	done
	cat "$results/$cell-$1"-* 2>/dev/null |
		awk '$(NF - 1) > threads {threads = $(NF - 1)} $NF > mb {mb = $NF} END {print " " threads ", " mb}'
}

# missed FILE RATE: what was reached instead, if the machine was too slow.
missed()
{
	column "$1" 1 | median | awk -v rate="$2" '$1 < 0.95 * rate {printf " at %.0f/s", $1}'
}
