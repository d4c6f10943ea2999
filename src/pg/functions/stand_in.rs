//! The checked functions that the planner hook puts in the place of set_config, nextval, currval and setval.

use pgrx::prelude::*;
use pgrx::direct_function_call_as_datum;

use super::super::enforce::{self, Target, Wanted};
use super::super::{calls, catalog, drops, guc, policies, raise, session, settings};
use crate::refusal::Refusal;
use crate::request::{Action, Columns, Form, ObjectClass, Verb, Voice};

/// Raises a refusal from a SQL function. The texts are copied before the error leaves.
fn raise_refusal(refusal: Refusal) {
    let raised = raise::prepare(&refusal);
    drop(refusal);
    // SAFETY: nothing with a destructor is alive in this frame; pgrx's wrapper around it keeps none across the call.
    unsafe { raise::raise(pg_sys::PGERROR, raised) };
}

/// set_config, but only to values that SET would be let.
#[pg_extern(sql = false)]
fn checked_set_config(name: Option<String>, value: Option<String>, is_local: Option<bool>) -> Option<String> {
    if guc::guarded() {
        if let Err(refusal) = may_set(name.as_deref(), value.as_deref()) {
            raise_refusal(refusal);
        }
    }
    let sets_token = name.as_deref().is_some_and(settings::is_token);
    // SAFETY: set_config_by_name takes (text, text, boolean) and is not strict.
    let shown = unsafe {
        pgrx::direct_function_call::<String>(
            pg_sys::set_config_by_name,
            &[name.into_datum(), value.into_datum(), is_local.into_datum()],
        )
    };
    if sets_token && guc::guarded() {
        session::settle();
    }
    shown
}

fn may_set(name: Option<&str>, value: Option<&str>) -> Result<(), Refusal> {
    let name = name.unwrap_or_default();
    if calls::voice() == Voice::Function || settings::is_token(name) {
        return Ok(());
    }
    match settings::change(name, value)? {
        None => Ok(()),
        Some(wanted) => enforce::enforce(&*session::current()?, &[wanted], Form::Plain),
    }
}

/// A sequence owned by a column that the agent may insert needs no rule of its own.
fn may_use(sequence: pg_sys::Oid, verb: Verb) -> Result<(), Refusal> {
    if !guc::guarded() {
        return Ok(());
    }
    let voice = calls::voice();
    let session = session::current()?;
    let policy = policies::policy(session.policy_id)?;
    if verb == Verb::Usage {
        if let Some((table, column)) = drops::owned_column(sequence) {
            let insert = Action::plain(Verb::Insert);
            let fills = policies::compiled(&policy, insert, ObjectClass::Relation, table)
                .map(|compiled| compiled.scope.decide(&Columns::Of(vec![column]), voice, ""));
            if matches!(fills, Some(crate::decision::Decision::Allow(..))) {
                return Ok(());
            }
        }
    }
    let temporary = catalog::relation_facts(sequence).is_some_and(|facts| facts.temporary);
    let verb = if temporary { Verb::Temporary } else { verb };
    let wanted = Wanted::named(Action::plain(verb), Target::Relation(sequence)).by(voice);
    enforce::enforce(&session, &[wanted], Form::Plain)
}

fn check_use(sequence: pg_sys::Oid, verb: Verb) {
    if let Err(refusal) = may_use(sequence, verb) {
        raise_refusal(refusal);
    }
}

/// nextval of a sequence that the agent may use.
#[pg_extern(sql = false)]
fn checked_nextval(sequence: pg_sys::Oid) -> i64 {
    check_use(sequence, Verb::Usage);
    call(pg_sys::nextval_oid, &[sequence.into_datum()])
}

/// currval of a sequence that the agent may use.
#[pg_extern(sql = false)]
fn checked_currval(sequence: pg_sys::Oid) -> i64 {
    check_use(sequence, Verb::Usage);
    call(pg_sys::currval_oid, &[sequence.into_datum()])
}

/// setval of a sequence that the agent may update.
#[pg_extern(sql = false)]
fn checked_setval(sequence: pg_sys::Oid, value: i64) -> i64 {
    check_use(sequence, Verb::Update);
    call(pg_sys::setval_oid, &[sequence.into_datum(), value.into_datum()])
}

/// setval with is_called, of a sequence that the agent may update.
#[pg_extern(sql = false)]
fn checked_setval3(sequence: pg_sys::Oid, value: i64, is_called: bool) -> i64 {
    check_use(sequence, Verb::Update);
    call(pg_sys::setval3_oid, &[sequence.into_datum(), value.into_datum(), is_called.into_datum()])
}

type Native = unsafe fn(pg_sys::FunctionCallInfo) -> pg_sys::Datum;

fn call(function: Native, arguments: &[Option<pg_sys::Datum>]) -> i64 {
    // SAFETY: the server's own functions of (regclass[, bigint[, boolean]]) returning bigint; none gives NULL.
    let value = unsafe { direct_function_call_as_datum(function, arguments) };
    value.map_or(0, |value| value.value().cast_signed() as i64)
}
