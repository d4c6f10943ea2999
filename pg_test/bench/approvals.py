"""What approvals cost those who need none, and how fast they are for those who do.

- approve rules that do not match: CPU slices as everywhere (slices.py), of an agent whose policy has a hundred of them, on the
  relation that it reads and on others, against the same policy without.
- request to approver: from sending the statement to the request's notification at a listening approver, on one clock.
- approval to resumption: from the answer of approve() to the answer of the statement that waited, a utility statement and a
  change of rows in turn.
"""

from __future__ import annotations

import dataclasses
import json
import threading
import time

import guard
import slices
from servers import AGENT, Variant, guarded

POLICY = "asked"
APPROVER = "bench_lead"
RULES = 100


def prepare(variant: Variant) -> None:
    server = variant.server
    server.run(f"create role {APPROVER} login; create table held (id int); alter table held owner to {AGENT}", dbname="bench")
    server.run("insert into held select generate_series(1, 100)", dbname="bench")


def unmatched(variant: Variant, rounds: int, scale: int) -> tuple[list[slices.Row], slices.Compared]:
    """The rows of both, and the ratio of the one with approve rules to the one without."""
    server = variant.server
    plain, asked = guarded(server, "unasked"), guarded(server, POLICY)
    server.run(
        f"""do $$ begin for n in 1 .. {RULES} loop
            perform agent_guard.require_approval('{POLICY}', array['drop', 'truncate', 'delete'], array['public.*'], array['{APPROVER}']::regrole[]);
            perform agent_guard.require_approval('{POLICY}', array['select'], array['many.t' || (1 + n % 6)], array['{APPROVER}']::regrole[]);
        end loop; end $$""",
        dbname="bench",
    )
    pair = [dataclasses.replace(variant, name="no approve rules", options=plain), dataclasses.replace(variant, name=f"{2 * RULES} of them", options=asked)]
    names = [one.name for one in pair]
    rows = slices.compare(slices.measure(pair, slices.PREPARED, rounds, scale), slices.PREPARED, names, names[0])
    return rows, rows[1].ratio


def latencies(variant: Variant, times: int) -> dict[str, list[float]]:
    """Milliseconds."""
    server = variant.server
    name = "latency"
    server.run(f"select agent_guard.create_policy('{name}'); select agent_guard.allow('{name}', array['*'], array['*'])", dbname="bench")
    server.run(f"select agent_guard.require_approval('{name}', array['truncate', 'delete'], array['public.held'], array['{APPROVER}']::regrole[])", dbname="bench")
    token = server.window(AGENT, name, "1 day", dbname="bench")[1]
    found: dict[str, list[float]] = {"request": [], "resumed": []}
    with server.connect(AGENT, dbname="bench") as agent, server.connect(APPROVER, dbname="bench") as ears, server.connect(APPROVER, dbname="bench") as lead:
        guard.bind(agent, token)
        agent.execute("set agent_guard.approval_wait = '1 min'")
        ears.execute("listen agent_guard_approval")
        for n in range(times):
            ended: list[float] = []
            statement = f"truncate held /* {n} */" if n % 2 else f"delete from held where id = {n} and {n} = {n}"

            def run(statement: str = statement) -> None:
                agent.execute(statement)
                ended.append(time.monotonic())

            waits = threading.Thread(target=run)
            began = time.monotonic()
            waits.start()
            request = None
            for told in ears.notifies(timeout=10):
                message = json.loads(told.payload)
                if message["event"] == "request":
                    found["request"].append((time.monotonic() - began) * 1000)
                    request = message["request_id"]
                    break
            # What is told is there to be read, and the statement has had time to begin its wait.
            waiting = "select true from pg_stat_activity where pid = %s and xact_start is null"
            guard.eventually(lambda: server.rows(waiting, agent.info.backend_pid), "the session waits")
            lead.execute("select agent_guard.approve(%s)", (request,))
            approved = time.monotonic()
            waits.join(20)
            found["resumed"].append((ended[0] - approved) * 1000)
    return found
