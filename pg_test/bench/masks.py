"""What masks cost, in one interleaved run: CPU time of the backend per statement, from /proc, as ratios of medians; with
--instructions the instructions that callgrind counts, which other work on the machine does not change.

One guarded agent reads a masked table and, beside it, a hand-written view with the same expressions over an unmasked copy;
so both pay the same for the guard and the record. Then what planning costs, where masked relations are touched and where not,
10 masks against 1000 for a statement that touches none, and the built-in masks against the same written in SQL.

    pg_test/bin/bench-masks [--rows 1000000] [--rounds 5] [--instructions]
"""

from __future__ import annotations

import argparse
import statistics

import guard
import proc
from instructions import Counted

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
create table bench.values as select 'user' || n || '@example.org' as email, '4000-1234-5678-' || lpad((n % 10000)::text, 4, '0') as card,
    '+49-170-' || n as phone, date '1950-01-01' + n % 20000 as born, n * 1.5::float8 as amount from generate_series(1, {rows} / 10) n;
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
INLINE = f"select {EMAIL} as email, {PHONE} as phone, name from bench.copy where id = %s"
PLAIN = "select name from {} where id = %s"

# A built-in mask, and what somebody would write in SQL for the same.
BUILT_IN = {
    "email": ("agent_guard.mask_email(email)", "left(email, 1) || '***@***.' || regexp_replace(email, '^.*[.]', '')"),
    "card": ("agent_guard.mask_card(card)", "'**** **** **** ' || right(regexp_replace(card, '[^0-9]', '', 'g'), 4)"),
    "phone": ("agent_guard.mask_phone(phone)", "regexp_replace(left(phone, -2), '[0-9]', '*', 'g') || right(phone, 2)"),
    "partial": ("agent_guard.mask_partial(email, 2, '***', 2)", "case when length(email) > 4 then left(email, 2) || '***' || right(email, 2) else '***' end"),
    "hash": ("agent_guard.mask_hash(email)", "left(encode(sha256(('key' || encode(sha256(('key' || email)::bytea), 'hex'))::bytea), 'hex'), 32)"),
    "year": ("agent_guard.mask_year(born)", "date_trunc('year', born)::date"),
    "bucket": ("agent_guard.mask_bucket(amount, 50)", "trunc(amount / 50) * 50"),
}


class Timed:
    """Microseconds of the backend's CPU time."""

    unit = "us"

    def __init__(self, rounds: int):
        self.rounds, self.times = rounds, 3000

    def of(self, connection, work) -> float:
        before = proc.cpu_ns(connection.info.backend_pid)
        work()
        return (proc.cpu_ns(connection.info.backend_pid) - before) / 1000


class Instructions:
    """Instructions of the backend. Two rounds, of which the second counts: the first fills caches."""

    unit = "instructions"

    def __init__(self, server: guard.Server):
        self.rounds, self.times, self.counted = 2, 200, Counted(server)

    def of(self, connection, work) -> float:
        return self.counted.of(connection, work)


class Bench:
    """A measure, and the agent's connection."""

    def __init__(self, measure, connection):
        self.measure, self.connection = measure, connection

    def each(self, statement: str, times: int, values: bool = False, prepare: bool | None = None) -> float:
        """Per execution."""

        def work() -> None:
            for n in range(times):
                self.connection.execute(statement, (n % 1000 + 1,) if values else None, prepare=prepare).fetchall()

        return self.measure.of(self.connection, work) / times

    def plain(self, relation: str) -> list[float]:
        """A read of an unmasked column, planned each time."""
        return [self.each(PLAIN.format(relation), self.measure.times, values=True, prepare=False) for _ in range(self.measure.rounds)]

    def middle(self, samples: list[float]) -> float:
        return samples[-1] if isinstance(self.measure, Instructions) else statistics.median(samples)

    def compared(self, title: str, sides: dict, measure, wanted: float | None = None) -> None:
        """Medians of each side, the ratio of the first to the second round by round."""
        samples = {name: [] for name in sides}
        for number in range(self.measure.rounds):
            names = list(sides) if number % 2 else list(sides)[::-1]
            for name in names:
                samples[name].append(measure(sides[name]))
        first, second = sides
        ratio = self.middle([a / b for a, b in zip(samples[first], samples[second])])
        added = self.middle([a - b for a, b in zip(samples[first], samples[second])])
        missed = "" if wanted is None or ratio <= wanted else f"  MISSED (at most {wanted} x)"
        medians = ", ".join(f"{name} {self.middle(values):,.1f} {self.measure.unit}" for name, values in samples.items())
        print(f"{title}: {ratio:.3f} x, {added:+,.2f} {self.measure.unit} ({medians}){missed}", flush=True)


def many_masks(server: guard.Server, count: int) -> None:
    """So many masked relations in all."""
    server.run(f"""do $$ begin for n in 1 .. {count} loop
        if to_regclass('many.t' || n) is null then
            execute format('create table many.t%s (id int, email text)', n);
            perform agent_guard.mask_column(('many.t' || n)::regclass, 'email', expression => '''x''');
        end if; end loop; end $$""")


def run(server: guard.Server, measure) -> None:
    rounds, unit = measure.rounds, measure.unit
    token = server.window("bench_agent", "bench")[1]
    agent = server.connect("bench_agent", options=f"-c agent_guard.token={token}")
    bench = Bench(measure, agent)
    print("before any mask:", flush=True)
    before, raw = bench.plain("bench.free"), bench.plain("bench.masked")
    prepared = [bench.each(POINT.format(MASKED), measure.times, values=True, prepare=True) for _ in range(rounds)]
    for column, expression in (("email", EMAIL), ("phone", PHONE)):
        server.rows("select agent_guard.mask_column('bench.masked'::regclass, %s, expression => %s)", column, expression)
    middle = bench.middle
    print(f"  an unmasked relation, planned each time: {middle(before):,.1f} {unit}; bench.masked: {middle(raw):,.1f}, prepared {middle(prepared):,.1f}")
    sides = {"masked": MASKED, "hand-written view": HAND}
    bench.compared("scan of all rows, both masks", sides, lambda relation: bench.each(SCAN.format(relation), 1), 1.03)
    bench.compared("scan on an unmasked column", sides, lambda relation: bench.each(FILTERED.format(relation), 1), 1.03)
    bench.compared("point read, prepared", sides, lambda relation: bench.each(POINT.format(relation), measure.times, values=True, prepare=True), 1.03)
    bench.compared("point read, prepared, against the same written into the statement over an unmasked table", {"masked": POINT.format(MASKED), "written out": INLINE},
                   lambda statement: bench.each(statement, measure.times, values=True, prepare=True))
    bench.compared("point read, planned each time", sides, lambda relation: bench.each(POINT.format(relation), measure.times, values=True, prepare=False))
    after, masked = bench.plain("bench.free"), bench.plain("bench.masked")
    print(f"planned each time, no masked column named: an unmasked relation {middle(after) - middle(before):+,.2f} {unit} (at most 2 us), "
          f"a masked one {middle(masked) - middle(raw):+,.2f} {unit} (at most 30 us)")
    server.run("create schema many")
    many_masks(server, 8)
    few = bench.plain("bench.free")
    many_masks(server, 998)
    bench.plain("bench.free")
    many = bench.plain("bench.free")
    print(f"1000 masked relations against 10, a statement that touches none: {middle(many) / middle(few):.3f} x ({middle(few):,.1f} and {middle(many):,.1f} {unit})")
    for relation in (MASKED, HAND):
        plan = [row[0] for row in agent.execute("explain (costs off) " + POINT.format(relation), (1,))]
        print(f"plan of a point read of {relation}: {' / '.join(line.strip() for line in plan)}")
    agent.close()
    # The key of hashes is made with the first of them.
    server.run("select agent_guard.mask_column('bench.values', 'email', 'hash')")
    with server.connect() as connection:
        unguarded = Bench(measure, connection)
        for name, (built_in, written) in BUILT_IN.items():
            unguarded.compared(f"the mask {name} over {connection.execute('select count(*) from bench.values').fetchone()[0]:,} values",
                               {"built in": built_in, "in SQL": written},
                               lambda expression: unguarded.each(f"select count({expression}) from bench.values", 1), 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, help="default 1000000, and 20000 with --instructions")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--instructions", action="store_true")
    chosen = parser.parse_args()
    conf = ["shared_buffers = '512MB'", "autovacuum = off", "max_parallel_workers_per_gather = 0", "jit = off"]
    if chosen.instructions:
        # Whatever works beside is fifty times slower too.
        conf.append("agent_guard.audit_timeout = '5min'")
    server = guard.Server("bench_masks", conf).start()
    measure = None
    try:
        rows = chosen.rows or (20_000 if chosen.instructions else 1_000_000)
        server.run(SETUP.format(rows=rows, email=EMAIL, phone=PHONE))
        server.run("vacuum (freeze, analyze)")
        measure = Instructions(server) if chosen.instructions else Timed(chosen.rounds)
        run(server, measure)
    finally:
        if isinstance(measure, Instructions):
            measure.counted.stop()
        server.stop()


if __name__ == "__main__":
    main()
