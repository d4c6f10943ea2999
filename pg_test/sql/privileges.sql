-- What PUBLIC may do, what a dump carries, and how every function is declared.
SELECT c.relname, a.privilege_type FROM pg_class c, aclexplode(c.relacl) a
WHERE c.relnamespace = 'agent_guard'::regnamespace AND a.grantee = 0 ORDER BY 1, 2;
-- functions open to PUBLIC are those of agents
SELECT p.proname FROM pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
WHERE p.pronamespace = 'agent_guard'::regnamespace AND a.grantee = 0
  AND p.proname IN ('allow', 'apply_policy', 'create_policy', 'deny', 'drop_policy', 'drop_rule', 'export_policy',
      'grant_window', 'guard_role', 'list_signing_keys', 'policy_changed', 'rebind_policies', 'revoke_block',
      'revoke_window', 'rotate_key', 'unguard_role', 'mask_column', 'unmask_column', 'expose_columns', 'hide_columns',
      'filter_rows', 'unfilter_rows', 'rebuild_masks');
-- every function pins its search_path, except those in C that look names up or set search_path for the caller, and masks
SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'agent_guard'::regnamespace
  AND NOT coalesce('search_path=pg_catalog, pg_temp' = ANY (p.proconfig), false)
  AND NOT (p.proname ~ '^mask_' AND p.provolatile = 'i');
-- guarding is nothing to lend
SELECT p.proname, p.prosecdef FROM pg_proc p
WHERE p.pronamespace = 'agent_guard'::regnamespace AND p.proname LIKE '%guard_role' ORDER BY 1;
-- everything says what it is
SELECT p.oid::regprocedure FROM pg_proc p
WHERE p.pronamespace = 'agent_guard'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL;
SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'agent_guard'::regnamespace AND c.relkind IN ('r', 'v')
  AND obj_description(c.oid, 'pg_class') IS NULL;
-- a dump carries policies and rules; never windows, revocations and bindings
SELECT t.oid::regclass::text AS dumped FROM pg_extension e, unnest(e.extconfig) t (oid) WHERE e.extname = 'agent_guard'
  AND t.oid::regclass::text ~ '(policy|rule|window|revoked|key|audit|mask|filter|exposed)' ORDER BY 1;
-- direct changes reach the sessions too, in a replica's apply as well
SELECT tgrelid::regclass, tgenabled, pg_get_triggerdef(oid) LIKE '% AFTER INSERT OR DELETE OR UPDATE OR TRUNCATE %' AS every_change
FROM pg_trigger WHERE tgname = 'policy_changed' ORDER BY 1;
INSERT INTO agent_guard.policy (name) VALUES ('priv');
UPDATE agent_guard.policy SET description = 'x' WHERE name = 'priv';
DELETE FROM agent_guard.policy WHERE name = 'priv';
BEGIN;
TRUNCATE agent_guard.rule_binding;
ROLLBACK;

-- nothing is granted to PUBLIC
CREATE ROLE priv_dba;
SET ROLE priv_dba;
SELECT agent_guard.create_policy('x');
SELECT * FROM agent_guard.rules;
SELECT * FROM agent_guard.policy;
RESET ROLE;
-- and a DBA who is no superuser can be granted the functions
GRANT EXECUTE ON FUNCTION agent_guard.create_policy, agent_guard.drop_policy, agent_guard.allow TO priv_dba;
SET SESSION AUTHORIZATION priv_dba;
-- the caller's search_path does not reach inside
CREATE TEMP TABLE policy (id int);
SET search_path = pg_temp, public;
SELECT agent_guard.create_policy('pr3');
SELECT agent_guard.allow('pr3', '{select}', '{pg_catalog.pg_class}') IS NOT NULL AS ok;
RESET SESSION AUTHORIZATION;
RESET search_path;
SELECT name, created_by FROM agent_guard.policies WHERE name = 'pr3';
SELECT agent_guard.drop_policy('pr3');
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA agent_guard FROM priv_dba;
DISCARD TEMP;
DROP ROLE priv_dba;
