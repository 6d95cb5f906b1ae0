# shellcheck shell=bash
#
# What the scripts in dev/ share.  To be sourced.

# say TEXT: a heading of the output.
say()
{
	if [ -t 1 ]; then
		printf '\n\033[1m==> %s\033[0m\n' "$*"
	else
		printf '\n==> %s\n' "$*"
	fi
}

# die TEXT: end with a sentence that helps.
die()
{
	printf '%s: %s\n' "$(basename "$0")" "$*" >&2
	exit 1
}

# wait_for SECONDS WHAT COMMAND...: try the command until it succeeds.  When it
# never does, say so and return false.
wait_for()
{
	local seconds=$1 what=$2 deadline=$((SECONDS + $1))
	shift 2

	# In a subshell, so that a trap does not inherit the redirection.
	until ("$@") >/dev/null 2>&1; do
		if [ "$SECONDS" -ge "$deadline" ]; then
			printf '%s: waited %s seconds in vain until %s\n' \
				"$(basename "$0")" "$seconds" "$what" >&2
			return 1
		fi
		pause
	done
}

# A tenth of a second between two looks at a condition: reads from a pipe into
# which nobody writes, which starts no process.
exec {pause_fd}<> <(:)
pause()
{
	read -r -t 0.1 -u "$pause_fd" || true
}

# as_root COMMAND...: run it as root.
as_root()
{
	if [ "$EUID" -eq 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		die "\"$*\" needs root: run this script as root, or install sudo."
	fi
}

# unprivileged COMMAND...: run it as somebody other than root, because
# PostgreSQL refuses to run as root.  Root becomes the user that PostgreSQL's
# package made, with that user's home, where caches are kept.
unprivileged()
{
	if [ "$EUID" -eq 0 ]; then
		env HOME="$(getent passwd postgres | cut -d: -f6)" USER=postgres LOGNAME=postgres \
			setpriv --reuid=postgres --regid=postgres --init-groups -- "$@"
	else
		"$@"
	fi
}

# run_limited LIMIT COMMAND...: run it, unprivileged, for no longer than that.
# With job control, it and all that it starts are a process group.
run_limited()
{
	local limit=$1 status=0
	shift

	set -m
	unprivileged timeout --foreground "$limit" "$@" </dev/null &
	limited=$!
	set +m
	wait "$limited" || status=$?
	end_limited
	return "$status"
}

# End what is left of what run_limited() ran.  To be called at the end of a
# script, too, which may come at any time: Ctrl-C reaches only the script.
end_limited()
{
	[ -n "${limited:-}" ] || return 0
	if kill -s TERM -- "-$limited" 2>/dev/null; then
		# Tests have something to put away themselves.
		wait_for 30 "the tests have ended" limited_is_gone || kill -s KILL -- "-$limited"
	fi
	# The number may be somebody else's from now on.
	limited=''
}

limited_is_gone()
{
	! kill -s 0 -- "-$limited"
}

# work_directory NAME: make a temporary directory for the unprivileged user and
# print its name.
work_directory()
{
	local dir

	dir=$(mktemp -d "${TMPDIR:-/tmp}/outbox-$1.XXXXXX")
	if [ "$EUID" -eq 0 ]; then
		chown postgres: "$dir"
	fi
	echo "$dir"
}

# copy_source DIR: copy the source tree to DIR, for the unprivileged user, who
# may not be allowed to read the checkout or to write there.
copy_source()
{
	cp -a "$(dirname "${BASH_SOURCE[0]}")/.." "$1"
	if [ "$EUID" -eq 0 ]; then
		chown -R postgres: "$1"
	fi
	unprivileged make -s -C "$1" clean
}

# copy_server DIR: make DIR a server like that of PG_CONFIG, and PG_CONFIG its
# pg_config.  PostgreSQL finds its files relative to the program that runs, and
# follows links to find that, so four programs have to be copies.
copy_server()
{
	local root=$1 bin dir program

	bin=$("$PG_CONFIG" --bindir)
	for dir in bindir pkglibdir sharedir includedir pkgincludedir includedir-server; do
		dir=$("$PG_CONFIG" "--$dir")
		unprivileged mkdir -p "$root$dir"
		unprivileged cp -as --remove-destination "$dir/." "$root$dir"
	done
	for program in postgres initdb pg_ctl pg_config; do
		unprivileged cp --remove-destination "$bin/$program" "$root$bin/$program"
	done
	# What is installed must not be written to through a link.
	rm -rf "$root$("$PG_CONFIG" --pkglibdir)"/{,bitcode/}outbox* \
		"$root$("$PG_CONFIG" --sharedir)"/extension/outbox*

	PG_CONFIG=$root$bin/pg_config
	[[ $("$PG_CONFIG" --pkglibdir) = "$root"/* && $("$PG_CONFIG" --sharedir) = "$root"/* ]] ||
		die "The files of this PostgreSQL cannot be moved: $bin has nothing in common with" \
			"its other directories."
}

# install_packages PACKAGE...: install what building and running the extension
# needs, and the packages named, as far as it is missing; and set PG_CONFIG.  A
# PG_CONFIG from the environment chooses another PostgreSQL than the
# distribution's; it must be there already, with its development files.
install_packages()
{
	local package missing=() wanted=(gcc libc6-dev make pkg-config librdkafka-dev
		liblz4-dev libzstd-dev zlib1g-dev "$@")

	if ! command -v apt-get >/dev/null; then
		check_by_hand
		return
	fi

	if [ -z "${PG_CONFIG:-}" ]; then
		local major
		major=$(distribution_major)
		wanted+=("postgresql-$major" "postgresql-server-dev-$major")
		PG_CONFIG=/usr/lib/postgresql/$major/bin/pg_config
	fi
	export PG_CONFIG

	for package in "${wanted[@]}"; do
		if [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
			missing+=("$package")
		fi
	done
	if [ ${#missing[@]} -gt 0 ]; then
		say "Installing packages: ${missing[*]}"
		apt_update
		keep_server_down apt_quietly install --no-install-recommends "${missing[@]}"
	fi

	[ -x "$PG_CONFIG" ] ||
		die "There is no $PG_CONFIG: set PG_CONFIG to the pg_config of the PostgreSQL to use."
}

# Elsewhere than on Debian: what is needed must be there.
check_by_hand()
{
	local command missing=()

	PG_CONFIG=${PG_CONFIG:-$(command -v pg_config || true)}
	export PG_CONFIG
	for command in cc make pkg-config kcat "${PG_CONFIG:-pg_config}"; do
		command -v "$command" >/dev/null || missing+=("$command")
	done
	pkg-config --exists rdkafka 2>/dev/null || missing+=(librdkafka)
	[ ${#missing[@]} -eq 0 ] || die "There is no apt-get here, so please install by hand what is" \
		"missing: ${missing[*]}.  Needed are a C compiler, make, pkg-config, librdkafka and" \
		"PostgreSQL 15 or newer with their development files, and kcat; for the tests also" \
		"Java 17, Maven, perl with IPC::Run, codespell, and pg_bsd_indent."
}

# The major version of PostgreSQL that the distribution has.
distribution_major()
{
	local depends='s/^ *Depends: postgresql-\([0-9]*\)$/\1/p' major

	major=$(apt-cache depends postgresql 2>/dev/null | sed -n "$depends")
	if [ -z "$major" ]; then
		apt_update
		major=$(apt-cache depends postgresql | sed -n "$depends")
	fi
	[ -n "$major" ] || die "This distribution has no package postgresql: install PostgreSQL 15 or" \
		"newer with its development files, and set PG_CONFIG to its pg_config."
	echo "$major"
}

# lacks_package PACKAGE: has the distribution no such package?  Elsewhere than
# on Debian nobody knows.
lacks_package()
{
	command -v apt-get >/dev/null || return
	compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null || apt_update
	! apt-cache show "$1" >/dev/null 2>&1
}

apt_update()
{
	apt_quietly update
}

# apt-get, showing what it did only when it failed.
apt_quietly()
{
	local log

	log=$(mktemp)
	if ! as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y "$@" </dev/null >"$log" 2>&1; then
		cat "$log" >&2
		rm -f "$log"
		die "apt-get $* failed; its last words are above."
	fi
	rm -f "$log"
}

# keep_server_down COMMAND...: run it while Debian's packages are told not to
# make and start a database cluster on their own.
keep_server_down()
{
	local conf=/etc/postgresql-common/createcluster.d/outbox.conf status=0

	as_root mkdir -p "$(dirname "$conf")"
	echo 'create_main_cluster = false' | as_root tee "$conf" >/dev/null
	("$@") || status=$?
	as_root rm "$conf"
	as_root rmdir --ignore-fail-on-non-empty "$(dirname "$conf")"
	[ "$status" -eq 0 ] || exit "$status"
}
