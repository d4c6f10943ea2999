-- What a statement takes along: DROP and TRUNCATE with CASCADE, foreign keys, parts of relations, DROP OWNED.
SET client_min_messages = warning;
CREATE ROLE dcas_agent LOGIN;
SELECT agent_guard.guard_role('dcas_agent') \gset
CREATE SCHEMA dcas;
CREATE TABLE dcas.parent (id int PRIMARY KEY);
CREATE TABLE dcas.child (id int REFERENCES dcas.parent ON DELETE CASCADE);
CREATE TABLE dcas.audit (v text);
CREATE VIEW dcas.over_parent AS SELECT * FROM dcas.parent;
CREATE VIEW dcas.over_over AS SELECT * FROM dcas.over_parent;
CREATE TABLE dcas.alone (id serial PRIMARY KEY, v int);
CREATE INDEX alone_v ON dcas.alone (v);
CREATE TYPE dcas.mood AS ENUM ('good');
CREATE TABLE dcas.typed (m dcas.mood, n int);
CREATE SCHEMA dcas_inner;
CREATE TABLE dcas_inner.precious (id int);
CREATE FUNCTION dcas.on_child() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN INSERT INTO dcas.audit SELECT count(*)::text FROM dcas_inner.precious; RETURN OLD; END$$;
CREATE TRIGGER on_child BEFORE DELETE ON dcas.child FOR EACH ROW EXECUTE FUNCTION dcas.on_child();
INSERT INTO dcas.parent VALUES (1), (2), (3);
INSERT INTO dcas.child VALUES (1), (2);
ALTER TABLE dcas.parent OWNER TO dcas_agent;
ALTER TABLE dcas.child OWNER TO dcas_agent;
ALTER TABLE dcas.alone OWNER TO dcas_agent;
ALTER TABLE dcas.typed OWNER TO dcas_agent;
ALTER TYPE dcas.mood OWNER TO dcas_agent;
ALTER VIEW dcas.over_parent OWNER TO dcas_agent;
ALTER VIEW dcas.over_over OWNER TO dcas_agent;
ALTER SCHEMA dcas_inner OWNER TO dcas_agent;
ALTER TABLE dcas_inner.precious OWNER TO dcas_agent;
GRANT USAGE, CREATE ON SCHEMA dcas TO dcas_agent;
GRANT ALL ON ALL TABLES IN SCHEMA dcas TO dcas_agent;
GRANT ALL ON ALL SEQUENCES IN SCHEMA dcas TO dcas_agent;
SELECT agent_guard.create_policy('dcas', mode => 'enforce') \gset
SELECT agent_guard.allow('dcas', '{select,insert,delete,truncate}', '{dcas.parent,dcas.alone,dcas.typed}') AS rule \gset
SELECT agent_guard.allow('dcas', '{drop table}', '{dcas.parent,dcas.alone}') AS rule \gset
SELECT agent_guard.allow('dcas', '{drop type}', '{dcas.*}') AS rule \gset
SELECT agent_guard.allow('dcas', '{drop schema}', '{schema dcas_inner}') AS rule \gset
SELECT token FROM agent_guard.grant_window('dcas', 'dcas_agent', 'agent', '1 hour') \gset
\c - dcas_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate

-- what would go along is decided object by object, and all or nothing happens
DROP TABLE dcas.parent;
DROP TABLE dcas.parent CASCADE;
DROP TYPE dcas.mood CASCADE;
DROP SCHEMA dcas_inner CASCADE;
DROP VIEW dcas.over_parent CASCADE;
TRUNCATE dcas.parent CASCADE;
TRUNCATE dcas.parent, dcas.child;
TRUNCATE dcas.alone;
SELECT count(*) FROM dcas.parent;
-- hidden in a block or a function of the agent's own
DO $$BEGIN EXECUTE 'DROP TABLE dcas.parent CASCADE'; END$$;
-- parts of a relation: with it, or by altering it
DROP INDEX dcas.alone_v;
ALTER TABLE dcas.alone DROP COLUMN v;
ALTER TABLE dcas.alone DROP CONSTRAINT alone_pkey;
DROP SEQUENCE dcas.alone_id_seq CASCADE;
DROP TABLE dcas.alone;
-- a foreign key's own work needs no rule
DELETE FROM dcas.parent WHERE id = 1;
\c - postgres
SELECT agent_guard.allow('dcas', '{drop view,truncate}', '{dcas.*}') AS rule \gset
SELECT agent_guard.deny('dcas', '{drop}', '{dcas.over_over}') AS rule \gset
SELECT agent_guard.deny('dcas', '{select}', '{dcas_inner.precious}') AS rule \gset
\c - dcas_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate
-- a deny stops the whole cascade, and holds for a trigger that a foreign key fires
DROP VIEW dcas.over_parent CASCADE;
DELETE FROM dcas.parent WHERE id = 2;
DELETE FROM dcas.parent WHERE id = 3;
\c - postgres
SELECT agent_guard.deny('dcas', '{delete}', '{dcas.child}') AS rule \gset
INSERT INTO dcas.parent VALUES (4);
\c - dcas_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate
-- a deny on what a foreign key would empty
DELETE FROM dcas.parent WHERE id = 2;
\set VERBOSITY terse
DROP TABLE dcas.parent CASCADE;

\c - postgres
SET client_min_messages = warning;
SELECT count(agent_guard.revoke_window(window_id)) AS revoked FROM agent_guard.windows WHERE policy = 'dcas' AND state = 'active' \gset
SELECT agent_guard.drop_policy('dcas') \gset
DROP SCHEMA dcas_inner CASCADE;
DROP SCHEMA dcas CASCADE;
DROP OWNED BY dcas_agent;
DROP ROLE dcas_agent;
