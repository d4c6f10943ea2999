//! The tables approval_request and approval_vote, as approvers and the audit writer read and write them.

use pgrx::datum::{DatumWithOid, Interval, JsonB, Uuid};
use pgrx::pg_sys::Oid;
use pgrx::spi::quote_identifier;
use serde_json::Value;

use crate::pg::admin_error::AdminResult;
use crate::pg::store::policy::PolicyId;
use crate::pg::store::{row, rows, run};
use crate::pg::text_datum::Document;

/// What approvers are granted, whom a rule names; the functions ask for the membership themselves.
const GRANTS: [&str; 2] = [
    "EXECUTE ON FUNCTION agent_guard.approve(pg_catalog.uuid, pg_catalog.text),
        agent_guard.reject(pg_catalog.uuid, pg_catalog.text), agent_guard.approval_impact(pg_catalog.uuid, pg_catalog.bool)",
    "SELECT ON TABLE agent_guard.approval_requests",
];

/// Lets a role call what approvers call. One of the utility statements that take no parameters. Two sessions that grant follow each
/// other: the server tells the second of two that change the privileges of one object that a tuple was concurrently updated.
pub fn let_approve(role: &str) -> AdminResult<()> {
    run("LOCK TABLE agent_guard.rule IN SHARE UPDATE EXCLUSIVE MODE", &[])?;
    for what in GRANTS {
        run(&format!("GRANT {what} TO {}", quote_identifier(role)), &[])?;
    }
    Ok(())
}

/// The roles that the rules of a policy name as approvers. Asked before rules go: where there are any, no other session
/// writes rules until this transaction ends. Otherwise two could each take one of the last two rules that name a role, and
/// neither see that none is left.
pub fn approvers(policy: PolicyId) -> AdminResult<Vec<Oid>> {
    let named = named_approvers(policy)?;
    if named.is_empty() {
        return Ok(named);
    }
    run("LOCK TABLE agent_guard.rule IN SHARE ROW EXCLUSIVE MODE", &[])?;
    named_approvers(policy)
}

fn named_approvers(policy: PolicyId) -> AdminResult<Vec<Oid>> {
    rows(
        "SELECT DISTINCT a.oid::pg_catalog.oid
         FROM agent_guard.rule r CROSS JOIN LATERAL pg_catalog.unnest(r.approvers) a (oid)
         WHERE r.policy_id OPERATOR(pg_catalog.=) $1",
        &[policy.0.into()],
        |row| row.need(1),
    )
}

/// Takes from these roles what approvers call, where no rule of any policy names them any more.
pub fn let_no_more(former: &[Oid]) -> AdminResult<()> {
    if former.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = rows(
        "SELECT a.rolname::pg_catalog.text FROM pg_catalog.pg_roles a
         WHERE a.oid OPERATOR(pg_catalog.=) ANY ($1)
           AND NOT EXISTS (SELECT FROM agent_guard.rule r
               WHERE a.oid::pg_catalog.regrole OPERATOR(pg_catalog.=) ANY (r.approvers))",
        &[former.to_vec().into()],
        |row| row.need(1),
    )?;
    for name in names {
        for what in GRANTS {
            run(&format!("REVOKE {what} FROM {}", quote_identifier(&name)), &[])?;
        }
    }
    Ok(())
}

/// The names of the roles of a `regrole[]`; none for NULL.
pub fn role_names(roles: DatumWithOid<'_>) -> AdminResult<Vec<String>> {
    rows(
        "SELECT COALESCE(a.rolname::pg_catalog.text, n.oid::pg_catalog.text)
         FROM pg_catalog.unnest($1) WITH ORDINALITY n (oid, ord)
         LEFT JOIN pg_catalog.pg_roles a ON a.oid OPERATOR(pg_catalog.=) n.oid::pg_catalog.oid
         ORDER BY n.ord",
        &[roles],
        |row| Ok(row.may(1)?.unwrap_or_default()),
    )
}

/// A length of time in whole seconds; a month is thirty days.
pub fn whole_seconds(interval: Interval) -> AdminResult<i64> {
    let seconds = row(
        "SELECT LEAST(GREATEST(pg_catalog.floor(EXTRACT(epoch FROM $1)), -1), 1000000000000)::pg_catalog.int8",
        &[interval.into()],
        |row| row.need(1),
    )?;
    Ok(seconds.unwrap_or(-1))
}

/// Removes requests that ended longer ago than that, with their votes; a pending one ends with its window. What an agent is
/// using at this moment stays.
pub fn remove_ended(seconds: f64) -> AdminResult<()> {
    run(
        "DELETE FROM agent_guard.approval_request WHERE request_id OPERATOR(pg_catalog.=) ANY (ARRAY(
             SELECT r.request_id FROM agent_guard.approval_request r
             LEFT JOIN agent_guard.window_grant w ON w.window_id OPERATOR(pg_catalog.=) r.window_id
             WHERE COALESCE(r.used_at, r.expires_at, LEAST(w.revoked_at, w.expires_at), r.requested_at)
                 OPERATOR(pg_catalog.<) (pg_catalog.clock_timestamp()
                     OPERATOR(pg_catalog.-) pg_catalog.make_interval(secs => $1))
             LIMIT 10000 FOR UPDATE OF r SKIP LOCKED))",
        &[seconds.into()],
    )
}

/// How many requests of one window may be pending at a time.
pub const PENDING_MAX: i64 = 100;

/// Stores a request, unless the very same is pending, its window has too many, or one of its rules is gone.
pub fn add_request(request: &Value) -> AdminResult<()> {
    run(
        "WITH new AS (
             SELECT n.*, (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('rule', r.id,
                     'approvers', pg_catalog.to_jsonb(r.approvers::pg_catalog.oid[]), 'approvals', r.approvals,
                     'ttl', EXTRACT(epoch FROM r.approval_ttl), 'granter', r.allow_granter) ORDER BY r.id)
                 FROM agent_guard.rule r WHERE r.id OPERATOR(pg_catalog.=) ANY (n.rule_ids)
                   AND r.effect OPERATOR(pg_catalog.=) 'approve' AND r.approvers IS NOT NULL) AS rules,
                 (SELECT pg_catalog.min(r.max_wait) FROM agent_guard.rule r
                  WHERE r.id OPERATOR(pg_catalog.=) ANY (n.rule_ids)) AS max_wait
             FROM pg_catalog.jsonb_to_record($1) AS n (request_id pg_catalog.uuid, request_key pg_catalog.uuid,
                 fingerprint pg_catalog.text, objects pg_catalog.text[], found pg_catalog.text[],
                 window_id pg_catalog.uuid, block_id pg_catalog.text, statement pg_catalog.text,
                 session_id pg_catalog.uuid, lineage pg_catalog.text[], role pg_catalog.text,
                 client_addr pg_catalog.text, application_name pg_catalog.text, pid pg_catalog.int4,
                 policy pg_catalog.text, policy_version pg_catalog.int8, command pg_catalog.text,
                 statement_length pg_catalog.int8, parameters pg_catalog.text[], context pg_catalog.text[],
                 search_path pg_catalog.text, rule_ids pg_catalog.int8[], plan pg_catalog.text, changes pg_catalog.jsonb))
         INSERT INTO agent_guard.approval_request (request_id, request_key, fingerprint, state, requested_at, objects, found,
             window_id, block_id, statement, needed, session_id, lineage, role, client_addr, application_name, pid, policy,
             policy_version, command, statement_length, parameters, context, search_path, rules, max_wait, plan,
             changes)
         SELECT request_id, request_key, pg_catalog.decode(fingerprint, 'hex'), 'pending', pg_catalog.clock_timestamp(),
             objects, found, window_id, block_id, statement,
             (SELECT pg_catalog.max((rule OPERATOR(pg_catalog.->>) 'approvals')::pg_catalog.int4)
                 FROM pg_catalog.jsonb_array_elements(rules) rule),
             session_id, lineage, role, client_addr, application_name, pid, policy, policy_version, command,
             statement_length, parameters, context, search_path, rules, max_wait, plan,
             CASE WHEN pg_catalog.jsonb_typeof(changes) OPERATOR(pg_catalog.=) 'object' THEN changes END
         FROM new
         WHERE pg_catalog.jsonb_array_length(rules) OPERATOR(pg_catalog.=) pg_catalog.cardinality(rule_ids)
           AND NOT EXISTS (SELECT FROM agent_guard.approval_request o
               WHERE o.request_key OPERATOR(pg_catalog.=) new.request_key
                 AND o.fingerprint OPERATOR(pg_catalog.=) pg_catalog.decode(new.fingerprint, 'hex')
                 AND o.state OPERATOR(pg_catalog.=) 'pending' AND o.objects OPERATOR(pg_catalog.=) new.objects)
           AND $2 OPERATOR(pg_catalog.>) (SELECT pg_catalog.count(*) FROM agent_guard.approval_request o
               WHERE o.window_id OPERATOR(pg_catalog.=) new.window_id AND o.state OPERATOR(pg_catalog.=) 'pending')
         ON CONFLICT DO NOTHING",
        &[Document(request.clone()).into(), PENDING_MAX.into()],
    )
}

/// Tells whoever listens; when the transaction commits.
pub fn notify(payload: &Value) -> AdminResult<()> {
    run("SELECT pg_catalog.pg_notify('agent_guard_approval', $1)", &[payload.to_string().into()])
}

/// A request as its approvers decide on it.
pub struct Request {
    /// The stored state.
    pub state: String,
    /// Whether an approval of it is over.
    pub over: bool,
    /// Whether its window is open.
    pub open: bool,
    /// Who granted the window.
    pub granted_by: String,
    /// The rules with their approvers.
    pub rules: Value,
}

/// Locks a request. Waits for another approver; `None` for a request that the agent is using right now, or none of this id.
pub fn lock(request: Uuid) -> AdminResult<Option<Request>> {
    // An agent can keep its transaction open for long: nobody is made to wait for that.
    let pending: Option<bool> = row(
        "SELECT r.state OPERATOR(pg_catalog.=) 'pending' FROM agent_guard.approval_request r
         WHERE r.request_id OPERATOR(pg_catalog.=) $1",
        &[request.into()],
        |row| row.need(1),
    )?;
    let read = |row: super::Row<'_>| {
        Ok(Request {
            state: row.need(1)?,
            over: row.need(2)?,
            open: row.need(3)?,
            granted_by: row.need(4)?,
            rules: row.need::<JsonB>(5)?.0,
        })
    };
    macro_rules! locking {
        ($how:literal) => {
            concat!(
                "SELECT r.state, COALESCE(r.expires_at OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp(), false),
                     EXISTS (SELECT FROM agent_guard.window_grant w
                         WHERE w.window_id OPERATOR(pg_catalog.=) r.window_id AND w.revoked_at IS NULL
                           AND w.expires_at OPERATOR(pg_catalog.>) pg_catalog.clock_timestamp()),
                     COALESCE((SELECT w.granted_by FROM agent_guard.window_grant w
                         WHERE w.window_id OPERATOR(pg_catalog.=) r.window_id), ''),
                     r.rules
                 FROM agent_guard.approval_request r WHERE r.request_id OPERATOR(pg_catalog.=) $1 ",
                $how
            )
        };
    }
    if pending == Some(true) {
        row(locking!("FOR UPDATE OF r"), &[request.into()], read)
    } else {
        row(locking!("FOR UPDATE OF r SKIP LOCKED"), &[request.into()], read)
    }
}

/// Whether there is a request of this id.
pub fn exists(request: Uuid) -> AdminResult<bool> {
    let found = row(
        "SELECT true FROM agent_guard.approval_request r WHERE r.request_id OPERATOR(pg_catalog.=) $1",
        &[request.into()],
        |row| row.need(1),
    )?;
    Ok(found.unwrap_or(false))
}

/// Stores a vote; false where this person has voted before and the vote stands.
pub fn vote(
    request: Uuid,
    voter: &str,
    vote: &str,
    rules: &[i64],
    comment: Option<&str>,
) -> AdminResult<bool> {
    let added: Option<bool> = row(
        "INSERT INTO agent_guard.approval_vote (request_id, voter, vote, rules, voted_at, comment)
         VALUES ($1, $2, $3, $4, pg_catalog.clock_timestamp(), $5)
         ON CONFLICT (request_id, voter) DO UPDATE
             SET vote = EXCLUDED.vote, rules = EXCLUDED.rules, voted_at = EXCLUDED.voted_at, comment = EXCLUDED.comment
             WHERE approval_vote.vote OPERATOR(pg_catalog.<>) EXCLUDED.vote
         RETURNING true",
        &[request.into(), voter.into(), vote.into(), rules.to_vec().into(), comment.into()],
        |row| row.need(1),
    )?;
    Ok(added.unwrap_or(false))
}

/// How many people have agreed who count for this rule.
pub fn agreed(request: Uuid, rule: i64) -> AdminResult<i32> {
    let count = row(
        "SELECT pg_catalog.count(*)::pg_catalog.int4 FROM agent_guard.approval_vote v
         WHERE v.request_id OPERATOR(pg_catalog.=) $1 AND v.vote OPERATOR(pg_catalog.=) 'approve'
           AND $2 OPERATOR(pg_catalog.=) ANY (v.rules)",
        &[request.into(), rule.into()],
        |row| row.need(1),
    )?;
    Ok(count.unwrap_or(0))
}

/// Notes how far a request has come; `ttl` (seconds) where it is decided now.
pub fn decided(
    request: Uuid,
    state: &str,
    given: i32,
    needed: i32,
    ttl: Option<f64>,
    comment: Option<&str>,
) -> AdminResult<()> {
    run(
        "UPDATE agent_guard.approval_request SET state = $2, given = $3, needed = $4,
             decided_at = CASE WHEN $5 IS NOT NULL THEN pg_catalog.clock_timestamp() END,
             expires_at = pg_catalog.clock_timestamp()
                 OPERATOR(pg_catalog.+) pg_catalog.make_interval(secs => $5),
             comment = COALESCE($6, comment)
         WHERE request_id OPERATOR(pg_catalog.=) $1",
        &[request.into(), state.into(), given.into(), needed.into(), ttl.into(), comment.into()],
    )
}

/// The name of a role.
pub fn role_name(role: Oid) -> AdminResult<Option<String>> {
    row(
        "SELECT r.rolname::pg_catalog.text FROM pg_catalog.pg_roles r WHERE r.oid OPERATOR(pg_catalog.=) $1",
        &[role.into()],
        |row| row.need(1),
    )
}
