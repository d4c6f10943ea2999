"""Transactions per second through each variant, by pgbench, in short rounds that take turns."""

from __future__ import annotations

import re
import statistics

from servers import Variant, pgbench

WORKLOADS = {"select prepared": ["-S", "-M", "prepared"], "select simple": ["-S", "-M", "simple"], "TPC-B simple": ["-M", "simple"]}


def run(variant: Variant, *arguments: str) -> tuple[int, float]:
    """pgbench to its end: transactions, and how many a second."""
    running = pgbench(variant, *arguments)
    output, errors = running.communicate()
    if running.returncode:
        raise RuntimeError(f"pgbench on {variant.name}: {errors}")
    return int(re.search(r"actually processed: (\d+)", output)[1]), float(re.search(r"tps = ([0-9.]+)", output)[1])


def rounds(variants: list[Variant], count: int, seconds: int) -> list[dict]:
    """Medians, with ratios to the first variant of the same round."""
    taken: dict[tuple[str, str], list[float]] = {}
    for number in range(count):
        for workload, arguments in WORKLOADS.items():
            turn = number % len(variants)
            for variant in variants[turn:] + variants[:turn]:
                tps = run(variant, *arguments, "-c", "1", "-T", str(seconds))[1]
                taken.setdefault((workload, variant.name), []).append(tps)
    rows = []
    for (workload, name), mine in taken.items():
        ratio = statistics.median(a / b for a, b in zip(mine, taken[workload, variants[0].name]))
        rows.append({"workload": workload, "variant": name, "tps": statistics.median(mine), "ratio": ratio})
    order = [variant.name for variant in variants]
    return sorted(rows, key=lambda row: (list(WORKLOADS).index(row["workload"]), order.index(row["variant"])))


def report(rows: list[dict]) -> None:
    print(f"\n{'workload':<16} {'variant':<14} {'TPS':>9} {'ratio':>7}")
    for row in rows:
        print(f"{row['workload']:<16} {row['variant']:<14} {row['tps']:>9.0f} {row['ratio']:>7.3f}")
