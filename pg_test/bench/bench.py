"""What the guard costs, in one run on this machine; docs/performance.md tells how to read it.

Variants: none (no extension), loaded (preloaded, role not guarded), guarded (everything audited), pgaudit (log =
read, write, to file), pgbouncer (in front of none). Every server is a private copy under target/bench.

- CPU of the backend per statement, in slices that take turns (slices.py); `helper` is that of whoever works beside it for
  the same statements: agent_guard's writer, pgaudit's log collector, pgbouncer
- one event's part in that (event.py)
- transactions per second, by pgbench (throughput.py)
- few rules against many, chains of tokens (delegation.py), approvals (approvals.py), recorded results (recording.py), queries on a full
  trail (queries.py), the audit path saturated (saturation.py), answers that wait for the journal (durable.py)
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time

import approvals
import delegation
import durable
import event
import guard
import proc
import queries
import recording
import saturation
import slices
import throughput
from guard import Server
from servers import AGENT, CONF, Variant, bouncer_in_front_of, filled, flush, guarded, pids_of, writers


class Goals:
    """The issues' figures beside what was measured. A benchmark tells; it does not fail."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def at_most(self, text: str, value: float, limit: float, unit: str) -> None:
        self._line(value <= limit, f"{text}: {value:.3f}{unit} (at most {limit}{unit})")

    def at_least(self, text: str, value: float, limit: float, unit: str) -> None:
        self._line(value >= limit, f"{text}: {value:.0f}{unit} (at least {limit}{unit})")

    def compared(self, text: str, value: slices.Compared, limit: float, unit: str) -> None:
        """A figure with its interval: within noise where the limit lies in it."""
        inside = value.low <= limit <= value.high
        self._line(value.middle <= limit, f"{text}: {value.middle:.3f}{unit}, {value.low:.3f}..{value.high:.3f} (at most {limit}{unit}{', within noise' if inside else ''})")

    def _line(self, reached: bool, text: str) -> None:
        self.lines.append(f"{'reached' if reached else 'MISSED ':<8} {text}")


def cost(variants: list[Variant], given: argparse.Namespace, goals: Goals) -> list[slices.Row]:
    """CPU per statement of every workload through every variant."""
    names = [variant.name for variant in variants]
    rows: list[slices.Row] = []
    print(f"\nCPU of the backend per statement: medians of {given.rounds} slices, against the slice of {names[0]} in the same round\n\n{slices.HEAD}")
    for workload in slices.WORKLOADS:
        taken = slices.measure(variants, workload, given.rounds, given.scale)
        found = slices.compare(taken, workload, names, names[0])
        for row in found:
            print(slices.line_of(row), flush=True)
        rows += found
        by = {row.variant: row for row in found}
        if "loaded" in by:
            goals.compared(f"unguarded CPU per statement, {workload.name}", by["loaded"].ratio, 1.01, " x")
        if workload is slices.PREPARED and "guarded" in by:
            goals.compared("guarded CPU per prepared select", by["guarded"].ratio, 1.10, " x")
            goals.compared("guarded CPU added per prepared select", by["guarded"].added_us, 5, " us")
            if "pgaudit" in by:
                ratio = slices.Compared.of([a / b for a, b in zip(taken["guarded"], taken["pgaudit"])])
                goals.compared("guarded against pgaudit's CPU", ratio, 1.0, " x")
    return rows


def one_event(new, given: argparse.Namespace, goals: Goals) -> dict[str, slices.Row]:
    """What recording a statement adds to it."""
    library = {"GUARD_SO": os.environ["BENCH_FAULT_SO"], "GUARD_ROOT": os.environ["BENCH_FAULT_ROOT"]}
    rows = event.measure(new("event", "agent_guard", **library), given.rounds, given.scale)
    print(f"\nOne event, of a statement of 200 bytes\n\n{slices.HEAD}")
    for name, row in rows.items():
        print(slices.line_of(row), flush=True)
        goals.compared(f"one event, {name}", row.added_us, event.GOAL, " us")
    return rows


def many_rules(audited: Variant, given: argparse.Namespace, goals: Goals) -> list[slices.Row]:
    """Ten rules against ten thousand."""
    options = guarded(audited.server, "many", given.rules)
    pair = [dataclasses.replace(audited, name="10 rules"), dataclasses.replace(audited, name=f"{given.rules} rules", options=options)]
    names = [variant.name for variant in pair]
    rows = slices.compare(slices.measure(pair, slices.PREPARED, given.rounds, given.scale), slices.PREPARED, names, names[0])
    print(f"\nFew and many rules\n\n{slices.HEAD}")
    for row in rows:
        print(slices.line_of(row), flush=True)
    goals.compared(f"{given.rules} rules against 10", rows[1].ratio, 1.03, " x")

    return rows


def writer_alone(audited: Variant, given: argparse.Namespace, goals: Goals) -> dict:
    """How many events a second the writer takes, without a journal and with it."""
    tables = 200
    variant = dataclasses.replace(audited, options=guarded(audited.server, "drained", tables + 10))
    alike = [slices.run_prepared(n % 1000 + 1) for n in range(saturation.EVENTS)]
    report = {}
    saturation.touched(variant)
    print("\nThe writer alone\n")
    for journal, goal in ((False, saturation.EVENT_SECOND), (True, saturation.JOURNALED_SECOND)):
        saturation.journaled(variant, journal)
        for name, messages, statement in (
            ("one statement again and again", alike, slices.PREPARED.statement),
            ("every statement another", saturation.unlike(tables), ""),
        ):
            found = [saturation.drain(variant, messages, statement) for _ in range(given.drains)]
            best = sorted(found, key=lambda one: one["per_cpu_second"])[len(found) // 2]
            name += ", journal = on" if journal else ""
            print(f"{name}: {best['per_second']:.0f} events a second, {best['per_cpu_second']:.0f} per second of its CPU (median of {len(found)})", flush=True)
            goals.at_least(f"writer, {name}, per second of its CPU", best["per_cpu_second"], goal, " events")
            report[name] = found
    saturation.journaled(variant, False)
    return report


def nesting(audited: Variant, given: argparse.Namespace, goals: Goals) -> dict:
    found = delegation.measure(audited, given.rounds, given.scale)
    goals.compared("verification of the five blocks of a chain to depth 4", found["sets"]["blocks"], 20, " us")
    goals.at_most("SET to first answered statement", found["first"]["open"], 1, " ms")
    goals.at_most("revoke to cancelled in the deepest child, slowest", max(found["revoked"]), 100, " ms")
    goals.at_most("expiry to cancelled, slowest", max(found["expired"]), 50, " ms")
    goals.compared("statement at depth 4 against depth 0", found["statement"].ratio, 1.03, " x")
    return found


def results(audited: Variant, given: argparse.Namespace, goals: Goals) -> list[slices.Row]:
    """Fetches whose rows are recorded."""
    rows = recording.measure(audited, given.rounds, given.scale)
    print(f"\nRecording of results\n\n{slices.HEAD}")
    for row in rows:
        print(slices.line_of(row), flush=True)
    for row in rows[1:]:
        goals.compared(f"fetch of {recording.ROWS} rows, {row.variant}", row.ratio, recording.GOAL, " x")
    return rows


def held(audited: Variant, given: argparse.Namespace, goals: Goals) -> dict:
    """Approve rules that do not match, and how fast people are asked and obeyed."""
    approvals.prepare(audited)
    rows, ratio = approvals.unmatched(audited, given.rounds, given.scale)
    print(f"\nApprove rules that do not match\n\n{slices.HEAD}")
    for row in rows:
        print(slices.line_of(row), flush=True)
    goals.compared("approve rules that do not match", ratio, 1.02, " x")
    found = approvals.latencies(audited, max(10, given.rounds))
    for what, values in found.items():
        print(f"{what}: median {statistics.median(values):.1f} ms, slowest {max(values):.1f} ms of {len(values)}", flush=True)
    goals.at_most("request told to an approver, slowest", max(found["request"]), 100, " ms")
    goals.at_most("approval to the answer of the statement that waited, slowest", max(found["resumed"]), 100, " ms")
    return {"rows": rows, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="slices of each variant")
    parser.add_argument("--tps-rounds", type=int, default=3, help="of pgbench; 0 for none")
    parser.add_argument("--seconds", type=int, default=2, help="of each of these")
    parser.add_argument("--saturate", type=float, default=60, help="seconds of saturation; 0 for none")
    parser.add_argument("--durable-rounds", type=int, default=7, help="of eight clients that wait for the disk")
    parser.add_argument("--drains", type=int, default=5, help="times that the writer is let go alone")
    parser.add_argument("--scale", type=int, default=5)
    parser.add_argument("--rules", type=int, default=10_000)
    parser.add_argument("--capacity", type=int, default=200_000, help="audit_capacity")
    parser.add_argument("--only", nargs="*", default=["none", "loaded", "guarded", "pgaudit", "pgbouncer"])
    parser.add_argument("--sections", nargs="*", default=["cost", "event", "tps", "rules", "writer", "delegation", "approvals", "recording", "queries", "saturation", "durable"])
    given = parser.parse_args()

    servers: list[Server] = []
    bouncer = None
    ok = True
    goals = Goals()
    report: dict = {"given": vars(given)}
    began = time.monotonic()

    def new(name: str, preload: str, *conf: str, **environment: str) -> Server:
        server = Server(name, [*CONF, *conf], preload, **environment)
        servers.append(server)
        filled(server, given.scale)
        return server

    try:
        variants: list[Variant] = []
        if "none" in given.only:
            variants.append(Variant("none", new("none", "none")))
        if "loaded" in given.only:
            variants.append(Variant("loaded", new("loaded", "agent_guard")))
        audited = None
        if "guarded" in given.only:
            server = new("guarded", "agent_guard", f"agent_guard.audit_capacity = {given.capacity}")
            audited = Variant("guarded", server, AGENT, guarded(server, "few"), helpers=lambda: writers(server), catch_up=lambda: flush(server))
            variants.append(audited)
        if "pgaudit" in given.only:
            logged = new("pgaudit", "pgaudit", "pgaudit.log = 'read, write'", "logging_collector = on", "log_directory = 'log'")
            variants.append(Variant("pgaudit", logged, helpers=lambda: proc.children(logged.pid, "logger")))
        if "pgbouncer" in given.only:
            bouncer = bouncer_in_front_of(variants[0].server)
            variants.append(Variant("pgbouncer", variants[0].server, host=str(bouncer.home), port=bouncer.port, helpers=lambda: pids_of(bouncer)))

        if "cost" in given.sections:
            report["cost"] = cost(variants, given, goals)
        if "event" in given.sections:
            report["event"] = one_event(new, given, goals)
        if "tps" in given.sections and given.tps_rounds:
            report["tps"] = throughput.rounds(variants, given.tps_rounds, given.seconds)
            throughput.report(report["tps"])
        if audited and "rules" in given.sections:
            report["rules"] = many_rules(audited, given, goals)
        if audited and "writer" in given.sections:
            report["writer"] = writer_alone(audited, given, goals)
        if audited and "delegation" in given.sections:
            report["delegation"] = nesting(audited, given, goals)
        if audited and "approvals" in given.sections:
            report["approvals"] = held(audited, given, goals)
        if audited and "recording" in given.sections:
            report["recording"] = results(audited, given, goals)
        if "queries" in given.sections:
            report["queries"] = queries.measure(new("queried", "agent_guard", f"agent_guard.audit_capacity = {queries.CAPACITY}", "shared_buffers = '1GB'"), given.rounds)
            queries.report(report["queries"])
            one = report["queries"]["queries"]["one session"]
            goals.at_most("events of one session at 1,000,000, median", one["median"], queries.GOAL, " ms")
            goals.at_most("events of one session at 1,000,000, slowest", one["slowest"], queries.GOAL, " ms")
        if audited and given.saturate and "saturation" in given.sections:
            report["saturation"] = saturation.saturate(audited, given.saturate, given.capacity)
            ok = saturation.report(report["saturation"])
        if "durable" in given.sections and given.durable_rounds:
            report["durable"] = durable.measure(new, given.durable_rounds, given.seconds)
            durable.report(report["durable"])
            goals.at_most("journal = sync, 8 agents, against a synchronous commit", report["durable"]["ratio"][durable.READ], durable.GOAL, " x")
        print(f"\nGoals (after {time.monotonic() - began:.0f} s, load {os.getloadavg()[0]:.1f})\n", *goals.lines, sep="\n")
        report["goals"] = goals.lines
        path = guard.HOMES / "results.json"
        path.write_text(json.dumps(report, indent=2, default=lambda it: dataclasses.asdict(it) if dataclasses.is_dataclass(it) else str(it)))
        print(f"\nAll figures: {os.path.relpath(path, guard.TOP)}")
    finally:
        if bouncer:
            bouncer.stop()
        for server in servers:
            server.remove()
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
