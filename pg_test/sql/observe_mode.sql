-- Observing blocks nothing and records what would have been denied: by the policy's mode.
SET client_min_messages = warning;
CREATE ROLE obs_agent LOGIN;
SELECT agent_guard.guard_role('obs_agent') \gset
CREATE SCHEMA obs;
CREATE TABLE obs.t (id int);
CREATE TABLE obs.capped (id int);
INSERT INTO obs.t VALUES (1), (2);
INSERT INTO obs.capped VALUES (1), (2);
ALTER TABLE obs.t OWNER TO obs_agent;
ALTER TABLE obs.capped OWNER TO obs_agent;
GRANT USAGE, CREATE ON SCHEMA obs TO obs_agent;
GRANT ALL ON ALL TABLES IN SCHEMA obs TO obs_agent;
GRANT ALL ON ALL SEQUENCES IN SCHEMA obs TO obs_agent;
SELECT agent_guard.create_policy('obs', mode => 'observe') \gset
SELECT agent_guard.allow('obs', '{select}', '{obs.capped}', require_where => true, max_rows => 1) AS rule \gset
SELECT agent_guard.allow('obs', '{delete,truncate}', '{obs.capped}', max_rows => 1) AS rule \gset
SELECT token FROM agent_guard.grant_window('obs', 'obs_agent', 'agent', '1 hour') \gset
\c - obs_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate

SELECT count(*) FROM obs.t;
UPDATE obs.t SET id = id + 1;
CREATE TABLE obs.made (id int);
DROP TABLE obs.made;
SELECT id FROM obs.capped ORDER BY id;
SELECT id FROM obs.capped WHERE id < 9 ORDER BY id;
COPY obs.capped TO STDOUT;
DELETE FROM obs.capped;
TRUNCATE obs.capped;
SELECT pg_sleep(0);
SET statement_timeout = 0;
SET app.tenant = 1;
SELECT set_config('work_mem', '1GB', false);
BEGIN;
SAVEPOINT s;
SELECT count(*) FROM obs.t;
ROLLBACK;
SELECT mode FROM agent_guard.whoami();
-- what the server itself refuses, and what no rule can allow
SELECT pg_read_file('PG_VERSION');
SELECT * FROM agent_guard.window_grant;
\c - postgres
SELECT agent_guard.audit_flush() \gset
SELECT decision, command, sqlstate, statement FROM agent_guard.audit
WHERE role = 'obs_agent' AND level = 0 AND event = 'statement' AND command <> 'SET' ORDER BY seq;

\c - postgres
SET client_min_messages = warning;
SELECT count(agent_guard.revoke_window(window_id)) AS revoked FROM agent_guard.windows WHERE policy = 'obs' AND state = 'active' \gset
SELECT agent_guard.drop_policy('obs') \gset
DROP SCHEMA obs CASCADE;
DROP OWNED BY obs_agent;
DROP ROLE obs_agent;
