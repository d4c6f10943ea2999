"""Expressions that the server evaluates outside of any plan: the defaults of COPY FROM and of columns that are added, and what
else runs there. What a plain INSERT would need they need, and nothing else passes with them."""

import contextlib

import psycopg

import guard
import scene
from guard import DENIED
from scene import Agent, policy

# Sequences that nothing owns, and tables whose defaults use them.
TABLES = """
create sequence app.free;
create sequence app.shut;
create function app.drawn() returns bigint language sql as 'select nextval(''app.shut'')';
create function app.stamped() returns bigint language plpgsql volatile as 'begin return 7; end';
create domain app.numbered as bigint default nextval('app.shut');
create domain app.numbered_free as bigint default nextval('app.free') check (value > 0);
create table app.of_free (id bigint default nextval('app.free'), v text);
create table app.of_shut (id bigint default nextval('app.shut'), v text);
create table app.of_both (a bigint default nextval('app.free'), id bigint default nextval('app.shut'), v text);
create table app.nested (id text default 'no-' || (nextval('app.shut') + 1), v text);
create table app.nested_free (id text default 'no-' || (nextval('app.free') + 1), v text);
create table app.repeated (a bigint default nextval('app.free'), id bigint default currval('app.free'), v text);
create table app.set (id bigint default setval('app.shut', 99), v text);
create table app.serially (id serial, v text);
create table app.identity (id int generated always as identity, v text);
create table app.called (id bigint default app.stamped(), v text);
create table app.drawing (id bigint default app.drawn(), v text);
create table app.by_domain (id app.numbered, v text);
create table app.by_domain_free (id app.numbered_free, v text);
create table app.split (id bigint default nextval('app.shut'), v text) partition by list (v);
create table app.split_1 partition of app.split for values in ('x');
create table app.split_rest partition of app.split default;
create table app.computed (id bigint default 1, twice text generated always as (v || v) stored, v text check (length(v) < 9));
"""

USAGE = ("allow", "usage", "app.free")
# COPY with a condition reads what the condition names.
FILL = ("allow", ["insert", "select"], "app.*")
# Table, further rules, and whether a row may be put in without the column that has the default.
CASES = {
    "no right on the sequence": ("of_free", [], False),
    "a right on the sequence": ("of_free", [USAGE], True),
    "a right on another sequence": ("of_shut", [USAGE], False),
    "a right on one of two": ("of_both", [USAGE], False),
    "inside an expression": ("nested", [USAGE], False),
    "inside an expression, allowed": ("nested_free", [USAGE], True),
    "the value once more": ("repeated", [USAGE], True),
    "the value once more, without": ("repeated", [], False),
    "setval with usage alone": ("set", [("allow", "usage", "app.shut")], False),
    "setval": ("set", [("allow", "update", "app.shut")], True),
    "a serial column": ("serially", [], True),
    "a serial column, usage denied": ("serially", [("deny", "usage", "app.serially_id_seq")], False),
    "an identity column": ("identity", [], True),
    "an identity column, usage denied": ("identity", [("deny", "usage", "app.identity_id_seq")], False),
    "an identity column, all usage denied": ("identity", [("deny", "usage", "*")], False),
    "an identity column, usage of another denied": ("identity", [("deny", "usage", "app.serially_id_seq")], True),
    "a function": ("called", [], False),
    "a function, allowed": ("called", [("allow", "execute", "function app.stamped")], True),
    "a function that draws": ("drawing", [("allow", "execute", "function app.drawn")], False),
    "a domain's default": ("by_domain", [], False),
    "a domain's default, allowed": ("by_domain_free", [USAGE], True),
    "a partitioned table": ("split", [USAGE], False),
    "a partitioned table, allowed": ("split", [("allow", "usage", "app.shut")], True),
    "nothing but plain values": ("computed", [], True),
    "a denied sequence": ("of_free", [("allow", "usage", "*"), ("deny", "usage", "app.free")], False),
}


def setup(server):
    scene.setup(server)
    server.run("set role owner;" + TABLES)


def drawn(server):
    return server.rows("select sequencename, last_value from pg_sequences order by 1")


def copied(agent, table, rest="", rows="x\n"):
    """COPY of one row into `v`; the error that it ends in, None where it works."""
    try:
        with agent.connection.cursor() as cursor, cursor.copy(f"copy app.{table} (v) from stdin {rest}") as copy:
            copy.write(rows)
        return None
    except psycopg.Error as error:
        return error


def test_copy_needs_what_an_insert_needs(server):
    wrong = []
    for name, (table, rules, may) in CASES.items():
        with Agent(server, FILL, *rules) as agent:
            before = drawn(server)
            outcomes = []
            for error in (agent.attempt(f"insert into app.{table} (v) values ('x')"), copied(agent, table), copied(agent, table, "where v = 'x'")):
                refused = error is not None and error.sqlstate == DENIED and error.diag.message_detail.startswith("reason=")
                outcomes.append("refused" if refused else f"{error}" if error else "ran")
            if set(outcomes) != {"ran" if may else "refused"}:
                wrong.append(f"{name}: INSERT, COPY, COPY WHERE: {outcomes}")
            if not may and "free" not in table and table not in ("of_both", "repeated") and drawn(server) != before:
                wrong.append(f"{name}: it was refused, and a sequence moved")
    assert not wrong, "\n" + "\n".join(wrong)


# --- identity columns, whose sequence no function call names ---

KEYED = """
drop view if exists app.keyed_view; drop table if exists app.keyed, app.follows, app.keyed_parts;
create table app.keyed (id int generated by default as identity primary key, v text unique);
create view app.keyed_view as select * from app.keyed;
create table app.follows (n int generated by default as identity (start with 1002) references app.keyed on delete set default on update cascade);
create table app.keyed_parts (id int generated always as identity, v text);
insert into app.keyed (id, v) values (1001, 'one'), (1002, 'two');
insert into app.follows values (1001);
"""
DRAWS = {
    "a column left out": "insert into app.keyed (v) values ('x')",
    "default values": "insert into app.keyed default values",
    "default": "insert into app.keyed (id, v) values (default, 'x')",
    "default in one row of several": "insert into app.keyed (id, v) values (7, 'x'), (default, 'y')",
    "overriding the user's value": "insert into app.keyed (id, v) overriding user value values (7, 'x')",
    "from a query": "insert into app.keyed (v) select 'x'",
    "of a column that is always generated": "insert into app.keyed_parts (v) values ('x')",
    "by a view": "insert into app.keyed_view (v) values ('x')",
    "by a conflict": "insert into app.keyed (id, v) values (1001, 'x') on conflict (id) do update set id = default",
    "by a conflict that does nothing": "insert into app.keyed (v) values ('one') on conflict (v) do nothing",
    "by an update": "update app.keyed set id = default where id = 1001",
    "by a merge": "merge into app.keyed k using (values (2)) s (id) on k.id = s.id when not matched then insert (v) values ('x')",
    "by an update of a merge": "merge into app.keyed k using (values (1001)) s (id) on k.id = s.id when matched then update set id = default",
    "inside copy": "copy (insert into app.keyed (v) values ('x') returning id) to stdout",
    "inside with": "with i as (insert into app.keyed (v) values ('x') returning id) select * from i",
    "explained": "explain insert into app.keyed (v) values ('x')",
    "by a prepared statement": "prepare p as insert into app.keyed (v) values ('x'); execute p",
    "by a foreign key": "delete from app.keyed where id = 1001",
    "by a function": "select kept.keep('x')",
    "named in a value": "insert into app.keyed (v) values ('{NEXTVALUEEXPR :seqid')",
}
DRAWS_NOTHING = {
    "a value": "insert into app.keyed (id, v) values (7, 'x')",
    "a value by another name": "insert into app.keyed_view (id, v) select 7, 'x'",
    "a value that is always generated otherwise": "insert into app.keyed_parts (id, v) overriding system value values (7, 'x')",
    "an update of another column": "update app.keyed set v = 'x' where id = 1001",
    "an update of the column": "update app.keyed set id = 8 where id = 1001 and false",
    "a merge": "merge into app.keyed k using (values (9)) s (id) on k.id = s.id when not matched then insert values (s.id, 'x')",
    "a name that looks like it": "insert into app.keyed (id, v) select 7, '{NEXTVALUEEXPR :seqid ' || \"{NEXTVALUEEXPR :seqid 1 \" from (values ('x')) s (\"{NEXTVALUEEXPR :seqid 1 \")",
    "reading": "select * from app.keyed",
    "copy of a change": "copy (insert into app.keyed (id, v) values (7, 'x') returning id) to stdout",
}
CHANGE = ("allow", ["insert", "select", "update", "delete"], "app.*")


def keyed(server, *rules):
    server.run(
        "set client_min_messages = error; set role owner;" + KEYED + """reset role; grant insert, select on app.keyed to keeper;
        create or replace function kept.keep(v text) returns void language sql security definer as 'insert into app.keyed (v) values (v)';
        alter function kept.keep(text) owner to keeper"""
    )
    return Agent(server, CHANGE, ("allow", "execute", "function kept.keep"), *rules)


def copied_out(agent, text):
    try:
        with agent.connection.cursor() as cursor, cursor.copy(text) as copy:
            list(copy)
        return None
    except psycopg.Error as error:
        return error


def test_a_denied_sequence_is_denied_to_an_identity_column_too(server):
    wrong = []
    shut = ("deny", "usage", ["app.keyed_id_seq", "app.keyed_parts_id_seq", "app.follows_n_seq"])
    for rules, name, texts in (([], "DRAWS", DRAWS), ([shut], "DRAWS", DRAWS), ([shut], "DRAWS_NOTHING", DRAWS_NOTHING)):
        may = name == "DRAWS_NOTHING" or not rules
        for what, text in texts.items():
            with keyed(server, *rules) as agent:
                before = drawn(server)
                error = (copied_out if text.startswith("copy") else Agent.attempt)(agent, text)
                refused = error is not None and error.sqlstate == DENIED and "_seq" in str(error) and error.diag.message_detail.startswith("reason=")
                if (error is not None if may else not refused) or (rules and drawn(server) != before):
                    wrong.append(f"{name}, {rules}: {what}: {error}, {drawn(server)}")
    assert not wrong, "\n" + "\n".join(wrong)


def test_the_copy_of_an_identity_column_draws_nothing(server):
    with keyed(server, ("deny", "usage", "app.keyed_id_seq")) as agent, agent.connection.cursor() as cursor:
        before = drawn(server)
        with cursor.copy("copy app.keyed from stdin") as copy:
            copy.write("5\tx\n")
        assert copied(agent, "keyed") is not None and drawn(server) == before


def test_a_deny_of_a_sequence_that_comes_meanwhile_holds_for_its_identity_column(server):
    with keyed(server) as agent:
        insert = lambda: agent.connection.execute("insert into app.keyed (v) values (%s)", (None,), prepare=True)  # noqa: E731
        for _ in range(8):
            insert()
        server.run(f"select agent_guard.deny('{agent.policy}', array['usage'], array['app.keyed_id_seq'])")
        before = drawn(server)
        guard.expect(DENIED, insert, match="keyed_id_seq")
        assert drawn(server) == before
        for _ in range(8):
            agent.connection.execute("update app.keyed set v = %s where id = -1", ("x",), prepare=True)


def test_an_identity_column_waits_for_whoever_approves_its_sequence(server):
    with keyed(server, ("require_approval", "usage", "app.keyed_id_seq", {"approvers": ["keeper"]})) as agent:
        before = drawn(server)
        guard.expect("PGA01", agent.run, "insert into app.keyed (v) values ('x')")
        assert drawn(server) == before
        agent.run("insert into app.keyed (id, v) values (7, 'x')")


def test_check_statement_tells_of_identity_columns(server):
    keyed(server).connection.close()
    name = policy(server, [CHANGE, ("deny", "usage", "app.keyed_id_seq")])
    decided = lambda text: server.rows("select decision from agent_guard.check_statement(%s, %s) where action = 'usage' and object = 'app.keyed_id_seq'", name, text)  # noqa: E731
    assert decided("insert into app.keyed (v) values ('x')") == decided("copy app.keyed (v) from stdin") == [("deny",)]
    assert decided("insert into app.keyed values (1, 'x')") == decided("copy app.keyed (id) from stdin") == []
    rows = server.rows("select decision, action from agent_guard.check_statement(%s, 'insert into app.serially (v) values (1)')", name)
    assert rows == [("allow", "insert")], rows


def test_a_refused_copy_has_drawn_nothing(server):
    with Agent(server, FILL) as agent:
        for table in ("of_free", "of_shut", "of_both", "nested", "by_domain", "split"):
            before = drawn(server)
            error = copied(agent, table)
            assert error is not None and error.sqlstate == DENIED, f"{table}: {error}"
            assert drawn(server) == before, table


def test_the_copy_of_a_column_needs_no_right_on_its_default(server):
    with Agent(server, FILL) as agent, agent.connection.cursor() as cursor:
        with cursor.copy("copy app.of_shut from stdin") as copy:
            copy.write("5\tx\n")


def test_copy_is_recorded_with_the_sequence(server):
    with Agent(server, FILL, USAGE) as agent:
        assert copied(agent, "of_free") is None
        assert copied(agent, "of_shut") is not None
    found = server.audit("command = 'COPY'", columns="decision, accesses::text")[-2:]
    assert [row[0] for row in found] == ["allow", "deny"], found
    assert "app.free" in found[0][1] and "app.shut" in found[1][1], found


# --- what else is evaluated while COPY runs draws nothing ---


@contextlib.contextmanager
def made(server, *statements, undo):
    for statement in statements:
        server.run(f"set role owner; {statement}")
    try:
        yield
    finally:
        server.run(f"set client_min_messages = error; set role owner; {undo}")


def test_nothing_else_draws_during_copy(server):
    ways = {
        "a trigger's condition": "create trigger t before insert on app.bent for each row when (nextval('app.shut') > 0) execute function app.fire()",
        "a check": "alter table app.bent add check (nextval('app.shut') > 0)",
        "a domain's check": "create domain app.bent_text as text check (nextval('app.shut') > 0); alter table app.bent add w app.bent_text default 'w', alter v type app.bent_text",
        "a default that is folded away": "alter table app.bent add w bigint default case when false then nextval('app.free') else 1 end, add check (nextval('app.shut') > 0)",
        "a name that is computed": "alter table app.bent alter id set default nextval(('app.' || 'shut')::regclass)",
        "an operator": "create operator app.<<>> (function = nextval, rightarg = regclass); alter table app.bent alter id set default (operator(app.<<>>) 'app.shut'::regclass)",
    }
    for default in ("nextval('app.free')", "1"):
        for name, way in ways.items():
            undo = "drop table app.bent; drop domain if exists app.bent_text; drop operator if exists app.<<>>(none, regclass)"
            with made(server, f"create table app.bent (id bigint default {default}, v text)", way, undo=undo), Agent(server, FILL, USAGE, ("allow", "execute", "function app.fire")) as agent:
                before = server.value("select last_value from app.shut"), server.value("select is_called from app.shut")
                error = copied(agent, "bent")
                assert error is not None and error.sqlstate == DENIED, f"{name}: {error}"
                assert (server.value("select last_value from app.shut"), server.value("select is_called from app.shut")) == before, name
                error = copied(agent, "bent", "where nextval('app.shut') > 0")
                assert error is not None and error.sqlstate == DENIED, f"{name}: {error}"


def test_a_where_of_copy_draws_nothing(server):
    with Agent(server, FILL, USAGE) as agent:
        before = drawn(server)
        for where in ("nextval('app.shut') > 0", "app.drawn() > 0"):
            error = copied(agent, "of_free", f"where {where}")
            assert error is not None and error.sqlstate == DENIED, error
        assert [row for row in drawn(server) if row[0] == "shut"] == [row for row in before if row[0] == "shut"]


# --- columns that are added, and ALTER TABLE that rewrites ---

BUILD = ("allow", ["create", "alter", "drop", "insert", "select"], "other.*")
BUILD_SCHEMA = ("allow", "create", "schema other")


def filled(server, *rules, role="owner"):
    scene.workshop(server)
    server.run("set role owner; create table other.t (v text); insert into other.t values ('1'), ('2'); create table other.p (v text) partition by list (v); create table other.p_1 partition of other.p for values in ('1'); insert into other.p values ('1')")
    return Agent(server, BUILD, BUILD_SCHEMA, *rules)


def test_a_column_that_is_added_needs_the_sequence(server):
    with filled(server, USAGE) as agent:
        for table in ("t", "p"):
            for default in ("bigint default nextval('app.shut')", "app.numbered", "text default 'no-' || nextval('app.shut')", "bigint default setval('app.free', 1)", "bigint default nextval(('app.' || 'free')::regclass)"):
                agent.refused(f"alter table other.{table} add column n {default}")
            agent.refused(f"alter table other.{table} add column n bigint default nextval('app.free'), add column m bigint default nextval('app.shut')")
            agent.run(f"alter table other.{table} add column n bigint default nextval('app.free'), add column m app.numbered_free, alter v set not null")
            agent.run(f"alter table other.{table} add column l serial", f"alter table other.{table} add column j bigint default 3")
            rows = 2 if table == "t" else 1
            assert agent.run(f"select count(n), count(m), count(l), count(j) from other.{table}") == [(rows, rows, rows, rows)]
            agent.run(f"alter table other.{table} alter n set default nextval('app.shut')")
            agent.refused(f"insert into other.{table} (v) values ('1')")
        agent.run("alter table other.t add column k int generated by default as identity")
        assert agent.run("select count(k) from other.t") == [(2,)]


def test_a_column_that_is_added_if_not_there_draws_nothing(server):
    with filled(server, USAGE) as agent:
        agent.run("alter table other.t add column n bigint default nextval('app.free')")
        agent.refused("alter table other.t add column if not exists n bigint default nextval('app.free'), alter v type bigint using nextval('app.shut')")
        agent.run("alter table other.t add column if not exists n bigint default nextval('app.shut')")


def test_functions_of_defaults_are_asked_for(server):
    with filled(server) as agent:
        agent.refused("alter table other.t add column n bigint default app.stamped()")
        agent.refused("alter table other.t add column n bigint default app.drawn()")
        agent.refused("alter table other.t add column n bool default pg_try_advisory_lock(1)")
        agent.refused("alter table other.t add column n bool default (pg_notify('c', 'x') is null)")
        agent.refused("alter table other.t add check (app.stamped() > 0)")
        agent.refused("alter table other.t alter v type bigint using app.stamped()")
    with filled(server, ("allow", "execute", ["function app.stamped", "function app.drawn"])) as agent:
        agent.run("alter table other.t add column n bigint default app.stamped()")
        agent.refused("alter table other.t add column m bigint default app.drawn()")


def test_nothing_else_draws_during_ddl(server):
    # The server itself would let each of these draw from a sequence.
    ways = [
        "alter table other.t alter v type bigint using nextval('app.free')",
        "alter table other.t add column n bigint default nextval('app.free'), alter v type bigint using nextval('app.shut')",
        "alter table other.t add column n bigint default nextval('app.free'), add check (nextval('app.shut') > 0)",
        "alter table other.t add check (nextval('app.free') > 0)",
        "alter table other.t add column n bigint default nextval('app.free') check (nextval('app.shut') > 0)",
        "create table other.p_2 partition of other.p for values in (nextval('app.free'))",
        "alter table other.t add column n bigint default nextval('app.free'), add column m other.bent default '1'",
        "alter table other.t add column n bigint default nextval('app.free'), add column m other.bent",
        "alter table other.t add column n bigint default nextval('app.free'), add column m other.bent[] default '{1}'",
        "alter table other.t add column n bigint default nextval('app.free'), add column m other.bent[] default ('{' || random() || '}')::other.bent[]",
        "alter table other.t add column n bigint default nextval('app.free'), add column m other.holder default json_populate_record(null::other.holder, '{\"a\": 1}')",
        "alter table other.t alter v type other.bent",
        "alter table other.t add column n bigint default nextval('app.free') + other.inside()",
    ]
    with filled(server, USAGE, ("allow", "execute", "function other.*")) as agent:
        agent.run("create domain other.bent as text check (nextval('app.shut') > 0)", "create type other.holder as (a other.bent)")
        server.run("set role owner; create function other.inside() returns int language plpgsql as $$declare n other.bent; begin n := '1'; return 1; end$$")
        before = [row for row in drawn(server) if row[0] == "shut"]
        for way in ways:
            # What was allowed may have been drawn before the rest is met in a row.
            agent.refused(way, unchanged=False)
            assert [row for row in drawn(server) if row[0] == "shut"] == before, way
        agent.run("create domain other.plain as text")
        agent.run("alter table other.t add column d other.plain")
        agent.refused("alter domain other.plain add check (nextval('app.shut') > 0)")
        agent.run("alter domain other.plain add constraint c check (nextval('app.shut') > 0) not valid")
        agent.refused("alter domain other.plain validate constraint c")
        agent.run("drop table other.t, other.p", "drop type other.holder", "drop domain other.bent, other.plain")


def test_a_deny_on_the_sequence_follows_into_what_a_function_does(server):
    body = "create function kept.widen() returns void language plpgsql as $$begin execute 'alter table other.t add column n bigint default nextval(''app.shut'')'; end$$; grant usage, create on schema other to keeper; alter function kept.widen() owner to keeper"
    try:
        for rules, may in ([], True), ([("deny", "usage", "app.shut")], False):
            with filled(server, ("allow", "execute", "function kept.*"), *rules) as agent:
                server.run("drop function if exists kept.widen();" + body)
                if may:
                    agent.run("select kept.widen()")
                else:
                    agent.refused("select kept.widen()")
    finally:
        server.run("drop function kept.widen()")


def test_check_statement_tells_of_defaults(server):
    name = policy(server, [FILL, USAGE])
    rows = server.rows("select decision, action, object from agent_guard.check_statement(%s, 'copy app.of_both (v) from stdin')", name)
    assert ("allow", "usage", "app.free") in rows and ("deny", "usage", "app.shut") in rows, rows
    rows = server.rows("select decision, action, object from agent_guard.check_statement(%s, 'copy app.of_both from stdin')", name)
    assert {row[1] for row in rows} == {"insert"}, rows


if __name__ == "__main__":
    guard.run(globals())
