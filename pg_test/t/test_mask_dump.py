"""Masks, row filters and exposures through pg_dump and a restore, DROP EXTENSION, and concurrent changes."""

import os
import subprocess
import threading

import guard
from guard import eventually, expect

SHOP = """
create schema shop;
create table shop.person (gone int, id int primary key, email varchar(60), name text, tax text);
alter table shop.person drop column gone;
insert into shop.person values (1, 'jane@example.com', 'Jane', '123-45-678');
create materialized view shop.stored as select * from shop.person;
create role clerk;
create function shop.veil(text) returns text language sql immutable as 'select left($1, 1)';
select agent_guard.create_policy('desk');
select agent_guard.mask_column('shop.person', 'email', 'email');
select agent_guard.mask_column('shop.person', 'tax', 'hash');
select agent_guard.mask_column('shop.person', 'name', expression => 'shop.veil(name) || id');
select agent_guard.filter_rows('desk', 'shop.person', $$name ~ '^\\w' and id > 0$$);
select agent_guard.expose_columns('desk', '{"shop.person(email)", "shop.stored(name)"}');
grant select on agent_guard_masked."shop.person" to clerk;
"""

MASKS = "select relation::text, column_name, mask, options, expression, exposed_to from agent_guard.masks order by relation::text, column_name"
VIEW = 'select * from agent_guard_masked."shop.person"'


def tool(server: guard.Server, name: str, *arguments: str, stdin: str | None = None) -> str:
    command = [os.path.join(server.variables["GUARD_BIN"], name), "-h", server.host, "-p", str(server.port), "-U", "postgres", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, input=stdin)
    assert done.returncode == 0 and "ERROR" not in done.stderr, done.stderr
    return done.stdout


def setup(server):
    server.run(SHOP)


def restored(server, name: str, options: tuple[str, ...] = ()) -> None:
    server.run(f"create database {name}")
    dump = tool(server, "pg_dump", *options, "postgres")
    assert "masked_view" not in dump, "OIDs of one database are not dumped"
    tool(server, "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", name, stdin=dump)


def test_everything_arrives_and_holds_after_rebuilding(server):
    before, shown = server.rows(MASKS), server.rows(VIEW)
    filters = server.rows("select policy, relation::text, predicate from agent_guard.row_filters")
    restored(server, "copied")
    states = server.rows("select distinct state from agent_guard.masks", dbname="copied")
    assert states == [("denied until rebuild_masks()",)], states
    assert server.value("select agent_guard.rebuild_masks()", dbname="copied") == 1
    assert server.rows(MASKS, dbname="copied") == before
    assert server.rows(VIEW, dbname="copied") == shown, "the same server has the same key"
    assert server.rows("select policy, relation::text, predicate from agent_guard.row_filters", dbname="copied") == filters
    # Columns have other numbers where dropped ones were left out; what is stored follows their names.
    wrong = """select m.column_name from agent_guard.mask m left join pg_attribute a
        on a.attrelid = m.relation and a.attnum = m.attnum and a.attname = m.column_name where a.attnum is null"""
    assert server.rows(wrong, dbname="copied") == []
    exposed = "select column_name, attnum from agent_guard.exposed_column where relation = 'shop.person'::regclass"
    assert server.rows(exposed, dbname="copied") == [("email", 2)]
    assert server.value("select has_table_privilege('clerk', 'agent_guard_masked.\"shop.person\"', 'select')", dbname="copied")
    # And it is kept up from then on.
    server.run("alter table shop.person rename column name to called", dbname="copied")
    assert ("called", "(shop.veil(called) || id)") in server.rows("select column_name, expression from agent_guard.masks", dbname="copied")


def test_rebinding_policies_rebuilds_masks_too(server):
    restored(server, "rebound", ("--no-owner",))
    server.run("select agent_guard.rebind_policies()", dbname="rebound")
    assert server.rows("select distinct state from agent_guard.masks", dbname="rebound") == [("in force",)]


def test_a_custom_format_restored_in_parallel_arrives(server):
    path = str(server.home / "dump")
    server.run("create database parallel")
    tool(server, "pg_dump", "-Fc", "-f", path, "postgres")
    tool(server, "pg_restore", "-j", "2", "-d", "parallel", path)
    assert server.value("select agent_guard.rebuild_masks()", dbname="parallel") == 1
    assert server.rows(MASKS, dbname="parallel") == server.rows(MASKS)


def test_masks_that_arrive_beside_ddl_wait_for_rebuilding(server):
    """A parallel restore commits the masks while another of its workers alters the table: whichever is first, the numbers, which are
    another column's here, are not taken for true."""
    server.run("""create table shop.racing (shown text not null, hidden text);
                  select agent_guard.filter_rows('desk', 'shop.racing', 'shown is not null')""")
    stored = """insert into agent_guard.mask (relation, column_name, attnum, mask, options, expression)
                values ('shop.racing', 'hidden', 1, 'null', '{}', 'NULL::text')"""
    with server.connect(autocommit=False) as restoring, server.connect() as altering:
        restoring.execute("lock table agent_guard.exposed_column in exclusive mode")
        restoring.execute(stored)
        done = threading.Thread(target=altering.execute, args=["alter table shop.racing add primary key (shown)"])
        done.start()
        waits = "select wait_event_type = 'Lock' from pg_stat_activity where pid = %s"
        eventually(lambda: not done.is_alive() or server.value(waits, altering.info.backend_pid), "it waits, or is done")
        restoring.commit()
        done.join(20)
        assert not done.is_alive()
    found = server.rows("select column_name, state from agent_guard.masks where relation = 'shop.racing'::regclass")
    assert found == [("hidden", "denied until rebuild_masks()")], found
    server.value("select agent_guard.rebuild_masks()")
    server.run("insert into shop.racing values ('seen', 'unseen')")
    found = server.rows("select column_name, state, (select hidden from agent_guard_masked.\"shop.racing\") from agent_guard.masks where relation = 'shop.racing'::regclass")
    assert found == [("hidden", "in force", None)], found
    server.run("drop table shop.racing")


def test_a_restored_partition_stays_with_its_parent_until_it_is_rebuilt(server):
    """Where it leaves its parent it keeps the parent's masks, and one of them could take the place of another column's."""
    server.run("""create table shop.whole (a text, b text) partition by list (a);
                  create table shop.part (gone int, b text, a text); alter table shop.part drop column gone;
                  alter table shop.whole attach partition shop.part default;
                  select agent_guard.mask_column('shop.whole', 'a', 'null');
                  select agent_guard.mask_column('shop.part', 'b', 'redact')""")
    restored(server, "parting")
    with server.connect(dbname="parting") as connection:
        expect("55000", connection.execute, "alter table shop.whole detach partition shop.part", match="not rebuilt")
        connection.execute("select agent_guard.rebuild_masks()")
        connection.execute("alter table shop.whole detach partition shop.part")
        found = connection.execute("select column_name, mask from agent_guard.masks where relation = 'shop.part'::regclass order by 1").fetchall()
        assert found == [("a", "null"), ("b", "redact")], found
    server.run("drop table shop.whole")


def test_a_restored_relation_waits_for_rebuilding_whatever_happens_to_it(server):
    # The numbers that are stored are other columns' until then: nothing that DDL or a DBA does may take them for true.
    restored(server, "waiting")
    server.run("alter table shop.person add column more int; alter table shop.person rename column email to mail", dbname="waiting")
    with server.connect(dbname="waiting") as connection:
        assert connection.execute("select distinct state from agent_guard.masks").fetchall() == [("denied until rebuild_masks()",)]
        expect("55000", connection.execute, "select agent_guard.mask_column('shop.person', 'id', 'null')", match="rebuild_masks")
        expect("55000", connection.execute, "select agent_guard.expose_columns('desk', '{shop.person(name)}')", match="rebuild_masks")
        told = []
        connection.add_notice_handler(lambda notice: told.append(notice.message_primary))
        assert connection.execute("select agent_guard.rebuild_masks()").fetchone() == (1,)
        assert any("shop.person stays out of agents' reach: it has no email" in line for line in told), told
        assert connection.execute("select distinct state from agent_guard.masks").fetchall() == [("denied until rebuild_masks()",)]
        connection.execute("select agent_guard.unmask_column('shop.person', 'email')")
        connection.execute("select agent_guard.rebuild_masks()")
        connection.execute("select agent_guard.mask_column('shop.person', 'mail', 'email')")
        assert connection.execute("select distinct state from agent_guard.masks").fetchall() == [("in force",)]
        assert connection.execute('select mail, name from agent_guard_masked."shop.person"').fetchall() == [("j***@***.com", "J1")]


def test_what_was_not_restored_is_forgotten(server):
    restored(server, "halves")
    server.run("drop materialized view shop.stored; drop table shop.person cascade", dbname="halves")
    server.run("select agent_guard.rebuild_masks()", dbname="halves")
    for table in ("mask", "row_filter", "exposed_column", "masked_view"):
        assert server.value(f"select count(*) from agent_guard.{table}", dbname="halves") == 0, table
    assert server.value("select count(*) from pg_class where relnamespace = 'agent_guard_masked'::regnamespace", dbname="halves") == 0


def test_the_extension_goes_with_its_views_and_nothing_else(server):
    restored(server, "dropped")
    server.run("select agent_guard.rebuild_masks(); drop extension agent_guard", dbname="dropped")
    assert server.value("select to_regnamespace('agent_guard_masked') is null", dbname="dropped")
    assert server.rows("select email from shop.person", dbname="dropped") == [("jane@example.com",)]
    # The same session's idea of what is installed does not outlive it.
    with server.connect(dbname="dropped") as connection:
        connection.execute("create extension agent_guard")
        connection.execute("select agent_guard.mask_column('shop.person', 'email', 'null')")
        connection.execute("drop extension agent_guard")
        connection.execute("alter table shop.person rename column email to mail")
        connection.execute("create extension agent_guard")
        connection.execute("select agent_guard.mask_column('shop.person', 'mail', 'null')")
        connection.execute("alter table shop.person rename column mail to email")
        assert connection.execute("select column_name from agent_guard.masks").fetchall() == [("email",)]


def test_masking_waits_for_ddl_and_ddl_for_masking(server):
    server.run("create table shop.busy (a text, b text)")
    with server.connect(autocommit=False) as one, server.connect() as two:
        one.execute("select agent_guard.mask_column('shop.busy', 'a', 'redact')")
        two.execute("set lock_timeout = '50ms'")
        expect("55P03", two.execute, "alter table shop.busy add column c int")
        expect("55P03", two.execute, "select agent_guard.mask_column('shop.busy', 'b', 'redact')")
        two.execute("select * from shop.busy")
        one.commit()
        two.execute("alter table shop.busy add column c int")
    columns = """select string_agg(a.attname, ',' order by a.attnum) from agent_guard.masked_view v
        join pg_attribute a on a.attrelid = v.view and a.attnum > 0 where v.relation = 'shop.busy'::regclass"""
    assert server.value(columns) == "a,b,c"


def test_a_hash_is_the_same_after_rotation_and_restart(server):
    before = server.value("select agent_guard.mask_hash('x')")
    server.run("select agent_guard.rotate_key()")
    server.restart()
    assert server.value("select agent_guard.mask_hash('x')") == before
    kids = server.rows("select kid from agent_guard.signing_keys order by kid")
    assert kids == [(1,), (2,)], "the key of masks is none of those that sign"


if __name__ == "__main__":
    guard.run(globals())
