-- Who changed what an agent may do is in the trail too, also where the change was rolled back.
SET client_min_messages = warning;
CREATE ROLE adm_agent LOGIN;
CREATE ROLE adm_dba LOGIN;
CREATE TABLE public.adm_t (id int);
SELECT agent_guard.audit_flush() \gset
SELECT COALESCE(max(seq), 0) AS before FROM agent_guard.audit \gset
SELECT agent_guard.guard_role('adm_agent') \gset
SELECT agent_guard.create_policy('adm') \gset
GRANT EXECUTE ON FUNCTION agent_guard.allow(text, text[], text[], text[], boolean, bigint, text, text) TO adm_dba;
SET SESSION AUTHORIZATION adm_dba;
SELECT agent_guard.allow('adm', '{select}', '{public.adm_t}', max_rows => 5) AS rule \gset
RESET SESSION AUTHORIZATION;
BEGIN;
SELECT agent_guard.deny('adm', '{drop}') AS undone \gset
ROLLBACK;
SELECT agent_guard.drop_rule(:rule) \gset
SELECT count(*) > 0 AS applied FROM agent_guard.apply_policy('{"name": "adm", "description": "changed", "rules": []}');
SELECT window_id, token FROM agent_guard.grant_window('adm', 'adm_agent', 'worker', '1 hour', reason => 'a test') \gset
SELECT agent_guard.revoke_window(:'window_id', 'it is over') \gset
SELECT agent_guard.revoke_block('0123456789abcdef0123456789abcdef') \gset
SELECT agent_guard.drop_policy('adm') \gset
SELECT agent_guard.unguard_role('adm_agent') \gset
-- what fails has changed nothing
\set VERBOSITY sqlstate
SELECT agent_guard.drop_policy('adm');
SELECT agent_guard.audit_flush() \gset
SELECT command, regexp_replace(message, 'rule \d+', 'rule N') AS what, role, window_id = :'window_id' AS window,
    CASE WHEN xid IS NOT NULL THEN pg_xact_status(xid) END AS transaction
FROM agent_guard.audit WHERE seq > :before AND event = 'admin' ORDER BY seq;
SELECT count(*) AS with_their_text FROM agent_guard.audit WHERE seq > :before AND event = 'admin' AND statement LIKE 'SELECT%agent_guard.%';
SELECT count(*) AS secrets FROM agent_guard.audit a WHERE seq > :before AND a::text LIKE '%' || split_part(:'token', '.', 4) || '%';
DROP TABLE public.adm_t;
DROP OWNED BY adm_dba;
DROP ROLE adm_agent, adm_dba;
