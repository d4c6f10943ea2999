-- Built-in functions: ordinary ones need no rule, those that reach further need their action's.
SET client_min_messages = warning;
CREATE ROLE bif_agent LOGIN;
SELECT agent_guard.guard_role('bif_agent') \gset
CREATE SCHEMA bif;
CREATE TABLE bif.t (id int);
GRANT USAGE, CREATE ON SCHEMA bif TO bif_agent;
GRANT ALL ON ALL TABLES IN SCHEMA bif TO bif_agent;
GRANT ALL ON ALL SEQUENCES IN SCHEMA bif TO bif_agent;
SELECT agent_guard.create_policy('bif', mode => 'enforce') \gset
SELECT agent_guard.allow('bif', '{notify,inspect}') AS rule \gset
SELECT token FROM agent_guard.grant_window('bif', 'bif_agent', 'agent', '1 hour') \gset
\c - bif_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate

SELECT lower('A'), abs(-1), now() IS NOT NULL AS n, current_setting('server_version_num')::int > 0 AS v;
SELECT random() < 2 AS r, clock_timestamp() IS NOT NULL AS c, gen_random_uuid() IS NOT NULL AS u, pg_backend_pid() > 0 AS p;
SELECT sum(x), string_agg(x::text, ','), array_agg(x) FROM generate_series(1, 2) x;
SELECT to_char(1, '9'), regexp_replace('ab', 'b', 'c'), jsonb_build_object('a', 1);
-- files, others' sessions, the server
SELECT pg_read_file('PG_VERSION');
SELECT pg_ls_dir('.');
SELECT lo_import('/etc/passwd');
SELECT pg_stat_file('PG_VERSION');
SELECT pg_terminate_backend(0);
SELECT pg_cancel_backend(0);
SELECT pg_reload_conf();
SELECT pg_advisory_lock(1);
SELECT pg_try_advisory_xact_lock(1);
SELECT pg_export_snapshot();
SELECT pg_switch_wal();
SELECT pg_stat_reset();
SELECT pg_logical_emit_message(false, 'a', 'b');
SELECT pg_wal_lsn_diff('0/1', '0/0');
-- volatile ones that are not listed
SELECT pg_sleep(0);
SELECT query_to_xml('SELECT 1', false, false, '');
SELECT * FROM ts_stat('SELECT ''a''::tsvector');
SELECT lo_create(0);
SELECT lo_from_bytea(0, 'x');
SELECT txid_current() > 0 AS t;
-- covered by the rule
SELECT pg_notify('c', 'm');
LISTEN c;
UNLISTEN *;
SELECT length(pg_get_functiondef('pg_catalog.lower(text)'::regprocedure)) > 0 AS d;
SELECT count(*) >= 0 AS c FROM pg_stat_get_activity(NULL);
-- what only the server may call, and what stands in for built-ins
SELECT set_config('work_mem', '1MB', false);
SELECT set_config('role', 'postgres', false);
SELECT set_config('session_replication_role', 'replica', false);
SELECT set_config('search_path', 'bif', true);
SELECT agent_guard.create_policy('mine');
SELECT agent_guard.grant_window('bif', 'bif_agent', 'a', '1 hour');
SELECT * FROM agent_guard.policy;
SELECT * FROM agent_guard.audit;
SELECT agent_guard.audit_flush();
-- wherever they hide
SELECT 1 WHERE pg_sleep(0) IS NULL;
PREPARE p (text) AS SELECT $1;
EXECUTE p (pg_read_file('PG_VERSION'));
SELECT * FROM pg_ls_dir('.');
SELECT (SELECT pg_read_file('PG_VERSION'));
DO $$BEGIN PERFORM pg_read_file('PG_VERSION'); END$$;
CREATE TEMP TABLE t (v text DEFAULT pg_read_file('PG_VERSION'));

\c - postgres
SET client_min_messages = warning;
SELECT count(agent_guard.revoke_window(window_id)) AS revoked FROM agent_guard.windows WHERE policy = 'bif' AND state = 'active' \gset
SELECT agent_guard.drop_policy('bif') \gset
DROP SCHEMA bif CASCADE;
DROP OWNED BY bif_agent;
DROP ROLE bif_agent;
