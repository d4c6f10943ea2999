-- What a DBA says, what is stored and generated of it, and what is refused.
CREATE SCHEMA mc;
CREATE ROLE mc_reader;
GRANT USAGE ON SCHEMA mc TO mc_reader;
CREATE TABLE mc.person (id int PRIMARY KEY, gone int, email varchar(60), name text COLLATE "C", note text, born date);
ALTER TABLE mc.person DROP COLUMN gone;
INSERT INTO mc.person VALUES (1, 'jane@example.com', 'Jane', 'n', '1980-05-06');
SELECT agent_guard.create_policy('mc');
SELECT agent_guard.mask_column('mc.person', 'email', 'email');
SELECT agent_guard.mask_column(relation => 'mc.person', column_name => 'name', expression => $$upper("left"(name, 1)) || '.' || id$$);
SELECT agent_guard.mask_column('mc.person', 'note', 'partial', prefix => 1, pad => $$');x--$$, suffix => 0);
-- Up to 15 the server writes the table's name before each column.
SELECT replace(pg_get_viewdef('agent_guard_masked."mc.person"'), 'person.', '') AS definition;
SELECT a.attname, format_type(a.atttypid, a.atttypmod), co.collname FROM pg_attribute a LEFT JOIN pg_collation co ON co.oid = a.attcollation
WHERE a.attrelid = 'agent_guard_masked."mc.person"'::regclass AND a.attnum > 0 ORDER BY a.attnum;
SELECT relation, column_name, mask, options, view, state, exposed_to, created_by FROM agent_guard.masks;
SELECT relation::regclass, view::regclass FROM agent_guard.masked_view;
-- a mask is replaced, and its view with it; what was granted on the view stays
GRANT SELECT ON agent_guard_masked."mc.person" TO mc_reader WITH GRANT OPTION;
SELECT agent_guard.mask_column('mc.person', 'note', 'redact');
-- From 17 on the owner has one privilege more.
SELECT replace(relacl::text, 'arwdDxtm', 'arwdDxt') AS acl FROM pg_class WHERE oid = 'agent_guard_masked."mc.person"'::regclass;
SET ROLE mc_reader;
SELECT * FROM agent_guard_masked."mc.person";
SELECT * FROM mc.person;
SELECT agent_guard.mask_column('mc.person', 'note', 'redact');
SELECT * FROM agent_guard.masks;
CREATE VIEW agent_guard_masked.mine AS SELECT 1;
RESET ROLE;
-- exposures and filters
SELECT agent_guard.expose_columns('mc', '{"mc.person(email, note)"}'), agent_guard.expose_columns('mc', '{"mc.person(email)"}');
SELECT column_name, exposed_to FROM agent_guard.masks ORDER BY 1;
SELECT agent_guard.hide_columns('mc', '{"mc.person(email)","mc.person(name)"}');
SELECT agent_guard.filter_rows('mc', 'mc.person', 'id > 0 and name <> current_user');
SELECT agent_guard.filter_rows('mc', 'mc.person', 'id % 2 = 1');
SELECT policy, relation, predicate, created_by FROM agent_guard.row_filters;
SELECT agent_guard.unmask_column('mc.person', 'note');
SELECT column_name, exposed_to FROM agent_guard.masks ORDER BY 1;
SELECT count(*) FROM agent_guard.exposed_column;
-- refused, and nothing is changed
\set VERBOSITY terse
SELECT agent_guard.mask_column('mc.person', 'emial', 'email');
SELECT agent_guard.mask_column('mc.person', 'email');
SELECT agent_guard.mask_column('mc.person', 'email', 'email', 'email');
SELECT agent_guard.mask_column('mc.person', 'email', expression => 'email', prefix => 1);
SELECT agent_guard.mask_column('mc.person', 'email', 'emial');
SELECT agent_guard.mask_column('mc.person', 'id', 'email');
SELECT agent_guard.mask_column('mc.person', 'id', 'bucket');
SELECT agent_guard.mask_column('mc.person', 'email', 'email', size => 3);
SELECT agent_guard.mask_column('mc.person', 'ctid', 'null');
SELECT agent_guard.mask_column('mc.person', NULL, 'null');
SELECT agent_guard.mask_column(0, 'x', 'null');
SELECT agent_guard.mask_column('pg_class', 'relname', 'null');
SELECT agent_guard.mask_column('agent_guard.policy', 'name', 'null');
SELECT agent_guard.mask_column('agent_guard_masked."mc.person"', 'email', 'null');
SELECT agent_guard.mask_column('mc.person_pkey', 'id', 'null');
CREATE VIEW mc.v AS SELECT * FROM mc.person;
SELECT agent_guard.mask_column('mc.v', 'email', 'null');
CREATE TEMP TABLE mc_temp (a text);
DO $$
BEGIN
    PERFORM agent_guard.mask_column('mc_temp', 'a', 'null');
EXCEPTION WHEN wrong_object_type THEN RAISE NOTICE '%', regexp_replace(SQLERRM, 'temp_\d+', 'temp_n');
END $$;
SELECT agent_guard.unmask_column('mc.person', 'born');
SELECT agent_guard.expose_columns('mc', '{"mc.person(email)","mc.person(born)"}');
SELECT agent_guard.expose_columns('mc', '{mc.person}');
SELECT agent_guard.expose_columns('mc', '{mc.*(email)}');
SELECT agent_guard.expose_columns('mcc', '{"mc.person(email)"}');
SELECT agent_guard.filter_rows('mcc', 'mc.person', 'true');
SELECT agent_guard.filter_rows('mc', 'mc.person', 'id');
SELECT agent_guard.filter_rows('mc', 'mc.person', NULL);
SELECT agent_guard.unfilter_rows('mc', 'mc.v');
\set VERBOSITY default
SELECT agent_guard.mask_column('mc.person', 'id', 'emial');
SELECT agent_guard.mask_column('mc.person', 'born', 'email');
SELECT count(*) FROM agent_guard.exposed_column;
SELECT count(*), min(predicate) FROM agent_guard.row_filters;
-- materialized views, foreign and partitioned tables can have masks; names are kept apart
CREATE MATERIALIZED VIEW mc."m.v" AS SELECT * FROM mc.person;
CREATE SCHEMA "mc.m";
CREATE TABLE "mc.m".v (email text) PARTITION BY LIST (email);
CREATE TABLE mc.a_name_that_is_as_long_as_a_name_can_be_which_is_63_bytes_long_ (x text);
SELECT agent_guard.mask_column(r, c, 'redact') FROM (VALUES ('mc."m.v"'::regclass, 'email'::name), ('"mc.m".v', 'email'),
    ('mc.a_name_that_is_as_long_as_a_name_can_be_which_is_63_bytes_long_', 'x')) v (r, c);
SELECT regexp_replace(c.relname, '#\d+$', '#oid') FROM agent_guard.masked_view v JOIN pg_class c ON c.oid = v.view ORDER BY 1;
SELECT agent_guard.expose_columns('mc', array['mc."m.v"(name)']);
SELECT agent_guard.unmask_column('mc.person', 'email'), agent_guard.unmask_column('mc.person', 'name');
SELECT to_regclass('agent_guard_masked."mc.person"') IS NULL AS gone;
SELECT agent_guard.drop_policy('mc');
SELECT count(*) FROM agent_guard.row_filter;
SET client_min_messages = warning;
DROP SCHEMA mc, "mc.m" CASCADE;
SELECT (SELECT count(*) FROM agent_guard.mask), (SELECT count(*) FROM agent_guard.masked_view), (SELECT count(*) FROM pg_class WHERE relnamespace = 'agent_guard_masked'::regnamespace AND relkind = 'v') AS views;
DROP ROLE mc_reader;
