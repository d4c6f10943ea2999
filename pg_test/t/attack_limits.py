"""Limits hold over all sessions: whatever the protocol, the race, the rollback or the crash, nothing is refilled or smuggled."""

import os
import subprocess
import threading

import psycopg

import guard
import scene
from guard import CLOSED, DENIED, LIMIT, bind, eventually, expect
from scene import Agent
from tokens import block_id, child

RULES = [
    ("allow", ["select", "insert", "update", "delete", "truncate"], ["app.open", "app.parted", "app.many", "app.target", "app.child"]),
    ("allow", "temporary", "*"),
    ("allow", "execute", ["function app.*", "function pg_catalog.pg_sleep(double precision)"]),
]


def setup(server):
    scene.setup(server)
    server.run(
        """create table app.many as select n as id, 'v' || n as v from generate_series(1, 5000) n;
           create table app.target (id int, v text);
           create function app.noise(count int) returns void language plpgsql as
               $$ begin for i in 1..count loop raise notice '%', repeat('n', 100); end loop; end $$;
           create function app.noisy_value() returns void language plpgsql as
               $$ begin raise exception '%', (select string_agg(v, ',') from app.many); end $$;
           create function app.writes(count int) returns int language plpgsql as
               $$ begin insert into app.target select n, 'w' from generate_series(1, count) n; return count; end $$;
           create function app.cursor_of_values() returns refcursor language plpgsql as
               $$ declare c refcursor := 'named'; begin
                   open c for execute format('select 1 as %I', (select string_agg(v, ',') from app.many where id < 12));
                   return c; end $$;
           create function app.lets_go(token text) returns int language plpgsql as $$
               declare loot text := (select string_agg(v, ',') from app.many where id < 400);
               begin
                   begin perform set_config('agent_guard.token', token, false); exception when others then null; end;
                   for i in 0..20 loop raise notice '%', substr(loot, 1 + 100 * i, 100); end loop;
                   return 1;
               end $$;
           create function app.stubborn() returns void language plpgsql as $$
               begin
                   loop
                       begin perform pg_sleep(60); exception when query_canceled then null; when others then null; end;
                   end loop;
               end $$;
           alter table app.many owner to owner;
           alter table app.target owner to owner;
           alter function app.noise(int) owner to owner;
           alter function app.noisy_value() owner to owner;
           alter function app.writes(int) owner to owner;
           alter function app.cursor_of_values() owner to owner;
           alter function app.stubborn() owner to owner;
           alter function app.lets_go(text) owner to owner;"""
    )


def used(server, window):
    return server.value("select used from agent_guard.windows where window_id = %s", window)


def session(server, token):
    connection = server.connect("owner")
    bind(connection, token)
    return connection


def used_by_block(server, token, meter):
    return server.value(f"select {meter} from agent_guard.list_ledger() where id = decode(%s, 'hex')", block_id(token))


def limit_refused(error, meter):
    assert error.sqlstate == LIMIT, error
    assert f"reason=limit_exhausted limit={meter}" in (error.diag.message_detail or ""), error.diag.message_detail
    return error


# --- races ---


def test_ten_children_share_one_parents_thousand_rows(server):
    """Row 28: the sum over simple, extended and COPY is the parent's budget, and the parent's counter says the same."""
    agent = Agent(server, *RULES, max_depth=2)
    parent = child(agent.token, sub="parent", rows=1000)
    got = [0] * 10

    def work(n):
        with session(server, child(parent, sub=f"c{n}")) as connection:
            try:
                while True:
                    if n % 3 == 0:
                        with connection.cursor().copy("copy (select * from app.many limit 7) to stdout") as copy:
                            for _ in copy:
                                got[n] += 1
                    elif n % 3 == 1:
                        with connection.cursor() as cursor:
                            for _ in cursor.stream("select * from app.many where id <= %s", (13,)):
                                got[n] += 1
                    else:
                        got[n] += len(connection.pgconn.exec_(b"select * from app.many limit 1").get_value(0, 0) and [1])
            except (psycopg.Error, TypeError) as error:
                if isinstance(error, psycopg.Error):
                    limit_refused(error, "rows_read")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert used_by_block(server, parent, "rows_read") == 1000
    assert 0 < sum(got) <= 1000, got
    # Rows of the batch that ended in the refusal had left as well: a driver may not hand them on.
    assert sum(got) >= 1000 - 10 * 13, got
    with session(server, child(parent)) as connection:
        error = limit_refused(expect(LIMIT, connection.execute, "select 1"), "rows_read")
        assert f"block=1/{block_id(parent)}" in error.diag.message_detail, error.diag.message_detail


def test_a_childs_own_limit_is_its_own(server):
    agent = Agent(server, *RULES, max_depth=2)
    parent = child(agent.token, sub="parent", rows=10)
    with session(server, child(parent, sub="small", rows=3)) as small, session(server, child(parent, sub="other")) as other:
        assert len(small.execute("select * from app.many limit 3").fetchall()) == 3
        error = limit_refused(expect(LIMIT, small.execute, "select 1"), "rows_read")
        assert "block=2/" in error.diag.message_detail
        assert len(other.execute("select * from app.many limit 7").fetchall()) == 7
        error = limit_refused(expect(LIMIT, other.execute, "select 1"), "rows_read")
        assert "block=1/" in error.diag.message_detail
    assert used_by_block(server, parent, "rows_read") == 10


def test_rows_read_and_rows_written_are_counted_apart(server):
    agent = Agent(server, *RULES, max_depth=1)
    with session(server, child(agent.token, sub="both", rows=3)) as connection:
        connection.execute("insert into app.target select n, 'b' from generate_series(1, 3) n")
        assert len(connection.execute("select * from app.many limit 3").fetchall()) == 3
        limit_refused(expect(LIMIT, connection.execute, "insert into app.target values (1)"), "rows_written")
        limit_refused(expect(LIMIT, connection.execute, "select 1"), "rows_read")


def test_the_uses_of_a_window_are_those_of_all_its_tokens(server):
    agent = Agent(server, *RULES, max_depth=1, uses=3)
    session(server, child(agent.token, sub="a")).close()
    session(server, child(agent.token, sub="b")).close()
    with server.connect("owner") as connection:
        error = limit_refused(expect(LIMIT, bind, connection, agent.token), "uses")
        assert error.diag.message_detail.endswith("window")
    # What is bound goes on.
    agent.run("select 1")
    assert used(server, agent.window_id) == {"uses": 3}


def test_a_parallel_query_is_counted_once(server):
    settings = ["set max_parallel_workers_per_gather = 2", "set parallel_setup_cost = 0", "set parallel_tuple_cost = 0", "set min_parallel_table_scan_size = 0"]
    agent = Agent(server, *RULES, rows_read=5_100, statements=100)
    agent.run(*settings)
    plan = agent.run("explain (costs off) select * from app.many where v <> ''")
    assert any("Gather" in line[0] for line in plan), plan
    spent = used(server, agent.window_id)["rows_read"]
    assert len(agent.run("select * from app.many where v <> ''")) == 5_000
    assert used(server, agent.window_id) == {"rows_read": spent + 5_000, "statements": 6}
    limit_refused(agent.attempt("select * from app.many where v <> ''"), "rows_read")


def test_fifty_connections_race_for_a_one_time_token(server):
    """Row 31: one wins; a grandchild of the spent token is refused as well."""
    agent = Agent(server, *RULES, max_depth=2)
    once = child(agent.token, sub="once", uses=1)
    grandchild = child(once, sub="grandchild")
    connections = [server.connect("owner") for _ in range(50)]
    outcomes = [None] * 50
    gate = threading.Barrier(50)

    def work(n):
        gate.wait(30)
        try:
            bind(connections[n], once)
            outcomes[n] = connections[n].execute("select 1").fetchone()[0]
        except psycopg.Error as error:
            outcomes[n] = error

    threads = [threading.Thread(target=work, args=(n,)) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert outcomes.count(1) == 1, outcomes
    for error in outcomes:
        if error != 1:
            limit_refused(error, "uses")
    with server.connect("owner") as connection:
        limit_refused(expect(LIMIT, bind, connection, grandchild), "uses")
        # Refused activations leave the session as it was: unbound, and able to take another token.
        expect("28000", connection.execute, "select 1", match="reason=no_token")
        bind(connection, agent.token)
        assert connection.execute("select 1").fetchone() == (1,)
    for connection in connections:
        connection.close()


def test_a_one_time_token_of_the_connection_string(server):
    agent = Agent(server, *RULES, max_depth=1)
    once = child(agent.token, sub="once", uses=1)
    with server.connect("owner", options=f"-c agent_guard.token={once}") as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    with server.connect("owner", options=f"-c agent_guard.token={once}") as connection:
        for _ in range(2):
            limit_refused(expect(LIMIT, connection.execute, "select 1"), "uses")


def test_concurrent_sessions_of_a_block(server):
    agent = Agent(server, *RULES, max_depth=2)
    pair = child(agent.token, sub="pair", sess=2)
    first, second = session(server, pair), session(server, child(pair))
    with server.connect("owner") as third:
        error = limit_refused(expect(LIMIT, bind, third, child(pair)), "sessions")
        assert f"block=1/{block_id(pair)}" in error.diag.message_detail
        second.execute("reset agent_guard.token")
        bind(third, pair)
        first.close()
        second.close()


# --- nothing refills ---


def test_rollback_discard_reconnect_and_another_set_refill_nothing(server):
    """Row 29."""
    for protocol in ("simple", "extended", "copy"):
        agent = Agent(server, *RULES, rows_read=20, statements=50)
        connection = agent.connection

        def read(n):
            if protocol == "copy":
                with connection.cursor().copy(f"copy (select * from app.many limit {n}) to stdout") as copy:
                    return sum(1 for _ in copy)
            if protocol == "extended":
                return len(connection.execute("select * from app.many limit %s", (n,)).fetchall())
            return connection.pgconn.exec_(f"select * from app.many limit {n}".encode()).ntuples

        connection.execute("begin")
        assert read(4) == 4
        connection.execute("rollback")
        assert used(server, agent.window_id)["rows_read"] == 4
        assert read(4) == 4
        connection.execute("discard all")
        bind(connection, agent.token)
        assert read(4) == 4
        connection.close()
        connection = session(server, agent.token)
        assert read(4) == 4
        bind(connection, agent.token)
        bind(connection, agent.token)
        assert read(4) == 4
        assert used(server, agent.window_id)["rows_read"] == 20
        limit_refused(expect(LIMIT, connection.execute, "select 1"), "rows_read")
        connection.close()


def test_statements_count_also_when_they_fail_and_an_exhausted_session_can_leave(server):
    agent = Agent(server, *RULES, statements=5)
    connection = agent.connection
    connection.execute("begin")
    expect("22012", connection.execute, "select 1 / (id - 1) from app.open")
    connection.execute("rollback")
    expect(DENIED, connection.execute, "select * from app.secret")
    connection.execute("select 1; select 2")
    connection.execute("begin")
    connection.execute("select 3")
    assert used(server, agent.window_id)["statements"] == 5
    error = limit_refused(expect(LIMIT, connection.execute, "select 4"), "statements")
    assert "window" in error.diag.message_detail and "DBA" in error.diag.message_hint
    connection.execute("rollback")
    connection.execute("show agent_guard.challenge")
    connection.execute("reset agent_guard.token")
    bind(connection, agent.token)
    limit_refused(expect(LIMIT, connection.execute, "select 4"), "statements")
    connection.execute("discard all")
    assert used(server, agent.window_id) == {"statements": 5}


def test_a_limit_of_the_policy_holds_in_windows_that_are_open(server):
    agent = Agent(server, *RULES)
    agent.run("select * from app.many limit 10")
    server.run(f"select agent_guard.set_limits('{agent.policy}', rows_read => 5)")
    assert len(agent.run("select * from app.many limit 5")) == 5
    limit_refused(agent.attempt("select 1"), "rows_read")
    server.run(f"select agent_guard.set_limits('{agent.policy}', rows_read => 6)")
    agent.run("select 1")
    limit_refused(agent.attempt("select 1"), "rows_read")
    server.run(f"select agent_guard.set_limits('{agent.policy}')")
    agent.run("select * from app.many limit 100")


# --- the door ---


def test_every_way_out_counts_rows(server):
    """Row 30: each statement returns ten rows, of which seven are left."""
    ways = {
        "plain": "select * from app.many limit 10",
        "returning": "insert into app.target select id, v from app.many limit 10 returning *",
        "update returning": "update app.many set v = v where id <= 10 returning *",
        "with": "with x as (select * from app.many limit 10) table x",
        "copy": "copy (select * from app.many limit 10) to stdout",
        "copy binary": "copy (select * from app.many limit 10) to stdout (format binary)",
        "function": "select app.one() from generate_series(1, 10)",
    }
    for name, statement in ways.items():
        agent = Agent(server, *RULES, rows_read=7)
        try:
            if statement.startswith("copy"):
                count = 0
                with agent.connection.cursor().copy(statement) as copy:
                    for _ in copy:
                        count += 1
                raise AssertionError(f"{name} gave {count}")
            with agent.connection.cursor() as cursor:
                rows = cursor.execute(statement).fetchall()
            raise AssertionError(f"{name} gave {rows}")
        except psycopg.Error as error:
            limit_refused(error, "rows_read")
        assert used(server, agent.window_id)["rows_read"] == 7, name
        agent.connection.close()


def test_pieces_of_portals_and_cursors_add_up(server):
    agent = Agent(server, *RULES, rows_read=10)
    agent.run("begin", "declare c cursor for select * from app.many")
    got = 0
    error = None
    while error is None:
        try:
            got += len(agent.connection.execute("fetch 3 from c").fetchall())
        except psycopg.Error as refused:
            error = refused
    limit_refused(error, "rows_read")
    assert got == 9 and used(server, agent.window_id)["rows_read"] == 10
    agent.run("rollback")

    agent = Agent(server, *RULES, rows_read=10)
    agent.run("declare h cursor with hold for select * from app.many")
    assert len(agent.run("fetch 10 from h")) == 10
    limit_refused(agent.attempt("fetch 1 from h"), "rows_read")

    agent = Agent(server, *RULES, rows_read=10)
    wire = server.wire("owner", options=f"-c agent_guard.token={agent.token}")
    wire.query("begin")
    wire.parse("select * from app.many")
    wire.bind("p")
    for _ in range(4):
        wire.execute("p", 3)
    reply = wire.sync()
    assert len(reply.rows) == 10 and reply.sqlstate == LIMIT, (len(reply.rows), reply.errors)
    wire.close()


def test_explain_show_and_fast_path_count_too(server):
    agent = Agent(server, *RULES, rows_read=3)
    agent.run("explain (costs off) select * from app.many limit 1")
    assert used(server, agent.window_id)["rows_read"] == 2
    agent.run("show work_mem")
    limit_refused(agent.attempt("show work_mem"), "rows_read")
    oid = server.value("select 'pg_catalog.int4pl(int,int)'::regprocedure::oid")
    wire = server.wire("owner", options=f"-c agent_guard.token={agent.token}")
    reply = wire.call(oid, (1, 2))
    assert reply.value is None and reply.sqlstate == LIMIT, reply
    wire.close()
    agent = Agent(server, *RULES, rows_read=1, statements=1)
    wire = server.wire("owner", options=f"-c agent_guard.token={agent.token}")
    assert wire.call(oid, (1, 2)).value == b"3"
    assert used(server, agent.window_id) == {"rows_read": 1, "statements": 1}
    reply = wire.call(oid, (1, 2))
    assert reply.value is None and "limit=statements" in reply.errors[0]["D"], reply
    wire.close()


def test_an_aggregate_smuggles_no_bytes(server):
    """Row 30: a table as one row."""
    for smuggled in (
        "select json_agg(t) from app.many t",
        "select string_agg(v, ',') from app.many",
        "copy (select string_agg(v, ',') from app.many) to stdout",
        "explain (analyze, costs off, timing off, summary off) select '" + 20000 * "x" + "' from app.many",
    ):
        agent = Agent(server, *RULES, bytes_read=10_000, rows_read=20_000)
        try:
            if smuggled.startswith("copy"):
                with agent.connection.cursor().copy(smuggled) as copy:
                    got = sum(len(piece) for piece in copy)
            else:
                got = sum(len(str(row)) for row in agent.connection.execute(smuggled).fetchall())
            assert smuggled.startswith("explain") and got < 10_000, got
        except psycopg.Error as error:
            limit_refused(error, "bytes_read")
            assert "bytes are left" in error.diag.message_hint
        counted = used(server, agent.window_id)
        assert counted["bytes_read"] < 10_000, counted
        # The row that did not leave is not charged either.
        assert smuggled.startswith("explain") or counted["rows_read"] == 0, counted
        agent.run("select 1")


def test_an_errors_text_carries_nothing_out_that_is_not_paid_for(server):
    for leak in (
        "select (select string_agg(v, ',') from app.many)::int",
        "select app.noisy_value()",
        "select * from app.open where id = (select string_agg(v, ',') from app.many)::int",
    ):
        agent = Agent(server, *RULES, bytes_read=5_000)
        error = limit_refused(agent.attempt(leak), "bytes_read")
        assert "v17,v18" not in str(error) + str(error.diag.context) + str(error.diag.internal_query), error
        assert len(str(error)) + len(error.diag.message_detail or "") + len(error.diag.context or "") < 1000
        # An ordinary error passes and is paid for.
        before = used(server, agent.window_id)["bytes_read"]
        assert agent.attempt("select 1 / (id - 1) from app.open").sqlstate == "22012"
        assert used(server, agent.window_id)["bytes_read"] > before
        # In pieces: each error costs what it says, until nothing is left.
        for _ in range(60):
            error = agent.attempt("select ('" + 200 * "y" + "')::int")
            if error.sqlstate == LIMIT:
                break
        else:
            raise AssertionError("errors are free")
        assert 200 * "y" not in str(error)


def test_notices_are_dropped_and_the_statement_is_cancelled(server):
    agent = Agent(server, *RULES, bytes_read=5_000)
    heard = []
    agent.connection.add_notice_handler(lambda notice: heard.append(notice.message_primary))
    error = agent.attempt("select app.noise(1000)")
    limit_refused(error, "bytes_read")
    assert 0 < sum(len(text) for text in heard) < 5_000, len(heard)
    agent = Agent(server, *RULES, bytes_read=1_000_000)
    agent.connection.add_notice_handler(lambda notice: heard.append(notice.message_primary))
    heard.clear()
    agent.run("select app.noise(1000)")
    assert len(heard) == 1000


def test_a_columns_name_and_a_reported_setting_are_bytes_too(server):
    agent = Agent(server, *RULES, bytes_read=60)
    agent.run("begin", "select app.cursor_of_values()")
    limit_refused(agent.attempt("fetch all from named"), "bytes_read")
    agent = Agent(server, *RULES, bytes_read=40)
    agent.run("set application_name = '" + 60 * "a" + "'")
    assert agent.connection.info.parameter_status("application_name") != 60 * "a"


def test_a_function_that_lets_go_of_its_token_goes_on_paying(server):
    """Unbound, or with a spent token refused, in the middle of a statement: what it has read is charged as before."""
    spent_agent = Agent(server, *RULES, max_depth=1)
    spent = child(spent_agent.token, uses=1)
    session(server, spent).close()
    for token in ("", spent, "agt1.nonsense"):
        agent = Agent(server, *RULES, bytes_read=1_000)
        heard = []
        agent.connection.add_notice_handler(lambda notice, heard=heard: heard.append(notice.message_primary))
        try:
            agent.connection.execute("select app.lets_go(%s)", (token,))
        except psycopg.Error:
            pass
        assert sum(len(text) for text in heard) <= 1_000, (token[:4], len(heard))


def test_a_cancelled_wait_for_the_ledger_opens_no_door(server):
    """Nobody can store marks: who needs one waits and is refused; what was marked before may be used."""
    agent = Agent(server, *RULES, rows_read=1600)
    agent.run("select * from app.many limit 10")
    with server.connect(autocommit=False) as dba:
        dba.execute("lock table agent_guard.ledger in access exclusive mode")
        # For that statement alone: on a busy machine it is little for any other.
        agent.run("select * from app.many limit 10", "begin", "set local statement_timeout = '300ms'")
        error = agent.attempt("select * from app.many limit 1000")
        assert error.sqlstate == "57014", error
        error = agent.attempt("select * from app.many limit 1000")
        assert error.sqlstate == "53100" and "reason=ledger_unavailable" in error.diag.message_detail, error
        # The trail and other agents do not wait behind it.
        with session(server, Agent(server, *RULES).token) as other:
            other.execute("select 1")
        dba.rollback()
    rows = used(server, agent.window_id)["rows_read"]
    assert 20 <= rows <= 20 + 100 + 2, rows
    limit_refused(agent.attempt("select * from app.many limit 1600"), "rows_read")
    assert used(server, agent.window_id)["rows_read"] == 1600


def test_where_denials_are_only_recorded_so_are_limits(server):
    agent = Agent(server, *RULES, rows_read=5, rows_written=1, statements=6)
    server.run(f"update agent_guard.policy set mode = 'observe' where name = '{agent.policy}'")
    for _ in range(5):
        assert len(agent.run("select * from app.many limit 7")) == 7
    agent.run("insert into app.target values (1), (2)", "delete from app.target")
    assert used(server, agent.window_id) == {"rows_read": 5, "rows_written": 0, "statements": 6}
    seen = server.audit("window_id = %s and decision = 'observe'", agent.window_id, columns="statement")
    assert len(seen) >= 6, seen


# --- rows written ---


def test_rows_written_count_at_every_depth(server):
    ways = {
        "insert": "insert into app.target select id, v from app.many limit 10",
        "update": "update app.many set v = v where id <= 10",
        "delete": "delete from app.many where id > 4990",
        "merge": "merge into app.target t using (select * from app.many limit 10) s on false when not matched then insert values (s.id, s.v)",
        "function": "select app.writes(10)",
        "nested": "select app.writes(4), app.writes(6)",
        "table as": "create temp table t as select * from app.many limit 10",
        "select into": "select * into temp t from app.many limit 10",
        "copy": "copy app.target from stdin",
    }
    for name, statement in ways.items():
        for limit, passes in ((9, False), (10, True)):
            agent = Agent(server, *RULES, rows_written=limit)
            before = scene.world(server)
            agent.run("begin")
            try:
                if name == "copy":
                    with agent.connection.cursor().copy(statement) as copy:
                        for n in range(10):
                            copy.write_row((n, "c"))
                else:
                    agent.connection.execute(statement)
                worked = True
                assert passes, f"{name} passed"
            except psycopg.Error as error:
                worked = False
                limit_refused(error, "rows_written")
                assert not passes, f"{name}: {error}"
            agent.run("rollback")
            if worked:
                assert used(server, agent.window_id)["rows_written"] == 10, name
            assert not scene.changes(before, scene.world(server)), name
            agent.connection.close()


def test_cascades_of_foreign_keys_are_rows_written(server):
    agent = Agent(server, *RULES, rows_written=1)
    agent.run("begin")
    limit_refused(agent.attempt("delete from app.open where id = 1"), "rows_written")
    agent = Agent(server, *RULES, rows_written=2)
    agent.run("begin", "delete from app.open where id = 1", "rollback")
    assert used(server, agent.window_id)["rows_written"] == 2


def test_changes_that_are_not_counted_are_refused(server):
    for limits in ({"rows_written": 100}, {"rows_per_statement": 100}):
        agent = Agent(server, *RULES, **limits)
        for statement in (
            "with x as (insert into app.target values (1) returning *) select * from x",
            "truncate app.target",
        ):
            error = agent.attempt(statement)
            assert error.sqlstate == LIMIT and "reason=limit_uncounted" in error.diag.message_detail, error
        agent.run("insert into app.target values (1)", "delete from app.target")


# --- one statement ---


def test_rows_of_one_statement(server):
    agent = Agent(server, *RULES, rows_per_statement=5)
    assert len(agent.run("select * from app.many limit 5")) == 5
    assert len(agent.run("select * from app.many limit 5")) == 5
    limit_refused(agent.attempt("select * from app.many limit 6"), "rows_per_statement")
    limit_refused(agent.attempt("update app.many set v = v where id <= 6"), "rows_per_statement")
    limit_refused(agent.attempt("select app.writes(3), app.writes(3)"), "rows_per_statement")
    agent.run("begin", "declare c cursor for select * from app.many", "fetch 5 from c", "fetch 5 from c")
    limit_refused(agent.attempt("fetch 6 from c"), "rows_per_statement")
    # A portal in pieces is one statement, whatever runs in between.
    wire = server.wire("owner", options=f"-c agent_guard.token={agent.token}")
    wire.query("begin")
    wire.parse("select * from app.many", "s")
    wire.bind("p", "s")
    wire.execute("p", 4)
    wire.parse("select 1")
    wire.bind()
    wire.execute()
    wire.execute("p", 4)
    reply = wire.sync()
    assert len(reply.rows) == 4 + 1 + 1 and reply.sqlstate == LIMIT, reply
    wire.close()
    # What a portal's function changes in pieces adds up as well, and a portal that waited counts its own alone.
    agent = Agent(server, *RULES, rows_per_statement=5)
    wire = server.wire("owner", options=f"-c agent_guard.token={agent.token}")
    wire.query("begin")
    wire.parse("select app.writes(2) from generate_series(1, 3)", "w")
    wire.bind("p", "w")
    wire.parse("select * from app.many limit 5", "five")
    wire.bind("", "five")
    wire.execute()
    for _ in range(2):
        wire.execute("p", 1)
        wire.bind("", "five")
        wire.execute()
    reply = wire.sync()
    assert len(reply.rows) == 5 + 2 * 6 and not reply.errors, reply
    wire.execute("p", 1)
    assert "limit=rows_per_statement" in wire.sync().errors[0]["D"]
    wire.close()
    agent.run("begin", "declare c cursor for select * from app.many", "move 100 in c", "fetch 5 in c", "rollback", "prepare q as select * from app.many limit 6")
    limit_refused(agent.attempt("execute q"), "rows_per_statement")


def test_the_time_of_one_statement(server):
    agent = Agent(server, *RULES, statement_timeout="1 s")
    error = agent.attempt("select pg_sleep(60)")
    assert error.sqlstate == CLOSED and "limit=statement_timeout" in error.diag.message_detail, error
    agent.run("select 1", "select pg_sleep(0.01)")
    # Its own lower one ends it first; for that statement alone, because on a busy machine it is little for any other.
    agent.run("begin", "set local statement_timeout = 50")
    error = agent.attempt("select pg_sleep(60)")
    assert error.sqlstate == CLOSED and "limit=" not in (error.diag.message_detail or ""), error
    # Nothing goes off between statements.
    agent.run("begin", "select 1")
    assert server.value("select count(*) from pg_stat_activity where pid = %s and clock_timestamp() - state_change < '1 hour'", agent.connection.info.backend_pid)
    agent.run("select 2", "rollback")


def test_the_clock_stands_still_while_a_portal_waits(server):
    agent = Agent(server, *RULES, statement_timeout="500 ms")
    wire = server.wire("owner", options=f"-c agent_guard.token={agent.token}")
    wire.query("begin")
    wire.parse("select * from app.many", "s")
    wire.bind("p", "s")
    wire.bind("fresh", "s")
    wire.execute("p", 2)
    wire.flush()
    wire.until("s")
    # Longer than the timer and all its repetitions, on the server's clock.
    server.value("select pg_sleep(1.5)::text")
    wire.execute("p", 2)
    wire.execute("fresh", 2)
    reply = wire.sync()
    assert len(reply.rows) == 4 and not reply.errors, reply
    wire.query("rollback")
    oid = server.value("select 'pg_catalog.int4pl(int,int)'::regprocedure::oid")
    assert "limit=statement_timeout" in wire.call(oid, (1, 2)).errors[0]["D"]
    wire.close()


def test_a_function_that_catches_the_timeout_loses_its_connection(server):
    agent = Agent(server, *RULES, statement_timeout="100 ms")
    error = agent.attempt("select app.stubborn()")
    assert error is not None and error.sqlstate in (CLOSED, "57P01"), error
    assert "limit=statement_timeout" in error.diag.message_detail, error.diag.message_detail


# --- room ---


def test_thousands_of_children_take_no_room_from_others(server):
    """Row 32."""
    greedy, other = Agent(server, *RULES, max_depth=1), Agent(server, *RULES, max_depth=1)
    refused = 0
    with server.connect("owner") as connection:
        for n in range(1000):
            try:
                bind(connection, child(greedy.token, sub=f"c{n}", rows=5))
            except psycopg.Error as error:
                assert error.sqlstate == LIMIT and "reason=resource_limit" in error.diag.message_detail, error
                refused += 1
                if refused > 5:
                    break
        else:
            raise AssertionError("no end of room")
        assert n < 300, n
        # Without a counter there is still room.
        bind(connection, child(greedy.token, sub="free"))
        connection.execute("select 1")
    with session(server, child(other.token, sub="busy", rows=2)) as busy:
        busy.execute("select 1")
        busy.execute("select 1")
        limit_refused(expect(LIMIT, busy.execute, "select 1"), "rows_read")


def test_a_dump_carries_the_limits_of_policies_and_nothing_that_was_used(server):
    agent = Agent(server, *RULES, rows_read=7)
    agent.run("select * from app.many limit 2")
    server.run(f"select agent_guard.set_limits('{agent.policy}', rows_read => 123454321, statement_timeout => '7 min')")
    program = os.path.join(server.variables["GUARD_BIN"], "pg_dump")
    command = [program, "-h", server.host, "-p", str(server.port), "-U", "postgres", "-d", "postgres"]
    dump = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    row = next(line for line in dump.splitlines() if f"\t{agent.policy}\t" in line)
    assert {"123454321", "00:07:00"} <= set(row.split("\t")), row
    assert "agent_guard.ledger" not in dump and "agent_guard.window_grant" not in dump


# --- crashes; they restart the server, so they come last ---


def spend(server, token, rows):
    with session(server, token) as connection:
        assert len(connection.execute(f"select * from app.many limit {rows}").fetchall()) == rows


def test_a_killed_backend_refills_nothing(server):
    """Row 29: kill -9 of a backend restarts the server, and shared memory is new."""
    agent = Agent(server, *RULES, max_depth=1, rows_read=1600)
    once = child(agent.token, sub="once", uses=1)
    with session(server, once):
        pass
    spend(server, agent.token, 700)
    busy = session(server, agent.token)
    busy.execute("select * from app.many limit 23").fetchall()
    server.crash(busy.info.backend_pid)
    # At most a chunk is lost, nothing is refilled.
    after = used(server, agent.window_id)["rows_read"]
    assert 723 <= after <= 723 + 1600 // 16, after
    with server.connect("owner") as connection:
        limit_refused(expect(LIMIT, bind, connection, once), "uses")
    with session(server, agent.token) as connection:
        left = connection.execute('select "left" from agent_guard.whoami()').fetchone()[0]["rows_read"]
        assert left <= 1600 - after, left
        error = expect(LIMIT, connection.execute, "select * from app.many limit 1000")
        limit_refused(error, "rows_read")


def test_a_killed_server_refills_nothing(server):
    agent = Agent(server, *RULES, rows_read=1600, rows_written=160, statements=1000)
    agent.run("select * from app.many limit 500", "insert into app.target select 1, 'x' from generate_series(1, 20)")
    before = used(server, agent.window_id)
    server.kill(server.pid)
    eventually(lambda: not alive(server.pid), "the postmaster is gone")
    server.restart_killed()
    after = used(server, agent.window_id)
    for meter, limit in (("rows_read", 1600), ("rows_written", 160), ("statements", 1000)):
        assert before[meter] <= after[meter] <= before[meter] + limit // 16, (meter, before, after)
    with session(server, agent.token) as connection:
        limit_refused(expect(LIMIT, connection.execute, "select * from app.many limit 1101"), "rows_read")


def test_a_writer_that_leaves_stores_the_exact_numbers(server):
    agent = Agent(server, *RULES, rows_read=1600)
    agent.run("select * from app.many limit 33")
    stored = "select rows_read from agent_guard.ledger where id = pg_catalog.uuid_send(%s)"
    assert 33 <= server.value(stored, agent.window_id) <= 133
    writer = server.value("select writer_pid from agent_guard.stat")
    server.run(f"select pg_terminate_backend({writer})")
    eventually(lambda: server.value(stored, agent.window_id) == 33, "the exact number is stored")
    # And raised again with the next one.
    agent.run("select * from app.many limit 1")
    assert 34 <= server.value(stored, agent.window_id) <= 134


def test_an_orderly_restart_keeps_the_exact_numbers(server):
    agent = Agent(server, *RULES, rows_read=1600)
    agent.run("select * from app.many limit 500")
    agent.connection.close()
    server.restart()
    assert used(server, agent.window_id) == {"rows_read": 500}


def alive(pid):
    try:
        os.kill(pid, 0)
        return True
    except ProcessLookupError:
        return False


if __name__ == "__main__":
    guard.run(globals())
