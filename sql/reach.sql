-- What another policy would have said of what was recorded (simulate_policy), and what a role reaches (blast_radius).
-- jit off: the plans are large and the rows few, so that compiling them would take seconds.

CREATE FUNCTION agent_guard.simulated_decisions(policy text, document jsonb, since timestamptz, until timestamptz,
        session_id uuid, OUT seq bigint, OUT access integer, OUT change text, OUT rule_id bigint, OUT reason text)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'simulated_decisions_wrapper';
COMMENT ON FUNCTION agent_guard.simulated_decisions(text, jsonb, timestamptz, timestamptz, uuid) IS
    'Recorded accesses on which a policy would decide otherwise; use simulate_policy instead';

CREATE FUNCTION agent_guard.document_exposures(document jsonb, OUT relation oid, OUT attnum smallint) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'document_exposures_wrapper';
COMMENT ON FUNCTION agent_guard.document_exposures(jsonb) IS
    'The columns that a policy document exposes; use simulate_policy instead';

CREATE FUNCTION agent_guard.simulate_policy(policy text, since timestamptz DEFAULT NULL, document jsonb DEFAULT NULL,
        until timestamptz DEFAULT NULL, session_id uuid DEFAULT NULL)
    RETURNS TABLE (change text, seq bigint, at timestamptz, session_id uuid, lineage text[], role text, command text,
        statement text, action text, object text, columns text, decision_then text, rule_then bigint, rule_now bigint,
        reason text)
    LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET jit = off
    AS $$
    SELECT d.change, a.seq, a.at, a.session_id, a.lineage, a.role, a.command, a.statement, x.access->>'action',
        x.access->>'object', x.access->>'columns', x.access->>'decision', (x.access->>'rule')::int8, d.rule_id, d.reason
    FROM (
        SELECT s.seq, s.access, s.change, s.rule_id, s.reason
        FROM agent_guard.simulated_decisions($1, $3, $2, $4, $5) s
        UNION ALL
        -- Read in clear then, because there was no mask yet or the window's policy exposes it, and masked now.
        SELECT e.seq, n.access::int, 'newly masked', NULL, string_agg(m.column_name, ', ' ORDER BY m.attnum)
        FROM agent_guard.audit e
        CROSS JOIN LATERAL jsonb_array_elements(e.accesses) WITH ORDINALITY n (told, access)
        JOIN agent_guard.mask m ON m.relation::oid = (n.told->>'oid')::oid
            AND (n.told->>'columns' = '*' OR m.column_name::text = ANY (string_to_array(n.told->>'columns', ',')))
        WHERE e.event = 'statement' AND n.told->>'action' = 'select' AND n.told->>'decision' = 'allow'
          AND ($2 IS NULL OR e.at >= $2) AND ($4 IS NULL OR e.at < $4) AND ($5 IS NULL OR e.session_id = $5)
          AND NOT EXISTS (SELECT FROM agent_guard.exposed_column x JOIN agent_guard.policy p ON p.id = x.policy_id
              WHERE p.name = $1 AND x.relation = m.relation AND x.attnum = m.attnum)
          AND NOT EXISTS (SELECT FROM agent_guard.document_exposures($3) x
              WHERE x.relation = m.relation::oid AND x.attnum = m.attnum)
          AND (e.at < m.created_at OR EXISTS (SELECT FROM agent_guard.exposed_column x
              JOIN agent_guard.window_grant w ON w.policy_id = x.policy_id
              WHERE w.window_id = e.window_id AND x.relation = m.relation AND x.attnum = m.attnum))
        GROUP BY e.seq, n.access
    ) d
    JOIN agent_guard.audit a ON a.seq = d.seq
    CROSS JOIN LATERAL (SELECT a.accesses->(d.access - 1) AS access) x
    ORDER BY a.seq, d.access, d.change
    $$;
COMMENT ON FUNCTION agent_guard.simulate_policy(text, timestamptz, jsonb, timestamptz, uuid) IS
    'Decides recorded accesses again under a stored policy or a document: what would be newly denied, newly allowed, newly masked, or held to a condition';

CREATE FUNCTION agent_guard.simulate_policy(document jsonb, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL,
        session_id uuid DEFAULT NULL)
    RETURNS TABLE (change text, seq bigint, at timestamptz, session_id uuid, lineage text[], role text, command text,
        statement text, action text, object text, columns text, decision_then text, rule_then bigint, rule_now bigint,
        reason text)
    LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET jit = off
    AS $$ SELECT * FROM agent_guard.simulate_policy(NULL::text, $2, $1, $3, $4) $$;
COMMENT ON FUNCTION agent_guard.simulate_policy(jsonb, timestamptz, timestamptz, uuid) IS
    'As simulate_policy of a stored policy, under a document that nobody has applied';

CREATE FUNCTION agent_guard.decide_accesses(policy text, accesses json, OUT number integer, OUT allowed boolean, OUT rule_id bigint, OUT reason text) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'decide_accesses_wrapper';
COMMENT ON FUNCTION agent_guard.decide_accesses(text, json) IS
    'Decides accesses, a list of objects with action, class, oid, name and columns, under a policy; use blast_radius instead';

CREATE FUNCTION agent_guard.function_action(function oid) RETURNS text
    LANGUAGE c STABLE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'function_action_wrapper';
COMMENT ON FUNCTION agent_guard.function_action(oid) IS
    'The action that running a function asks a policy for; NULL for a built-in that needs no rule';

CREATE FUNCTION agent_guard.sensitive_names() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT '(passw|secret|token|api_?key|private_?key|e_?mail|phone|mobile|social_?sec|national_?id|tax_?id|passport|licen[cs]e'
        || '|iban|account_?n|card_?n|birth|salary|income|address|street|postal|zip_?code|latitude|longitude)'
        || '|(^|_)(fax|ssn|bic|card|pan|cvv|cvc|dob|tax|zip|pin)(_|$)'
    $$;
COMMENT ON FUNCTION agent_guard.sensitive_names() IS 'The names by which blast_radius takes a column for sensitive, as a regular expression';

CREATE FUNCTION agent_guard.reach(role regrole, policy text DEFAULT NULL) RETURNS TABLE (kind text, object text,
        action text, rows bigint, with_policy boolean, rule_id bigint, reason text)
    LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET jit = off
    AS $$
    WITH RECURSIVE relation AS MATERIALIZED (
        SELECT c.oid, c.relkind, c.relowner, n.nspowner, format('%s.%s', n.nspname, c.relname) AS name,
            CASE WHEN c.relkind NOT IN ('r', 'm') THEN NULL
                -- Never analyzed: as many as rows of a hundred bytes would be.
                WHEN c.reltuples < 0 THEN pg_relation_size(c.oid) / 100
                ELSE c.reltuples END::int8 AS rows,
            has_schema_privilege($1::oid, n.oid, 'USAGE') AS found
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't'
          AND n.nspname NOT IN ('information_schema', 'agent_guard', 'agent_guard_masked') AND n.nspname !~ '^pg_'
    ),
    routine AS MATERIALIZED (
        SELECT p.oid, p.prosecdef, p.proowner, l.lanname, l.lanpltrusted, e.extname, agent_guard.function_action(p.oid) AS needs,
            format('%s.%s(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) AS name
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
        LEFT JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
            AND d.refclassid = 'pg_extension'::regclass
        LEFT JOIN pg_extension e ON e.oid = d.refobjid
        WHERE n.nspname <> 'agent_guard' AND has_function_privilege($1::oid, p.oid, 'EXECUTE')
          AND has_schema_privilege($1::oid, n.oid, 'USAGE')
    ),
    -- What the role's privileges let it do: the kind, and the access that a policy is asked for.
    wanted (kind, action, class, oid, name, columns, rows) AS (
        SELECT 'relations readable', 'select', 'relation', r.oid, r.name, '', r.rows FROM relation r
        WHERE r.found AND has_any_column_privilege($1::oid, r.oid, 'SELECT')
        UNION ALL
        SELECT 'relations writable', lower(p.privilege), 'relation', r.oid, r.name, '', r.rows
        FROM relation r CROSS JOIN unnest(ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) p (privilege)
        WHERE r.found AND (has_table_privilege($1::oid, r.oid, p.privilege)
            OR (p.privilege IN ('INSERT', 'UPDATE') AND has_any_column_privilege($1::oid, r.oid, p.privilege)))
        UNION ALL
        SELECT 'relations droppable', CASE r.relkind WHEN 'v' THEN 'drop view' WHEN 'm' THEN 'drop materialized view'
            WHEN 'f' THEN 'drop foreign table' ELSE 'drop table' END, 'relation', r.oid, r.name, '', r.rows
        FROM relation r WHERE r.found AND (pg_has_role($1::oid, r.relowner, 'USAGE') OR pg_has_role($1::oid, r.nspowner, 'USAGE'))
        UNION ALL
        SELECT 'sensitive columns in clear', 'select', 'relation', r.oid, r.name, a.attname::text, NULL
        FROM relation r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE r.found AND has_column_privilege($1::oid, r.oid, a.attnum, 'SELECT')
          AND (a.attname ~* agent_guard.sensitive_names() OR (r.oid, a.attname::text) IN (SELECT c.oid, c.name FROM covered c))
        UNION ALL
        SELECT 'schemas to create in', 'create table', 'relation', 0, n.nspname || '.new_table', '', NULL
        FROM pg_namespace n
        WHERE n.nspname NOT IN ('information_schema', 'agent_guard', 'agent_guard_masked') AND n.nspname !~ '^pg_'
          AND has_schema_privilege($1::oid, n.oid, 'CREATE')
        UNION ALL
        SELECT CASE WHEN f.oid >= 16384 THEN 'functions executable' WHEN f.needs = 'file' THEN 'functions reaching files'
                WHEN f.needs = 'inspect' THEN 'functions that show others or the server'
                WHEN f.needs = 'system' THEN 'functions reaching beyond the session' END,
            CASE WHEN f.oid >= 16384 THEN 'execute' ELSE f.needs END, 'function', f.oid, f.name, '', NULL
        FROM routine f WHERE f.oid >= 16384 OR f.needs IN ('file', 'inspect', 'system')
        UNION ALL
        SELECT 'functions reaching the network', 'execute', 'function', f.oid, f.name, '', NULL
        FROM routine f WHERE f.extname IN ('dblink', 'postgres_fdw', 'http', 'pg_net', 'plproxy', 'pg_curl')
        UNION ALL
        SELECT 'functions running as another role', 'execute', 'function', f.oid, f.name, '', NULL
        FROM routine f WHERE f.prosecdef AND NOT pg_has_role($1::oid, f.proowner, 'USAGE')
        UNION ALL
        SELECT 'functions in untrusted languages', 'execute', 'function', f.oid, f.name, '', NULL
        FROM routine f WHERE NOT f.lanpltrusted AND f.lanname NOT IN ('internal', 'c') AND f.oid >= 16384
        UNION ALL
        SELECT 'foreign servers', 'foreign', '', 0, s.srvname::text, '', NULL
        FROM pg_foreign_server s WHERE has_server_privilege($1::oid, s.oid, 'USAGE')
        UNION ALL
        SELECT 'server files and programs', 'file', '', 0, r.rolname::text, '', NULL
        FROM pg_roles r WHERE r.rolname IN ('pg_read_server_files', 'pg_write_server_files', 'pg_execute_server_program')
          AND pg_has_role($1::oid, r.oid, 'USAGE')
        UNION ALL
        SELECT 'roles to become', 'role', 'role', r.oid, r.rolname::text, '', NULL
        FROM pg_roles r WHERE r.oid <> $1::oid AND pg_has_role($1::oid, r.oid, 'MEMBER')
    ),
    numbered AS MATERIALIZED (SELECT row_number() OVER (ORDER BY w.kind, w.name, w.columns, w.action)::int AS number, w.* FROM wanted w),
    decided AS MATERIALIZED (
        SELECT d.* FROM (
            SELECT json_agg(json_build_object('action', n.action, 'class', n.class, 'oid', n.oid::int8, 'name', n.name,
                'columns', n.columns) ORDER BY n.number) AS accesses
            FROM numbered n) l
        CROSS JOIN LATERAL agent_guard.decide_accesses($2, l.accesses) d
        WHERE $2 IS NOT NULL AND l.accesses IS NOT NULL
    ),
    answered AS MATERIALIZED (
        SELECT n.kind, n.action, n.oid, n.columns, n.name, n.rows, d.allowed, d.rule_id, d.reason
        FROM numbered n LEFT JOIN decided d ON d.number = n.number
    ),
    -- Rows that reading or changing one relation reaches: those of its partitions and children, and what a view reads.
    leads AS MATERIALIZED (
        SELECT i.inhparent AS oid, i.inhrelid AS other, true AS by_change FROM pg_inherits i
        UNION
        SELECT r.ev_class, d.refobjid, false
        FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
            AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.ev_class
        JOIN relation v ON v.oid = r.ev_class
    ),
    -- Masked columns, also of partitions and children, and of the same name in views that read them.
    covered (oid, name, exposed) AS (
        SELECT m.relation::oid, m.column_name::text, EXISTS (SELECT FROM agent_guard.exposed_column e
            JOIN agent_guard.policy p ON p.id = e.policy_id
            WHERE p.name = $2 AND e.relation = m.relation AND e.attnum = m.attnum)
        FROM agent_guard.mask m
        UNION
        SELECT CASE WHEN l.by_change THEN l.other ELSE l.oid END, c.name, c.exposed
        FROM covered c JOIN leads l ON c.oid = CASE WHEN l.by_change THEN l.oid ELSE l.other END
    ),
    reading (oid, allowed) AS (
        SELECT a.oid, COALESCE(a.allowed, false) FROM answered a WHERE a.kind = 'relations readable'
        UNION
        SELECT l.other, r.allowed FROM reading r JOIN leads l ON l.oid = r.oid
    ),
    losing (oid, allowed) AS (
        SELECT a.oid, COALESCE(a.allowed, false) FROM answered a
        WHERE a.kind = 'relations droppable' OR (a.kind = 'relations writable' AND a.action IN ('update', 'delete', 'truncate'))
        UNION
        SELECT l.other, r.allowed FROM losing r JOIN leads l ON l.oid = r.oid AND l.by_change
    )
    SELECT a.kind, CASE WHEN a.kind = 'schemas to create in' THEN split_part(a.name, '.new_table', 1)
            WHEN a.columns = '' THEN a.name ELSE a.name || '(' || a.columns || ')' END, a.action, a.rows,
        a.allowed AND NOT m.masked, CASE WHEN NOT m.masked THEN a.rule_id END,
        CASE WHEN a.allowed AND m.masked THEN 'masked' ELSE a.reason END
    FROM answered a
    CROSS JOIN LATERAL (SELECT a.columns <> '' AND EXISTS (SELECT FROM covered c
        WHERE c.oid = a.oid AND c.name = a.columns AND NOT c.exposed) AS masked) m
    UNION ALL
    SELECT 'rows at stake: read', t.name, 'select', t.rows, CASE WHEN $2 IS NOT NULL THEN bool_or(r.allowed) END, NULL, NULL
    FROM reading r JOIN relation t ON t.oid = r.oid AND t.rows IS NOT NULL GROUP BY t.oid, t.name, t.rows
    UNION ALL
    SELECT 'rows at stake: changed or lost', t.name, 'update, delete, truncate, drop', t.rows,
        CASE WHEN $2 IS NOT NULL THEN bool_or(r.allowed) END, NULL, NULL
    FROM losing r JOIN relation t ON t.oid = r.oid AND t.rows IS NOT NULL GROUP BY t.oid, t.name, t.rows
    ORDER BY 1, 2, 3
    $$;
COMMENT ON FUNCTION agent_guard.reach(regrole, text) IS
    'Each thing that a role can reach by its privileges in this database, and whether a policy leaves it';

CREATE FUNCTION agent_guard.reach_order(kind text) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT array_position(ARRAY['rows at stake: read', 'rows at stake: changed or lost', 'sensitive columns in clear',
        'relations readable', 'relations writable', 'relations droppable', 'schemas to create in', 'roles to become',
        'server files and programs', 'foreign servers', 'functions reaching files', 'functions reaching the network',
        'functions running as another role', 'functions in untrusted languages', 'functions executable',
        'functions that show others or the server', 'functions reaching beyond the session'], $1)
    $$;
COMMENT ON FUNCTION agent_guard.reach_order(text) IS 'The order in which blast_radius tells of the kinds';

CREATE FUNCTION agent_guard.blast_radius(role regrole, policy text DEFAULT NULL)
    RETURNS TABLE (kind text, without_guard bigint, with_policy bigint, examples text[])
    LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET jit = off
    AS $$
    WITH reached AS MATERIALIZED (SELECT * FROM agent_guard.reach($1, $2)),
    object AS (
        SELECT r.kind, r.object, max(r.rows) AS rows, bool_or(r.with_policy) AS left_over FROM reached r
        GROUP BY r.kind, r.object
    )
    SELECT o.kind,
        CASE WHEN o.kind LIKE 'rows at stake%' THEN sum(o.rows) ELSE count(*) END::int8,
        CASE WHEN $2 IS NULL THEN NULL
            WHEN o.kind LIKE 'rows at stake%' THEN COALESCE(sum(o.rows) FILTER (WHERE o.left_over), 0)
            ELSE count(*) FILTER (WHERE o.left_over) END::int8,
        (array_agg(o.object ORDER BY o.left_over DESC NULLS LAST, o.rows DESC NULLS LAST, o.object))[1:5]
    FROM object o GROUP BY o.kind
    ORDER BY agent_guard.reach_order(o.kind)
    $$;
COMMENT ON FUNCTION agent_guard.blast_radius(regrole, text) IS
    'How much of each kind a role reaches by its privileges, and how much a policy leaves; examples are what is left first';

CREATE FUNCTION agent_guard.render_blast_radius_report(data json) RETURNS text
    LANGUAGE c STABLE PARALLEL RESTRICTED
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'render_blast_radius_report_wrapper';
COMMENT ON FUNCTION agent_guard.render_blast_radius_report(json) IS
    'What a role reaches as one page of HTML; use blast_radius_report instead';

CREATE FUNCTION agent_guard.blast_radius_report(role regrole, policy text DEFAULT NULL, max_objects bigint DEFAULT 200)
    RETURNS text
    LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET jit = off
    AS $$
    WITH reached AS MATERIALIZED (SELECT * FROM agent_guard.reach($1, $2)),
    object AS MATERIALIZED (
        SELECT r.*, row_number() OVER (PARTITION BY r.kind ORDER BY r.with_policy DESC NULLS LAST, r.object, r.action) AS place,
            bool_or(r.with_policy) OVER (PARTITION BY r.kind, r.object) AS left_over,
            row_number() OVER (PARTITION BY r.kind, r.object) AS once
        FROM reached r
    ),
    kinds AS (
        SELECT o.kind,
            CASE WHEN o.kind LIKE 'rows at stake%' THEN sum(o.rows) ELSE count(*) END AS without_guard,
            CASE WHEN $2 IS NULL THEN NULL
                WHEN o.kind LIKE 'rows at stake%' THEN COALESCE(sum(o.rows) FILTER (WHERE o.left_over), 0)
                ELSE count(*) FILTER (WHERE o.left_over) END AS with_policy
        FROM object o WHERE o.once = 1 GROUP BY o.kind
    )
    SELECT agent_guard.render_blast_radius_report(json_build_object(
        'role', $1, 'policy', $2, 'database', current_database(),
        'guarded', EXISTS (SELECT FROM agent_guard.guarded_roles g WHERE g.role = $1 AND g.state = 'guarded'),
        'made_at', (extract(epoch FROM statement_timestamp()) * 1000000)::int8,
        'kinds', COALESCE((SELECT json_agg(json_build_object('kind', k.kind, 'without_guard', k.without_guard::int8,
                'with_policy', k.with_policy::int8,
                'objects', COALESCE((SELECT json_agg(json_build_object('object', o.object, 'action', o.action, 'rows', o.rows,
                        'with_policy', o.with_policy, 'rule_id', o.rule_id, 'reason', o.reason) ORDER BY o.place)
                    FROM object o WHERE o.kind = k.kind AND o.place <= $3), '[]'),
                'more', greatest(0, (SELECT count(*) FROM object o WHERE o.kind = k.kind) - $3)) ORDER BY agent_guard.reach_order(k.kind))
            FROM kinds k), '[]'),
        'windows', COALESCE((SELECT json_agg(json_build_object('window_id', w.window_id, 'agent', w.agent, 'state', w.state,
                'tree', COALESCE((SELECT json_agg(t.tree) FROM agent_guard.session_tree(w.window_id) t), '[]'))
                ORDER BY w.granted_at DESC)
            FROM (SELECT * FROM agent_guard.windows v WHERE v.role = $1 AND v.policy = COALESCE($2, v.policy)
                ORDER BY v.granted_at DESC LIMIT 20) w), '[]')))
    $$;
COMMENT ON FUNCTION agent_guard.blast_radius_report(regrole, text, bigint) IS
    'What blast_radius tells, object by object and with the windows and agents, as one self-contained page of HTML';
