-- Revoking windows and blocks. Nothing printed here is a token, an id of a window or a time.
CREATE ROLE rev_agent LOGIN;
SELECT agent_guard.guard_role('rev_agent');
SELECT agent_guard.create_policy('rev');
CREATE TEMP TABLE rev AS SELECT * FROM agent_guard.grant_window('rev', 'rev_agent', 'planner', '1 hour');
SELECT count(*) FROM agent_guard.grant_window('rev', 'rev_agent', 'a.B_c:d@e/f-1', '30 days');

-- an open window holds its policy
SELECT agent_guard.drop_policy('rev');
\echo :LAST_ERROR_SQLSTATE
SELECT open_windows FROM agent_guard.policies WHERE name = 'rev';

-- revoking; the second time is told without the id
SELECT agent_guard.revoke_window(window_id, 'enough') FROM rev WHERE expires_at < now() + '2 hours';
SELECT w.agent, w.state, w.remaining > '1 day' AS long, w.revoked_at IS NOT NULL AS at, w.revoked_by = session_user AS by, w.revoke_reason
FROM agent_guard.windows w WHERE policy = 'rev' ORDER BY granted_at;
SET client_min_messages = warning;
SELECT agent_guard.revoke_window(window_id) FROM rev WHERE expires_at < now() + '2 hours';
RESET client_min_messages;
SELECT revoke_reason FROM agent_guard.windows WHERE policy = 'rev' AND state = 'revoked';
SELECT agent_guard.revoke_window('00000000-0000-0000-0000-000000000000');
\echo :LAST_ERROR_SQLSTATE
SELECT agent_guard.revoke_window(NULL);
SELECT agent_guard.revoke_block(block_id => '000102030405060708090A0B0C0D0E0F', reason => 'leaked');
SELECT agent_guard.revoke_block('000102030405060708090a0b0c0d0e0f');
SELECT encode(block_id, 'hex'), revoked_by = session_user AS mine, reason FROM agent_guard.revoked_block;
SELECT agent_guard.revoke_block('0001');
SELECT agent_guard.revoke_block(NULL);
DELETE FROM agent_guard.revoked_block;

-- an expired window
UPDATE agent_guard.window_grant SET expires_at = now() - interval '1 second' WHERE agent = 'a.B_c:d@e/f-1';
SELECT agent, state, remaining FROM agent_guard.windows WHERE policy = 'rev' ORDER BY granted_at;
SELECT column_name FROM information_schema.columns
WHERE table_schema = 'agent_guard' AND table_name = 'windows' AND column_name IN ('salt', 'kid', 'token');

SELECT agent_guard.unguard_role('rev_agent');
SET client_min_messages = warning;
SELECT agent_guard.revoke_window(window_id) FROM agent_guard.windows WHERE policy = 'rev' AND state = 'active';
SELECT agent_guard.drop_policy('rev');
DROP ROLE rev_agent;
