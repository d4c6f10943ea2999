"""A statement that has ended is kept, and opened as it was left when it comes again. Nobody may notice but by the clock.

Each statement comes often enough to be opened so, then one circumstance changes: what is decided, recorded and answered is what
it would be for a statement that comes for the first time. Events are compared as wholes.
"""

import itertools
import time

import guard
from guard import LIMIT
from kept import (
    ACCESSES,
    COMMAND,
    CONF,
    INT4,
    INT8,
    LEVEL,
    MARKS,
    RULES,
    RUNS,
    SQLSTATE,
    TEXT,
    WHOLE,
    all_same,
    events,
    quoted,
    Session,
    session_of,
    setup,
)
from tokens import child

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
    one.often(one.prepare(TEXT_OF_FUNCTIONS))
    one.query(block)
    found = nested(server, session)
    assert [event[LEVEL] for event in found] == [1] * 5 + [0] * RUNS + [1] * 5, "a level is not its own"
    all_same(found[:5] + found[-5:], 10)
    one.end()


def test_what_a_block_ran_is_not_what_the_client_sends(server):
    one = Session(server)
    session = session_of(one.wire)
    for _ in range(3):
        one.query(f"do $$begin for n in 1..8 loop execute '{TEXT_OF_FUNCTIONS}'; end loop; end$$")
    one.often(one.prepare(TEXT_OF_FUNCTIONS))
    found = nested(server, session)
    assert [event[LEVEL] for event in found] == [1] * 24 + [0] * RUNS, [event[LEVEL] for event in found]
    all_same(found[:24], 24)
    one.end()


def test_a_function_that_the_protocol_calls_is_around_it(server):
    one = Session(server)
    session = session_of(one.wire)
    oid = server.value("select 'kept.counts()'::regprocedure::oid::int")
    for _ in range(5):
        assert not one.wire.call(oid).errors
    one.often(one.prepare(TEXT_OF_FUNCTIONS))
    for _ in range(5):
        assert not one.wire.call(oid).errors
    found = nested(server, session)
    all_same(found[:5] + found[-5:], 10)
    assert found[0][LEVEL] == 1 and len(found) == 10 + RUNS
    one.end()


def test_a_deferred_trigger_that_runs_the_same_text_is_nobodys_statement(server):
    one = Session(server)
    session = session_of(one.wire)
    one.query("begin; insert into app.looked values (1), (2), (3); commit")
    one.often(one.prepare(TEXT_OF_FUNCTIONS))
    one.query("begin; insert into app.looked values (1), (2), (3); commit")
    found = nested(server, session)
    all_same(found[:3] + found[-3:], 6)
    assert found[0][LEVEL] == 1 and len(found) == 6 + RUNS
    one.end()


def test_a_deferred_foreign_key_asks_for_itself(server):
    one = Session(server)
    session = session_of(one.wire)
    asks = "insert into app.ref values (1)"
    one.query(asks)
    [(text,)] = server.audit("session_id = %s and statement like '%%KEY SHARE%%'", session, columns="statement")
    one.often(one.prepare(text, INT4), "1")
    for _ in range(3):
        one.query(asks)
    found = server.audit("session_id = %s and statement = %s", session, text, columns=WHOLE + ", parameters")
    all_same(found[:1] + found[-3:], 4)
    assert found[0][LEVEL] == 1 and len(found) == 4 + RUNS
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
        one.often(name)
    finally:
        server.run("update app.switch set armed = false")
    one.often(name)
    found = server.audit("session_id = %s and command = 'INSERT'", session, columns="level")
    assert [event[0] for event in found] == [1] * 24 + [0] * (RUNS * 2), [(nth, event[0]) for nth, event in enumerate(found) if event[0] != (nth < 24)]
    one.end()


if __name__ == "__main__":
    guard.run(globals(), conf=CONF)
