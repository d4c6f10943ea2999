-- Guarding roles: superusers never, mighty roles only on request, and what to take away is named.
CREATE ROLE gr_agent LOGIN;
CREATE ROLE gr_super SUPERUSER LOGIN;
CREATE ROLE "gr ""Mighty" LOGIN BYPASSRLS REPLICATION CREATEROLE;
CREATE ROLE gr_files NOINHERIT;
CREATE ROLE gr_middle BYPASSRLS;
CREATE ROLE gr_member LOGIN;
CREATE ROLE gr_heir LOGIN;
GRANT pg_read_server_files, pg_signal_backend TO gr_files;
GRANT gr_files TO gr_middle;
GRANT gr_middle TO gr_member;
GRANT gr_super TO gr_heir;

SELECT agent_guard.guard_role('gr_agent');
SELECT agent_guard.guard_role(role => 'gr_agent', allow_privileged => false);
SELECT role, state, can_login, sessions, open_windows FROM agent_guard.guarded_roles WHERE role::text LIKE '%gr_%';
SELECT setconfig FROM pg_db_role_setting WHERE setrole = 'gr_agent'::regrole AND setdatabase = 0;
SELECT provider, label FROM pg_seclabels WHERE objtype = 'role' AND objname = 'gr_agent';

SELECT agent_guard.guard_role('gr_super');
\echo :LAST_ERROR_SQLSTATE
SELECT agent_guard.guard_role('gr_super', allow_privileged => true);
SELECT agent_guard.guard_role('"gr ""Mighty"');
\echo :LAST_ERROR_SQLSTATE
SELECT agent_guard.guard_role('gr_member');
SELECT agent_guard.guard_role('gr_heir');
SELECT agent_guard.guard_role('gr_files');
SELECT count(*) FROM agent_guard.guarded_roles WHERE role::text LIKE '%gr_%';
SELECT agent_guard.guard_role('"gr ""Mighty"', allow_privileged => true);
SELECT agent_guard.guard_role('gr_member', true);
SELECT role, state FROM agent_guard.guarded_roles WHERE role::text LIKE '%gr %';
CREATE ROLE gr_group;
SELECT agent_guard.guard_role('gr_group');
SELECT agent_guard.guard_role('gr_nobody');
SELECT agent_guard.guard_role('0'::regrole);
SELECT agent_guard.guard_role(NULL);
SELECT agent_guard.guard_role('gr_agent', NULL);

-- the label is nobody's to set but a superuser's, on roles, to the one value
SECURITY LABEL FOR agent_guard ON ROLE gr_agent IS 'free';
SECURITY LABEL FOR agent_guard ON ROLE gr_super IS 'guarded';
SECURITY LABEL FOR agent_guard ON TABLE agent_guard.policy IS 'guarded';
CREATE ROLE gr_boss CREATEROLE;
-- From 16 on CREATEROLE alone is not enough to alter a role.
GRANT gr_agent TO gr_boss WITH ADMIN OPTION;
SET ROLE gr_boss;
SECURITY LABEL FOR agent_guard ON ROLE gr_agent IS NULL;
ALTER ROLE gr_agent RESET agent_guard.guarded;
ALTER ROLE gr_agent SET agent_guard.guarded = off;
SELECT agent_guard.guard_role('gr_agent');
RESET ROLE;
GRANT EXECUTE ON FUNCTION agent_guard.unguard_role TO gr_boss;
SET ROLE gr_boss;
SELECT agent_guard.unguard_role('gr_agent');
RESET ROLE;
REVOKE EXECUTE ON FUNCTION agent_guard.unguard_role FROM gr_boss;

-- half a guard is seen
ALTER ROLE gr_agent RESET agent_guard.guarded;
SELECT role, state FROM agent_guard.guarded_roles WHERE role::text = 'gr_agent';

SELECT agent_guard.unguard_role(role => 'gr_agent');
SELECT agent_guard.unguard_role('gr_agent');
SELECT agent_guard.unguard_role('"gr ""Mighty"'), agent_guard.unguard_role('gr_member'), agent_guard.unguard_role('gr_group');
SELECT count(*) FROM agent_guard.guarded_roles WHERE role::text LIKE '%gr_%';
DROP ROLE gr_agent, gr_super, "gr ""Mighty", gr_files, gr_middle, gr_member, gr_heir, gr_group, gr_boss;
