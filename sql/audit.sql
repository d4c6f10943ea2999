-- The audit trail: its segments, the view over them, and the functions about it.

-- Filled by the audit writer alone, past the executor. The columns' order and types are those of src/pg/row.rs.
-- Unlogged: an event costs no WAL; the tables are empty after a crash.
CREATE UNLOGGED TABLE agent_guard.audit_segment (
    seq bigint NOT NULL,
    at timestamptz NOT NULL,
    duration interval,
    xid xid8,
    rule_id bigint,
    rows bigint,
    policy_version bigint,
    statement_length bigint,
    pid integer,
    level integer NOT NULL,
    session_id uuid,
    window_id uuid,
    event text NOT NULL,
    decision text,
    command text,
    role text,
    client_addr inet,
    application_name text,
    sqlstate text,
    lineage text[],
    accesses jsonb,
    parameters text[],
    message text,
    statement text,
    statement_sha256 bytea,
    truncated text[],
    block_ids text[],
    decided_by text,
    -- OIDs as texts: what the journal has too.
    parameter_types text[],
    hash bytea NOT NULL
) WITH (autovacuum_enabled = off);
COMMENT ON TABLE agent_guard.audit_segment IS 'Parent of the audit trail''s segments; itself always empty. Read the view audit instead.';
REVOKE ALL ON agent_guard.audit_segment FROM PUBLIC;

-- Emptied in turn by TRUNCATE, so there is nothing to vacuum; toasting begins only where a row would not fit a page.
CREATE UNLOGGED TABLE agent_guard.audit_segment_00 () INHERITS (agent_guard.audit_segment)
    WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off, toast_tuple_target = 8160);
CREATE INDEX ON agent_guard.audit_segment_00 (seq);
CREATE INDEX ON agent_guard.audit_segment_00 (session_id, seq);
CREATE INDEX ON agent_guard.audit_segment_00 (at);
CREATE INDEX ON agent_guard.audit_segment_00 (decision);
CREATE INDEX ON agent_guard.audit_segment_00 USING gin (lineage);
CREATE INDEX ON agent_guard.audit_segment_00 USING gin (accesses jsonb_path_ops);
COMMENT ON TABLE agent_guard.audit_segment_00 IS 'Segment of the audit trail; read the view audit instead';
REVOKE ALL ON agent_guard.audit_segment_00 FROM PUBLIC;
CREATE UNLOGGED TABLE agent_guard.audit_segment_01 () INHERITS (agent_guard.audit_segment)
    WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off, toast_tuple_target = 8160);
CREATE INDEX ON agent_guard.audit_segment_01 (seq);
CREATE INDEX ON agent_guard.audit_segment_01 (session_id, seq);
CREATE INDEX ON agent_guard.audit_segment_01 (at);
CREATE INDEX ON agent_guard.audit_segment_01 (decision);
CREATE INDEX ON agent_guard.audit_segment_01 USING gin (lineage);
CREATE INDEX ON agent_guard.audit_segment_01 USING gin (accesses jsonb_path_ops);
COMMENT ON TABLE agent_guard.audit_segment_01 IS 'Segment of the audit trail; read the view audit instead';
REVOKE ALL ON agent_guard.audit_segment_01 FROM PUBLIC;
CREATE UNLOGGED TABLE agent_guard.audit_segment_02 () INHERITS (agent_guard.audit_segment)
    WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off, toast_tuple_target = 8160);
CREATE INDEX ON agent_guard.audit_segment_02 (seq);
CREATE INDEX ON agent_guard.audit_segment_02 (session_id, seq);
CREATE INDEX ON agent_guard.audit_segment_02 (at);
CREATE INDEX ON agent_guard.audit_segment_02 (decision);
CREATE INDEX ON agent_guard.audit_segment_02 USING gin (lineage);
CREATE INDEX ON agent_guard.audit_segment_02 USING gin (accesses jsonb_path_ops);
COMMENT ON TABLE agent_guard.audit_segment_02 IS 'Segment of the audit trail; read the view audit instead';
REVOKE ALL ON agent_guard.audit_segment_02 FROM PUBLIC;
CREATE UNLOGGED TABLE agent_guard.audit_segment_03 () INHERITS (agent_guard.audit_segment)
    WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off, toast_tuple_target = 8160);
CREATE INDEX ON agent_guard.audit_segment_03 (seq);
CREATE INDEX ON agent_guard.audit_segment_03 (session_id, seq);
CREATE INDEX ON agent_guard.audit_segment_03 (at);
CREATE INDEX ON agent_guard.audit_segment_03 (decision);
CREATE INDEX ON agent_guard.audit_segment_03 USING gin (lineage);
CREATE INDEX ON agent_guard.audit_segment_03 USING gin (accesses jsonb_path_ops);
COMMENT ON TABLE agent_guard.audit_segment_03 IS 'Segment of the audit trail; read the view audit instead';
REVOKE ALL ON agent_guard.audit_segment_03 FROM PUBLIC;
CREATE UNLOGGED TABLE agent_guard.audit_segment_04 () INHERITS (agent_guard.audit_segment)
    WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off, toast_tuple_target = 8160);
CREATE INDEX ON agent_guard.audit_segment_04 (seq);
CREATE INDEX ON agent_guard.audit_segment_04 (session_id, seq);
CREATE INDEX ON agent_guard.audit_segment_04 (at);
CREATE INDEX ON agent_guard.audit_segment_04 (decision);
CREATE INDEX ON agent_guard.audit_segment_04 USING gin (lineage);
CREATE INDEX ON agent_guard.audit_segment_04 USING gin (accesses jsonb_path_ops);
COMMENT ON TABLE agent_guard.audit_segment_04 IS 'Segment of the audit trail; read the view audit instead';
REVOKE ALL ON agent_guard.audit_segment_04 FROM PUBLIC;
CREATE UNLOGGED TABLE agent_guard.audit_segment_05 () INHERITS (agent_guard.audit_segment)
    WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off, toast_tuple_target = 8160);
CREATE INDEX ON agent_guard.audit_segment_05 (seq);
CREATE INDEX ON agent_guard.audit_segment_05 (session_id, seq);
CREATE INDEX ON agent_guard.audit_segment_05 (at);
CREATE INDEX ON agent_guard.audit_segment_05 (decision);
CREATE INDEX ON agent_guard.audit_segment_05 USING gin (lineage);
CREATE INDEX ON agent_guard.audit_segment_05 USING gin (accesses jsonb_path_ops);
COMMENT ON TABLE agent_guard.audit_segment_05 IS 'Segment of the audit trail; read the view audit instead';
REVOKE ALL ON agent_guard.audit_segment_05 FROM PUBLIC;
CREATE UNLOGGED TABLE agent_guard.audit_segment_06 () INHERITS (agent_guard.audit_segment)
    WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off, toast_tuple_target = 8160);
CREATE INDEX ON agent_guard.audit_segment_06 (seq);
CREATE INDEX ON agent_guard.audit_segment_06 (session_id, seq);
CREATE INDEX ON agent_guard.audit_segment_06 (at);
CREATE INDEX ON agent_guard.audit_segment_06 (decision);
CREATE INDEX ON agent_guard.audit_segment_06 USING gin (lineage);
CREATE INDEX ON agent_guard.audit_segment_06 USING gin (accesses jsonb_path_ops);
COMMENT ON TABLE agent_guard.audit_segment_06 IS 'Segment of the audit trail; read the view audit instead';
REVOKE ALL ON agent_guard.audit_segment_06 FROM PUBLIC;
CREATE UNLOGGED TABLE agent_guard.audit_segment_07 () INHERITS (agent_guard.audit_segment)
    WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off, toast_tuple_target = 8160);
CREATE INDEX ON agent_guard.audit_segment_07 (seq);
CREATE INDEX ON agent_guard.audit_segment_07 (session_id, seq);
CREATE INDEX ON agent_guard.audit_segment_07 (at);
CREATE INDEX ON agent_guard.audit_segment_07 (decision);
CREATE INDEX ON agent_guard.audit_segment_07 USING gin (lineage);
CREATE INDEX ON agent_guard.audit_segment_07 USING gin (accesses jsonb_path_ops);
COMMENT ON TABLE agent_guard.audit_segment_07 IS 'Segment of the audit trail; read the view audit instead';
REVOKE ALL ON agent_guard.audit_segment_07 FROM PUBLIC;
CREATE UNLOGGED TABLE agent_guard.audit_segment_08 () INHERITS (agent_guard.audit_segment)
    WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off, toast_tuple_target = 8160);
CREATE INDEX ON agent_guard.audit_segment_08 (seq);
CREATE INDEX ON agent_guard.audit_segment_08 (session_id, seq);
CREATE INDEX ON agent_guard.audit_segment_08 (at);
CREATE INDEX ON agent_guard.audit_segment_08 (decision);
CREATE INDEX ON agent_guard.audit_segment_08 USING gin (lineage);
CREATE INDEX ON agent_guard.audit_segment_08 USING gin (accesses jsonb_path_ops);
COMMENT ON TABLE agent_guard.audit_segment_08 IS 'Segment of the audit trail; read the view audit instead';
REVOKE ALL ON agent_guard.audit_segment_08 FROM PUBLIC;
CREATE UNLOGGED TABLE agent_guard.audit_segment_09 () INHERITS (agent_guard.audit_segment)
    WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off, toast_tuple_target = 8160);
CREATE INDEX ON agent_guard.audit_segment_09 (seq);
CREATE INDEX ON agent_guard.audit_segment_09 (session_id, seq);
CREATE INDEX ON agent_guard.audit_segment_09 (at);
CREATE INDEX ON agent_guard.audit_segment_09 (decision);
CREATE INDEX ON agent_guard.audit_segment_09 USING gin (lineage);
CREATE INDEX ON agent_guard.audit_segment_09 USING gin (accesses jsonb_path_ops);
COMMENT ON TABLE agent_guard.audit_segment_09 IS 'Segment of the audit trail; read the view audit instead';
REVOKE ALL ON agent_guard.audit_segment_09 FROM PUBLIC;
CREATE UNLOGGED TABLE agent_guard.audit_segment_10 () INHERITS (agent_guard.audit_segment)
    WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off, toast_tuple_target = 8160);
CREATE INDEX ON agent_guard.audit_segment_10 (seq);
CREATE INDEX ON agent_guard.audit_segment_10 (session_id, seq);
CREATE INDEX ON agent_guard.audit_segment_10 (at);
CREATE INDEX ON agent_guard.audit_segment_10 (decision);
CREATE INDEX ON agent_guard.audit_segment_10 USING gin (lineage);
CREATE INDEX ON agent_guard.audit_segment_10 USING gin (accesses jsonb_path_ops);
COMMENT ON TABLE agent_guard.audit_segment_10 IS 'Segment of the audit trail; read the view audit instead';
REVOKE ALL ON agent_guard.audit_segment_10 FROM PUBLIC;
CREATE UNLOGGED TABLE agent_guard.audit_segment_11 () INHERITS (agent_guard.audit_segment)
    WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off, toast_tuple_target = 8160);
CREATE INDEX ON agent_guard.audit_segment_11 (seq);
CREATE INDEX ON agent_guard.audit_segment_11 (session_id, seq);
CREATE INDEX ON agent_guard.audit_segment_11 (at);
CREATE INDEX ON agent_guard.audit_segment_11 (decision);
CREATE INDEX ON agent_guard.audit_segment_11 USING gin (lineage);
CREATE INDEX ON agent_guard.audit_segment_11 USING gin (accesses jsonb_path_ops);
COMMENT ON TABLE agent_guard.audit_segment_11 IS 'Segment of the audit trail; read the view audit instead';
REVOKE ALL ON agent_guard.audit_segment_11 FROM PUBLIC;
CREATE UNLOGGED TABLE agent_guard.audit_segment_12 () INHERITS (agent_guard.audit_segment)
    WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off, toast_tuple_target = 8160);
CREATE INDEX ON agent_guard.audit_segment_12 (seq);
CREATE INDEX ON agent_guard.audit_segment_12 (session_id, seq);
CREATE INDEX ON agent_guard.audit_segment_12 (at);
CREATE INDEX ON agent_guard.audit_segment_12 (decision);
CREATE INDEX ON agent_guard.audit_segment_12 USING gin (lineage);
CREATE INDEX ON agent_guard.audit_segment_12 USING gin (accesses jsonb_path_ops);
COMMENT ON TABLE agent_guard.audit_segment_12 IS 'Segment of the audit trail; read the view audit instead';
REVOKE ALL ON agent_guard.audit_segment_12 FROM PUBLIC;
CREATE UNLOGGED TABLE agent_guard.audit_segment_13 () INHERITS (agent_guard.audit_segment)
    WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off, toast_tuple_target = 8160);
CREATE INDEX ON agent_guard.audit_segment_13 (seq);
CREATE INDEX ON agent_guard.audit_segment_13 (session_id, seq);
CREATE INDEX ON agent_guard.audit_segment_13 (at);
CREATE INDEX ON agent_guard.audit_segment_13 (decision);
CREATE INDEX ON agent_guard.audit_segment_13 USING gin (lineage);
CREATE INDEX ON agent_guard.audit_segment_13 USING gin (accesses jsonb_path_ops);
COMMENT ON TABLE agent_guard.audit_segment_13 IS 'Segment of the audit trail; read the view audit instead';
REVOKE ALL ON agent_guard.audit_segment_13 FROM PUBLIC;
CREATE UNLOGGED TABLE agent_guard.audit_segment_14 () INHERITS (agent_guard.audit_segment)
    WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off, toast_tuple_target = 8160);
CREATE INDEX ON agent_guard.audit_segment_14 (seq);
CREATE INDEX ON agent_guard.audit_segment_14 (session_id, seq);
CREATE INDEX ON agent_guard.audit_segment_14 (at);
CREATE INDEX ON agent_guard.audit_segment_14 (decision);
CREATE INDEX ON agent_guard.audit_segment_14 USING gin (lineage);
CREATE INDEX ON agent_guard.audit_segment_14 USING gin (accesses jsonb_path_ops);
COMMENT ON TABLE agent_guard.audit_segment_14 IS 'Segment of the audit trail; read the view audit instead';
REVOKE ALL ON agent_guard.audit_segment_14 FROM PUBLIC;
CREATE UNLOGGED TABLE agent_guard.audit_segment_15 () INHERITS (agent_guard.audit_segment)
    WITH (autovacuum_enabled = off, toast.autovacuum_enabled = off, toast_tuple_target = 8160);
CREATE INDEX ON agent_guard.audit_segment_15 (seq);
CREATE INDEX ON agent_guard.audit_segment_15 (session_id, seq);
CREATE INDEX ON agent_guard.audit_segment_15 (at);
CREATE INDEX ON agent_guard.audit_segment_15 (decision);
CREATE INDEX ON agent_guard.audit_segment_15 USING gin (lineage);
CREATE INDEX ON agent_guard.audit_segment_15 USING gin (accesses jsonb_path_ops);
COMMENT ON TABLE agent_guard.audit_segment_15 IS 'Segment of the audit trail; read the view audit instead';
REVOKE ALL ON agent_guard.audit_segment_15 FROM PUBLIC;

-- A text that is too long for its statement's event stands before it in pieces (src/pg/long_text.rs), each with their number.
-- A function, so that the planner does not count a look at every segment for each row of the view (and has the query compiled).
-- Whoever reads the view calls it, hence PUBLIC: it tells a text to those who know its SHA-256, which is in the view.
CREATE FUNCTION agent_guard.long_statement(at timestamptz, pid integer, sha256 bytea, OUT statement text, OUT whole boolean)
    LANGUAGE sql STABLE STRICT PARALLEL SAFE SECURITY DEFINER COST 10
    SET search_path = pg_catalog, pg_temp
    SET jit = off
    AS $$
    SELECT string_agg(p.parameters[1], '' ORDER BY p.seq), bool_and(p.truncated IS NULL)
    FROM agent_guard.audit_segment p
    WHERE p.at = $1 AND p.pid = $2 AND p.event = 'text' AND p.statement_sha256 = $3
    HAVING count(*) = max(p.rows)
    $$;
COMMENT ON FUNCTION agent_guard.long_statement(timestamptz, integer, bytea) IS 'The text of a long statement of the audit trail; read the view audit instead';

CREATE VIEW agent_guard.audit AS
SELECT
    s.seq,
    s.at,
    s.session_id,
    s.window_id,
    s.lineage,
    s.role,
    pg_catalog.current_database()::text AS database,
    s.client_addr,
    s.pid,
    s.xid,
    s.level,
    s.command,
    CASE
        WHEN s.statement_sha256 IS NULL OR s.event OPERATOR(pg_catalog.=) 'text' THEN s.statement
        ELSE COALESCE((agent_guard.long_statement(s.at, s.pid, s.statement_sha256)).statement, s.statement)
    END AS statement,
    s.parameters,
    s.accesses,
    s.decision,
    s.rule_id,
    s.rows,
    s.duration,
    s.sqlstate,
    s.message,
    s.event,
    s.application_name,
    s.statement_length,
    s.statement_sha256,
    s.policy_version,
    CASE
        WHEN s.statement_sha256 IS NOT NULL AND s.event OPERATOR(pg_catalog.<>) 'text'
            AND (agent_guard.long_statement(s.at, s.pid, s.statement_sha256)).whole
        THEN CASE WHEN s.truncated[2] IS NOT NULL THEN pg_catalog.array_remove(
            CASE WHEN w.length IS NULL THEN s.truncated ELSE pg_catalog.trim_array(s.truncated, 1) END, 'statement') END
        ELSE CASE WHEN w.length IS NULL THEN s.truncated ELSE pg_catalog.trim_array(s.truncated, 1) END
    END AS truncated,
    s.block_ids,
    s.decided_by,
    s.hash,
    (SELECT pg_catalog.array_agg(pg_catalog.format_type(t.oid::pg_catalog.oid, NULL) ORDER BY t.n)
        FROM pg_catalog.unnest(s.parameter_types) WITH ORDINALITY t (oid, n)) AS parameter_types,
    w.length AS parameters_length,
    w.sha256 AS parameters_sha256
FROM agent_guard.audit_segment s
-- Where the parameters are cut, the last of `truncated` is what tells the whole of them (src/pg/row.rs).
CROSS JOIN LATERAL (
    SELECT pg_catalog.split_part(whole.last, ' ', 2)::pg_catalog.int8 AS length,
        pg_catalog.decode(pg_catalog.split_part(whole.last, ' ', 3), 'hex') AS sha256
    FROM (SELECT CASE WHEN s.truncated IS NOT NULL AND s.truncated[pg_catalog.cardinality(s.truncated)]
        OPERATOR(pg_catalog.~~) 'parameters %' THEN s.truncated[pg_catalog.cardinality(s.truncated)] END AS last) whole
) w;
COMMENT ON VIEW agent_guard.audit IS 'The audit trail of this database: one row for each event, the oldest gone beyond agent_guard.audit_capacity.';
COMMENT ON COLUMN agent_guard.audit.seq IS 'Number of the event; grows by one.';
COMMENT ON COLUMN agent_guard.audit.at IS 'When the statement began.';
COMMENT ON COLUMN agent_guard.audit.session_id IS 'The session: one binding of a backend to a token.';
COMMENT ON COLUMN agent_guard.audit.window_id IS 'The window that the token belongs to.';
COMMENT ON COLUMN agent_guard.audit.lineage IS 'Agent names along the tokens chain.';
COMMENT ON COLUMN agent_guard.audit.role IS 'Login role.';
COMMENT ON COLUMN agent_guard.audit.database IS 'This database.';
COMMENT ON COLUMN agent_guard.audit.client_addr IS 'Address of the client; null for a Unix-domain socket.';
COMMENT ON COLUMN agent_guard.audit.pid IS 'Process id of the backend.';
COMMENT ON COLUMN agent_guard.audit.xid IS 'Transaction, where it had an id; within a savepoint or a block with an exception clause the subtransaction, which is what its rows have as xmin.';
COMMENT ON COLUMN agent_guard.audit.level IS 'Nesting level; 0 is what the client sent.';
COMMENT ON COLUMN agent_guard.audit.command IS 'Command tag.';
COMMENT ON COLUMN agent_guard.audit.statement IS 'Text of the statement, secrets taken out; whole up to agent_guard.audit_statement_size.';
COMMENT ON COLUMN agent_guard.audit.parameters IS 'Values of the parameters; of a text, the piece.';
COMMENT ON COLUMN agent_guard.audit.accesses IS 'What the statement needed: action, object, columns, decision, rule.';
COMMENT ON COLUMN agent_guard.audit.decision IS 'allow, deny, approve (held for approval), or observe (would have been denied).';
COMMENT ON COLUMN agent_guard.audit.rule_id IS 'The rule that decided.';
COMMENT ON COLUMN agent_guard.audit.rows IS 'Rows returned or changed.';
COMMENT ON COLUMN agent_guard.audit.duration IS 'How long it took.';
COMMENT ON COLUMN agent_guard.audit.sqlstate IS 'SQLSTATE of a failure.';
COMMENT ON COLUMN agent_guard.audit.message IS 'Message of a failure.';
COMMENT ON COLUMN agent_guard.audit.event IS 'statement, text (a piece of the text of the statement that follows), begun, bind, unbind, handshake_refused, approval_request, approval, results (see audit_results), fault, chain_begin, admin.';
COMMENT ON COLUMN agent_guard.audit.application_name IS 'application_name of the client.';
COMMENT ON COLUMN agent_guard.audit.statement_length IS 'Length of the whole text in bytes.';
COMMENT ON COLUMN agent_guard.audit.statement_sha256 IS 'SHA-256 of the whole text as it was received, where it is longer than 32 kB.';
COMMENT ON COLUMN agent_guard.audit.policy_version IS 'Version of the policy that decided.';
COMMENT ON COLUMN agent_guard.audit.truncated IS 'Names of the columns that are not whole.';
COMMENT ON COLUMN agent_guard.audit.block_ids IS 'The blocks of the session''s token, the root''s first, as revoke_block takes them; for a refused handshake those of the refused token, where its signature was right.';
COMMENT ON COLUMN agent_guard.audit.decided_by IS 'What of a token refused: window, or the id of the block.';
COMMENT ON COLUMN agent_guard.audit.hash IS 'SHA-256 over the event and the hash of the event before it.';
COMMENT ON COLUMN agent_guard.audit.parameter_types IS 'Types of the parameters.';
COMMENT ON COLUMN agent_guard.audit.parameters_length IS 'Where the parameters are cut: bytes of array_to_json of all of them.';
COMMENT ON COLUMN agent_guard.audit.parameters_sha256 IS 'Where the parameters are cut: SHA-256 of array_to_json of all of them as they were received, in UTF-8.';
REVOKE ALL ON agent_guard.audit FROM PUBLIC;

-- A result is one or more events of the kind results: texts in parameters, the first of each saying what the others are
-- (src/audit/results.rs), and in message what is known of the whole so far (src/pg/results.rs).
CREATE VIEW agent_guard.audit_results AS
SELECT
    r.session_id,
    r.at,
    r.first_seq,
    r.last_seq,
    r.command,
    (r.told OPERATOR(pg_catalog.->>) 'rows')::pg_catalog.int8 AS row_count,
    (r.told OPERATOR(pg_catalog.->>) 'bytes')::pg_catalog.int8 AS byte_count,
    (r.told OPERATOR(pg_catalog.->>) 'recorded')::pg_catalog.int8 AS recorded,
    r.told OPERATOR(pg_catalog.->>) 'state' AS state,
    r.told OPERATOR(pg_catalog.->>) 'sha256' AS sha256,
    r.head OPERATOR(pg_catalog.->>) 'shape' AS shape,
    pg_catalog.pg_encoding_to_char((r.head OPERATOR(pg_catalog.->>) 'encoding')::pg_catalog.int4)::pg_catalog.text AS encoding,
    (SELECT pg_catalog.json_agg(pg_catalog.json_build_object('name', c.value OPERATOR(pg_catalog.->>) 'name',
            'type', pg_catalog.format_type((c.value OPERATOR(pg_catalog.->>) 'type')::pg_catalog.oid, NULL),
            'format', c.value OPERATOR(pg_catalog.->>) 'format') ORDER BY c.ordinality)
        FROM pg_catalog.json_array_elements(r.head OPERATOR(pg_catalog.->) 'columns') WITH ORDINALITY c) AS columns,
    r.rows
FROM (
    SELECT e.session_id, e.at, pg_catalog.min(e.seq) AS first_seq, pg_catalog.max(e.seq) AS last_seq,
        pg_catalog.min(e.command) AS command,
        (pg_catalog.array_agg(e.message ORDER BY e.seq DESC))[1]::pg_catalog.json AS told,
        (pg_catalog.array_agg(e.parameters[1] ORDER BY e.seq) FILTER (WHERE e.parameters IS NOT NULL))[1]::pg_catalog.json AS head,
        pg_catalog.concat('[', pg_catalog.string_agg(pg_catalog.array_to_string(e.parameters[2:], ','), ',' ORDER BY e.seq)
            FILTER (WHERE pg_catalog.cardinality(e.parameters) OPERATOR(pg_catalog.>) 1), ']')::pg_catalog.json AS rows
    FROM agent_guard.audit_segment e
    WHERE e.event OPERATOR(pg_catalog.=) 'results'
    GROUP BY e.session_id, e.at
) r;
COMMENT ON VIEW agent_guard.audit_results IS 'What statements returned, where their policy records it: one row for each result; session_id and at are those of the statement''s own event at level 0.';
COMMENT ON COLUMN agent_guard.audit_results.row_count IS 'Rows that left for the client.';
COMMENT ON COLUMN agent_guard.audit_results.byte_count IS 'Bytes of these rows, as the protocol has them.';
COMMENT ON COLUMN agent_guard.audit_results.recorded IS 'Rows that are kept, from the first one on.';
COMMENT ON COLUMN agent_guard.audit_results.state IS 'complete; error (it ended in one); suspended (the client has not asked for the rest), sending (nor has the rest left), connection ended.';
COMMENT ON COLUMN agent_guard.audit_results.sha256 IS 'SHA-256 over the bodies of the messages that held the rows; with recording of digests.';
COMMENT ON COLUMN agent_guard.audit_results.shape IS 'rows; copy (lines of text), copy binary, call (of the fast-path interface): one value for each message.';
COMMENT ON COLUMN agent_guard.audit_results.encoding IS 'The encoding in which the client received texts.';
COMMENT ON COLUMN agent_guard.audit_results.columns IS 'Name, type and format of each column.';
COMMENT ON COLUMN agent_guard.audit_results.rows IS 'An array for each row: texts and nulls; {"hex": ...} for what has no text, {"cut": ...} behind a row that is longer than what is kept.';
REVOKE ALL ON agent_guard.audit_results FROM PUBLIC;

-- Logged, unlike the segments. Written by the audit writer alone.
CREATE TABLE agent_guard.audit_anchor (
    seq bigint NOT NULL,
    hash bytea NOT NULL,
    at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE agent_guard.audit_anchor IS 'The event that the audit trail begins behind: the last one that was removed, with its hash.';
REVOKE ALL ON agent_guard.audit_anchor FROM PUBLIC;

CREATE FUNCTION agent_guard.verify_audit(checkpoint_seq bigint DEFAULT NULL, checkpoint_hash text DEFAULT NULL,
    OUT intact boolean, OUT events bigint, OUT first_seq bigint, OUT last_seq bigint, OUT last_hash text,
    OUT broken_seq bigint, OUT break text, OUT detail text)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 1
    SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'verify_audit_wrapper';
COMMENT ON FUNCTION agent_guard.verify_audit(bigint, text) IS 'Walks the hash chain of the audit trail and names the first break; with a checkpoint of the server log, holds the chain against that too.';
REVOKE ALL ON FUNCTION agent_guard.verify_audit(bigint, text) FROM PUBLIC;

CREATE FUNCTION agent_guard.journal_read(path text,
    OUT file text, OUT seq bigint, OUT at timestamptz, OUT event jsonb, OUT hash text, OUT problem text)
    RETURNS SETOF record
    LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'journal_read_wrapper';
COMMENT ON FUNCTION agent_guard.journal_read(text) IS 'Reads a file of an audit journal, or all files of a directory, and holds each event against the hash chain; a row with a problem says where that ends.';
REVOKE ALL ON FUNCTION agent_guard.journal_read(text) FROM PUBLIC;

CREATE FUNCTION agent_guard.audit_flush() RETURNS void
    LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'audit_flush_wrapper';
COMMENT ON FUNCTION agent_guard.audit_flush() IS 'Returns when all events so far are queryable (by the next statement).';
REVOKE ALL ON FUNCTION agent_guard.audit_flush() FROM PUBLIC;

CREATE FUNCTION agent_guard.audit_counters(
    OUT events bigint, OUT statements bigint, OUT denied bigint, OUT ring_bytes bigint, OUT ring_size bigint,
    OUT reserved_bytes bigint, OUT pending bigint, OUT waits bigint, OUT refused bigint, OUT dropped bigint,
    OUT faults bigint, OUT writer_pid integer, OUT writer_restarts bigint)
    RETURNS SETOF record
    LANGUAGE c VOLATILE STRICT PARALLEL RESTRICTED ROWS 1
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'audit_counters_wrapper';
COMMENT ON FUNCTION agent_guard.audit_counters() IS 'Counters of this database''s audit trail; read the view stat instead.';
REVOKE ALL ON FUNCTION agent_guard.audit_counters() FROM PUBLIC;
