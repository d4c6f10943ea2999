//! The checked functions that the planner hook puts in the place of set_config, nextval, currval and setval.
//!
//! Plain C functions in two frames like the hooks: an error of the original leaves them untouched.

use pgrx::prelude::*;

use super::super::enforce;
use super::super::gather::sequences;
use super::super::hooks::{checked, raise_if};
use super::super::text_datum::Text;
use super::super::{calls, guc, policies, session, settings, statement};
use crate::refusal::Refusal;
use crate::request::{Form, Verb, Voice};

unsafe extern "C-unwind" {
    // Unguarded: the bindings' own declarations rebuild errors.
    #[link_name = "set_config_by_name"]
    fn raw_set_config(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum;
    #[link_name = "nextval_oid"]
    fn raw_nextval(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum;
    #[link_name = "currval_oid"]
    fn raw_currval(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum;
    #[link_name = "setval_oid"]
    fn raw_setval(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum;
    #[link_name = "setval3_oid"]
    fn raw_setval3(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum;
}

/// Declares a C function that checks and then calls the original with its own arguments.
macro_rules! stand_in {
    ($name:ident, $info:ident, $original:ident, $check:expr, $after:expr) => {
        #[unsafe(no_mangle)]
        #[doc(hidden)]
        pub extern "C" fn $info() -> &'static pg_sys::Pg_finfo_record {
            const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
            &V1
        }

        /// A checked stand-in; see the module.
        ///
        /// # Safety
        /// Called by the function manager with the arguments that sql/functions.sql declares.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(call: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
            // SAFETY: outer frame as in hooks/mod.rs; the original takes the same arguments.
            unsafe {
                if guc::guarded() {
                    raise_if(checked(|| $check(call)));
                }
                let result = $original(call);
                if guc::guarded() {
                    raise_if(checked(|| $after(call)));
                }
                result
            }
        }
    };
}

stand_in!(checked_set_config_wrapper, pg_finfo_checked_set_config_wrapper, raw_set_config, may_set, settle);
stand_in!(
    checked_nextval_wrapper,
    pg_finfo_checked_nextval_wrapper,
    raw_nextval,
    |call| may_use(call, Verb::Usage),
    nothing
);
stand_in!(
    checked_currval_wrapper,
    pg_finfo_checked_currval_wrapper,
    raw_currval,
    |call| may_use(call, Verb::Usage),
    nothing
);
stand_in!(
    checked_setval_wrapper,
    pg_finfo_checked_setval_wrapper,
    raw_setval,
    |call| may_use(call, Verb::Update),
    nothing
);
stand_in!(
    checked_setval3_wrapper,
    pg_finfo_checked_setval3_wrapper,
    raw_setval3,
    |call| may_use(call, Verb::Update),
    nothing
);

fn nothing(_call: pg_sys::FunctionCallInfo) -> Result<(), Refusal> {
    Ok(())
}

/// A text argument; `None` for NULL.
fn text(call: pg_sys::FunctionCallInfo, number: usize) -> Option<String> {
    // SAFETY: the function manager's own call record; the declared type of these arguments is text.
    unsafe { pgrx::fcinfo::pg_getarg::<Text>(call, number) }.map(|text| text.0)
}

fn may_set(call: pg_sys::FunctionCallInfo) -> Result<(), Refusal> {
    let name = text(call, 0).unwrap_or_default();
    if settings::is_token(&name) {
        // SAFETY: set_config's third argument, a boolean.
        let local = unsafe { pgrx::fcinfo::pg_getarg::<bool>(call, 2) }.unwrap_or(false);
        let sets = text(call, 1).is_some_and(|value| !value.is_empty());
        return if sets && !local { session::for_the_session() } else { Ok(()) };
    }
    let voice = calls::voice();
    match settings::change(&name, text(call, 1).as_deref()) {
        Ok(None) => Ok(()),
        Ok(Some(wanted)) => enforce::enforce(&*session::current()?, &[wanted.by(voice)], Form::Plain),
        // A function that lends may go beyond what the agent may; denies hold all the same.
        Err(_) if voice == Voice::Function => Ok(()),
        Err(refusal) if session::current().is_ok_and(|session| enforce::observing(&session)) => {
            statement::with_current(|open| open.refuse(&refusal, true));
            Ok(())
        }
        Err(refusal) => Err(refusal),
    }
}

/// A token that was set this way binds at once, as with SET.
fn settle(call: pg_sys::FunctionCallInfo) -> Result<(), Refusal> {
    if text(call, 0).is_some_and(|name| settings::is_token(&name)) {
        return session::settle();
    }
    Ok(())
}

/// What the sequence that the call names needs.
fn may_use(call: pg_sys::FunctionCallInfo, verb: Verb) -> Result<(), Refusal> {
    // SAFETY: the functions are strict and their first argument is a regclass.
    let Some(sequence) = (unsafe { pgrx::fcinfo::pg_getarg::<pg_sys::Oid>(call, 0) }) else { return Ok(()) };
    let session = session::current()?;
    let policy = policies::policy(session.policy_id)?;
    match sequences::wanted(&policy, sequence, verb, calls::voice()) {
        Some(wanted) => enforce::enforce_under(&session, &policy, &[wanted], Form::Plain),
        None => Ok(()),
    }
}
