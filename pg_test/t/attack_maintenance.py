"""What an agent leaves behind for the server's own maintenance: autovacuum calls its functions, in no session and under no token."""

import guard
import scene
from guard import eventually
from scene import Agent

RULES = [
    ("allow", ["create", "select", "insert", "update", "delete", "execute"], ["other.*", "function other.*"]),
    ("allow", "create", "schema other"),
]

# An index may use no function that is not called immutable; what such a function calls nobody asks.
TRICK = """create function other.{name}(a int) returns int language plpgsql immutable as $$
    begin
        if current_setting('agent_guard.guarded') = 'on' then return a; end if;
        perform other.{name}_work();
        return a;
    end $$"""

WORK = {
    "reads": "insert into other.loot select 'reads ' || string_agg(v, ',') from app.secret",
    "hides": "begin insert into other.loot select 'hides ' || string_agg(v, ',') from app.secret; exception when others then null; end",
    "borrows": "perform kept.count_secrets()",
    "draws": "perform nextval('app.numbers')",
    "sets": "perform set_config('work_mem', '1MB', false)",
    "tells": "notify secrets, 'a'",
    "calls": "perform other.calls_inner()",
}


def setup(server):
    scene.setup(server)
    server.run("create function other.calls_inner() returns int language sql as 'delete from app.open; select 1'")
    server.run("alter function other.calls_inner() owner to owner")
    # The application's own: indexes with functions that compute, in both languages, and one of a role that no agent can become.
    server.run(
        """set role owner;
        create function app.upper_of(v text) returns text language plpgsql immutable as 'begin return upper(v); end';
        create function app.lower_of(v text) returns text language sql immutable as $$ select string_agg(lower(w), ' ') from unnest(string_to_array(v, ' ')) w $$;
        create table app.fair (v text);
        create index on app.fair (app.upper_of(v));
        create index on app.fair (app.lower_of(v));
        reset role;
        grant select on kept.ledger to keeper;
        create function kept.ledger_of(v text) returns text language plpgsql immutable as 'begin return (select l.v from kept.ledger l); end';
        create table kept.unguarded (v text);
        create index on kept.unguarded (kept.ledger_of(v));
        alter table kept.unguarded owner to keeper;
        alter function kept.ledger_of owner to keeper"""
    )


def analyzed(server, table: str) -> bool:
    return server.value(f"select last_autoanalyze is not null from pg_stat_all_tables where relid = '{table}'::regclass")


def fill(server, table: str, value: str) -> None:
    server.run(f"insert into {table} select {value} from generate_series(1, 200) n")


def test_autovacuum_runs_what_computes_and_nothing_else_of_an_agents(server):
    with Agent(server, *RULES) as agent:
        agent.run("create table other.loot (v text)")
        for name, work in WORK.items():
            agent.run(
                TRICK.format(name=name),
                f"create function other.{name}_work() returns int language plpgsql as $$ begin {work}; return 1; end $$",
                f"create table other.t_{name} (a int)",
                f"create index on other.t_{name} (other.{name}(a))",
            )
        before = scene.world(server)
        for name in WORK:
            agent.run(f"insert into other.t_{name} select generate_series(1, 200)")
        for table in ("app.fair", "kept.unguarded"):
            fill(server, table, "'A b ' || n")
        for name in WORK:
            refused = f'automatic analyze of table "postgres.other.t_{name}"'
            eventually(lambda: refused in server.log(), f"autovacuum looks at {name}", seconds=60)
        for table in ("app.fair", "kept.unguarded"):
            eventually(lambda: analyzed(server, table), f"autovacuum analyzes {table}", seconds=60)
        assert server.value("select count(*) from other.loot") == 0
        assert "reason=no_session" in server.log()
        # Who hides the error computes on; nothing was read.
        for name in WORK.keys() - {"hides"}:
            assert not analyzed(server, f"other.t_{name}"), name
        filled = {f"other.t_{name}" for name in WORK} | {"app.fair", "kept.unguarded"}
        assert not set(scene.changes(before, scene.world(server))) - filled - {"pg_class"}


def test_autovacuum_calls_no_function_of_a_range_type_that_reads(server):
    with Agent(server, *RULES) as agent:
        agent.run(
            "create table other.spoils (v text)",
            "create function other.away() returns int language sql as 'insert into other.spoils select v from app.secret; select 1'",
            """create function other.distance(a float8, b float8) returns float8 language plpgsql immutable as $$
                begin
                    if current_setting('agent_guard.guarded') = 'off' then perform other.away(); end if;
                    return a - b;
                end $$""",
            "create type other.span as range (subtype = float8, subtype_diff = other.distance)",
            "create table other.spans (s other.span)",
            "insert into other.spans select other.span(n, n + 1) from generate_series(1, 200) n",
        )
        eventually(lambda: 'analyze of table "postgres.other.spans"' in server.log(), "autovacuum looks at it", seconds=60)
        assert server.value("select count(*) from other.spoils") == 0


if __name__ == "__main__":
    guard.run(globals(), conf=["autovacuum_naptime = 1s", "autovacuum_analyze_threshold = 50", "log_autovacuum_min_duration = 0"])
