"""Administrators beside each other, beside DDL and beside agents: whatever commits first, nobody decides on half of what was there
before and half of what is there after. Each test holds one side at a chosen place by a lock, and awaits that the other waits for it.
"""

import threading

import psycopg

import guard
import scene
from guard import eventually, expect
from scene import Agent

# What prepares transactions, as a transaction manager outside does.
CONF = ["max_prepared_transactions = 5"]

LISTS = """
create table app.list (region text, code text) partition by list (region);
create table app.list_1 partition of app.list for values in ('one');
create table app.elder (region text, code text);
create table app.younger () inherits (app.elder);
insert into app.list values ('one', 'raw-part');
insert into app.younger values ('one', 'raw-child');
grant select on app.list, app.list_1, app.elder, app.younger to owner;
"""


def setup(server):
    scene.setup(server)
    server.run(LISTS)


class Beside(threading.Thread):
    """A statement in a session of its own; `waits` returns when it waits for a lock."""

    def __init__(self, server, statement, *values, connection=None):
        super().__init__(daemon=True)
        self.server, self.statement, self.values = server, statement, values
        self.connection, self.error, self.rows = connection or server.connect(), None, None
        self.pid = self.connection.info.backend_pid
        self.start()

    def run(self):
        try:
            self.rows = self.done()
        except psycopg.Error as error:
            self.error = error

    def done(self):
        cursor = self.connection.execute(self.statement, self.values or None)
        return cursor.fetchall() if cursor.description else None

    def waits(self):
        asleep = "select exists (select from pg_locks where pid = %s and not granted)"
        eventually(lambda: not self.is_alive() or self.server.value(asleep, self.pid), f"{self.statement} waits")
        assert self.is_alive(), f"{self.statement} did not wait: {self.error or self.rows}"
        return self

    def ends(self):
        """Its rows, or its error raised."""
        self.join(30)
        assert not self.is_alive(), f"{self.statement} still waits"
        self.connection.close()
        if self.error is not None:
            raise self.error
        return self.rows


class Copying(Beside):
    """COPY TO STDOUT of an agent."""

    def __init__(self, agent, statement):
        super().__init__(agent.server, statement, connection=agent.connection)

    def done(self):
        with self.connection.cursor().copy(self.statement) as copy:
            return list(copy.rows())


def opened(server, isolation="read committed"):
    """A session in a transaction; of a higher isolation, its snapshot is taken."""
    connection = server.connect(autocommit=False)
    connection.execute(f"set transaction isolation level {isolation}")
    if isolation != "read committed":
        connection.execute("select from pg_class limit 1")
    return connection


# --- transactions that are prepared ---


def test_a_prepared_change_of_a_policy_holds_when_it_is_committed(server):
    with Agent(server, ("allow", "select", "app.open")) as agent:
        agent.run("select v from app.open")
        with server.connect() as dba:
            dba.execute("begin")
            dba.execute("select agent_guard.deny(%s, '{select}', '{app.open}')", [agent.policy])
            dba.execute("prepare transaction 'policy'")
        agent.run("select v from app.open")
        server.run("commit prepared 'policy'")
        agent.refused("select v from app.open")


def test_a_prepared_mask_holds_when_it_is_committed(server):
    with Agent(server, ("allow", "select", "app.open")) as agent:
        assert agent.run("select v from app.open where id = 1") == [("open-1",)]
        with server.connect() as dba:
            dba.execute("begin")
            dba.execute("select agent_guard.mask_column('app.open', 'v', 'redact')")
            dba.execute("prepare transaction 'mask'")
        assert agent.run("select v from app.open where id = 1") == [("open-1",)]
        server.run("commit prepared 'mask'")
        assert agent.run("select v from app.open where id = 1") == [("***",)]
        server.run("begin; select agent_guard.unmask_column('app.open', 'v'); prepare transaction 'mask'")
        server.run("rollback prepared 'mask'")
        assert agent.run("select v from app.open where id = 1") == [("***",)]
    server.run("select agent_guard.unmask_column('app.open', 'v')")


# --- what leaves its parent ---


def leaves(server, parent, child, statement, isolation):
    """A child leaves its parent while somebody masks that. Returns what an agent reads of the child then."""
    with Agent(server, ("allow", "select", "app.*")) as agent:
        with opened(server) as masking:
            masking.execute(f"select agent_guard.mask_column('{parent}', 'code', 'null')")
            if isolation == "read committed":
                altering = Beside(server, statement).waits()
                masking.commit()
                altering.ends()
            else:
                with opened(server, isolation) as altering:
                    masking.commit()
                    altering.execute(statement)
        return agent.run(f"select code from {child}")


def test_a_partition_that_leaves_takes_a_mask_along_that_came_meanwhile(server):
    for isolation in ["read committed", "repeatable read", "serializable"]:
        found = leaves(server, "app.list", "app.list_1", "alter table app.list detach partition app.list_1", isolation)
        assert found == [(None,)], (isolation, found)
        server.run("""select agent_guard.unmask_column(r, 'code') from (values ('app.list'::regclass), ('app.list_1')) t (r);
                      alter table app.list attach partition app.list_1 for values in ('one')""")


def test_a_child_that_leaves_takes_a_mask_along_that_its_snapshot_has_not(server):
    # In READ COMMITTED it waits for nobody and is first.
    for isolation in ["repeatable read", "serializable"]:
        found = leaves(server, "app.elder", "app.younger", "alter table app.younger no inherit app.elder", isolation)
        assert found == [(None,)], (isolation, found)
        server.run("""select agent_guard.unmask_column(r, 'code') from (values ('app.elder'::regclass), ('app.younger')) t (r);
                      alter table app.younger inherit app.elder""")


# --- snapshots older than what others have committed ---


def test_what_is_exposed_is_hidden_with_its_mask_whatever_the_snapshot(server):
    server.run("select agent_guard.mask_column('app.open', 'hidden', 'redact')")
    with Agent(server, ("allow", "select", "app.open")) as agent:
        with opened(server, "repeatable read") as old:
            server.run(f"select agent_guard.expose_columns('{agent.policy}', '{{app.open(hidden)}}')")
            old.execute("select agent_guard.unmask_column('app.open', 'hidden')")
        server.run("select agent_guard.mask_column('app.open', 'hidden', 'redact')")
        assert agent.run("select hidden from app.open where id = 1") == [("***",)]
    server.run("select agent_guard.unmask_column('app.open', 'hidden')")


def test_two_who_mask_one_table_leave_two_masks_whatever_the_snapshot(server):
    for isolation in ["read committed", "repeatable read", "serializable"]:
        with Agent(server, ("allow", "select", "app.open")) as agent:
            with opened(server, isolation) as old:
                server.run("select agent_guard.mask_column('app.open', 'v', 'redact')")
                old.execute("select agent_guard.mask_column('app.open', 'hidden', 'redact')")
            assert agent.run("select v, hidden from app.open where id = 1") == [("***", "***")], isolation
        server.run("select agent_guard.unmask_column('app.open', c) from (values ('v'::name), ('hidden')) t (c)")


def test_ddl_looks_after_a_mask_that_its_snapshot_has_not(server):
    with Agent(server, ("allow", "select", "app.open")) as agent:
        with opened(server, "repeatable read") as old:
            server.run("select agent_guard.mask_column('app.open', 'hidden', 'redact')")
            old.execute("alter table app.open rename column hidden to covered")
            old.execute("alter table app.open add column later text default 'l'")
        assert agent.run("select covered, later from app.open where id = 1") == [("***", "l")]
    found = server.rows("select column_name, state from agent_guard.masks where relation = 'app.open'::regclass")
    assert found == [("covered", "in force")], found
    with opened(server, "repeatable read") as old:
        old.execute("select agent_guard.unmask_column('app.open', 'covered')")
        old.execute("alter table app.open rename column covered to hidden")
        old.execute("alter table app.open drop column later")


def test_a_policy_with_a_window_is_not_dropped_whatever_the_snapshot(server):
    server.run("select agent_guard.create_policy('held')")
    with opened(server, "repeatable read") as old:
        window = server.window("owner", "held")[0]
        expect("2BP01", old.execute, "select agent_guard.drop_policy('held')", match="1 open window")
    server.value("select agent_guard.revoke_window(%s)", window)
    server.run("select agent_guard.drop_policy('held')")


# --- a restore that goes on ---


def test_masks_that_arrive_while_masks_are_rebuilt_are_of_their_own_columns(server):
    """The numbers that a restore brings are other columns' until they are found by name, also where it commits between two looks of
    rebuild_masks."""
    stored = "insert into agent_guard.mask (relation, column_name, attnum, mask, options, expression) values (%s, 'hidden', 1, 'null', '{}', 'NULL::text')"
    server.run("""create table app.first (shown text, hidden text); create table app.second (shown text, hidden text);
                  grant select on app.first, app.second to owner;
                  insert into app.first values ('seen', 'raw'); insert into app.second values ('seen', 'raw')""")
    with Agent(server, ("allow", "select", "app.*")) as agent:
        server.run(f"select agent_guard.filter_rows('{agent.policy}', 'app.second', 'shown is not null')")
        with server.connect() as restoring:
            restoring.execute(stored, ["app.first"])
            with opened(server) as holding:
                holding.execute("select from agent_guard.mask where relation = 'app.first'::regclass for update")
                rebuilding = Beside(server, "select agent_guard.rebuild_masks()").waits()
                restoring.execute(stored, ["app.second"])
            rebuilding.ends()
        assert agent.run("select * from app.first") == [("seen", None)]
        error = agent.attempt("select * from app.second")
        if error is None:
            assert agent.run("select * from app.second") == [("seen", None)]
        server.run("select agent_guard.rebuild_masks()")
        assert agent.run("select * from app.second") == [("seen", None)]
    server.run("drop table app.first, app.second")


# --- a statement that waits while masks change ---


def test_a_statement_that_waits_for_a_mask_reads_under_it(server):
    """What was read of the tables before it waited is out of date: no alarm that a DBA has to mend something."""
    server.run("select agent_guard.mask_column('app.open', 'v', 'redact')")
    for statement in ["copy (select v, hidden from app.open where id = 1) to stdout", "copy app.open (v, hidden) to stdout"]:
        with Agent(server, ("allow", "select", "app.open")) as agent, opened(server) as masking:
            masking.execute("select agent_guard.mask_column('app.open', 'hidden', 'redact')")
            reading = Copying(agent, statement).waits()
            masking.commit()
            assert set(reading.ends()) == {("***", "***")}
        server.run("select agent_guard.unmask_column('app.open', 'hidden')")
    server.run("select agent_guard.unmask_column('app.open', 'v')")


# --- a statement that waits while names change hands ---

TWINS = """
reset role; drop table if exists app.scratch, app.hidden, app.gone, app.other, app.mine, app.whole cascade;
drop view if exists app.look, app.hidden_look, app.gone_look;
drop materialized view if exists app.stored, app.hidden_stored, app.gone_stored;
drop sequence if exists app.counted, app.hidden_counted, app.gone_counted; set role owner;
create table app.scratch (id int constraint scratch_pkey primary key, v text);
create table app.hidden (id int constraint hidden_pkey primary key, v text);
insert into app.hidden values (1, 'raw');
cluster app.scratch using scratch_pkey; cluster app.hidden using hidden_pkey;
create trigger fires before insert on app.scratch for each row execute function app.fire();
create trigger fires before insert on app.hidden for each row execute function app.fire();
create policy rows on app.scratch using (true);
create policy rows on app.hidden using (true);
create table app.mine (id int not null, v text);
create table app.whole (id int not null, v text) partition by list (id);
create view app.look as select 1 as id; create view app.hidden_look as select 2 as id;
create materialized view app.stored as select 1 as id; create materialized view app.hidden_stored as select 2 as id;
create unique index on app.stored (id); create unique index on app.hidden_stored (id);
create sequence app.counted; create sequence app.hidden_counted;
"""
SWAP = [
    "alter table app.scratch rename to gone",
    "alter table app.hidden rename to scratch",
    "alter view app.look rename to gone_look",
    "alter view app.hidden_look rename to look",
    "alter materialized view app.stored rename to gone_stored",
    "alter materialized view app.hidden_stored rename to stored",
    "alter sequence app.counted rename to gone_counted",
    "alter sequence app.hidden_counted rename to counted",
]
MEANWHILE = [
    "alter table app.scratch alter v set default 'd'",
    "lock table app.look",
    "cluster app.stored using stored_id_idx",
    "alter sequence app.counted rename to away; alter sequence app.away rename to counted",
]
BY_NAME = [
    "alter table app.scratch add column z int",
    "alter table app.scratch disable trigger all",
    "alter table app.scratch add constraint c check (v like 'r%')",
    "alter table app.scratch rename to other",
    "alter table app.scratch rename column v to w",
    "alter table app.scratch rename constraint scratch_pkey to key",
    "alter table app.scratch inherit app.mine",
    "alter table app.mine inherit app.scratch",
    "alter table app.mine add foreign key (id) references app.scratch",
    "alter table app.mine add column of int references app.scratch",
    "alter table app.whole attach partition app.scratch default",
    "alter trigger fires on app.scratch rename to fired",
    "alter policy rows on app.scratch rename to other",
    "alter policy rows on app.scratch using (false)",
    "alter sequence app.counted restart with 77",
    "create policy p on app.scratch",
    "create index on app.scratch (id)",
    "create trigger t before insert on app.scratch for each row execute function app.fire()",
    "create rule r as on insert to app.scratch do also nothing",
    "create statistics app.st on id, v from app.scratch",
    "create table app.other () inherits (app.scratch)",
    "create table app.other (id int references app.scratch)",
    "create table app.other (id int, foreign key (id) references app.scratch (id))",
    "cluster app.scratch",
    "create or replace view app.look as select 3 as id",
    "drop table app.scratch",
    "truncate app.scratch",
    "grant select on app.scratch to peer",
    "grant usage on sequence app.counted to peer",
    "comment on table app.scratch is 'changed'",
    "comment on column app.scratch.v is 'changed'",
    "comment on trigger fires on app.scratch is 'changed'",
    "begin; lock table app.scratch; commit",
    "begin; lock table app.scratch in access share mode; commit",
    "vacuum app.scratch",
    "analyze app.scratch",
    "reindex table app.scratch",
    "refresh materialized view app.stored",
    "refresh materialized view concurrently app.stored",
]
SHOWN = ["scratch", "mine", "whole", "look", "stored", "counted"]
HIDDEN = ["hidden", "hidden_look", "hidden_stored", "hidden_counted"]
ALL_BUT_HIDDEN = [
    *(("allow", "*", f"app.{name}") for name in SHOWN),
    *(("deny", "*", f"app.{name}") for name in HIDDEN),
    ("allow", "create", "*"),
    ("allow", "temporary", "*"),
    ("allow", "execute", "function app.fire()"),
]


def test_what_waits_is_done_to_the_relation_that_was_decided_on(server):
    """Names are looked up anew when a lock has been waited for; somebody may have given a table's name to another."""
    wrong = {}
    for statement in BY_NAME:
        server.run(TWINS)
        with Agent(server, *ALL_BUT_HIDDEN) as agent:
            with opened(server) as swapping:
                for step in SWAP:
                    swapping.execute(step)
                waiting = Beside(server, statement, connection=agent.connection).waits()
                swapping.commit()
            try:
                wrong[statement] = waiting.ends() or "done"
            except psycopg.Error as error:
                if error.sqlstate != guard.DENIED or "reason=denied_by_rule" not in error.diag.message_detail:
                    wrong[statement] = error
    assert not wrong, wrong


def test_what_waits_for_another_change_is_done(server):
    wrong = {}
    for statement in BY_NAME:
        server.run(TWINS)
        with Agent(server, *ALL_BUT_HIDDEN) as agent:
            with opened(server) as altering:
                for step in MEANWHILE:
                    altering.execute(step)
                waiting = Beside(server, statement, connection=agent.connection).waits()
                altering.commit()
            try:
                waiting.ends()
            except psycopg.Error as error:
                wrong[statement] = error
    server.run("reset role; drop table app.hidden")
    assert not wrong, wrong


def test_what_does_not_wait_is_told_so_at_once(server):
    """NOWAIT and SKIP LOCKED mean what they say."""
    server.run(TWINS)
    with Agent(server, *ALL_BUT_HIDDEN) as agent, opened(server) as holding:
        holding.execute("lock table app.scratch")
        agent.run("set statement_timeout = '10s'")
        expect("55P03", agent.run, "begin; lock table app.scratch nowait")
        agent.run("rollback")
        agent.run("vacuum (skip_locked) app.scratch")
        agent.run("analyze (skip_locked) app.scratch")


def test_ddl_that_waits_is_decided_by_the_policy_that_there_is_then(server):
    server.run(TWINS)
    with Agent(server, *ALL_BUT_HIDDEN) as agent:
        with opened(server) as altering:
            altering.execute("lock table app.scratch in access share mode")
            waiting = Beside(server, "alter table app.scratch add column z int", connection=agent.connection).waits()
            server.value("select agent_guard.deny(%s, '{alter}', '{app.scratch}')", agent.policy)
        expect(guard.DENIED, waiting.ends, match="app.scratch")
    server.run("reset role; drop table app.scratch, app.hidden")


# --- two administrators ---


def follows(server, first, second):
    """Two statements of administrators: the second waits for the first's transaction, and works then."""
    with opened(server) as one:
        one.execute(first)
        other = Beside(server, second).waits()
        one.commit()
        return other.ends()


def test_two_who_name_approvers_follow_each_other(server):
    server.run("create role judge; select agent_guard.create_policy('one'); select agent_guard.create_policy('two')")
    rule = "select agent_guard.require_approval('{}', '{{delete}}', '{{app.open}}', '{{judge}}')"
    follows(server, rule.format("one"), rule.format("two"))
    drop = "select agent_guard.drop_policy('{}')"
    follows(server, drop.format("one"), drop.format("two"))
    assert not server.value("select has_function_privilege('judge', 'agent_guard.approve(uuid, text)', 'execute')")


def test_two_who_guard_one_role_follow_each_other(server):
    server.run("create role twice login")
    follows(server, "select agent_guard.guard_role('twice')", "select agent_guard.guard_role('twice')")
    follows(server, "select agent_guard.unguard_role('twice')", "select agent_guard.guard_role('twice')")
    assert server.value("select count(*) from agent_guard.guarded_roles where role = 'twice'::regrole") == 1
    follows(server, "select agent_guard.unguard_role('twice')", "select agent_guard.unguard_role('twice')")
    server.run("drop role twice")


def test_filters_and_exposures_of_one_policy_follow_each_other(server):
    """In whatever order two sessions come, neither holds the table while it waits for the policy that the other holds."""
    server.run("""select agent_guard.create_policy('both');
                  select agent_guard.mask_column('app.open', 'v', 'redact'); select agent_guard.mask_column('app.secret', 'v', 'redact')""")
    expose = "select agent_guard.expose_columns('both', '{app.open(v)}')"
    document = """select * from agent_guard.apply_policy('{"name": "both", "rules": [], "row_filters": [{"relation": "app.open", "predicate": "id > 0"}]}')"""
    for held in [expose, document]:
        for statement in ["select agent_guard.filter_rows('both', 'app.open', 'id > 1')", "select agent_guard.unfilter_rows('both', 'app.open')"]:
            with opened(server) as holding:
                holding.execute("select from agent_guard.policy where name = 'both' for update")
                first = Beside(server, held).waits()
                second = Beside(server, statement).waits()
            first.ends()
            second.ends()
    server.run("""select agent_guard.drop_policy('both');
                  select agent_guard.unmask_column(r, 'v') from (values ('app.open'::regclass), ('app.secret')) t (r)""")


def test_two_policies_over_the_same_tables_follow_each_other(server):
    """In whatever order the tables are written down, they are locked in one."""
    server.run("""select agent_guard.create_policy('left'), agent_guard.create_policy('right');
                  select agent_guard.mask_column(r, 'v', 'redact') from (values ('app.open'::regclass), ('app.secret')) t (r)""")
    expose = "select agent_guard.expose_columns('{}', '{{{}}}')"
    document = """select * from agent_guard.apply_policy('{"name": "right", "rules": [], "exposed": ["app.secret(v)", "app.open(v)"]}')"""
    for second in [expose.format("right", '"app.secret(v)","app.open(v)"'), document]:
        with opened(server) as holding:
            holding.execute("lock table app.open in share update exclusive mode")
            one = Beside(server, expose.format("left", '"app.open(v)","app.secret(v)"')).waits()
            other = Beside(server, second).waits()
        one.ends()
        other.ends()
        server.run("""select agent_guard.hide_columns(p, '{app.open(v),app.secret(v)}') from (values ('left'), ('right')) t (p)""")
    server.run("""select agent_guard.drop_policy('left'), agent_guard.drop_policy('right');
                  select agent_guard.unmask_column(r, 'v') from (values ('app.open'::regclass), ('app.secret')) t (r)""")


if __name__ == "__main__":
    guard.run(globals(), CONF)
