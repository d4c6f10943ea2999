"""The SQL in README.md and docs/*.md runs as it stands there.

The fenced blocks of a page are run in order, each page in a database of its own:

    sql               as a superuser, one statement after the other
    sql agent         as the guarded role of the window granted last, in a new session bound to its token
    sql no-token      as that role in a new session without a token
    ... fails=42501   each statement of the block must fail with that SQLSTATE
    sql no-test       is not run; a comment <!-- no-test: reason --> stands before it

A comment <!-- fixture: NAME --> in a page names what is made first. `\\gset` and `:'name'` work as in psql: so a token
goes from one block to the next when a page is pasted.
"""

from __future__ import annotations

import dataclasses
import pathlib
import re

import psycopg
from psycopg import sql

import guard

PAGES = [guard.TOP / "README.md", *sorted((guard.TOP / "docs").glob("*.md"))]

SHOP = """
create schema shop;
create table shop.customers (id int generated always as identity primary key, name text not null, email text not null unique);
create table shop.orders (id int generated always as identity primary key,
    customer_id int not null references shop.customers on delete cascade, status text not null default 'open', total numeric);
create table shop.payments (id int generated always as identity primary key,
    order_id int not null references shop.orders on delete cascade, amount numeric not null);
insert into shop.customers (name, email) select 'name ' || n, 'n' || n || '@example.com' from generate_series(1, 20) n;
insert into shop.orders (customer_id, total) select 1 + n % 20, n from generate_series(1, 60) n;
insert into shop.payments (order_id, amount) select n, n from generate_series(1, 30) n;
create view shop.mailing as select name, email from shop.customers;
create function shop.order_total(customer int) returns numeric language sql stable
    as 'select sum(total) from shop.orders where customer_id = customer';
create function shop.tidy_up() returns void language plpgsql as 'begin drop table shop.payments; end';
"""

# The guarded agent holds every ordinary privilege, so that what refuses is the guard.
GUARDED_SHOP = """
create extension agent_guard;
create role shop_agent login;
grant all on schema shop to shop_agent;
grant all on all tables in schema shop to shop_agent;
grant all on all sequences in schema shop to shop_agent;
select agent_guard.guard_role('shop_agent');
"""

FIXTURES = {"empty": "", "shop": SHOP, "guarded shop": SHOP + GUARDED_SHOP}

FENCE = re.compile(r"^```(\w*)[ ]?(.*)$")
REASON = re.compile(r"<!-- no-test: \S.* -->")
FIXTURE = re.compile(r"<!-- fixture: (.+?) -->")
# What hides a semicolon: quoted text, dollar-quoted text, comments. Then what ends a statement.
TOKEN = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|(\$\w*\$).*?\1|--[^\n]*|/\*.*?\*/|(;|\\gset)", re.S)


@dataclasses.dataclass
class Block:
    page: pathlib.Path
    line: int
    words: list[str]
    text: str
    before: str  # the line above that is not empty

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(guard.TOP)}:{self.line}"

    @property
    def fails(self) -> str | None:
        return next((word.removeprefix("fails=") for word in self.words if word.startswith("fails=")), None)


def blocks(page: pathlib.Path) -> list[Block]:
    """The page's SQL blocks."""
    found, inside, before = [], None, ""
    for number, line in enumerate(page.read_text().splitlines(), 1):
        fence = FENCE.match(line)
        if inside is None and fence:
            inside = Block(page, number, fence[2].split(), "", before)
            language = fence[1]
        elif inside is not None and line == "```":
            if language == "sql":
                found.append(inside)
            inside = None
        elif inside is not None:
            inside.text += line + "\n"
        elif line.strip():
            before = line.strip()
    assert inside is None, f"{page.name}: a fence is not closed"
    return found


def statements(text: str) -> list[tuple[str, bool]]:
    """Each statement, and whether \\gset keeps its row."""
    found, begin = [], 0
    for token in TOKEN.finditer(text):
        if token[2]:
            found.append((text[begin : token.start()], token[2] != ";"))
            begin = token.end()
    rest = re.sub(r"--[^\n]*", "", text[begin:]).strip()
    assert not rest, f"a statement without an end: {rest}"
    return [(statement.strip(), keeps) for statement, keeps in found]


class Page:
    """One page while it runs."""

    def __init__(self, server: guard.Server, dbname: str):
        self.server, self.dbname = server, dbname
        self.variables: dict[str, str] = {}
        self.admin = server.connect(dbname=dbname)

    def run(self, block: Block) -> None:
        connection = self.connection(block)
        try:
            for statement, keeps in statements(block.text):
                self.one(block, connection, statement, keeps)
        finally:
            if connection is not self.admin:
                connection.close()

    def connection(self, block: Block) -> psycopg.Connection:
        if not {"agent", "no-token"} & set(block.words):
            return self.admin
        query = "select role::text from agent_guard.windows order by granted_at desc limit 1"
        role = self.admin.execute(query).fetchone()
        assert role, f"{block.where}: no window was granted before"
        connection = self.server.connect(role[0].strip('"'), self.dbname)
        if "agent" in block.words:
            guard.bind(connection, self.variables["token"])
        return connection

    def one(self, block: Block, connection: psycopg.Connection, statement: str, keeps: bool) -> None:
        def literal(match: re.Match) -> str:
            return sql.Literal(self.variables[match[1]]).as_string(self.admin)

        found, row = None, None
        try:
            cursor = connection.execute(re.sub(r":'(\w+)'", literal, statement))
            if keeps:
                row = cursor.fetchone()
                self.variables |= {column.name: str(value) for column, value in zip(cursor.description, row)}
        except psycopg.Error as error:
            found = error.sqlstate
            said = f"{error.sqlstate} {error.diag.message_primary}"
            assert block.fails, f"{block.where}: {said}: {statement}"
        assert found == block.fails, f"{block.where}: expected {block.fails}, got {found}: {statement}"

    def close(self) -> None:
        self.admin.close()


def run_page(server: guard.Server, page: pathlib.Path) -> None:
    found = [block for block in blocks(page) if "no-test" not in block.words]
    if not found:
        return
    name = FIXTURE.search(page.read_text())
    assert name, f"{page.name} has SQL to run and names no fixture"
    dbname = "docs_" + page.stem.lower().replace("-", "_")
    server.run(f"create database {dbname}")
    running = Page(server, dbname)
    try:
        running.admin.execute(FIXTURES[name[1]])
        for block in found:
            running.run(block)
    finally:
        running.close()
        forget(server, dbname)


def forget(server: guard.Server, dbname: str) -> None:
    """Drops what a page leaves behind: its database and the roles that it made."""
    server.run(f"drop database {dbname} with (force)")
    for (role,) in server.rows("select quote_ident(rolname) from pg_roles where oid >= 16384"):
        server.run(f"drop role {role}")


def test_every_block_says_how_it_is_run():
    known = {"agent", "no-token", "no-test"}
    for page in PAGES:
        for block in blocks(page):
            odd = [word for word in block.words if word not in known and not re.fullmatch(r"fails=[0-9A-Z]{5}", word)]
            assert not odd, f"{block.where}: unknown {odd}"
            if "no-test" in block.words:
                assert REASON.search(block.before), f"{block.where}: no-test without its reason in the line above"


def test_links_lead_somewhere():
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (page.parent / link).exists(), f"{page.name}: {link} does not exist"


def test_named_places_exist():
    """Files of the repository and tests that the pages name in backticks are there, so that a promise keeps its test."""
    suites = {path.name: path.read_text() for path in (guard.TOP / "pg_test").glob("*/*.py")}
    tests = "\n".join(suites.values())
    # testing.md also tells of files that somebody is to add.
    for page in (page for page in PAGES if page.stem != "testing"):
        for name in re.findall(r"`([^`\s]+)`", page.read_text()):
            if name.startswith(("src/", "sql/", "pg_test/", "docs/")) and not re.search("[*<]|NAME|VERSION", name):
                assert (guard.TOP / name).exists(), f"{page.name}: {name} does not exist"
            elif re.fullmatch(r"(attack|test)_\w+\.py", name):
                assert name in suites, f"{page.name}: no suite {name}"
            elif re.fullmatch(r"test_[a-z_]+", name):
                assert f"def {name}(" in tests, f"{page.name}: no test {name}"


def test_every_reason_is_explained():
    """Each reason word that the code gives stands in docs/errors.md."""
    made = re.compile(r'(?:Refusal::handshake\(|SqlState::\w+,)\s*"([a-z_]+)",')
    chosen = re.compile(r'=> (?:\{\s*)?\(\s*"([a-z_]+)",')
    reasons = set()
    for path in (guard.TOP / "src").rglob("*.rs"):
        code = path.read_text().split("#[cfg(test)]")[0]
        reasons |= set(made.findall(code)) | (set(chosen.findall(code)) if path.name == "explain.rs" else set())
    assert len(reasons) > 30, reasons
    page = (guard.TOP / "docs" / "errors.md").read_text()
    missing = sorted(reason for reason in reasons if f"`{reason}`" not in page)
    assert not missing, f"errors.md does not explain {missing}"


def test_pages_are_ascii():
    for page in PAGES:
        for number, line in enumerate(page.read_text().splitlines(), 1):
            assert line.isascii(), f"{page.name}:{number}: not ASCII"


def named_test(page: pathlib.Path):
    def test(server: guard.Server) -> None:
        run_page(server, page)

    return test


for _page in PAGES:
    globals()["test_sql_of_" + _page.stem.lower().replace("-", "_")] = named_test(_page)


if __name__ == "__main__":
    guard.run(globals(), extension=False)
