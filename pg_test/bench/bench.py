"""What the guard costs, in one interleaved run: every round runs every variant of every workload, in an order that
turns from round to round, and medians are compared. All figures are ratios to the same server without the extension.

Variants: none (no extension), loaded (preloaded, role not guarded), guarded (everything audited), pgaudit (log =
read, write, to file), pgbouncer (in front of none). Every server is a private copy under target/bench.

CPU is the backend's time per statement, from /proc; `helper` is that of whoever works beside it for the same
statements: agent_guard's writer, pgaudit's log collector, pgbouncer.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

import guard
import proc
from bouncer import Bouncer
from guard import Server

CONF = ["shared_buffers = '256MB'", "max_wal_size = '4GB'", "checkpoint_timeout = '1h'", "autovacuum = off", "max_connections = 50"]
# Statements of one pgbench transaction.
WORKLOADS = {"select prepared": (["-S", "-M", "prepared"], 1), "select simple": (["-S", "-M", "simple"], 1), "TPC-B simple": (["-M", "simple"], 7)}
AGENT = "bench_agent"
TABLES = ["pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history"]
EVENT_SECOND = 50_000  # what the writer has to drain


@dataclasses.dataclass
class Variant:
    """One way to the same data."""

    name: str
    server: Server
    user: str = "app"
    options: str = ""
    host: str = ""
    port: int = 0
    helpers: object = staticmethod(lambda: [])  # pids of those who work beside the backend

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PGHOST": self.host or self.server.host, "PGPORT": str(self.port or self.server.port),
                "PGUSER": self.user, "PGDATABASE": "bench", "PGOPTIONS": self.options}


@dataclasses.dataclass
class Sample:
    tps: float
    statement_ns: float
    helper_ns: float


# --- servers ---


def pgbench(variant: Variant, *arguments: str) -> subprocess.Popen:
    program = os.path.join(variant.server.variables["GUARD_BIN"], "pgbench")
    return subprocess.Popen([program, "-n", *arguments], env=variant.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def filled(server: Server, scale: int) -> None:
    """Starts a server with pgbench's tables in it."""
    server.start()
    server.run("create role app login")
    server.run("create database bench owner app")
    initialize = pgbench(Variant(server.name, server), "-i", "-q", "-s", str(scale))
    _, errors = initialize.communicate()
    if initialize.returncode:
        raise RuntimeError(f"pgbench -i on {server.name}: {errors}")
    server.run("vacuum (freeze, analyze)", dbname="bench")
    server.run("checkpoint")


def guarded(server: Server, policy: str, rules: int = 10) -> str:
    """A guarded role with a policy of about so many rules; the option that binds its sessions."""
    if not server.value("select count(*) from pg_extension where extname = 'agent_guard'", dbname="bench"):
        server.run("create extension agent_guard", dbname="bench")
        server.run(f"create role {AGENT} login")
        server.run(f"grant select, insert, update on {', '.join(TABLES)} to {AGENT}", dbname="bench")
        server.run(f"select agent_guard.guard_role('{AGENT}')", dbname="bench")
    server.run(f"select agent_guard.create_policy('{policy}')", dbname="bench")
    for table in TABLES:
        server.run(f"select agent_guard.allow('{policy}', array['select', 'insert', 'update'], array['public.{table}'])", dbname="bench")
    others = rules - len(TABLES)
    server.run("create schema if not exists many", dbname="bench")
    server.run(
        f"""do $$ begin for n in 1 .. {others} loop
            execute format('create table if not exists many.t%s (a integer)', n);
            perform agent_guard.allow('{policy}', array['select'], array['many.t' || n]);
            if n % 500 = 0 then commit; end if;
        end loop; end $$""",
        dbname="bench",
    )
    token = server.window(AGENT, policy, "1 day", dbname="bench")[1]
    return f"-c agent_guard.token={token}"


def writers(server: Server) -> list[int]:
    """agent_guard's background processes."""
    query = "select pid from pg_stat_activity where backend_type like 'agent_guard%%'"
    return [pid for (pid,) in server.rows(query)]


def bouncer_in_front_of(server: Server) -> Bouncer:
    """Session pooling, which is all that prepared statements allow everywhere."""
    return Bouncer(server, "app", "bench", pool_mode="session")


def pids_of(bouncer: Bouncer) -> list[int]:
    return proc.children(bouncer.process.pid, "pgbouncer") or [bouncer.process.pid]


# --- measuring ---


def sessions(server: Server, user: str) -> dict[int, int]:
    """The user's backends and their CPU time."""
    query = "select pid from pg_stat_activity where usename = %s and datname = 'bench' and backend_type = 'client backend'"
    return {pid: proc.cpu_ns(pid) or 0 for (pid,) in server.rows(query, user)}


def working(server: Server, user: str, others: dict[int, int], running: subprocess.Popen) -> int:
    """The pid of pgbench's one working connection; an earlier one, which looks at the tables, is soon gone."""
    before: set[int] = set()
    while running.poll() is None:
        found = sessions(server, user).keys() - others.keys()
        if len(found) == 1 and found == before:
            return found.pop()
        before = found
        time.sleep(0.05)
    raise RuntimeError(f"pgbench ended before its connection was seen: {running.communicate()[1]}")


def transactions(output: str) -> int:
    return int(re.search(r"actually processed: (\d+)", output)[1])


def tps(output: str) -> float:
    return float(re.search(r"tps = ([0-9.]+)", output)[1])


def sample(variant: Variant, workload: str, seconds: int) -> Sample:
    arguments, statements = WORKLOADS[workload]
    helpers = variant.helpers()
    before = sum(proc.cpu_ns(pid) or 0 for pid in helpers)
    others = sessions(variant.server, variant.user)
    began = time.monotonic()
    running = pgbench(variant, *arguments, "-c", "1", "-T", str(seconds))
    if variant.port:
        # A pool's backends outlive their client, and it may have more than one.
        running.wait()
        used = sum(sessions(variant.server, variant.user).values()) - sum(others.values())
    else:
        pid = working(variant.server, variant.user, others, running)
        used = proc.until_gone(pid, began + seconds)
    output, errors = running.communicate()
    if running.returncode:
        raise RuntimeError(f"pgbench on {variant.name}: {errors}")
    if variant.name.startswith("guarded"):
        variant.server.value("select 1 from agent_guard.audit_flush()", dbname="bench")
    helped = sum(proc.cpu_ns(pid) or 0 for pid in helpers) - before
    count = transactions(output) * statements
    return Sample(tps(output), used / count, helped / count)


def rounds(variants: list[Variant], workloads: list[str], count: int, seconds: int) -> dict[tuple[str, str], list[Sample]]:
    results: dict[tuple[str, str], list[Sample]] = {}
    for number in range(count):
        for workload in workloads:
            turn = number % len(variants)
            for variant in variants[turn:] + variants[:turn]:
                results.setdefault((workload, variant.name), []).append(sample(variant, workload, seconds))
        print(f"round {number + 1} of {count} done", file=sys.stderr, flush=True)
    return results


def median(samples: list[Sample], what: str) -> float:
    return statistics.median(getattr(one, what) for one in samples)


def table(title: str, results: dict, workloads: list[str], names: list[str]) -> list[dict]:
    """Prints medians; ratios are to the first variant, round by round, so that a slow minute touches both sides."""
    print(f"\n{title}\n")
    print(f"{'workload':<16} {'variant':<14} {'TPS':>9} {'ratio':>7} {'CPU us/stmt':>12} {'ratio':>7} {'+us':>7} {'helper us':>10} {'spread':>7}")
    figures = []
    for workload in workloads:
        base = results[workload, names[0]]
        for name in names:
            mine = results[workload, name]
            tps_ratio = statistics.median(a.tps / b.tps for a, b in zip(mine, base))
            cpu_ratio = statistics.median(a.statement_ns / b.statement_ns for a, b in zip(mine, base))
            added = statistics.median(a.statement_ns - b.statement_ns for a, b in zip(mine, base)) / 1000
            values = [one.statement_ns for one in mine]
            spread = (max(values) - min(values)) / statistics.median(values)
            row = {"workload": workload, "variant": name, "tps": median(mine, "tps"), "tps_ratio": tps_ratio, "cpu_us": median(mine, "statement_ns") / 1000,
                   "cpu_ratio": cpu_ratio, "added_us": added, "helper_us": median(mine, "helper_ns") / 1000, "spread": spread}
            figures.append(row)
            print(f"{workload:<16} {name:<14} {row['tps']:>9.0f} {tps_ratio:>7.3f} {row['cpu_us']:>12.2f} {cpu_ratio:>7.3f} {added:>+7.2f} "
                  f"{row['helper_us']:>10.2f} {spread:>6.1%}")
    return figures


# --- saturation ---


def ring_bytes(server: Server) -> int:
    query = """select coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint from pg_class c
        where c.relkind = 'r' and c.relpersistence = 'u' and c.relnamespace = 'agent_guard'::regnamespace"""
    return server.value(query, dbname="bench")


def saturate(variant: Variant, seconds: float, capacity: int) -> dict:
    """Two clients at full speed; every statement must be in the trail, and the ring must not grow past its capacity."""
    server = variant.server

    def last() -> int:
        server.value("select 1 from agent_guard.audit_flush()", dbname="bench")
        return server.value("select coalesce(max(seq), 0) from agent_guard.audit", dbname="bench")

    def stat(column: str):
        try:
            return server.value(f"select {column} from agent_guard.stat", dbname="bench")
        except guard.psycopg.Error:
            return None

    result: dict = {"seconds": seconds, "capacity": capacity, "sizes": []}
    pids = variant.helpers()
    began_seq, began_cpu, began_lost = last(), sum(proc.cpu_ns(pid) or 0 for pid in pids), stat("dropped") or 0
    done = 0
    began = time.monotonic()
    for _ in range(4):
        running = pgbench(variant, "-S", "-M", "prepared", "-c", "2", "-j", "2", "-T", str(max(1, round(seconds / 4))))
        output, errors = running.communicate()
        if running.returncode:
            raise RuntimeError(f"pgbench, saturated: {errors}")
        done += transactions(output)
        server.value("select 1 from agent_guard.audit_flush()", dbname="bench")
        result["sizes"].append(ring_bytes(server))
    elapsed = time.monotonic() - began
    events = last() - began_seq
    cpu = (sum(proc.cpu_ns(pid) or 0 for pid in pids) - began_cpu) / 1e9
    kept, gapless = server.rows("select count(*), max(seq) - min(seq) + 1 = count(*) from agent_guard.audit", dbname="bench")[0]
    counted = server.value(f"select count(*) from agent_guard.audit where seq > {began_seq} and statement like 'SELECT abalance%%'", dbname="bench")
    result |= {"statements": done, "per_second": done / elapsed, "events": events, "in_trail": counted, "kept": kept, "gapless": gapless,
               "dropped": (stat("dropped") or 0) - began_lost, "events_per_writer_cpu_second": events / cpu if cpu else None}
    return result


def report_saturation(result: dict) -> bool:
    print(f"\nTwo saturated clients, {result['seconds']:.0f} s, everything audited\n")
    rate = result["events_per_writer_cpu_second"]
    print(f"statements {result['statements']} ({result['per_second']:.0f}/s), events recorded {result['events']}, dropped {result['dropped']}")
    print(f"rows kept {result['kept']} of capacity {result['capacity']}, sequence without gaps: {result['gapless']}")
    print(f"writer: {rate:.0f} events per second of its CPU (to reach: {EVENT_SECOND})" if rate else "writer: not found")
    print("ring table, MB after each quarter: " + " ".join(f"{size / 1e6:.1f}" for size in result["sizes"]))
    # Every statement is one event at least; the sessions' own events come on top.
    lost = result["events"] < result["statements"] or result["dropped"] or not result["gapless"]
    if result["events"] <= result["capacity"]:
        lost = lost or result["in_trail"] != result["statements"]
    print("LOST EVENTS" if lost else "none lost")
    return not lost


# --- all of it ---


def goals(figures: list[dict], rules: list[dict]) -> None:
    """The issue's figures beside what was measured. A benchmark tells; it does not fail."""
    by = {(row["workload"], row["variant"]): row for row in figures}

    def line(text: str, value: float, limit: float, unit: str) -> None:
        print(f"{'reached' if value <= limit else 'MISSED ':<8} {text}: {value:.3f}{unit} (at most {limit}{unit})")

    print("\nGoals\n")
    for workload in WORKLOADS:
        if (workload, "loaded") in by:
            line(f"unguarded CPU per statement, {workload}", by[workload, "loaded"]["cpu_ratio"], 1.01, " x")
    prepared = by.get(("select prepared", "guarded"))
    if prepared:
        line("guarded CPU per prepared select", prepared["cpu_ratio"], 1.10, " x")
        line("guarded CPU added per prepared select", prepared["added_us"], 5, " us")
        if ("select prepared", "pgaudit") in by:
            line("guarded against pgaudit's CPU", prepared["cpu_us"] / by["select prepared", "pgaudit"]["cpu_us"], 1.0, " x")
    for row in rules[1:]:
        line("10,000 rules against 10", row["cpu_ratio"], 1.03, " x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of each sample")
    parser.add_argument("--saturate", type=float, default=60, help="seconds of saturation; 0 for none")
    parser.add_argument("--scale", type=int, default=5)
    parser.add_argument("--rules", type=int, default=10_000)
    parser.add_argument("--capacity", type=int, default=200_000, help="audit_capacity while saturated")
    parser.add_argument("--only", nargs="*", default=["none", "loaded", "guarded", "pgaudit", "pgbouncer"])
    parser.add_argument("--without-rules", action="store_true", help="leave out the comparison of few and many rules")
    given = parser.parse_args()

    servers: list[Server] = []
    bouncer = None
    ok = True

    def new(name: str, preload: str, *conf: str) -> Server:
        server = Server(name, [*CONF, *conf], preload)
        servers.append(server)
        filled(server, given.scale)
        return server

    try:
        variants = []
        if "none" in given.only:
            variants.append(Variant("none", new("none", "none")))
        if "loaded" in given.only:
            variants.append(Variant("loaded", new("loaded", "agent_guard")))
        audited = None
        if "guarded" in given.only:
            server = new("guarded", "agent_guard", f"agent_guard.audit_capacity = {given.capacity}")
            options = guarded(server, "few")
            audited = Variant("guarded", server, AGENT, options, helpers=lambda: writers(server))
            variants.append(audited)
        if "pgaudit" in given.only:
            logged = new("pgaudit", "pgaudit", "pgaudit.log = 'read, write'", "logging_collector = on", "log_directory = 'log'")
            variants.append(Variant("pgaudit", logged, helpers=lambda: proc.children(logged.pid, "logger")))
        if "pgbouncer" in given.only:
            bouncer = bouncer_in_front_of(variants[0].server)
            variants.append(Variant("pgbouncer", variants[0].server, host=str(bouncer.home), port=bouncer.port, helpers=lambda: pids_of(bouncer)))

        results = rounds(variants, list(WORKLOADS), given.rounds, given.seconds)
        figures = table(f"Medians of {given.rounds} rounds of {given.seconds:g} s; ratios to {variants[0].name}", results, list(WORKLOADS), [v.name for v in variants])
        report: dict = {"rounds": given.rounds, "seconds": given.seconds, "figures": figures, "rules": []}

        if audited and not given.without_rules:
            many = guarded(audited.server, "many", given.rules)
            pair = [dataclasses.replace(audited, name="guarded 10"), dataclasses.replace(audited, name=f"guarded {given.rules}", options=many)]
            compared = rounds(pair, ["select prepared"], given.rounds, given.seconds)
            report["rules"] = table("The same with few and many rules", compared, ["select prepared"], [v.name for v in pair])
        goals(figures, report["rules"])
        if audited and given.saturate:
            report["saturation"] = saturate(audited, given.saturate, given.capacity)
            ok = report_saturation(report["saturation"])
        path = guard.HOMES / "results.json"
        path.write_text(json.dumps(report, indent=2, default=str))
        print(f"\nAll figures: {os.path.relpath(path, guard.TOP)}")
    finally:
        if bouncer:
            bouncer.stop()
        for server in servers:
            server.remove()
    sys.exit(0 if ok else 1)


main()
