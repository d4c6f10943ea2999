-- What was recorded is decided again under another policy: stored, or a document that nobody has applied.
SET client_min_messages = warning;
CREATE ROLE sim_agent LOGIN;
SELECT agent_guard.guard_role('sim_agent') \gset
CREATE SCHEMA sim;
CREATE TABLE sim.t (id int PRIMARY KEY, v text, secret text);
CREATE TABLE sim.other (id int);
CREATE VIEW sim.w AS SELECT id FROM sim.other;
INSERT INTO sim.t SELECT n, 'v', 's' FROM generate_series(1, 20) n;
CREATE FUNCTION sim.f() RETURNS bigint LANGUAGE plpgsql AS $$BEGIN RETURN (SELECT count(*) FROM sim.other); END$$;
GRANT USAGE, CREATE ON SCHEMA sim TO sim_agent;
GRANT ALL ON ALL TABLES IN SCHEMA sim TO sim_agent;
SELECT agent_guard.create_policy('sim') \gset
SELECT agent_guard.allow('sim', '{select,insert,update}', '{sim.t}') AS rule \gset
SELECT agent_guard.allow('sim', '{select}', '{sim.w}') AS rule \gset
SELECT agent_guard.allow('sim', '{execute}', '{function sim.f()}') AS rule \gset
SELECT token FROM agent_guard.grant_window('sim', 'sim_agent', 'agent', '1 hour') \gset
SELECT clock_timestamp() AS began \gset
\c - sim_agent
SET agent_guard.token = :'token';
SELECT session_id FROM agent_guard.whoami() \gset
\set VERBOSITY sqlstate
\o /dev/null
SELECT id, v FROM sim.t;
SELECT secret FROM sim.t WHERE id = 1;
UPDATE sim.t SET v = 'x' WHERE id = 1;
SELECT * FROM sim.w;
SELECT sim.f();
\o
DELETE FROM sim.t WHERE id = 2;
CREATE TABLE sim.made (id int);
SELECT pg_read_file('x');
\c - postgres
\set VERBOSITY sqlstate
SELECT agent_guard.audit_flush() \gset
\pset null -
-- the same policy changes nothing
SELECT count(*) FROM agent_guard.simulate_policy('sim', session_id => :'session_id');
-- a narrower and wider one: rules are numbered in the order of the document
SELECT change, action, object, columns, decision_then, rule_now, reason FROM agent_guard.simulate_policy(NULL,
    session_id => :'session_id', document => '{"name": "next", "rules": [
        {"effect": "allow", "actions": ["select"], "objects": ["sim.*"], "max_rows": 10},
        {"effect": "allow", "actions": ["update", "delete"], "objects": ["sim.t"], "require_where": true},
        {"effect": "deny", "actions": ["select"], "objects": ["sim.t(secret)"]},
        {"effect": "allow", "actions": ["create table"], "objects": ["schema sim"]},
        {"effect": "deny", "actions": ["select"], "objects": ["sim.other"]}]}');
-- nothing of the document is stored, and nothing of it is left for others to be decided by
SELECT count(*) FROM agent_guard.policies WHERE name = 'next';
SELECT decision FROM agent_guard.check_statement('sim', 'SELECT secret FROM sim.t');
-- a stored policy, and bounds
SELECT agent_guard.create_policy('empty') \gset
SELECT change, count(*) FROM agent_guard.simulate_policy('empty', since => :'began') WHERE role = 'sim_agent' GROUP BY change;
SELECT count(*) FROM agent_guard.simulate_policy('empty', since => 'infinity');
SELECT count(*) FROM agent_guard.simulate_policy('empty', until => :'began', session_id => :'session_id');
-- a mask that was made since
SELECT agent_guard.mask_column('sim.t', 'secret', 'redact') \gset
SELECT change, object, columns, reason FROM agent_guard.simulate_policy('sim', session_id => :'session_id');
SELECT agent_guard.expose_columns('sim', '{sim.t(secret)}') \gset
SELECT count(*) FROM agent_guard.simulate_policy('sim', session_id => :'session_id');
SELECT DISTINCT change FROM agent_guard.simulate_policy('empty', session_id => :'session_id');
-- a document says itself what it exposes, and nothing else is
SELECT change, object, columns FROM agent_guard.simulate_policy('{"name": "next", "exposed": ["sim.t(secret)"], "rules": [
    {"effect": "allow", "actions": ["*"], "objects": ["sim.t"]}]}'::jsonb, session_id => :'session_id') WHERE action = 'select' AND object = 'sim.t';
SELECT change, object, columns FROM agent_guard.simulate_policy('{"name": "sim", "rules": [
    {"effect": "allow", "actions": ["*"], "objects": ["sim.t"]}]}'::jsonb, session_id => :'session_id') WHERE action = 'select' AND object = 'sim.t';
SELECT * FROM agent_guard.simulate_policy('{"name": "x", "rules": [], "exposed": ["sim.t(missing)"]}'::jsonb);
SELECT * FROM agent_guard.simulate_policy('{"name": "x", "rules": [], "exposed": ["sim.t(v)"]}'::jsonb);
SELECT agent_guard.unmask_column('sim.t', 'secret') \gset
-- an object that has been dropped is decided by its name
DROP FUNCTION sim.f();
SELECT DISTINCT change FROM agent_guard.simulate_policy('empty', session_id => :'session_id') WHERE object = 'sim.f()';
SELECT count(*) FROM agent_guard.simulate_policy(NULL, session_id => :'session_id', document => '{"name": "next", "rules": [
    {"effect": "allow", "actions": ["execute"], "objects": ["*"]}]}') WHERE object = 'sim.f()';
-- what is refused
SELECT * FROM agent_guard.simulate_policy('nowhere');
SELECT * FROM agent_guard.simulate_policy(NULL);
SELECT * FROM agent_guard.simulate_policy('sim', document => '{}');
SELECT * FROM agent_guard.simulate_policy(NULL, document => '{"name": "x", "rules": [{"effect": "allow", "actions": ["select"], "objects": ["sim.missing"]}]}');

\c - postgres
SET client_min_messages = warning;
SELECT count(agent_guard.revoke_window(window_id)) AS revoked FROM agent_guard.windows WHERE policy = 'sim' AND state = 'active' \gset
SELECT agent_guard.drop_policy('sim'), agent_guard.drop_policy('empty') \gset
DROP SCHEMA sim CASCADE;
DROP OWNED BY sim_agent;
DROP ROLE sim_agent;
