-- Rules with the effect approve: held, asked for, decided by people, run once.
SET client_min_messages = warning;
CREATE ROLE appr_agent LOGIN;
CREATE ROLE appr_leads;
CREATE ROLE appr_ann LOGIN IN ROLE appr_leads;
CREATE ROLE appr_bob LOGIN IN ROLE appr_leads;
CREATE ROLE appr_eve LOGIN;
SELECT agent_guard.guard_role('appr_agent') \gset
CREATE SCHEMA appr AUTHORIZATION appr_agent;
SET ROLE appr_agent;
CREATE TABLE appr.t (id int PRIMARY KEY, v text);
CREATE TABLE appr.child (id int REFERENCES appr.t);
CREATE VIEW appr.over_t AS SELECT * FROM appr.t;
CREATE TABLE appr.small (id int);
CREATE TABLE appr.rows (id int);
INSERT INTO appr.rows SELECT generate_series(1, 10);
ANALYZE appr.rows;
RESET ROLE;
SELECT agent_guard.create_policy('appr') \gset
-- what is wrong with a rule is told with its path
SELECT agent_guard.require_approval('appr', '{drop}', '{appr.*}');
SELECT agent_guard.require_approval('appr', '{drop}', '{appr.*}', '{}');
SELECT agent_guard.require_approval('appr', '{drop}', '{appr.*}', '{appr_leads}', 0);
SELECT agent_guard.require_approval('appr', '{drop}', '{appr.*}', '{appr_leads}', 17);
SELECT agent_guard.require_approval('appr', '{drop}', '{appr.*}', '{appr_leads}', 1, '0');
SELECT agent_guard.require_approval('appr', '{drop}', '{appr.*}', '{appr_leads}', 1, NULL);
SELECT agent_guard.require_approval('appr', '{drop}', '{appr.*}', '{appr_leads}', max_rows => 5);
SELECT agent_guard.require_approval('appr', '{drop}', '{appr.*}', '{appr_leads}', max_wait => '2 hours');
SELECT agent_guard.require_approval('appr', '{drop}', '{appr.*}', '{appr_leads}', max_wait => '-1 s');
SELECT agent_guard.require_approval('appr', '{drop}', '{appr.nothing}', '{appr_leads}');
SELECT agent_guard.apply_policy('{"name": "appr", "rules": [{"effect": "approve", "actions": ["drop"], "approvers": ["appr_laeds"]}]}');
SELECT agent_guard.apply_policy('{"name": "appr", "rules": [{"effect": "allow", "actions": ["drop"], "approvals": 2}]}');
-- as functions and as a document
SELECT agent_guard.allow('appr', '{select,insert,update,delete,execute,create}', '{*}') AS rule \gset
SELECT agent_guard.require_approval('appr', '{drop,truncate}', '{appr.*}', '{appr_leads}') AS rule \gset
SELECT agent_guard.require_approval('appr', '{delete}', '{appr.rows}', '{appr_leads}', 2, max_rows => 3, note => 'many',
    max_wait => '90 s') AS rule \gset
SELECT effect, actions, objects, max_rows, approvers, approvals, approval_ttl, allow_granter, max_wait, note
    FROM agent_guard.rules WHERE policy = 'appr' ORDER BY id;
SELECT agent_guard.export_policy('appr') AS document \gset
SELECT jsonb_pretty(:'document'::jsonb -> 'rules' -> 2);
SELECT * FROM agent_guard.apply_policy(:'document'::jsonb);
SELECT decision, action, object FROM agent_guard.check_statement('appr', 'DROP TABLE appr.t, appr.small');
SELECT decision, action, object FROM agent_guard.check_statement('appr', 'SELECT * FROM appr.t');
SELECT token, window_id FROM agent_guard.grant_window('appr', 'appr_agent', 'agent', '1 hour') \gset

-- held: the same statement again is the same request, also after a rollback and from another session
\c - appr_agent
SET agent_guard.token = :'token';
SELECT effect, actions FROM agent_guard.session_policy ORDER BY rule_id;
\set VERBOSITY sqlstate
DROP TABLE appr.small;
DROP TABLE appr.small;
BEGIN;
DROP TABLE appr.small;
ROLLBACK;
\c - appr_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate
DROP TABLE appr.small;
SELECT state, statement, regexp_replace(objects::text, ':\d+', ':n', 'g') AS objects, given, needed FROM agent_guard.my_approvals();
-- another text is another request; what a cascade takes along is part of it
DROP TABLE appr.small CASCADE;
DROP TABLE appr.t CASCADE;
TRUNCATE appr.t, appr.child;
-- few rows pass, many do not: by the estimate, and by the count where that is wrong
DELETE FROM appr.rows WHERE id = 1;
DELETE FROM appr.rows WHERE id > 4;
DELETE FROM appr.rows WHERE id + 0 > 4;
SELECT count(*) FROM appr.rows;
SELECT state, statement, regexp_replace(objects::text, ':\d+', ':n', 'g') AS objects, given, needed FROM agent_guard.my_approvals() ORDER BY requested_at;
-- an agent neither decides nor reads what others ask
SELECT agent_guard.approve(request_id) FROM agent_guard.my_approvals() LIMIT 1;
SELECT count(*) FROM agent_guard.approval_requests;
SELECT count(*) FROM agent_guard.approval_request;

-- approvers are members of the rule's roles, and nobody else; a superuser is none by that
\c - postgres
SET client_min_messages = warning;
SELECT request_id AS small FROM agent_guard.approval_requests WHERE statement = 'DROP TABLE appr.small' \gset
SELECT request_id AS many FROM agent_guard.approval_requests WHERE statement LIKE '%+ 0 > 4' \gset
SELECT request_id AS cascade FROM agent_guard.approval_requests WHERE statement = 'DROP TABLE appr.t CASCADE' \gset
SELECT agent_guard.approve(:'small');
SELECT agent_guard.approve('00000000-0000-0000-0000-000000000000');
SELECT agent_guard.approve(NULL);
\c - appr_eve
SELECT agent_guard.approve(:'small');
\c - appr_ann
SELECT state, statement, lineage, given, needed, approvers, decided_by, policy FROM agent_guard.approval_requests ORDER BY requested_at;
SELECT jsonb_path_query_array(i, '$.objects[*].what') AS objects, i -> 'foreign_keys' AS foreign_keys, i -> 'views' AS views, i -> 'blocked' AS blocked
    FROM agent_guard.approval_impact(:'cascade') i;
SELECT agent_guard.approve(:'small', 'not needed any more');
SELECT agent_guard.approve(:'many');
-- twice is once
SELECT agent_guard.approve(:'many');
SELECT agent_guard.reject(:'cascade', 'the view is in use');

-- used once, and only by a transaction that commits
\c - appr_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate
BEGIN;
DROP TABLE appr.small;
ROLLBACK;
BEGIN;
SAVEPOINT s;
DROP TABLE appr.small;
ROLLBACK TO s;
DROP TABLE appr.small;
SELECT state FROM agent_guard.my_approvals() WHERE statement = 'DROP TABLE appr.small';
ROLLBACK;
SELECT state FROM agent_guard.my_approvals() WHERE statement = 'DROP TABLE appr.small';
DROP TABLE appr.small;
CREATE TABLE appr.small (id int);
DROP TABLE appr.small;
-- one of two is not enough; rejected is PGA02
DELETE FROM appr.rows WHERE id + 0 > 4;
DROP TABLE appr.t CASCADE;
\c - appr_bob
SELECT agent_guard.approve(:'many');
\c - appr_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate
-- a failed execution does not use it up
BEGIN;
DELETE FROM appr.rows WHERE id + 0 > 4;
SELECT 1 / 0;
ROLLBACK;
DELETE FROM appr.rows WHERE id + 0 > 4;
DELETE FROM appr.rows WHERE id + 0 > 4;
INSERT INTO appr.rows SELECT generate_series(5, 10);
DELETE FROM appr.rows WHERE id + 0 > 4;
SELECT state, statement, given, needed, comment FROM agent_guard.my_approvals() ORDER BY requested_at;

-- whoever granted the window does not approve what is done in it, unless the rule says so
\c - postgres
SET client_min_messages = warning;
SELECT agent_guard.create_policy('appr_own') \gset
SELECT agent_guard.require_approval('appr_own', '{truncate}', '{appr.rows}', '{postgres}') AS rule \gset
SELECT token AS token2 FROM agent_guard.grant_window('appr_own', 'appr_agent', 'agent2', '1 hour') \gset
\c - appr_agent
SET agent_guard.token = :'token2';
\set VERBOSITY sqlstate
TRUNCATE appr.rows;
\c - postgres
SET client_min_messages = warning;
SELECT request_id AS own FROM agent_guard.approval_requests WHERE statement = 'TRUNCATE appr.rows' \gset
SELECT agent_guard.approve(:'own');
SELECT agent_guard.drop_rule(id) FROM agent_guard.rules WHERE policy = 'appr_own' \gset
SELECT agent_guard.require_approval('appr_own', '{truncate}', '{appr.rows}', '{postgres}', allow_granter => true) AS rule \gset
\c - appr_agent
SET agent_guard.token = :'token2';
\set VERBOSITY sqlstate
TRUNCATE appr.rows;
\c - postgres
SELECT agent_guard.approve(request_id) FROM agent_guard.approval_requests
    WHERE statement = 'TRUNCATE appr.rows' ORDER BY requested_at DESC LIMIT 1;
\c - appr_agent
SET agent_guard.token = :'token2';
TRUNCATE appr.rows;
SELECT count(*) FROM agent_guard.my_approvals() WHERE state = 'used';

-- requests of an ended window are over; all of it is in the trail
\c - postgres
SET client_min_messages = warning;
SELECT agent_guard.revoke_window(:'window_id') \gset
SELECT state, count(*) FROM agent_guard.approval_requests WHERE policy = 'appr' GROUP BY state ORDER BY state;
SELECT agent_guard.approve(request_id) FROM agent_guard.approval_requests WHERE statement = 'TRUNCATE appr.t, appr.child';
SELECT agent_guard.audit_flush() \gset
SELECT event, decision, role, regexp_replace(message, '[0-9a-f-]{36}', '<id>') AS message, count(*)
    FROM agent_guard.audit WHERE event LIKE 'approval%' GROUP BY 1, 2, 3, 4 ORDER BY 1, 4, 3;

-- grants to approvers last as long as a rule names them, in whichever policy, and go by each way in which the last one goes
SELECT agent_guard.create_policy('appr_grants') \gset
CREATE FUNCTION pg_temp.may() RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(r::text || ' ' || has_function_privilege(r, 'agent_guard.approve(uuid, text)', 'EXECUTE')
        || ' ' || has_function_privilege(r, 'agent_guard.reject(uuid, text)', 'EXECUTE')
        || ' ' || has_function_privilege(r, 'agent_guard.approval_impact(uuid, boolean)', 'EXECUTE')
        || ' ' || has_table_privilege(r, 'agent_guard.approval_requests', 'SELECT'), ', ' ORDER BY r::text)
    FROM unnest('{appr_eve,appr_leads}'::regrole[]) r $$;
SELECT agent_guard.require_approval('appr_grants', '{drop}', '{*}', '{appr_eve,appr_leads}') AS first \gset
SELECT agent_guard.require_approval('appr_grants', '{truncate}', '{*}', '{appr_eve}') AS second \gset
SELECT pg_temp.may();
SELECT agent_guard.drop_rule(:first);
SELECT pg_temp.may();
SELECT agent_guard.drop_rule(:second);
SELECT pg_temp.may();
SELECT count(*) FROM agent_guard.apply_policy('{"name": "appr_grants", "rules": [{"effect": "approve", "actions": ["drop"], "approvers": ["appr_eve"], "max_wait": "0 s"}]}');
SELECT pg_temp.may();
SELECT count(*) FROM agent_guard.apply_policy('{"name": "appr_grants", "rules": [{"effect": "approve", "actions": ["drop"], "approvers": ["appr_leads"]}]}');
SELECT pg_temp.may();
SELECT agent_guard.require_approval('appr_grants', '{truncate}', '{*}', '{appr_eve}') AS third \gset
SELECT agent_guard.drop_policy('appr_grants');
SELECT pg_temp.may();

SELECT count(agent_guard.revoke_window(window_id)) AS revoked FROM agent_guard.windows WHERE policy LIKE 'appr%' AND state = 'active' \gset
SELECT agent_guard.drop_policy('appr') \gset
SELECT agent_guard.drop_policy('appr_own') \gset
DROP SCHEMA appr CASCADE;
DROP OWNED BY appr_agent;
DROP ROLE appr_agent, appr_ann, appr_bob, appr_eve, appr_leads;
