"""The library works preloaded or not at all."""

import guard
from guard import expect

REMEDY = "shared_preload_libraries"


def test_the_preloaded_library_loads(server):
    assert server.value("show shared_preload_libraries") == "agent_guard"


def test_load_in_a_session_is_refused():
    server = guard.Server("test_preload_none", preload="none").start()
    try:
        with server.connect() as connection:
            expect("55000", connection.execute, "load 'agent_guard'", match=REMEDY)
    finally:
        server.stop()


def test_create_extension_without_preload_is_refused():
    server = guard.Server("test_preload_none", preload="none").start()
    try:
        with server.connect() as connection:
            expect("55000", connection.execute, "create extension agent_guard", match=REMEDY)
            connection.execute("select 1")
    finally:
        server.stop()


def test_a_neighbour_may_be_preloaded_before_and_after():
    for preload in ("pg_stat_statements,agent_guard", "agent_guard,pg_stat_statements"):
        server = guard.Server("test_preload_neighbour", preload=preload).start()
        try:
            server.run("create extension agent_guard; create extension pg_stat_statements")
            server.run("create table t (n int); insert into t select generate_series(1, 10)")
            assert server.value("select sum(calls) from pg_stat_statements where query like 'insert into t %%'") == 1
        finally:
            server.stop()


def test_no_schema_takes_the_extension_along(server):
    """Whoever owns a database may drop and make its public schema, as resets of test data do; the guard stays."""
    server.run("create role db_owner login")
    server.run("create database reset_often owner db_owner")
    with server.connect(dbname="reset_often") as connection:
        connection.execute("create extension agent_guard")
        connection.execute("select agent_guard.create_policy('kept')")
    with server.connect("db_owner", dbname="reset_often") as connection:
        connection.execute("drop schema public cascade")
    with server.connect(dbname="reset_often") as connection:
        assert connection.execute("select name from agent_guard.policies").fetchall() == [("kept",)]
        connection.execute("drop extension agent_guard")
        connection.execute("create extension agent_guard")


if __name__ == "__main__":
    guard.run(globals(), extension=False)
