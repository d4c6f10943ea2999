"""What an approver is shown of a held statement, and the ways to turn the showing against whoever looks: functions of the
agent's that a plan would run, tables that are locked, rows on which a condition fails."""

from __future__ import annotations

import guard
import scene
from attack_approval import approve, held
from guard import DENIED, expect
from scene import Agent

RULES = [
    ("allow", "*", "*"),
    ("require_approval", ["delete", "update", "drop", "truncate", "alter", "create trigger"], "lab.*", {"approvers": ["lead"]}),
]

LAB = """
    set client_min_messages = error;
    drop schema if exists lab cascade;
    create schema lab authorization owner;
    set role owner;
    create table lab.people (id int primary key, email text, city text, n int, doc jsonb);
    insert into lab.people select i, 'p' || i || '@example.org', 'town', i from generate_series(1, 1000) i;
    create table lab.big as select i as n from generate_series(1, 2000) i;
    create table lab.parted (id int) partition by range (id);
    create table lab.parted_1 partition of lab.parted for values from (0) to (100);
    create table lab.parted_2 partition of lab.parted for values from (100) to (200);
    insert into lab.parted select generate_series(90, 119);
    create type lab.mood as enum ('good', 'bad');
    create table lab.moods (m lab.mood);
    create table lab.visit (person int references lab.people, at date);
    create index on lab.visit (person) where at is not null;
    insert into lab.visit select 1 + i % 50, case when i % 2 = 0 then date '2024-01-01' end from generate_series(1, 2000) i;
    create view lab.first as select id, n from lab.people;
    create view lab.second as select id from lab.first;
    analyze;
    create sequence lab.calls;
    create function lab.evil(n int) returns int language plpgsql immutable as
        'begin perform nextval(''lab.calls''); return n; end';
    create function lab.fire() returns trigger language plpgsql as 'begin return old; end';
"""


def setup(server):
    server.run(scene.APPLICATION)
    server.run("create role lead login; create role stranger login")


def agent(server, *more):
    server.run(LAB)
    return Agent(server, *RULES, *more)


def impact(server, request, exact=False, who="lead"):
    with server.connect(who) as connection:
        return connection.execute("select agent_guard.approval_impact(%s, exact => %s)", (request, exact)).fetchone()[0]


def exact(server, one, statement):
    """What the statement changes according to the impact, None where it is not told; and what it changes indeed."""
    request = held(one, statement)
    told = impact(server, request, exact=True)
    assert (told["exact"], told["estimated"]) == (True, False), told
    assert impact(server, request)["changes"].keys() <= {"estimated"}
    approve(server, request)
    one.run("begin")
    really = one.run(statement)
    one.run("rollback")
    return told["changes"].get("exact"), really


def test_a_change_comes_with_its_plan_and_its_rows(server):
    with agent(server) as one:
        request = held(one, "delete from lab.people where n > 990")
        told = impact(server, request)
        assert "Delete on people" in told["plan"] and "Filter: (n > 990)" in told["plan"], told
        assert 5 <= told["changes"]["estimated"] <= 20 and "exact" not in told["changes"], told
        assert (told["estimated"], told["exact"]) == (True, False)
        # A utility statement has no plan.
        told = impact(server, held(one, "truncate lab.big"), exact=True)
        assert told["plan"] is None and told["changes"] is None
        assert [(o["rows"], o["exact_rows"]) for o in told["objects"]] == [(2000, 2000)], told


def test_exact_is_what_happens(server):
    with agent(server) as one:
        server.run("insert into lab.people select i, 'x', 'town', i from generate_series(1001, 1005) i")
        for statement in (
            "delete from lab.visit where person = 3",
            "delete from lab.visit where person in (3, 4) and (at < '2025-01-01' or at is null)",
            "update lab.people set city = lower(city) where n > 990 and email like 'p99%'",
            "update lab.people set n = 0 where id between 10 and 20",
            "update lab.people set n = 0 where id = 7",
            "update lab.people set n = 0 where coalesce(n, 0) % 7 = 1 and not (id > 500)",
            "update lab.people set n = 0 where n::numeric / 3 > 100.5 and upper(email) > 'P5' and n <> all ('{600, 601}'::bigint[])",
            "update lab.people set n = 0 where (city > 'tow' or id < 7) and date '2024-01-01' + n < '2025-01-01'",
            "update lab.people set n = 0",
            "delete from lab.visit where false",
            "delete from lab.parted where id >= 95",
        ):
            told, really = exact(server, one, statement)
            assert told == really, (statement, told, really)
        # A condition that an index implies is none of the index's conditions.
        server.run("create index on lab.visit (at)")
        for off in ("enable_bitmapscan", "enable_indexscan"):
            one.run("set enable_seqscan = off", f"set {off} = off")
            for more in ("", " or person = 4"):
                told, really = exact(server, one, f"delete from lab.visit where (person = 3{more}) and at is not null /* {off} */")
                assert told == really and really > 0, (off, told, really)
            one.run(f"reset {off}")
        told = impact(server, held(one, "truncate lab.parted"), exact=True)
        counts = {o["what"]: o.get("exact_rows") for o in told["objects"]}
        assert counts["truncate lab.parted"] == 30 and counts["truncate lab.parted_2"] == 20, counts


def test_what_cannot_be_counted_so_is_not_guessed(server):
    with agent(server) as one:
        for statement in (
            "update lab.people set n = 1 where lab.evil(n) = 1",
            "update lab.people set n = 1 where id in (select person from lab.visit)",
            "update lab.people p set n = 1 from lab.visit v where v.person = p.id",
            "update lab.people set n = 1 where email ~ '^(a+)+$'",
            "update lab.people set n = 1 where length(repeat(email, n)) > 5",
            "update lab.people set n = 1 where random() < 2",
            "update lab.people set n = 1 where jsonb_build_object('a', n) @? '$.a ? (@ > 3)'",
            "update lab.people set n = 1 where doc @? '$.a ? (@ like_regex \"(x+x+)+y\")'",
            "update lab.people set n = 1 where to_tsvector('simple', email) @@ to_tsquery('simple', 'p1')",
            "update lab.people set n = 1 where (n::numeric ^ 200) > 1",
            "update lab.people set n = 1 where current_setting('work_mem') = '4MB'",
            "update lab.people set n = 1 where (city, id) > ('tow', 5)",
            "update lab.people set n = 1 where ctid = '(0,1)'",
            "update lab.people set n = 1 where (id, n) = (select 1, 1)",
            "update lab.people set n = 1 where (people).id = 3 and people is not null",
            "delete from lab.moods where m = 'good'",
        ):
            told, _ = exact(server, one, statement)
            assert told is None, statement


def test_looking_runs_nothing_of_the_agents(server):
    with agent(server) as one:
        # Each of these runs the function as soon as somebody plans a query over the table.
        server.run(
            """set role owner;
            create index on lab.people ((n + lab.evil(1)));
            create index on lab.people (n) where id > lab.evil(0);
            alter table lab.people add check (n < lab.evil(1000000)), alter city set default 'x' || lab.evil(1);
            create statistics lab.s (ndistinct) on (n + lab.evil(2)), id from lab.people;
            alter table lab.people enable row level security;
            create policy all_of_it on lab.people using (id > lab.evil(-1));
            create view lab.third as select lab.evil(3) as e, * from lab.people"""
        )
        calls = lambda: server.value("select last_value from lab.calls")
        before = calls()
        requests = [
            held(one, statement)
            for statement in ("update lab.people set city = 'y' where n > 990", "update lab.third set city = 'z' where n = 2", "drop table lab.people cascade")
        ]
        assert calls() > before, "the functions are not reached by planning: the test shows nothing"
        before = calls()
        for request in requests:
            told = impact(server, request, exact=True)
            assert told["objects"] and any(o.get("exact_rows") == 1000 for o in told["objects"]), told
        assert calls() == before, "a function of the agent's ran"
        # And with the very same rights a query does run them.
        server.value("select count(*) from lab.people where n > 1")
        assert calls() > before


def test_a_constant_that_writes_itself_hides_the_plan(server):
    with agent(server) as one:
        assert impact(server, held(one, "delete from lab.moods where m = 'good'"))["plan"] is None
        assert impact(server, held(one, "delete from lab.moods where m is null"))["plan"]


def test_a_row_on_which_the_condition_fails_ends_nothing(server):
    with agent(server) as one:
        request = held(one, "update lab.people set n = 1 where 1 / (n - 900) > 5")
        with server.connect("lead", autocommit=False) as lead:
            told = lead.execute("select agent_guard.approval_impact(%s, true)", (request,)).fetchone()[0]
            assert "exact" not in told["changes"] and told["plan"], told
            # The approver's transaction is as good as before.
            assert lead.execute("select 1").fetchone() == (1,)


def test_a_table_that_has_changed_since_is_not_read_by_old_conditions(server):
    with agent(server) as one:
        request = held(one, "update lab.people set city = 'y' where n > 990")
        server.run("drop view lab.first cascade; alter table lab.people alter n type text")
        assert "exact" not in impact(server, request, exact=True)["changes"]
        request = held(one, "update lab.people set city = 'y' where id > 990")
        assert impact(server, request, exact=True)["changes"]["exact"] == 10
        server.run("alter table lab.people drop id cascade")
        assert "exact" not in impact(server, request, exact=True)["changes"]
        server.run("drop table lab.people cascade")
        told = impact(server, request, exact=True)
        assert "exact" not in told["changes"] and any(o.get("gone") for o in told["objects"]), told


def test_looking_waits_for_nobody_and_holds_nobody_up(server):
    with agent(server) as one, server.connect(autocommit=False) as other, server.connect("lead", autocommit=False) as lead:
        request = held(one, "update lab.people set city = 'y' where n > 990")
        other.execute("lock lab.people in access exclusive mode")
        lead.execute("set statement_timeout = '15s'")
        told = lead.execute("select agent_guard.approval_impact(%s, true)", (request,)).fetchone()[0]
        assert "exact" not in told["changes"] and all("exact_rows" not in o for o in told["objects"]), told
        assert [b["lock"] for b in told["blocked"]] == ["AccessExclusiveLock"], told["blocked"]
        other.rollback()
        lead.execute("select agent_guard.approval_impact(%s, true)", (request,))
        modes = server.rows("select distinct mode from pg_locks where pid = %s and locktype = 'relation'", lead.info.backend_pid)
        assert modes == [("AccessShareLock",)], modes
        # Not even that is kept on the table itself.
        kept = server.value("select count(*) from pg_locks where pid = %s and relation = 'lab.people'::regclass", lead.info.backend_pid)
        assert kept == 0


def test_counting_ends_when_its_time_is_over(server):
    server.run(LAB)
    count = "select agent_guard.exact_rows('lab.big'::regclass, null, clock_timestamp() + %s::interval)"
    assert server.value(count, "1 minute") == 2000
    assert server.value(count, "-1 s") is None


def test_locks_and_those_in_their_way(server):
    with agent(server) as one, server.connect(autocommit=False) as reader:
        reader.execute("select * from lab.people limit 1")
        for statement, lock, mode in (
            ("update lab.people set n = 1 where id = 1", "ROW EXCLUSIVE", []),
            ("create trigger fire before delete on lab.people for each row execute function lab.fire()", "SHARE ROW EXCLUSIVE", []),
            ("alter table lab.people add x int", "ACCESS EXCLUSIVE", ["AccessShareLock"]),
        ):
            told = impact(server, held(one, statement))
            assert lock in [o.get("lock") for o in told["objects"] if "lab.people" in o["what"]], told["objects"]
            assert [b["lock"] for b in told["blocked"] if b["relation"] == "lab.people"] == mode, (statement, told["blocked"])


def test_views_upon_views_and_foreign_keys(server):
    with agent(server) as one:
        told = impact(server, held(one, "drop table lab.people"))
        assert told["views"] == ["lab.first", "lab.second"], told["views"]
        assert [key["of"] for key in told["foreign_keys"]] == ["lab.visit"], told["foreign_keys"]
        told = impact(server, held(one, "delete from lab.people where id = 1000"))
        assert told["views"] == [] and [key["of"] for key in told["foreign_keys"]] == ["lab.visit"], told


def test_masked_columns_and_those_read_in_clear(server):
    with agent(server) as one:
        server.run(
            f"""select agent_guard.mask_column('lab.people', 'email', 'email');
            select agent_guard.mask_column('lab.people', 'city', 'redact');
            select agent_guard.expose_columns('{one.policy}', array['lab.people(city)'])"""
        )
        reads = lambda statement: {m["column"]: m["reads"] for m in impact(server, held(one, statement))["masked_columns"]}
        assert reads("delete from lab.people where id = 9 returning email, city") == {"lab.people.email": "masked", "lab.people.city": "clear"}
        assert reads("delete from lab.people where city = 'x'") == {"lab.people.city": "clear"}
        assert reads("delete from lab.people where id = 9") == {}
        server.run("select agent_guard.unmask_column('lab.people', 'email'); select agent_guard.unmask_column('lab.people', 'city')")


def test_only_approvers_are_shown_anything(server):
    with agent(server) as one:
        request = held(one, "update lab.people set n = 1 where id = 1")
        expect(DENIED, impact, server, request, who="stranger")
        for call in (f"agent_guard.approval_impact('{request}')", "agent_guard.exact_rows('lab.people'::regclass, null, now())"):
            one.refused(f"select {call}", DENIED, by_guard=False)
        with server.connect("lead") as lead:
            expect(DENIED, lead.execute, "select agent_guard.exact_rows('lab.people'::regclass, null, now() + interval '1 s')")
        server.run("create role other login")
        with Agent(server, ("allow", "*", "*"), ("require_approval", "update", "lab.*", {"approvers": ["other"]})) as second:
            theirs = held(second, "update lab.people set n = 2 where id = 1")
            assert impact(server, theirs) is None and impact(server, theirs, exact=True, who="other")["changes"]["exact"] == 1


def test_a_plan_too_large_leaves_the_request_as_it_is(server):
    with agent(server) as one:
        many = " or ".join(f"(id = {n} and n = {n})" for n in range(400))
        told = impact(server, held(one, f"update lab.people set city = 'y' where {many}"), exact=True)
        assert told["changes"] is None or told["changes"].get("exact") in (None, 399), told["changes"]
        assert told["objects"]


def test_secrets_do_not_get_into_plans(server):
    with agent(server) as one:
        secret = "hunter22hunter22"
        request = held(one, f"update lab.people set n = 1 where email = 'postgresql://someone:{secret}@host/db'")
        assert secret not in (impact(server, request)["plan"] or "")
        # Neither as text nor as the bytes of a stored condition.
        for stored in (secret, " ".join(str(byte) for byte in secret.encode())):
            found = server.value("select count(*) from agent_guard.approval_request r where r::text like '%%' || %s || '%%'", stored)
            assert found == 0, "the secret is stored"
        # The nearest that is fine: a text that is no secret.
        assert impact(server, held(one, "update lab.people set n = 1 where email = 'postgresql'"))["plan"]


if __name__ == "__main__":
    # Its workers' locks are in the way, too.
    guard.run(globals(), conf=["autovacuum = off"])
