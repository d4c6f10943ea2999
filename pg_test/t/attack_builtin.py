"""Built-in functions that are given a relation and reach it past the executor: none reads or changes what is denied."""

import guard
import scene
from guard import DENIED
from scene import Agent

INDEXED = """
set role owner;
create table app.indexed (id int, words tsvector);
create index indexed_brin on app.indexed using brin (id);
create index indexed_gin on app.indexed using gin (words);
insert into app.indexed select n, to_tsvector('english', 'canary ' || n) from generate_series(1, 500) n;
reset role;
"""
# What is handed a table or an index of it.
PAST = (
    "select currtid2('app.secret', '(0,1)')",
    "select brin_summarize_new_values('app.indexed_brin')",
    "select brin_summarize_range('app.indexed_brin', 0)",
    "select brin_desummarize_range('app.indexed_brin', 0)",
    "select gin_clean_pending_list('app.indexed_gin')",
)
# Run queries of their own, which are decided.
QUERYING = (
    "select table_to_xml('app.secret', true, true, '')",
    "select table_to_xml_and_xmlschema('app.secret', true, true, '')",
    "select query_to_xml_and_xmlschema('select * from app.secret', true, true, '')",
    "select query_to_xmlschema('select * from app.secret', true, true, '')",
    "select schema_to_xml_and_xmlschema('app', true, true, '')",
    "select database_to_xml_and_xmlschema(true, true, '')",
    "select * from ts_stat('select to_tsvector(v) from app.secret', 'a')",
    "select ts_rewrite('a'::tsquery, 'select v::tsquery, v::tsquery from app.secret')",
    "select pg_sequence_last_value('app.numbers')",
    "select last_value from pg_sequences",
)


def setup(server):
    scene.setup(server)
    server.run(INDEXED)


def test_no_built_in_reaches_a_denied_relation(server):
    rules = [("allow", ["select", "execute", "insert", "update", "delete"], "*"), ("deny", "*", ["app.secret", "app.indexed", "app.numbers"])]
    with Agent(server, *rules) as agent:
        wrong = []
        for statement in (*PAST, *QUERYING):
            error = agent.attempt(statement)
            if error is None or error.sqlstate != DENIED or not (error.diag.message_detail or "").startswith("reason="):
                wrong.append(f"{statement}: {error}")
        assert not wrong, "\n" + "\n".join(wrong)
        assert not server.value("select count(*) from pg_stat_user_indexes where indexrelname = 'indexed_brin' and idx_scan > 0")
        agent.run("select table_to_xml('app.open', true, true, '')", "select pg_relation_size('app.open')")
    with Agent(server, ("allow", "*", "*")) as agent:
        for statement in PAST:
            agent.refused(statement)
        agent.run("select pg_sequence_last_value('app.numbers')", "vacuum app.indexed")


def test_the_changes_of_a_logical_slot_are_reading_every_table(server):
    server.run("create role changer login replication; grant all on schema app to changer; grant all on all tables in schema app to changer; select agent_guard.guard_role('changer', allow_privileged => true)")
    server.run("select pg_create_logical_replication_slot('changes', 'test_decoding')")
    takes = [f"select data from pg_logical_slot_{verb}_changes('changes', null, null)" for verb in ("peek", "get")] + [f"select count(*) from pg_logical_slot_{verb}_binary_changes('changes', null, null)" for verb in ("peek", "get")]
    try:
        server.run("insert into app.secret values (9, 'canary')")
        everything = ("allow", ["select", "system"], "*")
        for rule in (("deny", "select", "app.secret"), ("deny", "*", "app.secret"), ("deny", "select", "app.secret", {"columns": ["v"]}), ("require_approval", "select", "app.secret", {"approvers": ["keeper"]})):
            with Agent(server, everything, rule, role="changer") as agent:
                for statement in takes:
                    error = agent.attempt(statement)
                    assert error is not None and error.sqlstate in (DENIED, "PGA01"), f"{statement} beside {rule}: {error}"
        server.run("select agent_guard.mask_column('app.nulled', 'open_id', 'null')")
        with Agent(server, everything, role="changer") as agent:
            for statement in takes:
                agent.refused(statement)
        server.run("select agent_guard.unmask_column('app.nulled', 'open_id')")
        with Agent(server, everything, role="changer") as agent:
            assert any("canary" in row[0] for row in agent.run(takes[0]))
    finally:
        server.run("delete from app.secret where id = 9; select pg_drop_replication_slot('changes')")


if __name__ == "__main__":
    guard.run(globals(), conf=["autovacuum = off", "wal_level = logical"])
