-- Relations: an allow covers what the agent names, a deny follows the data, whatever it is reached through.
SET client_min_messages = warning;
CREATE ROLE drel_agent LOGIN;
SELECT agent_guard.guard_role('drel_agent') \gset
CREATE SCHEMA drel;
CREATE TABLE drel.open (id int PRIMARY KEY, v text);
CREATE TABLE drel.shut (id int, v text);
CREATE TABLE drel.denied (id int, v text);
INSERT INTO drel.open VALUES (1, 'a'), (2, 'b');
INSERT INTO drel.shut VALUES (1, 'shut');
INSERT INTO drel.denied VALUES (1, 'denied');
CREATE VIEW drel.over_shut AS SELECT * FROM drel.shut;
CREATE VIEW drel.over_denied AS SELECT * FROM drel.denied;
CREATE VIEW drel.invoker WITH (security_invoker) AS SELECT * FROM drel.shut;
CREATE TABLE drel.part (id int) PARTITION BY LIST (id);
CREATE TABLE drel.part_1 PARTITION OF drel.part FOR VALUES IN (1);
CREATE TABLE drel.part_2 PARTITION OF drel.part FOR VALUES IN (2);
CREATE TABLE drel.parent (id int);
CREATE TABLE drel.child () INHERITS (drel.parent);
INSERT INTO drel.part VALUES (1), (2);
INSERT INTO drel.child VALUES (7);
GRANT USAGE, CREATE ON SCHEMA drel TO drel_agent;
GRANT ALL ON ALL TABLES IN SCHEMA drel TO drel_agent;
GRANT ALL ON ALL SEQUENCES IN SCHEMA drel TO drel_agent;
SELECT agent_guard.create_policy('drel', mode => 'enforce') \gset
SELECT agent_guard.allow('drel', '{select,insert,update,delete}', '{drel.open}') AS rule \gset
SELECT agent_guard.allow('drel', '{select}', '{drel.over_shut,drel.over_denied,drel.invoker,drel.part,drel.parent,drel.child,drel.part_2}') AS rule \gset
SELECT agent_guard.deny('drel', '{select}', '{drel.denied}') AS rule \gset
SELECT token FROM agent_guard.grant_window('drel', 'drel_agent', 'agent', '1 hour') \gset
\c - drel_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate

SELECT v FROM drel.open ORDER BY id;
SELECT v FROM drel.shut;
SELECT v FROM drel.denied;
-- each verb by itself
INSERT INTO drel.open VALUES (3, 'c') RETURNING v;
INSERT INTO drel.shut VALUES (3, 'c');
UPDATE drel.open SET v = 'x' WHERE id = 3;
UPDATE drel.shut SET v = 'x' WHERE id = 3;
DELETE FROM drel.open WHERE id = 3;
DELETE FROM drel.shut WHERE id = 3;
INSERT INTO drel.open VALUES (1, 'z') ON CONFLICT (id) DO UPDATE SET v = excluded.v RETURNING v;
MERGE INTO drel.open o USING (VALUES (1)) s (id) ON o.id = s.id WHEN MATCHED THEN UPDATE SET v = 'm';
MERGE INTO drel.open o USING drel.shut s ON o.id = s.id WHEN MATCHED THEN DELETE;
TRUNCATE drel.open;
LOCK TABLE drel.shut;
-- anywhere in the statement, also where nothing is read in the end
SELECT 1 WHERE EXISTS (SELECT FROM drel.shut);
SELECT * FROM drel.open WHERE false AND id IN (SELECT id FROM drel.shut);
WITH w AS (SELECT * FROM drel.shut) SELECT 1;
WITH w AS (INSERT INTO drel.shut VALUES (9, 'w') RETURNING 1) SELECT * FROM w;
INSERT INTO drel.open SELECT * FROM drel.shut;
SELECT (SELECT v FROM drel.shut LIMIT 1);
TABLE drel.shut;
COPY drel.shut TO STDOUT;
COPY (SELECT v FROM drel.shut) TO STDOUT;
COPY drel.open (v) TO STDOUT;
PREPARE p AS SELECT v FROM drel.shut;
EXECUTE p;
EXPLAIN SELECT v FROM drel.shut;
BEGIN;
DECLARE c CURSOR FOR SELECT v FROM drel.shut;
ROLLBACK;
-- a view lends its tables, but no deny; one that reads as its invoker lends nothing
SELECT v FROM drel.over_shut;
SELECT v FROM drel.over_denied;
SELECT v FROM drel.invoker;
-- partitions: the parent's allow covers reading through it, not each by itself
SELECT count(*) FROM drel.part;
SELECT count(*) FROM drel.part_1;
SELECT count(*) FROM drel.part_2;
\c - postgres
SELECT agent_guard.deny('drel', '{select}', '{drel.part_1}') AS rule \gset
SELECT agent_guard.deny('drel', '{select}', '{drel.parent}') AS rule \gset
\c - drel_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate
-- a deny on a partition covers the whole, one on a parent its children
SELECT count(*) FROM drel.part;
SELECT count(*) FROM drel.part_2;
SELECT count(*) FROM drel.child;
SELECT count(*) FROM ONLY drel.child;
-- row locks are updates, or lock where nothing may be updated
SELECT v FROM drel.open WHERE id = 2 FOR UPDATE;
SELECT v FROM drel.over_shut FOR UPDATE;
-- what does not exist is the server's to say
SELECT * FROM drel.missing;
SELECT nothing FROM drel.open;

\c - postgres
SET client_min_messages = warning;
SELECT count(agent_guard.revoke_window(window_id)) AS revoked FROM agent_guard.windows WHERE policy = 'drel' AND state = 'active' \gset
SELECT agent_guard.drop_policy('drel') \gset
DROP SCHEMA drel CASCADE;
DROP OWNED BY drel_agent;
DROP ROLE drel_agent;
