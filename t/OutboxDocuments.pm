# OutboxDocuments.pm
#
# The SQL of the documents.

package OutboxDocuments;

use strict;
use warnings;

use Exporter 'import';
use File::Basename qw(dirname);
use File::Find ();
use PostgreSQL::Test::Utils;

our @EXPORT = qw(documents sql_blocks example);

my $root = dirname(__FILE__) . '/..';

# README.md, and the pages of docs/ and the like: names from the top of the tree.
sub documents
{
	my @pages;
	File::Find::find(
		{   no_chdir => 1,
			wanted => sub { push @pages, s{^\Q$root\E/}{}r if /\.md$/ } },
		"$root/docs");
	return ((map { s{^\Q$root\E/}{}r } glob "$root/*.md"), sort @pages);
}

# The SQL blocks of a document, or of the section under a heading.
sub sql_blocks
{
	my ($file, $heading) = @_;
	my $text = slurp_file("$root/$file");
	($text) = $text =~ /^#+ \Q$heading\E\n(.*?)(?=^#+ |\z)/ms or die "$file has no $heading\n"
	  if defined $heading;
	return $text =~ /^```sql\n(.*?)^```$/msg;
}

# The first SQL block under a heading that holds a word.
sub example
{
	my ($file, $heading, $word) = @_;
	my ($block) = grep { /\Q$word\E/ } sql_blocks($file, $heading);
	return $block // die "$file has no example with $word under $heading\n";
}

1;
