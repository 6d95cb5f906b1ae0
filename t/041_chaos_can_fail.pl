# The chaos test sees what it is for: with a relay that is flawed on purpose it
# fails, and says what is wrong.

use strict;
use warnings;

use lib 't';
use PostgreSQL::Test::Utils;
use Test::More;

# Name of the flaw; the source file and how it is spoilt there; the fault that
# shows it; and the check that must fail.
my @flaws = (
	[
		'WAL is confirmed before Kafka has acknowledged it',
		'src/relay/progress/slot_progress.c',
		's/position = \Kledger_is_empty[^;]+/slot_decoder_position()/',
		'relay terminated while brokers are frozen',
		'lost'
	],
	[
		'the watermark is not looked at',
		'src/relay/table/watermark_table.c',
		's/if \(snapshot == NULL\)/if (true)/',
		'slot dropped',
		'repeated, though published long before a fault'
	]);

foreach my $flaw (@flaws)
{
	my ($name, $file, $expression, $fault, $check) = @$flaw;
	my $dir = PostgreSQL::Test::Utils::tempdir_short();
	my ($bindir, $said) = ('', '');
	IPC::Run::run([ 'dev/flawed', "$dir/flawed", $file, $expression ],
		'<', \undef, '>', \$bindir, '2>', \$said)
	  or die "dev/flawed failed: $said\n";
	chomp $bindir;

	local $ENV{PATH} = "$bindir:$ENV{PATH}";
	local $ENV{CHAOS_ONLY} = $fault;
	local $ENV{CHAOS_FAULTS} = 3;
	local $ENV{TESTDIR} = $dir;
	local $ENV{TESTLOGDIR} = "$dir/log";
	local $ENV{TESTDATADIR} = $dir;
	my ($output, $errors) = ('', '');
	IPC::Run::run([ $^X, 't/040_chaos.pl' ],
		'<', \undef, '>', \$output, '2>', \$errors);
	like($output, qr/^not ok \d+ - \Q$check\E$/m, "it is seen when $name")
	  or diag "$output\n$errors";
}

done_testing();
