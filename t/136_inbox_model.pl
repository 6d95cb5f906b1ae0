# Random sequences of what can happen to a subscription, compared with a model of
# what should become of each message.
#
#   INBOX_MODEL_STEPS   steps of each subscription (22)
#   INBOX_MODEL_SEED    another run than usual: a number, or "random"
#   INBOX_MODEL_FLAWS   shows that it finds flaws that are built in: names of the
#                       list below with commas between, or "all"; takes minutes each
#
# Several subscriptions, each with a topic of its own, take a step at a time:
# messages come, with ids and keys of which there are few, so that they repeat;
# some fail, or kill their process, until that is mended; the subscription is
# moved, paused, made anew, also while messages wait to be tried again, and what has
# failed or waits is tried again or given up.  Others stop at what fails.  Each
# subscription has options at random.  Now and then the server crashes.
# After each step, once all is quiet, the effects of the handler and the messages
# that have failed are compared.

use strict;
use warnings;

use List::Util qw(first shuffle uniq);
use PostgreSQL::Test::Utils;
use Test::More;

use OutboxInbox;
use OutboxTest;

my $steps = $ENV{INBOX_MODEL_STEPS} || 22;
# The same steps each time, but for "random" or another number.
my $seed = $ENV{INBOX_MODEL_SEED} || 7;
$seed = int(time) % 100_000 if $seed eq 'random';
# Each with the source file, how it is spoilt, and steps that are enough.
my @flaws = (
	[ 'two rows', 'src/inbox/batch/repeated_messages.c', 's/if \(unprocessed_may_exist\(\)\)/if (false \&\& unprocessed_may_exist())/', 25 ],
	[ 'overwritten seek', 'src/inbox/partition/takeover_rows.c', 's/p\.fence OPERATOR\(pg_catalog\.=\) excluded\.fence/true/; s/!subscription_is_unchanged\(worker->subscription\)/false/', 25 ],
	[ 'below first', 'src/inbox/batch/redelivery_queue.c', 's/if \(waiting != NULL && offset < waiting->first_offset\)/if (waiting != NULL \&\& offset < 0)/', 25 ],
	[ 'stopped twice', 'src/inbox/batch/batch_table.c', 's/if \(SPI_processed == 0\)(\s+ereport\(ERROR,\s+\(errcode\(ERRCODE_OBJECT_IN_USE\))/if (false)$1/', 1 ],
	[ 'overtaken', 'src/inbox/batch/redelivery.c', 's/if \(n == 0 \|\| retry_offset\(&messages\[0\]\) != waiting->first_offset\)(\s+\{\s+)round->outdated = true;/if (n == 0)$1outcome->finished = true;/', 25 ]);
my $subscriptions = 8;
my $keys = 3;
my $ids = 12;

srand $seed;
diag "seed $seed: INBOX_MODEL_SEED=$seed INBOX_MODEL_STEPS=$steps repeats this run";

my $node = new_server('inbox_model', "max_worker_processes = 40\nrestart_after_crash = on\n");
create_extension($node, 'postgres');
subscribe_in($node);
sql(<<'SQL');
CREATE TABLE trouble (subscription text, value text, kind text);
CREATE TABLE done (id bigserial, subscription text, key text, value text);
CREATE FUNCTION handle(m inbox.message) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	v text := inbox.payload_text(m);
	t text := (SELECT kind FROM trouble WHERE subscription = m.subscription AND value = v);
BEGIN
	IF t = 'halts' THEN PERFORM pg_advisory_xact_lock_shared(hashtext(m.subscription)); END IF;
	IF t IN ('fails', 'halts') THEN RAISE 'trouble'; END IF;
	IF t = 'kills' THEN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(60); END IF;
	INSERT INTO done (subscription, key, value) VALUES (m.subscription, m.aggregate_id, v);
END
$$;
CREATE FUNCTION handle_all(m inbox.message[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. cardinality(m) LOOP
		PERFORM handle(m[i]);
	END LOOP;
END
$$;
SQL

# ---------------------------------------------------------------------------
# The model.  A message is a hash of offset, key, id and value; its value tells
# the message from all others.

sub new_model
{
	my ($name) = @_;
	return {
		name => $name,
		topic => make_topic(topic_name($name), 1),
		handler => one_of('handle', 'handle', 'handle_all'),
		dedupe => one_of('header', 'header', 'header', 'offset', 'none'),
		options => {
			ordering => one_of("'key'", "'key'", "'partition'", "'none'"),
			isolation => one_of("'read_committed'", "'repeatable_read'", "'serializable'"),
			keep => one_of("'1 h'", "'0'"),
			batch_time => "'1 s'",
			workers => one_of(1, 1, 2)
		},
		log => [],          # messages of the topic
		position => 0,
		received => {},     # values by what tells messages
		failed => {},       # messages by what tells them
		waiting => {},      # messages that wait, by their value
		trouble => {},      # kind by value
		effects => [],      # messages, in the order of the handler's calls
		said => []          # what was done, to be shown
	};
}

sub one_of
{
	return $_[ rand @_ ];
}

# What tells a message from others.
sub told
{
	my ($model, $message) = @_;
	return $message->{ $model->{dedupe} eq 'header' ? 'id' : 'offset' };
}

# What becomes of a message when its handler is called.
sub handle
{
	my ($model, $message) = @_;
	my $id = told($model, $message);
	delete $model->{failed}{$id};
	if ($model->{trouble}{ $message->{value} })
	{
		$model->{failed}{$id} = $message;
	}
	else
	{
		push @{ $model->{effects} }, $message;
	}
	return;
}

# Reads from the position to the end; messages before an offset are run again,
# once for each id.  One with the id of another one, of which that is known, is
# passed over.
sub read_on
{
	my ($model, $rerun_until) = @_;
	my %rerun;
	foreach my $message (@{ $model->{log} }[ $model->{position} .. $#{ $model->{log} } ])
	{
		my $id = told($model, $message);
		my $value = $message->{value};
		next if $model->{waiting}{$value};
		next if $model->{failed}{$id} && $model->{failed}{$id}{value} ne $value;
		next if ($model->{received}{$id} // $value) ne $value;
		my $again = $message->{offset} < $rerun_until && !$rerun{$id};
		$rerun{$id} = 1;
		next if $model->{received}{$id} && !$again;
		$model->{received}{$id} = $value unless $model->{dedupe} eq 'none';
		next if $model->{failed}{$id} && $message->{offset} >= $rerun_until && $model->{dedupe} ne 'none';
		handle($model, $message);
	}
	$model->{position} = @{ $model->{log} };
	return;
}

sub in_order
{
	return sort { $a->{offset} <=> $b->{offset} } @_;
}

# ---------------------------------------------------------------------------
# Steps: each does something to a subscription, and the same to its model.

my $values = 0;

sub come
{
	my ($model) = @_;
	my @new;
	foreach (1 .. 1 + int rand 8)
	{
		my $value = 'v' . ++$values;
		my $chance = rand;
		my $kind = $chance < 0.2 ? 'fails' : $chance < 0.25 ? 'kills' : undef;
		$model->{trouble}{$value} = $kind if $kind;
		sql("INSERT INTO trouble VALUES ('$model->{name}', '$value', '$kind')") if $kind;
		my $message = {
			offset => scalar @{ $model->{log} },
			key => 'k' . int(rand $keys),
			id => 'id' . int(rand $ids),
			value => $value };
		# Most are new.
		$message->{id} = "new$value" if rand() < 0.7;
		push @{ $model->{log} }, $message;
		push @new, $message;
	}
	produce_all($model, @new);
	read_on($model, 0);
	return join ' ', map { "$_->{key}:$_->{id}:$_->{value}" . ($model->{trouble}{ $_->{value} } ? '!' : '') } @new;
}

# With the headers of each.
sub produce_all
{
	my ($model, @messages) = @_;
	while (@messages)
	{
		my $id = $messages[0]{id};
		my @same;
		push @same, shift @messages while @messages && $messages[0]{id} eq $id;
		produce($model->{topic}, { headers => ["id=$id"] }, map { "$_->{key}\t$_->{value}" } @same);
	}
	return;
}

sub mend
{
	my ($model) = @_;
	my @some = grep { rand() < 0.5 } keys %{ $model->{trouble} };
	foreach my $value (@some)
	{
		sql("DELETE FROM trouble WHERE subscription = '$model->{name}' AND value = '$value'");
		delete $model->{trouble}{$value};
	}
	return join ' ', @some;
}

# Lasts until somebody waits for the transaction, or some seconds.
my $until_waited_for = <<'SQL' =~ s/\s+/ /gr;
DO $$
BEGIN
	FOR i IN 1 .. 1000 LOOP
		EXIT WHEN EXISTS (SELECT FROM pg_locks WHERE NOT granted AND transactionid = pg_current_xact_id()::xid);
		PERFORM pg_sleep(0.005);
	END LOOP;
END $$
SQL

sub seek_to
{
	my ($model, $rerun) = @_;
	my $end = @{ $model->{log} };
	my $offset = one_of(0, $end, map { int rand($end + 1) } 1 .. 5);
	my $position = $offset == 0 ? one_of(0, "'earliest'") : $offset == $end ? one_of($end, "'latest'") : $offset;
	my $seek = sprintf "SELECT inbox.seek('%s', '%s', 0, %s, rerun => %s)", $model->{name}, $model->{topic}, $position, $rerun ? 'true' : 'false';
	# The last of two counts, also when it commits while a worker takes the position
	# over as the first has it.
	$seek = "SELECT inbox.seek('$model->{name}', '$model->{topic}', 0, 'latest'); BEGIN; $seek; $until_waited_for; COMMIT" if rand() < 0.3;
	sql($seek);
	my $until = $rerun ? $model->{position} : 0;
	$model->{position} = $offset;
	read_on($model, $until);
	return $offset;
}

sub retry_some
{
	my ($model) = @_;
	my @failed = in_order(values %{ $model->{failed} });
	my $one = @failed && rand() < 0.5 ? $failed[ rand @failed ] : undef;
	my $argument = $one ? ", '" . event_id($model, $one) . "'" : '';
	@failed = with_id_of($model, $one) if $one;
	is(sql("SELECT inbox.retry('$model->{name}'$argument)"), scalar @failed,
		"$model->{name}: as many are tried again as have failed");
	handle($model, $_) foreach @failed;
	return $one ? $one->{value} : 'all';
}

# The id of a message that has failed.
sub event_id
{
	my ($model, $message) = @_;
	return sql("SELECT event_id FROM inbox.message WHERE subscription = '$model->{name}' AND status = 'failed' AND \"offset\" = $message->{offset}");
}

# The messages that have failed and are called as one of them is: without a check for
# repeated ones, there may be several.
sub with_id_of
{
	my ($model, $message) = @_;
	my %offsets = map { $_ => 1 } split /\n/, sql("SELECT \"offset\" FROM inbox.message WHERE subscription = '$model->{name}' AND status = 'failed' AND event_id = '" . event_id($model, $message) . "'");
	return in_order(grep { $offsets{ $_->{offset} } } values %{ $model->{failed} });
}

sub discard_one
{
	my ($model) = @_;
	my ($one) = shuffle keys %{ $model->{failed} };
	return 'none' unless $one;
	my $id = event_id($model, $model->{failed}{$one});
	my %gone = map { $_->{offset} => 1 } with_id_of($model, $model->{failed}{$one});
	is(sql("SELECT inbox.discard('$model->{name}', '$id')"), 't', "$model->{name}: what has failed is given up");
	delete $model->{failed}{$_} foreach grep { $gone{ $model->{failed}{$_}{offset} } } keys %{ $model->{failed} };
	return $one;
}

# What changes nothing, whenever it happens.
sub disturb
{
	my ($model) = @_;
	my $name = $model->{name};
	my $what = come($model);
	my $disturbance = one_of(
		"SELECT inbox.pause('$name'); SELECT inbox.resume('$name')",
		"SELECT pg_terminate_backend(pid) FROM inbox.consumer_status() WHERE subscription = '$name' AND pid IS NOT NULL",
		subscribe_statement($model, 1 + int rand 5),
		"UPDATE inbox.ring SET ended_at = ended_at - interval '8 d' WHERE name = 'message'; " . 'SELECT inbox.expire(); ' x 5);
	sql($disturbance);
	return "$what; $disturbance";
}

# A message that comes alone, of a key, and has an id of its own.
sub send_one
{
	my ($model, $key, $kind) = @_;
	my $value = 'v' . ++$values;
	my $message = { offset => scalar @{ $model->{log} }, key => $key, id => "new$value", value => $value };
	sql("INSERT INTO trouble VALUES ('$model->{name}', '$value', '$kind')") if $kind;
	push @{ $model->{log} }, $message;
	produce_all($model, $message);
	return $message;
}

# Has an attempt of a message come to an end, and does it wait for the next one?
sub until_it_waits
{
	my ($model, @messages) = @_;
	my $offsets = join ', ', map { $_->{offset} } @messages;
	return until_true("SELECT count(*) = " . @messages . " FROM inbox.message WHERE subscription = '$model->{name}' AND status = 'pending' AND attempts > 0 AND \"offset\" IN ($offsets)");
}

sub until_true
{
	my ($query) = @_;
	$node->poll_query_until('postgres', $query) or die "it does not come to be true: $query\n";
	return;
}

# What waits, and all that has failed and is read again, comes through.
sub mend_all
{
	my ($model) = @_;
	sql("DELETE FROM trouble WHERE subscription = '$model->{name}'");
	$model->{trouble} = {};
	return;
}

# What waited has come through, behind all that was read of its key meanwhile.
sub take_waiting
{
	my ($model) = @_;
	foreach my $message (in_order(values %{ $model->{waiting} }))
	{
		$model->{received}{ told($model, $message) } = $message->{value} unless $model->{dedupe} eq 'none';
		push @{ $model->{effects} }, $message;
	}
	$model->{waiting} = {};
	$model->{position} = @{ $model->{log} };
	return;
}

# Until it is told otherwise, messages are tried for as long as it takes.  Nothing else
# fails meanwhile, or kills its process again and again.
sub never_give_up
{
	my ($model, $what) = @_;
	mend_all($model);
	sql(subscribe_statement($model, 1000, 1000));
	my $said = $what->($model);
	# Who begins anew would find what was forgotten.
	$node->poll_query_until('postgres', 'SELECT ' . is_quiet($model))
	  or die "$model->{name} does not come to rest while messages wait: $said\n" . join("\n", @{ $model->{said} }, '');
	sql(subscribe_statement($model, 1000));
	return $said;
}

# The subscription is moved back while a message waits, with others behind it.
sub rerun_before_waiting
{
	my ($model) = @_;
	my $key = 'k' . int rand $keys;
	my $before = send_one($model, $key);
	$model->{received}{ told($model, $before) } = $before->{value} unless $model->{dedupe} eq 'none';
	push @{ $model->{effects} }, $before;
	my @waiting = send_one($model, $key, 'fails');
	until_it_waits($model, @waiting);
	push @waiting, send_one($model, $key) if $model->{options}{ordering} ne "'none'";
	$model->{waiting}{ $_->{value} } = $_ foreach @waiting;
	my $end = @{ $model->{log} };
	until_true("SELECT next_offset = $end FROM inbox.position WHERE subscription = '$model->{name}'");
	my $offset = one_of(0, $before->{offset}, int rand $before->{offset} + 1);
	sql("SELECT inbox.seek('$model->{name}', '$model->{topic}', 0, $offset, rerun => true)");
	until_true("SELECT next_offset = $end AND seek_time IS NULL FROM inbox.position WHERE subscription = '$model->{name}'");
	mend_all($model);
	$model->{position} = $offset;
	read_on($model, $end);
	take_waiting($model);
	return "$key from $offset, before " . join ' ', map { $_->{value} } @waiting;
}

# The first message of a key that waits is given up while its turn comes, with
# another key's, and one more comes.
sub discard_waiting
{
	my ($model) = @_;
	return 'not' unless $model->{options}{ordering} eq "'key'";
	my ($one, $other) = shuffle map { "k$_" } 0 .. $keys - 1;
	my $halts = send_one($model, $one, 'fails');
	my $first = send_one($model, $other, 'fails');
	until_it_waits($model, $halts, $first);
	my @behind = map { send_one($model, $other) } 1 .. 2;
	until_true("SELECT count(*) = 2 FROM inbox.message WHERE subscription = '$model->{name}' AND status = 'pending' AND \"offset\" IN ($behind[0]{offset}, $behind[1]{offset})");
	sql("SELECT inbox.pause('$model->{name}')");
	until_true("SELECT count(*) = 0 FROM inbox.consumer_status() WHERE subscription = '$model->{name}' AND pid IS NOT NULL");
	my $holder = $node->background_psql('postgres');
	$holder->query_safe("SELECT pg_advisory_lock(hashtext('$model->{name}'))");
	sql("UPDATE trouble SET kind = 'halts' WHERE subscription = '$model->{name}' AND value = '$halts->{value}'");
	# Both are due at once.
	sql("SELECT inbox.retry('$model->{name}', event_id) FROM inbox.message WHERE subscription = '$model->{name}' AND status = 'pending' AND attempts > 0");
	sql("SELECT inbox.resume('$model->{name}')");
	until_true("SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = (hashtext('$model->{name}')::bigint & 4294967295)::oid");
	sql("SELECT inbox.discard('$model->{name}', event_id) FROM inbox.message WHERE subscription = '$model->{name}' AND status = 'pending' AND \"offset\" = $first->{offset}");
	push @behind, send_one($model, $other);
	$holder->query_safe("SELECT pg_advisory_unlock(hashtext('$model->{name}'))");
	$holder->quit;
	mend_all($model);
	$model->{received}{ told($model, $first) } = $first->{value} unless $model->{dedupe} eq 'none';
	$model->{waiting}{ $_->{value} } = $_ foreach $halts, @behind;
	take_waiting($model);
	return "$first->{value} of $other, $one halts";
}

sub make_anew
{
	my ($model) = @_;
	sql("SELECT inbox.unsubscribe('$model->{name}')");
	subscribe($model);
	$model->{position} = 0;
	read_on($model, 0);
	return '';
}

sub forget
{
	my ($model) = @_;
	my ($id) = shuffle keys %{ $model->{received} };
	return 'none' unless defined $id && $model->{dedupe} eq 'header';
	sql("DELETE FROM inbox.received WHERE consumer LIKE '\@$model->{name}%' AND event_id LIKE '%$id'");
	# As the time to remember would have it: all of that name.
	delete $model->{received}{$_} foreach grep { /\Q$id\E$/ } keys %{ $model->{received} };
	return $id;
}

my %step = (
	come => [ 8, \&come ],
	mend => [ 3, \&mend ],
	seek => [ 2, sub { seek_to($_[0], 0) } ],
	rerun => [ 3, sub { seek_to($_[0], 1) } ],
	retry => [ 3, \&retry_some ],
	discard => [ 1, \&discard_one ],
	disturb => [ 4, \&disturb ],
	make_anew => [ 1, \&make_anew ],
	forget => [ 1, \&forget ],
	rerun_before_waiting => [ 1, sub { never_give_up($_[0], \&rerun_before_waiting) } ],
	discard_waiting => [ 1, sub { never_give_up($_[0], \&discard_waiting) } ]);
my @choice = map { ($_) x $step{$_}[0] } sort keys %step;

sub take_step
{
	my ($model) = @_;
	my $name = $choice[ rand @choice ];
	push @{ $model->{said} }, "$name " . $step{$name}[1]->($model);
	return;
}

# ---------------------------------------------------------------------------

sub subscribe_statement
{
	my ($model, $batch_size, $attempts) = @_;
	my $options = $model->{options};
	return "SELECT inbox.subscribe('$model->{name}', ARRAY['$model->{topic}'], '$model->{handler}', dedupe => '$model->{dedupe}', "
	  . join(', ', map { "$_ => $options->{$_}" } sort keys %$options)
	  . ", batch_size => $batch_size, max_attempts => " . ($attempts || 2) . ", retry_backoff => '10 ms')";
}

sub subscribe
{
	my ($model) = @_;
	my $statement = subscribe_statement($model, 1000);
	sql($statement);
	push @{ $model->{said} }, $statement;
	return;
}

# Messages come everywhere, and the server crashes.
sub crash
{
	push @{ $_->{said} }, 'come and crash: ' . come($_) foreach @_;
	my $offset = -s $node->logfile;
	my $pid = sql('SELECT coalesce(min(pid), 0) FROM inbox.consumer_status()');
	return unless $pid && kill 'KILL', $pid;
	wait_for_log($node, qr/all server processes terminated; reinitializing/, $offset);
	$node->wait_until_up;
	return;
}

# Everything is read, and nothing waits.
sub is_quiet
{
	my ($model) = @_;
	my $end = @{ $model->{log} };
	return "EXISTS (SELECT FROM inbox.position WHERE subscription = '$model->{name}' AND next_offset = $end AND seek_time IS NULL)"
	  . " AND NOT EXISTS (SELECT FROM inbox.message WHERE subscription = '$model->{name}' AND status = 'pending')";
}

sub check
{
	my ($model) = @_;
	my $name = $model->{name};
	my @got = map { [ split /\|/ ] } split /\n/,
	  sql("SELECT key, value FROM done WHERE subscription = '$name' ORDER BY id");
	my $same = 1;
	foreach my $key (map { "k$_" } 0 .. $keys - 1)
	{
		my $expected = join ' ', map { $_->{value} } grep { $_->{key} eq $key } @{ $model->{effects} };
		my $got = join ' ', map { $_->[1] } grep { $_->[0] eq $key } @got;
		($got, $expected) = map { join ' ', sort split / / } $got, $expected if $model->{options}{ordering} eq "'none'";
		$same &&= is($got, $expected, "$name: effects of $key, each once and in order");
	}
	$same &&= is(
		sql("SELECT coalesce(string_agg(coalesce(headers ->> 'id', '') || ':' || inbox.payload_text(m), ' ' ORDER BY \"offset\"), '') FROM inbox.message m WHERE subscription = '$name' AND status = 'failed'"),
		join(' ', map { "$_->{id}:$_->{value}" } in_order(values %{ $model->{failed} })),
		"$name: what has failed");
	return $same;
}

# One that stops at what fails, with a worker for each of two partitions: no message
# may be passed over, also when both fail at the same time.
sub stop_again_and_again
{
	my ($rounds) = @_;
	my $topic = make_topic(topic_name('stops'), 2);
	my @expected = ('', '');
	my $said = '';
	sql("SELECT inbox.subscribe('stops', ARRAY['$topic'], 'handle', workers => 2, on_failure => 'stop', max_attempts => 1, ordering => " . one_of("'key'", "'partition'") . ')');
	my $holder = $node->background_psql('postgres');
	foreach my $round (1 .. $rounds)
	{
		$holder->query_safe("SELECT pg_advisory_lock(hashtext('stops'))");
		foreach my $partition (0, 1)
		{
			my @new = map { 'v' . ++$values } 1 .. 2 + int rand 4;
			my $halts = int rand @new;
			foreach my $i (0 .. $#new)
			{
				next if $i < $halts || ($i > $halts && rand() < 0.7);
				my $kind = $i == $halts ? 'halts' : 'fails';
				sql("INSERT INTO trouble VALUES ('stops', '$new[$i]', '$kind')");
			}
			produce($topic, { partition => $partition }, map { "k$partition\t$_" } @new);
			$expected[$partition] .= ' ' . join ' ', @new;
			$said .= "; partition $partition: @new, halts at $new[$halts]";
		}
		until_true("SELECT count(*) = 2 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted");
		$holder->query_safe("SELECT pg_advisory_unlock(hashtext('stops'))");
		my $read = 'NOT EXISTS (SELECT FROM trouble WHERE subscription = \'stops\') AND ' . (join ' AND ', map { "(SELECT count(*) FROM done WHERE subscription = 'stops' AND key = 'k$_') >= " . scalar(split ' ', $expected[$_]) } 0, 1);
		until (sql("SELECT $read") eq 't')
		{
			until_true("SELECT stopped_by IS NOT NULL FROM inbox.subscription WHERE name = 'stops'");
			until_true("SELECT count(*) = 0 FROM inbox.consumer_status() WHERE subscription = 'stops' AND pid IS NOT NULL");
			my $failed = sql("SELECT string_agg(inbox.payload_text(m), ' ') FROM inbox.message m WHERE subscription = 'stops' AND status = 'failed'");
			is($failed, (split ' ', $failed)[0], 'stops: it stops at one message') or return diag $said;
			sql("DELETE FROM trouble WHERE subscription = 'stops' AND value = '$failed'");
			sql("SELECT inbox.retry('stops', stopped_by) FROM inbox.subscription WHERE name = 'stops'");
			$node->poll_query_until('postgres', "SELECT ($read) OR EXISTS (SELECT FROM inbox.subscription WHERE name = 'stops' AND stopped_by IS NOT NULL)")
			  or return diag "it neither stops nor goes on $said";
		}
	}
	$holder->quit;
	foreach my $partition (0, 1)
	{
		is(sql("SELECT string_agg(value, ' ' ORDER BY id) FROM done WHERE subscription = 'stops' AND key = 'k$partition'"), substr($expected[$partition], 1),
			"stops: all of partition $partition, once and in order") or diag $said;
	}
	return;
}

my @models = map { new_model("s$_") } 1 .. $subscriptions;
subscribe($_) foreach @models;
STEP: foreach my $number (1 .. $steps)
{
	if (rand() < 0.06)
	{
		crash(@models);
	}
	else
	{
		foreach my $model (@models)
		{
			next if eval { take_step($model); 1 };
			fail("$model->{name} does not take a step");
			diag "$@";
			last STEP;
		}
	}
	foreach my $model (@models)
	{
		my $quiet = $node->poll_query_until('postgres', 'SELECT ' . is_quiet($model));
		next if $quiet && check($model);
		fail("$model->{name} does not come to rest") unless $quiet;
		diag join "\n", "$model->{name}, until step $number:", @{ $model->{said} };
		diag sql("SELECT * FROM inbox.stat_subscription WHERE name = '$model->{name}'");
		diag sql("SELECT topic, partition, \"offset\", event_id, status, attempts, error FROM inbox.message WHERE subscription = '$model->{name}' AND status <> 'processed' ORDER BY \"offset\"");
		last STEP;
	}
}

stop_again_and_again(2) if Test::More->builder->is_passing;

$node->stop;

foreach my $flaw (@flaws)
{
	my ($name, $file, $expression, $enough) = @$flaw;
	next unless grep { $_ eq $name || $_ eq 'all' } split /,/, $ENV{INBOX_MODEL_FLAWS} || '';
	my $dir = PostgreSQL::Test::Utils::tempdir_short();
	my ($bindir, $said) = ('', '');
	IPC::Run::run([ 'dev/flawed', "$dir/flawed", $file, $expression ], '<', \undef, '>', \$bindir, '2>', \$said)
	  or die "dev/flawed failed: $said\n";
	chomp $bindir;

	local $ENV{PATH} = "$bindir:$ENV{PATH}";
	local $ENV{INBOX_MODEL_FLAWS} = '';
	local $ENV{INBOX_MODEL_SEED} = 7;
	local $ENV{INBOX_MODEL_STEPS} = $enough;
	local $ENV{TESTDIR} = $dir;
	local $ENV{TESTLOGDIR} = "$dir/log";
	local $ENV{TESTDATADIR} = $dir;
	my ($output, $errors) = ('', '');
	IPC::Run::run([ $^X, '-I', 't', (map { ('-I', $_) } @INC), $0 ], '<', \undef, '>', \$output, '2>', \$errors);
	like($output, qr/^not ok /m, "it finds the flaw \"$name\"") or diag "$output\n$errors";
}

done_testing();
