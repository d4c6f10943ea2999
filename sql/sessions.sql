-- Who works or worked under a token: the bindings in shared memory, and what the trail still knows of past ones.

CREATE VIEW agent_guard.sessions AS
    WITH live AS MATERIALIZED (SELECT * FROM agent_guard.list_sessions()),
    known AS (
        SELECT l.session_id, l.window_id, l.pid, l.role::pg_catalog.regrole::pg_catalog.text AS role, l.state, l.lineage,
            l.block_ids, l.bound_at, l.expires_at, true AS live
        FROM live l
        UNION ALL
        SELECT b.session_id, b.window_id, b.pid, b.role, 'past', b.lineage, b.block_ids, b.at, NULL, false
        FROM agent_guard.audit_segment b
        WHERE b.event OPERATOR(pg_catalog.=) 'bind'
          AND NOT EXISTS (SELECT FROM live l WHERE l.session_id OPERATOR(pg_catalog.=) b.session_id)
    ),
    counted AS (
        SELECT s.session_id, pg_catalog.max(s.at) AS last_at,
            pg_catalog.count(*) FILTER (WHERE s.event OPERATOR(pg_catalog.=) 'statement'
                AND s.level OPERATOR(pg_catalog.=) 0) AS statements,
            pg_catalog.count(*) FILTER (WHERE s.decision OPERATOR(pg_catalog.=) 'deny') AS denied,
            pg_catalog.sum(s.rows) FILTER (WHERE s.event OPERATOR(pg_catalog.=) 'statement'
                AND s.level OPERATOR(pg_catalog.=) 0)::pg_catalog.int8 AS rows
        FROM agent_guard.audit_segment s
        WHERE s.session_id IS NOT NULL
        GROUP BY s.session_id
    )
    SELECT k.session_id, k.window_id, k.state, k.lineage[pg_catalog.cardinality(k.lineage)] AS agent, k.lineage,
        k.role, k.pid, k.bound_at, k.expires_at, c.last_at, COALESCE(c.statements, 0) AS statements,
        COALESCE(c.denied, 0) AS denied, COALESCE(c.rows, 0) AS rows, k.block_ids, k.live
    FROM known k
    LEFT JOIN counted c ON c.session_id OPERATOR(pg_catalog.=) k.session_id;
COMMENT ON VIEW agent_guard.sessions IS
    'Sessions under a token: live ones (bound, or revoked or expired and not yet let go) and past ones that the audit trail still holds';
COMMENT ON COLUMN agent_guard.sessions.state IS 'bound, revoked, expired, past.';
COMMENT ON COLUMN agent_guard.sessions.lineage IS 'The window''s agent and the children down to this session''s agent.';
COMMENT ON COLUMN agent_guard.sessions.statements IS 'Statements of the client, as far as the trail still holds them.';
COMMENT ON COLUMN agent_guard.sessions.denied IS 'Refused accesses, as far as the trail still holds them.';
COMMENT ON COLUMN agent_guard.sessions.rows IS 'Rows returned or changed, as far as the trail still holds them.';
COMMENT ON COLUMN agent_guard.sessions.block_ids IS 'The token''s blocks, the root''s first: what revoke_block takes.';

CREATE FUNCTION agent_guard.session_tree(window_id uuid) RETURNS TABLE (depth integer, agent text, block_id text,
        parent_block_id text, live bigint, past bigint, statements bigint, denied bigint, rows bigint, tree text)
    LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
    WITH s AS MATERIALIZED (SELECT * FROM agent_guard.sessions x WHERE x.window_id = $1),
    node AS (
        SELECT DISTINCT n AS level, s.block_ids[n] AS block_id, s.block_ids[n - 1] AS parent_block_id,
            s.lineage[n] AS agent, s.lineage[1:n] AS names, s.block_ids[1:n] AS path
        FROM s CROSS JOIN LATERAL generate_series(1, cardinality(s.block_ids)) n
    )
    SELECT node.level - 1, node.agent, node.block_id, node.parent_block_id,
        count(s.session_id) FILTER (WHERE s.live), count(s.session_id) FILTER (WHERE NOT s.live),
        COALESCE(sum(s.statements), 0)::int8, COALESCE(sum(s.denied), 0)::int8, COALESCE(sum(s.rows), 0)::int8,
        repeat('  ', node.level - 1) || node.agent || ': ' || count(s.session_id) FILTER (WHERE s.live) || ' live, '
            || count(s.session_id) FILTER (WHERE NOT s.live) || ' past'
    FROM node LEFT JOIN s ON s.block_ids = node.path
    GROUP BY node.level, node.agent, node.block_id, node.parent_block_id, node.names, node.path
    ORDER BY node.names, node.path
    $$;
COMMENT ON FUNCTION agent_guard.session_tree(uuid) IS
    'The agents of a window that bound a session, parents before children; tree is the same as indented text';

