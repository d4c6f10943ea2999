//! The hooks. Each is two frames: an outer one without guard or destructors, which calls the server's own code and
//! raises what the inner one decided, and an inner one behind pgrx's guard, which returns plain data.
//!
//! An ERROR of the server or of another extension so passes through our frames untouched, with its schema, table and
//! constraint fields, its context and its position.

pub mod check_perms;
pub mod executor;
pub mod function_call;
pub mod log;
pub mod login;
pub mod object_access;
pub mod planner;
pub mod process_utility;
pub mod transactions;

use std::ffi::CStr;

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
fn guarded<R: Copy>(body: impl FnOnce() -> R) -> R {
    // SAFETY: called from hooks that the server calls, so that an error may leave to its handler.
    unsafe { pg_sys::panic::pgrx_extern_c_guard(std::panic::AssertUnwindSafe(body)) }
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

/// The text that the client sent; empty where the server knows none (fast-path calls).
pub fn current_text() -> String {
    // SAFETY: NUL-terminated or null; it belongs to the message that is being worked on.
    unsafe {
        let text = pg_sys::debug_query_string;
        if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
    }
}

/// The part of a source text that is one statement of it.
///
/// # Safety
/// `source` is null or NUL-terminated.
pub unsafe fn statement_text(source: *const std::os::raw::c_char, location: i32, length: i32) -> String {
    if source.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    let bytes = unsafe { CStr::from_ptr(source) }.to_bytes();
    let start = usize::try_from(location).unwrap_or(0).min(bytes.len());
    let end = match usize::try_from(length) {
        Ok(length) if length > 0 => start.saturating_add(length).min(bytes.len()),
        _ => bytes.len(),
    };
    let part = bytes.get(start..end).unwrap_or(bytes);
    String::from_utf8_lossy(part).trim().to_owned()
}
