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
        p.created_by, p.created_at, p.changed_at,
        pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object('rows_per_statement', p.rows_per_statement,
            'rows_read', p.rows_read, 'rows_written', p.rows_written, 'bytes_read', p.bytes_read,
            'statements', p.statements, 'statement_timeout', p.statement_timeout)) AS limits,
        pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object('results', p.record_results,
            'max_rows', p.record_max_rows, 'max_bytes', p.record_max_bytes)) AS recording
    FROM agent_guard.policy p;
COMMENT ON VIEW agent_guard.policies IS 'Policies, with the number of their rules and open windows, their limits and what they record of results';

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
        r.created_by, r.created_at, r.approvers, r.approvals, r.approval_ttl, r.allow_granter, r.max_wait
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
        w.revoked_at, w.revoked_by, w.revoke_reason,
        pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object('rows_per_statement', l.rows_per_statement,
            'rows_read', l.rows_read, 'rows_written', l.rows_written, 'bytes_read', l.bytes_read,
            'statements', l.statements, 'statement_timeout', l.statement_timeout, 'uses', w.uses)) AS limits,
        pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
            'rows_read', CASE WHEN l.rows_read IS NOT NULL THEN u.rows_read END,
            'rows_written', CASE WHEN l.rows_written IS NOT NULL THEN u.rows_written END,
            'bytes_read', CASE WHEN l.bytes_read IS NOT NULL THEN u.bytes_read END,
            'statements', CASE WHEN l.statements IS NOT NULL THEN u.statements END,
            'uses', CASE WHEN w.uses IS NOT NULL THEN u.uses END)) AS used,
        pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
            'rows_read', l.rows_read OPERATOR(pg_catalog.-) LEAST(u.rows_read, l.rows_read),
            'rows_written', l.rows_written OPERATOR(pg_catalog.-) LEAST(u.rows_written, l.rows_written),
            'bytes_read', l.bytes_read OPERATOR(pg_catalog.-) LEAST(u.bytes_read, l.bytes_read),
            'statements', l.statements OPERATOR(pg_catalog.-) LEAST(u.statements, l.statements),
            'uses', w.uses OPERATOR(pg_catalog.-) LEAST(u.uses, w.uses))) AS "left"
    FROM agent_guard.window_grant w
    JOIN agent_guard.policy p ON p.id OPERATOR(pg_catalog.=) w.policy_id
    LEFT JOIN agent_guard.list_ledger() live ON live.id OPERATOR(pg_catalog.=) pg_catalog.uuid_send(w.window_id)
    LEFT JOIN agent_guard.ledger stored ON stored.id OPERATOR(pg_catalog.=) pg_catalog.uuid_send(w.window_id)
    CROSS JOIN LATERAL (SELECT pg_catalog.clock_timestamp() AS now) clock
    CROSS JOIN LATERAL (SELECT LEAST(w.rows_per_statement, p.rows_per_statement) AS rows_per_statement,
        LEAST(w.rows_read, p.rows_read) AS rows_read, LEAST(w.rows_written, p.rows_written) AS rows_written,
        LEAST(w.bytes_read, p.bytes_read) AS bytes_read, LEAST(w.statements, p.statements) AS statements,
        LEAST(w.statement_timeout, p.statement_timeout) AS statement_timeout) l
    CROSS JOIN LATERAL (SELECT COALESCE(live.rows_read, stored.rows_read, 0) AS rows_read,
        COALESCE(live.rows_written, stored.rows_written, 0) AS rows_written,
        COALESCE(live.bytes_read, stored.bytes_read, 0) AS bytes_read,
        COALESCE(live.statements, stored.statements, 0) AS statements, COALESCE(live.uses, stored.uses, 0) AS uses) u;
COMMENT ON VIEW agent_guard.windows IS
    'Windows of this database, open and past; reading it needs EXECUTE on list_ledger() too';
COMMENT ON COLUMN agent_guard.windows.limits IS 'The window''s own limits and its policy''s, the tighter of each.';
COMMENT ON COLUMN agent_guard.windows.used IS
    'What is used of each total, over all sessions and children; after a crash rounded up by a chunk at most.';

CREATE VIEW agent_guard.signing_keys AS
    SELECT k.kid, k.state, k.created_at FROM agent_guard.list_signing_keys() k;
COMMENT ON VIEW agent_guard.signing_keys IS
    'The server''s signing keys without their bytes; reading it needs EXECUTE on list_signing_keys() too';

CREATE VIEW agent_guard.session_policy AS
    SELECT p.rule_id, p.effect, p.actions, p.objects, p.columns, p.require_where, p.max_rows, p.statement_pattern
    FROM agent_guard.session_policy() p;
COMMENT ON VIEW agent_guard.session_policy IS 'The rules of this session''s policy; what no rule allows is denied';
