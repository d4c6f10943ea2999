-- Signing keys: a rotation makes a new one, and the one before goes on verifying.
CREATE ROLE key_agent LOGIN;
SELECT agent_guard.guard_role('key_agent');
SELECT agent_guard.create_policy('key');
SELECT count(*) FROM agent_guard.grant_window('key', 'key_agent', 'a', '1 hour');
SELECT max(kid) AS kid FROM agent_guard.signing_keys \gset
SELECT agent_guard.rotate_key() - :kid AS one_more;
SELECT kid - :kid AS kid, state, created_at <= now() AS past FROM agent_guard.signing_keys WHERE kid >= :kid;
SELECT count(*) FROM agent_guard.grant_window('key', 'key_agent', 'a', '1 hour');
SELECT kid - :kid AS kid FROM agent_guard.window_grant ORDER BY granted_at DESC LIMIT 1;
SELECT agent_guard.unguard_role('key_agent');
SET client_min_messages = warning;
SELECT agent_guard.revoke_window(window_id) FROM agent_guard.windows WHERE policy = 'key' AND state = 'active';
SELECT agent_guard.drop_policy('key');
DROP ROLE key_agent;
