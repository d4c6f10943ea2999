-- Masks, filters and views follow whatever DDL does, by whoever; nothing stops at a generated view.
CREATE ROLE mu_owner;
CREATE SCHEMA mu AUTHORIZATION mu_owner;
CREATE SCHEMA mu_next AUTHORIZATION mu_owner;
SET ROLE mu_owner;
CREATE TABLE mu.t (id int, email varchar(40), name text, born date, n numeric(6, 2));
INSERT INTO mu.t VALUES (1, 'jane@example.com', 'Jane', '1980-05-06', 12.5);
RESET ROLE;
SELECT agent_guard.create_policy('mu');
SELECT count(agent_guard.mask_column('mu.t', c, m)) FROM (VALUES ('email'::name, 'email'), ('born', 'year')) v (c, m);
SELECT agent_guard.mask_column('mu.t', 'name', expression => 'left(name, 1) || id');
SELECT agent_guard.filter_rows('mu', 'mu.t', 'id > 0 AND name <> ''x''');
SELECT agent_guard.expose_columns('mu', '{"mu.t(email)"}');
GRANT SELECT ON agent_guard_masked."mu.t" TO mu_owner;
CREATE FUNCTION shown(r regclass) RETURNS TABLE (n bigint, item text) LANGUAGE sql AS $$
    SELECT row_number() OVER (), item FROM (
        (SELECT 'view ' || v.view::regclass || ': ' || string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum)
            FROM agent_guard.masked_view v JOIN pg_attribute a ON a.attrelid = v.view AND a.attnum > 0 WHERE v.relation = r GROUP BY v.view)
        UNION ALL (SELECT column_name || ' reads ' || expression || ' ' || exposed_to::text FROM agent_guard.masks WHERE relation = r ORDER BY column_name)
        UNION ALL (SELECT 'rows where ' || predicate FROM agent_guard.row_filters WHERE relation = r)
        UNION ALL (SELECT 'exposed ' || column_name FROM agent_guard.exposed_column WHERE relation = r)) s (item) $$;
SELECT * FROM shown('mu.t');
-- the table's owner, who may not touch the extension's tables
SET ROLE mu_owner;
ALTER TABLE mu.t ADD COLUMN added int DEFAULT 7, DROP COLUMN n;
ALTER TABLE mu.t RENAME COLUMN name TO "Name, of";
ALTER TABLE mu.t RENAME COLUMN email TO mail;
ALTER TABLE mu.t ALTER COLUMN mail TYPE text, ALTER COLUMN born TYPE timestamp;
RESET ROLE;
SELECT * FROM shown('mu.t');
SELECT * FROM agent_guard_masked."mu.t";
-- From 17 on the owner has one privilege more.
SELECT replace(relacl::text, 'arwdDxtm', 'arwdDxt') AS acl FROM pg_class WHERE oid = 'agent_guard_masked."mu.t"'::regclass;
SET ROLE mu_owner;
ALTER TABLE mu.t RENAME TO u;
ALTER TABLE mu.u SET SCHEMA mu_next;
RESET ROLE;
ALTER SCHEMA mu_next RENAME TO mu_last;
SELECT * FROM shown('mu_last.u');
-- what an expression needs goes: agents read less, never more
SET ROLE mu_owner;
ALTER TABLE mu_last.u DROP COLUMN "Name, of";
ALTER TABLE mu_last.u ALTER COLUMN mail TYPE int USING 5;
RESET ROLE;
SELECT * FROM shown('mu_last.u');
-- inside functions, in a transaction that is undone, and after an error that was caught
CREATE FUNCTION mu_ddl() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    ALTER TABLE mu_last.u ADD COLUMN one int;
    BEGIN
        ALTER TABLE mu_last.u RENAME COLUMN one TO two;
        PERFORM 1 / 0;
    EXCEPTION WHEN division_by_zero THEN NULL;
    END;
    ALTER TABLE mu_last.u RENAME COLUMN mail TO post;
    RETURN (SELECT string_agg(attname, ',' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'agent_guard_masked."mu_last.u"'::regclass AND attnum > 0);
END $$;
SELECT mu_ddl();
BEGIN;
ALTER TABLE mu_last.u RENAME COLUMN post TO mail;
DROP TABLE mu_last.u;
SELECT count(*) FROM agent_guard.mask;
ROLLBACK;
SELECT * FROM shown('mu_last.u');
-- functions in expressions are followed under new names, and cannot be dropped under a mask
CREATE FUNCTION mu.veil(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT -1';
SELECT agent_guard.mask_column('mu_last.u', 'added', expression => 'mu.veil(added)'), agent_guard.filter_rows('mu', 'mu_last.u', 'mu.veil(id) < 0');
ALTER FUNCTION mu.veil(int) RENAME TO "Veil 2";
ALTER FUNCTION mu."Veil 2"(int) SET SCHEMA mu_last;
SELECT * FROM shown('mu_last.u');
DROP FUNCTION mu_last."Veil 2"(int);
SELECT agent_guard.unmask_column('mu_last.u', 'added'), agent_guard.unmask_column('mu_last.u', 'post'), agent_guard.unmask_column('mu_last.u', 'born');
DROP FUNCTION mu_last."Veil 2"(int);
ALTER TABLE mu_last.u ADD COLUMN two int;
SELECT * FROM shown('mu_last.u');
-- partitions and children keep what they had from their parents
CREATE TABLE mu.part (id int, email text) PARTITION BY RANGE (id);
CREATE TABLE mu.part_2 (email text, other int, id int);
ALTER TABLE mu.part_2 DROP COLUMN other;
CREATE TABLE mu.part_1 PARTITION OF mu.part FOR VALUES FROM (0) TO (10);
ALTER TABLE mu.part ATTACH PARTITION mu.part_2 FOR VALUES FROM (10) TO (20);
SELECT agent_guard.mask_column('mu.part', 'email', 'redact'), agent_guard.filter_rows('mu', 'mu.part', 'id > 1');
ALTER TABLE mu.part DETACH PARTITION mu.part_2;
ALTER TABLE mu.part DETACH PARTITION mu.part_1 CONCURRENTLY;
SELECT * FROM shown('mu.part_2');
SELECT * FROM shown('mu.part_1');
ALTER TABLE mu.part ATTACH PARTITION mu.part_2 FOR VALUES FROM (10) TO (20);
CREATE TABLE mu.parent (id int, email text);
CREATE TABLE mu.child (extra int) INHERITS (mu.parent);
SELECT agent_guard.mask_column('mu.parent', 'email', expression => 'left(email, 1)');
ALTER TABLE mu.child NO INHERIT mu.parent;
SELECT * FROM shown('mu.child');
-- tables and schemas go as if there were no views
DROP TABLE mu.part;
DROP TABLE mu_last.u;
CREATE TABLE mu.other (a text);
SELECT agent_guard.mask_column('mu.other', 'a', 'null');
SET client_min_messages = warning;
DROP OWNED BY mu_owner CASCADE;

RESET client_min_messages;
SELECT relation, view FROM agent_guard.masked_view;
SELECT count(*) FROM agent_guard.mask;
SELECT count(*) FROM agent_guard.row_filter;
SELECT count(*) FROM agent_guard.exposed_column;
SELECT relname FROM pg_class WHERE relnamespace = 'agent_guard_masked'::regnamespace;
DROP FUNCTION mu_ddl(), shown(regclass);
SELECT agent_guard.drop_policy('mu');
DROP ROLE mu_owner;
