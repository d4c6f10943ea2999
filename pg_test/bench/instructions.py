"""Instructions that a backend executes, counted by callgrind: the same on a busy machine and on an idle one.

A server is restarted under valgrind, about fifty times slower. Each call of pg_backend_pid() writes out what was counted
since the last; what lies between two calls, less what two calls with nothing between them count, is the statements' own.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import tempfile

import guard

MARK = "pg_backend_pid"


class Counted:
    """A server under callgrind, in the place of one that was filled and stopped."""

    def __init__(self, server: guard.Server):
        if not shutil.which("valgrind"):
            raise RuntimeError("counting instructions takes valgrind")
        self.server = server
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="agent_guard_callgrind."))
        self.directory.chmod(0o777)
        self.nothing: dict[int, int] = {}
        server.stop()
        program = os.path.join(server.variables["GUARD_BIN"], "postgres")
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={self.directory}/out.%p", f"--dump-before={MARK}",
                   "--log-file=/dev/null", program, "-D", server.variables["GUARD_DATA"]]
        if os.geteuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        with open(self.directory / "log", "w") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        guard.eventually(server.answers, "the server under valgrind answers", seconds=120)

    def stop(self) -> None:
        pid = int(pathlib.Path(self.server.variables["GUARD_DATA"], "postmaster.pid").read_text().split()[0])
        os.kill(pid, 2)
        self.process.wait(timeout=120)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _mark(self, connection) -> int:
        """What was counted since the last mark."""
        pid = connection.info.backend_pid
        known = len(list(self.directory.glob(f"out.{pid}.*")))
        connection.execute(f"select {MARK}()", prepare=False).fetchall()
        written = guard.eventually(lambda: len(list(self.directory.glob(f"out.{pid}.*"))) > known and known + 1, "callgrind has written")
        for line in (self.directory / f"out.{pid}.{written}").read_text().splitlines():
            if line.startswith(("totals:", "summary:")):
                return int(line.split()[1])
        raise RuntimeError("callgrind wrote no totals")

    def of(self, connection, work) -> float:
        """The instructions of what `work` runs on the connection."""
        pid = connection.info.backend_pid
        if pid not in self.nothing:
            for _ in range(3):
                self.nothing[pid] = self._mark(connection)
        self._mark(connection)
        work()
        return self._mark(connection) - self.nothing[pid]
