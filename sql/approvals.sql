-- Requests for approval, and what people say to them. The guard reads approval_request on the agent's path by column
-- number (src/pg/approvals/table.rs): columns are only ever added at the end. Logged: a request outlives a crash.

CREATE TABLE agent_guard.approval_request (
    request_id uuid PRIMARY KEY,
    request_key uuid NOT NULL,
    fingerprint bytea NOT NULL CHECK (pg_catalog.octet_length(fingerprint) OPERATOR(pg_catalog.=) 32),
    state text NOT NULL CHECK (state IN ('pending', 'approved', 'rejected', 'used')),
    requested_at timestamptz NOT NULL,
    expires_at timestamptz,
    used_at timestamptz,
    objects text[] NOT NULL,
    found text[] NOT NULL,
    window_id uuid NOT NULL,
    block_id text NOT NULL,
    statement text NOT NULL,
    given integer NOT NULL DEFAULT 0,
    needed integer NOT NULL,
    decided_at timestamptz,
    comment text,
    session_id uuid,
    lineage text[],
    role text,
    client_addr text,
    application_name text,
    pid integer,
    policy text,
    policy_version bigint,
    command text,
    statement_length bigint,
    parameters text[],
    context text[],
    search_path text,
    rules jsonb NOT NULL,
    used_by uuid,
    max_wait interval,
    plan text,
    changes jsonb
);
CREATE INDEX approval_request_key_idx ON agent_guard.approval_request (request_key);
CREATE INDEX approval_request_window_idx ON agent_guard.approval_request (window_id);
COMMENT ON TABLE agent_guard.approval_request IS
    'Statements held for approval; written by the audit writer, approve, reject, and the agent''s own transaction when it uses one';
COMMENT ON COLUMN agent_guard.approval_request.fingerprint IS 'What exactly may run: the agent, its policy, statement, parameters and settings';
COMMENT ON COLUMN agent_guard.approval_request.objects IS 'What the statement touches and what goes along with it, as class:oid action name';
COMMENT ON COLUMN agent_guard.approval_request.found IS 'Those of the objects that only a run of the statement has found';
COMMENT ON COLUMN agent_guard.approval_request.context IS 'The statements and functions that it was called from, outermost first';
COMMENT ON COLUMN agent_guard.approval_request.plan IS 'Of a query: what EXPLAIN says of the plan that the agent''s session had made';
COMMENT ON COLUMN agent_guard.approval_request.changes IS 'Of a change of rows: how many the plan expects, and by which conditions they can be counted';
COMMENT ON COLUMN agent_guard.approval_request.max_wait IS 'The longest that a session may wait for it: the shortest of those rules; NULL for no bound of theirs';
COMMENT ON COLUMN agent_guard.approval_request.rules IS 'Which rules ask for approval, whom and how many, as they were at the request';

CREATE TABLE agent_guard.approval_vote (
    request_id uuid NOT NULL REFERENCES agent_guard.approval_request ON DELETE CASCADE,
    voter text NOT NULL,
    vote text NOT NULL CHECK (vote IN ('approve', 'reject')),
    rules bigint[] NOT NULL,
    voted_at timestamptz NOT NULL,
    comment text,
    PRIMARY KEY (request_id, voter)
);
COMMENT ON TABLE agent_guard.approval_vote IS 'Who agreed or disagreed; rules are those for which the voter counts';

CREATE VIEW agent_guard.approval_requests AS
    SELECT r.request_id,
        CASE WHEN r.state OPERATOR(pg_catalog.=) 'pending' AND NOT open.window THEN 'expired'
            WHEN r.state OPERATOR(pg_catalog.=) 'approved'
                AND (NOT open.window OR r.expires_at OPERATOR(pg_catalog.<=) clock.now) THEN 'expired'
            ELSE r.state END AS state,
        clock.now OPERATOR(pg_catalog.-) r.requested_at AS age,
        r.lineage, r.command, r.statement, r.parameters, r.objects, r.given, r.needed,
        ARRAY(SELECT v.voter FROM agent_guard.approval_vote v
            WHERE v.request_id OPERATOR(pg_catalog.=) r.request_id ORDER BY v.voted_at) AS decided_by,
        ARRAY(SELECT DISTINCT a.oid::pg_catalog.regrole::pg_catalog.text
            FROM pg_catalog.jsonb_array_elements(r.rules) rule
            CROSS JOIN pg_catalog.jsonb_array_elements_text(rule OPERATOR(pg_catalog.->) 'approvers') a (oid)
            ORDER BY 1) AS approvers,
        r.requested_at, r.decided_at, r.expires_at, r.used_at, r.comment, r.policy, r.policy_version,
        ARRAY(SELECT (rule OPERATOR(pg_catalog.->>) 'rule')::pg_catalog.int8
            FROM pg_catalog.jsonb_array_elements(r.rules) rule ORDER BY 1) AS rule_ids,
        r.window_id, w.reason AS window_reason, w.granted_by, w.expires_at AS window_expires_at, r.block_id,
        r.session_id, r.role, r.client_addr, r.application_name, r.pid, r.context, r.search_path, r.statement_length
    FROM agent_guard.approval_request r
    LEFT JOIN agent_guard.window_grant w ON w.window_id OPERATOR(pg_catalog.=) r.window_id
    CROSS JOIN LATERAL (SELECT pg_catalog.clock_timestamp() AS now) clock
    CROSS JOIN LATERAL (SELECT w.window_id IS NOT NULL AND w.revoked_at IS NULL
        AND w.expires_at OPERATOR(pg_catalog.>) clock.now AS window) open
    WHERE EXISTS (SELECT FROM pg_catalog.jsonb_array_elements(r.rules) rule
        CROSS JOIN pg_catalog.jsonb_array_elements_text(rule OPERATOR(pg_catalog.->) 'approvers') a (oid)
        WHERE pg_catalog.pg_has_role(SESSION_USER, a.oid::pg_catalog.oid, 'MEMBER'));
COMMENT ON VIEW agent_guard.approval_requests IS
    'Statements that were put to approval, with their age and state, as far as the reader is one of the approvers (a superuser sees all)';
COMMENT ON COLUMN agent_guard.approval_requests.state IS 'pending, approved, rejected, used, expired.';
COMMENT ON COLUMN agent_guard.approval_requests.objects IS 'What the statement touches, and what a cascade takes along.';
COMMENT ON COLUMN agent_guard.approval_requests.given IS 'Approvals so far, of those that count the least where several rules ask.';

CREATE FUNCTION agent_guard.approve(request_id uuid, comment text DEFAULT NULL) RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'approve_wrapper';
COMMENT ON FUNCTION agent_guard.approve(uuid, text) IS
    'Agrees to a statement that is held, as a member of the approvers of its rule; returns the state of the request';

CREATE FUNCTION agent_guard.reject(request_id uuid, comment text DEFAULT NULL) RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'reject_wrapper';
COMMENT ON FUNCTION agent_guard.reject(uuid, text) IS
    'Rejects a statement that is held, or takes back an approval that is not used; returns the state of the request';

CREATE FUNCTION agent_guard.my_approvals(OUT request_id uuid, OUT state text, OUT statement text, OUT objects text[],
        OUT given integer, OUT needed integer, OUT requested_at timestamptz, OUT decided_at timestamptz,
        OUT expires_at timestamptz, OUT used_at timestamptz, OUT comment text) RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'my_approvals_wrapper';
COMMENT ON FUNCTION agent_guard.my_approvals() IS
    'The requests of this session''s agent, newest first; those of parents and children are theirs';

-- Not for anybody but the owner, as whom approval_impact runs.
CREATE FUNCTION agent_guard.exact_rows(relation oid, conditions text, until timestamptz) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'exact_rows_wrapper';
COMMENT ON FUNCTION agent_guard.exact_rows(oid, text, timestamptz) IS
    'Counts the rows of a table, or those of them that the conditions of a held statement match, for approval_impact; NULL where they cannot be counted in that time';

CREATE FUNCTION agent_guard.approval_impact(request_id uuid, exact boolean DEFAULT false) RETURNS jsonb
    LANGUAGE sql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
    WITH RECURSIVE request AS MATERIALIZED (
        SELECT r.request_id, q.objects, q.policy, q.command, q.statement, q.plan, q.changes,
            clock_timestamp() + interval '5 s' AS until
        FROM agent_guard.approval_requests r JOIN agent_guard.approval_request q ON q.request_id = r.request_id
        WHERE r.request_id = $1
    ),
    item AS (
        SELECT o.ord, split_part(o.item, ':', 1) AS class,
            CASE WHEN o.item ~ '^[a-z]+:[0-9]+ ' THEN substring(o.item FROM '^[a-z]+:([0-9]+) ')::oid END AS oid,
            substring(o.item FROM ' (.*)$') AS what
        FROM request, unnest(request.objects) WITH ORDINALITY o (item, ord)
        ORDER BY o.ord LIMIT 1000
    ),
    touched AS MATERIALIZED (
        SELECT item.ord, item.class, item.oid, item.what, c.oid AS relid, c.relkind, c.relpages,
            CASE WHEN c.relkind IN ('r', 'm', 'p', 'f') AND c.reltuples >= 0 THEN c.reltuples::int8 END AS rows,
            CASE WHEN item.what ~ '^maintain' AND request.command IN ('VACUUM', 'ANALYZE') AND request.statement !~* E'\\mfull\\M'
                    THEN 'SHARE UPDATE EXCLUSIVE'
                WHEN item.what ~ '^(drop|truncate|alter|maintain)' THEN 'ACCESS EXCLUSIVE'
                WHEN item.what ~ '^create index' AND request.statement ~* E'\\mconcurrently\\M' THEN 'SHARE UPDATE EXCLUSIVE'
                WHEN item.what ~ '^create index' THEN 'SHARE'
                WHEN item.what ~ '^create trigger' THEN 'SHARE ROW EXCLUSIVE'
                WHEN item.what ~ '^comment' THEN 'SHARE UPDATE EXCLUSIVE'
                WHEN item.what ~ '^lock' AND request.command = 'LOCK TABLE' THEN 'ACCESS EXCLUSIVE'
                WHEN item.what ~ '^(insert|update|delete)' THEN 'ROW EXCLUSIVE'
                WHEN item.what ~ '^lock' THEN 'ROW SHARE'
                WHEN item.what ~ '^select' THEN 'ACCESS SHARE' END AS lock
        FROM request CROSS JOIN item LEFT JOIN pg_class c ON item.class = 'relation' AND c.oid = item.oid
    ),
    counted AS MATERIALIZED (
        SELECT t.relid, agent_guard.exact_rows(t.relid, NULL, request.until) AS rows
        FROM request CROSS JOIN (SELECT DISTINCT touched.relid FROM touched WHERE touched.rows IS NOT NULL OR touched.relkind IN ('r', 'm', 'p')) t
        WHERE $2
    ),
    changed AS MATERIALIZED (
        SELECT CASE WHEN count(*) = count(s.rows) THEN coalesce(sum(s.rows), 0)::int8 END AS rows
        FROM request CROSS JOIN LATERAL (
            SELECT agent_guard.exact_rows((scan ->> 0)::oid, scan ->> 1, request.until) AS rows
            FROM jsonb_array_elements(CASE WHEN jsonb_typeof(request.changes -> 'scans') = 'array' THEN request.changes -> 'scans' END) scan) s
        WHERE $2
    ),
    foreign_key AS (
        SELECT DISTINCT k.conname, k.conrelid, k.confrelid FROM pg_constraint k JOIN touched t ON k.confrelid = t.relid
        WHERE k.contype = 'f' AND k.conparentid = 0
          AND (t.lock = 'ACCESS EXCLUSIVE' OR t.what ~ '^delete' OR t.what ~ '^update')
          AND NOT EXISTS (SELECT FROM touched o WHERE o.relid = k.conrelid AND o.what ~ '^(drop (foreign )?table|truncate)')
    ),
    reader (oid, found) AS (
        SELECT t.relid, false FROM touched t WHERE t.lock = 'ACCESS EXCLUSIVE' AND t.relid IS NOT NULL
        UNION
        SELECT w.ev_class, true FROM reader
        JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = reader.oid AND d.classid = 'pg_rewrite'::regclass
        JOIN pg_rewrite w ON w.oid = d.objid JOIN pg_class v ON v.oid = w.ev_class AND v.relkind IN ('v', 'm')
        WHERE w.ev_class <> reader.oid
    ),
    -- A mask covers the partitions and children of its relation too.
    family (relid, root, columns) AS (
        SELECT t.relid, t.relid, CASE WHEN right(t.what, 1) = ')'
            THEN coalesce(string_to_array(substring(t.what FROM E'\\(([^()]*)\\)$'), ','), '{*}') ELSE '{}' END
        FROM touched t WHERE t.relid IS NOT NULL AND t.what ~ '^select '
        UNION
        SELECT f.relid, i.inhparent, f.columns FROM family f JOIN pg_inherits i ON i.inhrelid = f.root
    ),
    masked AS (
        SELECT DISTINCT f.relid, a.attname, EXISTS (SELECT FROM agent_guard.exposed_column e
                JOIN agent_guard.policy p ON p.id = e.policy_id AND p.name = request.policy
                WHERE e.relation = m.relation AND e.attnum = m.attnum) AS clear
        FROM request CROSS JOIN family f
        JOIN agent_guard.mask m ON m.relation = f.root
        JOIN pg_attribute a ON a.attrelid = m.relation AND a.attnum = m.attnum AND NOT a.attisdropped
        WHERE f.columns && ARRAY['*', a.attname::text] OR f.columns <> '{}' AND a.attname ~ '[,()]'
    ),
    conflict (lock, mode) AS (
        SELECT l.lock, m.mode FROM (VALUES
            ('ACCESS SHARE', 8), ('ROW SHARE', 7), ('ROW EXCLUSIVE', 5), ('SHARE UPDATE EXCLUSIVE', 4), ('SHARE', 3),
            ('SHARE ROW EXCLUSIVE', 3), ('ACCESS EXCLUSIVE', 1)) l (lock, first)
        JOIN (VALUES ('AccessShareLock', 1), ('RowShareLock', 2), ('RowExclusiveLock', 3), ('ShareUpdateExclusiveLock', 4),
            ('ShareLock', 5), ('ShareRowExclusiveLock', 6), ('ExclusiveLock', 7), ('AccessExclusiveLock', 8)) m (mode, number)
            ON m.number >= l.first AND NOT (l.lock = 'SHARE' AND m.mode = 'ShareLock')
    ),
    waiting AS (
        SELECT DISTINCT l.pid, a.usename, a.application_name, a.state, l.mode, l.granted, l.relation
        FROM touched t
        JOIN pg_locks l ON l.locktype = 'relation' AND l.relation = t.relid
            AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
        JOIN conflict c ON c.lock = t.lock AND c.mode = l.mode
        LEFT JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE l.pid <> pg_backend_pid()
    )
    SELECT jsonb_build_object(
        'request_id', request.request_id,
        'estimated', NOT $2,
        'exact', $2,
        'objects', (SELECT coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object('what', t.what, 'class', t.class,
            'gone', t.class = 'relation' AND t.relid IS NULL OR NULL, 'rows', t.rows, 'exact_rows', c.rows,
            'bytes', CASE WHEN t.relid IS NOT NULL THEN t.relpages::int8 * current_setting('block_size')::int8 END,
            'lock', t.lock)) ORDER BY t.ord), '[]') FROM touched t LEFT JOIN counted c ON c.relid = t.relid),
        'rows', (SELECT coalesce(sum(r.rows), 0)::int8 FROM (SELECT DISTINCT t.relid, t.rows FROM touched t) r),
        'changes', CASE WHEN request.changes IS NOT NULL THEN jsonb_strip_nulls(jsonb_build_object(
            'estimated', request.changes -> 'estimated', 'exact', CASE WHEN $2 AND jsonb_typeof(request.changes -> 'scans') = 'array' THEN (SELECT rows FROM changed) END)) END,
        'plan', request.plan,
        'masked_columns', (SELECT coalesce(jsonb_agg(jsonb_build_object('column', n.nspname || '.' || c.relname || '.' || m.attname,
            'reads', CASE WHEN m.clear THEN 'clear' ELSE 'masked' END) ORDER BY n.nspname, c.relname, m.attname), '[]')
            FROM masked m JOIN pg_class c ON c.oid = m.relid JOIN pg_namespace n ON n.oid = c.relnamespace),
        'foreign_keys', (SELECT coalesce(jsonb_agg(jsonb_build_object('name', k.conname, 'of', k.conrelid::regclass::text,
            'to', k.confrelid::regclass::text) ORDER BY k.conname, k.conrelid), '[]') FROM foreign_key k),
        'views', (SELECT coalesce(jsonb_agg(v.oid::regclass::text ORDER BY v.oid), '[]') FROM reader v WHERE v.found),
        'blocked', (SELECT coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object('pid', b.pid, 'user', b.usename,
            'application', nullif(b.application_name, ''), 'state', b.state, 'lock', b.mode, 'granted', b.granted,
            'relation', b.relation::regclass::text)) ORDER BY b.pid, b.relation), '[]') FROM waiting b))
    FROM request
    $$;
COMMENT ON FUNCTION agent_guard.approval_impact(uuid, boolean) IS
    'What a held statement would do as things stand: objects with rows and locks, the plan of a query, foreign keys and views, masked columns, sessions in its way; estimates, and with exact counts for which five seconds are taken at most';

-- Here for the requests that it counts.
CREATE VIEW agent_guard.stat AS
SELECT
    pg_catalog.current_database()::text AS database,
    statements,
    denied,
    events,
    ring_bytes,
    ring_size,
    reserved_bytes,
    pending,
    waits,
    refused,
    dropped,
    faults,
    writer_pid,
    writer_restarts,
    (SELECT pg_catalog.count(*) FROM agent_guard.approval_request r
        WHERE r.requested_at OPERATOR(pg_catalog.>=) pg_catalog.pg_postmaster_start_time()) AS approvals,
    (ring_bytes::float8 OPERATOR(pg_catalog./) NULLIF(ring_size, 0))::float4 AS ring_fill
FROM agent_guard.audit_counters();
COMMENT ON VIEW agent_guard.stat IS 'Counters of this database''s audit trail since the server started.';
COMMENT ON COLUMN agent_guard.stat.statements IS 'Statements recorded.';
COMMENT ON COLUMN agent_guard.stat.denied IS 'Denials and refused handshakes recorded.';
COMMENT ON COLUMN agent_guard.stat.events IS 'Events recorded.';
COMMENT ON COLUMN agent_guard.stat.ring_bytes IS 'Bytes of events that wait in the ring.';
COMMENT ON COLUMN agent_guard.stat.ring_size IS 'Bytes of the ring.';
COMMENT ON COLUMN agent_guard.stat.reserved_bytes IS 'Bytes promised to running statements.';
COMMENT ON COLUMN agent_guard.stat.pending IS 'Events that are not queryable yet.';
COMMENT ON COLUMN agent_guard.stat.waits IS 'Times a statement waited for room or for the writer.';
COMMENT ON COLUMN agent_guard.stat.refused IS 'Statements denied because the trail could not take their event.';
COMMENT ON COLUMN agent_guard.stat.dropped IS 'Events lost; 0 unless agent_guard.audit_overflow is drop.';
COMMENT ON COLUMN agent_guard.stat.faults IS 'Events that could not be stored as they were.';
COMMENT ON COLUMN agent_guard.stat.writer_pid IS 'Process id of the writer; null while it rests.';
COMMENT ON COLUMN agent_guard.stat.writer_restarts IS 'Writers started after the first.';
COMMENT ON COLUMN agent_guard.stat.approvals IS 'Statements put to approval since the server started.';
COMMENT ON COLUMN agent_guard.stat.ring_fill IS 'How full the ring is, from 0 to 1.';
COMMENT ON COLUMN agent_guard.stat.database IS 'This database.';
REVOKE ALL ON agent_guard.stat FROM PUBLIC;
GRANT USAGE ON SCHEMA agent_guard TO pg_monitor;
GRANT EXECUTE ON FUNCTION agent_guard.audit_counters() TO pg_monitor;
GRANT SELECT ON agent_guard.stat TO pg_monitor;
