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
    used_by uuid
);
CREATE INDEX approval_request_key_idx ON agent_guard.approval_request (request_key);
CREATE INDEX approval_request_window_idx ON agent_guard.approval_request (window_id);
COMMENT ON TABLE agent_guard.approval_request IS
    'Statements held for approval; written by the audit writer, approve, reject, and the agent''s own transaction when it uses one';
COMMENT ON COLUMN agent_guard.approval_request.fingerprint IS 'What exactly may run: the agent, its policy, statement, parameters and settings';
COMMENT ON COLUMN agent_guard.approval_request.objects IS 'What the statement touches and what goes along with it, as class:oid action name';
COMMENT ON COLUMN agent_guard.approval_request.found IS 'Those of the objects that only a run of the statement has found';
COMMENT ON COLUMN agent_guard.approval_request.context IS 'The statements and functions that it was called from, outermost first';
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

CREATE FUNCTION agent_guard.approval_impact(request_id uuid) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL RESTRICTED SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
    WITH request AS (SELECT r.* FROM agent_guard.approval_requests r WHERE r.request_id = $1),
    item AS (
        SELECT o.ord, split_part(o.item, ':', 1) AS class,
            CASE WHEN o.item ~ '^[a-z]+:[0-9]+ ' THEN substring(o.item FROM '^[a-z]+:([0-9]+) ')::oid END AS oid,
            substring(o.item FROM ' (.*)$') AS what
        FROM request, unnest(request.objects) WITH ORDINALITY o (item, ord)
        ORDER BY o.ord LIMIT 1000
    ),
    touched AS (
        SELECT item.ord, item.class, item.oid, item.what, c.oid AS relid, c.relkind, c.relpages,
            CASE WHEN c.relkind IN ('r', 'm', 'p', 'f') AND c.reltuples >= 0 THEN c.reltuples::int8 END AS rows,
            CASE WHEN item.what ~ '^(drop|truncate|alter|maintain)' THEN 'ACCESS EXCLUSIVE'
                WHEN item.what ~ '^create (index|trigger)' THEN 'SHARE'
                WHEN item.what ~ '^(insert|update|delete)' THEN 'ROW EXCLUSIVE'
                WHEN item.what ~ '^select' THEN 'ACCESS SHARE' END AS lock
        FROM item LEFT JOIN pg_class c ON item.class = 'relation' AND c.oid = item.oid
    ),
    foreign_key AS (
        SELECT DISTINCT k.conname, k.conrelid, k.confrelid FROM pg_constraint k JOIN touched t ON k.confrelid = t.relid
        WHERE k.contype = 'f' AND k.conparentid = 0 AND t.lock = 'ACCESS EXCLUSIVE'
          AND NOT EXISTS (SELECT FROM touched o WHERE o.relid = k.conrelid AND o.what ~ '^(drop (foreign )?table|truncate)')
    ),
    reader AS (
        SELECT DISTINCT v.oid, v.relkind FROM touched t
        JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = t.relid
            AND d.classid = 'pg_rewrite'::regclass
        JOIN pg_rewrite w ON w.oid = d.objid JOIN pg_class v ON v.oid = w.ev_class
        WHERE v.oid <> t.relid AND v.relkind IN ('v', 'm') AND t.lock = 'ACCESS EXCLUSIVE'
    ),
    waiting AS (
        SELECT DISTINCT l.pid, a.usename, a.application_name, a.state, l.mode, l.granted, l.relation
        FROM touched t
        JOIN pg_locks l ON l.locktype = 'relation' AND l.relation = t.relid
            AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
        LEFT JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE l.pid <> pg_backend_pid()
          AND (t.lock = 'ACCESS EXCLUSIVE'
            OR t.lock = 'SHARE' AND l.mode NOT IN ('AccessShareLock', 'RowShareLock', 'ShareLock')
            OR t.lock = 'ROW EXCLUSIVE' AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
            OR t.lock = 'ACCESS SHARE' AND l.mode = 'AccessExclusiveLock')
    )
    SELECT jsonb_build_object(
        'request_id', request.request_id,
        'estimated', true,
        'objects', (SELECT coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object('what', t.what, 'class', t.class,
            'gone', t.class = 'relation' AND t.relid IS NULL OR NULL, 'rows', t.rows,
            'bytes', CASE WHEN t.relid IS NOT NULL THEN t.relpages::int8 * current_setting('block_size')::int8 END,
            'lock', t.lock)) ORDER BY t.ord), '[]') FROM touched t),
        'rows', (SELECT coalesce(sum(r.rows), 0)::int8 FROM (SELECT DISTINCT t.relid, t.rows FROM touched t) r),
        'foreign_keys', (SELECT coalesce(jsonb_agg(jsonb_build_object('name', k.conname, 'of', k.conrelid::regclass::text,
            'to', k.confrelid::regclass::text) ORDER BY k.conname, k.conrelid), '[]') FROM foreign_key k),
        'views', (SELECT coalesce(jsonb_agg(v.oid::regclass::text ORDER BY v.oid), '[]') FROM reader v),
        'blocked', (SELECT coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object('pid', b.pid, 'user', b.usename,
            'application', nullif(b.application_name, ''), 'state', b.state, 'lock', b.mode, 'granted', b.granted,
            'relation', b.relation::regclass::text)) ORDER BY b.pid, b.relation), '[]') FROM waiting b))
    FROM request
    $$;
COMMENT ON FUNCTION agent_guard.approval_impact(uuid) IS
    'What a held statement would do as things stand: objects with estimated rows and locks, foreign keys and views that read them, sessions in its way; from catalogue and statistics alone';
