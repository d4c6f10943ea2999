"""What nesting costs and how fast an end reaches the deepest child: chains of four blocks below the window's own.

- verification: CPU of the backend for set_config of a token, many times within one statement, less that of an ordinary
  setting. The whole has in it all of a new binding: the window's row, its key, two audit events, plans and portals
  dropped. A chain to depth 4 has five blocks; what they cost is told from the difference to depth 0, which has one:
  MACs, strict reading, narrowing, looking each block's revocation up, and naming each in the event.
- SET to first answer: from sending SET to having the answer of the next statement, on the client's clock, in a session
  that is open, and as the first thing in a new one; there beside an ordinary SET and the same statement of an unguarded
  role, because a new backend has its caches to fill.
- revoke to cancelled: from sending revoke_window to the child's error, on the client's clock; its own time is included.
- expiry to cancelled: from the token's `exp` to the error, on the machine's clock.
- statement at depth 4: CPU slices as everywhere (slices.py), against depth 0 on the same server.
"""

from __future__ import annotations

import dataclasses
import statistics
import time

import guard
import proc
import slices
from servers import AGENT, Variant
from slices import Compared, Workload, query
from tokens import child, claims_of
from wire import Wire

DEPTH = 4
POLICY = "nested"


def prepare(variant: Variant) -> None:
    server = variant.server
    for call in (
        f"create_policy('{POLICY}')",
        f"allow('{POLICY}', array['select'], array['public.pgbench_accounts'])",
        f"allow('{POLICY}', array['execute'], array['function pg_catalog.pg_sleep(double precision)'])",
    ):
        server.run(f"select agent_guard.{call}", dbname="bench")


def window(variant: Variant, ttl: str = "1 day") -> tuple[str, str]:
    """A window's id and its token."""
    row = variant.server.window(AGENT, POLICY, ttl, dbname="bench", max_depth=DEPTH)
    return str(row[0]), row[1]


def nested(token: str, depth: int = DEPTH, seconds: int | None = None) -> str:
    for n in range(depth):
        token = child(token, seconds if n == depth - 1 else None, sub=f"child{n + 1}")
    return token


def connect(variant: Variant, user: str = AGENT) -> Wire:
    return Wire(variant.server.host, variant.server.port, user, "bench")


def set_token(token: str) -> bytes:
    return query(f"set agent_guard.token = '{token}'")


def verification(variant: Variant, rounds: int) -> dict[str, Compared]:
    """Microseconds of CPU that setting a token takes beyond setting anything else."""
    times = 300
    _, root = window(variant)
    values = {"setting": ("application_name", "x"), "depth 0": ("agent_guard.token", root), "depth 4": ("agent_guard.token", nested(root))}
    line = slices.Line(dataclasses.replace(variant, options=f"-c agent_guard.token={root}"), Workload("", "", lambda *_: [], 0, 0), 1)
    taken: dict[str, list[float]] = {name: [] for name in values}
    slices.apart([variant])
    try:
        for number in range(rounds):
            order = list(values)
            for name in order[number % 3:] + order[:number % 3]:
                setting, value = values[name]
                before = proc.settled_ns(line.pid)
                line.exchange([query(f"select count(set_config('{setting}', '{value}', false)) from generate_series(1, {times})")])
                taken[name].append((proc.settled_ns(line.pid) - before) / times / 1000)
                variant.catch_up()
    finally:
        slices.together([variant])
        line.close()
    whole = Compared.of([a - b for a, b in zip(taken["depth 4"], taken["setting"])])
    return {"whole": whole, "blocks": Compared.of([(a - b) * (DEPTH + 1) / DEPTH for a, b in zip(taken["depth 4"], taken["depth 0"])])}


def answered(wire: Wire, setting: bytes) -> float:
    """Milliseconds from sending a SET to having the answer of the statement behind it."""
    began = time.perf_counter()
    for message in (setting, query("select abalance from pgbench_accounts where aid = 1")):
        wire.socket.sendall(message)
        reply = wire.until("Z")
        if reply.errors:
            raise RuntimeError(f"not answered: {reply.errors}")
    return (time.perf_counter() - began) * 1000


def first_answers(variant: Variant, count: int) -> dict[str, float]:
    """Medians: in an open session, as the first in a new one, and that of an unguarded role with another setting."""
    _, root = window(variant)
    texts = [set_token(nested(root)) for _ in range(count)]
    taken: dict[str, list[float]] = {"open": [], "new": [], "unguarded": []}
    open_session = connect(variant)
    for text in texts:
        taken["open"].append(answered(open_session, text))
        for name, user, setting in (("new", AGENT, text), ("unguarded", "app", query("set application_name = 'x'"))):
            wire = connect(variant, user)
            taken[name].append(answered(wire, setting))
            wire.drop()
    open_session.drop()
    return {name: statistics.median(values) for name, values in taken.items()}


def sleeping(variant: Variant, token: str) -> Wire:
    """A session under the token that sleeps in a statement."""
    wire = connect(variant)
    if wire.query(f"set agent_guard.token = '{token}'").errors:
        raise RuntimeError("the token is not accepted")
    wire.socket.sendall(query("select pg_sleep(60)"))
    asleep = f"select count(*) from pg_stat_activity where pid = {wire.key[0]} and wait_event = 'PgSleep'"
    guard.eventually(lambda: variant.server.value(asleep), "it sleeps")
    return wire


def cancelled(wire: Wire, reason: str) -> None:
    error = wire.until("Z").errors[0]
    wire.drop()
    if error["C"] != "57014" or f"reason={reason}" not in error.get("D", ""):
        raise RuntimeError(f"not cancelled for the reason {reason}: {error}")


def revocations(variant: Variant, count: int) -> list[float]:
    """Milliseconds from a revocation of the window to the error of the child at its deepest."""
    taken = []
    with variant.server.connect(dbname="bench") as dba:
        for _ in range(count):
            window_id, root = window(variant)
            wire = sleeping(variant, nested(root))
            began = time.perf_counter()
            dba.execute("select agent_guard.revoke_window(%s)", (window_id,))
            cancelled(wire, "revoked")
            taken.append((time.perf_counter() - began) * 1000)
    return taken


def expiries(variant: Variant, count: int) -> list[float]:
    """Milliseconds from the end of a token to the error of what ran under it."""
    _, root = window(variant)
    ending = [nested(root, seconds=3 + n) for n in range(count)]
    wires = [sleeping(variant, token) for token in ending]
    taken = []
    for wire, token in zip(wires, ending):
        cancelled(wire, "expired")
        taken.append((time.time() - claims_of(token)["exp"]) * 1000)
    return taken


def statement(variant: Variant, rounds: int, scale: int) -> slices.Row:
    """A statement at depth 4 against one at depth 0."""
    _, root = window(variant)
    names = ["depth 0", "depth 4"]
    tokens = [root, nested(root)]
    pair = [dataclasses.replace(variant, name=name, options=f"-c agent_guard.token={token}") for name, token in zip(names, tokens)]
    taken = slices.measure(pair, slices.PREPARED, rounds, scale)
    return slices.compare(taken, slices.PREPARED, names, "depth 0")[1]


def measure(variant: Variant, rounds: int, scale: int) -> dict:
    """Everything; printed as it comes."""
    prepare(variant)
    print("\nDelegation, to depth 4\n", flush=True)
    sets = verification(variant, rounds)
    for name, text in (("whole", "a token at depth 4 verified and bound"), ("blocks", "of which its five blocks")):
        print(f"{text}: {sets[name].middle:.1f} us of CPU ({sets[name].low:.1f}..{sets[name].high:.1f})")
    first = first_answers(variant, 60)
    print(f"SET to first answered statement, median: {first['open']:.2f} ms in an open session, {first['new']:.2f} ms as the first in a new one "
          f"({first['unguarded']:.2f} ms unguarded)")
    revoked, expired = revocations(variant, 15), expiries(variant, 6)
    print(f"revoke to cancelled: median {statistics.median(revoked):.1f} ms, slowest {max(revoked):.1f} ms")
    print(f"expiry to cancelled: median {statistics.median(expired):.1f} ms, slowest {max(expired):.1f} ms")
    at_depth = statement(variant, rounds, scale)
    print(f"{slices.HEAD}\n{slices.line_of(at_depth)}")
    return {"sets": sets, "first": first, "revoked": revoked, "expired": expired, "statement": at_depth}
