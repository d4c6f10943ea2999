"""What speaks for somebody else: functions that the server calls without asking, bodies that an allow names and the agent may
replace, and what roles own."""

import guard
import scene
from scene import Agent, setup  # noqa: F401

TRIGGERS = """
create function kept.purge() returns trigger language plpgsql security definer as 'begin delete from kept.ledger; return new; end';
create function kept.purge_invoker() returns trigger language plpgsql as 'begin delete from kept.ledger; return new; end';
create function kept.distance(a int, b int) returns float8 language sql immutable as 'select 0.0::float8';
alter function kept.purge() owner to keeper;
alter function kept.purge_invoker() owner to keeper;
alter function kept.distance(int, int) owner to keeper;
grant delete, select on kept.ledger to owner, keeper;
"""


def test_a_trigger_takes_running_its_function(server):
    scene.workshop(server)
    server.run(TRIGGERS)
    own = [("allow", "temporary", "*"), ("allow", ["create", "alter", "drop", "select", "insert", "update"], "other.*")]
    with Agent(server, *own) as agent:
        agent.run("create temporary table t (n int)", "create table other.t (n int)", "create temporary view tv as select 1 as n")
        for table in ("t", "other.t"):
            for function in ("kept.purge", "kept.purge_invoker", "app.fire"):
                agent.refused(f"create trigger x before insert on {table} for each row execute function {function}()")
                agent.refused(f"create constraint trigger x after insert on {table} for each row execute function {function}()")
        agent.refused("create trigger x instead of insert on tv for each row execute function kept.purge()")
        agent.refused("create type other.r as range (subtype = int, subtype_diff = kept.distance)")
        # Those of the server's own that do no harm need no rule.
        agent.run("create trigger x before update on t for each row execute function suppress_redundant_updates_trigger()")
    with Agent(server, *own, ("allow", "execute", ["function kept.purge()", "function kept.distance"])) as agent:
        agent.run("create temporary table t (n int)", "create trigger x before insert on t for each row execute function kept.purge()", "begin", "insert into t values (1)", "rollback")
        agent.run("create type other.r as range (subtype = int, subtype_diff = kept.distance)", "drop table other.t")
    with Agent(server, ("allow", "*", "*"), ("allow", "execute", "function kept.*"), ("deny", "execute", "function kept.purge()")) as agent:
        agent.run("create temporary table t (n int)")
        agent.refused("create trigger x before insert on t for each row execute function kept.purge()")
    assert server.value("select count(*) from kept.ledger") == 1
    server.run("drop type other.r; drop function kept.purge(), kept.purge_invoker(), kept.distance(int, int)")


def test_what_a_rule_names_lends_no_body_that_the_agent_may_write(server):
    server.run("set role owner; create view app.named as select id, v from app.open; create function app.named() returns text language sql as 'select max(v) from app.open'; create procedure app.named_p() language plpgsql as 'begin perform 1; end'; reset role")
    named = [("allow", "select", "app.named"), ("allow", "execute", ["function app.named()", "function app.named_p()"])]
    reads = ("select * from app.named", "select app.named()")
    with Agent(server, *named) as agent:
        for read in reads:
            agent.run(read)
        agent.refused("create or replace view app.named as select id, v from app.secret")
        agent.refused("create or replace function app.named() returns text language sql as 'select max(v) from app.secret'")
    writes = ("create or replace view app.named as select id, v from app.secret", "create or replace function app.named() returns text language sql as 'select max(v) from app.secret'", "create or replace procedure app.named_p() language plpgsql as 'begin delete from app.secret; end'")
    for rule in (("allow", ["create", "alter"], ["app.*", "function app.*"]), ("allow", ["create", "alter view", "alter function", "alter procedure"], ["app.*", "function app.*"])):
        with Agent(server, *named, rule) as agent:
            agent.run("begin", *writes)
            for read in (*reads, "call app.named_p()"):
                agent.run("savepoint s")
                try:
                    agent.run(read)
                    raise AssertionError(f"it ran: {read}")
                except guard.psycopg.Error as error:
                    assert error.sqlstate == guard.DENIED, error
                agent.run("rollback to s")
            agent.run("rollback")
    server.run("drop view app.named; drop function app.named(); drop procedure app.named_p()")


def test_roles_take_nothing_along_that_is_denied(server):
    server.run("create role minor; grant minor to owner; grant select on app.secret, app.open to minor; grant execute on function app.one() to minor; grant usage on schema app to minor")
    server.run("set role owner; create policy of_minor on app.secret to minor using (true); reset role; grant peer to owner")
    everything = ("allow", "*", "*")
    try:
        with Agent(server, everything, ("deny", "*", "app.secret")) as agent:
            for statement in ("reassign owned by owner to peer", "reassign owned by current_user to peer", "drop owned by minor"):
                agent.refused(statement)
        with Agent(server, everything, ("deny", "grant", "function app.one()")) as agent:
            agent.refused("drop owned by minor")
            agent.refused("reassign owned by owner to peer")
        with Agent(server, everything, ("deny", "alter policy", "app.*")) as agent:
            agent.refused("drop owned by minor")
        with Agent(server, everything, ("deny", "*", "kept.ledger")) as agent:
            agent.run("begin", "drop owned by minor", "rollback", "begin", "reassign owned by owner to peer", "rollback")
    finally:
        server.run("drop owned by minor; drop role minor; revoke peer from owner")


VIEWS = """
create view kept.few as select id, v from app.secret where id > 2;
create view kept.fewer as select id, v from kept.few where id < 100;
create view kept.joined as select s.id, s.v from app.secret s join app.open o on o.id = s.id where o.id = 3;
alter view kept.few owner to keeper; alter view kept.fewer owner to keeper; alter view kept.joined owner to keeper;
grant select on app.open to keeper;
grant all on kept.few, kept.fewer, kept.joined to owner;
"""


def test_no_function_of_the_agents_sees_rows_that_a_view_leaves_out(server):
    scene.workshop(server)
    server.run(VIEWS)
    rules = [("allow", "select", "kept.*"), ("allow", ["create", "drop", "execute"], "function other.*"), ("allow", ["create", "drop"], "other.*"), ("allow", "create", "schema other")]
    said = []
    with Agent(server, *rules) as agent:
        agent.connection.add_notice_handler(lambda notice: said.append(notice.message_primary))
        agent.run("create function other.leak(text) returns bool language plpgsql cost 0.0000001 as $$begin raise notice 'leaked %', $1; return true; end$$")
        agent.run("create function other.leak(text, text) returns bool language plpgsql cost 0.0000001 as $$begin raise notice 'leaked %', $1; return true; end$$")
        agent.run("create operator other.<<< (function = other.leak, leftarg = text, rightarg = text)")
        for view in ("kept.few", "kept.fewer", "kept.joined"):
            for query in (
                f"select * from {view} where other.leak(v)",
                f"select * from {view} where v operator(other.<<<) 'x'",
                f"select * from {view} where v operator(other.<<<) any (array['x'])",
                f"select count(*) from {view} a join {view} b using (id) where other.leak(a.v) and other.leak(b.v, 'x')",
                f"with w as (select * from {view}) select * from w where other.leak(v)",
                f"select * from (select * from {view} offset 0) s where other.leak(v)",
                f"select 1 where exists (select from {view} where other.leak(v))",
            ):
                assert len(agent.run(query)) == 1, query
                agent.run(f"prepare p as {query}", "execute p", "deallocate p")
        agent.run("drop operator other.<<<(text, text)", "drop function other.leak(text), other.leak(text, text)")
    assert set(said) == {"leaked secret-3"}, set(said)
    server.run("drop view kept.fewer, kept.few, kept.joined")


if __name__ == "__main__":
    guard.run(globals(), conf=["autovacuum = off"])
