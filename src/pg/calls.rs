//! The functions that are running, innermost last, and what they lend to the statements in their bodies.
//!
//! fmgr_hook tells start, end and abort of every call of a function that is not built in (needs_fmgr_hook makes the
//! server report them, and keeps SQL functions from being inlined past the other hooks).

use rustc_hash::{FxBuildHasher, FxHashMap as HashMap};
use std::cell::RefCell;

use pgrx::pg_sys;

use super::policies::{self, Policy};
use super::process::PerProcess;
use super::unusual::{self, Unusual};
use super::{catalog, epoch, guc, quick, session};
use crate::request::{Action, Kind, ObjectClass, Verb, Voice};

#[derive(Clone, Copy)]
struct Call {
    function: pg_sys::Oid,
    lends: bool,
    /// It was called by the query of a foreign key's trigger.
    under_foreign_key: bool,
}

struct Calls {
    stack: Vec<Call>,
    /// Which roles are guarded, as their labels tell; good for one revocation and policy epoch.
    guarded_roles: HashMap<pg_sys::Oid, bool>,
    epoch: u64,
}

static CALLS: PerProcess<RefCell<Calls>> = PerProcess::new(RefCell::new(Calls {
    stack: Vec::new(),
    guarded_roles: HashMap::with_hasher(FxBuildHasher),
    epoch: 0,
}));

fn with<T>(body: impl FnOnce(&mut Calls) -> T) -> Option<T> {
    CALLS.with(|calls| calls.try_borrow_mut().ok().map(|mut calls| body(&mut calls)))
}

/// Whether a role carries the label of `guard_role`. What such a role owns is the agent's own making: it lends nothing.
pub fn is_guarded_role(role: pg_sys::Oid) -> bool {
    let epoch = epoch::policies();
    let known = with(|calls| {
        if calls.epoch != epoch {
            calls.epoch = epoch;
            calls.guarded_roles.clear();
        }
        calls.guarded_roles.get(&role).copied()
    })
    .flatten();
    known.unwrap_or_else(|| {
        let guarded = has_label(role);
        with(|calls| calls.guarded_roles.insert(role, guarded));
        guarded
    })
}

/// Whether what a role owns speaks for the agent: the role is a guarded one, or one that the agent's login is a member
/// of, so that it may replace what that role owns.
pub fn is_agents(role: pg_sys::Oid) -> bool {
    // SAFETY: reads the membership caches, in a transaction as every hook.
    is_guarded_role(role) || unsafe { pg_sys::is_member_of_role_nosuper(session::authenticated_role(), role) }
}

/// Whether the query of a foreign key's trigger asks, and not a function that it called on its way.
pub fn in_foreign_key() -> bool {
    quick::in_foreign_key()
        && !with(|calls| calls.stack.last().is_some_and(|call| call.under_foreign_key)).unwrap_or(true)
}

/// Whether the security label "guarded" of our provider is on the role. Readable already while a client authenticates,
/// because pg_shseclabel is one of the catalogues that are (relcache.c).
pub fn has_label(role: pg_sys::Oid) -> bool {
    let address = pg_sys::ObjectAddress { classId: pg_sys::AuthIdRelationId, objectId: role, objectSubId: 0 };
    // SAFETY: a complete address; the label is palloc'd text or null.
    let label =
        unsafe { catalog::text(pg_sys::GetSecurityLabel(&raw const address, c"agent_guard".as_ptr())) };
    label.is_some()
}

/// Whether the body of a function speaks for the DBA who allowed it. One that the agent could have made or replaced
/// speaks for the agent, unless a rule names that very function and none lets it be replaced.
pub fn lends(policy: &Policy, function: pg_sys::Oid) -> bool {
    let Some(facts) = catalog::function_facts(function) else { return false };
    if !is_agents(facts.owner) {
        return true;
    }
    let execute = Action::plain(Verb::Execute);
    let kind = if facts.kind == b'p' { Kind::Procedure } else { Kind::Function };
    policies::compiled(policy, execute, ObjectClass::Function, function)
        .is_some_and(|compiled| compiled.scope.allows_exactly())
        && !policies::may_alter(policy, kind, ObjectClass::Function, function)
}

/// Whether any function that is not built in is running. Cannot panic: asked inside the server's error reporting.
pub fn any() -> bool {
    unusual::is(Unusual::Calling)
}

/// A call begins.
pub fn push(function: pg_sys::Oid, lends: bool) {
    let under_foreign_key = quick::in_foreign_key();
    with(|calls| {
        calls.stack.push(Call { function, lends, under_foreign_key });
        unusual::set(Unusual::Calling, true);
    });
}

/// The innermost call of this function ends, and with it whatever is still above.
pub fn pop(function: pg_sys::Oid) {
    with(|calls| {
        if let Some(at) = calls.stack.iter().rposition(|call| call.function == function) {
            calls.stack.truncate(at);
            unusual::set(Unusual::Calling, at > 0);
        }
    });
}

/// An error reached the top: nothing is running any more.
pub fn clear() {
    with(|calls| {
        calls.stack.clear();
        unusual::set(Unusual::Calling, false);
    });
}

/// How many functions are running.
pub fn depth() -> usize {
    with(|calls| calls.stack.len()).unwrap_or(usize::MAX)
}

/// The functions that are running, outermost first.
pub fn running() -> Vec<pg_sys::Oid> {
    with(|calls| calls.stack.iter().map(|call| call.function).collect()).unwrap_or_default()
}

/// Who asks for what is wanted right now.
pub fn voice() -> Voice {
    let (inside, lends) = with(|calls| (!calls.stack.is_empty(), calls.stack.iter().all(|call| call.lends)))
        .unwrap_or((true, false));
    match (inside, lends) {
        (true, true) => Voice::Function,
        // The leader, which knows the functions around its plan, has asked for every allow before it started workers.
        (false, _) if parallel_worker() => Voice::View,
        _ => Voice::Named,
    }
}

/// Whether what is wanted right now is asked by the statement itself: not by a function, a foreign key, or a part of
/// another process's plan.
pub fn nobody_else_asks() -> bool {
    !any() && !quick::in_foreign_key() && !parallel_worker()
}

/// Whether this process runs a part of another one's plan.
pub fn parallel_worker() -> bool {
    // SAFETY: a plain value of this process: -1 outside parallel workers.
    unsafe { pg_sys::ParallelWorkerNumber >= 0 }
}

/// Whether calls of this function have to be reported: all that are not built in, in guarded sessions.
pub fn reported(function: pg_sys::Oid) -> bool {
    guc::guarded() && function.to_u32() >= catalog::FIRST_NORMAL
}
