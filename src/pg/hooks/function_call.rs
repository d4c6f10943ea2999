//! needs_fmgr_hook and fmgr_hook: keep SQL functions from being inlined, and keep the stack of running functions.

use pgrx::pg_sys;

use super::super::enforce::{self, Target, Wanted};
use super::super::gather::functions;
use super::super::{calls, guc, policies, session, withhold};
use super::{autovacuum, checked, guarded, raise_if};
use crate::refusal::Refusal;
use crate::request::{Action, Form, Verb, Voice};

static mut PREV_NEEDS: pg_sys::needs_fmgr_hook_type = None;
static mut PREV_FMGR: pg_sys::fmgr_hook_type = None;

/// Saves the previous hooks and installs ours.
pub fn init() {
    // SAFETY: _PG_init runs alone; plain function pointers.
    unsafe {
        PREV_NEEDS = pg_sys::needs_fmgr_hook;
        pg_sys::needs_fmgr_hook = Some(needs_fmgr);
        PREV_FMGR = pg_sys::fmgr_hook;
        pg_sys::fmgr_hook = Some(fmgr);
    }
}

unsafe extern "C-unwind" fn needs_fmgr(function: pg_sys::Oid) -> bool {
    // SAFETY: outer frame; asks and calls on.
    unsafe {
        if calls::reported(function) || autovacuum::reported(function) {
            return true;
        }
        match PREV_NEEDS {
            Some(previous) => previous(function),
            None => false,
        }
    }
}

unsafe extern "C-unwind" fn fmgr(
    event: pg_sys::FmgrHookEventType::Type,
    info: *mut pg_sys::FmgrInfo,
    argument: *mut pg_sys::Datum,
) {
    // SAFETY: outer frame; see hooks/mod.rs. The FmgrInfo is the call's own.
    unsafe {
        if guc::guarded() && calls::reported((*info).fn_oid) {
            let function = (*info).fn_oid;
            if event == pg_sys::FmgrHookEventType::FHET_START {
                raise_if(checked(|| begin(function)));
                withhold::stay();
            } else {
                guarded(|| calls::pop(function));
            }
        } else {
            autovacuum::called((*info).fn_oid, event);
        }
        if let Some(previous) = PREV_FMGR {
            previous(event, info, argument);
        }
    }
}

/// A function that no other hook reports (a trigger's, a type's) is still subject to denies.
fn begin(function: pg_sys::Oid) -> Result<(), Refusal> {
    // Our own functions speak for nobody: what they ask is asked by whoever called them.
    if functions::is_own(function) {
        return Ok(());
    }
    // A login event trigger is called before any statement: the token that came with the connection is bound here then.
    let lends = match session::bound().or_else(|| session::current().ok()) {
        None => false,
        Some(session) => {
            let policy = policies::policy(session.policy_id)?;
            let wanted =
                Wanted::named(Action::plain(Verb::Execute), Target::Function(function)).by(Voice::View);
            if !enforce::would_allow(&session, &wanted)? {
                enforce::enforce(&session, &[wanted], Form::Plain)?;
            }
            calls::lends(&policy, function)
        }
    };
    calls::push(function, lends);
    Ok(())
}
