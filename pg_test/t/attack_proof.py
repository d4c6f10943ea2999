"""The proof handshake and delegation: what a log or another session could hold opens nothing."""

import psycopg
from psycopg import sql

import guard
import scene
from guard import DENIED, UNAUTHENTICATED, bind, eventually, expect
from scene import Agent
from tokens import child, claims_of, prove

READ = ("allow", "select", "app.*")
PROBE = "select count(*) from app.open"
NAME = "agent_guard.challenge"


def setup(server):
    scene.setup(server)
    server.run("create role outsider login")


def offered(connection):
    """The challenge as the server last reported it."""
    return connection.info.parameter_status(NAME)


def window(server, **more):
    """A window and its token."""
    name = scene.policy(server, [READ])
    return server.window("owner", name, **more)[:2]


def proven(server, token):
    """A session that has proven the token with the challenge that came with the connection."""
    connection = server.connect("owner")
    bind(connection, prove(token, offered(connection)))
    return connection


def test_a_proof_opens_a_session_without_another_round_trip(server):
    _, token = window(server, require_proof=True)
    with server.connect("owner") as connection:
        first = offered(connection)
        assert first.startswith("agc1.") and len(first) == 37, first
        bind(connection, prove(token, first))
        assert connection.execute(PROBE).fetchone() == (3,)
        assert offered(connection).startswith("agc1.") and offered(connection) != first
        assert connection.execute(f"show {NAME}").fetchone() == (offered(connection),)
        shown = connection.execute("show agent_guard.token").fetchone()[0]
        assert shown.startswith("agt1:") and shown.count(":") == 2, shown


def test_every_way_of_setting_takes_a_proof(server):
    _, token = window(server)
    with server.connect("owner") as connection:
        for number in range(2):
            connection.execute("begin")
            connection.execute(sql.SQL("set local agent_guard.token = {}").format(sql.Literal(prove(token, offered(connection)))))
            assert connection.execute(PROBE).fetchone() == (3,)
            connection.execute("commit")
            expect(UNAUTHENTICATED, connection.execute, PROBE)
        connection.execute("select set_config('agent_guard.token', %s, false)", (prove(token, offered(connection)),))
        assert connection.execute(PROBE, prepare=True).fetchone() == (3,)


def test_a_proof_is_good_once(server):
    _, token = window(server)
    with server.connect("owner") as connection:
        proof = prove(token, offered(connection))
        bind(connection, proof)
        expect(UNAUTHENTICATED, bind, connection, proof, match="reason=token_refused")
        # The refused answer has closed the next challenge too; a third one is reported.
        bind(connection, prove(token, offered(connection)))
        connection.execute(PROBE)


def test_a_proof_is_good_in_one_session(server):
    _, token = window(server)
    with server.connect("owner") as mine, server.connect("owner") as yours:
        expect(UNAUTHENTICATED, bind, yours, prove(token, offered(mine)), match="reason=token_refused")
        expect(UNAUTHENTICATED, yours.execute, PROBE)
        bind(mine, prove(token, offered(mine)))


def test_a_wrong_proof_closes_the_challenge(server):
    _, token = window(server)
    _, other = window(server)
    with server.connect("owner") as connection:
        challenge = offered(connection)
        wrong = prove(token, challenge)[:-43] + prove(other, challenge)[-43:]
        expect(UNAUTHENTICATED, bind, connection, wrong, match="reason=token_refused")
        expect(UNAUTHENTICATED, bind, connection, prove(token, challenge), match="reason=token_refused")
        assert offered(connection) != challenge


def test_rollback_neither_reopens_a_challenge_nor_keeps_the_session(server):
    _, token = window(server)
    with server.connect("owner") as connection:
        proof = prove(token, offered(connection))
        connection.execute("begin")
        bind(connection, proof)
        connection.execute(PROBE)
        connection.execute("rollback")
        expect(UNAUTHENTICATED, connection.execute, PROBE)
        expect(UNAUTHENTICATED, bind, connection, proof)
        bind(connection, prove(token, offered(connection)))
        connection.execute(PROBE)


def test_what_activity_shows_is_worthless(server):
    _, token = window(server)
    with proven(server, token) as connection:
        proof_or_mask = server.value("select query from pg_stat_activity where pid = %s", connection.info.backend_pid)
        assert token not in proof_or_mask
    assert token[-43:] not in server.log()


def test_where_proofs_are_asked_for_the_token_itself_is_refused(server):
    _, demanding = window(server, require_proof=True, max_depth=1)
    _, lenient = window(server, max_depth=2)
    popped = child(child(lenient, pop=True), sub="grandchild")
    for token in (demanding, child(demanding), popped):
        with server.connect("owner") as connection:
            expect(UNAUTHENTICATED, bind, connection, token, match="reason=bearer_not_allowed")
            expect(UNAUTHENTICATED, connection.execute, PROBE)
        with proven(server, token) as connection:
            connection.execute(PROBE)
    with server.connect("owner", options=f"-c agent_guard.token={demanding}") as connection:
        expect(UNAUTHENTICATED, connection.execute, PROBE, match="reason=bearer_not_allowed")


def test_the_server_can_ask_every_session_for_proofs(server):
    _, token = window(server)
    server.run("alter system set agent_guard.handshake = proof")
    try:
        server.run("select pg_reload_conf()")
        eventually(lambda: server.value("show agent_guard.handshake") == "proof", "the server has reloaded")
        with server.connect("owner") as connection:
            expect(UNAUTHENTICATED, bind, connection, token, match="reason=bearer_not_allowed")
        with proven(server, token) as connection:
            connection.execute(PROBE)
    finally:
        server.run("alter system reset agent_guard.handshake")
        server.run("select pg_reload_conf()")
        eventually(lambda: server.value("show agent_guard.handshake") == "any", "the server has reloaded")


def test_a_proof_in_the_startup_packet_answers_nothing(server):
    _, token = window(server)
    with server.connect("owner") as before:
        proof = prove(token, offered(before))
        with server.connect("owner", options=f"-c agent_guard.token={proof}") as connection:
            expect(UNAUTHENTICATED, connection.execute, PROBE, match="reason=proof_stale")


def test_nobody_sets_the_challenge(server):
    _, token = window(server)
    fixed = "agc1." + "A" * 32
    with proven(server, token) as connection:
        for statement in (f"set {NAME} = '{fixed}'", f"set local {NAME} = '{fixed}'", f"select set_config('{NAME}', '{fixed}', false)"):
            expect_refused(connection, statement)
        expect(UNAUTHENTICATED, bind, connection, prove(token, fixed))
    try:
        with server.connect("owner", options=f"-c {NAME}={fixed}") as connection:
            raise AssertionError(f"connected with {offered(connection)}")
    except psycopg.OperationalError as error:
        assert "cannot be changed" in str(error), error


def expect_refused(connection, statement):
    try:
        connection.execute(statement)
    except psycopg.Error as error:
        assert error.sqlstate in (DENIED, "55P02"), error
        return
    raise AssertionError(f"it ran: {statement}")


def test_challenges_are_distinct_and_only_for_guarded_sessions(server):
    seen = set()
    for _ in range(200):
        with server.connect("owner") as connection:
            seen.add(offered(connection))
    assert len(seen) == 200 and all(seen)
    with server.connect("outsider") as connection:
        assert offered(connection) is None, "an unguarded client sees a parameter that it did not see before"
        assert connection.execute(f"show {NAME}").fetchone() == ("",)


# --- delegation ---


def delegate(connection, **given):
    named = sql.SQL(", ").join(sql.SQL("{} => {}").format(sql.Identifier(key), sql.Literal(value)) for key, value in given.items())
    return connection.execute(sql.SQL("select agent_guard.delegate({})").format(named)).fetchone()[0]


def test_a_delegated_child_has_what_it_was_given(server):
    agent = Agent(server, READ, ("allow", "insert", "app.open"), max_depth=2)
    token = delegate(agent.connection, agent="importer", ttl="5 minutes", actions=["select"], objects=["app.open"])
    assert token.split(".")[1:-2] == agent.token.split(".")[1:-1], "it extends its parent's chain"
    with server.connect("owner") as connection:
        bind(connection, token)
        assert connection.execute("select agent, lineage from agent_guard.whoami()").fetchone() == ("importer", ["owner", "importer"])
        connection.execute(PROBE)
        expect(DENIED, connection.execute, "select * from app.child", match="block=1")
        expect(DENIED, connection.execute, "insert into app.open values (9)", match="block=1")
        below = delegate(connection, agent="csv", ttl="1 minute")
    with server.connect("owner") as connection:
        bind(connection, below)
        assert connection.execute("select remaining_depth, lineage from agent_guard.whoami()").fetchone() == (0, ["owner", "importer", "csv"])
        expect("55000", delegate, connection, agent="deeper", ttl="1 minute", match="reason=too_deep")


def test_delegation_never_widens(server):
    agent = Agent(server, READ, max_depth=3)
    narrow = delegate(agent.connection, agent="a", ttl="1 minute", actions=["select"], max_depth=1)
    with server.connect("owner") as connection:
        bind(connection, narrow)
        expect("55000", delegate, connection, agent="b", ttl="1 minute", actions=["insert"], match="reason=wider_than_parent")
        expect("55000", delegate, connection, agent="b", ttl="1 minute", max_depth=5, match="reason=wider_than_parent")
        notices = []
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        long = delegate(connection, agent="b", ttl="10 days")
        assert claims_of(long)["exp"] == claims_of(narrow)["exp"] and notices, notices


def test_bad_delegations_are_refused_with_a_hint(server):
    agent = Agent(server, READ, max_depth=1)
    for given in ({"agent": "no name"}, {"ttl": "-1 hour"}, {"ttl": "0"}, {"actions": ["fly"]}, {"objects": ["no pattern!"]}, {"max_depth": 9}):
        error = expect("22023", delegate, agent.connection, **{"agent": "a", "ttl": "1 minute", **given})
        assert error.diag.message_hint, given
    agent.connection.execute("reset agent_guard.token")
    expect(UNAUTHENTICATED, delegate, agent.connection, agent="a", ttl="1 minute")


if __name__ == "__main__":
    guard.run(globals())
