-- Built-ins that need no rule are out of reach where a rule denies them by name, also for whoever lends.
SET client_min_messages = warning;
CREATE ROLE dbi_agent LOGIN;
SELECT agent_guard.guard_role('dbi_agent') \gset
CREATE SCHEMA dbi;
CREATE TABLE dbi.t (id int, v text);
INSERT INTO dbi.t VALUES (1, 'a'), (2, 'b');
CREATE FUNCTION dbi.all_of_it() RETURNS text LANGUAGE sql AS $$SELECT string_agg(v, ',') FROM dbi.t$$;
CREATE FUNCTION dbi.first_of_it() RETURNS text LANGUAGE sql AS $$SELECT min(v) FROM dbi.t$$;
GRANT USAGE ON SCHEMA dbi TO dbi_agent;
GRANT ALL ON ALL TABLES IN SCHEMA dbi TO dbi_agent;
SELECT agent_guard.create_policy('dbi') \gset
SELECT agent_guard.allow('dbi', '{select}', '{dbi.t}') AS rule \gset
SELECT agent_guard.allow('dbi', '{execute}', '{function dbi.*}') AS rule \gset
SELECT token FROM agent_guard.grant_window('dbi', 'dbi_agent', 'agent', '1 hour') \gset
\c - dbi_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate
SELECT upper('a'), string_agg(v, ',' ORDER BY v) FROM dbi.t;

-- Denied by the whole name, by a name with *.
\c - postgres
SELECT agent_guard.deny('dbi', '{execute}', '{"function pg_catalog.upper(text)","function pg_catalog.string_*"}') AS upper \gset
SELECT decision, action, object FROM agent_guard.check_statement('dbi', 'SELECT upper(v), lower(v) FROM dbi.t', 'dbi_agent');
\c - dbi_agent
SET agent_guard.token = :'token';
SELECT upper('a');
SELECT upper(v) FROM dbi.t;
SELECT lower('A');
SELECT string_agg(v, ',') FROM dbi.t;
SELECT dbi.all_of_it();
SELECT dbi.first_of_it();
PREPARE p AS SELECT upper(v) FROM dbi.t WHERE id = 1;
EXECUTE p;
SELECT max(v) FROM dbi.t WHERE upper(v) = 'A';
-- A deny of everything that runs does not reach them: no statement could run.
\c - postgres
SELECT agent_guard.drop_rule(:upper) \gset
SELECT agent_guard.deny('dbi', '{execute}', '{*}') AS rule \gset
\c - dbi_agent
SET agent_guard.token = :'token';
SELECT upper('a') AS u FROM dbi.t WHERE id = 1;
SELECT dbi.first_of_it();

\c - postgres
SET client_min_messages = warning;
SELECT count(agent_guard.revoke_window(window_id)) AS revoked FROM agent_guard.windows WHERE policy = 'dbi' AND state = 'active' \gset
SELECT agent_guard.drop_policy('dbi') \gset
DROP SCHEMA dbi CASCADE;
DROP OWNED BY dbi_agent;
DROP ROLE dbi_agent;
