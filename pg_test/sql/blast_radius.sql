-- What a role reaches by its privileges, and what a policy leaves of it.
SET client_min_messages = warning;
CREATE ROLE blast_owner;
CREATE ROLE blast_agent LOGIN;
SELECT agent_guard.guard_role('blast_agent') \gset
CREATE SCHEMA blast AUTHORIZATION blast_agent;
CREATE TABLE blast.customers (id int, email text, card_number text);
CREATE TABLE blast.orders (id int, total numeric);
CREATE TABLE blast.log (at timestamptz) PARTITION BY RANGE (at);
CREATE TABLE blast.log_1 PARTITION OF blast.log FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE blast.hidden (id int);
CREATE VIEW blast.names AS SELECT id FROM blast.hidden;
INSERT INTO blast.customers SELECT n FROM generate_series(1, 100) n;
INSERT INTO blast.orders SELECT n FROM generate_series(1, 1000) n;
INSERT INTO blast.log SELECT '2026-06-01' FROM generate_series(1, 10);
INSERT INTO blast.hidden SELECT n FROM generate_series(1, 7) n;
ANALYZE blast.customers, blast.orders, blast.log_1, blast.hidden;
ALTER TABLE blast.customers OWNER TO blast_agent;
GRANT SELECT, INSERT, UPDATE ON blast.orders TO blast_agent;
GRANT SELECT ON blast.log, blast.names TO blast_agent;
CREATE FUNCTION blast.lends() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1';
GRANT blast_owner TO blast_agent;
SELECT agent_guard.create_policy('blast') \gset
SELECT agent_guard.allow('blast', '{select}', '{blast.customers}', columns => '{id,email}') AS rule \gset
SELECT agent_guard.allow('blast', '{select}', '{blast.log,blast.names}') AS rule \gset
SELECT agent_guard.allow('blast', '{insert}', '{blast.orders}') AS rule \gset
\pset null -
SELECT kind, without_guard, with_policy, examples FROM agent_guard.blast_radius('blast_agent', 'blast')
WHERE kind NOT LIKE 'functions %' AND kind <> 'schemas to create in';
SELECT kind, object, action, rows, with_policy, reason FROM agent_guard.reach('blast_agent', 'blast')
WHERE object LIKE 'blast%';
-- without a policy there is nothing to compare; by privileges the list of built-ins is that of the server
SELECT bool_and(with_policy IS NULL) AS alone, bool_or(kind = 'functions reaching beyond the session') AS built_ins
FROM agent_guard.blast_radius('blast_agent');
-- a masked column is not in clear, for whom the policy does not expose it, through a view neither
CREATE VIEW blast.contacts AS SELECT email FROM blast.customers;
GRANT SELECT ON blast.contacts TO blast_agent;
SELECT agent_guard.allow('blast', '{select}', '{blast.contacts}') AS rule \gset
SELECT agent_guard.mask_column('blast.customers', 'email', 'email') \gset
SELECT agent_guard.mask_column('blast.customers', 'id', 'zero') \gset
SELECT object, with_policy, reason FROM agent_guard.reach('blast_agent', 'blast') WHERE kind = 'sensitive columns in clear';
SELECT agent_guard.expose_columns('blast', '{blast.customers(email)}') \gset
SELECT object, with_policy, reason FROM agent_guard.reach('blast_agent', 'blast') WHERE kind = 'sensitive columns in clear';
SELECT agent_guard.unmask_column('blast.customers', 'email'), agent_guard.unmask_column('blast.customers', 'id') \gset
DROP VIEW blast.contacts;
-- membership in the server's own roles is a reach of its own
GRANT pg_read_server_files TO blast_owner;
SELECT object, action, with_policy FROM agent_guard.reach('blast_agent', 'blast') WHERE kind = 'server files and programs';
REVOKE pg_read_server_files FROM blast_owner;
-- the page
SELECT page LIKE '<!DOCTYPE html>%' AS html, page LIKE '%blast.customers%' AS objects, page !~ 'https?:' AS alone,
    page ~ '^[[:ascii:]]*$' AS ascii
FROM agent_guard.blast_radius_report('blast_agent', 'blast') AS page;
\set VERBOSITY sqlstate
SELECT agent_guard.blast_radius('blast_agent', 'nowhere');
SELECT * FROM agent_guard.decide_accesses('blast', '[{"action": "select"}]');
SELECT * FROM agent_guard.decide_accesses('blast', '[{"action": "conquer", "class": "", "oid": 0, "name": "", "columns": ""}]');

SET client_min_messages = warning;
SELECT agent_guard.drop_policy('blast') \gset
DROP SCHEMA blast CASCADE;
DROP OWNED BY blast_agent;
DROP ROLE blast_agent, blast_owner;
