//! `agent_guard.journal = sync`: a statement is answered only when its event is in the journal.
//!
//! The backend waits after it has published the event, outside of any lock, and before the server's answer. What is
//! answered with an error waits in emit_log_hook, which the server calls before the error goes out.

use std::sync::atomic::Ordering;
use std::time::Instant;

use super::guc_audit::{self, Journal};
use super::shmem::is_set;
use super::trail::{SLICE, interrupted, my_slot};
use super::trail_refusal::{unsynced, unsynced_cancelled};
use super::{calls, held, statement, waiters};
use crate::refusal::Refusal;

/// Whether answers wait for the journal.
#[inline]
pub fn wanted() -> bool {
    guc_audit::journal() == Journal::sync
}

/// Waits at the end of a statement that the client sent; those within others wait with them.
///
/// # Errors
/// As `wait`.
pub fn wait_at_top() -> Result<(), Refusal> {
    if !wanted() || statement::any_active() || calls::parallel_worker() {
        return Ok(());
    }
    wait()?;
    held::release();
    Ok(())
}

/// Waits until every event so far is on disk, this backend's among them.
///
/// # Errors
/// 53100 after `agent_guard.audit_timeout`; 57014 when cancelled.
pub fn wait() -> Result<(), Refusal> {
    // Without a slot there is no event that has not been stored.
    let Some((n, slot)) = my_slot() else { return Ok(()) };
    let Some(place) = waiters::mine() else { return Err(unsynced()) };
    let target = slot.next.load(Ordering::SeqCst);
    let deadline = Instant::now() + guc_audit::timeout();
    let outcome = loop {
        // Joined before looking, so that no wake-up is missed.
        place.join(n, slot, target);
        let moved = my_slot().is_none_or(|(mine, _)| mine != n);
        if moved || (slot.kept.load(Ordering::SeqCst) >= target && is_set(&slot.journaled)) {
            break Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break Err(unsynced());
        }
        if interrupted() {
            break Err(unsynced_cancelled());
        }
        slot.ask_to_keep();
        place.sleep(left.min(SLICE));
    };
    place.leave(slot);
    outcome
}
