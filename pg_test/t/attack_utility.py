"""Every SQL command of the server once, as an agent that owns the application and has an empty policy: each is denied by
the guard or ordinary on purpose, and the table knows every command that psql's \\h lists.
"""

import psycopg

import guard
import scene
from guard import DENIED
from scene import Agent

# What the statements below are about; owned by the agent's role wherever the server lets it.
MORE = """
set role owner;
create aggregate app.total(int) (sfunc = int4pl, stype = int);
create operator app.<<< (function = pg_catalog.int4lt, leftarg = int, rightarg = int);
create statistics app.stats on id, v from app.open;
create index open_v on app.open (v);
create trigger fire before update on app.open for each row execute function app.fire();
create rule quiet as on delete to app.child do also nothing;
create policy mine on app.open using (true);
create text search dictionary app.dictionary (template = simple);
create text search configuration app.configuration (copy = simple);
create collation app.collation from "C";
create conversion app.conversion for 'LATIN1' to 'UTF8' from iso8859_1_to_utf8;
create domain app.narrow as int;
create table app.referring (id int);
reset role;
create operator family app.family using btree;
create operator class app.class for type int using btree family app.family as operator 1 <;
alter operator family app.family using btree owner to owner;
alter operator class app.class using btree owner to owner;
create foreign data wrapper wrapper;
create server remote foreign data wrapper wrapper;
alter server remote owner to owner;
create user mapping for owner server remote;
create foreign table app.away (id int) server remote;
alter foreign table app.away owner to owner;
create publication published for table app.open;
alter publication published owner to owner;
create function app.watch() returns event_trigger language plpgsql as 'begin null; end';
create event trigger watching on ddl_command_start when tag in ('DROP OWNED') execute function app.watch();
create extension if not exists pg_stat_statements;
select lo_create(4242);
alter large object 4242 owner to owner;
create role helper;
create subscription subscribed connection 'dbname=none' publication p with (connect = false, slot_name = none, enabled = false);
create text search parser app.parser (start = prsd_start, gettoken = prsd_nexttoken, end = prsd_end, lextypes = prsd_lextype);
create text search template app.template (lexize = dsimple_lexize);
create access method heap2 type table handler heap_tableam_handler;
create cast (app.mood as app.pair) with inout as assignment;
create transform for int language plpgsql (from sql with function pg_catalog.array_subscript_handler(internal));
create procedural language plother handler plpgsql_call_handler;
"""

ORDINARY = "ordinary"

# Command -> what the agent sends. A string or tuple of strings is denied; ORDINARY goes before what has to work.
COMMANDS = {
    "ABORT": (ORDINARY, "begin", "abort"),
    "ALTER AGGREGATE": ("alter aggregate app.total(int) rename to sums", "alter aggregate app.total(int) set schema other", "alter aggregate app.total(int) owner to owner"),
    "ALTER COLLATION": ("alter collation app.collation rename to c", "alter collation app.collation refresh version"),
    "ALTER CONVERSION": "alter conversion app.conversion rename to c",
    "ALTER DATABASE": ("alter database postgres set work_mem = '1MB'", "alter database postgres rename to p", "alter database postgres connection limit 5", "alter database postgres refresh collation version", "alter database postgres reset all", "alter database postgres owner to owner", "alter database postgres set tablespace pg_default"),
    "ALTER DEFAULT PRIVILEGES": "alter default privileges in schema app grant select on tables to public",
    "ALTER DOMAIN": ("alter domain app.small drop not null", "alter domain app.small rename to tiny", "alter domain app.small add constraint c check (value > 0)", "alter domain app.small rename constraint small_check to c", "alter domain app.small drop constraint small_check", "alter domain app.small set schema other"),
    "ALTER EVENT TRIGGER": ("alter event trigger watching disable", "alter event trigger watching rename to w"),
    "ALTER EXTENSION": ("alter extension pg_stat_statements update", "alter extension agent_guard drop function agent_guard.whoami()", "alter extension agent_guard add table app.open", "alter extension agent_guard set schema public"),
    "ALTER FOREIGN DATA WRAPPER": "alter foreign data wrapper wrapper options (a 'b')",
    "ALTER FOREIGN TABLE": ("alter foreign table app.away add column n int", "alter foreign table app.away rename to a", "alter foreign table app.away options (a 'b')"),
    "ALTER FUNCTION": ("alter function app.one() rename to two", "alter function app.one() security definer", "alter function app.one() set work_mem = '1MB'", "alter function app.one() set schema other", "alter function app.one() depends on extension plpgsql", "alter function app.one() owner to owner", "alter function kept.unqualified() security definer"),
    "ALTER GROUP": ("alter group helper add user owner", "alter group helper rename to h"),
    "ALTER INDEX": ("alter index app.open_v rename to i", "alter index app.open_v set (fillfactor = 50)", "alter index app.open_v alter column 1 set statistics 10", "alter index all in tablespace pg_default set tablespace pg_default", "alter index app.open_v attach partition app.open_v", "alter index app.open_v no depends on extension plpgsql"),
    "ALTER LANGUAGE": "alter language plother rename to p",
    "ALTER LARGE OBJECT": "alter large object 4242 owner to owner",
    "ALTER MATERIALIZED VIEW": ("alter materialized view app.secret_mat rename to m", "alter materialized view app.secret_mat set schema other", "alter materialized view app.secret_mat cluster on x"),
    "ALTER OPERATOR": ("alter operator app.<<<(int, int) set (restrict = none)", "alter operator app.<<<(int, int) set schema other", "alter operator app.<<<(int, int) owner to owner"),
    "ALTER OPERATOR CLASS": "alter operator class app.class using btree rename to c",
    "ALTER OPERATOR FAMILY": ("alter operator family app.family using btree rename to f", "alter operator family app.family using btree add operator 1 < (int, int)"),
    "ALTER POLICY": ("alter policy mine on app.open using (false)", "alter policy mine on app.open rename to m"),
    "ALTER PROCEDURE": ("alter procedure app.proc(int) rename to p", "alter procedure app.proc(int) security definer"),
    "ALTER PUBLICATION": ("alter publication published add table app.secret", "alter publication published rename to p", "alter publication published owner to owner"),
    "ALTER ROLE": ("alter role owner set work_mem = '1MB'", "alter role owner password 'x'", "alter role current_user password 'x'", "alter role current_role password 'x'", "alter role session_user in database postgres reset all", "alter role all set work_mem = '1MB'", "alter role owner rename to o", "alter role owner valid until 'infinity'", "alter role owner superuser"),
    "ALTER ROUTINE": "alter routine app.one() rename to two",
    "ALTER RULE": "alter rule quiet on app.child rename to q",
    "ALTER SCHEMA": ("alter schema app rename to a", "alter schema app owner to owner", "alter schema app owner to current_user"),
    "ALTER SEQUENCE": ("alter sequence app.numbers restart", "alter sequence app.numbers rename to n", "alter sequence app.numbers owned by app.open.id", "alter sequence app.numbers set schema other"),
    "ALTER SERVER": "alter server remote options (a 'b')",
    "ALTER STATISTICS": ("alter statistics app.stats rename to s", "alter statistics app.stats set statistics 10", "alter statistics app.stats set schema other"),
    "ALTER SUBSCRIPTION": ("alter subscription subscribed disable", "alter subscription subscribed rename to s"),
    "ALTER SYSTEM": ("alter system set work_mem = '1MB'", "alter system reset all"),
    "ALTER TABLE": (
        "alter table app.open add column n int", "alter table app.open drop column hidden", "alter table app.open rename to o", "alter table app.open rename column v to w",
        "alter table app.open alter v type varchar", "alter table app.open alter v set default 'x'", "alter table app.open alter v set not null", "alter table app.open alter v set statistics 10",
        "alter table app.open add constraint c check (id > 0)", "alter table app.open add foreign key (id) references app.secret", "alter table app.open drop constraint open_pkey cascade",
        "alter table app.open rename constraint open_pkey to c", "alter table app.open disable trigger all", "alter table app.open enable row level security", "alter table app.open owner to owner",
        "alter table app.open set schema other", "alter table app.open set unlogged", "alter table app.open set (fillfactor = 50)", "alter table app.open replica identity full", "alter table app.open cluster on open_v",
        "alter table app.parted attach partition app.open for values from (300) to (400)", "alter table app.parted detach partition app.parted_1", "alter table app.heir no inherit app.parent",
        "alter table app.open inherit app.parent", "alter table app.open of app.pair", "alter table all in tablespace pg_default set tablespace pg_default", "alter table app.open set tablespace pg_default",
        "alter table app.open set access method heap2", "alter table if exists app.open add column n int", "alter table app.child disable rule quiet", "alter table only app.parent add column n int",
    ),
    "ALTER TABLESPACE": ("alter tablespace pg_default set (random_page_cost = 1)", "alter tablespace pg_default rename to x", "alter tablespace pg_default owner to owner"),
    "ALTER TEXT SEARCH CONFIGURATION": ("alter text search configuration app.configuration rename to c", "alter text search configuration app.configuration drop mapping for word"),
    "ALTER TEXT SEARCH DICTIONARY": ("alter text search dictionary app.dictionary rename to d", "alter text search dictionary app.dictionary (accept = false)"),
    "ALTER TEXT SEARCH PARSER": "alter text search parser app.parser rename to p",
    "ALTER TEXT SEARCH TEMPLATE": "alter text search template app.template rename to t",
    "ALTER TRIGGER": ("alter trigger fire on app.open rename to f", "alter trigger fire on app.open depends on extension plpgsql"),
    "ALTER TYPE": ("alter type app.mood add value 'odd'", "alter type app.mood rename value 'bad' to 'worse'", "alter type app.pair add attribute c int", "alter type app.mood rename to m", "alter type app.pair rename attribute a to z", "alter type app.mood set schema other", "alter type app.mood owner to owner"),
    "ALTER USER": ("alter user owner password 'x'", "alter user owner set work_mem = '1MB'"),
    "ALTER USER MAPPING": "alter user mapping for owner server remote options (user 'x')",
    "ALTER VIEW": ("alter view app.secret_view rename to v", "alter view app.secret_view set (security_barrier)", "alter view app.secret_view alter v set default 'x'", "alter view app.secret_view set schema other", "alter view app.secret_view owner to owner"),
    "ANALYZE": ("analyze app.open", "analyze", "analyze app.secret(v)"),
    "BEGIN": (ORDINARY, "begin isolation level serializable read only deferrable", "rollback"),
    "CALL": "call app.proc(1)",
    "CHECKPOINT": "checkpoint",
    "CLOSE": (ORDINARY, "close all"),
    "CLUSTER": ("cluster app.open using open_v", "cluster"),
    "COMMENT": ("comment on table app.open is 'x'", "comment on column app.open.v is 'x'", "comment on function app.one() is 'x'", "comment on database postgres is 'x'", "comment on role owner is 'x'", "comment on schema app is 'x'", "comment on constraint open_pkey on app.open is 'x'", "comment on constraint small_check on domain app.small is 'x'", "comment on trigger fire on app.open is 'x'", "comment on large object 4242 is 'x'", "comment on type app.mood is 'x'", "comment on operator app.<<<(int, int) is 'x'", "comment on cast (app.mood as app.pair) is 'x'", "comment on extension agent_guard is 'x'", "comment on operator class app.class using btree is 'x'", "comment on transform for int language plpgsql is 'x'", "comment on rule quiet on app.child is 'x'", "comment on policy mine on app.open is 'x'", "comment on index app.open_v is null"),
    "COMMIT": (ORDINARY, "begin", "commit"),
    "COMMIT PREPARED": "commit prepared 'x'",
    "COPY": ("copy app.open to stdout", "copy app.open from stdin", "copy (select * from app.open) to stdout", "copy app.open to program 'true'", "copy app.open from program 'true'", "copy app.open to '/tmp/x'", "copy app.open from '/etc/passwd'", "copy (select 1) to program 'touch /tmp/h5'", "copy (delete from app.open returning *) to stdout"),
    "CREATE ACCESS METHOD": "create access method h type table handler heap_tableam_handler",
    "CREATE AGGREGATE": "create aggregate app.a(int) (sfunc = int4pl, stype = int)",
    "CREATE CAST": "create cast (app.pair as app.mood) with inout",
    "CREATE COLLATION": ("create collation app.c from \"C\"", "create collation app.c (locale = 'C')"),
    "CREATE CONVERSION": "create conversion app.c for 'UTF8' to 'LATIN1' from utf8_to_iso8859_1",
    "CREATE DATABASE": "create database d",
    "CREATE DOMAIN": "create domain app.d as int",
    "CREATE EVENT TRIGGER": "create event trigger e on ddl_command_start execute function app.watch()",
    "CREATE EXTENSION": ("create extension plpython3u", "create extension if not exists pg_stat_statements", "create extension pgcrypto"),
    "CREATE FOREIGN DATA WRAPPER": "create foreign data wrapper w",
    "CREATE FOREIGN TABLE": ("create foreign table app.f (id int) server remote", "create foreign table app.f partition of app.parted for values from (500) to (600) server remote"),
    "CREATE FUNCTION": ("create function app.f() returns int language sql as 'select 1'", "create or replace function app.one() returns int language sql as 'select 2'", "create or replace function kept.unqualified() returns text language sql as 'select 1::text'", "create function pg_temp.f() returns int language sql as 'select 1'"),
    "CREATE GROUP": "create group g",
    "CREATE INDEX": ("create index on app.open (v)", "create index concurrently i on app.open (v)", "create unique index on app.open ((app.one()))", "create index if not exists open_v on app.open (v)"),
    "CREATE LANGUAGE": "create language l handler plpgsql_call_handler",
    "CREATE MATERIALIZED VIEW": "create materialized view app.m as select 1 as n",
    "CREATE OPERATOR": "create operator app.>>> (function = pg_catalog.int4lt, leftarg = int, rightarg = int)",
    "CREATE OPERATOR CLASS": "create operator class app.c for type int using btree as operator 1 <",
    "CREATE OPERATOR FAMILY": "create operator family app.f using btree",
    "CREATE POLICY": "create policy p on app.open using (true)",
    "CREATE PROCEDURE": "create procedure app.p() language sql as 'select 1'",
    "CREATE PUBLICATION": ("create publication p for table app.open", "create publication p for all tables"),
    "CREATE ROLE": ("create role r", "create role r superuser", "create role r in role owner"),
    "CREATE RULE": "create rule r as on insert to app.open do instead nothing",
    "CREATE SCHEMA": ("create schema s", "create schema s create table t (n int)", "create schema authorization current_user", "create schema authorization owner"),
    "CREATE SEQUENCE": ("create sequence app.s", "create temporary sequence s"),
    "CREATE SERVER": "create server s foreign data wrapper wrapper",
    "CREATE STATISTICS": "create statistics app.s on id, v from app.open",
    "CREATE SUBSCRIPTION": "create subscription s connection 'dbname=x' publication p with (connect = false)",
    "CREATE TABLE": ("create table app.t (id int)", "create temporary table t (id int)", "create unlogged table app.t (id serial)", "create table app.t (like app.secret including all)", "create table app.t () inherits (app.parent)", "create table app.p3 partition of app.parted for values from (200) to (300)", "create table app.t of app.pair", "create table app.t (id int references app.secret)"),
    "CREATE TABLE AS": ("create table app.t as select 1 as n", "create temporary table t as select 1 as n", "create table app.t as table app.open with no data", "explain analyze create table app.t as select 1 as n"),
    "CREATE TABLESPACE": "create tablespace t location '/tmp'",
    "CREATE TEXT SEARCH CONFIGURATION": "create text search configuration app.c (copy = simple)",
    "CREATE TEXT SEARCH DICTIONARY": "create text search dictionary app.d (template = simple)",
    "CREATE TEXT SEARCH PARSER": "create text search parser app.p (start = prsd_start, gettoken = prsd_nexttoken, end = prsd_end, lextypes = prsd_lextype)",
    "CREATE TEXT SEARCH TEMPLATE": "create text search template app.t (lexize = dsimple_lexize)",
    "CREATE TRANSFORM": "create transform for text language plpgsql (from sql with function pg_catalog.array_subscript_handler(internal))",
    "CREATE TRIGGER": ("create trigger t before insert on app.open for each row execute function app.fire()", "create constraint trigger t after insert on app.open for each row execute function app.fire()", "create or replace trigger fire before update on app.open for each row execute function app.fire()"),
    "CREATE TYPE": ("create type app.t as (a int)", "create type app.t as enum ('a')", "create type app.t as range (subtype = int)", "create type app.t"),
    "CREATE USER": "create user u",
    "CREATE USER MAPPING": "create user mapping for public server remote",
    "CREATE VIEW": ("create view app.v as select 1 as n", "create or replace view app.secret_view as select id, v from app.open", "create temporary view v as select 1 as n", "create recursive view app.v (n) as select 1"),
    "DEALLOCATE": (ORDINARY, "prepare p as select 1", "deallocate p", "deallocate all"),
    "DECLARE": (ORDINARY, "begin", "declare c cursor for select 1", "fetch c", "rollback"),
    "DELETE": "delete from app.open",
    "DISCARD": (ORDINARY, "discard plans", "discard sequences", "discard temp"),
    "DO": "do 'begin null; end'",
    "DROP ACCESS METHOD": "drop access method heap2",
    "DROP AGGREGATE": "drop aggregate app.total(int)",
    "DROP CAST": "drop cast (app.mood as app.pair)",
    "DROP COLLATION": "drop collation app.collation",
    "DROP CONVERSION": "drop conversion app.conversion",
    "DROP DATABASE": "drop database template0",
    "DROP DOMAIN": "drop domain app.small, app.narrow",
    "DROP EVENT TRIGGER": "drop event trigger watching",
    "DROP EXTENSION": ("drop extension agent_guard cascade", "drop extension pg_stat_statements"),
    "DROP FOREIGN DATA WRAPPER": "drop foreign data wrapper wrapper cascade",
    "DROP FOREIGN TABLE": "drop foreign table app.away",
    "DROP FUNCTION": ("drop function app.one()", "drop function app.fire() cascade", "drop function app.secret_sql"),
    "DROP GROUP": "drop group helper",
    "DROP INDEX": ("drop index app.open_v", "drop index concurrently app.open_v"),
    "DROP LANGUAGE": "drop language plother",
    "DROP MATERIALIZED VIEW": "drop materialized view app.secret_mat",
    "DROP OPERATOR": "drop operator app.<<<(int, int)",
    "DROP OPERATOR CLASS": "drop operator class app.class using btree",
    "DROP OPERATOR FAMILY": "drop operator family app.family using btree cascade",
    "DROP OWNED": ("drop owned by owner cascade", "drop owned by current_user", "drop owned by session_user cascade"),
    "DROP POLICY": "drop policy mine on app.open",
    "DROP PROCEDURE": "drop procedure app.proc",
    "DROP PUBLICATION": "drop publication published",
    "DROP ROLE": ("drop role helper", "drop role if exists helper, peer", "drop role current_user"),
    "DROP ROUTINE": "drop routine app.one()",
    "DROP RULE": "drop rule quiet on app.child",
    "DROP SCHEMA": ("drop schema other cascade", "drop schema app cascade", "drop schema other, app cascade"),
    "DROP SEQUENCE": "drop sequence app.numbers",
    "DROP SERVER": "drop server remote cascade",
    "DROP STATISTICS": "drop statistics app.stats",
    "DROP SUBSCRIPTION": "drop subscription subscribed",
    "DROP TABLE": ("drop table app.open cascade", "drop table if exists app.secret cascade", "drop table app.parted_1", "drop table app.child, app.open cascade"),
    "DROP TABLESPACE": "drop tablespace pg_default",
    "DROP TEXT SEARCH CONFIGURATION": "drop text search configuration app.configuration",
    "DROP TEXT SEARCH DICTIONARY": "drop text search dictionary app.dictionary",
    "DROP TEXT SEARCH PARSER": "drop text search parser app.parser",
    "DROP TEXT SEARCH TEMPLATE": "drop text search template app.template",
    "DROP TRANSFORM": "drop transform for int language plpgsql",
    "DROP TRIGGER": "drop trigger fire on app.open",
    "DROP TYPE": ("drop type app.mood cascade", "drop type app.pair cascade"),
    "DROP USER": "drop user helper",
    "DROP USER MAPPING": "drop user mapping for owner server remote",
    "DROP VIEW": ("drop view app.nested_view", "drop view app.secret_view cascade"),
    "END": (ORDINARY, "begin", "end"),
    "EXECUTE": (ORDINARY, "prepare p as select 1", "execute p", "deallocate p"),
    "EXPLAIN": (ORDINARY, "explain (analyze, verbose) select 1"),
    "FETCH": (ORDINARY, "begin", "declare c cursor for select 1", "fetch all from c", "commit"),
    "GRANT": ("grant select on app.open to public", "grant owner to helper", "grant all on schema app to public", "grant execute on function app.one() to public", "grant all on all tables in schema app to public", "grant usage on type app.mood to public", "grant select (v) on app.open to public", "grant all on large object 4242 to public", "grant create on database postgres to public", "grant set on parameter work_mem to owner", "grant usage on foreign server remote to public", "grant usage on sequence app.numbers to public", "grant usage on language plpgsql to public", "grant create on tablespace pg_default to owner"),
    "IMPORT FOREIGN SCHEMA": "import foreign schema s from server remote into app",
    "INSERT": ("insert into app.open values (9)", "insert into app.open values (1) on conflict do nothing", "insert into app.open default values"),
    "LISTEN": "listen c",
    "LOAD": ("load 'plpgsql'", "load '$libdir/plugins/x'"),
    "LOCK": ("lock app.open", "lock table app.secret in access share mode nowait", "lock app.secret_view"),
    "MERGE": "merge into app.open o using (values (1)) s(id) on o.id = s.id when matched then delete when not matched then insert values (s.id)",
    "MOVE": (ORDINARY, "begin", "declare c cursor for select 1", "move all in c", "commit"),
    "NOTIFY": "notify c, 'x'",
    "PREPARE": (ORDINARY, "prepare p as select 1", "deallocate p"),
    "PREPARE TRANSACTION": "prepare transaction 'x'",
    "REASSIGN OWNED": ("reassign owned by owner to peer", "reassign owned by current_user to session_user"),
    "REFRESH MATERIALIZED VIEW": ("refresh materialized view app.secret_mat", "refresh materialized view app.secret_mat with no data"),
    "REINDEX": ("reindex table app.open", "reindex index app.open_v", "reindex schema app", "reindex database postgres", "reindex system postgres", "reindex (concurrently) table app.open"),
    "RELEASE SAVEPOINT": (ORDINARY, "begin", "savepoint s", "release savepoint s", "commit"),
    "RESET": (ORDINARY, "reset work_mem", "reset search_path"),
    "REVOKE": ("revoke all on app.secret from keeper", "revoke all on schema kept from owner", "revoke owner from helper", "revoke grant option for select on app.open from public"),
    "ROLLBACK": (ORDINARY, "begin", "rollback and chain", "rollback"),
    "ROLLBACK PREPARED": "rollback prepared 'x'",
    "ROLLBACK TO SAVEPOINT": (ORDINARY, "begin", "savepoint s", "rollback to s", "commit"),
    "SAVEPOINT": (ORDINARY, "begin", "savepoint s", "commit"),
    "SECURITY LABEL": ("security label for agent_guard on role owner is null", "security label on table app.open is 'x'"),
    "SELECT": ("select * from app.open", "select from app.open", "select 1 from app.open limit 0", "select * from app.open for update"),
    "SELECT INTO": ("select 1 as n into app.t", "select 1 as n into temporary t"),
    "SET": (ORDINARY, "set statement_timeout = '1min'", "set application_name = 'x'", "set local work_mem = '1MB'"),
    "SET CONSTRAINTS": (ORDINARY, "set constraints all deferred"),
    "SET ROLE": ("set role owner", "set role none", "set role peer", "set local role owner", "set session role owner"),
    "SET SESSION AUTHORIZATION": ("set session authorization owner", "set session authorization default", "set local session authorization owner", "reset session authorization"),
    "SET TRANSACTION": (ORDINARY, "begin", "set transaction isolation level repeatable read", "commit", "set session characteristics as transaction isolation level read committed"),
    "SHOW": (ORDINARY, "show all", "show work_mem"),
    "START TRANSACTION": (ORDINARY, "start transaction", "commit"),
    "TABLE": "table app.open",
    "TRUNCATE": ("truncate app.open cascade", "truncate only app.secret", "truncate app.secret restart identity", "truncate app.parted_1"),
    "UNLISTEN": ("unlisten *", "unlisten c"),
    "UPDATE": ("update app.open set v = 'x'", "update only app.parent set v = 'x'", "update app.open set v = default where false"),
    "VACUUM": ("vacuum app.open", "vacuum", "vacuum (full) app.open"),
    "VALUES": (ORDINARY, "values (1), (2)"),
    "WITH": ("with x as (delete from app.open returning *) select * from x", "with x as materialized (select * from app.secret) select * from x"),
}

# The server looks at ownership before any hook.
BY_THE_SERVER = {"drop transform for int language plpgsql"}

# Settings that an agent may not touch.
SETTINGS = """session_replication_role=replica row_security=off log_statement=none debug_print_plan=on client_min_messages=debug1
client_min_messages=log default_tablespace=pg_default temp_tablespaces=pg_default lo_compat_privileges=on
zero_damaged_pages=on allow_system_table_mods=on local_preload_libraries=x session_preload_libraries=x
dynamic_library_path=x force_parallel_mode=on debug_parallel_query=on check_function_bodies=off default_table_access_method=heap2 track_activities=off
transform_null_equals=on plpgsql.extra_warnings=all app.tenant=x agent_guard.guarded=off agent_guard.enforcement=observe
agent_guard.other=x log_min_messages=panic log_min_error_statement=panic jit_provider=x exit_on_error=on vacuum_cost_delay=1
ignore_checksum_failure=on session_authorization=owner role=owner""".split()

# The exact allow with which a denied statement of the table works.
NEAREST_ALLOW = [
    ("create table app.t (id int)", "create table", "app.*", "drop table app.t"),
    ("create view app.v as select 1 as n", "create view", "app.*", "drop view app.v"),
    ("create materialized view app.m as select 1 as n", "create materialized view", "app.*", "drop materialized view app.m"),
    ("create sequence app.s", "create sequence", "app.*", "drop sequence app.s"),
    ("create index made on app.open (v)", "create index", "app.open", "drop index app.made"),
    ("create statistics app.s on id, v from app.open", "create statistics", "app.open", "drop statistics app.s"),
    ("create function app.f() returns int language sql as 'select 1'", "create function", "function app.*", "drop function app.f()"),
    ("create procedure app.p() language sql as 'select 1'", "create procedure", "function app.*", "drop procedure app.p()"),
    ("create trigger t before insert on app.open for each row execute function app.fire()", [("create trigger", "app.open"), ("select", "app.open"), ("execute", "function app.fire()")], None, "drop trigger t on app.open"),
    ("create rule r as on insert to app.open do also nothing", "create rule", "app.open", "drop rule r on app.open"),
    ("create policy p on app.open using (true)", "create policy", "app.open", "drop policy p on app.open"),
    ("create schema s", "create schema", "schema s", "drop schema s"),
    ("create type app.t as enum ('a')", "create type", "app.*", "drop type app.t"),
    ("create domain app.d as int", "create domain", "app.*", "drop domain app.d"),
    ("create temporary table t as select 1 as n", "temporary", "*", "select 1"),
    ("alter table app.open add column n int", "alter table", "app.open", "alter table app.open drop column n"),
    ("alter table app.open rename column hidden to h", [("alter table", "app.open"), ("select", "app.open")], None, "alter table app.open rename column h to hidden"),
    ("alter sequence app.numbers restart", "alter sequence", "app.numbers", "select 1"),
    ("alter function app.one() stable", "alter function", "function app.one()", "alter function app.one() immutable"),
    ("alter type app.pair add attribute c int", "alter type", "app.pair", "alter type app.pair drop attribute c"),
    ("alter domain app.small drop not null", "alter domain", "app.small", "select 1"),
    ("comment on table app.open is 'x'", "comment table", "app.open", "comment on table app.open is null"),
    ("grant select on app.open to peer", "grant", "app.open", "revoke select on app.open from peer"),
    ("truncate app.nulled", "truncate", "app.nulled", "insert into app.nulled values (10, 3)"),
    ("do 'begin lock app.open; end'", [("lock", "app.open"), ("system", "*")], None, "select 1"),
    ("analyze app.open", "maintain", "app.open", "select 1"),
    ("call app.proc(1)", "execute", "function app.proc(int)", "select 1"),
    ("notify c, 'x'", "notify", "*", "select 1"),
    ("checkpoint", "system", "*", "select 1"),
    ("do 'begin null; end'", "system", "*", "select 1"),
    ("set role none", "role", "*", "reset role"),
    ("drop view app.nested_view", "drop view", "app.nested_view", "create view app.nested_view as select * from app.secret_view; alter view app.nested_view owner to owner"),
    ("drop index app.open_v", "drop index", "app.open", "create index open_v on app.open (v)"),
]


def setup(server):
    scene.setup(server)
    # The server may lack an object of a kind; the command's own test then says so.
    with server.connect() as connection:
        for statement in MORE.strip().split(";\n"):
            connection.execute(statement.rstrip(";"))
        connection.execute("reset role")


def statements(command):
    given = COMMANDS[command]
    return (given,) if isinstance(given, str) else given


def test_the_table_covers_every_command_that_psql_knows(server):
    said = server.psql("-c", "\\h *").stdout
    known = {line.split(":", 1)[1].strip() for line in said.splitlines() if line.startswith("Command:")}
    assert len(known) > 150, f"psql lists {len(known)} commands"
    missing, gone = sorted(known - COMMANDS.keys()), sorted(COMMANDS.keys() - known - {"TABLE", "WITH"})
    assert not missing and not gone, f"not in the table: {missing}; unknown to psql: {gone}"


def by_the_guard(error, statement):
    return (error.diag.message_detail or "").startswith("reason=") or statement in BY_THE_SERVER


def check(agent, server):
    """Runs the table; what is wrong, as lines."""
    wrong = []
    before = scene.world(server)
    for command in COMMANDS:
        given = statements(command)
        ordinary = given[0] == ORDINARY
        for statement in given[1:] if ordinary else given:
            error = agent.attempt(statement)
            if ordinary and error is not None:
                wrong.append(f"{statement}: {error.sqlstate} {error}")
            elif not ordinary and error is None:
                wrong.append(f"{statement}: it ran")
            elif not ordinary and (error.sqlstate != DENIED or not by_the_guard(error, statement)):
                wrong.append(f"{statement}: {error.sqlstate} {error}")
        after = scene.world(server)
        if changed := scene.changes(before, after):
            wrong.append(f"{command} changed {changed}")
            before = after
    return wrong


def test_every_command_is_denied_or_ordinary_on_purpose(server):
    with Agent(server) as agent:
        wrong = check(agent, server)
    assert not wrong, "\n" + "\n".join(wrong)


def test_no_command_but_the_transactions_runs_without_a_token(server):
    free = {"ABORT", "BEGIN", "COMMIT", "END", "ROLLBACK", "SAVEPOINT", "RELEASE SAVEPOINT", "ROLLBACK TO SAVEPOINT", "START TRANSACTION", "SHOW", "SET", "RESET", "DISCARD", "SET TRANSACTION"}
    before = scene.world(server)
    wrong = []
    with server.connect("owner") as connection:
        for command in COMMANDS.keys() - free:
            given = statements(command)
            for statement in given[1:] if given[0] == ORDINARY else given:
                if statement in ("begin", "rollback", "commit", "deallocate p", "deallocate all", "savepoint s"):
                    continue
                try:
                    connection.execute(statement)
                    wrong.append(f"{statement}: it ran")
                except psycopg.Error as error:
                    if error.sqlstate != guard.UNAUTHENTICATED:
                        wrong.append(f"{statement}: {error.sqlstate} {error}")
    assert not wrong, "\n" + "\n".join(wrong)
    assert not scene.changes(before, scene.world(server))


def test_settings_beyond_the_list_are_denied(server):
    with Agent(server, ("allow", "execute", "*")) as agent:
        agent.run("set statement_timeout = '1min'")
        shown = agent.run("select name, setting from pg_settings order by 1")
        for setting in SETTINGS:
            name, value = setting.split("=")
            quoted = ".".join(f'"{part}"' for part in name.upper().split("."))
            for statement in (f"set {name} = '{value}'", f"set local {quoted} = '{value}'", f"select set_config('{name.upper()}', '{value}', false)"):
                error = agent.attempt(statement)
                # The server's own refusal of a name or a value is as good.
                assert error is not None and error.sqlstate in (DENIED, "55P02", "22023", "42704", "42602"), f"{statement}: {error}"
        assert agent.run("select name, setting from pg_settings order by 1") == shown


def test_the_nearest_allow_is_enough(server):
    wrong = []
    for statement, actions, objects, undo in NEAREST_ALLOW:
        pairs = actions if objects is None else [(actions, objects)]
        rules = [("allow", action, pattern) for action, pattern in pairs]
        with Agent(server, *rules) as agent:
            error = agent.attempt(statement)
            if error is not None:
                wrong.append(f"{statement} with {pairs}: {error.sqlstate} {error}")
                continue
        server.run("set check_function_bodies = off; " + undo)
    assert not wrong, "\n" + "\n".join(wrong)


if __name__ == "__main__":
    guard.run(globals(), conf=["autovacuum = off", "wal_level = logical", "max_prepared_transactions = 2"])
