-- What a policy records of results, as a DBA declares and reads it, and as an auditor finds it.
\set VERBOSITY terse
SET client_min_messages = warning;
DROP ROLE IF EXISTS kept_agent;
RESET client_min_messages;
CREATE ROLE kept_agent LOGIN;
CREATE SCHEMA kept;
CREATE TABLE kept.t (id int, v text);
INSERT INTO kept.t VALUES (1, 'one'), (2, NULL), (3, E'three\n"quoted"');
GRANT USAGE ON SCHEMA kept TO kept_agent;
GRANT ALL ON kept.t TO kept_agent;
SELECT agent_guard.guard_role('kept_agent');
SELECT agent_guard.create_policy('kept');
SELECT agent_guard.allow('kept', ARRAY['select', 'update'], ARRAY['kept.t']) \gset
SELECT recording FROM agent_guard.policies WHERE name = 'kept';

-- What cannot be.
\set VERBOSITY default
SELECT agent_guard.set_recording('kept', 'everything');
SELECT agent_guard.set_recording('kept', NULL);
SELECT agent_guard.set_recording('kept', max_rows => 0);
SELECT agent_guard.set_recording('kept', 'digest', max_bytes => 10);
SELECT agent_guard.set_recording('keptt');
SELECT agent_guard.apply_policy('{"name": "kept", "rules": [], "recording": {"rows": 1}}');
SELECT agent_guard.apply_policy('{"name": "kept", "rules": [], "recording": {}}');
SELECT agent_guard.apply_policy('{"name": "kept", "rules": [], "recording": {"results": "all"}}');
SELECT agent_guard.apply_policy('{"name": "kept", "rules": [], "recording": {"results": "rows", "max_rows": -1}}');
\set VERBOSITY terse

-- Declared, shown, exported, applied.
SELECT agent_guard.set_recording('kept', max_rows => 2);
SELECT recording, version FROM agent_guard.policies WHERE name = 'kept';
SELECT agent_guard.export_policy('kept') -> 'recording' AS recording;
SELECT count(*) AS changes FROM agent_guard.apply_policy(agent_guard.export_policy('kept'));
SELECT change, item FROM agent_guard.apply_policy(agent_guard.export_policy('kept') - 'recording');
SELECT change, item FROM agent_guard.apply_policy(agent_guard.export_policy('kept') || '{"recording": {"results": "rows", "max_rows": 2, "max_bytes": 1000}}');

SELECT token, window_id FROM agent_guard.grant_window('kept', 'kept_agent', 'reader', '1 hour') \gset
\c - kept_agent
\set VERBOSITY terse
SET agent_guard.token = :'token';
SELECT id, v FROM kept.t ORDER BY id;
UPDATE kept.t SET v = upper(v) WHERE id = 1 RETURNING id, v;
SELECT count(*) FROM kept.t WHERE false;
COPY (SELECT id FROM kept.t ORDER BY id DESC) TO STDOUT;
DELETE FROM kept.t;
\c - postgres
SELECT agent_guard.audit_flush();
SELECT command, row_count, byte_count, recorded, state, shape, encoding, columns -> 0 ->> 'type' AS type, rows
  FROM agent_guard.audit_results r WHERE session_id IN (SELECT session_id FROM agent_guard.audit WHERE window_id = :'window_id')
 ORDER BY at;
SELECT p.command, p.rows, p.results -> 'rows' AS results FROM (SELECT DISTINCT session_id FROM agent_guard.audit WHERE window_id = :'window_id') s,
    agent_guard.replay(s.session_id) p WHERE p.depth = 0 AND p.event <> 'unbind' ORDER BY p.step;
SELECT regexp_replace(string_agg(line ->> 2, '' ORDER BY n), E'\\x1b\\[\\d+m|\r', '', 'g') LIKE E'%\n id |  v\n----+-----\n  1 | one\n  2 |\n-- 2 of 3 rows recorded%' AS printed_as_by_psql
  FROM (SELECT DISTINCT session_id FROM agent_guard.audit WHERE window_id = :'window_id' AND session_id IS NOT NULL) s,
    regexp_split_to_table(agent_guard.asciicast(s.session_id), '\n') WITH ORDINALITY t(text, n), LATERAL (SELECT text::json AS line) l
 WHERE n > 1;
SELECT intact FROM agent_guard.verify_audit();

SET client_min_messages = warning;
DROP SCHEMA kept CASCADE;
SELECT agent_guard.revoke_window(:'window_id');
SELECT agent_guard.drop_policy('kept');
SELECT agent_guard.unguard_role('kept_agent');
DROP ROLE kept_agent;
