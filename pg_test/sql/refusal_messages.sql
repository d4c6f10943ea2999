-- The words of each kind of refusal, once: message, DETAIL and HINT. Alone in its group, for the numbers of its rules.
SET client_min_messages = warning;
CREATE ROLE msg_agent LOGIN;
SELECT agent_guard.guard_role('msg_agent') \gset
CREATE SCHEMA msg;
CREATE TABLE msg.t (id int, v text, ssn text);
CREATE TABLE msg.shut (id int);
CREATE TABLE msg.narrow (id int, v text);
CREATE TABLE msg.form (id int);
INSERT INTO msg.t VALUES (1, 'a', '1'), (2, 'b', '2');
ALTER SEQUENCE agent_guard.rule_id_seq RESTART 900001;
GRANT USAGE, CREATE ON SCHEMA msg TO msg_agent;
GRANT ALL ON ALL TABLES IN SCHEMA msg TO msg_agent;
GRANT ALL ON ALL SEQUENCES IN SCHEMA msg TO msg_agent;
SELECT agent_guard.create_policy('msg', mode => 'enforce') \gset
SELECT agent_guard.allow('msg', '{select,update}', '{msg.t}') AS rule \gset
SELECT agent_guard.deny('msg', '{select}', '{msg.t(ssn)}') AS rule \gset
SELECT agent_guard.deny('msg', '{select}', '{msg.shut}') AS rule \gset
SELECT agent_guard.allow('msg', '{select}', '{msg.narrow(id)}', max_rows => 0) AS rule \gset
SELECT agent_guard.allow('msg', '{select}', '{msg.form}', statement_pattern => '^report') AS rule \gset
SELECT agent_guard.allow('msg', '{delete}', '{msg.t}', require_where => true) AS rule \gset
SELECT agent_guard.allow('msg', '{insert}', '{msg.t}', max_rows => 1) AS rule \gset
SELECT token FROM agent_guard.grant_window('msg', 'msg_agent', 'agent', '1 hour') \gset
\c - msg_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate

\set VERBOSITY default
SELECT * FROM msg.shut;
SELECT ssn FROM msg.t;
SELECT v FROM msg.narrow;
SELECT id FROM msg.form;
INSERT INTO msg.shut VALUES (1);
DELETE FROM msg.t;
INSERT INTO msg.t VALUES (1), (2);
-- no data follows: psql's minor versions differ in what they read after a refusal
\copy msg.t from /dev/null
WITH w AS (INSERT INTO msg.t VALUES (1) RETURNING 1) SELECT * FROM w;
SELECT pg_read_file('PG_VERSION');
COPY msg.t TO PROGRAM 'cat';
CREATE ROLE msg_new;
CREATE TABLE msg.made (id int);
ALTER SYSTEM SET work_mem = '1MB';
SELECT set_config('role', 'postgres', false);
SET work_mem = '1TB';
SET client_min_messages = debug1;
SET statement_timeout = 60000;
SELECT * FROM agent_guard.policy;
SELECT agent_guard.drop_policy('msg');
-- the fields that drivers read
\set VERBOSITY verbose
SELECT ssn FROM msg.t;
\set VERBOSITY default
-- handshakes
SET agent_guard.token = 'nonsense';
SET agent_guard.token = 'agt2.a.b.c';
RESET agent_guard.token;
SELECT 1;
\c - postgres
SELECT agent_guard.revoke_window(window_id) FROM agent_guard.windows WHERE policy = 'msg' \gset
\c - msg_agent
SET agent_guard.token = :'token';
\c - postgres
SET agent_guard.token = :'token';

\c - postgres
SET client_min_messages = warning;
SELECT count(agent_guard.revoke_window(window_id)) AS revoked FROM agent_guard.windows WHERE policy = 'msg' AND state = 'active' \gset
SELECT agent_guard.drop_policy('msg') \gset
DROP SCHEMA msg CASCADE;
DROP OWNED BY msg_agent;
DROP ROLE msg_agent;
