-- Policies and rules: what is written is checked against the catalogue, and every refusal changes nothing.
SET client_min_messages = warning;
CREATE SCHEMA pr_app;
CREATE SCHEMA pr_empty;
CREATE TABLE pr_app.orders (id int PRIMARY KEY, total numeric, note text);
CREATE TABLE pr_app.customers (id int, email text);
CREATE VIEW pr_app."Big Orders" AS SELECT * FROM pr_app.orders;
CREATE TYPE pr_app.mood AS ENUM ('good', 'bad');
CREATE FUNCTION pr_app.total(a int, b text, OUT c int) LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION pr_app.total(m pr_app.mood[]) RETURNS int LANGUAGE sql AS 'SELECT 1';
RESET client_min_messages;

SELECT agent_guard.create_policy('pr', description => 'a policy');
SELECT agent_guard.create_policy('pr');
\echo :LAST_ERROR_SQLSTATE
SELECT agent_guard.create_policy('');
\echo :LAST_ERROR_SQLSTATE
SELECT agent_guard.create_policy(E'a\nb');
SELECT agent_guard.create_policy('pr2', mode => 'off');
SELECT agent_guard.create_policy(NULL);
\echo :LAST_ERROR_SQLSTATE

-- every form of a pattern, spelt canonically, literal ones bound
SELECT agent_guard.allow('pr', '{SELECT, "Drop  Table"}', '{PR_App.Orders}') IS NOT NULL AS ok;
SELECT agent_guard.allow('pr', '{select}', '{"pr_app.\"Big Orders\"", "pr_app.orders(id, note)", pr_app.o*, *.*}') IS NOT NULL AS ok;
SELECT agent_guard.allow(policy => 'pr', actions => '{execute}',
    objects => '{"function pr_app.total( int,text )", "function pr_app.total(pr_app.mood[])", "function pr_app.*"}') IS NOT NULL AS ok;
SELECT agent_guard.allow('pr', '{update}', '{pr_app.orders}', columns => '{note,total}', require_where => true,
    max_rows => 10, statement_pattern => '(?i)^update', note => 'narrow') IS NOT NULL AS ok;
SELECT agent_guard.deny('pr', actions => '{*}', objects => '{schema pr_app, role pg_monitor, pr_app.mood}', note => 'n') IS NOT NULL AS ok;
SELECT agent_guard.allow('pr', '{select}') IS NOT NULL AS ok;
SELECT agent_guard.allow('pr', '{create table}', '{pr_empty.future, pr_empty.f*}') IS NOT NULL AS ok;
SELECT agent_guard.allow('pr', '{create schema}', '{schema pr_future}') IS NOT NULL AS ok;
SELECT effect, actions, objects, columns, require_where AS w, max_rows AS m, statement_pattern AS p, note, bound_to
FROM agent_guard.rules WHERE policy = 'pr' ORDER BY id;
SELECT r.id - (SELECT min(id) FROM agent_guard.rules WHERE policy = 'pr') AS rule, b.ord, b.class, b.attributes
FROM agent_guard.rule_binding b JOIN agent_guard.rules r ON r.id = b.rule_id WHERE r.policy = 'pr' ORDER BY 1, 2;
SELECT name, description, mode, version, rules, open_windows FROM agent_guard.policies WHERE name = 'pr';

-- a rename keeps the binding; rebind follows the names
ALTER TABLE pr_app.orders RENAME TO orders2;
CREATE TABLE pr_app.orders (id int, total numeric, note text);
SELECT bound_to FROM agent_guard.rules WHERE policy = 'pr' ORDER BY id LIMIT 1;
SELECT agent_guard.rebind_policies() > 0 AS rebound;
SELECT bound_to FROM agent_guard.rules WHERE policy = 'pr' ORDER BY id LIMIT 1;

SELECT agent_guard.drop_rule(min(id)) FROM agent_guard.rules WHERE policy = 'pr';
SELECT version, rules FROM agent_guard.policies WHERE name = 'pr';
SELECT agent_guard.drop_policy('pr');
SELECT count(*) FROM agent_guard.policies WHERE name = 'pr';

SET client_min_messages = warning;
DROP SCHEMA pr_app, pr_empty CASCADE;
