"""Masked columns read masked on every way to read them: no canary reaches the agent in any protocol or format."""

import guard
import mask_scene
from mask_scene import READ, SALARY, WRITE, Spy, leaks, setup

READS = {
    "star": ("select * from shop.customer", 30),
    "column": ("select email, salary, born from shop.customer where id = 3", 1),
    "only": ("select * from only shop.customer", 30),
    "table": ("table shop.customer", 30),
    "whole row": ("select c from shop.customer c", 30),
    "whole row of an alias": ("select t from (table shop.customer) t", 30),
    "row as text": ("select c::text from shop.customer c", 30),
    "row expression": ("select (c).* from shop.customer c", 30),
    "row to json": ("select row_to_json(c), to_jsonb(c) from shop.customer c", 30),
    "json aggregate": ("select json_agg(c), jsonb_object_agg(id, email) from shop.customer c", 1),
    "array aggregate": ("select array_agg(c), array_agg(email) from shop.customer c", 1),
    "string aggregate": ("select string_agg(email, ','), max(email), min(email), max(salary), min(born) from shop.customer", 1),
    "functional notation": ("select email(c) from shop.customer c", 30),
    "upper, reverse, encodings": ("select upper(email), reverse(email), encode(email::bytea, 'hex'), encode(email::bytea, 'base64') from shop.customer", 30),
    "cast": ("select email::varchar(60), salary::text, born::timestamptz from shop.customer", 30),
    "view": ("select * from shop.customers", 30),
    "view over view": ("select * from shop.easterners", 15),
    "whole row of a view": ("select e, row_to_json(e) from shop.easterners e", 15),
    "cte": ("with c as (select * from shop.customer) select * from c", 30),
    "cte materialized": ("with c as materialized (select * from shop.customer) select * from c", 30),
    "recursive cte": ("with recursive c as (select id, email from shop.customer where id = 1 union all select k.id, k.email from shop.customer k join c on k.id = c.id + 1) select * from c", 30),
    "subquery": ("select * from (select email || 'x' as e from shop.customer offset 0) s", 30),
    "sublink": ("select (select email from shop.customer where id = 1), array(select email from shop.customer)", 1),
    "exists": ("select 1 where exists (select from shop.customer where email like 'm-%')", 1),
    "union": ("select email from shop.customer union select name from shop.customer", 60),
    "except": ("select email from shop.customer except select email from shop.customer", 0),
    "lateral": ("select b.id, l.email from shop.buys b, lateral (select * from shop.customer c where c.id = b.customer_id) l", 90),
    "left join": ("select c.* from shop.buys b left join shop.customer c on c.id = b.id", 90),
    "full join using": ("select * from shop.customer a full join shop.customer b using (email)", 30),
    "natural join": ("select * from shop.customer natural join (select id, total from shop.buys) b", 30),
    "self join": ("select a.email, b.email from shop.customer a join shop.customer b on a.email = b.email", 30),
    "window": ("select email, row_number() over (order by email), lag(email) over (partition by region order by id) from shop.customer", 30),
    "group by": ("select email, count(*) from shop.customer group by email", 30),
    "grouping sets": ("select email, region, count(*) from shop.customer group by cube (email, region)", 63),
    "distinct on": ("select distinct on (region) * from shop.customer order by region, email", 2),
    "order by": ("select id from shop.customer order by email", 30),
    "having": ("select region from shop.customer group by region having max(email) > ''", 2),
    "values": ("values ((select email from shop.customer limit 1))", 1),
    "system columns": ("select ctid, tableoid::regclass, xmin, xmax, cmin, * from shop.customer", 30),
    "system columns and the whole row": ("select c, ctid from shop.customer c where ctid = '(0,1)'", 1),
    "tablesample": ("select * from shop.customer tablesample bernoulli (100)", 30),
    "tablesample beside": ("select s.email from (values (100)) v (x), lateral (select * from shop.customer tablesample bernoulli (v.x)) s", 30),
    "for update": ("select * from shop.customer for update", 30),
    "for share of": ("select c.*, b.total from shop.customer c join shop.buys b on b.id = c.id for share of c skip locked", 30),
    "for update through a view": ("select * from shop.easterners for update", 15),
    "for key share of the whole row": ("select c, c.email from shop.customer c for key share", 30),
    "partitioned": ("select * from shop.event", 15),
    "partition": ("select * from shop.event_1", 7),
    "partition with other column order": ("select * from shop.event_2", 8),
    "view over partitions": ("select * from shop.events", 15),
    "whole row of a partition": ("select e, row_to_json(e) from shop.event_2 e", 8),
    "parent": ("select * from shop.person", 2),
    "child": ("select * from shop.staff", 1),
    "parent cast of a child": ("select s::shop.person from shop.staff s", 1),
    "row security": ("select * from shop.tenant", 1),
    "sql function": ("select * from shop.f_sql()", 30),
    "atomic function": ("select * from shop.f_atomic()", 30),
    "scalar function": ("select shop.f_scalar(1)", 1),
    "plpgsql": ("select * from shop.f_plpgsql()", 30),
    "security definer": ("select * from shop.f_definer()", 30),
    "plpgsql loop": ("select shop.f_loop()", 1),
    "function of a row": ("select shop.f_row(c) from shop.customer c", 30),
    "where on the mask": ("select count(*) from shop.customer where email like 'canary%'", 1),
    "explain": ("explain (verbose, costs off) select * from shop.customer where email = 'x'", None),
    "explain analyze": ("explain (analyze, verbose, buffers, timing off) select * from shop.customer where email > ''", None),
    "explain json": ("explain (analyze, verbose, format json) select c from shop.customer c join shop.buys b using (id)", None),
    "copy": ("copy shop.customer to stdout", 30),
    "copy columns": ("copy shop.customer (email, id) to stdout with (format csv, header)", 31),
    "copy binary": ("copy shop.customer to stdout with (format binary)", None),
    "copy query": ("copy (select * from shop.customer) to stdout", 30),
    "copy partition": ("copy shop.event_1 to stdout", 7),
    "constant false": ("select * from shop.customer where false", 0),
    "merge join": ("select a.email from shop.customer a join shop.buys b on a.id = b.id order by a.email", 30),
}


def test_every_read_is_masked(server):
    with Spy(server) as spy:
        failed = []
        for name, (statement, rows) in READS.items():
            if name.startswith("for "):
                continue
            if statement.startswith("copy"):
                reply = spy.send(statement)
                if reply.errors or (rows is not None and len(reply.copied) != rows):
                    failed.append(f"{name}: {reply.errors or len(reply.copied)}")
                continue
            try:
                spy.read(statement, rows)
            except AssertionError as error:
                failed.append(f"{name}: {error}")
        assert not failed, "\n".join(failed)


def test_row_locks_keep_the_mask(server):
    with Spy(server, *WRITE) as spy:
        for name, (statement, rows) in READS.items():
            if name.startswith("for "):
                spy.read(statement, rows)


def test_a_row_lock_takes_the_rows_that_were_asked_for(server):
    """The lock stays above LIMIT's reach: a queue's SKIP LOCKED takes one row, not all of them."""
    with Spy(server, *WRITE) as one, Spy(server, *WRITE) as two:
        take = "select id, email from shop.customer where region = 'east' order by id limit 1 for update skip locked"
        one.run("begin")
        two.run("begin")
        assert one.run(take).text() == [("2", "m-2")]
        assert two.run(take).text() == [("4", "m-4")]
        one.run("rollback")
        two.run("rollback")


def test_the_masks_are_what_was_declared(server):
    with Spy(server) as spy:
        rows = spy.run("select id, email, name, salary, born from shop.customer where id = 7").text()
        assert rows == [("7", "m-7", "name-7", "0", "2000-01-01")], rows
        rows = spy.run("select c from shop.customer c where id = 7").text()
        assert rows == [("(7,m-7,name-7,west,1,0,2000-01-01,\"\")",)], rows
        rows = spy.run("select at, email from shop.event_2 where id = 15").text()
        assert rows == [("2021-08-25", "***")], rows
        # The nullable side of a join has no row to mask.
        rows = spy.run("select c.email from (values (99)) v (n) left join shop.customer c on c.id = v.n").text()
        assert rows == [(None,)], rows


def test_controls_are_unmasked(server):
    """The same statements by an unguarded role: the canaries are there, so that finding none above says something."""
    with server.connect() as connection:
        found = 0
        for statement, rows in READS.values():
            if statement.startswith(("copy", "explain")) or "m-%" in statement:
                continue
            fetched = connection.execute(statement).fetchall()
            assert rows is None or len(fetched) == rows + (1 if "shop.tenant" in statement else 0) or "canary%" in statement, statement
            found += bool(leaks(repr(fetched).encode()))
        assert found > 40, found


def test_cursors_and_prepared_statements(server):
    with Spy(server) as spy:
        spy.run("begin", "declare c scroll cursor for select * from shop.customer", "fetch all c", "fetch backward 3 from c")
        spy.run("declare b binary cursor with hold for select * from shop.customer", "fetch all b", "commit", "fetch first from b", "close b")
        spy.run("begin", "select shop.f_cursor('f')", "fetch all f", "commit")
        for mode in ("force_custom_plan", "force_generic_plan"):
            spy.run(f"set plan_cache_mode = {mode}", "prepare p (int) as select * from shop.customer where id > $1")
            for _ in range(7):
                assert len(spy.run("execute p (0)").rows) == 30
            spy.run("create temporary table kept as execute p (0)", "select * from kept", "drop table kept", "deallocate p")


def test_extended_protocol_in_pieces(server):
    with Spy(server) as spy:
        spy.wire.parse("select c, email from shop.customer c where id > $1", "s", (23,))
        for _ in range(8):
            spy.wire.bind("p", "s", ("0",))
            spy.wire.describe("P", "p")
            spy.wire.execute("p", 4)
            spy.wire.execute("p", 0)
            spy.wire.close_object("P", "p")
            assert len(spy.wire.sync().rows) == 30
        spy.clean("portals in pieces")


def test_what_is_stored_is_masked(server):
    with Spy(server, *READ, ("allow", ["create", "insert", "select"], "shop.*")) as spy:
        spy.run("create temporary table t1 as select * from shop.customer", "select * from t1")
        spy.run("select * into temporary t2 from shop.easterners", "select * from t2")
        spy.run("create table shop.kept as select c, email from shop.customer c", "select * from shop.kept")
        spy.run("insert into shop.kept (email) select email from shop.customer", "select * from shop.kept")
        kept = repr(server.rows("select * from shop.kept")).encode()
        assert not leaks(kept), "the agent stored a canary for others"
        server.run("drop table shop.kept")


def test_parallel_plans(server):
    server.run("create table shop.big as select n as id, 'canary-' || n as email from generate_series(1, 60000) n; analyze shop.big; grant select on shop.big to clerk")
    mask_scene.mask(server, "shop.big", "email", "'m-' || (id)::text")
    with Spy(server) as spy:
        spy.run("set parallel_setup_cost = 0", "set parallel_tuple_cost = 0", "set min_parallel_table_scan_size = 0")
        plan = spy.run("explain (analyze, costs off, timing off) select max(email), count(*) from shop.big where email > 'm'").text()
        assert any("Workers Launched: " in row[0] and not row[0].endswith(" 0") for row in plan), plan
        assert spy.run("select count(*), count(distinct email) from shop.big where email like 'm-%'").text() == [("60000", "60000")]
        assert spy.run("select count(*) from shop.big where email like 'canary%'").text() == [("0",)]


def test_a_partition_attached_later_is_masked(server):
    with Spy(server) as spy:
        spy.run("prepare e as select * from shop.event", "execute e")
        server.run("create table shop.event_3 (email text, at date, id int); insert into shop.event_3 values ('canary-late', '2022-05-05', 99)")
        server.run("alter table shop.event attach partition shop.event_3 for values from ('2022-01-01') to ('2023-01-01'); grant select on shop.event_3 to clerk")
        assert len(spy.run("execute e").rows) == 16
        assert spy.run("select email, id from shop.event_3").text() == [("***", "99")]
        server.run("drop table shop.event_3")


def test_dropped_and_added_columns_do_not_shift(server):
    server.run("create table shop.shifty (a text, b text, email text, c text); insert into shop.shifty values ('a', 'b', 'canary-x', 'c'); grant select on shop.shifty to clerk")
    server.run("create view shop.shifty_view as select * from shop.shifty; grant select on shop.shifty_view to clerk")
    mask_scene.mask(server, "shop.shifty", "email", "'***'::text")
    with Spy(server) as spy:
        read = ["select * from shop.shifty", "select t from shop.shifty t", "select * from shop.shifty_view", "select (row(t)).f1 from shop.shifty t"]
        for statement in read:
            spy.read(statement, 1)
        server.run("alter table shop.shifty add column d text default 'd'; alter table shop.shifty add column e int")
        mask_scene.upkeep(server, "shop.shifty")
        for statement in read:
            spy.read(statement, 1)
        assert spy.run("select * from shop.shifty").text() == [("a", "b", "***", "c", "d", None)]
        server.run("drop view shop.shifty_view")
        mask_scene.drop_column(server, "shop.shifty", "a")
        assert spy.run("select * from shop.shifty").text() == [("b", "***", "c", "d", None)]
        assert spy.run("select t, ctid from shop.shifty t").text() == [("(b,***,c,d,)", "(0,1)")]
        spy.read("select t from shop.shifty t", 1)


def test_whoever_asks_first_with_a_startup_token(server):
    """The very first statement of a session is planned before anything else has asked who it is."""
    with Spy(server) as spy:
        token = spy.token
        mask_scene.filter_rows(server, spy.policy, "shop.buys", "id <= 10")
    wire = mask_scene.Tap(server.host, server.port, "clerk", "postgres", options=f"-c agent_guard.token={token}")
    assert len(wire.query("select * from shop.buys").rows) == 10
    assert len(wire.query("select * from shop.customer").rows) == 30
    assert not leaks(wire.take())
    wire.close()


def test_a_change_of_masks_reaches_running_sessions(server):
    server.run("create table shop.later (id int, email text); insert into shop.later values (1, 'canary-z'); grant select on shop.later to clerk")
    with server.connect() as dba:
        token = None
        with Spy(server) as spy:
            spy.run("prepare l as select id from shop.later", "execute l")
            spy.wire.query("prepare m as select * from shop.later")
            mask_scene.mask(server, "shop.later", "email", "'***'::text")
            assert spy.run("execute m").text() == [("1", "***")]
            assert spy.run("select * from shop.later").text() == [("1", "***")]
            # Exposed to this policy, then hidden again.
            mask_scene.expose(server, spy.policy, "shop.later.email")
            reply = spy.wire.query("execute m")
            assert reply.text() == [("1", "canary-z")], reply
            spy.wire.take()
            dba.execute("delete from agent_guard.exposed_column")
            assert spy.run("execute m").text() == [("1", "***")]


def test_another_token_never_reuses_a_plan(server):
    """Two scopes in one backend: exposed under one, masked under the other, with a row filter under the third."""
    with Spy(server) as masked, Spy(server) as filtered:
        exposing = mask_scene.Spy(server)
        mask_scene.expose(server, exposing.policy, "shop.customer.email")
        mask_scene.filter_rows(server, filtered.policy, "shop.customer", "region = 'east'")
        wire = exposing.wire
        wire.query("set plan_cache_mode = force_generic_plan")
        wire.query("prepare p as select id, email from shop.customer order by id")
        for _ in range(2):
            for token, count, first in ((exposing.token, 30, "canary-1@x.org"), (masked.token, 30, "m-1"), (filtered.token, 15, "m-2")):
                wire.query(f"set agent_guard.token = '{token}'")
                rows = wire.query("execute p").text()
                assert (len(rows), rows[0][1]) == (count, first), (rows[0], len(rows))
                rows = wire.query("select email from shop.f_sql() order by id").text()
                assert (len(rows), rows[0][0]) == (count, first), (rows[0], len(rows))
        wire.close()


def test_indexes_on_other_columns_are_kept(server):
    with Spy(server) as spy:
        spy.run("set enable_seqscan = off")
        plan = spy.run("explain (costs off) select * from shop.customer where id = 3").text()
        assert "Index Scan using customer_pkey" in plan[0][0], plan
        plan = spy.run("explain (costs off) select c.email from shop.buys b join shop.customer c on c.id = b.customer_id where b.id = 4").text()
        assert any("using customer_pkey" in row[0] for row in plan), plan


if __name__ == "__main__":
    guard.run(globals())
