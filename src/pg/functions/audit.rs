//! `audit_flush()` and the counters behind the view `stat`.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::pg::guc_audit::{self, Journal};
use crate::pg::shmem::{self, SharedCondition};
use crate::pg::slot::Slot;
use crate::pg::trail;

/// Returns when every event up to now is queryable; raises 53100 when the writer makes no progress.
#[pg_extern(sql = false)]
fn audit_flush() {
    let Some((n, slot)) = trail::my_slot().or_else(slot_to_restore) else { return };
    let restores = guc_audit::journal() != Journal::off;
    let target = slot.front(n).number;
    let patience = guc_audit::timeout().max(Duration::from_secs(5));
    let mut done = slot.done.load(Ordering::SeqCst);
    let mut progress = Instant::now();
    loop {
        slot.flushed.prepare();
        let now_done = slot.done.load(Ordering::SeqCst);
        // After a crash the first writer fills the table from the journal before it takes anything.
        let restored = !restores || slot.base.load(Ordering::SeqCst) != 0;
        if (now_done >= target && restored) || trail::my_slot().is_none_or(|(mine, _)| mine != n) {
            break;
        }
        if now_done != done {
            done = now_done;
            progress = Instant::now();
        }
        if progress.elapsed() >= patience {
            SharedCondition::cancel();
            let waiting = target.saturating_sub(done);
            ErrorReport::new(
                PgSqlErrorCode::ERRCODE_DISK_FULL,
                "the audit trail does not take its events",
                "audit_flush",
            )
            .set_detail(format!("reason=audit_unavailable {waiting} events wait in shared memory"))
            .set_hint("Look for the audit writer's messages in the server log, and for locks on agent_guard.audit_segment_*.")
            .report(PgLogLevel::ERROR);
        }
        slot.ask_for(target);
        slot.flushed.sleep(200);
    }
    SharedCondition::cancel();
}

/// With a journal there may be events of the server's life before, whether or not there are new ones.
fn slot_to_restore() -> Option<(usize, &'static Slot)> {
    // SAFETY: reads shared memory, and a plain variable of this process.
    let (standby, database) = unsafe { (pg_sys::RecoveryInProgress(), pg_sys::MyDatabaseId) };
    if standby || guc_audit::journal() == Journal::off {
        return None;
    }
    shmem::control()?.claim_slot(database)
}

type Counters = TableIterator<
    'static,
    (
        name!(events, i64),
        name!(statements, i64),
        name!(denied, i64),
        name!(ring_bytes, i64),
        name!(ring_size, i64),
        name!(reserved_bytes, i64),
        name!(pending, i64),
        name!(waits, i64),
        name!(refused, i64),
        name!(dropped, i64),
        name!(faults, i64),
        name!(writer_pid, Option<i32>),
        name!(writer_restarts, i64),
    ),
>;

/// One row: the counters of this database's trail since the server started.
#[pg_extern(sql = false)]
fn audit_counters() -> Counters {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let ring_size = signed(shmem::control().map_or(0, |control| control.ring_size));
    let Some((_, slot)) = trail::my_slot() else {
        return TableIterator::once((0, 0, 0, 0, ring_size, 0, 0, 0, 0, 0, 0, None, 0));
    };
    let read = |counter: &std::sync::atomic::AtomicU64| signed(counter.load(Ordering::SeqCst));
    let pid = slot.writer_pid.load(Ordering::SeqCst);
    TableIterator::once((
        read(&slot.events),
        read(&slot.statements),
        read(&slot.denied),
        signed(slot.used()),
        ring_size,
        read(&slot.reserved),
        read(&slot.next).saturating_sub(read(&slot.done)),
        read(&slot.waits),
        read(&slot.refused),
        read(&slot.dropped),
        read(&slot.faults),
        (pid != 0).then_some(pid),
        read(&slot.writers).saturating_sub(1).max(0),
    ))
}
