//! Statements that people have to agree to: held, asked for, found again, run once.
//!
//! Nothing here decides whether a statement is held; `policy::scope` does. A request is written by the audit writer, in a
//! transaction of its own, so that nothing the agent does takes it back. An approval is used by the agent's own
//! transaction, which marks the request's row: it commits or is undone with what was approved, and its row lock keeps
//! other sessions out meanwhile.

mod again;
mod basis;
mod cascade;
pub mod exact;
mod plan;
mod request;
mod table;
mod wait;

use std::rc::Rc;

use pgrx::pg_sys;

pub use again::{catalogue_changed, relation_changed, until_decided as query_until_decided};
pub use request::{announce, record_at_commit, store_requests, transaction_ended};
pub use table::listed;
pub use wait::{init, until_decided};

use super::decided::Decided;
use super::policies::Policy;
use super::session::Session;
use super::{conditions, epoch, rows, standby, statement};
use crate::approval::{self, Meaning};
use crate::decision::RuleId;
use crate::refusal::{Refusal, SqlState};

/// A statement as it was sent.
pub struct Asked {
    /// The command tag.
    pub command: &'static str,
    /// The text.
    pub text: Rc<str>,
    /// The bind parameters.
    pub parameters: Option<Vec<Option<String>>>,
    /// The nesting level.
    pub level: u16,
}

/// What a statement needs people's agreement for.
#[derive(Default)]
pub struct Held {
    rules: Vec<RuleId>,
    words: Option<Refusal>,
    /// What was agreed to, and the hash of what it is good for; the statement runs.
    approved: Option<([u8; 32], Vec<String>)>,
    /// What the running statement has come upon that was not.
    beyond: Vec<String>,
    /// It touches more than is kept count of.
    pub incomplete: bool,
}

impl Held {
    /// Adds an access. True where something has to be looked at.
    pub fn add(&mut self, decided: &Decided, rules: Vec<RuleId>, words: Option<&Refusal>) -> bool {
        let item = self.approved.as_ref().map(|_| decided.item());
        let known = match (&self.approved, &item) {
            (Some((_, approved)), Some(item)) => approval::covers(approved, item),
            _ => false,
        };
        if known {
            return false;
        }
        self.rules.extend(rules);
        if self.words.is_none() {
            self.words = words.cloned();
        }
        self.beyond.extend(item);
        words.is_some() || self.approved.is_some()
    }
}

/// Why a refusal is final that could otherwise be a request.
pub const NO_STATEMENT: &str =
    "What belongs to no statement, as a direct function call, cannot be put to approval.";
const ON_STANDBY: &str = "A standby takes no requests and uses no approvals: run it on the primary server.";
const TOO_MUCH: &str = "It touches more objects than can be put to approval.";
const UNPRINTABLE: &str =
    "Its text is withheld or holds a token, or it has parameters of a type whose values cannot be shown.";
const NOT_STORED: &str = "The request could not be stored, or this window has too many pending ones, or the rule has changed meanwhile.";

/// A plain denial where a request is not possible.
pub fn unavailable(words: Refusal, why: &str) -> Refusal {
    Refusal {
        sqlstate: SqlState::InsufficientPrivilege,
        reason: "approval_unavailable",
        detail: format!("{} {why}", words.detail),
        hint: "Try again later, or a simpler statement; SELECT * FROM agent_guard.my_approvals() lists the pending requests.".to_owned(),
        ..words
    }
}

/// A query's executor has started: what it touches is known, and nothing has run.
///
/// # Errors
/// As `settle`.
pub fn started(query: *mut pg_sys::QueryDesc) -> Result<(), Refusal> {
    // SAFETY: the plan is complete once the executor has started.
    let (estimate, uncounted) =
        unsafe { (conditions::changed_rows((*query).plannedstmt), (*(*query).plannedstmt).hasModifyingCTE) };
    let now = statement::with_current(|open| {
        let held = open.held.as_ref()?;
        let many = open.obligations.approve_above.is_some_and(|(limit, _)| uncounted || estimate > limit);
        Some(held.words.is_some() || many)
    });
    if now.flatten() == Some(true) { settle_query(query) } else { Ok(()) }
}

/// A query has changed more rows than a rule lets pass; none of it is committed.
///
/// # Errors
/// As `settle`.
pub fn counted(query: *mut pg_sys::QueryDesc) -> Result<(), Refusal> {
    let approved =
        statement::with_current(|open| open.held.as_ref().is_some_and(|held| held.approved.is_some()));
    if approved == Some(true) { Ok(()) } else { settle_query(query) }
}

/// COPY has added more rows than a rule lets pass.
///
/// # Errors
/// As `settle`.
pub fn copied() -> Result<(), Refusal> {
    settle_current(None, std::ptr::null_mut())
}

fn settle_query(query: *mut pg_sys::QueryDesc) -> Result<(), Refusal> {
    // Variables of PL/pgSQL are parameters that the record leaves alone.
    // SAFETY: the query's own list; the copy has every value that it refers to.
    let parameters = unsafe {
        let list = (*query).params;
        if list.is_null() { None } else { rows::parameters(pg_sys::copyParamList(list)) }
    };
    settle_current(parameters, query)
}

fn settle_current(
    parameters: Option<Vec<Option<String>>>,
    query: *mut pg_sys::QueryDesc,
) -> Result<(), Refusal> {
    let session = super::session::current()?;
    let policy = super::policies::policy(session.policy_id)?;
    settle_with(&session, &policy, parameters, query)
}

/// Lets the current statement pass if people have agreed to exactly what it does; otherwise asks them.
///
/// # Errors
/// PGA01 where it is held, PGA02 where it was rejected, 42501 where it cannot be put to approval.
pub fn settle(session: &Session, policy: &Policy) -> Result<(), Refusal> {
    if statement::with_current(|open| open.starting) == Some(true) {
        return Ok(());
    }
    settle_with(session, policy, None, std::ptr::null_mut())
}

fn settle_with(
    session: &Session,
    policy: &Policy,
    parameters: Option<Vec<Option<String>>>,
    query: *mut pg_sys::QueryDesc,
) -> Result<(), Refusal> {
    let outcome = ask(session, policy, parameters, query);
    if let Err(refusal) = &outcome {
        statement::with_current(|open| {
            open.refuse(refusal, false);
            open.held = None;
        });
    }
    outcome
}

fn ask(
    session: &Session,
    policy: &Policy,
    parameters: Option<Vec<Option<String>>>,
    query: *mut pg_sys::QueryDesc,
) -> Result<(), Refusal> {
    let Some(mut asking) = statement::with_current(|open| {
        let items = open.items();
        let held = open.held.as_deref_mut()?;
        held.rules.sort_unstable();
        held.rules.dedup();
        Some(request::Asking {
            words: held.words.clone(),
            rules: held.rules.clone(),
            items,
            node: open.node,
            incomplete: held.incomplete,
            beyond: std::mem::take(&mut held.beyond),
            approved: held.approved.clone(),
        })
    })
    .flatten() else {
        return Ok(());
    };
    if asking.approved.is_some() && asking.beyond.is_empty() {
        return Ok(());
    }
    let words = asking.words.take().unwrap_or_else(|| above_refusal(policy, asking.rules.first().copied()));
    if standby::is_one() {
        return Err(unavailable(words, ON_STANDBY));
    }
    if asking.incomplete {
        return Err(unavailable(words, TOO_MUCH));
    }
    let chain = statement::chain();
    if !basis::printable(&chain, parameters.as_deref()) {
        return Err(unavailable(words, UNPRINTABLE));
    }
    // A statement that runs with approval has come upon something else: it is asked for together with that, to be found as
    // it began.
    let found = std::mem::take(&mut asking.beyond);
    let (fingerprint, objects) = match asking.approved.take() {
        Some((fingerprint, approved)) => (fingerprint, [approved.as_slice(), &found].concat()),
        None => {
            let fingerprint = basis::fingerprint(session, policy, &chain, parameters.as_deref());
            (fingerprint, [asking.items.as_slice(), &cascade::of(asking.node)].concat())
        }
    };
    let objects = approval::canonical(objects);
    let now = epoch::clock();
    let known = table::newest(&fingerprint);
    let meaning = match &known {
        Some(known) if found.is_empty() => known.known.meaning(now, &objects),
        _ => Meaning::Nothing,
    };
    match (meaning, known) {
        (Meaning::Approved, Some(known)) => {
            if !table::claim(&known.id, &session.id, now) {
                return Err(request::busy(words, &known));
            }
            request::used(session, &known);
            statement::with_current(|open| {
                if let Some(held) = open.held.as_deref_mut() {
                    held.approved = Some((fingerprint, known.known.objects));
                    held.words = None;
                }
            });
            Ok(())
        }
        (Meaning::Pending, Some(known)) => Err(request::pending(words, &known)),
        (Meaning::Rejected, Some(known)) => Err(request::rejected(words, &known)),
        _ => {
            let basis = request::Basis { fingerprint, objects: &objects, found: &found, parameters, query };
            match request::make(session, policy, &chain, &asking.rules, basis)? {
                Some(known) => Err(request::pending(words, &known)),
                None => Err(unavailable(words, NOT_STORED)),
            }
        }
    }
}

fn above_refusal(policy: &Policy, rule: Option<RuleId>) -> Refusal {
    let rule = rule.unwrap_or(0);
    Refusal {
        rule: Some(rule),
        ..Refusal::new(
            SqlState::ApprovalRequired,
            "needs_approval",
            format!("policy \"{}\" lets so many rows be changed only with approval", policy.name),
            format!(
                "policy={} rule={rule} The statement changes more rows than the rule lets pass.",
                policy.name
            ),
            "",
        )
    }
}
