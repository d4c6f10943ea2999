"""Guarded sessions on a hot standby: read-only, with the standby's own journal as their trail, under the policies, masks and
revocations of the primary as they are replicated; and after its promotion.
"""

import os
import pathlib
import signal

import psycopg

import guard
from guard import DENIED, UNAUTHENTICATED, Server, bind, eventually, expect, left

PRIMARY = ["wal_level = replica", "max_wal_senders = 4"]
# The compilation of a plan looks for no interrupts: on a busy machine it takes longer than the warden's grace, and what the test of a
# revocation would see is the end of the connection, not of the statement.
STANDBY = ["jit = off", "hot_standby_feedback = on", "agent_guard.journal = sync", "agent_guard.audit_timeout = '10s'"]
WINDOWS = {}


def setup(server):
    server.run(
        """create schema app;
           create table app.t (id int, email text);
           insert into app.t select n, 'someone' || n || '@example.org' from generate_series(1, 1000) n;
           create table app.secret (v text);
           create table app.held (v text);
           select agent_guard.create_policy('p');
           select agent_guard.allow('p', array['select', 'insert', 'lock'], array['app.t']);
           select agent_guard.require_approval('p', array['select'], array['app.held'], approvers => array['postgres']::regrole[]);
           select agent_guard.mask_column('app.t', 'email', 'email')"""
    )
    server.agent("reader")
    server.run("grant usage on schema app to reader; grant all on all tables in schema app to reader")
    WINDOWS["reader"] = server.window("reader", "p")
    WINDOWS["counted"] = server.window("reader", "p", rows_read=1000)
    server.standby = Server("test_standby_copy", STANDBY).start_standby(server)


def caught_up(server):
    """The standby has replayed what the primary has done so far."""
    at = server.value("select pg_current_wal_insert_lsn()::text")
    eventually(lambda: server.standby.value("select pg_last_wal_replay_lsn() >= %s::pg_lsn", at), "the standby follows")


def agent(server, name="reader", **more):
    return server.standby.connect("reader", options=f"-c agent_guard.token={WINDOWS[name][1]}", **more)


def journal(standby):
    data = pathlib.Path(standby.variables["GUARD_DATA"])
    found = list((data / "agent_guard_journal").glob("*.standby-*"))
    assert len(found) == 1, found
    return found[0]


def recorded(standby, like="%"):
    """What the standby's journal has, and that it is whole."""
    standby.value("select 1 from agent_guard.audit_flush()")
    rows = standby.rows("select seq, event ->> 'event', event ->> 'statement', event ->> 'decision', problem from agent_guard.journal_read(%s)", str(journal(standby)))
    assert all(row[4] is None for row in rows), rows[-1]
    assert [row[0] for row in rows] == list(range(1, len(rows) + 1)), "the chain is the standby's own and has no gap"
    from fnmatch import fnmatchcase

    return [row[1:4] for row in rows if fnmatchcase(row[2] or "", like.replace("%", "*"))]


def test_an_agent_reads_and_is_recorded(server):
    with agent(server) as connection:
        found = connection.execute("select id, email from app.t where id = 7 /* standby read */").fetchone()
        assert found[0] == 7 and found[1] != "someone7@example.org", "masked as on the primary"
        expect(DENIED, connection.execute, "select v from app.secret /* standby denied */")
        expect("25006", connection.execute, "insert into app.t values (1) /* standby write */")
        # In the server's words, not in those of the lock that is taken before.
        expect("25006", connection.execute, "begin; lock table app.t in share mode", match="LOCK TABLE")
        connection.execute("rollback")
        rows = connection.execute("select repeat('x', 1000) from app.t /* standby large */").fetchall()
        assert len(rows) == 1000
        pid = connection.info.backend_pid
    left(server.standby, pid)
    assert recorded(server.standby, "%standby read%") == [("statement", "select id, email from app.t where id = 7 /* standby read */", "allow")]
    assert [row[2] for row in recorded(server.standby, "%standby denied%")] == ["deny"]
    assert len(recorded(server.standby, "%standby write%")) == 1
    assert [row[0] for row in recorded(server.standby, "%standby large%")] == ["begun", "statement"]
    assert {"bind", "unbind", "chain_begin"} <= {row[0] for row in recorded(server.standby)}
    assert not server.audit("statement like %s", "%standby%"), "nothing of it on the primary"


def test_without_a_token_nothing_runs(server):
    with server.standby.connect("reader") as connection:
        expect(UNAUTHENTICATED, connection.execute, "select id from app.t")
        bind(connection, WINDOWS["reader"][1])
        connection.execute("select id from app.t")
        expect(UNAUTHENTICATED, bind, connection, WINDOWS["reader"][1][:-4] + "AAAA")


def test_what_has_to_be_stored_is_refused(server):
    with agent(server, "counted") as connection:
        expect("53100", connection.execute, "select id from app.t where false", match="a standby stores nothing")
    with agent(server) as connection:
        expect(DENIED, connection.execute, "select v from app.held", match="A standby takes no requests")


def test_policies_follow(server):
    with agent(server) as connection:
        expect(DENIED, connection.execute, "select v from app.secret")
        rule = server.value("select agent_guard.allow('p', array['select'], array['app.secret'])")
        caught_up(server)
        eventually(lambda: connection.execute("select v from app.secret") if _allowed(connection, "app.secret") else None, "allowed")
        # In the middle of a transaction too, on a table that is locked already.
        connection.execute("begin isolation level repeatable read")
        connection.execute("select v from app.secret")
        server.run(f"select agent_guard.drop_rule({rule})")
        caught_up(server)
        eventually(lambda: not _allowed(connection, "app.secret"), "denied again")
        connection.execute("rollback")


def _allowed(connection, table):
    """Whether a read is allowed; in an open transaction, without ending it."""
    open_block = connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE
    try:
        if open_block:
            connection.execute("savepoint s")
        connection.execute(f"select 1 from {table}")
        return True
    except psycopg.errors.InsufficientPrivilege:
        if open_block:
            connection.execute("rollback to s")
        return False


def test_a_revocation_ends_what_runs_there(server):
    window = server.window("reader", "p")
    caught_up(server)
    options = f"-c agent_guard.token={window[1]}"
    idle = server.standby.connect("reader", options=options)
    idle.execute("select id from app.t")
    busy = server.standby.wire("reader", options=options)
    assert not busy.query("begin").errors
    statement = "select count(*) from app.t a, app.t b, app.t c where a.id + b.id + c.id < 0"
    busy.send("Q", statement.encode() + b"\0")
    guard.runs(server.standby, busy.key[0], statement)
    server.run(f"select agent_guard.revoke_window('{window[0]}')")
    reply = busy.until("Z")
    # On a busy machine the connection may end, when the grace is over before the cancel is through.
    assert reply.sqlstate in ("57014", "57P01") and "revoked" in str(reply.errors), reply
    expect(UNAUTHENTICATED, idle.execute, "select id from app.t", match="revoked")
    busy.close()
    idle.close()
    with server.standby.connect("reader") as connection:
        expect(UNAUTHENTICATED, bind, connection, window[1], match="revoked")


def test_a_revocation_holds_for_the_next_statement_also_while_the_writer_stands_still(server):
    window = server.window("reader", "p")
    caught_up(server)
    with server.standby.connect("reader", options=f"-c agent_guard.token={window[1]}") as connection:
        connection.execute("select id from app.t")
        writer = server.standby.value("select writer_pid from agent_guard.stat")
        os.kill(writer, signal.SIGSTOP)
        try:
            server.run(f"select agent_guard.revoke_window('{window[0]}')")
            caught_up(server)
            connection.execute("select id from app.t /* after the end */")
            raise AssertionError("it ran")
        except psycopg.Error as error:
            # Not even this can be recorded.
            assert error.sqlstate in (UNAUTHENTICATED, "53100"), error
        finally:
            os.kill(writer, signal.SIGCONT)
    assert [row[2] for row in recorded(server.standby, "%after the end%")] == ["deny"]


def set_journal(standby, value):
    """By its own file: ALTER SYSTEM works on a standby too."""
    with standby.connect() as connection:
        connection.execute(f"alter system set agent_guard.journal = {value}")
        connection.execute("select pg_reload_conf()")
    eventually(lambda: standby.value("show agent_guard.journal") == value, "reloaded")


def test_nothing_runs_there_without_the_journal(server):
    with agent(server) as connection:
        connection.execute("select id from app.t")
        set_journal(server.standby, "off")
        try:
            eventually(lambda: not server.standby.value("select writer_pid from agent_guard.stat"), "the writer leaves")
            expect("53100", connection.execute, "select id from app.t /* off */", match="the journal, which is off")
        finally:
            set_journal(server.standby, "sync")
        connection.execute("select id from app.t /* on again */")
    assert len(recorded(server.standby, "%on again%")) == 1


def test_the_chain_goes_on_after_a_restart(server):
    before = len(recorded(server.standby))
    server.standby.restart()
    with agent(server) as connection:
        connection.execute("select id from app.t /* restarted */")
    assert len(recorded(server.standby, "%restarted%")) == 1
    assert len(recorded(server.standby)) > before


def test_promoted_the_agent_goes_on_and_the_tables_are_used(server):
    standby = server.standby
    connection = agent(server)
    connection.execute("select id from app.t /* before */")
    mine = recorded(standby)
    standby.promote()
    connection.execute("select id from app.t where id = 1 /* after */")
    connection.execute("insert into app.t values (5000, 'new') /* written */")
    assert connection.execute("select count(*) from app.t where id = 5000").fetchone() == (1,)
    connection.close()
    found = standby.audit("level = 0 and event = 'statement' and role = 'reader'", columns="statement")
    assert [("/* after */" in text, "/* written */" in text) for (text,) in found[:2]] == [(True, False), (False, True)], found
    assert standby.audit("event = 'chain_begin'", columns="message")
    assert standby.value("select intact from agent_guard.verify_audit()") is True
    assert recorded(standby) == mine, "what was recorded before stays as it was"
    held = standby.connect("reader", options=f"-c agent_guard.token={WINDOWS['counted'][1]}")
    assert len(held.execute("select id from app.t where id < 4").fetchall()) == 3, "limits are stored again"
    held.close()


if __name__ == "__main__":
    try:
        guard.run(globals(), conf=PRIMARY)
    finally:
        Server("test_standby_copy").remove()
