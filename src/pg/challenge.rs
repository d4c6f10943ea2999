//! `agent_guard.challenge`: what a client answers with a proof instead of sending its token.
//!
//! One challenge is open in a backend at a time, made when somebody first asks for it, hence never in the postmaster,
//! whose children would share it. An answer closes it, accepted or not. The variable's own value is never used: a
//! show hook tells the open challenge, so that no ROLLBACK brings a used one back. Only guarded sessions have it
//! reported, so that other clients see no parameter that they did not see before.

use std::cell::{Cell, RefCell};
use std::ffi::CString;
use std::os::raw::c_char;

use pgrx::pg_sys;

use super::process::PerProcess;
use crate::token;

const NAME: &std::ffi::CStr = c"agent_guard.challenge";

static mut VALUE: *mut c_char = std::ptr::null_mut();

static OPEN: PerProcess<RefCell<Option<CString>>> = PerProcess::new(RefCell::new(None));
static REPORTED: PerProcess<Cell<bool>> = PerProcess::new(Cell::new(false));

/// Defines the variable; called from `_PG_init`.
pub fn init() {
    let flags = pg_sys::GUC_NOT_IN_SAMPLE | pg_sys::GUC_DISALLOW_IN_FILE;
    // SAFETY: _PG_init; the statics outlive the process, the hook has the type that guc.h gives it.
    unsafe {
        pg_sys::DefineCustomStringVariable(
            NAME.as_ptr(),
            c"What a proof of a token answers; a new one after each answer.".as_ptr(),
            std::ptr::null(),
            &raw mut VALUE,
            c"".as_ptr(),
            pg_sys::GucContext::PGC_INTERNAL,
            i32::try_from(flags).unwrap_or(0),
            None,
            None,
            Some(show),
        );
    }
}

/// The open challenge, made if there is none; empty in sessions that have no use for it.
unsafe extern "C-unwind" fn show() -> *const c_char {
    if !super::guc::guarded() {
        return c"".as_ptr();
    }
    let text = OPEN.with(|open| {
        let mut open = open.try_borrow_mut().ok()?;
        if open.is_none() {
            *open = CString::new(token::fresh_challenge().ok()?).ok();
        }
        // The text stays where it is until the challenge is closed; the server copies it before.
        open.as_ref().map(|text| text.as_ptr())
    });
    text.unwrap_or(c"".as_ptr())
}

/// Closes the open challenge and returns it: it is answered, whatever comes of the answer. `None` where nobody has asked
/// for one.
pub fn take() -> Option<String> {
    let taken = OPEN.try_borrow_mut().ok()?.take()?;
    tell_anew();
    taken.into_string().ok()
}

/// Whether the body of a DataRow is that of SHOW agent_guard.challenge: one column with the open challenge.
pub fn is_row_of(body: &[u8]) -> bool {
    // The number of columns and the length of the only one.
    const HEAD: usize = 6;
    OPEN.try_borrow().is_ok_and(|open| {
        open.as_ref().is_some_and(|text| {
            body.len() > HEAD && body.ends_with(text.to_bytes()) && body.len() == HEAD + text.to_bytes().len()
        })
    })
}

/// Has the fresh challenge reported when the statement is over.
fn tell_anew() {
    // SAFETY: in a transaction a variable of our own is set as its context asks; an abort reports it too (guc.c).
    unsafe {
        if pg_sys::IsTransactionState() {
            let (context, source) = (pg_sys::GucContext::PGC_INTERNAL, pg_sys::GucSource::PGC_S_OVERRIDE);
            pg_sys::SetConfigOption(NAME.as_ptr(), c"".as_ptr(), context, source);
        }
    }
}

/// Has the challenge reported to this backend's client at connect. Called when the session turns out to be guarded,
/// before the server first reports its variables (BeginReportingGUCOptions).
pub fn report() {
    if REPORTED.replace(true) {
        return;
    }
    let report = i32::try_from(pg_sys::GUC_REPORT).unwrap_or(0);
    #[cfg(feature = "pg15")]
    // SAFETY: the array of all variables, of the length that GetNumConfigOptions tells; names are NUL-terminated. The
    // flags of a variable of ours are changed in this process alone.
    unsafe {
        let count = usize::try_from(pg_sys::GetNumConfigOptions()).unwrap_or(0);
        let variables = std::slice::from_raw_parts(pg_sys::get_guc_variables(), count);
        for variable in variables {
            if std::ffi::CStr::from_ptr((**variable).name) == NAME {
                (**variable).flags |= report;
            }
        }
    }
    #[cfg(any(feature = "pg16", feature = "pg17", feature = "pg18"))]
    // SAFETY: find_option gives the variable of this name or null.
    unsafe {
        let level = i32::try_from(pg_sys::PGERROR).unwrap_or(21);
        if let Some(variable) = pg_sys::find_option(NAME.as_ptr(), false, true, level).as_mut() {
            variable.flags |= report;
        }
    }
}
