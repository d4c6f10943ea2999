"""What recording results costs the backend: the same 10,000 rows fetched by three agents, of whose policies one records nothing, one
the rows and one their digest. CPU slices as everywhere (slices.py), against the one that records nothing.

The rows have four columns of the usual kinds, about 70 bytes as they are sent: the fewer bytes, the more a step for each row shows. A
slice stays below the size of the ring, so that nobody waits for the writer.
"""

from __future__ import annotations

import dataclasses

import slices
from servers import AGENT, Variant, guarded

ROWS = 10_000
GOAL = 1.10
FETCH = slices.Workload("10,000 rows", "SELECT id, name, price, sold FROM fetched;", lambda *_: [slices.run_prepared()], 12, 2)
KEPT = {"none": "", "rows": f", max_rows => {ROWS}, max_bytes => 4000000", "digest": ""}


def measure(variant: Variant, rounds: int, scale: int) -> list[slices.Row]:
    """A row for each kind of recording, the one without first."""
    server = variant.server
    options = {kept: guarded(server, f"records_{kept}") for kept in KEPT}
    server.run(
        f"""create table fetched as select n as id, 'item number ' || n as name, (n * 7919 % 100000) / 100.0 as price,
            timestamptz '2024-05-01 10:00:00+00' + n * interval '97 seconds' as sold from generate_series(1, {ROWS}) as n;
        grant select on fetched to {AGENT}""",
        dbname="bench",
    )
    server.run("vacuum (freeze, analyze) fetched", dbname="bench")
    for kept, limits in KEPT.items():
        server.run(f"select agent_guard.allow('records_{kept}', array['select'], array['public.fetched'])", dbname="bench")
        server.run(f"select agent_guard.set_recording('records_{kept}', '{kept}'{limits})", dbname="bench")
    variants = [dataclasses.replace(variant, name=f"records {kept}", options=option) for kept, option in options.items()]
    names = [one.name for one in variants]
    before = _results(server)
    rows = slices.compare(slices.measure(variants, FETCH, rounds, scale), FETCH, names, names[0])
    # What was measured is what was recorded, as far as the trail still has it.
    found = _results(server)
    if not all(found.get(whole, 0) > before.get(whole, 0) for whole in (0, ROWS)) or set(found) - set(before) - {0, ROWS}:
        raise RuntimeError(f"results by the number of rows kept: {found}")
    return rows


def _results(server) -> dict[int, int]:
    """How many results of the fetch the trail has whole, by the number of rows that are kept."""
    server.value("select 1 from agent_guard.audit_flush()", dbname="bench")
    query = f"""select (message::json ->> 'recorded')::int, count(*) from agent_guard.audit
        where event = 'results' and message::json ->> 'state' = 'complete' and (message::json ->> 'rows')::int = {ROWS} group by 1"""
    return dict(server.rows(query, dbname="bench"))
