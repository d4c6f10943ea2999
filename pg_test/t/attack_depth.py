"""Statements as deep and as wide as the server takes them: each is answered, by rows or by an error, and no backend dies."""

import psycopg

import guard
import scene
from scene import Agent

EVERYTHING = ("allow", "*", "*")


def nested(before, inner, after):
    return lambda n: before * n + inner + after * n


# The shape of a statement by its depth, and the greatest depth that is worth the time.
SHAPES = {
    "calls": (lambda n: "select " + nested("abs(", "1", ")")(n), 8000),
    "calls over a masked table": (lambda n: "select " + nested("upper(", "hidden", ")")(n) + " from app.open", 8000),
    "negations": (lambda n: "select " + "not " * n + "true", 8000),
    "minus": (lambda n: "select " + nested("-(", "1", ")")(n), 8000),
    "cases": (lambda n: "select " + nested("case when true then ", "1", " end")(n), 8000),
    "sums": (lambda n: "select " + "+".join(["1"] * n), 20000),
    "or": (lambda n: "select 1 from app.open where " + " or ".join(["id = 1"] * n), 20000),
    "concatenations": (lambda n: "select " + "||".join(["hidden"] * n) + " from app.open", 20000),
    "arrays": (lambda n: "select " + nested("array[", "1", "]")(n), 8000),
    "rows": (lambda n: "select " + nested("row(", "1", ")")(n), 8000),
    "subqueries": (lambda n: "select " + nested("(select ", "1", ")")(n), 3000),
    "derived tables": (lambda n: "select * from " + nested("(select * from ", "app.open", ") x")(n), 3000),
    "conditions": (lambda n: "select 1 where " + nested("exists (select 1 where ", "true", ")")(n), 3000),
    "unions": (lambda n: " union all ".join(["select 1"] * n), 3000),
    "lists": (lambda n: "select 1 where 1 in (" + ",".join(["1"] * n) + ")", 20000),
    "with": (lambda n: "with " + ", ".join(f"c{i} as (select * from {f'c{i - 1}' if i else 'app.open'})" for i in range(n)) + f" select * from c{n - 1}", 300),
    "joins": (lambda n: "select 1 from app.open a0" + "".join(f" cross join app.open a{i}" for i in range(1, n)) + " limit 1", 100),
    "an explained one": (lambda n: "explain select " + nested("abs(", "1", ")")(n), 8000),
    "a copied one": (lambda n: "copy (select " + nested("abs(", "1", ")")(n) + ") to stdout", 8000),
    "a table made of one": (lambda n: "create temporary table deep as select " + nested("abs(", "1", ")")(n) + " as n", 8000),
    "a block": (lambda n: "do $$begin perform " + nested("abs(", "1", ")")(n) + "; end$$", 8000),
    "an index": (lambda n: "create index on app.open ((" + nested("abs(", "id", ")")(n) + "))", 8000),
    "a check": (lambda n: "alter table app.open add check (" + nested("abs(", "id", ")")(n) + " >= 0)", 8000),
    "a default": (lambda n: "alter table app.open add column deep int default " + nested("abs(", "1", ")")(n), 8000),
    "a row security policy": (lambda n: "create policy deep on app.secret using (" + nested("abs(", "id", ")")(n) + " >= 0)", 8000),
    "an update": (lambda n: "update app.open set v = " + nested("upper(", "v", ")")(n) + " returning hidden", 8000),
}
DEPTHS = (100, 1500, 2600, 3000, 3700, 5000, 8000, 20000)


def setup(server):
    scene.setup(server)
    server.run("select agent_guard.mask_column('app.open', 'hidden', 'redact')")


def run(connection, text):
    if not text.startswith("copy"):
        connection.execute(text)
        return
    with connection.cursor().copy(text) as copy:
        for _ in copy:
            pass


def test_no_statement_is_too_deep_or_too_wide(server):
    wrong = []
    with Agent(server, EVERYTHING, ("deny", "select", "app.heir")) as agent:
        for name, (shape, greatest) in SHAPES.items():
            for depth in (one for one in DEPTHS if one <= greatest):
                connection = agent.connection
                connection.execute("begin; set local statement_timeout = '2s'")
                try:
                    run(connection, shape(depth))
                except psycopg.Error as error:
                    if connection.closed:
                        wrong.append(f"{name}, {depth} deep: {error}")
                        guard.eventually(server.answers, "the server recovers")
                        return _tell(wrong)
                connection.execute("rollback")
        assert agent.run("select count(*) from app.open") == [(3,)], "the session goes on"
        agent.refused("select * from app.heir")
    _tell(wrong)


def _tell(wrong):
    assert not wrong, "\n" + "\n".join(wrong)


def test_views_upon_views(server):
    with Agent(server, EVERYTHING, ("deny", ["select", "lock"], "app.secret")) as agent:
        for base, may in (("app.open", True), ("app.secret", False)):
            scene.workshop(server)
            agent.run(f"create view other.v0 as select id, v from {base}", *(f"create view other.v{i} as select * from other.v{i - 1}" for i in range(1, 150)))
            if may:
                assert agent.run("select count(*) from other.v149") == [(3,)]
            else:
                agent.refused("select count(*) from other.v149")
                agent.run("begin")
                agent.refused("lock other.v149", unchanged=False)
    scene.workshop(server)


if __name__ == "__main__":
    guard.run(globals())
