-- Last: nobody but the owner has anything, and then what agents need.

REVOKE ALL ON ALL TABLES IN SCHEMA agent_guard FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA agent_guard FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA agent_guard FROM PUBLIC;

-- == agents: functions that a guarded session may call (begin) ==
GRANT EXECUTE ON FUNCTION agent_guard.whoami(), agent_guard.session_policy(), agent_guard.describe_access(regclass),
    agent_guard.delegate(text, interval, text[], text[], integer, boolean, bigint, bigint, bigint, bigint, bigint),
    agent_guard.my_approvals(),
    agent_guard.checked_set_config(text, text, boolean), agent_guard.checked_nextval(regclass),
    agent_guard.checked_currval(regclass), agent_guard.checked_setval(regclass, bigint),
    agent_guard.checked_setval(regclass, bigint, boolean) TO PUBLIC;
GRANT SELECT ON agent_guard.session_policy TO PUBLIC;
-- Masks run with the rights of whoever reads; the planner refuses to call them by name (docs/masking.md).
GRANT EXECUTE ON FUNCTION agent_guard.mask_hash(text), agent_guard.mask_hash(integer), agent_guard.mask_hash(bigint),
    agent_guard.mask_hash(uuid), agent_guard.mask_hash(bytea), agent_guard.mask_hash(text[]),
    agent_guard.mask_hash(integer[]), agent_guard.mask_hash(bigint[]), agent_guard.mask_hash(uuid[]),
    agent_guard.mask_partial(text, integer, text, integer), agent_guard.mask_partial(text[], integer, text, integer),
    agent_guard.mask_email(text), agent_guard.mask_email(text[]), agent_guard.mask_card(text),
    agent_guard.mask_card(text[]), agent_guard.mask_phone(text), agent_guard.mask_phone(text[]),
    agent_guard.mask_redact(text[]), agent_guard.mask_year(date), agent_guard.mask_year(timestamp),
    agent_guard.mask_year(timestamptz), agent_guard.mask_month(date), agent_guard.mask_month(timestamp),
    agent_guard.mask_month(timestamptz), agent_guard.mask_bucket(double precision, double precision),
    agent_guard.mask_json(json, text[]), agent_guard.mask_json(jsonb, text[]) TO PUBLIC;
-- == agents (end) ==
-- The view audit calls it as whoever reads the view.
GRANT EXECUTE ON FUNCTION agent_guard.long_statement(timestamptz, integer, bytea) TO PUBLIC;
GRANT EXECUTE ON FUNCTION agent_guard.journal_read(text) TO pg_read_server_files;

-- pg_dump carries policies and their rules. Never windows, revocations, keys and the record, which belong to one
-- server, nor bindings, which are OIDs of one database: after a restore names decide until rebind_policies().
SELECT pg_catalog.pg_extension_config_dump('agent_guard.policy', '');
SELECT pg_catalog.pg_extension_config_dump('agent_guard.policy_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('agent_guard.rule', '');
SELECT pg_catalog.pg_extension_config_dump('agent_guard.rule_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('agent_guard.mask', '');
SELECT pg_catalog.pg_extension_config_dump('agent_guard.mask_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('agent_guard.row_filter', '');
SELECT pg_catalog.pg_extension_config_dump('agent_guard.row_filter_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('agent_guard.exposed_column', '');
