"""A statement over masked relations that was decided before counts again only while masks, filters and copies are as they were.

Each statement comes often enough that its decision is a remembered one, then one circumstance changes.
"""

import guard
import mask_scene
import scene
from guard import DENIED, bind, expect
from mask_scene import READ, WRITE

setup = mask_scene.setup


class Session:
    """A guarded session with a policy of its own, and one statement that has come often."""

    def __init__(self, server, text, *values, rules=READ):
        self.policy = scene.policy(server, rules, f"again_{server.value('select count(*) from agent_guard.policy')}")
        self.connection = server.connect("clerk")
        bind(self.connection, server.agent("clerk", self.policy))
        self.text, self.values = text, values
        for _ in range(8):
            self.again()

    def again(self, *values):
        return self.connection.execute(self.text, values or self.values or None, prepare=True).fetchall()


EMAIL = "select email from shop.customer where id = 3"


def test_an_exposure_and_its_end_are_seen(server):
    session = Session(server, EMAIL)
    assert session.again() == [("m-3",)]
    mask_scene.expose(server, session.policy, "shop.customer.email")
    assert session.again() == [("canary-3@x.org",)]
    for _ in range(8):
        session.again()
    server.run(f"select agent_guard.hide_columns('{session.policy}', array['shop.customer(email)'])")
    assert session.again() == [("m-3",)]


def test_a_mask_and_a_filter_that_come_meanwhile_hold(server):
    session = Session(server, "select region, note from shop.customer where id = 3")
    assert session.again() == [("west", "")]
    mask_scene.mask(server, "shop.customer", "region", "'somewhere'::text")
    assert session.again() == [("somewhere", "")]
    for _ in range(8):
        session.again()
    mask_scene.filter_rows(server, session.policy, "shop.customer", "id <> 3")
    assert session.again() == []
    server.run(f"select agent_guard.unfilter_rows('{session.policy}', 'shop.customer'); select agent_guard.unmask_column('shop.customer', 'region')")
    assert session.again() == [("west", "")]


def test_a_column_that_becomes_a_copy_cannot_be_read_any_more(server):
    # Nothing of the masks changes: a foreign key makes the column hold values of a masked one.
    server.run("create table shop.later (id int, mail text); insert into shop.later values (1, 'canary-1@x.org'); grant select on shop.later to clerk")
    session = Session(server, "select mail from shop.later")
    server.run("alter table shop.later add foreign key (mail) references shop.customer (email)")
    expect(DENIED, session.again, match="copy_of_masked")
    server.run("alter table shop.later drop constraint later_mail_fkey")
    session.again()


def test_a_deny_that_comes_meanwhile_holds(server):
    session = Session(server, EMAIL)
    server.run(f"select agent_guard.deny('{session.policy}', array['select'], array['shop.customer(email)'])")
    expect(DENIED, session.again, match="email")


def test_another_token_reads_by_its_own_policy(server):
    session = Session(server, EMAIL)
    other = scene.policy(server, READ)
    mask_scene.expose(server, other, "shop.customer.email")
    first = server.agent("clerk", session.policy)
    bind(session.connection, server.agent("clerk", other))
    assert session.again() == [("canary-3@x.org",)]
    bind(session.connection, first)
    assert session.again() == [("m-3",)]


def test_what_the_agents_own_transaction_changes_is_seen_in_it(server):
    server.run("""create role maker login; create schema made authorization maker; create table made.t (id int, email text); alter table made.t owner to maker;
        insert into made.t values (1, 'canary'); select agent_guard.guard_role('maker'); select agent_guard.mask_column('made.t', 'email', 'redact');
        select agent_guard.create_policy('maker'); select agent_guard.allow('maker', array['*'], array['*'])""")
    with server.connect("maker", autocommit=False) as connection:
        bind(connection, server.agent("maker", "maker"))
        connection.commit()
        bind(connection, server.agent("maker", "maker"))
        read = lambda: connection.execute("select * from made.t", prepare=True).fetchall()
        for _ in range(8):
            assert read() == [(1, "***")]
        connection.execute("alter table made.t rename column email to mail")
        connection.execute("alter table made.t add column more text default 'x'")
        for _ in range(8):
            assert connection.execute("select * from made.t where id > 0", prepare=True).fetchall() == [(1, "***", "x")]
        connection.rollback()


def test_texts_are_withheld_as_often_as_it_comes(server):
    mask_scene.mask(server, "shop.person", "email", "((case when id = 9 then email else '1' end)::int)::text")
    try:
        session = Session(server, "select email from shop.person where id = %s", 1)
        server.run("insert into shop.person values (9, 'canary-9')")
        for _ in range(3):
            error = expect("22P02", session.again, 9)
            assert "canary" not in f"{error} {error.diag.message_primary} {error.diag.message_detail} {error.diag.context}", error
            assert session.again(1) == [("1",)]
    finally:
        server.run("delete from only shop.person where id = 9")
        mask_scene.mask(server, "shop.person", "email", "'***'::text")


def test_changes_of_masked_rows_tell_nothing_as_often_as_they_come(server):
    session = Session(server, "update shop.customer set note = %s where id = 2 returning email", "a", rules=WRITE)
    assert session.again("b") == [("m-2",)]
    server.run("alter table shop.customer add constraint no_c check (note <> 'c')")
    for _ in range(3):
        error = expect("23514", session.again, "c")
        assert "canary" not in f"{error} {error.diag.message_detail}", error
    server.run("alter table shop.customer drop constraint no_c")


def test_the_trail_tells_the_same_each_time(server):
    session = Session(server, "select email, region from shop.customer where id = %s /* again */", 5)
    found = server.audit("statement like '%%again%%' and event = 'statement'", columns="accesses, decision, rule_id is not null, rows")
    assert len(found) == 8 and all(one == found[0] for one in found) and found[0][1:] == ("allow", True, 1), found
    assert found[0][0][0]["columns"] == "id,email,region", found[0]


if __name__ == "__main__":
    guard.run(globals())
