-- Limits as a DBA declares and reads them, and as an agent is told of them.
\set VERBOSITY terse
SET client_min_messages = warning;
DROP ROLE IF EXISTS lim_agent;
RESET client_min_messages;
CREATE ROLE lim_agent LOGIN;
CREATE SCHEMA lim;
CREATE TABLE lim.t AS SELECT n AS id FROM generate_series(1, 20) n;
GRANT USAGE ON SCHEMA lim TO lim_agent;
GRANT ALL ON lim.t TO lim_agent;
SELECT agent_guard.guard_role('lim_agent');
SELECT agent_guard.create_policy('lim');
SELECT count(agent_guard.allow('lim', ARRAY['select', 'insert', 'truncate'], ARRAY['lim.t']));

-- Values that are none.
\set VERBOSITY default
SELECT agent_guard.set_limits('lim', rows_read => 0);
SELECT agent_guard.set_limits('lim', statements => -1);
SELECT agent_guard.set_limits('lim', bytes_read => 9007199254740992);
SELECT agent_guard.set_limits('lim', statement_timeout => '0 s');
SELECT agent_guard.set_limits('lim', statement_timeout => '25 days');
SELECT agent_guard.set_limits('limm', rows_read => 1);
SELECT * FROM agent_guard.grant_window('lim', 'lim_agent', 'a', '1 hour', uses => 0);
SELECT agent_guard.apply_policy('{"name": "lim", "rules": [], "limits": {"rows": 1}}');
SELECT agent_guard.apply_policy('{"name": "lim", "rules": [], "limits": {"rows_read": 0}}');
SELECT agent_guard.apply_policy('{"name": "lim", "rules": [], "limits": {"statement_timeout": "soon"}}');
\set VERBOSITY terse

-- Shown, exported, applied.
SELECT agent_guard.set_limits('lim', rows_per_statement => 8, rows_read => 12, statement_timeout => '1 min 30 s');
SELECT limits, version FROM agent_guard.policies WHERE name = 'lim';
SELECT agent_guard.export_policy('lim') -> 'limits' AS limits;
SELECT count(*) AS changes FROM agent_guard.apply_policy(agent_guard.export_policy('lim'));
SELECT change, item FROM agent_guard.apply_policy(agent_guard.export_policy('lim') || '{"limits": {"rows_read": 100}}');
SELECT change, item FROM agent_guard.apply_policy(agent_guard.export_policy('lim') - 'limits');
SELECT limits FROM agent_guard.policies WHERE name = 'lim';
SELECT agent_guard.set_limits('lim', rows_per_statement => 8, rows_read => 12, statement_timeout => '90 s');

-- The tighter of window and policy.
SELECT token, window_id FROM agent_guard.grant_window('lim', 'lim_agent', 'a', '1 hour', max_depth => 2, rows_read => 50,
    rows_written => 3, bytes_read => 10000, statements => 100, uses => 9, rows_per_statement => 100) \gset
SELECT limits, used, "left" FROM agent_guard.windows WHERE window_id = :'window_id';

\c - lim_agent
\set VERBOSITY terse
SET agent_guard.token = :'token';
SELECT count(*) FROM lim.t;
SELECT jsonb_object_keys("left") AS limited FROM agent_guard.whoami();
\c - postgres
SELECT used - 'bytes_read' AS used, "left" - 'bytes_read' AS "left" FROM agent_guard.windows WHERE window_id = :'window_id';

-- A child's own limits, by delegate.
\c - lim_agent
\set VERBOSITY default
SET agent_guard.token = :'token';
SELECT agent_guard.delegate('small', '10 min', rows => 0);
SELECT agent_guard.delegate('small', '10 min', rows => 2, statements => 3, sessions => 1) AS child \gset
SET agent_guard.token = :'child';
SELECT "left" ->> 'rows_read' AS rows, "left" ->> 'rows_written' AS written FROM agent_guard.whoami();
\set VERBOSITY sqlstate
SELECT id FROM lim.t LIMIT 2;
INSERT INTO lim.t VALUES (1);
INSERT INTO lim.t VALUES (1), (2);
SELECT 1;
BEGIN;
ROLLBACK;

-- One statement.
\set VERBOSITY verbose
SET agent_guard.token = :'token';
TRUNCATE lim.t;
WITH x AS (INSERT INTO lim.t VALUES (1) RETURNING id) SELECT * FROM x;
\c - postgres
SELECT agent_guard.set_limits('lim', rows_per_statement => 2);
\c - lim_agent
\set VERBOSITY sqlstate
SET agent_guard.token = :'token';
SELECT id FROM lim.t WHERE id = 4;
SELECT id FROM lim.t LIMIT 3;
INSERT INTO lim.t SELECT 1 FROM generate_series(1, 3);

-- Clean up. The agent's last session may not be gone yet.
\c - postgres
SET client_min_messages = warning;
SELECT agent_guard.revoke_window(:'window_id');
SELECT agent_guard.drop_policy('lim');
SELECT count(*) FROM agent_guard.ledger;
SELECT agent_guard.unguard_role('lim_agent');
DROP SCHEMA lim CASCADE;
DROP ROLE lim_agent;
