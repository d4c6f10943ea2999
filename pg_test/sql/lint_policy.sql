-- lint_policy: what rules say in vain, and what of masked columns a policy shows all the same.
CREATE ROLE lint_owner;
CREATE SCHEMA lint AUTHORIZATION lint_owner;
CREATE TABLE lint.orders (id int, total numeric, phone text);
CREATE TABLE lint.people (id int, email text, phone text);
CREATE VIEW lint.contacts AS SELECT id, email FROM lint.people;
CREATE VIEW lint.over AS SELECT email AS address FROM lint.contacts;
CREATE VIEW lint.harmless AS SELECT id FROM lint.people;
CREATE MATERIALIZED VIEW lint.stored AS SELECT id, email, phone FROM lint.people;
CREATE FUNCTION lint.mail(int) RETURNS text LANGUAGE sql STABLE AS 'SELECT email FROM lint.people WHERE id = $1';
CREATE FUNCTION lint.number(int) RETURNS bigint LANGUAGE plpgsql STABLE AS 'BEGIN RETURN (SELECT count(id) FROM lint.people); END';
CREATE FUNCTION lint.native() RETURNS int LANGUAGE c STRICT AS '$libdir/plpgsql', 'plpgsql_validator';
\pset format unaligned
-- a sensible policy has nothing to tell
SELECT agent_guard.create_policy('lint_good');
SELECT agent_guard.allow('lint_good', '{select,insert}', '{lint.orders,lint.people}') > 0 AS allowed;
SELECT agent_guard.deny('lint_good', '{select}', '{lint.people(email)}') > 0 AS denied;
SELECT agent_guard.allow('lint_good', '{create table}', '{schema lint}') > 0 AS allowed;
SELECT * FROM agent_guard.lint_policy('lint_good');
-- rules that can never match, and allows that denies swallow
SELECT agent_guard.create_policy('lint_bad');
CREATE TABLE lint.gone (id int, was int);
CREATE TABLE lint.old_one (id int);
SELECT min(agent_guard.allow('lint_bad', actions, objects)) > 0 AS allowed FROM (VALUES ('{execute}'::text[], '{lint.*}'::text[]),
    ('{select,execute}', '{lint.orders}'), ('{select}', '{lint.gone}'), ('{select}', '{lint.old_*}'), ('{delete}', '{lint.orders}'),
    ('{insert,delete}', '{lint.people}')) r (actions, objects);
SELECT agent_guard.deny('lint_bad', '{delete}', '{lint.*}') > 0 AS denied;
ALTER TABLE lint.people ADD COLUMN was int;
SELECT agent_guard.allow('lint_bad', '{select}', '{lint.people(was)}') > 0 AS allowed;
ALTER TABLE lint.people DROP COLUMN was;
DROP TABLE lint.gone, lint.old_one;
SELECT severity, finding, object, regexp_replace(detail, 'rules? [0-9, ]+', 'rule N') AS detail, hint FROM agent_guard.lint_policy(name => 'lint_bad');
-- masked columns in clear: by exposures, through views and functions, in copies
SELECT agent_guard.mask_column('lint.people', 'email', 'email'), agent_guard.mask_column('lint.people', 'phone', 'phone'), agent_guard.mask_column('lint.stored', 'email', 'email');
SELECT agent_guard.create_policy('lint_open');
SELECT agent_guard.allow('lint_open', '{select,execute}', '{lint.*,"function lint.*"}') > 0 AS allowed;
SELECT severity, finding, object, detail FROM agent_guard.lint_policy('lint_open');
SELECT agent_guard.expose_columns('lint_open', '{lint.people(email)}');
SELECT severity, finding, object, detail, hint FROM agent_guard.lint_policy('lint_open');
-- what a rule keeps away is not exposed
SELECT agent_guard.deny('lint_open', '{select}', '{lint.contacts,lint.stored}') > 0 AS denied, agent_guard.deny('lint_open', '{execute}', '{"function lint.*"}') > 0 AS denied;
SELECT severity, finding, object FROM agent_guard.lint_policy('lint_open');
SELECT agent_guard.deny('lint_open', '{select}', '{lint.people(email)}') > 0 AS denied;
SELECT severity, finding, object FROM agent_guard.lint_policy('lint_open');
-- a filter of what nobody may read
SELECT agent_guard.filter_rows('lint_good', 'lint.orders', 'id > 0'), agent_guard.filter_rows('lint_good', 'lint.stored', 'id > 0');
SELECT severity, finding, object, detail FROM agent_guard.lint_policy('lint_good');
\set VERBOSITY terse
SELECT * FROM agent_guard.lint_policy('lint_none');
SELECT * FROM agent_guard.lint_policy(NULL);
SET ROLE lint_owner;
SELECT * FROM agent_guard.lint_policy('lint_good');
RESET ROLE;
\pset format aligned
SELECT agent_guard.drop_policy('lint_good'), agent_guard.drop_policy('lint_bad'), agent_guard.drop_policy('lint_open');
SET client_min_messages = warning;
DROP SCHEMA lint CASCADE;
DROP ROLE lint_owner;
