# OutboxServer.pm
#
# A server that may be asked while it is down, and killed with all its processes.
#
# PostgreSQL's test library writes statements to the standard input of psql.
# When psql finds no server, it is sometimes gone before that; then IPC::Run
# ends the whole test with "Broken pipe".  Here it is an answer like any other
# of a server that is down.

package OutboxServer;

use strict;
use warnings;

use parent 'PostgreSQL::Test::Cluster';

# Imports nothing: its functions would hide methods of the same names.
use PostgreSQL::Test::Utils ();
use Time::HiRes qw(usleep);

# Was psql gone before it read anything?  A write that is not larger than this
# is made as a whole, or not at all.
sub was_not_read
{
	my ($error, $statements) = @_;
	return $error =~ /Broken pipe: write/ && length $statements <= 4096;
}

sub psql
{
	my ($self, $db, $statements, @options) = @_;
	my $in_list = wantarray;
	my (@result, $error);
	do
	{
		eval {
			@result = $in_list
			  ? $self->SUPER::psql($db, $statements, @options)
			  : scalar $self->SUPER::psql($db, $statements, @options);
		};
		$error = $@;
	} while ($error && was_not_read($error, $statements));
	die $error if $error;
	return $in_list ? @result : $result[0];
}

sub poll_query_until
{
	my ($self, $db, $query, @expected) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	my $result;
	until (defined $result)
	{
		eval { $result = $self->SUPER::poll_query_until($db, $query, @expected); };
		die $@ if $@ && (time > $deadline || !was_not_read($@, $query));
	}
	return $result;
}

# The process that made another; 0 when that has gone.
sub parent_of
{
	my ($pid) = @_;
	open my $file, '<', "/proc/$pid/stat" or return 0;

	# It may go even now.
	my $stat = <$file> // ') - 0';
	return (split / /, $stat =~ s/.*\) //r)[1];
}

# Kills the postmaster and all its processes at once, and waits until the last
# of them has gone.
sub kill_all
{
	my ($self) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	my ($postmaster) =
	  PostgreSQL::Test::Utils::slurp_file($self->data_dir . '/postmaster.pid')
	  =~ /^(\d+)/;

	# Stopped, so that it makes no more children.
	kill 'STOP', $postmaster or die "cannot stop the postmaster: $!\n";
	my @pids = grep { parent_of($_) == $postmaster }
	  map { m{(\d+)$} } glob '/proc/[0-9]*';
	@pids > 0 or die "the postmaster has no processes\n";
	push @pids, $postmaster;
	$self->kill9;
	kill 'KILL', @pids;
	while (my @left = grep { kill 0, $_ } @pids)
	{
		die "processes @left do not go\n" if time > $deadline;
		usleep(10_000);
	}
	return;
}

# Waits until the server answers.
sub wait_until_up
{
	my ($self) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	my ($code, $output, $error);
	while (time < $deadline)
	{
		($code, $output, $error) = $self->psql('postgres', 'SELECT');
		return if $code == 0;
		usleep(100_000);
	}
	die "the server does not answer: $error\n";
}

1;
