"""Waiting for an approval: what a session holds meanwhile, what ends the wait, how long it may last, what may wait."""

from __future__ import annotations

import threading
import time

import psycopg

import attack_approval
import guard
from attack_approval import RULES, agent, approve, held, rebuild, state
from guard import eventually, expect
from scene import Agent

HELD = attack_approval.HELD
REJECTED = attack_approval.REJECTED
setup = attack_approval.setup


class Waiting:
    """A statement that waits for its approval, in a thread."""

    def __init__(self, server, one, statement, wait="30s", parameters=None):
        one.run(f"set agent_guard.approval_wait = '{wait}'")
        self.pid = one.connection.info.backend_pid
        self.error = None
        self.ended = None
        before = server.value("select count(*) from agent_guard.approval_request")
        self.thread = threading.Thread(target=self._run, args=(one, statement, parameters))
        self.thread.start()
        asked = lambda: server.value("select count(*) from agent_guard.approval_request") > before
        eventually(lambda: asked() or self.ended, "the request")
        if not asked():
            raise self.error
        self.request = server.value("select request_id::text from agent_guard.approval_request order by requested_at desc limit 1")
        activity = "select count(*) from pg_stat_activity where pid = %s and xact_start is null and backend_xmin is null"
        eventually(lambda: server.value(activity, self.pid) == 1, "the session waits without a transaction")

    def _run(self, one, statement, parameters):
        try:
            one.connection.execute(statement, parameters)
        except psycopg.Error as error:
            self.error = error
        self.ended = time.monotonic()

    def join(self, seconds=20):
        self.thread.join(seconds)
        assert not self.thread.is_alive(), "it still waits"
        return self.error


def test_a_waiting_session_holds_nothing_and_goes_on_when_it_may(server):
    with agent(server) as one:
        waiting = Waiting(server, one, "drop table lab.b")
        assert server.value("select count(*) from pg_locks where pid = %s", waiting.pid) == 0
        assert server.rows("select backend_xmin, backend_xid from pg_stat_activity where pid = %s", waiting.pid) == [(None, None)]
        with server.connect("lead") as lead:
            lead.execute("select agent_guard.approve(%s)", (waiting.request,))
            approved_at = time.monotonic()
        assert waiting.join() is None, waiting.error
        print(f"  resumed {(waiting.ended - approved_at) * 1000:.0f} ms after the approval")
        assert waiting.ended - approved_at < 10
        assert server.value("select to_regclass('lab.b') is null")
        assert state(server, waiting.request) == "used"


def test_what_ends_a_wait(server):
    with agent(server) as one:
        waiting = Waiting(server, one, "drop table lab.b")
        with server.connect("lead") as lead:
            lead.execute("select agent_guard.reject(%s)", (waiting.request,))
        assert waiting.join().sqlstate == REJECTED
        waiting = Waiting(server, one, "drop table lab.ref")
        server.value("select pg_cancel_backend(%s)", waiting.pid)
        assert waiting.join().sqlstate == guard.CLOSED
        # It is over, and the request stays.
        assert Waiting(server, one, "drop table lab.ref /* soon */", wait="300ms").join().sqlstate == HELD
        waiting = Waiting(server, one, "truncate lab.ref")
        server.run(f"set client_min_messages = error; select agent_guard.revoke_window('{one.window_id}')")
        assert waiting.join().sqlstate == guard.UNAUTHENTICATED
    with agent(server) as one:
        waiting = Waiting(server, one, "drop table lab.b")
        server.value("select pg_terminate_backend(%s)", waiting.pid)
        waiting.join()
        assert one.connection.closed or one.connection.broken


def test_a_wait_changes_nothing_of_what_is_approved(server):
    with agent(server) as one:
        waiting = Waiting(server, one, "drop table lab.b")
        # While it waits, the name comes to stand for something else.
        server.run("alter table lab.b rename to elsewhere; create table lab.b (id int); alter table lab.b owner to owner")
        approve(server, waiting.request)
        assert waiting.join().sqlstate == HELD
        assert server.value("select to_regclass('lab.b') is not null and to_regclass('lab.elsewhere') is not null")


def at_once(one, statement):
    """It is held without any of the minute's wait."""
    began = time.monotonic()
    error = one.attempt(statement)
    took = time.monotonic() - began
    assert error is not None and error.sqlstate == HELD and took < 30, (statement, took, error)


def test_nothing_waits_that_would_hold_something(server):
    with agent(server) as one:
        one.run("set agent_guard.approval_wait = '60s'")
        one.run("prepare gone as delete from app.open where id = 3")
        for statement in (
            "do $$ begin drop table lab.b; end $$",
            "drop table lab.b; select 1",
            "delete from app.open where id = 3; select 1",
            "select 1; delete from app.open where id = 3",
            "delete from app.open where id = 3 returning id",
            "with gone as (delete from app.open where id = 3 returning id) select count(*) from gone",
            "execute gone",
            "explain analyze delete from app.open where id = 3",
            "do $$ begin delete from app.open where id = 3; end $$",
            "select lab.wipe()",
        ):
            held(one, statement)
            at_once(one, statement)
        for statement in ("drop table lab.b", "delete from app.open where id = 3"):
            one.run("begin")
            at_once(one, statement)
        # What came before in a pipeline is part of the same transaction.
        began = time.monotonic()

        def pipeline():
            with one.connection.pipeline():
                one.connection.execute("insert into app.open values (77, 'x')")
                one.connection.execute("delete from app.open where id = 3")

        expect(HELD, pipeline)
        assert time.monotonic() - began < 50
        assert server.value("select count(*) from app.open where id = 77") == 0


DELETE = "delete from app.open where id = 3"


def there(server):
    return server.value("select count(*) from app.open where id = 3") == 1


def test_a_change_of_rows_waits_and_holds_nothing(server):
    for statement, parameters in ((DELETE, None), ("delete from app.open where id = %s", (3,))):
        with agent(server) as one:
            waiting = Waiting(server, one, statement, parameters=parameters)
            assert server.value("select count(*) from pg_locks where pid = %s", waiting.pid) == 0
            assert server.rows("select backend_xmin, backend_xid from pg_stat_activity where pid = %s", waiting.pid) == [(None, None)]
            # Nobody is kept from anything.
            server.run("set lock_timeout = '5s'; begin; lock app.open in access exclusive mode; rollback")
            approve(server, waiting.request)
            approved_at = time.monotonic()
            assert waiting.join() is None, waiting.error
            print(f"  resumed {(waiting.ended - approved_at) * 1000:.0f} ms after the approval")
            assert not there(server) and state(server, waiting.request) == "used"
            # The session is as good as before, and the approval is used up.
            one.run("set agent_guard.approval_wait = 0", "insert into app.open values (3, 'open-3')")
            held(one, DELETE)
            # Recorded once, as what it came to.
            events = server.audit("lineage is not null and window_id = %s and event = 'statement' and level = 0 and command = 'DELETE' and decision = 'allow'", one.window_id, columns="rows, sqlstate")
            assert events == [(1, None)], events


def test_a_prepared_change_waits_too(server):
    with agent(server) as one:
        one.connection.prepare_threshold = 0
        one.run("set plan_cache_mode = force_generic_plan")
        for n in range(3):
            server.run("insert into app.open values (3, 'open-3') on conflict do nothing")
            waiting = Waiting(server, one, "delete from app.open where id = %s", parameters=(3,))
            approve(server, waiting.request)
            assert waiting.join() is None, waiting.error
            assert not there(server)


def test_it_works_on_what_is_there_afterwards(server):
    with agent(server) as one:
        waiting = Waiting(server, one, "delete from app.open where v like 'late%'")
        server.run("insert into app.open values (78, 'late')")
        approve(server, waiting.request)
        assert waiting.join() is None, waiting.error
        assert server.value("select count(*) from app.open where id = 78") == 0


def test_what_ends_the_wait_of_a_change(server):
    with agent(server) as one:
        waiting = Waiting(server, one, DELETE)
        with server.connect("lead") as lead:
            lead.execute("select agent_guard.reject(%s)", (waiting.request,))
        assert waiting.join().sqlstate == REJECTED
        waiting = Waiting(server, one, DELETE + " /* 2 */")
        server.value("select pg_cancel_backend(%s)", waiting.pid)
        assert waiting.join().sqlstate == guard.CLOSED
        assert Waiting(server, one, DELETE + " /* 3 */", wait="300ms").join().sqlstate == HELD
        waiting = Waiting(server, one, DELETE + " /* 4 */")
        server.run(f"set client_min_messages = error; select agent_guard.revoke_window('{one.window_id}')")
        assert waiting.join().sqlstate == guard.UNAUTHENTICATED
    with agent(server) as one:
        waiting = Waiting(server, one, DELETE)
        server.value("select pg_terminate_backend(%s)", waiting.pid)
        waiting.join()
        assert one.connection.closed or one.connection.broken
    assert there(server)


def test_a_plan_that_has_become_stale_does_not_run(server):
    with agent(server) as one:
        for n, change in enumerate((
            "alter table app.open add column later int",
            "alter table app.open drop column later",
            "create index later on app.open (v)",
            "drop index app.later",
            "create or replace function lab.pick(n int) returns boolean language plpgsql immutable as 'begin return true; end'",
        )):
            waiting = Waiting(server, one, f"{DELETE} /* {n} */")
            server.run(change)
            approve(server, waiting.request)
            error = waiting.join()
            assert error is not None and error.sqlstate == HELD and "plan_stale" in error.diag.message_detail, (change, error)
            assert there(server)
            # The approval is as good as it was: what was approved is the statement, not its plan.
            one.run("begin", f"{DELETE} /* {n} */", "rollback")
        # Somebody else's table is nothing to it.
        waiting = Waiting(server, one, DELETE)
        server.run("alter table lab.ref add column later int")
        approve(server, waiting.request)
        assert waiting.join() is None, waiting.error


def test_what_has_become_forbidden_meanwhile_is_refused(server):
    # update is allowed here, and held; the mask comes while it waits.
    rules = [("allow", "*", "*"), ("require_approval", "update", "app.open", {"approvers": ["leads"]})]
    rebuild(server)
    with Agent(server, *rules) as one:
        waiting = Waiting(server, one, "update app.open set v = 'x' where hidden = 'hidden-1'")
        server.run("select agent_guard.mask_column('app.open', 'hidden', 'redact')")
        try:
            approve(server, waiting.request)
            assert waiting.join() is not None, "it has read a masked column"
            assert server.value("select count(*) from app.open where v = 'x'") == 0
        finally:
            server.run("select agent_guard.unmask_column('app.open', 'hidden')")
        waiting = Waiting(server, one, "update app.open set v = 'y' where id = 1")
        server.run(f"select agent_guard.deny('{one.policy}', array['update'], array['app.open'])")
        approve(server, waiting.request)
        assert waiting.join().sqlstate == guard.DENIED, waiting.error


def test_the_policy_says_how_long_at_most(server):
    rebuild(server)
    rules = [
        ("allow", "*", "*"),
        ("require_approval", "drop", "lab.*", {"approvers": ["leads"], "max_wait": "0"}),
        ("require_approval", "truncate", "lab.*", {"approvers": ["leads"], "max_wait": "1 hour"}),
        ("require_approval", "truncate", "lab.b", {"approvers": ["leads"], "max_wait": "1 s"}),
        ("require_approval", "comment", "lab.*", {"approvers": ["leads"]}),
    ]
    with Agent(server, *rules) as one:
        # Not at all.
        one.run("set agent_guard.approval_wait = '1 h'", "set statement_timeout = '120s'")
        held(one, "drop table lab.b")
        at_once(one, "drop table lab.b")
        # The shortest of the rules that hold it; then that of the one that does.
        began = time.monotonic()
        held(one, "truncate lab.b")
        assert 0.9 < time.monotonic() - began < 50
        for statement in ("truncate lab.ref", "comment on table lab.b is 'x'"):
            waiting = Waiting(server, one, statement, wait="1h")
            time_passes = eventually(lambda: server.value("select age > '1 s' from agent_guard.approval_requests where request_id = %s", waiting.request), "a second")
            assert time_passes and waiting.thread.is_alive()
            approve(server, waiting.request)
            assert waiting.join() is None, waiting.error
        # The session's own setting is never stretched.
        assert Waiting(server, one, "truncate lab.ref /* soon */", wait="300ms").join().sqlstate == HELD


def test_the_end_of_the_token_ends_the_wait(server):
    rebuild(server)

    def waits(seconds):
        began = time.monotonic()
        one = Agent(server, *RULES, ttl=f"{seconds} seconds")
        return one, Waiting(server, one, "drop table lab.b", wait="1h"), began + seconds

    one, waiting, end = guard.in_time(waits)
    with one:
        assert waiting.join(80).sqlstate == guard.UNAUTHENTICATED, waiting.error
        assert waiting.ended - end < 10
        assert server.value("select to_regclass('lab.b') is not null")
        assert state(server, waiting.request) == "expired"


def test_a_shutdown_ends_the_wait(server):
    with agent(server) as one:
        waiting = Waiting(server, one, "drop table lab.b")
        began = time.monotonic()
        server.restart()
        assert waiting.join() is not None and one.connection.broken
        assert waiting.ended - began < 10
        assert server.value("select to_regclass('lab.b') is not null")
        assert state(server, waiting.request) == "pending"
        # And it is the same request that the statement comes back to.
        with server.connect("owner") as again:
            guard.bind(again, one.token)
            assert waiting.request in expect(HELD, again.execute, "drop table lab.b").diag.message_detail


if __name__ == "__main__":
    guard.run(globals())
