#!/usr/bin/env bash
# Walks through agent_guard's main job on a throw-away server, and leaves the server running. Every step says what is
# tried and what the server answered, and is checked: an answer other than the expected one ends the demo with an error.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../bin/common.sh"

here=$top/pg_test/demo
export GUARD_HOME=${GUARD_HOME:-$target/demo}
database=shop
token=
tokens=()
step=0
refusals=0

# --- asking and showing ------------------------------------------------------------------------------------------------

server() { "$bin/server" "$@"; }
as_admin() { PGDATABASE=$database server psql -v ON_ERROR_STOP=1 "$@"; }
ask_admin() { as_admin -qAt -c "$1"; }

# Runs psql as the agent, with its token in the startup options when it has one. Errors come with their SQLSTATE.
as_agent() {
    PGUSER=shop_agent PGDATABASE=$database PGOPTIONS=${token:+-c agent_guard.token=$token} \
        server psql -v VERBOSITY=verbose -v ON_ERROR_STOP=1 "$@" 2>&1
}

chapter() { printf '\n--- %s %s\n' "$1" "$(printf '%*s' $((100 - ${#1})) '' | tr ' ' -)"; }
note() { printf '      %s\n' "$*"; }
tried() {
    step=$((step + 1))
    printf '\n%3d.  %s\n' "$step" "$1"
}
shown() { sed 's/^/      | /' <<<"$1"; }
short() { sed -E 's/\s+/ /g; s/^ | $//g' <<<"$1" | cut -c 1-110; }

stop_with() {
    printf '\nThe demo stops at step %d: %s\n' "$step" "$1" >&2
    [ -z "${2:-}" ] || shown "$2" >&2
    printf 'The server is still up; its log is %s/log, make demo-stop removes it.\n' "$GUARD_HOME" >&2
    exit 1
}

# The server's answer to a refused statement, without the parts that only a developer wants.
answer() { grep -vE '^(LOCATION|QUERY|CONTEXT|PL/pgSQL|SQL |LINE | *\^)' <<<"$1" | sed -E 's/^psql:[^ ]* //'; }

# --- steps -------------------------------------------------------------------------------------------------------------

admin() {
    tried "admin:  $1"
    local output
    output=$(as_admin -c "$2" 2>&1) || stop_with "the administrator's statement failed" "$output"
    [ -z "${3:-}" ] || shown "$output"
}

agent_may() {
    tried "agent:  $(short "$1")"
    local output
    output=$(as_agent -q -c "$1") || stop_with "this should have worked" "$output"
    shown "$(answer "$output")"
}

# agent_may_not SQLSTATE STATEMENT…: refused with that code, and by the guard: its DETAIL starts with a reason.
agent_may_not() {
    local expected=$1 output sqlstate arguments=()
    shift
    tried "agent:  $(short "${*: -1}")"
    while [ $# -gt 0 ]; do
        arguments+=(-c "$1")
        shift
    done
    if output=$(as_agent -q "${arguments[@]}"); then stop_with "this should have been refused" "$output"; fi
    sqlstate=$(grep -oE '^(psql:.*)?(ERROR|FATAL): +[0-9A-Z]{5}' <<<"$output" | tail -n 1 | grep -oE '[0-9A-Z]{5}$' || true)
    shown "$(answer "$output")"
    [ "$sqlstate" = "$expected" ] || stop_with "expected SQLSTATE $expected, the server said ${sqlstate:-nothing of the kind}"
    grep -q '^DETAIL: *reason=' <<<"$output" || stop_with "it was refused, but not by the guard: no reason in its DETAIL"
    refusals=$((refusals + 1))
}

# Sets token and window to a new window's.
grant_window() {
    local row
    tried "admin:  select * from agent_guard.grant_window('order_desk', 'shop_agent', '$1', '$2');"
    row=$(ask_admin "select window_id, token, expires_at from agent_guard.grant_window(
            policy => 'order_desk', role => 'shop_agent', agent => '$1', ttl => '$2', max_depth => ${3:-0})") || stop_with "no window"
    IFS='|' read -r window token expires_at <<<"$row"
    tokens+=("$token")
    note "window $window, until $expires_at"
    note "token  ${token:0:24}... (${#token} characters; a secret)"
}

# --- the walk ----------------------------------------------------------------------------------------------------------

start_server() {
    server remove
    server start
    PGDATABASE=postgres server psql -q -c "create database $database"
    as_admin -q -f "$here/shop.sql" || stop_with "the shop could not be made"
    note "PostgreSQL $(ask_admin 'show server_version') is up in ${GUARD_HOME#"$top"/}, with a shop in it:"
    shown "$(as_admin -c "select (select count(*) from shop.customers) as customers, (select count(*) from shop.orders) as orders,
        (select count(*) from shop.order_items) as items, (select count(*) from shop.payments) as payments,
        (select count(*) from hr.salaries) as salaries")"
}

without_guard() {
    chapter "Without the guard: the application's login owns the shop"
    agent_may "set client_min_messages = warning; begin; drop table shop.customers cascade; select 'customers are gone' as unguarded; rollback"
    agent_may "select sum(monthly) as everybodys_salary from hr.salaries"
}

guarding() {
    chapter "Guarded: no token, no access"
    tried "admin:  guard_role('shop_agent') and the policy order_desk (pg_test/demo/policy.sql)"
    local output
    output=$(as_admin -f "$here/policy.sql" 2>&1) || stop_with "the policy was not taken" "$output"
    shown "$(as_admin -c "select id, effect, actions, objects, note from agent_guard.rules order by id")"
    agent_may_not 28000 "select count(*) from shop.orders"
    agent_may_not 28000 "insert into shop.orders (customer_id) values (1)"
    agent_may_not 28000 "drop table shop.payments"
}

working() {
    chapter "A window is granted: the agent works within its policy"
    grant_window importer '1 hour'
    agent_may "select city, orders, paid from shop.revenue order by paid desc limit 3"
    agent_may "insert into shop.orders (customer_id) values (7) returning id, status"
    agent_may "update shop.orders set status = 'paid' where id = 401 returning id, status"
    agent_may "select shop.order_total(12)"
    local saved=$token
    token=
    tried "agent:  set agent_guard.token = '...'; show agent_guard.token; select count(*) from shop.customers"
    shown "$(as_agent -q -c "set agent_guard.token = '$saved'" -c 'show agent_guard.token' -c 'select count(*) from shop.customers')" ||
        stop_with "the token was not taken by SET"
    token=$saved
    agent_may "select * from agent_guard.whoami()"
}

refused() {
    chapter "What it may not do, however it is put"
    agent_may_not 42501 "drop table shop.payments"
    agent_may_not 42501 "select shop.tidy_up()"
    agent_may_not 42501 "do \$\$ begin execute 'drop ' || 'table shop.payments'; end \$\$"
    agent_may_not 42501 "delete from shop.customers where id = 7"
    note "(the customer alone might go; the cascade would reach payments)"
    agent_may_not 42501 "truncate shop.customers cascade"
    agent_may_not 42501 "drop schema shop cascade"
    agent_may_not 42501 "update shop.orders set status = 'cancelled'"
    agent_may_not 42501 "update shop.customers set email = 'x@example.com' where id = 7"
    agent_may_not 42501 "select * from hr.salaries"
    agent_may_not 42501 "select query_to_xml('select * from hr.salaries', true, false, '')"
    agent_may_not 42501 "create role backdoor superuser login"
    agent_may_not 42501 "copy shop.customers to program 'cat >/dev/null'"
    agent_may_not 42501 "select set_config('role', 'payroll', false)"
    agent_may_not 42501 "drop extension agent_guard cascade"
    agent_may "select count(*) as payments_still_there from shop.payments"
}

# One psql session of the agent; the revocation comes from outside, between two of its statements.
revoking() {
    chapter "The window is revoked: open sessions end with it"
    tried "agent:  one session: select 1; (admin revokes the window meanwhile); select count(*) from shop.orders"
    local output script
    script=$(printf '%s\n' "select 'before' as still_open;" \
        "\\! PGOPTIONS= PGUSER=postgres '$bin/server' psql -qAt -d $database -c \"select agent_guard.revoke_window('$window', 'demo')\" >/dev/null" \
        "select count(*) from shop.orders;")
    if output=$(as_agent -q -f - <<<"$script"); then stop_with "the revoked session went on" "$output"; fi
    shown "$(answer "$output")"
    grep -qE 'before' <<<"$output" || stop_with "the session did not work before the revocation"
    grep -qE '(ERROR|FATAL): +28000' <<<"$output" || stop_with "expected SQLSTATE 28000 after the revocation"
    refusals=$((refusals + 1))
    agent_may_not 28000 "select count(*) from shop.orders"
}

# A child's token, made by its parent in SQL; a client's library makes the same one offline (clients/).
delegate() {
    tried "agent:  select agent_guard.delegate($1)"
    local child
    child=$(as_agent -qAt -c "select agent_guard.delegate($1)") || stop_with "no child's token" "$child"
    token=$child
    tokens+=("$token")
    note "token  ${token:0:24}... (${#token} characters)"
}

delegating() {
    chapter "An agent hands part of its scope to a child; the child's end is in the parent's hands, and the DBA's"
    grant_window planner '1 hour' 2
    local parents=$token output running
    delegate "agent => 'reader', ttl => '10 minutes', actions => '{select}', objects => '{shop.orders,shop.customers}'"
    agent_may "select agent, array_to_string(lineage, ' > ') as lineage, remaining_depth from agent_guard.whoami()"
    agent_may "select count(*) as orders from shop.orders"
    agent_may_not 42501 "insert into shop.orders (customer_id) values (7)"
    agent_may_not 42501 "select count(*) from shop.payments"
    note "(its parent may do both)"
    delegate "agent => 'counter', ttl => '5 minutes', objects => '{shop.orders}'"
    agent_may "select agent, array_to_string(lineage, ' > ') as lineage, remaining_depth from agent_guard.whoami()"

    tried "agent:  counter, two levels down, works on a long statement (admin revokes planner's window meanwhile)"
    output=$target/demo-child.out
    as_agent -q -c "select count(*) from shop.orders a, shop.orders b, shop.orders c, shop.orders d, shop.orders e" >"$output" &
    running=$!
    until [ "$(ask_admin "select count(*) from pg_stat_activity where usename = 'shop_agent' and state = 'active'")" = 1 ]; do
        kill -0 "$running" 2>/dev/null || stop_with "the child's statement ended before the revocation" "$(<"$output")"
    done
    ask_admin "select agent_guard.audit_flush()" >/dev/null
    admin "select tree from agent_guard.session_tree('$window')" "select tree from agent_guard.session_tree('$window')" shown
    ask_admin "select agent_guard.revoke_window('$window', 'demo')" >/dev/null 2>&1 || stop_with "the window was not revoked"
    if wait "$running"; then stop_with "the child went on after its parent's end" "$(<"$output")"; fi
    shown "$(answer "$(<"$output")")"
    grep -q 'reason=revoked' "$output" || stop_with "the child ended for another reason"
    refusals=$((refusals + 1))
    agent_may_not 28000 "select count(*) from shop.orders"
    token=$parents
    agent_may_not 28000 "select count(*) from shop.orders"
}

expiring() {
    chapter "A window closes by itself"
    grant_window importer '3 seconds'
    agent_may "select count(*) as orders from shop.orders"
    note "waiting until $expires_at"
    until [ "$(ask_admin "select clock_timestamp() >= '$expires_at'")" = t ]; do sleep 0.1; done
    agent_may_not 28000 "select count(*) as orders from shop.orders"
}

audit() {
    chapter "The record has all of it"
    ask_admin "select agent_guard.audit_flush()" >/dev/null
    admin "select ... from agent_guard.audit" "select seq, array_to_string(lineage, ' > ') as lineage,
        coalesce(nullif(command, ''), event) as command, decision, sqlstate,
        left(regexp_replace(statement, '\s+', ' ', 'g'), 62) as statement from agent_guard.audit order by seq" shown
    local recorded leaked secret
    recorded=$(ask_admin "select count(distinct (pid, at, statement)) from agent_guard.audit where sqlstate in ('42501', '28000')")
    [ "$recorded" -ge "$refusals" ] || stop_with "$refusals statements were refused, $recorded of them are in the record"
    for secret in "${tokens[@]}"; do
        leaked=$(ask_admin "select count(*) from agent_guard.audit a where strpos(a::text, '$secret') > 0")
        [ "$leaked" -eq 0 ] || stop_with "a token stands in the record"
    done
    note "$refusals refusals, all recorded; no token in the record."
}

leave() {
    chapter "Go on yourself"
    grant_window you '1 hour'
    eval "$(server env)"
    printf '\nThe server stays up until: make demo-stop\n\nAs its administrator:\n  psql -h %s -p %s -U postgres %s\n' "$PGHOST" "$PGPORT" "$database"
    printf '\nAs the agent, for an hour:\n  PGOPTIONS="-c agent_guard.token=%s" \\\n  psql -h %s -p %s -U shop_agent %s\n' \
        "$token" "$PGHOST" "$PGPORT" "$database"
    printf '\n%d steps, every answer as expected.\n' "$step"
}

chapter "A throw-away server"
start_server
without_guard
guarding
working
refused
revoking
delegating
expiring
audit
leave
