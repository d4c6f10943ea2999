-- Observing by the server's setting: nothing is blocked for anybody, also without a token, and all of it is recorded.
SET client_min_messages = warning;
CREATE ROLE obss_agent LOGIN;
SELECT agent_guard.guard_role('obss_agent') \gset
CREATE SCHEMA obss;
CREATE TABLE obss.t (id int);
GRANT USAGE ON SCHEMA obss TO obss_agent;
GRANT ALL ON obss.t TO obss_agent;
-- until the postmaster has read the file, and tells new sessions
CREATE EXTENSION dblink;
CREATE FUNCTION obss.await(value text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE here text := format('host=%s port=%s dbname=%s user=%s', current_setting('unix_socket_directories'), current_setting('port'), current_database(), current_user);
BEGIN
  FOR n IN 1 .. 6000 LOOP
    EXIT WHEN value = (SELECT v FROM dblink(here, 'SHOW agent_guard.enforcement') AS r (v text));
    PERFORM pg_sleep(0.01);
  END LOOP;
END $$;
SELECT agent_guard.create_policy('obss') \gset
SELECT token FROM agent_guard.grant_window('obss', 'obss_agent', 'agent', '1 hour') \gset
\c - obss_agent
\set VERBOSITY sqlstate
SELECT count(*) FROM obss.t;
SET agent_guard.token = :'token';
SELECT count(*) FROM obss.t;
\c - postgres
ALTER SYSTEM SET agent_guard.enforcement = 'observe';
SELECT pg_reload_conf() AS reloaded;
SELECT obss.await('observe') \gset
\c - obss_agent
\set VERBOSITY sqlstate
SHOW agent_guard.enforcement;
SELECT count(*) AS without FROM obss.t;
SET agent_guard.token = 'agt1.nonsense';
SET agent_guard.token = :'token';
INSERT INTO obss.t VALUES (1) RETURNING id;
SELECT count(*) AS bound FROM obss.t;
SET agent_guard.enforcement = 'enforce';
\c - postgres
ALTER SYSTEM RESET agent_guard.enforcement;
SELECT pg_reload_conf() AS reloaded;
SELECT obss.await('enforce') \gset
\c - obss_agent
\set VERBOSITY sqlstate
SELECT count(*) FROM obss.t;
SET agent_guard.token = :'token';
SELECT count(*) FROM obss.t;
\c - postgres
SELECT agent_guard.audit_flush() \gset
SELECT event, decision, command, sqlstate, left(statement, 40) AS statement FROM agent_guard.audit
WHERE role = 'obss_agent' AND event <> 'unbind' ORDER BY seq;
SELECT count(agent_guard.revoke_window(window_id)) AS revoked FROM agent_guard.windows WHERE policy = 'obss' \gset
SELECT agent_guard.drop_policy('obss') \gset
SET client_min_messages = warning;
DROP SCHEMA obss CASCADE;
DROP ROLE obss_agent;
DROP EXTENSION dblink;
