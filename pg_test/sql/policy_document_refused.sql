-- Documents that are refused: each with the path of what is wrong, and nothing is changed.
CREATE SCHEMA pdr;
CREATE TABLE pdr.orders (id int, total numeric);
SELECT * FROM agent_guard.apply_policy('{"name": "pdr", "rules": []}');
CREATE FUNCTION pdr.try(doc jsonb) RETURNS TABLE (state text, message text, hint text) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM agent_guard.apply_policy(doc);
    state := 'accepted';
    RETURN NEXT;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
    RETURN NEXT;
END $$;
SELECT t.state, t.message FROM (VALUES
    ('[]'), ('null'), ('{}'), ('{"name": "pdr"}'), ('{"name": 1, "rules": []}'),
    ('{"name": "pdr", "ruels": []}'),
    ('{"name": "pdr", "mode": "off", "rules": []}'),
    ('{"name": "pdr", "description": null, "rules": []}'),
    ('{"name": "pdr", "rules": {}}'),
    ('{"name": "pdr", "groups": {"select": []}, "rules": []}'),
    ('{"name": "pdr", "groups": {"g": ["fly"]}, "rules": []}'),
    ('{"name": "pdr", "rules": [{"effect": "allow", "actions": ["select"], "maxrows": 1}]}'),
    ('{"name": "pdr", "rules": [{"effect": "allow", "actions": ["select"], "max_rows": 1e400}]}'),
    ('{"name": "pdr", "rules": [{"effect": "allow", "actions": ["select"], "max_rows": 1.5}]}'),
    ('{"name": "pdr", "rules": [{"effect": "allow", "actions": ["select"]}, {"effect": "deny", "actions": ["read"]}]}'),
    ('{"name": "pdr", "rules": [{"effect": "maybe", "actions": ["select"]}]}'),
    ('{"name": "pdr", "rules": [{"effect": "allow", "actions": ["select"], "statement_pattern": "("}]}'),
    ('{"name": "pdr", "rules": [{"effect": "allow", "actions": ["select"], "objects": ["*", "pdr.order"]}]}'),
    ('{"name": "pdr", "rules": [{"effect": "allow", "actions": ["select"], "objects": ["pdr.orders"], "columns": ["totl"]}]}'),
    ('{"name": "pdr", "rules": [{"effect": "allow", "actions": ["select"], "objects": ["pdr.orders"], "columns": []}]}'),
    ('{"name": "pdr", "rules": [], "row_filters": [{"relation": "pdr.orders", "predicate": "id = 1"},
        {"relation": "PDR.Orders", "predicate": "id > 0"}]}'),
    ('{"name": "pdr new", "rules": [{"effect": "allow", "actions": ["select"], "objects": ["pdr.*"]},
        {"effect": "allow", "actions": ["select"], "objects": ["pdr.nothing"]}]}')
    ) v (doc), pdr.try(v.doc::jsonb) t;
SELECT state, message FROM pdr.try((repeat('[', 3000) || repeat(']', 3000))::jsonb);
SELECT agent_guard.apply_policy(NULL);
SELECT agent_guard.export_policy('pdr new');
SELECT name, version, rules FROM agent_guard.policies WHERE name LIKE 'pdr%';

SELECT agent_guard.apply_policy('{"name": "pdr", "ruels": []}');
SELECT agent_guard.drop_policy('pdr');
SET client_min_messages = warning;
DROP SCHEMA pdr CASCADE;
