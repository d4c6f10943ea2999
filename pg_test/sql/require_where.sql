-- require_where: a condition that can restrict the relation, in every scan of it.
SET client_min_messages = warning;
CREATE ROLE rw_agent LOGIN;
SELECT agent_guard.guard_role('rw_agent') \gset
CREATE SCHEMA rw;
CREATE TABLE rw.t (id int PRIMARY KEY, v int);
CREATE TABLE rw.free (id int);
INSERT INTO rw.t SELECT i, i FROM generate_series(1, 5) i;
INSERT INTO rw.free VALUES (1), (2);
CREATE VIEW rw.over AS SELECT * FROM rw.t;
CREATE FUNCTION rw.total() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM rw.t';
ANALYZE rw.t;
GRANT USAGE, CREATE ON SCHEMA rw TO rw_agent;
GRANT ALL ON ALL TABLES IN SCHEMA rw TO rw_agent;
GRANT ALL ON ALL SEQUENCES IN SCHEMA rw TO rw_agent;
SELECT agent_guard.create_policy('rw', mode => 'enforce') \gset
SELECT agent_guard.allow('rw', '{select,update,delete,truncate,insert}', '{rw.t}', require_where => true) AS rule \gset
SELECT agent_guard.allow('rw', '{select,delete}', '{rw.free,rw.over}') AS rule \gset
SELECT agent_guard.allow('rw', '{execute}', '{function rw.total}') AS rule \gset
SELECT token FROM agent_guard.grant_window('rw', 'rw_agent', 'agent', '1 hour') \gset
\c - rw_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate

SELECT count(*) FROM rw.t;
SELECT count(*) FROM rw.t WHERE id > 3;
SELECT count(*) FROM rw.t WHERE true;
SELECT count(*) FROM rw.t WHERE 1 = 1;
SELECT count(*) FROM rw.t WHERE now() IS NOT NULL;
SELECT count(*) FROM rw.t WHERE id = id;
SELECT count(*) FROM rw.t WHERE false;
UPDATE rw.t SET v = 0;
UPDATE rw.t SET v = 0 WHERE id = 1;
DELETE FROM rw.t;
DELETE FROM rw.t WHERE id = 1;
DELETE FROM rw.t WHERE v IS NOT NULL OR true;
INSERT INTO rw.t VALUES (1, 1);
-- every scan by itself; a join on a condition restricts
SELECT count(*) FROM rw.t WHERE id = 2 UNION ALL SELECT count(*) FROM rw.t;
SELECT count(*) FROM rw.free WHERE EXISTS (SELECT FROM rw.t);
SELECT count(*) FROM rw.t JOIN rw.free USING (id);
SELECT count(*) FROM rw.t, rw.free;
DELETE FROM rw.t USING rw.free WHERE t.id = free.id AND t.id = 2;
WITH w AS (DELETE FROM rw.t RETURNING 1) SELECT count(*) FROM w;
-- limits, sorting and grouping are no conditions
SELECT id FROM rw.t ORDER BY id LIMIT 1;
SELECT v, count(*) FROM rw.t GROUP BY v HAVING count(*) > 9;
-- nothing could carry the condition
TRUNCATE rw.t;
COPY rw.t TO STDOUT;
COPY (SELECT id FROM rw.t WHERE id = 3) TO STDOUT;
COPY (SELECT id FROM rw.t) TO STDOUT;
-- cached plans and cursors
PREPARE all_rows AS SELECT count(*) FROM rw.t;
PREPARE one (int) AS SELECT count(*) FROM rw.t WHERE id = $1;
EXECUTE all_rows;
SET plan_cache_mode = force_generic_plan;
EXECUTE one (3);
EXECUTE one (4);
EXECUTE all_rows;
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM rw.t;
ROLLBACK;
-- the obligation is on what the agent names, not on what a view or a function lends
SELECT count(*) FROM rw.over;
SELECT rw.total();
DELETE FROM rw.free;

\c - postgres
SET client_min_messages = warning;
SELECT count(agent_guard.revoke_window(window_id)) AS revoked FROM agent_guard.windows WHERE policy = 'rw' AND state = 'active' \gset
SELECT agent_guard.drop_policy('rw') \gset
DROP SCHEMA rw CASCADE;
DROP OWNED BY rw_agent;
DROP ROLE rw_agent;
