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


if __name__ == "__main__":
    guard.run(globals(), conf=["autovacuum = off"])
