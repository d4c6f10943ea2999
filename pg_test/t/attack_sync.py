"""With `agent_guard.journal = sync` a client sees nothing of a result before an event of its statement is on disk, however the
result is asked for and however large it is.
"""

import os
import pathlib
import signal
import socket
import statistics
import struct
import threading
import time

import guard
import scene
from guard import eventually, reload
from scene import Agent

CONF = ["agent_guard.journal = sync", "agent_guard.audit_timeout = '20s'"]
RULES = [("allow", ["select", "insert", "update"], "app.*"), ("allow", ["execute"], "function app.*")]
LARGE = "select repeat('x', 1000), n from generate_series(1, 300) n"
SMALL = "select id, v from app.open"


def setup(server):
    scene.setup(server)
    server.run("create function app.noisy() returns setof int language plpgsql as 'begin for n in 1 .. 3 loop return next n; end loop; raise notice ''told''; end'")


class Stopped:
    """The writer stands still."""

    def __init__(self, server):
        self.pid = eventually(lambda: server.value("select writer_pid from agent_guard.stat"), "a writer")

    def __enter__(self):
        os.kill(self.pid, signal.SIGSTOP)

    def __exit__(self, *_):
        os.kill(self.pid, signal.SIGCONT)


def query(text):
    return lambda wire: wire.send("Q", text.encode() + b"\0")


def extended(text, max_rows=0):
    def send(wire):
        wire.parse(text)
        wire.bind()
        wire.execute(max_rows=max_rows)
        wire.send("S")

    return send


WAYS = {
    "small, simple": query(SMALL),
    "large, simple": query(LARGE),
    "small, extended": extended(SMALL),
    "large, extended": extended(LARGE),
    "in pieces": extended(LARGE, 5),
    "RETURNING": query("update app.open set v = v returning id, v"),
    "small COPY": query("copy app.open to stdout"),
    "large COPY": query(f"copy ({LARGE}) to stdout"),
    "with a notice": query("select * from app.noisy()"),
    "fails at its last row": query("select 10 / (n - 50) from generate_series(1, 50) n"),
    "fails late": query("select repeat('x', 1000), 10 / (n - 300) from generate_series(1, 300) n"),
    "SHOW": query("show work_mem"),
    "EXPLAIN": query("explain select * from app.open"),
    "held cursor": query("begin; declare h cursor with hold for select id, v from app.open; commit; fetch all from h"),
    "cursor": query("begin; declare c cursor for select id, v from app.open; fetch all from c"),
}


def seen_of(wire):
    """The codes of what arrives of a result for a while; the description of its columns is none of it."""
    wire.socket.settimeout(0.3)
    try:
        seen = wire.socket.recv(1 << 20)
    except socket.timeout:
        seen = b""
    wire.socket.settimeout(30)
    wire.buffer += seen
    codes = ""
    while seen:
        codes += seen[:1].decode()
        seen = seen[1 + struct.unpack("!i", seen[1:5])[0] :]
    return codes.replace("T", "")


def test_nothing_arrives_while_the_writer_stands_still(server):
    wrong = []
    with Agent(server, *RULES) as agent:
        for name, send in WAYS.items():
            wire = server.wire("owner", options=f"-c agent_guard.token={agent.token}")
            assert not wire.query("select 1").errors
            with Stopped(server):
                send(wire)
                seen = seen_of(wire)
            if seen:
                wrong.append(f"{name}: {seen}")
            reply = wire.until("Z")
            answered = reply.rows or reply.copied
            if "fails" in name:
                if reply.sqlstate != "22012":
                    wrong.append(f"{name}: {reply.sqlstate}")
            elif reply.errors or not answered:
                wrong.append(f"{name}: no answer afterwards, {reply}")
            wire.close()
    assert not wrong, "\n" + "\n".join(wrong)


def test_a_result_that_cannot_be_recorded_is_not_seen(server):
    reload(server, "agent_guard.audit_timeout", "300ms")
    wrong = []

    def session(agent):
        """One that works: so little patience may be too little for a busy machine, too."""
        wire = server.wire("owner", options=f"-c agent_guard.token={agent.token}")
        if not wire.query("select 1").errors:
            return wire
        wire.close()
        return None

    try:
        with Agent(server, *RULES) as agent:
            for name, send in WAYS.items():
                wire = eventually(lambda agent=agent: session(agent), "a session")
                with Stopped(server):
                    send(wire)
                    reply = wire.until("Z")
                if reply.sqlstate != "53100" or reply.rows or reply.copied:
                    wrong.append(f"{name}: {reply.sqlstate} with {len(reply.rows)} rows and {len(reply.copied)} lines")
                wire.close()
    finally:
        reload(server, "agent_guard.audit_timeout", "20s")
    assert not wrong, "\n" + "\n".join(wrong)


def test_large_results_are_whole_and_say_that_they_began(server):
    with Agent(server, *RULES) as agent:
        agent.connection.execute("select 1")
        rows = agent.connection.execute(f"{LARGE} /* large */").fetchall()
        assert rows == [("x" * 1000, n) for n in range(1, 301)], "every row, once, in order"
        assert agent.connection.execute(f"{SMALL} /* small */").fetchall() == server.rows(SMALL)
        with agent.connection.cursor().copy(f"copy ({LARGE}) to stdout") as copy:
            assert len(list(copy)) > 0
        wire = server.wire("owner", options=f"-c agent_guard.token={agent.token}")
        pieces = []
        wire.query("begin")
        wire.parse(LARGE + " /* pieces */")
        wire.bind()
        for _ in range(4):
            wire.execute(max_rows=100)
            wire.flush()
            reply = wire.until("sC")
            pieces.append(len(reply.rows))
        assert wire.sync().status == "T"
        assert pieces == [100, 100, 100, 0], pieces
        wire.query("commit")
        wire.close()
    events = server.audit("statement like %s", "%/* large */", columns="event, rows, decision, level")
    assert events == [("begun", None, "allow", 0), ("statement", 300, "allow", 0)], events
    assert server.audit("statement like %s", "%/* small */", columns="event") == [("statement",)]
    assert [event for (event,) in server.audit("statement like %s", "%/* pieces */", columns="event")] == ["begun", "statement"]
    steps = server.rows("select event, effect from agent_guard.replay((select session_id from agent_guard.audit where statement like %s limit 1)) where statement like %s", "%/* large */", "%/* large */")
    assert len(steps) == 2, steps
    with server.connect() as connection:
        assert connection.execute("select intact from agent_guard.verify_audit()").fetchone() == (True,)


def test_what_left_before_an_error_is_on_disk_when_the_error_is_answered(server):
    oid = server.value("select oid from pg_database where datname = current_database()")
    journal = pathlib.Path(server.variables["GUARD_DATA"]) / "agent_guard_journal" / str(oid)
    with Agent(server, *RULES) as agent:
        server.run(f"select agent_guard.set_recording('{agent.policy}', 'rows')")
        wire = server.wire("owner", options=f"-c agent_guard.token={agent.token}")
        for number in range(12):
            # What is held together with the error, and what has left long before.
            for rows, wide in ((50, 1), (300, 1000)):
                sent = f"sent{number}of{rows}"
                wire.send("Q", f"select '{sent}.' || n, repeat('x', {wide}), 10 / (n - {rows}) from generate_series(1, {rows}) n".encode() + b"\0")
                reply = wire.until("E")
                files = sorted(journal.glob("*.journal"))
                kept = files[-1].read_bytes()
                assert reply.rows and reply.rows[-1][0].decode() == f"{sent}.{rows - 1}", reply.types
                for row in reply.rows:
                    assert b'["' + row[0] + b'"' in kept, (sent, row[0], "is not on disk")
                wire.until("Z")


def test_nothing_arrives_without_a_token_where_denials_are_only_recorded(server):
    def enforcement(value):
        server.run(f"alter system set agent_guard.enforcement = {value}")
        server.run("select pg_reload_conf()")
        eventually(lambda: server.value("show agent_guard.enforcement") == value, "reloaded")

    wrong = []
    enforcement("observe")
    try:
        for name in ("small, simple", "large, extended", "RETURNING", "small COPY", "SHOW", "cursor", "held cursor"):
            wire = server.wire("owner")
            with Stopped(server):
                WAYS[name](wire)
                seen = seen_of(wire)
            reply = wire.until("Z")
            if seen or reply.errors or not (reply.rows or reply.copied):
                wrong.append(f"{name}: {seen}, {reply}")
            wire.close()
    finally:
        enforcement("enforce")
    assert not wrong, "\n".join(wrong)


def test_each_is_woken_when_its_event_is_on_disk(server):
    """A wait that nobody ends looks around by itself after a fifth of a second."""
    with Agent(server, *RULES) as agent:
        connections = [server.connect("owner", options=f"-c agent_guard.token={agent.token}") for _ in range(4)]
        took = []

        def work(connection):
            for _ in range(25):
                began = time.monotonic()
                connection.execute(SMALL)
                took.append(time.monotonic() - began)

        threads = [threading.Thread(target=work, args=(connection,)) for connection in connections]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for connection in connections:
            connection.close()
    assert len(took) == 100, "every statement was answered"
    # On a machine that stands still for moments not even half of them need be quick; nobody's is whom no one wakes.
    assert statistics.quantiles(took, n=4)[0] < 0.1, sorted(took)


def test_the_tables_follow_by_themselves(server):
    with Agent(server, *RULES) as agent:
        agent.connection.execute(SMALL + " /* follows */")
        query = "select count(*) from agent_guard.audit where statement like %s"
        eventually(lambda: server.value(query, SMALL + " /* follows */") == 1, "the trail has it without a flush")


def test_a_writer_that_ends_with_the_journal_ahead_is_followed_by_one_that_stores(server):
    """Nobody can write the tables: the journal has what was answered, and its events reach the tables later, each once."""
    oid = server.value("select oid from pg_database where datname = current_database()")
    query = "select count(*) from agent_guard.audit where statement like %s"
    kept = "select count(*) from agent_guard.journal_read(%s) where event ->> 'statement' like %s"
    mark = "%/* ahead */"
    with Agent(server, *RULES) as agent:
        agent.connection.execute(SMALL)
        server.audit("false")
        with server.connect(autocommit=False) as locker:
            for n in range(16):
                locker.execute(f"lock table agent_guard.audit_segment_{n:02} in access exclusive mode")
            agent.connection.execute(SMALL + " /* ahead */")
            assert server.value(kept, f"agent_guard_journal/{oid}", mark) == 1, "it was answered, so it is in the journal"
            writer = server.value("select writer_pid from agent_guard.stat")
            server.run(f"select pg_terminate_backend({writer})")
            eventually(lambda: server.value("select writer_pid from agent_guard.stat") not in (None, writer), "another writer")
            locker.rollback()
        eventually(lambda: server.value(query, mark) == 1, "the trail has it", 20)
        agent.connection.execute(SMALL + " /* behind */")
        server.audit("false")
        assert server.value(query, mark) == 1
        assert server.value(kept, f"agent_guard_journal/{oid}", mark) == 1
        assert server.value("select intact from agent_guard.verify_audit()") is True


def test_a_revocation_does_not_cut_short_the_record_of_what_it_ends(server):
    """The error waits for the journal, and is not cancelled a second time meanwhile: it says why the statement was ended."""
    rules = ("allow", "execute", "function pg_catalog.pg_sleep(double precision)")
    for _ in range(20):
        agent, other = Agent(server, *RULES, rules), Agent(server, *RULES)
        wire = server.wire("owner", options=f"-c agent_guard.token={agent.token}")
        wire.query("begin")
        wire.send("Q", b"select pg_sleep(60) /* to be revoked */\0")
        doing = "select wait_event_type from pg_stat_activity where query like %s"
        mine = "select pg_sleep(60) /* to be%"
        eventually(lambda: server.rows(doing, mine) == [("Timeout",)], "it runs")
        with server.connect() as admin, Stopped(server):
            began = time.monotonic()
            admin.execute("select agent_guard.revoke_window(%s)", (agent.window_id,))
            eventually(lambda: admin.execute(doing, (mine,)).fetchall() == [("Extension",)], "it waits for the journal")
            # Whoever revokes presses on with all that has to go.
            admin.execute("select agent_guard.revoke_window(%s)", (other.window_id,))
            pressed = time.monotonic()
        reply = wire.until("Z")
        wire.close()
        # Past its grace the connection ends, and nothing is shown by this.
        if pressed - began < 0.3 and not reply.closed:
            assert reply.sqlstate == "57014" and "reason=revoked" in str(reply.errors), reply
            return
    raise AssertionError("never quick enough to show anything")


if __name__ == "__main__":
    guard.run(globals(), conf=CONF)
