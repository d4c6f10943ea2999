\echo Use "CREATE EXTENSION agent_guard" to load this file. \quit

-- Every name below is schema-qualified, and nothing that a user can create is in the path while this script runs.
SET LOCAL search_path = pg_catalog, pg_temp;

-- Not IF NOT EXISTS: a schema that somebody else made beforehand would stay theirs.
CREATE SCHEMA agent_guard;
COMMENT ON SCHEMA agent_guard IS 'agent_guard: policies, windows and the record of agents (guarded roles may not touch it)';
REVOKE ALL ON SCHEMA agent_guard FROM PUBLIC;
GRANT USAGE ON SCHEMA agent_guard TO PUBLIC;
