-- What a policy says in vain, and what of masked columns it shows all the same (lint_policy).

CREATE FUNCTION agent_guard.lint_rules(policy text, objects json, OUT rule_id bigint, OUT ord integer, OUT severity text,
        OUT finding text, OUT detail text, OUT hint text) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'lint_rules_wrapper';
COMMENT ON FUNCTION agent_guard.lint_rules(text, json) IS
    'What rules of a policy say in vain, given the objects that there are, a list with class and oid; use lint_policy instead';

CREATE FUNCTION agent_guard.lint_policy(name text) RETURNS TABLE (severity text, rule_id bigint, finding text, object text,
        detail text, hint text)
    LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET jit = off
    AS $$
    WITH RECURSIVE relation AS MATERIALIZED (
        SELECT c.oid, c.relkind, format('%s.%s', n.nspname, c.relname) AS name, c.relname, n.nspname
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND c.relpersistence <> 't'
          AND n.nspname NOT IN ('information_schema', 'agent_guard') AND n.nspname !~ '^pg_'
    ),
    routine AS MATERIALIZED (
        SELECT p.oid, p.prosrc, l.lanname, l.lanpltrusted,
            format('%s.%s(%s)', n.nspname, p.proname, pg_get_function_identity_arguments(p.oid)) AS name
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
        WHERE n.nspname NOT IN ('information_schema', 'agent_guard') AND n.nspname !~ '^pg_'
    ),
    existing AS MATERIALIZED (
        SELECT json_agg(json_build_object('class', e.class, 'oid', e.oid::int8)) AS list FROM (
            SELECT 'relation' AS class, r.oid FROM relation r
            UNION ALL SELECT 'function', f.oid FROM routine f
            UNION ALL SELECT 'schema', n.oid FROM pg_namespace n WHERE n.nspname <> 'agent_guard'
            UNION ALL SELECT 'role', o.oid FROM pg_roles o) e
    ),
    -- Masked columns that the policy reads in clear, and masked columns at all.
    exposed AS MATERIALIZED (
        SELECT m.relation::oid AS oid, m.attnum, m.column_name, r.name FROM agent_guard.mask m
        JOIN agent_guard.exposed_column x ON x.relation = m.relation AND x.attnum = m.attnum
        JOIN agent_guard.policy p ON p.id = x.policy_id AND p.name = $1
        JOIN relation r ON r.oid = m.relation::oid
    ),
    hidden AS MATERIALIZED (
        SELECT m.relation::oid AS oid, m.attnum, m.column_name, r.name FROM agent_guard.mask m
        JOIN relation r ON r.oid = m.relation::oid
        WHERE NOT EXISTS (SELECT FROM exposed x WHERE x.oid = m.relation::oid AND x.attnum = m.attnum)
    ),
    -- Views and materialized views whose queries read a column, through other views too.
    reads (oid, base, attnum) AS (
        SELECT w.ev_class, d.refobjid, d.refobjsubid::int2
        FROM pg_depend d JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
        WHERE d.refclassid = 'pg_class'::regclass AND w.ev_class <> d.refobjid
          AND EXISTS (SELECT FROM agent_guard.mask m WHERE m.relation::oid = d.refobjid AND m.attnum = d.refobjsubid)
        UNION
        SELECT w.ev_class, r.base, r.attnum
        FROM reads r JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = r.oid
        JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid AND w.ev_class <> r.oid
    ),
    shown AS MATERIALIZED (
        SELECT DISTINCT r.oid, r.base, r.attnum, v.name, v.relkind FROM reads r JOIN relation v ON v.oid = r.oid
        WHERE v.relkind IN ('v', 'm') AND v.nspname <> 'agent_guard_masked'
    ),
    -- What such a view reads on the way: a deny of any of it denies the view.
    through (oid, via) AS (
        SELECT DISTINCT s.oid, d.refobjid FROM shown s JOIN pg_rewrite w ON w.ev_class = s.oid
        JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass
        WHERE s.relkind = 'v' AND d.refobjid <> s.oid
        UNION
        SELECT t.oid, d.refobjid FROM through t JOIN pg_class c ON c.oid = t.via AND c.relkind = 'v'
        JOIN pg_rewrite w ON w.ev_class = t.via
        JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass
        WHERE d.refobjid <> t.via
    ),
    -- Functions that name a masked table and an exposed column of it, or all its columns.
    told AS MATERIALIZED (
        SELECT f.oid, f.name, x.name AS base, x.column_name FROM exposed x JOIN relation b ON b.oid = x.oid
        JOIN routine f ON f.lanname NOT IN ('c', 'internal')
            AND (f.prosrc ~* ('\m' || regexp_replace(b.relname, '([^[:alnum:]_])', '\\\1', 'g') || '\M')
                 AND (f.prosrc LIKE '%*%' OR f.prosrc ~* ('\m' || regexp_replace(x.column_name, '([^[:alnum:]_])', '\\\1', 'g') || '\M'))
              OR EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = f.oid
                 AND d.refclassid = 'pg_class'::regclass AND d.refobjid = x.oid AND d.refobjsubid = x.attnum))
    ),
    -- What the policy is asked about: may the agent read this view, run this function?
    wanted AS MATERIALIZED (
        SELECT row_number() OVER () AS number, w.* FROM (
            SELECT 'select' AS action, 'relation' AS class, s.oid, s.name, '' AS columns FROM shown s
            UNION SELECT 'select', 'relation', t.via, r.name, '' FROM through t JOIN relation r ON r.oid = t.via
            UNION SELECT 'select', 'relation', x.oid, x.name, x.column_name::text FROM exposed x
            UNION SELECT 'select', 'relation', f.relation::oid, r.name, '' FROM agent_guard.row_filter f
                JOIN agent_guard.policy p ON p.id = f.policy_id AND p.name = $1 JOIN relation r ON r.oid = f.relation::oid
            UNION SELECT 'execute', 'function', t.oid, t.name, '' FROM told t
            UNION SELECT 'execute', 'function', f.oid, f.name, '' FROM routine f WHERE NOT f.lanpltrusted
        ) w
    ),
    decided AS MATERIALIZED (
        SELECT w.oid, w.class, w.columns, d.allowed, d.rule_id FROM agent_guard.decide_accesses($1, (SELECT coalesce(json_agg(
            json_build_object('action', w.action, 'class', w.class, 'oid', w.oid::int8, 'name', w.name, 'columns', w.columns) ORDER BY w.number), '[]')
            FROM wanted w)) d
        JOIN wanted w ON w.number = d.number
    ),
    -- A rule that denies or holds is named; where no rule allows, none is.
    allowed AS MATERIALIZED (
        SELECT d.oid, d.class, d.rule_id FROM decided d
        WHERE d.allowed AND d.columns = '' AND NOT EXISTS (SELECT FROM through t JOIN decided n ON n.oid = t.via AND n.columns = ''
            WHERE d.class = 'relation' AND t.oid = d.oid AND NOT n.allowed AND n.rule_id IS NOT NULL)
    ),
    clear AS MATERIALIZED (
        SELECT x.* FROM exposed x WHERE NOT EXISTS (SELECT FROM decided d WHERE d.class = 'relation' AND d.oid = x.oid
            AND d.columns = x.column_name::text AND NOT d.allowed AND d.rule_id IS NOT NULL)
    ),
    found (rank, severity, rule_id, finding, object, detail, hint) AS (
        SELECT 1, l.severity, l.rule_id, l.finding,
            CASE WHEN l.ord IS NULL THEN array_to_string(r.objects, ', ') ELSE r.objects[l.ord + 1] END, l.detail, l.hint
        FROM agent_guard.lint_rules($1, (SELECT coalesce(e.list, '[]') FROM existing e)) l
        JOIN agent_guard.rule r ON r.id = l.rule_id
        UNION ALL
        SELECT 2, 'info', NULL, 'exposed_column', format('%s(%s)', x.name, x.column_name),
            'it is masked, and this policy reads it in clear',
            'agent_guard.hide_columns takes the exposure back.'
        FROM clear x
        UNION ALL
        SELECT 2, 'info', NULL, 'exposed_in_vain', format('%s(%s)', x.name, x.column_name), 'it is exposed, and a rule denies or holds it',
            'Take the exposure back with agent_guard.hide_columns, or drop the rule.'
        FROM exposed x WHERE NOT EXISTS (SELECT FROM clear c WHERE c.oid = x.oid AND c.attnum = x.attnum)
        UNION ALL
        SELECT 3, 'warning', a.rule_id, 'exposed_by_view', s.name, format('it shows %s.%s, which is masked, in clear', x.name, x.column_name),
            'Deny the view, or take the exposure back with agent_guard.hide_columns.'
        FROM shown s JOIN clear x ON x.oid = s.base AND x.attnum = s.attnum
        JOIN allowed a ON a.oid = s.oid AND a.class = 'relation'
        WHERE NOT EXISTS (SELECT FROM agent_guard.mask m WHERE s.relkind = 'm' AND m.relation::oid = s.oid AND m.column_name = x.column_name)
        UNION ALL
        SELECT 4, 'warning', a.rule_id, 'exposed_by_function', t.name,
            format('it seems to read %s.%s, which is masked, in clear', t.base, t.column_name),
            'Deny the function, or take the exposure back with agent_guard.hide_columns.'
        FROM told t JOIN allowed a ON a.oid = t.oid AND a.class = 'function'
        WHERE EXISTS (SELECT FROM clear c WHERE c.name = t.base AND c.column_name = t.column_name)
        UNION ALL
        -- Once a column of it is masked or exposed, what else it stores is read as it is.
        SELECT 5, 'warning', a.rule_id, 'copy_in_clear', s.name,
            format('it stores %s.%s, which is masked, and has no masked column of that name', h.name, h.column_name),
            'Mask every column of it that holds such values with agent_guard.mask_column.'
        FROM shown s JOIN hidden h ON h.oid = s.base AND h.attnum = s.attnum
        JOIN allowed a ON a.oid = s.oid AND a.class = 'relation'
        WHERE s.relkind = 'm'
          AND (EXISTS (SELECT FROM agent_guard.mask m WHERE m.relation::oid = s.oid)
            OR EXISTS (SELECT FROM agent_guard.exposed_column x JOIN agent_guard.policy p ON p.id = x.policy_id AND p.name = $1
                WHERE x.relation::oid = s.oid))
          AND NOT EXISTS (SELECT FROM agent_guard.mask m WHERE m.relation::oid = s.oid AND m.column_name = h.column_name)
        UNION ALL
        SELECT 6, CASE f.lanname WHEN 'c' THEN 'info' ELSE 'warning' END, a.rule_id, 'untrusted_function', f.name,
            format('it is written in %s, whose functions can read tables past every mask', f.lanname),
            'Allow it only where its code is known; execute by name, not by *.'
        FROM routine f JOIN allowed a ON a.oid = f.oid AND a.class = 'function'
        WHERE NOT f.lanpltrusted AND (EXISTS (SELECT FROM agent_guard.mask)
            OR EXISTS (SELECT FROM agent_guard.row_filter rf JOIN agent_guard.policy p ON p.id = rf.policy_id AND p.name = $1))
        UNION ALL
        SELECT 7, 'info', NULL, 'filter_unused', r.name, 'its rows are filtered, and no rule allows reading it',
            'Allow it, or take the filter off with agent_guard.unfilter_rows.'
        FROM agent_guard.row_filter f JOIN agent_guard.policy p ON p.id = f.policy_id AND p.name = $1
        JOIN relation r ON r.oid = f.relation::oid
        WHERE NOT EXISTS (SELECT FROM allowed a WHERE a.oid = r.oid AND a.class = 'relation')
    )
    SELECT f.severity, f.rule_id, f.finding, f.object, f.detail, f.hint FROM found f
    ORDER BY CASE f.severity WHEN 'warning' THEN 1 ELSE 2 END, f.rank, f.rule_id NULLS LAST, f.object, f.detail
    $$;
COMMENT ON FUNCTION agent_guard.lint_policy(text) IS
    'What a policy says in vain (rules that can never match, allows that denies swallow) and what of masked columns it shows all the same, one row for each finding';
