-- The C functions of src/pg/functions. None is STRICT: a NULL argument is answered with its name.
-- SECURITY DEFINER where a DBA who is no superuser may be granted EXECUTE; SESSION_USER is recorded as the author.

CREATE FUNCTION agent_guard.policy_changed() RETURNS trigger
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'policy_changed_trigger';
COMMENT ON FUNCTION agent_guard.policy_changed() IS
    'Trigger: sessions take up the change of a policy when the transaction commits';

-- ENABLE ALWAYS: also where session_replication_role is replica, as in a restore or an apply worker.
CREATE TRIGGER policy_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON agent_guard.policy
    FOR EACH STATEMENT EXECUTE FUNCTION agent_guard.policy_changed();
ALTER TABLE agent_guard.policy ENABLE ALWAYS TRIGGER policy_changed;
CREATE TRIGGER policy_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON agent_guard.rule
    FOR EACH STATEMENT EXECUTE FUNCTION agent_guard.policy_changed();
ALTER TABLE agent_guard.rule ENABLE ALWAYS TRIGGER policy_changed;
CREATE TRIGGER policy_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON agent_guard.rule_binding
    FOR EACH STATEMENT EXECUTE FUNCTION agent_guard.policy_changed();
ALTER TABLE agent_guard.rule_binding ENABLE ALWAYS TRIGGER policy_changed;

-- Roles. SECURITY INVOKER: only a superuser may guard a role, so there is nothing to lend.

CREATE FUNCTION agent_guard.guard_role(role regrole, allow_privileged boolean DEFAULT false) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'guard_role_wrapper';
COMMENT ON FUNCTION agent_guard.guard_role(regrole, boolean) IS
    'Guards a login role in every database: its sessions can do nothing until they present a token';

CREATE FUNCTION agent_guard.unguard_role(role regrole) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'unguard_role_wrapper';
COMMENT ON FUNCTION agent_guard.unguard_role(regrole) IS 'Takes the guard from a role; open sessions keep it until they reconnect';

-- Policies.

CREATE FUNCTION agent_guard.create_policy(name text, description text DEFAULT '', mode text DEFAULT 'enforce') RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'create_policy_wrapper';
COMMENT ON FUNCTION agent_guard.create_policy(text, text, text) IS
    'Makes an empty policy, which denies everything; mode is enforce or observe';

CREATE FUNCTION agent_guard.drop_policy(name text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'drop_policy_wrapper';
COMMENT ON FUNCTION agent_guard.drop_policy(text) IS
    'Removes a policy with its rules and past windows; refused while a window of it is open';

CREATE FUNCTION agent_guard.allow(policy text, actions text[], objects text[] DEFAULT '{*}', columns text[] DEFAULT NULL,
        require_where boolean DEFAULT false, max_rows bigint DEFAULT NULL, statement_pattern text DEFAULT NULL,
        note text DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'allow_wrapper';
COMMENT ON FUNCTION agent_guard.allow(text, text[], text[], text[], boolean, bigint, text, text) IS
    'Adds a rule that allows actions on objects, under its conditions; returns the rule''s id';

CREATE FUNCTION agent_guard.deny(policy text, actions text[], objects text[] DEFAULT '{*}', columns text[] DEFAULT NULL,
        statement_pattern text DEFAULT NULL, note text DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'deny_wrapper';
COMMENT ON FUNCTION agent_guard.deny(text, text[], text[], text[], text, text) IS
    'Adds a rule that denies actions on objects, whatever allows them; returns the rule''s id';

CREATE FUNCTION agent_guard.require_approval(policy text, actions text[], objects text[] DEFAULT '{*}',
        approvers regrole[] DEFAULT NULL, approvals integer DEFAULT 1, approval_ttl interval DEFAULT '10 minutes',
        columns text[] DEFAULT NULL, max_rows bigint DEFAULT NULL, statement_pattern text DEFAULT NULL,
        note text DEFAULT NULL, allow_granter boolean DEFAULT false, max_wait interval DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'require_approval_wrapper';
COMMENT ON FUNCTION agent_guard.require_approval(text, text[], text[], regrole[], integer, interval, text[], bigint, text,
    text, boolean, interval) IS
    'Adds a rule that holds actions on objects until so many members of the approvers have agreed; returns the rule''s id';

CREATE FUNCTION agent_guard.drop_rule(id bigint) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'drop_rule_wrapper';
COMMENT ON FUNCTION agent_guard.drop_rule(bigint) IS 'Removes a rule';

CREATE FUNCTION agent_guard.rebind_policies() RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'rebind_policies_wrapper';
COMMENT ON FUNCTION agent_guard.rebind_policies() IS
    'Binds every rule anew to the objects that have the names now and rebuilds the masks, as after a restore; returns how many were bound';

CREATE FUNCTION agent_guard.apply_policy(doc jsonb) RETURNS TABLE (change text, item text)
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'apply_policy_wrapper';
COMMENT ON FUNCTION agent_guard.apply_policy(jsonb) IS
    'Makes a policy what the document says, all or nothing; returns what was changed, no rows for nothing';

CREATE FUNCTION agent_guard.export_policy(name text) RETURNS jsonb
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'export_policy_wrapper';
COMMENT ON FUNCTION agent_guard.export_policy(text) IS 'A policy as one document, as apply_policy reads it';

CREATE FUNCTION agent_guard.set_limits(policy text, rows_per_statement bigint DEFAULT NULL, rows_read bigint DEFAULT NULL,
        rows_written bigint DEFAULT NULL, bytes_read bigint DEFAULT NULL, statements bigint DEFAULT NULL,
        statement_timeout interval DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'set_limits_wrapper';
COMMENT ON FUNCTION agent_guard.set_limits(text, bigint, bigint, bigint, bigint, bigint, interval) IS
    'Replaces the limits of a policy: totals for each window of it, over all sessions and children, and for each statement; NULL is none';

CREATE FUNCTION agent_guard.set_recording(policy text, results text DEFAULT 'rows', max_rows bigint DEFAULT NULL,
        max_bytes bigint DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'set_recording_wrapper';
COMMENT ON FUNCTION agent_guard.set_recording(text, text, bigint, bigint) IS
    'What the audit trail keeps of the results that agents under a policy receive: rows (of each statement the first max_rows, 10000, in max_bytes, 1 MiB), digest (their number, bytes and SHA-256), or none';

-- Windows and keys.

CREATE FUNCTION agent_guard.grant_window(policy text, role regrole, agent text, ttl interval, max_depth integer DEFAULT 0,
        max_sessions integer DEFAULT NULL, client_addr cidr[] DEFAULT NULL, require_proof boolean DEFAULT false,
        reason text DEFAULT NULL, rows_per_statement bigint DEFAULT NULL, rows_read bigint DEFAULT NULL,
        rows_written bigint DEFAULT NULL, bytes_read bigint DEFAULT NULL, statements bigint DEFAULT NULL,
        statement_timeout interval DEFAULT NULL, uses bigint DEFAULT NULL)
    RETURNS TABLE (window_id uuid, token text, expires_at timestamptz)
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER ROWS 1
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'grant_window_wrapper';
COMMENT ON FUNCTION agent_guard.grant_window(text, regrole, text, interval, integer, integer, cidr[], boolean, text, bigint, bigint,
        bigint, bigint, bigint, interval, bigint) IS
    'Opens a window for an agent, of a second to 30 days; the token is shown this once and stored nowhere';

CREATE FUNCTION agent_guard.revoke_window(window_id uuid, reason text DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'revoke_window_wrapper';
COMMENT ON FUNCTION agent_guard.revoke_window(uuid, text) IS
    'Ends a window at once, with every token derived from it';

CREATE FUNCTION agent_guard.revoke_block(block_id text, reason text DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'revoke_block_wrapper';
COMMENT ON FUNCTION agent_guard.revoke_block(text, text) IS
    'Ends a block of a token at once, with every token derived from it; the id is 32 hexadecimal digits';

CREATE FUNCTION agent_guard.rotate_key() RETURNS integer
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'rotate_key_wrapper';
COMMENT ON FUNCTION agent_guard.rotate_key() IS
    'Makes a new signing key for the whole server; the one before goes on verifying. Not undone by ROLLBACK';

CREATE FUNCTION agent_guard.list_signing_keys() RETURNS TABLE (kid integer, state text, created_at timestamptz)
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'list_signing_keys_wrapper';
COMMENT ON FUNCTION agent_guard.list_signing_keys() IS 'What the view signing_keys shows; the keys themselves are never shown';

CREATE FUNCTION agent_guard.check_statement(policy text, statement text, as_role regrole DEFAULT NULL,
        OUT decision text, OUT rule_id bigint, OUT action text, OUT object text, OUT masked_columns text[], OUT reason text)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'check_statement_wrapper';
COMMENT ON FUNCTION agent_guard.check_statement(text, text, regrole) IS
    'Decides a statement under a policy without running it: a row for each access, named as as_role would resolve them';

CREATE FUNCTION agent_guard.list_sessions() RETURNS TABLE (session_id uuid, window_id uuid, pid integer, role oid, state text,
        lineage text[], block_ids text[], bound_at timestamptz, expires_at timestamptz)
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'list_sessions_wrapper';
COMMENT ON FUNCTION agent_guard.list_sessions() IS 'The live part of the view sessions, out of shared memory';

CREATE FUNCTION agent_guard.list_ledger() RETURNS TABLE (id bytea, window_id uuid, rows_read bigint, rows_written bigint,
        bytes_read bigint, statements bigint, uses bigint)
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'list_ledger_wrapper';
COMMENT ON FUNCTION agent_guard.list_ledger() IS
    'What is used now of the totals of windows and of blocks (id is the block''s), out of shared memory';

-- For agents.

CREATE FUNCTION agent_guard.whoami(OUT session_id uuid, OUT window_id uuid, OUT agent text, OUT lineage text[], OUT policy text,
        OUT mode text, OUT role text, OUT expires_at timestamptz, OUT remaining_depth integer, OUT token text, OUT "left" jsonb) RETURNS SETOF record
    LANGUAGE c STABLE PARALLEL RESTRICTED
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'whoami_wrapper';
COMMENT ON FUNCTION agent_guard.whoami() IS
    'This session''s identity: agent, lineage, policy, end of the window, public id of the token, what is left of each limit; no row without a token';

CREATE FUNCTION agent_guard.session_policy(OUT rule_id bigint, OUT effect text, OUT actions text[], OUT objects text[],
        OUT columns text[], OUT require_where boolean, OUT max_rows bigint, OUT statement_pattern text) RETURNS SETOF record
    LANGUAGE c STABLE PARALLEL RESTRICTED
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'session_policy_wrapper';
COMMENT ON FUNCTION agent_guard.session_policy() IS 'The rules of this session''s policy; what no rule allows is denied';

CREATE FUNCTION agent_guard.describe_access(relation regclass, OUT action text, OUT allowed boolean, OUT denied_columns text[],
        OUT require_where boolean, OUT max_rows bigint, OUT reason text) RETURNS SETOF record
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'describe_access_wrapper';
COMMENT ON FUNCTION agent_guard.describe_access(regclass) IS
    'What this session may do with a relation: a row for each action on data, with the columns left out and the obligations';

CREATE FUNCTION agent_guard.delegate(agent text, ttl interval, actions text[] DEFAULT NULL, objects text[] DEFAULT NULL,
        max_depth integer DEFAULT NULL, require_proof boolean DEFAULT false, rows bigint DEFAULT NULL, bytes bigint DEFAULT NULL,
        statements bigint DEFAULT NULL, uses bigint DEFAULT NULL, sessions bigint DEFAULT NULL) RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'delegate_wrapper';
COMMENT ON FUNCTION agent_guard.delegate(text, interval, text[], text[], integer, boolean, bigint, bigint, bigint, bigint,
        bigint) IS
    'A token for a child agent, narrower than this session''s: the same as derived offline (docs/token.md)';

-- What the planner puts in the place of built-ins whose arguments decide, in guarded sessions only.

CREATE FUNCTION agent_guard.checked_set_config(name text, value text, is_local boolean) RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'checked_set_config_wrapper';
COMMENT ON FUNCTION agent_guard.checked_set_config(text, text, boolean) IS 'set_config for agents: only what SET would be let';

CREATE FUNCTION agent_guard.checked_nextval(sequence regclass) RETURNS bigint
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'checked_nextval_wrapper';
COMMENT ON FUNCTION agent_guard.checked_nextval(regclass) IS 'nextval for agents: only of sequences that they may use';

CREATE FUNCTION agent_guard.checked_currval(sequence regclass) RETURNS bigint
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'checked_currval_wrapper';
COMMENT ON FUNCTION agent_guard.checked_currval(regclass) IS 'currval for agents: only of sequences that they may use';

CREATE FUNCTION agent_guard.checked_setval(sequence regclass, value bigint) RETURNS bigint
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'checked_setval_wrapper';
COMMENT ON FUNCTION agent_guard.checked_setval(regclass, bigint) IS 'setval for agents: only of sequences that they may update';

CREATE FUNCTION agent_guard.checked_setval(sequence regclass, value bigint, is_called boolean) RETURNS bigint
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'checked_setval3_wrapper';
COMMENT ON FUNCTION agent_guard.checked_setval(regclass, bigint, boolean) IS 'setval for agents: only of sequences that they may update';
