"""The generated views, read by agents: their masks hold once, SELECT on one is enough to read its table, and neither is a way round."""

import guard
from guard import DENIED, bind, expect

SHOP = """
create role owner; create role clerk login; create role reader login;
select agent_guard.guard_role('clerk');
create schema shop authorization owner;
set role owner;
create table shop.person (id int primary key, gone int, email text, name text, region text);
alter table shop.person drop column gone;
insert into shop.person select n, 'canary-' || n, 'name-' || n, case when n % 2 = 0 then 'east' else 'west' end from generate_series(1, 10) n;
create table shop.parent (id int, a text, b text);
create table shop.child (c text) inherits (shop.parent);
insert into shop.child values (1, 'canary-a', 'canary-b', 'canary-c');
create table shop.open (id int, note text);
insert into shop.open values (1, 'note');
create function shop.definer() returns setof shop.person language sql security definer as 'select * from shop.person';
reset role;
grant usage, create on schema shop to clerk;
grant usage on schema shop to reader;
select agent_guard.mask_column('shop.person', 'email', 'hash');
select agent_guard.mask_column('shop.person', 'name', expression => 'left(email, 3) || name');
select agent_guard.mask_column('shop.parent', 'b', expression => $$'from-parent:' || left(b, 1)$$);
select agent_guard.mask_column('shop.child', 'c', expression => $$'from-child:' || left(c, 1)$$);
grant select on agent_guard_masked."shop.person", agent_guard_masked."shop.child", agent_guard_masked."shop.parent" to clerk, reader;
select agent_guard.create_policy('all');
select agent_guard.allow('all', array['select', 'insert', 'update', 'delete', 'lock', 'create', 'drop', 'execute', 'system'], array['*']);
select agent_guard.create_policy('tables');
select agent_guard.allow('tables', array['select'], array['shop.*']);
select agent_guard.create_policy('views');
select agent_guard.allow('views', array['select'], array['agent_guard_masked.*']);
select agent_guard.create_policy('denied');
select agent_guard.allow('denied', array['select'], array['*']);
select agent_guard.deny('denied', array['select'], array['shop.person']);
select agent_guard.create_policy('filtered');
select agent_guard.allow('filtered', array['select'], array['*']);
select agent_guard.filter_rows('filtered', 'shop.person', $$region = 'east'$$);
select agent_guard.create_policy('exposed');
select agent_guard.allow('exposed', array['select'], array['*']);
select agent_guard.expose_columns('exposed', array['shop.person(email)']);
"""

TABLE, VIEW = "shop.person", 'agent_guard_masked."shop.person"'


def setup(server):
    server.run(SHOP)


def session(server, policy="all", **more):
    connection = server.connect("clerk", **more)
    bind(connection, server.agent("clerk", policy))
    return connection


def shown(server, view=VIEW, where="true"):
    return server.rows(f"select * from {view} where {where} order by id")


def test_a_generated_view_masks_once(server):
    expected = shown(server)
    assert "canary" not in str([row[1] for row in expected])
    with session(server) as connection:
        for query in (
            "select * from {} order by id",
            "select (v).* from {} v order by id",
            "with w as (select * from {}) select * from w order by id",
            "select * from (select * from {} where id > 0 offset 0) s order by id",
            "select * from {} where email is not null order by id",
        ):
            for relation in (VIEW, TABLE):
                got = connection.execute(query.format(relation)).fetchall()
                assert got == expected, (query, relation, got[:1])
        both = connection.execute(f"select v.email = t.email, v.name = t.name from {VIEW} v join {TABLE} t using (id)").fetchall()
        assert both == [(True, True)] * 10
        connection.execute(f"create view shop.mine as select * from {VIEW}")
        assert connection.execute("select * from shop.mine order by id").fetchall() == expected
        connection.execute("drop view shop.mine")
        connection.execute(f"prepare reading as select * from {VIEW} order by id")
        for _ in range(7):
            assert connection.execute("execute reading").fetchall() == expected
        connection.execute(f"set parallel_setup_cost = 0; set parallel_tuple_cost = 0; set min_parallel_table_scan_size = 0; set {server.forces_parallel} = on")
        assert connection.execute(f"select * from {VIEW} order by id").fetchall() == expected
        # No way to what is behind it.
        reply = connection.execute(f"select count(*) from {VIEW} where email like 'canary%'").fetchone()
        assert reply == (0,), reply


def test_an_ordinary_role_reads_the_view_and_not_the_table(server):
    with server.connect("reader") as connection:
        assert connection.execute(f"select * from {VIEW} order by id").fetchall() == shown(server)
        expect(DENIED, connection.execute, f"select * from {TABLE}")


def test_select_on_the_view_is_enough_to_read_the_table(server):
    expected = shown(server)
    with session(server) as connection:
        connection.execute(f"prepare reading as select * from {TABLE} order by id")
        connection.execute("set plan_cache_mode = force_generic_plan")
        assert connection.execute("execute reading").fetchall() == expected
        # Reading alone, and no other table.
        expect(DENIED, connection.execute, f"select * from {TABLE} for update")
        expect(DENIED, connection.execute, f"update {TABLE} set region = 'x'")
        expect(DENIED, connection.execute, f"insert into {TABLE} (id) values (99)")
        expect(DENIED, connection.execute, f"delete from {TABLE}")
        expect(DENIED, connection.execute, "select * from shop.open")
        # Plans are kept: the privilege is looked at whenever one starts.
        server.run(f"revoke select on {VIEW} from clerk")
        try:
            expect(DENIED, connection.execute, "execute reading")
            expect(DENIED, connection.execute, f"select * from {TABLE}")
            expect(DENIED, connection.execute, f"select * from {VIEW}")
        finally:
            server.run(f"grant select on {VIEW} to clerk")
        assert connection.execute("execute reading").fetchall() == expected
        # The table's own privileges come first: those on single columns keep the others away.
        server.run(f"grant select (id) on {TABLE} to clerk")
        try:
            assert len(connection.execute(f"select id from {TABLE}").fetchall()) == 10
            expect(DENIED, connection.execute, f"select region from {TABLE}")
        finally:
            server.run(f"revoke select (id) on {TABLE} from clerk")
        # With the mask goes the view, and what it lent.
        connection.execute("execute reading")
    server.run("create table shop.late (id int, email text); insert into shop.late values (1, 'canary')")
    server.run("select agent_guard.mask_column('shop.late', 'email', 'redact'); grant select on agent_guard_masked.\"shop.late\" to clerk")
    with session(server) as connection:
        connection.execute("prepare reading as select * from shop.late")
        connection.execute("set plan_cache_mode = force_generic_plan")
        assert connection.execute("execute reading").fetchall() == [(1, "***")]
        server.run("select agent_guard.unmask_column('shop.late', 'email')")
        expect(DENIED, connection.execute, "execute reading")
        expect(DENIED, connection.execute, "select * from shop.late")


def test_policies_decide_as_for_any_view(server):
    with session(server, "tables") as connection:
        assert len(connection.execute(f"select * from {TABLE}").fetchall()) == 10
        expect(DENIED, connection.execute, f"select * from {VIEW}", match="reason=no_rule")
    with session(server, "views") as connection:
        assert connection.execute(f"select * from {VIEW} order by id").fetchall() == shown(server)
        # What lends the privilege allows nothing.
        expect(DENIED, connection.execute, f"select * from {TABLE}", match="reason=no_rule")
    with session(server, "denied") as connection:
        expect(DENIED, connection.execute, f"select * from {VIEW}", match="reason=denied_by_rule")
        expect(DENIED, connection.execute, f"select * from {TABLE}", match="reason=denied_by_rule")


def test_filters_and_masks_of_relatives_hold_through_the_view(server):
    with session(server, "filtered") as connection:
        east = shown(server, where="region = 'east'")
        for relation in (VIEW, TABLE):
            assert connection.execute(f"select * from {relation} order by id").fetchall() == east
            assert connection.execute(f"select count(*) from {relation} where region = 'west'").fetchone() == (0,)
    # The child's view masks its own column; its parent's mask holds there too, for agents.
    with session(server) as connection:
        wanted = [(1, "canary-a", "from-parent:c", "from-child:c")]
        assert connection.execute('select * from agent_guard_masked."shop.child"').fetchall() == wanted
        assert connection.execute("select * from shop.child").fetchall() == wanted
        assert connection.execute("select b from shop.parent").fetchall() == [("from-parent:c",)]
        assert connection.execute('select b from agent_guard_masked."shop.parent"').fetchall() == [("from-parent:c",)]


def test_an_exposed_column_is_exposed_in_the_table_alone(server):
    with session(server, "exposed") as connection:
        assert connection.execute(f"select email from {TABLE} where id = 1").fetchall() == [("canary-1",)]
        assert connection.execute(f"select * from {VIEW} order by id").fetchall() == shown(server)


def test_the_view_is_not_written_through(server):
    with session(server) as connection:
        for statement in (
            f"update {VIEW} set region = 'x'",
            f"update {VIEW} set region = 'x' returning email",
            f"insert into {VIEW} (id) values (99)",
            f"delete from {VIEW} where email like 'canary%'",
            f"select * from {VIEW} for update",
        ):
            expect(DENIED, connection.execute, statement)


def test_what_looks_like_the_view_is_not_taken_for_it(server):
    server.run(f"grant select on {TABLE} to clerk")
    try:
        with session(server) as connection:
            # The view's own expressions, with what would decide rows or values on top: masks hold below.
            twice = connection.execute(f"select id, left(email, 3) || name as name from {TABLE} order by id").fetchall()
            assert not any("canary" in row[1][:3] or "name-" == row[1][3:8] for row in twice), twice
            assert connection.execute(f"select count(*) from {VIEW} where name like 'can%%' and email like 'canary%%'").fetchone() == (0,)
            assert connection.execute(f"select distinct region from {VIEW} order by 1").fetchall() == [("east",), ("west",)]
    finally:
        server.run(f"revoke select on {TABLE} from clerk")


def test_a_function_that_lends_reads_masked_as_well(server):
    with session(server) as connection:
        got = connection.execute("select * from shop.definer() order by id").fetchall()
        assert got == shown(server), got[:1]


if __name__ == "__main__":
    guard.run(globals())
