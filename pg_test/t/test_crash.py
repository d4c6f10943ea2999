"""kill -9 of a backend, of the audit writer or of the postmaster, at random times under concurrent agents: with
`agent_guard.journal = sync` every statement that was answered is in the trail, in order, once, and the chain verifies.

CRASH_CYCLES says how often (default 4), CRASH_SEED repeats a run.
"""

import json
import os
import random
import signal
import threading
import time

import psycopg

import guard
from guard import eventually, expect, reload

CYCLES = int(os.environ.get("CRASH_CYCLES", "4"))
SEED = int(os.environ.get("CRASH_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
AGENTS = 4
CONF = ["agent_guard.journal = sync", "agent_guard.journal_file_size = '256kB'", "restart_after_crash = on", "agent_guard.audit_timeout = '20s'"]
# The connection ended, or the record failed: nothing was answered.
NO_ANSWER = (None, "57P01", "57P02", "57P03", "08006", "53100")


def setup(server):
    server.run(
        """create schema app;
           create table app.t (id int, v text);
           create table app.secret (v text);
           select agent_guard.create_policy('p');
           select agent_guard.allow('p', array['select', 'insert', 'update'], array['app.t']);
           select agent_guard.deny('p', array['*'], array['app.secret']);"""
    )
    server.agent("crasher")
    server.run("grant usage on schema app to crasher; grant all on all tables in schema app to crasher")


class Agent(threading.Thread):
    """Sends statements that name themselves, and keeps the names of those that were answered."""

    def __init__(self, server, token, name, seed):
        super().__init__(daemon=True)
        self.name, self.answered, self.sent = name, [], []
        self.random = random.Random(seed)
        self.simple = seed % 2 == 0
        self.ended = False
        self.connection = server.connect("crasher", options=f"-c agent_guard.token={token}")
        self.pid = self.connection.info.backend_pid
        self.start()

    def run(self):
        try:
            while not self.ended:
                self.work()
        except psycopg.Error:
            pass
        finally:
            self.connection.close()

    def statement(self, template, values=None):
        mark = f"{self.name}n{len(self.sent)}x"
        self.sent.append(mark)
        try:
            self.connection.execute(f"{template} /* {mark} */", values)
        except psycopg.Error as error:
            if error.sqlstate in NO_ANSWER or self.connection.closed:
                raise
        self.answered.append(mark)

    def work(self):
        values = None if self.simple else (self.random.randrange(1000),)
        number = "7" if self.simple else "%s::int"
        choice = self.random.randrange(6)
        if choice == 0:
            self.statement(f"select {number} + 1", values)
        elif choice == 1:
            self.statement(f"insert into app.t values ({number}, 'x')", values)
        elif choice == 2:
            self.statement(f"select 1 / (id - id) from (values ({number})) as v (id)", values)
        elif choice == 3:
            self.statement(f"select v, {number} from app.secret", values)
        else:
            self.statement("begin")
            for _ in range(self.random.randrange(1, 4)):
                self.statement(f"select count(*), {number} from app.t", values)
            self.statement(f"update app.t set v = 'y' where id = {number}", values)
            self.statement("commit" if choice == 4 else "rollback")


def victim(server, agents, chance):
    what = chance.choice(["backend", "writer", "postmaster"])
    if what == "postmaster":
        return what, server.pid
    if what == "backend":
        return what, chance.choice(agents).pid
    rows = server.rows("select pid from pg_stat_activity where backend_type = 'agent_guard audit writer'")
    return (what, rows[0][0]) if rows else ("backend", agents[0].pid)


def recover(server, what):
    if what != "postmaster":
        return eventually(server.answers, "the server comes back", 60)
    return server.restart_killed()


def check(server, agents):
    found = server.audit("level = 0", columns="statement")
    order = {}
    for at, (statement,) in enumerate(found):
        if statement and "/* c" in statement:
            order.setdefault(statement.rsplit("/* ", 1)[1].split(" ")[0], []).append(at)
    for agent in agents:
        lost = [mark for mark in agent.answered if mark not in order]
        assert not lost, f"seed {SEED}: {len(lost)} answered statements are not in the trail: {lost[:5]}"
        twice = [mark for mark in agent.sent if len(order.get(mark, [])) > 1]
        assert not twice, f"seed {SEED}: in the trail more than once: {twice[:5]}"
        places = [order[mark][0] for mark in agent.answered]
        assert places == sorted(places), f"seed {SEED}: out of order"
    verdict = server.rows("select intact, events, break, broken_seq, detail from agent_guard.verify_audit()")[0]
    assert verdict[0], f"seed {SEED}: {verdict}"
    return sum(len(agent.answered) for agent in agents), verdict[1]


def test_what_was_answered_is_in_the_trail(server):
    chance = random.Random(SEED)
    print(f"# CRASH_SEED={SEED}", flush=True)
    token = server.window("crasher", "p")[1]
    killed = {}
    everybody = []
    total = 0
    (server.home / "killed").touch()
    for cycle in range(CYCLES):
        agents = [Agent(server, token, f"c{cycle}a{n}", SEED + cycle * AGENTS + n) for n in range(AGENTS)]
        everybody += agents
        eventually(lambda agents=agents: any(agent.answered for agent in agents), "something is answered")
        time.sleep(chance.uniform(0.02, 0.6))
        what, pid = victim(server, agents, chance)
        killed[what] = killed.get(what, 0) + 1
        server.kill(pid)
        for agent in agents:
            agent.ended = True
            agent.join(60)
            assert not agent.is_alive(), "an agent hangs"
        recover(server, what)
        answered, events = check(server, agents)
        total += answered
        assert answered, "nothing was answered before the kill"
    check(server, everybody)
    print(f"# {CYCLES} cycles, killed {killed}, {total} statements answered, {events} events in the trail", flush=True)


def test_a_request_for_approval_outlives_a_crash_once(server):
    """Killed at any time between asking and the answer: a request that was told is kept; asked again, there is one."""
    server.run("""create table app.held (v text); grant select on app.held to crasher;
                  select agent_guard.require_approval('p', array['select'], array['app.held'], approvers => array['postgres']::regrole[])""")
    token = server.window("crasher", "p")[1]
    chance = random.Random(SEED)
    (server.home / "killed").touch()
    told, unrecorded = [], 0
    for n in range(12):
        mark = f"/* held {n}x */"
        asking = server.connect("crasher", options=f"-c agent_guard.token={token}")
        asking.execute("select 1")
        victim = server.connect()

        def ask(connection=asking):
            try:
                connection.execute(f"select v from app.held {mark}")
            except psycopg.Error as error:
                if error.sqlstate == "PGA01":
                    told.append(mark)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        time.sleep(chance.choice([0, 0.002, 0.005, 0.01, 0.03]))
        server.crash(victim.info.backend_pid)
        thread.join(30)
        victim.close()
        asking.close()
        stored = server.rows("select request_id from agent_guard.approval_requests where statement like %s", f"%{mark}")
        assert len(stored) == 1 if mark in told else len(stored) <= 1, f"{mark}: {stored}, told: {told}"
        again = server.connect("crasher", options=f"-c agent_guard.token={token}")
        expect("PGA01", again.execute, f"select v from app.held {mark}")
        again.close()
        kept = server.rows("select request_id from agent_guard.approval_requests where statement like %s", f"%{mark}")
        assert len(kept) == 1 and (not stored or kept == stored), f"{mark}: {stored} before, {kept} after"
        events = server.audit("event = 'approval_request' and parameters[1]::jsonb ->> 'statement' like %s", f"%{mark}", columns="parameters[1]::jsonb ->> 'request_id'")
        recorded = str(kept[0][0]) in [request for (request,) in events]
        # The request is committed before its event is in the journal, and told after it is.
        unrecorded += not recorded
        assert recorded or (stored and mark not in told), f"{mark}: {kept} without its event"
        assert len(events) == len(set(events)), f"{mark}: an event twice"
    assert server.value("select intact from agent_guard.verify_audit()"), "the chain holds"
    print(f"# told of {len(told)} of 12 requests before the crash; the event of {unrecorded} had not reached the journal", flush=True)


def test_where_the_table_takes_no_row_the_journal_does_not_part_from_it(server):
    """The journal is ahead of the tables by what was answered: a row that no table takes as it is, and one that has to wait."""
    token = server.window("crasher", "p")[1]
    oid = server.value("select oid from pg_database where datname = current_database()")
    tables = [f"agent_guard.audit_segment_{segment:02}" for segment in range(16)]
    odd = [f"create index odd_{at} on {table} ((lower(role)))" for at, table in enumerate(tables)]
    for n, hindrance in enumerate([odd, ["begin", f"lock table {', '.join(tables)} in share mode"]]):
        connection = server.connect("crasher", options=f"-c agent_guard.token={token}")
        connection.execute("select 1")
        server.audit("false")
        reload(server, "agent_guard.audit_timeout", "2s")
        other = server.connect()
        for statement in hindrance:
            other.execute(statement)
        outcomes = []
        for number in range(4):
            try:
                connection.execute(f"select {number} /* odd {n} */")
                outcomes.append("answered")
            except psycopg.Error as error:
                outcomes.append(error.sqlstate)
        assert "answered" in outcomes and set(outcomes) <= {"answered", "53100"}, outcomes
        other.close()
        for at in range(16):
            server.run(f"drop index if exists agent_guard.odd_{at}")
        reload(server, "agent_guard.audit_timeout", "20s")
        connection.execute(f"select 4 /* odd {n} */")
        connection.close()
        trail = server.audit(columns="seq, encode(hash, 'hex')")
        kept = server.rows("select seq, hash, problem from agent_guard.journal_read(%s)", f"agent_guard_journal/{oid}")
        assert all(row[2] is None for row in kept), kept[-1]
        assert [row[:2] for row in kept][-len(trail) :] == trail, "journal and trail tell the same"
        assert server.value("select intact from agent_guard.verify_audit()")
        # One that was not answered has the event of that, too.
        found = server.audit("statement like %s and sqlstate is null", f"%/* odd {n} */", columns="statement")
        assert found == [(f"select {number} /* odd {n} */",) for number in range(5)], f"{outcomes}: {found}"


def test_a_row_that_no_table_takes_is_a_fault_in_the_journal_too(server):
    """It was answered, and is in the journal, before its index entry turns out to be too large: the tables win."""
    token = server.window("crasher", "p")[1]
    oid = server.value("select oid from pg_database where datname = current_database()")
    with server.connect("crasher", options=f"-c agent_guard.token={token}") as connection:
        connection.execute("select 1")
        for segment in range(16):
            server.run(f"create index large_{segment} on agent_guard.audit_segment_{segment:02} (statement)")
        filling = random.Random(SEED).randbytes(6000).hex()
        connection.execute(f"select 1 /* {filling} */")
        connection.execute("select 1 /* behind it */")
    trail = server.audit(columns="seq, encode(hash, 'hex')")
    for segment in range(16):
        server.run(f"drop index agent_guard.large_{segment}")
    kept = server.rows("select seq, hash, problem from agent_guard.journal_read(%s)", f"agent_guard_journal/{oid}")
    assert all(row[2] is None for row in kept), kept[-1]
    assert [row[:2] for row in kept][-len(trail) :] == trail, "journal and trail tell the same"
    assert server.audit("event = 'fault' and message like %s", "%index row%"), "told"
    assert len(server.audit("statement = %s", "select 1 /* behind it */")) == 1
    assert server.value("select intact from agent_guard.verify_audit()")


def test_nothing_is_answered_while_the_writer_stands_still(server):
    """Whatever becomes of a statement and however it is sent: no answer before its event is on disk, and it is undone."""
    token = server.window("crasher", "p")[1]
    length = server.value("select 'pg_catalog.length(text)'::regprocedure::oid::int")
    connection = server.connect("crasher", options=f"-c agent_guard.token={token}")
    wire = server.wire("crasher", options=f"-c agent_guard.token={token}")
    connection.execute("select 1")
    assert not wire.query("select 1").errors
    reload(server, "agent_guard.audit_timeout", "500ms")
    rows = server.value("select count(*) from app.t")
    writer = server.value("select writer_pid from agent_guard.stat")
    os.kill(writer, signal.SIGSTOP)
    try:
        sent = [
            ("select count(*) from app.t", None),
            ("select count(*) from app.t where id = %s", (1,)),
            ("insert into app.t values (77777, 'undone')", None),
            ("insert into app.t values (%s, 'undone')", (77777,)),
            ("selec", None),
            ("select 1 / 0", None),
            ("select * from app.secret", None),
            ("drop table app.t", None),
            ("show work_mem", None),
            ("explain select * from app.t", None),
        ]
        for statement, values in sent:
            expect("53100", connection.execute, statement, values, match="audit_unsynced")
        expect("53100", connection.execute, "begin", match="audit_unsynced")
        connection.execute("rollback") if connection.info.transaction_status else None
        # In an open transaction the extended protocol leaves the portal open; the answer waits all the same.
        reply = wire.extended("select count(*) from app.t")
        assert reply.sqlstate == "53100", reply
        reply = wire.query("copy app.t to stdout")
        assert reply.sqlstate == "53100", reply
        reply = wire.call(length, ["ABC"])
        assert reply.sqlstate == "53100", reply
        cancelled = server.connect("crasher", options=f"-c agent_guard.token={token}")
        expect("53100", cancelled.execute, "select 1")
        cancelled.close()
    finally:
        os.kill(writer, signal.SIGCONT)
        reload(server, "agent_guard.audit_timeout", "20s")
    assert server.value("select count(*) from app.t") == rows
    assert connection.execute("select 1").fetchone() == (1,)
    with connection.transaction():
        connection.execute("select count(*), %s::int from app.t /* in the middle */", (7,))
        found = server.audit("statement like %s", "%in the middle%")
        assert len(found) == 1, "answered in an open transaction, and recorded"
    connection.close()
    wire.close()


def test_a_request_outlives_a_writer_that_dies_behind_its_commit(server):
    """The request is committed, its event is not in the journal yet: that is when the writer is killed, as far as chance lets us.
    One request is left each time, it is the one that the statement comes back to, and its approval is good once."""
    server.run(
        """create role asked login;
           select agent_guard.create_policy('held');
           select agent_guard.allow('held', array['select', 'insert'], array['app.t']);
           select agent_guard.require_approval('held', array['insert'], array['app.t'], array['asked']::regrole[]);"""
    )
    token = server.window("crasher", "held")[1]
    (server.home / "killed").touch()
    unrecorded = 0
    for cycle in range(CYCLES):
        statement = f"insert into app.t values ({-1 - cycle}, 'held')"
        ears, agent = server.connect("asked"), server.connect("crasher")
        guard.bind(agent, token)
        ears.execute("listen agent_guard_approval")
        writer = server.value("select writer_pid from agent_guard.stat")
        errors = []

        def ask():
            try:
                agent.execute(statement)
            except psycopg.Error as error:
                errors.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        # The notification leaves with the commit, before the journal is written.
        told = next(ears.notifies(timeout=20))
        server.kill(writer)
        thread.join(60)
        assert not thread.is_alive() and errors, "the agent was answered something else"
        request = json.loads(told.payload)["request_id"]
        recover(server, "writer")
        ask_again = eventually(lambda: connected(server, token), "agents may work again", 60)
        error = expect("PGA01", ask_again.execute, statement)
        assert request in error.diag.message_detail, f"another request: {error.diag.message_detail}"
        assert server.value("select count(*) from agent_guard.approval_request where statement = %s", statement) == 1
        unrecorded += not server.audit("event = 'approval_request' and message like %s", f"%{request}%")
        with server.connect("asked") as approver:
            assert approver.execute("select agent_guard.approve(%s)", (request,)).fetchone()[0] == "approved"
        ask_again.execute(statement)
        expect("PGA01", ask_again.execute, statement)
        assert server.value("select count(*) from app.t where id = %s and v = 'held'", -1 - cycle) == 1
        ask_again.close()
    verdict = server.rows("select intact, detail from agent_guard.verify_audit()")[0]
    assert verdict[0], verdict
    print(f"# {CYCLES} cycles; the event of {unrecorded} had not reached the journal", flush=True)


def connected(server, token):
    try:
        connection = server.connect("crasher")
        guard.bind(connection, token)
        connection.execute("select 1")
        return connection
    except psycopg.Error:
        return None


if __name__ == "__main__":
    guard.run(globals(), conf=CONF)
