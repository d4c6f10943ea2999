-- What each mask makes of values, and which masks fit which types.
SELECT agent_guard.mask_email(v) FROM unnest(array['jane.doe@example.com', 'j@x.org', 'no address', '', NULL]) v;
SELECT agent_guard.mask_card('4111-1111-1111-1234'), agent_guard.mask_card('1234'), agent_guard.mask_phone('+1 (403) 262-3443');
SELECT agent_guard.mask_partial('hello world', 2, '..', 3), agent_guard.mask_partial('abc', 2, '..', 3), agent_guard.mask_partial('žluťoučký kůň', 1, '*', 2);
SELECT agent_guard.rebuild_masks();
-- a hash is stable, keyed, and of its type; equal texts are equal whatever holds them
SELECT agent_guard.mask_hash('a'::text) = agent_guard.mask_hash('a'::varchar(10)) AS joins, agent_guard.mask_hash('a') <> agent_guard.mask_hash('b') AS differs,
    agent_guard.mask_hash('a') <> encode(sha256('a'), 'hex') AS keyed, length(agent_guard.mask_hash('')) AS length,
    agent_guard.mask_hash((-2147483648)::int4) >= 0 AS int4, agent_guard.mask_hash((-9223372036854775808)::int8) >= 0 AS int8,
    substr(agent_guard.mask_hash('00000000-0000-0000-0000-000000000000'::uuid)::text, 15, 1) AS version, length(agent_guard.mask_hash('\x00'::bytea)) AS bytes;
-- elementwise: shape, bounds and NULLs stay
SELECT agent_guard.mask_email('[2:3][0:1]={{a1@x.org,NULL},{b1@x.org,""}}'::text[]), agent_guard.mask_redact('{}'::text[]),
    array_dims(agent_guard.mask_hash('[5:6]={1,NULL}'::int8[])), agent_guard.mask_phone(array[NULL, '4032623443']);
SELECT agent_guard.mask_year(v), agent_guard.mask_month(v) FROM unnest('{1980-05-06,2024-02-29,infinity,-infinity,"4714-11-24 BC",5874897-12-31}'::date[]) v;
SET timezone = 'America/New_York';
SELECT agent_guard.mask_month('294276-12-31 23:59:59'::timestamp), agent_guard.mask_year('4714-11-24 00:00:00 BC'::timestamp),
    agent_guard.mask_year('2024-01-01 00:30+00'::timestamptz) = '2024-01-01 00:00+00' AS in_utc, agent_guard.mask_year('-infinity'::timestamptz);
RESET timezone;
SELECT agent_guard.mask_bucket(v, 100) FROM unnest('{1234.5,-1234.5,NaN,Infinity,1e308}'::float8[]) v;
SELECT agent_guard.mask_json('{"name": "Jane", "n": [1, {"ssn": "x", "ok": true}], "z": null}'::json, '{}'), agent_guard.mask_json('{"ssn": {"a": 1.50}, "b": 1.50}'::jsonb, '{ssn,NULL}'),
    agent_guard.mask_json('[1e1000, "\u0000"]'::json, '{none}'), agent_guard.mask_json('"x"'::jsonb, '{}');
SELECT count(*) FILTER (WHERE provolatile <> 'i' OR NOT proisstrict OR proparallel <> 's') AS wrong, count(*) > 20 AS many FROM pg_proc
WHERE pronamespace = 'agent_guard'::regnamespace AND proname ~ '^mask_' AND proname <> 'mask_column';

-- every type of the catalogue either masks, keeping its type, or is refused with a hint; NULL masks them all
CREATE SCHEMA mf;
CREATE TYPE mf.mood AS ENUM ('sad', 'glad');
CREATE TYPE mf.pair AS (a int, b text);
CREATE DOMAIN mf.plain AS varchar(20);
CREATE DOMAIN mf.checked AS text CHECK (value <> '');
CREATE TYPE mf.span AS RANGE (subtype = float8);
CREATE TABLE mf.result (type text, mask text, outcome text);
SET client_min_messages = error;
DO $$
DECLARE t record; m text; state text; message text; hint text; got boolean;
BEGIN
    FOR t IN SELECT ty.oid, format_type(ty.oid, NULL) AS name FROM pg_type ty
        WHERE ty.typnamespace IN ('pg_catalog'::regnamespace, 'mf'::regnamespace) AND ty.typtype <> 'p' AND ty.typisdefined
          AND (ty.typtype <> 'c' OR ty.oid = 'mf.pair'::regtype) AND (ty.typelem = 0 OR ty.typlen <> -1 OR ty.typelem = 'mf.pair'::regtype
              OR EXISTS (SELECT FROM pg_type e WHERE e.oid = ty.typelem AND e.typtype NOT IN ('p', 'c')))
    LOOP
        EXECUTE format('CREATE TABLE mf.t (c %s)', t.name);
        FOREACH m IN ARRAY '{redact,null,zero,hash,partial,email,card,phone,year,month,bucket,network,json,uuid}'::text[] LOOP
            BEGIN
                PERFORM agent_guard.mask_column('mf.t', 'c', m, size => CASE WHEN m = 'bucket' THEN 10 END);
                SELECT (a.atttypid, a.atttypmod, a.attcollation) = (b.atttypid, b.atttypmod, b.attcollation) INTO got
                    FROM agent_guard.masked_view v JOIN pg_attribute a ON a.attrelid = v.view JOIN pg_attribute b ON b.attrelid = v.relation AND b.attname = a.attname
                    WHERE v.relation = 'mf.t'::regclass;
                EXECUTE 'INSERT INTO mf.t VALUES (NULL)';
                EXECUTE 'SELECT count(c) FROM agent_guard_masked."mf.t"' INTO message;
                INSERT INTO mf.result VALUES (t.name, m, CASE WHEN got AND message = '0' THEN 'masked' ELSE 'WRONG type' END);
            EXCEPTION WHEN OTHERS THEN
                GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
                INSERT INTO mf.result VALUES (t.name, m, CASE WHEN state = '22023' AND hint <> '' THEN 'refused' ELSE 'WRONG ' || state || ' ' || message END);
            END;
        END LOOP;
        DROP TABLE mf.t;
    END LOOP;
END $$;
RESET client_min_messages;
SELECT * FROM mf.result WHERE outcome LIKE 'WRONG%' OR (mask = 'null' AND outcome <> 'masked' AND type <> 'mf.checked') LIMIT 20;
SELECT count(DISTINCT type) > 140 AS types FROM mf.result;
SELECT mask, string_agg(type, ', ' ORDER BY type) FROM mf.result WHERE outcome = 'masked' AND mask <> 'null' AND type !~ '\[\]' GROUP BY 1 ORDER BY 1;
SELECT mask, string_agg(type, ', ' ORDER BY type) FROM mf.result WHERE outcome = 'masked' AND mask NOT IN ('null', 'redact') AND type ~ '\[\]' GROUP BY 1 ORDER BY 1;
-- every masked type is masked with values at its extremes
CREATE TABLE mf.extreme (s int2, i int4, b int8, n numeric(5, 2), r real, d double precision, m money, bits bit(8), v varbit, c char(20), ch varchar(16), nm name, x interval);
INSERT INTO mf.extreme VALUES (-32768, -2147483648, -9223372036854775808, -999.99, '-Infinity', 1e308, -92233720368547758.08, '11111111', '1', 'c', 'c', 'n', '1 day'),
    (32767, 2147483647, 9223372036854775807, 999.99, 'NaN', -1e-308, 1, '00000001', '', '', '', '', '-1 year'), (NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
SELECT agent_guard.mask_column('mf.extreme', c, 'bucket', size => 1000) FROM unnest('{s,i,b,n,r,d}'::name[]) c;
SELECT s, i, b, n, r, d FROM agent_guard_masked."mf.extreme";
SELECT count(agent_guard.mask_column('mf.extreme', c, 'redact')) FROM unnest('{s,i,b,n,r,d,m,bits,v,c,ch,nm,x}'::name[]) c;
SELECT * FROM agent_guard_masked."mf.extreme";
SELECT count(agent_guard.mask_column('mf.extreme', c, 'hash')) FROM unnest('{i,b,c,ch,nm}'::name[]) c;
SELECT length(c), length(ch), length(nm), i > 0 AS i, b > 0 AS b FROM agent_guard_masked."mf.extreme";
SET client_min_messages = warning;
DROP SCHEMA mf CASCADE;
SELECT count(*) FROM agent_guard.mask;
