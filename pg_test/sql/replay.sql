-- A session is played back in the order in which its statements began, and each says what became of it.
SET client_min_messages = warning;
CREATE ROLE rep_agent LOGIN;
SELECT agent_guard.guard_role('rep_agent') \gset
CREATE SCHEMA rep;
CREATE TABLE rep.t (id int PRIMARY KEY, v text);
INSERT INTO rep.t VALUES (1, 'a'), (2, 'b');
CREATE FUNCTION rep.outer_one() RETURNS bigint LANGUAGE plpgsql AS
    $$BEGIN INSERT INTO rep.t VALUES (10, 'x'); RETURN rep.inner_one(); END$$;
CREATE FUNCTION rep.inner_one() RETURNS bigint LANGUAGE plpgsql AS $$BEGIN RETURN (SELECT count(*) FROM rep.t); END$$;
CREATE FUNCTION rep.catches() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO rep.t VALUES (30, 'stays');
    BEGIN
        INSERT INTO rep.t VALUES (31, 'goes');
        PERFORM 1 / 0;
    EXCEPTION WHEN division_by_zero THEN
        INSERT INTO rep.t VALUES (32, 'stays too');
    END;
    RETURN 'caught';
END$$;
GRANT USAGE ON SCHEMA rep TO rep_agent;
GRANT ALL ON ALL TABLES IN SCHEMA rep TO rep_agent;
SELECT agent_guard.create_policy('rep') \gset
SELECT agent_guard.allow('rep', '{select,insert,update}', '{rep.t}') AS rule \gset
SELECT agent_guard.allow('rep', '{execute}', '{function rep.*}') AS rule \gset
SELECT token FROM agent_guard.grant_window('rep', 'rep_agent', 'planner', '1 hour') \gset
\c - rep_agent
SET agent_guard.token = :'token';
SELECT session_id FROM agent_guard.whoami() \gset
\set VERBOSITY sqlstate
UPDATE rep.t SET v = 'kept' WHERE id = 1;
BEGIN;
UPDATE rep.t SET v = 'gone' WHERE id = 2;
SELECT count(*) FROM rep.t;
ROLLBACK;
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM rep.t ORDER BY id;
FETCH 1 FROM c;
COMMIT;
SELECT rep.outer_one();
BEGIN;
INSERT INTO rep.t VALUES (20, 'before');
SAVEPOINT a;
INSERT INTO rep.t VALUES (21, 'in a');
ROLLBACK TO a;
INSERT INTO rep.t VALUES (22, 'in a again');
RELEASE a;
COMMIT;
SELECT rep.catches();
DELETE FROM rep.t;
INSERT INTO rep.t VALUES (1, 'again');
SELECT E'\x1b[2Jhidden' AS v;
-- an agent sees nothing of it, whatever it has been granted
SELECT * FROM agent_guard.replay(:'session_id');
SELECT agent_guard.asciicast(:'session_id');
\c - postgres
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA agent_guard TO rep_agent;
\c - rep_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate
SELECT count(*) FROM agent_guard.replay(:'session_id');
SELECT agent_guard.replay_steps('[]');
\c - postgres
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA agent_guard FROM rep_agent;
SELECT agent_guard.audit_flush() \gset
\pset null -
SELECT step, repeat('  ', depth) || regexp_replace(COALESCE(statement, message), '''[-0-9a-f]{36}''', '(id)') AS what, decision, rows, effect, sqlstate
FROM agent_guard.replay(:'session_id') WHERE event <> 'unbind';
SELECT id FROM rep.t WHERE id >= 20 ORDER BY id;
SELECT bool_and(since_start >= '0') AS forward, count(parent) AS nested, bool_and(duration >= '0') AS timed
FROM agent_guard.replay(:'session_id');
-- a recording: a header and a line for each piece of output, nothing else
SELECT line::json->'version' AS version, line::json->>'title' LIKE 'planner as rep_agent, session %' AS title
FROM regexp_split_to_table(agent_guard.asciicast(:'session_id'), '\n') WITH ORDINALITY AS l (line, n) WHERE n = 1;
SELECT bool_and(line::json->>1 = 'o') AS output, bool_or(line::json->>2 LIKE '%' || U&'\001B' || '[2J%') AS driven,
    bool_or(line::json->>2 LIKE '%42501%') AS refusals,
    max((line::json->>0)::float8) > 1 AS timed
FROM regexp_split_to_table(agent_guard.asciicast(:'session_id', max_pause => '0.5 s'), '\n') WITH ORDINALITY AS l (line, n)
WHERE n > 1 AND line <> '';
-- what there is nothing of
SELECT count(*) FROM agent_guard.replay('00000000-0000-0000-0000-000000000000');
SELECT agent_guard.asciicast('00000000-0000-0000-0000-000000000000');
SELECT agent_guard.asciicast(:'session_id', max_pause => '-1 s');
-- an auditor needs no more than EXECUTE
CREATE ROLE rep_auditor LOGIN;
\c - rep_auditor
SELECT count(*) FROM agent_guard.replay(:'session_id');
\c - postgres
GRANT EXECUTE ON FUNCTION agent_guard.replay(uuid) TO rep_auditor;
\c - rep_auditor
SELECT count(*) > 10 AS played FROM agent_guard.replay(:'session_id');

\c - postgres
SET client_min_messages = warning;
SELECT count(agent_guard.revoke_window(window_id)) AS revoked FROM agent_guard.windows WHERE policy = 'rep' AND state = 'active' \gset
SELECT agent_guard.drop_policy('rep') \gset
DROP SCHEMA rep CASCADE;
DROP OWNED BY rep_agent, rep_auditor;
DROP ROLE rep_agent, rep_auditor;
