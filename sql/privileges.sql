-- Last: nobody but the owner has anything, and then what agents need.

REVOKE ALL ON ALL TABLES IN SCHEMA agent_guard FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA agent_guard FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA agent_guard FROM PUBLIC;

-- == agents: functions that a guarded session may call (begin) ==
GRANT EXECUTE ON FUNCTION agent_guard.whoami(), agent_guard.session_policy(), agent_guard.describe_access(regclass),
    agent_guard.delegate(text, interval, text[], text[], integer, boolean),
    agent_guard.my_approvals(),
    agent_guard.checked_set_config(text, text, boolean), agent_guard.checked_nextval(regclass),
    agent_guard.checked_currval(regclass), agent_guard.checked_setval(regclass, bigint),
    agent_guard.checked_setval(regclass, bigint, boolean) TO PUBLIC;
GRANT SELECT ON agent_guard.session_policy TO PUBLIC;
-- == agents (end) ==

-- pg_dump carries policies and their rules. Never windows, revocations, keys and the record, which belong to one
-- server, nor bindings, which are OIDs of one database: after a restore names decide until rebind_policies().
SELECT pg_catalog.pg_extension_config_dump('agent_guard.policy', '');
SELECT pg_catalog.pg_extension_config_dump('agent_guard.policy_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('agent_guard.rule', '');
SELECT pg_catalog.pg_extension_config_dump('agent_guard.rule_id_seq', '');
