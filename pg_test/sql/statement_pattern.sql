-- statement_pattern: a further condition on the text, never instead of the objects.
SET client_min_messages = warning;
CREATE ROLE spat_agent LOGIN;
SELECT agent_guard.guard_role('spat_agent') \gset
CREATE SCHEMA spat;
CREATE TABLE spat.t (id int);
CREATE TABLE spat.u (id int);
INSERT INTO spat.t VALUES (1);
INSERT INTO spat.u VALUES (2);
GRANT USAGE, CREATE ON SCHEMA spat TO spat_agent;
GRANT ALL ON ALL TABLES IN SCHEMA spat TO spat_agent;
GRANT ALL ON ALL SEQUENCES IN SCHEMA spat TO spat_agent;
SELECT agent_guard.create_policy('spat', mode => 'enforce') \gset
SELECT agent_guard.allow('spat', '{select}', '{spat.t}', statement_pattern => '^/\* report \*/') AS rule \gset
SELECT agent_guard.allow('spat', '{select}', '{spat.u}') AS rule \gset
SELECT agent_guard.deny('spat', '{select}', '{spat.u}', statement_pattern => '(?i)limit') AS rule \gset
SELECT token FROM agent_guard.grant_window('spat', 'spat_agent', 'agent', '1 hour') \gset
\c - spat_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate

/* report */ SELECT id FROM spat.t;
SELECT id FROM spat.t;
SELECT id FROM spat.t /* report */;
/* report */ SELECT id FROM spat.u;
SELECT id FROM spat.u;
SELECT id FROM spat.u LIMIT 1;
SELECT id FROM spat.u FETCH FIRST ROW ONLY;
-- each statement of a batch has its own text
SELECT 1 AS one \; /* report */ SELECT id FROM spat.t;
/* report */ SELECT 1 AS one \; SELECT id FROM spat.t;
-- a prepared statement has the text it was prepared with
PREPARE p AS SELECT id FROM spat.t;
/* report */ EXECUTE p;
PREPARE q AS SELECT id FROM spat.u LIMIT 1;
EXECUTE q;
EXPLAIN (COSTS off) SELECT id FROM spat.t;
\set VERBOSITY terse
SELECT id FROM spat.t;

\c - postgres
SET client_min_messages = warning;
SELECT count(agent_guard.revoke_window(window_id)) AS revoked FROM agent_guard.windows WHERE policy = 'spat' AND state = 'active' \gset
SELECT agent_guard.drop_policy('spat') \gset
DROP SCHEMA spat CASCADE;
DROP OWNED BY spat_agent;
DROP ROLE spat_agent;
