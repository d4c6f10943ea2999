"""What the mask suites share: a shop whose sensitive columns hold canaries, and a client that keeps every byte it receives.

A canary is a value that occurs nowhere else. `leaks` looks for it in text, in binary numbers, and in what the usual
functions make of it; a statement of the agent's must never bring one.
"""

from __future__ import annotations

import base64
import itertools
import struct

import guard
import scene
from wire import BINARY, TEXT, Reply, Wire

SALARY = 918273645546370  # the canary among numbers; each row adds its id

SHOP = """
set client_min_messages = error;
create role shopkeeper;
create role clerk login;
create schema shop authorization shopkeeper;
set role shopkeeper;
create table shop.customer (
    id int primary key, gone int, email text, name text not null, region text, rep int, salary bigint, born date,
    note text default '', constraint customer_email_key unique (email), constraint sane check (length(email) > 3));
alter table shop.customer drop column gone;
insert into shop.customer
    select n, 'canary-' || n || '@x.org', 'name-' || n, case when n % 2 = 0 then 'east' else 'west' end, n % 3,
        918273645546370 + n, date '1917-11-07' + n
    from generate_series(1, 30) n;
create table shop.buys (id int primary key, customer_id int references shop.customer on delete cascade, total numeric);
insert into shop.buys select n, n % 30 + 1, n * 10 from generate_series(1, 90) n;
create table shop.event (id int, email text, at date) partition by range (at);
create table shop.event_1 partition of shop.event for values from ('2020-01-01') to ('2021-01-01');
create table shop.event_2 (at date, id int, email text);
alter table shop.event attach partition shop.event_2 for values from ('2021-01-01') to ('2022-01-01');
insert into shop.event select n, 'canary-' || n, date '2020-06-01' + n * 30 from generate_series(1, 15) n;
create table shop.person (id int, email text);
create table shop.staff (extra text, desk text) inherits (shop.person);
insert into shop.person values (1, 'canary-p');
insert into shop.staff values (2, 'canary-s', 'extra', 'desk');
create table shop.tenant (id int primary key, email text, own text);
alter table shop.tenant enable row level security;
create policy own on shop.tenant using (own = 'yes');
insert into shop.tenant values (1, 'canary-a', 'yes'), (2, 'canary-b', 'no');
create table shop.made (id int primary key, email text, loud text generated always as (upper(email)) stored);
insert into shop.made (id, email) values (1, 'canary-1');
create table shop.contact (email text references shop.customer (email), kind text);
insert into shop.contact values ('canary-1@x.org', 'mail');
create view shop.customers as select * from shop.customer;
create view shop.easterners as select id, email, c.name, region from shop.customers c where region = 'east';
create view shop.events as select * from shop.event;
create materialized view shop.stored as select * from shop.easterners;
create function shop.f_sql() returns setof shop.customer language sql stable as 'select * from shop.customer';
create function shop.f_atomic() returns setof shop.customer language sql stable begin atomic select * from shop.customer; end;
create function shop.f_scalar(n int) returns text language sql stable as 'select email from shop.customer where id = n';
create function shop.f_plpgsql() returns setof shop.customer language plpgsql as
    'begin return query execute ''select * from shop.customer''; end';
create function shop.f_definer() returns setof shop.customer language plpgsql security definer as
    'begin return query select * from shop.customer; end';
create function shop.f_cursor(c refcursor) returns refcursor language plpgsql as
    'begin open c for select * from shop.customer; return c; end';
create function shop.f_loop() returns text language plpgsql as
    'declare r record; s text := ''''; begin for r in select * from shop.customer loop s := s || r.email; end loop; return s; end';
create function shop.f_row(c shop.customer) returns text language sql stable as 'select (c).email';
reset role;
grant usage, create on schema shop to clerk;
grant all on all tables in schema shop to clerk;
grant create, temporary on database postgres to clerk;
select agent_guard.guard_role('clerk');
"""

# relation -> column -> what agents read
MASKS = {
    "shop.customer": {"email": "'m-' || (id)::text", "salary": "(0)::bigint", "born": "'2000-01-01'::date"},
    "shop.event": {"email": "'***'::text"},
    "shop.person": {"email": "'***'::text"},
    "shop.tenant": {"email": "'***'::text"},
    "shop.made": {"email": "'***'::text"},
}

_numbers = itertools.count(1)


def setup(server: guard.Server) -> None:
    server.run(SHOP)
    for relation, columns in MASKS.items():
        for column, expression in columns.items():
            mask(server, relation, column, expression)


def mask(server: guard.Server, relation: str, column: str, expression: str) -> None:
    if server.value("select count(*) from pg_proc where proname = 'mask_column'"):
        server.rows("select agent_guard.mask_column(relation => %s::regclass, column_name => %s, expression => %s)", relation, column, expression)
        return
    server.run(f"""insert into agent_guard.mask (relation, column_name, attnum, expression)
        select attrelid, attname, attnum, $x${expression}$x$ from pg_attribute where attrelid = '{relation}'::regclass and attname = '{column}'""")
    view(server, relation)


def upkeep(server: guard.Server, relation: str) -> None:
    if not server.value("select count(*) from pg_proc where proname = 'mask_column'"):
        view(server, relation)


def drop_column(server: guard.Server, relation: str, column: str) -> None:
    if not server.value("select count(*) from pg_proc where proname = 'mask_column'"):
        server.run(f"""drop view agent_guard_masked."{relation}" """)
    server.run(f"alter table {relation} drop column {column}")
    upkeep(server, relation)


def view(server: guard.Server, relation: str) -> None:
    columns = server.rows("""select coalesce(m.expression, quote_ident(a.attname)) || ' as ' || quote_ident(a.attname)
        from pg_attribute a left join agent_guard.mask m on m.relation = a.attrelid and m.attnum = a.attnum
        where attrelid = %s::regclass and a.attnum > 0 and not attisdropped order by a.attnum""", relation)
    server.run(f"""drop view if exists agent_guard_masked."{relation}";
        create view agent_guard_masked."{relation}" as select {", ".join(row[0] for row in columns)} from {relation};
        delete from agent_guard.masked_view where relation = '{relation}'::regclass;
        insert into agent_guard.masked_view values ('{relation}'::regclass, 'agent_guard_masked."{relation}"'::regclass)""")


def filter_rows(server: guard.Server, policy: str, relation: str, predicate: str) -> None:
    if server.value("select count(*) from pg_proc where proname = 'filter_rows'"):
        server.rows("select agent_guard.filter_rows(%s, %s::regclass, %s)", policy, relation, predicate)
        return
    server.run(f"""insert into agent_guard.row_filter (policy_id, relation, predicate)
        select id, '{relation}'::regclass, $x${predicate}$x$ from agent_guard.policy where name = '{policy}'""")


def expose(server: guard.Server, policy: str, *columns: str) -> None:
    if server.value("select count(*) from pg_proc where proname = 'expose_columns'"):
        patterns = [f"{one.rpartition('.')[0]}({one.rpartition('.')[2]})" for one in columns]
        server.rows("select agent_guard.expose_columns(%s, %s)", policy, patterns)
        return
    for column in columns:
        relation, _, name = column.rpartition(".")
        server.run(f"""insert into agent_guard.exposed_column (policy_id, relation, attnum, column_name)
            select p.id, a.attrelid, a.attnum, a.attname from agent_guard.policy p, pg_attribute a
            where p.name = '{policy}' and attrelid = '{relation}'::regclass and attname = '{name}'""")


READ = [("allow", "select", "shop.*"), ("allow", "execute", "function shop.*"), ("allow", "temporary", "*")]
WRITE = [("allow", ["select", "insert", "update", "delete", "truncate", "lock"], "shop.*"), ("allow", "execute", "function shop.*")]
BUILD = WRITE + [
    ("allow", ["create", "alter", "drop", "maintain", "comment"], "*"),
    ("allow", ["temporary", "inspect"], "*"),
    ("allow", ["create", "alter", "drop", "execute"], ["function *.*"]),
]


def tokens(prefix: bytes) -> set[bytes]:
    """What the usual functions make of a text that begins with this."""
    found = {prefix, prefix[::-1], prefix.hex().encode()}
    for shift in range(3):
        coded = base64.b64encode(b"\0" * shift + prefix)[4 if shift else 0 :]
        found.add(coded[: len(coded) - 4].lower())
    return {one for one in found if len(one) >= 4}


CANARIES = tokens(b"canary") | {str(SALARY)[:13].encode(), struct.pack("!q", SALARY)[:7], b"1917-1", b"1917-11"}


def leaks(received: bytes) -> set[bytes]:
    """The canaries in what was received."""
    lower = received.lower()
    return {one for one in CANARIES if one in lower or one in received}


class Tap(Wire):
    """A raw client that keeps all that it received since it was last asked."""

    received = b""

    def _message(self):
        message = super()._message()
        if message is not None:
            self.received += message[0].encode() + message[1]
        return message

    def take(self) -> bytes:
        taken, self.received = self.received, b""
        return taken


class Spy:
    """A guarded session that speaks the simple, the extended and the binary protocol, and never sees a canary."""

    def __init__(self, server: guard.Server, *rules: tuple, role: str = "clerk", policy: str | None = None):
        self.server = server
        self.policy = policy or scene.policy(server, rules or READ, f"mask_{next(_numbers)}")
        self.window_id, self.token, _ = server.window(role, self.policy)
        self.wire = Tap(server.host, server.port, role, "postgres")
        assert not self.wire.query(f"set agent_guard.token = '{self.token}'").errors

    def __enter__(self) -> Spy:
        return self

    def __exit__(self, *_) -> None:
        self.wire.close()

    def send(self, statement: str, *values, form: str = "simple") -> Reply:
        """One statement; nothing that comes back may hold a canary."""
        self.wire.take()
        if form == "simple":
            reply = self.wire.query(statement)
            if reply.status == "" and not reply.closed:
                # COPY data follow
                more = self.wire.until("Z")
                reply.copied, reply.errors, reply.tags, reply.status = reply.copied + more.copied, more.errors, more.tags, more.status
        else:
            reply = self.wire.extended(statement, values, result=BINARY if form == "binary" else TEXT)
        self.clean(statement)
        return reply

    def clean(self, statement: str) -> None:
        found = leaks(self.wire.take())
        assert not found, f"{found} came back from: {statement}"

    def read(self, statement: str, rows: int | None = None) -> Reply:
        """A statement that must work, in all three forms."""
        for form in ("extended", "binary", "simple"):
            reply = self.send(statement, form=form)
            assert not reply.errors, f"{reply.errors[0]}: {statement}"
            if rows is not None:
                got = max(len(reply.rows), len(reply.copied))
                assert got == rows, f"{got} rows, expected {rows}: {statement}"
        return reply

    def run(self, *statements: str) -> Reply:
        """Statements that must work, once each."""
        for statement in statements:
            reply = self.send(statement)
            assert not reply.errors, f"{reply.errors[0]}: {statement}"
        return reply

    def refused(self, statement: str, reason: str = "", sqlstate: str = guard.DENIED) -> dict[str, str]:
        """A statement that must be refused by the guard for this reason."""
        reply = self.send(statement)
        assert reply.errors, f"it ran: {statement}"
        error = reply.errors[0]
        assert error["C"] == sqlstate, f"{error}: {statement}"
        assert error.get("D", "").startswith(f"reason={reason}"), f"{error}: {statement}"
        if reply.status != "I":
            self.send("rollback")
        return error

    def fails_inside(self, statement: str, sqlstate: str) -> None:
        """A statement that must fail with this SQLSTATE, and leaves its transaction failed."""
        reply = self.send(statement)
        assert reply.errors and reply.errors[0]["C"] == sqlstate and reply.status == "E", f"{reply}: {statement}"

    def fails(self, statement: str, sqlstate: str) -> dict[str, str]:
        """A statement that must fail with this SQLSTATE."""
        reply = self.send(statement)
        assert reply.errors, f"it ran: {statement}"
        assert reply.errors[0]["C"] == sqlstate, f"{reply.errors[0]}: {statement}"
        if reply.status != "I":
            self.send("rollback")
        return reply.errors[0]


def each_returns_rows(server, statements):
    """Each of the statements, in every form, works and gives rows, in which the spy finds nothing raw; all is undone."""
    for form in ("simple", "extended", "binary"):
        for statement in statements:
            with Spy(server, *WRITE) as spy:
                spy.run("begin")
                reply = spy.send(statement, form=form)
                assert not reply.errors, f"{reply.errors[0]}: {statement}"
                assert reply.rows, statement
                spy.run("rollback")
