"""What the attack suites share: an application that the agent's role owns, agents with rules, and the state of the world.

`world` is a digest of everything that an attack could change: the application's rows, the catalogues, the roles, the
settings. An attack that is refused leaves it as it was.
"""

from __future__ import annotations

import itertools
from typing import Any, Iterable

import psycopg

import guard
from guard import DENIED

# The agent's role owns the schema and all that is in it; `keeper` is an ordinary, unguarded role of the application.
APPLICATION = """
create role owner login;
create role keeper;
create role peer login;
create schema app authorization owner;
create schema kept authorization keeper;
grant usage on schema kept to owner;
grant create, temporary on database postgres to owner;
grant pg_checkpoint to owner;
set role owner;
create table app.open (id int primary key, v text, hidden text default 'h');
insert into app.open select n, 'open-' || n, 'hidden-' || n from generate_series(1, 3) n;
create table app.secret (id int primary key, v text);
insert into app.secret select n, 'secret-' || n from generate_series(1, 3) n;
create table app.child (id int primary key, open_id int references app.open on delete cascade on update cascade);
insert into app.child values (10, 1), (20, 2);
create table app.nulled (id int primary key, open_id int references app.open on delete set null);
insert into app.nulled values (10, 3);
create table app.parted (id int, v text) partition by range (id);
create table app.parted_1 partition of app.parted for values from (0) to (100);
create table app.parted_2 partition of app.parted for values from (100) to (200);
insert into app.parted values (1, 'one'), (101, 'two');
create table app.parent (id int, v text);
create table app.heir (w text) inherits (app.parent);
insert into app.parent values (1, 'parent');
insert into app.heir values (2, 'heir', 'w');
create sequence app.numbers;
create view app.secret_view as select * from app.secret;
create view app.nested_view as select * from app.secret_view;
create view app.invoker_view with (security_invoker) as select * from app.secret;
create materialized view app.secret_mat as select * from app.secret;
create function app.secret_sql() returns setof app.secret language sql stable as 'select * from app.secret';
create function app.secret_atomic() returns setof app.secret language sql stable begin atomic select * from app.secret; end;
create function app.secret_plpgsql() returns bigint language plpgsql as 'begin return (select count(*) from app.secret); end';
create function app.one() returns int language sql immutable as 'select 1';
create procedure app.proc(n int) language plpgsql as 'begin null; end';
create function app.fire() returns trigger language plpgsql as 'begin return coalesce(new, old); end';
create type app.mood as enum ('good', 'bad');
create type app.pair as (a int, b int);
create domain app.small as int check (value < 10);
reset role;
create table kept.ledger (id int primary key, v text);
insert into kept.ledger values (1, 'kept-1');
create function kept.count_secrets() returns bigint language sql security definer as 'select count(*) from app.secret';
create function kept.count_secrets_invoker() returns bigint language plpgsql as 'begin return (select count(*) from app.secret); end';
create view kept.secret_of_keeper as select * from app.secret;
create view kept.ledger_of_keeper as select * from kept.ledger;
create function kept.unqualified() returns text language plpgsql as 'begin return (select string_agg(v, '','') from ledger); end';
grant usage on schema app to keeper;
grant select on app.secret to keeper;
alter function kept.count_secrets() owner to keeper;
alter function kept.count_secrets_invoker() owner to keeper;
alter function kept.unqualified() owner to keeper;
alter view kept.secret_of_keeper owner to keeper;
alter view kept.ledger_of_keeper owner to keeper;
grant all on all tables in schema kept to owner;
select agent_guard.guard_role('owner');
"""

# A schema for agents to build in; made anew where a test wants it empty. Patterns need something to match.
WORKSHOP = """
drop schema if exists other cascade;
create schema other authorization owner;
create table other.seed (n int);
create function other.seed() returns int language sql immutable as 'select 1';
alter table other.seed owner to owner;
alter function other.seed() owner to owner;
"""

CATALOGUES = """pg_attrdef pg_attribute pg_auth_members pg_authid pg_cast pg_collation pg_constraint pg_conversion
pg_database pg_db_role_setting pg_default_acl pg_depend pg_description pg_enum pg_event_trigger pg_extension
pg_foreign_data_wrapper pg_foreign_server pg_foreign_table pg_inherits pg_language pg_largeobject_metadata pg_namespace
pg_opclass pg_operator pg_opfamily pg_policy pg_proc pg_publication pg_rewrite pg_seclabel pg_sequence pg_shdescription
pg_shseclabel pg_statistic_ext pg_subscription pg_tablespace pg_transform pg_trigger pg_ts_config pg_ts_dict
pg_ts_parser pg_ts_template pg_type pg_user_mapping pg_prepared_xacts pg_file_settings""".split()

_numbers = itertools.count(1)


def setup(server: guard.Server) -> None:
    server.run(APPLICATION)
    workshop(server)


def workshop(server: guard.Server) -> None:
    server.run("set client_min_messages = error;" + WORKSHOP)


def _digests() -> str:
    def digest(name: str, rows: str) -> str:
        return f"select '{name}', count(*), coalesce(sum(pg_catalog.hashtextextended(t::text, 0)), 0) from {rows} t"

    parts = [digest(name, f"only pg_catalog.{name}" if name == "pg_class" else f"pg_catalog.{name}") for name in CATALOGUES]
    relations = "select oid, relname, relnamespace, reltype, relowner, relam, reltablespace, relkind, relpersistence, relchecks, "
    relations += "relhasrules, relrowsecurity, relforcerowsecurity, relreplident, relispartition, relacl, reloptions, relfilenode"
    parts.append(digest("pg_class", f"({relations} from pg_catalog.pg_class where relnamespace <> 'pg_toast'::regnamespace)"))
    return " union all ".join(parts)


def world(server: guard.Server, data: bool = True) -> dict[str, tuple]:
    """A digest of what attacks could change."""
    with server.connect() as connection:
        found = {row[0]: row[1:] for row in connection.execute(_digests())}
        for relation in connection.execute(_SOURCES).fetchall() if data else []:
            name = relation[0]
            found[name] = connection.execute(f"select count(*), sum(hashtextextended(t::text, 0)) from (select * from {name}) t").fetchone()
    return found


_SOURCES = """select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where n.nspname in ('app', 'other', 'kept') and c.relkind in ('r', 'S') order by 1"""


def changes(before: dict, after: dict) -> list[str]:
    return [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]


def policy(server: guard.Server, rules: Iterable[tuple], name: str | None = None) -> str:
    """A new policy; each rule is (effect, actions, objects) or with a dictionary of further arguments."""
    name = name or f"p{next(_numbers)}"
    with server.connect() as connection:
        connection.execute("select agent_guard.create_policy(%s)", (name,))
        for effect, actions, objects, *more in rules:
            given = dict(policy=name, actions=_list(actions), objects=_list(objects), **(more[0] if more else {}))
            named = ", ".join(f"{key} => %({key})s" for key in given)
            connection.execute(f"select agent_guard.{effect}({named})", given)
    return name


def _list(given: Any) -> list[str]:
    return [given] if isinstance(given, str) else list(given)


class Agent:
    """A guarded session with a policy of its own; a context manager that yields the agent itself."""

    def __init__(self, server: guard.Server, *rules: tuple, role: str = "owner", **window: Any):
        self.server = server
        self.role = role
        self.policy = policy(server, rules)
        self.window_id, self.token, _ = server.window(role, self.policy, **window)
        self.connection = server.connect(role)
        guard.bind(self.connection, self.token)

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: Any) -> None:
        self.connection.close()

    def run(self, *statements: str) -> Any:
        """Statements that must work; the rows of the last."""
        rows = None
        for statement in statements:
            cursor = self.connection.execute(statement)
            rows = cursor.fetchall() if cursor.description else cursor.rowcount
        return rows

    def attempt(self, statement: str) -> psycopg.Error | None:
        """The error that the statement ends in, None where it works."""
        try:
            self.connection.execute(statement)
            return None
        except psycopg.Error as error:
            if self.connection.info.transaction_status != psycopg.pq.TransactionStatus.IDLE and not self.connection.closed:
                self.connection.execute("rollback")
            return error

    def refused(self, statement: str, sqlstate: str = DENIED, unchanged: bool = True, by_guard: bool = True) -> psycopg.Error:
        """The statement must be refused with this SQLSTATE and change nothing."""
        before = world(self.server) if unchanged else {}
        error = self.attempt(statement)
        assert error is not None, f"it ran: {statement}"
        assert error.sqlstate == sqlstate, f"expected {sqlstate}, got {error.sqlstate} {error}: {statement}"
        if sqlstate == DENIED and by_guard:
            assert (error.diag.message_detail or "").startswith("reason="), f"not by the guard: {error}: {statement}"
        changed = changes(before, world(self.server)) if unchanged else []
        assert not changed, f"it changed {changed}: {statement}"
        return error
