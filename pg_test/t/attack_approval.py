"""Ways to get more than was approved: other texts, other objects, other bodies, other agents, twice, through a crash."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys

import psycopg

import guard
import scene
from guard import DENIED, bind, eventually, expect
from scene import Agent

HELD = "PGA01"
REJECTED = "PGA02"


def setup(server):
    server.run(scene.APPLICATION)
    server.run("create role lead login; create role lead2 login; create role leads; grant leads to lead, lead2")


RULES = [
    ("allow", "*", "*"),
    ("require_approval", ["drop", "truncate"], "*", {"approvers": ["leads"]}),
    ("require_approval", "delete", "app.open", {"approvers": ["leads"]}),
    ("require_approval", "execute", "function app.*", {"approvers": ["leads"]}),
    ("require_approval", ["role", "grant"], "*", {"approvers": ["leads"]}),
]


def agent(server, *more, **window):
    rebuild(server)
    return Agent(server, *RULES, *more, **window)


def rebuild(server):
    """The tables that these tests drop, as they were."""
    server.run(
        """
        drop schema if exists lab cascade;
        create schema lab authorization owner;
        set role owner;
        create table lab.a (id int primary key);
        create table lab.b (id int primary key);
        create table lab.ref (id int references lab.a);
        create view lab.over as select * from lab.a;
        create function lab.f(n int) returns int language sql as 'select n';
        create function lab.wipe() returns void language plpgsql as 'begin delete from app.open where id = 3; end';
        create function lab.pick(n int) returns boolean language plpgsql immutable as 'begin return n = 3; end';
        insert into app.open values (3, 'open-3') on conflict do nothing;
        """
    )


def held(one, statement, sqlstate=HELD):
    """The statement must be held and change nothing; the request's id."""
    error = one.refused(statement, sqlstate, by_guard=False)
    return re.search(r"request=([0-9a-f-]{36})", error.diag.message_detail).group(1)


def approve(server, request, who="lead"):
    with server.connect(who) as connection:
        return connection.execute("select agent_guard.approve(%s)", (request,)).fetchone()[0]


def approved(server, one, statement, **more):
    request = held(one, statement)
    assert approve(server, request, **more) == "approved"
    return request


def state(server, request):
    return server.value("select state from agent_guard.approval_requests where request_id = %s", request)


def test_exactly_the_text_is_approved_and_no_other(server):
    with agent(server) as one:
        approved(server, one, "drop table lab.b")
        for other in (
            "drop table lab.b cascade",
            "drop  table lab.b",
            "drop table lab.b, lab.ref",
            "drop table lab.ref",
            "/* drop table lab.b */ drop table lab.ref",
            'drop table lab."b"',
            "do $$ begin drop table lab.b; end $$",
            "do $$ begin execute 'drop table lab.b'; end $$",
        ):
            held(one, other)
        one.run("drop table lab.b")


def test_a_batch_is_held_as_a_whole_and_each_of_it_by_itself(server):
    with agent(server) as one:
        approved(server, one, "drop table lab.b")
        # The second is held, so the first is undone with it, and its approval is still good.
        held(one, "drop table lab.b; drop table lab.ref")
        one.run("drop table lab.b")
        one.refused("drop table lab.b", "42P01", by_guard=False)


def test_another_search_path_is_another_statement(server):
    with agent(server) as one:
        one.run("set search_path = lab")
        request = approved(server, one, "drop table b")
        one.run("set search_path = lab, app")
        held(one, "drop table b")
        one.run("set search_path = other_schema, lab")
        held(one, "drop table b")
        one.run("set search_path = lab", "drop table b")
        assert state(server, request) == "used"


def test_a_table_of_the_same_name_is_another_one(server):
    with agent(server) as one:
        request = approved(server, one, "drop table lab.b")
        server.run("alter table lab.b rename to elsewhere; create table lab.b (id int); alter table lab.b owner to owner")
        assert held(one, "drop table lab.b") != request


def test_a_cascade_that_has_grown_or_shrunk_is_another_one(server):
    with agent(server) as one:
        first = approved(server, one, "drop table lab.a cascade")
        server.run("create view lab.more as select * from lab.over")
        second = held(one, "drop table lab.a cascade")
        assert second != first
        objects = server.value("select objects::text from agent_guard.approval_requests where request_id = %s", second)
        assert all(name in objects for name in ("lab.a", "lab.over", "lab.more", "lab.ref")), objects
        approve(server, second)
        server.run("drop view lab.more")
        # As it was at the first request, which is not the newest any more.
        assert held(one, "drop table lab.a cascade") not in (first, second)


def test_what_only_a_run_finds_is_asked_for_too(server):
    with agent(server) as one:
        # The column's cascade is not known beforehand: the view is found first, the foreign key after that is approved.
        statement = "alter table lab.a drop column id cascade"
        first = approved(server, one, statement)
        second = held(one, statement)
        assert second != first
        objects, found = server.rows("select objects::text, found::text from agent_guard.approval_request where request_id = %s", second)[0]
        assert "lab.over" in objects and "lab.ref" in objects and "lab.ref" in found, (objects, found)
        approve(server, second)
        one.run(statement)
        assert server.value("select to_regclass('lab.over') is null")
        assert (state(server, first), state(server, second)) == ("approved", "used")


def test_a_truncate_takes_along_what_was_approved(server):
    with agent(server) as one:
        approved(server, one, "truncate lab.a cascade")
        server.run("create table lab.late (id int references lab.a); alter table lab.late owner to owner")
        held(one, "truncate lab.a cascade")
        server.run("drop table lab.late")
        approved(server, one, "truncate lab.a cascade")
        one.run("truncate lab.a cascade")


def test_other_parameters_of_a_call_are_another_statement(server):
    server.run("create procedure app.keep(n int) language plpgsql as 'begin null; end'; alter procedure app.keep(int) owner to owner")
    with Agent(server, ("require_approval", "execute", "function app.keep(int)", {"approvers": ["lead"]})) as one:
        def call(value):
            try:
                one.connection.execute("call app.keep(%s::int)", (value,))
            except psycopg.Error as error:
                assert error.sqlstate == HELD, error
                return re.search(r"request=([0-9a-f-]{36})", error.diag.message_detail).group(1)
            return None

        request = call("1")
        assert server.value("select parameters::text from agent_guard.approval_requests where request_id = %s", request) == "{1}"
        assert approve(server, request) == "approved"
        assert call("2") not in (None, request)
        assert call("1") is None
    server.run("drop procedure app.keep(int)")


def test_other_parameters_are_another_statement(server):
    with agent(server) as one:
        one.run("prepare gone (int) as delete from app.open where id = $1")
        approved(server, one, "execute gone (3)")
        held(one, "execute gone (2)")
        one.run("execute gone (3)")

    with agent(server) as one:
        delete = "delete from app.open where id = %s"
        error = expect(HELD, one.connection.execute, delete, (3,))
        request = re.search(r"request=([0-9a-f-]{36})", error.diag.message_detail).group(1)
        assert server.value("select parameters::text from agent_guard.approval_requests where request_id = %s", request) == "{3}"
        approve(server, request)
        expect(HELD, one.connection.execute, delete, (2,))
        assert one.connection.execute(delete, (3,)).rowcount == 1

    # CALL plans nothing, and is given parameters all the same.
    server.run("create or replace procedure app.moves(n bigint) language plpgsql as 'begin insert into app.nulled values (n, null); end'; alter procedure app.moves owner to owner")
    with agent(server) as one:
        call = "call app.moves(%s)"
        error = expect(HELD, one.connection.execute, call, ("9000",))
        request = re.search(r"request=([0-9a-f-]{36})", error.diag.message_detail).group(1)
        assert server.value("select parameters::text from agent_guard.approval_requests where request_id = %s", request) == "{9000}"
        approve(server, request)
        expect(HELD, one.connection.execute, call, ("9001",))
        one.connection.execute(call, ("9000",))
    assert server.rows("select id from app.nulled where id >= 9000") == [(9000,)]


def test_a_prepared_statement_that_was_planned_before_is_held_too(server):
    with agent(server) as one:
        one.run("set plan_cache_mode = force_generic_plan", "prepare gone as delete from app.open where id = 3")
        held(one, "execute gone")
        held(one, "execute gone")


def test_a_changed_function_body_is_another_statement(server):
    with agent(server) as one:
        call = "delete from app.open where lab.pick(id)"
        approved(server, one, call)
        server.run("create or replace function lab.pick(n int) returns boolean language plpgsql immutable as 'begin return true; end'")
        held(one, call)

    with agent(server) as one:
        call = "select lab.wipe()"
        approved(server, one, call)
        server.run("create or replace function lab.wipe() returns void language plpgsql as 'begin delete from app.open where id = 3; perform 1; end'")
        held(one, call)


def test_a_changed_trigger_is_another_statement(server):
    with agent(server) as one:
        approved(server, one, "delete from app.open where id = 3")
        server.run("create trigger late before delete on app.open for each row execute function app.fire()")
        try:
            held(one, "delete from app.open where id = 3")
        finally:
            server.run("drop trigger late on app.open")


def test_a_function_of_the_agents_is_held_inside(server):
    with agent(server) as one:
        approved(server, one, "select lab.wipe()")
        # The same delete by itself, or from another caller, was not what was approved.
        held(one, "delete from app.open where id = 3")
        held(one, "select lab.wipe(), 1")
        held(one, "do $$ begin perform lab.wipe(); end $$")
        one.run("select lab.wipe()")
        assert server.value("select count(*) from app.open where id = 3") == 0


def test_caught_errors_leave_nothing_behind(server):
    with agent(server) as one:
        attempt = "do $$ begin drop table lab.b; exception when others then null; end $$"
        one.attempt(attempt)
        assert server.value("select to_regclass('lab.b') is not null")
        # The request survives though the error was caught and the transaction went on.
        assert server.value("select count(*) from agent_guard.approval_requests where statement like '%drop table lab.b%'") > 0


def test_one_approval_is_one_commit(server):
    with agent(server) as one:
        statement = "delete from app.open where id = 3"
        request = approved(server, one, statement)
        one.run("begin", statement, "rollback")
        one.run("begin", "savepoint s", statement, "rollback to s", statement)
        assert state(server, request) == "approved"
        one.run("commit")
        assert state(server, request) == "used"
        held(one, statement)


def test_twice_in_one_transaction_is_refused(server):
    with agent(server) as one:
        statement = "delete from app.open where id = 3"
        approved(server, one, statement)
        one.run("begin", statement)
        expect(HELD, one.connection.execute, statement)
        one.run("rollback")
        block = "do $$ begin delete from app.open where id = 3; delete from app.open where id = 3; end $$"
        approved(server, one, block)
        error = one.attempt(block)
        assert error is not None and error.sqlstate == HELD, error


def test_of_two_sessions_one_wins(server):
    with agent(server) as one, server.connect("owner", autocommit=False) as other:
        statement = "delete from app.open where id = 3"
        request = approved(server, one, statement)
        bind(other, one.token)
        other.commit()
        other.execute(statement)
        # Not even a wait: the row is the other's until its transaction ends.
        expect(HELD, one.connection.execute, statement, match="approval_busy")
        other.commit()
        assert state(server, request) == "used"
        expect(HELD, one.connection.execute, statement)


def test_an_approver_is_not_made_to_wait_for_an_agent(server):
    with agent(server) as one, server.connect("lead") as lead:
        statement = "delete from app.open where id = 3"
        request = approved(server, one, statement)
        one.run("begin", statement)
        expect("55000", lead.execute, "select agent_guard.reject(%s)", (request,), match="at this moment")
        one.run("rollback")
        assert lead.execute("select agent_guard.reject(%s, 'no')", (request,)).fetchone()[0] == "rejected"
        error = one.attempt(statement)
        assert error.sqlstate == REJECTED and "no" in error.diag.message_detail, error


def test_children_and_parents_have_requests_of_their_own(server):
    rebuild(server)
    with Agent(server, *RULES, max_depth=1) as parent, server.connect("owner") as session:
        request = approved(server, parent, "drop table lab.b")
        child = parent.run("select agent_guard.delegate('child', '10 min')")[0][0]
        bind(session, child)
        error = expect(HELD, session.execute, "drop table lab.b")
        assert request not in error.diag.message_detail
        assert session.execute("select count(*) from agent_guard.my_approvals()").fetchone()[0] == 1
        parent.run("drop table lab.b")


def test_no_agent_approves(server):
    server.run("grant leads to owner")
    try:
        with agent(server) as one:
            request = held(one, "drop table lab.b")
            for call in ("approve", "reject"):
                one.refused(f"select agent_guard.{call}('{request}')", DENIED, by_guard=False)
            for statement in (
                "update agent_guard.approval_request set state = 'approved'",
                "delete from agent_guard.approval_request",
                "insert into agent_guard.approval_vote select request_id, 'lead', 'approve', '{1}', now() from agent_guard.approval_request",
                "select * from agent_guard.approval_requests",
                "set role lead",
            ):
                one.refused(statement, one.attempt(statement).sqlstate, by_guard=False)
            assert state(server, request) == "pending"
    finally:
        server.run("revoke leads from owner")


def test_a_change_of_the_policy_ends_its_approvals(server):
    with agent(server) as one:
        first = approved(server, one, "drop table lab.b")
        server.run(f"select agent_guard.deny('{one.policy}', '{{drop}}', '{{lab.a}}')")
        assert held(one, "drop table lab.b") != first


def test_a_deny_is_stronger_than_an_approval(server):
    with agent(server) as one:
        approved(server, one, "drop table lab.a cascade")
        server.run(f"select agent_guard.deny('{one.policy}', '{{drop}}', '{{lab.over}}')")
        request = held(one, "drop table lab.a cascade")
        approve(server, request)
        one.refused("drop table lab.a cascade")


def test_an_expired_approval_is_none(server):
    rebuild(server)
    rules = [("allow", "*", "*"), ("require_approval", "drop", "*", {"approvers": ["leads"], "approval_ttl": "1 second"})]
    with Agent(server, *rules) as one:
        first = approved(server, one, "drop table lab.b")
        eventually(lambda: state(server, first) == "expired", "the approval expires")
        assert held(one, "drop table lab.b") != first


def test_a_revoked_window_uses_nothing(server):
    with agent(server) as one:
        request = approved(server, one, "drop table lab.b")
        one.run("begin", "drop table lab.b")
        server.run(f"set client_min_messages = error; select agent_guard.revoke_window('{one.window_id}')")
        assert one.attempt("commit") is not None
        assert server.value("select to_regclass('lab.b') is not null")
        assert state(server, request) == "expired"


def test_commands_that_are_dangerous_out_of_the_box(server):
    with agent(server) as one:
        for statement in (
            "drop schema lab cascade",
            "drop database postgres",
            "alter role peer superuser",
            "alter role owner set search_path = app",
            "grant select on lab.a to peer",
            "grant keeper to peer",
            "truncate lab.a, lab.ref",
            "drop owned by owner",
        ):
            held(one, statement)


def test_a_direct_function_call_cannot_be_put_to_approval(server):
    with agent(server) as one:
        wire = server.wire("owner")
        wire.query(f"set agent_guard.token = '{one.token}'")
        oid = server.value("select 'app.one()'::regprocedure::oid::int")
        reply = wire.call(oid)
        assert reply.sqlstate == DENIED, reply
        wire.drop()


def test_requests_are_bounded_per_window(server):
    with agent(server) as one:
        for number in range(100):
            one.attempt(f"drop table lab.b -- {number}")
        error = one.attempt("drop table lab.b -- once more")
        assert error.sqlstate == DENIED and "approval_unavailable" in error.diag.message_detail, error


def test_a_statement_too_large_is_refused_plainly(server):
    with agent(server) as one:
        request = held(one, "drop table lab.b /* " + "x" * 200_000 + " */")
        assert server.value("select statement_length from agent_guard.approval_requests where request_id = %s", request) > 200_000
        held(one, "drop table lab.b /* " + "x" * 200_000 + "y */")


def test_secrets_do_not_get_into_requests(server):
    with agent(server) as one:
        secret = one.token.split(".")[-1]
        held(one, f"drop table lab.b /* postgresql://someone:{secret}@host */")
        assert server.value("select count(*) from agent_guard.approval_request r where r::text like '%%' || %s || '%%'", secret) == 0


def test_what_looks_like_a_token_cannot_be_approved(server):
    """Tokens are masked in every text before it is hashed: one of them would stand for all others of its length."""
    with agent(server, ("require_approval", "update", "app.open", {"approvers": ["leads"]})) as one:
        for value in ("agt1." + 30 * "a", one.token, 'x"agt1.' + 30 * "b"):
            for statement in (f"update app.open set v = '{value}' where id = 1", f"do $$ begin drop table lab.b; /* {value} */ end $$", f"drop table lab.b /* {value} */"):
                error = one.refused(statement, DENIED)
                assert "approval_unavailable" in error.diag.message_detail, error
        # As a parameter it is what it is.
        update, values = "update app.open set v = %s where id = 1", ["agt1." + 30 * letter for letter in "ab"]
        error = expect(HELD, one.connection.execute, update, (values[0],))
        approve(server, re.search(r"request=([0-9a-f-]{36})", error.diag.message_detail).group(1))
        expect(HELD, one.connection.execute, update, (values[1],))
        one.connection.execute(update, (values[0],))
        # A word about tokens is none.
        approved(server, one, "update app.open set v = 'agt1.short' where id = 1")
        held(one, "update app.open set v = 'agt1.other' where id = 1")


def test_nobody_is_told_in_vain(server):
    """request, decision and use are NOTIFYs, the request within 100 ms."""
    with agent(server) as one, server.connect("lead") as lead:
        lead.execute("listen agent_guard_approval")
        held(one, "drop table lab.b")
        told = next(lead.notifies(timeout=60))
        assert '"event":"request"' in told.payload.replace(" ", ""), told
        request = re.search(r"[0-9a-f-]{36}", told.payload).group(0)
        approve(server, request)
        assert "approve" in next(lead.notifies(timeout=60)).payload
        one.run("begin", "drop table lab.b", "rollback", "drop table lab.b")
        # Notifications arrive in the order of their commits: what comes before this one is all of it.
        server.run("notify agent_guard_approval, 'the last'")
        told = []
        for notification in lead.notifies(timeout=60):
            if notification.payload == "the last":
                break
            told.append(notification.payload)
        assert len(told) == 1 and '"use"' in told[0], told


def test_a_crash_loses_nothing_and_nothing_is_used_twice(server):
    with agent(server) as one:
        pending = held(one, "drop table lab.ref")
        good = approved(server, one, "drop table lab.b")
        used = approved(server, one, "delete from app.open where id = 3")
        one.run("set synchronous_commit = on", "delete from app.open where id = 3")
        open_ = server.connect("owner", autocommit=False)
        bind(open_, one.token)
        open_.commit()
        open_.execute("drop table lab.b")
        token, window = one.token, one.window_id
        pid = open_.info.backend_pid
        server.crash(pid)
        assert state(server, pending) == "pending"
        assert state(server, good) == "approved"
        assert state(server, used) == "used"
        with server.connect("owner") as again:
            bind(again, token)
            expect(HELD, again.execute, "delete from app.open where id = 3")
            error = expect(HELD, again.execute, "drop table lab.ref")
            assert pending in error.diag.message_detail
            again.execute("drop table lab.b")
            expect("42P01", again.execute, "drop table lab.b")
        assert state(server, good) == "used"


def test_old_requests_are_removed_and_nothing_else(server):
    with agent(server) as one, Agent(server, *RULES) as past, agent(server) as other:
        used, good, rejected = (approved(server, one, f"truncate lab.ref /* {n} */") for n in range(3))
        one.run("truncate lab.ref /* 0 */")
        with server.connect("lead") as lead:
            lead.execute("select agent_guard.reject(%s)", (rejected,))
        pending, ended = held(one, "truncate lab.ref /* 4 */"), held(past, "truncate lab.ref /* 5 */")
        server.run(f"set client_min_messages = error; select agent_guard.revoke_window('{past.window_id}')")
        there = lambda: {row[0] for row in server.rows("select request_id::text from agent_guard.approval_request")}
        everything = {used, good, rejected, pending, ended}
        server.run("alter system set agent_guard.approval_retention = '1 s'")
        server.run("select pg_reload_conf()")
        try:
            # Each request looks, at most once in the time for which they are kept.
            numbers = itertools.count()

            def gone():
                held(other, f"truncate lab.ref /* new {next(numbers)} */")
                return not there() & {used, ended}

            eventually(gone, "used requests and those of ended windows go")
            # Approved and rejected ones have ten minutes of their own first; a pending one stays as long as its window.
            assert there() & everything == {good, rejected, pending}
            assert server.value("select count(*) from agent_guard.approval_vote where request_id = %s", used) == 0
            one.run("truncate lab.ref /* 1 */")
        finally:
            server.run("alter system reset agent_guard.approval_retention")
            server.run("select pg_reload_conf()")


def test_one_view_shows_everything_with_its_age(server):
    with agent(server) as one:
        pending, good = held(one, "drop table lab.b"), approved(server, one, "drop table lab.ref")
        show = "select request_id::text, state, age >= '0' and age < '1 minute' from agent_guard.approval_requests where window_id = %s order by 1"
        wanted = sorted([(pending, "pending", True), (good, "approved", True)])
        assert server.rows(show, one.window_id) == wanted
        with server.connect("lead") as lead:
            assert lead.execute(show, (one.window_id,)).fetchall() == wanted
            server.run(f"set client_min_messages = error; select agent_guard.revoke_window('{one.window_id}')")
            assert {row[1] for row in lead.execute(show, (one.window_id,)).fetchall()} == {"expired"}
            expect("55000", lead.execute, "select agent_guard.approve(%s)", (pending,), match="window has ended")


def test_a_read_is_held_and_runs_in_parallel(server):
    rebuild(server)
    server.run(
        """
        set role owner;
        create table lab.wide as select generate_series(1, 100000) n;
        alter table lab.wide set (parallel_workers = 2);
        analyze lab.wide;
        create view lab.over_wide as select * from lab.wide where n > 0;
        """
    )
    rules = [("allow", "*", "*"), ("require_approval", "select", "lab.wide", {"approvers": ["leads"]})]
    with Agent(server, *rules) as one:
        one.run("set parallel_setup_cost = 0", "set parallel_tuple_cost = 0", "set min_parallel_table_scan_size = 0")
        for statement in ("select count(*) from lab.wide", "select count(*) from lab.over_wide"):
            approved(server, one, statement)
            assert one.run(statement) == [(100000,)]
            held(one, statement)
        # Reached in any other way it is held too.
        for statement in ("copy lab.wide to stdout", "table lab.wide", "declare c cursor with hold for select * from lab.wide",
                          "create table lab.copied as select * from lab.wide", "explain analyze select * from lab.wide",
                          "do $$ begin perform count(*) from lab.wide; end $$"):
            held(one, statement)


def test_the_bot_of_the_documentation(server):
    page = (guard.TOP / "docs" / "approvals.md").read_text()
    bot = re.search(r"```python\n(.*?)```", page, re.S).group(1)
    assert len(bot.splitlines()) < 40
    rebuild(server)
    server.run("set role owner; create table lab.tmp_a (id int); create table lab.big as select generate_series(1, 5000) n; analyze lab.big")
    with Agent(server, *RULES) as one:
        dsn = f"host={server.host} port={server.port} user=lead dbname=postgres"
        process = subprocess.Popen([sys.executable, "-c", bot, "60"], env={**os.environ, "APPROVER_DSN": dsn}, stdout=subprocess.PIPE, text=True)
        try:
            listening = "select count(*) from pg_stat_activity where usename = 'lead' and query like 'listen%'"
            eventually(lambda: server.value(listening), "the bot listens")
            requests = {held(one, "drop table lab.tmp_a"): "approved", held(one, "truncate lab.big"): "rejected"}
            for request, wanted in requests.items():
                eventually(lambda: state(server, request) == wanted, f"the bot: {wanted}")
            one.run("drop table lab.tmp_a")
            left = held(one, "drop table lab.b")
            eventually(lambda: left in process.stdout.readline(), "the bot leaves it")
            assert state(server, left) == "pending"
        finally:
            process.kill()
            process.wait()


if __name__ == "__main__":
    guard.run(globals())
