-- Functions: needed by name, their bodies run under every deny, trigger and operator functions too.
SET client_min_messages = warning;
CREATE ROLE dfun_agent LOGIN;
SELECT agent_guard.guard_role('dfun_agent') \gset
CREATE SCHEMA dfun;
CREATE TABLE dfun.secret (id int, v text);
CREATE TABLE dfun.denied (id int, v text);
CREATE TABLE dfun.log (v text);
CREATE TABLE dfun.work (id int);
INSERT INTO dfun.secret VALUES (1, 's');
INSERT INTO dfun.denied VALUES (1, 'd');
CREATE FUNCTION dfun.lends() RETURNS text LANGUAGE sql AS 'SELECT v FROM dfun.secret';
CREATE FUNCTION dfun.lends_plpgsql() RETURNS text LANGUAGE plpgsql AS $$BEGIN RETURN (SELECT v FROM dfun.secret); END$$;
CREATE FUNCTION dfun.atomic() RETURNS text BEGIN ATOMIC SELECT v FROM dfun.secret; END;
CREATE FUNCTION dfun.reads_denied() RETURNS text LANGUAGE sql AS 'SELECT v FROM dfun.denied';
CREATE FUNCTION dfun.sleeps() RETURNS void LANGUAGE plpgsql AS $$BEGIN PERFORM pg_sleep(0); END$$;
CREATE FUNCTION dfun.swallows() RETURNS text LANGUAGE plpgsql AS
    $$BEGIN RETURN (SELECT v FROM dfun.denied); EXCEPTION WHEN insufficient_privilege THEN RETURN 'refused'; END$$;
CREATE FUNCTION dfun.hidden() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION dfun.hidden(int) RETURNS int LANGUAGE sql AS 'SELECT 2';
CREATE FUNCTION dfun.is_over(a int, b int) RETURNS boolean LANGUAGE sql AS 'SELECT a > b';
CREATE OPERATOR dfun.>>> (FUNCTION = dfun.is_over, LEFTARG = int, RIGHTARG = int);
CREATE AGGREGATE dfun.total (int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
CREATE FUNCTION dfun.on_work() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN INSERT INTO dfun.log SELECT v FROM dfun.secret; RETURN NEW; END$$;
CREATE TRIGGER on_work BEFORE INSERT ON dfun.work FOR EACH ROW EXECUTE FUNCTION dfun.on_work();
CREATE PROCEDURE dfun.commits() LANGUAGE plpgsql AS
    $$BEGIN INSERT INTO dfun.log VALUES ('1'); COMMIT; INSERT INTO dfun.log VALUES ('2'); ROLLBACK; END$$;
CREATE PROCEDURE dfun.hidden_procedure() LANGUAGE plpgsql AS 'BEGIN NULL; END';
GRANT USAGE, CREATE ON SCHEMA dfun TO dfun_agent;
GRANT ALL ON ALL TABLES IN SCHEMA dfun TO dfun_agent;
GRANT ALL ON ALL SEQUENCES IN SCHEMA dfun TO dfun_agent;
SELECT agent_guard.create_policy('dfun', mode => 'enforce') \gset
SELECT agent_guard.allow('dfun', '{execute}', '{function dfun.lends*,function dfun.atomic,function dfun.reads_denied,function dfun.swallows,function dfun.sleeps}') AS rule \gset
SELECT agent_guard.allow('dfun', '{execute}', '{"function dfun.hidden(int)",function dfun.commits,function dfun.total}') AS rule \gset
SELECT agent_guard.allow('dfun', '{select,insert}', '{dfun.work,dfun.log}') AS rule \gset
SELECT agent_guard.allow('dfun', '{create function,drop function}', '{schema dfun}') AS rule \gset
SELECT agent_guard.deny('dfun', '{select}', '{dfun.denied}') AS rule \gset
SELECT agent_guard.deny('dfun', '{execute}', '{function pg_catalog.pg_sleep}') AS rule \gset
SELECT token FROM agent_guard.grant_window('dfun', 'dfun_agent', 'agent', '1 hour') \gset
\c - dfun_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate

SELECT v FROM dfun.secret;
SELECT dfun.lends(), dfun.lends_plpgsql(), dfun.atomic();
SELECT * FROM dfun.lends();
SELECT dfun.reads_denied();
SELECT dfun.swallows();
SELECT dfun.sleeps();
-- overloads by their arguments
SELECT dfun.hidden();
SELECT dfun.hidden(1);
-- wherever a function hides
SELECT 1 FROM dfun.work WHERE dfun.hidden() = 1;
SELECT 1 ORDER BY dfun.hidden();
VALUES (dfun.hidden());
SELECT 2 OPERATOR(dfun.>>>) 1;
SELECT dfun.total(1);
PREPARE q (int) AS SELECT $1;
EXECUTE q (dfun.hidden());
EXPLAIN SELECT dfun.hidden();
\copy dfun.work from /dev/null where dfun.hidden() = 1
CALL dfun.hidden_procedure();
DO $$BEGIN PERFORM dfun.hidden(1); END$$;
-- a trigger's function needs no rule, and lends as the DBA made it
INSERT INTO dfun.work VALUES (1);
SELECT * FROM dfun.log;
-- transaction control in procedures
CALL dfun.commits();
SELECT * FROM dfun.log ORDER BY 1;
-- what the agent makes itself speaks for the agent
CREATE FUNCTION dfun.mine() RETURNS text LANGUAGE sql AS 'SELECT v FROM dfun.secret';
CREATE FUNCTION dfun.lends_mine() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT v FROM dfun.secret';
SELECT dfun.mine();
SELECT dfun.lends_mine();
-- SET clauses of functions are SETs
CREATE FUNCTION dfun.mine_2() RETURNS int LANGUAGE sql SET row_security = off AS 'SELECT 1';
CREATE FUNCTION dfun.mine_2() RETURNS int LANGUAGE sql SET search_path = pg_catalog AS 'SELECT 1';
-- a deny on the function itself
\c - postgres
SELECT agent_guard.deny('dfun', '{execute}', '{function dfun.on_work,function dfun.atomic}') AS rule \gset
\c - dfun_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate
INSERT INTO dfun.work VALUES (2);
SELECT dfun.atomic();
SELECT dfun.lends();

\c - postgres
SET client_min_messages = warning;
SELECT count(agent_guard.revoke_window(window_id)) AS revoked FROM agent_guard.windows WHERE policy = 'dfun' AND state = 'active' \gset
SELECT agent_guard.drop_policy('dfun') \gset
DROP SCHEMA dfun CASCADE;
DROP OWNED BY dfun_agent;
DROP ROLE dfun_agent;
