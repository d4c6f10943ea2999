-- Attacks on the texts that masks and filters are written in. Each ends in a refusal that names the part, and changes nothing.
CREATE ROLE me_app;
CREATE SCHEMA me AUTHORIZATION me_app;
SET ROLE me_app;
CREATE TABLE me.t (id int, "x""; DROP TABLE me.t; --" text, name text, email text, n numeric);
INSERT INTO me.t VALUES (1, 'raw', 'Jane', 'jane@example.com', 2);
-- what an unprivileged role can write: a function, an operator, a cast, domains, an aggregate, a collation, a range type
CREATE FUNCTION me.steal(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE FUNCTION me.steal2(text, text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE OPERATOR me.<~> (LEFTARG = text, RIGHTARG = text, FUNCTION = me.steal2);
CREATE OPERATOR me.|| (LEFTARG = text, RIGHTARG = text, FUNCTION = me.steal2);
CREATE FUNCTION me.check_it(text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
CREATE DOMAIN me.trap AS text CHECK (me.check_it(value));
CREATE DOMAIN me.over AS me.trap;
CREATE TYPE me.holder AS (inner_value me.trap);
CREATE TYPE me.mood AS ENUM ('sad', 'glad');
CREATE CAST (text AS me.holder) WITH INOUT;
CREATE FUNCTION me.to_mood(text) RETURNS me.mood LANGUAGE sql IMMUTABLE AS $$SELECT 'sad'::me.mood$$;
CREATE CAST (text AS me.mood) WITH FUNCTION me.to_mood(text);
CREATE TABLE me.typed (id int, d me.trap, o me.over, a me.trap[], h me.holder, m me.mood);
RESET ROLE;
SELECT agent_guard.create_policy('me');
\set VERBOSITY terse
CREATE FUNCTION me_try(expression text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE message text; state text; hint text;
BEGIN
    BEGIN
        RETURN 'ACCEPTED ' || agent_guard.mask_column('me.t', 'name', expression => me_try.expression);
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, state = RETURNED_SQLSTATE, hint = PG_EXCEPTION_HINT;
        IF hint = '' THEN RETURN 'NO HINT ' || message; END IF;
        BEGIN
            PERFORM agent_guard.filter_rows('me', 'me.t', '(' || me_try.expression || ') IS NULL');
            RETURN 'FILTER ACCEPTED ' || me_try.expression;
        EXCEPTION WHEN OTHERS THEN
            RETURN state || ' ' || message;
        END;
    END;
END $$;
-- more than one expression (a row of two is one, for a filter)
SELECT e, me_try(e) FROM unnest(array['''a''; DROP TABLE me.t', 'name) AS name, (SELECT 1', 'name, email', 'name AS name', 'name FROM me.t', 'name FROM me.t WHERE true',
    'name UNION SELECT email', 'DISTINCT name', 'name ORDER BY 1', 'name LIMIT 1', '*', '', '--', 'name /*', 'name -- ) from me.t', '''', 'E''\''', '$1', '$x$', ':x']) e;
-- other rows and other tables
SELECT e, me_try(e) FROM unnest(array['(SELECT email FROM me.t LIMIT 1)', 'ARRAY(SELECT email FROM me.t)::text', 'EXISTS (SELECT 1)::text', '(name IN (SELECT email FROM me.t))::text',
    'max(email)', 'first_value(email) OVER ()', 'string_agg(email, '','')', 'GROUPING(name)::text', 'regexp_split_to_table(name, '','')', 'unnest(ARRAY[name])', 't::text', 't.*::text', 'row_to_json(t)::text',
    'ctid::text', 'xmin::text', 'tableoid::regclass::text', 'other.name', 'me.typed.id::text', 'query_to_xml(''select 1'', true, true, '''')::text', 'currval(''x'')::text', 'DEFAULT']) e;
-- values that change by being read, and what agents may not run
SELECT e, me_try(e) FROM unnest(array['random()::text', 'clock_timestamp()::text', 'nextval(''s'')::text', 'pg_sleep(1)::text', 'pg_read_file(''x'')', 'set_config(''a.b'', name, false)',
    'pg_notify(''c'', email)::text', 'txid_current()::text', 'lo_get(1)::text', 'pg_get_functiondef(1)', 'agent_guard.whoami()::text', 'agent_guard.mask_column(1, ''a'', ''null'')', 'textin(''a''::cstring)', 'dblink(''a'')',
    'to_tsvector(me.steal(name))::text']) e;
-- code of an unprivileged role
SELECT e, me_try(e) FROM unnest(array['me.steal(email)', 'name OPERATOR(me.<~>) email', 'name OPERATOR(me.||) email', 'CASE WHEN true THEN me.steal(email) END', 'COALESCE(me.steal(name), '''')',
    'NULLIF(name OPERATOR(me.<~>) email, '''')', 'name::me.trap', 'name::me.over', 'ARRAY[name]::me.trap[]::text', 'ROW(name)::me.holder::text', '(name::me.holder)::text', 'name::me.mood::text', '(ARRAY[name::me.trap])[1]',
    'GREATEST(me.steal(name), ''a'')', '(name COLLATE "C" IS DISTINCT FROM me.steal(email))::text', 'xmlelement(name a, me.steal(name))::text', '(name = ANY (ARRAY[me.steal(email)]))::text']) e;
-- an operator of the same name before the built-in one in the path of whoever writes the mask is not taken
SET search_path = me, public, pg_catalog;
SELECT agent_guard.mask_column('me.t', 'name', expression => $$name || email$$);
RESET search_path;
SELECT count(*) FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid IN ('pg_operator'::regclass, 'pg_proc'::regclass)
  AND r.ev_class = 'agent_guard_masked."me.t"'::regclass;
-- temporary functions and domains shadow nothing
CREATE FUNCTION pg_temp.lower(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1';
CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (value <> 'x');
SELECT agent_guard.mask_column('me.t', 'name', expression => 'lower(name)::text');
SELECT me_try('pg_temp.lower(name)'), me_try('name::pg_temp.text');
DROP FUNCTION pg_temp.lower(pg_catalog.text);
DROP DOMAIN pg_temp.text;
-- what a text means does not depend on the session that reads it: where a literal ends, which day, which NULL
SET standard_conforming_strings = off; SET escape_string_warning = off;
SELECT agent_guard.mask_column('me.t', 'name', 'partial', pad => E'\\''; x');
SELECT agent_guard.mask_column('me.t', 'email', expression => '''\\d''::text || (n = NULL)::text');
SET transform_null_equals = on; SET datestyle = 'German'; SET timezone = 'Asia/Tokyo';
SELECT agent_guard.filter_rows('me', 'me.t', '''2024-02-01''::date::text < name AND ''2024-01-01 00:00+00''::timestamptz < ''2024-02-03'' AND n = NULL');
ALTER TABLE me.t ADD COLUMN more int;
ALTER TABLE me.t RENAME COLUMN more TO less;
SELECT pg_get_viewdef('agent_guard_masked."me.t"') LIKE E'%''\\\\\\\\d''::text%' AS one_backslash_as_it_is_written_here;
SELECT name FROM agent_guard_masked."me.t";
RESET standard_conforming_strings; RESET transform_null_equals; RESET datestyle; RESET timezone;
ALTER TABLE me.t DROP COLUMN less;
SELECT expression FROM agent_guard.masks WHERE relation = 'me.t'::regclass ORDER BY 1;
SELECT name FROM agent_guard_masked."me.t";
SELECT predicate FROM agent_guard.row_filters;
-- a column's name stays a name
SELECT agent_guard.mask_column('me.t', 'x"; DROP TABLE me.t; --', 'redact');
SELECT agent_guard.mask_column('me.t', 'email', expression => $$"x""; DROP TABLE me.t; --" || '"'$$);
ALTER TABLE me.t RENAME COLUMN "x""; DROP TABLE me.t; --" TO "y'); DROP TABLE me.t; --";
SELECT column_name, expression FROM agent_guard.masks WHERE relation = 'me.t'::regclass ORDER BY 1;
SELECT * FROM agent_guard_masked."me.t";
-- columns whose types run code of their owner are not masked by a cast that would run it
SELECT agent_guard.mask_column('me.typed', 'd', 'redact');
SELECT agent_guard.mask_column('me.typed', 'd', expression => $$'x'$$);
SELECT agent_guard.mask_column('me.typed', 'o', 'null');
SELECT agent_guard.mask_column('me.typed', 'a', 'null');
SELECT agent_guard.mask_column('me.typed', 'h', 'null');
-- enums have no code; what a superuser owns is let
SELECT agent_guard.mask_column('me.typed', 'm', 'null'), agent_guard.mask_column('me.typed', 'm', expression => $$CASE WHEN m IS NOT NULL THEN 'glad'::me.mood END$$);
ALTER FUNCTION me.steal(text) OWNER TO postgres;
SELECT agent_guard.mask_column('me.t', 'name', expression => 'me.steal(email)');
DROP FUNCTION me.steal(text);
ALTER FUNCTION me.check_it(text) OWNER TO postgres;
SELECT agent_guard.mask_column('me.typed', 'd', expression => $$'x'$$);
SELECT count(*) AS masks FROM agent_guard.mask;
SELECT count(*) AS filters FROM agent_guard.row_filter;
-- a table's row type gets columns of any type later, so that no mask makes a row of it; what is stored is let
CREATE TABLE me.whole (id int, r me.t, r2 me.t);
SELECT agent_guard.mask_column('me.whole', 'r', expression => $$'(1,,,,)'::me.t$$), 1;
SELECT agent_guard.mask_column('me.whole', 'r', expression => 'r2'), agent_guard.mask_column('me.whole', 'r2', 'null');
-- and nobody gets such code afterwards, by a constraint or as its owner
SET ROLE me_app;
CREATE DOMAIN me.innocent AS text;
CREATE TYPE me.later AS (a int);
CREATE TABLE me.late (id int, a text[], r text);
RESET ROLE;
SELECT agent_guard.mask_column('me.late', 'a', expression => $$'{x}'::me.innocent[]::text[]$$), agent_guard.mask_column('me.late', 'r', expression => $$('(1)'::me.later)::text$$);
SET ROLE me_app;
CREATE FUNCTION me.evil(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RAISE NOTICE 'runs as %', current_user; RETURN true; END$$;
-- From 17 on the server itself refuses this where a view has arrays of the domain.
DO $$BEGIN ALTER DOMAIN me.innocent ADD CHECK (me.evil(value)); EXCEPTION WHEN others THEN
    RAISE WARNING 'refused: %', sqlerrm ~ '^mask on me.late: the domain me.innocent belongs to|^cannot alter type "me.innocent" because'; END$$;
ALTER TYPE me.later ADD ATTRIBUTE b me.trap;
ALTER TABLE me.late ADD COLUMN more int;
RESET ROLE;
CREATE FUNCTION me.fine(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1';
SELECT agent_guard.filter_rows('me', 'me.late', 'me.fine(r) IS NOT NULL');
ALTER FUNCTION me.fine(text) OWNER TO me_app;
SELECT agent_guard.unfilter_rows('me', 'me.late');
ALTER FUNCTION me.fine(text) OWNER TO me_app;
SELECT expression FROM agent_guard.masks WHERE relation = 'me.late'::regclass ORDER BY 1;
-- filters take the same constructs as masks, and conditions only
SELECT agent_guard.filter_rows('me', 'me.t', $$name ~ '^J' AND id IN (1, 2) AND email IS NOT NULL AND n BETWEEN 1 AND 3 AND (id, n) < (5, 6) AND current_user <> 'x'$$);
SELECT agent_guard.filter_rows('me', 'me.t', $$true; DROP TABLE me.t$$);
SELECT agent_guard.filter_rows('me', 'me.t', 'id IN (SELECT id FROM me.t)');
SELECT agent_guard.filter_rows('me', 'me.t', 'me.check_it(name)');
SELECT agent_guard.filter_rows('me', 'me.t', 'name');
SELECT predicate FROM agent_guard.row_filters;
DROP FUNCTION me_try(text);
SELECT agent_guard.drop_policy('me');
SET client_min_messages = warning;
DROP SCHEMA me CASCADE;
DROP ROLE me_app;
