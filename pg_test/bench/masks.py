"""What masks cost, in one interleaved run: CPU time of the backend per statement, from /proc, as ratios of medians.

One guarded agent reads a masked table and, beside it, a hand-written view with the same expressions over an unmasked copy;
so both pay the same for the guard and the record. Then what planning costs, where masked relations are touched and where not,
and 10 masks against 1000 for a statement that touches none.

    pg_test/bin/bench-masks [--rows 1000000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics

import guard
import proc

EMAIL = "'m-' || md5(email)"
PHONE = "left(phone, 3) || '***'"

SETUP = """
create extension agent_guard;
create schema bench;
create table bench.masked (id int primary key, email text, phone text, name text);
insert into bench.masked select n, 'user' || n || '@example.org', '+49-' || n, 'name ' || n from generate_series(1, {rows}) n;
create table bench.copy as select * from bench.masked;
alter table bench.copy add primary key (id);
create table bench.free as select id, name from bench.masked where id <= 1000;
alter table bench.free add primary key (id);
create view bench.hand as select id, {email} as email, {phone} as phone, name from bench.copy;
create role bench_agent login;
grant usage on schema bench to bench_agent;
grant select on all tables in schema bench to bench_agent;
select agent_guard.guard_role('bench_agent');
select agent_guard.create_policy('bench');
select agent_guard.allow('bench', array['select'], array['bench.*']);
"""

MASKED, HAND = "bench.masked", "bench.hand"
SCAN = "select count(*), sum(length(email)), sum(length(phone)) from {}"
FILTERED = "select count(*) from {} where name like '%99%'"
POINT = "select email, phone, name from {} where id = %s"


def cpu(connection, statement: str, times: int, values=None, prepare: bool | None = None) -> float:
    """Microseconds of the backend's CPU time per execution."""
    pid = connection.info.backend_pid
    before = proc.cpu_ns(pid)
    for n in range(times):
        connection.execute(statement, (n % 1000 + 1,) if values else None, prepare=prepare).fetchall()
    return (proc.cpu_ns(pid) - before) / times / 1000


def compared(title: str, rounds: int, sides: dict, measure, wanted: float | None = None) -> None:
    """Medians of each side, the ratio of the first to the second round by round."""
    samples = {name: [] for name in sides}
    for number in range(rounds):
        names = list(sides) if number % 2 else list(sides)[::-1]
        for name in names:
            samples[name].append(measure(sides[name]))
    first, second = sides
    ratio = statistics.median(a / b for a, b in zip(samples[first], samples[second]))
    added = statistics.median(a - b for a, b in zip(samples[first], samples[second]))
    missed = "" if wanted is None or ratio <= wanted else f"  MISSED (at most {wanted} x)"
    medians = ", ".join(f"{name} {statistics.median(values):.1f} us" for name, values in samples.items())
    print(f"{title}: {ratio:.3f} x, {added:+.2f} us ({medians}){missed}", flush=True)


def many_masks(server: guard.Server, count: int) -> None:
    """So many masked relations in all."""
    server.run(f"""do $$ begin for n in 1 .. {count} loop
        if to_regclass('many.t' || n) is null then
            execute format('create table many.t%s (id int, email text)', n);
            perform agent_guard.mask_column(('many.t' || n)::regclass, 'email', expression => '''x''');
        end if; end loop; end $$""")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    conf = ["shared_buffers = '512MB'", "autovacuum = off", "max_parallel_workers_per_gather = 0", "jit = off"]
    server = guard.Server("bench_masks", conf).start()
    try:
        server.run(SETUP.format(rows=chosen.rows, email=EMAIL, phone=PHONE))
        server.run("vacuum (freeze, analyze)")
        token = server.window("bench_agent", "bench")[1]
        agent = server.connect("bench_agent", options=f"-c agent_guard.token={token}")
        plain = lambda relation: cpu(agent, "select name from {} where id = %s".format(relation), 3000, values=True, prepare=False)
        print("before any mask:", flush=True)
        before = [plain("bench.free") for _ in range(chosen.rounds)]
        raw = [plain("bench.masked") for _ in range(chosen.rounds)]
        for column, expression in (("email", EMAIL), ("phone", PHONE)):
            server.rows("select agent_guard.mask_column('bench.masked'::regclass, %s, expression => %s)", column, expression)
        print(f"  an unmasked relation, planned each time: {statistics.median(before):.1f} us; bench.masked: {statistics.median(raw):.1f} us")
        sides = {"masked": MASKED, "hand-written view": HAND}
        compared("scan of all rows, both masks", chosen.rounds, sides, lambda relation: cpu(agent, SCAN.format(relation), 1), 1.03)
        compared("scan on an unmasked column", chosen.rounds, sides, lambda relation: cpu(agent, FILTERED.format(relation), 1), 1.03)
        compared("point read, prepared", chosen.rounds, sides, lambda relation: cpu(agent, POINT.format(relation), 3000, values=True, prepare=True), 1.03)
        compared("point read, planned each time", chosen.rounds, sides, lambda relation: cpu(agent, POINT.format(relation), 3000, values=True, prepare=False))
        after = [plain("bench.free") for _ in range(chosen.rounds)]
        masked = [plain("bench.masked") for _ in range(chosen.rounds)]
        print(f"planned each time, no masked column named: an unmasked relation {statistics.median(after) - statistics.median(before):+.2f} us (at most 2), "
              f"a masked one {statistics.median(masked) - statistics.median(raw):+.2f} us (at most 30)")
        server.run("create schema many")
        many_masks(server, 8)
        few = [plain("bench.free") for _ in range(chosen.rounds)]
        many_masks(server, 998)
        plain("bench.free")
        many = [plain("bench.free") for _ in range(chosen.rounds)]
        print(f"1000 masked relations against 10, a statement that touches none: {statistics.median(many) / statistics.median(few):.3f} x")
        for relation in (MASKED, HAND):
            plan = [row[0] for row in agent.execute("explain (costs off) " + POINT.format(relation), (1,))]
            print(f"plan of a point read of {relation}: {' / '.join(line.strip() for line in plan)}")
        agent.close()
    finally:
        server.stop()


if __name__ == "__main__":
    main()
