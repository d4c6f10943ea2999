"""CPU per statement of one backend, in small slices that take turns.

Each variant keeps one connection open. In every round each variant in turn, in an order that rotates, runs a warm-up
and then a slice of statements; the backend's time on the CPU before and after comes from the scheduler, in nanoseconds.
A slice is compared with the baseline's slice of the same round, a fraction of a second away, so that a neighbour on
the machine touches both. What is told is the median of those comparisons, with a 95 % confidence interval by ranks,
which assumes nothing of the noise.

One backend works at a time. Where there are two CPUs it has one for itself: the client, the server's other processes
and gateways stay on the other one. The client sends what pgbench sends, message for message.
"""

from __future__ import annotations

import dataclasses
import math
import os
import random
import statistics
import struct
from typing import Callable

import proc
from servers import Variant
from wire import Wire

SELECT = "SELECT abalance FROM pgbench_accounts WHERE aid = "
READY = b"Z\0\0\0\x05"
CPUS = sorted(os.sched_getaffinity(0))


def message(code: str, body: bytes) -> bytes:
    return code.encode() + struct.pack("!i", len(body) + 4) + body


def prepare(wire: Wire, statement: str) -> None:
    wire.parse(statement, "P_0")
    if wire.sync().errors:
        raise RuntimeError(f"not prepared: {statement}")


def run_prepared(*values: int) -> bytes:
    """What libpq sends for PQsendQueryPrepared, and psycopg for a prepared statement."""
    texts = [str(value).encode() for value in values]
    given = b"".join(struct.pack("!i", len(text)) + text for text in texts)
    bound = message("B", b"\0P_0\0" + struct.pack("!hh", 0, len(texts)) + given + struct.pack("!hh", 1, 0))
    return bound + message("D", b"P\0") + message("E", b"\0" + struct.pack("!i", 0)) + message("S", b"")


def query(text: str) -> bytes:
    return message("Q", text.encode() + b"\0")


@dataclasses.dataclass
class Workload:
    """Statements of one kind, as the bytes that the client sends: a round trip each."""

    name: str
    statement: str  # to be prepared first; '' for none
    make: Callable[[random.Random, int], list[bytes]]  # one transaction, for a scale
    transactions: int  # of a slice
    warm: int  # transactions before a slice that do not count


def _select_prepared(chance: random.Random, scale: int) -> list[bytes]:
    return [run_prepared(chance.randint(1, 100_000 * scale))]


def _select_simple(chance: random.Random, scale: int) -> list[bytes]:
    return [query(f"{SELECT}{chance.randint(1, 100_000 * scale)};")]


def _tpcb(chance: random.Random, scale: int) -> list[bytes]:
    aid, tid, bid = chance.randint(1, 100_000 * scale), chance.randint(1, 10 * scale), chance.randint(1, scale)
    delta = chance.randint(-5000, 5000)
    return [query(text) for text in (
        "BEGIN;",
        f"UPDATE pgbench_accounts SET abalance = abalance + {delta} WHERE aid = {aid};",
        f"{SELECT}{aid};",
        f"UPDATE pgbench_tellers SET tbalance = tbalance + {delta} WHERE tid = {tid};",
        f"UPDATE pgbench_branches SET bbalance = bbalance + {delta} WHERE bid = {bid};",
        f"INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES ({tid}, {bid}, {aid}, {delta}, CURRENT_TIMESTAMP);",
        "END;",
    )]


PREPARED = Workload("select prepared", f"{SELECT}$1;", _select_prepared, 2000, 300)
SIMPLE = Workload("select simple", "", _select_simple, 1000, 200)
TPCB = Workload("TPC-B simple", "", _tpcb, 150, 30)
WORKLOADS = [PREPARED, SIMPLE, TPCB]


class Line:
    """One variant's connection, kept open, and its backend."""

    def __init__(self, variant: Variant, workload: Workload, scale: int):
        self.variant, self.workload = variant, workload
        environment = variant.environment()
        startup = {"options": variant.options} if variant.options else {}
        self.wire = Wire(environment["PGHOST"], int(environment["PGPORT"]), variant.user, "bench", **startup)
        if self.wire.startup.errors:
            raise RuntimeError(f"{variant.name}: {self.wire.startup.errors}")
        # The same statements for every variant, and the same in every slice.
        chance = random.Random(7)
        # Through a gateway the key of the startup is not the backend's.
        self.pid = int(self.wire.query("select pg_backend_pid()").text()[0][0] if not variant.options else self.wire.key[0])
        if workload.statement:
            prepare(self.wire, workload.statement)
        self.warm = [one for _ in range(workload.warm) for one in workload.make(chance, scale)]
        self.counted = [one for _ in range(workload.transactions) for one in workload.make(chance, scale)]
        if len(CPUS) > 1:
            os.sched_setaffinity(self.pid, CPUS[1:2])

    def exchange(self, messages: list[bytes]) -> None:
        """Sends each message when the one before is answered."""
        send, receive = self.wire.socket.sendall, self.wire.socket.recv
        for one in messages:
            send(one)
            answer = receive(65536)
            while answer[-6:-1] != READY:
                answer += receive(65536)
            if answer[:1] == b"E":
                raise RuntimeError(f"{self.variant.name}: {answer!r}")

    def slice(self) -> float:
        """Nanoseconds of CPU per statement, once."""
        self.exchange(self.warm)
        before = proc.settled_ns(self.pid)
        self.exchange(self.counted)
        return (proc.settled_ns(self.pid) - before) / len(self.counted)

    def close(self) -> None:
        self.wire.drop()


def apart(variants: list[Variant]) -> None:
    """Leaves the second CPU to the backend that is measured."""
    if len(CPUS) > 1:
        os.sched_setaffinity(0, CPUS[:1])
        for variant in variants:
            for pid in [variant.server.pid, *proc.children(variant.server.pid, ""), *variant.helpers()]:
                proc.pin(pid, CPUS[:1])


def together(variants: list[Variant]) -> None:
    """Undoes `apart`."""
    os.sched_setaffinity(0, CPUS)
    for variant in variants:
        for pid in [variant.server.pid, *proc.children(variant.server.pid, ""), *variant.helpers()]:
            proc.pin(pid, CPUS)


@dataclasses.dataclass
class Compared:
    """A figure against the baseline: the median, and between which values it lies with 95 % confidence."""

    middle: float
    low: float
    high: float

    @staticmethod
    def of(values: list[float]) -> Compared:
        ordered = sorted(values)
        count = len(ordered)
        # The ranks between which the median lies: a binomial of one half, by its normal approximation.
        reach = 0.98 * math.sqrt(count)
        low, high = max(0, math.floor((count - 1) / 2 - reach)), min(count - 1, math.ceil((count - 1) / 2 + reach))
        return Compared(statistics.median(ordered), ordered[low], ordered[high])


@dataclasses.dataclass
class Row:
    """One variant of one workload."""

    workload: str
    variant: str
    us: float
    ratio: Compared
    added_us: Compared
    helper_us: float


def measure(variants: list[Variant], workload: Workload, rounds: int, scale: int) -> dict[str, list[float]]:
    """Nanoseconds per statement of every slice, by variant; helpers' under `name + ' helper'`."""
    lines = []
    taken: dict[str, list[float]] = {}
    try:
        for variant in variants:
            lines.append(Line(variant, workload, scale))
        apart(variants)
        for number in range(rounds):
            turn = number % len(lines)
            for line in lines[turn:] + lines[:turn]:
                helpers = line.variant.helpers()
                before = sum(proc.cpu_ns(pid) or 0 for pid in helpers)
                taken.setdefault(line.variant.name, []).append(line.slice())
                line.variant.catch_up()
                helped = sum(proc.cpu_ns(pid) or 0 for pid in helpers) - before
                statements = len(line.warm) + len(line.counted)
                taken.setdefault(f"{line.variant.name} helper", []).append(helped / statements)
    finally:
        for line in lines:
            line.close()
        together(variants)
    return taken


def compare(taken: dict[str, list[float]], workload: Workload, names: list[str], baseline: str) -> list[Row]:
    """Every variant against the baseline's slice of the same round."""
    base = taken[baseline]
    rows = []
    for name in names:
        mine = taken[name]
        rows.append(Row(
            workload.name, name, statistics.median(mine) / 1000,
            Compared.of([a / b for a, b in zip(mine, base)]),
            Compared.of([(a - b) / 1000 for a, b in zip(mine, base)]),
            statistics.median(taken[f"{name} helper"]) / 1000,
        ))
    return rows


HEAD = f"{'workload':<16} {'variant':<14} {'us/stmt':>8} {'ratio':>7} {'(95 %)':>15} {'added us':>9} {'(95 %)':>15} {'helper us':>10}"


def line_of(row: Row) -> str:
    ratio, added = row.ratio, row.added_us
    return (f"{row.workload:<16} {row.variant:<14} {row.us:>8.2f} {ratio.middle:>7.3f} {f'{ratio.low:.3f}..{ratio.high:.3f}':>15} "
            f"{added.middle:>+9.2f} {f'{added.low:+.2f}..{added.high:+.2f}':>15} {row.helper_us:>10.2f}")
