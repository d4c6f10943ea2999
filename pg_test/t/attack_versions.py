"""What PostgreSQL 16, 17 and 18 brought that an agent could try: each new form of a statement beside the guard's answer to it.

A test runs from the version on that it names; on older servers there is nothing to try.
"""

import guard
import mask_scene
import scene
from guard import DENIED, bind, expect, since
from mask_scene import BUILD, READ, WRITE, Spy
from scene import Agent
from tokens import child

MORE = """
create table shop.priced (id int primary key, email text, region text,
    loud text generated always as (upper(email)) {kind}, place text generated always as (upper(region)) {kind});
insert into shop.priced (id, email, region) values (1, 'canary-1', 'east'), (2, 'canary-2', 'west');
create view shop.placed as select * from shop.priced;
alter table shop.priced owner to shopkeeper;
create table shop.docs (id int primary key, doc jsonb, email text);
insert into shop.docs values (1, '{{"n": "canary-1", "m": 1}}', 'canary-1');
create table shop.plain (id int primary key, v text, secret text);
insert into shop.plain select n, 'v-' || n, 'secret-' || n from generate_series(1, 5) n;
grant all on shop.priced, shop.docs, shop.plain, shop.placed to clerk;
"""

# Statements that have to work and give as many rows; RETURNING of a masked relation is masked, whichever row it is.
RETURNING_OLD_AND_NEW = [
    "insert into shop.customer (id, email, name) values (100, 'canary-new@x', 'n') returning old.*, new.*, old, new",
    "update shop.customer set email = 'canary-x@y' where id = 3 returning old.email, new.email, email, old.salary + 1, new.born",
    "update shop.customer set note = 'x' where id = 3 returning old, new, old.*, new.*",
    "update shop.customer c set note = 'x' where id = 3 returning to_json(old), row_to_json(new), c, old::text, (new).email",
    "update shop.customer set note = 'x' where id = 3 returning with (old as o, new as n) o.email || n.email, o, n, (select o.email || n.email), (select max(k.email || o.email) from shop.customer k)",
    "update shop.customer set note = 'x' where id = 3 returning case when old.email like 'can%' then 'hit' end, old.email = new.email",
    "update shop.customers set note = 'y' where id = 4 returning old.*, new.email, old, new",
    "update shop.easterners set name = 'y' where id = 4 returning old, new, old.email",
    "update shop.customer set note = b.total::text from shop.buys b where b.customer_id = customer.id and b.id = 5 returning old.*, new, b.*",
    "delete from shop.customer where id = 5 returning old.*, new.*, old, new, email",
    "with d as (delete from shop.customer where id = 6 returning old.email as o, new.email as n, old as r) select d, o, n, (r).email from d",
    "insert into shop.customer (id, email, name) values (7, 'zed@x', 'n') on conflict (id) do update set note = excluded.email returning old.*, new.*, old, new",
    "merge into shop.customer c using shop.buys b on c.id = b.id when matched and b.id = 8 then update set note = 'm' returning old.*, new, merge_action(), c.email",
    "merge into shop.customer c using shop.buys b on c.id = b.id when matched and b.id = 9 then delete returning old, new.email",
    "update shop.event set id = id where id < 9 returning old.*, new, old",
    "update shop.event_2 set id = id returning old, new.email",
    "update shop.staff set id = id returning old.*, new, old.email",
    "update shop.tenant set own = 'yes' returning old, new.*",
    "update shop.priced set region = 'x' returning old.email, new.place, old.place",
]


def setup(server):
    scene.setup(server)
    mask_scene.setup(server)
    server.run(MORE.format(kind="virtual" if server.major >= 18 else "stored"))
    mask_scene.mask(server, "shop.priced", "email", "'***'::text")
    mask_scene.mask(server, "shop.docs", "email", "'***'::text")
    mask_scene.mask(server, "shop.docs", "doc", """'{"n": "masked", "m": 1}'::jsonb""")


# New forms of commands that older versions have: none is ordinary, so each is denied where nothing is allowed.
NEW_FORMS = {
    16: [
        "grant owner to peer with inherit false, set true",
        "vacuum (only_database_stats)",
        "vacuum (buffer_usage_limit '1MB', process_main false) app.open",
        "reindex database",
        "reindex system",
        "create table app.t (a text storage external)",
        "alter table app.open alter v set storage default",
        "copy app.open from stdin (default 'x')",
    ],
    17: [
        "alter table app.open alter v set statistics default",
        "alter table app.computed alter made set expression as (v || 'x')",
        "alter table app.open set access method default",
        "grant maintain on app.open to public",
        "alter default privileges in schema app grant maintain on tables to public",
        "create event trigger e on login execute function app.fire()",
        "copy app.open from stdin (on_error ignore, log_verbosity verbose, force_null *)",
        "merge into app.open o using (values (1)) s(id) on o.id = s.id when not matched by source then delete returning merge_action(), o.*",
        "merge into app.secret_view o using (values (1)) s(id) on o.id = s.id when matched then delete",
        "alter system set transaction_timeout = '1h'",
        "explain (analyze, serialize, memory) select * from app.open",
        "create table app.t (id int primary key, r int generated by default as identity) partition by range (id)",
    ],
    18: [
        "vacuum only app.parent",
        "analyze only app.parent",
        "alter default privileges grant select on large objects to public",
        "alter table app.child alter constraint child_open_id_fkey not enforced",
        "alter table app.open add constraint n not null v not valid",
        "alter table app.open add column made text generated always as (v) virtual",
        "create table app.t (a int, b int generated always as (a) virtual)",
        "create table app.t (a int4range, primary key (a without overlaps))",
        "copy app.secret_mat to stdout",
        "copy app.open from stdin (on_error ignore, reject_limit 3)",
        "update app.open set v = 'x' returning old.v, new.v",
        "delete from app.open returning with (old as gone) gone",
        "insert into app.open values (1) on conflict (id) do update set v = 'x' returning old.*, new.*",
        "explain (analyze) delete from app.open returning old.*",
    ],
}


@since(16)
def test_new_forms_of_commands_are_denied_without_a_rule(server):
    server.run("create table app.computed (v text, made text generated always as (v) stored); alter table app.computed owner to owner")
    with Agent(server) as agent:
        for major in range(16, server.major + 1):
            for statement in NEW_FORMS[major]:
                agent.refused(statement)
    server.run("drop table app.computed")


# --- RETURNING ---


@since(18)
def test_returning_old_and_new_is_masked(server):
    mask_scene.each_returns_rows(server, RETURNING_OLD_AND_NEW)


@since(18)
def test_returning_old_and_new_tells_the_mask_of_its_row(server):
    with Spy(server, *WRITE) as spy:
        spy.run("begin", "delete from shop.buys where customer_id in (9, 10)")
        both = "returning old.email, new.email, old.id, new.id"
        assert spy.run(f"update shop.customer set id = 109 where id = 9 {both}").text() == [("m-9", "m-109", "9", "109")]
        assert spy.run(f"delete from shop.customer where id = 10 {both}").text() == [("m-10", None, "10", None)]
        assert spy.run(f"insert into shop.customer (id, email, name) values (110, 'zed@x', 'n') {both}").text() == [(None, "m-110", None, "110")]
        spy.run("rollback")


@since(18)
def test_a_generated_column_is_read_by_returning_neither_old_nor_new(server):
    with Spy(server, *WRITE) as spy:
        for row in ("old", "new"):
            spy.refused(f"update shop.priced set region = 'x' where id = 1 returning {row}.loud", "copy_of_masked")
            spy.refused(f"update shop.priced set region = 'x' where id = 1 returning {row}", "copy_of_masked")


@since(18)
def test_columns_of_old_and_new_need_what_reading_them_needs(server):
    rules = [("allow", ["update", "insert", "delete"], "shop.plain"), ("allow", "select", "shop.plain", {"columns": ["id", "v"]})]
    with Spy(server, *rules) as spy:
        spy.run("begin")
        assert spy.run("update shop.plain set v = 'w' where id = 1 returning old.v, new.v").text() == [("v-1", "w")]
        spy.run("rollback")
        for what in ("old.secret", "new.secret", "old", "new.*", "to_json(old)", "(select new.secret)"):
            spy.refused(f"update shop.plain set v = 'w' where id = 1 returning {what}")
            spy.refused(f"delete from shop.plain where id = 1 returning with (old as o, new as n) {what.replace('old', 'o').replace('new', 'n')}")
            spy.refused(f"insert into shop.plain (id) values (1) on conflict (id) do update set v = 'w' returning {what}")
    assert server.value("select v from shop.plain where id = 1") == "v-1"


@since(18)
def test_no_row_that_a_filter_keeps_out_comes_back_as_old(server):
    policy = scene.policy(server, WRITE)
    mask_scene.filter_rows(server, policy, "shop.plain", "id < 3")
    with Spy(server, policy=policy) as spy:
        spy.run("begin")
        assert spy.run("update shop.plain set v = 'w' returning old.id").text() == [("1",), ("2",)]
        assert spy.run("delete from shop.plain where id > 1 returning old.id, old.v").text() == [("2", "w")]
        spy.run("rollback")
        spy.fails("insert into shop.plain values (4, 'x') on conflict (id) do update set v = 'y' returning old.*, new.*", DENIED)
        spy.fails("merge into shop.plain p using (values (4)) s(id) on p.id = s.id when matched then update set v = 'z' when not matched then insert values (9, 'n') returning old.*", DENIED)
    assert server.value("select string_agg(v, ',' order by id) from shop.plain") == "v-1,v-2,v-3,v-4,v-5"


# --- MERGE ---


@since(17)
def test_merge_by_source_answers_for_what_it_changes(server):
    merge = "merge into shop.plain p using (values (1)) s(id) on p.id = s.id when not matched by source then"
    with Spy(server, ("allow", "select", "shop.plain")) as spy:
        spy.refused(f"{merge} delete")
        spy.refused(f"{merge} update set v = 'x'")
    with Spy(server, ("allow", ["select", "update"], "shop.plain")) as spy:
        spy.refused(f"{merge} delete")
        spy.run("begin", f"{merge} update set v = 'x'", "rollback")
    assert server.value("select string_agg(v, ',' order by id) from shop.plain") == "v-1,v-2,v-3,v-4,v-5"


@since(17)
def test_merge_by_source_is_no_condition(server):
    rules = [("allow", ["select", "update", "delete"], "shop.plain", {"require_where": True}), ("allow", "select", "shop.buys")]
    with Spy(server, *rules) as spy:
        merge = "merge into shop.plain p using shop.buys s on p.id = s.id"
        spy.refused(f"{merge} when not matched by source then delete", "require_where")
        spy.refused(f"{merge} when matched then do nothing when not matched by source then update set v = 'x'", "require_where")
        spy.refused("merge into shop.plain p using (select where false) s on false when not matched by source then delete", "require_where")
        spy.run("begin", f"{merge} and p.id = 1 when matched then delete", "rollback")
    assert server.value("select count(*) from shop.plain") == 5


def test_an_outer_join_is_no_condition_on_the_side_that_it_keeps(server):
    rules = [("allow", "select", "shop.plain", {"require_where": True}), ("allow", "select", "shop.buys")]
    with Spy(server, *rules) as spy:
        for settings in ((), ("set enable_hashjoin = off",), ("set enable_hashjoin = off", "set enable_mergejoin = off")):
            for setting in settings:
                spy.run(setting)
            spy.refused("select p.v from shop.plain p left join shop.buys b on b.id = p.id", "require_where")
            spy.refused("select p.v from shop.buys b right join shop.plain p on b.id = p.id", "require_where")
            if len(settings) < 2:
                spy.refused("select p.v from shop.plain p full join shop.buys b on b.id = p.id", "require_where")
            spy.read("select p.v from shop.plain p join shop.buys b on b.id = p.id", 5)
            spy.read("select p.v from shop.buys b left join shop.plain p on b.id = p.id where b.id < 3", 2)
            spy.read("select p.v from shop.plain p where not exists (select from shop.buys b where b.id = p.id)", 0)
            spy.read("select p.v from shop.plain p left join shop.buys b on b.id = p.id where p.id = 2", 1)


@since(17)
def test_merge_reads_no_masked_column_of_its_target(server):
    with Spy(server, *WRITE) as spy:
        merge = "merge into shop.customer c using shop.buys b on c.id = b.id"
        for statement in (
            f"{merge} when not matched by source and c.email like 'canary-9%' then delete",
            f"{merge} when not matched by source then update set note = c.email",
            f"{merge} and c.email like 'c%' when not matched by source then update set note = 'x'",
            "merge into shop.customers c using shop.buys b on c.id = b.id when not matched by source and c.salary > 0 then update set note = 'x'",
        ):
            spy.refused(statement, "masked_column")
        spy.run("begin")
        for statement in (
            f"{merge} when matched and b.id < 3 then update set note = 'm' when matched then do nothing returning c, c.*, merge_action(), b.id",
            "with m as (merge into shop.customer c using shop.buys b on c.id = b.id when matched and b.id = 4 then update set note = 'm' returning c.email, c) select * from m",
            "merge into shop.customers c using shop.buys b on c.id = b.id when matched and b.id = 4 then update set note = 'm' returning c.email, c",
        ):
            for form in ("simple", "binary"):
                reply = spy.send(statement, form=form)
                assert not reply.errors and reply.rows, f"{reply.errors}: {statement}"
        spy.run("rollback")


@since(17)
def test_merge_by_source_leaves_filtered_rows_alone(server):
    policy = scene.policy(server, WRITE)
    mask_scene.filter_rows(server, policy, "shop.plain", "id < 3")
    with Spy(server, policy=policy) as spy:
        spy.run("merge into shop.plain p using (values (1)) s(id) on p.id = s.id when not matched by source then update set v = 'gone' returning p.id")
        # A filter on new rows is the server's check.
        spy.fails("merge into shop.plain p using (values (1)) s(id) on p.id = s.id when not matched by source then update set id = 77", DENIED)
    assert server.value("select string_agg(v, ',' order by id) from shop.plain") == "v-1,gone,v-3,v-4,v-5"
    server.run("update shop.plain set v = 'v-2' where id = 2")


@since(17)
def test_merge_into_a_view_answers_for_its_table(server):
    server.run("create view shop.plainly as select * from shop.plain; grant all on shop.plainly to clerk")
    with Spy(server, ("allow", ["select", "update", "delete", "insert"], "shop.plainly"), ("deny", "delete", "shop.plain")) as spy:
        merge = "merge into shop.plainly p using (values (1)) s(id) on p.id = s.id when matched then"
        spy.refused(f"{merge} delete")
        spy.refused("merge into shop.plainly p using (values (1)) s(id) on p.id = s.id when not matched by source then delete")
        spy.run("begin", f"{merge} update set v = 'x'", "rollback")
    server.run("drop view shop.plainly")


# --- generated columns ---


def test_a_column_generated_from_a_masked_one_is_read_nowhere(server):
    with Spy(server, *BUILD) as spy:
        for statement in (
            "select loud from shop.priced",
            "select * from shop.priced",
            "select priced from shop.priced",
            "select loud from shop.placed",
            "select id from shop.priced where loud like 'CAN%'",
            "select count(*) from shop.priced group by loud",
            "select id from shop.priced order by loud",
            "select max(loud) from shop.priced",
            "update shop.priced set region = 'x' where loud like 'CANARY-1%'",
            "delete from shop.priced where loud like 'CANARY-1%'",
            "update shop.priced set region = loud",
            "update shop.priced set region = 'x' returning loud",
            "copy (select loud from shop.priced) to stdout",
            "explain analyze select loud from shop.priced",
        ):
            error = spy.send(statement).errors
            assert error and error[0]["C"] == DENIED and "reason=" in error[0]["D"], f"{error}: {statement}"
        spy.read("select id, email, place from shop.priced", 2)
        assert spy.run("select email, place from shop.priced order by id").text() == [("***", "EAST"), ("***", "WEST")]
        spy.refused("alter table shop.priced add column more text generated always as (lower(email)) stored", "masked_relation")


@since(17)
def test_the_expression_of_a_generated_column_stays(server):
    with Spy(server, *BUILD) as spy:
        spy.refused("alter table shop.priced alter column place set expression as (lower(email))", "masked_relation")


@since(18)
def test_no_virtual_column_of_an_agents_making_reads_a_masked_one(server):
    with Spy(server, *BUILD) as spy:
        spy.refused("alter table shop.priced add column more text generated always as (lower(email)) virtual", "masked_relation")
        spy.refused("alter table shop.priced add column more text generated always as (lower(email))", "masked_relation")
        spy.refused("create table shop.heir (more text generated always as (lower(email))) inherits (shop.priced)", "masked_relation")


@since(18)
def test_row_filters_and_masks_work_over_virtual_columns(server):
    policy = scene.policy(server, READ)
    mask_scene.filter_rows(server, policy, "shop.priced", "place = 'EAST'")
    with Spy(server, policy=policy) as spy:
        spy.read("select id, place, email from shop.priced", 1)
    server.run("create table shop.computed (id int, base text, twice text generated always as (base || base)); insert into shop.computed values (1, 'canary'); grant select on shop.computed to clerk")
    mask_scene.mask(server, "shop.computed", "twice", "'***'::text")
    with Spy(server, *READ) as spy:
        assert spy.run("select id, twice from shop.computed").text() == [("1", "***")]
    server.run("select agent_guard.unmask_column('shop.computed', 'twice'); drop table shop.computed")


# --- system columns ---


def test_system_columns_beside_the_whole_row_shift_nothing(server):
    """From 18 on the planner takes no junk column of a subquery: what the guard puts in has to be a column there."""
    with Spy(server, *READ) as spy:
        for row in ("d", "d::text", "to_json(d)", "(d).email", "row(d.*)", "(select k from (select d) k)"):
            alone = spy.run(f"select {row} from shop.docs d").text()
            assert [row[:1] for row in spy.run(f"select {row}, ctid, tableoid::regclass, xmin from shop.docs d").text()] == alone, row
        outer = "select d, d.ctid from shop.plain p left join shop.docs d on d.id = p.id"
        if server.major >= 18:
            spy.refused(outer, "mask_not_applied")
        else:
            spy.read(outer, 5)
        spy.read("select d.email, d.ctid from shop.plain p left join shop.docs d on d.id = p.id", 5)
        spy.read("select d from shop.plain p left join shop.docs d on d.id = p.id", 5)


# --- JSON ---


JSON_16 = [
    "select json_object('a': email, 'b': doc) from shop.docs",
    "select json_array(email, doc) from shop.docs",
    "select json_arrayagg(email), json_objectagg(id: doc) from shop.docs",
    "select email is json, doc is json object from shop.docs",
    "select json_array(select email from shop.docs)",
]
JSON_17 = [
    "select json_value(doc, '$.n'), json_query(doc, '$'), json_exists(doc, '$.n') from shop.docs",
    "select json_value(doc, '$.n' returning int error on error) from shop.docs where false",
    "select json_value(doc, '$.n' returning int default -1 on error) from shop.docs",
    "select j.* from shop.docs d, json_table(d.doc, '$' columns (n text path '$.n', whole jsonb path '$', o for ordinality, nested path '$.m' columns (m int path '$'))) j",
    "select j.* from shop.docs d, json_table(to_jsonb(d), '$' columns (e text path '$.email', d text format json path '$.doc')) j",
    "select j.* from json_table((select jsonb_agg(email) from shop.docs), '$[*]' passing 'x' as x columns (v text path '$', w text path '$x')) j",
    "select json_serialize(doc returning bytea), json_scalar(email) from shop.docs",
    "select json_scalar(email), json_query(doc, '$.n' with wrapper) from shop.docs",
]


@since(16)
def test_json_constructors_see_masks(server):
    with Spy(server, *READ) as spy:
        for statement in JSON_16:
            spy.read(statement)


@since(17)
def test_json_functions_and_json_table_see_masks(server):
    with Spy(server, *READ) as spy:
        for statement in JSON_17:
            spy.read(statement)
        assert spy.run("select j.n from shop.docs d, json_table(d.doc, '$' columns (n text path '$.n')) j").text() == [("masked",)]


@since(17)
def test_json_table_of_a_denied_table_is_denied(server):
    with Spy(server, ("allow", "select", "shop.buys")) as spy:
        spy.refused("select j.* from shop.docs d, json_table(d.doc, '$' columns (n text path '$.n')) j")
        spy.refused("select j.* from json_table((select jsonb_agg(v) from shop.plain), '$[*]' columns (v text path '$')) j")
        spy.refused("select json_query(jsonb '1', '$' passing (select max(v) from shop.plain) as x)")


# --- EXPLAIN and COPY ---


@since(16)
def test_explain_of_a_generic_plan_is_decided(server):
    with Spy(server, ("allow", "select", "shop.buys")) as spy:
        spy.refused("explain (generic_plan) select * from shop.plain where id = $1")
        spy.run("explain (generic_plan) select * from shop.buys where id = $1")
    with Spy(server, *READ) as spy:
        spy.run("explain (generic_plan, verbose) select email from shop.customer where email = $1")


@since(17)
def test_explain_serialize_sees_masks_and_sends_no_rows(server):
    with Spy(server, *READ) as spy:
        for form in ("text", "binary"):
            spy.run(f"explain (analyze, serialize {form}, memory, format json) select *, row_to_json(c) from shop.customer c")
    with Spy(server, ("allow", "select", "shop.buys")) as spy:
        spy.refused("explain (analyze, serialize) select * from shop.plain")


@since(16)
def test_copy_default_and_on_error_tell_no_masked_value(server):
    options = ["(default 'x')"] + (["(on_error ignore, log_verbosity verbose)"] if server.major >= 17 else []) + (["(on_error ignore, reject_limit 1)"] if server.major >= 18 else [])
    with Spy(server, *WRITE) as spy:
        for option in options:
            spy.run("begin")
            spy.wire.take()
            reply = spy.wire.query(f"copy shop.customer (id, email, name) from stdin {option}")
            assert not reply.errors, reply.errors
            spy.wire.copy_data(b"not a number\tzed@x\tn\n500\tzed@x\tn\n" if "ignore" in option else b"500\tzed@x\tn\n")
            reply = spy.wire.copy_done()
            assert not reply.errors, reply.errors
            # A duplicate key would name the row that is there.
            spy.wire.query("copy shop.customer (id, email, name) from stdin")
            spy.wire.copy_data(b"501\tcanary-1@x.org\tn\n")
            reply = spy.wire.copy_done()
            assert reply.errors and "Key" not in reply.errors[0].get("D", ""), reply.errors
            spy.wire.take()
            spy.run("rollback")


def test_copy_of_a_materialized_view_is_copy_of_what_it_stores(server):
    with Spy(server, *READ) as spy:
        # Up to 17 the server knows no such COPY, but the guard is asked first.
        spy.refused("copy shop.stored to stdout", "copy_of_masked")
        spy.refused("copy (select * from shop.stored) to stdout")


# --- privileges, roles and settings ---


@since(17)
def test_the_privilege_to_maintain_is_no_rule_that_allows_it(server):
    server.run("grant maintain on shop.plain to clerk")
    with Spy(server, ("allow", "select", "shop.plain")) as spy:
        for statement in ("vacuum shop.plain", "analyze shop.plain", "reindex table shop.plain", "cluster shop.plain using plain_pkey", "refresh materialized view shop.stored", "lock shop.plain in access share mode"):
            spy.refused(statement)
        spy.refused("grant maintain on shop.plain to public")
    with Spy(server, ("allow", "maintain", "shop.plain")) as spy:
        spy.run("analyze shop.plain")
    server.run("revoke maintain on shop.plain from clerk")


@since(16)
def test_roles_that_act_past_the_session_are_not_guarded(server):
    roles = ["pg_create_subscription"] + (["pg_signal_autovacuum_worker"] if server.major >= 18 else [])
    for role in roles:
        server.run(f"create role mighty login; grant {role} to mighty")
        error = expect("42501", server.run, "select agent_guard.guard_role('mighty')", match=role)
        assert f"REVOKE {role} FROM mighty" in f"{error.diag.message_detail} {error.diag.message_hint}", error.diag.message_hint
        server.run("drop role mighty")


@since(16)
def test_membership_without_inheriting_or_setting_counts(server):
    server.run("create role mighty login; grant pg_read_server_files to mighty with inherit false, set false")
    expect("42501", server.run, "select agent_guard.guard_role('mighty')", match="pg_read_server_files")
    server.run("drop role mighty")


@since(16)
def test_memberships_need_the_role_action(server):
    with Spy(server, *BUILD) as spy:
        spy.refused("grant clerk to shopkeeper with inherit false, set true, admin option")
        spy.refused("revoke inherit option for clerk from shopkeeper")
        spy.refused("set createrole_self_grant = 'set, inherit'")


# What an agent may set of each version's settings without a rule; a setting that is not here needs `system`.
MAY_SET_SINCE_16 = {
    16: {"enable_presorted_aggregate"},
    17: {"enable_group_by_reordering", "transaction_timeout"},
    18: {"enable_distinct_reordering", "enable_self_join_elimination"},
}
NEW_SETTINGS = {
    16: ["createrole_self_grant", "debug_parallel_query", "scram_iterations", "vacuum_buffer_usage_limit"],
    17: ["allow_alter_system", "event_triggers", "io_combine_limit", "restrict_nonsystem_relation_kind", "summarize_wal", "trace_connection_negotiation"],
    18: ["extension_control_path", "file_copy_method", "log_lock_failures", "oauth_validator_libraries", "track_cost_delay_timing", "vacuum_truncate", "vacuum_max_eager_freeze_failure_rate"],
}


@since(16)
def test_new_settings_need_a_rule_but_for_those_listed(server):
    with Spy(server, *READ) as spy:
        for major in range(16, server.major + 1):
            for name in sorted(MAY_SET_SINCE_16[major]):
                spy.run(f"set {name} = default")
            for name in NEW_SETTINGS[major]:
                assert server.value("select count(*) from pg_settings where name = %s", name) == 1, f"{name} is no setting of {server.major}"
                value = server.value("select setting from pg_settings where name = %s", name) or "x"
                error = spy.send(f"set {name} = '{value}'").errors
                # The server itself refuses what is set at its start or by its configuration file.
                assert error and error[0]["C"] in (DENIED, "55P02"), f"{error}: {name}"


@since(17)
def test_transaction_timeout_only_falls(server):
    server.run("alter role clerk set transaction_timeout = '1min'")
    try:
        with Spy(server, *READ) as spy:
            spy.run("set transaction_timeout = '30s'")
            for value in ("0", "'2min'", "-1"):
                assert spy.send(f"set transaction_timeout = {value}").sqlstate in (DENIED, "22023"), value
            assert spy.run("show transaction_timeout").text() == [("30s",)]
    finally:
        server.run("alter role clerk reset transaction_timeout")


# Functions that 16 to 18 brought; those that change or reveal what is not the session's own need a rule.
NEW_FUNCTIONS = {
    16: (["pg_log_standby_snapshot()", "pg_stat_get_io()", "pg_stat_reset_subscription_stats(1)"], ["array_shuffle(array[1, 2])", "array_sample(array[1, 2], 1)", "random_normal()", "pg_input_is_valid('1', 'int')", "pg_split_walfile_name('000000010000000000000001')", "system_user"]),
    17: (["pg_available_wal_summaries()", "pg_get_wal_summarizer_state()", "pg_sync_replication_slots()"], ["random(1, 6)", "uuid_extract_timestamp(gen_random_uuid())", "pg_basetype('int')", "to_regtypemod('varchar(3)')"]),
    18: (
        [
            "pg_restore_relation_stats('schemaname', 'shop', 'relname', 'plain', 'relpages', 9)",
            "pg_restore_attribute_stats('schemaname', 'shop', 'relname', 'plain', 'attname', 'v', 'inherited', false, 'null_frac', 0.5::real)",
            "pg_clear_relation_stats('shop', 'plain')",
            "pg_clear_attribute_stats('shop', 'plain', 'v', false)",
            "pg_get_aios()",
            "pg_get_loaded_modules()",
            "pg_ls_summariesdir()",
            "pg_stat_get_backend_io(1)",
        ],
        ["uuidv7()", "uuidv4()", "uuidv7(interval '1 s')", "crc32('x')", "array_sort(array[2, 1])", "casefold('X')", "array_reverse(array[1])", "gamma(2)"],
    ),
}


@since(16)
def test_new_functions_have_their_class(server):
    with Spy(server, *WRITE) as spy:
        for major in range(16, server.major + 1):
            needs, free = NEW_FUNCTIONS[major]
            for call in needs:
                # The server keeps some of them for itself: what it refuses is refused.
                error = spy.send(f"select * from {call}").errors
                assert error and error[0]["C"] == DENIED, f"{error}: {call}"
            for call in free:
                spy.run(f"select {call}")


@since(16)
def test_a_token_for_a_principal_is_good_for_whoever_authenticated_as_that(server):
    server.run("alter role clerk password 'not a secret'")
    policy = scene.policy(server, READ)
    token = server.window("clerk", policy, max_depth=1)[1]
    authenticated = dict(host="127.0.0.1", password="not a secret")
    good = child(token, auth="scram-sha-256:clerk")
    with server.connect("clerk", **authenticated) as connection:
        bind(connection, good)
        assert connection.execute("select count(*) from shop.plain").fetchone()[0] == 5
        connection.execute("set parallel_setup_cost = 0; set parallel_tuple_cost = 0; set min_parallel_table_scan_size = 0")
        assert connection.execute("select count(*) from shop.plain, shop.buys").fetchone()[0] == 450
        for other in ("scram-sha-256:clerk2", "peer:clerk", "clerk", "scram-sha-256:CLERK"):
            expect(guard.UNAUTHENTICATED, bind, connection, child(token, auth=other), match="reason=wrong_principal")
    # The same token where nobody was authenticated.
    with server.connect("clerk") as connection:
        expect(guard.UNAUTHENTICATED, bind, connection, good, match="reason=wrong_principal")


# --- login event triggers ---


@since(17)
def test_a_login_event_trigger_runs_under_the_scope_of_the_session(server):
    server.run("""
        create table public.logins (who text);
        create function public.greet() returns event_trigger language plpgsql security definer as 'begin insert into public.logins values (session_user); end';
        create event trigger greet on login execute function public.greet();
        alter event trigger greet enable always""")
    try:
        with server.connect() as connection:
            assert connection.execute("select count(*) from public.logins").fetchone()[0] >= 1
        # Without a token nothing runs, the trigger's body neither: the login ends with the refusal.
        error = guard.expect_refused_login(server, user="clerk", dbname="postgres")
        assert "reason=" in error.get("D", ""), error
        # With a token in the connection's options it is the agent's statement: under every deny.
        policy = scene.policy(server, [("allow", "select", "shop.*"), ("deny", "insert", "public.logins")])
        token = server.window("clerk", policy)[1]
        guard.expect_refused_login(server, DENIED, user="clerk", dbname="postgres", options=f"-c agent_guard.token={token}")
        assert server.value("select count(*) from public.logins where who = 'clerk'") == 0
        # Where the policy lets that function run, it does.
        policy = scene.policy(server, [("allow", "select", "shop.*"), ("allow", "execute", "function public.greet()")])
        token = server.window("clerk", policy)[1]
        with server.connect("clerk", options=f"-c agent_guard.token={token}") as connection:
            assert connection.execute("select agent from agent_guard.whoami()").fetchone()[0] == "clerk"
        assert server.value("select count(*) from public.logins where who = 'clerk'") == 1
        # A function that leaves guarded roles alone lets them log in first, and gives them nothing.
        server.run("""create or replace function public.greet() returns event_trigger language plpgsql security definer as $$begin
            if current_setting('agent_guard.guarded') = 'on' and session_user in ('clerk') then return; end if; insert into public.logins values (session_user); end$$""")
        with server.connect("clerk") as connection:
            expect(guard.UNAUTHENTICATED, connection.execute, "select count(*) from shop.plain")
        assert server.value("select count(*) from public.logins where who = 'clerk'") == 1
    finally:
        server.run("drop event trigger greet; drop function public.greet(); drop table public.logins")


# --- constraints of 18 ---


@since(18)
def test_constraints_over_masked_columns_are_refused(server):
    with Spy(server, *BUILD) as spy:
        for statement in (
            "alter table shop.customer add constraint nn not null email",
            "alter table shop.customer add constraint nn not null email not valid",
            "alter table shop.customer alter column email set not null",
            "alter table shop.customer add constraint c check (email like 'c%') not enforced",
            "alter table shop.customer alter constraint sane enforced",
            "alter table shop.customer add column other text check (email <> '') not enforced",
            "alter table shop.customer add constraint p unique (email, id without overlaps)",
            "create table shop.refers (e text references shop.customer (email) not enforced)",
            "create table shop.kid (constraint nn not null email) inherits (shop.customer)",
        ):
            spy.refused(statement, "masked_relation")


@since(18)
def test_not_null_is_a_constraint_and_part_of_its_table(server):
    alters = [("allow", "alter table", "app.open"), ("allow", "create table", "app.*")]
    # It fails where there is a null: that takes reading the column, as SET NOT NULL does.
    with Agent(server, *alters, role="owner") as agent:
        agent.refused("alter table app.open add constraint nn not null v")
        agent.refused("alter table app.open alter column v set not null")
    with Agent(server, *alters, ("allow", "select", "app.open(v)"), role="owner") as agent:
        agent.run("alter table app.open add constraint nn not null v", "alter table app.open alter column v drop not null")
        agent.refused("alter table app.open add constraint nn not null id")
        agent.refused("alter table app.secret add constraint nn not null v")
    server.run("alter table app.open alter column v set not null")
    with Agent(server, ("allow", "drop constraint", "app.secret")) as agent:
        agent.refused("alter table app.open alter column v drop not null")
    server.run("alter table app.open alter column v drop not null")


@since(18)
def test_foreign_keys_over_periods_work_and_tell_no_values(server):
    server.run("""
        create extension if not exists btree_gist;
        create table shop.room (id int, during daterange, primary key (id, during without overlaps));
        create table shop.stay (id int, room int, during daterange, foreign key (room, period during) references shop.room (id, period during));
        insert into shop.room values (1, '[2020-01-01,2021-01-01)');
        grant all on shop.room, shop.stay to clerk""")
    with Spy(server, ("allow", ["insert", "update", "delete", "select"], "shop.stay"), ("deny", "select", "shop.room")) as spy:
        spy.run("insert into shop.stay values (1, 1, '[2020-02-01,2020-03-01)')")
        error = spy.fails("insert into shop.stay values (2, 1, '[2022-02-01,2022-03-01)')", "23503")
        assert "2020" not in str(error), error
    server.run("drop table shop.stay, shop.room")


# --- the protocol ---


@since(18)
def test_a_session_of_protocol_3_2_is_guarded_and_cancelled_by_its_long_key(server):
    policy = scene.policy(server, READ)
    token = server.window("clerk", policy)[1]
    wire = server.wire("clerk", protocol=(3, 2))
    try:
        assert len(wire.key[1]) > 4, f"a secret of {len(wire.key[1])} bytes"
        assert wire.query("select count(*) from shop.plain").sqlstate == guard.UNAUTHENTICATED
        assert not wire.query(f"set agent_guard.token = '{token}'").errors
        assert wire.query("select count(*) from shop.plain").text() == [("5",)]
        assert wire.query("select count(*) from pg_authid").sqlstate == DENIED
        wire.send("Q", b"select count(*) from generate_series(1, 1000000000)\0")
        guard.eventually(lambda: server.value("select count(*) from pg_stat_activity where usename = 'clerk' and state = 'active'"), "it runs")
        wire.cancel()
        assert wire.until("Z").sqlstate == "57014"
    finally:
        wire.close()


def test_a_protocol_of_the_future_is_negotiated_and_guarded(server):
    wire = server.wire("clerk", protocol=(3, 9999))
    try:
        assert "v" in wire.startup.types, wire.startup.types
        assert wire.query("select 1").sqlstate == guard.UNAUTHENTICATED
    finally:
        wire.close()


# --- columns under a deny ---


def test_ddl_that_computes_from_columns_has_to_read_them(server):
    """Up to 17 generated columns are stored; from 18 on they are also read through. Other DDL moves values as well."""
    server.run("alter table app.open add constraint known check (hidden <> '') not valid")
    rules = [("allow", ["select", "insert"], "app.*"), ("deny", "select", "app.open", {"columns": ["hidden"]})]
    rules += [("allow", ["alter table", "create table", "create index"], "app.*"), ("allow", "execute", "function app.*")]
    generated = "generated always as"
    statements = [f"add column copied text {generated} (hidden) {kind}" for kind in (["stored", "virtual"] if server.major >= 18 else ["stored"])]
    statements += [
        f"add column copied text {generated} (upper(coalesce(hidden, v))) stored",
        f"add column copied text {generated} ((open).hidden) stored",
        f"add column copied text {generated} (app.open.hidden) stored",
        f"add column copied text {generated} (case when hidden = 'x' then v end) stored",
        "alter v type text using hidden",
        "alter v type text using v || hidden",
        "alter v type text using open::text",
        "add constraint guess check (hidden <> 'hidden-1')",
        "add column other int check (hidden <> 'hidden-1')",
        "add constraint guess exclude using btree ((length(hidden)) with =)",
        "add constraint guess exclude using btree (id with =) where (hidden = 'hidden-1')",
    ]
    with Agent(server, *rules) as agent:
        for statement in statements:
            agent.refused(f"alter table app.open {statement}")
        for statement in ("create index on app.open (lower(hidden))", "create index on app.open (v) where hidden = 'hidden-1'", "create unique index on app.open ((open::text))"):
            agent.refused(statement)
        agent.run("begin")
        for statement in ("alter v type varchar using v || id", f"add column copied text {generated} (upper(v)) stored", "add constraint sane check (id > 0)", "add column n int check (n > 0)"):
            agent.run(f"alter table app.open {statement}")
        agent.run("create index on app.open (lower(v)) where id > 1", "rollback")
    # What must not be read at all is computed from no more than what a deny leaves out.
    with Agent(server, ("allow", "alter table", "app.open")) as agent:
        agent.refused(f"alter table app.open add column copied text {generated} (v) stored")
        agent.run("begin", "alter table app.open add column n int default 1", "alter table app.open alter v type varchar", "rollback")
    server.run("alter table app.open drop constraint known")


if __name__ == "__main__":
    guard.run(globals())
