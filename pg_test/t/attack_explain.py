"""EXPLAIN and EXPLAIN ANALYZE of what is no plain query: decided as what they explain, and a way to nothing else."""

import guard
import scene
from guard import DENIED, LIMIT
from scene import Agent, setup

CREATE = ("allow", ["create", "drop"], "other.*")
READ = ("allow", "select", ["app.open", "other.*"])
HELD = "PGA01"

# What makes a table, with the rights that it needs beside those on what it reads.
MAKES = {
    "create table other.made as select * from app.open": "table",
    "create table other.made (a, b, c) with (fillfactor = 50) as table app.open": "table",
    "select * into other.made from app.open": "table",
    "create table other.made as select * from app.open with no data": "table",
    "create table if not exists other.made as select * from app.open": "table",
    "create unlogged table other.made as with x as (select id from app.open) select * from x": "table",
    "create materialized view other.made as select * from app.open": "materialized view",
}
ANALYZES = ("explain analyze", "explain (analyze)", "explain (analyze false, analyze true)", "explain (analyze on, costs off, format json)", "explain analyze verbose")
PLAIN = ("explain", "explain (analyze false)", "explain (analyze, analyze off)", "explain (verbose, format xml)")


def there(server):
    return server.value("select count(*) from pg_class where relname = 'made'")


def test_explain_analyze_of_what_makes_a_table_is_decided_as_that(server):
    for statement, kind in MAKES.items():
        with Agent(server, CREATE, READ) as agent:
            rows = []
            for text in (statement, *(f"{words} {statement}" for words in ANALYZES)):
                agent.run(text)
                assert there(server) == 1, text
                if "no data" not in statement:
                    rows.append(agent.run("select count(*) from other.made"))
                agent.run(f"drop {kind} other.made")
            assert len(set(map(str, rows))) <= 1, rows
    nearest = ([READ], [CREATE], [CREATE, ("deny", "create", "other.made"), READ], [("allow", "temporary", "*"), READ])
    for rules in nearest:
        with Agent(server, *rules) as agent:
            for statement in MAKES:
                # Without data nothing is read.
                if rules == [CREATE] and "no data" in statement:
                    continue
                for text in (statement, *(f"{words} {statement}" for words in ANALYZES)):
                    agent.refused(text, unchanged=False)
                    assert there(server) == 0, text


def test_plain_explain_is_decided_as_the_query(server):
    before = scene.world(server)
    with Agent(server, READ) as agent:
        for words in PLAIN:
            for statement in MAKES:
                agent.run(f"{words} {statement}")
            agent.refused(f"{words} create table other.made as select * from app.secret", unchanged=False)
            agent.refused(f"{words} declare c cursor for select * from app.secret", unchanged=False)
            agent.run(f"{words} declare c cursor for select * from app.open")
    assert not scene.changes(before, scene.world(server))


def test_a_temporary_table_by_explain_analyze(server):
    with Agent(server, ("allow", "temporary", "*"), READ) as agent:
        agent.run("explain analyze create temporary table made as select * from app.open")
        assert agent.run("select count(*) from made") == [(3,)]
        agent.refused("explain analyze create temporary table more as select * from app.secret")
        agent.refused("explain analyze create table other.made as select * from made")
    with Agent(server, READ) as agent:
        agent.refused("explain analyze create temporary table made as select * from app.open")


def test_what_is_prepared_is_decided_when_it_is_explained(server):
    with Agent(server, CREATE, READ) as agent:
        agent.run("prepare shut as select * from app.secret", "prepare good as select * from app.open", "prepare adds as insert into app.open values (77)", "prepare given(int) as select $1 as n")
        for words in ("explain", "explain analyze"):
            agent.refused(f"{words} execute shut")
            agent.refused(f"{words} execute adds")
            agent.refused(f"{words} create table other.made as execute shut")
            agent.refused(f"{words} create table other.made as execute given(app.one())")
            agent.refused(f"{words} execute given(nextval('app.numbers')::int)")
            agent.run(f"{words} execute good", f"{words} execute given(7)")
        agent.run("explain analyze create table other.made as execute good")
        assert agent.run("select count(*) from other.made") == [(3,)]
        agent.run("drop table other.made", "explain create table other.made as execute good")
        assert there(server) == 0


def test_cursors_are_decided_when_they_are_explained(server):
    with Agent(server, READ) as agent:
        for words in ("explain", "explain analyze", "explain (analyze, buffers)"):
            for text in ("select * from app.secret", "select * from app.open, app.secret", "select app.secret_plpgsql()", "select * from app.open for update"):
                agent.refused(f"{words} declare c cursor for {text}")
                agent.refused(f"{words} declare c cursor with hold for {text.removesuffix(' for update')}") if "secret" in text else None
            agent.run(f"{words} declare c cursor with hold for select * from app.open")
        assert agent.attempt("fetch all from c").sqlstate == "34000"


def test_a_function_between_explain_and_its_query_inserts_nothing(server):
    scene.workshop(server)
    own = ("allow", ["create", "execute", "drop"], ["function other.*"])
    with Agent(server, CREATE, READ, own) as agent:
        agent.run("create function other.g() returns int language plpgsql as $$begin insert into app.secret values (99, 'x'); return 1; end$$")
        agent.run("create function other.f() returns int language plpgsql as $$declare n int; begin n := other.g(); return n; end$$")
        agent.run("create function other.h() returns int language plpgsql as $$begin create table other.within (n int); insert into other.within values (1); return 1; end$$")
        agent.run("prepare p(int) as select $1 as n")
        for text in ("create table other.made as select other.f() as n", "create table other.made as execute p(other.g())", "create materialized view other.made as select other.f() as n", "select other.g() into other.made", "select other.f()", "execute p(other.f())", "declare c cursor for select other.f()"):
            agent.refused(f"explain analyze {text}")
        # Making a table lends nothing to what another table is filled with.
        agent.refused("explain analyze create table other.made as select other.h() as n")
        agent.refused("explain analyze create table other.made as with x as (insert into app.open values (99) returning id) select * from x")


def test_explain_analyze_changes_what_may_be_changed_and_no_more(server):
    with Agent(server, READ, ("allow", "delete", "app.nulled")) as agent:
        for text in ("insert into app.open values (9)", "delete from app.open", "update app.open set v = v", "merge into app.open o using (values (1)) s(id) on o.id = s.id when matched then delete", "with x as (delete from app.secret returning *) select * from x"):
            agent.refused(f"explain analyze {text}")
            agent.refused(f"explain {text}")
        agent.refused("explain analyze call app.proc(1)", sqlstate="42601", by_guard=False)


def test_limits_hold_for_what_explain_analyze_makes(server):
    with Agent(server, CREATE, READ) as agent:
        server.rows("select agent_guard.set_limits(%s, rows_written => 5)", agent.policy)
        agent.run("explain analyze create table other.made as select * from app.open")
        assert agent.attempt("explain analyze create table other.more as select * from app.open").sqlstate == LIMIT
        assert server.value("select count(*) from pg_class where relname = 'more'") == 0
    server.run("drop table other.made")
    with Agent(server, CREATE, ("allow", "select", "app.open", {"max_rows": 2})) as agent:
        outcomes = {agent.attempt(f"{words} create table other.made as select * from app.open").sqlstate for words in ("", "explain analyze")}
        assert outcomes == {LIMIT}, outcomes
        assert there(server) == 0


def test_an_approval_is_asked_for(server):
    with Agent(server, CREATE, READ, ("require_approval", "create", "other.made", {"approvers": ["keeper"]})) as agent:
        for text in ("create table other.made as select * from app.open", "explain analyze create table other.made as select * from app.open"):
            assert agent.attempt(text).sqlstate == HELD, text
            assert there(server) == 0, text
        agent.run("explain create table other.made as select * from app.open")


def test_the_trail_tells_what_was_made(server):
    with Agent(server, CREATE, READ) as agent:
        session = agent.run("select session_id from agent_guard.whoami()")[0][0]
        agent.run("explain analyze create table other.made as select * from app.open")
        agent.run("drop table other.made")
        agent.refused("explain analyze create table other.made as select * from app.secret")
    told = server.audit("command = 'EXPLAIN' and session_id = %s", session, columns="decision, accesses::text")
    assert [row[0] for row in told] == ["allow", "allow"] and "create table" in told[0][1] and "other.made" in told[0][1], told
    told = server.audit("decision = 'deny' and session_id = %s", session, columns="accesses::text")
    assert len(told) == 1 and "app.secret" in told[0][0], told


def test_check_statement_looks_into_explain(server):
    name = scene.policy(server, [READ])
    for text in ("create table other.made as select * from app.secret", "declare c cursor for select * from app.secret", "select * from app.secret"):
        rows = server.rows("select decision, action, object from agent_guard.check_statement(%s, %s)", name, f"explain {text}")
        assert ("deny", "select", "app.secret") in rows, (text, rows)
        assert not [row for row in rows if row[1].startswith("create")], rows
    rows = server.rows("select decision, action, object from agent_guard.check_statement(%s, %s)", name, "explain analyze create table other.made as select * from app.open")
    assert ("deny", "create table", "other.made") in rows and ("allow", "select", "app.open") in rows, rows


def test_masks_hold_for_what_explain_analyze_makes(server):
    server.run("select agent_guard.mask_column('app.open', 'hidden', 'redact')")
    try:
        with Agent(server, CREATE, READ) as agent:
            agent.run("explain analyze create table other.made as select * from app.open")
            assert not server.rows("select from other.made where hidden like 'hidden%%'")
            agent.run("drop table other.made")
            error = agent.attempt("explain analyze create materialized view other.made as select * from app.open")
            assert error is not None and error.sqlstate == DENIED and "masked_relation" in error.diag.message_detail, error
            assert there(server) == 0
    finally:
        server.run("select agent_guard.unmask_column('app.open', 'hidden')")


if __name__ == "__main__":
    guard.run(globals())
