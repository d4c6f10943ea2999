-- The session's own temporary tables: one action for all of them; nothing real comes in by them.
SET client_min_messages = warning;
CREATE ROLE tmp_agent LOGIN;
SELECT agent_guard.guard_role('tmp_agent') \gset
CREATE SCHEMA tmp;
CREATE TABLE tmp.t (id int PRIMARY KEY, v text);
CREATE TABLE tmp.shut (id int, v text);
INSERT INTO tmp.t VALUES (1, 'a');
INSERT INTO tmp.shut VALUES (1, 'shut');
GRANT USAGE, CREATE ON SCHEMA tmp TO tmp_agent;
GRANT ALL ON ALL TABLES IN SCHEMA tmp TO tmp_agent;
GRANT ALL ON ALL SEQUENCES IN SCHEMA tmp TO tmp_agent;
SELECT agent_guard.create_policy('tmp', mode => 'enforce') \gset
SELECT agent_guard.allow('tmp', '{select}', '{tmp.t}') AS rule \gset
SELECT agent_guard.allow('tmp', '{temporary}') AS rule \gset
SELECT token FROM agent_guard.grant_window('tmp', 'tmp_agent', 'agent', '1 hour') \gset
\c - tmp_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate

CREATE TEMP TABLE a (id serial PRIMARY KEY, v text UNIQUE CHECK (v <> ''), at timestamptz DEFAULT now());
INSERT INTO a (v) VALUES ('x'), ('y') RETURNING id;
UPDATE a SET v = 'z' WHERE id = 1;
DELETE FROM a WHERE id = 2;
SELECT id, v FROM a;
CREATE INDEX ON a (at);
ALTER TABLE a ADD COLUMN n int;
ALTER TABLE a RENAME COLUMN n TO m;
ALTER TABLE a RENAME TO b;
TRUNCATE b;
ANALYZE b;
COPY b (v) FROM STDIN;
w
\.
COPY b (v) TO STDOUT;
LOCK TABLE b;
COMMENT ON TABLE b IS 'mine';
CREATE TEMP SEQUENCE s;
SELECT nextval('s');
CREATE TEMP TABLE from_t AS SELECT * FROM tmp.t;
SELECT v INTO TEMP from_t2 FROM tmp.t;
DROP TABLE from_t, from_t2;
-- reading into them is reading
CREATE TEMP TABLE c AS SELECT * FROM tmp.shut;
INSERT INTO b (v) SELECT v FROM tmp.shut;
CREATE TEMP TABLE c (LIKE tmp.shut);
INSERT INTO c TABLE tmp.shut;
CREATE TEMP TABLE d AS WITH w AS (INSERT INTO tmp.shut VALUES (2, 'w') RETURNING 1) SELECT * FROM w;
-- views, rules and triggers of the agent's own lend nothing
CREATE TEMP VIEW v AS SELECT * FROM tmp.shut;
SELECT * FROM v;
CREATE TEMP TABLE e (id int);
CREATE RULE r AS ON INSERT TO e DO ALSO INSERT INTO c SELECT * FROM tmp.shut;
INSERT INTO e VALUES (1);
SELECT * FROM c;
CREATE TEMP TABLE child () INHERITS (tmp.shut);
CREATE FUNCTION pg_temp.f() RETURNS text LANGUAGE sql AS 'SELECT v FROM tmp.shut';
SELECT pg_temp.f();
-- a temporary table in the place of a real one hides it from its maker only
CREATE TEMP TABLE t (id int);
SELECT count(*) FROM t;
SELECT count(*) FROM tmp.t;
CREATE TABLE tmp.real (id int);
CREATE UNLOGGED TABLE tmp.real (id int);
DISCARD TEMP;
SELECT * FROM b;
\c - postgres
SELECT agent_guard.deny('tmp', '{temporary}') AS rule \gset
\c - tmp_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate
CREATE TEMP TABLE a (id int);
SELECT v FROM tmp.t;

\c - postgres
SET client_min_messages = warning;
SELECT count(agent_guard.revoke_window(window_id)) AS revoked FROM agent_guard.windows WHERE policy = 'tmp' AND state = 'active' \gset
SELECT agent_guard.drop_policy('tmp') \gset
DROP SCHEMA tmp CASCADE;
DROP OWNED BY tmp_agent;
DROP ROLE tmp_agent;
