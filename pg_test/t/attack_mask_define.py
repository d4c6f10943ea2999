"""An agent that owns the masked tables: it defines no masks, makes no pseudonyms of its own choice, and its DDL leaves none behind."""

import guard
from guard import DENIED, bind, expect

SHOP = """
create role keeper login;
select agent_guard.guard_role('keeper');
create schema shop authorization keeper;
set role keeper;
create table shop.person (id int primary key, email text, name text);
insert into shop.person values (1, 'jane@example.com', 'Jane');
create table shop.log (at date, email text) partition by range (at);
create table shop.log_1 partition of shop.log for values from ('2020-01-01') to ('2021-01-01');
reset role;
grant create on database postgres to keeper;
select agent_guard.create_policy('keeper');
select agent_guard.allow('keeper', '{*}', '{*}');
select agent_guard.mask_column('shop.person', 'email', 'hash');
select agent_guard.mask_column('shop.person', 'name', expression => 'left(name, 1)');
select agent_guard.mask_column('shop.log', 'email', 'redact');
select agent_guard.filter_rows('keeper', 'shop.person', 'id > 0');
-- An agent with every privilege that can be given.
grant execute on all functions in schema agent_guard to keeper;
grant all on all tables in schema agent_guard to keeper;
grant all on schema agent_guard, agent_guard_masked to keeper;
"""


def setup(server):
    server.run(SHOP)


def session(server):
    connection = server.connect("keeper")
    bind(connection, server.agent("keeper", "keeper"))
    return connection


def masks(server):
    return server.rows(
        """select relation::text, column_name, expression, view::text, state from agent_guard.masks
        union all select 'filter', '', predicate, '', '' from agent_guard.row_filters order by 1, 2"""
    )


def test_an_agent_administers_no_masks(server):
    before = masks(server)
    with session(server) as connection:
        for statement in (
            "select agent_guard.mask_column('shop.person', 'email', 'null')",
            "select agent_guard.unmask_column('shop.person', 'email')",
            "select agent_guard.expose_columns('keeper', '{shop.person(email)}')",
            "select agent_guard.hide_columns('keeper', '{shop.person(email)}')",
            "select agent_guard.filter_rows('keeper', 'shop.person', 'true')",
            "select agent_guard.unfilter_rows('keeper', 'shop.person')",
            "select agent_guard.rebuild_masks()",
            "delete from agent_guard.mask",
            "update agent_guard.mask set expression = 'email'",
            "insert into agent_guard.exposed_column select p.id, 'shop.person'::regclass, 2, 'email' from agent_guard.policy p",
            "truncate agent_guard.masked_view",
            "select * from agent_guard.masks",
        ):
            expect(DENIED, connection.execute, statement)
    assert masks(server) == before


def test_an_agent_makes_no_pseudonym_of_its_own_choice(server):
    # Whoever can hash values of its choice can tell which value a pseudonym is of.
    server.run("create view shop.guesses as select agent_guard.mask_hash('jane@example.com'::text) as guess; grant select on shop.guesses to keeper")
    server.run("""create function shop.guess(text) returns text language sql immutable as 'select agent_guard.mask_hash($1)';
        create function shop.guess2(v text) returns text language plpgsql immutable as 'begin return agent_guard.mask_hash(v); end'""")
    with session(server) as connection:
        connection.execute("prepare q(text) as select $1")
        for statement in (
            "select agent_guard.mask_hash('jane@example.com'::text)",
            "select agent_guard.mask_hash(array['jane@example.com'])",
            "select 1 where agent_guard.mask_hash(7) = 1",
            "select * from shop.guesses",
            "select shop.guess('jane@example.com')",
            "select shop.guess2('jane@example.com')",
            "prepare p as select agent_guard.mask_hash($1::text)",
            "select mask_hash from agent_guard.mask_hash('x'::text)",
            "insert into shop.person values (2, agent_guard.mask_hash('x'::text), 'x')",
            "update shop.person set name = agent_guard.mask_hash('x'::text)",
            "create table shop.guessed as select agent_guard.mask_hash('x'::text) as g",
            "alter table shop.person add column g text generated always as (agent_guard.mask_hash('x'::text)) stored",
            "execute q(agent_guard.mask_hash('x'::text))",
            "create index on shop.person (agent_guard.mask_hash(name))",
            "alter table shop.person add check (agent_guard.mask_hash(name) <> '')",
            "do $$ begin perform agent_guard.mask_hash('x'::text); end $$",
            "copy (select agent_guard.mask_hash('x'::text)) to stdout",
            "explain analyze select agent_guard.mask_hash('x'::text)",
        ):
            try:
                cursor = connection.execute(statement)
                if statement.startswith("prepare"):
                    expect(DENIED, connection.execute, "execute p('x')")
                    continue
                raise AssertionError(f"it ran: {statement} {cursor.statusmessage}")
            except guard.psycopg.Error as error:
                assert error.sqlstate == DENIED, f"{error.sqlstate} {error}: {statement}"
        # Stored where no planner looks, in empty tables, it is made and never runs.
        for definition, use in (
            ("create table shop.d (v text default agent_guard.mask_hash('x'::text), n int)", "insert into shop.d (n) values (1)"),
            ("create table shop.d (v text, g text generated always as (agent_guard.mask_hash(v)) stored)", "insert into shop.d values ('x')"),
            ("create table shop.d (v text check (agent_guard.mask_hash(v) <> ''))", "insert into shop.d values ('x')"),
            ("create table shop.d (v text); create index on shop.d (agent_guard.mask_hash(v))", "insert into shop.d values ('x')"),
            ("create table shop.d (v text); create unique index on shop.d (v) where agent_guard.mask_hash(v) <> ''", "insert into shop.d values ('x')"),
            ("create table shop.d (v text) partition by list (agent_guard.mask_hash(v)); create table shop.d1 partition of shop.d default", "insert into shop.d values ('x')"),
            ("create domain shop.dom as text check (agent_guard.mask_hash(value) <> ''); create table shop.d (v text)", "insert into shop.d values ('x'::shop.dom)"),
            ("create table shop.d (v text); create statistics shop.s on (agent_guard.mask_hash(v)), v from shop.d; insert into shop.d values ('x')", "analyze shop.d"),
        ):
            try:
                connection.execute(definition)
                connection.execute(use)
                raise AssertionError(f"it ran: {definition}; {use}")
            except guard.psycopg.Error as error:
                assert error.sqlstate == DENIED, f"{error.sqlstate} {error}: {definition}; {use}"
            server.run("drop table if exists shop.d cascade; drop domain if exists shop.dom")
        # Other masks reveal nothing.
        assert connection.execute("select agent_guard.mask_email('jane@example.com'::text)").fetchone() == ("j***@***.com",)
    oid = server.value("select 'agent_guard.mask_hash(text)'::regprocedure::oid::int8")
    wire = server.wire("keeper", options="-c agent_guard.token=" + server.agent("keeper", "keeper"))
    assert wire.call(oid, [b"x"]).sqlstate == DENIED
    wire.close()
    server.run("drop view shop.guesses; drop function shop.guess(text), shop.guess2(text)")


def test_the_generated_view_hashes_for_an_agent_that_may_read_it(server):
    shown = server.rows('select email from agent_guard_masked."shop.person"')
    server.run('grant select on agent_guard_masked."shop.person" to keeper')
    with session(server) as connection:
        assert connection.execute('select email from agent_guard_masked."shop.person"').fetchall() == shown
        plan = connection.execute('explain (verbose) select email from agent_guard_masked."shop.person"').fetchall()
        assert "agent_guard.mask_hash(" in str(plan), plan
        # Not even with a view of its own around what it wants to know.
        connection.execute('create view shop.mine as select email, agent_guard.mask_hash(name) from agent_guard_masked."shop.person"')
        expect(DENIED, connection.execute, "select * from shop.mine")
        connection.execute("drop view shop.mine")
        connection.execute(f"set parallel_setup_cost = 0; set parallel_tuple_cost = 0; set min_parallel_table_scan_size = 0; set {server.forces_parallel} = on")
        assert connection.execute('select email from agent_guard_masked."shop.person"').fetchall() == shown


def test_the_ddl_of_an_agent_leaves_no_stale_mask(server):
    with session(server) as connection:
        connection.execute("alter table shop.person add column more int")
        connection.execute("alter table shop.person rename column name to called")
        connection.execute("alter table shop.person rename to people")
    assert masks(server) == [
        ("filter", "", "(id > 0)", "", ""),
        ("shop.log", "email", "CASE WHEN (email IS NULL) THEN NULL::text ELSE '***'::text END", 'agent_guard_masked."shop.log"', "in force"),
        ("shop.people", "called", '"left"(called, 1)', 'agent_guard_masked."shop.people"', "in force"),
        ("shop.people", "email", "agent_guard.mask_hash(email)", 'agent_guard_masked."shop.people"', "in force"),
    ]
    # The extension's own work stands in nobody's trail, and the session is guarded afterwards as before.
    assert not server.audit("statement ~* '(set expression = .2|create view .agent_guard_masked)'", columns="statement")
    with session(server) as connection:
        connection.execute("alter table shop.people rename to person")
        expect(DENIED, connection.execute, "select * from agent_guard.masks")
        connection.execute("alter table shop.person rename column called to name; alter table shop.person drop column more")


def test_settings_of_an_agent_change_no_mask(server):
    server.run("create table shop.odd (id int, name text); alter table shop.odd owner to keeper")
    server.run("""select agent_guard.mask_column('shop.odd', 'name', expression => $$regexp_replace(name, '\\d', '\\\\')$$);
        select agent_guard.filter_rows('keeper', 'shop.odd', $$name ~ '\\d' AND id = NULL$$)""")
    before = [row for row in masks(server) if row[0] in ("shop.odd", "filter")]
    with session(server) as connection:
        connection.execute("set standard_conforming_strings = off")
        connection.execute("set datestyle = 'German'")
        connection.execute("alter table shop.odd add column more int")
        connection.execute("alter table shop.odd rename column more to less")
    assert [row for row in masks(server) if row[0] in ("shop.odd", "filter")] == before
    server.run("drop table shop.odd")


def test_a_refused_change_of_a_masked_table_leaves_the_session_guarded(server):
    # A domain that the agent puts under a masked column would run the agent's code over raw values.
    with session(server) as connection:
        connection.execute("create function shop.trap(text) returns boolean language plpgsql immutable as 'begin return true; end'")
        connection.execute("create domain shop.trapped as text check (shop.trap(value))")
        error = expect(DENIED, connection.execute, "alter table shop.person alter column email type shop.trapped")
        assert "masked columns" in str(error), error
        expect(DENIED, connection.execute, "select * from agent_guard.masks")
        expect(DENIED, connection.execute, "select agent_guard.rebuild_masks()")
        assert connection.execute("select current_user, current_setting('search_path')").fetchone() == ("keeper", '"$user", public')
        connection.execute("drop domain shop.trapped; drop function shop.trap(text)")
    assert ("shop.person", "email", "agent_guard.mask_hash(email)", 'agent_guard_masked."shop.person"', "in force") in masks(server)


def test_generated_views_are_not_an_agents_to_change(server):
    with session(server) as connection:
        for statement in (
            'drop view agent_guard_masked."shop.person"',
            'alter view agent_guard_masked."shop.person" rename to x',
            'create or replace view agent_guard_masked."shop.person" as select id, email, name from shop.person',
            "create view agent_guard_masked.mine as select 1",
            "create table agent_guard_masked.mine (a int)",
            "drop schema agent_guard_masked cascade",
        ):
            expect(DENIED, connection.execute, statement)


def test_code_of_masks_stays_in_trusted_hands(server):
    server.run("""create role chief superuser; create role chief2 superuser; create role vendor; create schema code;
        create function code.f(text) returns text language sql immutable as 'select $1';
        create function code.g(text) returns text language sql immutable as 'select $1';
        create function code.op(text, text) returns text language sql immutable as 'select $1';
        create operator code.<+> (leftarg = text, rightarg = text, function = code.op);
        create domain code.d as text check (value <> '?');
        alter function code.g(text) owner to chief;
        create table code.t (id int, a text, b text, c text, d text); insert into code.t values (1, 'raw-a', 'raw-b', 'raw-c', 'raw-d');
        grant usage on schema code to keeper; grant select on code.t to keeper;
        select agent_guard.mask_column('code.t', 'a', expression => $$left(code.f(a), 1)$$);
        select agent_guard.mask_column('code.t', 'b', expression => $$left(code.g(b), 1)$$);
        select agent_guard.mask_column('code.t', 'c', expression => $$left(c OPERATOR(code.<+>) c, 1)$$);
        select agent_guard.mask_column('code.t', 'd', expression => $$left(d, 1)::code.d$$)""")
    before = masks(server)
    for statement in (
        "alter function code.f(text) owner to vendor",
        "alter function code.op(text, text) owner to vendor",
        "alter operator code.<+> (text, text) owner to vendor",
        "alter domain code.d owner to vendor",
        "reassign owned by chief to vendor",
        "alter role chief nosuperuser",
        "alter role chief with login nosuperuser",
    ):
        expect(DENIED, server.run, statement, match="no superuser")
    assert masks(server) == before
    # Among superusers code may change hands, and what no mask uses may go to anybody.
    server.run("""reassign owned by chief to chief2; alter role chief nosuperuser; alter role chief superuser; alter function code.f(text) owner to chief2;
        create function code.h() returns int language sql as 'select 1'; alter function code.h() owner to vendor""")
    with session(server) as connection:
        assert connection.execute("select * from code.t").fetchall() == [(1, "r", "r", "r", "r")]
    with session(server) as connection:
        connection.execute("prepare reading as select a from code.t")
        assert connection.execute("execute reading").fetchall() == [("r",)]
        # In a database without the extension nobody knows of the mask.
        server.run("create database elsewhere")
        server.run("alter role chief2 nosuperuser", dbname="elsewhere")
        # A plan that is kept does not outlive it either.
        expect(DENIED, connection.execute, "execute reading", match="mask_unusable")
        expect(DENIED, connection.execute, "select id from code.t", match="belongs to a role that is no superuser")
        server.run("alter role chief2 superuser")
        assert connection.execute("execute reading").fetchall() == [("r",)]


def test_a_filter_does_not_take_another_function_of_the_same_name(server):
    server.run("""create function shop.mine(int) returns boolean language sql immutable as 'select $1 = 1';
        create table shop.rows (id int, what text); insert into shop.rows values (1, 'mine'), (2, 'hidden'); grant select on shop.rows to keeper;
        select agent_guard.create_policy('rows'); select agent_guard.allow('rows', '{*}', '{*}');
        select agent_guard.filter_rows('rows', 'shop.rows', 'shop.mine(id)')""")
    with server.connect("keeper") as connection:
        bind(connection, server.agent("keeper", "rows"))
        assert connection.execute("select what from shop.rows").fetchall() == [("mine",)]
        # The schema is the agent's own, so it may drop the function and make its own. Nothing depends on it: filters are text.
        connection.execute("drop function shop.mine(int)")
        expect("42883", connection.execute, "select what from shop.rows")
        connection.execute("create function shop.mine(int) returns boolean language sql immutable as 'select true'")
        expect(DENIED, connection.execute, "select what from shop.rows", match="mask_unusable")
    server.run("drop function shop.mine(int); create function shop.mine(int) returns boolean language sql immutable as 'select $1 = 1'")
    with server.connect("keeper") as connection:
        bind(connection, server.agent("keeper", "rows"))
        assert connection.execute("select what from shop.rows").fetchall() == [("mine",)]


if __name__ == "__main__":
    guard.run(globals())
