# Under the load of many writers who also roll back, Kafka gets exactly what
# was committed, and each key's events in the order of the commits.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use OutboxTest;

my $writers = 20;
my $transactions = 260;    # of each writer

my $node = new_server('load', "max_connections = 50\n");
create_extension($node, 'postgres');
my $type = aggregate_type('Load');
my $topic = make_topic("outbox.event.$type", 12);

# A key's number of events so far is in a row that each publisher of the key
# locks, so that the numbers follow the order of the commits.  What is rolled
# back takes its number back.
$node->safe_psql('postgres', <<SQL);
CREATE TABLE keys (key integer PRIMARY KEY, events integer NOT NULL) WITH (fillfactor = 10);
INSERT INTO keys SELECT i, 0 FROM generate_series(1, 1000) i;
CREATE FUNCTION publish_five(k integer) RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE
	last integer;
BEGIN
	UPDATE keys SET events = events + 5 WHERE key = k RETURNING events INTO last;
	PERFORM outbox.publish('$type', k::text, 'Counted', to_jsonb(i)) FROM generate_series(last - 4, last) i;
END
\$\$;
CREATE FUNCTION publish_some() RETURNS void LANGUAGE plpgsql AS \$\$
DECLARE
	k integer;
BEGIN
	-- in the order of the keys, or writers would deadlock
	FOR k IN SELECT DISTINCT 1 + (random() * 999)::integer FROM generate_series(1, 10) ORDER BY 1 LOOP
		BEGIN
			PERFORM publish_five(k);
			IF random() < 0.1 THEN
				RAISE 'undo' USING ERRCODE = 'P0002';
			END IF;
		EXCEPTION WHEN no_data_found THEN
		END;
	END LOOP;
END
\$\$;
SQL

my $start = time;
$node->pgbench(
	"--no-vacuum --client=$writers --jobs=2 --transactions=$transactions",
	0,
	[qr{processed: (\d+)/\1}],
	[qr/^(?!.*(ERROR|FATAL))/s],
	'writers publish, and roll back transactions and savepoints',
	{
		'005_writer' => q(
			\set dice random(1, 10)
			BEGIN;
			SELECT publish_some();
			\if :dice = 1
				ROLLBACK;
			\else
				COMMIT;
			\endif
		)
	});
my $written = time;
wait_until_confirmed($node, 'postgres');
my $confirmed = time;

my %committed =
  map { split /\|/ } split /\n/,
  $node->safe_psql('postgres', 'SELECT key, events FROM keys WHERE events > 0');
my $events = 0;
$events += $_ foreach values %committed;
note(
	sprintf
	  '%d events of %d keys committed in %.1f s, acknowledged %.1f s later',
	$events, scalar keys %committed, $written - $start, $confirmed - $written);
cmp_ok($events, '>=', 200_000, 'there was something to publish');

my @lines = consume_lines($topic, '%k %s');
my (%arrived, @wrong);
foreach my $line (@lines)
{
	my ($key, $number) = split / /, $line;
	push @wrong, $line if $number != ++$arrived{$key};
}
is(scalar @lines, $events, 'Kafka has as many events as were committed');
is_deeply(\%arrived, \%committed, 'of each key');
is("@wrong[0 .. ($#wrong > 9 ? 9 : $#wrong)]",
	'', 'the events of each key are in the order of the commits');

$node->stop;
done_testing();
