//! The server's tree walkers, with one guard around a whole walk instead of one at each level.
//!
//! pgrx guards every binding: an ERROR becomes a panic there. But no panic can leave a guard that is around another one, because
//! the frame between them does not unwind, and the process aborts. With walkers that call our visitors that call walkers,
//! every ERROR from inside would do that: the server's own check of the stack's depth on a deeply nested expression is enough.
//! Here the levels are unguarded. An ERROR goes to the guard around the whole, and becomes a panic outside of it.
//!
//! Visitors keep no value with a destructor alive while they go deeper: an ERROR passes them by longjmp.

use std::cell::Cell;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use pgrx::pg_sys;

use super::process::PerProcess;

/// What is called for each node; true ends the walk.
pub type Visitor = unsafe extern "C-unwind" fn(*mut pg_sys::Node, *mut c_void) -> bool;

unsafe extern "C-unwind" {
    #[cfg_attr(feature = "pg15", link_name = "expression_tree_walker")]
    #[cfg_attr(not(feature = "pg15"), link_name = "expression_tree_walker_impl")]
    fn raw_expression(node: *mut pg_sys::Node, visitor: Option<Visitor>, context: *mut c_void) -> bool;
    #[cfg_attr(feature = "pg15", link_name = "query_tree_walker")]
    #[cfg_attr(not(feature = "pg15"), link_name = "query_tree_walker_impl")]
    fn raw_query(
        query: *mut pg_sys::Query,
        visitor: Option<Visitor>,
        context: *mut c_void,
        flags: std::os::raw::c_int,
    ) -> bool;
    #[cfg_attr(feature = "pg15", link_name = "raw_expression_tree_walker")]
    #[cfg_attr(not(feature = "pg15"), link_name = "raw_expression_tree_walker_impl")]
    fn raw_parsed(node: *mut pg_sys::Node, visitor: Option<Visitor>, context: *mut c_void) -> bool;
}

/// The server's handler of errors that the guard of the walk in progress has set; 0 for none. Where another one is in force, a
/// visitor has called the server, and that us: a walk of its own begins.
static GUARD: PerProcess<Cell<usize>> = PerProcess::new(Cell::new(0));

fn handler() -> usize {
    // SAFETY: a plain pointer of this process.
    unsafe { pg_sys::PG_exception_stack }.addr()
}

/// Puts the outer walk's guard back, whichever way this one ends.
struct Outer(usize);

impl Drop for Outer {
    fn drop(&mut self) {
        GUARD.with(|guard| guard.set(self.0));
    }
}

fn walk(level: impl FnOnce() -> bool) -> bool {
    let guard = GUARD.with(Cell::get);
    if guard != 0 && guard == handler() {
        return level();
    }
    let _outer = Outer(guard);
    // SAFETY: the process's only thread. Neither an ERROR nor a panic crosses the guard's own frames: it takes the one, and the
    // other is caught within it.
    let outcome = unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            GUARD.with(|guard| guard.set(handler()));
            catch_unwind(AssertUnwindSafe(level))
        })
    };
    outcome.unwrap_or_else(|payload| resume_unwind(payload))
}

/// Visits what an analysed expression consists of.
///
/// # Safety
/// `node` is null or valid, and `visitor` takes its like and this context.
pub unsafe fn expression(node: *mut pg_sys::Node, visitor: Visitor, context: *mut c_void) -> bool {
    // SAFETY: the caller's promise.
    walk(|| unsafe { raw_expression(node, Some(visitor), context) })
}

/// Visits what a query consists of.
///
/// # Safety
/// As `expression`.
pub unsafe fn query(
    query: *mut pg_sys::Query,
    visitor: Visitor,
    context: *mut c_void,
    flags: std::os::raw::c_int,
) -> bool {
    // SAFETY: the caller's promise.
    walk(|| unsafe { raw_query(query, Some(visitor), context, flags) })
}

/// Visits what an expression consists of that was parsed and not analysed.
///
/// # Safety
/// As `expression`.
pub unsafe fn parsed(node: *mut pg_sys::Node, visitor: Visitor, context: *mut c_void) -> bool {
    // SAFETY: the caller's promise.
    walk(|| unsafe { raw_parsed(node, Some(visitor), context) })
}
