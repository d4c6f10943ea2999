"""A statement that has ended is opened again as it was left only under the same token, policy, names and journal, and with room in the trail.

Each statement comes often enough to be opened so, then one circumstance changes (see `attack_reopened.py`).
"""

import contextlib
import itertools
import time

import guard
from guard import CLOSED, DENIED, LIMIT, UNAUTHENTICATED, eventually, reload, stopped, warden
from kept import (
    CONF,
    INT4,
    MARKS,
    RUNS,
    SQLSTATE,
    all_same,
    caught_up,
    events,
    Session,
    session_of,
    setup,
    writer,
)
from tokens import child, claims_of

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
    one.query(f"set agent_guard.token = '{one.token}'")
    kept = one.prepare(f"select id from app.open /* {mark}*/")
    # Where it ends before that is done it is given twice the time.
    for seconds in (4, 8, 16, 32):
        short = child(one.token, seconds=seconds)
        one.query(f"set agent_guard.token = '{short}'")
        if not any(one.execute(kept).errors for _ in range(RUNS)):
            break
    with stopped(warden(server)):
        eventually(lambda: time.time() > claims_of(short)["exp"] + 0.05, "its time is over", 60)
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
    small = guard.Server("attack_reopened_small", ["agent_guard.audit_timeout = '20s'", "agent_guard.audit_buffer = 1MB"]).start()
    try:
        small.run("create extension agent_guard")
        setup(small)
        one = Session(small)
        mark = next(MARKS)
        kept = one.kept(f"insert into app.followed values ($1) /* {mark}*/", INT4)
        ran = 6
        reload(small, "agent_guard.audit_timeout", "300ms")
        with stopped(writer(small)):
            while not (reply := one.execute(kept, "1")).errors:
                ran += 1
                assert ran < 20000, "the ring takes everything"
            assert reply.sqlstate == "53100" and ran > 100, reply
            one.refused(kept, "1", sqlstate="53100")
        assert small.value("select count(*) from app.followed where n = 1") == ran
        # Long enough for a writer that a busy machine stops, too.
        reload(small, "agent_guard.audit_timeout", "5s")
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
            assert one.execute(kept, "1").sqlstate in (UNAUTHENTICATED, "53100"), "it ran without the extension"
        one.end()
    finally:
        small.stop()


if __name__ == "__main__":
    guard.run(globals(), conf=CONF)
