"""Random queries as the agent: no canary comes out, nothing crashes, and the second line never has to step in.

sqlsmith connects through a proxy that looks at every byte from the server. SQLSMITH_QUERIES and SQLSMITH_SEED choose another
run; a longer one takes SQLSMITH_QUERIES=200000.
"""

import os
import socket
import subprocess
import tempfile
import threading

import guard
import mask_scene
import scene
from mask_scene import BUILD, leaks

QUERIES = int(os.environ.get("SQLSMITH_QUERIES", "20000"))
SEED = int(os.environ.get("SQLSMITH_SEED", "1917"))

setup = mask_scene.setup


class Proxy:
    """Passes one client's bytes on, and keeps what the server's bytes leaked."""

    def __init__(self, server: guard.Server):
        self.directory = tempfile.mkdtemp()
        os.chmod(self.directory, 0o755)
        self.target = os.path.join(server.host, f".s.PGSQL.{server.port}")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(os.path.join(self.directory, f".s.PGSQL.{server.port}"))
        self.listener.listen()
        self.leaked: set[bytes] = set()
        self.where: list[bytes] = []
        self.received = 0
        self.last_query = b""
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            client, _ = self.listener.accept()
            server = socket.socket(socket.AF_UNIX)
            server.connect(self.target)
            threading.Thread(target=self._pass, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, True), daemon=True).start()

    def _pass(self, source, sink, watched):
        tail = b""
        try:
            while piece := source.recv(1 << 16):
                if watched:
                    self.received += len(piece)
                    found = leaks(tail + piece)
                    if found:
                        self.leaked |= found
                        self.where.append(self.last_query)
                    tail = (tail + piece)[-64:]
                else:
                    self.last_query = piece
                sink.sendall(piece)
        except OSError:
            pass
        for one in (source, sink):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def smith(server, role, queries, options=""):
    """Runs sqlsmith as the role; the proxy and what sqlsmith said."""
    proxy = Proxy(server)
    target = f"host={proxy.directory} port={server.port} user={role} dbname=postgres options='{options}'"
    command = ["sqlsmith", f"--target={target}", f"--seed={SEED}", f"--max-queries={queries}", "--exclude-catalog", "--verbose"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-1500:]
    return proxy, (done.stdout + done.stderr)[-1500:]


def test_the_same_queries_find_canaries_without_the_guard(server):
    server.run("create role reader login; grant usage on schema shop to reader; grant select on all tables in schema shop to reader")
    proxy, report = smith(server, "reader", 300)
    assert proxy.leaked, report


def test_random_queries(server):
    name = scene.policy(server, BUILD, "smith")
    mask_scene.filter_rows(server, name, "shop.buys", "total < 500")
    mask_scene.filter_rows(server, name, "shop.event", "id < 10")
    # What holds copies is masked, so that queries over everything get somewhere.
    for relation, column in (("shop.contact", "email"), ("shop.made", "loud"), ("shop.stored", "email")):
        mask_scene.mask(server, relation, column, "'copy'::text")
    _, token, _ = server.window("clerk", name)
    before = server.value("select sum(xact_commit + xact_rollback) from pg_stat_database")
    proxy, report = smith(server, "clerk", QUERIES, f"-c agent_guard.token={token}")
    assert not proxy.leaked, f"{proxy.leaked}: {proxy.where[0][:2000]!r}"
    assert proxy.received > QUERIES * 50, f"only {proxy.received} bytes came: {report}"
    assert "broken" not in report, report
    log = server.log()
    assert "internal fault" not in log, [line for line in log.splitlines() if "internal fault" in line][:3]
    assert not any(word in log for word in ("PANIC", "terminated by signal", "panicked", "TRAP")), "the server's log tells of a crash"
    server.run("select agent_guard.audit_flush()")
    refused = server.value("select count(*) from agent_guard.audit where decision = 'deny'")
    ran = server.value("select count(*) from agent_guard.audit where decision = 'allow' and sqlstate is null")
    assert server.value("select sum(xact_commit + xact_rollback) from pg_stat_database") - before > QUERIES // 2
    assert ran > QUERIES // 20, f"only {ran} ran, {refused} were refused: {report}"
    print(f"# {QUERIES} queries, seed {SEED}: {ran} statements ran, {refused} were refused, {proxy.received >> 10} kB looked at")


if __name__ == "__main__":
    guard.run(globals())
