"""What one event costs the backend: statements of 200 bytes by a session that records them, against the same by a session in which
only their events are left out.

That is no setting: it takes a library of its own with the feature fault_injection, which `bench` builds (the switch is in
src/pg/fault.rs). What is left out is the event: its room, the clock at its end, its bytes, the ring, waking the writer. All that is
done to decide stays, and so does what an open statement keeps of itself, its text and its parameters.

- inside: a function runs a thousand such statements, each an event of its own. No client, no kernel, little noise, and warm caches.
- prepared: as pgbench sends it. The same event beside everything that a statement does to the caches, and as noisy as that.
- simple: another text each time, so that nothing of the event is known from before.
"""

from __future__ import annotations

import dataclasses
import random

import slices
from guard import Server
from servers import AGENT, Variant, flush, guarded, writers

GOAL = 1.5  # us
TEXT = "SELECT abalance FROM pgbench_accounts WHERE aid = "
UNRECORDED = "bench_unrecorded"
INSIDE = 1000


def _padded(end: str) -> str:
    """A statement of 200 bytes."""
    return f"{TEXT}{end} /*{'-' * (200 - len(TEXT) - len(end) - 5)}*/"


def _simple(chance: random.Random, scale: int) -> list[bytes]:
    return [slices.query(_padded(str(chance.randint(1, 100_000 * scale))))]


def _prepared(chance: random.Random, scale: int) -> list[bytes]:
    return [slices.run_prepared(chance.randint(1, 100_000 * scale))]


WORKLOADS = {
    "inside": slices.Workload("inside", "", lambda *_: [slices.query(f"select inside({INSIDE})")], 5, 1),
    "prepared": slices.Workload("prepared", _padded("$1"), _prepared, 2000, 300),
    "simple": slices.Workload("simple", "", _simple, 1000, 200),
}


def measure(server: Server, rounds: int, scale: int) -> dict[str, slices.Row]:
    """By workload, the row of the session that records; times are of one event."""
    options = guarded(server, "events")
    server.run(
        f"""create role {UNRECORDED} login; grant {AGENT} to {UNRECORDED};
        create function inside(times int) returns void language plpgsql as $$
            declare found int;
            begin for n in 1 .. times loop {_padded('n').replace('abalance FROM', 'abalance INTO found FROM').replace('/*-------------', '/*-')}; end loop; end $$;
        select agent_guard.allow('events', array['execute'], array['function public.inside'])""",
        dbname="bench",
    )
    server.run(f"select agent_guard.guard_role('{UNRECORDED}'); alter role {UNRECORDED} set agent_guard.fault_skip_record = on", dbname="bench")
    token = server.window(UNRECORDED, "events", "1 day", dbname="bench")[1]
    recorded = Variant("recorded", server, AGENT, options, helpers=lambda: writers(server), catch_up=lambda: flush(server))
    without = dataclasses.replace(recorded, name="without events", user=UNRECORDED, options=f"-c agent_guard.token={token}")
    rows = {}
    for name, workload in WORKLOADS.items():
        before = _statements(server)
        taken = slices.measure([without, recorded], workload, rounds, scale)
        run = rounds * (workload.transactions + workload.warm) * (INSIDE + 1 if name == "inside" else 1)
        if _statements(server) - before != run:
            raise RuntimeError(f"{name}: {_statements(server) - before} statements recorded of {run}")
        if name == "inside":
            taken = {of: [value / (INSIDE + 1) for value in values] for of, values in taken.items()}
        rows[name] = slices.compare(taken, workload, ["recorded"], "without events")[0]
    return rows


def _statements(server: Server) -> int:
    flush(server)
    return server.value("select statements from agent_guard.stat", dbname="bench")
