"""The second line, with the first one taken out on purpose: a library of its own with the feature fault_injection.

The planner hook leaves masks out; executor start then stops every statement that would read raw, and the trail holds it as
an internal fault. Run by `run-tests fault`, which builds that library.
"""

import guard
import mask_scene
from attack_mask import READS
from attack_mask_change import RETURNING
from mask_scene import WRITE, Spy

setup = mask_scene.setup


def skip(server, on: bool) -> None:
    server.run(f"alter system set agent_guard.fault_skip_substitution = {'on' if on else 'off'}")
    server.run("select pg_reload_conf()")
    guard.eventually(lambda: server.value("show agent_guard.fault_skip_substitution") == ("on" if on else "off"), "the fault is set")


def test_nothing_is_read_raw_without_the_first_line(server):
    skip(server, True)
    with Spy(server, *WRITE) as spy:
        faults = 0
        for name, (statement, rows) in READS.items():
            for form in ("simple", "extended", "binary"):
                if statement.startswith("copy") and form != "simple":
                    continue
                reply = spy.send(statement, form=form)
                if reply.errors:
                    assert reply.errors[0]["C"] == "XX000" and "internal fault" in reply.errors[0]["M"], (name, reply.errors)
                    faults += 1
                else:
                    # Nothing was executed, or the planner found that there is nothing to read.
                    assert statement.startswith("explain") or not reply.rows, (name, reply.rows[:2])
        assert faults > 150, faults
        for statement in RETURNING:
            reply = spy.send(f"begin; {statement}")
            assert reply.errors and reply.errors[0]["C"] == "XX000", (statement, reply)
            spy.send("rollback")
        events = server.audit("window_id = %s and sqlstate = 'XX000'", spy.window_id, columns="decision, message")
        assert len(events) >= faults, (len(events), faults)
        assert all("internal fault" in message for _, message in events)
        # Where a function reads, its own statement is the one that was refused; the one that called it has failed with it.
        assert sum(decision == "deny" for decision, _ in events) >= faults, (len(events), faults)
    with Spy(server) as spy:
        # A relation that no mask concerns is read as ever.
        server.run("create table if not exists shop.plain (id int); grant select on shop.plain to clerk")
        spy.read("select * from shop.plain")
        spy.read("select * from shop.buys", 90)
        mask_scene.filter_rows(server, spy.policy, "shop.buys", "id < 5")
        spy.refused("select * from shop.buys", "mask_fault", sqlstate="XX000")
    skip(server, False)
    with Spy(server) as spy:
        spy.read("select * from shop.customer", 30)


def test_a_statement_that_comes_again_is_looked_at_again(server):
    """However often it was found to read nothing raw: text and columns are the same, the plan is another one."""
    statement = "select place from shop.shop where id = 3"
    # Its mask reads what it masks and calls nothing, so that there is nothing to withhold.
    server.run("create table shop.shop (id int, place text); insert into shop.shop values (3, 'canary'); grant select on shop.shop to clerk")
    mask_scene.mask(server, "shop.shop", "place", "case when place is null then null else 'somewhere' end")
    for form in ("simple", "extended"):
        with Spy(server) as spy:
            for _ in range(6):
                assert spy.send(statement, form=form).text() == [("somewhere",)]
            skip(server, True)
            try:
                reply = spy.send(statement, form=form)
            finally:
                skip(server, False)
            assert reply.sqlstate == "XX000" and not reply.rows, reply
            assert spy.send(statement, form=form).text() == [("somewhere",)]
    server.run("select agent_guard.unmask_column('shop.shop', 'place'); drop table shop.shop")


if __name__ == "__main__":
    guard.run(globals())
