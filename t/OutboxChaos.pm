# OutboxChaos.pm
#
# What the chaos test breaks: a server with a database that publishes, three
# brokers, the network between them, and the faults that hit those.

package OutboxChaos;

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(time);

use OutboxProxy;
use OutboxTest;

my %fault = (
	'relay terminated' => \&terminate_relay,
	'relay killed' => \&kill_relay,
	'server stopped at once' => \&stop_server,
	'postmaster killed' => \&kill_postmaster,
	'server restarted' => sub { $_[0]{node}->restart },
	'one broker killed' => \&kill_a_broker,
	'partition without leader' => sub { kill_a_broker(@_, 12) },
	'all brokers away' => \&kill_all_brokers,
	'brokers frozen' => \&freeze_brokers,
	'relay terminated while brokers are frozen' => sub {
		freeze_brokers(@_, \&end_relay);
	},
	'server stopped while brokers are frozen' => sub {
		freeze_brokers(@_, \&stop_server);
	},
	'network cut' => sub { hurt_network(@_, 'cut') },
	'network swallows' => sub { hurt_network(@_, 'swallow') },
	'network slow' => sub { hurt_network(@_, slow => 0.1) },
	'network far' => sub { hurt_network(@_, slow => 0.15) },
	'settings changed' => \&change_settings,
	'settings of the session' => \&change_session_settings,
	'slot dropped' => \&drop_slot,
	'slot invalidated' => \&invalidate_slot,
	'slot pinned' => \&pin_slot,
	'topic deleted' => \&delete_topic,
	'standby promoted' => \&promote_standby);

# The names of all faults.
sub faults { return sort keys %fault }

# Starts Kafka and a server.  Options: outage, how long all brokers stay away
# (seconds), and delivery.
sub new
{
	my ($class, %options) = @_;
	my $self = bless { outage => 3, servers => 0, %options }, $class;
	$self->{kafka} = own_kafka('chaos', '--nodes', 3);
	$self->{topic} = make_topic('chaos', 4, dir => $self->{kafka});
	$self->{proxy} = OutboxProxy->new($self->{kafka});
	$self->{node} =
	  new_server('chaos', <<'CONF', allows_streaming => 1);
restart_after_crash = on
max_prepared_transactions = 20
wal_retrieve_retry_interval = '200ms'
CONF
	create_extension($self->{node}, 'postgres', $self->{proxy}->bootstrap);
	$self->change_delivery if $self->{delivery};
	return $self;
}

sub sql
{
	my ($self, $statements) = @_;
	return $self->{node}->safe_psql('postgres', $statements);
}

sub node { return $_[0]{node} }

sub topic { return $_[0]{topic} }

# Waits until the relay delivers that way: the one before it streams, too.
sub change_delivery
{
	my ($self) = @_;
	my $exact = $self->{delivery} eq 'exactly_once' ? 'true' : 'false';
	$self->sql("ALTER SERVER kafka OPTIONS (ADD delivery '$self->{delivery}')");
	$self->wait_for(
		"SELECT state = 'streaming' AND EXISTS (SELECT FROM outbox.exactly_once) = $exact FROM outbox.stat_relay",
		'the delivery does not change');
	return;
}

# Where to read what has come, whatever the network does.
sub bootstrap { return kafka_bootstrap($_[0]{kafka}) }

# A fault from its beginning until the cause has gone.
sub hit
{
	my ($self, $name) = @_;
	$fault{$name} or die "there is no fault \"$name\"\n";
	return $fault{$name}->($self);
}

sub end
{
	my ($self) = @_;
	$self->{node}->stop;
	return;
}

# Lets a query become true, whatever happens to the server meanwhile.
sub wait_for
{
	my ($self, $query, $complaint) = @_;
	$self->{node}->poll_query_until('postgres', $query)
	  or die "$complaint\n";
	return;
}

# Something lasts for some seconds, while the writers go on.
sub last_for
{
	my ($self, $seconds) = @_;
	$self->sql("SELECT pg_sleep($seconds)");
	return;
}

# ---------------------------------------------------------------------------
# Faults of the server.

sub terminate_relay
{
	my ($self) = @_;
	$self->sql(
		'SELECT pg_terminate_backend(pid) FROM outbox.stat_relay WHERE pid IS NOT NULL'
	);
	return;
}

# Terminates the relay and waits until its process has gone.
sub end_relay
{
	my ($self) = @_;
	my $pid = relay_pid($self->{node}, 'postgres');
	$self->terminate_relay;
	$self->wait_for("SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid",
		'the relay does not end');
	return;
}

# The server notices a moment later, and ends all its processes then.
sub kill_relay
{
	my ($self) = @_;
	my $pid = relay_pid($self->{node}, 'postgres');
	my $offset = -s $self->{node}->logfile;
	kill 'KILL', $pid;
	wait_for_log($self->{node},
		qr/all server processes terminated; reinitializing/, $offset);
	$self->wait_for('SELECT true', 'the server does not recover');
	return;
}

sub stop_server
{
	my ($self) = @_;
	$self->{node}->stop('immediate');
	$self->look_at_kafka;
	$self->{node}->start;
	return;
}

sub kill_postmaster
{
	my ($self) = @_;
	$self->{node}->kill_all;
	$self->look_at_kafka;
	$self->{node}->start;
	return;
}

# While nobody writes to it, something may be true of what it holds.  Frozen
# brokers would not show it.
sub look_at_kafka
{
	my ($self) = @_;
	return unless $self->{while_down};
	signal_kafka('CONT', $self->{kafka});
	$self->{while_down}->();
	return;
}

# To other values than before.
sub change_settings
{
	my ($self) = @_;
	my $verb = $self->{changes} ? 'SET' : 'ADD';
	my $linger = ++$self->{changes} % 5;
	$self->sql(qq{ALTER SERVER kafka OPTIONS ($verb "linger.ms" '$linger')});
	return;
}

# Settings that a session of the relay would not survive, or would work otherwise
# with, if it heeded them.
my @session_settings = (
	'default_transaction_read_only = on',
	"default_transaction_isolation = 'serializable'",
	'default_transaction_deferrable = on',
	'statement_timeout = 1',
	'lock_timeout = 1',
	'idle_in_transaction_session_timeout = 1',
	'search_path = nowhere',
	'session_replication_role = replica',
	'exit_on_error = on',
	"bytea_output = 'escape'",
	'standard_conforming_strings = off',
	"timezone = 'America/Sao_Paulo'",
	"datestyle = 'SQL, DMY'");

# A relay starts with some of them, of the database and of its role.  Sessions
# that begin later are spared.
sub change_session_settings
{
	my ($self) = @_;
	my @chosen = grep { rand() < 0.4 } @session_settings;
	$self->sql(
		join ";\n",
		(map { rand() < 0.5 ? "ALTER DATABASE postgres SET $_" : "ALTER ROLE CURRENT_USER SET $_" } @chosen),
		<<'SQL');
DO $$
DECLARE
	former integer := (SELECT pid FROM outbox.relay_status());
BEGIN
	PERFORM pg_terminate_backend(former);
	FOR i IN 1 .. 600 LOOP
		EXIT WHEN (SELECT pid <> coalesce(former, 0) AND state NOT IN ('stopped', 'starting') FROM outbox.relay_status());
		PERFORM pg_sleep(0.1);
	END LOOP;
END
$$;
ALTER DATABASE postgres RESET ALL;
ALTER ROLE CURRENT_USER RESET ALL;
SQL
	return;
}

sub drop_slot
{
	my ($self) = @_;
	$self->sql(<<'SQL');
DO $$
BEGIN
	LOOP
		PERFORM pg_terminate_backend(pid) FROM outbox.stat_relay WHERE pid IS NOT NULL;
		BEGIN
			PERFORM pg_drop_replication_slot(slot_name) FROM pg_replication_slots
			WHERE NOT active AND plugin = 'outbox';
			EXIT WHEN FOUND;
		EXCEPTION WHEN object_in_use OR undefined_object THEN
		END;
		PERFORM pg_stat_clear_snapshot();
	END LOOP;
END
$$
SQL
	return;
}

# A new slot has to wait for a transaction that was prepared.
sub pin_slot
{
	my ($self) = @_;
	$self->sql("BEGIN; SELECT pg_current_xact_id(); PREPARE TRANSACTION 'pin'");
	$self->drop_slot;
	$self->last_for(3);
	$self->sql("COMMIT PREPARED 'pin'");
	return;
}

# The server removes WAL that a slot needs when it needs too much.
sub invalidate_slot
{
	my ($self) = @_;
	signal_kafka('STOP', $self->{kafka});
	my $offset = -s $self->{node}->logfile;
	$self->sql("ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'");
	$self->{node}->reload;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	do
	{
		die "the slot keeps its WAL\n" if time > $deadline;
		$self->sql('SELECT pg_switch_wal()');
		$self->sql('CHECKPOINT');
	} until slurp_file($self->{node}->logfile, $offset) =~
	  /invalidating (?:obsolete replication )?slot "outbox_/;
	$self->sql('ALTER SYSTEM RESET max_slot_wal_keep_size');
	$self->{node}->reload;
	signal_kafka('CONT', $self->{kafka});
	return;
}

# A standby takes over, which has all that was committed, but no slot.
sub promote_standby
{
	my ($self) = @_;
	my $primary = $self->{node};
	my $name = 'chaos_' . ++$self->{servers};
	$primary->backup($name);
	my $standby = OutboxServer->new($name,
		install_path => $self->{install_path});
	$standby->init_from_backup($primary, $name, has_streaming => 1);
	$standby->append_conf('postgresql.conf', "synchronous_standby_names = ''\n");
	$standby->start;
	$self->sql("ALTER SYSTEM SET synchronous_standby_names = '*'");
	$primary->reload;
	$self->wait_for(
		"SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'",
		'the standby does not keep up');

	# From here on a commit that somebody saw, or Kafka, is on the standby.
	$self->wait_for_publishing;
	$primary->stop('immediate');
	$self->look_at_kafka;
	$standby->promote;
	$self->{node} = $standby;
	$primary->clean_node;
	return;
}

# Waits until something that is committed from now on is published.
sub wait_for_publishing
{
	my ($self) = @_;
	my $lsn = $self->sql('SELECT pg_current_wal_insert_lsn()');
	$self->wait_for("SELECT confirmed_lsn > '$lsn' FROM outbox.stat_relay",
		'nothing is published');
	return;
}

# ---------------------------------------------------------------------------
# Faults of Kafka and the network.

# Partitions have one replica.  After some seconds the other brokers know that
# there is no leader.
sub kill_a_broker
{
	my ($self, $seconds) = @_;
	my $broker = 1 + int(rand 3);
	kafka('kill', $self->{kafka}, $broker);
	$self->last_for($seconds) if $seconds;
	kafka('restart', $self->{kafka}, $broker);
	return;
}

sub kill_all_brokers
{
	my ($self) = @_;
	kafka('kill', $self->{kafka});
	$self->last_for($self->{outage});
	kafka('restart', $self->{kafka});
	return;
}

# Another topic of the same database is deleted while there are events for it;
# the brokers make it again.
sub delete_topic
{
	my ($self) = @_;
	my $publish = q{SELECT count(outbox.publish('Side', i::text, 'kept', '1', topic => 'side')) FROM generate_series(1, 100) i};
	$self->sql($publish);
	kafka('tool', $self->{kafka}, 'org.apache.kafka.tools.TopicCommand', '--delete', '--if-exists', '--topic', 'side');
	$self->sql($publish);
	return;
}

# With something that happens meanwhile, unless that is nothing.
sub freeze_brokers
{
	my ($self, $meanwhile) = @_;
	signal_kafka('STOP', $self->{kafka});
	$self->wait_for("SELECT state <> 'streaming' FROM outbox.stat_relay",
		'the relay does not notice');
	$self->$meanwhile if $meanwhile;
	signal_kafka('CONT', $self->{kafka});
	return;
}

sub hurt_network
{
	my ($self, $how, @arguments) = @_;
	$self->{proxy}->$how(@arguments);
	$self->last_for(3);
	$self->{proxy}->heal;
	return;
}

1;
