//! The server side: everything that touches PostgreSQL, and the only place with `unsafe`.

#![allow(unsafe_code)]

mod admin_error;
mod bind;
mod calls;
mod catalog;
mod conditions;
mod drops;
mod encoding;
mod enforce;
pub mod epoch;
mod functions;
mod gather;
mod guc;
pub mod guc_audit;
mod hooks;
mod insert;
pub mod keys;
mod label;
mod launcher;
mod own;
mod policies;
pub mod raise;
mod row;
mod rows;
mod scan;
mod secrets;
mod segments;
mod session;
mod settings;
mod shmem;
mod slot;
mod statement;
mod store;
pub mod trail;
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
    guc::init();
    guc_audit::init();
    keys::init();
    guc::reserve_prefix();
    epoch::init();
    shmem::init();
    launcher::init();
    label::init();
    hooks::init();
}
