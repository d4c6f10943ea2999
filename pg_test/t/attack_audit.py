"""Everything that an agent's session does is in the trail exactly once, whatever becomes of the statement, the backend or
the writer; and nothing that it sends forges a line.
"""

import hashlib
import itertools
import time

import psycopg

import guard
import scene
from guard import DENIED, UNAUTHENTICATED, bind, eventually, expect
from scene import Agent
from tokens import block_id, child

RULES = [("allow", ["select", "insert", "update", "delete"], "app.*"), ("deny", "*", "app.secret"), ("allow", "execute", "function app.*"), ("allow", "system", "*"), ("allow", "create table", "app.*")]
_marks = itertools.count(1)


def setup(server):
    scene.setup(server)
    server.run("create function app.nested() returns bigint language plpgsql as $$begin return (select count(*) from app.child); end$$; alter function app.nested() owner to owner")
    server.run("create function app.fails() returns int language plpgsql as $$begin return 1 / 0; end$$; alter function app.fails() owner to owner")


def mark():
    return f"mark{next(_marks)}x"


def events(server, text):
    return server.audit("statement like %s", f"%{text}%", columns="level, decision, sqlstate, command, rows, session_id, lineage, role, pid")


def once(server, text, decision, sqlstate=None, level=0):
    found = [event for event in events(server, text) if event[0] == level]
    assert len(found) == 1, f"{len(found)} events at level {level}: {found}"
    assert found[0][1] == decision and found[0][2] == sqlstate, found[0]
    return found[0]


# What is sent -> decision and SQLSTATE in the trail.
SENT = [
    ("select count(*) from app.open /* {} */", "allow", None),
    ("select * from app.secret /* {} */", "deny", DENIED),
    ("selec /* {} */", None, "42601"),
    ("select * from app.nothing /* {} */", None, "42P01"),
    ("select 1 / 0 /* {} */", None, "22012"),
    ("select 1 / (id - 1) from app.open /* {} */", "allow", "22012"),
    ("insert into app.open values (1) /* {} */", "allow", "23505"),
    ("create table app.t (n int) /* {} */", "allow", None),
    ("drop table app.child /* {} */", "deny", DENIED),
    ("drop table app.nothing /* {} */", None, "42P01"),
    ("show work_mem /* {} */", "allow", None),
    ("set role owner /* {} */", "deny", DENIED),
    ("select app.fails() /* {} */", "allow", "22012"),
    ("do $$begin perform 1 / 0; exception when others then null; end /* {} */ $$", "allow", None),
    # The block itself is allowed; what it runs is an event below it.
    ("do $$begin perform 1 from app.secret; exception when others then null; end /* {} */ $$", "allow", None),
    ("do $$begin perform 1 from app.secret; end /* {} */ $$", "allow", DENIED),
    ("copy app.open to stdout /* {} */", "allow", None),
    ("explain analyze select * from app.open /* {} */", "allow", None),
    ("prepare {} as select 1", "allow", None),
    ("select 'a'::app.mood /* {} */", None, "22P02"),
    ("update app.open set id = null /* {} */", "allow", "23502"),
    ("select pg_sleep(9) /* {} */", "deny", DENIED),
    ("vacuum app.open /* {} */", "deny", DENIED),
]


def test_every_fate_of_a_statement_is_recorded_once(server):
    wrong = []
    wire = {}
    with Agent(server, *RULES) as agent:
        for way in ("simple", "extended"):
            wire[way] = server.wire("owner", options=f"-c agent_guard.token={agent.token}")
        for text, decision, sqlstate in SENT:
            for way in ("simple", "extended"):
                sent = mark()
                statement = text.format(sent)
                reply = wire[way].query(statement) if way == "simple" else wire[way].extended(statement)
                if statement.startswith("create table"):
                    server.run("drop table app.t")
                if (reply.sqlstate or None) != sqlstate:
                    wrong.append(f"{way} {statement}: the client saw {reply.sqlstate or 'success'} {reply.errors}")
                found = [(event[1], event[2]) for event in events(server, sent) if event[0] == 0]
                expected = [(decision, sqlstate)]
                if found != expected:
                    wrong.append(f"{way} {statement}: {found}, expected {expected}")
    for one in wire.values():
        one.close()
    assert not wrong, "\n" + "\n".join(wrong)


def test_what_is_refused_without_a_token_is_recorded_with_its_parameters(server):
    given = ("7", "some value", None)
    statements = ("select id from app.open where id = %s::int and v = %s and v is not distinct from %s::text -- {}", "insert into app.open values (%s::int, %s, %s::text) -- {}", "update app.open set v = %s, hidden = %s || %s::text -- {}", "delete from app.open where id = length(%s) and v = %s and hidden = %s::text -- {}", "call app.takes(%s, %s, %s) -- {}")
    server.run("create procedure app.takes(text, text, text) language plpgsql as 'begin null; end'; alter procedure app.takes(text, text, text) owner to owner")
    with server.connect("owner") as connection:
        for statement in statements:
            text = mark()
            expect(UNAUTHENTICATED, connection.execute, statement.format(text), given)
            assert server.audit("statement like %s", f"%{text}%", columns="decision, parameters") == [("deny", list(given))], statement
    with Agent(server, ("allow", ["select", "insert", "update", "delete"], "app.open")) as agent:
        for statement in (statements[0], statements[4]):
            text = mark()
            before = statement.format(text)
            try:
                agent.connection.execute(before, given)
            except psycopg.Error as error:
                assert error.sqlstate == DENIED, error
            assert server.audit("statement like %s", f"%{text}%", columns="parameters") == [(list(given),)], statement


def test_parameters_are_those_of_their_own_statement(server):
    """Records reuse the memory of the one before."""
    with Agent(server, ("allow", "select", "app.*")) as agent:
        agent.connection.execute("select v from app.open where id = %s /* own-1 */", (3000000000,))
        agent.connection.execute("show work_mem /* own-2 */")
        agent.connection.execute("select v from app.open /* own-3 */")
        agent.connection.execute("select v from app.open where id = %s and v <> %s /* own-4 */", (-9223372036854775808, "x"))
        found = server.audit("session_id = (select session_id from agent_guard.audit where statement like %s) and statement like %s", "%own-1%", "%own-_ %", columns="parameters")
    assert found == [(["3000000000"],), (None,), (None,), (["-9223372036854775808", "x"],)], found


def test_what_parameters_were_sent_can_be_proven_where_they_are_cut(server):
    """By their length and SHA-256, which an auditor who holds the values computes by one query."""
    lists = {
        "one that is long": ["x" * 9000],
        "one beside others": ["a", None, "y" * 20_000, "7"],
        "many": [f"{n} " + "z" * 2000 for n in range(12)],
        "what JSON escapes": ["\"\\\n\t\x01\x1f\x7f/\u20ac\U0001f600" * 900, "\b\f\r", ""],
        "a megabyte": ["\u20ac" * 300_000],
        "short ones": ["a", None, "3"],
        "just short enough": ["x" * 8000],
    }
    columns = "parameters, truncated, parameters_length, parameters_sha256, decision, statement"
    compute = "select octet_length(json), sha256(json) from (select convert_to(array_to_json(%s::text[])::text, 'UTF8') as json) whole"
    with Agent(server, *RULES) as agent:
        for what, values in lists.items():
            cut = "short" not in what
            for times, table in ((1, "open"), (8, "open"), (1, "secret")):
                sent = mark()
                holes = ", ".join("%s::text" for _ in values)
                text = f"select count(*) from app.{table} where id = 1 and v not in ({holes}) /* {sent} */"
                for _ in range(times):
                    # The last of several is a remembered statement's.
                    try:
                        agent.connection.execute(text, values, prepare=times > 1)
                    except guard.psycopg.Error as error:
                        assert table == "secret" and error.sqlstate == DENIED, error
                found = server.audit("statement like %s", f"%{sent}%", columns=columns)
                assert len(found) == times, f"{what}: {len(found)} events"
                for kept, truncated, length, sha256, decision, _ in found:
                    assert decision == ("deny" if table == "secret" else "allow")
                    assert truncated == (["parameters"] if cut else None), f"{what}: {truncated}"
                    assert (kept == values) != cut and all(ours is None or whole.startswith(ours) for ours, whole in zip(kept, values)), what
                    told = server.rows(compute, values)[0] if cut else (None, None)
                    assert (length, sha256 and bytes(sha256)) == (told[0], told[1] and bytes(told[1])), f"{what}: {length} {told}"
                if cut:
                    other = server.rows(compute, [*values[:-1], (values[-1] or "") + "!"])[0]
                    assert bytes(found[0][3]) != bytes(other[1])
        sent = mark()
        agent.connection.execute(f"select %s::text /* {sent} {'y' * 40_000} */", ["x" * 9000])
        (found,) = server.audit("statement like %s", f"%{sent}%", columns=columns)
        assert found[1] == ["parameters"] and found[2] == 9004 and found[5].endswith("yy */"), found[1:3]
    assert server.value("select intact from agent_guard.verify_audit()")


def test_parameters_have_their_types(server):
    server.run("create type app.pairs as (a int, b text)")
    with Agent(server, *RULES) as agent:
        for given, values in (("int8, text, bytea", ("1", "a", b"\0")), ("numeric[], timestamptz, uuid", ("{1.5}", "2020-01-01", None)), ("jsonb, app.mood, app.pairs", ("{}", "good", "(1,x)"))):
            sent = mark()
            types = given.split(", ")
            agent.connection.execute(f"select /* {sent} */ " + ", ".join(f"%b::{of}" if of == "bytea" else f"%s::{of}" for of in types), values)
            (found,) = server.audit("statement like %s", f"%{sent}%", columns="parameter_types, seq, parameters")
            full = {"int8": "bigint", "timestamptz": "timestamp with time zone"}
            assert found[0] == [full.get(of, of) for of in types], found
            session = agent.connection.execute("select session_id from agent_guard.whoami()").fetchone()[0]
            server.audit("false")
            assert server.value("select parameter_types from agent_guard.replay(%s) where seq = %s", session, found[1]) == found[0]
        sent = mark()
        agent.run(f"select 1 /* {sent} */")
        assert server.audit("statement like %s", f"%{sent}%", columns="parameter_types, parameters") == [(None, None)]
        # CALL plans nothing: what it was given is told with the statement itself.
        server.run("create or replace procedure app.given(n bigint, t text) language plpgsql as 'begin null; end'")
        sent = mark()
        agent.connection.execute(f"call app.given(%s, %s) /* {sent} */", ("77", "words"))
        assert server.audit("statement like %s", f"%{sent}%", columns="parameters, parameter_types") == [(["77", "words"], ["bigint", "text"])]


def test_what_a_deferred_trigger_runs_is_nobodys_statement(server):
    server.run("create table app.late (id int primary key); create table app.ref (id int references app.late deferrable initially deferred); alter table app.late owner to owner; alter table app.ref owner to owner")
    server.run("create function app.looks() returns trigger language plpgsql as $$begin perform 'deferred' from app.late; return null; end$$; create constraint trigger looks after insert on app.late deferrable initially deferred for each row execute function app.looks(); alter function app.looks owner to owner")
    with Agent(server, *RULES) as agent:
        agent.run("insert into app.late values (1)")
        agent.run("insert into app.ref values (1)")
        session = agent.connection.execute("select session_id from agent_guard.whoami()").fetchone()[0]
        agent.run("begin")
        agent.run("insert into app.ref values (2)")
        assert agent.attempt("commit").sqlstate == "23503"
    found = server.audit("session_id = %s and event = 'statement'", session, columns="statement, level")
    assert [row[1] for row in found if "deferred" in row[0] or "KEY SHARE" in row[0]] == [1, 1, 1], found
    assert [row[0] for row in found if row[1] == 0 and "insert" in row[0]] == ["insert into app.late values (1)", "insert into app.ref values (1)", "insert into app.ref values (2)"], found
    steps = server.rows("select statement, depth, effect from agent_guard.replay(%s) order by step", session)
    assert [step[2] for step in steps if step[0] == "commit"] == ["rolled back", "failed"], steps
    assert all(step[1] == 1 for step in steps if step[0] and "KEY SHARE" in step[0]), steps


def test_nested_statements_have_their_level(server):
    with Agent(server, *RULES) as agent:
        sent = mark()
        agent.run(f"select app.nested() /* {sent} */")
        session = once(server, sent, "allow")[5]
        below = server.audit("session_id = %s and level > 0", session, columns="level, statement, decision")
        assert [row[0] for row in below] == [1] and "app.child" in below[0][1], below
        caught = mark()
        agent.run(f"do $$begin perform count(*) from app.secret as {caught}; exception when others then null; end$$")
        below = [event for event in events(server, caught) if event[0] == 1]
        assert len(below) == 1 and below[0][1] == "deny" and below[0][2] == DENIED, below


def test_rolled_back_work_stays_recorded(server):
    with Agent(server, *RULES) as agent:
        one, two = mark(), mark()
        agent.run("begin", f"insert into app.open values (50) /* {one} */", "savepoint s", f"delete from app.open where id = 50 /* {two} */", "rollback to s", "rollback")
        assert once(server, one, "allow")[4] == 1 and once(server, two, "allow")[4] == 1


def test_a_failure_behind_a_savepoint_is_told_as_the_client_heard_it(server):
    with Agent(server, *RULES) as agent:
        top, inner, later = mark(), mark(), mark()
        agent.run("begin", "savepoint s")
        expect("22012", agent.connection.execute, f"select 1 / (id - id) from app.open /* {top} */")
        agent.run("rollback to s", f"do $$begin perform 1 / (id - id) from app.open as {inner}; exception when others then null; end$$")
        agent.run("savepoint s", f"select app.nested() /* {later} */", "rollback")
        told = {sent: server.audit("statement like %s and sqlstate is not null", f"%{sent}%", columns="level, sqlstate, message") for sent in (top, inner, later)}
    assert told[top] == [(0, "22012", "division by zero")], told
    assert [row[:2] for row in told[inner]] == [(1, "P0000")], told[inner]
    assert told[later] == [], "and none is told of a later one"


def test_fast_path_calls_are_recorded(server):
    oid, sleep, user = (server.value(f"select {name}::oid::int") for name in ("'pg_catalog.length(text)'::regprocedure", "'pg_sleep(float8)'::regprocedure", "'app.nested()'::regprocedure"))
    with Agent(server, *RULES) as agent:
        wire = server.wire("owner", options=f"-c agent_guard.token={agent.token}")
        before = len(server.audit())
        assert wire.call(oid, ["ABC"]).value == b"3"
        assert wire.call(sleep, ["0"]).sqlstate == DENIED
        assert wire.call(user).value == b"2"
        found = [row for row in server.audit(columns="command, statement, decision, sqlstate")[before:] if row[0] == "FASTPATH"]
        assert [(row[2], row[3]) for row in found] == [("allow", None), ("deny", DENIED), ("allow", None)], found
        wire.close()


def test_a_terminated_backend_leaves_its_statement(server):
    with Agent(server, *RULES, ("allow", "execute", "function pg_catalog.pg_sleep(double precision)")) as agent:
        for ending in ("pg_terminate_backend", "pg_cancel_backend"):
            wire = server.wire("owner", options=f"-c agent_guard.token={agent.token}")
            assert not wire.query("select 1").errors
            sent = mark()
            wire.send("Q", f"select pg_sleep(60) /* {sent} */\0".encode())
            pid = eventually(lambda: server.rows("select pid from pg_stat_activity where query like %s and wait_event = 'PgSleep'", f"%pg_sleep(60) /* {sent}%"), "sleeping")[0][0]
            server.rows(f"select {ending}(%s)", pid)
            reply = wire.until("Z")
            state = "57P01" if ending == "pg_terminate_backend" else "57014"
            assert reply.sqlstate == state, reply
            eventually(lambda: events(server, sent), "recorded")
            once(server, sent, "allow", state)
            wire.close()


def test_a_disconnect_in_the_middle_leaves_its_statement(server):
    with Agent(server, *RULES, ("allow", "execute", "function pg_catalog.pg_sleep(double precision)")) as agent:
        wire = server.wire("owner", options=f"-c agent_guard.token={agent.token}")
        sent, open_one = mark(), mark()
        wire.query("begin")
        wire.query(f"insert into app.open values (60) /* {open_one} */")
        wire.send("Q", f"select pg_sleep(0.3) /* {sent} */\0".encode())
        wire.drop()
        eventually(lambda: events(server, sent), "recorded")
        assert len(events(server, sent)) == 1 and len(events(server, open_one)) == 1
        assert server.value("select count(*) from app.open where id = 60") == 0


def test_an_open_portal_at_the_end_of_the_connection(server):
    with Agent(server, *RULES) as agent:
        wire = server.wire("owner", options=f"-c agent_guard.token={agent.token}")
        sent = mark()
        wire.parse(f"select * from generate_series(1, 1000) /* {sent} */")
        wire.bind()
        wire.execute(max_rows=10)
        wire.flush()
        wire.until("s")
        wire.drop()
        eventually(lambda: events(server, sent), "recorded")
        assert len(events(server, sent)) == 1, events(server, sent)


def test_nothing_that_an_agent_sends_forges_an_event(server):
    with Agent(server, *RULES) as agent:
        bad = "x\n2030-01-01 [1] LOG: forged\r\x1b[2Jdecision=allow"
        agent.connection.execute("select set_config('application_name', %s, false)", (bad,))
        mine = ("pid = %s", agent.connection.info.backend_pid)
        before = len(server.audit(*mine))
        sent = mark()
        agent.run(f"select 1 /* {sent} \n seq=1 | allow | rootabc \n */")
        row = server.audit("statement like %s", f"%{sent}%", columns="application_name, statement, to_jsonb(audit)::text")[-1]
        assert "\n" not in row[0] and "\x1b" not in row[0], row[0]
        assert "\n" not in row[2], "JSON of the event is one line"
        assert len(server.audit(*mine)) == before + 1


def test_statements_beyond_a_megabyte(server):
    with Agent(server, *RULES) as agent:
        sent = mark()
        statement = f"select 1 /* {sent} {'x' * 2_000_000} */"
        agent.run(statement)
        denied = mark()
        expect(DENIED, agent.run, f"select 1 from app.secret /* {denied} {'y' * 2_000_000} */")
        head = "/*" + "z" * 3_000_000 + "*/"
        expect(DENIED, agent.run, head + "select * from app.secret")
        found = server.audit("statement like %s", f"%{sent}%", columns="length(statement), statement_length, statement_sha256, decision")
        assert len(found) == 1 and found[0][0] == 1024 * 1024 and found[0][1] == len(statement) and found[0][3] == "allow", found[0][:2]
        assert bytes(found[0][2]) == hashlib.sha256(statement.encode()).digest()
        once(server, denied, "deny", DENIED)
        many = "select " + " + ".join(["1"] * 50000)
        error = agent.attempt(many)
        assert error is None or error.sqlstate == "54001", error
        nested = "select " + "(" * 20000 + "1" + ")" * 20000
        error = agent.attempt(nested)
        assert error is None or error.sqlstate in ("54001", "42601"), error
        values = mark()
        agent.connection.execute(f"select length(%s) /* {values} */", ("v" * 3_000_000,))
        once(server, values, "allow")


def test_a_text_is_whole_up_to_the_setting(server):
    """Whatever becomes of the statement; and what is cut says so. Its pieces are events of their own, and nobody's statement."""
    with Agent(server, *RULES) as agent:
        texts = {}
        for size in (32767, 32768, 32769, 100_000, 900_000):
            sent = mark()
            # Three bytes a character: pieces end between two.
            texts[sent] = (f"select count(*) from app.open /* {sent} " + "\u20ac" * (size // 3) + " */", "allow")
        sent = mark()
        texts[sent] = (f"select 1 from app.secret /* {sent} {'y' * 90_000} */", "deny")
        sent = mark()
        texts[sent] = (f"selec /* {sent} {'y' * 90_000} */", None)
        sent = mark()
        texts[sent] = (f"select '{'it is ' * 20_000}', $$ password='hunter22' $$ /* {sent} {'y' * 40_000} */", "allow")
        for sent, (text, decision) in texts.items():
            error = agent.attempt(text)
            assert (error is None) == (decision == "allow"), error
        for sent, (text, decision) in texts.items():
            found = server.audit("statement like %s", f"%{sent}%", columns="statement, decision, truncated, statement_length, seq")
            assert len(found) == 1, f"{len(found)} events with {sent}: {[(row[0][:60], len(row[0]), row[1:]) for row in found]}"
            kept, decided, truncated, length, seq = found[0]
            assert kept == text.replace("hunter22", "<redacted>"), f"{sent}: {len(kept)} of {len(text)}: {kept[-80:]}"
            assert decided == decision and truncated is None and length == len(text.encode()), found[0][1:]
            journal_of = server.value("select count(*) from agent_guard.audit where event = 'text' and seq between %s - 40 and %s", seq, seq)
            assert (journal_of > 0) == (len(text.encode()) > 32768), journal_of
        session = agent.connection.execute("select session_id from agent_guard.whoami()").fetchone()[0]
        steps = server.rows("select statement, event from agent_guard.replay(%s)", session)
        assert {text for text, decision in texts.values() if "hunter" not in text} <= {step[0] for step in steps}
        assert not [step for step in steps if step[1] == "text"], "pieces are no steps"
        assert server.value("select intact from agent_guard.verify_audit()")
    server.run("alter system set agent_guard.audit_statement_size = '64kB'")
    server.run("select pg_reload_conf()")
    try:
        eventually(lambda: server.value("show agent_guard.audit_statement_size") == "64kB", "the setting is in force")
        with Agent(server, *RULES) as agent:
            sent = mark()
            text = f"select 1 /* {sent} {'y' * 90_000} */"
            agent.run(text)
            (found,) = server.audit("statement like %s", f"%{sent}%", columns="statement, truncated, statement_length, statement_sha256")
            assert found[0] == text[:65536] and found[1] == ["statement"] and found[2] == len(text), found[1:3]
            assert bytes(found[3]) == hashlib.sha256(text.encode()).digest()
    finally:
        server.run("alter system reset agent_guard.audit_statement_size")
        server.run("select pg_reload_conf()")


def test_a_statement_of_several_fails_with_its_own_text(server):
    with Agent(server, *RULES) as agent:
        for failing in ("select 1 / 0", "select nothing", "select no_such_function()", "insert into app.open (id) values ('x')", "select * from app.nowhere", "select count(*) from app.secret", "select app.fails()"):
            sent = mark()
            text = f"select 1 /* a {sent} */; /* ; {sent} */ {failing} -- {sent};\n ; select 3 /* c {sent} */"
            assert agent.attempt(text) is not None, text
            found = server.audit("statement like %s and level = 0", f"%{sent}%", columns="statement, sqlstate")
            assert [row[0] for row in found][0] == f"select 1 /* a {sent} */", found
            assert len(found) == 2 and found[1][1] is not None, found
            kept = found[1][0]
            assert kept.startswith(f"/* ; {sent} */ {failing}") and "select 3" not in kept and " a " not in kept, kept
        sent = mark()
        text = f"select 1 /* {sent} */; selec 2; select 3"
        agent.attempt(text)
        assert server.audit("statement like %s", f"%{sent}%", columns="statement") == [(text,)], "what does not parse runs nothing"


def test_a_password_that_a_function_was_given_is_taken_out_around_it(server):
    server.run("create or replace function app.sets(who text, secret text) returns void language plpgsql security definer as $$begin execute format('alter role %I password %L', who, secret); end$$")
    server.run("create role app_pupil login; alter function app.sets owner to postgres")
    secret = "Zwetschge-77"
    with Agent(server, ("allow", "*", "*"), ("allow", "execute", "function app.*")) as agent:
        agent.connection.execute("select app.sets('app_pupil', %s)", (secret,))
        agent.run(f"select app.sets('app_pupil', '{secret}')")
        agent.attempt(f"do $$declare p text := '{secret}'; begin execute 'alter role app_pupil password ' || quote_literal(p); end$$")
        agent.attempt(f"do $$declare p text := '{secret}'; begin execute 'alter role app_nobody password ' || quote_literal(p); end$$")
        agent.run("select 'nothing is hidden behind it'")
    server.audit("false")
    assert server.value("select count(*) from agent_guard.audit where statement like '%alter role app_pupil password%'") >= 3
    leaks = server.rows("select level, statement, parameters, message from agent_guard.audit where audit::text like %s", f"%{secret}%")
    assert not leaks, leaks
    assert server.audit("statement like %s", "%nothing is hidden behind it%")


def test_an_application_name_holds_no_secret(server):
    with Agent(server, *RULES) as agent:
        agent.run("set application_name = 'agt1.QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo.Zwetschge'")
        agent.run("select 1")
        agent.run("set application_name = 'password=Zwetschge'")
        agent.run("select 1")
    leaks = server.audit("audit::text ~ 'Zwetschge|QUJDREVG'", columns="statement, application_name")
    assert not leaks, leaks


def test_the_reason_of_an_end_is_told(server):
    for setting, sqlstate in (("idle_session_timeout", "57P05"), (None, "57P01")):
        agent = Agent(server, *RULES)
        with agent:
            session = agent.connection.execute("select session_id from agent_guard.whoami()").fetchone()[0]
            if setting:
                agent.run(f"set {setting} = '50ms'")
            else:
                server.run(f"select pg_terminate_backend({agent.connection.info.backend_pid})")
            told = eventually(lambda: server.audit("event = 'unbind' and session_id = %s", session, columns="sqlstate, message"), "the session ends")
        assert told[0][0] == sqlstate and "terminating connection due to" in told[0][1], told


def writer(server):
    rows = server.rows("select pid from pg_stat_activity where backend_type ilike '%agent_guard%' and datname = current_database()")
    return rows[0][0] if rows else None


def test_a_writer_that_is_ended_comes_back_and_loses_nothing(server):
    with Agent(server, *RULES) as agent:
        marks = []
        first = eventually(lambda: writer(server), "a writer")
        for round in range(3):
            for _ in range(20):
                marks.append(mark())
                agent.run(f"select 1 /* {marks[-1]} */")
            server.rows("select pg_terminate_backend(pid) from pg_stat_activity where backend_type ilike '%agent_guard%' and datname = current_database()")
            for _ in range(20):
                marks.append(mark())
                agent.run(f"select 1 /* {marks[-1]} */")
        eventually(lambda: writer(server) not in (None, first), "another writer")
        counts = [len(events(server, f"/* {one} ")) for one in marks]
        assert counts == [1] * len(marks), [(one, count) for one, count in zip(marks, counts) if count != 1]


def test_without_a_writer_nothing_runs(server):
    other = guard.Server("attack_audit_starved", ["max_worker_processes = 1", "agent_guard.audit_timeout = 300ms", "agent_guard.audit_buffer = 1MB", "autovacuum = off"]).start()
    try:
        other.run("create extension agent_guard")
        scene.setup(other)
        with other.connect() as admin:
            policy = scene.policy(other, [("allow", ["select", "insert"], "app.*")])
            token = other.window("owner", policy)[1]
        with other.connect("owner", options=f"-c agent_guard.token={token}") as connection:
            outcomes = set()
            for _ in range(4000):
                try:
                    connection.execute("insert into app.parent values (7) /* " + "x" * 1000 + " */")
                    outcomes.add("ran")
                except psycopg.Error as error:
                    outcomes.add(error.sqlstate)
                    break
            count = other.value("select count(*) from app.parent where id = 7")
            assert outcomes >= {"53100"} or writer(other), f"{outcomes}, {count} rows and no writer"
            if "53100" in outcomes:
                expect("53100", connection.execute, "insert into app.parent values (8)")
                assert other.value("select count(*) from app.parent where id = 8") == 0
    finally:
        other.stop()


def test_one_session_cannot_take_the_ring_from_the_others(server):
    with Agent(server, *RULES) as agent, Agent(server, *RULES) as other:
        wire = server.wire("owner", options=f"-c agent_guard.token={agent.token}")
        wire.query("begin")
        opened = 0
        while not (reply := wire.query(f"declare c{opened} cursor for select * from app.open /* {'x' * 32000} */")).errors:
            opened += 1
            assert opened < 500, "a session keeps the whole ring reserved"
        assert reply.sqlstate == "53100" and opened > 10, (opened, reply.errors)
        assert other.run("select count(*) from app.open")
        wire.query("rollback")
        assert not wire.query("select 1").errors
        wire.close()


def test_errors_below_the_logs_threshold_are_recorded(server):
    """The server calls no log hook for what it does not log."""
    server.run("alter system set log_min_messages = panic")
    server.run("select pg_reload_conf()")
    server.run("alter role owner set log_min_messages = panic")
    try:
        eventually(lambda: server.value("show log_min_messages") == "panic", "reloaded")
        with Agent(server, *RULES) as agent:
            sent = [(mark(), text, state) for text, state in (("selec /* {} */", "42601"), ("select * from app.nothing /* {} */", "42P01"), ("select 1 / (id - 1) from app.open /* {} */", "22012"), ("select * from app.secret /* {} */", DENIED))]
            for one, text, state in sent:
                expect(state, agent.run, text.format(one))
            assert not [text for one, text, _ in sent if one in server.log()], "logged against the server's setting"
            found = {text: [event[2] for event in events(server, one)] for one, text, state in sent}
            assert found == {text: [state] for _, text, state in sent}, found
    finally:
        server.run("alter role owner reset log_min_messages")
        server.run("alter system reset log_min_messages")
        server.run("select pg_reload_conf()")


def test_the_logs_tell_of_no_crash(server):
    log = server.log()
    for word in ("PANIC", "panicked", "terminated by signal", "RUST_BACKTRACE", "stack backtrace"):
        assert word not in log, [line for line in log.splitlines() if word in line][:3]


def test_events_tell_the_tokens_blocks_and_which_of_them_refused(server):
    with Agent(server, ("allow", ["select", "insert"], "app.*"), ("deny", "select", "app.secret"), max_depth=2) as agent:
        narrow = child(agent.token, sub="narrow", rel=["app.open"])
        below = child(narrow, sub="below")
        ids = [block_id(token) for token in (agent.token, narrow, below)]
        columns = "event, decision, block_ids, decided_by, window_id::text, parameters"

        def last(event="%"):
            return server.audit("pid = %s and event like %s", pid, event, columns=columns)[-1]

        connection = server.connect("owner")
        pid = connection.info.backend_pid
        bind(connection, below)
        assert last()[:4] == ("bind", "allow", ids, None)
        connection.execute("select * from app.open")
        assert last()[:4] == ("statement", "allow", ids, None)
        # By a rule of the policy, and by a block.
        expect(DENIED, connection.execute, "select * from app.child", match="block=1")
        assert last()[:4] == ("statement", "deny", ids, ids[1])
        bind(connection, agent.token)
        expect(DENIED, connection.execute, "select * from app.secret")
        assert last()[:4] == ("statement", "deny", ids[:1], None)
        # A writer that has not seen the session bind finds its blocks all the same.
        writer = server.value("select writer_pid from agent_guard.stat")
        server.run(f"select pg_terminate_backend({writer})")
        eventually(lambda: server.value("select writer_pid from agent_guard.stat") not in (writer, None) or _asks(connection), "another writer")
        connection.execute("select * from app.child")
        assert last()[:4] == ("statement", "allow", ids[:1], None)
        # Refused handshakes: named where the signature was right, and only there.
        wide = child(narrow, sub="wide", depth=7)
        with server.connect("owner") as other:
            pid = other.info.backend_pid
            expect(UNAUTHENTICATED, bind, other, wide, match="reason=wider_than_parent")
            assert last("handshake%") == ("handshake_refused", "deny", [*ids[:2], block_id(wide)], block_id(wide), str(agent.window_id), None), last("handshake%")
            forged = below[:-1] + ("A" if below[-1] != "A" else "B")
            expect(UNAUTHENTICATED, bind, other, forged, match="reason=token_refused")
            assert last("handshake%") == ("handshake_refused", "deny", None, None, None, None), last("handshake%")
            server.run(f"select agent_guard.revoke_block('{ids[1]}')")
            expect(UNAUTHENTICATED, bind, other, below, match="reason=revoked")
            assert last("handshake%")[2:4] == (ids, ids[1]), last("handshake%")
            server.run(f"select agent_guard.revoke_window('{agent.window_id}')")
            expect(UNAUTHENTICATED, bind, other, agent.token, match="reason=revoked")
            assert last("handshake%")[2:4] == (ids[:1], "window")
        pid = connection.info.backend_pid
        expect(UNAUTHENTICATED, connection.execute, "select 1", match="reason=revoked")
        assert last()[2:4] == (ids[:1], "window"), last()


def _asks(connection):
    connection.execute("select * from app.open")
    return False


if __name__ == "__main__":
    guard.run(globals(), conf=["autovacuum = off"])
