//! The tables policy, rule and rule_binding.

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::Oid;

use crate::approval::Approval;
use crate::decision::RuleId;
use crate::limit::Limits;
use crate::pg::admin_error::{AdminError, AdminResult};
use crate::pg::store::{approval, row, rows, run};
use crate::policy::document::Mode;
use crate::policy::near::nearest;
use crate::policy::rule::RawRule;
use crate::policy::written::WrittenRule;
use crate::recording::{Kept, Recording};

/// The identifier of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyId(pub i64);

/// A policy's row, but for its name.
pub struct PolicyRow {
    /// The identifier.
    pub id: PolicyId,
    /// What it is for.
    pub description: String,
    /// The mode's word.
    pub mode: String,
}

/// The class of a bound object; the letters are those of rule_binding.class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoundClass {
    /// Something in pg_class.
    Relation,
    /// A function or procedure.
    Function,
    /// A schema.
    Schema,
    /// A role.
    Role,
}

impl BoundClass {
    /// The letter stored.
    pub fn letter(self) -> &'static str {
        match self {
            BoundClass::Relation => "r",
            BoundClass::Function => "f",
            BoundClass::Schema => "s",
            BoundClass::Role => "o",
        }
    }
}

/// What one object of a rule is bound to.
#[derive(Clone, Debug)]
pub struct NewBinding {
    /// The index of the object in the rule, from 0.
    pub ord: i32,
    /// The class.
    pub class: BoundClass,
    /// The object.
    pub oid: Oid,
    /// The columns that the pattern, or else the rule, names.
    pub attributes: Vec<i16>,
}

/// Adds a policy; `None` when the name is taken.
pub fn add_policy(name: &str, description: &str, mode: Mode) -> AdminResult<Option<PolicyId>> {
    row(
        "INSERT INTO agent_guard.policy (name, description, mode) VALUES ($1, $2, $3)
         ON CONFLICT (name) DO NOTHING RETURNING id",
        &[name.into(), description.into(), mode.word().into()],
        |row| Ok(PolicyId(row.need(1)?)),
    )
}

/// Finds a policy and locks it until the end of the transaction: two changes of one policy follow each other.
pub fn lock_policy(name: &str) -> AdminResult<Option<PolicyRow>> {
    row(
        "SELECT id, description, mode FROM agent_guard.policy WHERE name OPERATOR(pg_catalog.=) $1 FOR UPDATE",
        &[name.into()],
        |row| Ok(PolicyRow { id: PolicyId(row.need(1)?), description: row.need(2)?, mode: row.need(3)? }),
    )
}

/// Finds a policy without waiting for its changes; it cannot be dropped before the transaction ends.
pub fn find_policy(name: &str) -> AdminResult<Option<PolicyRow>> {
    row(
        "SELECT id, description, mode FROM agent_guard.policy WHERE name OPERATOR(pg_catalog.=) $1 FOR KEY SHARE",
        &[name.into()],
        |row| Ok(PolicyRow { id: PolicyId(row.need(1)?), description: row.need(2)?, mode: row.need(3)? }),
    )
}

/// The error for a policy that does not exist.
pub fn unknown_policy(name: &str) -> AdminError {
    let error = AdminError::undefined(format!("policy \"{name}\" does not exist"));
    let names = rows("SELECT name FROM agent_guard.policy ORDER BY name", &[], |row| row.need::<String>(1));
    let names = names.unwrap_or_default();
    match (nearest(name, &names).first(), names.is_empty()) {
        (_, true) => error.hint("There are no policies yet; agent_guard.create_policy(name) makes one."),
        (Some(near), _) => {
            error.hint(format!("Perhaps \"{near}\" is meant; the policies are: {}.", listed(&names)))
        }
        (None, _) => error.hint(format!("The policies are: {}.", listed(&names))),
    }
}

/// Up to twenty names, and how many more there are.
pub fn listed(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(20).map(String::as_str).collect();
    match names.len().saturating_sub(shown.len()) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Counts a change of the policy.
pub fn policy_changed(policy: PolicyId) -> AdminResult<()> {
    run(
        "UPDATE agent_guard.policy SET version = version OPERATOR(pg_catalog.+) 1,
             changed_at = pg_catalog.clock_timestamp()
         WHERE id OPERATOR(pg_catalog.=) $1",
        &[policy.0.into()],
    )
}

/// Changes what a policy says of itself.
pub fn describe_policy(policy: PolicyId, description: &str, mode: Mode) -> AdminResult<()> {
    run(
        "UPDATE agent_guard.policy SET description = $2, mode = $3 WHERE id OPERATOR(pg_catalog.=) $1",
        &[policy.0.into(), description.into(), mode.word().into()],
    )
}

/// The limits of a policy.
pub fn limits(policy: PolicyId) -> AdminResult<Limits> {
    let found = row(
        "SELECT rows_per_statement, rows_read, rows_written, bytes_read, statements,
             pg_catalog.floor(EXTRACT(epoch FROM statement_timeout) OPERATOR(pg_catalog.*) 1000)::pg_catalog.int8
         FROM agent_guard.policy WHERE id OPERATOR(pg_catalog.=) $1",
        &[policy.0.into()],
        |row| {
            // Only checked values are stored.
            let column = |n| Ok::<_, AdminError>(row.may::<i64>(n)?.map(i64::unsigned_abs));
            Ok(Limits {
                rows_per_statement: column(1)?,
                totals: [column(2)?, column(3)?, column(4)?, column(5)?, None],
                statement_timeout: column(6)?.map(|milliseconds| milliseconds.saturating_mul(1000)),
            })
        },
    )?;
    Ok(found.unwrap_or_default())
}

/// A limit as a parameter.
pub(super) fn parameter<'a>(limit: Option<u64>) -> DatumWithOid<'a> {
    limit.and_then(|limit| i64::try_from(limit).ok()).into()
}

/// Replaces the limits of a policy.
pub fn set_limits(policy: PolicyId, limits: &Limits) -> AdminResult<()> {
    let [rows_read, rows_written, bytes_read, statements, _] = limits.totals.map(parameter);
    run(
        "UPDATE agent_guard.policy SET rows_per_statement = $2, rows_read = $3, rows_written = $4, bytes_read = $5,
             statements = $6,
             statement_timeout = $7::pg_catalog.float8 OPERATOR(pg_catalog.*) '1 ms'::pg_catalog.interval
         WHERE id OPERATOR(pg_catalog.=) $1",
        &[
            policy.0.into(),
            parameter(limits.rows_per_statement),
            rows_read,
            rows_written,
            bytes_read,
            statements,
            parameter(limits.statement_timeout.map(|microseconds| microseconds / 1000)),
        ],
    )
}

/// What a policy records.
pub fn recording(policy: PolicyId) -> AdminResult<Recording> {
    let found = row(
        "SELECT record_results, record_max_rows, record_max_bytes FROM agent_guard.policy
         WHERE id OPERATOR(pg_catalog.=) $1",
        &[policy.0.into()],
        |row| {
            // Only checked values are stored.
            let limit = |n| Ok::<_, AdminError>(row.may::<i64>(n)?.map(i64::unsigned_abs));
            let results = Kept::of_word(&row.need::<String>(1)?).unwrap_or_default();
            Ok(Recording { results, max_rows: limit(2)?, max_bytes: limit(3)? })
        },
    )?;
    Ok(found.unwrap_or_default())
}

/// Replaces what a policy records.
pub fn set_recording(policy: PolicyId, recording: &Recording) -> AdminResult<()> {
    run(
        "UPDATE agent_guard.policy SET record_results = $2, record_max_rows = $3, record_max_bytes = $4
         WHERE id OPERATOR(pg_catalog.=) $1",
        &[
            policy.0.into(),
            recording.results.word().into(),
            parameter(recording.max_rows),
            parameter(recording.max_bytes),
        ],
    )
}

/// Removes a policy with its rules, and the windows that are over.
pub fn remove_policy(policy: PolicyId) -> AdminResult<()> {
    for sql in [
        "DELETE FROM agent_guard.row_filter WHERE policy_id OPERATOR(pg_catalog.=) $1",
        "DELETE FROM agent_guard.exposed_column WHERE policy_id OPERATOR(pg_catalog.=) $1",
    ] {
        run(sql, &[policy.0.into()])?;
    }
    run(
        "DELETE FROM agent_guard.ledger l USING agent_guard.window_grant w
         WHERE l.window_id OPERATOR(pg_catalog.=) w.window_id AND w.policy_id OPERATOR(pg_catalog.=) $1",
        &[policy.0.into()],
    )?;
    run(
        "DELETE FROM agent_guard.window_grant WHERE policy_id OPERATOR(pg_catalog.=) $1",
        &[policy.0.into()],
    )?;
    run("DELETE FROM agent_guard.policy WHERE id OPERATOR(pg_catalog.=) $1", &[policy.0.into()])
}

/// Adds a rule and what its objects are bound to.
pub fn add_rule(policy: PolicyId, rule: &WrittenRule, bindings: &[NewBinding]) -> AdminResult<RuleId> {
    let raw = &rule.raw;
    let id: Option<RuleId> = row(
        "INSERT INTO agent_guard.rule (policy_id, effect, actions, objects, columns, require_where, max_rows,
             statement_pattern, note, approvers, approvals, approval_ttl, allow_granter, max_wait)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9,
             CASE WHEN $10 IS NOT NULL THEN
                 ARRAY(SELECT a.oid::pg_catalog.regrole FROM pg_catalog.unnest($10::pg_catalog.text[]) n (name)
                     JOIN pg_catalog.pg_roles a ON a.rolname OPERATOR(pg_catalog.=) n.name::pg_catalog.name) END,
             $11, pg_catalog.make_interval(secs => $12::pg_catalog.float8), $13,
             pg_catalog.make_interval(secs => $14::pg_catalog.float8)) RETURNING id",
        &[
            policy.0.into(),
            raw.effect.clone().into(),
            raw.actions.clone().into(),
            raw.objects.clone().into(),
            raw.columns.clone().into(),
            raw.require_where.into(),
            raw.max_rows.into(),
            raw.statement_pattern.clone().into(),
            rule.note.clone().into(),
            raw.approval.as_ref().map(|approval| approval.approvers.clone()).into(),
            raw.approval.as_ref().map(|approval| approval.approvals).into(),
            raw.approval.as_ref().map(|approval| approval.ttl).into(),
            raw.approval.as_ref().is_some_and(|approval| approval.granter).into(),
            raw.approval.as_ref().and_then(|approval| approval.wait).into(),
        ],
        |row| row.need(1),
    )?;
    let id = id.ok_or_else(|| AdminError::state("the rule was not stored"))?;
    add_bindings(id, bindings)?;
    for approver in raw.approval.iter().flat_map(|approval| &approval.approvers) {
        approval::let_approve(approver)?;
    }
    Ok(id)
}

/// Replaces the bindings of a rule.
pub fn bind_rule(rule: RuleId, bindings: &[NewBinding]) -> AdminResult<()> {
    run("DELETE FROM agent_guard.rule_binding WHERE rule_id OPERATOR(pg_catalog.=) $1", &[rule.into()])?;
    add_bindings(rule, bindings)
}

fn add_bindings(rule: RuleId, bindings: &[NewBinding]) -> AdminResult<()> {
    for binding in bindings {
        run(
            "INSERT INTO agent_guard.rule_binding (rule_id, ord, class, object_oid, attributes)
             VALUES ($1, $2, $3::pg_catalog.\"char\", $4, $5)",
            &[
                rule.into(),
                binding.ord.into(),
                binding.class.letter().into(),
                binding.oid.into(),
                binding.attributes.clone().into(),
            ],
        )?;
    }
    Ok(())
}

/// Removes a rule; its policy, or `None` when there is no such rule.
pub fn remove_rule(rule: RuleId) -> AdminResult<Option<PolicyId>> {
    row(
        "DELETE FROM agent_guard.rule WHERE id OPERATOR(pg_catalog.=) $1 RETURNING policy_id",
        &[rule.into()],
        |row| Ok(PolicyId(row.need(1)?)),
    )
}

/// Removes rules.
pub fn remove_rules(rules: &[RuleId]) -> AdminResult<()> {
    run("DELETE FROM agent_guard.rule WHERE id OPERATOR(pg_catalog.=) ANY ($1)", &[rules.to_vec().into()])
}

/// The policy of a rule, for locking it before the rule goes.
pub fn policy_of_rule(rule: RuleId) -> AdminResult<Option<String>> {
    row(
        "SELECT p.name FROM agent_guard.rule r
         JOIN agent_guard.policy p ON p.id OPERATOR(pg_catalog.=) r.policy_id
         WHERE r.id OPERATOR(pg_catalog.=) $1",
        &[rule.into()],
        |row| row.need(1),
    )
}

/// The rules of a policy, in the order in which they were written.
pub fn rules(policy: PolicyId) -> AdminResult<Vec<WrittenRule>> {
    rows(
        "SELECT id, effect, actions, objects, columns, require_where, max_rows, statement_pattern, note,
             CASE WHEN approvers IS NOT NULL THEN
                 ARRAY(SELECT COALESCE(a.rolname::pg_catalog.text, n.oid::pg_catalog.oid::pg_catalog.text)
                     FROM pg_catalog.unnest(approvers) WITH ORDINALITY n (oid, ord)
                     LEFT JOIN pg_catalog.pg_roles a ON a.oid OPERATOR(pg_catalog.=) n.oid::pg_catalog.oid
                     ORDER BY n.ord) END,
             approvals, pg_catalog.round(EXTRACT(epoch FROM approval_ttl))::pg_catalog.int8, allow_granter,
             pg_catalog.round(EXTRACT(epoch FROM max_wait))::pg_catalog.int8
         FROM agent_guard.rule WHERE policy_id OPERATOR(pg_catalog.=) $1 ORDER BY id",
        &[policy.0.into()],
        |row| {
            let raw = RawRule {
                id: row.need(1)?,
                effect: row.need(2)?,
                actions: row.need(3)?,
                objects: row.need(4)?,
                columns: row.need(5)?,
                require_where: row.need(6)?,
                max_rows: row.may(7)?,
                statement_pattern: row.may(8)?,
                approval: match row.may(10)? {
                    None => None,
                    Some(approvers) => Some(Approval {
                        approvers,
                        approvals: row.need(11)?,
                        ttl: row.need(12)?,
                        granter: row.need(13)?,
                        wait: row.may(14)?,
                    }),
                },
            };
            Ok(WrittenRule { raw, note: row.may(9)? })
        },
    )
}

/// Every policy, by name; locked until the end of the transaction.
pub fn lock_every_policy() -> AdminResult<Vec<(PolicyId, String)>> {
    rows("SELECT id, name FROM agent_guard.policy ORDER BY name FOR UPDATE", &[], |row| {
        Ok((PolicyId(row.need(1)?), row.need(2)?))
    })
}
