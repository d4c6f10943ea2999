-- What a DBA reads. Granted to nobody: SELECT on a view is the owner's to give.

CREATE VIEW agent_guard.guarded_roles AS
    SELECT r.oid::pg_catalog.regrole AS role,
        CASE WHEN marks.label AND marks.setting THEN 'guarded' ELSE 'incomplete' END AS state,
        r.rolcanlogin AS can_login,
        (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity a
            WHERE a.usesysid OPERATOR(pg_catalog.=) r.oid) AS sessions,
        (SELECT pg_catalog.count(*) FROM agent_guard.window_grant w
            WHERE w.role_oid OPERATOR(pg_catalog.=) r.oid AND w.revoked_at IS NULL
              AND w.expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()) AS open_windows
    FROM pg_catalog.pg_roles r
    CROSS JOIN LATERAL (
        SELECT EXISTS (SELECT FROM pg_catalog.pg_shseclabel l
                   WHERE l.objoid OPERATOR(pg_catalog.=) r.oid
                     AND l.classoid OPERATOR(pg_catalog.=) 'pg_catalog.pg_authid'::pg_catalog.regclass
                     AND l.provider OPERATOR(pg_catalog.=) 'agent_guard'
                     AND l.label OPERATOR(pg_catalog.=) 'guarded') AS label,
            EXISTS (SELECT FROM pg_catalog.pg_db_role_setting s
                   WHERE s.setrole OPERATOR(pg_catalog.=) r.oid AND s.setdatabase OPERATOR(pg_catalog.=) 0
                     AND 'agent_guard.guarded=on' OPERATOR(pg_catalog.=) ANY (s.setconfig)) AS setting
    ) marks
    WHERE marks.label OR marks.setting;
COMMENT ON VIEW agent_guard.guarded_roles IS
    'Guarded roles; state incomplete means that the label or the setting was taken away by hand: run guard_role again';

CREATE VIEW agent_guard.policies AS
    SELECT p.name, p.description, p.mode, p.version,
        (SELECT pg_catalog.count(*) FROM agent_guard.rule r
            WHERE r.policy_id OPERATOR(pg_catalog.=) p.id) AS rules,
        (SELECT pg_catalog.count(*) FROM agent_guard.window_grant w
            WHERE w.policy_id OPERATOR(pg_catalog.=) p.id AND w.revoked_at IS NULL
              AND w.expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()) AS open_windows,
        p.created_by, p.created_at, p.changed_at
    FROM agent_guard.policy p;
COMMENT ON VIEW agent_guard.policies IS 'Policies, with the number of their rules and open windows';

CREATE VIEW agent_guard.rules AS
    SELECT r.id, p.name AS policy, r.effect, r.actions, r.objects, r.columns, r.require_where, r.max_rows,
        r.statement_pattern, r.note,
        ARRAY(SELECT CASE b.class
                WHEN 'r' THEN pg_catalog.pg_describe_object('pg_catalog.pg_class'::pg_catalog.regclass, b.object_oid, 0)
                WHEN 'f' THEN pg_catalog.pg_describe_object('pg_catalog.pg_proc'::pg_catalog.regclass, b.object_oid, 0)
                WHEN 's' THEN pg_catalog.pg_describe_object('pg_catalog.pg_namespace'::pg_catalog.regclass, b.object_oid, 0)
                ELSE pg_catalog.pg_describe_object('pg_catalog.pg_authid'::pg_catalog.regclass, b.object_oid, 0)
                END
            FROM agent_guard.rule_binding b WHERE b.rule_id OPERATOR(pg_catalog.=) r.id ORDER BY b.ord) AS bound_to,
        r.created_by, r.created_at, r.approvers, r.approvals, r.approval_ttl, r.allow_granter
    FROM agent_guard.rule r
    JOIN agent_guard.policy p ON p.id OPERATOR(pg_catalog.=) r.policy_id;
COMMENT ON VIEW agent_guard.rules IS
    'Rules; bound_to is what the patterns without * stand for now (NULL for an object that has been dropped)';

CREATE VIEW agent_guard.windows AS
    SELECT w.window_id, p.name AS policy, w.role_oid::pg_catalog.regrole AS role, w.agent,
        CASE WHEN w.revoked_at IS NOT NULL THEN 'revoked'
            WHEN w.expires_at OPERATOR(pg_catalog.<=) clock.now THEN 'expired'
            ELSE 'active' END AS state,
        w.granted_at, w.expires_at,
        CASE WHEN w.revoked_at IS NULL AND w.expires_at OPERATOR(pg_catalog.>) clock.now
            THEN w.expires_at OPERATOR(pg_catalog.-) clock.now
            ELSE '0'::pg_catalog.interval END AS remaining,
        w.granted_by, w.reason, w.max_depth, w.max_sessions, w.client_addr, w.require_proof,
        w.revoked_at, w.revoked_by, w.revoke_reason
    FROM agent_guard.window_grant w
    JOIN agent_guard.policy p ON p.id OPERATOR(pg_catalog.=) w.policy_id
    CROSS JOIN LATERAL (SELECT pg_catalog.clock_timestamp() AS now) clock;
COMMENT ON VIEW agent_guard.windows IS 'Windows of this database, open and past';

CREATE VIEW agent_guard.signing_keys AS
    SELECT k.kid, k.state, k.created_at FROM agent_guard.list_signing_keys() k;
COMMENT ON VIEW agent_guard.signing_keys IS
    'The server''s signing keys without their bytes; reading it needs EXECUTE on list_signing_keys() too';

CREATE VIEW agent_guard.session_policy AS
    SELECT p.rule_id, p.effect, p.actions, p.objects, p.columns, p.require_where, p.max_rows, p.statement_pattern
    FROM agent_guard.session_policy() p;
COMMENT ON VIEW agent_guard.session_policy IS 'The rules of this session''s policy; what no rule allows is denied';
