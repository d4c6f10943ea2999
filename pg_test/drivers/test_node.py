"""node-postgres as the agent: work.js runs once as the superuser and once as the agent; here its outcomes are judged."""

import json
import os
import shutil
import subprocess

import chinook
import guard
from chinook import AGENT, DATABASE, REFUSED

HERE = guard.TOP / "pg_test" / "drivers"
MODULES = guard.HOMES.parent / "node"
PIECES = ["simple", "severalStatements", "extended", "binary", "arrayRows", "named", "cursor", "copyOut", "copyQueryOut", "copyIn", "insert",
          "uniqueViolation", "syntaxError", "divisionByZero", "types", "settings", "pool"]

outcomes = {}


def _install():
    wanted = (HERE / "package.json").read_text()
    stamp = MODULES / "installed.json"
    if not stamp.exists() or stamp.read_text() != wanted:
        MODULES.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / "package.json", MODULES)
        subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund", "--no-package-lock"], cwd=MODULES, check=True)
        stamp.write_text(wanted)


def _work(server, user, refused, options=""):
    environment = {**os.environ, "NODE_PATH": str(MODULES / "node_modules"), "PGHOST": server.host, "PGPORT": str(server.port),
                   "PGUSER": user, "PGDATABASE": DATABASE, "PGOPTIONS": options}
    done = subprocess.run(["node", str(HERE / "work.js")], env=environment, input=json.dumps(refused), capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


def setup(server):
    chinook.setup(server)
    _install()
    outcomes["superuser"] = _work(server, "postgres", {})
    outcomes["agent"] = _work(server, AGENT, REFUSED, chinook.handshake(server))


def work(server, name):
    wanted, found = outcomes["superuser"]["work"][name], outcomes["agent"]["work"][name]
    assert wanted.get("value"), f"the work itself fails: {wanted}"
    assert found == wanted, f"the superuser got {wanted!r:.300}, the agent {found!r:.300}"


def refused(server, name):
    for protocol in ("refusedSimple", "refusedExtended"):
        found = outcomes["agent"][protocol][name]
        assert found.get("code") == guard.DENIED, f"{protocol}: expected {guard.DENIED}, got {found!r:.300}"
        assert found["detail"].startswith("reason="), f"{protocol}: refused, but not by the guard: {found['message']}"


def test_every_piece_is_judged():
    assert sorted(outcomes["superuser"]["work"]) == sorted(PIECES)


globals().update(chinook.each({name: name for name in PIECES}, work) | chinook.each({name: name for name in REFUSED}, refused))

if __name__ == "__main__":
    guard.run(globals(), extension=False)
