-- Rules hold the object that they named, by OID: renames, moves, re-creation, patterns with a star.
SET client_min_messages = warning;
CREATE ROLE ren_agent LOGIN;
SELECT agent_guard.guard_role('ren_agent') \gset
CREATE SCHEMA ren;
CREATE SCHEMA ren_other;
GRANT USAGE ON SCHEMA ren_other TO ren_agent;
CREATE TABLE ren.allowed (id int);
CREATE TABLE ren.denied (id int, secret int);
CREATE TABLE ren.star_1 (id int);
CREATE FUNCTION ren.f() RETURNS int LANGUAGE sql AS 'SELECT 1';
GRANT USAGE, CREATE ON SCHEMA ren TO ren_agent;
GRANT ALL ON ALL TABLES IN SCHEMA ren TO ren_agent;
GRANT ALL ON ALL SEQUENCES IN SCHEMA ren TO ren_agent;
SELECT agent_guard.create_policy('ren', mode => 'enforce') \gset
SELECT agent_guard.allow('ren', '{select}', '{ren.allowed}') AS rule \gset
SELECT agent_guard.allow('ren', '{select}', '{ren.denied,ren.star*}') AS rule \gset
SELECT agent_guard.deny('ren', '{select}', '{ren.denied}', columns => '{secret}') AS rule \gset
SELECT agent_guard.allow('ren', '{execute}', '{"function ren.f()"}') AS rule \gset
SELECT agent_guard.allow('ren', '{alter table}', '{ren.*}') AS rule \gset
SELECT token FROM agent_guard.grant_window('ren', 'ren_agent', 'agent', '1 hour') \gset
\c - ren_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate

SELECT * FROM ren.allowed;
SELECT secret FROM ren.denied;
SELECT id FROM ren.denied;
SELECT * FROM ren.star_1;
SELECT ren.f();
\c - postgres
ALTER TABLE ren.allowed RENAME TO kept;
ALTER TABLE ren.denied SET SCHEMA ren_other;
ALTER TABLE ren.star_1 RENAME TO comet_1;
ALTER FUNCTION ren.f() RENAME TO g;
CREATE TABLE ren.allowed (id int);
CREATE TABLE ren.denied (id int, secret int);
CREATE FUNCTION ren.f() RETURNS int LANGUAGE sql AS 'SELECT 2';
GRANT SELECT ON ALL TABLES IN SCHEMA ren, ren_other TO ren_agent;
\c - ren_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate
-- an allow goes with the object
SELECT * FROM ren.kept;
SELECT * FROM ren.allowed;
SELECT ren.g();
SELECT ren.f();
-- a deny with the object and with the name
SELECT secret FROM ren_other.denied;
SELECT id FROM ren_other.denied;
SELECT secret FROM ren.denied;
-- a pattern with a star goes by name
SELECT * FROM ren.comet_1;
-- in a session that knew the old names, and by a statement prepared before
PREPARE p AS SELECT * FROM ren.kept;
EXECUTE p;
\c - postgres
ALTER TABLE ren.comet_1 RENAME TO star_2;
ALTER SCHEMA ren_other RENAME TO ren_third;
\c - ren_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate
SELECT * FROM ren.star_2;
SELECT id FROM ren_third.denied;
SELECT secret FROM ren_third.denied;
-- the agent cannot rename its way to an allow
ALTER TABLE ren.comet RENAME TO star_3;
ALTER TABLE ren.allowed RENAME TO star_3;
\c - postgres
DROP TABLE ren.kept;
CREATE TABLE ren.kept (id int);
GRANT SELECT ON ren.kept TO ren_agent;
\c - ren_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate
-- nor does an allow pass to what has the name next
SELECT * FROM ren.kept;

\c - postgres
SET client_min_messages = warning;
SELECT count(agent_guard.revoke_window(window_id)) AS revoked FROM agent_guard.windows WHERE policy = 'ren' AND state = 'active' \gset
SELECT agent_guard.drop_policy('ren') \gset
DROP SCHEMA ren_third CASCADE;
DROP SCHEMA ren CASCADE;
DROP OWNED BY ren_agent;
DROP ROLE ren_agent;
