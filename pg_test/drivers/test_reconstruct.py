"""What psycopg, node-postgres and psql did on Chinook, reconstructed by replay and held, statement by statement, against the
server's own log of the same run: nothing more, nothing less, in the same order, with parameters and errors."""

import csv
import pathlib
import re

import psycopg

import chinook
import guard
import test_node
import test_psql
from chinook import AGENT, DATABASE, REFUSED
from guard import eventually

CONF = ["logging_collector = on", "log_destination = 'stderr,csvlog'", "log_statement = all", "log_min_error_statement = error",
        "log_parameter_max_length_on_error = -1", "log_rotation_size = 0", "log_rotation_age = 0"]
# Columns of csvlog (src/backend/utils/error/csvlog.c).
USER, PID, SEVERITY, SQLSTATE, MESSAGE, DETAIL, QUERY = 1, 3, 11, 12, 13, 14, 19

FEW = dict(list(REFUSED.items())[::4])


def setup(server):
    chinook.setup(server)
    server.run("select agent_guard.set_recording('analyst', 'rows')", dbname=DATABASE)


class Logged:
    """A statement as the server's log has it."""

    def __init__(self, text, parameters, sqlstate=None):
        self.text, self.parameters, self.sqlstate = text, parameters, sqlstate

    def __repr__(self):
        return f"{self.text!r:.90} {self.parameters or ''} {self.sqlstate or ''}"


def logged(server, since: int) -> dict[int, list[Logged]]:
    """The agent's statements by process, from line `since` of the log on."""
    runs: dict[int, list[Logged]] = {}
    for row in lines(server)[since:]:
        if row[USER] != AGENT or not row[PID]:
            continue
        run = runs.setdefault(int(row[PID]), [])
        found = re.match(r"(?:statement|execute [^:]*): (.*)", row[MESSAGE], re.S)
        if row[SEVERITY] == "LOG" and found and not row[MESSAGE].startswith("execute fetch from"):
            run.append(Logged(found[1], values(row[DETAIL])))
        elif row[SEVERITY] == "ERROR":
            if run and run[-1].text == row[QUERY] and run[-1].sqlstate is None:
                run[-1].sqlstate = row[SQLSTATE]
            else:
                # Refused before the log had it: by the parser, or when its parameters were bound.
                run.append(Logged(row[QUERY], None, row[SQLSTATE]))
    return runs


def lines(server) -> list[list[str]]:
    files = sorted(pathlib.Path(server.variables["GUARD_DATA"], "log").glob("*.csv"))
    return [row for file in files for row in csv.reader(file.read_text().splitlines(keepends=True))]


def values(detail: str):
    """`Parameters: $1 = '10', $2 = NULL` as a list."""
    if not detail.lower().startswith("parameters: "):
        return None
    found = re.findall(r"\$\d+ = (NULL|'(?:[^']|'')*')", detail)
    return [None if value == "NULL" else value[1:-1].replace("''", "'") for value in found]


def replayed(server) -> dict[int, list[tuple]]:
    """What replay gives back of every session of the agent, by process."""
    server.rows("select agent_guard.audit_flush()", dbname=DATABASE)
    runs: dict[int, list[tuple]] = {}
    # A text that does not parse, sent before anything that needs the token, belongs to no session yet: the trail has it by process.
    for pid, *step in server.rows(
        """select pid, statement, parameters, sqlstate, rows, null, null, command from agent_guard.audit
        where role = %s and session_id is null and event = 'statement' and sqlstate = '42601' order by seq""", AGENT, dbname=DATABASE
    ):
        runs.setdefault(pid, []).append(tuple(step))
    for pid, *step in server.rows(
        """select s.pid, p.statement, p.parameters, p.sqlstate, p.rows, (p.results ->> 'row_count')::int8, (p.results ->> 'recorded')::int8, p.command
        from (select distinct session_id, pid from agent_guard.audit where event = 'bind' and role = %s) s, agent_guard.replay(s.session_id) p
        where p.depth = 0 and p.event = 'statement' order by s.pid, p.step""", AGENT, dbname=DATABASE
    ):
        runs.setdefault(pid, []).append(tuple(step))
    return runs


def reconstructed(server, since: int) -> int:
    """Holds every run against the log; how many statements that were."""
    eventually(lambda: not server.rows("select from pg_stat_activity where usename = %s", AGENT), "the agent has gone")
    # The collector writes in the order in which it was told; the end of the test before is none of this one's.
    end = f"reconstructed from {since}"
    server.run(f"select '{end}'")
    eventually(lambda: end in str(lines(server)[-30:]), "the log is written")
    told, log = replayed(server), logged(server, since)
    count = 0
    assert log, "the log has nothing of the agent"
    for pid, run in log.items():
        steps = list(told.get(pid, []))
        for statement in run:
            rest = statement.text
            while True:
                rest = rest.lstrip(" \t\r\n;")
                if not rest:
                    break
                assert steps, f"{statement} is not in the replay of process {pid}"
                text, parameters, sqlstate, rows, received, kept, command = steps.pop(0)
                # A string with an error in it is one statement to the parser.
                assert text and rest.startswith(text), f"the log has {statement}, the replay {text!r}"
                assert parameters is None or statement.parameters is None or parameters == statement.parameters, (statement, parameters)
                if statement.parameters:
                    assert parameters == statement.parameters, (statement, parameters)
                rest = rest[len(text) :]
                count += 1
                if sqlstate:
                    assert sqlstate == statement.sqlstate, (statement, sqlstate)
                    # What stood behind it in the string has not run.
                    rest = ""
                elif command in ("SELECT", "FETCH", "SHOW") and rows:
                    assert received == rows and kept == min(rows, 10000), (statement, rows, received, kept)
            else:
                assert statement.sqlstate is None or not statement.sqlstate, statement
        assert not steps, f"the replay of process {pid} has more than the log: {steps[:3]}"
    return count


def refused_by_psycopg(server):
    for statement in FEW.values():
        with chinook.as_agent(server) as connection:
            for protocol in (lambda: connection.execute(statement), lambda: connection.execute(statement.split(";")[0], prepare=True)):
                try:
                    protocol()
                except psycopg.Error:
                    connection.rollback()


def test_psycopg(server):
    since = len(lines(server))
    with chinook.as_agent(server, autocommit=False) as connection:
        for n in range(1, 12):
            connection.execute("select name from track where track_id = %s and name <> %s", (n, "it's")).fetchall()
        connection.execute("select 1; select name from genre order by 1 limit 2; show server_version")
        connection.commit()
        with connection.transaction(), connection.cursor("c") as cursor:
            cursor.itersize = 700
            assert len(list(cursor.execute("select track_id from track order by track_id"))) == 3503
        list(connection.cursor(binary=True).execute("select * from invoice limit 20"))
        with connection.cursor().copy("copy genre to stdout") as copy:
            assert sum(1 for _ in copy.rows()) == 25
        connection.cursor().executemany("insert into playlist values (%s, %s)", [(n, None) for n in range(810, 820)])
        connection.rollback()
        with connection.pipeline():
            for n in range(5):
                connection.execute("select count(*) from album where artist_id = %s", (n,))
    refused_by_psycopg(server)
    count = reconstructed(server, since)
    assert count > 60, count


def test_node_postgres(server):
    since = len(lines(server))
    test_node._install()
    test_node._work(server, AGENT, FEW, chinook.handshake(server))
    count = reconstructed(server, since)
    assert count > 70, count


def test_psql_session(server):
    since = len(lines(server))
    for work in test_psql.WORK.values():
        test_psql._psql(server, AGENT, work, chinook.handshake(server))
    for statement in FEW.values():
        test_psql._psql(server, AGENT, [statement], chinook.handshake(server))
    count = reconstructed(server, since)
    assert count > 100, count


if __name__ == "__main__":
    guard.run(globals(), conf=CONF, extension=False)
