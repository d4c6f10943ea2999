# Sourced by the scripts beside it: where things are, which PostgreSQL is meant, and who runs the server.
# Settings a caller may give: PG_CONFIG, GUARD_ROOT, GUARD_TARGET, GUARD_OS_USER.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
bin=$top/pg_test/bin
target=${GUARD_TARGET:-$top/target}
PG_CONFIG=${PG_CONFIG:-pg_config}
os_user=${GUARD_OS_USER:-postgres}

say() { printf '%s\n' "$*"; }
warn() { printf '%s\n' "$*" >&2; }
fail() {
    warn "${0##*/}: $*"
    exit 1
}

# The major versions that the extension is written for; Cargo.toml has a feature for each.
supported='15 16 17 18'

# The major version of the PostgreSQL that PG_CONFIG names.
pg_major() {
    local major
    command -v "$PG_CONFIG" >/dev/null || fail "no $PG_CONFIG: run make deps, or give PG_CONFIG=/path/to/pg_config"
    major=$("$PG_CONFIG" --version | sed -E 's/^PostgreSQL ([0-9]+).*/\1/')
    is_supported "$major" || fail "$PG_CONFIG is of PostgreSQL $major; agent_guard is for these: $supported"
    say "$major"
}
is_supported() { [[ " $supported " = *" $1 "* ]]; }

# Runs a command as the user who may run a server: never root.
as_server() {
    if [ "$(id -u)" -eq 0 ]; then
        (cd / && runuser -u "$os_user" -- "$@")
    else
        "$@"
    fi
}

# Makes the directory $1. Where the server's user cannot reach it (a checkout under root's home), $1 becomes a link
# to a directory under /tmp. Prints the real path.
place() {
    local dir=$1 real
    if [ ! -e "$dir" ]; then
        rm -f "$dir"
        mkdir -p "$(dirname "$dir")"
        if as_server test -x "$(dirname "$dir")"; then
            mkdir -p "$dir"
        else
            real=$(mktemp -d "${TMPDIR:-/tmp}/agent_guard.XXXXXX")
            chmod 755 "$real"
            ln -s "$real" "$dir"
        fi
    fi
    cd "$dir" && pwd -P
}

# The longest directory that all arguments lie in: /usr for Debian, the prefix for a build from source.
common_prefix() {
    local prefix=$1 path
    for path; do
        while [ "${path#"$prefix"/}" = "$path" ]; do prefix=${prefix%/*}; done
    done
    printf '%s\n' "$prefix"
}
