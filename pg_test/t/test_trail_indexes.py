#!/usr/bin/env python3
"""The trail's indexes: none while a segment is filled, all of them when it is full, whoever reads or crashes meanwhile."""

from __future__ import annotations

import guard
from guard import bind, eventually

CONF = ["agent_guard.audit_capacity = 16000", "agent_guard.audit_timeout = '20s'"]
SHARE = 1000
INDEXES = """select c.relname as segment, bool_and(i.indisvalid and i.indisready) as whole, bool_or(i.indisvalid or i.indisready) as some
             from pg_index i join pg_class c on c.oid = i.indrelid where c.relname like 'audit\\_segment\\_%' and not i.indisunique group by 1"""


def setup(server):
    server.run("create role indexed login")
    server.run("select agent_guard.guard_role('indexed')")
    server.run("select agent_guard.create_policy('indexed')")


def work(server, statements):
    """So many statements of an agent; its session's id."""
    token = server.window("indexed", "indexed")[1]
    with server.connect("indexed") as agent:
        bind(agent, token)
        session = agent.execute("select session_id from agent_guard.whoami()").fetchone()[0]
        for n in range(statements):
            agent.execute(f"select {n}")
    server.run("select agent_guard.audit_flush()")
    return session


def states(server):
    """By the number of a segment that has rows: its rows, whether all its indexes are in force, and whether any is."""
    found = {}
    for segment, whole, some in server.rows(INDEXES):
        rows = server.value(f"select count(*) from only agent_guard.{segment}")
        if rows:
            found[int(segment[-2:])] = (rows, whole, some)
    return found


def full(server):
    """The numbers of the full segments, when all their indexes are made."""
    now = states(server)
    done = [n for n, (rows, whole, _) in now.items() if rows >= SHARE and whole]
    return done if done and len(done) == sum(rows >= SHARE for rows, _, _ in now.values()) else None


def test_a_segment_gets_its_indexes_when_it_is_full(server):
    session = work(server, 2300)
    done = eventually(lambda: full(server), "the indexes are made")
    current = [n for n in states(server) if n not in done]
    assert len(done) >= 2 and len(current) == 1, states(server)
    assert states(server)[current[0]][2] is False, "indexes of the segment that is being filled"
    # The same events by index and by reading everything.
    plan = server.value(f"explain (format json) select * from only agent_guard.audit_segment_{done[0]:02d} where session_id = '{session}' and seq < 0")
    assert "Index" in str(plan), plan
    by_index = server.value("select count(*) from agent_guard.audit where session_id = %s", session)
    everything = server.value("select count(*) from agent_guard.audit where session_id::text = %s", str(session))
    assert by_index == everything >= 2300, (by_index, everything)
    assert server.value("select count(*) from agent_guard.audit where lineage @> array['indexed']") >= 2300
    assert server.rows("select * from agent_guard.verify_audit()")[0] is not None


def test_who_reads_a_segment_delays_its_indexes_and_nothing_else(server):
    current = max(states(server), key=lambda n: server.value(f"select max(seq) from only agent_guard.audit_segment_{n:02d}"))
    with server.connect(autocommit=False) as reader:
        reader.execute(f"select count(*) from agent_guard.audit_segment_{current:02d}")
        before = server.value("select max(seq) from agent_guard.audit")
        work(server, 2 * SHARE)
        assert server.value("select max(seq) from agent_guard.audit") >= before + 2 * SHARE
        now = states(server)
        assert now[current][0] >= SHARE and now[current][2] is False, now
        # Others are not kept waiting by it.
        assert server.value("select count(*) from agent_guard.audit where seq = %s", before) == 1
    eventually(lambda: full(server), "the indexes are made when the reader has gone")


def test_reindex_by_hand_puts_them_in_force(server):
    work(server, 10)
    bare = [n for n, (_, _, some) in states(server).items() if not some]
    assert len(bare) == 1, states(server)
    server.run(f"reindex table agent_guard.audit_segment_{bare[0]:02d}")
    assert states(server)[bare[0]][1] is True
    session = work(server, 20)
    # The events after it are in the index too.
    with server.connect() as dba:
        dba.execute("set enable_seqscan = off")
        found = dba.execute(f"select count(*) from only agent_guard.audit_segment_{bare[0]:02d} where session_id = %s", (session,)).fetchone()[0]
    assert found >= 20, found


def test_with_journal_sync_no_statement_waits_for_an_index(server):
    server.run("alter system set agent_guard.journal = 'sync'")
    server.run("select pg_reload_conf()")
    eventually(lambda: server.value("show agent_guard.journal") == "sync", "it is reloaded")
    before = set(states(server))
    work(server, 2 * SHARE)
    fresh = [state for n, state in states(server).items() if n not in before]
    assert fresh and all(whole for _, whole, _ in fresh), states(server)
    server.run("alter system reset agent_guard.journal")
    server.run("select pg_reload_conf()")


def test_a_crash_leaves_none_behind(server):
    with server.connect() as backend:
        pid = backend.info.backend_pid
        server.crash(pid)
    eventually(server.answers, "it is back")
    session = work(server, 2 * SHARE + 50)
    eventually(lambda: full(server), "the indexes are made")
    assert server.value("select count(*) from agent_guard.audit where session_id = %s", session) >= 2 * SHARE + 50
    broken = server.rows("select i.indexrelid::regclass from pg_index i join pg_class c on c.oid = i.indrelid where c.relname like 'audit\\_segment%' and i.indisvalid <> i.indisready")
    assert not broken, broken


if __name__ == "__main__":
    guard.run(globals(), CONF)
