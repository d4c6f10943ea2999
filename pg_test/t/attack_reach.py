"""A deny follows the data, an allow does not: every way to reach a table that the agent's rules leave out."""

import guard
import scene
from guard import DENIED
from scene import Agent, setup

DDL = ("create", "alter", "drop")


def builder(server, *rules):
    """An agent that may make what it likes in `other`, run its own functions and use temporary tables."""
    scene.workshop(server)
    own = [("allow", ["create", "alter", "drop", "maintain", "select", "insert", "update", "delete"], ["other.*"])]
    own += [("allow", ["create", "alter", "drop", "execute"], ["function other.*"])]
    own += [("allow", "create", "schema other"), ("allow", "temporary", "*")]
    return Agent(server, *own, *rules)


# --- objects of the agent's own making lend nothing ---


def test_own_view_does_not_lend(server):
    with builder(server) as agent:
        agent.run("create view other.v as select * from app.secret")
        agent.refused("select * from other.v")
        agent.run("create view other.vi with (security_invoker) as select * from app.secret")
        agent.refused("select * from other.vi")
        agent.run("drop view other.v, other.vi")


def test_own_materialized_view_does_not_lend(server):
    with builder(server) as agent:
        agent.run("create materialized view other.m as select v from app.secret with no data")
        agent.refused("refresh materialized view other.m")
        agent.run("drop materialized view other.m", "create table other.mine as select 1 as n")
        agent.run("create materialized view other.m as select * from other.mine", "refresh materialized view other.m")
        agent.run("drop materialized view other.m", "drop table other.mine")


def test_own_rule_does_not_lend(server):
    with builder(server) as agent:
        agent.run("create table other.t (id int)")
        agent.run("create rule r as on insert to other.t do also delete from app.secret")
        agent.refused("insert into other.t values (1)")
        agent.run("create or replace rule r as on insert to other.t do instead insert into app.secret values (9, 'x')")
        agent.refused("insert into other.t values (1)")
        agent.run("drop table other.t")


def test_own_rule_does_not_lend_beside_a_view_allowed_by_name(server):
    with builder(server) as agent:
        agent.run("create table other.t (id int)", "create view other.lent as select 1 as n")
        agent.run("create rule r as on insert to other.t do also delete from app.secret")
        scene_rules(server, agent, ("allow", "select", "other.lent"))
        agent.refused("insert into other.t select n from other.lent")
        agent.run("drop table other.t", "drop view other.lent")


def scene_rules(server, agent, *rules):
    for effect, actions, objects in rules:
        given = (agent.policy, scene._list(actions), scene._list(objects))
        server.rows(f"select agent_guard.{effect}(%s, %s, %s)", *given)


def test_own_functions_do_not_lend(server):
    bodies = {
        "sql": "create function other.f() returns setof text language sql stable as 'select v from app.secret'",
        "volatile sql": "create function other.f() returns setof text language sql as 'select v from app.secret'",
        "atomic": "create function other.f() returns setof text language sql stable begin atomic select v from app.secret; end",
        "plpgsql": "create function other.f() returns setof text language plpgsql as 'begin return query select v from app.secret; end'",
        "definer": "create function other.f() returns setof text language sql security definer as 'select v from app.secret'",
        "dynamic": "create function other.f() returns text language plpgsql as $$declare r text; begin execute 'select v from app.secret' into r; return r; end$$",
        "caught": "create function other.f() returns text language plpgsql as $$begin return (select max(v) from app.secret); exception when others then return (select min(v) from app.secret); end$$",
    }
    with builder(server) as agent:
        for name, body in bodies.items():
            agent.run(body)
            for call in ("select * from other.f()", "select other.f()"):
                agent.refused(call)
            agent.run("drop function other.f()")


def test_a_function_between_create_table_as_and_its_query_inserts_nothing(server):
    with builder(server) as agent:
        agent.run("create function other.g() returns int language plpgsql as $$begin insert into app.secret values (99, 'x'); return 1; end$$")
        agent.run("create function other.f() returns int language plpgsql immutable as $$declare n int; begin n := other.g(); return n; end$$")
        agent.run("prepare p(int) as select $1 as n")
        agent.refused("create table other.t as execute p(other.g())")
        agent.refused("create table other.t as select other.f() as n")
        agent.refused("create temporary table t as select other.f() as n")
        agent.refused("create materialized view other.t as select other.f() as n")
        agent.run("create table other.t as execute p(1)", "drop table other.t", "create table other.t as select app.id from generate_series(1, 2) app(id)")
        agent.run("drop table other.t", "drop function other.f()", "drop function other.g()")


def test_a_trigger_under_a_foreign_key_does_not_lend(server):
    with builder(server) as agent:
        agent.run("create table other.a (id int primary key)", "create table other.b (a int references other.a on delete cascade, n int)")
        agent.run("create function other.f() returns trigger language plpgsql as $$begin delete from app.secret; return old; end$$")
        agent.run("create trigger t before delete on other.b for each row execute function other.f()")
        agent.run("insert into other.a values (1)", "insert into other.b values (1, 1)")
        agent.refused("delete from other.a")
        agent.run("drop trigger t on other.b", "delete from other.a", "drop table other.b, other.a", "drop function other.f()")


# --- what an allowed function lends cannot be bent ---


def test_a_temporary_view_in_the_place_of_a_functions_table_does_not_lend(server):
    with builder(server, ("allow", "execute", "function kept.*")) as agent:
        agent.run("set search_path = pg_temp, kept")
        for options in ("", "with (security_invoker)"):
            agent.run(f"create temporary view ledger {options} as select * from app.secret")
            agent.refused("select kept.unqualified()")
            agent.run("drop view pg_temp.ledger")
        assert agent.run("set search_path = kept", "select kept.unqualified()") == [("kept-1",)]


def test_functions_of_the_keeper_lend_what_is_not_denied(server):
    with Agent(server, ("allow", "execute", "function kept.*")) as agent:
        assert agent.run("select kept.count_secrets(), kept.count_secrets_invoker()") == [(3, 3)]
        agent.refused("select count(*) from app.secret")
    with Agent(server, ("allow", "execute", "function kept.*"), ("deny", "select", "app.secret")) as agent:
        agent.refused("select kept.count_secrets()")
        agent.refused("select kept.count_secrets_invoker()")


def test_set_config_by_a_way_past_the_planner_is_checked(server):
    server.run("grant keeper to owner")
    with builder(server, ("allow", "execute", "*")) as agent:
        agent.run("prepare p(text) as select $1")
        agent.refused("execute p(set_config('role', 'keeper', false))")
        agent.refused("select set_config('role', 'keeper', false)")
        agent.run("create table other.t (n text)")
        agent.refused("alter table other.t add column m text default set_config('role', 'keeper', false)")
        agent.run("create aggregate other.a(text, bool) (sfunc = set_config, stype = text, initcond = 'role')")
        agent.refused("select other.a('keeper', false)")
        agent.run("drop aggregate other.a(text, bool)", "drop table other.t")
        oid = server.value("select 'set_config'::regproc::oid::int")
        assert agent.run("select current_user") == [("owner",)]
    wire = server.wire("owner")
    with builder(server, ("allow", "execute", "*")) as agent:
        wire.query(f"set agent_guard.token = '{agent.token}'")
        assert wire.call(oid, ["role", "keeper", b"f"]).sqlstate == DENIED
        assert wire.query("select current_user").text() == [("owner",)]
    wire.close()
    server.run("revoke keeper from owner")


def test_statistics_of_a_denied_table_do_not_pass_through_an_own_operator(server):
    server.run("analyze app.secret")
    server.run("insert into app.secret select n, 'common' from generate_series(100, 400) n; analyze app.secret")
    try:
        with builder(server) as agent:
            agent.run("create function other.leak(text, text) returns bool language plpgsql as $$begin raise notice 'leaked %', $1; return false; end$$")
            agent.run("create operator other.<<< (function = other.leak, leftarg = text, rightarg = text, restrict = eqsel)")
            said = []
            agent.connection.add_notice_handler(lambda notice: said.append(notice.message_primary))
            for query in ("select * from app.secret where v operator(other.<<<) 'x'", "explain select * from app.secret where v operator(other.<<<) 'x'"):
                agent.refused(query)
                agent.attempt(query)
            assert not [text for text in said if "leaked" in text], said
            agent.run("create table other.t as select 'a'::text as v from generate_series(1, 200)", "analyze other.t")
            agent.run("select * from other.t where v operator(other.<<<) 'x'", "drop table other.t")
            agent.run("drop operator other.<<<(text, text)", "drop function other.leak(text, text)")
    finally:
        server.run("delete from app.secret where id >= 100; analyze app.secret")


if __name__ == "__main__":
    guard.run(globals(), conf=["autovacuum = off"])
