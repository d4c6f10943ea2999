//! `agent_guard.log_json`: each stored event also as one line of JSON in the server's log.
//!
//! Called by the writer alone, after the event is in the trail: the log follows the table and never runs ahead of it.

use std::cell::RefCell;

use pgrx::prelude::*;

use super::process::PerProcess;
use super::{catalog, guc_audit};
use crate::audit::line::line;
use crate::audit::record::OwnedEvent;

/// The database of this process. It is not renamed while the writer is connected (databases.rs).
static DATABASE: PerProcess<RefCell<Option<String>>> = PerProcess::new(RefCell::new(None));

/// Learns what the lines name. Inside a transaction.
pub fn prepare() {
    if guc_audit::log_json() && DATABASE.with_borrow(Option::is_none) {
        // SAFETY: a catalogue look-up in a transaction; the name is palloc'd, or null.
        let name = unsafe { catalog::text(pg_sys::get_database_name(pg_sys::MyDatabaseId)) };
        DATABASE.set(name);
    }
}

/// Writes events that were stored.
pub fn emit(rows: &[(u64, OwnedEvent)]) {
    if !guc_audit::log_json() {
        return;
    }
    let database = DATABASE.with_borrow(|name| name.clone().unwrap_or_default());
    for (seq, event) in rows {
        log!("agent_guard event: {}", line(*seq, &database, event));
    }
}
