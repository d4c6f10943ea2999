-- The catalogue is open except for what inspect covers.
SET client_min_messages = warning;
CREATE ROLE cin_agent LOGIN;
SELECT agent_guard.guard_role('cin_agent') \gset
CREATE SCHEMA cin;
CREATE TABLE cin.t (id int);
ANALYZE cin.t;
CREATE FUNCTION cin.f() RETURNS int LANGUAGE sql AS 'SELECT 1';
GRANT USAGE, CREATE ON SCHEMA cin TO cin_agent;
GRANT ALL ON ALL TABLES IN SCHEMA cin TO cin_agent;
GRANT ALL ON ALL SEQUENCES IN SCHEMA cin TO cin_agent;
SELECT agent_guard.create_policy('cin', mode => 'enforce') \gset
SELECT agent_guard.allow('cin', '{select}', '{cin.t}') AS rule \gset
SELECT token FROM agent_guard.grant_window('cin', 'cin_agent', 'agent', '1 hour') \gset
\c - cin_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate

SELECT relname FROM pg_class WHERE oid = 'cin.t'::regclass;
SELECT attname FROM pg_attribute WHERE attrelid = 'cin.t'::regclass AND attnum > 0;
SELECT table_name FROM information_schema.tables WHERE table_schema = 'cin';
SELECT proname FROM pg_proc WHERE pronamespace = 'cin'::regnamespace;
SELECT count(*) > 0 AS r FROM pg_roles;
SELECT setting FROM pg_settings WHERE name = 'server_encoding';
\d cin.t
-- sources, statistics, sessions, secrets
SELECT prosrc FROM pg_proc WHERE pronamespace = 'cin'::regnamespace;
SELECT p FROM pg_proc p WHERE pronamespace = 'cin'::regnamespace;
SELECT * FROM pg_proc LIMIT 0;
SELECT sourcefile FROM pg_settings LIMIT 0;
SELECT rolconfig FROM pg_roles LIMIT 0;
SELECT routine_definition FROM information_schema.routines LIMIT 0;
SELECT pid FROM pg_stat_activity LIMIT 0;
SELECT tablename FROM pg_stats LIMIT 0;
SELECT 1 FROM pg_statistic LIMIT 0;
SELECT rolpassword FROM pg_authid LIMIT 0;
SELECT 1 FROM pg_user_mappings LIMIT 0;
SELECT name FROM pg_prepared_statements LIMIT 0;
SELECT name FROM pg_cursors LIMIT 0;
SELECT 1 FROM pg_file_settings LIMIT 0;
SELECT 1 FROM pg_hba_file_rules LIMIT 0;
SELECT 1 FROM pg_stat_progress_vacuum LIMIT 0;
-- writing is never ordinary
UPDATE pg_settings SET setting = 'x' WHERE name = 'work_mem';
DELETE FROM pg_class;
LOCK pg_class;
\c - postgres
SELECT agent_guard.allow('cin', '{inspect}', '{pg_catalog.pg_stat_activity,function pg_catalog.pg_stat_get_activity,pg_catalog.pg_proc}') AS rule \gset
SELECT agent_guard.deny('cin', '{select}', '{pg_catalog.pg_roles}') AS rule \gset
\c - cin_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate
SELECT prosrc FROM pg_proc WHERE pronamespace = 'cin'::regnamespace;
SELECT pid FROM pg_stat_activity LIMIT 0;
SELECT tablename FROM pg_stats LIMIT 0;
SELECT rolname FROM pg_roles LIMIT 0;

\c - postgres
SET client_min_messages = warning;
SELECT count(agent_guard.revoke_window(window_id)) AS revoked FROM agent_guard.windows WHERE policy = 'cin' AND state = 'active' \gset
SELECT agent_guard.drop_policy('cin') \gset
DROP SCHEMA cin CASCADE;
DROP OWNED BY cin_agent;
DROP ROLE cin_agent;
