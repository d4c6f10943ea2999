-- Sequences: usage, what an insertable column owns, and functions that reach them.
SET client_min_messages = warning;
CREATE ROLE sq_agent LOGIN;
SELECT agent_guard.guard_role('sq_agent') \gset
CREATE SCHEMA sq;
CREATE TABLE sq.t (id serial, v int);
CREATE TABLE sq.i (id int GENERATED ALWAYS AS IDENTITY, v int);
CREATE TABLE sq.narrow (id serial, v int);
CREATE SEQUENCE sq.free;
CREATE SEQUENCE sq.shut;
CREATE TABLE sq.other (id int DEFAULT nextval('sq.shut'), v int);
CREATE FUNCTION sq.f() RETURNS bigint LANGUAGE sql AS $$SELECT nextval('sq.shut')$$;
GRANT USAGE, CREATE ON SCHEMA sq TO sq_agent;
GRANT ALL ON ALL TABLES IN SCHEMA sq TO sq_agent;
GRANT ALL ON ALL SEQUENCES IN SCHEMA sq TO sq_agent;
SELECT agent_guard.create_policy('sq', mode => 'enforce') \gset
SELECT agent_guard.allow('sq', '{insert,select}', '{sq.t,sq.i,sq.other}') AS rule \gset
SELECT agent_guard.allow('sq', '{insert}', '{sq.narrow(v)}') AS rule \gset
SELECT agent_guard.allow('sq', '{usage}', '{sq.free}') AS rule \gset
SELECT agent_guard.allow('sq', '{execute}', '{function sq.f}') AS rule \gset
SELECT token FROM agent_guard.grant_window('sq', 'sq_agent', 'agent', '1 hour') \gset
\c - sq_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate

INSERT INTO sq.t (v) VALUES (1) RETURNING id;
INSERT INTO sq.i (v) VALUES (1) RETURNING id;
SELECT nextval('sq.t_id_seq');
SELECT currval('sq.t_id_seq'), lastval();
SELECT setval('sq.t_id_seq', 9);
INSERT INTO sq.narrow (v) VALUES (1);
SELECT nextval('sq.narrow_id_seq');
-- one that nothing owns
SELECT nextval('sq.free');
SELECT currval('sq.free');
SELECT setval('sq.free', 100);
SELECT setval('sq.free', 100, false);
SELECT last_value FROM sq.free;
SELECT nextval('sq.shut');
SELECT nextval(('sq.' || 'shut')::regclass);
SELECT * FROM nextval('sq.shut');
PREPARE p (regclass) AS SELECT nextval($1);
EXECUTE p ('sq.free');
EXECUTE p ('sq.shut');
EXPLAIN (COSTS off) SELECT nextval('sq.shut');
INSERT INTO sq.other (v) VALUES (1);
-- lent by a function, and filled by COPY
SELECT sq.f();
COPY sq.t (v) FROM STDIN;
7
\.
SELECT id, v FROM sq.t ORDER BY v;
ALTER SEQUENCE sq.free RESTART;
DROP SEQUENCE sq.free;
\c - postgres
SELECT agent_guard.deny('sq', '{usage}', '{sq.shut}') AS rule \gset
\c - sq_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate
-- a deny follows into the function
SELECT sq.f();
SELECT nextval('sq.free');

\c - postgres
SET client_min_messages = warning;
SELECT count(agent_guard.revoke_window(window_id)) AS revoked FROM agent_guard.windows WHERE policy = 'sq' AND state = 'active' \gset
SELECT agent_guard.drop_policy('sq') \gset
DROP SCHEMA sq CASCADE;
DROP OWNED BY sq_agent;
DROP ROLE sq_agent;
