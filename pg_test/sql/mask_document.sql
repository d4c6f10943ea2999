-- Row filters and exposures in policy documents.
CREATE SCHEMA md;
CREATE TABLE md.t (id int, "E mail" text, name text);
SELECT count(agent_guard.mask_column('md.t', c, 'redact')) FROM unnest(ARRAY['E mail', 'name']::name[]) c;
SELECT * FROM agent_guard.apply_policy($${"name": "md", "rules": [], "exposed": ["md.t(\"E mail\")"],
    "row_filters": [{"relation": "md.t", "predicate": "id>0"}]}$$);
SELECT agent_guard.export_policy('md');
-- applying what was exported changes nothing; silence leaves, an empty list takes off
SELECT * FROM agent_guard.apply_policy(agent_guard.export_policy('md'));
SELECT * FROM agent_guard.apply_policy('{"name": "md", "rules": []}');
SELECT * FROM agent_guard.apply_policy('{"name": "md", "rules": [], "row_filters": [{"relation": "md.t", "predicate": "id > 1"}], "exposed": ["md.t(name)"]}');
SELECT * FROM agent_guard.apply_policy('{"name": "md", "rules": [], "row_filters": [], "exposed": []}');
SELECT agent_guard.export_policy('md');
-- refused with the path, and nothing changed
\set VERBOSITY terse
SELECT * FROM agent_guard.apply_policy('{"name": "md", "description": "x", "rules": [], "row_filters": [{"relation": "md.t", "predicate": "true"}, {"relation": "md.x", "predicate": "true"}]}');
SELECT * FROM agent_guard.apply_policy('{"name": "md", "description": "x", "rules": [], "row_filters": [{"relation": "md.t", "predicate": "true) or (select true"}]}');
SELECT * FROM agent_guard.apply_policy('{"name": "md", "description": "x", "rules": [], "row_filters": [{"relation": "md.t", "predicate": "(select true)"}]}');
SELECT * FROM agent_guard.apply_policy('{"name": "md", "description": "x", "rules": [], "exposed": ["md.t(name)", "md.t(id)"]}');
SELECT * FROM agent_guard.apply_policy('{"name": "md", "description": "x", "rules": [], "exposed": ["md.t"]}');
SELECT agent_guard.export_policy('md');
SELECT agent_guard.drop_policy('md');
SET client_min_messages = warning;
DROP SCHEMA md CASCADE;
