-- Every statement of a guarded session is in the trail, whatever became of it.
SET client_min_messages = warning;
CREATE ROLE aud_agent LOGIN;
SELECT agent_guard.guard_role('aud_agent') \gset
CREATE SCHEMA aud;
CREATE TABLE aud.t (id int PRIMARY KEY, v text);
CREATE TABLE aud.shut (id int);
INSERT INTO aud.t VALUES (1, 'a'), (2, 'b');
CREATE FUNCTION aud.f() RETURNS bigint LANGUAGE plpgsql AS $$BEGIN RETURN (SELECT count(*) FROM aud.shut); END$$;
CREATE FUNCTION aud.swallows() RETURNS text LANGUAGE plpgsql AS
    $$BEGIN RETURN 1 / 0; EXCEPTION WHEN division_by_zero THEN RETURN 'caught'; END$$;
GRANT USAGE, CREATE ON SCHEMA aud TO aud_agent;
GRANT ALL ON ALL TABLES IN SCHEMA aud TO aud_agent;
GRANT ALL ON ALL SEQUENCES IN SCHEMA aud TO aud_agent;
SELECT agent_guard.create_policy('aud', mode => 'enforce') \gset
SELECT agent_guard.allow('aud', '{select,insert,update}', '{aud.t}') AS rule \gset
SELECT agent_guard.allow('aud', '{execute}', '{function aud.*}') AS rule \gset
SELECT agent_guard.deny('aud', '{delete}', '{aud.t}') AS rule \gset
SELECT token FROM agent_guard.grant_window('aud', 'aud_agent', 'agent', '1 hour') \gset
\c - aud_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate

SELECT v FROM aud.t WHERE id = 1;
SELECT * FROM aud.shut;
DELETE FROM aud.t;
SELEC 1;
SELECT * FROM aud.missing;
SELECT 1 / (id - 1) FROM aud.t;
INSERT INTO aud.t VALUES (1, 'dup');
SELECT aud.f();
SELECT aud.swallows();
BEGIN;
UPDATE aud.t SET v = 'x' WHERE id = 2;
ROLLBACK;
SELECT 1 AS a \; SELECT 2 AS b;
PREPARE p (int) AS SELECT v FROM aud.t WHERE id = $1;
EXECUTE p (2);
COPY aud.t (id) TO STDOUT;
CREATE TABLE aud.made (id int);
VACUUM aud.t;
SELECT E'two\nlines' AS nl;
ALTER ROLE aud_agent PASSWORD 'hunter2';
RESET agent_guard.token;
SELECT 3 AS unbound;
SET agent_guard.token = 'agt1.nonsense';
\c - postgres
SELECT agent_guard.audit_flush() \gset
\pset null -
SELECT event, level AS l, command, decision, rows, sqlstate, left(statement, 60) AS statement FROM agent_guard.audit
WHERE role = 'aud_agent' AND database = current_database() ORDER BY seq;
SELECT command, a->>'action' AS action, a->>'object' AS object, a->>'columns' AS columns, a->>'decision' AS decision
FROM agent_guard.audit, jsonb_array_elements(accesses) a
WHERE role = 'aud_agent' AND decision IN ('allow', 'deny') AND a->>'object' LIKE 'aud.%' ORDER BY seq, 2, 3;
-- who, and nothing secret
SELECT count(*) > 20 AS all, bool_and(lineage = '{agent}') AS lineage, bool_and(pid > 0) AS pid,
    bool_and(duration >= '0') AS duration
FROM agent_guard.audit WHERE role = 'aud_agent' AND event = 'statement' AND session_id IS NOT NULL;
SELECT count(*) FROM agent_guard.audit a WHERE a::text LIKE '%hunter2%' OR a::text LIKE '%' || split_part(:'token', '.', 4) || '%';
-- nothing an agent does reaches it
SELECT min(seq) IS NOT NULL AS kept, count(*) = max(seq) - min(seq) + 1 AS gapless FROM agent_guard.audit;
\pset null ''

\c - postgres
SET client_min_messages = warning;
SELECT count(agent_guard.revoke_window(window_id)) AS revoked FROM agent_guard.windows WHERE policy = 'aud' AND state = 'active' \gset
SELECT agent_guard.drop_policy('aud') \gset
DROP SCHEMA aud CASCADE;
DROP OWNED BY aud_agent;
DROP ROLE aud_agent;
