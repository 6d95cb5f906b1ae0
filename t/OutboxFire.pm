# OutboxFire.pm
#
# What the handlers of the fire test do: their work, and trouble that messages
# ask for, of every kind that a handler can make.
#
# A message says in its payload whose trouble it is ("in", a subscription), of
# which kind, and when: "first" (while no attempt has been counted), "retry" (an
# ordinary error in the first attempt, the trouble in the next one) or "always".
# Only the last makes it fail for good, until the table "calm" has a row.

package OutboxFire;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT = qw(create_handlers kinds_of_trouble choose_trouble unaware_of_settings random_settings);

# Settings that would get in the way of the test itself, not of workers.
my $own_settings = join ' ', map { "-c $_" } 'default_transaction_read_only=off', 'statement_timeout=0',
  'idle_in_transaction_session_timeout=0', 'lock_timeout=0', 'search_path=public', 'client_min_messages=warning',
  'standard_conforming_strings=on', 'datestyle=ISO',
  'transform_null_equals=off', 'session_replication_role=origin', 'array_nulls=on', 'row_security=on', 'bytea_output=hex';

# The test's sessions go by none of the settings of database and role.
sub unaware_of_settings
{
	$ENV{PGOPTIONS} = "$own_settings -c default_transaction_isolation=read\\ committed";
	return;
}

my @settings = (
	"default_transaction_read_only = 'on'", "default_transaction_isolation = 'serializable'",
	"statement_timeout = '1ms'", "idle_in_transaction_session_timeout = '1ms'",
	"search_path = nowhere, public", "standard_conforming_strings = 'off'", "bytea_output = 'escape'",
	"datestyle = 'German'", "timezone = 'Asia/Tokyo'", "transform_null_equals = 'on'", "array_nulls = 'off'",
	"enable_seqscan = 'off'", "enable_indexscan = 'off'", "quote_all_identifiers = 'on'",
	"synchronous_commit = 'off'", "plan_cache_mode = 'force_generic_plan'", "work_mem = '64kB'",
	"row_security = 'off'", "lock_timeout = '3s'", "deadlock_timeout = '1ms'", "max_stack_depth = '1MB'",
	"client_min_messages = 'error'", "check_function_bodies = 'off'", "extra_float_digits = '-15'",
	"log_min_error_statement = 'panic'", "session_replication_role = 'replica'");

# So many settings, at random.
sub random_settings
{
	my ($n) = @_;
	my @left = @settings;
	return map { splice @left, int rand @left, 1 } 1 .. $n;
}

# How many messages ask for each kind of trouble, for 20,000 messages, at least;
# and how the error begins that those have that always make it.
my @trouble = (
	[ 'transfers', 'die', 'first', 1 ], [ 'transfers', 'die', 'retry', 1 ], [ 'transfers', 'die', 'always', 1, '57P02' ],
	[ 'transfers', 'crash', 'first', 1 ], [ 'transfers', 'crash', 'retry', 0.2 ], [ 'transfers', 'crash', 'always', 0.2, '57P02' ],
	[ 'transfers', 'hang', 'first', 1 ], [ 'transfers', 'hang', 'retry', 1 ], [ 'transfers', 'hang', 'always', 0.5, '57014' ],
	[ 'transfers', 'stubborn', 'first', 0.5 ], [ 'transfers', 'stubborn', 'retry', 0.2 ], [ 'transfers', 'stubborn', 'always', 0.2, '57P02' ],
	[ 'transfers', 'cancel', 'retry', 1 ], [ 'transfers', 'cancel', 'always', 1, '57014' ],
	[ 'transfers', 'memory', 'first', 1 ], [ 'transfers', 'memory', 'retry', 1 ], [ 'transfers', 'memory', 'always', 1, '54000' ],
	[ 'transfers', 'array', 'always', 1, '54000' ],
	[ 'transfers', 'stack', 'retry', 1 ], [ 'transfers', 'stack', 'always', 1, '54001' ],
	[ 'transfers', 'lock', 'first', 3 ], [ 'transfers', 'lock', 'retry', 3 ],
	[ 'transfers', 'seek own', 'retry', 1 ], [ 'transfers', 'seek own', 'always', 1, '55006' ],
	[ 'transfers', 'leave own', 'always', 1, '55006' ],
	[ 'transfers', 'seek own elsewhere', 'first', 1 ], [ 'transfers', 'seek own elsewhere', 'always', 0.2, '' ],
	[ 'transfers', 'leave own elsewhere', 'first', 1 ], [ 'transfers', 'leave own elsewhere', 'retry', 0.2 ],
	[ 'transfers', 'seek other', 'first', 1 ], [ 'transfers', 'seek other', 'retry', 1 ],
	[ 'transfers', 'leave other', 'first', 1 ], [ 'transfers', 'leave other', 'retry', 0.5 ],
	[ 'counts', 'die', 'first', 1 ], [ 'counts', 'die', 'retry', 1 ], [ 'counts', 'die', 'always', 0.5, '57P02' ],
	[ 'counts', 'crash', 'retry', 0.2 ],
	[ 'counts', 'hang', 'first', 1 ], [ 'counts', 'hang', 'always', 0.2, '57014' ],
	[ 'counts', 'memory', 'first', 1 ], [ 'counts', 'array', 'always', 1, '54000' ],
	[ 'counts', 'stack', 'retry', 1 ], [ 'counts', 'stack', 'always', 1, '54001' ],
	[ 'counts', 'lock', 'retry', 3 ],
	[ 'counts', 'leave own', 'retry', 1 ], [ 'counts', 'seek own', 'always', 1, '55006' ],
	[ 'counts', 'seek own elsewhere', 'retry', 1 ], [ 'counts', 'leave own elsewhere', 'first', 0.5 ],
	[ 'counts', 'seek other', 'first', 1 ], [ 'counts', 'seek other', 'retry', 1 ], [ 'counts', 'leave other', 'first', 0.2 ]);

# Tables, the handlers of the subscriptions "transfers", "counts", "bystander" and
# "remade", and subscribe_again(), which subscribes one of them.
sub create_handlers
{
	my ($node, $topic, $remade, $accounts) = @_;
	my $dsn = $node->connstr('postgres') . " user=shop options='-c lock_timeout=500 $own_settings'";
	$dsn =~ s/'/''/g;
	$node->safe_psql('postgres', <<SQL);
CREATE EXTENSION dblink;
CREATE ROLE shop SUPERUSER LOGIN;
CREATE TABLE pace (pause float8 NOT NULL);
INSERT INTO pace VALUES (0.001);
CREATE TABLE calm (since timestamptz);
CREATE TABLE account (id integer PRIMARY KEY, balance bigint NOT NULL DEFAULT 1000);
INSERT INTO account SELECT generate_series(1, $accounts);
CREATE TABLE transfer (id bigserial, event_id text, key text, number integer);
CREATE TABLE counted (LIKE transfer INCLUDING DEFAULTS);
CREATE TABLE bystander (LIKE transfer INCLUDING DEFAULTS);
CREATE TABLE remade (value text);
CREATE TABLE setting_round (round text PRIMARY KEY);
@{[ map { qq(CREATE SEQUENCE "made $_"; ) } kinds_of_trouble() ]}

CREATE FUNCTION subscribe_again(name text) RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE
	topics text[] := ARRAY['$topic'];
BEGIN
	CASE name
	WHEN 'transfers' THEN
		PERFORM inbox.subscribe(name, topics, 'public.transfer', workers => 2, batch_size => 200,
			retry_backoff => '100 ms', handler_timeout => '1 s');
	WHEN 'counts' THEN
		PERFORM inbox.subscribe(name, topics, 'public.count_keys', batch_size => 200,
			retry_backoff => '100 ms', handler_timeout => '1 s');
	WHEN 'bystander' THEN
		PERFORM inbox.subscribe(name, topics, 'public.stand_by', batch_size => 200, retry_backoff => '100 ms');
	WHEN 'remade' THEN
		PERFORM inbox.subscribe(name, ARRAY['$remade'], 'public.note_remade', retry_backoff => '100 ms');
	END CASE;
END
\$\$;

-- Trouble -------------------------------------------------------------------

CREATE FUNCTION recurse(n integer) RETURNS integer LANGUAGE plpgsql AS \$\$
BEGIN
	RETURN 1 + recurse(n + 1);
END
\$\$;

-- What to do about another subscription, or in another session about one's own.
CREATE FUNCTION elsewhere(statement text) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM dblink_exec('$dsn', format('DO %L', 'BEGIN ' || statement || ' END'));
END
\$\$;

CREATE FUNCTION make_trouble(m inbox.message, kind text) RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE
	other text := CASE m.subscription WHEN 'transfers' THEN 'counts' ELSE 'transfers' END;
	name text;
BEGIN
	PERFORM nextval(format('public.%I', 'made ' || kind));
	CASE kind
	WHEN 'die' THEN
		PERFORM pg_terminate_backend(pg_backend_pid());
		PERFORM pg_sleep(60);
	WHEN 'crash' THEN
		COPY (SELECT 1) TO PROGRAM 'kill -9 \$PPID; sleep 5';
	WHEN 'hang' THEN
		PERFORM pg_sleep(3600);
	WHEN 'stubborn' THEN
		LOOP
			BEGIN
				PERFORM pg_sleep(60);
			EXCEPTION WHEN query_canceled THEN NULL;
			END;
		END LOOP;
	WHEN 'cancel' THEN
		PERFORM pg_cancel_backend(pg_backend_pid());
		PERFORM pg_sleep(60);
	WHEN 'memory' THEN
		PERFORM length(repeat(repeat('x', 50000000), 30));
	WHEN 'array' THEN
		PERFORM array_fill(1, ARRAY[300000000]);
	WHEN 'stack' THEN
		PERFORM recurse(1);
	WHEN 'lock' THEN
		FOR name IN SELECT t FROM unnest(ARRAY['account', 'transfer', 'counted']) t ORDER BY random() LOOP
			EXECUTE format('LOCK TABLE public.%I IN ACCESS EXCLUSIVE MODE', name);
			PERFORM pg_sleep(0.02);
		END LOOP;
	WHEN 'seek own' THEN
		PERFORM inbox.seek(m.subscription, m.topic, m.partition, 0);
	WHEN 'leave own' THEN
		PERFORM inbox.unsubscribe(m.subscription);
	WHEN 'seek own elsewhere' THEN
		PERFORM elsewhere(format('PERFORM inbox.seek(%L, %L, %s, 0);', m.subscription, m.topic, m.partition));
	WHEN 'leave own elsewhere' THEN
		PERFORM elsewhere(format('PERFORM inbox.unsubscribe(%1\$L); PERFORM public.subscribe_again(%1\$L);', m.subscription));
	WHEN 'seek other' THEN
		PERFORM inbox.seek(other, m.topic, m.partition, 0);
	WHEN 'leave other' THEN
		PERFORM inbox.unsubscribe(other);
		PERFORM public.subscribe_again(other);
	END CASE;
END
\$\$;

CREATE FUNCTION trouble(m inbox.message, j jsonb) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	IF j ->> 'in' IS DISTINCT FROM m.subscription OR EXISTS (SELECT FROM public.calm) THEN
		RETURN;
	END IF;
	IF j ->> 'when' = 'retry' AND m.attempts = 0 THEN
		RAISE 'an ordinary error first';
	END IF;
	IF j ->> 'when' = 'always' OR (j ->> 'when' = 'first' AND m.attempts = 0)
		OR (j ->> 'when' = 'retry' AND m.attempts = 1)
	THEN
		PERFORM make_trouble(m, j ->> 'kind');
	END IF;
END
\$\$;

-- Handlers ------------------------------------------------------------------

-- Transfers between accounts, in random order.
CREATE FUNCTION transfer(m inbox.message) RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE
	j jsonb := inbox.payload_json(m);
	setting text := current_setting('app.round', true);
BEGIN
	INSERT INTO transfer (event_id, key, number) VALUES (m.event_id, m.aggregate_id, (j ->> 'number')::integer);
	UPDATE account SET balance = balance - (j ->> 'amount')::integer WHERE id = (j ->> 'from')::integer;
	UPDATE account SET balance = balance + (j ->> 'amount')::integer WHERE id = (j ->> 'to')::integer;
	IF setting <> '' AND NOT EXISTS (SELECT FROM setting_round WHERE round = setting) THEN
		INSERT INTO setting_round VALUES (setting) ON CONFLICT DO NOTHING;
	END IF;
	PERFORM pg_sleep(pause) FROM pace;
	PERFORM trouble(m, j);
	IF m.attempts = 0 AND hashtext(m.event_id) % 100 = 0 THEN
		RAISE 'one in a hundred fails at first';
	END IF;
END
\$\$;

CREATE FUNCTION count_keys(m inbox.message[]) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	INSERT INTO counted (event_id, key, number)
		SELECT (m[i]).event_id, (m[i]).aggregate_id, (inbox.payload_json(m[i]) ->> 'number')::integer
		FROM generate_subscripts(m, 1) i ORDER BY i;
	PERFORM trouble(m[i], inbox.payload_json(m[i])) FROM generate_subscripts(m, 1) i;
END
\$\$;

-- One that makes no trouble.
CREATE FUNCTION stand_by(m inbox.message[]) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	IF EXISTS (SELECT FROM unnest(m) t WHERE t.attempts = 0 AND hashtext(t.event_id) % 100 = 0) THEN
		RAISE 'one in a hundred fails at first';
	END IF;
	INSERT INTO bystander (event_id, key, number)
		SELECT (m[i]).event_id, (m[i]).aggregate_id, (inbox.payload_json(m[i]) ->> 'number')::integer
		FROM generate_subscripts(m, 1) i ORDER BY i;
END
\$\$;

CREATE FUNCTION note_remade(m inbox.message) RETURNS void LANGUAGE sql AS \$\$
	INSERT INTO public.remade VALUES (inbox.payload_text(m))
\$\$;

-- An application that wants the same rows, and now and then a table.  One is
-- enough.
CREATE PROCEDURE jostle() LANGUAGE plpgsql AS \$\$
DECLARE
	ids integer[];
BEGIN
	WHILE pg_try_advisory_lock(1) AND NOT EXISTS (SELECT FROM calm) LOOP
		ids := ARRAY[1 + (random() * ($accounts - 1))::integer, 1 + (random() * ($accounts - 1))::integer];
		BEGIN
			UPDATE account SET balance = balance - 1 WHERE id = ids[1];
			PERFORM pg_sleep(0.01);
			IF random() < 0.05 THEN LOCK TABLE counted IN SHARE MODE; END IF;
			UPDATE account SET balance = balance + 1 WHERE id = ids[2];
		EXCEPTION WHEN deadlock_detected OR serialization_failure THEN NULL;
		END;
		COMMIT;
	END LOOP;
END
\$\$;
SQL
	return;
}

sub kinds_of_trouble
{
	return sort keys %{ { map { $_->[1] => 1 } @trouble } };
}

# Chooses who makes which trouble: a hash by number of message, each a hash of in,
# kind, when, and, where the message fails for good, its sqlstate.
sub choose_trouble
{
	my ($messages) = @_;
	my %chosen;
	foreach (@trouble)
	{
		my ($in, $kind, $when, $share, $sqlstate) = @$_;
		my $n = $share * $messages / 20_000;
		# Of what is rarer than once there is one with that probability.
		$n = int($n) + (rand() < $n - int $n ? 1 : 0);
		foreach (1 .. $n)
		{
			my $number;
			do { $number = 1 + int rand $messages } while $chosen{$number};
			$chosen{$number} = { in => $in, kind => $kind, when => $when, sqlstate => $sqlstate };
		}
	}
	return \%chosen;
}

1;
