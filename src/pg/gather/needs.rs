//! What a statement that is no query needs: the accesses, and what it may do while it runs.

use pgrx::pg_sys;

use super::super::catalog;
use super::super::enforce::{Target, Wanted};
use super::names;
use crate::request::{Action, Columns, Form, Kind, Verb};

/// What a utility statement may do beside what it wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// It makes or changes no objects by itself.
    Nothing,
    /// It may create and change objects: what it wants says so.
    Objects,
}

/// What a utility statement needs.
pub struct Needs {
    /// The accesses.
    pub wanted: Vec<Wanted>,
    /// What it may do while it runs.
    pub permit: Permit,
    /// Its form.
    pub form: Form,
    /// It may run in a guarded session that has no token.
    pub without_token: bool,
}

impl Needs {
    /// Nothing: a statement that needs no rule.
    pub fn ordinary() -> Needs {
        Needs { wanted: Vec::new(), permit: Permit::Nothing, form: Form::Plain, without_token: false }
    }

    /// Nothing, without a token too.
    pub fn free() -> Needs {
        Needs { without_token: true, ..Needs::ordinary() }
    }

    /// These accesses, and objects may be made and changed.
    pub fn of(wanted: Vec<Wanted>) -> Needs {
        Needs { wanted, permit: Permit::Objects, ..Needs::ordinary() }
    }

    /// One access.
    pub fn one(action: Action, target: Target) -> Needs {
        Needs::of(vec![Wanted::named(action, target)])
    }

    /// One action on nothing in particular.
    pub fn verb(verb: Verb) -> Needs {
        Needs::one(Action::plain(verb), Target::Nothing)
    }

    /// A utility statement that is not in the list: nobody may.
    pub fn unknown() -> Needs {
        Needs::of(vec![Wanted { never: true, ..Wanted::named(Action::plain(Verb::System), Target::Nothing) }])
    }
}

/// DDL on one object.
pub fn on(verb: Verb, kind: Kind, target: Target) -> Needs {
    Needs::one(Action::on(verb, kind), of_table(target))
}

/// Creation of a relation, `temporary` where it is one.
///
/// # Safety
/// `range` is a valid RangeVar.
pub unsafe fn creation(kind: Kind, range: *mut pg_sys::RangeVar) -> Wanted {
    // SAFETY: the caller's promise.
    let (target, temporary) = unsafe { names::new_relation(range) };
    let action = if temporary { Action::plain(Verb::Temporary) } else { Action::on(Verb::Create, kind) };
    Wanted::named(action, target)
}

/// Reading a whole relation: asked for wherever DDL moves data out from under the rules on its name.
pub fn whole(relid: pg_sys::Oid) -> Wanted {
    Wanted { columns: Columns::Whole, ..Wanted::named(Action::plain(Verb::Select), Target::Relation(relid)) }
}

/// An action on a relation, or `temporary` where that is the session's own.
pub fn on_relation(action: Action, target: Target) -> Wanted {
    match of_table(target) {
        Target::Relation(relid) if catalog::relation_facts(relid).is_some_and(|facts| facts.temporary) => {
            Wanted::named(Action::plain(Verb::Temporary), Target::Relation(relid))
        }
        target => Wanted::named(action, target),
    }
}

/// The table of an index, by which rules about indexes are matched; any other target as it is.
pub fn of_table(target: Target) -> Target {
    match target {
        Target::Relation(relid)
            if catalog::relation_facts(relid).is_some_and(|facts| matches!(facts.kind, b'i' | b'I')) =>
        {
            catalog::table_of_index(relid).map_or(target, Target::Relation)
        }
        target => target,
    }
}
