"""Sessions played back: against what was sent, as a recording, as a page in a browser, and as lines in the log."""

import json
import pathlib
import re
import shutil
import tempfile

import guard
from browser import Browser, missing
from guard import DENIED, bind, eventually, expect

# Each tries to leave the place where it is shown: as markup, as an attribute, as a comment, as script, by direction.
HOSTILE = [
    "</script><script>document.pwned = 1</script>",
    "<img src=x onerror='document.pwned = 1'>",
    "\" onmouseover=\"document.pwned = 1\" x=\"",
    "--></style></pre></title><svg onload=document.pwned=1>",
    "'; document.pwned = 1; //",
    "&lt;script&gt; &#60;b&#62; <![CDATA[ <!--",
    "\u202eneddih\u202c \u2066\u2028\u2029 \ufeff\u200b",
    "\x1b[2J\x1b]0;title\x07 \x9b31m \x7f",
]


def setup(server):
    server.run(
        """create schema rec; create table rec.t (id int primary key, v text);
        insert into rec.t select n, 'v' || n from generate_series(1, 50) n;
        create function rec.two(n int) returns int language plpgsql as
            $$begin update rec.t set v = 'two' where id = n; perform count(*) from rec.t; return n; end$$;
        select agent_guard.create_policy('rec');
        select agent_guard.allow('rec', array['select', 'insert', 'update'], array['rec.t']);
        select agent_guard.allow('rec', array['execute'], array['function rec.*'])"""
    )


def session(server, role: str = "rec_agent", policy: str = "rec", **window) -> tuple:
    """A bound connection, and the id of its session."""
    server.agent(role)
    name = quoted(role)
    server.run(f"grant usage on schema rec to {name}; grant all on all tables in schema rec to {name}")
    token = server.window(role, policy, agent="recorder", **window)[1]
    connection = server.connect(role)
    bind(connection, token)
    return connection, connection.execute("select session_id from agent_guard.whoami()").fetchone()[0]


def ended(server, session_id) -> str:
    """Waits for the last event of a session whose connection is closed; its message."""
    query = ("session_id = %s and event = 'unbind'", session_id)
    return eventually(lambda: server.audit(*query, columns="message"), "the session's end is recorded")[0][0]


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def replay(server, session_id, columns: str = "*") -> list[tuple]:
    server.value("select agent_guard.audit_flush()")
    return server.rows(f"select {columns} from agent_guard.replay(%s) order by step", session_id)


def test_every_statement_comes_back_in_order(server):
    connection, session_id = session(server)
    sent = []

    def send(text, *values):
        sent.append(text.replace("%s", "$1"))
        return connection.execute(text, values or None)

    with connection:
        for n in range(1, 20):
            send(f"select v from rec.t where id = {n}")
            send("select rec.two(%s)", n)
            if n % 5 == 0:
                sent.append("delete from rec.t")
                expect(DENIED, connection.execute, "delete from rec.t")
    rows = replay(server, session_id, "depth, statement, parameters, effect")
    top = [row[1] for row in rows if row[0] == 0 and row[1]]
    assert top[1:] == sent, (top[:6], sent[:6])
    inside = [row for row in rows if row[0] == 1]
    assert len(inside) == 38 and all(row[3] == "committed" for row in inside), inside[:4]
    assert [row[2] for row in rows if row[1] == "select rec.two($1)"] == [[str(n)] for n in range(1, 20)]


def test_what_took_effect_is_told(server):
    connection, session_id = session(server)
    connection.execute("update rec.t set v = 'implicit' where id = 1")
    connection.execute("begin")
    connection.execute("update rec.t set v = 'by error' where id = 2")
    expect("22012", connection.execute, "select 1 / 0")
    connection.execute("rollback")
    connection.execute("begin")
    connection.execute("update rec.t set v = 'by disconnect' where id = 3")
    effect = dict(replay(server, session_id, "statement, effect"))
    assert effect["update rec.t set v = 'by disconnect' where id = 3"] == "open"
    connection.close()
    eventually(
        lambda: dict(replay(server, session_id, "statement, effect"))["update rec.t set v = 'by disconnect' where id = 3"] == "rolled back",
        "the transaction of a closed connection is rolled back",
    )
    effect = dict(replay(server, session_id, "statement, effect"))
    assert effect["update rec.t set v = 'implicit' where id = 1"] == "committed"
    assert effect["update rec.t set v = 'by error' where id = 2"] == "rolled back"
    assert effect["select 1 / 0"] == "failed"


def test_the_end_of_a_session_is_told(server):
    connection, closed = session(server)
    connection.close()
    assert ended(server, closed) == "connection closed"
    connection, reset = session(server)
    with connection:
        connection.execute("reset agent_guard.token")
        assert ended(server, reset) == "token no longer in force"
    connection, killed = session(server)
    pid = connection.info.backend_pid
    server.run(f"select pg_terminate_backend({pid})")
    assert ended(server, killed) == "connection ended by an error: terminating connection due to administrator command"
    connection.close()
    for one in (closed, reset, killed):
        rows = replay(server, one, "event")
        assert [rows[0][0], rows[-1][0]] == ["bind", "unbind"], rows


def test_a_recording_follows_the_format(server):
    connection, session_id = session(server, role="cast \x1b[2J")
    with connection:
        connection.execute("select rec.two(1)")
        for text in HOSTILE:
            connection.execute("select %s::text as " + quoted(text[:60]), (text,))
        expect(DENIED, connection.execute, "drop table rec.t")
    server.value("select agent_guard.audit_flush()")
    header, *lines = [json.loads(line) for line in server.value("select agent_guard.asciicast(%s)", session_id).split("\n")]
    assert header["version"] == 2 and header["width"] > 0 and header["height"] > 0 and header["timestamp"] > 10**9
    times = [time for time, kind, data in lines if kind == "o" and isinstance(data, str)]
    assert len(times) == len(lines) and times == sorted(times) and times[0] >= 0
    screen = "".join(data for _, _, data in lines)
    assert "postgres=> select rec.two(1);\r\n" in screen and "ERROR:  42501" in screen and "DETAIL:  drop table rec.t" in screen
    plain = re.sub(r"\x1b\[(?:\d+)m", "", screen)
    assert not re.search(r"[\x00-\x09\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]", plain), plain


def hostile_session(server) -> str:
    """A session with hostile texts wherever one can be brought in."""
    if not server.rows("select from agent_guard.policies where name = %s", HOSTILE[3]):
        server.run(f"select agent_guard.apply_policy(jsonb_set(agent_guard.export_policy('rec'), '{{name}}', to_jsonb($_${HOSTILE[3]}$_$::text)))")
    connection, session_id = session(server, HOSTILE[0], HOSTILE[3], reason=HOSTILE[1])
    with connection:
        connection.execute("select set_config('application_name', %s, false)", (HOSTILE[0],))
        for text in HOSTILE:
            literal = "'" + text.replace("'", "''") + "'"
            connection.execute(f"/* {text.replace('*/', '')} */ select {literal} as x")
            connection.execute("select %s::text, rec.two(3)", (text,))
            expect("42703", connection.execute, f"select {quoted(text[:50])} from rec.t")
        connection.execute("begin")
        connection.execute("update rec.t set v = 'undone' where id = 5")
        connection.execute("rollback")
        expect(DENIED, connection.execute, "drop table rec.t")
    ended(server, session_id)
    return session_id


def opened(server, text: str, name: str) -> tuple[pathlib.Path, pathlib.Path]:
    folder = pathlib.Path(tempfile.mkdtemp(prefix="guard-report-"))
    page = folder / f"{name}.html"
    page.write_text(text)
    return folder, page


def test_a_hostile_session_stays_text_in_a_browser(server):
    assert not missing(), f"needed: {missing()} (pg_test/bin/deps process installs them)"
    session_id = hostile_session(server)
    steps = replay(server, session_id, "step")
    report = server.value("select agent_guard.session_report(%s)", session_id)
    folder, page = opened(server, report, "session")
    try:
        with Browser() as browser:
            browser.open(page)
            # Our own script ran: the policy lets it, and nothing else was there to run.
            assert browser.run("return document.getElementById('found').textContent") == f"{len(steps)} in all"
            assert browser.run("return document.pwned === undefined")
            count = lambda selector: browser.run("return document.querySelectorAll(arguments[0]).length", selector)
            assert count("article") == len(steps)
            assert [count(tag) for tag in ("script", "style", "title", "img", "iframe", "object", "form", "link")] == [1, 1, 1 + count("svg title"), 0, 0, 0, 0, 0]
            assert browser.run("return [...document.querySelectorAll('*')].every(e => [...e.attributes].every(a => !a.name.startsWith('on')))")
            shown = browser.run("return document.body.textContent")
            for text in HOSTILE[:6]:
                assert text in shown, text
            assert not re.search("[\u202a-\u202e\u2066-\u2069\u2028\x1b]", shown) and "U+202E" in shown and "^[[2J" in shown
            # Search and filters.
            browser.type("#search", "DROP table")
            assert browser.run("return [...document.querySelectorAll('article:not([hidden])')].map(e => e.className)") == ["step deny"]
            browser.run("document.getElementById('search').value = ''")
            browser.click("[data-kind=deny]")
            assert browser.run("return document.getElementById('found').textContent") == f"1 of {len(steps)}"
            assert browser.run("return document.querySelectorAll('.undone').length") == 1
            # The policy holds by itself: what is put into the page by force does not run.
            browser.run("const s = document.createElement('script'); s.textContent = 'document.pwned = 2'; document.body.append(s)")
            assert browser.run("return document.pwned === undefined")
            complaints = browser.console()
            assert complaints and all("Content Security Policy" in line for line in complaints), complaints
    finally:
        shutil.rmtree(folder)


def test_the_page_fits_a_phone(server):
    session_id = hostile_session(server)
    folder, page = opened(server, server.value("select agent_guard.session_report(%s)", session_id), "session")
    try:
        with Browser(width=500, height=900, dark=True) as browser:
            browser.open(page)
            assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth"), "it scrolls sideways"
            assert not browser.console()
    finally:
        shutil.rmtree(folder)


def test_a_blast_radius_opens_in_a_browser(server):
    session(server)[0].close()
    server.run(f"create table rec.{quoted(HOSTILE[0])} (id int, email text); grant select on all tables in schema rec to rec_agent")
    folder, page = opened(server, server.value("select agent_guard.blast_radius_report('rec_agent', 'rec')"), "reach")
    try:
        with Browser() as browser:
            browser.open(page)
            assert browser.run("return document.pwned === undefined && document.scripts.length === 1")
            browser.click("[data-kind=left]")
            left = browser.run("return [...document.querySelectorAll('tr[data-is]:not([hidden])')].map(e => e.cells[0].textContent)")
            assert "rec.t" in left and not any("script" in name for name in left), left
            assert not browser.console()
    finally:
        shutil.rmtree(folder)


def test_a_database_of_another_encoding_is_played_back_too(server):
    server.run("create database latin encoding 'LATIN1' lc_collate 'C' lc_ctype 'C' template template0")
    name = "gr\u00fc\u00df"
    server.run(f"create extension agent_guard; select agent_guard.create_policy('p'); create table public.{name} (id int)", dbname="latin")
    server.run("select agent_guard.allow('p', array['select'], array['public.*'])", dbname="latin")
    role = "latin_agent"
    server.agent(role, dbname="latin")
    server.run(f"grant select on {name} to {role}", dbname="latin")
    with server.connect(role, "latin") as connection:
        bind(connection, server.window(role, "p", dbname="latin")[1])
        session_id = connection.execute("select session_id from agent_guard.whoami()").fetchone()[0]
        connection.execute(f"select id as {name} from {name}")
    with server.connect(dbname="latin") as admin:
        admin.execute("select agent_guard.audit_flush()")
        ask = lambda query: admin.execute(query, (session_id,)).fetchone()[0]
        texts = ask("select string_agg(statement, ' ') from agent_guard.replay(%s)")
        # The trail keeps U+FFFD for what is not UTF-8; what is asserted is that all of it can be shown.
        assert "select id as gr" in texts, texts
        cast = ask("select agent_guard.asciicast(%s)")
        assert cast.isascii() and "select id as gr" in "".join(json.loads(line)[2] for line in cast.split("\n")[1:])
        report = ask("select agent_guard.session_report(%s)")
        assert report.isascii() and "select id as gr" in report
        reach = admin.execute("select agent_guard.blast_radius_report(%s::regrole, 'p')", (quoted(role),)).fetchone()[0]
        assert reach.isascii() and "public.gr&#xfc;&#xdf;" in reach, reach[reach.index("<h2>Objects"):][:3000]
    server.run("drop database latin with (force)")


def test_the_log_has_a_line_of_json_for_each_event(server):
    server.run("alter system set agent_guard.log_json = on")
    server.run("select pg_reload_conf()")
    eventually(lambda: server.value("show agent_guard.log_json") == "on", "the setting is on")
    try:
        connection, session_id = session(server)
        connection.execute("set application_name = 'logged LOG:  agent_guard event: {}'")
        with connection:
            connection.execute("select 'a\nLOG:  agent_guard event: {\"seq\": 1}\n\u2028' as x")
            connection.execute("select %s::text", ("\n{}\x1b\u202e",))
            connection.execute("update rec.t set v = 'logged' where id = 1")
            expect(DENIED, connection.execute, "alter role rec_agent password 'hunter2'")
        ended(server, session_id)
        stored = server.audit("session_id = %s", session_id, columns="seq, event, command, statement, decision, sqlstate, xid::text, lineage")

        def logged() -> dict:
            lines = re.findall(r"LOG:  agent_guard event: (\{\"seq\":\d+,\"at\":.*)$", server.log(), re.M)
            events = [json.loads(line) for line in lines]
            return {event["seq"]: event for event in events if event.get("session_id") == str(session_id)}

        eventually(lambda: set(logged()) == {row[0] for row in stored}, "each stored event is in the log")
        events = logged()
        for seq, event, command, statement, decision, sqlstate, xid, lineage in stored:
            line = events[seq]
            found = [line.get(key) for key in ("event", "command", "statement", "decision", "sqlstate", "xid", "lineage")]
            assert found == [event, command, statement, decision, sqlstate, xid, lineage], (found, statement)
            assert line["database"] == "postgres" and line["role"] == "rec_agent"
        assert "hunter2" not in "".join(json.dumps(event) for event in events.values())
    finally:
        server.run("alter system reset agent_guard.log_json")
        server.run("select pg_reload_conf()")


if __name__ == "__main__":
    guard.run(globals())
