//! Functions: which execution needs what.

use rustc_hash::FxHashMap as HashMap;
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use pgrx::pg_sys;

use super::super::catalog::{self, FIRST_NORMAL};
use super::super::enforce::{Target, Wanted};
use super::super::masks;
use super::super::own::{self, AGENT_FUNCTIONS, MASK_HASH};
use super::super::policies::Policy;
use super::super::process::PerProcess;
use super::swept;
use crate::policy::builtin::{self, Class};
use crate::request::{Action, Verb, Voice};

/// What running a function takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Execution {
    /// Nothing: an ordinary built-in, or one of our functions for agents.
    Free,
    /// An allow for this action.
    Needs(Verb),
    /// Only the server itself may call it, inside an aggregate, a mask and the like.
    ServerOnly,
    /// No agent may.
    Never,
}

/// Built-ins by OID; their classes are fixed for a server version.
static BUILT_IN: PerProcess<RefCell<HashMap<u32, Execution>>> =
    PerProcess::new(RefCell::new(HashMap::with_hasher(rustc_hash::FxBuildHasher)));

/// Built-ins known to be free: a bit for each OID that initdb gives out.
static FREE: [AtomicU64; FIRST_NORMAL as usize / 64] =
    [const { AtomicU64::new(0) }; FIRST_NORMAL as usize / 64];

/// Whether a function is known to be a free built-in. Takes no lock and cannot fail: asked by an outer hook frame for
/// every function of every statement.
#[inline]
pub fn known_free(function: pg_sys::Oid) -> bool {
    let oid = function.to_u32() as usize;
    FREE.get(oid / 64).is_some_and(|word| word.load(Ordering::Relaxed) & (1 << (oid % 64)) != 0)
}

fn remember_free(oid: u32) {
    if let Some(word) = FREE.get(oid as usize / 64) {
        word.fetch_or(1 << (oid % 64), Ordering::Relaxed);
    }
}

/// How a function is treated.
pub fn execution(function: pg_sys::Oid) -> Execution {
    let oid = function.to_u32();
    if oid < FIRST_NORMAL {
        if let Some(known) = BUILT_IN.with(|known| known.borrow().get(&oid).copied()) {
            return known;
        }
        let found = built_in(function);
        if found == Execution::Free {
            remember_free(oid);
        }
        BUILT_IN.with(|known| known.borrow_mut().insert(oid, found));
        return found;
    }
    let Some(facts) = catalog::function_facts(function) else { return Execution::Never };
    let Some(own) = own::own() else { return Execution::Never };
    if facts.namespace == own.schema {
        if facts.name == MASK_HASH {
            return Execution::ServerOnly;
        }
        let stand_in = function == own.stand_ins.set_config;
        let free = stand_in || AGENT_FUNCTIONS.contains(&facts.name.as_str());
        return if free { Execution::Free } else { Execution::Never };
    }
    if facts.takes_internal { Execution::ServerOnly } else { Execution::Needs(Verb::Execute) }
}

/// Whether a function belongs to the extension.
pub fn is_own(function: pg_sys::Oid) -> bool {
    own::own().is_some_and(|own| catalog::function_namespace(function) == Some(own.schema))
}

/// Built-ins that stand-ins replace in plans: their arguments decide, so the originals are out of reach.
const REPLACED: [u32; 5] = [
    pg_sys::F_SET_CONFIG,
    pg_sys::F_NEXTVAL,
    pg_sys::F_CURRVAL,
    pg_sys::F_SETVAL_REGCLASS_INT8,
    pg_sys::F_SETVAL_REGCLASS_INT8_BOOL,
];

fn built_in(function: pg_sys::Oid) -> Execution {
    if REPLACED.contains(&function.to_u32()) {
        return Execution::Never;
    }
    let Some(facts) = catalog::function_facts(function) else { return Execution::Never };
    match builtin::function_class(&facts.name, facts.volatility, facts.takes_internal) {
        Class::Ordinary => Execution::Free,
        Class::Needs(verb) => Execution::Needs(verb),
        Class::ServerOnly => Execution::ServerOnly,
        Class::Never => Execution::Never,
    }
}

/// The access that running `function` needs; `None` for none. Inside a function that lends, built-ins are free and the
/// others only subject to denies.
pub fn wanted(function: pg_sys::Oid, voice: Voice) -> Option<Wanted> {
    let target = Target::Function(function);
    match execution(function) {
        Execution::Free | Execution::ServerOnly => None,
        Execution::Needs(verb) => Some(Wanted::named(Action::plain(verb), target).by(voice)),
        Execution::Never => {
            Some(Wanted { never: true, ..Wanted::named(Action::plain(Verb::Execute), target).by(voice) })
        }
    }
}

/// What a function hands out that no other hook sees: the changes of every table, for which it takes reading them all.
pub fn handed_out(function: pg_sys::Oid) -> Vec<Wanted> {
    let names_it = |facts: &catalog::FunctionFacts| builtin::EVERY_CHANGE.contains(&facts.name.as_str());
    if function.to_u32() >= FIRST_NORMAL || !catalog::function_facts(function).as_ref().is_some_and(names_it)
    {
        return Vec::new();
    }
    let mut wanted = swept::published(None);
    if masks::any() {
        let action = Action::plain(Verb::Execute);
        wanted.push(Wanted { never: true, ..Wanted::named(action, Target::Function(function)) });
    }
    wanted
}

/// The access to a function that needs no rule, where a rule denies it by name: subject to denies alone, whoever calls it.
pub fn denied_by_name(function: pg_sys::Oid, policy: &Policy) -> Option<Wanted> {
    let denied = function.to_u32() < FIRST_NORMAL && policy.denies_built_in(function);
    denied.then(|| Wanted::named(Action::plain(Verb::Execute), Target::Function(function)).by(Voice::View))
}
