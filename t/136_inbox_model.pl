# Random sequences of what can happen to a subscription, compared with a model of
# what should become of each message.
#
#   INBOX_MODEL_STEPS   steps of each subscription (25)
#   INBOX_MODEL_SEED    repeats a run
#
# Several subscriptions, each with a topic of its own, take a step at a time:
# messages come, with ids and keys of which there are few, so that they repeat;
# some fail, or kill their process, until that is mended; the subscription is
# moved, paused, made anew, and what has failed is tried again or given up.  Each
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

my $steps = $ENV{INBOX_MODEL_STEPS} || 25;
my $seed = $ENV{INBOX_MODEL_SEED} || int(time) % 100_000;
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
	IF t = 'fails' THEN RAISE 'trouble'; END IF;
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

sub seek_to
{
	my ($model, $rerun) = @_;
	my $end = @{ $model->{log} };
	my $offset = one_of(0, $end, map { int rand($end + 1) } 1 .. 5);
	my $position = $offset == 0 ? one_of(0, "'earliest'") : $offset == $end ? one_of($end, "'latest'") : $offset;
	# The last of two counts.
	sql("SELECT inbox.seek('$model->{name}', '$model->{topic}', 0, 'latest')") if rand() < 0.3;
	sql(sprintf "SELECT inbox.seek('%s', '%s', 0, %s, rerun => %s)", $model->{name}, $model->{topic}, $position, $rerun ? 'true' : 'false');
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
	@failed = ($one) if $one;
	my $argument = $one ? ", '" . event_id($model, $one) . "'" : '';
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

sub discard_one
{
	my ($model) = @_;
	my ($one) = shuffle keys %{ $model->{failed} };
	return 'none' unless $one;
	is(sql("SELECT inbox.discard('$model->{name}', '" . event_id($model, $model->{failed}{$one}) . "')"), 't',
		"$model->{name}: what has failed is given up");
	delete $model->{failed}{$one};
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
	forget => [ 1, \&forget ]);
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
	my ($model, $batch_size) = @_;
	my $options = $model->{options};
	return "SELECT inbox.subscribe('$model->{name}', ARRAY['$model->{topic}'], '$model->{handler}', dedupe => '$model->{dedupe}', "
	  . join(', ', map { "$_ => $options->{$_}" } sort keys %$options)
	  . ", batch_size => $batch_size, max_attempts => 2, retry_backoff => '10 ms')";
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
		take_step($_) foreach @models;
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

$node->stop;
done_testing();
