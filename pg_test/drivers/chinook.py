"""The Chinook database behind the driver suites: an agent `analyst` who may read everything but the employees and add
playlists, and a superuser to compare with.

The agent's login has every ordinary privilege, so what is refused is refused by the guard. The refusals are one list
of statements for all drivers.
"""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "t"))

import guard  # noqa: E402 (its directory is not beside this file)

DATA = pathlib.Path(os.environ.get("CHINOOK_SQL", guard.TOP.parent / "shared" / "data" / "chinook.sql"))
DATABASE = "chinook"
AGENT = "analyst"

# Ways to the employees that are not their name, and what an administrator would have besides.
BESIDES = """
create view staff as select first_name, last_name, title from employee;
create view invoice_totals as select customer_id, sum(total) as spent from invoice group by customer_id;
create function staff_names() returns setof text language sql stable as $$ select last_name from public.employee $$;
create function staff_mails() returns setof text language plpgsql stable security definer
    as $$ begin return query select email::text from public.employee; end $$;
create function boss_of(integer) returns integer language sql stable
    return (select reports_to from public.employee where employee_id = $1);
create function track_count(of_album integer) returns bigint language sql stable
    as $$ select count(*) from public.track where album_id = of_album $$;
create procedure forget_playlists() language sql as $$ delete from public.playlist $$;
create role analyst login;
grant all on all tables in schema public to analyst;
grant all on schema public to analyst;
grant create, temporary on database chinook to analyst;
"""

POLICY = [
    "select agent_guard.create_policy('analyst', 'Reads everything but the employees, adds playlists')",
    "select agent_guard.allow('analyst', array['select'], array['public.*'])",
    "select agent_guard.allow('analyst', array['insert'], array['public.playlist'])",
    # Allowed as functions, so that what they read is what decides.
    "select agent_guard.allow('analyst', array['execute'], array['function public.*'])",
    "select agent_guard.deny('analyst', array['select'], array['public.employee'])",
    # A function that is allowed lets its body run; a deny holds in there as well.
    "select agent_guard.deny('analyst', array['delete'], array['public.*'])",
    # So that what refuses is the guard, not the server's own privileges before it.
    "grant execute on function pg_read_file(text), lo_import(text) to analyst",
    "grant select on agent_guard.rules to analyst",
    "select agent_guard.guard_role('analyst')",
]

# Statements by which an agent would go where it may not, each in words first.
REFUSED = {
    "employees by name": "select * from employee",
    "one column of the employees": "select first_name from public.employee where employee_id = 1",
    "the number of employees": "select count(*) from employee",
    "TABLE employee": "table employee",
    "employees by an escaped name": r"""select * from U&"\0065mployee" """,
    "employees by join": "select c.email, e.email from customer c join employee e on e.employee_id = c.support_rep_id",
    "employees in a subquery": "select * from customer where support_rep_id in (select employee_id from employee)",
    "employees in EXISTS": "select 1 where exists (select from employee where title like 'Sales%')",
    "employees in a CTE": "with e as materialized (select * from employee) select count(*) from e",
    "employees in UNION": "select name from artist union all select last_name from employee",
    "employees LATERAL": "select * from customer c, lateral (select * from employee e where e.city = c.city) x",
    "employees through a view": "select * from staff",
    "employees through an inlined function": "select * from staff_names()",
    "employees through SECURITY DEFINER": "select * from staff_mails()",
    "employees through a standard SQL body": "select boss_of(3)",
    "employees into a playlist": "insert into playlist (playlist_id, name) select 900, min(email) from employee",
    "employees by XML": "select query_to_xml('select * from employee', true, false, '')",
    "employees by table_to_xml": "select table_to_xml('employee', true, false, '')",
    "employees by COPY": "copy employee to stdout",
    "employees by COPY of a query": "copy (select last_name from employee) to stdout",
    "employees by EXPLAIN ANALYZE": "explain analyze select * from employee",
    "employees by a cursor": "begin; declare c cursor for select * from employee; fetch all from c",
    "employees by PREPARE": "prepare p as select * from employee; execute p",
    "employees by SELECT INTO": "select * into temp mine from employee",
    "their statistics": "select most_common_vals from pg_stats where tablename = 'employee'",
    "INSERT elsewhere": "insert into artist (artist_id, name) values (9001, 'Nobody')",
    "INSERT in a CTE": "with n as (insert into genre (genre_id, name) values (99, 'x') returning *) select * from n",
    "INSERT by ON CONFLICT UPDATE": "insert into playlist values (1, 'x') on conflict (playlist_id) do update set name = 'x'",
    "UPDATE": "update track set unit_price = 0 where track_id = 1",
    "UPDATE of a playlist": "update playlist set name = 'x' where playlist_id = 1",
    "DELETE": "delete from invoice_line where invoice_line_id = 1",
    "DELETE of a playlist": "delete from playlist where playlist_id = 18",
    "DELETE in a procedure": "call forget_playlists()",
    "MERGE": "merge into genre g using (values (1)) v(id) on g.genre_id = v.id when matched then update set name = 'x'",
    "TRUNCATE": "truncate playlist_track",
    "row locks": "select * from track where track_id = 1 for update",
    "LOCK TABLE": "lock table track in access exclusive mode",
    "CREATE TABLE": "create table mine (n integer)",
    "CREATE TABLE AS": "create table mine as select * from genre",
    "CREATE TEMP TABLE": "create temp table mine (n integer)",
    "CREATE VIEW": "create view mine as select * from genre",
    "CREATE FUNCTION": "create function mine() returns integer language sql as 'select 1'",
    "CREATE INDEX": "create index on track (name)",
    "CREATE SCHEMA": "create schema mine",
    "CREATE ROLE": "create role mine superuser",
    "CREATE EXTENSION": "create extension pg_stat_statements",
    "ALTER TABLE": "alter table track add column mine text",
    "ALTER ROLE": "alter role analyst set work_mem = '1GB'",
    "ALTER SYSTEM": "alter system set work_mem = '1GB'",
    "DROP TABLE": "drop table playlist_track",
    "DROP TABLE CASCADE": "drop table track cascade",
    "DROP VIEW": "drop view invoice_totals",
    "COMMENT": "comment on table track is 'mine'",
    "GRANT": "grant select on track to public",
    "SET ROLE": "set role postgres",
    "SET SESSION AUTHORIZATION": "set session authorization postgres",
    "set_config of role": "select set_config('role', 'postgres', false)",
    "DO": "do $$ begin perform 1; end $$",
    "VACUUM": "vacuum track",
    "LISTEN": "listen gossip",
    "NOTIFY": "notify gossip, 'x'",
    "LOAD": "load 'auto_explain'",
    "PREPARE TRANSACTION": "begin; prepare transaction 'mine'",
    "a server file": "select pg_read_file('PG_VERSION')",
    "a large object from a file": "select lo_import('PG_VERSION')",
    "COPY from a program": "copy playlist from program 'echo 1'",
    "COPY to a file": "copy track to '/tmp/mine'",
    "COPY into another table": "copy artist from stdin",
    "another backend": "select pg_terminate_backend(pg_backend_pid() + 1)",
    "an advisory lock": "select pg_advisory_lock(1)",
    "the guard's own tables": "select * from agent_guard.rules",
}


def setup(server: guard.Server) -> None:
    """Loads Chinook, guards the role and opens a window; server.token is the agent's."""
    server.run("create database chinook")
    script = DATA.read_text()
    # Its head drops, creates and enters a database of its own choice.
    script = script[script.index("\\c chinook;") + len("\\c chinook;") :]
    loaded = server.psql("-q", "-v", "ON_ERROR_STOP=1", "-1", dbname=DATABASE, stdin=script)
    if loaded.returncode != 0:
        raise RuntimeError(f"Chinook did not load: {loaded.stderr}")
    server.run(BESIDES, dbname=DATABASE)
    server.run("create extension agent_guard", dbname=DATABASE)
    for statement in POLICY:
        server.run(statement, dbname=DATABASE)
    server.run("analyze", dbname=DATABASE)
    server.token = server.window(AGENT, "analyst", dbname=DATABASE)[1]


def handshake(server: guard.Server) -> str:
    """The startup option that binds the agent's session."""
    return f"-c agent_guard.token={server.token}"


def as_agent(server: guard.Server, **more):
    return server.connect(AGENT, DATABASE, options=handshake(server), **more)


def as_superuser(server: guard.Server, **more):
    return server.connect("postgres", DATABASE, **more)


def same(server: guard.Server, work, **more) -> None:
    """The work gives the agent what it gives a superuser whom nothing guards."""
    with as_superuser(server, **more) as connection:
        wanted = work(connection)
    with as_agent(server, **more) as connection:
        found = work(connection)
    assert wanted, "the work gives nothing to compare"
    assert found == wanted, f"the superuser got {wanted!r:.300}, the agent {found!r:.300}"


def each(table: dict, test):
    """Tests by name, one for each entry of a table: for a suite's globals()."""

    def bound(key, value):
        return lambda server: test(server, value)

    def word(key):
        return "".join(c if c.isalnum() else "_" for c in key)

    return {f"test_{test.__name__}_{word(key)}": bound(key, value) for key, value in table.items()}


def run(module: dict) -> None:
    module["setup"] = setup
    guard.run(module, extension=False)
