#!/usr/bin/env python3
"""An agent that tries to leave no trace: by undoing, by breaking off, by failing in every way it can bring about, by sending
more than the trail can take, by half of a protocol. Each of its statements is in the trail once, in order, with what became of it.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import time

import guard
import scene
from guard import DENIED, eventually
from scene import Agent

# The ring is the smallest; PREPARE TRANSACTION is there to be tried.
CONF = ["max_prepared_transactions = 5", "agent_guard.audit_buffer = '1MB'", "agent_guard.audit_capacity = 200000"]
RULES = [("allow", ["select", "insert", "update", "delete"], "app.*"), ("deny", "*", "app.secret"), ("allow", "execute", "function app.*"),
         ("allow", "system", "*"), ("allow", "temporary", "*"), ("allow", "execute", "function pg_catalog.pg_sleep(double precision)")]
STATEMENTS = int(os.environ.get("ESCAPE_STATEMENTS", 30_000))
_marks = itertools.count(1)


def setup(server):
    scene.setup(server)
    server.run(
        """create function app.deep(n int) returns int language plpgsql as $$begin return app.deep(n + 1); end$$;
        create function app.twice(text) returns int language plpgsql as $$begin execute $1; return 2; end$$;
        alter function app.deep(int) owner to owner; alter function app.twice(text) owner to owner;
        alter role owner set temp_file_limit = '64kB'; alter role owner set work_mem = '64kB'"""
    )


def mark():
    return f"escape{next(_marks)}x"


def wire(server, agent, **startup):
    return server.wire("owner", options=f"-c agent_guard.token={agent.token}", **startup)


def fates(server, sent, level=0):
    """(decision, sqlstate) of the events of a statement of the client."""
    return server.audit("level = %s and event = 'statement' and statement like %s", level, f"%{sent}%", columns="decision, sqlstate")


def order(server, pid):
    """The marks of the process's statements in the order in which the trail plays them back."""
    server.value("select agent_guard.audit_flush()")
    rows = server.rows(
        """select substring(p.statement from 'escape[0-9]+x') from (select distinct session_id from agent_guard.audit where pid = %s and session_id is not null) s,
        agent_guard.replay(s.session_id) p where p.depth = 0 and p.statement ~ 'escape[0-9]+x' order by p.step""", pid)
    return [row[0] for row in rows]


def test_what_is_undone_stays_recorded(server):
    with Agent(server, *RULES) as agent:
        client = wire(server, agent)
        sent = []

        def send(text):
            sent.append(mark())
            return client.query(text.format(sent[-1]))

        for text, state in (
            ("begin /* {} */", None),
            ("savepoint a /* {} */", None),
            ("insert into app.open values (70) /* {} */", None),
            ("rollback to a /* {} */", None),
            ("select 1 / 0 /* {} */", "22012"),
            # In a failed transaction nothing runs.
            ("select 'too late' /* {} */", "25P02"),
            ("rollback to a /* {} */", None),
            ("update app.open set v = 'x' where id = 1 /* {} */", None),
            ("rollback /* {} */", None),
            ("begin /* {} */", None),
            ("insert into app.open values (71) /* {} */", None),
            ("prepare transaction '{}'", None),
            ("do $$begin insert into app.open values (72); raise exception 'undone'; exception when others then null; end /* {} */ $$", None),
        ):
            reply = send(text)
            assert reply.sqlstate == (state or ""), (text, reply.errors)
        prepared = f"rollback prepared '{sent[11]}' /* {{}} */"
        assert not send(prepared).errors
        # The last one names the transaction first.
        played = order(server, client.key[0])
        assert played == [*sent[:-1], sent[11]], (played, sent)
        assert [state for _, state in fates(server, sent[4])] == ["22012"] and fates(server, sent[5]) == [(None, "25P02")], fates(server, sent[5])
        assert fates(server, sent[11]) == [("allow", None), ("allow", None)], "and the one that names it"
        assert len(server.audit("level = 1 and statement like 'insert into app.open values (72)%%'")) == 1
        assert server.value("select count(*) from app.open where id >= 70") == 0
        # The report shows each of them, and the recording plays them.
        session = server.value("select session_id from agent_guard.audit where statement like %s limit 1", f"%{sent[0]}%")
        for page in ("session_report", "asciicast"):
            text = server.value(f"select agent_guard.{page}(%s)", session)
            if page == "asciicast":
                text = re.sub(r"\x1b\[[0-9;]*m", "", "".join(json.loads(line)[2] for line in text.splitlines()[1:]))
            places = [text.find(one) for one in sent if one != sent[11]]
            assert -1 not in places and places == sorted(places), (page, places)


def test_failing_by_a_limit_of_the_server_is_recorded(server):
    with Agent(server, *RULES) as agent:
        client = wire(server, agent)
        for text, states in (
            ("with recursive n as (select 1 as i union all select i + 1 from n) select count(*) from n /* {} */", ["57014", "53400"]),
            ("select pg_sleep(60) /* {} */", ["57014"]),
            ("select count(*) from (select n from generate_series(1, 200000) n order by n desc) s /* {} */", ["53400"]),
            # Below the depth of the stack: by then it would keep an eighth of the ring.
            ("select app.deep(1) /* {} */", ["53100", "54001"]),
            ("select length(repeat('x', 1100000000)) /* {} */", ["54000", "53200", "XX000"]),
            ("select " + "(" * 50000 + "1" + ")" * 50000 + " /* {} */", ["54001", "42601", "53200"]),
            ("select array_fill(1, array[100000, 100000]) /* {} */", ["54000"]),
        ):
            sent = mark()
            client.query(f"set statement_timeout = {300 if '57014' in states else 0}")
            reply = client.query(text.format(sent))
            assert reply.sqlstate in states, (text[:60], reply.errors)
            # A text beyond what is kept whole is found by where its end would be: by its length.
            kept = fates(server, sent) if len(text) < 30000 else server.audit("event = 'statement' and statement_length = %s", len(text.format(sent)), columns="decision, sqlstate")
            assert len(kept) == 1 and kept[0][1] == reply.sqlstate, (text[:60], kept)
        client.close()


def test_a_limit_that_ends_a_statement_between_two_messages_is_its_end(server):
    """The time of a statement is over while the server waits for the next message: whether bound and not run, or suspended."""
    with Agent(server, *RULES) as agent:
        client = wire(server, agent)
        for suspended in (False, True):
            sent = mark()
            client.query("set statement_timeout = 1000")
            alone = len(server.audit("pid = %s and statement is null", client.key[0]))
            # Its time begins with the first of them: over before the statement is bound, it would have no event under its text.
            with client.together():
                client.parse(f"select id from app.open /* {sent} */")
                client.bind()
                if suspended:
                    client.execute(max_rows=1)
                client.flush()
            client.until("s" if suspended else "2")
            # The server looks at the clock again when the next message is there.
            time.sleep(1.2)
            client.execute()
            reply = client.sync()
            assert reply.sqlstate == "57014", reply
            assert fates(server, sent) == [("allow", "57014")], (suspended, fates(server, sent))
            assert len(server.audit("pid = %s and statement is null", client.key[0])) == alone, "nothing failed without a text"
            client.query("set statement_timeout = 0")
            # A cursor ends by the rollback, not by another statement's failure.
            sent = mark()
            client.query(f"begin; declare c cursor for select 1 /* {sent} */")
            assert client.query("selec").sqlstate == "42601"
            client.query("rollback")
            assert (None, None) not in fates(server, sent) and "42601" not in [state for _, state in fates(server, sent)], fates(server, sent)
        client.close()


def test_ending_its_own_backend_is_recorded(server):
    with Agent(server, *RULES, ("allow", "execute", "function pg_catalog.pg_terminate_backend(integer, bigint)")) as agent:
        client = wire(server, agent)
        client.query("begin; insert into app.open values (73)")
        sent = mark()
        client.query(f"select pg_terminate_backend(pg_backend_pid()) /* {sent} */")
        assert eventually(lambda: fates(server, sent), "recorded") == [("allow", "57P01")], fates(server, sent)
        assert server.value("select count(*) from app.open where id = 73") == 0
        eventually(lambda: server.audit("pid = %s and event = 'unbind'", client.key[0]), "the end of the session is recorded")
    # By default it may not.
    with Agent(server, ("allow", "select", "app.*")) as agent:
        sent = mark()
        assert wire(server, agent).query(f"select pg_terminate_backend(pg_backend_pid()) /* {sent} */").sqlstate == DENIED
        assert fates(server, sent) == [("deny", DENIED)]


def test_a_cancel_key_hides_nothing(server):
    with Agent(server, *RULES) as agent:
        client = wire(server, agent)
        for text in ("select pg_sleep(60) /* {} */", "insert into app.open select 80 from pg_sleep(60) /* {} */", "copy (select pg_sleep(60)) to stdout /* {} */"):
            sent = mark()
            client.send("Q", text.format(sent).encode() + b"\0")
            eventually(lambda: server.rows("select 1 from pg_stat_activity where query like %s and wait_event = 'PgSleep'", f"%{sent}%"), "it sleeps")
            client.cancel()
            assert client.until("Z").sqlstate == "57014"
            assert [state for _, state in fates(server, sent)] == ["57014"], fates(server, sent)
        client.close()


def test_copies_that_break_off_are_recorded(server):
    with Agent(server, *RULES) as agent:
        for ending, state in (("fail", "57014"), ("bad", "22P02"), ("key", "23505"), ("drop", "08006"), ("done", None)):
            client = wire(server, agent)
            sent = mark()
            reply = client.query(f"copy app.open (id) from stdin /* {sent} */")
            assert "G" in reply.types, reply
            client.copy_data(b"90\n" if ending != "key" else b"1\n")
            if ending == "fail":
                assert client.copy_fail("no more").sqlstate == state
            elif ending == "drop":
                client.drop()
            else:
                client.copy_data(b"bad\n" if ending == "bad" else b"")
                assert client.copy_done().sqlstate == (state or "")
            found = eventually(lambda: fates(server, sent), "recorded")
            assert len(found) == 1 and found[0][0] == "allow" and found[0][1] == state, (ending, found)
        assert server.value("select count(*) from app.open where id = 90") == 1


def test_half_of_the_protocol_is_recorded_as_far_as_it_ran(server):
    with Agent(server, *RULES) as agent:
        # Executed, never synchronised, hung up.
        client = wire(server, agent)
        ran, failed, skipped, parsed = mark(), mark(), mark(), mark()
        for text in (f"insert into app.open values (95) /* {ran} */", f"select 1 / 0 /* {failed} */", f"select 3 /* {skipped} */"):
            client.parse(text)
            client.bind()
            client.execute()
        client.flush()
        client.until("E")
        client.drop()
        eventually(lambda: fates(server, failed), "recorded")
        assert fates(server, ran) == [("allow", None)] and fates(server, failed)[0][1] == "22012", (fates(server, ran), fates(server, failed))
        assert fates(server, skipped) == [], "what the server skips has not run"
        assert server.value("select count(*) from app.open where id = 95") == 0
        # Parsed and described, never executed: nothing ran, and nothing more is claimed; refused where it reveals something.
        client = wire(server, agent)
        client.parse(f"select 1 /* {parsed} */")
        client.describe("S")
        client.sync()
        assert fates(server, parsed) == []
        for text, state in (("selec {}", "42601"), ("select * from app.nothing /* {} */", "42P01")):
            wrong = mark()
            client.parse(text.format(wrong))
            assert client.sync().sqlstate == state
            assert fates(server, wrong) == [(None, state)], fates(server, wrong)
        # Bytes that are no text, and a message that is none.
        junk = mark()
        reply = client.query(f"select 1 /* {junk} ".encode() + b"\xff\xfe\x80 */")
        assert reply.sqlstate == "22021", reply.errors
        # The server has had no text of it.
        assert server.audit("pid = %s and sqlstate = '22021'", client.key[0], columns="message") != [] and not fates(server, junk)
        last = mark()
        client.query(f"select 1 /* {last} */")
        client.send("~", b"junk")
        assert client.until("Z").closed
        eventually(lambda: server.audit("pid = %s and event = 'unbind'", client.key[0]), "the end of the session is recorded")
        assert fates(server, last) == [("allow", None)]


def test_statements_inside_others_are_recorded_inside(server):
    with Agent(server, *RULES) as agent:
        client = wire(server, agent)
        sent = mark()
        inner = f"select app.twice($b$select app.twice($c$select 1 /* {sent} */$c$)$b$)"
        assert not client.query(f"select app.twice($a${inner}$a$)").errors
        assert len(fates(server, sent, 0)) == len(fates(server, sent, 1)) == len(fates(server, sent, 2)) == len(fates(server, sent, 3)) == 1
        # Refused at the bottom, caught on the way: the refusal stays.
        caught = mark()
        assert not client.query(f"do $a$begin perform app.twice('select * from app.secret /* {caught} */'); exception when others then null; end$a$").errors
        refused = server.audit("statement like %s and decision = 'deny'", f"select * from app.secret /* {caught}%", columns="level, sqlstate")
        assert refused and all(row[1] == DENIED for row in refused), refused


def test_many_quick_statements_lose_nothing(server):
    """Sent without waiting for an answer, through the smallest ring: ESCAPE_STATEMENTS of them."""
    with Agent(server, *RULES) as agent:
        client = wire(server, agent)
        began = server.value("select coalesce(max(seq), 0) from agent_guard.audit")
        # Answers are read in between, or both sides would wait for the other.
        many = 200
        for first in range(0, STATEMENTS, many):
            for n in range(first, first + many):
                client.parse(f"select {n} as quick")
                client.bind()
                client.execute()
            assert not client.sync().errors
        server.value("select agent_guard.audit_flush()")
        kept, different, lowest = server.rows(
            "select count(*), count(distinct statement), min(seq) from agent_guard.audit where statement like 'select %% as quick' and seq > %s", began)[0]
        capacity = server.value("select setting::int from pg_settings where name = 'agent_guard.audit_capacity'")
        assert kept == different and kept >= min(STATEMENTS, capacity - capacity // 16), (kept, different)
        assert server.value("select dropped from agent_guard.stat") == 0
        assert server.value("select max(seq) - min(seq) + 1 = count(*) from agent_guard.audit")
        assert server.value("select intact from agent_guard.verify_audit()")


# Each holds s3cret where a secret stands; none of them has to succeed.
SECRETS = [
    "alter role owner password 's3cret'",
    "alter role owner password s3cret",
    "create role x login password E's3cret'",
    "create user mapping for owner server nowhere options (user 'a', sslpassword 's3cret')",
    "create subscription s connection 'host=nowhere password=s3cret' publication p",
    "alter system set primary_conninfo = 'host=nowhere password=s3cret'",
    "select dblink_connect('host=nowhere password=''a s3cret''')",
    "select dblink_connect(U&'host=nowhere p\\0061ssword=s3cret')",
    "select app.twice('alter role owner pass' || 'word ''s3cret''')",
    "do $$begin execute 'alter role owner password ''s3cret'''; end$$",
    "do $$begin perform app.twice('alter role owner password ''s3cret'''); exception when others then raise exception 'password=s3cret'; end$$",
    "create function app.leaks() returns void language sql as 'alter role owner password ''s3cret'''",
    "select 1 -- password=s3cret",
    "select 'postgresql://u:s3cret@nowhere/d' as url, 1 / 0",
    "copy (select 1 as a where 'x' <> 'password=s3cret') to stdout",
    "prepare leaks as select 'host=nowhere password=s3cret'",
]


def test_secrets_are_in_no_record(server):
    server.run("alter system set agent_guard.log_json = on")
    server.run("alter system set agent_guard.journal = on")
    server.run("select pg_reload_conf()")
    eventually(lambda: server.value("show agent_guard.journal") == "on", "the journal is on")
    with Agent(server, *RULES, ("allow", "create function", "app.*")) as agent:
        server.run(f"select agent_guard.set_recording('{agent.policy}', 'rows')")
        client = wire(server, agent)
        for text in SECRETS:
            client.query(text)
            client.extended(text)
        client.extended("select $1::text, $2::text", ["host=h password='a s3cret'", "{\"password\": \"s3cret\"}"])
        client.query("copy (select 'host=h password=s3cret') to stdout")
        pid = client.key[0]
        client.close()
    server.value("select agent_guard.audit_flush()")
    leaks = server.rows("select statement, message, parameters from agent_guard.audit a where pid = %s and to_jsonb(a)::text like '%%s3cret%%'", pid)
    assert not leaks, leaks
    assert server.value("select count(*) from agent_guard.audit where pid = %s and statement like '%%redacted%%'", pid) > 20
    told = [line for line in server.log().splitlines() if "agent_guard event" in line and "s3cret" in line]
    assert not told, told
    oid = server.value("select oid from pg_database where datname = current_database()")
    files = list((guard.pathlib.Path(server.variables["GUARD_DATA"]) / "agent_guard_journal" / str(oid)).iterdir())
    assert files and not any(b"s3cret" in file.read_bytes() for file in files), files


if __name__ == "__main__":
    guard.run(globals(), CONF)
