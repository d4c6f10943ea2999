"""psycopg 3 as the agent: simple and extended protocol, prepared statements, cursors, COPY, pipelines, transactions."""

import psycopg
from psycopg import ClientCursor, sql
from psycopg.rows import dict_row
from psycopg.types import TypeInfo

import chinook
from chinook import REFUSED, same
from guard import DENIED, UNAUTHENTICATED, bind, expect

LONGEST = "select track_id, name, unit_price, milliseconds from track where milliseconds > %s order by track_id limit 50"


def _outcome(connection, statement, *values):
    """Rows, or the error as a client would see it."""
    try:
        return connection.execute(statement, values).fetchall()
    except psycopg.Error as error:
        diag = error.diag
        return (error.sqlstate, diag.message_primary, diag.message_detail, diag.constraint_name, diag.table_name, diag.statement_position)


def test_extended_protocol(server):
    same(server, lambda c: c.execute(LONGEST, (300000,)).fetchall())


def test_simple_protocol(server):
    same(server, lambda c: c.execute(LONGEST, (300000,)).fetchall(), cursor_factory=ClientCursor)


def test_several_statements_at_once(server):
    def work(connection):
        cursor = connection.execute("select 1; select name from genre order by 1 limit 2; show server_version")
        results = [cursor.fetchall()]
        while cursor.nextset():
            results.append(cursor.fetchall())
        return results

    same(server, work)


def test_binary_results(server):
    same(server, lambda c: c.cursor(binary=True).execute(LONGEST, (1,)).fetchall())


def test_prepared_at_once(server):
    same(server, lambda c: [c.execute(LONGEST, (n * 1000,)).fetchall() for n in range(10)], prepare_threshold=0)


def test_prepared_by_threshold_and_generic_plan(server):
    def work(connection):
        # Past five executions the server may turn to a generic plan, which no planner hook sees again.
        return [connection.execute("select name from track where track_id = %s", (n,)).fetchone() for n in range(1, 30)]

    same(server, work, prepare_threshold=2)


def test_server_side_cursor(server):
    def work(connection):
        with connection.transaction(), connection.cursor("c") as cursor:
            cursor.itersize = 100
            return [row[0] for row in cursor.execute("select track_id from track order by track_id")]

    same(server, work)


def test_scrollable_holdable_cursor(server):
    def work(connection):
        with connection.cursor("c", scrollable=True, withhold=True) as cursor:
            cursor.execute("select genre_id, name from genre order by 1")
            first = cursor.fetchmany(5)
            cursor.scroll(-3)
            return first, cursor.fetchmany(2), cursor.fetchall()

    same(server, work)


def test_stream(server):
    same(server, lambda c: list(c.cursor().stream("select name from artist order by artist_id")))


def test_copy_to_stdout(server):
    def work(connection):
        with connection.cursor().copy("copy track to stdout") as copy:
            table = b"".join(copy)
        with connection.cursor().copy("copy (select name from genre order by 1) to stdout (format binary)") as copy:
            return table, b"".join(copy)

    same(server, work)


def test_copy_from_stdin(server):
    def work(connection):
        with connection.transaction(force_rollback=True):
            with connection.cursor().copy("copy playlist (playlist_id, name) from stdin") as copy:
                for row in [(801, "a"), (802, "b\tb"), (803, None)]:
                    copy.write_row(row)
            return connection.execute("select * from playlist where playlist_id > 800 order by 1").fetchall()

    same(server, work)


def test_executemany(server):
    def work(connection):
        with connection.transaction(force_rollback=True):
            cursor = connection.cursor()
            cursor.executemany("insert into playlist values (%s, %s) returning name", [(n, f"list {n}") for n in range(810, 830)], returning=True)
            results = [cursor.fetchall()]
            while cursor.nextset():
                results.append(cursor.fetchall())
            return results

    same(server, work)


def test_pipeline(server):
    def work(connection):
        with connection.pipeline():
            cursors = [connection.execute("select name from genre where genre_id = %s", (n,)) for n in range(1, 26)]
            return [cursor.fetchone() for cursor in cursors]

    same(server, work)


def test_pipeline_error_ends_its_batch_only(server):
    def work(connection):
        outcomes = []
        try:
            with connection.pipeline() as pipeline:
                connection.execute("select 1")
                connection.execute("select 1/0")
                connection.execute("select 2")
                pipeline.sync()
        except psycopg.Error as error:
            outcomes.append(error.sqlstate)
        return outcomes + connection.execute("select 3").fetchall()

    same(server, work)


def test_transactions_and_savepoints(server):
    def work(connection):
        seen = []
        with connection.transaction(force_rollback=True):
            connection.execute("insert into playlist values (840, 'kept')")
            try:
                with connection.transaction():
                    connection.execute("insert into playlist values (841, 'lost')")
                    connection.execute("insert into playlist values (840, 'twice')")
            except psycopg.errors.UniqueViolation as error:
                seen.append((error.diag.constraint_name, error.diag.table_name, error.diag.message_detail))
            seen += connection.execute("select name from playlist where playlist_id >= 840").fetchall()
        return seen + connection.execute("select count(*) from playlist where playlist_id >= 840").fetchall()

    same(server, work)


def test_isolation_levels(server):
    def work(connection):
        connection.autocommit = True
        seen = []
        for level in ["read uncommitted", "read committed", "repeatable read", "serializable"]:
            connection.execute(f"begin isolation level {level}")
            seen.append(connection.execute("show transaction_isolation").fetchone())
            seen.append(connection.execute("select count(*) from track").fetchone())
            connection.execute("commit")
        connection.execute("begin read only")
        seen.append(_outcome(connection, "insert into playlist values (850, 'x')"))
        connection.execute("rollback")
        return seen

    same(server, work)


def test_types_and_rows_as_dictionaries(server):
    def work(connection):
        row = connection.cursor(row_factory=dict_row).execute(
            "select now() is not null as t, %s::jsonb as j, %s::date as d, %s::text[] as a, null as n, 1.50::numeric as m",
            ('{"a": [1, 2]}', "2026-02-03", ["x", "y"]),
        )
        return row.fetchall()

    same(server, work)


def test_type_information(server):
    same(server, lambda c: [(t.name, t.oid, t.array_oid) for t in [TypeInfo.fetch(c, name) for name in ("hstore", "int4", "jsonb")] if t])


def test_ordinary_errors_are_untouched(server):
    def work(connection):
        return [
            _outcome(connection, "select 1/0"),
            _outcome(connection, "select * from no_such_table"),
            _outcome(connection, "select no_such_column from track"),
            _outcome(connection, "selec 1"),
            _outcome(connection, "insert into playlist values (1, 'twice')"),
            _outcome(connection, "insert into playlist values (null, 'x')"),
            _outcome(connection, "select 'x'::integer"),
        ]

    same(server, work)


def test_cancel_works(server):
    with chinook.as_agent(server) as connection:
        # For that statement alone: on a busy machine it is little for any other.
        connection.execute("begin; set local statement_timeout = '50ms'")
        slow = "select count(*) from track a, track b, track c where a.name || b.name || c.name = 'x'"
        expect("57014", connection.execute, slow, match="statement timeout")
        connection.execute("rollback")
        assert connection.execute("select 1").fetchone() == (1,)


def test_an_insert_is_there_for_others(server):
    with chinook.as_agent(server) as connection:
        connection.execute("insert into playlist values (860, 'the agent''s')")
    assert server.value("select name from playlist where playlist_id = 860", dbname="chinook") == "the agent's"
    server.run("delete from playlist where playlist_id = 860", dbname="chinook")


def test_a_session_without_token_does_nothing(server):
    with server.connect(chinook.AGENT, chinook.DATABASE) as connection:
        for statement in ("select 1 from genre", "table employee", "insert into playlist values (870, 'x')", "drop table genre"):
            expect(UNAUTHENTICATED, connection.execute, statement)
        bind(connection, server.token)
        assert connection.execute("select count(*) from genre").fetchone() == (25,)


def test_refusal_aborts_a_transaction_as_any_error_does(server):
    with chinook.as_agent(server, autocommit=False) as connection:
        connection.execute("insert into playlist values (880, 'x')")
        expect(DENIED, connection.execute, "table employee")
        expect("25P02", connection.execute, "select 1")
        connection.rollback()
        assert connection.execute("select count(*) from playlist where playlist_id = 880").fetchone() == (0,)


def test_denied_in_a_pipeline(server):
    with chinook.as_agent(server) as connection:
        def pipelined():
            with connection.pipeline():
                connection.execute("insert into playlist values (881, 'x')")
                connection.execute("table employee")
                connection.execute("insert into playlist values (882, 'x')")

        expect(DENIED, pipelined)
        assert connection.execute("select count(*) from playlist where playlist_id > 880").fetchone() == (0,)


def test_the_error_names_its_object(server):
    with chinook.as_agent(server) as connection:
        error = expect(DENIED, connection.execute, "select email from employee", match="employee")
        assert (error.diag.schema_name, error.diag.table_name) == ("public", "employee"), error.diag.table_name
        assert error.diag.message_hint, "a refusal tells what to do next"


def _refused_by(statement, cursor):
    error = expect(DENIED, cursor.execute, statement)
    assert (error.diag.message_detail or "").startswith("reason="), f"refused, but not by the guard: {error.diag.message_primary}"


def refused_simple(server, statement):
    with chinook.as_agent(server, cursor_factory=ClientCursor) as connection:
        _refused_by(statement, connection.cursor())
        connection.rollback()
        assert connection.execute("select 1").fetchone() == (1,), "the session goes on"


def refused_prepared(server, statement):
    if ";" in statement and "$$" not in statement:
        *before, statement = [part.strip() for part in statement.split(";")]
    else:
        before = []
    with chinook.as_agent(server, prepare_threshold=0) as connection:
        def all_of_it():
            for part in before:
                connection.execute(part)
            return connection.execute(sql.SQL(statement), prepare=True)

        error = expect(DENIED, all_of_it)
        assert (error.diag.message_detail or "").startswith("reason="), f"refused, but not by the guard: {error.diag.message_primary}"


globals().update(chinook.each(REFUSED, refused_simple) | chinook.each(REFUSED, refused_prepared))

if __name__ == "__main__":
    chinook.run(globals())
