"""What `agent_guard.journal = sync` costs: eight agents whose statements are answered when their event is on disk, against eight
unguarded clients that commit one row each with synchronous_commit = on. Both servers sync their files.

The baseline waits for one sync per statement, as a guarded SELECT does. A guarded INSERT waits for two, one after the other: its
event first, so that nothing is committed unrecorded, and then its own commit; with synchronous_commit = off the first alone.
"""

from __future__ import annotations

import pathlib
import statistics
import tempfile

from servers import AGENT, Variant, guarded
from throughput import run

CLIENTS = 8
GOAL = 1.3
BASE = "unguarded INSERT, synchronous_commit = on"
READ = "agents, SELECT"
WRITE = "agents, INSERT, synchronous_commit = on"
RELAXED = "agents, INSERT, synchronous_commit = off"
SELECT = "SELECT abalance FROM pgbench_accounts WHERE aid = 1;\n"
INSERT = "INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 1, 1, 1, CURRENT_TIMESTAMP);\n"


def measure(new, rounds: int, seconds: int) -> dict:
    """Statements a second of each in rounds that take turns; `ratio` is the median of how much fewer they are than the baseline's."""
    plain = new("durable_plain", "none", "fsync = on")
    journaled = new("durable_sync", "agent_guard", "fsync = on", "agent_guard.journal = sync", "agent_guard.audit_capacity = 200000")
    options = guarded(journaled, "durable")
    runs = {
        BASE: (Variant("plain", plain), INSERT),
        READ: (Variant("sync", journaled, AGENT, options), SELECT),
        WRITE: (Variant("sync", journaled, AGENT, options), INSERT),
        RELAXED: (Variant("sync", journaled, AGENT, f"{options} -c synchronous_commit=off"), INSERT),
    }
    taken: dict[str, list[float]] = {name: [] for name in runs}
    with tempfile.TemporaryDirectory() as place:
        for number in range(rounds):
            turn = number % len(runs)
            names = list(runs)
            for name in names[turn:] + names[:turn]:
                variant, script = runs[name]
                path = pathlib.Path(place) / "script"
                path.write_text(script)
                taken[name].append(run(variant, "-f", str(path), "-c", str(CLIENTS), "-j", "2", "-T", str(seconds))[1])
    ratio = {name: statistics.median(a / b for a, b in zip(taken[BASE], mine)) for name, mine in taken.items()}
    return {"rounds": rounds, "seconds": seconds, "tps": {name: statistics.median(mine) for name, mine in taken.items()}, "ratio": ratio, "taken": taken}


def report(found: dict) -> None:
    print(f"\njournal = sync, {CLIENTS} clients: medians of {found['rounds']} rounds of {found['seconds']} s\n\n{'':<44} {'per second':>10} {'x':>6}")
    for name, tps in found["tps"].items():
        print(f"{name:<44} {tps:>10.0f} {found['ratio'][name]:>6.2f}")
