"""The token against its attack list (docs/threat-model.md has the table): what other suites do not try already."""

import os
import pathlib
import subprocess
import time

import psycopg

import guard
import scene
from guard import CLOSED, DENIED, UNAUTHENTICATED, bind, eventually, expect, in_time
from scene import Agent
from tokens import block_id, child, claims_of, prove, unb64
from wire import Wire

PROBE = "select count(*) from app.open"
READ = ("allow", "select", "app.*")
SLEEP = ("allow", "execute", ["function app.*", "function pg_catalog.pg_sleep(double precision)"])


def setup(server):
    scene.setup(server)


def revoked_everywhere(server, token, match="reason=revoked"):
    with server.connect("owner") as connection:
        expect(UNAUTHENTICATED, bind, connection, token, match=match)
        expect(UNAUTHENTICATED, connection.execute, PROBE)


def test_challenges_are_distinct_over_many_connects(server):
    """13: each backend makes its own; none comes from the postmaster that it was forked from."""
    seen = set()
    for _ in range(500):
        wire = Wire(server.host, server.port, "owner", "postgres")
        challenge = wire.parameters["agent_guard.challenge"]
        assert challenge.startswith("agc1.") and challenge not in seen
        seen.add(challenge)
        wire.close()
    with server.connect("owner") as connection:
        bound = Agent(server, READ)
        for _ in range(200):
            bind(connection, prove(bound.token, connection.info.parameter_status("agent_guard.challenge")))
            seen.add(connection.info.parameter_status("agent_guard.challenge"))
    assert len(seen) == 700


def test_expiry_is_seen_everywhere(server):
    """23: mid-session, in an open transaction, by FETCH on a plain and a held cursor, by a cached plan."""
    agent = Agent(server, READ, max_depth=1)
    ways = {
        "session": ([], PROBE),
        "cached plan": (["prepare p as select * from app.open", *["execute p"] * 6], "execute p"),
        "transaction": (["begin", PROBE], PROBE),
        "cursor": (["begin", "declare c cursor for select * from app.open", "fetch c"], "fetch c"),
        "held cursor": (["declare c cursor with hold for select * from app.open", "fetch c"], "fetch c"),
        "commit": (["begin", "create temp table t (n int)"], "commit"),
    }
    with_temp = ("allow", "temporary", "*")
    wider = Agent(server, READ, with_temp, max_depth=1)

    def bound(seconds):
        connections, ends = {}, []
        for name, (statements, _) in ways.items():
            token = child((wider if name == "commit" else agent).token, seconds=seconds)
            ends.append(claims_of(token)["exp"])
            connections[name] = server.connect("owner")
            bind(connections[name], token)
            for statement in statements:
                connections[name].execute(statement)
        return connections, max(ends)

    connections, end = in_time(bound, 3)
    pids = [connection.info.backend_pid for connection in connections.values()]
    state = "select count(*) from agent_guard.sessions where state = 'expired' and live and pid = any(%s)"
    eventually(lambda: time.time() > end and server.value(state, pids) >= 3, "they have expired", 60)
    for name, (_, statement) in ways.items():
        try:
            connections[name].execute(statement)
        except psycopg.Error as error:
            assert (error.sqlstate or "57P01") in (UNAUTHENTICATED, CLOSED, "57P01"), (name, error)
            assert "reason=expired" in (error.diag.message_detail or "reason=expired"), (name, error.diag.message_detail)
        else:
            raise AssertionError(f"it ran after the end: {name}")


SHIM = r"""
#include <dlfcn.h>
#include <stdio.h>
#include <sys/time.h>
/* The clock moved by as many seconds as a file says. */
int gettimeofday(struct timeval *tv, void *tz) {
    static int (*real)(struct timeval *, void *);
    if (!real) real = (int (*)(struct timeval *, void *))dlsym(RTLD_NEXT, "gettimeofday");
    int outcome = real(tv, tz);
    long by = 0;
    FILE *file = fopen("CLOCK", "re");
    if (file) { if (fscanf(file, "%ld", &by) != 1) by = 0; fclose(file); }
    tv->tv_sec += by;
    return outcome;
}
"""


def test_a_clock_that_is_set_back_revives_nothing(server):
    """24: no guarded session sees the clock go back by more than five seconds."""
    home = guard.HOMES / "attack_token_clock_shim"
    home.mkdir(parents=True, exist_ok=True)
    clock, library = home / "clock", home / "shim.so"
    clock.write_text("0")
    (home / "shim.c").write_text(SHIM.replace("CLOCK", str(clock)))
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(home / "shim.c"), "-ldl"], check=True)
    for path in (home, clock, library):
        os.chmod(path, 0o755)
    other = guard.Server("attack_token_clock", ["autovacuum = off"], LD_PRELOAD=str(library)).start()
    try:
        other.run("create extension agent_guard")
        scene.setup(other)
        agent = Agent(other, READ, max_depth=1)
        with other.connect("owner") as connection:

            def bound(seconds):
                short = child(agent.token, seconds=seconds)
                bind(connection, short)
                connection.execute(PROBE)
                return short

            short = in_time(bound)
            gone = "select clock_timestamp() > to_timestamp(%s)"
            eventually(lambda: other.value(gone, claims_of(short)["exp"] + 1), "the token's end", 60)
            expect(UNAUTHENTICATED, connection.execute, PROBE, match="reason=expired")
            clock.write_text("-86400")
            assert other.value("select clock_timestamp() < now() + interval '1 day' and clock_timestamp() < to_timestamp(%s)", claims_of(short)["exp"] - 80000)
            expect(UNAUTHENTICATED, connection.execute, PROBE, match="reason=expired")
            expect(UNAUTHENTICATED, bind, connection, short, match="reason=expired")
        with other.connect("owner") as fresh:
            expect(UNAUTHENTICATED, bind, fresh, short, match="reason=expired")
            # What has not expired goes on.
            bind(fresh, agent.token)
            assert fresh.execute(PROBE).fetchone() == (3,)
        # A clock set forward ends what it passes.
        clock.write_text("86400")
        revoked_everywhere(other, agent.token, match="reason=expired")
    finally:
        other.stop()


def test_revocations_outlive_a_restart(server):
    """26 and 44: the tables keep what shared memory forgets; without the key, or with another one, no token is good."""
    other = guard.Server("attack_token_restart").start()
    try:
        other.run("create extension agent_guard")
        scene.setup(other)
        agent, spared = Agent(other, READ, max_depth=2), Agent(other, READ, max_depth=2)
        doomed = child(spared.token, sub="doomed")
        other.run(f"select agent_guard.revoke_window('{agent.window_id}')")
        other.run(f"select agent_guard.revoke_block('{block_id(doomed)}')")
        agent.connection.close()
        spared.connection.close()
        other.restart()
        for token in (agent.token, child(agent.token), doomed, child(doomed)):
            revoked_everywhere(other, token)
        with other.connect("owner") as connection:
            bind(connection, child(spared.token, sub="beside"))
            connection.execute(PROBE)
        key = pathlib.Path(other.value("select setting || '/agent_guard.key' from pg_settings where name = 'data_directory'"))
        kept = key.read_bytes()
        # Open to others: refused, as ssh does.
        os.chmod(key, 0o644)
        other.restart()
        revoked_everywhere(other, spared.token, match="reason=not_ready")
        os.chmod(key, 0o600)
        other.stop()
        key.unlink()
        other.restart()
        with other.connect("owner") as connection:
            expect(UNAUTHENTICATED, bind, connection, spared.token, match="reason=")
            expect(UNAUTHENTICATED, connection.execute, PROBE)
        # A new key under the old number signs another chain.
        Agent(other, READ).connection.close()
        revoked_everywhere(other, spared.token, match="reason=token_refused")
        assert key.read_bytes() != kept
    finally:
        other.stop()


def test_nobody_plants_anothers_block_id(server):
    """27: an id covers the whole chain up to its block, so the same block under another parent is another."""
    agent = Agent(server, READ, max_depth=3)
    same = {"sub": "twin", "jti": "A" * 22}
    one, two = child(child(agent.token, sub="a"), **same), child(child(agent.token, sub="b"), **same)
    assert one.split(".")[-2] == two.split(".")[-2] and block_id(one) != block_id(two)
    server.run(f"select agent_guard.revoke_block('{block_id(one)}')")
    revoked_everywhere(server, one)
    with server.connect("owner") as connection:
        bind(connection, two)
        connection.execute(PROBE)


def test_a_principal_that_the_server_cannot_know_is_refused(server):
    """33: SYSTEM_USER exists from 16 on, and never for a session that was trusted; a token that names one is no good there."""
    agent = Agent(server, READ, max_depth=1)
    for principal in ("trust:owner", "owner", "scram-sha-256:owner"):
        error = expect(UNAUTHENTICATED, bind, server.connect("owner"), child(agent.token, auth=principal), match="reason=wrong_principal")
        assert 'block 1, field "auth"' in error.diag.message_detail and principal not in str(error)


def test_a_token_in_the_configuration_stops_at_the_door(server):
    """36: neither the file nor the command line takes one."""
    agent = Agent(server, READ)
    other = guard.Server("attack_token_file", [f"agent_guard.token = '{agent.token}'"])
    try:
        other.start()
    except RuntimeError as error:
        assert agent.token.rsplit(".", 1)[1] not in str(error)
    else:
        shown = other.value("show agent_guard.token")
        other.run("create extension agent_guard")
        scene.setup(other)
        with other.connect("owner") as connection:
            expect(UNAUTHENTICATED, connection.execute, PROBE)
        assert shown == "", shown
        other.stop()
    other.remove()


def test_what_was_overheard_opens_nothing(server):
    """37: the proof as activity and the log show it, in the same session and in another."""
    agent = Agent(server, READ)
    with server.connect("owner") as connection, server.connect("owner") as thief:
        proof = prove(agent.token, connection.info.parameter_status("agent_guard.challenge"))
        bind(connection, proof)
        for victim in (connection, thief):
            expect(UNAUTHENTICATED, bind, victim, proof, match="reason=token_refused")
        # A proof has no secret to derive from or to present as a token.
        *head, answer = proof.split(".")
        forms = [".".join(["agt1", *head[1:], answer]), child(".".join(["agt1", *head[1:], answer]))]
        for form in forms:
            with server.connect("owner") as other:
                expect(UNAUTHENTICATED, bind, other, form, match="reason=token_refused")
        assert unb64(answer) not in server.log().encode()


def test_a_backend_from_inside_has_no_token(server):
    """40: whatever opens another connection as the agent's role stands before the same door."""
    server.run("create extension if not exists dblink; create extension if not exists postgres_fdw")
    inside = f"host={server.host} port={server.port} user=owner dbname=postgres"
    try:
        with server.connect() as admin:
            expect(UNAUTHENTICATED, admin.execute, f"select * from dblink('{inside}', 'select count(*) from app.open') t(n bigint)")
            admin.execute(f"create server self foreign data wrapper postgres_fdw options (host '{server.host}', port '{server.port}', dbname 'postgres')")
            admin.execute("create user mapping for current_user server self options (user 'owner', password_required 'false')")
            admin.execute("create foreign table public.far (id int, v text) server self options (schema_name 'app', table_name 'open')")
            try:
                admin.execute("select * from public.far")
                raise AssertionError("the new backend read without a token")
            except psycopg.Error as error:
                assert "reason=no_token" in str(error) or "token" in str(error), error
        with Agent(server, ("allow", "*", "*")) as agent:
            for statement in (f"select dblink_connect('{inside}')", "select * from public.far"):
                error = agent.attempt(statement)
                assert error is not None, f"it ran: {statement}"
    finally:
        server.run("drop extension dblink cascade; drop extension postgres_fdw cascade")


def test_two_phase_commit_is_not_for_agents(server):
    """41: a prepared transaction outlives the token: it needs `system`, and no transaction is prepared that may not commit."""
    write = ["begin", "update app.open set v = v"]
    with Agent(server, READ, ("allow", "update", "app.open")) as agent:
        agent.run(*write)
        expect(DENIED, agent.run, "prepare transaction 'kept'")
        agent.run("rollback")
    with Agent(server, READ, ("allow", ["update", "system"], "*")) as agent, Agent(server, READ, ("allow", ["update", "system"], "*")) as second:
        agent.run(*write, f"set agent_guard.token = '{second.token}'")
        server.run(f"select agent_guard.revoke_window('{agent.window_id}')")
        error = agent.attempt("prepare transaction 'kept'")
        assert error is not None and (error.sqlstate or "57P01") in (CLOSED, UNAUTHENTICATED, "57P01"), error
    assert server.value("select count(*) from pg_prepared_xacts") == 0


def test_timing_tells_no_window(server):
    """43: a refused token of an unknown window takes as long as one with a wrong tag, over the wire, in turns."""
    agent = Agent(server, READ)
    head, block, tag = agent.token.split(".")[1:]
    wrong = {
        "first": f"agt1.{head}.{block}." + ("B" if tag[0] == "A" else "A") + tag[1:],
        "middle": f"agt1.{head}.{block}." + tag[:20] + ("B" if tag[20] == "A" else "A") + tag[21:],
        "window": f"agt1.{head[:10]}" + ("B" if head[10] == "A" else "A") + f"{head[11:]}.{block}.{tag}",
    }

    times = {name: [] for name in wrong}

    def measured():
        """What has been measured so far, by the lower decile: other work on the machine makes single ones longer, and none shorter."""
        for turn in range(90):
            wire = Wire(server.host, server.port, "owner", "postgres")
            # A fresh backend fills its caches; then each takes each place in turn. The fifth refusal would end the session.
            wire.query(f"set agent_guard.token = '{wrong['first']}'")
            names = list(wrong)
            for place in range(3):
                name = names[(place + turn) % 3]
                text = wrong[name]
                began = time.perf_counter()
                reply = wire.query(f"set agent_guard.token = '{text}'")
                times[name].append(time.perf_counter() - began)
                assert reply.sqlstate == UNAUTHENTICATED and "token_refused" in reply.errors[0]["D"], reply.errors
            wire.close()
        return {name: sorted(values)[len(values) // 10] for name, values in times.items()}

    for _ in range(10):
        deciles = measured()
        spread = max(deciles.values()) / min(deciles.values())
        if spread < 1.25:
            print("  # refused in " + ", ".join(f"{name} {1e6 * value:.0f} us" for name, value in deciles.items()))
            return
    raise AssertionError(deciles)


def test_parallel_workers_have_the_narrow_scope(server):
    """A worker reads no more than its leader's child token allows, in bodies of functions too."""
    server.run(
        """create table app.wide as select n as id, n as v from generate_series(1, 30000) n; alter table app.wide owner to owner;
           create table app.hidden as select n as id from generate_series(1, 10) n; alter table app.hidden owner to owner;
           create or replace function app.peep() returns bigint language plpgsql parallel safe as 'begin return (select count(*) from app.hidden); end';
           alter function app.peep() owner to owner"""
    )
    agent = Agent(server, READ, SLEEP, max_depth=1)
    settings = ["set max_parallel_workers_per_gather = 2", "set parallel_setup_cost = 0", "set parallel_tuple_cost = 0", "set min_parallel_table_scan_size = 0"]
    agent.run(*settings)
    through = "select count(*) from app.wide where v > app.peep()"
    assert "Gather" in str(agent.run(f"explain {through}"))
    assert agent.run(through)[0][0] > 0, "the nearest allowed thing: the wide token"
    bind(agent.connection, child(agent.token, rel=["app.wide"]))
    assert agent.run("select count(*) from app.wide") == [(30000,)]
    plan = agent.run("explain (analyze, costs off, timing off) select count(*) from app.wide")
    assert "Workers Launched: 2" in str(plan), plan
    agent.refused(through)
    agent.refused("select count(*) from app.hidden")
    workers = server.audit("application_name is not null and lineage = '{owner,child}' and decision = 'allow' and accesses::text like '%%hidden%%'", columns="statement")
    assert workers == [], workers


def test_savepoints_never_widen(server):
    """Around SET, in any nesting: after a ROLLBACK TO the session has the narrower scope, or none."""
    agent = Agent(server, READ, ("allow", "insert", "app.open"), max_depth=1)
    narrow = child(agent.token, act=["select"])
    write = "insert into app.open select 99, 'x' where false"
    sequences = [
        ["savepoint a", f"set agent_guard.token = '{narrow}'", "savepoint b", "rollback to b"],
        ["savepoint a", f"set local agent_guard.token = '{narrow}'", "release a"],
        ["savepoint a", f"set local agent_guard.token = '{narrow}'", "rollback to a"],
        ["savepoint a", "savepoint b", f"set agent_guard.token = '{narrow}'", "release b", "rollback to a"],
        ["savepoint a", "reset agent_guard.token", "rollback to a"],
        [f"set agent_guard.token = '{narrow}'", "savepoint a", "reset agent_guard.token", "rollback to a"],
    ]
    for sequence in sequences:
        bind(agent.connection, agent.token)
        agent.run(write, "begin", *sequence)
        error = agent.attempt(write)
        assert error is not None and error.sqlstate in (UNAUTHENTICATED, DENIED), (sequence, error)
        if not agent.connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
            agent.connection.execute("rollback")


def test_with_proofs_asked_for_options_take_one_time_tokens_at_most(server):
    """8 B: with `handshake = proof` an ordinary token in the connection's options is refused."""
    agent = Agent(server, READ, max_depth=1)
    server.run("alter system set agent_guard.handshake = proof")
    server.run("select pg_reload_conf()")
    try:
        eventually(lambda: server.value("show agent_guard.handshake") == "proof", "the server has reloaded")
        for token in (agent.token, child(agent.token, seconds=60), child(agent.token, seconds=600, uses=1), child(agent.token, seconds=60, uses=2)):
            with server.connect("owner", options=f"-c agent_guard.token={token}") as connection:
                expect(UNAUTHENTICATED, connection.execute, PROBE, match="reason=bearer_not_allowed")
        once = child(agent.token, seconds=60, uses=1)
        with server.connect("owner") as connection:
            expect(UNAUTHENTICATED, bind, connection, once, match="reason=bearer_not_allowed")
        with server.connect("owner", options=f"-c agent_guard.token={once}") as connection:
            try:
                connection.execute(PROBE)
            except psycopg.Error as error:
                # Where nobody counts uses yet.
                assert "reason=not_ready" in str(error), error
    finally:
        server.run("alter system reset agent_guard.handshake")
        server.run("select pg_reload_conf()")
        eventually(lambda: server.value("show agent_guard.handshake") == "any", "the server has reloaded")


if __name__ == "__main__":
    guard.run(globals(), conf=["autovacuum = off", "max_prepared_transactions = 2"])
