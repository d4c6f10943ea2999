-- A policy as one document: strict, all or nothing, idempotent.
CREATE SCHEMA pd;
CREATE TABLE pd.orders (id int, total numeric);
CREATE FUNCTION pd.f(int, text) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE VIEW pd.changes AS
    SELECT change, regexp_replace(item, '^\d+: ', '') AS item FROM agent_guard.apply_policy('{
        "name": "pd", "description": "reports", "mode": "observe",
        "groups": {"read": ["select", "usage"]},
        "rules": [
            {"effect": "allow", "actions": ["read"], "objects": ["PD.orders", "function pd.f(INT, text)"], "note": "n"},
            {"effect": "allow", "actions": ["update"], "objects": ["pd.orders"], "columns": ["total"],
             "require_where": true, "max_rows": 5, "statement_pattern": "^update"},
            {"effect": "deny", "actions": ["drop table"]}
        ]}');
SELECT * FROM pd.changes;
SELECT * FROM pd.changes;
SELECT version FROM agent_guard.policies WHERE name = 'pd';
SELECT jsonb_pretty(agent_guard.export_policy(name => 'pd'));
SELECT * FROM agent_guard.apply_policy(agent_guard.export_policy('pd'));

-- also after the object was renamed: the rule stands on the object
ALTER TABLE pd.orders RENAME TO orders2;
SELECT * FROM agent_guard.apply_policy(agent_guard.export_policy('pd'));
SELECT * FROM agent_guard.apply_policy(jsonb_set(agent_guard.export_policy('pd'), '{rules,0,note}', '"other"'));
ALTER TABLE pd.orders2 RENAME TO orders;

SELECT change, regexp_replace(item, '^\d+: ', '') AS item
FROM agent_guard.apply_policy('{"name": "pd", "rules": [{"effect": "deny", "actions": ["drop table"], "objects": ["*"]},
    {"effect": "deny", "actions": ["drop table"]}]}');
SELECT version, mode, description, rules FROM agent_guard.policies WHERE name = 'pd';

SELECT agent_guard.drop_policy('pd');
SET client_min_messages = warning;
DROP SCHEMA pd CASCADE;
