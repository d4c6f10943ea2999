"""The audit path at its limits: two saturated clients of whose statements none may be missing, and how fast the writer is
when it has nothing to wait for, without a journal and with one that it syncs after each batch."""

from __future__ import annotations

import os
import pathlib
import signal
import time

import guard
import proc
from servers import Variant, flush
from slices import Line, Workload, query
from throughput import run

EVENTS = 25_000
EVENT_SECOND = 50_000  # what the writer has to drain
JOURNALED_SECOND = 100_000  # and with chain and journal, per second of its CPU


def _stat(server, column: str) -> int:
    return server.value(f"select coalesce({column}, 0) from agent_guard.stat", dbname="bench")


def _ring_bytes(server) -> int:
    query = """select coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint from pg_class c
        where c.relkind = 'r' and c.relpersistence = 'u' and c.relnamespace = 'agent_guard'::regnamespace"""
    return server.value(query, dbname="bench")


def saturate(variant: Variant, seconds: float, capacity: int) -> dict:
    """Two clients at full speed; every statement must be in the trail, and the ring must not grow past its capacity."""
    server = variant.server

    def last() -> int:
        flush(server)
        return server.value("select coalesce(max(seq), 0) from agent_guard.audit", dbname="bench")

    result: dict = {"seconds": seconds, "capacity": capacity, "sizes": []}
    began_seq, began_lost = last(), _stat(server, "dropped")
    done = 0
    began = time.monotonic()
    for _ in range(4):
        done += run(variant, "-S", "-M", "prepared", "-c", "2", "-j", "2", "-T", str(max(1, round(seconds / 4))))[0]
        flush(server)
        result["sizes"].append(_ring_bytes(server))
    elapsed = time.monotonic() - began
    events = last() - began_seq
    kept, gapless = server.rows("select count(*), max(seq) - min(seq) + 1 = count(*) from agent_guard.audit", dbname="bench")[0]
    counted = server.value(f"select count(*) from agent_guard.audit where seq > {began_seq} and statement like 'SELECT abalance%%'", dbname="bench")
    return result | {"statements": done, "per_second": done / elapsed, "events": events, "in_trail": counted, "kept": kept, "gapless": gapless,
                     "dropped": _stat(server, "dropped") - began_lost}


def report(result: dict) -> bool:
    """Prints what came of `saturate`; whether nothing was lost."""
    print(f"\nTwo saturated clients, {result['seconds']:.0f} s, everything audited\n")
    print(f"statements {result['statements']} ({result['per_second']:.0f}/s), events recorded {result['events']}, dropped {result['dropped']}")
    print(f"rows kept {result['kept']} of capacity {result['capacity']}, sequence without gaps: {result['gapless']}")
    print("ring table, MB after each quarter: " + " ".join(f"{size / 1e6:.1f}" for size in result["sizes"]))
    # Every statement is one event at least; the sessions' own events come on top.
    lost = result["events"] < result["statements"] or result["dropped"] or not result["gapless"]
    if result["events"] <= result["capacity"]:
        lost = lost or result["in_trail"] != result["statements"]
    print("LOST EVENTS" if lost else "none lost")
    return not lost


# Alike: one prepared statement. Unlike: every event another text and another set of accesses, which nothing can be shared for.
ALIKE = Workload("alike", "SELECT abalance FROM pgbench_accounts WHERE aid = $1;", None, 0, 0)


def unlike(tables: int) -> list[bytes]:
    return [query(f"select /* {n} */ one.a, other.a from many.t{n % tables + 1} as one, many.t{(n * 7) % tables + 1} as other where false") for n in range(EVENTS)]


def journaled(variant: Variant, on: bool) -> None:
    """Turns the journal on or off, and waits until the writer has followed."""
    server = variant.server
    server.run(f"alter system set agent_guard.journal = {'on' if on else 'off'}")
    server.run("select pg_reload_conf()")

    def followed() -> bool:
        told = f"select 1 /* {time.monotonic_ns()} */"
        line = Line(variant, Workload("one", "", lambda *_: [], 0, 0), 1)
        line.exchange([query(told)])
        line.close()
        flush(server)
        return _in_journal(server, told.encode()) == on

    guard.eventually(followed, "the writer follows the setting", seconds=60)


def _in_journal(server, text: bytes) -> bool:
    """Whether the newest file of a journal has the text."""
    files = sorted(pathlib.Path(server.variables["GUARD_DATA"]).glob("agent_guard_journal/*/*.journal"))
    return bool(files) and text in files[-1].read_bytes()


def touched(variant: Variant) -> None:
    """Uses every shared buffer once, as a server that has run for a while has: else the writer pays for the kernel's fetching of their pages."""
    server = variant.server
    blocks = server.value("select setting::int from pg_settings where name = 'shared_buffers'")
    server.run("create unlogged table touching (filler text); alter table touching alter filler set storage plain", dbname="bench")
    server.run(f"insert into touching select repeat('x', 7000) from generate_series(1, {blocks})", dbname="bench")
    server.run("drop table touching", dbname="bench")


def drain(variant: Variant, messages: list[bytes], statement: str = "") -> dict:
    """How many events a second the writer commits: it is stopped while the ring fills, then let go alone."""
    server = variant.server
    line = Line(variant, Workload("drain", statement, lambda *_: [], 0, 0), 1)
    # There is none before the first event.
    line.exchange(messages[:1])
    flush(server)
    writer = guard.eventually(lambda: _stat(server, "writer_pid"), "there is a writer")
    # Stopped at work it might hold a lock that the session needs.
    proc.settled_ns(writer)
    os.kill(writer, signal.SIGSTOP)
    try:
        line.exchange(messages)
        before = proc.cpu_ns(writer)
    finally:
        began = time.monotonic()
        os.kill(writer, signal.SIGCONT)
    flush(server)
    took, used = time.monotonic() - began, proc.cpu_ns(writer) - before
    line.close()
    return {"events": len(messages), "per_second": len(messages) / took, "per_cpu_second": len(messages) / used * 1e9}
