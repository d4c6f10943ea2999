//! The server side: everything that touches PostgreSQL, and the only place with `unsafe`.

#![allow(unsafe_code)]

mod encoding;
mod functions;
pub mod guc_audit;
mod insert;
mod launcher;
mod raise;
mod row;
mod segments;
mod shmem;
mod slot;
pub mod trail;
mod trail_refusal;
mod writer;

use pgrx::prelude::*;

::pgrx::pg_module_magic!(name, version);

/// Loads the extension into the postmaster.
///
/// # Errors
/// ERROR 55000 when the library is loaded in any other way than by `shared_preload_libraries`.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    // SAFETY: a plain flag of the postmaster, read while the library is loaded.
    if !unsafe { pg_sys::process_shared_preload_libraries_in_progress } {
        ereport!(
            ERROR,
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "agent_guard must be loaded by shared_preload_libraries",
            "Add agent_guard to shared_preload_libraries in postgresql.conf, then restart the server."
        );
    }
    guc_audit::init();
    shmem::init();
    launcher::init();
}
