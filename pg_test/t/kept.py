"""Guarded sessions that send the same statement often enough for it to be kept when it ends, and what is compared of its events."""

import itertools

import scene
from guard import DENIED, eventually

CONF = ["agent_guard.audit_timeout = '20s'", "agent_guard.journal = on"]
RULES = [
    ("allow", ["select", "insert", "update", "delete", "lock"], "app.*"),
    ("allow", "execute", ["function app.*", "function kept.*"]),
    ("allow", "system", "*"),
]
INT4, INT8, TEXT = 23, 20, 25
# Often enough to be kept.
RUNS = 6
# Whether a transaction had a number, but not which.
WHOLE = """event, session_id::text, window_id::text, lineage, role, database, client_addr, pid, xid is null, level, command, statement, accesses,
    decision, rule_id, rows, sqlstate, message, application_name, statement_length, policy_version, truncated, decided_by, block_ids"""
LEVEL, COMMAND, ACCESSES, SQLSTATE = ([name.strip() for name in WHOLE.split(",")].index(name) for name in ("level", "command", "accesses", "sqlstate"))
MARKS = (f"mark-{number} " for number in itertools.count())


def setup(server):
    scene.setup(server)
    server.run(
        """create table app.entries (id int, v text);
           create table app.switch (armed boolean);
           insert into app.switch values (false);
           create table app.ruled (id int);
           create table app.followed (n int);
           insert into app.followed values (0);
           create rule follows as on insert to app.ruled do also update app.followed set n = n + 1;
           grant all on app.entries, app.ruled, app.followed to owner;
           create table app.late (id int primary key);
           insert into app.late values (1);
           create table app.ref (id int references app.late deferrable initially deferred);
           create table app.looked (id int);
           create function kept.looks() returns trigger language plpgsql as $$begin execute 'select count(*) from app.open'; return null; end$$;
           create constraint trigger looks after insert on app.looked deferrable initially deferred for each row execute function kept.looks();
           alter table app.late owner to owner;
           alter table app.ref owner to owner;
           grant all on app.looked to owner;
           create function kept.counts() returns bigint language plpgsql as $$declare n bigint; begin execute 'select count(*) from app.open' into n; return n; end$$;
           create function app.lower(text) returns text language plpgsql immutable as $$begin return pg_catalog.lower($1); end$$;
           create schema elsewhere;
           create table elsewhere.open (id int primary key, v text, hidden text);
           grant usage on schema elsewhere to owner;
           grant all on elsewhere.open to owner;
           create foreign data wrapper nothing;
           create server vault foreign data wrapper nothing options (password 'first');
           create function kept.sets() returns trigger language plpgsql security definer as
           $$begin if (select armed from app.switch) then execute format('alter server vault options (set password %L)', new.v); end if; return new; end$$;
           create trigger sets before insert on app.entries for each row execute function kept.sets();"""
    )


class Session:
    """A guarded session at the protocol's level, under a policy of its own."""

    def __init__(self, server, *rules, startup=True, standby=None, **window):
        self.server = server
        self.policy = scene.policy(server, rules or RULES)
        self.window_id, self.token, _ = server.window("owner", self.policy, **window)
        if standby:
            caught_up(server, standby)
        self.wire = (standby or server).wire("owner", **({"options": f"-c agent_guard.token={self.token}"} if startup else {}))
        self.names = (f"s{number}" for number in itertools.count())

    def prepare(self, text, *types):
        name = next(self.names)
        self.wire.parse(text, name, types)
        reply = self.wire.sync()
        assert not reply.errors, reply.errors
        return name

    def execute(self, name, *values, portal="", max_rows=0):
        self.wire.bind(portal, name, values)
        self.wire.execute(portal, max_rows)
        return self.wire.sync()

    def run(self, name, *values):
        reply = self.execute(name, *values)
        assert not reply.errors, reply.errors
        return reply.text()

    def often(self, name, *values, times=RUNS):
        for _ in range(times):
            self.run(name, *values)

    def refused(self, name, *values, sqlstate=DENIED, match=""):
        reply = self.execute(name, *values)
        assert reply.sqlstate == sqlstate and match in str(reply.errors) and not reply.rows, reply

    def kept(self, text, *types):
        """A prepared statement that was run often."""
        name = self.prepare(text, *types)
        self.often(name, *(["1"] * len(types)))
        return name

    def query(self, text):
        reply = self.wire.query(text)
        assert not reply.errors, reply.errors
        return reply

    def end(self):
        self.wire.close()


def quoted(text):
    return "'" + text.replace("'", "''") + "'"


def session_of(wire):
    return wire.query("select session_id from agent_guard.whoami()").text()[0][0]


def events(server, like, columns=WHOLE, where="true"):
    return server.audit(f"statement like %s and event = 'statement' and role = 'owner' and {where}", f"%{like}%", columns=columns)


def all_same(found, number, what=""):
    assert len(found) == number, (what, len(found), number, found[:3])
    for nth, event in enumerate(found):
        different = [(one, other) for one, other in zip(event, found[0]) if one != other]
        assert not different, f"{what}: the event of run {nth + 1} differs from the first one's: {different}"


def writer(server):
    return eventually(lambda: server.value("select writer_pid from agent_guard.stat"), "a writer")


def caught_up(server, standby):
    end = server.value("select pg_current_wal_insert_lsn()::text")
    eventually(lambda: standby.value("select pg_last_wal_replay_lsn() >= %s::pg_lsn", end), "the standby follows")


