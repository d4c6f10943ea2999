-- Columns: narrowed allows, narrowed denies, whole rows, system columns, renames.
SET client_min_messages = warning;
CREATE ROLE dcol_agent LOGIN;
SELECT agent_guard.guard_role('dcol_agent') \gset
CREATE SCHEMA dcol;
CREATE TABLE dcol.people (id int PRIMARY KEY, name text, ssn text DEFAULT 'none');
INSERT INTO dcol.people VALUES (1, 'ann', '111');
CREATE TABLE dcol.cards (id int, number text, note text);
INSERT INTO dcol.cards VALUES (1, '4111', 'n');
CREATE VIEW dcol.wide AS SELECT * FROM dcol.cards;
GRANT USAGE, CREATE ON SCHEMA dcol TO dcol_agent;
GRANT ALL ON ALL TABLES IN SCHEMA dcol TO dcol_agent;
GRANT ALL ON ALL SEQUENCES IN SCHEMA dcol TO dcol_agent;
SELECT agent_guard.create_policy('dcol', mode => 'enforce') \gset
SELECT agent_guard.allow('dcol', '{select}', '{"dcol.people(id, name)"}') AS rule \gset
SELECT agent_guard.allow('dcol', '{insert,update}', '{dcol.people}', columns => '{id,name}') AS rule \gset
SELECT agent_guard.allow('dcol', '{delete}', '{dcol.people}') AS rule \gset
SELECT agent_guard.allow('dcol', '{select,insert,update}', '{dcol.cards,dcol.wide}') AS rule \gset
SELECT agent_guard.deny('dcol', '{select,update}', '{dcol.cards(number)}') AS rule \gset
SELECT token FROM agent_guard.grant_window('dcol', 'dcol_agent', 'agent', '1 hour') \gset
\c - dcol_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate

SELECT id, name FROM dcol.people;
SELECT id, name, ssn FROM dcol.people;
SELECT * FROM dcol.people;
SELECT count(*) FROM dcol.people;
SELECT p FROM dcol.people p;
SELECT row_to_json(p) FROM dcol.people p;
SELECT id FROM dcol.people WHERE ssn = '111';
SELECT id FROM dcol.people ORDER BY ssn;
SELECT name FROM dcol.people GROUP BY name, ssn;
SELECT tableoid::regclass, name FROM dcol.people;
SELECT a.id FROM dcol.people a JOIN dcol.people b USING (id, ssn);
-- writing
INSERT INTO dcol.people (id, name) VALUES (2, 'bob');
INSERT INTO dcol.people (id, name) VALUES (3, 'cat') RETURNING id;
INSERT INTO dcol.people (id, name) VALUES (4, 'dan') RETURNING *;
INSERT INTO dcol.people VALUES (5, 'eve', '5');
UPDATE dcol.people SET name = 'rob' WHERE id = 2;
UPDATE dcol.people SET ssn = '0' WHERE id = 2;
UPDATE dcol.people SET name = ssn WHERE id = 2;
DELETE FROM dcol.people WHERE id = 2;
DELETE FROM dcol.people WHERE ssn = '111';
COPY dcol.people (id, name) TO STDOUT;
COPY dcol.people TO STDOUT;
-- a deny of a column spares the others, also through a view
SELECT id, note FROM dcol.cards;
SELECT number FROM dcol.cards;
SELECT c FROM dcol.cards c;
SELECT note FROM dcol.cards WHERE number LIKE '4%';
SELECT note FROM dcol.wide;
INSERT INTO dcol.cards VALUES (2, '5500', 'm');
UPDATE dcol.cards SET number = 'x';
UPDATE dcol.cards SET note = 'k' WHERE id = 2;
-- a renamed column stays denied, and an allow does not follow the new name
\c - postgres
ALTER TABLE dcol.cards RENAME number TO digits;
ALTER TABLE dcol.people RENAME name TO title;
\c - dcol_agent
SET agent_guard.token = :'token';
\set VERBOSITY sqlstate
SELECT digits FROM dcol.cards;
SELECT note FROM dcol.cards ORDER BY id;
SELECT title FROM dcol.people;
SELECT id FROM dcol.people ORDER BY id;

\c - postgres
SET client_min_messages = warning;
SELECT count(agent_guard.revoke_window(window_id)) AS revoked FROM agent_guard.windows WHERE policy = 'dcol' AND state = 'active' \gset
SELECT agent_guard.drop_policy('dcol') \gset
DROP SCHEMA dcol CASCADE;
DROP OWNED BY dcol_agent;
DROP ROLE dcol_agent;
