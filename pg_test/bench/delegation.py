"""What nesting costs and how fast an end reaches the deepest child: chains of four blocks below the window's own.

- verification: CPU of the backend per SET of a token at depth 4, less that of a SET of an ordinary setting, and less
  what a SET of a token at depth 0 costs beyond that. Both differences are told: the first has all of a new binding
  in it, two audit events and the reading of the window's row too; the second is what four more blocks cost.
- SET to first answer: from sending SET to having the answer of the next statement, on the client's clock, in a session
  that is open, and as the first thing in a new one.
- revoke to cancelled: from sending revoke_window to the child's error, on the client's clock; its own time is included.
- expiry to cancelled: from the token's `exp` to the error, on the machine's clock.
- statement at depth 4: CPU slices as everywhere (slices.py), against depth 0 on the same server.
"""

from __future__ import annotations

import dataclasses
import statistics
import time

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


def connect(variant: Variant) -> Wire:
    return Wire(variant.server.host, variant.server.port, AGENT, "bench")


def set_token(token: str) -> bytes:
    return query(f"set agent_guard.token = '{token}'")


def settings(variant: Variant, rounds: int) -> dict[str, Compared]:
    """Microseconds of CPU that a SET of a token adds to a SET."""
    _, root = window(variant)
    pairs = {
        "setting": [query("set application_name = 'one'"), query("set application_name = 'two'")],
        "depth 0": [set_token(root), set_token(window(variant)[1])],
        "depth 4": [set_token(nested(root)), set_token(nested(root))],
    }
    lines = {}
    for name, (one, two) in pairs.items():
        lines[name] = slices.Line(dataclasses.replace(variant, options=f"-c agent_guard.token={root}"), Workload(name, "", lambda *_, one=one, two=two: [one, two], 50, 5), 1)
    taken: dict[str, list[float]] = {name: [] for name in lines}
    slices.apart([variant])
    try:
        for number in range(rounds):
            order = list(lines)
            for name in order[number % 3:] + order[:number % 3]:
                taken[name].append(lines[name].slice() / 1000)
                variant.catch_up()
    finally:
        slices.together([variant])
        for line in lines.values():
            line.close()

    def less(name: str, base: str) -> Compared:
        return Compared.of([a - b for a, b in zip(taken[name], taken[base])])

    return {"whole": less("depth 4", "setting"), "root": less("depth 0", "setting"), "blocks": less("depth 4", "depth 0")}


def first_answer(variant: Variant, count: int) -> tuple[float, float]:
    """Median milliseconds from SET to the first answered statement: in an open session, in a new one."""
    _, root = window(variant)
    texts = [set_token(nested(root)) for _ in range(count)]
    select = query("select abalance from pgbench_accounts where aid = 1")

    def once(wire: Wire, text: bytes) -> float:
        began = time.perf_counter()
        for message in (text, select):
            wire.socket.sendall(message)
            reply = wire.until("Z")
            if reply.errors:
                raise RuntimeError(f"not answered: {reply.errors}")
        return (time.perf_counter() - began) * 1000

    open_session = connect(variant)
    old = [once(open_session, text) for text in texts]
    open_session.drop()
    new = []
    for text in texts:
        wire = connect(variant)
        new.append(once(wire, text))
        wire.drop()
    return statistics.median(old), statistics.median(new)


def sleeping(variant: Variant, token: str) -> Wire:
    """A session under the token that sleeps in a statement."""
    wire = connect(variant)
    if wire.query(f"set agent_guard.token = '{token}'").errors:
        raise RuntimeError("the token is not accepted")
    wire.socket.sendall(query("select pg_sleep(60)"))
    asleep = f"select count(*) from pg_stat_activity where pid = {wire.key[0]} and wait_event = 'PgSleep'"
    while not variant.server.value(asleep):
        pass
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
    sets = settings(variant, rounds)
    told = {"whole": "SET of a token at depth 4 less SET of a setting", "root": "SET of a token at depth 0 less SET of a setting", "blocks": "of which four more blocks"}
    for name, text in told.items():
        print(f"{text}: {sets[name].middle:.1f} us of CPU ({sets[name].low:.1f}..{sets[name].high:.1f})")
    old, new = first_answer(variant, 100)
    print(f"SET to first answered statement, median: {old:.2f} ms in an open session, {new:.2f} ms as the first in a new one")
    revoked, expired = revocations(variant, 15), expiries(variant, 6)
    print(f"revoke to cancelled: median {statistics.median(revoked):.1f} ms, slowest {max(revoked):.1f} ms")
    print(f"expiry to cancelled: median {statistics.median(expired):.1f} ms, slowest {max(expired):.1f} ms")
    at_depth = statement(variant, rounds, scale)
    print(f"{slices.HEAD}\n{slices.line_of(at_depth)}")
    return {"sets": sets, "first_open": old, "first_new": new, "revoked": revoked, "expired": expired, "statement": at_depth}
