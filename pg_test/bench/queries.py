"""How long queries on `audit` take when it is full: 1,000,000 events of 1,000 sessions, journal off, all in memory.

Every session runs a thousand statements, which it sends without waiting for each answer, so that filling takes a minute. Ten workers
derive their tokens from a planner's; three sessions are a descendant's of the fifth worker. Of the statements one in two hundred is
denied and as many touch a table that no other does. The segment that is being filled is then as good as full and has no indexes yet,
which is the worst case: a query reads it from end to end.

Times are those of a raw client, from sending the query to having its whole answer, warm: the medians and the slowest of some.
"""

from __future__ import annotations

import statistics
import time

import guard
from guard import Server
from servers import AGENT, TABLES, flush, grant, writers
from slices import READY, message, prepare, query, run_prepared
from tokens import child
from wire import Wire

CAPACITY = 1_000_000
SEGMENT = CAPACITY // 16
STATEMENTS = 950
GOAL = 50  # ms, for one session's events
POLICY = "queried"


def fill(server: Server) -> None:
    """More events than the trail holds, until its last segment is nearly full."""
    server.run("create extension if not exists agent_guard", dbname="bench")
    server.run(f"create role {AGENT} login; create table rare (a int); create table forbidden (a int); grant select on rare, forbidden to {AGENT}", dbname="bench")
    grant(server, AGENT)
    server.run(f"select agent_guard.guard_role('{AGENT}')", dbname="bench")
    server.run(f"select agent_guard.create_policy('{POLICY}')", dbname="bench")
    for table in [*TABLES, "rare"]:
        server.run(f"select agent_guard.allow('{POLICY}', array['select'], array['public.{table}'])", dbname="bench")
    root = server.window(AGENT, POLICY, "1 day", dbname="bench", max_depth=3, agent="planner")[1]
    workers = [child(root, sub=f"worker_{n}") for n in range(10)]
    scraper = child(workers[5], sub="scraper")
    wire = Wire(server.host, server.port, AGENT, "bench")
    number = -1
    while (number := number + 1) < CAPACITY // STATEMENTS or _events(server) % SEGMENT < SEGMENT * 0.95:
        token = scraper if number in (100, 500, 900) else workers[number % 10]
        if wire.query(f"set agent_guard.token = '{token}'").errors:
            raise RuntimeError("a token was refused")
        if not number:
            prepare(wire, "SELECT abalance FROM pgbench_accounts WHERE aid = $1;")
        # What takes no answer at once is answered at the Sync.
        many = b"".join(run_prepared((number * STATEMENTS + n) % 100_000 + 1)[:-5] for n in range(STATEMENTS - 10))
        wire.socket.sendall(many + message("S", b""))
        if wire.until("Z").errors:
            raise RuntimeError("a statement failed")
        for n in range(5):
            wire.query(f"select a from rare where a = {n}")
            if wire.query(f"select a from forbidden where a = {n}").sqlstate != guard.DENIED:
                raise RuntimeError("not denied")
    wire.drop()
    flush(server)


def _events(server: Server) -> int:
    return server.value("select events from agent_guard.stat", dbname="bench")


def settled(server: Server) -> int:
    """Waits until every full segment has its indexes, and tells how many events there are."""
    bare = """select count(distinct i.indrelid) from pg_index i join pg_class c on c.oid = i.indrelid
        where c.relname like 'audit\\_segment\\__' and c.relnamespace = 'agent_guard'::regnamespace and not i.indisready"""
    guard.eventually(lambda: server.value(bare, dbname="bench") <= 1, "full segments have their indexes", seconds=120)
    return server.value("select count(*) from agent_guard.audit", dbname="bench")


def queries(server: Server) -> dict[str, str]:
    """Of a session of the middle, of the scraper and so on; texts without parameters, planned each time."""
    session, since, until = server.rows(
        """select session_id, min(at), min(at) + (max(at) - min(at)) from agent_guard.audit where seq between
        (select (min(seq) + max(seq)) / 2 from agent_guard.audit) and (select (min(seq) + max(seq)) / 2 + 400 from agent_guard.audit)
        and session_id is not null group by 1 order by count(*) desc limit 1""", dbname="bench")[0]
    columns = "select seq, at, lineage, statement, parameters, accesses, decision, rows, duration, sqlstate, message from agent_guard.audit"
    return {
        "one session": f"{columns} where session_id = '{session}' order by seq",
        "a range of time": f"{columns} where at between '{since}' and '{until}' order by seq",
        "a descendant's name": f"{columns} where lineage @> array['scraper'] order by seq",
        "denied": f"{columns} where decision = 'deny' order by seq",
        "an object": f"""{columns} where accesses @> '[{{"object": "public.rare"}}]' order by seq""",
        "the last hundred": f"{columns} order by seq desc limit 100",
        "replay of one session": f"select * from agent_guard.replay('{session}')",
    }


def measure(server: Server, times: int) -> dict[str, dict]:
    fill(server)
    events = settled(server)
    texts = queries(server)
    wire = Wire(server.host, server.port, "postgres", "bench")
    found: dict[str, dict] = {}
    for name, text in texts.items():
        taken, rows = [], 0
        for number in range(times + 2):
            if not number:
                reply = wire.query(text)
                rows = len(reply.rows)
                if reply.errors or not rows:
                    raise RuntimeError(f"{name}: {reply.errors or 'no rows'}")
                continue
            began = time.perf_counter()
            wire.socket.sendall(query(text))
            answer = bytearray()
            while answer[-6:-1] != READY:
                answer += wire.socket.recv(1 << 20)
            if number > 1:
                taken.append((time.perf_counter() - began) * 1000)
        found[name] = {"median": statistics.median(taken), "slowest": max(taken), "rows": rows}
    wire.close()
    return {"events": events, "queries": found, "writers": len(writers(server))}


def report(found: dict) -> None:
    print(f"\nQueries on the trail, {found['events']} events\n\n{'':<24} {'rows':>6} {'median ms':>10} {'slowest ms':>11}")
    for name, one in found["queries"].items():
        print(f"{name:<24} {one['rows']:>6} {one['median']:>10.1f} {one['slowest']:>11.1f}")
