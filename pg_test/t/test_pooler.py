"""Connections handed on by pgbouncer: the next client on a server connection has nothing of the one before it.

Each pool has one server connection, so that the next client is certainly on the same one; a test that shows what is left
behind says so by the backend's pid.
"""

import psycopg
from psycopg import sql

import guard
import scene
from bouncer import Bouncer
from guard import DENIED, UNAUTHENTICATED, eventually, expect
from tokens import child, prove
from wire import Wire

PROBE = "select count(*) from app.open"
PID = "select pg_backend_pid()"
RULES = [
    ("allow", ["select", "insert", "update"], ["app.open", "app.parted"]),
    ("allow", "temporary", "*"),
    ("allow", ["notify", "system"], "*"),
    ("allow", "execute", ["function app.*", "function pg_catalog.pg_advisory_lock(bigint)"]),
]


class Pool:
    """A pooler in front of the server; a context manager."""

    def __init__(self, server, mode, **settings):
        self.server = server
        self.bouncer = Bouncer(server, "owner", pool_mode=mode, default_pool_size="1", query_wait_timeout="20", **settings)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bouncer.stop()

    def client(self):
        bouncer = self.bouncer
        connection = psycopg.connect(host=bouncer.host, port=bouncer.port, user="anyone", dbname="postgres", autocommit=True)
        connection.prepare_threshold = None
        return connection

    def wire(self):
        return Wire(self.bouncer.host, self.bouncer.port, "anyone", "postgres")


def setup(server):
    scene.setup(server)


def window(server, **more):
    name = scene.policy(server, RULES)
    return server.window("owner", name, **more)[:2]


def literal(statement, value):
    return sql.SQL(statement).format(sql.Literal(value))


def local(connection, token):
    connection.execute(literal("set local agent_guard.token = {}", token))


def backend(connection):
    """The server process behind a client, which answers only with a token: asked for through the server."""
    return connection.execute(PID).fetchone()[0]


def the_backend(server):
    """The pool's one server connection; that of the pool before may not have heard of its end yet."""
    query = "select min(pid) from pg_stat_activity where usename = 'owner' and backend_type = 'client backend' having count(*) = 1"
    return eventually(lambda: server.rows(query), "there is one connection")[0][0]


def has_nothing(client):
    expect(UNAUTHENTICATED, client.execute, PROBE, match="reason=")
    expect(UNAUTHENTICATED, client.execute, "select * from app.secret", match="reason=")


# --- transaction mode ---


def test_a_token_lasts_for_its_transaction(server):
    _, token = window(server)
    with Pool(server, "transaction") as pool, pool.client() as one, pool.client() as two:
        for end in ("commit", "rollback"):
            one.execute("begin")
            local(one, token)
            pid = backend(one)
            assert one.execute(PROBE).fetchone() == (3,)
            one.execute(end)
            assert the_backend(server) == pid
            has_nothing(two)
            has_nothing(one)
            assert the_backend(server) == pid


def test_a_proof_on_the_servers_connection(server):
    _, token = window(server, require_proof=True)
    with Pool(server, "transaction") as pool, pool.client() as one, pool.client() as two:
        proofs = []
        for client in (one, two, one):
            client.execute("begin")
            challenge = client.execute("show agent_guard.challenge").fetchone()[0]
            proofs.append(prove(token, challenge))
            local(client, proofs[-1])
            assert client.execute(PROBE).fetchone() == (3,)
            client.execute("commit")
        assert len(set(proofs)) == 3
        two.execute("begin")
        expect(UNAUTHENTICATED, local, two, proofs[-1], match="reason=")
        two.execute("rollback")
        has_nothing(two)


def test_an_error_leaves_nothing_behind(server):
    _, token = window(server)
    with Pool(server, "transaction") as pool, pool.client() as one, pool.client() as two:
        one.execute("begin")
        local(one, token)
        pid = backend(one)
        expect(DENIED, one.execute, "select * from app.secret")
        expect("25P02", one.execute, PROBE)
        one.execute("rollback")
        has_nothing(two)
        # Also where the error comes with the commit.
        one.execute("begin")
        local(one, token)
        one.execute("insert into app.open values (77, 'x')")
        expect("23505", one.execute, "insert into app.open values (77, 'x')")
        one.execute("commit")
        has_nothing(two)
        assert the_backend(server) == pid
        assert server.value("select count(*) from app.open where id = 77") == 0


def test_a_client_that_vanishes_leaves_nothing_behind(server):
    _, token = window(server)
    with Pool(server, "transaction") as pool, pool.client() as two:
        one = pool.wire()
        for statement in ("begin", f"set local agent_guard.token = '{token}'", "insert into app.open values (78, 'x')"):
            assert not one.query(statement).errors
        one.drop()
        has_nothing(two)
        two.execute("begin")
        local(two, token)
        assert two.execute("select count(*) from app.open where id = 78").fetchone() == (0,)
        two.execute("commit")
        has_nothing(two)


def test_prepared_statements_run_under_the_next_clients_own_scope(server):
    _, token = window(server, max_depth=1)
    with Pool(server, "transaction") as pool, pool.client() as one, pool.client() as two:
        one.execute("begin")
        local(one, token)
        pid = backend(one)
        one.execute("prepare p as select * from app.open")
        one.execute("execute p")
        one.execute("commit")
        expect(UNAUTHENTICATED, two.execute, "execute p")
        two.execute("begin")
        local(two, child(token, rel=["app.parted"]))
        expect(DENIED, two.execute, "execute p", match="block=1")
        two.execute("rollback")
        assert the_backend(server) == pid


def test_cursors_and_stored_rows_are_not_inherited(server):
    _, token = window(server, max_depth=1)
    with Pool(server, "transaction") as pool, pool.client() as one, pool.client() as two:
        one.execute("begin")
        local(one, token)
        pid = backend(one)
        one.execute("declare h cursor with hold for select v from app.open")
        one.execute("commit")
        expect(UNAUTHENTICATED, two.execute, "fetch all from h")
        raw = pool.wire()
        raw.execute("h")
        reply = raw.sync()
        assert reply.errors and not reply.rows, reply.rows
        raw.close()
        two.execute("begin")
        local(two, child(token, rel=["app.parted"]))
        expect("34000", two.execute, "fetch all from h")
        two.execute("rollback")
        assert the_backend(server) == pid


def test_what_belongs_to_the_session_goes_with_the_next_token(server):
    _, token = window(server, max_depth=1)
    with Pool(server, "transaction") as pool, pool.client() as one, pool.client() as two:
        one.execute("begin")
        local(one, token)
        pid = backend(one)
        for statement in ("create temp table loot as select * from app.open", "listen gossip", "select pg_advisory_lock(7)"):
            one.execute(statement)
        one.execute("commit")
        expect(UNAUTHENTICATED, two.execute, "select * from loot")
        two.execute("begin")
        local(two, child(token, act=["select"]))
        expect("42P01", two.execute, "select * from loot")
        two.execute("rollback")
        assert server.value("select count(*) from pg_locks where pid = %s and locktype = 'advisory'", pid) == 0
        # Channels go when a transaction with the next token commits.
        for seen in (1, 0):
            two.execute("begin")
            local(two, token)
            assert two.execute("select count(*) from pg_listening_channels()").fetchone() == (seen,)
            two.execute("commit")
        server.run("notify gossip, 'secret'")
        two.execute("begin")
        local(two, token)
        two.execute("commit")
        assert [n.payload for n in two.notifies(timeout=0, stop_after=1)] == []
        assert the_backend(server) == pid


def test_a_revocation_ends_a_pooled_transaction(server):
    window_id, token = window(server)
    with Pool(server, "transaction") as pool, pool.client() as one, pool.client() as two:
        one.execute("begin")
        local(one, token)
        one.execute("update app.open set v = 'pooled' where id = 1")
        server.run(f"select agent_guard.revoke_window('{window_id}')")
        try:
            one.execute("commit")
            raise AssertionError("it was committed")
        except psycopg.Error as error:
            assert "reason=revoked" in str(error) or error.sqlstate is None, error
            if not one.closed:
                one.execute("rollback")
        has_nothing(two)
        assert server.value("select count(*) from app.open where v = 'pooled'") == 0


def test_a_token_for_the_session_can_be_refused_altogether(server):
    """agent_guard.require_local: in a pool of transactions SET without LOCAL would hand the token to the neighbour."""
    _, token = window(server)
    ways = ["set agent_guard.token = {}", "set session agent_guard.token = {}", "select set_config('agent_guard.token', {}, false)"]
    with Pool(server, "transaction") as pool, pool.client() as one, pool.client() as two:
        one.execute(literal(ways[0], token))
        assert two.execute(PROBE).fetchone() == (3,), "what the setting is there to prevent"
        two.execute("reset agent_guard.token")
        server.run("alter system set agent_guard.require_local = on")
        server.run("select pg_reload_conf()")
        try:
            guard.eventually(lambda: server.value("show agent_guard.require_local") == "on", "the server has reloaded")
            for way in ways:
                expect(UNAUTHENTICATED, one.execute, literal(way, token), match="reason=local_only")
                has_nothing(two)
                one.execute("begin")
                expect(UNAUTHENTICATED, one.execute, literal(way, token), match="reason=local_only")
                one.execute("rollback")
            for way in ("set local agent_guard.token = {}", "select set_config('agent_guard.token', {}, true)"):
                one.execute("begin")
                one.execute(literal(way, token))
                assert one.execute(PROBE).fetchone() == (3,)
                one.execute("commit")
                has_nothing(two)
            with server.connect("owner", options=f"-c agent_guard.token={token}") as direct:
                expect(UNAUTHENTICATED, direct.execute, PROBE, match="reason=local_only")
        finally:
            server.run("alter system reset agent_guard.require_local")
            server.run("select pg_reload_conf()")
            guard.eventually(lambda: server.value("show agent_guard.require_local") == "off", "the server has reloaded")


# --- session mode ---


def test_a_session_starts_with_nothing_of_the_one_before(server):
    window_id, token = window(server, max_depth=1)
    left = [
        "create temp table loot as select * from app.open",
        "declare h cursor with hold for select v from app.open",
        "prepare p as select * from app.open",
        "listen gossip",
        "select pg_advisory_lock(7)",
        "set search_path = app",
        "set application_name = 'one'",
    ]
    with Pool(server, "session", server_reset_query="DISCARD ALL") as pool:
        with pool.client() as one:
            one.execute(literal("set agent_guard.token = {}", token))
            pid = backend(one)
            for statement in left:
                one.execute(statement)
        with pool.client() as two:
            has_nothing(two)
            raw_rows = "select count(*) from pg_locks where pid = %s and locktype = 'advisory'"
            assert server.value(raw_rows, pid) == 0
            two.execute(literal("set agent_guard.token = {}", token))
            assert backend(two) == pid
            expect("34000", two.execute, "fetch h")
            expect("42P01", two.execute, "select * from loot")
            expect("26000", two.execute, "execute p")
            assert two.execute("show search_path").fetchone() == ('"$user", public',)
            assert two.execute("select count(*) from pg_listening_channels()").fetchone() == (0,)
        # The reset query runs also where the token has come to its end meanwhile.
        with pool.client() as three:
            three.execute(literal("set agent_guard.token = {}", token))
            assert backend(three) == pid
            server.run(f"select agent_guard.revoke_window('{window_id}')")
            expect(UNAUTHENTICATED, three.execute, PROBE, match="reason=revoked")
        with pool.client() as four:
            has_nothing(four)
            assert the_backend(server) == pid


def test_a_session_that_crashes_leaves_nothing(server):
    _, token = window(server)
    with Pool(server, "session", server_reset_query="DISCARD ALL") as pool:
        for statements in (["begin", "insert into app.open values (79, 'x')"], ["begin", "select nothing"], []):
            one = pool.wire()
            one.query(f"set agent_guard.token = '{token}'")
            for statement in statements:
                one.query(statement)
            one.drop()
            with pool.client() as two:
                has_nothing(two)
        assert server.value("select count(*) from app.open where id = 79") == 0


def test_a_hand_made_reset_leaves_nothing(server):
    """ABORT and DISCARD ALL, as drivers' own pools send them, on one connection."""
    _, token = window(server)
    with server.connect("owner") as connection:
        connection.execute(literal("set agent_guard.token = {}", token))
        connection.execute("begin")
        connection.execute("declare h cursor with hold for select v from app.open")
        for statement in ("abort", "discard all"):
            connection.execute(statement)
        has_nothing(connection)
        expect(UNAUTHENTICATED, connection.execute, "fetch h")


if __name__ == "__main__":
    guard.run(globals(), conf=["autovacuum = off"])
