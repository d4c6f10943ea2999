//! The server side: everything that touches PostgreSQL, and the only place with `unsafe`.

#![allow(unsafe_code)]

mod admin_error;
mod anchor;
mod approvals;
mod bind;
mod bindings;
mod blocks;
mod calls;
mod catalog;
mod challenge;
mod checkpoint;
mod columns;
mod conditions;
mod connection;
mod connection_settings;
mod copy;
mod databases;
mod decided;
mod defaults;
mod door;
mod drained;
mod drops;
mod encoding;
mod endings;
mod enforce;
pub mod epoch;
mod express;
mod expression;
mod expression_check;
mod fault;
mod functions;
mod gather;
mod guc;
pub mod guc_audit;
mod handshake;
mod held;
mod hooks;
mod insert;
mod journal;
mod journal_walk;
pub mod keys;
mod known;
mod label;
mod lane;
mod launcher;
mod ledger;
mod ledger_store;
mod limit_timer;
mod log_json;
mod long_text;
mod mark;
mod masked_view;
mod masks;
mod memory;
mod meter;
mod outgoing;
mod own;
mod pinned;
mod policies;
mod prepared;
mod process;
mod quick;
pub mod raise;
mod reconcile;
mod record;
mod redecide;
mod region;
mod repeated;
mod results;
mod resume;
mod row;
mod rows;
mod scan;
mod seal;
mod second_line;
mod secrets;
mod segment_indexes;
mod segments;
mod session;
mod settings;
mod shmem;
mod slot;
mod standby;
mod standby_writer;
mod statement;
mod store;
mod stored;
mod substitute;
mod synced;
mod text;
mod text_datum;
pub mod trail;
mod trail_refusal;
mod types;
mod unusual;
mod upkeep;
mod version;
mod waiters;
mod walk;
mod warden;
mod withhold;
mod writer;
mod writer_transaction;

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
    forgo_backtraces();
    guc::init();
    approvals::init();
    challenge::init();
    guc_audit::init();
    #[cfg(feature = "fault_injection")]
    fault::init();
    keys::init();
    guc::reserve_prefix();
    memory::init();
    shmem::init();
    launcher::init();
    label::init();
    hooks::init();
}

/// Makes this library's standard library believe that no backtraces are wanted, whatever the environment says: pgrx
/// would put them into the DETAIL of errors, for every client to read. The environment itself is left as it is.
fn forgo_backtraces() {
    let names = ["RUST_BACKTRACE", "RUST_LIB_BACKTRACE"];
    let saved = names.map(|name| (name, std::env::var_os(name)));
    for name in names {
        // SAFETY: _PG_init runs in the postmaster, which has no threads.
        unsafe { std::env::remove_var(name) };
    }
    // The first capture decides for the life of the process and its children (std::backtrace).
    drop(std::backtrace::Backtrace::capture());
    for (name, value) in saved {
        if let Some(value) = value {
            // SAFETY: as above.
            unsafe { std::env::set_var(name, value) };
        }
    }
}
