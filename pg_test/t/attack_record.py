"""Whoever tampers with the record, a superuser in the database or somebody with the journal's files, is found; and no
disk that is full lets an agent act unrecorded.
"""

import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import threading
import time

import psycopg

import guard
import scene
from guard import eventually, expect, left
from scene import Agent

RULES = [("allow", ["select", "insert"], "app.*")]
CONF = ["agent_guard.journal = on", "agent_guard.journal_file_size = '64kB'", "agent_guard.audit_checkpoint_events = 50"]


def setup(server):
    scene.setup(server)
    work(server, 200)


def work(server, count):
    with Agent(server, *RULES) as agent:
        for n in range(count):
            agent.connection.execute("select count(*) from app.open where id > %s /* " + "x" * 300 + " */", (n,))
        pid = agent.connection.info.backend_pid
    # Its end is an event too, and would come between two looks at the trail.
    left(server, pid)
    server.audit("false")


def verdict(connection, *checkpoint):
    call = "verify_audit(%s, %s)" if checkpoint else "verify_audit()"
    return connection.execute(f"select intact, break, broken_seq, detail from agent_guard.{call}", checkpoint or None).fetchone()


def journal(server):
    oid = server.value("select oid from pg_database where datname = current_database()")
    return pathlib.Path(server.variables["GUARD_DATA"]) / "agent_guard_journal" / str(oid)


def read(server, path):
    return server.rows("select seq, hash, problem from agent_guard.journal_read(%s)", str(path))


def middle(connection):
    connection.execute("select agent_guard.audit_flush()")
    query = "select seq from agent_guard.audit where event = 'statement' order by seq offset 10 limit 1"
    return connection.execute(query).fetchone()[0]


# What a superuser does -> what is told of it, at which distance from the event in question.
TAMPERING = [
    ("update agent_guard.audit_segment set statement = 'select 1' where seq = {seq}", "altered", 0),
    ("update agent_guard.audit_segment set decision = 'deny' where seq = {seq}", "altered", 0),
    ("update agent_guard.audit_segment set role = 'somebody' where seq = {seq}", "altered", 0),
    ("update agent_guard.audit_segment set client_addr = '10.0.0.1' where seq = {seq}", "altered", 0),
    ("update agent_guard.audit_segment set parameters = '{{666}}' where seq = {seq}", "altered", 0),
    ("update agent_guard.audit_segment set parameters = '[0:0]={{10}}' where seq = {seq}", "altered", 0),
    ("update agent_guard.audit_segment set duration = duration + '1 mon' where seq = {seq}", "altered", 0),
    ("update agent_guard.audit_segment set accesses = jsonb_set(accesses, '{{0,object}}', '\"app.harmless\"') where seq = {seq}", "altered", 0),
    ("update agent_guard.audit_segment set hash = sha256('') where seq = {seq}", "altered", 0),
    ("update agent_guard.audit_segment set at = at - interval '1 hour'", "altered", None),
    ("delete from agent_guard.audit_segment where seq = {seq}", "missing", 0),
    ("delete from agent_guard.audit_segment where seq >= {seq}", "missing", 0),
    ("delete from agent_guard.audit_segment where seq <= {seq}", "missing", None),
    ("truncate agent_guard.audit_segment", "missing", None),
    ("update agent_guard.audit_segment set seq = seq + 1 where seq >= {seq}", "reordered", 0),
    ("update agent_guard.audit_segment set seq = 2 * {seq} + 1 - seq where seq in ({seq}, {seq} + 1)", "reordered", 0),
    ("insert into agent_guard.audit_segment_00 select * from agent_guard.audit_segment where seq = {seq}", "inserted", 0),
    ("insert into agent_guard.audit_segment select * from agent_guard.audit_segment where seq = {seq}", "inserted", 0),
]


def test_every_way_of_tampering_with_the_table_is_found(server):
    wrong = []
    with server.connect(autocommit=False) as connection:
        seq = middle(connection)
        assert verdict(connection)[0], verdict(connection)
        for statement, kind, at in TAMPERING:
            connection.execute(statement.format(seq=seq))
            intact, found, place, detail = verdict(connection)
            connection.rollback()
            if intact or found != kind or (at is not None and place != seq + at):
                wrong.append(f"{statement}: {found} at {place} ({detail}), expected {kind} at {seq}")
        assert verdict(connection)[0], "a rollback leaves it as it was"
    assert not wrong, "\n" + "\n".join(wrong)


def test_a_chain_made_anew_does_not_hold_to_the_checkpoint_in_the_log(server):
    work(server, 60)
    lines = eventually(lambda: re.findall(r'audit checkpoint of database "postgres": seq (\d+) hash ([0-9a-f]{64})', server.log()), "a checkpoint")
    seq, digest = int(lines[-1][0]), lines[-1][1]
    with server.connect(autocommit=False) as connection:
        assert verdict(connection, seq, digest)[0]
        forged = digest.replace(digest[0], "0" if digest[0] != "0" else "1")
        assert verdict(connection, seq, forged)[1:3] == ("rewritten", seq)
        # Somebody empties the trail and its anchor, and pretends that it begins later.
        connection.execute("delete from agent_guard.audit_segment where seq <= %s", (seq - 1,))
        connection.execute("delete from agent_guard.audit_anchor")
        connection.execute("insert into agent_guard.audit_anchor (seq, hash) values (%s, sha256(''))", (seq - 1,))
        assert verdict(connection)[0] is False
        connection.rollback()


def test_the_journal_has_what_the_trail_has(server):
    files = sorted(journal(server).glob("*.journal"))
    assert len(files) > 1, "it has rotated"
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files) and journal(server).stat().st_mode & 0o777 == 0o700
    kept = read(server, journal(server))
    trail = server.rows("select seq, encode(hash, 'hex'), null from agent_guard.audit order by seq")
    assert kept == trail, f"{len(kept)} in the journal, {len(trail)} in the trail"
    differing = server.rows(
        """select a.seq from agent_guard.audit a join agent_guard.journal_read(%s) j using (seq)
           where a.statement is distinct from j.event ->> 'statement' or a.role is distinct from j.event ->> 'role'
              or a.accesses is distinct from j.event -> 'accesses' or a.decision is distinct from j.event ->> 'decision'
              or to_jsonb(a.lineage) is distinct from j.event -> 'lineage' or a.at <> j.at""",
        str(journal(server)),
    )
    assert not differing, differing


def test_a_changed_byte_of_the_journal_is_found(server):
    file = sorted(journal(server).glob("*.journal"))[0]
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        copy = pathlib.Path(place) / file.name
        whole = file.read_bytes()
        copy.write_bytes(whole)
        good = read(server, copy)
        assert all(row[2] is None for row in good)
        for at in (60, len(whole) // 2, len(whole) - 1):
            copy.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            found = read(server, copy)
            assert found[-1][2] and len(found) <= len(good), f"byte {at}: {found[-1]}"
        copy.write_bytes(whole[:-10])
        found = read(server, copy)
        assert len(found) == len(good) and "torn" in found[-1][2], found[-1]


def test_only_readers_of_server_files_read_the_journal(server):
    with server.connect() as connection:
        connection.execute("create role peeper login; grant usage on schema agent_guard to peeper; grant execute on function agent_guard.journal_read(text) to peeper")
    with server.connect("peeper") as connection:
        expect("42501", connection.execute, "select * from agent_guard.journal_read('agent_guard_journal')")
        expect("42501", connection.execute, "select * from agent_guard.audit_anchor")


def test_no_path_harms_the_server(server):
    directory = pathlib.Path(server.variables["GUARD_DATA"]) / "oddities"
    os.mkdir(directory, 0o755)
    os.mkfifo(directory / "fifo", 0o666)
    huge = directory / "00000000000000000001.journal"
    with open(huge, "wb") as file:
        file.write(b"AGJRNL01" + bytes(100))
        file.truncate(1 << 40)
    (directory / "00000000000000000002.journal").write_bytes(b"AGJRNL01" + b"\xff" * 64)
    for path in ("/dev/zero", "/dev/null", "/dev/urandom", directory / "fifo", huge, huge.with_name("00000000000000000002.journal"), "/proc/self/mem", "", "nothing", "../../../../dev/zero", "/etc/passwd"):
        with server.connect() as connection:
            connection.execute("set statement_timeout = '20s'")
            found = connection.execute("select seq, problem from agent_guard.journal_read(%s)", (str(path),)).fetchall()
            assert len(found) == 1 and found[0][0] is None and found[0][1], f"{path}: {found}"
    found = read(server, directory)
    assert [row[2] for row in found] == ["larger than a file of a journal", "the file has no valid header"], found
    shutil.rmtree(directory)


# What is done to the files of a journal -> what verify_audit tells of it.
def _flip(files):
    whole = files[1].read_bytes()
    at = len(whole) // 2
    files[1].write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])


def _swap(files):
    one, other = files[0].read_bytes(), files[1].read_bytes()
    files[0].write_bytes(other)
    files[1].write_bytes(one)


def _shorten(files):
    files[1].write_bytes(files[1].read_bytes()[:-200])


def _older(files):
    whole = files[-1].read_bytes().rstrip(b"\0")
    files[-1].write_bytes(whole[: whole.rindex(b"AGJR", 0, whole.rindex(b"AGJR"))])


def _without_one(files):
    whole = files[1].read_bytes()
    first = whole.index(b"AGJR", 8)
    second = whole.index(b"AGJR", first + 4)
    files[1].write_bytes(whole[:first] + whole[second:])


JOURNAL_TAMPERING = [
    ("a byte", _flip, "altered"),
    ("two files", _swap, "reordered"),
    ("a file is gone", lambda files: files[1].unlink(), "missing"),
    ("the last file is gone", lambda files: files[-1].unlink(), "missing"),
    ("a file is cut", _shorten, "altered"),
    ("an event is cut out", _without_one, "missing"),
    ("an older copy of the last file", _older, "missing"),
    ("all files are gone", lambda files: [file.unlink() for file in files], "missing"),
]


def test_every_way_of_tampering_with_the_journal_is_found(server):
    work(server, 60)
    directory = journal(server)
    kept = directory.with_name("kept")
    wrong = []
    with server.connect() as connection:
        intact, _, _, detail = verdict(connection)
        assert intact and "the journal has events 1 to " in detail, detail
        shutil.copytree(directory, kept)
        owner = directory.stat()
        for what, change, kind in JOURNAL_TAMPERING:
            files = sorted(directory.glob("*.journal"))
            assert len(files) > 2, files
            change(files)
            intact, found, place, detail = verdict(connection)
            for file in directory.glob("*.journal"):
                file.unlink()
            for file in kept.glob("*.journal"):
                shutil.copy2(file, directory)
                os.chown(directory / file.name, owner.st_uid, owner.st_gid)
            if intact or found != kind or "journal" not in detail or not place:
                wrong.append(f"{what}: {found} at {place} ({detail}), expected {kind}")
        assert not wrong, "\n" + "\n".join(wrong)
        assert verdict(connection)[0], verdict(connection)
    # Whoever makes the whole chain in the table anew does not reach the journal.
    with server.connect(autocommit=False) as connection:
        connection.execute("create temp table t as select * from agent_guard.audit_segment")
        seq = connection.execute("select max(seq) - 1 from t").fetchone()[0]
        connection.execute("delete from agent_guard.audit_segment where seq <= %s", (seq - 1,))
        connection.execute("delete from agent_guard.audit_anchor")
        connection.execute("insert into agent_guard.audit_anchor (seq, hash) select seq, hash from t where seq = %s", (seq - 1,))
        intact, _, _, detail = verdict(connection)
        assert intact and "events 1 to" in detail, "the oldest events may have left for their age; the journal has them still"
        connection.rollback()
    shutil.rmtree(kept)
    # The writer goes on in the file that it has open: the copies are put back while it rests.
    server.restart()


def crash(server):
    """Kills the writer, which restarts the server with empty unlogged tables."""
    writer = "select pid from pg_stat_activity where backend_type = 'agent_guard audit writer'"
    # One that has had nothing to do for a minute has left: an event brings it back.
    server.crash(eventually(lambda: server.rows(writer) or work(server, 1), "a writer")[0][0])


class Busy(threading.Thread):
    """Works as an agent until it is told to stop."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.agent, self.ended, self.error = Agent(server, *RULES), False, None
        self.start()

    def run(self):
        try:
            while not self.ended:
                self.agent.connection.execute("select count(*) from app.open /* " + "x" * 300 + " */")
        except psycopg.Error as error:
            self.error = error

    def end(self):
        self.ended = True
        self.join(30)
        self.agent.connection.close()
        assert self.error is None, self.error


def test_nothing_is_found_while_agents_work(server):
    """What is recorded between two looks of verify_audit, at the journal and at the table, and segments that are emptied meanwhile,
    are no tampering; in either form of the journal."""
    for form in ["on", "sync"]:
        other = guard.Server(f"attack_record_{form}", [f"agent_guard.journal = {form}", "agent_guard.journal_file_size = '256kB'", "agent_guard.audit_capacity = 3200", "agent_guard.audit_timeout = '20s'"]).start()
        try:
            other.run("create extension agent_guard")
            scene.setup(other)
            agents = [Busy(other) for _ in range(2)]
            verdicts, trimmed = [], set()
            with other.connect() as connection:
                while len(verdicts) < 60 or len(trimmed) < 4:
                    verdicts.append(verdict(connection))
                    trimmed.add(connection.execute("select max(seq) from agent_guard.audit_anchor").fetchone()[0])
                    assert len(verdicts) < 2000, f"{form}: {len(trimmed)} segments were emptied"
            for agent in agents:
                agent.end()
            # A snapshot that is older than segments which were emptied: rows and anchor are still of one moment.
            with other.connect(autocommit=False) as old:
                old.execute("set transaction isolation level repeatable read")
                old.execute("create temp table mine as select count(*) from pg_class")
                anchor = "select max(seq) from agent_guard.audit_anchor"
                before = other.value(anchor)
                # A segment grows while it is read, and leaves as a whole: how much fits before the next one goes is not known.
                eventually(lambda: work(other, 100) or other.value(anchor) > before, "a segment is emptied", 300)
                verdicts.append(verdict(old))
            wrong = [found for found in verdicts if not found[0]]
            assert not wrong, f"{form}: {len(wrong)} of {len(verdicts)}: {wrong[:3]}"
        finally:
            other.stop()


def test_a_crash_leaves_the_trail(server):
    before = server.audit(columns="seq, statement, hash")
    crash(server)
    after = server.audit("seq <= %s", before[-1][0], columns="seq, statement, hash")
    assert after == before, f"{len(before)} events before the crash, {len(after)} after it"
    work(server, 5)
    with server.connect() as connection:
        assert verdict(connection)[0], verdict(connection)


def replace_journal(server, change):
    """Stops the server as a crash would, changes the last file, starts it again."""
    server._script("stop")
    data = pathlib.Path(server.variables["GUARD_DATA"])
    file = sorted((data / "agent_guard_journal").glob("*/*.journal"))[-1]
    owner = file.stat()
    file.write_bytes(change(file.read_bytes()))
    os.chown(file, owner.st_uid, owner.st_gid)
    server.restart()
    # The writer has told what it found: what it is killed before it has stored is in the log alone.
    server.audit("false")
    crash(server)


def newest(directory):
    return sorted(directory.glob("*.journal"))[-1]


def test_room_in_the_file_that_grows_is_no_damage(server):
    """It is there while the server runs, and after a crash; whoever reads the file stands it, and the writer goes on in it."""
    work(server, 3)
    directory = journal(server)
    # But for a file that has grown to where the next one begins.
    eventually(lambda: newest(directory).read_bytes().endswith(bytes(100)) or work(server, 1), "there is room")
    before = read(server, journal(server))
    crash(server)
    assert read(server, journal(server))[: len(before)] == before, "nothing is lost or found damaged"
    assert "the audit journal is cut" not in server.log()
    work(server, 3)
    after = read(server, journal(server))
    assert len(after) > len(before) and not [row for row in after if row[2]], "it goes on behind them"
    server._script("stop")
    assert not newest(directory).read_bytes().endswith(bytes(8)), "a writer that ends leaves no room"
    server.restart()


def test_a_torn_end_is_cut_and_the_chain_goes_on(server):
    work(server, 3)
    last = server.audit(columns="seq")[-1][0]
    replace_journal(server, lambda whole: whole + whole[-40:])
    server.audit("false")
    assert "the audit journal is cut: the last record is torn" in server.log()
    work(server, 3)
    with server.connect() as connection:
        assert verdict(connection)[0], verdict(connection)
        assert connection.execute("select count(*) from agent_guard.audit where seq = %s", (last,)).fetchone()[0] == 1


def test_damage_inside_the_journal_is_kept_aside_and_told(server):
    work(server, 20)
    server.audit("false")

    def flip(whole):
        at = len(whole) // 3
        return whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]

    replace_journal(server, flip)
    work(server, 3)
    told = server.audit("event = 'fault' and message like %s", "%tampered%", columns="message")
    assert told, "the trail tells of it"
    assert list(journal(server).glob("*.damaged")), "a copy is kept"
    with server.connect() as connection:
        assert verdict(connection)[0], verdict(connection)


def test_without_a_journal_a_new_chain_says_that_it_begins(server):
    other = guard.Server("attack_record_plain", []).start()
    try:
        other.run("create extension agent_guard")
        scene.setup(other)
        work(other, 5)
        crash(other)
        work(other, 5)
        assert other.audit("event = 'chain_begin'", columns="message"), "the trail tells"
        with other.connect() as connection:
            assert verdict(connection)[0], verdict(connection)
    finally:
        other.stop()


def test_capacity_and_retention_change_at_reload(server):
    other = guard.Server("attack_record_kept", ["agent_guard.journal = on", "agent_guard.audit_capacity = 1600"]).start()
    try:
        other.run("create extension agent_guard")
        scene.setup(other)
        work(other, 400)
        assert len(other.audit()) > 400
        other.run("alter system set agent_guard.audit_capacity = 160")
        other.run("select pg_reload_conf()")
        eventually(lambda: len(other.audit()) <= 260, "the oldest events are gone", 40)
        with other.connect() as connection:
            assert verdict(connection)[0], verdict(connection)
        anchor = other.value("select seq from agent_guard.audit_anchor")
        assert other.value("select min(seq) from agent_guard.audit") == anchor + 1
        other.run("alter system set agent_guard.audit_retention = '1s'")
        other.run("select pg_reload_conf()")
        eventually(lambda: not other.audit(), "all events are too old", 40)
        work(other, 2)
        with other.connect() as connection:
            assert verdict(connection)[0], verdict(connection)
    finally:
        other.stop()


def test_events_leave_by_age_while_the_writer_rests(server):
    other = guard.Server("attack_record_resting").start()
    try:
        other.run("create extension agent_guard")
        scene.setup(other)
        # A machine that takes longer than that until the writer rests is given twice the time.
        for retention in (3, 6, 12, 24, 48):
            other.run(f"alter system set agent_guard.audit_retention = '{retention}s'")
            other.restart()
            since = time.monotonic()
            work(other, 5)
            # The server asks the writer to leave, as it leaves by itself after a minute without events.
            other.run("create database copied template postgres", dbname="template1")
            resting = other.value("select writer_pid is null from agent_guard.stat")
            left = other.value("select count(*) from agent_guard.audit")
            other.run("drop database copied", dbname="template1")
            if resting and time.monotonic() - since < retention - 1:
                break
        assert resting and left > 5, (resting, left)
        eventually(lambda: other.value("select count(*) from agent_guard.audit") == 0, "all events are too old", retention + 60)
        work(other, 2)
        with other.connect() as connection:
            assert verdict(connection)[0], verdict(connection)
    finally:
        other.stop()


def test_on_a_full_disk_agents_wait_and_are_denied_and_others_work(server):
    if os.geteuid() != 0 or shutil.which("mount") is None:
        print("# skipped: mounting a small disk needs root")
        return
    place = tempfile.mkdtemp(prefix="agent_guard_full.")
    uid = pathlib.Path(server.variables["GUARD_DATA"]).stat().st_uid
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=512k,mode=700,uid={uid}", "tmpfs", place], capture_output=True).returncode != 0:
        os.rmdir(place)
        print("# skipped: no small disk can be mounted here")
        return
    other = guard.Server("attack_record_full", [f"agent_guard.journal_directory = '{place}'", "agent_guard.journal = on", "agent_guard.audit_timeout = '3s'", "agent_guard.audit_buffer = '1MB'"])
    try:
        other.start()
        other.run("create extension agent_guard; create table plain (n int)")
        scene.setup(other)
        with Agent(other, *RULES) as agent:
            sent = 0
            with_error = None
            while with_error is None and sent < 20000:
                try:
                    agent.connection.execute("select count(*) from app.open /* " + "x" * 3000 + " */")
                    sent += 1
                except psycopg.Error as error:
                    with_error = error.sqlstate
            assert with_error == "53100", f"{with_error} after {sent} statements"
            before = other.value("select count(*) from app.open")
            expect("53100", agent.connection.execute, "insert into app.open values (999)")
            assert other.value("select count(*) from app.open") == before, "it has not run"
            other.run("insert into plain values (1)")
            subprocess.run(["mount", "-o", "remount,size=64m", place], check=True)

            def works():
                try:
                    return agent.connection.execute("select 1").fetchone()
                except psycopg.Error:
                    return None

            eventually(works, "it recovers by itself")
            agent.connection.execute("select count(*) from app.open /* after */")
        assert other.audit("statement like %s", "%after%")
        with other.connect() as connection:
            assert verdict(connection)[0], verdict(connection)
        database = other.value("select oid from pg_database where datname = 'postgres'")
        assert all(row[2] is None for row in read(other, pathlib.Path(place) / str(database)))
    finally:
        other.remove()
        subprocess.run(["umount", place], check=False)
        os.rmdir(place)


if __name__ == "__main__":
    guard.run(globals(), conf=CONF)
