# outbox: builds one shared library with PGXS.
#
#   make                 build
#   make install         install (into the server of PG_CONFIG)
#   make installcheck    test, on temporary servers of its own
#   make check-format    is the C code in PostgreSQL's style, and includes what it may?
#   make check-documents are links, names and spelling of the documents right?
#   make html            make a site of docs/ in build/html
#   make WERROR=1        warnings are errors
#   make SANITIZE=1      look for errors at run time; see dev/sanitize
#   make CHECK_FOREIGN=1 decode what src/relay/wal/foreign_changes.c would skip, and compare

PG_CONFIG ?= pg_config

EXTENSION = outbox
MODULE_big = outbox
DATA = outbox--1.0.sql outbox--0.9--1.0.sql
PGFILEDESC = "outbox - messaging as part of the transaction"

SOURCES = $(sort $(wildcard src/*/*.c src/*/*/*.c))
HEADERS = $(sort $(wildcard src/*/*.h src/*/*/*.h))
OBJS = $(SOURCES:.c=.o)

ifneq ($(filter-out clean check-documents html,$(or $(MAKECMDGOALS),all)),)
ifneq ($(shell pkg-config --exists 'rdkafka >= 2.0' && echo yes),yes)
$(error librdkafka 2.0 or newer is needed and pkg-config does not find it: install librdkafka-dev and pkg-config (Debian, Ubuntu) or librdkafka-devel (Fedora))
endif
endif

EXTENSION_VERSION = $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" $(srcdir)/outbox.control)
# Compression libraries that are here tell how large a message is for a broker;
# see src/kafka/producer/compression.c.
COMPRESSORS := $(foreach lib,zlib liblz4 libzstd,$(shell pkg-config --exists $(lib) && echo $(lib)))
WITH_zlib = -DOUTBOX_WITH_ZLIB
WITH_liblz4 = -DOUTBOX_WITH_LZ4
WITH_libzstd = -DOUTBOX_WITH_ZSTD

PG_CPPFLAGS = -I$(srcdir)/src -DOUTBOX_VERSION='"$(EXTENSION_VERSION)"' \
	$(foreach lib,$(COMPRESSORS),$(WITH_$(lib))) $(shell pkg-config --cflags rdkafka $(COMPRESSORS))
SHLIB_LINK = $(shell pkg-config --libs rdkafka $(COMPRESSORS))
ifdef WERROR
PG_CFLAGS += -Wextra -Wno-unused-parameter -Wno-missing-field-initializers -Wno-sign-compare -Wno-clobbered -Werror
endif

# For AddressSanitizer and UndefinedBehaviorSanitizer.  Bitcode, which the
# server may run instead of the library, would not have their checks.
ifdef SANITIZE
SANITIZERS = -fsanitize=address,undefined -fno-sanitize-recover=undefined
PG_CFLAGS += $(SANITIZERS) -fno-omit-frame-pointer
SHLIB_LINK += $(SANITIZERS)
override with_llvm = no
endif

ifdef CHECK_FOREIGN
PG_CFLAGS += -DOUTBOX_CHECK_FOREIGN
endif

# Tests start temporary servers of their own, with what the extension needs,
# on ports and in directories of their own: none touches a running server.
REGRESS = $(patsubst sql/%.sql,%,$(sort $(wildcard sql/*.sql)))
ISOLATION = $(patsubst specs/%.spec,%,$(sort $(wildcard specs/*.spec)))
NO_INSTALLCHECK = 1
EXTRA_CLEAN = results output_iso tmp_check log build

PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# It knows the version.
src/core/background_worker.o: outbox.control

# Fortified functions are hidden from the sanitizers.
ifdef SANITIZE
override CPPFLAGS += -U_FORTIFY_SOURCE
endif

# Headers are few: rebuild all when one changes.
$(OBJS): $(HEADERS)

.PHONY: installcheck installcheck-regress installcheck-isolation \
	installcheck-tap format check-format check-documents html

installcheck: installcheck-regress installcheck-isolation installcheck-tap

# The settings of the temporary servers.  Older minor releases do not know
# output_plugin_libraries.
tmp_check/postgresql.conf:
	@mkdir -p tmp_check
	@{ echo "shared_preload_libraries = 'outbox'"; \
	   echo "wal_level = logical"; \
	   echo "max_prepared_transactions = 10"; \
	   echo "max_worker_processes = 16"; \
	   if $(bindir)/postgres --describe-config | grep -q '^output_plugin_libraries'; then \
	     echo "output_plugin_libraries = 'pgoutput, test_decoding, outbox'"; fi; } > $@

TEMP_SERVER = --temp-config=tmp_check/postgresql.conf --bindir='$(bindir)' \
	--encoding=UTF8 --no-locale --inputdir=$(srcdir)

installcheck-regress: tmp_check/postgresql.conf
ifneq ($(REGRESS),)
	$(top_builddir)/src/test/regress/pg_regress \
		--temp-instance=tmp_check/regress $(TEMP_SERVER) $(REGRESS)
endif

installcheck-isolation: tmp_check/postgresql.conf
ifneq ($(ISOLATION),)
	$(top_builddir)/src/test/isolation/pg_isolation_regress \
		--temp-instance=tmp_check/isolation --outputdir=output_iso $(TEMP_SERVER) $(ISOLATION)
endif

# TAP tests share one real Kafka: that of OUTBOX_TEST_KAFKA_DIR, or one that is
# started for the run.  PROVE_TESTS chooses among the tests, PROVE_FLAGS adds
# flags.  They mostly wait, so four of them run at a time.  PostgreSQL 15 takes
# the directories of data and logs from TESTDIR, newer ones from the other two.
PROVE_JOBS ?= 4
PROVE_TESTS ?= $(sort $(wildcard t/*.pl))
PROVE = prove -j $(PROVE_JOBS) -I $(top_srcdir)/src/test/perl -I t --timer $(PROVE_FLAGS) $(PROVE_TESTS)

installcheck-tap:
	@rm -rf tmp_check/log tmp_check/t_*
	@mkdir -p tmp_check
	@export TESTDIR='$(CURDIR)' TESTDATADIR='$(CURDIR)/tmp_check' \
		TESTLOGDIR='$(CURDIR)/tmp_check/log' PATH="$(bindir):$$PATH" PGPORT=65432 \
		PG_REGRESS='$(top_builddir)/src/test/regress/pg_regress'; \
	if [ -n "$$OUTBOX_TEST_KAFKA_DIR" ]; then $(PROVE); exit; fi; \
	rm -rf tmp_check/kafka; \
	trap 'dev/kafka kill tmp_check/kafka' EXIT; \
	dev/kafka start tmp_check/kafka && \
	OUTBOX_TEST_KAFKA_DIR='$(CURDIR)/tmp_check/kafka' $(PROVE)

# PostgreSQL's own indenter, with the flags that PostgreSQL uses.
INDENT = indent() { pg_bsd_indent -bad -bap -bbb -bc -bl -cli1 -cp33 -cdb -nce -d0 -di12 \
	-nfc1 -i4 -l79 -lp -lpl -nip -npro -sac -tpg -ts4 -Utypedefs.list | \
	sed -E 's/^([A-Za-z_][A-Za-z_0-9]*)[ \t]+\*$$/\1 */'; }
FORMATTED = $(SOURCES) $(HEADERS) $(wildcard dev/*.c)

format:
	@$(INDENT); for f in $(FORMATTED); do \
	  indent < $$f > $$f.indented && mv $$f.indented $$f || exit 1; done

check-format:
	@dev/check-includes
	@$(INDENT); status=0; for f in $(FORMATTED); do \
	  indent < $$f | diff -u $$f - || status=1; done; \
	if grep -F '/**INDENT**' $(FORMATTED); then status=1; fi; \
	if [ $$status != 0 ]; then echo "not in PostgreSQL's style: run make format"; fi; exit $$status

# The spelling is that of the documents, and of what the code says to people.
check-documents:
	dev/check-documents
	codespell *.md docs bench dev src *.sql

# With Material for MkDocs, which is downloaded into a directory of its own.
MKDOCS = build/venv/bin/mkdocs

$(MKDOCS):
	python3 -m venv build/venv
	build/venv/bin/pip install -q 'mkdocs>=1.6,<2' 'mkdocs-material>=9.5,<10'

html: $(MKDOCS)
	NO_MKDOCS_2_WARNING=1 $(MKDOCS) build --strict --clean
