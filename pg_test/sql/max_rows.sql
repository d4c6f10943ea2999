-- max_rows: what one statement returns or changes, the tightest rule winning.
SET client_min_messages = warning;
CREATE ROLE mr_agent LOGIN;
SELECT agent_guard.guard_role('mr_agent') \gset
CREATE SCHEMA mr;
CREATE TABLE mr.t (id int PRIMARY KEY, v int);
CREATE TABLE mr.u (id int);
INSERT INTO mr.t SELECT i, i FROM generate_series(1, 10) i;
INSERT INTO mr.u SELECT i FROM generate_series(1, 10) i;
GRANT USAGE, CREATE ON SCHEMA mr TO mr_agent;
GRANT ALL ON ALL TABLES IN SCHEMA mr TO mr_agent;
GRANT ALL ON ALL SEQUENCES IN SCHEMA mr TO mr_agent;
SELECT agent_guard.create_policy('mr', mode => 'enforce') \gset
SELECT agent_guard.allow('mr', '{select}', '{mr.t}', max_rows => 5) AS rule \gset
SELECT agent_guard.allow('mr', '{select}', '{mr.*}', max_rows => 8) AS rule \gset
SELECT agent_guard.allow('mr', '{insert,update,delete,truncate}', '{mr.t}', max_rows => 3) AS rule \gset
SELECT agent_guard.allow('mr', '{temporary}') AS rule \gset
SELECT token FROM agent_guard.grant_window('mr', 'mr_agent', 'agent', '1 hour') \gset
\c - mr_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate

SELECT id FROM mr.t WHERE id <= 5 ORDER BY id;
SELECT id FROM mr.t;
SELECT count(*) FROM mr.t;
SELECT id FROM mr.t ORDER BY id LIMIT 2;
SELECT id FROM mr.u;
SELECT count(*) FROM (SELECT id FROM mr.u LIMIT 8) s;
-- the tightest of all that are read
SELECT u.id FROM mr.u JOIN mr.t USING (id) WHERE u.id <= 6;
-- changes, all or nothing
UPDATE mr.t SET v = 0;
SELECT count(*) FROM mr.t WHERE v = 0;
UPDATE mr.t SET v = 0 WHERE id <= 3;
DELETE FROM mr.t WHERE id <= 4;
DELETE FROM mr.t WHERE id <= 1;
INSERT INTO mr.t SELECT i, i FROM generate_series(101, 104) i;
INSERT INTO mr.t SELECT i, i FROM generate_series(101, 103) i;
INSERT INTO mr.t SELECT i, i FROM generate_series(104, 106) i RETURNING id;
MERGE INTO mr.t USING generate_series(1, 10) g ON t.id = g WHEN MATCHED THEN UPDATE SET v = 1;
TRUNCATE mr.t;
-- where the server does not count
WITH w AS (DELETE FROM mr.t RETURNING 1) SELECT count(*) FROM w;
WITH w AS (SELECT id FROM mr.t WHERE id = 2) SELECT * FROM w;
COPY mr.t TO STDOUT;
-- no data follows: psql's minor versions differ in what they read after a refusal
\copy mr.t from /dev/null
COPY (SELECT id FROM mr.t WHERE id <= 3 ORDER BY id) TO STDOUT;
COPY (SELECT id FROM mr.t) TO STDOUT;
CREATE TEMP TABLE few AS SELECT id FROM mr.t WHERE id <= 3;
CREATE TEMP TABLE many AS SELECT id FROM mr.t;
-- pieces of a cursor add up
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM mr.t ORDER BY id;
FETCH 3 FROM c;
FETCH 2 FROM c;
FETCH 1 FROM c;
ROLLBACK;
PREPARE p AS SELECT id FROM mr.t;
EXECUTE p;
\set FETCH_COUNT 2
SELECT id FROM mr.t WHERE id <= 4 ORDER BY id;
SELECT id FROM mr.t ORDER BY id;

\c - postgres
SET client_min_messages = warning;
SELECT count(agent_guard.revoke_window(window_id)) AS revoked FROM agent_guard.windows WHERE policy = 'mr' AND state = 'active' \gset
SELECT agent_guard.drop_policy('mr') \gset
DROP SCHEMA mr CASCADE;
DROP OWNED BY mr_agent;
DROP ROLE mr_agent;
