"""Observe mode blocks nothing that a rule denies. Masks and row filters are no denials: they hold, and so do their own refusals."""

import guard
import mask_scene
import scene
from mask_scene import Spy


def setup(server):
    mask_scene.setup(server)
    server.run("create table shop.plain (id int, note text); insert into shop.plain values (1, 'x'); grant all on shop.plain to clerk")


def observing(server, *rules):
    name = scene.policy(server, list(rules), f"observe_{server.value('select count(*) from agent_guard.policy')}")
    server.run(f"update agent_guard.policy set mode = 'observe' where name = '{name}'")
    return name


def test_a_policy_that_observes_masks_and_filters(server):
    policy = observing(server)
    mask_scene.filter_rows(server, policy, "shop.customer", "region = 'east'")
    mask_scene.filter_rows(server, policy, "shop.plain", "id < 5")
    with Spy(server, policy=policy) as spy:
        # Nothing allows it: it runs, it is recorded, and it reads as any agent reads.
        spy.read("select * from shop.customer", 15)
        spy.read("select * from shop.customers", 15)
        spy.read("select email from shop.customer where email like 'canary%'", 0)
        decisions = server.audit("window_id = %s and command = 'SELECT'", spy.window_id, columns="distinct decision, seq")
        assert {one[0] for one in decisions} == {"observe"}, decisions
        assert not spy.send("update shop.plain set note = 'y' where id = 1").errors
        spy.run("begin", "update shop.customer set note = 'y' where id = 2 returning email, salary", "rollback")
        # What would reveal or break a mask or a filter is refused, and recorded as refused.
        spy.refused("update shop.customer set note = 'y' where email like 'canary%'", "masked_column")
        spy.fails("insert into shop.plain values (7, 'outside')", guard.DENIED)
        spy.refused("select * from pg_stats where tablename = 'customer'", "masked_statistics")
        spy.refused("select * from shop.contact", "copy_of_masked")
        refused = server.audit("window_id = %s and statement ~ 'canary%%'  and command = 'UPDATE'", spy.window_id, columns="decision, sqlstate")
        assert all(decision == "deny" for decision, _ in refused), refused
    mask_scene.expose(server, policy, "shop.event.email")
    with Spy(server, policy=policy) as spy:
        spy.wire.take()
        reply = spy.wire.query("select email from shop.event")
        assert b"canary" in spy.wire.take() and not reply.errors


def test_a_server_that_observes_masks_for_sessions_without_a_token(server):
    with server.connect() as connection:
        connection.execute("alter system set agent_guard.enforcement = 'observe'")
        connection.execute("select pg_reload_conf()")
    guard.eventually(lambda: server.value("show agent_guard.enforcement") == "observe", "the server observes")
    try:
        tap = mask_scene.Tap(server.host, server.port, "clerk", "postgres")
        for statement in ("select * from shop.customer", "select * from shop.easterners", "select shop.f_loop()", "copy shop.customer to stdout",
                          "update shop.plain set note = 'z'", "delete from shop.customer where email like 'canary%'", "select * from shop.stored"):
            reply = tap.query(statement)
            if reply.status == "" and not reply.closed:
                tap.until("Z")
            found = mask_scene.leaks(tap.take())
            assert not found, (found, statement)
        # It runs without a token, and reads masks.
        reply = tap.query("select id, email from shop.customer where id = 3")
        assert reply.rows == [[b"3", b"m-3"]] or [list(row) for row in reply.rows] == [[b"3", b"m-3"]], reply.rows
        assert tap.query("delete from shop.customer where email like 'canary%'").errors
        tap.close()
    finally:
        with server.connect() as connection:
            connection.execute("alter system reset agent_guard.enforcement")
            connection.execute("select pg_reload_conf()")


if __name__ == "__main__":
    guard.run(globals())
