//! The one door: what a statement wants -> what the scope says -> the record -> a refusal as plain data.
//!
//! Five hooks and the SQL functions ask here, so a statement that reaches two hooks is decided the same way in both.

use std::rc::Rc;
use std::sync::Arc;

use pgrx::pg_sys;

use super::decided::Decided;
use super::policies::{self, Compiled, Policy};
use super::session::Session;
use super::{approvals, calls, catalog, conditions, guc, own, rows};
use super::{record, statement};
use crate::audit::event::AuditDecision;
use crate::decision::{Decision, Denial, Obligations, RuleId};
use crate::policy::explain::{self, Denied};
use crate::refusal::Refusal;
use crate::request::{Action, Columns, Form, Object, ObjectClass, Verb, Voice};

/// The object of a wanted access.
#[derive(Clone, Debug)]
pub enum Target {
    /// The action has none.
    Nothing,
    /// A relation.
    Relation(pg_sys::Oid),
    /// A function.
    Function(pg_sys::Oid),
    /// A schema.
    Schema(pg_sys::Oid),
    /// A role.
    Role(pg_sys::Oid),
    /// Something without a compiled scope of its own: to be created, or of another class.
    Named(Arc<Object>),
}

/// One access that a statement wants, before anything is decided.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// What is done.
    pub action: Action,
    /// To what.
    pub target: Target,
    /// Which columns.
    pub columns: Columns,
    /// Who asks.
    pub voice: Voice,
    /// No rule can allow it.
    pub never: bool,
}

impl Wanted {
    /// What the agent itself names, without columns.
    pub fn named(action: Action, target: Target) -> Wanted {
        Wanted { action, target, columns: Columns::Unnamed, voice: Voice::Named, never: false }
    }

    /// The same as asked by `voice`.
    pub fn by(self, voice: Voice) -> Wanted {
        Wanted { voice, ..self }
    }
}

/// An access with its outcome.
pub struct Outcome {
    /// For the record.
    pub decided: Decided,
    /// Why it is refused. Boxed, because outcomes are moved and refusals are rare.
    pub refusal: Option<Box<Refusal>>,
    /// What rides on the allow.
    pub obligations: Obligations,
    /// The approve rules that hold it, or would above a number of rows; all of them have to be met.
    pub held: Vec<RuleId>,
}

/// Whether denials under this policy are only recorded.
pub fn observes(policy: &Policy) -> bool {
    policy.observe || guc::observing()
}

/// Whether denials in this session are only recorded.
pub fn observing(session: &Session) -> bool {
    policies::policy(session.policy_id).is_ok_and(|policy| observes(&policy))
}

fn compiled(policy: &Policy, action: Action, target: &Target) -> Rc<Compiled> {
    let kept = match target {
        Target::Relation(oid) => policies::compiled(policy, action, ObjectClass::Relation, *oid),
        Target::Function(oid) => policies::compiled(policy, action, ObjectClass::Function, *oid),
        Target::Schema(oid) => policies::compiled(policy, action, ObjectClass::Schema, *oid),
        Target::Role(oid) => policies::compiled(policy, action, ObjectClass::Role, *oid),
        Target::Nothing | Target::Named(_) => None,
    };
    kept.unwrap_or_else(|| {
        let object = match target {
            Target::Named(object) => Some(Arc::clone(object)),
            _ => None,
        };
        Rc::new(policies::compiled_once(policy, action, object))
    })
}

/// Decides one access.
pub fn decide(session: &Session, policy: &Policy, wanted: &Wanted, form: Form, statement: &str) -> Outcome {
    decide_under(Some(session), policy, wanted, form, statement)
}

/// Decides one access under a token's scope, or under the policy alone.
pub fn decide_under(
    session: Option<&Session>,
    policy: &Policy,
    wanted: &Wanted,
    form: Form,
    statement: &str,
) -> Outcome {
    let compiled = compiled(policy, wanted.action, &wanted.target);
    let decision = if wanted.never || touches_own(wanted) {
        Decision::Deny(Denial::Never)
    } else {
        match session.map_or(Ok(()), |session| by_token(session, wanted, &compiled, form)) {
            Err(block) => Decision::Deny(Denial::OutOfScope(block)),
            Ok(()) => compiled.scope.decide(&wanted.columns, wanted.voice, statement),
        }
    };
    let refused = |refusal: Refusal, never: bool| {
        let observed = observes(policy) && !never;
        let outcome = if observed { AuditDecision::Observe } else { AuditDecision::Deny };
        (outcome, refusal.rule, Some(Box::new(refusal)), Obligations::default())
    };
    let mut held = Vec::new();
    let (outcome, rule, refusal, obligations) = match decision {
        Decision::Allow(rule, obligations) => match unmet(wanted, obligations) {
            Some(refusal) => refused(refusal, false),
            None => {
                if obligations.approve_above.is_some() {
                    held = compiled.scope.holding(&wanted.columns, statement);
                }
                (AuditDecision::Allow, rule, None, obligations)
            }
        },
        Decision::Approve(rule) => {
            let words = explain(policy, wanted, &compiled, Denial::Unapproved(rule));
            let (outcome, rule, refusal, obligations) = refused(words, false);
            if outcome == AuditDecision::Observe {
                (outcome, rule, refusal, obligations)
            } else {
                held = compiled.scope.holding(&wanted.columns, statement);
                (AuditDecision::Approve, rule, refusal, obligations)
            }
        }
        Decision::Deny(denial) => {
            refused(explain(policy, wanted, &compiled, denial), denial == Denial::Never)
        }
    };
    let decided = Decided {
        action: wanted.action,
        object: compiled.object.clone(),
        name: Rc::clone(&compiled.name),
        columns: compiled.shown(&wanted.columns),
        decision: outcome,
        rule,
    };
    Outcome { decided, refusal, obligations, held }
}

/// TRUNCATE can have no condition and counts no rows, so it meets no obligation.
fn unmet(wanted: &Wanted, obligations: Obligations) -> Option<Refusal> {
    match (&wanted.target, wanted.action.verb) {
        (Target::Relation(relid), Verb::Truncate) => match obligations {
            Obligations { require_where: Some(rule), .. } => Some(conditions::where_refusal(*relid, rule)),
            Obligations { max_rows: Some((limit, rule)), .. } => Some(rows::limit_refusal(limit, rule)),
            _ => None,
        },
        _ => None,
    }
}

/// The extension's own schemas are out of every agent's reach. What may be read and run there is known where relations
/// and functions are collected; everything else ends here.
fn touches_own(wanted: &Wanted) -> bool {
    if matches!(wanted.action.verb, Verb::Select | Verb::Execute) {
        return false;
    }
    let Some(own) = own::own() else { return true };
    let ours = [own.schema, own.masked_schema];
    match &wanted.target {
        Target::Relation(oid) => {
            catalog::relation_facts(*oid).is_some_and(|facts| ours.contains(&facts.namespace))
        }
        Target::Function(oid) => {
            catalog::function_facts(*oid).is_some_and(|facts| ours.contains(&facts.namespace))
        }
        Target::Schema(oid) => ours.contains(oid),
        Target::Named(object) => {
            let named = |name: &str| matches!(name, "agent_guard" | "agent_guard_masked");
            named(&object.schema) || (object.class == ObjectClass::Schema && named(&object.name))
        }
        Target::Nothing | Target::Role(_) => false,
    }
}

/// Whether an access would be allowed; nothing is recorded.
///
/// # Errors
/// The refusal of an unreadable policy.
pub fn would_allow(session: &Session, wanted: &Wanted) -> Result<bool, Refusal> {
    let policy = policies::policy(session.policy_id)?;
    Ok(decide(session, &policy, wanted, Form::Plain, "").refusal.is_none())
}

/// Decides an access that belongs to no statement; the caller records it.
///
/// # Errors
/// The refusal of an unreadable policy.
pub fn decide_alone(session: &Session, wanted: &Wanted) -> Result<(Decided, Option<Refusal>), Refusal> {
    let policy = policies::policy(session.policy_id)?;
    let Outcome { mut decided, refusal, .. } = decide(session, &policy, wanted, Form::Plain, "");
    let mut refusal = refusal.map(|refusal| *refusal);
    if decided.decision == AuditDecision::Approve {
        decided.decision = AuditDecision::Deny;
        refusal = refusal.map(|words| approvals::unavailable(words, approvals::NO_STATEMENT));
    }
    Ok((decided, refusal))
}

/// What the token's blocks leave. A view that the agent may read lends its tables; a function lends nothing here,
/// so that a child cannot reach through a function what its parent kept from it.
fn by_token(session: &Session, wanted: &Wanted, compiled: &Compiled, form: Form) -> Result<(), usize> {
    if wanted.voice == Voice::View {
        return Ok(());
    }
    let relation = match (&wanted.target, &compiled.object) {
        (Target::Relation(_), Some(object)) => Some((object.schema.as_str(), object.name.as_str())),
        _ => None,
    };
    session.token.permits(wanted.action.verb, form, relation)
}

fn explain(policy: &Policy, wanted: &Wanted, compiled: &Compiled, denial: Denial) -> Refusal {
    let column = match (denial, &wanted.target) {
        (Denial::Column(_, number) | Denial::ColumnNotAllowed(number), Target::Relation(relid)) => {
            catalog::column_name(*relid, number).unwrap_or_default()
        }
        _ => String::new(),
    };
    let allowed = match wanted.target {
        Target::Relation(_) | Target::Function(_) if !wanted.never => allowed_on(policy, &wanted.target),
        _ => Vec::new(),
    };
    explain::refusal(&Denied {
        policy: &policy.name,
        action: wanted.action,
        object: compiled.object.as_deref(),
        denial,
        column: &column,
        allowed: &allowed,
    })
}

/// What the policy allows with the data of a relation, or that it lets a function be executed.
fn allowed_on(policy: &Policy, target: &Target) -> Vec<Action> {
    const DATA: &[Verb] =
        &[Verb::Select, Verb::Insert, Verb::Update, Verb::Delete, Verb::Truncate, Verb::Lock];
    let verbs = if matches!(target, Target::Function(_)) { &[Verb::Execute] } else { DATA };
    verbs
        .iter()
        .copied()
        .map(Action::plain)
        .filter(|action| {
            let compiled = compiled(policy, *action, target);
            matches!(compiled.scope.decide(&Columns::Unnamed, Voice::Named, ""), Decision::Allow(..))
        })
        .collect()
}

/// Decides everything that a statement wants and notes it with the statement that is being worked on.
/// The first refusal that is enforced ends it.
///
/// # Errors
/// That refusal, or the one of an unreadable policy.
pub fn enforce(session: &Session, wanted: &[Wanted], form: Form) -> Result<(), Refusal> {
    if wanted.is_empty() {
        return Ok(());
    }
    enforce_under(session, &*policies::policy(session.policy_id)?, wanted, form)
}

/// As `enforce`, under the policy that `wanted` was found with: no decision mixes two versions.
///
/// # Errors
/// The first refusal that is enforced.
pub fn enforce_under(
    session: &Session,
    policy: &Policy,
    wanted: &[Wanted],
    form: Form,
) -> Result<(), Refusal> {
    // The text decides only where a rule has a pattern; it may be megabytes.
    let text = if policy.has_patterns { statement::with_current(|open| open.text()) } else { None };
    let mut held = false;
    for one in wanted {
        let text = text.as_deref().unwrap_or("");
        let outcome = decide(session, policy, one, form, text);
        held |= note(policy, one, outcome)?;
    }
    // What a statement touches is known as a whole only when all of it was noted.
    if held { approvals::settle(session, policy) } else { Ok(()) }
}

/// Notes a refusal that no rule made with the statement that is being worked on, or by itself.
pub fn note_refusal(refusal: &Refusal) {
    if statement::with_current(|open| open.refuse(refusal, false)).is_none() {
        record::record_refused_alone("", &super::text::current(), None, refusal);
    }
}

/// Notes an access with the statement. True where people have to be asked.
fn note(policy: &Policy, wanted: &Wanted, outcome: Outcome) -> Result<bool, Refusal> {
    let Outcome { decided, refusal, obligations, held } = outcome;
    let enforced = decided.decision == AuditDecision::Deny;
    let holds = decided.decision == AuditDecision::Approve;
    let where_required = match (obligations.require_where, &wanted.target) {
        (Some(rule), Target::Relation(relid)) => Some((*relid, rule)),
        _ => None,
    };
    let observed = observes(policy);
    let mut decided = Some(decided);
    let approved = statement::with_current(|open| {
        let mut approved = false;
        if let Some(decided) = decided.take() {
            // What runs with approval touches nothing else on its way, be it allowed or not.
            approved = open.hold(&decided, held, refusal.as_deref().filter(|_| holds));
            open.note(decided, policy.version);
        }
        open.obligations = open.obligations.and(obligations);
        open.observed = observed;
        if matches!(wanted.action.verb, Verb::Insert | Verb::Update | Verb::Delete) {
            open.changes_limited |= obligations.max_rows.is_some();
        }
        open.where_required.extend(where_required);
        if let Some(refusal) = refusal.as_ref().filter(|_| !holds) {
            open.refuse(refusal, !enforced);
        }
        approved
    });
    match refusal {
        // The leader of a parallel worker has settled it before it started any.
        Some(_) if holds && approved.is_none() && calls::parallel_worker() => Ok(false),
        Some(words) if holds && approved.is_none() => {
            let refusal = approvals::unavailable(*words, approvals::NO_STATEMENT);
            record::record_refused_alone("", &super::text::current(), decided.as_ref(), &refusal);
            Err(refusal)
        }
        Some(refusal) if enforced => {
            if let Some(decided) = decided {
                let text = super::text::current();
                record::record_refused_alone("", &text, Some(&decided), &refusal);
            }
            Err(*refusal)
        }
        _ => Ok(holds || approved == Some(true)),
    }
}
