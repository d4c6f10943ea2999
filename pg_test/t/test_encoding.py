"""Databases that are not UTF-8: names that differ in one byte are two names, and the record holds what was sent."""

import guard
from guard import DENIED, bind, expect

# Database encoding, two names that differ in one byte beyond ASCII, and the client encoding that sends them as they are.
ENCODINGS = {
    "LATIN1": (b"caf\xe9", b"caf\xe8"),
    "EUC_JP": (b"\xc6\xfc\xcb\xdc", b"\xc6\xfc\xcb\xdd"),
    # No characters at all: bytes of Latin 1, of UTF-8 and of nothing.
    "SQL_ASCII": (b"caf\xe9", b"caf\xe8"),
}


def setup(server):
    for encoding in ENCODINGS:
        server.run(f"create database {encoding.lower()} encoding '{encoding}' locale 'C' template template0")
        server.run("create extension agent_guard", dbname=encoding.lower())


class Raw:
    """A connection that sends and gets bytes, in the database's own encoding."""

    def __init__(self, server, encoding, user="postgres"):
        self.wire = server.wire(user, encoding.lower(), client_encoding=encoding)

    def __call__(self, query: bytes):
        reply = self.wire.query(query)
        assert not reply.errors, (query, reply.errors)
        return reply.rows

    def refused(self, query: bytes, sqlstate=DENIED):
        reply = self.wire.query(query)
        assert reply.sqlstate == sqlstate, (query, reply.sqlstate, reply.rows)
        return reply.errors[0]


def agent(server, encoding, policy):
    server.agent("enc_agent", dbname=encoding.lower())
    token = server.window("enc_agent", policy, dbname=encoding.lower())[1]
    session = Raw(server, encoding, "enc_agent")
    # psycopg gives bytes in SQL_ASCII.
    session(b"set agent_guard.token = '" + (token if isinstance(token, bytes) else token.encode()) + b"'")
    return session


def each(check):
    """A test of every encoding."""
    def test(server):
        for encoding, (one, other) in ENCODINGS.items():
            try:
                check(server, encoding, one, other)
            except AssertionError as error:
                raise AssertionError(f"{encoding}: {error}") from error

    return test


@each
def test_names_that_differ_in_a_byte_are_two(server, encoding, one, other):
    dba = Raw(server, encoding)
    server.agent("enc_agent", dbname=encoding.lower())
    dba(b"create schema enc")
    for name in (one, other):
        dba(b'create table enc."' + name + b'" (id int, "' + name + b'" text); insert into enc."' + name + b"\" values (1, 'x')")
    dba(b"grant usage on schema enc to enc_agent; grant all on all tables in schema enc to enc_agent")
    dba(b"select agent_guard.create_policy('enc'); select agent_guard.set_recording('enc')")
    dba(b"select agent_guard.allow('enc', '{select}', array['enc.\"" + one + b"\"'])")
    session = agent(server, encoding, "enc")
    assert session(b'select id from enc."' + one + b'"') == [[b"1"]]
    error = session.refused(b'select id from enc."' + other + b'"')
    assert "no rule" in error["D"] or "rule" in error["D"], error
    # By a pattern that holds for one of them alone, from a document.
    dba(b"select agent_guard.apply_policy('{\"name\": \"enc\", \"recording\": {\"results\": \"rows\"}, \"rules\": [{\"effect\": \"allow\", \"actions\": [\"select\"],"
        b" \"objects\": [\"enc.*\"]}, {\"effect\": \"deny\", \"actions\": [\"select\"], \"objects\": [\"enc.\\\"" + other + b"\\\"\"]}]}'::jsonb)")
    assert session(b'select id from enc."' + one + b'"') == [[b"1"]]
    session.refused(b'select id from enc."' + other + b'"')
    exported = dba(b"select agent_guard.export_policy('enc') #>> '{rules,1,objects,0}'")
    assert exported == [[b'enc."' + other + b'"']] or exported == [[b"enc." + other]], exported
    # A column by its name.
    dba(b"select agent_guard.deny('enc', '{select}', array['enc.\"" + one + b'"("' + one + b"\")'])")
    session.refused(b'select "' + one + b'" from enc."' + one + b'"')
    assert session(b'select id from enc."' + one + b'"') == [[b"1"]]


@each
def test_the_trail_holds_what_was_sent(server, encoding, one, other):
    dba = Raw(server, encoding)
    session = agent(server, encoding, "enc")
    statement = b"select '" + one + b"'::text, '*' as \"" + other + b'"'
    session(statement)
    session.wire.parse(b"select $1::text")
    session.wire.bind(values=[other])
    session.wire.describe()
    session.wire.execute()
    assert session.wire.sync().rows == [[other]]
    session.refused(b"select '" + one, "42601")
    dba(b"select agent_guard.audit_flush()")
    pid = str(session.wire.key[0]).encode()
    rows = dba(b"select statement from agent_guard.audit where event = 'statement' and pid = " + pid + b" and statement like 'select %''%' order by seq")
    assert rows == [[statement], [b"select '" + one]], rows
    assert dba(b"select parameters[1] from agent_guard.audit where pid = " + pid + b" and statement = 'select $1::text'") == [[other]]
    results = dba(b"select rows->0->>0, columns->1->>'name' from agent_guard.audit_results r where session_id in (select session_id from agent_guard.audit"
                  b" where pid = " + pid + b") order by at desc limit 2")
    assert results == [[other, None], [one, other]], results
    accesses = dba(b"select distinct accesses->0->>'object' from agent_guard.audit where pid <> " + pid + b" and decision = 'allow' and command = 'SELECT' and accesses is not null")
    assert [b'enc."' + one + b'"'] in accesses or [b"enc." + one] in accesses, accesses
    denied = dba(b"select count(*) from agent_guard.audit where decision = 'deny' and message like '%" + other + b"%'")
    assert int(denied[0][0]) >= 2, denied
    assert dba(b"select intact from agent_guard.verify_audit()") == [[b"t"]]
    sid = dba(b"select session_id from agent_guard.audit where event = 'bind' and pid = " + pid)[0][0]
    shown = dba(b"select statement from agent_guard.replay('" + sid + b"') where statement = '" + statement.replace(b"'", b"''") + b"'")
    assert shown == [[statement]], shown
    assert b"<html" in dba(b"select agent_guard.session_report('" + sid + b"')")[0][0]


@each
def test_masks_and_filters_hold_their_literals(server, encoding, one, other):
    dba = Raw(server, encoding)
    dba(b"create table enc.masked (id int, \"" + one + b"\" text, \"" + other + b"\" text); insert into enc.masked values (1, '" + one + b"', '" + other + b"'), (2, 'y', 'z')")
    dba(b"grant all on enc.masked to enc_agent; select agent_guard.create_policy('maskenc'); select agent_guard.allow('maskenc', '{select}', '{enc.masked}')")
    dba(b"select agent_guard.mask_column('enc.masked', '" + one + b"', expression => $$'" + other + b"' || '!'$$)")
    dba(b"select agent_guard.filter_rows('maskenc', 'enc.masked', $$\"" + other + b"\" = '" + other + b"'$$)")
    session = agent(server, encoding, "maskenc")
    assert session(b"select * from enc.masked") == [[b"1", other + b"!", other]]
    assert dba(b"select agent_guard.export_policy('maskenc') #>> '{row_filters,0,predicate}'")[0][0].count(other) == 2


@each
def test_what_the_agent_is_told_is_in_its_encoding(server, encoding, one, other):
    dba = Raw(server, encoding)
    dba(b"select agent_guard.create_policy('" + one + b"'); select agent_guard.allow('" + one + b"', '{select}', array['enc.\"" + one + b"\"'])")
    server.agent("enc_agent", dbname=encoding.lower())
    token = dba(b"select token from agent_guard.grant_window('" + one + b"', 'enc_agent', 'worker', '1 hour')")[0][0]
    session = Raw(server, encoding, "enc_agent")
    session(b"set agent_guard.token = '" + token + b"'")
    assert session(b"select policy from agent_guard.whoami()") == [[one]]
    assert session(b"select objects[1] from agent_guard.session_policy")[0][0].strip(b'"').removeprefix(b"enc.").strip(b'"') == one
    message = session.wire.query(b'select id from enc."' + other + b'"')
    assert message.sqlstate == DENIED
    # A pattern of one name is not the other's, also where only its mangled form is written.
    assert b"\xef\xbf\xbd" not in dba(b"select string_agg(a::text, '') from agent_guard.audit a")[0][0]


def test_a_client_of_another_encoding_gets_the_same_decision(server):
    connection = server.connect("postgres", "latin1")
    connection.execute("select agent_guard.create_policy('utf'); select agent_guard.allow('utf', '{select}', array['enc.\"caf\u00e9\"'])")
    with connection:
        assert connection.execute("select objects[1] from agent_guard.rules where policy = 'utf'").fetchone()[0].count("caf\u00e9") == 1
    token = server.window("enc_agent", "utf", dbname="latin1")[1]
    with server.connect("enc_agent", "latin1") as connection:
        bind(connection, token)
        assert connection.execute("select count(*) from enc.\"caf\u00e9\"").fetchone()[0] == 1
        expect(DENIED, connection.execute, "select count(*) from enc.\"caf\u00e8\"", match="caf\u00e8")


if __name__ == "__main__":
    guard.run(globals())
