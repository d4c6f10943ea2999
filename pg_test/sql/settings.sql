-- SET, RESET, set_config, BEGIN: harmless settings by the list, limits only downwards.
SET client_min_messages = warning;
CREATE ROLE sett_agent LOGIN;
SELECT agent_guard.guard_role('sett_agent') \gset
CREATE SCHEMA sett;
ALTER ROLE sett_agent SET statement_timeout = '60s';
GRANT USAGE, CREATE ON SCHEMA sett TO sett_agent;
GRANT ALL ON ALL TABLES IN SCHEMA sett TO sett_agent;
GRANT ALL ON ALL SEQUENCES IN SCHEMA sett TO sett_agent;
SELECT agent_guard.create_policy('sett', mode => 'enforce') \gset
SELECT token FROM agent_guard.grant_window('sett', 'sett_agent', 'agent', '1 hour') \gset
\c - sett_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate

SET DateStyle = 'ISO';
SET timezone = 'UTC';
SET "Application_Name" = 'x';
SET LOCAL enable_seqscan = off;
SET search_path = sett;
RESET search_path;
-- limits
SET statement_timeout = '30s';
SET statement_timeout = 60000;
SET statement_timeout = '61s';
SET statement_timeout = 0;
SET statement_timeout = DEFAULT;
SHOW statement_timeout;
RESET statement_timeout;
SET work_mem = '64kB';
SET work_mem = '1GB';
SELECT set_config('statement_timeout', '0', false);
SELECT set_config('statement_timeout', '1s', true);
-- messages
SET client_min_messages = warning;
SET client_min_messages = debug1;
SET client_min_messages = log;
-- what reaches further
SET role = postgres;
SET ROLE NONE;
RESET ROLE;
SET SESSION AUTHORIZATION postgres;
SET session_replication_role = replica;
SET row_security = off;
SET debug_print_plan = on;
SET log_statement = none;
SET local_preload_libraries = 'x';
SET app.tenant = '1';
SET agent_guard.guarded = off;
SET agent_guard.enforcement = observe;
SET default_tablespace = 'pg_default';
RESET ALL;
-- which also dropped the token
SELECT 1;
SET agent_guard.token = :'token';
-- transactions
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY;
SHOW transaction_isolation;
COMMIT;
BEGIN;
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;
SET TRANSACTION SNAPSHOT '00000003-0000001B-1';
ROLLBACK;
PREPARE TRANSACTION 'x';
SET CONSTRAINTS ALL DEFERRED;
-- nowhere else may a token stay
ALTER ROLE sett_agent SET agent_guard.token = 'x';
ALTER DATABASE contrib_regression SET agent_guard.token = 'x';
DISCARD PLANS;
DISCARD ALL;
SELECT 1;

\c - postgres
SET client_min_messages = warning;
SELECT count(agent_guard.revoke_window(window_id)) AS revoked FROM agent_guard.windows WHERE policy = 'sett' AND state = 'active' \gset
SELECT agent_guard.drop_policy('sett') \gset
DROP SCHEMA sett CASCADE;
DROP OWNED BY sett_agent;
DROP ROLE sett_agent;
