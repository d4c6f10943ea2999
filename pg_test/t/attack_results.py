"""The record of results is what the client received: nothing is read past it, nothing is in it that was not sent."""

import contextlib
import hashlib
import json
import struct

import psycopg

import guard
from guard import DENIED, LIMIT, bind, eventually, expect, reload, stopped
from wire import BINARY

CANARY = "canary-7f3a"
TYPES = {
    "bool": "true", "bytea": r"'\xde00ff'", "\"char\"": "'x'", "name": "'a name'", "int2": "-7", "int4": "2147483647",
    "int8": "-9223372036854775808", "text": "E'tab\\t quote\" back\\\\slash'", "oid": "4294967295", "json": "'{\"a\": [1, null]}'",
    "jsonb": "'{\"b\": \"\\u00e9\"}'", "float4": "1.1e-7", "float8": "-123456.789", "float8 ": "1e300", "varchar": "'v'",
    "bpchar": "'b '", "date": "'2024-02-29'", "time": "'23:59:59.000001'", "timestamp": "'1999-12-31 23:59:59.5'",
    "timestamptz": "'2024-06-01 12:00:00+02'", "numeric": "-12345678901234567890.001200", "numeric ": "'NaN'",
    "uuid": "'0a1b2c3d-0000-ffff-8888-123456789abc'", "int4[]": "'{{1,2},{3,null}}'", "text[]": "array['a,b', null, 'NULL', '']",
    "date ": "'infinity'", "numeric[]": "array[0.10, 1e20]", "timestamptz[]": "array['epoch'::timestamptz]",
}


def setup(server):
    server.run(
        f"""create schema res; create table res.t (id int primary key, v text);
        insert into res.t select n, 'v' || n from generate_series(1, 100) n;
        create table res.secret (id int, ssn text); insert into res.secret values (1, '{CANARY}-1'), (2, '{CANARY}-2');
        create table res.big as select n as id, repeat(md5(n::text), 4) as v from generate_series(1, 3000) n;
        create function res.rows(n int) returns table (a int, b text) language sql as
            $$select id, v from res.t where id <= n order by id$$;
        create function res.fails_at(n int, at int) returns int language plpgsql as
            $$begin if n = at then raise exception 'row % fails', n; end if; return n; end$$;
        create procedure res.out(inout x int) language plpgsql as $$begin x := x + 1; end$$;
        select agent_guard.mask_column('res.secret', 'ssn', 'redact')"""
    )
    for name, recording in (("keeps", "'rows'"), ("digests", "'digest'"), ("first", "'rows', max_rows => 5"), ("silent", "'none'")):
        server.run(
            f"""select agent_guard.create_policy('{name}'); select agent_guard.set_recording('{name}', {recording});
            select agent_guard.allow('{name}', array['select', 'insert', 'update', 'delete'], array['res.*']);
            select agent_guard.allow('{name}', array['execute'], array['function res.*', 'function agent_guard.*'])"""
        )


def agent(server, policy="keeps", role="res_agent", **window):
    """A token for the role, which may do everything here by its own privileges."""
    server.agent(role)
    server.run(f"grant usage on schema res to {role}; grant all on all tables in schema res to {role}")
    return server.window(role, policy, **window)[1]


def session(server, policy="keeps", **window):
    token = agent(server, policy, **window)
    connection = server.connect("res_agent")
    bind(connection, token)
    return connection


def wire(server, policy="keeps", **window):
    token = agent(server, policy, **window)
    connection = server.wire("res_agent")
    assert not connection.query(f"set agent_guard.token = '{token}'").errors
    return connection


def results(server, pid, columns="rows, row_count, recorded, state"):
    """What was recorded of the process's results, in order."""
    server.value("select agent_guard.audit_flush()")
    return server.rows(
        f"""select {columns} from agent_guard.audit_results r
        where session_id in (select session_id from agent_guard.audit where pid = %s) order by at, first_seq""", pid)


def last(server, pid, columns="rows, row_count, recorded, state"):
    return results(server, pid, columns)[-1]


def of_statement(server, pid, text):
    """What replay shows of one statement."""
    server.value("select agent_guard.audit_flush()")
    found = server.rows(
        """select p.results from (select distinct session_id from agent_guard.audit where pid = %s and session_id is not null) s,
        agent_guard.replay(s.session_id) p where p.depth = 0 and p.statement = %s""", pid, text)
    assert len(found) == 1, found
    return found[0][0]


FIRST = [[str(n), f"v{n}"] for n in range(1, 101)]


def test_every_way_that_rows_take_is_recorded(server):
    with session(server) as connection:
        pid = connection.info.backend_pid
        for text, rows, command in (
            ("select id, v from res.t order by id limit 3", FIRST[:3], "SELECT"),
            ("select * from res.rows(2)", FIRST[:2], "SELECT"),
            ("insert into res.t values (101, 'new') returning v, id", [["new", "101"]], "INSERT"),
            ("update res.t set v = 'newer' where id = 101 returning v", [["newer"]], "UPDATE"),
            ("with d as (delete from res.t where id = 101 returning *) select v from d", [["newer"]], "SELECT"),
            ("call res.out(4)", [["5"]], "CALL"),
            ("show datestyle", [["ISO, MDY"]], "SHOW"),
            ("values (null, '')", [[None, ""]], "SELECT"),
        ):
            connection.execute(text)
            found = of_statement(server, pid, text)
            assert found["rows"] == rows and found["command"] == command and found["state"] == "complete", (text, found)
            assert found["row_count"] == found["recorded"] == len(rows), found
        connection.execute("prepare p as select v from res.t where id = $1")
        connection.execute("execute p(7)")
        assert of_statement(server, pid, "execute p(7)")["rows"] == [["v7"]]
        connection.execute("explain select 1")
        assert of_statement(server, pid, "explain select 1")["columns"][0]["name"] == "QUERY PLAN"
        connection.execute("select v from res.t where id = %s", (9,), prepare=True)
        assert of_statement(server, pid, "select v from res.t where id = $1")["rows"] == [["v9"]]
        count = len(results(server, pid))
        connection.execute("select 1 where false")
        connection.execute("update res.t set v = v where id = 1")
        assert len(results(server, pid)) == count, "no rows, no result"


def test_several_statements_in_one_string_are_told_apart(server):
    client = wire(server)
    client.query("select 1 as a; select 2 as b, 3; insert into res.t values (300, 'x') returning id; delete from res.t where id = 300")
    found = results(server, client.key[0], "rows, columns->0->>'name', command")
    assert found == [([["1"]], "a", "SELECT"), ([["2", "3"]], "b", "SELECT"), ([["300"]], "id", "INSERT")], found


def test_rows_in_pieces_are_one_result_in_order(server):
    client = wire(server)
    client.query("begin")
    client.parse("select id, v from res.t order by id")
    client.bind("pieces")
    client.parse("select 'between'")
    client.bind("other")
    for _ in range(3):
        client.execute("pieces", 10)
    client.execute("other")
    client.execute("pieces", 5)
    client.sync()
    assert last(server, client.key[0])[3] in ("suspended", "complete")
    found = results(server, client.key[0], "rows, row_count, state")
    assert found[0] == (FIRST[:35], 35, "suspended"), found
    assert found[1] == ([["between"]], 1, "complete"), found
    client.execute("pieces", 0)
    client.sync()
    client.query("commit")
    assert results(server, client.key[0])[0] == (FIRST, 100, 100, "complete")


def test_returning_in_pieces_is_recorded_after_its_end(server):
    client = wire(server)
    client.query("begin")
    client.parse("update res.t set v = v where id <= 30 returning id")
    client.bind("pieces")
    for _ in range(4):
        client.execute("pieces", 9)
        client.flush()
    client.sync()
    client.query("rollback")
    rows, count, recorded, state = last(server, client.key[0])
    assert sorted(int(row[0]) for row in rows) == list(range(1, 31)) and (count, recorded, state) == (30, 30, "complete")


def test_cursors_are_recorded_fetch_by_fetch(server):
    with session(server) as connection:
        pid = connection.info.backend_pid
        connection.execute("begin")
        connection.execute("declare c scroll cursor with hold for select id, v from res.t order by id")
        connection.execute("fetch 2 from c")
        connection.execute("move 5 in c")
        connection.execute("fetch backward 1 from c")
        connection.execute("commit")
        connection.execute("fetch forward 3 from c")
        found = results(server, pid, "rows, command")
        assert found[-3:] == [(FIRST[:2], "FETCH"), ([FIRST[5]], "FETCH"), (FIRST[6:9], "FETCH")], found
    client = wire(server)
    client.query("begin; declare d cursor for select id, v from res.t order by id; declare h cursor with hold for select v from res.t order by id")
    # The protocol's Execute names the cursors: no statement goes with the rows.
    client.execute("d", 4)
    client.sync()
    client.query("commit")
    client.execute("h", 3)
    assert len(client.sync().rows) == 3
    found = [row[0] for row in results(server, client.key[0], "rows")]
    assert FIRST[:4] in found and [["v1"], ["v2"], ["v3"]] in found, found
    server.value("select agent_guard.audit_flush()")
    (sid,) = server.rows("select session_id from agent_guard.audit where pid = %s and event = 'bind'", client.key[0])[0]
    shown = server.rows("select event, results->'rows' from agent_guard.replay(%s) where event = 'results'", sid)
    assert [row[1] for row in shown] == [FIRST[:4], [["v1"], ["v2"], ["v3"]]], shown


def test_copy_is_recorded_line_by_line(server):
    with session(server) as connection:
        pid = connection.info.backend_pid

        def copied(text):
            with connection.cursor().copy(text) as copy:
                data = b"".join(bytes(piece) for piece in copy)
            return data, last(server, pid, "rows, shape, encoding")

        data, found = copied("copy (select id, v from res.t order by id limit 3) to stdout")
        assert found == ([["1\tv1"], ["2\tv2"], ["3\tv3"]], "copy", "UTF8"), found
        data, found = copied("copy res.t to stdout (format csv, header)")
        assert data.decode().splitlines() == [row[0] for row in found[0]] and found[0][0] == ["id,v"] and len(found[0]) == 101
        data, found = copied("copy (select 'gr\u00fc\u00df'::text) to stdout (encoding 'LATIN1')")
        assert data == "gr\u00fc\u00df\n".encode("latin-1") and found == ([["gr\u00fc\u00df"]], "copy", "LATIN1"), found
        data, found = copied("copy (select 1, 'x'::text) to stdout (format binary)")
        assert found[1] == "copy binary" and bytes.fromhex("".join(row[0]["hex"] for row in found[0])) == data, found
        data, found = copied("copy res.secret to stdout")
        assert CANARY.encode() not in data and len(found[0]) == 2, found
    assert not server.rows("select from agent_guard.audit where parameters::text like %s", f"%{CANARY}%")


def test_binary_reads_as_the_types_own_text(server):
    client = wire(server)
    client.query("set timezone = 'UTC'")
    listed = ", ".join(f"({value})::{name.strip()}" for name, value in TYPES.items())
    plain = client.extended(f"select {listed}").text()[0]
    assert client.extended(f"select {listed}", result=BINARY).rows
    text, binary = [row[0][0] for row in results(server, client.key[0], "rows")[-2:]]
    for name, as_text, as_binary in zip(TYPES, text, binary):
        assert as_text == as_binary, (name, as_text, as_binary)
    assert list(plain) == text
    client.extended("select point '(1,2)', 5", result=BINARY)
    assert last(server, client.key[0])[0] == [[{"hex": struct.pack("!dd", 1, 2).hex()}, "5"]]


def test_masked_values_are_recorded_masked(server):
    with session(server) as connection:
        pid = connection.info.backend_pid
        for text in ("select ssn from res.secret", "select s from res.secret s", "select to_jsonb(s) from res.secret s",
                     "update res.secret set id = id returning ssn"):
            got = [[column if isinstance(column, str) else json.dumps(column) for column in row] for row in connection.execute(text)]
            found = of_statement(server, pid, text)
            assert found["recorded"] == 2 and CANARY not in json.dumps(found), found
            if "jsonb" not in text:
                assert found["rows"] == got, (found, got)
    trail = server.rows("select a::text from agent_guard.audit a where pid = %s", pid)
    assert trail and not any(CANARY in row[0] for row in trail)


def test_what_was_not_sent_is_not_recorded(server):
    client = wire(server)
    reply = client.query("select res.fails_at(n, 8) from generate_series(1, 20) n")
    assert reply.sqlstate == "P0001" and len(reply.rows) == 7
    assert last(server, client.key[0]) == ([[str(n)] for n in range(1, 8)], 7, 7, "error")
    # Stored rows of which none leaves.
    reply = client.query("update res.t set v = res.fails_at(id, 9)::text where id < 20 returning id")
    assert reply.errors and not reply.rows
    assert last(server, client.key[0])[1] == 7
    client.query("begin; select 'undone' as v; rollback")
    assert last(server, client.key[0]) == ([["undone"]], 1, 1, "complete"), "a rollback takes nothing back"


def test_a_limit_ends_the_record_where_it_ends_the_rows(server):
    client = wire(server, rows_read=12)
    assert len(client.query("select v from res.t order by id limit 5").rows) == 5
    reply = client.query("select v from res.t order by id")
    assert reply.sqlstate == LIMIT and len(reply.rows) == 7
    rows, count, recorded, state = last(server, client.key[0])
    assert rows == [[f"v{n}"] for n in range(1, 8)] and (count, recorded, state) == (7, 7, "error")


def test_a_cancel_and_a_lost_connection_keep_what_was_sent(server):
    client = wire(server)
    text = "select n, repeat('x', 2000) from generate_series(1, 1000000) n"
    client.send("Q", text.encode() + b"\0")
    client.until("D")
    client.cancel()
    reply = client.until("Z")
    assert reply.sqlstate == "57014", reply.sqlstate
    assert last(server, client.key[0], "row_count, state") == (1 + len(reply.rows), "error")
    client.send("Q", text.encode() + b"\0")
    client.until("D")
    pid = client.key[0]
    server.run(f"select pg_terminate_backend({pid})")
    client.until("Z")
    eventually(lambda: server.audit("pid = %s and event = 'unbind'", pid), "the end is recorded")
    count, recorded, state, rows = last(server, pid, "row_count, recorded, state, rows")
    assert count > 0 and recorded == len(rows) > 0 and [row[0] for row in rows] == [str(n) for n in range(1, recorded + 1)], (count, recorded, state)


def test_limits_of_the_record_are_kept(server):
    client = wire(server, "first")
    reply = client.query("select id, v from res.t order by id")
    assert len(reply.rows) == 100
    sent = sum(2 + 8 + len(row[0]) + len(row[1]) for row in reply.rows)
    assert last(server, client.key[0], "rows, row_count, recorded, byte_count, state") == (FIRST[:5], 100, 5, sent, "complete")
    server.run("select agent_guard.set_recording('first', 'rows', max_bytes => 100)")
    client.query("select id, v from res.t order by id")
    rows, count, recorded, state = last(server, client.key[0])
    assert rows == FIRST[:7] and (count, recorded) == (100, 7), (rows, recorded)
    server.run("select agent_guard.set_recording('first', 'rows', max_rows => 5)")


def test_large_results_come_back_from_many_parts(server):
    client = wire(server)
    reply = client.query("select id, v from res.big order by id")
    rows, count, recorded, state = last(server, client.key[0])
    assert [[value.decode() for value in row] for row in reply.rows] == rows and (count, recorded, state) == (3000, 3000, "complete")
    (parts,) = server.rows("select count(*) from agent_guard.audit where pid = %s and event = 'results'", client.key[0])[0]
    assert parts > 5, parts
    assert server.value("select intact from agent_guard.verify_audit()")


def test_a_row_beyond_a_part_is_cut_and_says_so(server):
    client = wire(server)
    reply = client.query("select 1, repeat('long ', 20000), 2; select 'next'")
    body = b"\0\3" + b"".join(struct.pack("!i", len(value)) + value for value in reply.rows[0])
    found = results(server, client.key[0], "rows, row_count, recorded")
    row = found[-2][0][0]
    assert row[0] == "1" and ("long " * 20000).startswith(row[1]) and len(row[1]) > 30000, row[1][:20]
    assert row[2] == {"cut": len(body), "sha256": hashlib.sha256(body).hexdigest()}, row[2]
    assert found[-1] == ([["next"]], 1, 1)
    # More than is kept of one statement: only told.
    client.query("select repeat('x', 2000000)")
    assert last(server, client.key[0], "rows, row_count, recorded, byte_count") == ([], 1, 0, 2000006)


def test_a_digest_is_of_the_bytes_as_sent(server):
    client = wire(server, "digests")
    for result in (0, BINARY):
        reply = client.extended("select id, v, null::int from res.t order by id", result=result)
        digest = hashlib.sha256()
        for row in reply.rows:
            digest.update(struct.pack("!h", len(row)))
            for value in row:
                digest.update(struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value)
        found = last(server, client.key[0], "sha256, row_count, recorded, rows")
        assert found == (digest.hexdigest(), 100, 0, []), found
    reply = client.query("copy res.t to stdout")
    assert last(server, client.key[0], "sha256")[0] == hashlib.sha256(b"".join(reply.copied)).hexdigest()


SIZES = "select n, repeat('y', n * n * 31 % 397 + case when n % 500 = 0 then 30000 else 0 end), null from generate_series(1, 3000) n"


def test_rows_of_every_size_are_recorded_as_they_were_sent(server):
    client = wire(server)
    reply = client.query(SIZES)
    rows, count, recorded, state = last(server, client.key[0])
    assert rows == [list(row) for row in reply.text()] and (count, recorded, state) == (3000, 3000, "complete"), (count, recorded, state)
    digests = wire(server, "digests")
    reply = digests.query(SIZES)
    found = last(server, digests.key[0], "sha256, row_count, byte_count")
    assert found == (hashlib.sha256(b"".join(_bodies(reply))).hexdigest(), 3000, sum(map(len, _bodies(reply)))), found
    # Two portals in turn: each has a digest of its own.
    digests.query("begin")
    for portal in "ab":
        digests.parse(f"select '{portal}' || n from generate_series(1, 10) n")
        digests.bind(portal)
    sent = {"a": [], "b": []}
    for portal in "abaabba":
        digests.execute(portal, 2)
        digests.flush()
        sent[portal] += _bodies(digests.until("sC"))
    digests.sync()
    digests.query("commit")
    wanted = {hashlib.sha256(b"".join(bodies)).hexdigest() for bodies in sent.values()}
    assert {row[0] for row in results(server, digests.key[0], "sha256")[-2:]} == wanted


def _bodies(reply):
    """The bodies of the DataRows."""
    return [struct.pack("!h", len(row)) + b"".join(struct.pack("!i", -1) if v is None else struct.pack("!i", len(v)) + v for v in row) for row in reply.rows]


def test_the_edges_of_the_limits_are_exact(server):
    server.run("select agent_guard.create_policy('edge'); select agent_guard.allow('edge', array['select'], array['res.*'])")
    text = "select id, v from res.big order by id limit 500"
    for limit in (1, 499, 500, 501):
        server.run(f"select agent_guard.set_recording('edge', 'rows', max_rows => {limit})")
        client = wire(server, "edge")
        rows = [list(row) for row in client.query(text).text()]
        assert last(server, client.key[0]) == (rows[:limit], 500, min(limit, 500), "complete"), limit
    bodies = list(map(len, _bodies(wire(server, "edge").query(text))))
    for count in (1, 250, 500):
        for spare, kept in ((-1, count - 1), (0, count), (1, count)):
            server.run(f"select agent_guard.set_recording('edge', 'rows', max_bytes => {sum(bodies[:count]) + spare})")
            client = wire(server, "edge")
            client.query(text)
            assert last(server, client.key[0], "row_count, recorded, json_array_length(rows)") == (500, kept, kept), (count, spare)


def test_a_pipeline_is_recorded_up_to_its_error(server):
    client = wire(server)
    before = len(results(server, client.key[0]))
    for text in ("select 1 as a", "select id from res.t order by id limit 3", "select res.fails_at(n, 3) from generate_series(1, 5) n", "select 'never'"):
        client.parse(text)
        client.bind()
        client.execute()
    reply = client.sync()
    assert reply.sqlstate == "P0001" and len(reply.rows) == 6, reply
    found = results(server, client.key[0], "rows, state")[before:]
    assert found == [([["1"]], "complete"), ([["1"], ["2"], ["3"]], "complete"), ([["1"], ["2"]], "error")], found


def test_a_cursor_that_goes_back_and_forth_is_recorded_as_it_went(server):
    client = wire(server)
    client.query("begin; declare c scroll cursor for select id, v from res.t order by id")
    for fetch in ("fetch 4", "fetch backward 2", "fetch absolute 50", "fetch relative -3", "fetch last", "fetch backward all", "fetch first"):
        reply = client.query(f"{fetch} from c")
        assert reply.rows and last(server, client.key[0]) == ([list(row) for row in reply.text()], len(reply.rows), len(reply.rows), "complete"), fetch
    count = len(results(server, client.key[0]))
    client.query("move backward all from c; fetch prior from c; commit")
    assert len(results(server, client.key[0])) == count, "nothing was sent"


def test_copies_that_fail_are_recorded_as_far_as_they_left(server):
    client = wire(server)
    for form in ("text", "csv", "binary"):
        reply = client.query(f"copy (select res.fails_at(n, 4) from generate_series(1, 9) n) to stdout (format {form})")
        assert reply.sqlstate == "P0001"
        rows, count, recorded, state = last(server, client.key[0])
        assert (count, recorded, state) == (len(reply.copied), len(reply.copied), "error") and count >= 3, (form, count, reply.copied)
        wanted = [[{"hex": line.hex()} if form == "binary" else line.decode().rstrip("\n")] for line in reply.copied]
        assert rows == wanted, (form, rows, wanted)


def test_without_recording_there_is_nothing(server):
    client = wire(server, "silent")
    client.query("select * from res.t")
    assert results(server, client.key[0]) == []
    assert server.audit("pid = %s and event = 'results'", client.key[0]) == []


def test_recording_follows_the_policy_at_once(server):
    client = wire(server, "silent")
    client.query("select 'before'")
    server.run("select agent_guard.set_recording('silent')")
    client.query("select 'during'")
    server.run("select agent_guard.set_recording('silent', 'none')")
    client.query("select 'after'")
    assert [row[0] for row in results(server, client.key[0])] == [[["during"]]]


def test_the_agents_settings_do_not_falsify_the_record(server):
    with session(server) as connection:
        pid = connection.info.backend_pid
        connection.execute("set client_encoding = 'LATIN1'")
        connection.execute("set bytea_output = 'escape'")
        connection.execute("set datestyle = 'German'")
        text = "select 'gr\u00fc\u00df', '\\x00ff'::bytea, date '2024-02-29'"
        cursor = psycopg.RawCursor(connection)
        cursor.execute(text.encode("latin-1"))
        assert last(server, pid, "rows, encoding") == ([["gr\u00fc\u00df", "\\000\\377", "29.02.2024"]], "LATIN1")


def test_hostile_texts_stay_within_their_value(server):
    hostile = ['"],["forged"', "\\u0000", "\x01\x02\x7f", "\u202e\u2028", "}]", "x" * 5000 + '"', "\\"]
    with session(server) as connection:
        pid = connection.info.backend_pid
        for text in hostile:
            connection.execute("select %s::text as \"" + text.replace('"', '""').replace("%", "")[:60] + '"', (text,))
            assert last(server, pid)[0] == [[text]], text
        connection.execute("select E'\\x01'::text as \"a\x1b[2Jb\"")
    server.value("select agent_guard.audit_flush()")
    (sid,) = server.rows("select distinct session_id from agent_guard.audit where pid = %s and event = 'bind'", pid)[0]
    cast = [json.loads(line) for line in server.value("select agent_guard.asciicast(%s)", sid).split("\n")]
    screen = "".join(line[2] for line in cast[1:])
    assert "\x1b[2J" not in screen and "\u202e" not in screen and "^[" in screen
    page = server.value("select agent_guard.session_report(%s)", sid)
    assert "\u202e" not in page and "1 row received" in page


def test_a_token_in_a_result_is_taken_out(server):
    with session(server, max_depth=2) as connection:
        pid = connection.info.backend_pid
        token = connection.execute("select agent_guard.delegate('child', '5 min')").fetchone()[0]
        rows = last(server, pid)[0]
        assert token.startswith("agt1.") and token[20:] not in json.dumps(rows) and "<redacted>" in rows[0][0], rows


def test_calls_past_every_statement_are_recorded(server):
    client = wire(server)
    oid = server.value("select 'res.fails_at(int, int)'::regprocedure::oid")
    reply = client.call(oid, (4, 5))
    assert reply.value == b"4", reply
    assert last(server, client.key[0], "rows, shape, command") == ([[{"hex": "34"}]], "call", "FASTPATH")


def test_letting_go_of_the_token_hides_no_rows(server):
    with session(server) as connection:
        pid = connection.info.backend_pid
        expect("28000", connection.execute,
               "update res.t set v = v where id <= 3 returning v, set_config('agent_guard.token', '', false); select 1")
    found = results(server, pid, "rows, row_count")
    # What the client has received of it, if any, is there.
    assert all(count == len(rows) for rows, count in found), found


def test_results_are_out_of_the_agents_reach(server):
    with session(server) as connection:
        for text in ("select * from agent_guard.audit_results", "select agent_guard.set_recording('keeps', 'none')"):
            expect(DENIED, connection.execute, text)


@contextlib.contextmanager
def impatient(server):
    """Nobody waits long for the trail."""
    reload(server, "agent_guard.audit_timeout", "1s")
    try:
        yield
    finally:
        reload(server, "agent_guard.audit_timeout", "20s")


def test_a_row_that_cannot_be_recorded_is_not_sent(server):
    server.run("select agent_guard.set_recording('first', 'rows', max_rows => 1000000, max_bytes => 100000000)")
    client = wire(server, "first")
    client.query("select 1")
    with impatient(server), stopped(server.value("select writer_pid from agent_guard.stat")):
        reply = client.query("select n, repeat('x', 1000) from generate_series(1, 5000) n")
    assert reply.sqlstate == "53100" and 0 < len(reply.rows) < 2000, (reply.sqlstate, len(reply.rows))
    found = last(server, client.key[0], "row_count, recorded, state, rows")
    assert found[:3] == (len(reply.rows), len(reply.rows), "error") and len(found[3]) == len(reply.rows), found[:3]
    assert server.value("select dropped from agent_guard.stat") == 0
    server.run("select agent_guard.set_recording('first', 'rows', max_rows => 5)")


def test_rows_that_waited_for_the_journal_in_vain_are_not_recorded(server):
    client = wire(server)
    pid = client.key[0]
    server.run("alter system set agent_guard.journal = 'sync'")
    server.run("select pg_reload_conf()")
    try:
        eventually(lambda: client.query("show agent_guard.journal").text() == [("sync",)], "the session has the setting")
        client.query("select 'goes'")
        with impatient(server), stopped(server.value("select writer_pid from agent_guard.stat")):
            reply = client.query("select 'never leaves'")
        assert reply.sqlstate == "53100" and not reply.rows, reply
        reply = client.query("select res.fails_at(n, 3) from generate_series(1, 5) n")
        assert len(reply.rows) == 2 and reply.sqlstate == "P0001"
    finally:
        server.run("alter system reset agent_guard.journal")
        server.run("select pg_reload_conf()")
    found = results(server, pid, "rows, state")
    assert [["goes"]] in [row[0] for row in found] and found[-1] == ([["1"], ["2"]], "error"), found
    assert "never leaves" not in str(found), found


def test_the_journal_has_the_rows_too(server):
    client = wire(server)
    client.query("select 'into the journal' as v")
    server.value("select agent_guard.audit_flush()")
    database = server.value("select oid from pg_database where datname = current_database()")
    events = "agent_guard.journal_read('agent_guard_journal/' || %s)"
    assert server.rows(f"select problem from {events} where problem is not null", database) == []
    found = server.rows(f"select event->'parameters' from {events} where event->>'event' = 'results'", database)
    assert any('["into the journal"]' in row[0] for row in found if row[0]), found[-3:]


if __name__ == "__main__":
    guard.run(globals(), conf=["agent_guard.journal = 'on'", "agent_guard.audit_buffer = '1MB'", "agent_guard.audit_timeout = '20s'"])
