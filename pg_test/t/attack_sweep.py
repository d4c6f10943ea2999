"""Statements that reach a denied relation without naming it, or take it from under the rule: whole schemas and databases, other
names, its parts, its statistics, and row security policies that others run."""

import contextlib

import guard
import scene
from guard import DENIED
from scene import Agent, setup

EVERYTHING = ("allow", "*", "*")
EXECUTE = ("allow", "execute", ["function app.*", "function kept.*", "function other.*"])
IN_ZOO = ("allow", "execute", "function zoo.*")
DENIED_TABLE = ("deny", "*", "app.secret")


@contextlib.contextmanager
def zoo(server):
    server.run("set role owner; create schema zoo; create table zoo.lion as select 1 as n; create sequence zoo.count; create function zoo.roar() returns int language sql as 'select 1'; create procedure zoo.feed() language sql as 'select 1'; create view zoo.cage as select * from zoo.lion")
    try:
        yield
    finally:
        server.run("set client_min_messages = error; drop schema if exists zoo, jungle cascade; drop function if exists other.roar(); drop procedure if exists other.feed(); drop table if exists other.lion cascade")


# Each touches app.secret, and names it not at all, or by a part.
TOUCHES = """
grant all on all tables in schema app to public
grant select on all tables in schema kept, app to peer
revoke all on all tables in schema app from keeper
vacuum
vacuum (analyze)
analyze
cluster
reindex schema app
alter table all in tablespace pg_default set tablespace pg_default
reindex index app.secret_pkey
reindex index concurrently app.secret_pkey
alter index app.secret_pkey rename to secret_key
alter table app.secret_pkey rename to secret_key
alter index app.secret_pkey set (fillfactor = 50)
alter table app.secret_pkey set (fillfactor = 50)
alter index app.secret_pkey set tablespace pg_default
alter index app.secret_pkey depends on extension plpgsql
comment on index app.secret_pkey is 'x'
comment on constraint secret_pkey on app.secret is 'x'
alter table app.secret rename constraint secret_pkey to secret_key
alter schema app rename to application
select most_common_vals from pg_stats where tablename = 'secret'
select * from pg_stats_ext
""".strip().splitlines()


def test_a_deny_follows_into_what_touches_everything(server):
    server.run("analyze app.secret")
    with Agent(server, EVERYTHING, EXECUTE, DENIED_TABLE) as agent:
        for statement in TOUCHES:
            if statement.startswith(("vacuum", "analyze")) or "concurrently" in statement:
                agent.refused(statement, unchanged=False)
            else:
                agent.refused(statement)
    with Agent(server, EVERYTHING, EXECUTE) as agent:
        for statement in ("vacuum", "analyze", "cluster", "reindex schema app", "reindex index app.secret_pkey", "comment on index app.secret_pkey is null", "select most_common_vals from pg_stats", "grant select on all tables in schema app to peer", "revoke select on all tables in schema app from peer", "alter index app.secret_pkey rename to secret_key", "alter index app.secret_key rename to secret_pkey"):
            agent.run(statement)


def test_a_grant_on_all_functions_follows_the_denied_one(server):
    with zoo(server), Agent(server, EVERYTHING, ("deny", "grant", "function zoo.roar()")) as agent:
        for statement in ("grant execute on function zoo.roar() to peer", "grant execute on all functions in schema zoo to peer", "grant execute on all routines in schema zoo to peer"):
            agent.refused(statement)
        agent.run("grant usage on all sequences in schema zoo to peer")


def test_a_schema_by_another_name_keeps_what_was_denied_by_name(server):
    ways = {
        "reading": (("deny", "select", "zoo.*"), "select * from {}.lion"),
        "writing": (("deny", "update", "zoo.*"), "update {}.lion set n = 2"),
        "deleting": (("deny", "delete", "zoo.lion*"), "delete from {}.lion"),
        "running": (("deny", "execute", "function zoo.*"), "select {}.roar()"),
        "drawing": (("deny", "usage", "zoo.c*"), "select nextval('{}.count')"),
        "asking for approval": (("require_approval", "select", "zoo.*", {"approvers": ["keeper"]}), "select * from {}.cage"),
    }
    for name, (rule, use) in ways.items():
        with zoo(server), Agent(server, EVERYTHING, EXECUTE, IN_ZOO, rule) as agent:
            before = scene.world(server)
            error = agent.attempt(use.format("zoo"))
            assert error is not None and error.sqlstate in (DENIED, "PGA01"), f"{name}: {error}"
            error = agent.attempt("alter schema zoo rename to jungle")
            assert error is not None and error.sqlstate in (DENIED, "PGA01"), f"{name}: {error}"
            assert not scene.changes(before, scene.world(server)), name
    with zoo(server), Agent(server, EVERYTHING, EXECUTE, IN_ZOO, ("deny", "select", "app.*")) as agent:
        agent.run("alter schema zoo rename to jungle", "select * from jungle.cage")


def test_an_object_by_another_name_keeps_what_was_denied_by_name(server):
    scene.workshop(server)
    moves = {
        "lion": [("deny", "update", "zoo.*"), "alter table zoo.lion rename to cat", "alter table zoo.lion set schema other"],
        "roar": [("deny", "execute", "function zoo.*"), "alter function zoo.roar() rename to purr", "alter function zoo.roar() set schema other", "alter routine zoo.roar() set schema other"],
        "feed": [("deny", "execute", "function zoo.*"), "alter procedure zoo.feed() rename to f", "alter procedure zoo.feed() set schema other"],
    }
    for rule, *statements in moves.values():
        with zoo(server), Agent(server, EVERYTHING, EXECUTE, IN_ZOO, rule) as agent:
            for statement in statements:
                agent.refused(statement)
    for _, *statements in moves.values():
        for statement in statements:
            with zoo(server), Agent(server, EVERYTHING, EXECUTE, IN_ZOO) as agent:
                agent.run(statement)


def test_a_tables_rows_are_not_read_in_pieces(server):
    server.run("grant usage on schema pg_toast to owner")
    try:
        toast = server.value("select reltoastrelid::regclass::text from pg_class where oid = 'app.secret'::regclass")
        with Agent(server, EVERYTHING, EXECUTE) as agent:
            for statement in (f"select * from {toast}", f"select count(*) from {toast}", f"select chunk_data from only {toast} limit 1"):
                agent.refused(statement)
    finally:
        server.run("revoke usage on schema pg_toast from owner")


# --- row security policies that others run ---

LENT = """
create view kept.all_open as select * from app.open;
create function kept.count_open() returns bigint language sql as 'select count(*) from app.open';
create function kept.count_open_definer() returns bigint language plpgsql security definer as 'begin return (select count(*) from app.open); end';
create function kept.tell() returns boolean language sql security definer as 'select exists (select 1 from app.secret)';
grant select on app.open, app.secret_view to keeper;
grant usage on sequence app.numbers to keeper;
alter view kept.all_open owner to keeper;
alter function kept.count_open() owner to keeper;
alter function kept.count_open_definer() owner to keeper;
alter function kept.tell() owner to keeper;
grant all on kept.all_open to owner;
"""
READS = ("select count(*) from kept.all_open", "select kept.count_open()", "select kept.count_open_definer()", "select count(*) from app.open")


def test_a_policy_of_the_agents_making_lends_nothing(server):
    server.run(LENT)
    rules = [("allow", ["create", "alter", "drop"], "app.*"), ("allow", "select", ["kept.all_open", "app.open"]), ("allow", "execute", ["function kept.count_open", "function kept.count_open_definer"])]
    try:
        with Agent(server, *rules) as agent:
            for read in READS:
                assert agent.run(read) == [(3,)], read
            agent.run("alter table app.open enable row level security", "alter table app.open force row level security")
            conditions = ("exists (select 1 from app.secret where v like 'secret-1%')", "(select count(*) from kept.secret_of_keeper) > 2", "kept.tell()", "id in (select s.id from app.secret_view s)", "pg_try_advisory_lock(1)", "nextval('app.numbers') > 0")
            for condition in conditions:
                agent.run(f"create policy p on app.open using ({condition})")
                for read in READS:
                    agent.refused(read)
                agent.run("drop policy p on app.open")
            # What reads nothing else changes nothing.
            agent.run("create policy p on app.open using (id > 1)")
            for read in READS:
                assert agent.run(read)[0][0] in (2, 3), read
            agent.run("drop policy p on app.open")
    finally:
        server.run("set role owner; alter table app.open disable row level security; alter table app.open no force row level security; drop policy if exists p on app.open; reset role; drop view kept.all_open; drop function kept.count_open(), kept.count_open_definer(), kept.tell()")


# A table of the agent's role, which functions of the keeper and of the superuser write, and a view that they read.
WRITTEN = """
set role owner;
create table app.log (id serial, v text, w text, z text);
create view app.log_view as select v, z from app.log;
reset role;
grant all on app.log, app.log_view, app.log_id_seq to keeper;
create function kept.note() returns void language sql as 'insert into app.log (v) values (''x'')';
create function kept.note_definer() returns void language plpgsql security definer as 'begin insert into app.log (v) values (''x''); end';
create function kept.renote() returns void language plpgsql security definer as 'begin update app.log set v = v; end';
create function kept.read_log() returns bigint language plpgsql security definer as 'declare n int := 0; r record; begin for r in select * from app.log_view loop n := n + 1; end loop; return n; end';
create function kept.fire() returns trigger language plpgsql as 'begin return new; end';
create function kept.wipe() returns boolean language plpgsql as 'begin delete from kept.ledger; return true; end';
grant execute on function kept.fire() to owner;
alter function kept.note() owner to keeper;
"""
CALLS = ("select kept.note()", "select kept.note_definer()", "select kept.renote()", "select kept.read_log()")
HANGS = {
    "a default": "alter table app.log alter w set default {}::text",
    "a check": "alter table app.log add constraint hung check ({} is not null) not valid",
    "a condition of a trigger": "create trigger hung before insert or update on app.log for each row when ({} is not null) execute function kept.fire()",
    "a rule": "create rule hung as on insert to app.log do also select {}",
    "the body of a view": "create or replace view app.log_view as select v, {}::text as z from app.log",
    "a row security policy": "create policy hung on app.log using ({} is not null)",
    "a domain": "create domain app.hung as text; drop view app.log_view; alter table app.log alter z type app.hung; create view app.log_view as select v, z from app.log; alter domain app.hung add check ({} is not null) not valid",
    "a domain's default": "create domain app.hung as text default {}::text; drop view app.log_view; alter table app.log alter z type app.hung; create view app.log_view as select v, z from app.log",
}
BAD = ("pg_read_file('PG_VERSION')", "set_config('role', 'peer', false)", "pg_advisory_lock(1)", "kept.wipe()")
FREE = ("length('x')", "now()", "random()")
UNHANG = "alter table app.log alter w drop default, alter z type text; alter table app.log drop constraint if exists hung; drop trigger if exists hung on app.log; drop rule if exists hung on app.log; drop policy if exists hung on app.log; create or replace view app.log_view as select v, z from app.log; drop domain if exists app.hung"


def test_what_hangs_on_an_own_relation_lends_nothing(server):
    server.run(WRITTEN)
    functions = ["function kept.note", "function kept.note_definer", "function kept.renote", "function kept.read_log"]
    wrong = []
    with Agent(server, ("allow", ["create", "alter"], "app.*"), ("allow", "select", "app.log*"), ("allow", "execute", functions)) as agent:
        for call in CALLS:
            agent.run(call)
        server.run("set role owner; alter table app.log enable row level security; create policy all_rows on app.log using (true); reset role; grant peer to owner")
        for name, hang in HANGS.items():
            for expression in (*BAD, *FREE):
                server.run(f"set client_min_messages = error; set role owner; drop view app.log_view; {UNHANG.replace('create or replace view', 'create view')}; grant all on app.log_view to keeper; " + hang.format(expression) + "; grant all on app.log_view to keeper")
                before = scene.world(server)
                errors = {call: agent.attempt(call) for call in CALLS}
                refused = [call for call, error in errors.items() if error is not None and error.sqlstate == DENIED and (error.diag.message_detail or "").startswith("reason=")]
                others = [f"{call}: {error}" for call, error in errors.items() if error is not None and call not in refused]
                if others:
                    wrong.append(f"{name} with {expression}: {others}")
                elif expression in FREE and refused:
                    wrong.append(f"{name} with {expression}: {refused} are refused")
                elif expression in BAD and not refused:
                    wrong.append(f"{name} with {expression}: all of it ran")
                if expression in BAD and "kept.ledger" in scene.changes(before, scene.world(server)):
                    wrong.append(f"{name} with {expression}: the ledger is gone")
                assert agent.run("select current_user") == [("owner",)], f"{name} with {expression}"
                assert not server.rows("select from pg_locks where locktype = 'advisory'"), f"{name} with {expression}"
    server.run("revoke peer from owner; set role owner; drop table app.log cascade; drop domain if exists app.hung; reset role; drop function kept.note(), kept.note_definer(), kept.renote(), kept.read_log(), kept.fire(), kept.wipe()")
    assert not wrong, "\n" + "\n".join(wrong)


if __name__ == "__main__":
    guard.run(globals(), conf=["autovacuum = off"])
