-- Kafka settings: what CREATE SERVER and CREATE USER MAPPING take for
-- outbox_kafka, and what they refuse and why.  No server here is named
-- "kafka", so no relay connects anywhere.
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
CREATE EXTENSION outbox;
CREATE ROLE regress_kafka_admin;
GRANT USAGE ON FOREIGN DATA WRAPPER outbox_kafka TO regress_kafka_admin;

-- Tries an option and shows the error in one line; the version of librdkafka
-- differs.
CREATE FUNCTION error_of(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    detail text;
    hint text;
BEGIN
    EXECUTE command;
    EXECUTE 'DROP SERVER IF EXISTS tried';
    RETURN 'fine';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN format('%s %s. %s %s', SQLSTATE, message, regexp_replace(detail, 'librdkafka \d\S*', 'librdkafka'), hint);
END $$;
CREATE FUNCTION try(name text, value text) RETURNS text LANGUAGE sql AS $$
    SELECT error_of(format('CREATE SERVER tried FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" ''b:1'', %I %L)', name, value))
$$;
CREATE FUNCTION try_brokers(value text) RETURNS text LANGUAGE sql AS $$
    SELECT error_of(format('CREATE SERVER tried FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" %L)', value))
$$;

-- ordinary settings
SELECT try('client.id', 'shop');
SELECT try('compression.codec', 'lz4');
SELECT try('linger.ms', '2.5');
SELECT try('partitioner', 'consistent_random');
SELECT try('queue.buffering.max.kbytes', '0x10000');
SELECT try('request.timeout.ms', '20000');
SELECT try('topic.metadata.refresh.interval.ms', '60000');
SELECT try('security.protocol', 'sasl_ssl');
SELECT try('sasl.mechanism', 'SCRAM-SHA-512');
SELECT try('sasl.username', 'alice');
SELECT try('ssl.ca.location', '/etc/ssl/certs');

-- settings of our own
SELECT try('delivery', 'exactly_once');
SELECT try('delivery', 'at_most_once');
SELECT try('timestamp', 'commit');
SELECT try('timestamp', 'send');
SELECT try('timestamp', 'now');

-- what we promise, said again
SELECT try('acks', 'all');
SELECT try('request.required.acks', '-1');
SELECT try('enable.idempotence', 't');
SELECT try('enable.gapless.guarantee', 'true');
SELECT try('max.in.flight', '1');
SELECT try('message.timeout.ms', '0');
SELECT try('retries', '10');

-- what would break the promise
SELECT try('acks', '1');
SELECT try('acks', '0x1');
SELECT try('request.required.acks', '0');
SELECT try('enable.idempotence', 'false');
SELECT try('enable.idempotence', '0');
SELECT try('enable.gapless.guarantee', 'f');
SELECT try('message.timeout.ms', '300000');
SELECT try('delivery.timeout.ms', '1');
SELECT try('transactional.id', 'mine');
SELECT try('queuing.strategy', 'lifo');
SELECT try('max.in.flight', '2');
SELECT try('max.in.flight.requests.per.connection', '1000000');
SELECT try('retries', '0');
SELECT try('message.send.max.retries', '0');
SELECT try('queue.buffering.backpressure.threshold', '10');
SELECT try('topic.acks', '1');

-- what would run code, write files or send signals
SELECT try('plugin.library.paths', '/tmp/evil.so');
SELECT try('ssl.engine.location', '/tmp/evil.so');
SELECT try('ssl.engine.id', 'evil');
SELECT try('ssl.providers', '../../../tmp/evil');
SELECT try('sasl.kerberos.kinit.cmd', 'touch /tmp/evil');
SELECT try('sasl.kerberos.principal', 'kafka/host@REALM');
SELECT try('sasl.kerberos.principal', 'me; touch /tmp/evil');
SELECT try('sasl.kerberos.principal', '-c/tmp/evil');
SELECT try('sasl.kerberos.service.name', '-c');
SELECT try('sasl.kerberos.keytab', '/tmp/k" ; touch "/tmp/evil');
SELECT try('offset.store.path', '/tmp/evil');
SELECT try('internal.termination.signal', '9');

-- what only a program can set, and what outbox sets itself
SELECT try('dr_msg_cb', '1');
SELECT try('log_cb', '1');
SELECT try('partitioner_cb', '1');
SELECT try('ssl.certificate.verify_cb', '1');
SELECT try('opaque', '1');
SELECT try('interceptors', '1');
SELECT try('default_topic_conf', '1');
SELECT try('ssl_key', '1');
SELECT try('ut_handle_ProduceResponse', '1');
SELECT try('test.mock.num.brokers', '3');
SELECT try('delivery.report.only.error', 'true');
SELECT try('log.queue', 'false');
SELECT try('statistics.interval.ms', '1000');
SELECT try('enabled_events', '1');
SELECT try('partition.assignment.strategy', 'range');
SELECT try('group.protocol.type', 'connect');

-- misspelt names
SELECT try('compresion.codec', 'lz4');
SELECT try('Client.id', 'shop');
SELECT try('security.protocoll', 'ssl');
SELECT try('sasl.mechanisn', 'PLAIN');
SELECT try('linger', '5');
SELECT try('', '5');
SELECT try(repeat('x', 300), '5') ~ '^HV00D option "x+" does not exist';
SELECT error_of('CREATE SERVER tried FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.server" ''b:1'')');

-- values that are none
SELECT try('compression.codec', 'brotli');
SELECT try('security.protocol', 'tls');
SELECT try('linger.ms', 'fast');
SELECT try('linger.ms', '1.123456789');
SELECT try('linger.ms', '1.5 s');
SELECT try('request.timeout.ms', '5 minutes');
SELECT try('queue.buffering.max.kbytes', '4294967297');
SELECT try('socket.timeout.ms', '5 minutes');
SELECT try('socket.timeout.ms', '99999999999');
SELECT try('socket.timeout.ms', '1');
SELECT try('socket.keepalive.enable', 'maybe');
SELECT try('partitioner', 'murmur3');
SELECT try('sasl.mechanism', 'PLIAN');

-- brokers
SELECT try_brokers('localhost:9092');
SELECT try_brokers('a');
SELECT try_brokers('a:1, b_c.d-e:65535 ,10.0.0.1:9092,[::1]:9092,[fe80::1%eth0],SASL_SSL://d:9093');
SELECT try_brokers('localhost:9x92');
SELECT try_brokers('localhost:0');
SELECT try_brokers('localhost:65536');
SELECT try_brokers('localhost:');
SELECT try_brokers(':9092');
SELECT try_brokers('a:1,,b:1');
SELECT try_brokers('a:1;b:1');
SELECT try_brokers('a b:1');
SELECT try_brokers('::1:9092');
SELECT try_brokers('[::1:9092');
SELECT try_brokers('http://a:1/path');
SELECT try_brokers('kafka://a:1');
SELECT try_brokers('a:1,PLAINTEXT://b:1/path');
SELECT try_brokers('');
SELECT error_of('CREATE SERVER tried FOREIGN DATA WRAPPER outbox_kafka');
SELECT error_of('CREATE SERVER tried FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("client.id" ''x'')');
SELECT error_of('CREATE SERVER tried FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("metadata.broker.list" ''a:1'')');

-- options that do not go together
CREATE FUNCTION try_together(VARIADIC options text[]) RETURNS text LANGUAGE sql AS $$
    SELECT error_of(format('CREATE SERVER tried FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" ''b:1'', %s)',
        (SELECT string_agg(format('%I %L', split_part(o, '=', 1), split_part(o, '=', 2)), ', ') FROM unnest(options) o)))
$$;
SELECT try_together('session.timeout.ms=400000');
SELECT try_together('session.timeout.ms=400000', 'max.poll.interval.ms=500000');
SELECT try_together('fetch.max.bytes=100000');
SELECT try_together('fetch.max.bytes=100000', 'message.max.bytes=100000');
SELECT try_together('fetch.max.bytes=200000000', 'receive.message.max.bytes=100000000');
SELECT try_together('queue.buffering.max.kbytes=1000');
SELECT try_together('connections.max.idle.ms=999');
SELECT try_together('connections.max.idle.ms=1000');
SELECT try_together('connections.max.idle.ms=0');
SELECT try_together('queue.buffering.max.kbytes=1000', 'message.max.bytes=1024000');
SELECT try_together('message.max.bytes=40000000', 'queue.buffering.max.kbytes=32768');
SELECT regexp_replace(try_together('reconnect.backoff.ms=2000', 'reconnect.backoff.max.ms=1000'), '`reconnect.(backoff.)?ms`\.', '...') ~ '`reconnect.backoff.max.ms` must be >= ';
SELECT try_together('linger.ms=400000');
SELECT try_together('linger.ms=400000', 'delivery=exactly_once');
SELECT try_together('linger.ms=400000', 'delivery=exactly_once', 'transaction.timeout.ms=500000');
SELECT try_together('socket.timeout.ms=20000', 'transaction.timeout.ms=10000');
SELECT try_together('socket.timeout.ms=20000', 'transaction.timeout.ms=10000', 'delivery=exactly_once');
SELECT try_together('message.max.bytes=10000', 'delivery=exactly_once');

-- what we set gives way
SELECT try_together('message.max.bytes=1000000000');
SELECT try_together('message.max.bytes=1000', 'receive.message.max.bytes=2000');
SELECT try_together('receive.message.max.bytes=1100000');
SELECT try_together('reconnect.backoff.ms=3600000');
SELECT try_together('transaction.timeout.ms=1000', 'delivery=exactly_once');

-- what a user mapping may complete, and files that may come later
SELECT try_together('security.protocol=SASL_SSL', 'sasl.mechanism=OAUTHBEARER');
SELECT try_together('ssl.keystore.location=/no/such/file');
SELECT try_together('security.protocol=SSL', 'ssl.ca.location=/no/such/file');

-- secrets belong into a user mapping, and never into an error
SELECT try('sasl.password', 'tops3cret');
SELECT try('ssl.key.password', 'tops3cret');
SELECT try('ssl.key.pem', 'tops3cret');
SELECT try('ssl.keystore.password', 'tops3cret');
SELECT try('sasl.oauthbearer.config', 'tops3cret');
SELECT try('sasl.oauthbearer.client.secret', 'tops3cret');
SELECT try('sasl.pasword', 'tops3cret');
CREATE SERVER shop FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" 'a:1');
CREATE USER MAPPING FOR CURRENT_USER SERVER shop OPTIONS ("sasl.username" 'alice', "sasl.password" 'tops3cret', "ssl.key.password" '');
CREATE USER MAPPING FOR PUBLIC SERVER shop;
SELECT error_of($$ALTER USER MAPPING FOR PUBLIC SERVER shop OPTIONS (ADD "sasl.pasword" 'tops3cret')$$);
SELECT error_of($$ALTER USER MAPPING FOR PUBLIC SERVER shop OPTIONS (ADD "password" 'tops3cret')$$);
SELECT error_of($$ALTER USER MAPPING FOR PUBLIC SERVER shop OPTIONS (ADD "client.id" 'shop')$$);
SELECT error_of($$ALTER USER MAPPING FOR PUBLIC SERVER shop OPTIONS (ADD "bootstrap.servers" 'b:1')$$);
SELECT error_of($$ALTER USER MAPPING FOR PUBLIC SERVER shop OPTIONS (ADD "sasl.kerberos.kinit.cmd" 'tops3cret')$$);
SELECT error_of($$ALTER USER MAPPING FOR PUBLIC SERVER shop OPTIONS (ADD "security.protocol" 'tls')$$);

-- changing a server is checked as a whole
ALTER SERVER shop OPTIONS (ADD "linger.ms" '5', SET "bootstrap.servers" 'a:1,b:1');
SELECT error_of('ALTER SERVER shop OPTIONS (DROP "bootstrap.servers")');
SELECT error_of('ALTER SERVER shop OPTIONS (SET "linger.ms" ''-1'')');
SELECT error_of('ALTER SERVER shop OPTIONS (ADD "acks" ''0'')');
SELECT error_of('ALTER SERVER shop OPTIONS (ADD "session.timeout.ms" ''400000'')');
SELECT srvoptions FROM pg_foreign_server WHERE srvname = 'shop';

-- nothing else has options
SELECT error_of('ALTER FOREIGN DATA WRAPPER outbox_kafka OPTIONS (ADD "bootstrap.servers" ''a:1'')');
SELECT error_of('CREATE FOREIGN TABLE t (a int) SERVER shop');

-- files are read with the rights of the server
SET ROLE regress_kafka_admin;
CREATE SERVER theirs FOREIGN DATA WRAPPER outbox_kafka OPTIONS ("bootstrap.servers" 'a:1', "ssl.certificate.pem" 'x');
CREATE USER MAPPING FOR CURRENT_USER SERVER theirs OPTIONS ("sasl.password" 'tops3cret');
SELECT error_of('ALTER SERVER theirs OPTIONS (ADD "ssl.ca.location" ''/etc/passwd'')');
SELECT error_of('ALTER SERVER theirs OPTIONS (ADD "ssl.crl.location" ''/etc/passwd'')');
SELECT error_of('ALTER SERVER theirs OPTIONS (ADD "ssl.certificate.location" ''/etc/passwd'')');
SELECT error_of('ALTER SERVER theirs OPTIONS (ADD "ssl.key.location" ''/etc/passwd'')');
SELECT error_of('ALTER USER MAPPING FOR CURRENT_USER SERVER theirs OPTIONS (ADD "ssl.keystore.location" ''/etc/passwd'')');
SELECT error_of('ALTER USER MAPPING FOR CURRENT_USER SERVER theirs OPTIONS (ADD "sasl.kerberos.keytab" ''/etc/passwd'')');
SELECT error_of('ALTER SERVER theirs OPTIONS (ADD "sasl.mechanism" ''GSSAPI'')');
SELECT error_of('ALTER USER MAPPING FOR CURRENT_USER SERVER theirs OPTIONS (ADD "sasl.mechanisms" ''GSSAPI'')');
ALTER SERVER theirs OPTIONS (ADD "security.protocol" 'SASL_SSL', ADD "sasl.mechanism" 'SCRAM-SHA-512');
SELECT error_of('CREATE USER MAPPING FOR CURRENT_USER SERVER shop');
SELECT error_of('ALTER SERVER theirs OPTIONS (ADD "sasl.oauthbearer.token.endpoint.url" ''http://169.254.169.254/'')');
SELECT error_of('ALTER USER MAPPING FOR CURRENT_USER SERVER theirs OPTIONS (ADD "sasl.oauthbearer.token.endpoint.url" ''http://169.254.169.254/'')');
SELECT error_of('ALTER SERVER theirs OPTIONS (ADD "sasl.oauthbearer.metadata.authentication.type" ''azure_imds'')') ~ 'permission denied|does not exist';
RESET ROLE;
GRANT pg_read_server_files TO regress_kafka_admin;
SET ROLE regress_kafka_admin;
SELECT error_of('ALTER SERVER theirs OPTIONS (ADD "sasl.oauthbearer.token.endpoint.url" ''http://169.254.169.254/'')');
SELECT error_of('ALTER SERVER theirs OPTIONS (ADD "ssl.ca.location" ''/etc/passwd'')');
ALTER SERVER theirs OPTIONS (SET "sasl.mechanism" 'GSSAPI');
RESET ROLE;

DROP EXTENSION outbox CASCADE;
DROP FUNCTION try(text, text), try_together(text[]), try_brokers(text), error_of(text);
DROP ROLE regress_kafka_admin;
