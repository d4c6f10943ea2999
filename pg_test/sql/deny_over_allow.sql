-- How rules combine: a deny wins over any allow, in any order of writing; nothing matching is a denial.
SET client_min_messages = warning;
CREATE ROLE doa_agent LOGIN;
SELECT agent_guard.guard_role('doa_agent') \gset
CREATE SCHEMA doa;
CREATE TABLE doa.t (id int, v text);
CREATE TABLE doa.u (id int);
INSERT INTO doa.t VALUES (1, 'a');
CREATE FUNCTION doa.f() RETURNS int LANGUAGE sql AS 'SELECT 1';
GRANT USAGE, CREATE ON SCHEMA doa TO doa_agent;
GRANT ALL ON ALL TABLES IN SCHEMA doa TO doa_agent;
GRANT ALL ON ALL SEQUENCES IN SCHEMA doa TO doa_agent;
SELECT agent_guard.create_policy('doa', mode => 'enforce') \gset
SELECT agent_guard.deny('doa', '{delete}', '{doa.t}') AS rule \gset
SELECT agent_guard.allow('doa', '{*}', '{doa.t}') AS rule \gset
SELECT agent_guard.allow('doa', '{select}', '{doa.*}') AS rule \gset
SELECT agent_guard.allow('doa', '{execute}', '{*}') AS rule \gset
SELECT agent_guard.deny('doa', '{execute}', '{"function doa.f()"}') AS rule \gset
SELECT agent_guard.deny('doa', '{drop}') AS rule \gset
SELECT token FROM agent_guard.grant_window('doa', 'doa_agent', 'agent', '1 hour') \gset
\c - doa_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate

SELECT v FROM doa.t;
DELETE FROM doa.t;
UPDATE doa.t SET v = 'b' WHERE id = 1;
SELECT * FROM doa.u;
DELETE FROM doa.u;
SELECT doa.f();
DROP TABLE doa.t;
-- a literal allow does not lift a wider deny
\c - postgres
SELECT agent_guard.deny('doa', '{select}', '{doa.*}') AS wide \gset
\c - doa_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate
SELECT v FROM doa.t;
INSERT INTO doa.t VALUES (2, 'c');
\c - postgres
SELECT agent_guard.drop_rule(:wide) \gset
SELECT agent_guard.deny('doa', '{*}') AS wide \gset
\c - doa_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate
-- a deny of everything leaves what needs no rule
SELECT v FROM doa.t;
SELECT 1;
SHOW server_encoding;
SELECT count(*) > 0 AS some FROM agent_guard.session_policy;
BEGIN;
COMMIT;
\c - postgres
SELECT agent_guard.drop_rule(:wide) \gset
\c - doa_agent
SET agent_guard.token = :'token';
SELECT v FROM doa.t ORDER BY 1;

\c - postgres
SET client_min_messages = warning;
SELECT count(agent_guard.revoke_window(window_id)) AS revoked FROM agent_guard.windows WHERE policy = 'doa' AND state = 'active' \gset
SELECT agent_guard.drop_policy('doa') \gset
DROP SCHEMA doa CASCADE;
DROP OWNED BY doa_agent;
DROP ROLE doa_agent;
