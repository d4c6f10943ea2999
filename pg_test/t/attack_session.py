"""The token's variable, the role's setting and the secrets: no way of setting or unsetting anything widens a session."""


import psycopg

import guard
import scene
from guard import DENIED, UNAUTHENTICATED, bind, eventually, expect, in_time, left, stopped, warden
from scene import Agent

READ = ("allow", "select", "app.open")
WIDE = ("allow", ["select", "insert", "update", "delete"], "app.*")
PROBE = "select count(*) from app.open"
FINGERPRINT = "show agent_guard.token"


def setup(server):
    scene.setup(server)
    for statement in ("create database elsewhere", "create database second", "create role outsider login"):
        server.run(statement)
    server.run("create extension agent_guard", dbname="second")


def unbound(connection):
    expect(UNAUTHENTICATED, connection.execute, PROBE)


# Ways back to an earlier value: each leaves the session without a token.
WAYS_OUT = {
    "reset": ["reset agent_guard.token"],
    "default": ["set agent_guard.token to default"],
    "empty": ["set agent_guard.token = ''"],
    "case": ["reset \"Agent_Guard.Token\""],
    "reset all": ["reset all"],
    "discard all": ["discard all"],
    "set_config null": ["select set_config('agent_guard.token', null, false)"],
    "set_config empty": ["select set_config('AGENT_GUARD.TOKEN', '', false)"],
    "set local empty": ["begin", "set local agent_guard.token = ''"],
}


def test_every_way_out_leaves_the_session_without_a_token(server):
    for name, statements in WAYS_OUT.items():
        with Agent(server, READ) as agent:
            agent.run(PROBE, *statements)
            error = agent.attempt(PROBE)
            assert error is not None and error.sqlstate == UNAUTHENTICATED, f"{name}: {error}"


def test_rollback_never_widens(server):
    wide, narrow = Agent(server, WIDE), Agent(server, READ)
    connection = wide.connection
    sequences = {
        "rollback": ["begin", f"set agent_guard.token = '{narrow.token}'", PROBE, "rollback"],
        "rollback to": ["begin", "savepoint s", f"set agent_guard.token = '{narrow.token}'", PROBE, "rollback to s"],
        "set local, commit": ["begin", f"set local agent_guard.token = '{narrow.token}'", PROBE, "commit"],
        "set local over set": ["begin", f"set agent_guard.token = '{narrow.token}'", f"set local agent_guard.token = '{narrow.token}'", "commit"],
        "twice": ["begin", f"set local agent_guard.token = '{narrow.token}'", "savepoint s", f"set local agent_guard.token = '{narrow.token}'", "rollback to s"],
    }
    for name, statements in sequences.items():
        connection.execute("rollback")
        bind(connection, wide.token)
        connection.execute("delete from app.open where false")
        for statement in statements:
            connection.execute(statement)
        try:
            connection.execute("delete from app.open where false")
            raise AssertionError(f"{name}: the wider scope is back")
        except psycopg.Error as error:
            assert error.sqlstate in (UNAUTHENTICATED, DENIED), f"{name}: {error}"
    wide.connection.close()
    narrow.connection.close()


def test_functions_with_a_set_clause(server):
    with Agent(server, WIDE, ("allow", ["create function", "execute", "drop function"], "function app.*")) as agent:
        expect(UNAUTHENTICATED, agent.run, f"create function app.f() returns int language sql set agent_guard.token = '{agent.token}' as 'select 1'")
        error = agent.attempt("create function app.f() returns int language sql set agent_guard.token from current as 'select 1'")
        assert error is not None, "the token was stored in a function"
        agent.run("create function app.f() returns bigint language plpgsql set search_path = app as $$begin perform set_config('agent_guard.token', '', true); return (select count(*) from app.open); end$$")
        agent.refused("select app.f()", UNAUTHENTICATED)
        server.run("drop function app.f()")


def test_the_token_is_stored_nowhere(server):
    with Agent(server, WIDE, ("allow", "role", "*"), ("allow", "system", "*"), ("allow", "alter database", "*")) as agent:
        for statement in (f"alter role owner set agent_guard.token = '{agent.token}'", f"alter role owner in database postgres set agent_guard.token = '{agent.token}'", f"alter database postgres set agent_guard.token = '{agent.token}'", f"alter system set agent_guard.token = '{agent.token}'", "alter role owner set agent_guard.token from current"):
            error = agent.attempt(statement)
            assert error is not None, f"it ran: {statement}"
            assert agent.token not in str(error)
    with server.connect() as connection:
        expect(UNAUTHENTICATED, connection.execute, f"alter role owner set agent_guard.token = '{agent.token}'")
    assert server.rows("select * from pg_db_role_setting where setconfig::text ~ 'token'") == []


def test_tokens_of_others_are_refused(server):
    with Agent(server, READ) as agent, server.connect("owner") as connection:
        fingerprint = agent.run(FINGERPRINT)[0][0]
        assert "agt1." not in fingerprint and agent.token not in fingerprint
        expect(UNAUTHENTICATED, bind, connection, fingerprint)
        other = server.agent("peer_agent", scene.policy(server, [READ]))
        expect(UNAUTHENTICATED, bind, connection, other, match="role")
        server.run("select agent_guard.create_policy('p')", dbname="second")
        elsewhere = server.window("owner", "p", dbname="second")[1]
        expect(UNAUTHENTICATED, bind, connection, elsewhere)
        unbound(connection)
    with server.connect("owner") as connection:

        def bound(seconds):
            window, short, _ = server.window("owner", scene.policy(server, [READ]), ttl=f"{seconds} seconds")
            bind(connection, short)
            connection.execute(PROBE)
            return window, short

        window, short = in_time(bound)
        ended = "select true from agent_guard.windows where window_id = %s and state = 'expired'"
        with server.connect() as admin:
            eventually(lambda: admin.execute(ended, (window,)).fetchone(), "the window's end", 60)
            # In the moment of the end the cancel may come first; after it the session is marked.
            state = "select state = 'expired' from agent_guard.sessions where window_id = %s and live"
            eventually(lambda: admin.execute(state, (window,)).fetchone()[0], "the session's end")
        expect(UNAUTHENTICATED, connection.execute, PROBE, match="expired")
        expect(UNAUTHENTICATED, bind, connection, short, match="expired")
    with server.connect("outsider") as connection:
        expect(UNAUTHENTICATED, bind, connection, agent.token, match="guarded")


def test_revocation_reaches_open_transactions(server):
    for isolation in ("read committed", "repeatable read", "serializable"):
        with Agent(server, READ) as agent:
            agent.run(f"begin isolation level {isolation}", PROBE, "prepare p as select * from app.open", "execute p", "declare c cursor for select * from app.open", "fetch c")
            with stopped(warden(server)):
                server.rows("select agent_guard.revoke_window(%s)", agent.window_id)
                expect(UNAUTHENTICATED, agent.run, "fetch c", match="revoked")
                agent.run("rollback")
            expect(UNAUTHENTICATED, agent.run, "execute p", match="revoked")
            expect(UNAUTHENTICATED, bind, agent.connection, agent.token, match="revoked")


def test_revocation_stays_after_the_admins_rollback(server):
    with Agent(server, READ) as agent, server.connect(autocommit=False) as admin:
        admin.execute("select agent_guard.revoke_window(%s)", (agent.window_id,))
        expect(UNAUTHENTICATED, agent.run, PROBE, match="revoked")
        admin.rollback()
        expect(UNAUTHENTICATED, agent.run, PROBE, match="revoked")


def test_a_revocation_that_is_not_committed_yet_holds_for_new_sessions(server):
    with Agent(server, READ) as agent, server.connect(autocommit=False) as admin:
        admin.execute("select agent_guard.revoke_window(%s)", (agent.window_id,))
        with server.connect("owner") as late:
            expect(UNAUTHENTICATED, guard.bind, late, agent.token, match="revoked")
            admin.commit()
            expect(UNAUTHENTICATED, late.execute, PROBE)
            expect(UNAUTHENTICATED, guard.bind, late, agent.token, match="revoked")


def test_a_window_has_no_more_sessions_than_it_may(server):
    with Agent(server, READ) as agent:
        _, token, _ = server.window("owner", agent.policy, max_sessions=1)
        with server.connect("owner") as second:
            with server.connect("owner") as first:
                guard.bind(first, token)
                guard.bind(first, token)
                expect("53400", guard.bind, second, token, match="as many sessions")
                expect(UNAUTHENTICATED, second.execute, PROBE)
                pid = first.info.backend_pid
            # Not asked for again and again: whose tokens are refused too often loses the connection.
            left(server, pid)
            guard.bind(second, token)
            assert second.execute(PROBE).fetchall() == [(3,)]


def test_five_refused_tokens_end_the_connection(server):
    with Agent(server, READ) as agent:
        forged = agent.token[:-1] + ("A" if agent.token[-1] != "A" else "B")
        wire = server.wire("owner")
        states = [wire.query(f"set agent_guard.token = '{forged}'") for _ in range(5)]
        assert [reply.sqlstate for reply in states] == [UNAUTHENTICATED] * 5
        assert states[4].closed and not states[3].closed
        wire = server.wire("owner")
        for statement in ("set local agent_guard.token = '{}'", "select set_config('agent_guard.token', '{}', false)", "select set_config('agent_guard.token', '{}', true)", "do $$begin perform 1; end$$"):
            wire.query(statement.format(forged))
        assert agent.run(PROBE) == [(3,)], "another session's tries count against this one"
        wire.close()


def test_tokens_in_the_startup_packet(server):
    with Agent(server, READ) as agent:
        token = agent.token
    good = server.wire("owner", options=f"-c agent_guard.token={token}")
    assert good.query(PROBE).text() == [("3",)]
    good.query("set agent_guard.token = ''")
    assert good.query(PROBE).sqlstate == UNAUTHENTICATED
    good.query("reset agent_guard.token")
    assert good.query(PROBE).sqlstate == UNAUTHENTICATED, "RESET brought the token of the connection back"
    good.close()
    plain = server.wire("owner", **{"agent_guard.token": token})
    assert plain.query(PROBE).text() == [("3",)]
    plain.query("reset agent_guard.token")
    assert plain.query(PROBE).sqlstate == UNAUTHENTICATED
    plain.close()
    for reset in ("discard all", "reset all"):
        pooled = server.wire("owner", **{"agent_guard.token": token})
        assert pooled.query(PROBE).text() == [("3",)]
        pooled.query(reset)
        assert pooled.query(PROBE).sqlstate == UNAUTHENTICATED, f"{reset} hands the token on to the next user of the connection"
        pooled.close()
    for bad in (token[:-1] + "!", "x", "agt1.", token + "A", "agt1:a:b", "-c", ""):
        wire = server.wire("owner", **{"agent_guard.token": bad})
        assert not wire.startup.errors, f"{bad}: {wire.startup.errors}"
        assert wire.query(PROBE).sqlstate == UNAUTHENTICATED, bad
        assert wire.query("select 1").sqlstate == UNAUTHENTICATED, bad
        wire.close()


def test_what_the_connection_brings_is_decided_as_set_is(server):
    """An agent writes its own startup packet: a role, a tenant of the application, a higher limit in it are the agent's doing."""
    server.run("create role lent; grant lent to owner; grant usage on schema app to lent; grant select on app.open to lent")
    server.run("alter role owner set statement_timeout = '5s'")
    try:
        with Agent(server, READ) as agent, Agent(server, READ, ("allow", ["system", "role"], "*")) as mighty:
            brought = ["-c app.tenant=other", "-c role=lent", "-c row_security=off", "-c debug_print_plan=on", "-c password_encryption=md5"]
            never = ["-c client_min_messages=log", "-c statement_timeout=0", "-c statement_timeout=6000", "--statement-timeout=1min", "-S 2000000", "-c work_mem=2GB"]
            for options in brought + never:
                given = server.wire("owner", options=f"{options} -c agent_guard.token={agent.token}")
                answer = given.query(PROBE)
                assert answer.sqlstate == DENIED and answer.errors[0]["H"].startswith("The connection's options set it"), f"{options}: {answer.errors}"
                assert given.query("select 1").sqlstate == DENIED, f"{options} holds once only"
                given.close()
                set_later = server.wire("owner", options=options)
                assert set_later.query(f"set agent_guard.token = '{agent.token}'").sqlstate == DENIED, options
                assert set_later.query(PROBE).sqlstate == UNAUTHENTICATED, options
                set_later.close()
            for options in brought:
                given = server.wire("owner", options=f"{options} -c agent_guard.token={mighty.token}")
                assert given.query(PROBE).text() == [("3",)], options
                given.close()
            harmless = ["-c search_path=app", "-c timezone=Europe/Vienna -c application_name=x", "-c statement_timeout=4999", "-c role=none", "-c geqo=off -fs"]
            for options in harmless:
                given = server.wire("owner", options=f"{options} -c agent_guard.token={agent.token}")
                assert given.query(PROBE).text() == [("3",)], options
                given.close()
            # What a DBA has set is none of the agent's doing, and RESET leads to nothing else.
            server.run("alter role owner set app.tenant = 'own'; alter role owner set role = lent")
            given = server.wire("owner", options=f"-c agent_guard.token={agent.token}")
            assert given.query("select current_setting('app.tenant'), current_user").text() == [("own", "lent")]
            given.close()
    finally:
        server.run("alter role owner reset all; revoke lent from owner; drop owned by lent; drop role lent")
        server.run("select agent_guard.guard_role('owner')")


def test_an_extension_made_anew_knows_nobody(server):
    """What a binding knows by number would be another policy's: with DROP EXTENSION every window of the database is gone."""
    # So that both policies have the same number.
    server.run("drop extension agent_guard cascade; create extension agent_guard", dbname="second")
    server.run("create schema app; create table app.open (id int); create table app.secret as select 42 as id; grant usage on schema app to owner; grant select on all tables in schema app to owner", dbname="second")

    def policy(pattern):
        server.run(f"select agent_guard.create_policy('only'); select agent_guard.allow('only', array['select'], array['{pattern}'])", dbname="second")

    policy("app.open")
    sessions = []
    for preparing in (False, True, True):
        connection = server.connect("owner", dbname="second")
        bind(connection, server.window("owner", "only", dbname="second")[1])
        for _ in range(3):
            assert connection.execute("select count(*) from app.open", prepare=preparing).fetchone() == (0,)
            expect(DENIED, connection.execute, "select id from app.secret", prepare=preparing)
            assert connection.execute("select 1", prepare=preparing).fetchone() == (1,)
        sessions.append((connection, preparing))
    server.run("drop extension agent_guard cascade", dbname="second")
    # The last one sleeps through it.
    for connection, preparing in sessions[:-1]:
        for query in ("select 1", "select count(*) from app.open", "select id from app.secret"):
            expect(UNAUTHENTICATED, connection.execute, query, prepare=preparing, match="is not installed in this database")
    server.run("create extension agent_guard", dbname="second")
    policy("app.*")
    for connection, preparing in sessions:
        for query in ("select 1", "select count(*) from app.open", "select id from app.secret"):
            expect(UNAUTHENTICATED, connection.execute, query, prepare=preparing, match="was revoked")
        bind(connection, server.window("owner", "only", dbname="second")[1])
        assert connection.execute("select id from app.secret", prepare=preparing).fetchone() == (42,)
        connection.close()


def test_the_guard_cannot_be_switched_off(server):
    with Agent(server, READ, ("allow", ["system", "role", "execute"], "*")) as agent:
        for statement in ("set agent_guard.guarded = off", "reset agent_guard.guarded", "set local \"AGENT_GUARD\".\"guarded\" = off", "select set_config('agent_guard.guarded', 'off', false)", "alter role owner set agent_guard.guarded = off", "alter role owner reset agent_guard.guarded", "alter role owner reset all", "alter role owner in database postgres set agent_guard.guarded = off", "alter system set agent_guard.guarded = off"):
            agent.attempt(statement)
            error = agent.attempt("select * from app.secret")
            assert error is not None and error.sqlstate == DENIED, f"{statement}: {error}"
    for startup in ({"options": "-c agent_guard.guarded=off"}, {"agent_guard.guarded": "off"}, {"options": "-c agent_guard.enforcement=observe"}, {"options": "--agent_guard.guarded=off"}, {"options": "-c session_replication_role=replica"}, {"options": "-c role=keeper"}):
        wire = server.wire("owner", **startup)
        if not wire.startup.errors:
            assert wire.query("select 1").sqlstate == UNAUTHENTICATED, startup
        wire.close()
    server.run("select agent_guard.guard_role('owner')")


def test_replication_and_other_databases_are_refused(server):
    for startup in ({"replication": "true"}, {"replication": "database"}, {"replication": "1", "options": "-c agent_guard.guarded=off"}):
        guard.expect_refused_login(server, user="owner", **startup)
    for database in ("template1", "elsewhere"):
        guard.expect_refused_login(server, user="owner", dbname=database)
        # The server may refuse the option before it gets there.
        wire = server.wire("owner", database, options="-c agent_guard.guarded=off")
        assert wire.startup.sqlstate in (UNAUTHENTICATED, DENIED) and wire.startup.closed
    server.wire("outsider", "elsewhere").close()


def test_changing_the_user_changes_nothing(server):
    server.run("grant keeper to owner")
    try:
        with Agent(server, READ, ("allow", "role", "*")) as agent:
            for statements in (("set role keeper",), ("begin", "set local role keeper"), ("set session authorization owner",)):
                agent.run(*statements)
                expect(DENIED, agent.run, "select * from kept.ledger")
                agent.run("rollback", "reset role")
            expect("42501", agent.run, "set session authorization keeper")
            agent.run("set role keeper", "reset role")
            assert agent.run(PROBE) == [(3,)]
    finally:
        server.run("revoke keeper from owner")


def test_cursors_and_plans_of_another_scope(server):
    wide, narrow = Agent(server, WIDE), Agent(server, ("allow", "select", "app.child"))
    connection = wide.connection
    connection.execute("prepare p as select * from app.open")
    for _ in range(7):
        connection.execute("execute p")
    connection.execute("declare c cursor with hold for select * from app.open")
    bind(connection, narrow.token)
    expect(DENIED, connection.execute, "execute p")
    expect("34000", connection.execute, "fetch c")
    for ending in ("reset agent_guard.token", "reset all", "select set_config('agent_guard.token', '', false)"):
        bind(connection, wide.token)
        connection.execute("declare c cursor with hold for select * from app.open")
        connection.execute(ending)
        expect(UNAUTHENTICATED, connection.execute, "fetch c")
        bind(connection, narrow.token)
        expect("34000", connection.execute, "fetch c")
    wide.connection.close()
    narrow.connection.close()


def test_rules_that_change_reach_prepared_statements(server):
    for mode in ("force_custom_plan", "force_generic_plan", "auto"):
        with Agent(server, READ) as agent:
            agent.run(f"set plan_cache_mode = {mode}", "prepare p(int) as select * from app.open where id = $1", "execute p(1)", "begin", "execute p(1)")
            server.rows("select agent_guard.deny(%s, '{select}', '{app.open}')", agent.policy)
            expect(DENIED, agent.run, "execute p(1)")


TEXTS = [
    "set agent_guard.token = '{}'",
    "set local agent_guard.token = '{}'",
    "select set_config('agent_guard.token', '{}', false)",
    "select '{}' from nothing_there",
    "selec '{}'",
    "/* {} */ select 1/0",
    "do $$begin raise exception '{}'; end$$",
    "do $$begin perform set_config('agent_guard.token', '{}', false); end$$",
    "prepare p as select '{}'",
    "update pg_settings set setting = '{}' where name = 'agent_guard.token'",
    "comment on table app.open is '{}'",
    "alter role owner set agent_guard.token = '{}'",
    "select 1; select '{}'::int",
    "notify c, '{}'",
]


def secrets_of(server):
    """Presents a token in every manner; returns its secret part."""
    with Agent(server, READ, ("allow", ["system", "notify"], "*"), ("allow", "execute", "*")) as agent:
        secret, token = agent.token.rsplit(".", 1)[1], agent.token
        watcher = server.connect()
        for text in TEXTS:
            for way in ("simple", "extended"):
                wire = server.wire("owner", options=f"-c agent_guard.token={token}")
                reply = wire.query(text.format(token)) if way == "simple" else wire.extended(text.format(token))
                assert not reply.closed, text
                seen = watcher.execute("select query from pg_stat_activity where usename = 'owner'").fetchall()
                assert not any(secret in row[0] for row in seen), f"pg_stat_activity after {way} {text}"
                wire.query("select pg_catalog.current_setting('agent_guard.token')")
                shown = wire.query("select * from pg_settings where name ~ 'agent_guard'")
                assert secret not in str(shown.rows), "pg_settings"
                wire.close()
        wire = server.wire("owner")
        wire.parse("select set_config('agent_guard.token', $1, false)")
        wire.bind(values=[token])
        wire.execute()
        assert not wire.sync().errors
        wire.parse("select $1::int")
        wire.bind(values=[token])
        wire.execute()
        wire.sync()
        wire.parse(f"set agent_guard.token = '{token}'", "named")
        wire.sync()
        held = watcher.execute("select query from pg_stat_activity where usename = 'owner'").fetchall()
        assert not any(secret in row[0] for row in held), "pg_stat_activity after Parse alone"
        wire.bind("portal", "named")
        wire.execute("portal")
        wire.sync()
        wire.close()
        watcher.close()
    return secret


def test_no_secret_is_to_be_found(server):
    conf = ["log_statement = all", "log_min_error_statement = debug5", "log_min_duration_statement = 0", "log_min_messages = debug1", "autovacuum = off", "log_parameter_max_length_on_error = -1", "debug_print_parse = on", "log_connections = on"]
    for preload in ("pg_stat_statements,agent_guard", "agent_guard,pg_stat_statements"):
        other = guard.Server("attack_session_secrets", conf, preload).start()
        try:
            other.run("create extension agent_guard; create extension pg_stat_statements")
            scene.setup(other)
            secret = secrets_of(other)
            found = [query for (query,) in other.rows("select query from pg_stat_statements") if secret in query]
            assert not found, f"{preload}: {found}"
            trail = other.audit(columns="audit::text")
            assert len(trail) > 20 and not [row for row in trail if secret in row[0]], "the audit trail"
            # Trees in the log are broken into lines, and write constants byte by byte.
            log = other.log()
            lines = [line[:300] for line in log.splitlines() if secret[:16] in line or secret[-16:] in line]
            assert not lines, f"{preload}: {lines[:3]}"
            unbroken = "".join(log.split())
            assert secret not in unbroken and "".join(map(str, secret.encode())) not in unbroken, preload
            assert "parse tree:" in log and "the statement holds a token" in log, preload
        finally:
            other.stop()


def test_unguarded_sessions_see_the_servers_own_errors(server):
    server.run("create table app.unique_one (id int constraint only_once primary key, check (id < 5)); insert into app.unique_one values (1); grant all on app.unique_one to owner")
    server.run("create function app.raiser() returns int language plpgsql as $$begin return 1 / 0; end$$; grant usage on schema app to outsider; grant all on app.unique_one to outsider")
    with server.connect("outsider") as connection:
        error = expect("23505", connection.execute, "insert into app.unique_one values (1)")
        assert error.diag.constraint_name == "only_once" and error.diag.table_name == "unique_one" and error.diag.schema_name == "app"
        error = expect("22012", connection.execute, "select app.raiser()")
        assert "PL/pgSQL function app.raiser() line 1" in error.diag.context
        error = expect("42703", connection.execute, "select nope from app.unique_one")
        assert error.diag.statement_position == "8"
        for statement in ("selec 1", "select agent_guard.audit_flush()", "select 1/0"):
            error = expect({"selec 1": "42601", "select 1/0": "22012"}.get(statement, DENIED), connection.execute, statement)
            assert "reason=" not in str(error)
    with Agent(server, ("allow", ["insert", "select"], "app.*"), ("allow", "execute", "function app.*")) as agent:
        error = expect("23505", agent.run, "insert into app.unique_one values (1)")
        assert error.diag.constraint_name == "only_once" and error.diag.table_name == "unique_one"
        error = expect("22012", agent.run, "select app.raiser()")
        assert "PL/pgSQL function app.raiser() line 1" in error.diag.context and "backtrace" not in str(error).lower()
    server.run("drop table app.unique_one; drop function app.raiser()")


if __name__ == "__main__":
    guard.run(globals(), conf=["autovacuum = off", "wal_level = logical"])
