-- Playing a session back, out of the audit trail. The order and the rendering are the core's (src/replay, src/report);
-- here it is only collected. SECURITY DEFINER, so that an auditor may be given one session's replay without the trail.

CREATE FUNCTION agent_guard.replay_steps(events json, OUT step integer, OUT seq bigint, OUT depth integer, OUT parent bigint,
        OUT effect text) RETURNS SETOF record
    LANGUAGE c STABLE PARALLEL RESTRICTED
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'replay_steps_wrapper';
COMMENT ON FUNCTION agent_guard.replay_steps(json) IS 'The order of events and what became of them; use replay instead';

CREATE FUNCTION agent_guard.render_asciicast(data json, max_pause bigint) RETURNS text
    LANGUAGE c STABLE PARALLEL RESTRICTED
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'render_asciicast_wrapper';
COMMENT ON FUNCTION agent_guard.render_asciicast(json, bigint) IS
    'Events as an asciicast; use asciicast instead';

CREATE FUNCTION agent_guard.render_session_report(data json) RETURNS text
    LANGUAGE c STABLE PARALLEL RESTRICTED
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'render_session_report_wrapper';
COMMENT ON FUNCTION agent_guard.render_session_report(json) IS
    'A session as one page of HTML; use session_report instead';

CREATE FUNCTION agent_guard.session_events(session_id uuid, max_events bigint DEFAULT NULL) RETURNS json
    LANGUAGE sql STABLE PARALLEL RESTRICTED
    SET search_path = pg_catalog, pg_temp
    AS $$
    WITH e AS MATERIALIZED (SELECT * FROM agent_guard.audit x WHERE x.session_id = $1),
    r AS MATERIALIZED (SELECT * FROM agent_guard.audit_results x WHERE x.session_id = $1),
    stray AS (
        SELECT r.first_seq FROM r
        WHERE NOT EXISTS (SELECT FROM e s WHERE s.event = 'statement' AND s.level = 0 AND s.at = r.at)
    )
    SELECT COALESCE(json_agg(json_build_object(
            'seq', a.seq, 'at', (extract(epoch FROM a.at) * 1000000)::int8,
            'duration', (extract(epoch FROM a.duration) * 1000000)::int8, 'level', a.level, 'event', a.event,
            'command', a.command, 'statement', a.statement, 'statement_length', a.statement_length,
            'parameters', CASE WHEN a.event <> 'results' THEN a.parameters END,
            'accesses', a.accesses, 'decision', a.decision, 'rule_id', a.rule_id,
            'rows', a.rows, 'sqlstate', a.sqlstate,
            'message', CASE WHEN a.event = 'results' THEN 'rows of a cursor or of a call' ELSE a.message END,
            'xid', a.xid::text,
            -- A transaction that runs may be beyond every snapshot; pg_xact_status refuses what is beyond the counter.
            'xact', CASE WHEN a.xid >= pg_snapshot_xmax(pg_current_snapshot()) THEN 'in progress'
                ELSE pg_xact_status(a.xid) END,
            'truncated', a.truncated, 'results', to_json(r)) ORDER BY a.seq), '[]')
    FROM (SELECT * FROM e WHERE e.event NOT IN ('results', 'text') OR e.seq IN (SELECT first_seq FROM stray)
        ORDER BY e.seq LIMIT $2) a
    LEFT JOIN r ON r.at = a.at AND (a.event = 'results' OR a.event = 'statement' AND a.level = 0)
    $$;
COMMENT ON FUNCTION agent_guard.session_events(uuid, bigint) IS 'What the trail holds of a session, as replay reads it';

CREATE FUNCTION agent_guard.replay(session_id uuid) RETURNS TABLE (step integer, seq bigint, at timestamptz,
        since_start interval, depth integer, parent bigint, event text, command text, statement text, parameters text[],
        decision text, rule_id bigint, rows bigint, duration interval, effect text, sqlstate text, message text,
        accesses jsonb, truncated text[], results json, parameter_types text[])
    LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET jit = off
    AS $$
    SELECT s.step, a.seq, a.at, a.at - min(a.at) OVER (), s.depth, s.parent, a.event, a.command, a.statement,
        CASE WHEN a.event <> 'results' THEN a.parameters END, a.decision, a.rule_id, a.rows, a.duration, s.effect,
        a.sqlstate, CASE WHEN a.event <> 'results' THEN a.message END, a.accesses, a.truncated, to_json(r), a.parameter_types
    FROM agent_guard.replay_steps(agent_guard.session_events($1)) s
    JOIN agent_guard.audit a ON a.seq = s.seq AND a.session_id = $1
    LEFT JOIN (SELECT * FROM agent_guard.audit_results x WHERE x.session_id = $1) r
        ON r.at = a.at AND (a.event = 'results' OR a.event = 'statement' AND a.level = 0)
    ORDER BY s.step
    $$;
COMMENT ON FUNCTION agent_guard.replay(uuid) IS
    'What a session did, in the order in which it began: depth and parent (a seq) tell what ran inside what, effect what became of it';

CREATE FUNCTION agent_guard.asciicast(session_id uuid, max_pause interval DEFAULT '2 s') RETURNS text
    LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET jit = off
    AS $$
    SELECT agent_guard.render_asciicast(json_build_object(
            'title', COALESCE((SELECT array_to_string(a.lineage, ' > ') || ' as ' || a.role || ', '
                FROM agent_guard.audit a WHERE a.session_id = $1 ORDER BY a.seq LIMIT 1), '') || 'session ' || $1,
            'database', current_database(), 'events', agent_guard.session_events($1)),
        (extract(epoch FROM $2) * 1000000)::int8)
    $$;
COMMENT ON FUNCTION agent_guard.asciicast(uuid, interval) IS
    'A session as an asciicast v2, played as if typed in psql; pauses longer than max_pause are cut to it';

CREATE FUNCTION agent_guard.session_report(session_id uuid, max_events bigint DEFAULT 5000) RETURNS text
    LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET jit = off
    AS $$
    SELECT agent_guard.render_session_report(json_build_object(
        'session_id', $1, 'window_id', f.window_id, 'lineage', COALESCE(f.lineage, '{}'),
        'block_ids', COALESCE(s.block_ids, '{}'), 'policy', w.policy, 'role', f.role, 'database', current_database(),
        'client_addr', f.client_addr, 'application_name', f.application_name, 'pid', f.pid, 'state', s.state,
        'granted_by', w.granted_by, 'reason', w.reason,
        'expires_at', (extract(epoch FROM COALESCE(s.expires_at, w.expires_at)) * 1000000)::int8,
        'events', agent_guard.session_events($1, $2),
        'left_out', greatest(0, (SELECT count(*) FROM agent_guard.audit e WHERE e.session_id = $1) - $2),
        'made_at', (extract(epoch FROM statement_timestamp()) * 1000000)::int8))
    FROM (SELECT 1) one
    LEFT JOIN (SELECT * FROM agent_guard.audit a WHERE a.session_id = $1 ORDER BY a.seq LIMIT 1) f ON true
    LEFT JOIN agent_guard.sessions s ON s.session_id = $1
    LEFT JOIN agent_guard.windows w ON w.window_id = f.window_id
    $$;
COMMENT ON FUNCTION agent_guard.session_report(uuid, bigint) IS
    'A session as one self-contained page of HTML: lineage, timeline, statements with decisions, results and effects, search';
