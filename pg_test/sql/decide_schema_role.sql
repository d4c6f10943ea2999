-- Creating in a schema, schemas themselves, and what is done with roles.
SET client_min_messages = warning;
CREATE ROLE dsr_agent LOGIN CREATEROLE;
SELECT agent_guard.guard_role('dsr_agent', allow_privileged => true) \gset
CREATE SCHEMA dsr;
CREATE SCHEMA dsr_other;
CREATE SCHEMA dsr_made_before;
CREATE ROLE dsr_new_before;
GRANT USAGE, CREATE ON SCHEMA dsr_other TO dsr_agent;
GRANT CREATE ON DATABASE contrib_regression TO dsr_agent;
CREATE ROLE dsr_group;
CREATE ROLE dsr_else;
-- From 16 on CREATEROLE alone is not enough to alter a role.
GRANT dsr_group, dsr_else TO dsr_agent WITH ADMIN OPTION;
CREATE TABLE dsr.base (id int PRIMARY KEY);
GRANT USAGE, CREATE ON SCHEMA dsr TO dsr_agent;
GRANT ALL ON ALL TABLES IN SCHEMA dsr TO dsr_agent;
GRANT ALL ON ALL SEQUENCES IN SCHEMA dsr TO dsr_agent;
SELECT agent_guard.create_policy('dsr', mode => 'enforce') \gset
SELECT agent_guard.allow('dsr', '{create table,create view,create type,create domain}', '{schema dsr}') AS rule \gset
SELECT agent_guard.allow('dsr', '{drop}', '{dsr.*}') AS rule \gset
SELECT agent_guard.allow('dsr', '{create schema,drop schema}', '{schema dsr_made*}') AS rule \gset
SELECT agent_guard.allow('dsr', '{select}', '{dsr.*}') AS rule \gset
SELECT agent_guard.allow('dsr', '{role}', '{role dsr_group,role dsr_new*}') AS rule \gset
SELECT token FROM agent_guard.grant_window('dsr', 'dsr_agent', 'agent', '1 hour') \gset
\c - dsr_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate

-- a schema pattern covers what is created in it, of the kinds named
CREATE TABLE dsr.t (id serial PRIMARY KEY, v text UNIQUE CHECK (v <> ''), b int REFERENCES dsr.base);
CREATE TABLE dsr.like_t (LIKE dsr.t INCLUDING ALL);
CREATE TABLE dsr.as_t AS SELECT * FROM dsr.t;
SELECT * INTO dsr.into_t FROM dsr.t;
CREATE VIEW dsr.w AS SELECT 1 AS one;
CREATE TYPE dsr.pair AS (a int, b int);
CREATE TYPE dsr.mood AS ENUM ('good');
CREATE DOMAIN dsr.positive AS int CHECK (value > 0);
CREATE SEQUENCE dsr.s;
CREATE INDEX ON dsr.t (v);
CREATE FUNCTION dsr.f() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE MATERIALIZED VIEW dsr.m AS SELECT 1;
-- and nothing elsewhere, however the schema is named
CREATE TABLE dsr_other.t (id int);
SET search_path = dsr_other;
CREATE TABLE t (id int);
CREATE TABLE u AS SELECT 1;
SET search_path = dsr;
CREATE TABLE via_path (id int);
RESET search_path;
ALTER TABLE dsr.t SET SCHEMA dsr_other;
-- schemas, and what is written inside their statement
CREATE SCHEMA dsr_made;
CREATE SCHEMA dsr_unmade;
DROP SCHEMA dsr_made;
CREATE SCHEMA dsr_made CREATE TABLE t (id int);
CREATE SCHEMA dsr_made CREATE VIEW v AS SELECT 1;
ALTER SCHEMA dsr RENAME TO dsr_renamed;
DROP SCHEMA dsr_other;
DROP TABLE dsr.like_t, dsr.as_t, dsr.into_t, dsr.via_path, dsr.t;
DROP TYPE dsr.pair, dsr.mood;
DROP DOMAIN dsr.positive;
DROP VIEW dsr.w;
-- roles: by name, whoever may by the server's own privileges
CREATE ROLE dsr_new;
CREATE ROLE dsr_third;
ALTER ROLE dsr_group NOLOGIN;
ALTER ROLE dsr_else NOLOGIN;
ALTER ROLE dsr_new SET work_mem = '1MB';
DROP ROLE dsr_new;
DROP ROLE dsr_else;
ALTER ROLE dsr_else RENAME TO dsr_x;
GRANT dsr_group TO dsr_else;
SET ROLE dsr_group;
SELECT current_user, session_user;
SELECT * FROM dsr.base;
CREATE TABLE dsr_other.t (id int);
SET ROLE dsr_else;
RESET ROLE;
\c - dsr_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate
SET SESSION AUTHORIZATION dsr_agent;
GRANT SELECT ON ALL TABLES IN SCHEMA dsr TO dsr_else;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA dsr TO dsr_else;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA dsr TO dsr_else;
REVOKE ALL ON dsr.base FROM dsr_else;
GRANT USAGE ON SCHEMA dsr TO dsr_else;
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO dsr_else;
ALTER SCHEMA dsr OWNER TO dsr_else;
REASSIGN OWNED BY dsr_agent TO dsr_else;
DROP OWNED BY dsr_agent;

\c - postgres
SET client_min_messages = warning;
SELECT count(agent_guard.revoke_window(window_id)) AS revoked FROM agent_guard.windows WHERE policy = 'dsr' AND state = 'active' \gset
SELECT agent_guard.drop_policy('dsr') \gset
DROP SCHEMA dsr_other, dsr_made_before CASCADE;
DROP ROLE dsr_group, dsr_else, dsr_new_before;
DROP SCHEMA dsr CASCADE;
DROP OWNED BY dsr_agent;
DROP ROLE dsr_agent;
