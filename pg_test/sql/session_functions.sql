-- What an agent may ask about itself: whoami, session_policy, describe_access.
SET client_min_messages = warning;
CREATE ROLE sf_agent LOGIN;
SELECT agent_guard.guard_role('sf_agent') \gset
CREATE SCHEMA sf;
CREATE TABLE sf.t (id int, v text, ssn text);
CREATE TABLE sf.shut (id int);
GRANT USAGE, CREATE ON SCHEMA sf TO sf_agent;
GRANT ALL ON ALL TABLES IN SCHEMA sf TO sf_agent;
GRANT ALL ON ALL SEQUENCES IN SCHEMA sf TO sf_agent;
SELECT agent_guard.create_policy('sf', mode => 'enforce') \gset
SELECT agent_guard.allow('sf', '{select}', '{"sf.t(id, v)"}', max_rows => 10) AS rule \gset
SELECT agent_guard.allow('sf', '{update}', '{sf.t}', require_where => true) AS rule \gset
SELECT agent_guard.deny('sf', '{update}', '{sf.t(id)}') AS rule \gset
SELECT token FROM agent_guard.grant_window('sf', 'sf_agent', 'agent', '1 hour') \gset
\c - sf_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate

SELECT agent, lineage, policy, mode, role, remaining_depth, expires_at > now() AS open, session_id IS NOT NULL AS session,
    window_id IS NOT NULL AS window FROM agent_guard.whoami();
SELECT token ~ '^agt1' AS public, token <> :'token' AS not_the_secret, token = current_setting('agent_guard.token') AS shown
FROM agent_guard.whoami();
SHOW agent_guard.guarded;
SELECT effect, actions, objects, columns, require_where, max_rows, statement_pattern FROM agent_guard.session_policy;
SELECT count(*) FROM agent_guard.session_policy();
SELECT * FROM agent_guard.describe_access('sf.t');
SELECT action, allowed FROM agent_guard.describe_access('sf.shut');
SELECT * FROM agent_guard.describe_access(NULL);
-- after the change of a policy
\c - postgres
SELECT agent_guard.allow('sf', '{select}', '{sf.shut}') AS rule \gset
\c - sf_agent
SELECT agent_guard.whoami();
SELECT * FROM agent_guard.session_policy;
SET agent_guard.token = :'token';
SELECT action FROM agent_guard.describe_access('sf.shut') WHERE allowed;
BEGIN;
SET LOCAL agent_guard.token = :'token';
SELECT count(*) FROM agent_guard.whoami();
ROLLBACK;
-- the transaction's end unbound the session
SELECT count(*) FROM agent_guard.whoami();
RESET agent_guard.token;
SELECT count(*) FROM agent_guard.session_policy;
\c - postgres
-- nothing to tell in a session that is not guarded
SELECT count(*) FROM agent_guard.whoami();
SELECT count(*) FROM agent_guard.session_policy;
SELECT count(*) FROM agent_guard.describe_access('sf.t');

\c - postgres
SET client_min_messages = warning;
SELECT count(agent_guard.revoke_window(window_id)) AS revoked FROM agent_guard.windows WHERE policy = 'sf' AND state = 'active' \gset
SELECT agent_guard.drop_policy('sf') \gset
DROP SCHEMA sf CASCADE;
DROP OWNED BY sf_agent;
DROP ROLE sf_agent;
