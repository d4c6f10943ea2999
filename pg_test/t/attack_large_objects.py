"""Large objects can be named by no rule: whatever reaches one is refused unless a rule allows the function, or the action, itself."""

import os

import guard
import scene
from guard import DENIED
from scene import Agent

# One that the agent's role owns, and one that it may read by the server's own privileges, which refuse nothing else either.
OBJECTS = """
select lo_from_bytea(4242, 'canary-own');
alter large object 4242 owner to owner;
select lo_from_bytea(4243, 'canary-other');
grant all on large object 4243 to public;
grant all on pg_largeobject to owner;
grant execute on function lo_import(text), lo_import(text, oid), lo_export(oid, text) to owner;
"""
FUNCTIONS = """select p.oid::int, p.oid::regprocedure::text, coalesce(array_agg(a.t::regtype::text order by a.n) filter (where a.t is not null), '{}')
    from pg_proc p left join lateral unnest(p.proargtypes) with ordinality a (t, n) on true
    where p.pronamespace = 'pg_catalog'::regnamespace and (p.proname ~ '^(be_)?lo_' or p.proname in ('loread', 'lowrite'))
    group by p.oid order by 2"""
# The server's own privileges would let the owner of 4242 do each of these.
VALUES = {"oid": "4242", "integer": "262144", "bigint": "0", "bytea": "x", "text": "/tmp/agent_guard_large_object"}
KNOWN = {
    "lo_close(integer)", "lo_creat(integer)", "lo_create(oid)", "lo_export(oid,text)", "lo_from_bytea(oid,bytea)", "lo_get(oid)",
    "lo_get(oid,bigint,integer)", "lo_import(text)", "lo_import(text,oid)", "lo_lseek(integer,integer,integer)",
    "lo_lseek64(integer,bigint,integer)", "lo_open(oid,integer)", "lo_put(oid,bigint,bytea)", "lo_tell(integer)", "lo_tell64(integer)",
    "lo_truncate(integer,integer)", "lo_truncate64(integer,bigint)", "lo_unlink(oid)", "loread(integer,integer)", "lowrite(integer,bytea)",
}  # fmt: skip
STATEMENTS = {
    "the pages": "select * from pg_largeobject",
    "a page's data": "select data from pg_largeobject where loid = 4242",
    "pages by COPY": "copy pg_largeobject to stdout",
    "an owner": "alter large object 4242 owner to keeper",
    "a comment": "comment on large object 4242 is 'x'",
    "a comment removed": "comment on large object 4242 is null",
    "a grant": "grant select on large object 4242 to public",
    "a grant with the option": "grant all on large object 4242 to keeper with grant option",
    "a revoke": "revoke all on large object 4243 from public",
    "a label": "security label for agent_guard on large object 4242 is 'x'",
    "what is owned": "reassign owned by owner to keeper",
    "what is owned, dropped": "drop owned by owner",
    "inside DO": "do $$begin perform lo_unlink(4242); end$$",
    "by an expression of DO": "do $$declare x bytea; begin x := lo_get(4242); raise notice '%', x; end$$",
    "prepared": "prepare p as select lo_get(4242); execute p",
    "in a cursor": "declare c cursor with hold for select lo_get(4242)",
    "as an argument": "prepare q (bytea) as select $1; execute q (lo_get(4242))",
    "in a new table": "create table app.made as select lo_get(4242)",
    "as a default": "alter table app.open add column made bytea default lo_get(4242)",
    "in a condition": "select from app.open where lo_get(4242) is not null",
    "in COPY": "copy (select lo_get(4242)) to stdout",
    "for the server": "copy app.open to '/tmp/agent_guard_large_object'",
    "in a subquery of a change": "update app.open set v = convert_from(lo_get(4242), 'utf8') where false",
    "the setting": "set lo_compat_privileges = on",
}
WITHOUT_EXECUTE = ("allow", ["select", "insert", "update", "delete", "truncate", "usage", "temporary"], "*")


def setup(server):
    scene.setup(server)
    server.run(OBJECTS)


def kept(server):
    return scene.world(server) | {"pages": server.rows("select loid, pageno, data from pg_largeobject order by 1, 2")}


def refused(error):
    """By the guard, with a reason and the next step."""
    return error is not None and error.sqlstate == DENIED and (error.diag.message_detail or "").startswith("reason=") and error.diag.message_hint


def test_the_functions_are_those_that_are_known(server):
    names = {name for _, name, _ in server.rows(FUNCTIONS)}
    assert names >= KNOWN, KNOWN - names


def test_every_function_is_refused(server):
    before, wrong = kept(server), []
    for rules in ([], [WITHOUT_EXECUTE]):
        with Agent(server, *rules) as agent:
            for _, name, types in server.rows(FUNCTIONS):
                call = name.split("(")[0] + "(" + ", ".join(f"'{VALUES[kind]}'::{kind}" for kind in types) + ")"
                for text in (f"select {call}", f"select * from {call}", f"do $$begin perform {call}; end$$"):
                    error = agent.attempt(text)
                    if not refused(error) or (text.startswith("select") and name.split("(")[0] not in str(error)):
                        wrong.append(f"{text}: {error} {error and error.diag.message_detail} {error and error.diag.message_hint}")
    assert not wrong, "\n" + "\n".join(wrong)
    assert not scene.changes(before, kept(server))
    assert not os.path.exists(VALUES["text"])


def test_every_function_is_refused_by_the_fast_path(server):
    before, wrong = kept(server), []
    with Agent(server, WITHOUT_EXECUTE) as agent:
        for oid, name, types in server.rows(FUNCTIONS):
            wire = server.wire("owner", options=f"-c agent_guard.token={agent.token}")
            wire.query("begin")
            reply = wire.call(oid, [VALUES[kind] for kind in types])
            if reply.sqlstate != DENIED:
                wrong.append(f"{name}: {reply.sqlstate or 'ran'} {reply.value}")
            wire.close()
    assert not wrong, "\n" + "\n".join(wrong)
    assert not scene.changes(before, kept(server))
    recorded = {row[0] for row in server.audit("command = 'FASTPATH' and decision = 'deny'", columns="statement")}
    assert all(any(name.split("(")[0] in text for text in recorded) for name in KNOWN if "import" not in name and "export" not in name), recorded


def test_every_statement_is_refused(server):
    before, wrong = kept(server), []
    for rules in ([], [WITHOUT_EXECUTE], [WITHOUT_EXECUTE, ("allow", ["create", "alter", "drop"], ["app.*"])]):
        with Agent(server, *rules) as agent:
            # The server lets nobody but superusers change a catalogue.
            for text in ("update pg_largeobject set data = 'x'", "delete from pg_largeobject", "update pg_largeobject_metadata set lomowner = 10"):
                error = agent.attempt(text)
                if error is None or error.sqlstate != DENIED:
                    wrong.append(f"{text}: {error}")
            for what, text in STATEMENTS.items():
                if text.startswith("copy"):
                    error = agent.attempt(text) if "to stdout" not in text else copied(agent, text)
                else:
                    error = agent.attempt(text)
                if not refused(error):
                    wrong.append(f"{what}, {rules}: {error} {error and error.diag.message_detail}")
    assert not wrong, "\n" + "\n".join(wrong)
    assert not scene.changes(before, kept(server))


def copied(agent, text):
    try:
        with agent.connection.cursor() as cursor, cursor.copy(text) as copy:
            list(copy)
        return None
    except guard.psycopg.Error as error:
        return error


def test_the_clients_own_commands_are_refused(server):
    """psql's are calls by the fast path, within a transaction of its own."""
    before = kept(server)
    with Agent(server, WITHOUT_EXECUTE) as agent:
        for command in ("\\lo_import /etc/hostname", "\\lo_export 4242 /tmp/agent_guard_large_object", "\\lo_unlink 4242"):
            done = server.psql("-v", "VERBOSITY=verbose", user="owner", stdin=command + "\n", options=f"-c agent_guard.token={agent.token}")
            assert "permission denied" in done.stderr or DENIED in done.stderr, f"{command}: {done.stdout} {done.stderr}"
            assert "lo_" in done.stderr and "canary" not in done.stdout + done.stderr, f"{command}: {done.stderr}"
        # The list is of the catalogue: numbers and owners, which every agent may read.
        done = server.psql(user="owner", stdin="\\lo_list\n", options=f"-c agent_guard.token={agent.token}")
        assert "4242" in done.stdout and not done.stderr, done.stderr
    assert not scene.changes(before, kept(server))


def test_a_rule_allows_a_function_and_not_its_objects(server):
    rules = [("allow", "execute", ["function pg_catalog.lo_get", "function pg_catalog.lo_open"])]
    with Agent(server, *rules) as agent:
        # Whichever object it is: what the role may read is the server's own matter.
        assert agent.run("select convert_from(lo_get(4242), 'utf8')") == [("canary-own",)]
        assert agent.run("select convert_from(lo_get(4243), 'utf8')") == [("canary-other",)]
        agent.refused("select lo_unlink(4242)")
        agent.refused("select loread(lo_open(4242, 262144), 100)")
    with Agent(server, ("allow", "execute", "*"), ("deny", "execute", "function pg_catalog.lo_*")) as agent:
        for _, name, types in server.rows(FUNCTIONS):
            if name.startswith("lo_") and "port" not in name:
                call = name.split("(")[0] + "(" + ", ".join(f"'{VALUES[kind]}'::{kind}" for kind in types) + ")"
                agent.refused(f"select {call}", unchanged=False)
    with Agent(server, ("allow", ["grant", "alter", "comment"], "*")) as agent:
        agent.run("begin", "grant select on large object 4242 to keeper", "comment on large object 4242 is 'x'", "rollback")


if __name__ == "__main__":
    guard.run(globals())
