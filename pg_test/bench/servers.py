"""The servers and gateways that the benchmark compares: each a private copy under target/bench, with pgbench's tables."""

from __future__ import annotations

import dataclasses
import os
import subprocess

import proc
from bouncer import Bouncer
from guard import Server

CONF = ["shared_buffers = '256MB'", "max_wal_size = '4GB'", "checkpoint_timeout = '1h'", "autovacuum = off", "max_connections = 50"]
AGENT = "bench_agent"
TABLES = ["pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history"]


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
    catch_up: object = staticmethod(lambda: None)  # returns when they have done what there was to do

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PGHOST": self.host or self.server.host, "PGPORT": str(self.port or self.server.port),
                "PGUSER": self.user, "PGDATABASE": "bench", "PGOPTIONS": self.options}


def pgbench(variant: Variant, *arguments: str) -> subprocess.Popen:
    program = os.path.join(variant.server.variables["GUARD_BIN"], "pgbench")
    return subprocess.Popen([program, "-n", *arguments], env=variant.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def filled(server: Server, scale: int) -> None:
    """Starts a server with pgbench's tables in it. No variant's role owns them: looking grants up has its price too."""
    server.start()
    server.run("create role app login")
    server.run("create database bench")
    initialize = pgbench(Variant(server.name, server, "postgres"), "-i", "-q", "-s", str(scale))
    _, errors = initialize.communicate()
    if initialize.returncode:
        raise RuntimeError(f"pgbench -i on {server.name}: {errors}")
    grant(server, "app")
    server.run("vacuum (freeze, analyze)", dbname="bench")
    server.run("checkpoint")


def grant(server: Server, role: str) -> None:
    server.run(f"grant select, insert, update on {', '.join(TABLES)} to {role}", dbname="bench")


def guarded(server: Server, policy: str, rules: int = 10) -> str:
    """A guarded role with a policy of about so many rules; the option that binds its sessions."""
    if not server.value("select count(*) from pg_extension where extname = 'agent_guard'", dbname="bench"):
        server.run("create extension agent_guard", dbname="bench")
        server.run(f"create role {AGENT} login")
        grant(server, AGENT)
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
    server.run(f"grant usage on schema many to {AGENT}; grant select on all tables in schema many to {AGENT}", dbname="bench")
    token = server.window(AGENT, policy, "1 day", dbname="bench")[1]
    return f"-c agent_guard.token={token}"


def flush(server: Server) -> None:
    """Returns when every event so far is in the trail."""
    server.value("select 1 from agent_guard.audit_flush()", dbname="bench")


def writers(server: Server) -> list[int]:
    """agent_guard's background processes."""
    query = "select pid from pg_stat_activity where backend_type like 'agent_guard%%'"
    return [pid for (pid,) in server.rows(query)]


def bouncer_in_front_of(server: Server) -> Bouncer:
    """Session pooling, which is all that prepared statements allow everywhere."""
    return Bouncer(server, "app", "bench", pool_mode="session")


def pids_of(bouncer: Bouncer) -> list[int]:
    return proc.children(bouncer.process.pid, "pgbouncer") or [bouncer.process.pid]
