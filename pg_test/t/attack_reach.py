"""A deny follows the data, an allow does not: every way to reach a table that the agent's rules leave out."""

import guard
import scene
from guard import DENIED
from scene import Agent, setup

DDL = ("create", "alter", "drop")


def builder(server, *rules):
    """An agent that may make what it likes in `other`, run its own functions and use temporary tables."""
    scene.workshop(server)
    own = [("allow", ["create", "alter", "drop", "maintain", "select", "insert", "update", "delete"], ["other.*"])]
    own += [("allow", ["create", "alter", "drop", "execute"], ["function other.*"])]
    own += [("allow", "create", "schema other"), ("allow", "temporary", "*")]
    return Agent(server, *own, *rules)


# --- objects of the agent's own making lend nothing ---


def test_own_view_does_not_lend(server):
    with builder(server) as agent:
        agent.run("create view other.v as select * from app.secret")
        agent.refused("select * from other.v")
        agent.run("create view other.vi with (security_invoker) as select * from app.secret")
        agent.refused("select * from other.vi")
        agent.run("drop view other.v, other.vi")


def test_own_materialized_view_does_not_lend(server):
    with builder(server) as agent:
        agent.run("create materialized view other.m as select v from app.secret with no data")
        agent.refused("refresh materialized view other.m")
        agent.run("drop materialized view other.m", "create table other.mine as select 1 as n")
        agent.run("create materialized view other.m as select * from other.mine", "refresh materialized view other.m")
        agent.run("drop materialized view other.m", "drop table other.mine")


def test_own_rule_does_not_lend(server):
    with builder(server) as agent:
        agent.run("create table other.t (id int)")
        agent.run("create rule r as on insert to other.t do also delete from app.secret")
        agent.refused("insert into other.t values (1)")
        agent.run("create or replace rule r as on insert to other.t do instead insert into app.secret values (9, 'x')")
        agent.refused("insert into other.t values (1)")
        agent.run("drop table other.t")


def test_own_rule_does_not_lend_beside_a_view_allowed_by_name(server):
    with builder(server) as agent:
        agent.run("create table other.t (id int)", "create view other.lent as select 1 as n")
        agent.run("create rule r as on insert to other.t do also delete from app.secret")
        scene_rules(server, agent, ("allow", "select", "other.lent"))
        agent.refused("insert into other.t select n from other.lent")
        agent.run("drop table other.t", "drop view other.lent")


def scene_rules(server, agent, *rules):
    for effect, actions, objects in rules:
        given = (agent.policy, scene._list(actions), scene._list(objects))
        server.rows(f"select agent_guard.{effect}(%s, %s, %s)", *given)


def test_own_functions_do_not_lend(server):
    bodies = {
        "sql": "create function other.f() returns setof text language sql stable as 'select v from app.secret'",
        "volatile sql": "create function other.f() returns setof text language sql as 'select v from app.secret'",
        "atomic": "create function other.f() returns setof text language sql stable begin atomic select v from app.secret; end",
        "plpgsql": "create function other.f() returns setof text language plpgsql as 'begin return query select v from app.secret; end'",
        "definer": "create function other.f() returns setof text language sql security definer as 'select v from app.secret'",
        "dynamic": "create function other.f() returns text language plpgsql as $$declare r text; begin execute 'select v from app.secret' into r; return r; end$$",
        "caught": "create function other.f() returns text language plpgsql as $$begin return (select max(v) from app.secret); exception when others then return (select min(v) from app.secret); end$$",
    }
    with builder(server) as agent:
        for name, body in bodies.items():
            agent.run(body)
            for call in ("select * from other.f()", "select other.f()"):
                agent.refused(call)
            agent.run("drop function other.f()")


def test_a_function_between_create_table_as_and_its_query_inserts_nothing(server):
    with builder(server) as agent:
        agent.run("create function other.g() returns int language plpgsql as $$begin insert into app.secret values (99, 'x'); return 1; end$$")
        agent.run("create function other.f() returns int language plpgsql immutable as $$declare n int; begin n := other.g(); return n; end$$")
        agent.run("prepare p(int) as select $1 as n")
        agent.refused("create table other.t as execute p(other.g())")
        agent.refused("create table other.t as select other.f() as n")
        agent.refused("create temporary table t as select other.f() as n")
        agent.refused("create materialized view other.t as select other.f() as n")
        agent.run("create table other.t as execute p(1)", "drop table other.t", "create table other.t as select app.id from generate_series(1, 2) app(id)")
        agent.run("drop table other.t", "drop function other.f()", "drop function other.g()")


def test_a_trigger_under_a_foreign_key_does_not_lend(server):
    with builder(server) as agent:
        agent.run("create table other.a (id int primary key)", "create table other.b (a int references other.a on delete cascade, n int)")
        agent.run("create function other.f() returns trigger language plpgsql as $$begin delete from app.secret; return old; end$$")
        agent.run("create trigger t before delete on other.b for each row execute function other.f()")
        agent.run("insert into other.a values (1)", "insert into other.b values (1, 1)")
        agent.refused("delete from other.a")
        agent.run("drop trigger t on other.b", "delete from other.a", "drop table other.b, other.a", "drop function other.f()")


# --- what an allowed function lends cannot be bent ---


def test_a_temporary_view_in_the_place_of_a_functions_table_does_not_lend(server):
    with builder(server, ("allow", "execute", "function kept.*")) as agent:
        agent.run("set search_path = pg_temp, kept")
        for options in ("", "with (security_invoker)"):
            agent.run(f"create temporary view ledger {options} as select * from app.secret")
            agent.refused("select kept.unqualified()")
            agent.run("drop view pg_temp.ledger")
        assert agent.run("set search_path = kept", "select kept.unqualified()") == [("kept-1",)]


def test_functions_of_the_keeper_lend_what_is_not_denied(server):
    with Agent(server, ("allow", "execute", "function kept.*")) as agent:
        assert agent.run("select kept.count_secrets(), kept.count_secrets_invoker()") == [(3, 3)]
        agent.refused("select count(*) from app.secret")
    with Agent(server, ("allow", "execute", "function kept.*"), ("deny", "select", "app.secret")) as agent:
        agent.refused("select kept.count_secrets()")
        agent.refused("select kept.count_secrets_invoker()")


def test_what_a_member_of_the_owner_may_replace_does_not_lend(server):
    server.run("grant keeper to owner; create function kept.replaced() returns text language sql as 'select 1::text'; create view kept.replaced_view as select 1 as id, 'x'::text as v; alter function kept.replaced() owner to keeper; alter view kept.replaced_view owner to keeper; grant create on schema kept to keeper")
    try:
        with Agent(server, ("allow", ["execute", "create", "alter"], "function kept.*"), ("allow", ["create", "alter", "select"], "kept.*")) as agent:
            agent.run("create or replace function kept.replaced() returns text language sql security definer as 'select max(v) from app.secret'")
            agent.refused("select kept.replaced()")
            agent.run("create or replace view kept.replaced_view as select id, v from app.secret")
            agent.refused("select * from kept.replaced_view")
    finally:
        server.run("revoke keeper from owner; drop function kept.replaced(); drop view kept.replaced_view")


def test_set_config_by_a_way_past_the_planner_is_checked(server):
    server.run("grant keeper to owner")
    with builder(server, ("allow", "execute", "*")) as agent:
        agent.run("prepare p(text) as select $1")
        agent.refused("execute p(set_config('role', 'keeper', false))")
        agent.refused("select set_config('role', 'keeper', false)")
        agent.run("create table other.t (n text)")
        agent.refused("alter table other.t add column m text default set_config('role', 'keeper', false)")
        agent.run("create aggregate other.a(text, bool) (sfunc = set_config, stype = text, initcond = 'role')")
        agent.refused("select other.a('keeper', false)")
        agent.run("drop aggregate other.a(text, bool)", "drop table other.t")
        oid = server.value("select 'set_config'::regproc::oid::int")
        assert agent.run("select current_user") == [("owner",)]
    wire = server.wire("owner")
    with builder(server, ("allow", "execute", "*")) as agent:
        wire.query(f"set agent_guard.token = '{agent.token}'")
        assert wire.call(oid, ["role", "keeper", b"f"]).sqlstate == DENIED
        assert wire.query("select current_user").text() == [("owner",)]
    wire.close()
    server.run("revoke keeper from owner")


def test_statistics_of_a_denied_table_do_not_pass_through_an_own_operator(server):
    server.run("analyze app.secret")
    server.run("insert into app.secret select n, 'common' from generate_series(100, 400) n; analyze app.secret")
    try:
        with builder(server) as agent:
            agent.run("create function other.leak(text, text) returns bool language plpgsql as $$begin raise notice 'leaked %', $1; return false; end$$")
            agent.run("create operator other.<<< (function = other.leak, leftarg = text, rightarg = text, restrict = eqsel)")
            said = []
            agent.connection.add_notice_handler(lambda notice: said.append(notice.message_primary))
            for query in ("select * from app.secret where v operator(other.<<<) 'x'", "explain select * from app.secret where v operator(other.<<<) 'x'"):
                agent.refused(query)
                agent.attempt(query)
            assert not [text for text in said if "leaked" in text], said
            agent.run("create table other.t as select 'a'::text as v from generate_series(1, 200)", "analyze other.t")
            agent.run("select * from other.t where v operator(other.<<<) 'x'", "drop table other.t")
            agent.run("drop operator other.<<<(text, text)", "drop function other.leak(text, text)")
    finally:
        server.run("delete from app.secret where id >= 100; analyze app.secret")


# --- a deny follows the data ---

EVERYTHING = ("allow", "*", "*")
EXECUTE = ("allow", "execute", ["function app.*", "function kept.*", "function other.*", "function pg_catalog.*"])
DENIED_TABLE = ("deny", "*", "app.secret")

# Everything is allowed but app.secret; each of these reaches it.
REACHES = r"""
select * from app.secret
table app.secret
select from app.secret
select 1 where exists (select 1 from app.secret)
select count(*) from only app.secret
select (s).v from app.secret s
select * from app.open natural join app.secret
select * from (app.open join app.secret using (id))
select * from U&"a\0070p".U&"secr\0065t"
select * from app."secret"
select * from app.secret tablesample system (100)
select * from app.secret where false
select * from app.open where id in (select id from app.secret)
select * from app.secret_view
select * from app.nested_view
select * from app.invoker_view
select * from kept.secret_of_keeper
select * from app.secret_sql()
select * from app.secret_atomic()
select app.secret_plpgsql()
select kept.count_secrets()
select kept.count_secrets_invoker()
select * from app.secret for update
select * from app.secret_view for share
select query_to_xml('select * from app.secret', true, true, '')
select table_to_xml('app.secret', true, true, '')
select schema_to_xml('app', true, true, '')
select database_to_xml(true, true, '')
select cursor_to_xml('c', 1, true, true, '') from (select 1) x, lateral (select query_to_xml('table app.secret', true, true, '')) y
select * from ts_stat('select to_tsvector(v) from app.secret')
with s as (select * from app.secret) select * from s
with s as (delete from app.secret returning *) select * from s
with s as (insert into app.secret values (77) returning id) select 1
insert into app.secret values (77)
insert into app.secret select id + 100, v from app.open
insert into app.open select id + 100, v from app.secret
insert into app.secret values (1) on conflict (id) do update set v = 'x'
insert into app.secret_view values (77, 'x')
update app.secret set v = 'x'
update app.open set v = (select max(v) from app.secret)
update app.open set v = s.v from app.secret s where s.id = open.id
update app.secret_view set v = 'x'
delete from app.secret
delete from app.open using app.secret
delete from app.nested_view
merge into app.secret s using app.open o on s.id = o.id when matched then delete
merge into app.open o using app.secret s on s.id = o.id when matched then update set v = s.v
lock app.secret
lock app.secret_view
truncate app.secret
truncate app.open, app.secret
drop table app.secret
drop table app.secret cascade
drop schema app cascade
drop owned by owner cascade
drop view app.secret_view, app.nested_view, kept.secret_of_keeper, app.secret_mat, app.invoker_view, app.secret
alter table app.secret rename to s
alter table app.secret rename column v to w
alter table app.secret set schema other
alter table app.secret owner to owner
alter table app.secret add column n int
alter table app.secret inherit app.parent
alter table app.parent inherit app.secret
alter table app.parted attach partition app.secret for values from (1000) to (2000)
alter table app.secret disable trigger all
alter table app.secret enable row level security
create index on app.secret (v)
create statistics app.s on id, v from app.secret
create trigger t before insert on app.secret for each row execute function app.fire()
create rule r as on select to app.secret do instead select 1, 'x'::text
create policy p on app.secret using (true)
create table app.t (n int references app.secret)
create table app.t () inherits (app.secret)
alter table app.open add foreign key (id) references app.secret
create table app.t as select * from app.secret
create table app.t as table app.secret_view
select * into app.t from app.secret
create materialized view app.m as select * from app.secret
refresh materialized view app.secret_mat
create temporary table t as select * from app.secret
explain select * from app.secret
explain analyze select * from app.secret
explain analyze create table app.t as select * from app.secret
copy app.secret to stdout
copy app.secret from stdin
copy (select * from app.secret) to stdout
declare c cursor with hold for select * from app.secret
do $$begin perform * from app.secret; end$$
do $$declare c refcursor; begin open c for select * from app.secret; end$$
do $$begin execute 'sel' || 'ect * from app.sec' || 'ret'; end$$
do $$begin for i in 1..1 loop begin perform * from app.secret; exception when division_by_zero then null; end; end loop; end$$
do $$declare r app.secret; begin select * into r from app.secret limit 1; end$$
grant all on app.secret to public
revoke all on app.secret from keeper
comment on table app.secret is 'x'
comment on column app.secret.v is 'x'
vacuum app.secret
analyze app.secret
cluster app.secret using secret_pkey
reindex table app.secret
drop index app.secret_pkey
""".strip().splitlines()


def test_a_deny_follows_the_data(server):
    scene.workshop(server)
    wrong = []
    with Agent(server, EVERYTHING, EXECUTE, DENIED_TABLE) as agent:
        before = scene.world(server)
        for statement in REACHES:
            if statement.startswith(("lock", "declare")):
                agent.run("begin")
            error = agent.attempt(statement)
            if error is None:
                wrong.append(f"{statement}: it ran")
                agent.run("rollback")
            elif error.sqlstate != DENIED or not (error.diag.message_detail or "").startswith("reason="):
                wrong.append(f"{statement}: {error.sqlstate} {error}")
        after = scene.world(server)
        wrong += [f"changed: {scene.changes(before, after)}"] if before != after else []
        assert agent.run("select count(*) from app.open", "select count(*) from app.parent") == [(2,)]
    assert not wrong, "\n" + "\n".join(wrong)


def test_standard_conforming_strings_and_comments_hide_nothing(server):
    with Agent(server, EVERYTHING, DENIED_TABLE) as agent:
        agent.run("set standard_conforming_strings = off", "set backslash_quote = on", "set escape_string_warning = off")
        agent.refused(r"select 'a\' /* ', v from app.secret --'")
        agent.refused("select 1; select * from app.secret")
        agent.refused("/* select */ -- x\nselect * from app.secret")
        assert agent.run(r"select 'a\' from app.secret --'") == [("a' from app.secret --",)]


def test_search_path_and_shadows(server):
    with builder(server, ("allow", "select", "app.open"), ("deny", "*", "app.secret"), ("allow", "execute", "function app.*")) as agent:
        agent.run("create table other.secret (id int, v text)", "set search_path = other, app", "select * from secret")
        agent.run("create temporary table secret (id int)", "select * from secret", "drop table pg_temp.secret")
        agent.run("set search_path = app, other")
        agent.refused("select * from secret")
        agent.refused("create function pg_temp.whoami() returns int language sql as 'select 1'")
        agent.refused("create function agent_guard.f() returns int language sql as 'select 1'", by_guard=False)
        agent.refused("create table agent_guard.t (n int)", by_guard=False)
        agent.run("create temporary table audit (n int)", "create temporary view windows as select 1 as n", "set search_path = pg_temp, agent_guard, other")
        assert agent.run("select agent from agent_guard.whoami()") == [("owner",)]
        agent.refused("select * from agent_guard.audit", by_guard=False)
        agent.refused("select * from agent_guard.window_grant", by_guard=False)
        agent.refused("insert into agent_guard.rule default values", by_guard=False)
        agent.refused("delete from agent_guard.policy", by_guard=False)
        agent.refused("select * from agent_guard.windows", by_guard=False)
        agent.run("create function other.lower(text) returns text language sql as $$select 'shadow'$$", "set search_path = other, pg_catalog", "select lower('X')")


COLUMNS = """
select * from app.open
select o from app.open o
select o.* from app.open o
select row_to_json(o) from app.open o
select to_jsonb(open) from app.open
select hidden from app.open
select count(hidden) from app.open
select 1 from app.open where hidden = 'x'
select id from app.open order by hidden
select id from app.open group by id, hidden
select (o).hidden from app.open o
select id from app.open where (open.*) is not null
select count(o) from app.open o
select hidden from (select * from app.open) x
select * from app.open natural join (select 1 as id) x
select * from app.open as o(a, b, c)
table app.open
copy app.open to stdout
copy app.open (hidden) to stdout
update app.open set v = hidden
update app.open set v = 'x' where hidden = 'y'
update app.open set v = 'x' returning hidden
update app.open set v = 'x' returning *
delete from app.open returning *
insert into app.open values (88) returning *
insert into app.open (id) values (1) on conflict (id) do update set v = app.open.hidden
merge into app.open o using (values (1)) s(n) on o.id = s.n and o.hidden = 'x' when matched then delete
create table app.t as select hidden from app.open
select xmlelement(name a, open) from app.open
select json_agg(open) from app.open
select table_to_xml('app.open', true, true, '')
""".strip().splitlines()


def test_denied_columns(server):
    with Agent(server, EVERYTHING, EXECUTE, ("deny", "select", "app.open", {"columns": ["hidden"]})) as agent:
        wrong = []
        before = scene.world(server)
        for statement in COLUMNS:
            error = agent.attempt(statement)
            if error is None or error.sqlstate != DENIED:
                wrong.append(f"{statement}: {error}")
        assert not scene.changes(before, scene.world(server))
        assert len(agent.run("select id, v, ctid, tableoid, xmin from app.open")) == 3
        agent.run("select count(*) from app.open", "update app.open set v = v returning id")
    assert not wrong, "\n" + "\n".join(wrong)


def test_partitions_parents_and_children(server):
    with Agent(server, EVERYTHING, ("deny", "*", "app.parted")) as agent:
        for statement in ("select * from app.parted", "select * from app.parted_1", "insert into app.parted_2 values (150)", "delete from app.parted_1", "truncate app.parted_1", "drop table app.parted_1", "alter table app.parted detach partition app.parted_1", "select * from only app.parted"):
            agent.refused(statement)
    with Agent(server, EVERYTHING, ("deny", "*", "app.parted_1")) as agent:
        for statement in ("select * from app.parted", "select * from app.parted_1", "delete from app.parted", "update app.parted set v = 'x'", "truncate app.parted", "drop table app.parted"):
            agent.refused(statement)
        agent.run("select * from app.parted_2")
    with Agent(server, EVERYTHING, ("deny", "*", "app.heir")) as agent:
        for statement in ("select * from app.heir", "select * from app.parent", "delete from app.parent", "truncate app.parent", "drop table app.parent cascade"):
            agent.refused(statement)


def test_cascades_into_a_denied_table(server):
    with Agent(server, EVERYTHING, ("deny", "*", "app.child")) as agent:
        for statement in ("delete from app.open where id = 1", "update app.open set id = 40 where id = 1", "truncate app.open cascade", "drop table app.open cascade"):
            agent.refused(statement)
    with Agent(server, EVERYTHING, ("deny", "update", "app.nulled")) as agent:
        agent.refused("delete from app.open where id = 3")
        agent.run("begin", "insert into app.open values (41)", "rollback")
    with Agent(server, EVERYTHING) as agent:
        agent.run("begin", "delete from app.open where id = 1", "rollback")


def test_a_rename_keeps_the_deny(server):
    with Agent(server, EVERYTHING, DENIED_TABLE, ("deny", "select", "app.open", {"columns": ["hidden"]})) as agent:
        server.run("alter table app.secret rename to unhidden; alter table app.open rename column hidden to shown")
        try:
            agent.refused("select * from app.unhidden")
            agent.refused("select shown from app.open")
            server.run("create table app.secret (id int)")
            agent.run("select id from app.open")
        finally:
            server.run("drop table if exists app.secret; alter table app.unhidden rename to secret; alter table app.open rename column shown to hidden")


INSPECTED = """
select * from pg_stats
select * from pg_statistic
select most_common_vals from pg_stats where tablename = 'secret'
select * from pg_stats_ext
select * from pg_statistic_ext_data
select query from pg_stat_activity
select * from pg_stat_get_activity(null)
select prosrc from pg_proc
select * from pg_proc
select pg_get_functiondef('app.one()'::regprocedure)
select * from pg_authid
select rolconfig from pg_roles
select * from pg_user_mappings
select * from pg_cursors
select * from pg_prepared_statements
select srvoptions from pg_foreign_server
select * from pg_largeobject
select routine_definition from information_schema.routines
select setconfig from pg_db_role_setting
select sourcefile from pg_settings
""".strip().splitlines()


def test_what_reveals_others_needs_inspect(server):
    with Agent(server, ("allow", ["select", "execute"], "*")) as agent:
        for statement in INSPECTED:
            agent.refused(statement, unchanged=False, by_guard=False)
        agent.run("select relname from pg_class", "select proname from pg_proc", "select rolname from pg_roles", "select name from pg_settings", "select pid, state from pg_locks, lateral (select 1 as state) x limit 1")


def test_a_deny_of_a_built_in_reaches_open_sessions(server):
    with Agent(server, ("allow", "select", "app.open")) as agent:
        agent.run("prepare p as select upper(v) from app.open", "execute p", "select upper('a')", "set plan_cache_mode = force_generic_plan", "execute p")
        scene_rules(server, agent, ("deny", "execute", "function pg_catalog.upper"))
        for statement in ("execute p", "select upper('a')", "select upper(v) from app.open", "select v from app.open order by upper(v)"):
            agent.refused(statement)
        agent.run("select lower(v) from app.open")


def test_expressions_evaluated_outside_plans(server):
    with builder(server) as agent:
        agent.run("create table other.t (n int)", "insert into other.t values (1)", "create function other.f(int) returns int language plpgsql immutable as $$begin perform pg_notify('c', 'x'); return 1; end$$")
        agent.run("prepare p(int) as select $1")
        for statement in ("alter table other.t add column m float default pg_sleep(0)::text::float", "alter table other.t add check (pg_sleep(0) is not null)", "create index on other.t (other.f(n))", "execute p(length(pg_sleep(0)::text))", "alter table other.t alter n type int using other.f(n)", "explain execute p(other.f(1))", "create table other.u as execute p(other.f(1))", "insert into other.t values (other.f(1))", "select other.f(1)", "alter table other.t add column g int generated always as (other.f(n)) stored"):
            agent.refused(statement)
        agent.run("create table other.u (n int default other.f(1), m int)")
        agent.refused("insert into other.u (m) values (1)")
        agent.connection.execute("begin")
        error = agent.attempt("copy other.u (m) from program 'echo 1'")
        assert error.sqlstate == DENIED


if __name__ == "__main__":
    guard.run(globals(), conf=["autovacuum = off"])
