"""What changes rows of masked relations: RETURNING is masked, no other read of a masked column passes, row filters bind what
is changed and what comes of it, and no text of an error or notice carries a raw value.
"""

import guard
import mask_scene
from guard import DENIED
from mask_scene import WRITE, Spy, leaks

RETURNING = [
    "insert into shop.customer (id, email, name) values (100, 'canaryless@x', 'n') returning *",
    "insert into shop.customer (id, email, name) values (101, 'new@x', 'n') returning customer, email, upper(email), ctid, (select max(email) from shop.customer)",
    "update shop.customer set note = 'x' where id = 3 returning *",
    "update shop.customer c set note = 'x' where id = 3 returning c, row_to_json(c), c.email || 'x', (c).email, tableoid::regclass",
    "update shop.customers set note = 'y' where id = 4 returning *",
    "update shop.easterners set name = 'y' where id = 4 returning easterners, email",
    "update shop.customer set note = b.total::text from shop.buys b where b.customer_id = customer.id and b.id = 5 returning customer.*, b.*",
    "delete from shop.customer where id = 5 returning *, customer",
    "with d as (delete from shop.customer where id = 6 returning *) select d, email from d",
    "with i as (insert into shop.customer (id, email, name) values (102, 'new@x', 'n') returning email) select * from i",
    "insert into shop.customer (id, email, name) values (7, 'zed@x', 'n') on conflict (id) do update set note = excluded.email returning *",
    "insert into shop.customer (id, email, name) select id + 1000, 'x' || email, name from shop.customer where id = 8 returning *",
    "update shop.event set id = id where id < 9 returning *",
    "update shop.event_2 set id = id returning event_2, email",
    "delete from shop.event where id = 15 returning *",
    "update shop.person set id = id returning *, person",
    "update shop.staff set id = id returning *, staff",
    "update shop.tenant set own = 'yes' returning *",
]


def setup(server):
    mask_scene.setup(server)
    server.run("grant select, insert, update, delete on shop.customer to postgres")


def test_returning_is_masked(server):
    mask_scene.each_returns_rows(server, RETURNING)


def test_returning_tells_the_mask(server):
    with Spy(server, *WRITE) as spy:
        spy.run("begin")
        assert spy.run("update shop.customer set email = 'real@x' where id = 9 returning id, email").text() == [("9", "m-9")]
        assert spy.run("update shop.event_2 set id = id where id = 15 returning email").text() == [("***",)]
        spy.run("commit")
    assert server.value("select email from shop.customer where id = 9") == "real@x"
    server.run("update shop.customer set email = 'canary-9@x.org' where id = 9")


READS_OF_THE_TARGET = [
    "update shop.customer set note = 'x' where email like 'canary-1%'",
    "update shop.customer set note = email where id = 1",
    "update shop.customer set note = (select email) where id = 1",
    "update shop.customer c set note = (select c.email || 'x' from shop.buys limit 1) where id = 1",
    "update shop.customer c set note = c::text where id = 1",
    "update shop.customer set (note, name) = (select email, name) where id = 1",
    "update shop.customer c set note = 'x' from shop.buys b where b.id = 1 and c.salary > 0",
    "update shop.customer c set note = 'x' from lateral (select 1) b where exists (select from shop.buys k where k.id = c.salary)",
    "delete from shop.customer where email = 'canary-1@x.org'",
    "delete from shop.customer c using shop.buys b where c.salary = b.total",
    "delete from shop.customer c where row_to_json(c)::text like '%canary%'",
    "insert into shop.customer (id, email, name) values (1, 'zed@x', 'n') on conflict (id) do update set note = customer.email",
    "insert into shop.customer (id, email, name) values (1, 'zed@x', 'n') on conflict (id) do update set note = 'x' where customer.email like 'c%'",
    "insert into shop.customer as c (id, email, name) values (1, 'zed@x', 'n') on conflict (id) do update set note = c::text",
    "merge into shop.customer c using shop.buys b on c.id = b.id and c.email like 'c%' when matched then update set note = 'x'",
    "merge into shop.customer c using shop.buys b on c.id = b.id when matched and c.email like 'c%' then delete",
    "merge into shop.customer c using shop.buys b on c.id = b.id when matched then update set note = c.email",
    "update shop.customers set note = 'x' where email like 'c%'",
    "delete from shop.easterners where email like 'c%'",
    "with u as (update shop.customer set note = email where id = 1 returning 1) select * from u",
    "update shop.event set id = 1 where email like 'c%'",
    "update shop.event_2 set id = 1 where email like 'c%'",
    "delete from shop.staff where email like 'c%'",
    "delete from shop.person where email like 'c%'",
]


def test_no_other_read_of_the_target(server):
    before = server.rows("select * from shop.customer order by id")
    with Spy(server, *WRITE) as spy:
        for statement in READS_OF_THE_TARGET:
            error = spy.refused(statement, "masked_column")
            assert error["c"] in ("email", "salary", "born"), error
            assert error["H"], error
        # By columns that are not masked it works, in each of these forms.
        spy.run("begin")
        spy.run("update shop.customer set note = 'x', email = 'fresh@x' where name = 'name-12'")
        spy.run("merge into shop.customer c using shop.customer s on c.id = s.id when matched and c.id = 2 then update set note = s.email when not matched then do nothing")
        assert spy.run("select note from shop.customer where id = 2").text() == [("m-2",)]
        spy.run("insert into shop.customer (id, email, name) values (13, 'zed@x', 'n') on conflict (id) do update set email = excluded.email")
        spy.run("declare c cursor for select * from shop.customer where id = 3 for update", "fetch c", "update shop.customer set note = 'y' where current of c", "rollback")
    assert server.rows("select * from shop.customer order by id") == before


def test_a_refused_read_is_on_record(server):
    with Spy(server, *WRITE) as spy:
        spy.refused("delete from shop.customer where email = 'x'", "masked_column")
        events = server.audit("window_id = %s and sqlstate is not null", spy.window_id, columns="decision, sqlstate, message")
        assert ("deny", DENIED) == events[-1][:2] and "email" in events[-1][2], events


# --- row filters ---


def filtered(server, *predicates):
    spy = Spy(server, *WRITE)
    for relation, predicate in predicates:
        mask_scene.filter_rows(server, spy.policy, relation, predicate)
    return spy


def test_rows_outside_a_filter_do_not_exist(server):
    with filtered(server, ("shop.customer", "region = 'east'"), ("shop.event", "id < 5"), ("shop.buys", "id <= 10")) as spy:
        assert len(spy.read("select * from shop.customer").rows) == 15
        assert spy.run("select count(*), count(*) filter (where region = 'west') from shop.customers").text() == [("15", "0")]
        assert spy.run("select count(*) from shop.f_definer()").text() == [("15",)]
        assert len(spy.run("copy shop.customer to stdout").copied) == 15
        assert spy.run("select count(*) from shop.buys").text() == [("10",)]
        assert len(spy.run("copy shop.buys to stdout").copied) == 10
        assert spy.run("select count(*) from shop.event").text() == [("4",)]
        assert spy.run("select count(*) from shop.event_1").text() == [("4",)]
        assert spy.run("select count(*) from shop.event_2").text() == [("0",)]
        assert len(spy.run("begin; select * from shop.customer for update").rows) == 15
        spy.run("rollback")


def test_a_filter_on_a_child_holds_for_its_rows_in_the_parent(server):
    with filtered(server, ("shop.staff", "id < 0")) as spy:
        assert spy.run("select id from shop.person").text() == [("1",)]
        assert spy.run("select id from shop.staff").text() == []


def test_a_filter_binds_what_is_changed(server):
    with filtered(server, ("shop.customer", "region = 'east'"), ("shop.buys", "total < 100")) as spy:
        spy.run("begin")
        assert spy.run("update shop.customer set note = 'mine'").tags == ["UPDATE 15"]
        assert spy.run("update shop.customers set note = 'mine'").tags == ["UPDATE 15"]
        assert spy.run("delete from shop.buys where id > 0").tags == ["DELETE 9"]
        assert spy.run("merge into shop.customer c using (select 1) s on true when matched then update set note = 'm'").tags == ["MERGE 15"]
        spy.run("rollback")
        assert spy.run("update shop.customer set note = 'x' where id = 1").tags == ["UPDATE 0"]
        assert spy.run("delete from shop.customer where id = 1 returning *").rows == []


def test_a_filter_binds_what_comes_of_a_change(server):
    with filtered(server, ("shop.customer", "region = 'east'")) as spy:
        for statement in [
            "insert into shop.customer (id, email, name, region) values (200, 'new@x', 'n', 'west')",
            "insert into shop.customer (id, email, name) values (200, 'new@x', 'n')",
            "update shop.customer set region = 'west' where id = 2",
            "insert into shop.customer (id, email, name, region) values (2, 'new@x', 'n', 'east') on conflict (id) do update set region = 'west'",
            # The row that is in the way does not exist for the agent: it is not changed either.
            "insert into shop.customer (id, email, name, region) values (1, 'new@x', 'n', 'east') on conflict (id) do update set note = 'x'",
            "merge into shop.customer c using (select 2 as id) s on c.id = s.id when matched then update set region = 'west'",
            "merge into shop.customer c using (select 201 as id) s on c.id = s.id when not matched then insert (id, email, name, region) values (201, 'new@x', 'n', 'west')",
        ]:
            error = spy.fails(statement, DENIED)
            assert "agent_guard row filter" in error["M"], error
        spy.run("begin")
        spy.run("insert into shop.customer (id, email, name, region) values (200, 'new@x', 'n', 'east')")
        spy.run("insert into shop.customer (id, email, name, region) values (2, 'new@x', 'n', 'east') on conflict (id) do update set note = 'x'")
        spy.run("rollback")
        spy.refused("copy shop.customer (id, email, name, region) from stdin", "masked_relation")
        spy.refused("truncate shop.customer, shop.buys, shop.contact", "masked_relation")
        spy.refused("truncate shop.customer cascade", "masked_relation")


def test_no_setting_of_the_agents_changes_what_a_filter_means(server):
    with filtered(server, ("shop.customer", "born < '1917-11-10'::date and name <> 'a\\''b'"), ("shop.event", "at = any (array['2020-12-01'::date, null])")) as spy:
        wanted = [spy.run("select id from shop.customer order by id").text(), spy.run("select id from shop.event").text()]
        assert wanted[0] == [("1",), ("2",)], wanted
        for setting in ("datestyle = 'German'", "datestyle = 'SQL, MDY'", "standard_conforming_strings = off", "timezone = 'Asia/Tokyo'",
                        "array_nulls = off", "search_path = pg_temp, shop, pg_catalog", "intervalstyle = 'iso_8601'", "backslash_quote = on"):
            spy.run(f"set {setting}", f"set agent_guard.token = '{spy.token}'")
            found = [spy.run("select id from shop.customer order by id").text(), spy.run("select id from shop.event").text()]
            assert found == wanted, (setting, found)


def test_a_filter_is_asked_before_any_function_of_the_agents(server):
    """A cheap function that tells what it is given is not given rows that do not exist."""
    server.run("""create function shop.tell(text) returns boolean language plpgsql cost 0.0001 immutable as
        'begin raise notice ''told %'', $1; return true; end'; grant execute on function shop.tell(text) to clerk""")
    with filtered(server, ("shop.customer", "region = 'east'")) as spy:
        for statement in [
            "select id from shop.customer where shop.tell(region)",
            "select id from shop.customers where shop.tell(region || email)",
            "update shop.customer set note = 'x' where shop.tell(region)",
            "select 1 from shop.buys b join shop.customer c on c.id = b.customer_id where shop.tell(c.region)",
        ]:
            reply = spy.send("begin; " + statement)
            assert not reply.errors, reply.errors
            assert not any("west" in notice["M"] for notice in reply.notices), statement
            spy.run("rollback")


# --- texts of errors ---


def triggers(server):
    server.run("""
create or replace function shop.shout() returns trigger language plpgsql as $$
begin
    raise notice 'was %, is %', old.email, new.email;
    if new.note = 'raise' then raise exception 'no % for %', new.note, old.email using detail = old.email, hint = old.email, column = old.email; end if;
    if new.note = 'class' then raise exception 'no % for %', new.note, old.email using errcode = 'check_violation', constraint = old.email; end if;
    if new.note = 'cast' then perform old.email::int; end if;
    if new.note = 'dynamic' then execute format('select %L::int', old.email); end if;
    if new.note = 'syntax' then execute 'select ' || old.email || ' !!'; end if;
    if new.note = 'warning' then raise warning '%', old.email; end if;
    if new.note = 'info' then raise info '%', old.email; end if;
    return new;
end $$;
create or replace function shop.shout_late() returns trigger language plpgsql as $$
begin
    if new.note = 'late' then raise exception 'too late for %', old.email; end if;
    if new.note = 'notice' then raise notice 'late %', old.email; end if;
    return null;
end $$;
create or replace function shop.try(statement text) returns text language plpgsql as $$
declare a text; b text; c text; d text; e text; f text;
begin
    execute statement;
    return 'it ran';
exception when others then
    get stacked diagnostics a = message_text, b = pg_exception_detail, c = pg_exception_hint, d = pg_exception_context, e = column_name, f = constraint_name;
    return concat_ws('|', sqlstate, sqlerrm, a, b, c, d, e, f);
end $$;
drop trigger if exists shout on shop.customer; drop trigger if exists late on shop.customer;
create trigger shout before update on shop.customer for each row execute function shop.shout();
create constraint trigger late after update on shop.customer deferrable initially deferred for each row execute function shop.shout_late();
grant execute on function shop.try(text) to clerk;
""")


VIOLATIONS = {
    "insert into shop.customer (id, email, name) values (1, 'a@xx', 'n')": "23505",
    "insert into shop.customer (id, email, name) values (300, 'no', 'n')": "23514",
    "insert into shop.customer (id, email) values (300, 'a@xx')": "23502",
    "update shop.customer set name = null where id = 3": "23502",
    "update shop.customer set id = 4 where id = 3": "23505",
    "update shop.customer set email = 'x' where id = 3": "23514",
    "update shop.event set at = '1999-01-01' where id = 1": "23514",
    "update shop.event_1 set at = '1999-01-01' where id = 1": "23514",
    "update shop.customer set email = 'gone@xx' where id = 1": "23503",
    "delete from shop.customer where id = 1": "23503",
    "insert into shop.event values (1, 'canaryless', '1999-01-01')": "23514",
}


def test_violations_do_not_print_the_row(server):
    with Spy(server, *WRITE) as spy:
        for statement, sqlstate in VIOLATIONS.items():
            error = spy.fails(statement, sqlstate)
            assert error["D"].startswith("reason=withheld"), error
            if sqlstate in ("23505", "23503"):
                assert error["n"], error


def test_a_handler_of_the_agents_sees_no_more(server):
    triggers(server)
    with Spy(server, *WRITE) as spy:
        for statement, sqlstate in VIOLATIONS.items():
            told = spy.send("select shop.try($x$" + statement + "$x$)").text()[0][0]
            assert told.startswith(sqlstate), told
        for word in ("raise", "class", "cast", "dynamic", "syntax"):
            told = spy.send(f"select shop.try($x$update shop.customer set note = '{word}' where id = 3$x$)").text()[0][0]
            assert "withheld" in told, told


def test_triggers_tell_nothing(server):
    triggers(server)
    with Spy(server, *WRITE) as spy:
        for word, sqlstate in {"raise": "P0001", "class": "23514", "cast": "22P02", "dynamic": "22P02", "syntax": "42601"}.items():
            error = spy.fails(f"update shop.customer set note = '{word}' where id = 3", sqlstate)
            assert "withheld" in error["M"], error
        for word in ("quiet", "warning", "info", "notice"):
            reply = spy.send(f"update shop.customer set note = '{word}' where id = 3")
            assert not reply.errors and reply.notices, reply
        error = spy.fails("update shop.customer set note = 'late' where id = 3", "P0001")
        assert "withheld" in error["M"], error
        spy.run("begin", "update shop.customer set note = 'late' where id = 3")
        error = spy.fails("set constraints all immediate", "P0001")
        spy.run("begin", "update shop.customer set note = 'late' where id = 3")
        assert "withheld" in spy.fails("commit", "P0001")["M"]
        # The agent's own messages, outside any change of a masked relation, are told.
        server.run("create or replace function shop.say() returns int language plpgsql as 'begin raise notice ''hello''; return 1; end'; grant execute on function shop.say() to clerk")
        assert spy.send("select shop.say()").notices[0]["M"] == "hello"
        spy.run("begin", "update shop.customer set note = 'quiet' where id = 3")
        assert spy.send("select shop.say()").notices[0]["M"] == "hello"
        spy.run("rollback")
        assert "1/0" not in spy.fails("select 1/0 from shop.customer", "22012")["M"]
        assert spy.fails("select 'own'::int from shop.buys", "22P02")["M"] == 'invalid input syntax for type integer: "own"'
    server.run("drop trigger shout on shop.customer; drop trigger late on shop.customer")


def test_what_the_server_itself_says_is_kept(server):
    with Spy(server, *WRITE) as spy:
        assert "does not exist" in spy.fails("update shop.customer set nothing = 1", "42703")["M"]
        assert "violates foreign key constraint" in spy.fails("delete from shop.customer where id = 1", "23503")["M"]
        spy.run("set statement_timeout = 1")
        assert "timeout" in spy.fails("update shop.customer set note = c.n::text from generate_series(1, 3000000) c (n) where c.n > 2999999", "57014")["M"]


def test_the_log_and_the_trail_hold_no_canary(server):
    triggers(server)
    with Spy(server, *WRITE) as spy:
        for word in ("raise", "class", "cast", "dynamic", "syntax"):
            spy.send(f"update shop.customer set note = '{word}' where id = 3")
        for statement in VIOLATIONS:
            spy.send(statement)
        events = server.audit("window_id = %s", spy.window_id)
    assert len(events) > 10 and not leaks(repr([event for event in events]).encode().replace(b"canaryless", b"")), "in the trail"
    mine = [line for line in server.log().splitlines() if "STATEMENT:" not in line and "canaryless" not in line and leaks(line.encode())]
    assert not mine, mine[:3]
    server.run("drop trigger shout on shop.customer; drop trigger late on shop.customer")


def test_a_temporary_table_does_not_catch_what_a_trigger_writes(server):
    server.run("""create table shop.log (old_email text);
        create function shop.logging() returns trigger language plpgsql as 'begin insert into log values (old.email); return new; end';
        create trigger logging before update on shop.customer for each row execute function shop.logging();
        grant all on shop.log to clerk""")
    with Spy(server, *WRITE, ("allow", "temporary", "*")) as spy:
        spy.run("set search_path = shop", "create temporary table log (old_email text)")
        spy.refused("update shop.customer set note = 'x' where id = 3", "masked_relation")
        assert spy.run("select * from pg_temp.log").rows == []
        spy.run("drop table pg_temp.log", "update shop.customer set note = 'x' where id = 3")
    assert server.value("select old_email from shop.log") == "canary-3@x.org"
    server.run("drop trigger logging on shop.customer; drop table shop.log")


def test_an_open_cursor_does_not_outlive_a_new_mask(server):
    server.run("create table shop.fresh (id int, email text); insert into shop.fresh select n, 'canary-' || n from generate_series(1, 9) n; grant select on shop.fresh to clerk")
    with Spy(server, *WRITE) as spy:
        spy.run("begin", "declare c cursor for select * from shop.fresh")
        mask_scene.mask(server, "shop.fresh", "email", "'***'::text")
        spy.refused("fetch all c", "mask_changed")
        assert spy.run("select max(email) from shop.fresh").text() == [("***",)]


def test_denied_columns_are_not_printed_either(server):
    """A column that a rule denies, on a relation without any mask."""
    server.run("create table shop.secretive (id int primary key, secret text, open text not null); insert into shop.secretive values (1, 'canary-s', 'o'); grant all on shop.secretive to clerk")
    with Spy(server, ("allow", ["select", "update"], "shop.secretive"), ("deny", "select", "shop.secretive(secret)")) as spy:
        error = spy.fails("update shop.secretive set open = null where id = 1", "23502")
        assert error["D"].startswith("reason=withheld"), error
    with Spy(server, ("allow", ["select", "update"], "shop.secretive")) as spy:
        reply = spy.wire.query("update shop.secretive set open = null where id = 1")
        assert "canary-s" in reply.errors[0]["D"], "whoever may read it is told"


def test_errors_of_masks_and_filters_tell_no_value(server):
    server.run("create table shop.fragile (id int, email text); insert into shop.fragile values (1, 'canary-f'); grant select on shop.fragile to clerk")
    mask_scene.mask(server, "shop.fragile", "email", "((email)::integer)::text")
    with Spy(server) as spy:
        assert "withheld" in spy.fails("select * from shop.fragile", "22P02")["M"]
        mask_scene.filter_rows(server, spy.policy, "shop.buys", "(customer_id::text || 'canary')::integer > 0")
        assert "withheld" in spy.fails("select * from shop.buys", "22P02")["M"]


if __name__ == "__main__":
    guard.run(globals())
