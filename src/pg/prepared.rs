//! COMMIT PREPARED: a transaction takes effect that another session has prepared, perhaps in another life of the server. Whether it
//! has changed policies is known by the invalidation of the relation `policy` that each such change leaves behind (`standby::tell`)
//! and that is sent with the commit; this session gets it as any other does.

use std::cell::Cell;

use pgrx::pg_sys;

use super::process::PerProcess;
use super::{epoch, own};

/// Whether this session is committing what was prepared.
static COMMITS: PerProcess<Cell<bool>> = PerProcess::new(Cell::new(false));
/// Whether policies have changed since it began to.
static CHANGED: PerProcess<Cell<bool>> = PerProcess::new(Cell::new(false));

/// A prepared transaction is about to be committed. The extension's objects are known.
pub fn commits() {
    COMMITS.set(true);
    CHANGED.set(false);
}

/// A relation was invalidated. Nothing is looked up: a callback may not.
pub fn relation_changed(relation: pg_sys::Oid) {
    if COMMITS.get() {
        let policy = own::known().map(|own| own.policy);
        if relation == pg_sys::InvalidOid || policy.is_none_or(|policy| policy == relation) {
            CHANGED.set(true);
        }
    }
}

/// It is committed, or this session has failed at it: then it may be committed all the same.
pub fn over() {
    if !COMMITS.get() {
        return;
    }
    // SAFETY: reads state of this process; messages are taken in within a transaction that goes on, where nothing is open.
    let changed = unsafe {
        let goes_on = pg_sys::IsTransactionState();
        if goes_on {
            pg_sys::AcceptInvalidationMessages();
        }
        CHANGED.get() || !goes_on
    };
    COMMITS.set(false);
    if changed {
        epoch::policies_changed();
    }
}
