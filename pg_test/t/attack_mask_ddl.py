"""What would evaluate, store or move raw values of masked and filtered relations is refused, whatever the policy allows; and
copies of masked columns cannot be read until a DBA has masked or exposed them.
"""

import guard
import mask_scene
from mask_scene import BUILD, READ, Spy, leaks

ON_MASKED = [
    "alter table shop.customer alter column email type varchar(200)",
    "alter table shop.customer alter column note type text using email",
    "alter table shop.customer alter column email set not null",
    "alter table shop.customer add constraint c check (email not like 'canary%')",
    "alter table shop.customer add constraint c check (name <> '')",
    "alter table shop.customer add constraint c check (shop.peek(customer))",
    "alter table shop.customer add constraint c unique (name, email)",
    "alter table shop.customer add constraint c exclude (email with =)",
    "alter table shop.customer add constraint c foreign key (email) references shop.contact (email)",
    "alter table shop.customer validate constraint sane",
    "alter table shop.customer add column twin text generated always as (email) stored",
    "alter table shop.customer add column twin text generated always as (upper(email || 'x')) stored",
    "alter table shop.customer add column twin text check (email <> '')",
    "alter table shop.customer rename column email to mail; alter table shop.customer alter column mail type varchar(99)",
    "alter table shop.customer inherit shop.person",
    "alter table shop.customer of shop.customer_type",
    "create index on shop.customer (upper(email))",
    "create index on shop.customer ((customer.email || 'x'))",
    "create index on shop.customer (shop.peek(customer))",
    "create index on shop.customer (id) where email like 'c%'",
    "create unique index on shop.customer (email)",
    "create statistics shop.s on email, name from shop.customer",
    "create statistics shop.s on (upper(email)), (name || 'x') from shop.customer",
    "create trigger t before update on shop.customer for each row execute function shop.peeking()",
    "create trigger t after insert on shop.event for each row execute function shop.peeking()",
    "create rule r as on update to shop.customer do also select old.email",
    "create policy p on shop.customer using (shop.peek(customer))",
    "alter policy own on shop.tenant using (email like 'c%')",
    "create materialized view shop.m as select * from shop.customer",
    "create materialized view shop.m as select region from shop.easterners",
    "refresh materialized view shop.stored",
    "alter table shop.event detach partition shop.event_1",
    "alter table shop.staff no inherit shop.person",
    "create table shop.event_9 partition of shop.event (check (shop.peek_text(email))) for values from ('2030-01-01') to ('2031-01-01')",
    "create table shop.pupil (check (email <> '')) inherits (shop.person)",
    "create table shop.pupil (twin text generated always as (email) stored) inherits (shop.person)",
    "create view shop.barrier with (security_barrier) as select * from shop.customer where email like 'c%'",
    "alter view shop.plain set (security_barrier)",
    "create or replace function shop.in_check(t text) returns boolean language plpgsql immutable as 'begin raise notice ''%'', t; return true; end'",
    "create or replace function shop.in_trigger() returns trigger language plpgsql as 'begin raise notice ''%'', old.email; return new; end'",
    "alter function shop.in_check(text) set search_path = shop",
    "create table shop.guess (email text references shop.customer (email))",
    "create table shop.guess (id int, email text, foreign key (email) references shop.customer (email))",
    "alter table shop.free_text add foreign key (email) references shop.customer (email)",
    "alter table shop.free_text add column other text references shop.customer (email)",
    "alter domain shop.mail add constraint c check (value not like 'canary%')",
]

HARMLESS = [
    "alter table shop.customer add column fresh text default 'f'",
    "alter table shop.customer add column fresh2 text generated always as (upper(name)) stored",
    "alter table shop.customer alter column note set default 'n'",
    "alter table shop.customer add constraint names unique (id, name)",
    "create index on shop.customer (name)",
    "create index on shop.customer (upper(name))",
    "create index on shop.customer (email)",
    "create view shop.mine as select * from shop.customer",
    "create table shop.event_8 partition of shop.event for values from ('2030-01-01') to ('2031-01-01')",
    "create table shop.free (id int primary key, v text check (v <> ''))",
    "alter table shop.free alter column v type varchar(20)",
    "create materialized view shop.free_stored as select * from shop.free",
    "refresh materialized view shop.free_stored",
    "create or replace function shop.free() returns int language sql as 'select 1'",
    "comment on column shop.customer.email is 'masked'",
    "vacuum shop.customer",
    "analyze shop.customer",
    "reindex table shop.customer",
]

SETUP = """
create function shop.peek(shop.customer) returns boolean language plpgsql immutable as 'begin raise notice ''%'', $1; return true; end';
create function shop.peek_text(text) returns boolean language plpgsql immutable as 'begin raise notice ''%'', $1; return true; end';
create function shop.peeking() returns trigger language plpgsql as 'begin raise notice ''%'', new; return new; end';
create function shop.in_check(t text) returns boolean language sql immutable as 'select true';
create function shop.in_trigger() returns trigger language plpgsql as 'begin return new; end';
create domain shop.mail as text;
create table shop.free_text (email text);
create type shop.customer_type as (id int);
create table shop.domained (id int, email shop.mail, constraint c check (shop.in_check(email)));
insert into shop.domained values (1, 'canary-d');
create trigger t before update on shop.domained for each row execute function shop.in_trigger();
create view shop.plain as select * from shop.customer;
"""


def owned(server):
    """The agent owns all of it, as an application's login often does."""
    server.run("""set client_min_messages = error; do $$ declare r record; begin
        for r in select c.oid::regclass as name from pg_class c where relnamespace = 'shop'::regnamespace and relkind in ('r', 'p') loop
            execute format('alter table %s owner to clerk', r.name); end loop;
        for r in select c.oid::regclass as name from pg_class c where relnamespace = 'shop'::regnamespace and relkind = 'v' loop
            execute format('alter view %s owner to clerk', r.name); end loop;
        for r in select p.oid::regprocedure as name from pg_proc p where pronamespace = 'shop'::regnamespace loop
            execute format('alter function %s owner to clerk', r.name); end loop;
    end $$; alter materialized view shop.stored owner to clerk; alter domain shop.mail owner to clerk; alter schema shop owner to clerk""")


def setup(server):
    mask_scene.setup(server)
    server.run(SETUP)
    mask_scene.mask(server, "shop.domained", "email", "'***'::text::shop.mail")
    owned(server)


def test_ddl_over_raw_values_is_refused(server):
    with Spy(server, *BUILD) as spy:
        failed = []
        for statement in ON_MASKED:
            spy.run("begin")
            try:
                *first, last = statement.split("; alter")
                last = "alter" + last if first else last
                for one in first:
                    spy.run(one)
                error = spy.refused(last, "masked_relation")
                assert error["H"], error
            except AssertionError as error:
                failed.append(str(error))
            spy.send("rollback")
        assert not failed, "\n".join(failed)


def test_the_end_of_a_failed_transaction_reads_nothing(server):
    """While one has failed, masks change under it; its ROLLBACK must not look at a table."""
    with Spy(server, *BUILD) as spy:
        for last in ("rollback", "commit", "rollback to savepoint s"):
            spy.run("begin", "savepoint s")
            spy.fails_inside("select 1/0", "22012")
            server.run("update agent_guard.mask set created_by = created_by")
            spy.run(last)
            spy.send("rollback")
            spy.read("select * from shop.customer", 30)


def test_masks_follow_ddl_within_its_transaction(server):
    with Spy(server, *BUILD) as spy:
        spy.run("begin", "alter table shop.customer rename column email to mail", "alter table shop.customer add column later text default 'l'")
        assert spy.run("select id, mail, later from shop.customer where id = 3").text() == [("3", "m-3", "l")]
        spy.run("rollback")
        assert spy.run("select id, email from shop.customer where id = 3").text() == [("3", "m-3")]


def test_harmless_ddl_passes(server):
    with Spy(server, *BUILD) as spy:
        failed = []
        for statement in HARMLESS:
            reply = spy.send(statement)
            mask_scene.upkeep(server, "shop.customer")
            if reply.errors:
                failed.append(f"{statement}: {reply.errors[0]}")
        assert not failed, "\n".join(failed)
        spy.read("select * from shop.mine")
    server.run("set client_min_messages = error; drop view shop.mine; drop table shop.free cascade")


def test_copies_cannot_be_read_until_it_is_said_how(server):
    with Spy(server) as spy:
        for statement in [
            "select * from shop.stored",
            "select count(*) from shop.stored",
            "copy shop.stored to stdout",
            "select email from shop.contact",
            "select c from shop.contact c",
            "copy shop.contact to stdout",
            "select loud from shop.made",
            "select m from shop.made m",
        ]:
            spy.refused(statement, "copy_of_masked")
        assert spy.run("select kind from shop.contact").text() == [("mail",)]
        assert spy.run("select id, email from shop.made").text() == [("1", "***")]
        mask_scene.mask(server, "shop.contact", "email", "'c'::text")
        mask_scene.mask(server, "shop.made", "loud", "'LOUD'::text")
        mask_scene.mask(server, "shop.stored", "email", "'s'::text")
        assert spy.run("select * from shop.contact").text() == [("c", "mail")]
        assert spy.run("select * from shop.made").text() == [("1", "***", "LOUD")]
        assert {row[1] for row in spy.run("select * from shop.stored").text()} == {"s"}
        assert len(spy.run("copy shop.stored to stdout").copied) == 15


def test_statistics_hold_values(server):
    server.run("analyze shop.customer; create statistics shop.held (mcv) on region, email from shop.customer; analyze shop.customer")
    with Spy(server, *BUILD) as spy:
        for statement in [
            "select * from pg_stats",
            "select most_common_vals from pg_catalog.pg_stats where tablename = 'customer'",
            "select * from pg_statistic",
            "select stxdmcv from pg_statistic_ext_data",
            "select * from pg_stats_ext",
            "select * from pg_stats_ext_exprs",
            "select m.* from pg_statistic_ext_data, pg_mcv_list_items(stxdmcv) m",
        ]:
            reply = spy.send(statement)
            assert reply.errors and reply.errors[0]["C"] == guard.DENIED, statement
        assert spy.run("select reltuples from pg_class where relname = 'customer'").rows
    server.run("drop statistics shop.held")


def test_toast_tables_are_closed(server):
    name = server.value("select reltoastrelid::regclass::text from pg_class where oid = 'shop.customer'::regclass")
    server.run(f"grant usage on schema pg_toast to clerk; grant select on {name} to clerk")
    with Spy(server, ("allow", "select", "*")) as spy:
        reply = spy.send(f"select * from {name}")
        assert reply.errors and reply.errors[0]["C"] == guard.DENIED, reply
    server.run(f"revoke usage on schema pg_toast from clerk; revoke select on {name} from clerk")


def test_estimates_do_not_call_the_agents_operators_with_hidden_rows(server):
    server.run("""create function shop.less(text, text) returns boolean language plpgsql as 'begin raise notice ''% %'', $1, $2; return true; end';
        create operator shop.<<< (leftarg = text, rightarg = text, function = shop.less, restrict = scalarltsel);
        grant execute on function shop.less(text, text) to clerk; analyze shop.customer""")
    with Spy(server) as spy:
        mask_scene.filter_rows(server, spy.policy, "shop.customer", "region = 'east'")
        reply = spy.send("explain select * from shop.customer where region operator(shop.<<<) 'x'")
        assert not any("west" in notice["M"] for notice in reply.notices), reply.notices
        spy.send("explain select * from shop.customer where email operator(shop.<<<) 'x'")


def test_a_stale_or_missing_view_closes_the_relation(server):
    server.run("create table shop.lost (id int, email text); insert into shop.lost values (1, 'canary-l'); grant select on shop.lost to clerk")
    mask_scene.mask(server, "shop.lost", "email", "'***'::text")
    with Spy(server) as spy:
        spy.read("select * from shop.lost", 1)
        server.run("delete from agent_guard.masked_view where relation = 'shop.lost'::regclass")
        for statement in ["select * from shop.lost", "select id from shop.lost", "copy shop.lost to stdout", "prepare p as select id from shop.lost; execute p"]:
            spy.refused(statement, "mask_unusable")
    server.run("set client_min_messages = error; drop table shop.lost cascade")


if __name__ == "__main__":
    guard.run(globals())
