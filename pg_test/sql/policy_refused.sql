-- Rules that are refused: each with the path of what is wrong and a hint, and nothing is changed.
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

SELECT agent_guard.create_policy('pr');
SELECT agent_guard.create_policy(' ');
SELECT agent_guard.create_policy('pr ');

SELECT agent_guard.allow('prr', '{select}');
\echo :LAST_ERROR_SQLSTATE
SELECT agent_guard.allow('pr', '{select, fly}');
\echo :LAST_ERROR_SQLSTATE
SELECT agent_guard.allow('pr', '{}');
SELECT agent_guard.allow('pr', NULL);
SELECT agent_guard.allow('pr', '{select,NULL}');
SELECT agent_guard.allow('pr', '{select}', '{}');
SELECT agent_guard.allow('pr', '{select}', '{orders}');
SELECT agent_guard.allow('pr', '{select}', '{pr_app.customers, pr_app.order}');
SELECT agent_guard.allow('pr', '{select}', '{pr_app.zzz*}');
SELECT agent_guard.allow('pr', '{select}', '{pr_empty.*}');
SELECT agent_guard.allow('pr', '{select}', '{pr_ap.orders}');
SELECT agent_guard.allow('pr', '{select, create}', '{pr_empty.future}');
SELECT agent_guard.allow('pr', '{create table}', '{nowhere.future}');
SELECT agent_guard.allow('pr', '{execute}', '{function pr_app.totl}');
SELECT agent_guard.allow('pr', '{execute}', '{function pr_app.total(int)}');
SELECT agent_guard.allow('pr', '{execute}', '{"function pr_app.total(int, txt)"}');
SELECT agent_guard.allow('pr', '{execute}', '{"function pr_app.total(int) union select)"}');
SELECT agent_guard.allow('pr', '{execute}', '{"function pr_app.t*(integer)"}');
SELECT agent_guard.deny('pr', '{create}', '{schema pr_ap}');
SELECT agent_guard.deny('pr', '{role}', '{role pg_monitr}');
SELECT agent_guard.allow('pr', '{select}', '{"pr_app.orders(id, notes)"}');
SELECT agent_guard.allow('pr', '{select}', '{pr_app.customers}', '{id, mail}');
SELECT agent_guard.allow('pr', '{select}', '{pr_app.*}', '{nothing}');
SELECT agent_guard.allow('pr', '{select}', '{pr_app.orders(id)}', '{id}');
SELECT agent_guard.allow('pr', '{select}', '{function pr_app.total}', '{id}');
-- an empty list is no rule about all columns
SELECT agent_guard.allow('pr', '{select}', '{pr_app.orders}', '{}');
SELECT agent_guard.deny('pr', '{select}', '{pr_app.orders}', '{}');
SELECT agent_guard.allow('pr', '{select}', '{pr_app.orders}', '{id,""}');
SELECT agent_guard.allow('pr', '{select}', max_rows => -1);
SELECT agent_guard.allow('pr', '{select}', statement_pattern => '(');
SELECT agent_guard.allow('pr', '{select}', statement_pattern => '');
SELECT agent_guard.drop_rule(-1);
SELECT agent_guard.drop_rule(NULL);
SELECT agent_guard.drop_policy('prx');
SELECT agent_guard.check_statement('pr', 'SELECT 1', 0::oid);
SELECT agent_guard.delegate('child', '1 minute');
SELECT version, rules FROM agent_guard.policies WHERE name = 'pr';

SELECT agent_guard.drop_policy('pr');
SET client_min_messages = warning;
DROP SCHEMA pr_app, pr_empty CASCADE;
