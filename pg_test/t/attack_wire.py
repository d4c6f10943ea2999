"""The protocol as no driver speaks it: fast path, suspended portals, pipelines, binary formats, COPY, cancels, hang-ups."""

import struct
import time

import guard
import scene
from guard import DENIED, UNAUTHENTICATED, eventually, stopped, warden
from scene import Agent

READ = ("allow", "select", "app.open")


def setup(server):
    scene.setup(server)
    server.run("insert into app.open select n, 'v' from generate_series(4, 500) n")


def session(server, agent):
    wire = server.wire("owner", options=f"-c agent_guard.token={agent.token}")
    assert wire.query("select count(*) from app.open").text() == [("500",)]
    return wire


FAST_PATH = {
    "pg_read_file(text)": ["/etc/passwd"],
    "pg_sleep(float8)": ["0"],
    "set_config(text,text,boolean)": ["role", "keeper", "f"],
    "nextval(regclass)": ["app.numbers"],
    "setval(regclass,bigint)": ["app.numbers", "99"],
    "pg_notify(text,text)": ["c", "x"],
    "pg_advisory_lock(bigint)": ["1"],
    "lo_creat(integer)": ["-1"],
    "lo_create(oid)": ["777"],
    "query_to_xml(text,boolean,boolean,text)": ["select 1", "t", "t", ""],
    "table_to_xml(regclass,boolean,boolean,text)": ["app.secret", "t", "t", ""],
    "pg_terminate_backend(integer,bigint)": ["1", "0"],
    "pg_reload_conf()": [],
    "pg_get_functiondef(oid)": ["16384"],
    "pg_stat_get_backend_activity(integer)": ["1"],
    "int8_avg_serialize(internal)": [None],
    "array_agg_transfn(internal,anynonarray)": [None, "1"],
    "app.one()": [],
    "app.secret_plpgsql()": [],
    "kept.count_secrets()": [],
    "agent_guard.guard_role(regrole,boolean)": ["peer", "f"],
    "agent_guard.unguard_role(regrole)": ["owner"],
    "agent_guard.audit_flush()": [],
    "agent_guard.checked_setval(regclass,bigint)": ["app.numbers", "99"],
    "agent_guard.checked_set_config(text,text,boolean)": ["role", "keeper", "f"],
}


def test_fast_path_calls_are_denied(server):
    with Agent(server, READ) as agent:
        before = scene.world(server)
        wrong = []
        for name, values in FAST_PATH.items():
            oid = server.value("select %s::regprocedure::oid::int", name)
            wire = session(server, agent)
            reply = wire.call(oid, values)
            if reply.sqlstate != DENIED:
                wrong.append(f"{name}: {reply.sqlstate or 'ran'} {reply.value} {reply.errors}")
            wire.close()
            bare = server.wire("owner")
            reply = bare.call(oid, values)
            # The server checks its own privileges first.
            if reply.sqlstate not in (UNAUTHENTICATED, DENIED):
                wrong.append(f"without a token {name}: {reply.sqlstate or 'ran'} {reply.value}")
            bare.close()
        assert not wrong, "\n" + "\n".join(wrong)
        assert not scene.changes(before, scene.world(server))
        wire = session(server, agent)
        length = server.value("select 'length(text)'::regprocedure::oid::int")
        assert wire.call(length, ["abc"]).value == b"3"
        assert wire.call(length, [b"abc"], format=1, result=1).value == struct.pack("!i", 3)
        assert wire.call(999999999, []).sqlstate
        assert wire.query("select 1").text() == [("1",)]
        wire.close()


def test_nothing_without_a_token(server):
    wire = server.wire("owner")
    assert wire.extended("select 1").sqlstate == UNAUTHENTICATED
    wire.parse("select * from app.open", "s")
    wire.sync()
    wire.bind("", "s")
    wire.execute()
    assert wire.sync().sqlstate == UNAUTHENTICATED
    assert wire.query("begin; select 1").sqlstate == UNAUTHENTICATED
    wire.query("rollback")
    assert wire.query("copy app.open to stdout").sqlstate == UNAUTHENTICATED
    wire.close()


def test_suspended_portals_over_a_change_of_token(server):
    with Agent(server, READ, ("allow", ["insert", "select"], "app.parent")) as agent, Agent(server, ("allow", "select", "app.child")) as narrow:
        for statement in ("select id from app.open", "insert into app.parent select n, 'w' from generate_series(1, 50) n returning id", "explain select * from app.open", "show all"):
            for change in (f"set agent_guard.token = '{narrow.token}'", "reset agent_guard.token", "set agent_guard.token = ''", f"select set_config('agent_guard.token', '{narrow.token}', true)"):
                wire = session(server, agent)
                wire.query("begin")
                wire.parse(statement, "s")
                wire.bind("c", "s")
                wire.execute("c", 1)
                wire.flush()
                seen = wire.until("sCE")
                assert not seen.errors, seen.errors
                wire.sync()
                assert not wire.query(change).errors
                wire.execute("c", 0)
                reply = wire.sync()
                assert not reply.rows and reply.sqlstate in ("34000", DENIED, UNAUTHENTICATED), f"{statement} after {change}: {len(reply.rows)} rows {reply.errors}"
                wire.close()


def test_execute_after_revocation(server):
    with Agent(server, READ) as agent:
        wire = session(server, agent)
        wire.query("begin")
        wire.parse("select id from app.open", "s")
        wire.bind("c", "s")
        wire.execute("c", 10)
        wire.flush()
        assert len(wire.until("s").rows) == 10
        wire.sync()
        with stopped(warden(server)):
            server.rows("select agent_guard.revoke_window(%s)", agent.window_id)
            wire.execute("c", 10)
            reply = wire.sync()
            assert reply.sqlstate == UNAUTHENTICATED and not reply.rows
            wire.query("rollback")
        wire.bind("", "s")
        wire.execute()
        reply = wire.sync()
        assert reply.sqlstate == UNAUTHENTICATED and not reply.rows
        wire.close()


def test_pipelines(server):
    with Agent(server, READ) as agent:
        wire = session(server, agent)
        for sql in ("select 1", "select * from app.secret", "select 2", "delete from app.open"):
            wire.parse(sql)
            wire.bind()
            wire.execute()
        reply = wire.sync()
        assert reply.text() == [("1",)] and reply.sqlstate == DENIED and reply.status == "I", reply
        reply = wire.query("select 1; select * from app.secret; select 2")
        assert reply.text() == [("1",)] and reply.sqlstate == DENIED
        reply = wire.query("select 1; delete from app.secret; commit; select 3")
        assert reply.sqlstate == DENIED and reply.text() == [("1",)]
        # A token that goes in the middle of a batch.
        reply = wire.query("select 1; reset agent_guard.token; select count(*) from app.open")
        assert reply.sqlstate == UNAUTHENTICATED and reply.text() == [("1",)]
        wire.close()
        wire = server.wire("owner")
        reply = wire.query(f"set agent_guard.token = '{agent.token}'; select count(*) from app.open; select * from app.secret")
        assert reply.text() == [("500",)] and reply.sqlstate == DENIED
        wire.close()


def test_binary_formats(server):
    with Agent(server, READ) as agent:
        wire = session(server, agent)
        reply = wire.extended("select id from app.open where id = 7", result=1)
        assert reply.rows == [[struct.pack("!i", 7)]]
        assert wire.extended("select v from app.secret", result=1).sqlstate == DENIED
        assert wire.query("copy app.secret to stdout with (format binary)").sqlstate == DENIED
        wire.query("begin")
        assert wire.query("declare c binary cursor for select * from app.secret").sqlstate == DENIED
        wire.close()


def test_the_copy_subprotocol(server):
    with Agent(server, READ, ("allow", "insert", "app.parent")) as agent:
        wire = session(server, agent)
        before = scene.world(server)
        for statement in ("copy app.secret from stdin", "copy app.secret to stdout", "copy (select * from app.secret) to stdout", "copy app.open from stdin", "copy app.parent to stdout", "copy app.secret_view to stdout"):
            reply = wire.query(statement)
            assert reply.sqlstate == DENIED and not reply.copied, f"{statement}: {reply}"
        assert not scene.changes(before, scene.world(server))
        assert len(wire.query("copy app.open to stdout").copied) == 500
        wire.query("copy app.parent from stdin")
        wire.copy_data(b"1\tx\n")
        assert wire.copy_done().tags == ["COPY 1"]
        wire.query("copy app.parent from stdin")
        wire.copy_data(b"1\tx\n")
        assert wire.copy_fail("no").sqlstate == "57014"
        wire.query("copy app.parent from stdin")
        wire.copy_data(b"5\tafter\n")
        with stopped(warden(server)):
            server.rows("select agent_guard.revoke_window(%s)", agent.window_id)
            wire.copy_data(b"6\tafter\n")
            wire.copy_done()
        assert wire.query("select 1").sqlstate == UNAUTHENTICATED
        wire.copy_data(b"stray")
        wire.close()


def test_held_cursors_after_rebinding(server):
    with Agent(server, READ) as agent, Agent(server, ("allow", "select", "app.child")) as narrow:
        wire = session(server, agent)
        wire.query("declare c cursor with hold for select * from app.open")
        wire.query("fetch 1 from c")
        wire.query(f"set agent_guard.token = '{narrow.token}'")
        for reply in (wire.query("fetch 5 from c"), wire.query("move 1 in c")):
            assert reply.sqlstate == "34000" and not reply.rows
        wire.execute("c", 10)
        reply = wire.sync()
        assert reply.sqlstate == "34000" and not reply.rows
        wire.close()


def test_large_and_odd_messages(server):
    with Agent(server, READ) as agent:
        wire = session(server, agent)
        assert wire.query("/*" + "x" * 5_000_000 + "*/ select * from app.secret").sqlstate == DENIED
        assert wire.extended("select length($1)", ["y" * 5_000_000]).text() == [("5000000",)]
        assert wire.query("").types == "IZ"
        assert wire.query(";;").types == "IZ"
        assert wire.query(b"select '\xff'").sqlstate == "22021"
        assert wire.extended(b"select '\xff\xfe' from app.secret").sqlstate == "22021"
        wire.send("?", b"")
        reply = wire.until("Z")
        assert reply.sqlstate == "08P01"
        wire.close()
        for encoding, text in (("SJIS", b"select '\x83\x5c' from app.secret --'"), ("GBK", b"select '\xbf\x5c' from app.secret --'"), ("BIG5", b"select '\xa5\x5c' from app.secret --'")):
            wire = server.wire("owner", options=f"-c agent_guard.token={agent.token}", client_encoding=encoding)
            assert wire.query("set standard_conforming_strings = off").sqlstate == ""
            reply = wire.query(text)
            assert not reply.rows and reply.sqlstate in (DENIED, "22021", "42601"), f"{encoding}: {reply}"
            wire.close()


def test_cancels_and_hang_ups_keep_the_decisions(server):
    with Agent(server, READ, ("allow", "execute", "function pg_catalog.pg_sleep(double precision)")) as agent:
        wire = session(server, agent)
        for _ in range(3):
            wire.send("Q", b"select pg_sleep(60), id from app.open\0")
            eventually(lambda: server.value("select count(*) from pg_stat_activity where pid = %s and wait_event = 'PgSleep'", wire.key[0]), "it runs")
            wire.cancel()
            assert wire.until("Z").sqlstate == "57014"
            assert wire.query("select * from app.secret").sqlstate == DENIED
            assert wire.query("select count(*) from app.open").text() == [("500",)]
        wire.close()
        for message in (b"select * from app.open", b"begin; lock app.open", b"copy app.open to stdout"):
            wire = session(server, agent)
            wire.send("Q", message + b"\0")
            wire.drop()
        eventually(lambda: server.value("select count(*) from pg_stat_activity where usename = 'owner'") <= 1, "all gone")


# An error inside each hook; afterwards decisions must be what they were.
ERRORS = ["select * from app.secret", "select 1/0", "drop table app.open", "create table app.t (n int)", "selec", "select pg_sleep(0)", "set role keeper", "set agent_guard.token = 'agt1.x'", "execute nothing", "fetch nothing", "copy app.secret to stdout", "explain analyze select 1/0", "truncate app.open", "select id, 1/(id-1) from app.open", "do 'begin end'", "call app.proc(1)", "savepoint s", "rollback to nothing", "alter role current_role password null", "drop owned by public", "grant none to none", "alter group all add user public", "set session authorization public", "create role none", "reassign owned by public to public", "drop role current_user, session_user, public", "alter user mapping for public server x options (a 'b')", "alter default privileges for role public grant select on tables to public", "grant public to current_role granted by session_user", "alter database x owner to public", "create schema authorization public", "set role public", "create policy p on app.open to public, current_role", "comment on role public is null", "alter role all in database nothing reset all"]


def test_errors_anywhere_leave_the_decisions_as_they_were(server):
    with Agent(server, READ) as agent:
        for way in ("simple", "extended", "in a transaction", "in a savepoint"):
            wire = session(server, agent)
            for text in ERRORS:
                if way == "extended":
                    reply = wire.extended(text)
                elif way == "simple":
                    reply = wire.query(text)
                else:
                    wire.query("begin")
                    if way == "in a savepoint":
                        wire.query("savepoint a")
                    reply = wire.query(text)
                    if way == "in a savepoint":
                        wire.query("rollback to a")
                        assert wire.query("select * from app.secret").sqlstate == DENIED, text
                    wire.query("rollback")
                if reply.closed:
                    raise AssertionError(f"{text} ended the connection")
                if way == "simple" and not text.startswith("savepoint"):
                    assert reply.errors, f"{text} ran"
                if "agent_guard.token" in text:
                    wire.close()
                    wire = session(server, agent)
                assert wire.query("select * from app.secret").sqlstate == DENIED, text
                assert wire.query("select count(*) from app.open").text() == [("500",)], text
            wire.close()


def test_null_and_odd_arguments_of_agent_functions(server):
    with Agent(server, READ) as agent:
        wire = session(server, agent)
        for call in ("select * from agent_guard.describe_access(null)", "select * from agent_guard.describe_access(0::oid::regclass)", "select * from agent_guard.describe_access(4294967295::oid::regclass)", "select * from agent_guard.describe_access('pg_class')", "select * from agent_guard.describe_access('app.secret')", "select * from agent_guard.whoami()", "select * from agent_guard.session_policy", "select set_config(null, null, null)", "select set_config('', '', false)", "select set_config(null, 'x', false)", "select set_config('agent_guard.token', null, null)", "select nextval(null)", "select nextval(0::oid::regclass)", "select setval(null, null)", "select currval(null)", "select current_setting(null)", "select agent_guard.checked_set_config(null, null, null)", "select agent_guard.checked_nextval(null)"):
            reply = wire.query(call)
            assert not reply.closed, call
            assert "panic" not in str(reply.errors).lower() and reply.sqlstate != "XX000", f"{call}: {reply.errors}"
            wire.query(f"set agent_guard.token = '{agent.token}'")
            assert wire.query("select * from app.secret").sqlstate == DENIED, call
        wire.close()


def test_parallel_workers_have_the_leaders_scope(server):
    server.run("create function app.inside() returns bigint language plpgsql parallel safe as $$begin return (select count(*) from app.secret); end$$; alter function app.inside() owner to owner; create function kept.inside() returns bigint language plpgsql parallel safe as $$begin return (select count(*) from app.secret); end$$")
    for force in ("on", "regress"):
        server.run(f"alter role owner set {server.forces_parallel} = {force}; alter role owner set parallel_setup_cost = 0; alter role owner set min_parallel_table_scan_size = 0")
        with Agent(server, READ, ("allow", "execute", ["function app.*", "function kept.*"])) as agent:
            wire = session(server, agent)
            reply = wire.query("select count(*), max(kept.inside()) from app.open where id < 8")
            assert reply.text() == [("7", "3")], f"{force}: {reply}"
            assert wire.query("select count(*) from app.open where id < 8 and app.inside() > 0").sqlstate == DENIED
            assert wire.query("select count(*) from app.secret").sqlstate == DENIED
            assert wire.query("select count(*) from app.open where 1 / (id - 1) > 0").sqlstate == "22012"
            assert wire.query("select current_setting('agent_guard.token') from app.open limit 1").rows
            server.rows("select agent_guard.deny(%s, '{select}', '{app.secret}')", agent.policy)
            assert wire.query("select max(kept.inside()) from app.open where id < 8").sqlstate == DENIED
            wire.close()
    server.run("alter role owner reset all; select agent_guard.guard_role('owner')")


def test_the_log_tells_of_no_crash(server):
    log = server.log()
    for word in ("PANIC", "panicked", "terminated by signal", "stack backtrace"):
        assert word not in log, [line for line in log.splitlines() if word in line][:3]


if __name__ == "__main__":
    guard.run(globals(), conf=["autovacuum = off"])
