"""A connection handed from one token to another: a transaction answers for every token that it ran under, and nothing that
was read under one is sent, kept or written after its end."""

import pathlib
import threading
import time

import psycopg

import guard
import scene
from guard import CLOSED, DENIED, UNAUTHENTICATED, bind, eventually, expect, in_time
from scene import Agent
from tokens import child, claims_of

RULES = [
    ("allow", ["select", "insert", "update", "delete"], ["app.open", "app.parted"]),
    ("allow", "temporary", "*"),
    ("allow", ["notify", "system"], "*"),
    ("allow", "execute", ["function app.*", "function pg_catalog.pg_sleep(double precision)"]),
]
SHUTDOWN = "57P01"
ENDED = (CLOSED, SHUTDOWN, UNAUTHENTICATED)
# The bound of the tests for an end that somebody else has to notice, also on a machine that is ten times slower.
BOUND = 6.0


def setup(server):
    scene.setup(server)
    server.run(
        """create function app.forgiving() returns void language plpgsql as $$
           begin
               update app.open set v = 'forgiven' where id = 1;
               begin perform pg_sleep(60); exception when query_canceled then null; end;
           end $$;
           create function app.persistent() returns int language plpgsql as $$
           declare tried int := 0;
           begin
               begin perform pg_sleep(60); exception when query_canceled then null; end;
               for n in 1 .. 5 loop
                   begin insert into app.open values (100 + n, 'persistent'); tried := tried + 1; exception when others then null; end;
               end loop;
               return tried;
           end $$;
           create procedure app.committing() language plpgsql as $$
           begin
               update app.open set v = 'committed' where id = 1;
               begin perform pg_sleep(60); exception when query_canceled then null; end;
               commit;
           end $$;
           create function app.next_of(c refcursor) returns text language plpgsql as $$
           declare r record;
           begin fetch c into r; return r.v; end $$;
           alter function app.forgiving() owner to owner;
           alter function app.persistent() owner to owner;
           alter function app.next_of(refcursor) owner to owner;
           alter procedure app.committing() owner to owner;"""
    )


def revoke(server, window):
    server.run(f"select agent_guard.revoke_window('{window}')")


def refused(connection, statement):
    """The statement must end in one of the ways in which a token's end shows."""
    try:
        connection.execute(statement)
    except psycopg.Error as error:
        state = error.sqlstate or SHUTDOWN
        assert state in ENDED, f"{state} {error}: {statement}"
        return error
    raise AssertionError(f"it ran: {statement}")


def two(server):
    """Agents of two windows; the first has the connection."""
    return Agent(server, *RULES), Agent(server, *RULES)


def value(server, id=1):
    return server.value("select v from app.open where id = %s", id)


def untouched(server, change):
    before = server.rows("select * from app.open order by id")
    change()
    after = server.rows("select * from app.open order by id")
    assert before == after, (before, after)


# --- a transaction that ran under several tokens ---

MOVES = {
    "set": lambda b: [f"set agent_guard.token = '{b}'"],
    "set local": lambda b: [f"set local agent_guard.token = '{b}'"],
    "savepoint": lambda b: ["savepoint s", f"set local agent_guard.token = '{b}'", "release s"],
    "set_config": lambda b: [f"select set_config('agent_guard.token', '{b}', false)"],
    "reset first": lambda b: ["reset agent_guard.token", f"set agent_guard.token = '{b}'"],
}


def test_a_transaction_ends_with_each_token_that_it_ran_under(server):
    for name, moves in MOVES.items():
        for then in ("commit", "insert into app.open values (50, 'x')", "select count(*) from app.open"):
            first, second = two(server)

            def attack():
                first.run("begin", "select * from app.open", "update app.open set v = 'moved' where id = 1")
                first.run(*moves(second.token), "update app.open set v = 'again' where id = 2")
                revoke(server, first.window_id)
                refused(first.connection, then)
                if not first.connection.closed and then != "commit":
                    try:
                        first.connection.execute("commit")
                    except psycopg.Error:
                        pass

            untouched(server, attack)
            first.connection.close()
            # The second token lives on in a transaction of its own.
            assert second.run("select count(*) from app.open") == [(3,)], name


def test_the_earlier_tokens_end_by_the_clock_counts_too(server):
    first, second = Agent(server, *RULES, max_depth=1), Agent(server, *RULES)

    def moved(seconds):
        short = child(first.token, seconds=seconds)
        connection = server.connect("owner")
        bind(connection, short)
        for statement in ("begin", "update app.open set v = 'late' where id = 1", f"set agent_guard.token = '{second.token}'"):
            connection.execute(statement)
        return connection, claims_of(short)["exp"]

    def attack():
        connection, deadline = in_time(moved)
        pid = connection.info.backend_pid
        eventually(lambda: not server.value("select count(*) from pg_locks where pid = %s", pid), "its locks are gone", 60)
        assert time.time() - deadline < BOUND
        refused(connection, "commit")

    untouched(server, attack)


def test_a_transaction_that_never_ran_under_the_ended_token_goes_on(server):
    first, second = two(server)
    connection = first.connection
    bind(connection, second.token)
    connection.execute("begin")
    connection.execute("update app.open set v = 'kept' where id = 1")
    revoke(server, first.window_id)
    time_to_be_wrong = server.value("select count(*) from agent_guard.sessions")
    assert time_to_be_wrong
    connection.execute("update app.open set v = 'open-1' where id = 1")
    connection.execute("commit")
    assert value(server) == "open-1"


def test_a_new_token_does_not_commit_what_an_old_one_wrote(server):
    for how in ("set", "set local", "reset first"):
        first, second = two(server)

        def attack():
            first.run("begin", "update app.open set v = 'saved' where id = 1")
            revoke(server, first.window_id)
            for statement in [*MOVES[how](second.token), "commit"]:
                try:
                    first.connection.execute(statement)
                except psycopg.Error:
                    pass
            if not first.connection.closed:
                first.connection.execute("rollback")

        untouched(server, attack)


def test_a_transaction_keeps_account_of_a_bounded_number_of_tokens(server):
    agent = Agent(server, *RULES, max_depth=1)
    connection = agent.connection
    connection.execute("begin")
    for n in range(15):
        bind(connection, child(agent.token, sub=f"c{n}"))
        connection.execute("select 1")
    expect(UNAUTHENTICATED, bind, connection, child(agent.token, sub="one-more"), match="reason=resource_limit")
    connection.execute("rollback")
    bind(connection, agent.token)
    connection.execute("select 1")


# --- a cancel that is caught ---


def caught(server, statement, *before):
    """Runs a statement that catches its cancel, and revokes its token meanwhile; the error it ends in."""
    agent = Agent(server, *RULES)
    agent.run(*before)
    errors = []

    def run():
        try:
            agent.connection.execute(statement)
            errors.append(None)
        except psycopg.Error as error:
            errors.append(error)

    runner = threading.Thread(target=run)
    runner.start()
    pid = agent.connection.info.backend_pid
    eventually(lambda: server.value("select count(*) from pg_stat_activity where pid = %s and wait_event = 'PgSleep'", pid), "it sleeps")
    revoke(server, agent.window_id)
    runner.join(20)
    assert errors, "it still runs"
    return agent, errors[0]


def test_a_function_that_catches_the_cancel_commits_nothing(server):
    for statement in ("select app.forgiving()", "select app.persistent()", "call app.committing()"):

        def attack():
            agent, error = caught(server, statement)
            assert error is not None, f"it ran to its end: {statement}"
            assert (error.sqlstate or SHUTDOWN) in ENDED and "reason=revoked" in (error.diag.message_detail or ""), error

        untouched(server, attack)


def test_a_block_around_a_caught_cancel_commits_nothing(server):
    def attack():
        agent, error = caught(server, "select app.forgiving()", "begin")
        if error is None:
            refused(agent.connection, "commit")

    untouched(server, attack)


# --- rows that were stored while the token was good ---


def wire_of(server, token):
    wire = server.wire("owner")
    good(wire.query(f"set agent_guard.token = '{token}'"))
    return wire


class Refused(AssertionError):
    """What has to be answered was refused."""


def good(reply):
    if reply.errors or reply.closed:
        raise Refused(reply.errors or "closed")
    return reply


def before_it_ends(agent, made, seconds=2):
    """What `made` makes under a token of so many seconds; one that ends before is followed by one of twice as many."""
    while True:
        try:
            return made(child(agent.token, seconds=seconds))
        except (Refused, BrokenPipeError) as error:
            # Or its connection was ended already.
            if seconds > 60 or (isinstance(error, Refused) and not any(word in str(error) for word in ("reason=expired", "closed"))):
                raise
        seconds *= 2


def executed(wire, portal, max_rows=1):
    """What the protocol's Execute of a portal gives, whatever becomes of it."""
    wire.execute(portal, max_rows)
    return wire.sync()


def test_a_held_cursor_gives_nothing_by_execute_after_the_end(server):
    ends = ("revoked", "expired", "let go", "local")
    for end in ends:
        agent = Agent(server, *RULES, max_depth=1)
        local = "local" if end == "local" else ""

        def holding(token):
            wire = server.wire("owner")
            for statement in ("begin", f"set {local} agent_guard.token = '{token}'", "declare h cursor with hold for select v from app.open", "fetch 1 from h", "commit"):
                good(wire.query(statement))
            if end != "local":
                assert good(executed(wire, "h")).text(), "the nearest allowed thing: Execute while the token is good"
            return wire

        wire = before_it_ends(agent, holding) if end == "expired" else holding(child(agent.token))
        if end == "revoked":
            revoke(server, agent.window_id)
        elif end == "expired":
            state = "select count(*) from agent_guard.sessions where window_id = %s and state = 'expired'"
            eventually(lambda: server.value(state, agent.window_id), "it has expired", 60)
        elif end == "let go":
            wire.query("reset agent_guard.token")
        reply = executed(wire, "h", 0)
        assert reply.errors and not reply.rows, f"{end}: {reply.rows}"
        assert reply.sqlstate in (UNAUTHENTICATED, "34000"), (end, reply.errors)
        wire.close()


SUSPENDED = {
    "select": "select v from app.open",
    "returning": "update app.open set v = v returning v",
    "union": "select v from app.open union all select v from app.open",
    "explain": "explain (costs off) select v from app.open order by v",
}


def test_suspended_portals_give_nothing_after_the_end(server):
    for name, statement in SUSPENDED.items():
        for end in ("revoked", "expired"):
            agent = Agent(server, *RULES, max_depth=1)

            def suspended(token, statement=statement):
                wire = wire_of(server, token)
                good(wire.query("begin"))
                wire.parse(statement)
                wire.bind("p")
                wire.execute("p", 1)
                wire.flush()
                good(wire.until("sCE"))
                return wire

            wire = before_it_ends(agent, suspended) if end == "expired" else suspended(child(agent.token))
            if end == "revoked":
                revoke(server, agent.window_id)
            else:
                # By the time that anybody looks the session may be gone.
                bound = "select exists (select from agent_guard.sessions where pid = %s and state = 'bound')"
                eventually(lambda: not server.value(bound, wire.key[0]), "it has expired", 60)
            try:
                reply = executed(wire, "p", 0)
            except (OSError, AssertionError):
                continue  # The connection was ended already.
            assert not reply.rows and (reply.errors or reply.closed), f"{name}, {end}: {reply.rows}"
            if reply.errors:
                assert reply.sqlstate in ENDED, (name, end, reply.errors)
            wire.drop()


def test_a_suspended_portal_does_not_serve_a_narrower_token(server):
    for name, statement in SUSPENDED.items():
        for how in ("set agent_guard.token = '{}'", "select set_config('agent_guard.token', '{}', false)", "set local agent_guard.token = '{}'"):
            agent = Agent(server, *RULES, max_depth=1)
            wire = wire_of(server, agent.token)
            wire.query("begin")
            wire.parse(statement)
            wire.bind("p")
            wire.execute("p", 1)
            wire.flush()
            wire.until("sCE")
            narrow = child(agent.token, act=["select"], rel=["app.parted"])
            wire.parse(how.format(narrow))
            wire.bind()
            wire.execute()
            wire.flush()
            assert not wire.until("CE").errors
            reply = executed(wire, "p", 0)
            assert not reply.rows and reply.errors, f"{name}, {how}: {reply.rows}"
            wire.close()


def test_a_function_does_not_fetch_from_a_wider_cursor(server):
    for how in ("set agent_guard.token = '{}'", "select set_config('agent_guard.token', '{}', false)"):
        agent = Agent(server, *RULES, max_depth=1)
        agent.run("declare h cursor with hold for select 'row-' || id as v from app.open order by id")
        assert agent.run("select app.next_of('h')") == [("row-1",)]
        agent.run(how.format(child(agent.token, rel=["app.parted"])))
        expect("34000", agent.run, "select app.next_of('h')")


def test_nothing_else_of_the_wider_scope_stays(server):
    """Temporary tables, channels, advisory locks of the session."""
    for how in ("set agent_guard.token = '{}'", "select set_config('agent_guard.token', '{}', false)"):
        agent = Agent(server, *RULES, ("allow", "execute", "function pg_catalog.pg_advisory_lock(bigint)"), max_depth=1)
        connection, pid = agent.connection, agent.connection.info.backend_pid
        agent.run("create temp table loot as select * from app.open", "listen gossip", "select pg_advisory_lock(7)")
        agent.run(how.format(child(agent.token, act=["select"])))
        expect("42P01", connection.execute, "select * from loot")
        held = "select count(*) from pg_locks where pid = %s and locktype = 'advisory'"
        assert server.value(held, pid) == 0
        server.run("notify gossip, 'secret'")
        connection.execute("select count(*) from app.open")
        assert [n.payload for n in connection.notifies(timeout=0, stop_after=1)] == []
        connection.close()


# --- cancels aim at one transaction ---


def test_a_cancel_never_hits_the_transaction_after_it(server):
    """Sessions run at the moment of their token's end and take a new one at once: nothing under that one is cancelled."""
    agent = Agent(server, *RULES, max_depth=1)
    wrong, done, lost = [], [], []

    def work(number):
        connection = server.connect("owner")
        for _ in range(4):
            try:
                # Its end is a whole second: one of a second could be over before it binds.
                bind(connection, child(agent.token, seconds=2, sub=f"short{number}"))
                while True:
                    connection.execute("select count(*) from app.open")
            except psycopg.Error as error:
                if error.sqlstate not in ENDED or "reason=expired" not in (error.diag.message_detail or ""):
                    wrong.append(error)
                    return
                # The connection of a statement that was not cancelled in time: the words are of that one's transaction.
                if error.sqlstate == SHUTDOWN:
                    lost.append(number)
                    connection = server.connect("owner")
            try:
                bind(connection, agent.token)
                for _ in range(200):
                    connection.execute("select 1")
                done.append(number)
            except psycopg.Error as error:
                wrong.append(error)
                return
        connection.close()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong, [f"{error.sqlstate} {error}" for error in wrong]
    assert len(done) == 24 and len(lost) < 24, (len(done), len(lost))


# --- the warden itself ---


def launcher(server):
    # Null between two of them.
    return server.value("select max(pid) from pg_stat_activity where backend_type = 'agent_guard audit launcher'")


def sleeps(pid, seconds=1.5):
    """Waits until a process has not been scheduled for so long: then it waits for something far away."""

    def switches():
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(line for line in lines if line.startswith("voluntary_ctxt_switches"))

    seen, since = switches(), time.monotonic()

    def quiet():
        nonlocal seen, since
        if switches() != seen:
            seen, since = switches(), time.monotonic()
        return time.monotonic() - since > seconds

    eventually(quiet, "the process sleeps")


def test_binding_wakes_the_warden(server):
    """On a quiet server nothing but the binding itself tells the warden of a deadline: its rounds after an earlier end and
    the launcher's own second after starting a writer are awaited first."""
    other = guard.Server("attack_handover_quiet", ["autovacuum = off"]).start()
    try:
        other.run("create extension agent_guard; create extension if not exists plpgsql")
        scene.setup(other)
        agent = Agent(other, *RULES, max_depth=1)
        agent.run("select count(*) from app.open")
        with other.connect() as admin:
            writer = "select writer_pid is not null from agent_guard.stat"
            eventually(lambda: admin.execute(writer).fetchone()[0], "the writer runs, so that nobody asks for one")
            late = []
            for _ in range(3):
                # A busy machine ends a connection whose statement was to be cancelled.
                sleeper = other.connect("owner")
                sleeps(launcher(other))

                def bound(seconds, sleeper=sleeper):
                    token = child(agent.token, seconds=seconds)
                    bind(sleeper, token)
                    return token

                token = in_time(bound)
                error = refused(sleeper, "select pg_sleep(100)")
                assert "reason=expired" in error.diag.message_detail, error
                late.append(time.time() - claims_of(token)["exp"])
                sleeper.close()
            print("  # expiry to cancelled on a quiet server, slowest of three: %.0f ms" % (1000 * max(late)))
            # Whom nobody wakes sleeps on beyond the statement itself.
            assert max(late) < BOUND, late
    finally:
        other.stop()


def test_the_end_comes_without_the_launcher(server):
    """Whoever ends the launcher again and again keeps nothing alive."""
    agent = Agent(server, *RULES, max_depth=1)

    def idle(seconds):
        token = child(agent.token, seconds=seconds)
        connection = server.connect("owner")
        bind(connection, token)
        connection.execute("begin")
        connection.execute("update app.open set v = v where id = 3")
        return connection, claims_of(token)["exp"]

    # A busy machine comes to it less often, and is given twice the time.
    for seconds in (3, 6, 12, 24):
        connection, deadline = in_time(idle, seconds)
        pid = connection.info.backend_pid
        with server.connect() as admin:
            ended = 0

            def kill_and_look():
                nonlocal ended
                ended += admin.execute("select count(pg_terminate_backend(pid)) from pg_stat_activity where backend_type = 'agent_guard audit launcher'").fetchone()[0]
                return not admin.execute("select count(*) from pg_locks where pid = %s", (pid,)).fetchone()[0]

            eventually(kill_and_look, "its locks are gone", 60)
        late = time.time() - deadline
        connection.close()
        if ended > 5:
            break
    print(f"  # the launcher ended {ended} times: {1000 * late:.0f} ms after the end")
    assert ended > 5 and late < BOUND, (ended, late)
    eventually(lambda: launcher(server), "the launcher is back")


if __name__ == "__main__":
    guard.run(globals())
