"""What the Python suites share: throw-away servers, connections, expectations, the audit trail, a small runner.

A suite is a file of functions named `test_…` that take a `Server`, and ends with `guard.run(globals())`. The runner
prints one line for each test and `N passed, N failed` at the end; arguments on the command line choose tests by part
of their name.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import pathlib
import signal
import subprocess
import sys
import time
import traceback
from typing import Any, Callable, Iterable, Iterator

import psycopg
from psycopg import sql

from wire import Wire

TOP = pathlib.Path(__file__).resolve().parents[2]
SERVER = TOP / "pg_test" / "bin" / "server"
HOMES = pathlib.Path(os.environ.get("GUARD_WORK", TOP / "target" / "test"))

DENIED = "42501"  # by policy
UNAUTHENTICATED = "28000"  # no token, or a bad one
LIMIT = "53400"
CLOSED = "57014"  # the window closed while running


class Server:
    """A throw-away server of the suite's own."""

    def __init__(self, name: str, conf: Iterable[str] = (), preload: str = "agent_guard", **environment: str):
        self.name = name
        self.conf = list(conf)
        self.home = HOMES / name
        self.environment = {**os.environ, "GUARD_HOME": str(self.home), "GUARD_PRELOAD": preload, **environment}
        self.variables: dict[str, str] = {}

    def _script(self, *arguments: str) -> str:
        done = subprocess.run([str(SERVER), *arguments], env=self.environment, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"server {arguments[0]}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def start(self) -> Server:
        """A new cluster, started."""
        self.remove()
        self._script("start", *self.conf)
        return self._learn()

    def start_standby(self, primary: Server) -> Server:
        """A copy of a running server, started as its hot standby."""
        self.remove()
        self._script("standby", str(primary.home), *self.conf)
        return self._learn()

    def promote(self) -> None:
        self._script("promote")

    def restart(self) -> Server:
        self._script("restart")
        return self._learn()

    def restart_killed(self) -> Server:
        """Starts it again after kill -9 of its postmaster: that works when its children have noticed."""

        def started() -> Server | None:
            try:
                return self.restart()
            except RuntimeError:
                return None

        return eventually(started, "the server starts again", 60)

    def stop(self) -> None:
        self._script("stop")

    def remove(self) -> None:
        """Stops the server and deletes its cluster."""
        self._script("remove")

    def _learn(self) -> Server:
        for line in self._script("env").splitlines():
            name, _, value = line.removeprefix("export ").partition("=")
            self.variables[name] = value.strip("'")
        return self

    @property
    def host(self) -> str:
        return self.variables["PGHOST"]

    @property
    def port(self) -> int:
        return int(self.variables["PGPORT"])

    @property
    def pid(self) -> int:
        """The postmaster's."""
        return int(self.variables["GUARD_PID"])

    def kill(self, pid: int) -> None:
        """kill -9 of one of the server's processes; its log is then allowed to tell of it."""
        (self.home / "killed").touch()
        os.kill(pid, signal.SIGKILL)

    def crash(self, pid: int) -> None:
        """kill -9 of a backend, which makes the server recover; returns when it answers again."""
        said = "all server processes terminated; reinitializing"
        before = self.log().count(said)
        self.kill(pid)
        eventually(lambda: self.log().count(said) > before, "the server notices")
        eventually(self.answers, "the server recovers")

    def answers(self) -> bool:
        try:
            return self.value("select true")
        except psycopg.Error:
            return False

    @property
    def major(self) -> int:
        """The server's major version, as its data directory tells it."""
        return int((pathlib.Path(self.variables["GUARD_DATA"]) / "PG_VERSION").read_text())

    @property
    def forces_parallel(self) -> str:
        """The setting that has everything planned for parallel workers."""
        return "debug_parallel_query" if self.major >= 16 else "force_parallel_mode"

    def log(self) -> str:
        return pathlib.Path(self.variables["GUARD_LOG"]).read_text(errors="replace")

    def connect(self, user: str = "postgres", dbname: str = "postgres", autocommit: bool = True, **more: Any):
        """A psycopg connection; `options="-c agent_guard.token=…"` and the like go through `more`."""
        arguments = {"host": self.host, "port": self.port, "user": user, "dbname": dbname, **more}
        return psycopg.connect(autocommit=autocommit, **arguments)

    def wire(self, user: str = "postgres", dbname: str = "postgres", **startup: str) -> Wire:
        """A raw connection; `options`, `replication` and others go into the startup packet."""
        return Wire(self.host, self.port, user, dbname, **startup)

    def psql(self, *arguments: str, user: str = "postgres", dbname: str = "postgres", stdin: str | None = None, options: str = ""):
        """The finished psql process, with its output as text."""
        command = [os.path.join(self.variables["GUARD_BIN"], "psql"), "-X", "-h", self.host, "-p", str(self.port)]
        command += ["-U", user, "-d", dbname, *arguments]
        return subprocess.run(command, capture_output=True, text=True, input=stdin, env={**os.environ, "PGOPTIONS": options})

    def run(self, statements: str, dbname: str = "postgres") -> None:
        """Statements as the superuser, each by itself or all in one go."""
        with self.connect(dbname=dbname) as connection:
            connection.execute(statements)

    def rows(self, query: str, *values: Any, dbname: str = "postgres") -> list[tuple]:
        """A query as the superuser."""
        with self.connect(dbname=dbname) as connection:
            return connection.execute(query, values or None).fetchall()

    def value(self, query: str, *values: Any, dbname: str = "postgres") -> Any:
        """The first column of the first row, as the superuser."""
        return self.rows(query, *values, dbname=dbname)[0][0]

    # --- agent_guard ---

    def agent(self, role: str, policy: str | None = None, ttl: str = "1 hour", dbname: str = "postgres", **window: Any) -> str:
        """Makes and guards the role where it is new; with a policy also grants a window. Returns the token, or ''."""
        with self.connect(dbname=dbname) as connection:
            known = connection.execute("select from pg_catalog.pg_roles where rolname = %s", (role,)).rowcount
            if not known:
                connection.execute(sql.SQL("create role {} login").format(sql.Identifier(role)))
                connection.execute("select agent_guard.guard_role(%s::regrole)", (_quoted(role),))
        return self.window(role, policy, ttl, dbname, **window)[1] if policy else ""

    def window(self, role: str, policy: str, ttl: str = "1 hour", dbname: str = "postgres", **more: Any) -> tuple:
        """grant_window: (window_id, token, expires_at)."""
        given = {"policy": policy, "role": _quoted(role), "agent": more.pop("agent", role), "ttl": ttl, **more}
        casts = {"role": "::regrole", "ttl": "::interval"}
        named = ", ".join(f"{name} => %({name})s{casts.get(name, '')}" for name in given)
        query = f"select window_id, token, expires_at from agent_guard.grant_window({named})"
        with self.connect(dbname=dbname) as connection:
            return connection.execute(query, given).fetchone()

    def audit(self, where: str = "true", *values: Any, columns: str = "*", dbname: str = "postgres") -> list[tuple]:
        """The trail's events in order, after everything so far is queryable."""
        with self.connect(dbname=dbname) as connection:
            connection.execute("select agent_guard.audit_flush()")
            query = f"select {columns} from agent_guard.audit where {where} order by seq"
            return connection.execute(query, values or None).fetchall()


def _quoted(role: str) -> str:
    return '"' + role.replace('"', '""') + '"'


def bind(connection: psycopg.Connection, token: str) -> None:
    """SET agent_guard.token, by text as any client would."""
    connection.execute(sql.SQL("set agent_guard.token = {}").format(sql.Literal(token)))


# --- expectations ---


def expect(sqlstate: str, call: Callable, *arguments: Any, match: str = "", **named: Any) -> psycopg.Error:
    """The call must fail with this SQLSTATE, and `match` must stand in its message, DETAIL or HINT."""
    try:
        outcome = call(*arguments, **named)
    except psycopg.Error as error:
        # A refused connection carries no SQLSTATE in psycopg; its text does not either.
        found = error.sqlstate or ("" if error.pgconn is None else "no SQLSTATE")
        text = " / ".join(filter(None, [error.diag.message_primary or str(error), error.diag.message_detail, error.diag.message_hint]))
        assert found == sqlstate, f"expected {sqlstate}, got {found}: {text}"
        assert match in text, f"expected {match!r} in: {text}"
        return error
    raise AssertionError(f"expected {sqlstate}, but it succeeded: {outcome!r} ({arguments!r})")


def expect_refused_login(server: Server, sqlstate: str = UNAUTHENTICATED, **startup: str) -> dict[str, str]:
    """The server must refuse this startup packet; returns the error's fields."""
    wire = server.wire(**startup)
    wire.drop()
    assert wire.startup.sqlstate == sqlstate, f"expected {sqlstate}, got {wire.startup.sqlstate or 'a session'}"
    return wire.startup.errors[0]


def eventually(condition: Callable[[], Any], what: str, seconds: float = 20) -> Any:
    """Waits until the condition holds; its value."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"still not true after {seconds} s: {what}")
        time.sleep(0.02)


def runs(server: Server, pid: int, statement: str, ended: Callable[[], bool] = lambda: False) -> None:
    """Waits until a backend executes this statement: it sleeps, or it has computed for longer than it takes to come there.
    By its own clock, because a backend of a busy machine is "active" long before it does anything. Nothing is waited for that has `ended`."""
    activity = "select state = 'active' and query = %s, wait_event = 'PgSleep' from pg_stat_activity where pid = %s"
    began = None

    def executes() -> bool:
        nonlocal began
        if ended():
            return True
        if not (found := server.rows(activity, statement, pid)) or not found[0][0]:
            return False
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        used = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        began = used if began is None else began
        return found[0][1] or used - began > 0.1

    eventually(executes, f"it runs: {statement}")


def left(server: Server, pid: int) -> None:
    """Waits until the backend of a connection that was closed is gone, and with it all that it held; what it had to record is in the ring."""
    eventually(lambda: not server.rows("select from pg_stat_activity where pid = %s", pid), f"the backend {pid} is gone")


def in_time(made: Callable[[int], Any], seconds: int = 2) -> Any:
    """What `made` makes under a token of so many seconds; one that ends before all of it stands is followed by one of twice as many."""
    while True:
        try:
            return made(seconds)
        except psycopg.Error as error:
            if seconds > 60 or "reason=expired" not in (error.diag.message_detail or ""):
                raise
        seconds *= 2


def reload(server: Server, name: str, value: str) -> None:
    """Gives a setting another value, in every session that does not have one of its own."""
    server.run(f"alter system set {name} = '{value}'")
    server.run("select pg_reload_conf()")
    eventually(lambda: server.value(f"show {name}") == value, "reloaded")


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """One of the server's processes stands still."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def warden(server: Server) -> int:
    """The process that ends transactions whose token has ended, and their connections a moment later. Who wants to see what a session
    itself makes of the end of its token has the warden stand still meanwhile: a busy machine would let that moment pass."""
    launcher = "select max(pid) from pg_stat_activity where backend_type = 'agent_guard audit launcher'"
    return eventually(lambda: server.value(launcher), "the warden is there")


# --- the runner ---


def since(major: int) -> Callable:
    """Marks a test of what this major version brought: older servers have nothing to attack there."""

    def marked(test: Callable) -> Callable:
        test.since = major  # type: ignore[attr-defined]
        return test

    return marked


def run(module: dict[str, Any], conf: Iterable[str] = (), preload: str = "agent_guard", extension: bool = True) -> None:
    """Runs the caller's tests on a server of their own and exits."""
    tests = _chosen(module)
    server = Server(pathlib.Path(module["__file__"]).stem, conf, preload).start()
    try:
        if extension:
            server.run("create extension agent_guard")
        if "setup" in module:
            module["setup"](server)
        tests = [(key, test) for key, test in tests if not _too_new(key, test, server)]
        failed = sum(not _passes(key, test, server) for key, test in tests)
    finally:
        server.stop()
    _finish(tests, failed)


def _too_new(name: str, test: Callable, server: Server) -> bool:
    since = getattr(test, "since", 0)
    if since > server.major:
        print(f"skipped {name}: since PostgreSQL {since}", flush=True)
    return since > server.major


def run_without_server(module: dict[str, Any]) -> None:
    """Runs the caller's tests, none of which takes a server, and exits."""
    tests = _chosen(module)
    if "setup" in module:
        module["setup"]()
    _finish(tests, sum(not _passes(key, test, None) for key, test in tests))


def _chosen(module: dict[str, Any]) -> list[tuple[str, Callable]]:
    chosen = sys.argv[1:]
    tests = [(key, test) for key, test in module.items() if key.startswith("test_") and callable(test)]
    return [(key, test) for key, test in tests if not chosen or any(part in key for part in chosen)]


def _finish(tests: list, failed: int) -> None:
    print(f"{len(tests) - failed} passed, {failed} failed")
    sys.exit(1 if failed or not tests else 0)


def _passes(name: str, test: Callable, server: Server | None) -> bool:
    began = time.monotonic()
    try:
        test(*([server] if inspect.signature(test).parameters else []))
    except Exception as error:  # Whatever a test raises is its failure, not the runner's.
        last = traceback.extract_tb(error.__traceback__)
        place = next((f"{frame.filename}:{frame.lineno}" for frame in reversed(last) if frame.filename != __file__), "")
        said = " / ".join(str(error).splitlines())
        print(f"FAILED {name}: {type(error).__name__}: {said} ({os.path.relpath(place, TOP)})", flush=True)
        return False
    print(f"ok {name} ({(time.monotonic() - began) * 1000:.0f} ms)", flush=True)
    return True
