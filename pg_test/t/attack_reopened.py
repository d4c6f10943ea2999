"""A statement that has ended is kept, and opened as it was left when it comes again. Nobody may notice but by the clock.

Each statement comes often enough to be opened so, then one circumstance changes: what is decided, recorded and answered is what
it would be for a statement that comes for the first time. Events are compared as wholes. A statement is kept in a place that the
address of its text gives it: where another one with the same text must not find it, it is kept in all of them.
"""

import contextlib
import itertools
import os
import signal
import time

import guard
import scene
from guard import CLOSED, DENIED, LIMIT, UNAUTHENTICATED, eventually
from tokens import child, claims_of

CONF = ["agent_guard.audit_timeout = '20s'", "agent_guard.journal = on"]
RULES = [
    ("allow", ["select", "insert", "update", "delete", "lock"], "app.*"),
    ("allow", "execute", ["function app.*", "function kept.*"]),
    ("allow", "system", "*"),
]
INT4, INT8, TEXT = 23, 20, 25
# Somewhat more than there are, as other memory may lie between two portals.
PLACES = 72
# Whether a transaction had a number, but not which.
WHOLE = """event, session_id::text, window_id::text, lineage, role, database, client_addr, pid, xid is null, level, command, statement, accesses,
    decision, rule_id, rows, sqlstate, message, application_name, statement_length, policy_version, truncated, decided_by, block_ids"""
LEVEL, COMMAND, ACCESSES, SQLSTATE = ([name.strip() for name in WHOLE.split(",")].index(name) for name in ("level", "command", "accesses", "sqlstate"))
MARKS = (f"mark-{number} " for number in itertools.count())


def setup(server):
    scene.setup(server)
    server.run(
        """create table app.entries (id int, v text);
           create table app.switch (armed boolean);
           insert into app.switch values (false);
           create table app.ruled (id int);
           create table app.followed (n int);
           insert into app.followed values (0);
           create rule follows as on insert to app.ruled do also update app.followed set n = n + 1;
           grant all on app.entries, app.ruled, app.followed to owner;
           create table app.late (id int primary key);
           insert into app.late values (1);
           create table app.ref (id int references app.late deferrable initially deferred);
           create table app.looked (id int);
           create function kept.looks() returns trigger language plpgsql as $$begin execute 'select count(*) from app.open'; return null; end$$;
           create constraint trigger looks after insert on app.looked deferrable initially deferred for each row execute function kept.looks();
           alter table app.late owner to owner;
           alter table app.ref owner to owner;
           grant all on app.looked to owner;
           create function kept.counts() returns bigint language plpgsql as $$declare n bigint; begin execute 'select count(*) from app.open' into n; return n; end$$;
           create function app.lower(text) returns text language plpgsql immutable as $$begin return pg_catalog.lower($1); end$$;
           create schema elsewhere;
           create table elsewhere.open (id int primary key, v text, hidden text);
           grant usage on schema elsewhere to owner;
           grant all on elsewhere.open to owner;
           create foreign data wrapper nothing;
           create server vault foreign data wrapper nothing options (password 'first');
           create function kept.sets() returns trigger language plpgsql security definer as
           $$begin if (select armed from app.switch) then execute format('alter server vault options (set password %L)', new.v); end if; return new; end$$;
           create trigger sets before insert on app.entries for each row execute function kept.sets();"""
    )


class Session:
    """A guarded session at the protocol's level, under a policy of its own."""

    def __init__(self, server, *rules, startup=True, standby=None, **window):
        self.server = server
        self.policy = scene.policy(server, rules or RULES)
        self.window_id, self.token, _ = server.window("owner", self.policy, **window)
        if standby:
            caught_up(server, standby)
        self.wire = (standby or server).wire("owner", **({"options": f"-c agent_guard.token={self.token}"} if startup else {}))
        self.names = (f"s{number}" for number in itertools.count())

    def prepare(self, text, *types):
        name = next(self.names)
        self.wire.parse(text, name, types)
        reply = self.wire.sync()
        assert not reply.errors, reply.errors
        return name

    def execute(self, name, *values, portal="", max_rows=0):
        self.wire.bind(portal, name, values)
        self.wire.execute(portal, max_rows)
        return self.wire.sync()

    def run(self, name, *values):
        reply = self.execute(name, *values)
        assert not reply.errors, reply.errors
        return reply.text()

    def often(self, name, *values, times=6):
        for _ in range(times):
            self.run(name, *values)

    def refused(self, name, *values, sqlstate=DENIED, match=""):
        reply = self.execute(name, *values)
        assert reply.sqlstate == sqlstate and match in str(reply.errors) and not reply.rows, reply

    def kept(self, text, *types):
        """A prepared statement that was run often."""
        name = self.prepare(text, *types)
        self.often(name, *(["1"] * len(types)))
        return name

    def everywhere(self, name, *values, times=4):
        """Runs it often in every place. The place is that of the portal's copy of the text; a portal that stays moves the next one on."""
        self.query("begin")
        for place in range(PLACES):
            for _ in range(times):
                self.wire.bind("moves", name, values)
                self.wire.execute("moves")
                self.wire.close_object("P", "moves")
                reply = self.wire.sync()
                assert not reply.errors, reply.errors
            self.wire.bind(f"stays{place}", name, values)
            reply = self.wire.sync()
            assert not reply.errors, reply.errors
        self.query("commit")

    def query(self, text):
        reply = self.wire.query(text)
        assert not reply.errors, reply.errors
        return reply

    def end(self):
        self.wire.close()


def quoted(text):
    return "'" + text.replace("'", "''") + "'"


def session_of(wire):
    return wire.query("select session_id from agent_guard.whoami()").text()[0][0]


def events(server, like, columns=WHOLE, where="true"):
    return server.audit(f"statement like %s and event = 'statement' and role = 'owner' and {where}", f"%{like}%", columns=columns)


def all_same(found, number, what=""):
    assert len(found) == number, (what, len(found), number, found[:3])
    for nth, event in enumerate(found):
        different = [(one, other) for one, other in zip(event, found[0]) if one != other]
        assert not different, f"{what}: the event of run {nth + 1} differs from the first one's: {different}"


@contextlib.contextmanager
def stopped(pid):
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def warden(server):
    return server.value("select pid from pg_stat_activity where backend_type = 'agent_guard audit launcher'")


def writer(server):
    return eventually(lambda: server.value("select writer_pid from agent_guard.stat"), "a writer")


def caught_up(server, standby):
    end = server.value("select pg_current_wal_insert_lsn()::text")
    eventually(lambda: standby.value("select pg_last_wal_replay_lsn() >= %s::pg_lsn", end), "the standby follows")


def reload(server, name, value):
    server.run(f"alter system set {name} = '{value}'")
    server.run("select pg_reload_conf()")
    eventually(lambda: server.value(f"show {name}") == value, "reloaded")


# --- what is the same each time -----------------------------------------------------------------------------------------


def test_the_event_of_each_run_is_that_of_the_first(server):
    one = Session(server)
    texts = {
        "select id, v from app.open where id = $1": (1, (INT4,)),
        "select count(*) from app.open where id < $1 and $2 is null": (1, (INT8, INT4)),
        "select count(*) from app.open": (1, ()),
        "select 1": (1, ()),
        "select v from app.open where id = $1 for update": (1, (INT4,)),
        "insert into app.entries values ($1, 'x')": (1, (INT4,)),
        "insert into app.entries values ($1, 'x') returning id": (1, (INT4,)),
        "update app.open set v = v where id = $1": (1, (INT4,)),
        "delete from app.entries where id = $1 + 1000": (0, (INT4,)),
        "with added as (insert into app.entries values ($1, 'y') returning id) select id from added": (1, (INT4,)),
        "merge into app.open o using (select $1::int as id) n on o.id = n.id when matched then update set v = v": (1, (INT4,)),
        "select app.one() from app.open where id = $1": (1, (INT4,)),
        "select id from app.secret_view where id = $1": (1, (INT4,)),
    }
    for text, (rows, types) in texts.items():
        mark = next(MARKS)
        name = one.prepare(f"{text} /* {mark}*/", *types)
        one.often(name, *(["1"] * len(types)), times=10)
        found = events(server, mark, "parameters, parameter_types, rows")
        expected = (["1"] * len(types) or None, {INT4: "integer", INT8: "bigint"})
        assert all(event[0] == expected[0] and event[1] == ([expected[1][oid] for oid in types] or None) for event in found), (text, found)
        assert {event[2] for event in found} == {rows}, (text, found)
        all_same(events(server, mark), 10, text)
    one.end()


def test_rows_and_parameters_are_those_of_the_run(server):
    one = Session(server)
    mark = next(MARKS)
    name = one.prepare(f"select id from app.open where id <= $1 /* {mark}*/", INT4)
    values = ["1", "2", "3", "0", None, "3", "-2147483648", "2147483647", "2", "1"]
    for value in values:
        one.run(name, value)
    found = events(server, mark, "parameters[1], rows, array_length(parameters, 1)")
    assert found == [(value, max(0, min(3, int(value or 0))), 1) for value in values], found
    one.end()


def test_a_text_of_one_place_is_not_taken_for_another(server):
    """More statements than there are places, all of them on the same columns."""
    one = Session(server)
    mark = next(MARKS)
    names = [one.prepare(f"select v from app.open where id = $1 /* {mark}{number} */", INT4) for number in range(200)]
    for _ in range(6):
        for name in names:
            one.run(name, "1")
    for name in names:
        one.often(name, "2", times=4)
    found = events(server, mark, "split_part(split_part(statement, '/* ', 2), ' ', 2), parameters[1]")
    told = [(str(number), "1") for number in range(200)] * 6 + [(str(number), "2") for number in range(200) for _ in range(4)]
    assert found == told, [pair for pair in zip(found, told) if pair[0] != pair[1]][:5]
    one.end()


def test_parameters_of_other_types_are_told_with_these(server):
    """Also by an event that is not told by halves: that of an error."""
    one = Session(server)
    mark = next(MARKS)
    text = f"select 10 / (id - ($1)::int) from app.open where id = 1 /* {mark}*/"
    kinds = {INT4: "integer", TEXT: "text", INT8: "bigint"}
    names = {oid: one.prepare(text, oid) for oid in kinds}
    told = []
    for _ in range(3):
        for oid, kind in kinds.items():
            one.often(names[oid], "5")
            told += [(["5"], [kind], None)] * 6
        for oid in (INT4, INT8, TEXT):
            assert one.execute(names[oid], "1").sqlstate == "22012"
            told.append((["1"], [kinds[oid]], "22012"))
    found = events(server, mark, "parameters, parameter_types, sqlstate")
    assert found == told, [(nth, *pair) for nth, pair in enumerate(zip(found, told)) if pair[0] != pair[1]][:5]
    one.end()


def test_an_error_is_recorded_as_one_and_as_the_first_one_is(server):
    one, fresh = Session(server), Session(server)
    mark = next(MARKS)
    text = f"select 10 / (id - $1) from app.open where id = 1 /* {mark}*/"
    kept = one.prepare(text, INT4)
    one.often(kept, "2")
    assert one.execute(kept, "1").sqlstate == "22012"
    one.often(kept, "3", times=3)
    assert fresh.execute(fresh.prepare(text, INT4), "1").sqlstate == "22012"
    found = events(server, mark, "decision, sqlstate, parameters[1], rows, level, command, message, jsonb_array_length(accesses), rule_id is null")
    failed = ("allow", "22012", "1", None, 0, "SELECT", "division by zero", 1, False)
    assert [event for event in found if event[1]] == [failed, failed], found
    assert [event[2] for event in found] == ["2"] * 6 + ["1"] + ["3"] * 3 + ["1"], found
    one.end(), fresh.end()


def test_a_transaction_that_may_not_write_is_told_as_for_the_first_time(server):
    """The server refuses it between its beginning and the question for its relations."""
    one, fresh = Session(server), Session(server)
    mark = next(MARKS)
    text = f"insert into app.entries values ($1, 'z') /* {mark}*/"
    kept = one.kept(text, INT4)
    for session, name in ((one, kept), (fresh, fresh.prepare(text, INT4))):
        session.query("begin read only")
        assert session.execute(name, "1").sqlstate == "25006"
        session.query("rollback")
    one.often(kept, "1", times=3)
    found = events(server, mark, "level, command, statement, parameters, accesses is null, decision, rows, sqlstate, message, xid is null", "sqlstate = '25006'")
    all_same(found, 2)
    all_same(events(server, mark, where="sqlstate is null"), 9)
    one.end(), fresh.end()


def test_what_the_server_refuses_by_its_own_privileges_is_told_as_for_the_first_time(server):
    server.run("create table app.lent (id int); grant select on app.lent to owner")
    one = Session(server)
    mark = next(MARKS)
    text = f"select id from app.lent /* {mark}*/"
    kept = one.kept(text)
    server.run("revoke select on app.lent from owner")
    one.refused(kept)
    one.refused(one.prepare(text))
    found = events(server, mark, where="sqlstate is not null")
    all_same(found, 2)
    one.end()


# --- portals and what else keeps a statement open ------------------------------------------------------------------------


def portal_scene(one, mark, name):
    """Portals in every state; what is recorded of them has to be the same each time."""
    wire = one.wire
    # In pieces.
    wire.bind(statement=name, values=["9"])
    for rows in (1, 1, 0):
        wire.execute(max_rows=rows)
    wire.sync()
    # Bound and closed, never run.
    wire.bind("never", name, ["9"])
    wire.close_object("P", "never")
    wire.sync()
    # Two of one statement at a time, the first one ending first, and last.
    for first, last in (("a", "b"), ("b", "a")):
        one.query("begin")
        wire.bind("a", name, ["9"])
        wire.execute("a", 1)
        wire.bind("b", name, ["2"])
        wire.execute("b")
        wire.execute("a", 1)
        wire.close_object("P", first)
        wire.close_object("P", last)
        wire.sync()
        one.query("commit")
    # Left open to the end of the transaction, and to its failure.
    for end in ("commit", "rollback"):
        one.query("begin")
        wire.bind("left", name, ["9"])
        wire.execute("left", 1)
        wire.sync()
        one.query(end)
    # Begun behind a savepoint that is rolled back.
    one.query("begin; savepoint s")
    wire.bind("behind", name, ["9"])
    wire.execute("behind", 1)
    wire.sync()
    one.query("rollback to s")
    one.query("commit")
    # Failed beside it.
    one.query("begin")
    wire.bind("beside", name, ["9"])
    wire.execute("beside", 1)
    wire.sync()
    assert wire.query(f"select 1 / 0 /* {mark}*/").sqlstate == "22012"
    one.query("rollback")
    # Fetched and moved by SQL, and closed by it.
    one.query("begin")
    wire.bind("fetched", name, ["9"])
    wire.sync()
    one.query(f"fetch 1 from fetched /* {mark}*/")
    one.query(f"move 1 in fetched /* {mark}*/")
    one.query(f"close fetched /* {mark}*/")
    one.query("commit")


def test_portals_are_recorded_the_same_in_every_state(server):
    one = Session(server)
    mark = next(MARKS)
    name = one.prepare(f"select id from app.open where id <= $1 /* {mark}*/", INT4)
    rounds = []
    for _ in range(6):
        before = len(events(server, mark, "seq"))
        portal_scene(one, mark, name)
        rounds.append(events(server, mark, WHOLE + ", parameters")[before:])
        # So that it is kept again, whatever it was closed by.
        one.often(name, "1", times=3)
    assert len(rounds[0]) >= 12, rounds[0]
    for nth, found in enumerate(rounds[1:]):
        assert found == rounds[0], (nth, [pair for pair in itertools.zip_longest(rounds[0], found) if pair[0] != pair[1]][:3])
    one.end()


def test_statements_within_others_are_at_their_level_each_time(server):
    one = Session(server, *RULES, ("allow", ["create table", "drop table"], "*"))
    session = session_of(one.wire)
    plainly = "(analyze, costs off, timing off, summary off)"
    one.query("prepare inner_one as select count(*) from app.open")
    for text in [
        "execute inner_one",
        f"explain {plainly} execute inner_one",
        f"explain {plainly} select count(*) from app.open",
        "copy (select count(*) from app.open) to stdout",
        "begin; declare c cursor for select id from app.open; fetch 1 from c; fetch all from c; close c; commit",
        "create table app.made as execute inner_one; drop table app.made",
        "create table app.made as select count(*) from app.open; drop table app.made",
    ]:
        before = len(server.audit("session_id = %s", session, columns="seq"))
        for _ in range(6):
            one.wire.query(text)
        found = server.audit("session_id = %s", session, columns="level, command, statement, decision, rows, sqlstate, rule_id, policy_version, accesses->0->>'object', parameters")[before:]
        length = len(found) // 6
        assert length > 1 and found == found[:length] * 6 and not any(event[5] for event in found), (text, found)
        assert {event[0] for event in found if event[1] == "SELECT"} == {1}, (text, found)
    one.end()


def test_what_it_brings_about_is_within_it_each_time(server):
    """A trigger's queries, and those of a foreign key, of which one fails."""
    one = Session(server)
    session = session_of(one.wire)
    kept = one.prepare("insert into app.child values (($1)::int + 1000, $2) on conflict (id) do update set open_id = excluded.open_id", INT4, INT4)
    triggered = one.prepare("insert into app.entries values ($1, 'within')", INT4)
    rounds = []
    for _ in range(6):
        before = len(server.audit("session_id = %s", session, columns="seq"))
        one.often(kept, "7", "1", times=2)
        assert one.execute(kept, "7", "4711").sqlstate == "23503"
        one.often(kept, "7", "2", times=2)
        one.often(triggered, "1", times=3)
        rounds.append(server.audit("session_id = %s", session, columns=WHOLE.replace("xid is null", "true") + ", parameters")[before:])
    # The first round inserts what the others change.
    assert {event[LEVEL] for event in rounds[1]} == {0, 1} and "23503" in {event[SQLSTATE] for event in rounds[1]}, rounds[1]
    for nth, found in enumerate(rounds[2:]):
        assert found == rounds[1], (nth, [pair for pair in itertools.zip_longest(rounds[1], found) if pair[0] != pair[1]][:3])
    server.run("delete from app.child where id > 1000")
    one.end()


# --- others that come with the same text ---------------------------------------------------------------------------------


def test_a_rule_adds_a_statement_of_the_same_text(server):
    one = Session(server)
    mark = next(MARKS)
    one.often(one.prepare(f"insert into app.ruled values ($1) /* {mark}*/", INT4), "1", times=8)
    found = events(server, mark)
    assert [event[COMMAND] for event in found] == ["INSERT", "UPDATE"] * 8, [event[COMMAND] for event in found]
    all_same(found[::2], 8)
    all_same(found[1::2], 8)
    one.end()


TEXT_OF_FUNCTIONS = "select count(*) from app.open"


def nested(server, session):
    return server.audit("session_id = %s and event = 'statement' and statement = %s", session, TEXT_OF_FUNCTIONS, columns=WHOLE)


def test_a_block_that_runs_the_same_text_is_around_it(server):
    one = Session(server)
    session = session_of(one.wire)
    block = f"do $$begin for n in 1..5 loop execute '{TEXT_OF_FUNCTIONS}'; end loop; end$$"
    one.query(block)
    first = nested(server, session)
    all_same(first, 5)
    one.everywhere(one.prepare(TEXT_OF_FUNCTIONS))
    one.query(block)
    found = nested(server, session)
    assert [event[LEVEL] for event in found] == [1] * 5 + [0] * (PLACES * 5) + [1] * 5, "a level is not its own"
    all_same(found[:5] + found[-5:], 10)
    one.end()


def test_what_a_block_ran_is_not_what_the_client_sends(server):
    one = Session(server)
    session = session_of(one.wire)
    for _ in range(3):
        one.query(f"do $$begin for n in 1..8 loop execute '{TEXT_OF_FUNCTIONS}'; end loop; end$$")
    one.everywhere(one.prepare(TEXT_OF_FUNCTIONS), times=1)
    found = nested(server, session)
    assert [event[LEVEL] for event in found] == [1] * 24 + [0] * (PLACES * 2), [event[LEVEL] for event in found]
    all_same(found[:24], 24)
    one.end()


def test_a_function_that_the_protocol_calls_is_around_it(server):
    one = Session(server)
    session = session_of(one.wire)
    oid = server.value("select 'kept.counts()'::regprocedure::oid::int")
    for _ in range(5):
        assert not one.wire.call(oid).errors
    one.everywhere(one.prepare(TEXT_OF_FUNCTIONS))
    for _ in range(5):
        assert not one.wire.call(oid).errors
    found = nested(server, session)
    all_same(found[:5] + found[-5:], 10)
    assert found[0][LEVEL] == 1 and len(found) == 10 + PLACES * 5
    one.end()


def test_a_deferred_trigger_that_runs_the_same_text_is_nobodys_statement(server):
    one = Session(server)
    session = session_of(one.wire)
    one.query("begin; insert into app.looked values (1), (2), (3); commit")
    one.everywhere(one.prepare(TEXT_OF_FUNCTIONS))
    one.query("begin; insert into app.looked values (1), (2), (3); commit")
    found = nested(server, session)
    all_same(found[:3] + found[-3:], 6)
    assert found[0][LEVEL] == 1 and len(found) == 6 + PLACES * 5
    one.end()


def test_a_deferred_foreign_key_asks_for_itself(server):
    one = Session(server)
    session = session_of(one.wire)
    asks = "insert into app.ref values (1)"
    one.query(asks)
    [(text,)] = server.audit("session_id = %s and statement like '%%KEY SHARE%%'", session, columns="statement")
    one.everywhere(one.prepare(text, INT4), "1")
    for _ in range(3):
        one.query(asks)
    found = server.audit("session_id = %s and statement = %s", session, text, columns=WHOLE + ", parameters")
    all_same(found[:1] + found[-3:], 4)
    assert found[0][LEVEL] == 1 and len(found) == 4 + PLACES * 5
    one.end()


# --- what comes while it runs --------------------------------------------------------------------------------------------


def test_the_limit_of_another_function_of_the_name_holds(server):
    """The relations are the same: that another function stands for the name turns out when it is prepared to run."""
    one = Session(server, ("allow", "select", "app.open"), ("allow", "execute", "function app.lower(text)", {"max_rows": 1}))
    one.query("set search_path = pg_catalog, app")
    text = f"select lower(v) from app.open where id <= $1 /* {next(MARKS)}*/"
    kept = one.prepare(text, INT4)
    one.often(kept, "3")
    one.query("set search_path = app, pg_catalog")
    for _ in range(3):
        reply = one.execute(kept, "3")
        assert reply.sqlstate == LIMIT and "max_rows" in str(reply.errors), reply
    assert one.run(kept, "1") == [("open-1",)]
    one.query("set search_path = pg_catalog, app")
    assert len(one.run(kept, "3")) == 3
    one.end()


def test_the_limit_of_a_function_that_a_parameter_leaves_out_holds(server):
    """The planner drops what a parameter makes needless: the function is in the one plan and not in the other."""
    one = Session(server, ("allow", "select", "app.open"), ("allow", "execute", "function app.lower(text)", {"max_rows": 1}))
    kept = one.prepare(f"select v from app.open where id <= $1 and ($2 = 0 or app.lower(v) <> '') /* {next(MARKS)}*/", INT4, INT4)
    one.query("set plan_cache_mode = force_custom_plan")
    for _ in range(3):
        one.often(kept, "3", "0")
        reply = one.execute(kept, "3", "1")
        assert reply.sqlstate == LIMIT and "max_rows" in str(reply.errors), reply
    one.end()


def test_another_function_of_the_name_is_held(server):
    one = Session(server, ("allow", "select", "app.open"))
    server.run(f"select agent_guard.require_approval('{one.policy}', array['execute'], array['function app.lower(text)'], approvers => array['keeper'::regrole])")
    one.query("set search_path = pg_catalog, app")
    kept = one.kept(f"select lower(v) from app.open where id <= $1 /* {next(MARKS)}*/", INT4)
    one.query("set search_path = app, pg_catalog")
    one.refused(kept, "3", sqlstate="PGA01")
    one.query("set search_path = pg_catalog, app")
    one.often(kept, "3")
    one.end()


def test_another_function_of_the_name_is_denied(server):
    one = Session(server, ("allow", "select", "app.open"))
    one.query("set search_path = pg_catalog, app")
    kept = one.kept(f"select lower(v) from app.open where id <= $1 /* {next(MARKS)}*/", INT4)
    one.query("set search_path = app, pg_catalog")
    one.refused(kept, "3", match="app.lower")
    one.end()


def test_another_function_of_the_name_is_recorded(server):
    one = Session(server)
    mark = next(MARKS)
    kept = one.prepare(f"select lower(v) from app.open where id = $1 /* {mark}*/", INT4)
    paths = ["pg_catalog, app", "app, pg_catalog"] * 3
    for path in paths:
        one.query(f"set search_path = {path}")
        one.often(kept, "1")
    found = events(server, mark)
    sets = [found[nth * 6 : nth * 6 + 6] for nth in range(6)]
    all_same([event for of_path in sets[::2] for event in of_path], 18)
    all_same([event for of_path in sets[1::2] for event in of_path], 18)
    asked = [[access["object"] for access in of_path[0][ACCESSES]] for of_path in sets[:2]]
    assert asked == [["app.open"], ["app.open", "app.lower(text)"]], asked
    one.end()


def test_a_secret_that_it_turned_out_to_hold_is_taken_out_of_it(server):
    """A trigger makes a password of what a statement that came often before has inserted."""
    one = Session(server)
    mark, secret = next(MARKS), "Mirabelle-88"
    kept = one.prepare(f"insert into app.entries values ($1, '{secret}') /* {mark}*/", INT4)
    one.often(kept, "1")
    server.run("update app.switch set armed = true")
    try:
        one.often(kept, "2", times=3)
    finally:
        server.run("update app.switch set armed = false")
    one.often(kept, "3", times=3)
    found = events(server, mark, "parameters[1], statement like '%%Mirabelle%%'")
    assert found == [("1", True)] * 6 + [("2", False)] * 3 + [("3", True)] * 3, found
    one.end()


def test_what_a_block_ran_with_a_secret_leaves_no_level_behind(server):
    one = Session(server)
    session = session_of(one.wire)
    text = "insert into app.entries values (7, 'Reineclaude-99')"
    for _ in range(3):
        one.query(f"do $$begin for n in 1..8 loop execute {quoted(text)}; end loop; end$$")
    name = one.prepare(text)
    server.run("update app.switch set armed = true")
    try:
        one.everywhere(name, times=1)
    finally:
        server.run("update app.switch set armed = false")
    one.everywhere(name, times=2)
    found = server.audit("session_id = %s and command = 'INSERT'", session, columns="level")
    assert [event[0] for event in found] == [1] * 24 + [0] * (PLACES * 3), [(nth, event[0]) for nth, event in enumerate(found) if event[0] != (nth < 24)]
    one.end()


# --- the token ------------------------------------------------------------------------------------------------------------


def test_a_token_of_one_transaction_ends_with_it(server):
    one = Session(server, startup=False)
    mark = next(MARKS)
    wire = one.wire
    one.query(f"begin; set local agent_guard.token = '{one.token}'")
    kept = one.kept(f"select id from app.open /* {mark}*/")
    for end in ("commit", "rollback"):
        one.query(end)
        one.refused(kept, sqlstate=UNAUTHENTICATED)
        one.query(f"begin; set local agent_guard.token = '{one.token}'")
        one.often(kept)
    one.query("savepoint s")
    for change in ("reset agent_guard.token", "discard plans; reset all"):
        one.query(change)
        one.refused(kept, sqlstate=UNAUTHENTICATED)
        one.query("rollback")
        one.query(f"begin; set local agent_guard.token = '{one.token}'")
        one.often(kept)
    one.query("commit")
    one.query(f"set agent_guard.token = '{one.token}'")
    one.often(kept)
    one.query("discard all")
    refused = wire.query(f"select id from app.open /* {mark}*/")
    assert refused.sqlstate == UNAUTHENTICATED, refused
    found = events(server, mark, "session_id, decision, accesses is null, rows")
    denied = [event for event in found if event[1] == "deny"]
    assert len(denied) == 5 and all(event[0] is None or event[2] for event in denied), denied
    allowed = [event[0] for event in found if event[1] == "allow"]
    assert [len(list(run)) for _, run in itertools.groupby(allowed)] == [6] * 6 and len(set(allowed)) == 6, allowed
    one.end()


def test_a_narrower_token_starts_anew(server):
    one = Session(server, max_depth=1)
    kept = one.kept(f"select id from app.open /* {next(MARKS)}*/")
    narrow = child(one.token, rel=["app.child"])
    one.query(f"set agent_guard.token = '{narrow}'")
    one.refused(kept, match="block")
    one.query(f"set agent_guard.token = '{one.token}'")
    one.often(kept)
    one.end()


def test_a_revocation_is_heard_also_while_the_warden_stands_still(server):
    one = Session(server)
    kept = one.kept(f"select id from app.open /* {next(MARKS)}*/")
    with stopped(warden(server)):
        server.run(f"select agent_guard.revoke_window('{one.window_id}')")
        one.refused(kept, sqlstate=UNAUTHENTICATED, match="reason=revoked")
    one.end()


def test_the_revocation_of_others_changes_nothing(server):
    one, other = Session(server), Session(server)
    mark = next(MARKS)
    kept = one.kept(f"select id from app.open /* {mark}*/")
    server.run(f"select agent_guard.revoke_window('{other.window_id}')")
    one.often(kept)
    all_same(events(server, mark), 12)
    one.end(), other.end()


def test_its_time_is_over_also_while_the_warden_stands_still(server):
    one = Session(server, startup=False, max_depth=1)
    mark = next(MARKS)
    short = child(one.token, seconds=4)
    one.query(f"set agent_guard.token = '{short}'")
    kept = one.kept(f"select id from app.open /* {mark}*/")
    with stopped(warden(server)):
        eventually(lambda: time.time() > claims_of(short)["exp"] + 0.05, "its time is over")
        one.refused(kept, sqlstate=UNAUTHENTICATED, match="reason=expired")
    one.end()


def test_what_it_did_goes_with_the_token_that_ends_before_the_commit(server):
    """A pipelined statement without BEGIN: nothing else has told that the transaction runs under the token."""
    for held in (False, True):
        one = Session(server)
        kept = one.prepare(f"insert into app.open values (($1)::int + 5000, 'pipelined') on conflict do nothing /* {next(MARKS)}*/", INT4)
        one.often(kept, "1")
        before = server.value("select count(*) from app.open where id = 5077")
        assert before == 0
        with stopped(warden(server)) if held else contextlib.nullcontext():
            one.wire.bind(statement=kept, values=["77"])
            one.wire.execute()
            one.wire.flush()
            assert one.wire.until("C").types.endswith("C")
            server.run(f"select agent_guard.revoke_window('{one.window_id}')")
            reply = one.wire.sync()
            assert reply.closed or reply.sqlstate in (CLOSED, UNAUTHENTICATED, "57P01"), reply
        assert server.value("select count(*) from app.open where id = 5077") == 0, "it was committed"
        one.wire.drop()
    server.run("delete from app.open where id > 5000")


def test_a_transaction_that_has_to_go_runs_nothing_more(server):
    """It ran under two tokens, of which the earlier one is revoked. The other one has heard of that once, and was not meant."""
    one, other = Session(server, startup=False), Session(server)
    kept = one.prepare(f"update app.open set v = v where id = $1 /* {next(MARKS)}*/", INT4)
    with stopped(warden(server)):
        one.query(f"begin; set local agent_guard.token = '{other.token}'")
        one.often(kept, "1", times=2)
        one.query(f"set local agent_guard.token = '{one.token}'")
        one.often(kept, "1")
        one.query("savepoint s")
        server.run(f"select agent_guard.revoke_window('{other.window_id}')")
        for _ in range(3):
            one.refused(kept, "1", sqlstate=CLOSED, match="reason=revoked")
            one.query("rollback to s")
        one.query("rollback")
    one.end(), other.end()


def test_where_denials_are_only_recorded_a_token_that_is_gone_is_too(server):
    one = Session(server, startup=False)
    mark = next(MARKS)
    one.query(f"begin; set local agent_guard.token = '{one.token}'")
    kept = one.kept(f"select id from app.open /* {mark}*/")
    one.query("commit")
    reload(server, "agent_guard.enforcement", "observe")
    try:
        assert len(one.run(kept)) == 3
        one.query(f"begin; set local agent_guard.token = '{one.token}'")
        one.often(kept, times=4)
        server.run(f"select agent_guard.deny('{one.policy}', array['select'], array['app.open'])")
        one.often(kept, times=4)
        one.query("commit")
    finally:
        reload(server, "agent_guard.enforcement", "enforce")
    one.refused(kept, sqlstate=UNAUTHENTICATED)
    found = events(server, mark, "decision, session_id is null")
    told = [("allow", False)] * 6 + [("observe", True)] + [("allow", False)] * 4 + [("observe", False)] * 4 + [("deny", True)]
    assert found == told, found
    one.end()


def test_a_standby_looks_for_revocations_each_time(server):
    """Those of the primary are in the tables alone until the standby's writer has looked around."""
    # So that there is a key to be copied.
    Session(server).end()
    standby = guard.Server("attack_reopened_standby", ["agent_guard.journal = on"]).start_standby(server)
    try:
        one = Session(server, standby=standby)
        kept = one.kept(f"select id from app.open /* {next(MARKS)}*/")
        with stopped(writer(standby)):
            server.run(f"select agent_guard.revoke_window('{one.window_id}')")
            caught_up(server, standby)
            reply = one.execute(kept)
            # Not even the refusal can be recorded.
            assert reply.sqlstate in (UNAUTHENTICATED, "53100") and not reply.rows, reply
        one.refused(kept, sqlstate=UNAUTHENTICATED, match="reason=revoked")
        one.end()
    finally:
        standby.stop()


# --- the policy and what hangs on it --------------------------------------------------------------------------------------


CHANGES = [
    # What changes, what the runs after it answer (an SQLSTATE, or none) and the rows that they return, what puts it back.
    ("deny('{policy}', array['select'], array['app.open'])", [(DENIED, [])], None),
    ("deny('{policy}', array['select'], array['app.open(v)'])", [(DENIED, [])], None),
    ("require_approval('{policy}', array['select'], array['app.open'], approvers => array['keeper'::regrole])", [("PGA01", [])], None),
    ("set_limits('{policy}', statements => 1)", [("", ["open-1", "open-2"]), (LIMIT, [])], None),
    ("set_limits('{policy}', rows_per_statement => 1)", [(LIMIT, ["open-1"]), (LIMIT, ["open-1"])], None),
    ("set_limits('{policy}', rows_read => 3)", [("", ["open-1", "open-2"]), (LIMIT, ["open-1"])], None),
    ("filter_rows('{policy}', 'app.open', 'id = 2')", [("", ["open-2"])] * 3, "unfilter_rows('{policy}', 'app.open')"),
    ("mask_column('app.open', 'v', expression => '''m'' || id')", [("", ["m1", "m2"])] * 3, "unmask_column('app.open', 'v')"),
]


def test_what_changes_in_the_policy_holds_for_the_next_run(server):
    wrong = []
    for change, answers, back in CHANGES:
        one = Session(server)
        kept = one.kept(f"select v from app.open where id <= $1 /* {next(MARKS)}*/", INT4)
        server.run(f"select agent_guard.{change.format(policy=one.policy)}")
        for nth, (sqlstate, rows) in enumerate(answers):
            reply = one.execute(kept, "2")
            if (reply.sqlstate, [row[0] for row in reply.text()]) != (sqlstate, rows):
                wrong.append(f"{change}, run {nth + 1}: {reply.sqlstate} {reply.text()}")
        if back:
            server.run(f"select agent_guard.{back.format(policy=one.policy)}")
            if one.run(kept, "2") != [("open-1",), ("open-2",)]:
                wrong.append(f"{change}: it is not put back")
        one.end()
    assert not wrong, "\n" + "\n".join(wrong)


def test_results_are_recorded_from_the_next_run_on(server):
    one = Session(server)
    mark = next(MARKS)
    kept = one.kept(f"select v from app.open where id <= $1 /* {mark}*/", INT4)
    session = session_of(one.wire)
    server.run(f"select agent_guard.set_recording('{one.policy}', 'rows')")
    one.often(kept, "2", times=3)
    assert len(server.audit("session_id = %s and event = 'results'", session, columns="seq")) == 3
    server.run(f"select agent_guard.set_recording('{one.policy}', 'none')")
    one.often(kept, "2", times=3)
    assert len(server.audit("session_id = %s and event = 'results'", session, columns="seq")) == 3
    assert len(events(server, mark, "seq")) == 12
    one.end()


def test_another_table_of_the_name_is_another_one(server):
    one = Session(server)
    one.query("set search_path = app, elsewhere")
    kept = one.kept(f"select v from open where id = $1 /* {next(MARKS)}*/", INT4)
    one.query("set search_path = elsewhere, app")
    one.refused(kept, "1", match="elsewhere.open")
    one.query("set search_path = app, elsewhere")
    one.often(kept, "1")
    one.end()


def test_columns_are_told_by_the_names_that_they_have(server):
    """Only columns that a whole-row reference reads are renamed, so that the text goes on to mean the same ones."""
    server.run("create table app.columns (id int, v text); grant all on app.columns to owner")
    one = Session(server)
    mark = next(MARKS)
    text = f"select count(v) from app.columns as c (id, v) where id = $1 /* {mark}*/"
    kept = one.kept(text, INT4)
    server.run("alter table app.columns rename column v to w")
    one.often(kept, "1")
    found = events(server, mark, "accesses->0->>'columns'")
    assert found == [("id,v",)] * 6 + [("id,w",)] * 6, found
    one.end()


# --- what the client and the server call themselves -----------------------------------------------------------------------


def test_the_application_is_the_one_of_the_moment(server):
    one = Session(server)
    mark = next(MARKS)
    kept = one.kept(f"select id from app.open /* {mark}*/")
    one.query("set application_name = 'first'")
    one.often(kept, times=3)
    one.query("begin; set local application_name = 'second'")
    one.often(kept, times=3)
    one.query("rollback")
    one.often(kept, times=3)
    one.query("begin")
    one.wire.bind("open", kept)
    one.wire.execute("open", 1)
    one.wire.sync()
    one.query("set application_name = 'third'")
    one.query("commit")
    found = [event[0] for event in events(server, mark, "application_name")]
    assert found == [None] * 6 + ["first"] * 3 + ["second"] * 3 + ["first"] * 3 + ["third"], found
    one.end()


# --- journal = sync --------------------------------------------------------------------------------------------------------


def silence(wire):
    """What arrives for a while."""
    wire.socket.settimeout(0.5)
    try:
        seen = wire.socket.recv(1 << 20)
    except TimeoutError:
        seen = b""
    wire.socket.settimeout(30)
    wire.buffer += seen
    return seen


def test_a_journal_that_is_to_be_waited_for_from_here_on_is_waited_for(server):
    """Between Bind and Close: the end has to wait as well."""
    one = Session(server)
    wire = one.wire
    kept = one.kept(f"select id from app.open where id < $1 /* {next(MARKS)}*/", INT4)
    one.query("begin")
    wire.bind("p", kept, ["9"])
    wire.sync()
    reload(server, "agent_guard.journal", "sync")
    try:
        wire.execute("p", 1)
        assert len(wire.sync().rows) == 1
        with stopped(writer(server)):
            wire.close_object("P", "p")
            wire.send("S")
            assert silence(wire) == b"", "it ends before its event is on disk"
        assert not wire.until("Z").errors
        one.query("commit")
    finally:
        reload(server, "agent_guard.journal", "on")
    one.end()


def test_rows_wait_for_the_journal_whatever_was_recorded_of_the_run_before(server):
    """That a run has begun is recorded for that run: the next one waits for its own event."""
    one = Session(server)
    wire = one.wire
    kept = one.kept(f"select id from app.open where id < $1 /* {next(MARKS)}*/", INT4)
    for nth in range(3):
        one.query("begin")
        wire.bind("p", kept, ["9"])
        wire.sync()
        reload(server, "agent_guard.journal", "sync")
        try:
            with stopped(writer(server)):
                wire.execute("p", 1)
                wire.send("S")
                assert silence(wire) == b"", f"run {nth + 1}: rows leave before anything is on disk"
            assert len(wire.until("Z").rows) == 1
        finally:
            reload(server, "agent_guard.journal", "on")
        wire.close_object("P", "p")
        wire.sync()
        one.query("commit")
    one.end()


def test_runs_go_on_with_another_writer(server):
    one = Session(server)
    mark = next(MARKS)
    kept = one.kept(f"select id from app.open /* {mark}*/")
    for _ in range(3):
        server.rows("select pg_terminate_backend(%s)", writer(server))
        one.often(kept, times=20)
    all_same(events(server, mark), 66)
    one.end()


# --- room in the trail -----------------------------------------------------------------------------------------------------


def test_no_run_goes_without_room_for_its_event(server):
    small = guard.Server("attack_reopened_small", ["agent_guard.audit_timeout = '300ms'", "agent_guard.audit_buffer = 1MB"]).start()
    try:
        small.run("create extension agent_guard")
        setup(small)
        one = Session(small)
        mark = next(MARKS)
        kept = one.kept(f"insert into app.followed values ($1) /* {mark}*/", INT4)
        ran = 6
        with stopped(writer(small)):
            while not (reply := one.execute(kept, "1")).errors:
                ran += 1
                assert ran < 20000, "the ring takes everything"
            assert reply.sqlstate == "53100" and ran > 100, reply
            one.refused(kept, "1", sqlstate="53100")
        assert small.value("select count(*) from app.followed where n = 1") == ran
        eventually(lambda: not one.execute(kept, "2").errors, "there is room again")
        found = events(small, mark, "parameters[1], sqlstate")
        assert [event[0] for event in found if not event[1]] .count("1") == ran, (len(found), ran)
        assert small.value("select dropped from agent_guard.stat") == 0

        # As many portals as another session may hold open, and no more.
        counts = []
        for often in (1, 6):
            other = Session(small)
            names = [other.prepare(f"select id from app.open /* {number} {'x' * 3900}*/") for number in range(64)]
            for name in names:
                other.often(name, times=often)
            other.query("begin")
            opened = 0
            for number, name in enumerate(names):
                other.wire.bind(f"p{number}", name)
                other.wire.execute(f"p{number}", 1)
                if other.wire.sync().errors:
                    break
                opened += 1
            counts.append(opened)
            other.end()
        assert counts[0] == counts[1] < 64, counts

        # Without the extension there is no policy, and soon no writer.
        small.run("drop extension agent_guard cascade")
        for _ in range(3):
            assert one.execute(kept, "1").sqlstate in ("XX000", "53100", DENIED), "it ran without the extension"
        one.end()
    finally:
        small.stop()


if __name__ == "__main__":
    guard.run(globals(), conf=CONF)
