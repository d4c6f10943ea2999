//! The hooks. Each is two frames: an outer one without guard or destructors, which calls the server's own code and
//! raises what the inner one decided, and an inner one behind pgrx's guard, which returns plain data.
//!
//! An ERROR of the server or of another extension so passes through our frames untouched, with its schema, table and
//! constraint fields, its context and its position.

mod autovacuum;
pub mod check_perms;
pub mod executor;
pub mod function_call;
pub mod log;
pub mod login;
pub mod object_access;
pub mod planner;
pub mod process_utility;
pub mod transactions;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use pgrx::pg_sys;

use super::raise::{self, Raised};
use crate::refusal::Refusal;

/// Installs every hook; called from `_PG_init`.
pub fn init() {
    login::init();
    log::init();
    planner::init();
    executor::init();
    check_perms::init();
    process_utility::init();
    object_access::init();
    function_call::init();
    transactions::init();
}

/// Runs an inner frame: a panic becomes an ERROR, which denies the statement.
#[inline]
pub fn guarded<R: Copy>(body: impl FnOnce() -> R) -> R {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| report(payload))
}

/// What pgrx's guard makes of a panic. Entered only with one: its frame costs more than what hooks do in it.
#[cold]
#[inline(never)]
fn report<R: Copy>(payload: Box<dyn Any + Send>) -> R {
    // SAFETY: called from hooks that the server calls, so that an error may leave to its handler.
    unsafe { pg_sys::panic::pgrx_extern_c_guard(move || resume_unwind(payload)) }
}

/// Runs an inner frame that may refuse.
pub fn checked(body: impl FnOnce() -> Result<(), Refusal>) -> Option<Raised> {
    guarded(|| body().err().map(|refusal| raise::prepare(&refusal)))
}

/// Raises a refusal, if there is one.
///
/// # Safety
/// Called from an outer frame: no value with a destructor is alive.
#[inline]
pub unsafe fn raise_if(raised: Option<Raised>) {
    if let Some(raised) = raised {
        // SAFETY: the caller's promise.
        unsafe { raise::raise(pg_sys::PGERROR, raised) };
    }
}
