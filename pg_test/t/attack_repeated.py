"""A statement that was allowed before is allowed again only while everything that its decision depended on is as it was.

Each statement comes often enough that the decision is a remembered one, then one circumstance changes. The text stays the
same to the byte, and so does the prepared statement.
"""

import guard
import scene
from guard import DENIED, UNAUTHENTICATED, bind, expect
from scene import Agent
from tokens import child

RULES = [("allow", ["select", "insert", "update"], "app.open"), ("allow", "execute", "function app.*")]
TEXT = "select count(*) from app.open"


def setup(server):
    scene.setup(server)
    server.run(
        """create function app.reader() returns bigint language plpgsql as $$begin return (select count(*) from open); end$$;
           alter function app.reader() set search_path = app;
           create schema elsewhere;
           create table elsewhere.open (id int, v text);
           grant usage on schema elsewhere to owner;
           grant all on elsewhere.open to owner;"""
    )


def often(agent, text=TEXT):
    for _ in range(6):
        agent.run(text)


def prepared(agent, text=TEXT):
    """A named prepared statement, as drivers make them, run often enough to have a generic plan."""
    for _ in range(8):
        agent.connection.execute(text, prepare=True)
    return lambda: agent.connection.execute(text, prepare=True).fetchall()


def test_a_deny_that_comes_meanwhile_holds(server):
    agent = Agent(server, *RULES)
    again = prepared(agent)
    often(agent)
    server.run(f"select agent_guard.deny('{agent.policy}', array['select'], array['app.open'])")
    expect(DENIED, again, match="rule=")
    expect(DENIED, agent.run, TEXT, match="rule=")


def test_an_allow_that_goes_meanwhile_is_gone(server):
    agent = Agent(server, *RULES)
    again = prepared(agent)
    again()
    server.run(f"select agent_guard.drop_rule(id) from agent_guard.rules where policy = '{agent.policy}'")
    expect(DENIED, again)


def test_a_deny_of_one_column_that_comes_meanwhile_holds(server):
    agent = Agent(server, *RULES)
    text = "select v from app.open where id = 1"
    again = prepared(agent, text)
    server.run(f"select agent_guard.deny('{agent.policy}', array['select'], array['app.open(v)'])")
    expect(DENIED, again, match="v")
    agent.run("select id from app.open where id = 1")


def test_a_condition_that_comes_meanwhile_is_asked_for(server):
    agent = Agent(server, *RULES)
    again = prepared(agent)
    again()
    server.run(
        f"""select agent_guard.drop_rule(id) from agent_guard.rules where policy = '{agent.policy}';
            select agent_guard.allow('{agent.policy}', array['select'], array['app.open'], require_where => true)"""
    )
    expect(DENIED, again, match="require_where")
    agent.run("select count(*) from app.open where id = 1")


def test_a_narrower_token_does_not_inherit_the_decision(server):
    agent = Agent(server, *RULES, max_depth=1)
    again = prepared(agent)
    often(agent)
    bind(agent.connection, child(agent.token, rel=["app.child"]))
    expect(DENIED, again, match="block")
    expect(DENIED, agent.run, TEXT, match="block")
    bind(agent.connection, agent.token)
    again()


def test_a_revocation_ends_it_too(server):
    agent = Agent(server, *RULES)
    again = prepared(agent)
    again()
    server.run(f"select agent_guard.revoke_window('{agent.window_id}')")
    expect(UNAUTHENTICATED, again, match="reason=revoked")


def test_the_same_text_means_another_table_under_another_path(server):
    agent = Agent(server, *RULES, ("allow", "*", "app.child"))
    text = "select count(*) from open"
    agent.run("set search_path = app")
    again = prepared(agent, text)
    often(agent, text)
    agent.run("set search_path = elsewhere")
    expect(DENIED, again, match="elsewhere.open")
    expect(DENIED, agent.run, text, match="elsewhere.open")
    agent.run("set search_path = app")
    again()


def test_a_relation_that_comes_to_the_others_is_asked_for(server):
    """Row level security adds what its policies read to the same text, by the role that runs it. SET ROLE invalidates nothing, and the
    table itself is asked for in the same way: only the number of relations tells. (One text for each way: after some runs the driver
    prepares it, and what is prepared has a text of its own.)"""
    server.run(
        """create role watcher;
           grant watcher to owner;
           grant usage on schema kept to watcher;
           create table kept.watched (id int);
           alter table kept.watched owner to keeper;
           alter table kept.watched enable row level security;
           grant select on kept.watched to watcher, owner;
           create policy all_of_it on kept.watched to watcher using (id > 0);
           create policy by_secrets on kept.watched to owner using (exists (select from app.secret))"""
    )
    agent = Agent(server, ("allow", "select", "kept.watched"), ("allow", "role", ["role watcher", "role owner"]))
    agent.run("set role watcher")
    text = "select count(*) from kept.watched"
    again = prepared(agent, text)
    agent.run("reset role")
    expect(DENIED, again, match="app.secret")
    agent.connection.prepare_threshold = None
    agent.run("set role watcher")
    text = "select count(id) from kept.watched"
    often(agent, text)
    agent.run("reset role")
    expect(DENIED, agent.run, text, match="app.secret")


def test_what_a_rule_adds_to_a_statement_is_asked_for(server):
    """A rule's action runs under the text of the statement that it belongs to, behind it, and asks for that one's table again."""
    server.run(
        """create table app.ruled (id int, v text);
           alter table app.ruled owner to owner;
           create table app.kept_log (id int);
           alter table app.kept_log owner to keeper;
           grant insert on app.kept_log to owner;
           create rule also as on insert to app.ruled do also insert into app.kept_log values (7)"""
    )
    agent = Agent(server, ("allow", ["insert", "select"], "app.ruled"), ("deny", "insert", "app.kept_log"))
    for _ in range(8):
        expect(DENIED, agent.run, "insert into app.ruled values (1, 'x')", match="app.kept_log")
    # Each statement of its own, so that what comes before the rule's action is done and remembered.
    agent.run("prepare p as insert into app.ruled values (1, 'x')")
    for _ in range(8):
        expect(DENIED, agent.run, "execute p", match="app.kept_log")
    assert server.rows("select (select count(*) from app.ruled), (select count(*) from app.kept_log)") == [(0, 0)]


def test_a_view_of_the_reader_brings_what_it_reads(server):
    """A view with security_invoker asks for its tables in the agent's own name."""
    agent = Agent(server, ("allow", "select", ["app.invoker_view", "app.open"]))
    for _ in range(8):
        expect(DENIED, agent.run, "select count(*) from app.invoker_view", match="app.secret")


def test_another_table_under_the_old_name_is_another_table(server):
    agent = Agent(server, *RULES)
    again = prepared(agent)
    again()
    server.run("begin; alter table app.open rename to was_open; create table app.open (id int, v text); grant all on app.open to owner; commit")
    try:
        # The rule stays with the table that it named when it was written.
        expect(DENIED, again)
        assert agent.run("select count(*) from app.was_open")
    finally:
        server.run("begin; drop table app.open; alter table app.was_open rename to open; commit")
    again()


def test_a_function_that_asks_with_the_same_text_is_asked_for_itself(server):
    """What a body may read by the voice of its function, the agent may not by itself, and the other way round."""
    agent = Agent(server, ("allow", "execute", "function app.reader()"))
    for _ in range(6):
        agent.run("select app.reader()")
    expect(DENIED, agent.run, "select count(*) from app.open")
    agent.run("set search_path = app")
    expect(DENIED, agent.run, "select count(*) from open")
    server.run(f"select agent_guard.deny('{agent.policy}', array['select'], array['app.open'])")
    expect(DENIED, agent.run, "select app.reader()")


def test_every_run_has_an_event_of_its_own_with_its_own_values(server):
    agent = Agent(server, *RULES)
    text = "select v from app.open where id = %s /* told apart */"
    for number in range(12):
        agent.connection.execute(text, (number,), prepare=True)
    agent.run("set application_name = 'renamed'")
    agent.connection.execute(text, (99,), prepare=True)
    found = server.audit("statement like '%%told apart%%'", columns="parameters, decision, rule_id is not null, accesses, application_name, rows, session_id")
    assert [event[0] for event in found] == [[str(number)] for number in [*range(12), 99]], found
    assert {event[1:3] for event in found} == {("allow", True)}, found
    assert all(event[3] == found[0][3] and event[3][0]["object"] == "app.open" and event[3][0]["columns"] == "id,v" for event in found), found
    assert found[-1][4] == "renamed" and found[-2][4] != "renamed", found
    assert len({event[6] for event in found}) == 1


def test_an_error_in_a_remembered_statement_is_an_error_in_the_trail(server):
    agent = Agent(server, *RULES)
    text = "select 10 / (%s - 3) from app.open where id = 1 /* divides */"
    for number in (1, 2, 4, 5, 6, 7, 8, 9):
        agent.connection.execute(text, (number,), prepare=True)
    expect("22012", agent.connection.execute, text, (3,), prepare=True)
    agent.connection.execute(text, (1,), prepare=True)
    found = server.audit("statement like '%%divides%%'", columns="sqlstate, parameters[1]")
    assert [event for event in found if event[0]] == [("22012", "3")] and len(found) == 10, found


def test_what_the_trail_holds_is_what_the_server_would_make_of_its_text(server):
    """The accesses are written in jsonb's binary form: every kind of value, and more entries than one stride."""
    names = ", ".join(f"c{n} int" for n in range(40))
    server.run(f"""create table app."odd ""name\\ \u00e9" (v int, {names}); alter table app."odd ""name\\ \u00e9" owner to owner""")
    agent = Agent(server, *RULES, ("allow", "*", "app.*"))
    agent.run('select * from app."odd ""name\\ \u00e9"', "create table app.made (n int)", "drop table app.made")
    # Thirty-six accesses: beyond an entry of the array that tells an offset.
    agent.run("select count(*) from " + ", ".join(f"app.open as t{n}" for n in range(36)) + " where false")
    agent.attempt("select * from app.secret")
    server.run("select agent_guard.audit_flush()")
    with server.connect() as connection:
        total, wrong, longest = connection.execute(
            """select count(*), count(*) filter (where accesses is distinct from accesses::text::jsonb or not accesses @> accesses::text::jsonb),
                      max(jsonb_array_length(accesses)) from agent_guard.audit where accesses is not null"""
        ).fetchone()
        assert total > 20 and wrong == 0 and longest >= 36, (total, wrong, longest)
        wrong = connection.execute(
            """select count(*) from agent_guard.audit, jsonb_array_elements(accesses) as one
               where one->>'object' is distinct from one::text::jsonb->>'object' or one->'oid' is distinct from (one::text::jsonb)->'oid'
                  or (one->>'oid')::bigint < 0 or (one->>'rule')::bigint <= 0 or one->>'action' is null"""
        ).fetchone()[0]
        assert wrong == 0, wrong
    [(found,)] = server.audit("statement like 'select * from app.%%odd%%'", columns="accesses")
    assert found[0]["object"] == 'app.odd "name\\ \u00e9' and found[0]["columns"].startswith("v,c0,c1,"), found
    assert [event[0][0]["action"] for event in server.audit("statement like '%%app.made%%'", columns="accesses")] == ["create table", "drop table"]


if __name__ == "__main__":
    guard.run(globals())
