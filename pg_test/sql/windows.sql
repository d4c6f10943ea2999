-- Windows and signing keys. Nothing printed here is a token, an id or a time.
CREATE ROLE win_agent LOGIN;
CREATE ROLE win_free LOGIN;
SELECT agent_guard.guard_role('win_agent');
SELECT agent_guard.create_policy('win');

CREATE TEMP TABLE win AS SELECT * FROM agent_guard.grant_window('win', 'win_agent', 'planner', '1 hour');
SELECT token ~ '^agt1\.[A-Za-z0-9_-]{27}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{43}$' AS bearer,
    expires_at BETWEEN now() + '59 min' AND clock_timestamp() + '1 hour' AS in_an_hour FROM win;
INSERT INTO win SELECT * FROM agent_guard.grant_window(policy => 'win', role => 'win_agent', agent => 'a.B_c:d@e/f-1',
    ttl => '30 days', max_depth => 7, max_sessions => 2, client_addr => '{10.0.0.0/8,::1/128}', require_proof => true,
    reason => 'ticket 7');
SELECT w.policy, w.role, w.agent, w.state, w.remaining > '59 min' AS left, w.granted_by = session_user AS mine, w.reason,
    w.max_depth, w.max_sessions, w.client_addr, w.require_proof
FROM agent_guard.windows w JOIN win USING (window_id) ORDER BY w.granted_at;
SELECT w.expires_at = win.expires_at AS told, w.expires_at = date_trunc('second', w.expires_at) AS whole
FROM agent_guard.windows w JOIN win USING (window_id);
-- the first block of the token says what the window says
SELECT j->>'sub' AS sub, (j->>'exp')::bigint = extract(epoch FROM expires_at) AS exp, j->'depth' AS depth
FROM win, LATERAL (SELECT rpad(translate(split_part(token, '.', 3), '-_', '+/'),
        (length(split_part(token, '.', 3)) + 3) / 4 * 4, '=') AS b64) b,
    LATERAL (SELECT convert_from(decode(b64, 'base64'), 'UTF8')::jsonb AS j) k ORDER BY 1;

-- refused
SELECT agent_guard.grant_window('wim', 'win_agent', 'a', '1 hour');
\echo :LAST_ERROR_SQLSTATE
SELECT agent_guard.grant_window('win', 'win_free', 'a', '1 hour');
\echo :LAST_ERROR_SQLSTATE
SELECT agent_guard.grant_window('win', 'win_agent', 'a', '-1 hour');
\echo :LAST_ERROR_SQLSTATE
SELECT agent_guard.grant_window('win', 'win_agent', 'a', '0');
SELECT agent_guard.grant_window('win', 'win_agent', 'a', '30 days 1 second');
SELECT agent_guard.grant_window('win', 'win_agent', 'a', '170000 years');
SELECT agent_guard.grant_window('win', 'win_agent', '', '1 hour');
SELECT agent_guard.grant_window('win', 'win_agent', 'two words', '1 hour');
SELECT agent_guard.grant_window('win', 'win_agent', repeat('a', 65), '1 hour');
SELECT agent_guard.grant_window('win', 'win_agent', 'a', '1 hour', max_depth => 8);
SELECT agent_guard.grant_window('win', 'win_agent', 'a', '1 hour', max_depth => -1);
SELECT agent_guard.grant_window('win', 'win_agent', 'a', '1 hour', max_sessions => 0);
SELECT agent_guard.grant_window('win', 'win_agent', 'a', '1 hour', client_addr => '{}');
SELECT agent_guard.grant_window('win', 'win_agent', 'a', '1 hour', client_addr => '{NULL}');
SELECT agent_guard.grant_window('win', NULL, 'a', '1 hour');
SELECT agent_guard.grant_window(NULL, 'win_agent', 'a', '1 hour');
SELECT agent_guard.grant_window('win', 'win_agent', 'a', NULL);
SELECT agent_guard.grant_window('win', 'win_agent', 'a', '1 hour', require_proof => NULL);
SELECT count(*) FROM agent_guard.windows WHERE policy = 'win';

SELECT agent_guard.unguard_role('win_agent');
SET client_min_messages = warning;
SELECT agent_guard.revoke_window(window_id) FROM agent_guard.windows WHERE policy = 'win' AND state = 'active';
SELECT agent_guard.drop_policy('win');
DROP ROLE win_agent, win_free;
