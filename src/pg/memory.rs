//! Asks the server for the shared memory of `epoch`, `bindings`, `ledger` and `waiters`, and attaches every process to it.

use pgrx::pg_sys;

use super::{bindings, epoch, ledger, waiters};

static mut PREVIOUS_REQUEST: pg_sys::shmem_request_hook_type = None;
static mut PREVIOUS_STARTUP: pg_sys::shmem_startup_hook_type = None;

/// Installs the hooks; called once, from `_PG_init`.
pub fn init() {
    // SAFETY: _PG_init runs alone in the postmaster; the hooks are plain function pointers.
    unsafe {
        PREVIOUS_REQUEST = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(request);
        PREVIOUS_STARTUP = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(startup);
    }
}

unsafe extern "C-unwind" fn request() {
    // SAFETY: shmem_request_hook; the previous hook is called first, as it expects.
    unsafe {
        if let Some(previous) = PREVIOUS_REQUEST {
            previous();
        }
        epoch::request();
        bindings::request();
        ledger::request();
        waiters::request();
    }
}

unsafe extern "C-unwind" fn startup() {
    // SAFETY: shmem_startup_hook; the previous hook is called first, as it expects.
    unsafe {
        if let Some(previous) = PREVIOUS_STARTUP {
            previous();
        }
        epoch::attach();
        bindings::attach();
        ledger::attach();
        waiters::attach();
    }
}
