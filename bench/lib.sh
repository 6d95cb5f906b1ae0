# shellcheck shell=bash
#
# What the scripts in bench/ share, beside dev/lib.sh.  To be sourced; EVENTS
# is the caller's.

# shellcheck source-path=SCRIPTDIR source=../dev/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../dev/lib.sh"

headers='"id", "type", "aggregate_type"'

# set_up [PACKAGE...]: a server with the extension, a real Kafka, of so many
# nodes if that is set, and messages to send, in a temporary directory that goes
# away at the end.  The caller sets
# finished at its end: until then a failure shows the server's log.
set_up()
{
	install_packages kcat default-jre-headless maven "$@"
	work=$(work_directory bench)
	trap clean_up EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	source=$work/source
	results=$work/results
	mkdir "$results"

	build_and_install
	start_server
	start_kafka "${nodes:-1}"
	make_sample
}

build_and_install()
{
	say "Building and installing the extension for $("$PG_CONFIG" --version)"
	logged copy_source "$source"
	# From here on nobody needs the checkout, which others may not enter.
	cd "$work"
	# No query here is so large that PostgreSQL would want the bitcode.
	logged unprivileged make -C "$source" -j"$(nproc)" PG_CONFIG="$PG_CONFIG" with_llvm=no
	logged as_root make -C "$source" install PG_CONFIG="$PG_CONFIG" with_llvm=no

	read -ra rdkafka < <(pkg-config --cflags --libs rdkafka)
	logged cc -O2 -o "$work/producer" "$source/bench/producer.c" "${rdkafka[@]}"
}

# logged COMMAND...: its output is shown only when it fails.
logged()
{
	("$@") >"$work/log" 2>&1 || {
		tail -n 40 "$work/log" >&2
		die "\"$*\" failed; the end of what it said is above."
	}
}

start_server()
{
	bin=$("$PG_CONFIG" --bindir)
	data=$work/data

	say "Starting PostgreSQL and Kafka"
	logged unprivileged "$bin/initdb" -D "$data" -U postgres -A trust -E UTF8 --locale=C
	settings | unprivileged tee -a "$data/postgresql.conf" >/dev/null
	logged unprivileged "$bin/pg_ctl" -D "$data" -l "$data/log" -w start
	export PGHOST=$work PGPORT=${port:-5432} PGUSER=postgres PGDATABASE=postgres
}

settings()
{
	cat <<-SETTINGS
	shared_preload_libraries = 'outbox'
	wal_level = logical
	listen_addresses = '${listen:-}'
	port = ${port:-5432}
	unix_socket_directories = '$work'
	shared_buffers = 512MB
	max_worker_processes = 16
	# Checkpoints and vacuum come between the measurements, not into them.
	max_wal_size = 32GB
	checkpoint_timeout = 1d
	autovacuum = off
	SETTINGS
	# Only newer minor releases have this setting, and insist on it.
	if "$bin/postgres" --describe-config | grep '^output_plugin_libraries' >/dev/null; then
		echo "output_plugin_libraries = 'pgoutput, test_decoding, outbox'"
	fi
}

# start_kafka [NODES]
start_kafka()
{
	logged unprivileged "$source/dev/kafka" start "$work/kafka" --compiler 2 --nodes "${1:-1}"
	servers=$(cat "$work/kafka/bootstrap")
}

sql()
{
	psql -X -A -t -q -v ON_ERROR_STOP=1 -c "$1"
}

# A thousand events of 500 bytes, or of PAYLOAD, at least 300, one for each key:
# JSON with the same members and different values.  The file events has them as
# the database prints them, so that all send the same bytes.
make_sample()
{
	psql -X -q -v ON_ERROR_STOP=1 -v size="${PAYLOAD:-500}" >/dev/null <<-'SQL'
	CREATE EXTENSION outbox;
	CREATE SCHEMA bench;
	SELECT setseed(0.5);
	CREATE TABLE bench.sample AS
	SELECT n AS id, n::text AS key, jsonb_build_object(
	           'orderId', n,
	           'currency', 'EUR',
	           'customer', jsonb_build_object(
	               'name', (ARRAY['Anna', 'Ben', 'Carla', 'David', 'Eva'])[1 + n % 5] || ' ' ||
	                       (ARRAY['Jones', 'Miller', 'Novak', 'Rossi', 'Weber'])[1 + n / 5 % 5],
	               'email', 'c' || (random() * 100000)::int || '@example.com'),
	           'lines', (SELECT jsonb_agg(jsonb_build_object(
	                                'sku', 'SKU-' || 100000 + (random() * 800000)::int,
	                                'status', 'reserved',
	                                'quantity', 1 + (random() * 8)::int,
	                                'unitPrice', round((random() * 1000)::numeric, 2)))
	                     FROM generate_series(1, (:size - 180) / 80) WHERE n >= 0)) AS payload
	FROM generate_series(0, 999) n;
	UPDATE bench.sample SET payload = payload || jsonb_build_object('note',
	    left(md5(key) || md5(key || 'a') || md5(key || 'b'), :size - 12 - length(payload::text)));
	ALTER TABLE bench.sample ADD PRIMARY KEY (id);
	ANALYZE bench.sample;
	SQL
	sql 'COPY (SELECT key, payload FROM bench.sample ORDER BY id) TO STDOUT' >"$work/events"
}

describe()
{
	say "What is measured"
	cat <<-TEXT
	$(date -u +%F), $(nproc) x $(sed -n 's/^model name\t*: //p' /proc/cpuinfo | head -n 1), Linux $(uname -r)
	$("$bin/postgres" --version), librdkafka $(sql 'SELECT librdkafka_version FROM outbox.stat_relay'), Kafka $(kafka_version)
	$EVENTS events of $(cut -f 2 "$work/events" | awk '{print length}' | sort -un | paste -sd /) bytes of JSON, 1000 keys, headers $headers
	TEXT
}

kafka_version()
{
	sed -n 's/^: "${KAFKA_VERSION:=\(.*\)}"$/\1/p' "$source/dev/kafka"
}

make_topic()
{
	logged unprivileged "$source/dev/kafka" topic "$work/kafka" "$1" "$2"
}

drop_topic()
{
	logged unprivileged "$source/dev/kafka" tool "$work/kafka" \
		org.apache.kafka.tools.TopicCommand --delete --topic "$1"
}

# produce FILE TOPIC CODEC [SETTING...]: adds to FILE what the producer prints.
produce()
{
	local file=$1 topic=$2 codec=$3
	shift 3

	"$work/producer" "$topic" "$EVENTS" "$work/events" bootstrap.servers="$servers" "$@" \
		compression.codec="$codec" 2>>"$work/log" >>"$file"
}

# now: seconds.
now()
{
	echo "${EPOCHREALTIME/,/.}"
}

# cpu PID: CPU seconds of the main thread and of all threads so far, but for those
# that end just now, as one does for each Kafka transaction.
cpu()
{
	{
		cat "/proc/$1/task/$1/schedstat"
		cat "/proc/$1"/task/*/schedstat 2>/dev/null || [ -e "/proc/$1" ]
	} |
		awk 'NR == 1 {main = $1} NR > 1 {all += $1} END {print main / 1e9, all / 1e9}'
}

# memory PID FIELD: of /proc/PID/status, in MB.
memory()
{
	awk -v field="$2:" '$1 == field {print $2 / 1024}' "/proc/$1/status"
}

# ---------------------------------------------------------------------------
# Arithmetic

# column FILE N
column()
{
	awk -v n="$2" '{print $n}' "$1"
}

median()
{
	sort -g | awk '{v[NR] = $1} END {print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2}'
}

# medians FILE N...
medians()
{
	local file=$1 n
	shift

	for n; do
		printf '%.2f ' "$(column "$file" "$n" | median)"
	done
}

# rate FILE: events a second, the median.
rate()
{
	column "$1" 1 | median | awk -v n="$EVENTS" '{printf "%.0f", n / $1}'
}

# per_million FILE N: the median of a column of seconds, for a million events.
per_million()
{
	column "$1" "$2" | median | awk -v n="$EVENTS" '{printf "%.2f", $1 * 1e6 / n}'
}

# ratio A B: the median over the rounds of the ratio of rates.
ratio()
{
	paste -d' ' <(column "$1" 1) <(column "$2" 1) | awk '{print $2 / $1}' | median |
		awk '{printf "%.2f", $1}'
}

maximum()
{
	sort -g | tail -n 1
}

# ---------------------------------------------------------------------------

# Whatever happened, leave nothing behind that runs.
clean_up()
{
	local status=$?

	trap '' INT TERM
	[ -z "${held:-}" ] || kill -s CONT "$held" || true
	if [ -z "${finished:-}" ] && [ "$status" -lt 128 ] && [ -e "$work/data/log" ]; then
		say "The end of the server's log"
		tail -n 30 "$work/data/log" >&2
	fi
	if [ -e "$work/debezium.pid" ]; then
		as_root kill -s KILL "$(cat "$work/debezium.pid")" 2>/dev/null || true
	fi
	if [ -e "$work/data/postmaster.pid" ]; then
		unprivileged "$bin/pg_ctl" -D "$data" -m fast -w stop >/dev/null || true
	fi
	if [ -d "$work/kafka/node-1" ]; then
		unprivileged "$source/dev/kafka" kill "$work/kafka" || true
	fi
	cd /
	rm -rf "$work"
	exit "$status"
}
