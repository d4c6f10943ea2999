//! The backend's side of durable marks: asks the database's writer to raise them, ahead of need where it can, and waits
//! where it has to.

use std::time::Instant;

use pgrx::pg_sys;

use super::ledger::{self, Tally};
use super::shmem::{self, SharedCondition};
use super::trail;
use super::{guc_audit, standby, trail_refusal};
use crate::limit::Meter;
use crate::limit::refusal;
use crate::refusal::Refusal;

/// Whether a wait may be left by an ERROR of the server's (a cancel, a termination).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupts {
    /// Between statements or in the middle of one.
    Served,
    /// Inside a report to the client: whoever interrupts ends the wait, and nothing is raised.
    Held,
}

/// The mark to ask for, so that `need` and what comes soon after it are within. INVARIANT: half a chunk; asked for when
/// half a chunk is left, so that a mark is never more than a chunk ahead of what is used or about to be.
fn ahead(meter: Meter, need: u64, limit: u64) -> u64 {
    need.saturating_add(meter.chunk(limit).div_ceil(2)).min(limit)
}

/// Asks for more of the mark when half a chunk of it is left, without waiting.
pub fn ask_ahead(tally: &Tally, meter: Meter, limit: u64) {
    let counter = tally.counter(meter.index());
    let (used, mark) = (counter.used(), counter.mark());
    if mark >= limit || mark.saturating_sub(used) > meter.chunk(limit) / 2 {
        return;
    }
    if tally.want(meter.index(), ahead(meter, mark, limit))
        && let Some((_, slot)) = trail::my_slot()
    {
        slot.ledger_due.store(1, std::sync::atomic::Ordering::SeqCst);
        slot.wake_writer();
    }
}

/// Notes that a mark will be needed; whoever waits next has it raised along with its own.
pub fn note_need(tally: &Tally, meter: Meter, limit: u64) {
    let used = tally.counter(meter.index()).used();
    if used < limit {
        tally.want(meter.index(), ahead(meter, used, limit));
    }
}

/// Waits until the mark has reached `need`, which is within the limit. Holds no lock and nothing charged.
///
/// # Errors
/// 53100 where the writer does not manage in `agent_guard.audit_timeout`, 57014 where the statement is cancelled.
pub fn reach(
    tally: &Tally,
    meter: Meter,
    need: u64,
    limit: u64,
    interrupts: Interrupts,
) -> Result<(), Refusal> {
    let Some((control, raised)) = shmem::control().zip(ledger::raised()) else {
        return Err(refusal::not_durable("agent_guard has no shared memory"));
    };
    if standby::is_one() {
        return Err(refusal::not_durable(standby::STORES_NOTHING));
    }
    // SAFETY: a plain value of this process.
    let database = unsafe { pg_sys::MyDatabaseId };
    let deadline = Instant::now() + guc_audit::timeout();
    loop {
        // Joined before looking, so that no wake-up is missed.
        raised.prepare();
        if tally.counter(meter.index()).mark() >= need {
            SharedCondition::cancel();
            return Ok(());
        }
        let Some((_, slot)) = control.claim_slot(database) else {
            SharedCondition::cancel();
            return Err(refusal::not_durable("every audit ring belongs to another database"));
        };
        tally.want(meter.index(), ahead(meter, need, limit));
        // INVARIANT: due before the look at the writer, which looks at it after it has said that it leaves.
        slot.ledger_due.store(1, std::sync::atomic::Ordering::SeqCst);
        if slot.serves(database.to_u32()) {
            slot.wake_writer();
        } else {
            slot.want_writer();
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            SharedCondition::cancel();
            return Err(refusal::not_durable("the audit writer of this database did not store it in time"));
        }
        if trail::interrupted() {
            SharedCondition::cancel();
            return Err(trail_refusal::cancelled());
        }
        if interrupts == Interrupts::Served {
            pgrx::check_for_interrupts!();
        }
        trail::sleep_held(raised, left);
    }
}
