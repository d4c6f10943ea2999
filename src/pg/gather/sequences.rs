//! Sequences: what using one takes, and which ones the default of a column uses.
//!
//! In a plan the calls of nextval and its like are stand-ins that look at their argument when they run
//! (`functions::stand_in`). Defaults that COPY FROM and ALTER TABLE evaluate pass no planner hook: here their expressions
//! are read, as the server is about to evaluate them. What evaluates them, and when, is `hooks::object_access`'s.
//!
//! An identity column calls no function that anybody announces: its sequence is named in the plan itself. It needs no allow,
//! and what forbids its use is looked for before the statement runs.

use std::ffi::c_void;

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag as T;

use super::super::enforce::{Target, Wanted};
use super::super::masks::Opened;
use super::super::policies::{self, Policy};
use super::super::walk;
use super::super::{catalog, conditions, drops, statement, version};
use super::names;
use super::relations::Entry;
use crate::decision::Decision;
use crate::request::{Action, Columns, Form, ObjectClass, Verb, Voice};

/// What a call of one of the server's sequence functions does to its sequence; `None` for any other function.
pub fn verb(function: pg_sys::Oid) -> Option<Verb> {
    match function.to_u32() {
        pg_sys::F_NEXTVAL | pg_sys::F_CURRVAL => Some(Verb::Usage),
        pg_sys::F_SETVAL_REGCLASS_INT8 | pg_sys::F_SETVAL_REGCLASS_INT8_BOOL => Some(Verb::Update),
        _ => None,
    }
}

/// What using a sequence needs. One that is owned by a column that the agent may insert needs no rule; what forbids it
/// holds all the same.
pub fn wanted(policy: &Policy, sequence: pg_sys::Oid, verb: Verb, voice: Voice) -> Option<Wanted> {
    let temporary = catalog::relation_facts(sequence).is_some_and(|facts| facts.temporary);
    let action = Action::plain(if temporary { Verb::Temporary } else { verb });
    let wanted = |voice| Wanted::named(action, Target::Relation(sequence)).by(voice);
    let allows = |action, relation, columns: &Columns, voice| {
        policies::compiled(policy, action, ObjectClass::Relation, relation)
            .is_some_and(|it| matches!(it.scope.decide(columns, voice, ""), Decision::Allow(..)))
    };
    let owner = drops::owned_column(sequence).filter(|_| verb == Verb::Usage);
    let fills = owner.is_some_and(|(table, column)| {
        allows(Action::plain(Verb::Insert), table, &Columns::Of(vec![column]), voice)
    });
    match fills {
        true if allows(action, sequence, &Columns::Unnamed, Voice::View) => None,
        true => Some(wanted(Voice::View)),
        false => Some(wanted(voice)),
    }
}

/// What drawing for an identity column needs: nothing, unless a rule forbids it, whoever asks. A temporary table's is the
/// session's own.
pub fn by_identity(policy: &Policy, sequence: pg_sys::Oid) -> Option<Wanted> {
    let temporary = || catalog::relation_facts(sequence).is_some_and(|facts| facts.temporary);
    if !policy.keeps_from_drawing || temporary() {
        return None;
    }
    let action = Action::plain(Verb::Usage);
    let allowed = policies::compiled(policy, action, ObjectClass::Relation, sequence)
        .is_some_and(|it| matches!(it.scope.decide(&Columns::Unnamed, Voice::View, ""), Decision::Allow(..)));
    (!allowed).then(|| Wanted::named(action, Target::Relation(sequence)).by(Voice::View))
}

/// The identity columns of a relation among those that `asked` tells, with their sequences.
fn identities(relation: pg_sys::Oid, asked: impl Fn(i16) -> bool) -> Vec<pg_sys::Oid> {
    let Some(opened) = Opened::open(relation) else { return Vec::new() };
    let columns = opened.attributes().iter().filter(|one| !one.attisdropped && one.attidentity != 0);
    let asked = columns.map(|one| one.attnum).filter(|number| asked(*number));
    // SAFETY: an open relation and the number of one of its columns.
    asked.map(|number| unsafe { version::identity_sequence(opened.0, number) }).collect()
}

/// What forbids to fill these columns by their identity.
pub fn filled_identities(relation: pg_sys::Oid, filled: &[i16], policy: &Policy) -> Vec<Wanted> {
    if !policy.keeps_from_drawing || filled.is_empty() {
        return Vec::new();
    }
    let sequences = identities(relation, |column| filled.contains(&column));
    sequences.into_iter().filter_map(|sequence| by_identity(policy, sequence)).collect()
}

/// The same for COPY of a relation. What COPY of a query changes is in its plan.
pub fn copied_identities(relation: pg_sys::Oid, filled: &[i16], policy: &Policy) -> Vec<Wanted> {
    if !policy.keeps_from_drawing || starting().is_some() {
        return Vec::new();
    }
    filled_identities(relation, filled, policy)
}

/// What forbids a query to draw for the identity columns that it may draw for by its entries; each with whether it does. Without a plan
/// that tells, it does.
pub fn forbidden_identities(entries: &[Entry], policy: &Policy, form: Form) -> Vec<(bool, Wanted)> {
    if !policy.keeps_from_drawing {
        return Vec::new();
    }
    let plan = starting();
    if plan.is_none() && form == Form::Copy {
        return Vec::new();
    }
    let changed = entries.iter().filter(|entry| entry.changes());
    let may_draw = changed.flat_map(|entry| identities(entry.relation(), |column| entry.may_default(column)));
    let forbidden = may_draw.filter_map(|sequence| Some((sequence, by_identity(policy, sequence)?)));
    forbidden
        .map(|(sequence, wanted)| {
            // SAFETY: the plan is complete, and its executor is being started.
            let draws = plan.is_none_or(|plan| unsafe { conditions::draws_for_identity(plan, sequence) });
            (draws, wanted)
        })
        .collect()
}

/// The plan of the query whose executor is being started.
fn starting() -> Option<*mut pg_sys::PlannedStmt> {
    let query = statement::with_current(|open| open.starting_query()).flatten()?;
    // SAFETY: the address of the QueryDesc whose ExecutorStart is on the stack: the statement was opened there.
    Some(unsafe { (*std::ptr::with_exposed_provenance::<pg_sys::QueryDesc>(query)).plannedstmt })
}

/// The calls of sequence functions in the default of a column, each with its sequence; `None` for one that only running it
/// would tell.
pub type Uses = Vec<Option<(pg_sys::Oid, Verb)>>;

/// What the default of a column uses, be it the column's own or its domain's.
pub fn of_default(relation: pg_sys::Oid, column: i16) -> Uses {
    let mut uses = Uses::new();
    let Some(opened) = Opened::open(relation) else { return uses };
    // SAFETY: an open relation and the number of one of its columns; the server makes a new tree, and planning it does to it
    // what it does for the server's own evaluation (BeginCopyFrom, ATExecAddColumn): no call is folded away here that is left
    // there. The context is our list.
    unsafe {
        let default = pg_sys::build_column_default(opened.0, i32::from(column));
        if !default.is_null() {
            visit(pg_sys::expression_planner(default.cast()).cast(), (&raw mut uses).cast());
        }
    }
    uses
}

/// The columns that a COPY fills with their defaults: all that it does not name and that are not generated.
pub fn filled_by_default(relation: pg_sys::Oid, named: &[i16]) -> Vec<i16> {
    let Some(opened) = Opened::open(relation) else { return Vec::new() };
    let columns = opened.attributes().iter().filter(|one| !one.attisdropped && one.attgenerated == 0);
    columns.map(|one| one.attnum).filter(|number| !named.contains(number)).collect()
}

unsafe extern "C-unwind" fn visit(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: called with valid nodes or null; the tag decides the casts; the context is the caller's list.
    unsafe {
        if node.is_null() {
            return false;
        }
        if (*node).type_ == T::T_FuncExpr {
            let call = &*node.cast::<pg_sys::FuncExpr>();
            if let Some(verb) = verb(call.funcid) {
                let first = names::members(call.args).first().copied();
                let sequence = first.and_then(|argument| constant_oid(argument));
                (*context.cast::<Uses>()).push(sequence.map(|sequence| (sequence, verb)));
            }
        }
        walk::expression(node, visit, context)
    }
}

/// The OID that a constant is; `None` for any other node and for NULL.
///
/// # Safety
/// `node` is a valid node whose type, where it is a constant, is an OID or a regclass.
pub unsafe fn constant_oid(node: *mut pg_sys::Node) -> Option<pg_sys::Oid> {
    // SAFETY: the tag decides the cast; the caller's promise.
    unsafe {
        if (*node).type_ != T::T_Const {
            return None;
        }
        let constant = &*node.cast::<pg_sys::Const>();
        pgrx::FromDatum::from_datum(constant.constvalue, constant.constisnull)
    }
}
