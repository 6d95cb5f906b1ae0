# shellcheck shell=bash
#
# Debezium beside the relay, for part far of bench/relay.  To be sourced; what it
# needs of the caller is in far.sh and lib.sh.
#
# Kafka Connect runs in one process with Debezium's connector for PostgreSQL and
# its outbox event router, the way its users run it, and tuned for latency.  It
# has a database of its own on the same server, with the table that its
# documentation gives and nothing else, so that neither decodes what the other
# one sends.  Its jars come from Maven, once, into ~/.cache/outbox-debezium.
# DEBEZIUM_OPTIONS are more settings of the connector, NAME=VALUE each, for
# example producer.override.linger.ms=0.

: "${DEBEZIUM_VERSION:=3.3.1.Final}" "${DEBEZIUM_OPTIONS:=}"

with_debezium()
{
	[[ " ${MODES:-} " = *" debezium "* ]]
}

# The server is to be reached by Java, too, which has no Unix sockets.
debezium_defaults()
{
	listen=127.0.0.1
	port=$((20000 + RANDOM % 12000))
}

prepare_debezium()
{
	fetch_debezium
	sql 'CREATE DATABASE debezium'
	PGDATABASE=debezium psql -X -q -v ON_ERROR_STOP=1 <<-SQL
	CREATE TABLE outbox (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype text NOT NULL,
	    aggregateid text NOT NULL, type text NOT NULL, payload jsonb);
	CREATE TABLE sample (id int PRIMARY KEY, payload jsonb);
	\\copy sample FROM '$work/events'
	CREATE PROCEDURE publish(events int, per_transaction int, topic text)
	LANGUAGE plpgsql AS \$\$
	BEGIN
	    FOR start IN 0 .. events - 1 BY per_transaction LOOP
	        INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
	        SELECT topic, s.id::text, 'OrderCreated', s.payload
	        FROM generate_series(start, start + per_transaction - 1) i
	        JOIN sample s ON s.id = i % 1000;
	        COMMIT;
	    END LOOP;
	END \$\$;
	SQL
}

fetch_debezium()
{
	local home=$HOME made

	[ "$EUID" -ne 0 ] || home=$(getent passwd postgres | cut -d: -f6)
	jars=${XDG_CACHE_HOME:-$home/.cache}/outbox-debezium/$DEBEZIUM_VERSION-$(kafka_version)
	[ ! -d "$jars" ] || return 0
	say "Downloading Debezium $DEBEZIUM_VERSION"
	made=$work/jars
	unprivileged mkdir "$made"
	debezium_pom | unprivileged tee "$made/pom.xml" >/dev/null
	logged unprivileged mvn -q -B -Dstyle.color=never -Dmaven.repo.local="$work/repository" \
		-f "$made/pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
		-DoutputDirectory="$made"
	rm -rf "$work/repository"
	unprivileged mkdir -p "$(dirname "$jars")"
	unprivileged mv -T "$made" "$jars"
}

debezium_pom()
{
	cat <<-POM
	<project>
	  <modelVersion>4.0.0</modelVersion>
	  <groupId>outbox</groupId>
	  <artifactId>debezium</artifactId>
	  <version>1</version>
	  <dependencies>
	    <dependency>
	      <groupId>org.apache.kafka</groupId>
	      <artifactId>connect-runtime</artifactId>
	      <version>$(kafka_version)</version>
	    </dependency>
	    <dependency>
	      <groupId>io.debezium</groupId>
	      <artifactId>debezium-connector-postgres</artifactId>
	      <version>$DEBEZIUM_VERSION</version>
	    </dependency>
	    <dependency>
	      <groupId>org.slf4j</groupId>
	      <artifactId>slf4j-simple</artifactId>
	      <version>1.7.36</version>
	    </dependency>
	  </dependencies>
	</project>
	POM
}

# ---------------------------------------------------------------------------
# Starting and stopping

# For each Kafka it starts anew.  Memory and garbage collector are those of
# Kafka's own script.
start_debezium()
{
	local topic=warm-up file=$results/debezium-warm-up

	rest=http://127.0.0.1:$((20000 + RANDOM % 12000))
	worker_properties >"$work/worker.properties"
	connector_json "$near" | sed 's/.*/{"name": "outbox", "config": &}/' >"$work/connector.json"
	# shellcheck disable=SC2016
	unprivileged bash -c 'echo $$ >"$0"; exec "$@"' "$work/debezium.pid" \
		java -Xms256M -Xmx2G -server -XX:+UseG1GC -XX:MaxGCPauseMillis=20 \
		-XX:InitiatingHeapOccupancyPercent=35 -XX:+ExplicitGCInvokesConcurrent \
		-Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp "$jars/*" \
		org.apache.kafka.connect.cli.ConnectStandalone "$work/worker.properties" \
		</dev/null >"$work/debezium.log" 2>&1 &
	wait_for 300 "Kafka Connect serves" connect_api GET connectors || debezium_failed
	debezium=$(cat "$work/debezium.pid")
	connect_api POST connectors -d "@$work/connector.json" || debezium_failed

	# Java is slow at first.
	await_debezium
	far_latency "$file" debezium_pids debezium_latency 2000 5
	debezium_backlog "$file"
	stop_connector
}

stop_debezium()
{
	as_root kill -s KILL "$debezium"
	debezium=''
	wait_for 30 "the slot is free" sql "SELECT pg_drop_replication_slot('debezium')"
	rm -f "$work/offsets"
}

debezium_failed()
{
	tail -n 30 "$work/debezium.log" >&2
	die "Debezium does not work; the end of what it said is above."
}

worker_properties()
{
	cat <<-PROPERTIES
	bootstrap.servers=$near
	key.converter=org.apache.kafka.connect.storage.StringConverter
	value.converter=org.apache.kafka.connect.storage.StringConverter
	offset.storage.file.filename=$work/offsets
	plugin.discovery=only_scan
	listeners=$rest
	PROPERTIES
}

# connector_properties BOOTSTRAP
connector_properties()
{
	cat <<-PROPERTIES
	connector.class=io.debezium.connector.postgresql.PostgresConnector
	plugin.name=pgoutput
	database.hostname=127.0.0.1
	database.port=$PGPORT
	database.user=$PGUSER
	database.dbname=debezium
	slot.name=debezium
	topic.prefix=bench
	table.include.list=public.outbox
	publication.autocreate.mode=filtered
	snapshot.mode=no_data
	tombstones.on.delete=false
	poll.interval.ms=10
	max.batch.size=16384
	max.queue.size=65536
	producer.override.bootstrap.servers=$1
	producer.override.compression.type=lz4
	transforms=outbox
	transforms.outbox.type=io.debezium.transforms.outbox.EventRouter
	transforms.outbox.route.topic.replacement=\${routedByValue}
	transforms.outbox.table.fields.additional.placement=type:header:type,aggregatetype:header:aggregate_type
	PROPERTIES
	# The last of several with the same name counts.
	# shellcheck disable=SC2086
	[ -z "$DEBEZIUM_OPTIONS" ] || printf '%s\n' $DEBEZIUM_OPTIONS
}

# connector_json BOOTSTRAP: the same as Kafka Connect's interface takes them.
connector_json()
{
	connector_properties "$1" | sed 's/^/"/; s/=/": "/; s/$/"/' | paste -sd , | sed 's/.*/{&}/'
}

# connect_api METHOD PATH [OPTION...]: with Kafka Connect's interface.
connect_api()
{
	local method=$1 path=$2
	shift 2

	curl -sS --fail-with-body -m 30 -X "$method" -H 'Content-Type: application/json' "$@" \
		"$rest/$path" >>"$work/log" 2>&1
}

connector_is()
{
	curl -sS -m 10 "$rest/connectors/outbox/status" | grep "\"connector\":{\"state\":\"$1\"" >/dev/null
}

# The connector, not Java: that stays warm.
stop_connector()
{
	connect_api PUT connectors/outbox/stop
	wait_for 60 "Debezium has stopped" connector_is STOPPED || debezium_failed
}

# resume_connector: to send to $servers.
resume_connector()
{
	connector_json "$servers" >"$work/connector.json"
	connect_api PUT connectors/outbox/config -d "@$work/connector.json" || debezium_failed
	connect_api PUT connectors/outbox/resume || debezium_failed
}

# Waits until it has sent an event, and what came before.  A new connector knows
# nothing of what came before its slot.
await_debezium()
{
	local growth waiter waits=yes

	exec {growth}< <("$work/growth" "$near" "$topic" 1 10 2>>"$work/log")
	waiter=$!
	read -r -u "$growth"
	until read -r -t 1 -u "$growth"; do
		[ -n "$waits" ] || debezium_failed
		publish_to_debezium 1 1
		# What it has printed then is still to be read.
		kill -0 "$waiter" 2>/dev/null || waits=''
	done
	read -r -u "$growth" || debezium_failed
	exec {growth}<&-
}

# ---------------------------------------------------------------------------
# Measuring

far_debezium()
{
	local rate file

	resume_connector
	await_debezium
	for rate in $RATES; do
		file=$results/$cell-debezium-$rate
		if [ "$rate" = backlog ]; then
			debezium_backlog "$file"
		else
			far_latency "$file" debezium_pids debezium_latency "$rate" "$SECONDS_EACH"
		fi
	done
	stop_connector
}

# Counted since its first event is there, which takes it some seconds.
debezium_backlog()
{
	stop_connector
	PGDATABASE=debezium sql 'TRUNCATE outbox'
	publish_to_debezium "$EVENTS" 100
	sql CHECKPOINT
	since_first=yes far_drain "$1" debezium_pids resume_connector
	set_network heal
	await_debezium
	slow_down
}

# publish_to_debezium COUNT PER_TRANSACTION
publish_to_debezium()
{
	PGDATABASE=debezium psql -X -q -v ON_ERROR_STOP=1 -c 'SET synchronous_commit = off' \
		-c "CALL publish($1, $2, '$topic')"
}

# debezium_latency RATE SECONDS
debezium_latency()
{
	PGDATABASE=debezium "$work/latency" "$near" "$topic" "$1" "$2" "$work/events" \
		"INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
		 VALUES ('$topic', \$1, 'OrderCreated', \$2::jsonb)" 2>>"$work/log"
}

# Java, and the process of the server that decodes for it.
debezium_pids()
{
	echo "$debezium" "$(sql "SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'debezium'")"
}
