"""The PostgreSQL JDBC driver as the agent: Work.java runs once as the superuser and once as the agent; here its outcomes are judged."""

import json
import os
import secrets
import shutil
import subprocess
import sys

import chinook
import guard
from chinook import AGENT, DATABASE, REFUSED

HERE = guard.TOP / "pg_test" / "drivers"
JAR = os.environ.get("JDBC_JAR", "/usr/share/java/postgresql.jar")
MODES = ["simple", "extended", "extendedCacheEverything"]
PIECES = [*MODES, "extendedForPrepared", "severalStatements", "severalStatementsSimple", "prepared", "preparedAtOnce", "preparedBinary", "neverPrepared",
          "cursor", "adaptiveFetch", "scrollable", "copyOut", "copyIn", "batch", "batchRewritten", "batchSimple", "generatedKeys", "savepoints",
          "autosave", "isolation", "callable", "types", "timeout", "catalogue", "error of insert into playlist values (1, 'twice')",
          "error of selec 1", "error of select 1/0", "error of select nothing from track"]

outcomes = {}


def missing() -> str:
    """What is not there to run the driver with; '' where all is. pg_test/bin/deps installs it where it can."""
    return "" if shutil.which("javac") and os.path.exists(JAR) else f"SKIPPED test_jdbc: no javac, or no JDBC driver at {JAR}"


def _compiled() -> str:
    """The directory of the compiled classes: compiled once for each version of the file."""
    place = guard.HOMES.parent / "jdbc"
    stamp = place / "Work.java"
    text = (HERE / "Work.java").read_text()
    if not stamp.exists() or stamp.read_text() != text:
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run(["javac", "-cp", JAR, "-d", str(place), str(HERE / "Work.java")], check=True)
        stamp.write_text(text)
    return str(place)


def password(server, role) -> str:
    """A new password: the driver knows no Unix sockets, and TCP asks for one."""
    word = secrets.token_hex(16)
    server.run(f"alter role {role} password '{word}'")
    return word


def _work(server, user, refused, options="", token="", *chosen):
    environment = {**os.environ, "PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": user, "PGPASSWORD": password(server, user),
                   "PGDATABASE": DATABASE, "PGOPTIONS": options, "TOKEN": token}
    given = "".join(f"{name}\x1f{statement}\x1e" for name, statement in refused.items())
    command = ["java", "-XX:+UseSerialGC", "-cp", f"{_compiled()}:{JAR}", "Work", *chosen]
    done = subprocess.run(command, env=environment, input=given, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


def setup(server):
    chinook.setup(server)
    outcomes["superuser"] = _work(server, "postgres", {})
    outcomes["agent"] = _work(server, AGENT, REFUSED, chinook.handshake(server), server.token)


def work(server, name):
    wanted, found = outcomes["superuser"]["work"][name], outcomes["agent"]["work"][name]
    assert wanted.get("value"), f"the work itself fails: {wanted}"
    if isinstance(wanted["value"], dict):
        for part, rows in wanted["value"].items():
            assert found["value"][part] == rows, f"{part}: the superuser got {rows!r:.300}, the agent {found['value'][part]!r:.300}"
    assert found == wanted, f"the superuser got {wanted!r:.300}, the agent {found!r:.300}"


def refused(server, name):
    for mode in MODES:
        found = outcomes["agent"]["refused"][mode][name]
        assert found.get("code") == guard.DENIED, f"{mode}: expected {guard.DENIED}, got {found!r:.300}"
        assert found["class"] == "PSQLException", found
        assert (found["detail"] or "").startswith("reason="), f"{mode}: refused, but not by the guard: {found['message']}"
        assert found["hint"], f"{mode}: a refusal tells what to do next: {found}"


def test_every_piece_is_judged():
    assert sorted(outcomes["superuser"]["work"]) == sorted(PIECES)


def test_the_error_names_its_object():
    found = outcomes["agent"]["refused"]["extended"]["employees by name"]
    assert (found["schema"], found["table"]) == ("public", "employee"), found


def test_the_handshake_by_set_and_by_set_config():
    found = outcomes["agent"]["handshake"]
    before, set_by_hand, discarded, after, configured = found["value"]
    assert before["code"] == after["code"] == guard.UNAUTHENTICATED, found
    assert before["detail"].startswith("reason=no_token") and before["hint"], before
    assert set_by_hand == configured == [["25"]] and discarded is False, found


def test_the_catalogue_is_seen_as_it_is():
    seen = outcomes["agent"]["work"]["catalogue"]["value"]
    assert "employee" in str(seen["tables"]) and len(seen["columns"]) > 60 and len(seen["imported keys"]) == 3, seen["imported keys"]
    assert not [part for part, rows in seen.items() if isinstance(rows, dict)], "a look-up of the driver's is refused"


globals().update(chinook.each({name: name for name in PIECES}, work) | chinook.each({name: name for name in REFUSED}, refused))

if __name__ == "__main__":
    if missing():
        print(missing(), "0 passed, 0 failed", sep="\n")
        sys.exit(0)
    guard.run(globals(), extension=False)
