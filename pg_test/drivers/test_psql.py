"""psql as the agent: its backslash commands, scripts and COPY, compared with the same of a superuser."""

import re

import chinook
from chinook import AGENT, DATABASE, REFUSED

WORK = {
    "d": ["\\d"],
    "d of tables": ["\\d track", "\\d+ track", "\\d employee", "\\d playlist_track"],
    "d of a view": ["\\d+ invoice_totals"],
    "dt": ["\\dt", "\\dt+", "\\dt public.*"],
    "di": ["\\di", "\\di+"],
    "dv": ["\\dv", "\\dv+"],
    "ds": ["\\ds"],
    "dn": ["\\dn+"],
    "df": ["\\df", "\\df pg_catalog.lower"],
    "dT": ["\\dT"],
    "do": ["\\do ||"],
    "du": ["\\du"],
    "dp": ["\\dp"],
    "dx": ["\\dx"],
    "l": ["\\l"],
    "dd": ["\\dd"],
    "db": ["\\db"],
    "dC": ["\\dC"],
    "dconfig": ["\\dconfig work_mem"],
    "encoding": ["\\encoding"],
    "help": ["\\h select"],
    "a join": ["select ar.name, count(*) from artist ar join album al using (artist_id) group by 1 order by 2 desc, 1 limit 5"],
    "a window function": ["select name, rank() over (order by milliseconds desc) from track order by 2, 1 limit 5"],
    "a view": ["select * from invoice_totals order by spent desc, customer_id limit 3"],
    "a function": ["select track_count(1)"],
    "a recursive CTE": ["with recursive n(i) as (select 1 union all select i + 1 from n where i < 5) select * from n"],
    "gx": ["select * from album where album_id = 1 \\gx"],
    "gset": ["select 7 as id \\gset", "select name from genre where genre_id = :id"],
    "gexec": ["select 'select ' || n from generate_series(1, 3) n \\gexec"],
    "crosstabview": ["select billing_country, 1, count(*) from invoice group by 1 order by 1 \\crosstabview"],
    "gdesc": ["select * from track \\gdesc"],
    "COPY to stdout": ["copy genre to stdout", "copy (select * from track order by track_id limit 20) to stdout with (format csv, header)"],
    "the client's copy": ["\\copy media_type to stdout csv"],
    "a transaction": ["begin", "insert into playlist values (701, 'mine') returning *", "savepoint s", "rollback to s", "rollback"],
    "copy in": ["begin", "copy playlist from stdin;\n702\tcopied\n703\ttoo\n\\.", "select * from playlist where playlist_id > 700 order by 1", "rollback"],
    "EXPLAIN": ["explain (costs off) select * from track where track_id = 1"],
    "settings": ["set statement_timeout = '30s'", "show statement_timeout", "set timezone = 'UTC'", "set datestyle = iso", "select date '2026-01-31'"],
    "a cursor": ["begin", "declare c scroll cursor for select * from genre order by 1", "fetch 3 from c", "fetch backward 1 from c", "close c", "commit"],
    "PREPARE": ["prepare p(int) as select * from genre where genre_id = $1", "execute p(3)", "deallocate p"],
    "an error of its own": ["select 1/0", "select * from no_such_table", "selec 1", "insert into playlist values (1, 'twice')"],
}


def _psql(server, user, lines, options=""):
    """The output of psql for these lines: backslash commands and COPY data as they stand, statements ended by a semicolon."""
    script = "".join(line + ("\n" if "\\" in line else ";\n") for line in lines)
    done = server.psql("-v", "VERBOSITY=verbose", user=user, dbname=DATABASE, stdin=script, options=options)
    # Where in the server's source an error came from is not the client's business.
    return done.stdout, re.sub(r"^LOCATION:.*\n", "", done.stderr, flags=re.M)


def work(server, lines):
    wanted = _psql(server, "postgres", lines)
    found = _psql(server, AGENT, lines, chinook.handshake(server))
    assert any(wanted), "the work gives nothing to compare"
    assert found == wanted, f"the superuser got {wanted!r:.400}, the agent {found!r:.400}"


def refused(server, statement):
    out, err = _psql(server, AGENT, [statement], chinook.handshake(server))
    assert re.search(r"^ERROR:  42501: ", err, re.M), f"expected 42501, got {err or out!r:.300}"
    assert re.search(r"^DETAIL:  reason=", err, re.M), f"refused, but not by the guard: {err}"


def test_set_binds_too(server):
    out, err = _psql(server, AGENT, [f"set agent_guard.token = '{server.token}'", "select count(*) from genre"])
    assert not err and "25" in out, (out, err)


def test_no_token_no_access(server):
    out, err = _psql(server, AGENT, ["select count(*) from genre"])
    assert "ERROR:  28000: " in err, (out, err)


globals().update(chinook.each(WORK, work) | chinook.each(REFUSED, refused))

if __name__ == "__main__":
    chinook.run(globals())
