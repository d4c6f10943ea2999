"""Whoever changes what agents may do is in the trail: every function of the schema that can change something is called once."""

import guard

# What may be called without changing anything that agents are held to: each with its reason.
CHANGES_NOTHING = {
    "audit_counters": "reads counters",
    "audit_flush": "waits",
    "verify_audit": "reads the trail",
    "journal_read": "reads files",
    "export_policy": "reads a policy; locks it meanwhile",
    "check_statement": "decides without running",
    "decide_accesses": "decides without running",
    "simulated_decisions": "decides without running", "document_exposures": "reads a document",
    "function_action": "looks a function up",
    "exact_rows": "counts rows", "lint_policy": "reads a policy", "lint_rules": "reads a policy",
    "simulate_policy": "decides without running",
    "reach": "decides without running", "blast_radius": "decides without running", "blast_radius_report": "decides without running",
    "approval_impact": "reads the catalogue",
    "list_sessions": "reads shared memory",
    "list_ledger": "reads shared memory",
    "list_signing_keys": "reads the key file",
    # An agent's own, whose statements are recorded.
    "whoami": "an agent's", "session_policy": "an agent's", "describe_access": "an agent's", "delegate": "an agent's",
    "my_approvals": "an agent's", "checked_set_config": "an agent's", "checked_nextval": "an agent's",
    "checked_currval": "an agent's", "checked_setval": "an agent's",
}

# Each in its turn; what is in braces comes from the calls before.
CALLS = [
    ("guard_role", "select agent_guard.guard_role('adm_agent')"),
    ("create_policy", "select agent_guard.create_policy('adm')"),
    ("allow", "select agent_guard.allow('adm', '{select}', '{adm.*}')"),
    ("deny", "select agent_guard.deny('adm', '{drop}')"),
    ("require_approval", "select agent_guard.require_approval('adm', '{delete}', '{adm.t}', approvers => '{adm_approver}')"),
    ("drop_rule", "select agent_guard.drop_rule(max(id)) from agent_guard.rules where effect = 'deny'"),
    ("set_limits", "select agent_guard.set_limits('adm', rows_read => 1000)"),
    ("set_recording", "select agent_guard.set_recording('adm', 'digest')"),
    ("apply_policy", "select count(*) from agent_guard.apply_policy(agent_guard.export_policy('adm') || '{\"description\": \"new\"}')"),
    ("rebind_policies", "select agent_guard.rebind_policies()"),
    ("mask_column", "select agent_guard.mask_column('adm.t', 'v', 'redact')"),
    ("expose_columns", "select agent_guard.expose_columns('adm', '{adm.t(v)}')"),
    ("hide_columns", "select agent_guard.hide_columns('adm', '{adm.t(v)}')"),
    ("filter_rows", "select agent_guard.filter_rows('adm', 'adm.t', 'id > 0')"),
    ("unfilter_rows", "select agent_guard.unfilter_rows('adm', 'adm.t')"),
    ("rebuild_masks", "select agent_guard.rebuild_masks()"),
    ("unmask_column", "select agent_guard.unmask_column('adm.t', 'v')"),
    ("grant_window", "select count(*) from agent_guard.grant_window('adm', 'adm_agent', 'a', '1 hour')"),
    ("revoke_window", "select agent_guard.revoke_window(window_id) from agent_guard.windows where policy = 'adm' and state = 'active' limit 1"),
    ("revoke_block", "select agent_guard.revoke_block('0123456789abcdef0123456789abcdef')"),
    ("rotate_key", "select agent_guard.rotate_key()"),
    ("drop_policy", "select agent_guard.create_policy('adm_gone'); select agent_guard.drop_policy('adm_gone')"),
    ("unguard_role", "select agent_guard.unguard_role('adm_agent')"),
]


def setup(server):
    server.run(
        """create schema adm; create table adm.t (id int, v text); create role adm_approver login;
        create role adm_agent login; grant usage on schema adm to adm_agent; grant all on adm.t to adm_agent"""
    )


def writing(server):
    """The functions of the schema that are volatile and no trigger's: the others cannot write."""
    return {row[0] for row in server.rows(
        """select distinct proname from pg_proc where pronamespace = 'agent_guard'::regnamespace and provolatile = 'v'
        and prorettype <> 'trigger'::regtype and proname not like 'mask\\_%%' or
        pronamespace = 'agent_guard'::regnamespace and proname = 'mask_column'""")}


def test_every_function_that_can_write_is_known_here(server):
    called = {name for name, _ in CALLS} | {"approve", "reject"}
    assert writing(server) - set(CHANGES_NOTHING) == called, writing(server) - set(CHANGES_NOTHING) ^ called
    assert not called & set(CHANGES_NOTHING)
    assert set(CHANGES_NOTHING) <= {row[0] for row in server.rows("select proname from pg_proc where pronamespace = 'agent_guard'::regnamespace")}


def test_each_of_them_is_recorded(server):
    missing = []
    for name, call in CALLS:
        before = server.value("select coalesce(max(seq), 0) from agent_guard.audit")
        server.run(call)
        found = server.audit("seq > %s and event = 'admin'", before, columns="command, role, statement")
        if (name, "postgres") not in [row[:2] for row in found] or not all(name in row[2] or "agent_guard" in row[2] for row in found):
            missing.append((name, found))
    assert not missing, missing


def test_decisions_on_requests_are_recorded(server):
    server.run("select agent_guard.guard_role('adm_agent')")
    token = server.window("adm_agent", "adm")[1]
    server.run("grant usage on schema agent_guard to adm_approver; grant execute on function agent_guard.approve(uuid, text), agent_guard.reject(uuid, text) to adm_approver")
    with server.connect("adm_agent") as agent:
        guard.bind(agent, token)
        for name in ("reject", "approve"):
            guard.expect("PGA01", agent.execute, f"delete from adm.t where id = {len(name)}")
            server.value("select agent_guard.audit_flush()")
            (request,) = server.rows("select request_id from agent_guard.approval_requests where state = 'pending'")[0]
            before = server.value("select max(seq) from agent_guard.audit")
            with server.connect("adm_approver") as approver:
                approver.execute(f"select agent_guard.{name}(%s, 'said so')", (request,))
            found = server.audit("seq > %s and event = 'approval'", before, columns="role, message")
            assert [row[0] for row in found] == ["adm_approver"] and str(request) in found[0][1], (name, found)


if __name__ == "__main__":
    guard.run(globals())
