-- The hash chain of the trail: verify_audit names the first break, and a checkpoint of the server log is held against it.
\set VERBOSITY terse
create role chained login;
create schema chained;
create table chained.t (id int);
grant usage on schema chained to chained;
grant select on chained.t to chained;
select agent_guard.guard_role('chained');
select agent_guard.create_policy('chained');
select agent_guard.allow('chained', array['select'], array['chained.*']) > 0 as allowed;
select window_id, token from agent_guard.grant_window('chained', 'chained', 'chained', '1 hour') \gset

\c - chained
set agent_guard.token = :'token';
select 1 as one;
select * from chained.t;
select * from chained.nothing;
select count(*) from chained.t;
-- An agent has none of it.
select intact from agent_guard.verify_audit();
select * from agent_guard.journal_read('/tmp');
select * from agent_guard.audit_anchor;
insert into agent_guard.audit_segment_00 (seq, at, level, event, hash) values (1, now(), 0, 'statement', '');
-- The session's end is an event too; that of the token comes before what is looked at here.
reset agent_guard.token;

\c - postgres
select agent_guard.audit_flush();
select intact, events = last_seq - first_seq + 1 as all_there, length(last_hash), broken_seq, break, detail from agent_guard.verify_audit();
select last_seq, last_hash from agent_guard.verify_audit() \gset
select intact, detail from agent_guard.verify_audit(:last_seq, :'last_hash');
select intact, break, detail from agent_guard.verify_audit(0, repeat('ab', 32));
select intact, break from agent_guard.verify_audit(:last_seq + 1000, :'last_hash');
select broken_seq = :last_seq as here, break from agent_guard.verify_audit(:last_seq, repeat('ab', 32));
select * from agent_guard.verify_audit(7);
select * from agent_guard.verify_audit(-7, repeat('ab', 32));
select * from agent_guard.verify_audit(7, 'ab');

-- What a superuser does to the trail is told, and where it begins.
select tableoid::regclass as segment, seq as victim from agent_guard.audit_segment where statement like '%count(*) from chained.t%' \gset
begin;
update :segment set rows = 7 where seq = :victim;
select intact, broken_seq = :victim as here, break from agent_guard.verify_audit();
rollback;
begin;
update :segment set at = at + interval '1 day' where seq = :victim;
select intact, broken_seq = :victim as here, break from agent_guard.verify_audit();
rollback;
begin;
update :segment set accesses = null where seq = :victim;
select intact, broken_seq = :victim as here, break from agent_guard.verify_audit();
rollback;
begin;
update :segment set lineage = lineage || 'other'::text where seq = :victim;
select intact, broken_seq = :victim as here, break from agent_guard.verify_audit();
rollback;
begin;
update :segment set statement = statement || ' ' where seq = :victim;
select intact, broken_seq = :victim as here, break from agent_guard.verify_audit();
rollback;
begin;
delete from :segment where seq = :victim;
select intact, broken_seq = :victim as here, break from agent_guard.verify_audit();
rollback;
begin;
update :segment set seq = seq + 100000 where seq = :victim;
select intact, broken_seq = :victim as here, break from agent_guard.verify_audit();
rollback;
begin;
update :segment set seq = case seq when :victim then :victim - 1 else :victim end where seq in (:victim, :victim - 1);
select intact, broken_seq = :victim - 1 as here, break from agent_guard.verify_audit();
rollback;
begin;
insert into :segment select * from :segment where seq = :victim;
select intact, broken_seq = :victim as here, break from agent_guard.verify_audit();
rollback;
begin;
delete from agent_guard.audit_segment where seq = (select max(seq) from agent_guard.audit_segment);
select intact, broken_seq = :last_seq as here, break from agent_guard.verify_audit();
rollback;
begin;
delete from agent_guard.audit_segment where seq <= (select min(seq) from agent_guard.audit_segment);
select intact, break from agent_guard.verify_audit();
rollback;
select intact, detail from agent_guard.verify_audit();

select agent_guard.revoke_window(:'window_id');
select agent_guard.unguard_role('chained');
drop owned by chained;
drop role chained;
drop schema chained cascade;
select agent_guard.drop_policy('chained');
