//! approve, reject, my_approvals.

use pgrx::datum::{TimestampWithTimeZone, Uuid};
use pgrx::iter::TableIterator;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde_json::Value;

use crate::pg::admin_error::{AdminError, AdminResult, given};
use crate::pg::approvals;
use crate::pg::epoch;
use crate::pg::scan;
use crate::pg::session;
use crate::pg::store::approval::{self as store, Request};
use crate::pg::text_datum::{Text, Texts};

#[pg_extern(sql = false)]
fn approve(request_id: Option<Uuid>, comment: Option<Text>) -> Result<String, ErrorReport> {
    let comment = comment.as_deref();
    let approve = || -> AdminResult<String> {
        let (request, voter, found) = decidable(request_id)?;
        match found.state.as_str() {
            "pending" if !found.open => {
                return Err(over("its window has ended"));
            }
            "pending" => {}
            "approved" if !found.over => {
                tell(format!("request {request} is approved already"));
                return Ok(found.state);
            }
            "approved" => return Err(over("its approval has expired")),
            other => return Err(over(&format!("it is {other}"))),
        }
        let mine = rules_of(&found, &voter)?;
        let counted = store::vote(request, &voter.name, "approve", &mine, comment)?;
        if !counted {
            tell(format!("you have approved request {request} before; somebody else has to as well"));
            return Ok(found.state);
        }
        let state = count(request, &found, comment)?;
        approvals::announce("approve", &request.to_string(), &state, &voter.name)?;
        approvals::record_at_commit(format!("request {request} approved by {}: {state}", voter.name), true);
        Ok(state)
    };
    Ok(approve()?)
}

#[pg_extern(sql = false)]
fn reject(request_id: Option<Uuid>, comment: Option<Text>) -> Result<String, ErrorReport> {
    let comment = comment.as_deref();
    let reject = || -> AdminResult<String> {
        let (request, voter, found) = decidable(request_id)?;
        if !matches!(found.state.as_str(), "pending" | "approved") {
            return Err(over(&format!("it is {}", found.state)));
        }
        let mine: Vec<i64> =
            rules(&found)?.iter().filter(|rule| voter.counts_for(rule)).map(|rule| rule.id).collect();
        if mine.is_empty() {
            return Err(stranger());
        }
        store::vote(request, &voter.name, "reject", &mine, comment)?;
        let all = rules(&found)?;
        let (given, needed) = progress(request, &all)?;
        store::decided(request, "rejected", given, needed, Some(shortest(&all)), comment)?;
        approvals::announce("reject", &request.to_string(), "rejected", &voter.name)?;
        approvals::record_at_commit(format!("request {request} rejected by {}", voter.name), false);
        Ok("rejected".to_owned())
    };
    Ok(reject()?)
}

/// What one rule asks for, as it was at the request.
struct Rule {
    id: i64,
    approvers: Vec<pg_sys::Oid>,
    approvals: i32,
    ttl: f64,
    granter: bool,
}

fn rules(request: &Request) -> AdminResult<Vec<Rule>> {
    let broken = || AdminError::state("the rules of the request cannot be read");
    let read = |rule: &Value| -> Option<Rule> {
        let approvers = rule.get("approvers")?.as_array()?.iter();
        Some(Rule {
            id: rule.get("rule")?.as_i64()?,
            approvers: approvers
                .filter_map(|oid| {
                    let number = oid.as_u64().or_else(|| oid.as_str()?.parse().ok())?;
                    u32::try_from(number).ok().map(pg_sys::Oid::from)
                })
                .collect(),
            approvals: i32::try_from(rule.get("approvals")?.as_i64()?).ok()?,
            ttl: rule.get("ttl")?.as_f64()?,
            granter: rule.get("granter")?.as_bool()?,
        })
    };
    let list = request.rules.as_array().ok_or_else(broken)?;
    let rules: Vec<Rule> = list.iter().map(read).collect::<Option<_>>().ok_or_else(broken)?;
    if rules.is_empty() { Err(broken()) } else { Ok(rules) }
}

fn shortest(rules: &[Rule]) -> f64 {
    rules.iter().map(|rule| rule.ttl).fold(f64::INFINITY, f64::min)
}

/// Who decides.
struct Voter {
    role: pg_sys::Oid,
    name: String,
}

impl Voter {
    /// Whether this person is one of a rule's approvers. Being a superuser is no membership.
    fn counts_for(&self, rule: &Rule) -> bool {
        // SAFETY: reads the membership caches; roles that are gone have no members.
        rule.approvers.iter().any(|role| unsafe { pg_sys::is_member_of_role_nosuper(self.role, *role) })
    }
}

fn stranger() -> AdminError {
    AdminError::forbidden("you are not one of the approvers of this request")
        .detail("reason=no_approver")
        .hint("The view agent_guard.approval_requests names the roles whose members are.")
}

fn over(why: &str) -> AdminError {
    AdminError::state(format!("the request cannot be decided: {why}"))
        .hint("The agent has to run the statement again, which makes a new request.")
}

fn tell(text: String) {
    AdminError::new(PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, text).tell(PgLogLevel::NOTICE);
}

/// The request, locked, and who is about to decide on it.
fn decidable(request_id: Option<Uuid>) -> AdminResult<(Uuid, Voter, Request)> {
    if epoch::guarded_session() {
        return Err(AdminError::forbidden("a guarded session never decides on approvals")
            .detail("reason=denied")
            .hint("Approvers are people: connect as a role that is not guarded."));
    }
    let request = given(request_id, "request_id")?;
    // SAFETY: a plain value of this process, which SECURITY DEFINER does not change.
    let role = unsafe { pg_sys::GetSessionUserId() };
    let name = store::role_name(role)?.ok_or_else(stranger)?;
    let Some(found) = store::lock(request)? else {
        return Err(match store::exists(request)? {
            true => AdminError::state("the request is being used or decided on at this moment")
                .hint("Try again in a moment; revoke_window() ends what the agent is doing."),
            false => AdminError::undefined(format!("request {request} does not exist"))
                .hint("The view agent_guard.approval_requests lists the requests."),
        });
    };
    Ok((request, Voter { role, name }, found))
}

/// The rules for which a voter counts.
fn rules_of(request: &Request, voter: &Voter) -> AdminResult<Vec<i64>> {
    let mine: Vec<Rule> = rules(request)?.into_iter().filter(|rule| voter.counts_for(rule)).collect();
    if mine.is_empty() {
        return Err(stranger());
    }
    let granted = request.granted_by == voter.name;
    let counting: Vec<i64> =
        mine.iter().filter(|rule| rule.granter || !granted).map(|rule| rule.id).collect();
    if counting.is_empty() {
        return Err(AdminError::forbidden("whoever granted the window does not approve what is done in it")
            .detail("reason=granter")
            .hint("Ask another approver, or write the rule with allow_granter => true."));
    }
    Ok(counting)
}

/// How many have agreed and how many have to, for the rule that is the furthest from it.
fn progress(request: Uuid, rules: &[Rule]) -> AdminResult<(i32, i32)> {
    let mut furthest = (0, 0);
    for rule in rules {
        let given = store::agreed(request, rule.id)?;
        let open = |(given, needed): (i32, i32)| needed.saturating_sub(given);
        if furthest.1 == 0 || open((given, rule.approvals)) > open(furthest) {
            furthest = (given, rule.approvals);
        }
    }
    Ok(furthest)
}

/// Counts the votes; the state that the request has now.
fn count(request: Uuid, found: &Request, comment: Option<&str>) -> AdminResult<String> {
    let rules = rules(found)?;
    let (given, needed) = progress(request, &rules)?;
    let (state, ttl) = if given >= needed { ("approved", Some(shortest(&rules))) } else { ("pending", None) };
    store::decided(request, state, given, needed, ttl, comment)?;
    Ok(state.to_owned())
}

/// Rows of a relation, or those of them that stored conditions match; NULL where they cannot be counted. The owner's alone.
#[pg_extern(sql = false)]
fn exact_rows(
    relation: Option<pg_sys::Oid>,
    conditions: Option<&str>,
    until: Option<TimestampWithTimeZone>,
) -> Option<i64> {
    let until = pg_sys::TimestampTz::from(until?).saturating_add(scan::POSTGRES_EPOCH_MICROS);
    approvals::exact::rows(relation?, conditions, until)
}

/// The requests of this session's agent.
#[pg_extern(sql = false)]
#[expect(clippy::type_complexity, reason = "the columns of the function's result")]
fn my_approvals() -> TableIterator<
    'static,
    (
        name!(request_id, Uuid),
        name!(state, String),
        name!(statement, Text),
        name!(objects, Texts),
        name!(given, i32),
        name!(needed, i32),
        name!(requested_at, Option<TimestampWithTimeZone>),
        name!(decided_at, Option<TimestampWithTimeZone>),
        name!(expires_at, Option<TimestampWithTimeZone>),
        name!(used_at, Option<TimestampWithTimeZone>),
        name!(comment, Option<Text>),
    ),
> {
    let listed =
        session::current().map(|session| approvals::listed(&session, epoch::clock())).unwrap_or_default();
    TableIterator::new(listed.into_iter().map(|one| {
        (
            Uuid::from_bytes(one.id),
            one.state,
            Text(one.statement),
            one.objects.into(),
            one.given,
            one.needed,
            one.requested_at,
            one.decided_at,
            one.expires_at,
            one.used_at,
            one.comment.map(Text),
        )
    }))
}
