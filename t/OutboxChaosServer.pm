# OutboxChaosServer.pm
#
# Faults of the server, the relay and its slot, as methods of the chaos.

package OutboxChaosServer;

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Time::HiRes qw(time);

use OutboxServer;
use OutboxTest;

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

sub restart_server
{
	my ($self) = @_;
	$self->{node}->restart;
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

# Until the relay that had it is gone, and before the next one begins.
sub drop_slot
{
	my ($self) = @_;
	$self->sql(<<SQL);
DO \$\$
DECLARE
	deadline timestamptz := clock_timestamp() + interval '$PostgreSQL::Test::Utils::timeout_default s';
BEGIN
	LOOP
		PERFORM pg_terminate_backend(pid) FROM outbox.stat_relay WHERE pid IS NOT NULL;
		BEGIN
			PERFORM pg_drop_replication_slot(slot_name) FROM pg_replication_slots
			WHERE NOT active AND plugin = 'outbox';
			EXIT WHEN FOUND;
		EXCEPTION WHEN object_in_use OR undefined_object THEN
		END;
		IF clock_timestamp() > deadline THEN
			RAISE 'waited in vain for a slot of the relay that nobody uses: there are %, and relays %',
				(SELECT jsonb_agg(s) FROM pg_replication_slots s), (SELECT jsonb_agg(r) FROM outbox.stat_relay r);
		END IF;
		PERFORM pg_stat_clear_snapshot();
	END LOOP;
END
\$\$
SQL
	return;
}

# A transaction that has published and stays open, until it is let go.
sub begin_old_transaction
{
	my ($self) = @_;
	$self->sql("BEGIN; $self->{publish}; PREPARE TRANSACTION 'old'");
	return;
}

sub end_old_transaction
{
	my ($self) = @_;
	$self->sql("COMMIT PREPARED 'old'");
	return;
}

# A new slot has to wait for a transaction that is open.
sub remake_slot
{
	my ($self) = @_;
	$self->begin_old_transaction;
	$self->drop_slot;
	$self->last_for(3);
	$self->end_old_transaction;
	return;
}

# The relay gives its slot up when that holds too much WAL for a transaction that
# is open, and has no other one until that has ended.
sub pin_slot
{
	my ($self) = @_;
	my $offset = -s $self->{node}->logfile;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	$self->sql("ALTER SYSTEM SET outbox.max_slot_wal = '64MB'");
	$self->{node}->reload;
	$self->begin_old_transaction;
	do
	{
		die "the relay keeps a slot that an old transaction pins\n" if time > $deadline;
		$self->sql('SELECT pg_switch_wal()');
		$self->last_for(0.2);
	} until slurp_file($self->{node}->logfile, $offset) =~ /outbox relay gives up its replication slot/;
	$self->last_for(3);
	$self->end_old_transaction;
	$self->sql('ALTER SYSTEM RESET outbox.max_slot_wal');
	$self->{node}->reload;
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

1;
