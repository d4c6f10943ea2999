"""pgbouncer in front of a throw-away server: as a pooler that hands connections on, or as a hop to be measured."""

from __future__ import annotations

import os
import pathlib
import shutil
import socket
import subprocess

import guard


class Bouncer:
    """A pgbouncer that logs in as `user`, listening on a socket below the server's directory until `stop`."""

    def __init__(self, server: guard.Server, user: str, database: str = "postgres", **settings: str):
        self.home = pathlib.Path(server.home.parent / "pgbouncer")
        self.home.mkdir(parents=True, exist_ok=True)
        self.port = server.port + 1
        self.database = database
        given = {
            "listen_addr": "",
            "unix_socket_dir": str(self.home),
            "listen_port": str(self.port),
            "auth_type": "any",
            "max_client_conn": "50",
            "ignore_startup_parameters": "extra_float_digits,options",
            "log_connections": "0",
            "log_disconnections": "0",
            **settings,
        }
        lines = [f"[databases]\n{database} = host={server.host} port={server.port} user={user}\n[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in given.items()]
        self.socket = self.home / f".s.PGSQL.{self.port}"
        self.socket.unlink(missing_ok=True)
        (self.home / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
        command = [shutil.which("pgbouncer") or "/usr/sbin/pgbouncer", str(self.home / "pgbouncer.ini")]
        if os.getuid() == 0:
            os.chmod(self.home, 0o777)
            command = ["runuser", "-u", os.environ.get("GUARD_OS_USER", "postgres"), "--", *command]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        guard.eventually(self.listens, "pgbouncer listens")

    def listens(self) -> bool:
        """The socket is in its directory before anybody listens at it."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    @property
    def host(self) -> str:
        return str(self.home)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()
