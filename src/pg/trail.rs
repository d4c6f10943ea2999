//! The backend's side of the audit trail: reserve before a statement runs, publish when it has ended.
//!
//! Nothing here formats JSON or writes a table, and nothing raises: a cancel that arrives while `reserve` waits comes
//! back as a refusal. All but `reserve` are safe in abort callbacks and in emit_log_hook.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pgrx::prelude::*;

use super::guc_audit::{self, Journal, MAX_DATABASES, Overflow};
use super::process::PerProcess;
use super::shmem::{self, SharedCondition, is_set};
use super::slot::Slot;
use super::standby;
use super::trail_refusal::{cancelled, full, hoarding, no_writer, unavailable};
use crate::audit::event::{AuditDecision, AuditEvent, EventKind, MAX_EVENT, MAX_STATEMENT};
use crate::audit::record::{Again, Turn};
use crate::audit::{record, ring};
use crate::refusal::Refusal;

/// Room in the ring that is promised to this backend. Plain data: an ERROR may carry it off, so whoever holds one
/// keeps it where abort callbacks find it, and publishes or releases it exactly once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reservation {
    bytes: u32,
    slot: u16,
}

/// Whether a caller may be kept waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Up to `agent_guard.audit_timeout`.
    Allowed,
    /// Not at all: an abort callback, an error hook.
    Never,
}

/// How long a wait lasts before it looks around, should a wake-up be lost with a process.
pub const SLICE: Duration = Duration::from_millis(200);
/// Room for accesses, parameters, names and message beside the statement's text.
const BESIDE_TEXT: usize = 4096;

/// 1 + this backend's slot, as it was last found; 0 for none.
static MINE: AtomicUsize = AtomicUsize::new(0);
/// Bytes that this backend holds in each slot, given back when it exits.
static OUTSTANDING: [AtomicU64; MAX_DATABASES] = [const { AtomicU64::new(0) }; MAX_DATABASES];
static EXIT_REGISTERED: AtomicBool = AtomicBool::new(false);

static SCRATCH: PerProcess<RefCell<Vec<u8>>> = PerProcess::new(RefCell::new(Vec::new()));

/// The bytes to reserve for a statement with a text of this length: its event is then not cut, unless it has a lot
/// of parameters or accesses while the ring is full.
pub fn cost(statement_len: usize) -> usize {
    statement_len.min(MAX_STATEMENT).saturating_add(BESIDE_TEXT)
}

/// The part of the ring that one backend's open statements may keep reserved: one in so many.
const SHARE: u64 = 8;

/// Makes sure that an event of this size can be recorded. Waits for the writer to start and for room in the ring.
///
/// # Errors
/// 53100 `audit_share` for a session that hoards, `audit_unavailable` without a writer, `audit_full` without room, after `agent_guard.audit_timeout`; 57014
/// where the statement is cancelled or the backend terminated during the wait.
pub fn reserve(bytes: usize) -> Result<Reservation, Refusal> {
    match reserve_at_once(bytes)? {
        Some(reservation) => Ok(reservation),
        None => reserve_waiting(bytes),
    }
}

/// As `reserve`, for whoever wants to know whether there was a wait; `None` where one is needed, or a first look around.
///
/// # Errors
/// 53100 `audit_share`.
pub fn reserve_at_once(bytes: usize) -> Result<Option<Reservation>, Refusal> {
    let need = needed(bytes);
    if let Some((n, slot)) = my_slot() {
        let held = OUTSTANDING.get(n).map_or(0, |mine| mine.load(Ordering::Relaxed));
        if held > 0 && held.saturating_add(need) > slot.ring_size / SHARE {
            return Err(hoarding());
        }
        return Ok(try_reserve(n, slot, need));
    }
    Ok(None)
}

/// As `reserve_at_once`, as much as a statement that has ended had, where this backend holds nothing else; false where that
/// takes a closer look.
#[inline]
#[cfg_attr(target_os = "linux", unsafe(link_section = ".text.guarded"))]
pub fn reserve_again(like: Reservation) -> bool {
    let n = usize::from(like.slot);
    let free = OUTSTANDING.get(n).is_some_and(|mine| mine.load(Ordering::Relaxed) == 0);
    like.bytes > 0 && free && slot_at(n).is_some_and(|slot| reserves(n, slot, u64::from(like.bytes)))
}

fn needed(bytes: usize) -> u64 {
    ring::footprint(bytes.clamp(record::MIN_EVENT, MAX_EVENT))
}

/// Gives a reservation back unused.
pub fn release(reservation: Reservation) {
    let n = usize::from(reservation.slot);
    if let Some(slot) = slot_at(n) {
        give_back(n, slot, u64::from(reservation.bytes));
    }
}

/// Records an event in the room reserved for it. Never fails, never waits, never raises: an event larger than its
/// reservation takes more if there is more, and is cut otherwise.
pub fn publish(event: &AuditEvent, reservation: Reservation) {
    if reservation.bytes == 0 {
        // The drop mode let the statement run without room.
        if !push(event, Limit::Ordinary) {
            count_lost();
        }
        return;
    }
    let n = usize::from(reservation.slot);
    let Some(slot) = slot_at(n) else { return };
    let stored = with_scratch(|scratch| {
        record::encode(event, scratch);
        let mut held = u64::from(reservation.bytes);
        let need = ring::footprint(scratch.len());
        if need > held {
            let more = need.saturating_sub(held);
            if slot.reserve(more, slot.ordinary_limit()) {
                hold(n, more);
                held = need;
            } else {
                let limit = usize::try_from(held.saturating_sub(ring::HEADER)).unwrap_or(record::MIN_EVENT);
                scratch.clear();
                record::encode_within(event, limit, scratch);
            }
        }
        let stored = slot.append(n, my_database(), event.kind, [scratch, &[]]);
        give_back(n, slot, held);
        stored
    });
    match stored {
        Some(true) => count(slot, event.kind, event.decision),
        Some(false) => count_lost(),
        None => {
            give_back(n, slot, u64::from(reservation.bytes));
            count_lost();
        }
    }
}

/// As `publish`, for a statement that was allowed and of whose event all is known but the turn; false, with nothing done, where
/// that takes a closer look.
pub fn publish_again(event: &Again, turn: &Turn, reservation: Reservation) -> bool {
    let n = usize::from(reservation.slot);
    let held = u64::from(reservation.bytes);
    let Some(slot) = slot_at(n).filter(|_| held > 0) else { return false };
    let stored = with_scratch(|scratch| {
        let tail = event.put(turn, scratch);
        let bytes = scratch.len().saturating_add(tail.len());
        ring::footprint(bytes) <= held && slot.append(n, my_database(), EventKind::Statement, [scratch, tail])
    });
    if stored != Some(true) {
        return false;
    }
    give_back(n, slot, held);
    true
}

/// Records an event for which nothing was reserved: a refusal, a failure outside any statement. It may use the
/// part of the ring that reservations leave alone. False if it is lost, which is counted.
pub fn publish_unreserved(event: &AuditEvent, waiting: Waiting) -> bool {
    let stored = push(event, Limit::All) || (waiting == Waiting::Allowed && push_waiting(event, Limit::All));
    if !stored {
        count_lost();
    }
    stored
}

/// As `publish_unreserved`, for an event that is no loss where there is no room for it at once: another one tells of it.
pub fn publish_if_room(event: &AuditEvent) -> bool {
    push(event, Limit::Ordinary)
}

/// Asks the writer to leave a database, as DROP DATABASE and its like need it; it records what is in its ring first,
/// which takes milliseconds. The next event brings it back.
pub fn leave_database(database: pg_sys::Oid) {
    if let Some((_, slot)) = shmem::control().and_then(|control| control.slot_of(database)) {
        slot.leave.store(1, Ordering::SeqCst);
        slot.wake_writer();
    }
}

/// The slot of this backend's database, without a lock; `None` while it has none.
pub fn my_slot() -> Option<(usize, &'static Slot)> {
    let database = my_database();
    if let Some(n) = MINE.load(Ordering::Relaxed).checked_sub(1)
        && let Some(slot) = slot_at(n)
        && slot.database.load(Ordering::Relaxed) == database
    {
        return Some((n, slot));
    }
    if database == 0 {
        return None;
    }
    let found = shmem::control()?.slot_of(pg_sys::Oid::from(database))?;
    remember(found.0);
    Some(found)
}

fn remember(n: usize) {
    MINE.store(n.saturating_add(1), Ordering::Relaxed);
}

fn my_database() -> u32 {
    // SAFETY: a plain variable of this process, 0 before it has a database.
    u32::from(unsafe { pg_sys::MyDatabaseId })
}

fn slot_at(n: usize) -> Option<&'static Slot> {
    shmem::control()?.slot(n)
}

fn hold(n: usize, bytes: u64) {
    if let Some(mine) = OUTSTANDING.get(n) {
        // This process's own; not even a signal handler looks at it.
        mine.store(mine.load(Ordering::Relaxed).saturating_add(bytes), Ordering::Relaxed);
    }
}

fn give_back(n: usize, slot: &Slot, bytes: u64) {
    let Some(mine) = OUTSTANDING.get(n) else { return };
    // A reservation given back twice must not take another backend's.
    let held = mine.load(Ordering::Relaxed);
    let bytes = bytes.min(held);
    mine.store(held.saturating_sub(bytes), Ordering::Relaxed);
    slot.give_back(bytes);
}

fn try_reserve(n: usize, slot: &Slot, need: u64) -> Option<Reservation> {
    let reservation =
        Reservation { bytes: u32::try_from(need).unwrap_or(0), slot: u16::try_from(n).unwrap_or(0) };
    reserves(n, slot, need).then_some(reservation)
}

#[inline]
fn reserves(n: usize, slot: &Slot, need: u64) -> bool {
    if !EXIT_REGISTERED.load(Ordering::Relaxed) || !slot.reserve(need, slot.ordinary_limit()) {
        return false;
    }
    // INVARIANT: looked at after the reservation is visible, see slot.rs.
    if !slot.serves(my_database()) {
        slot.give_back(need);
        return false;
    }
    hold(n, need);
    slot.fetch_ahead();
    true
}

/// What `reserve` does after `reserve_at_once` gave nothing.
///
/// # Errors
/// As `reserve`.
#[cold]
#[inline(never)]
pub fn reserve_waiting(bytes: usize) -> Result<Reservation, Refusal> {
    let need = needed(bytes);
    let Some(control) = shmem::control() else {
        return Err(unavailable("agent_guard has no shared memory", "Start the server as a cluster."));
    };
    if standby::is_one() && guc_audit::journal() == Journal::off {
        return Err(unavailable(
            "a standby keeps its audit trail in the journal, which is off",
            "Run the statement on the primary server, or ask a DBA to set agent_guard.journal on the standby.",
        ));
    }
    register_exit();
    let database = my_database();
    let deadline = Instant::now() + guc_audit::timeout();
    let mut waited = false;
    loop {
        let Some((n, slot)) = control.claim_slot(pg_sys::Oid::from(database)) else {
            return Err(unavailable(
                "every audit ring belongs to another database",
                "Raise agent_guard.audit_databases in postgresql.conf and restart the server.",
            ));
        };
        remember(n);
        // Joined before looking, so that no wake-up is missed.
        slot.space.prepare();
        if let Some(reservation) = try_reserve(n, slot, need) {
            SharedCondition::cancel();
            return Ok(reservation);
        }
        let alive = slot.serves(database);
        if !alive {
            slot.want_writer();
        } else if guc_audit::overflow() == Overflow::drop {
            SharedCondition::cancel();
            return Ok(Reservation::default());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            SharedCondition::cancel();
            slot.refused.fetch_add(1, Ordering::Relaxed);
            return Err(if alive { full() } else { no_writer() });
        }
        if !waited {
            waited = true;
            slot.waits.fetch_add(1, Ordering::Relaxed);
        }
        if interrupted() {
            SharedCondition::cancel();
            return Err(cancelled());
        }
        // Other interrupts (barriers, invalidations) are served between the slices.
        pgrx::check_for_interrupts!();
        sleep_held(&slot.space, left);
    }
}

/// Waits until every event up to now is committed to the trail. False after `agent_guard.audit_timeout`, or where the wait
/// is interrupted.
pub fn wait_until_stored() -> bool {
    let Some((n, slot)) = my_slot() else { return false };
    let target = slot.front(n).number;
    let deadline = Instant::now() + guc_audit::timeout();
    let stored = loop {
        slot.flushed.prepare();
        if slot.done.load(Ordering::SeqCst) >= target {
            break true;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || interrupted() || my_slot().is_none_or(|(mine, _)| mine != n) {
            break false;
        }
        slot.ask_for(target);
        sleep_held(&slot.flushed, left);
    };
    SharedCondition::cancel();
    stored
}

/// Whether this backend is to give up what it does.
pub fn interrupted() -> bool {
    // SAFETY: flags of this process that its signal handlers set.
    unsafe { pg_sys::QueryCancelPending != 0 || pg_sys::ProcDiePending != 0 }
}

/// Waits for a slice, with interrupts held: an error raised within would reach the client through Rust frames, which
/// strips it. Whoever interrupts wakes the wait, and the caller looks at `interrupted`.
pub fn sleep_held(condition: &SharedCondition, left: Duration) {
    // SAFETY: HOLD_INTERRUPTS and RESUME_INTERRUPTS; nothing between them raises.
    unsafe {
        pg_sys::InterruptHoldoffCount += 1;
        condition.sleep(milliseconds(left.min(SLICE)));
        pg_sys::InterruptHoldoffCount -= 1;
    }
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// How much of the ring an event may find in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    /// What reservations may fill.
    Ordinary,
    /// All of it.
    All,
}

/// Appends an event without a reservation, if there is room within `limit`.
fn push(event: &AuditEvent, limit: Limit) -> bool {
    // SAFETY: plain variables of this process.
    if unsafe { pg_sys::MyProc.is_null() } || my_database() == 0 {
        return false;
    }
    let found = my_slot().or_else(|| shmem::control()?.claim_slot(pg_sys::Oid::from(my_database())));
    let Some((n, slot)) = found else { return false };
    let stored = with_scratch(|scratch| {
        record::encode(event, scratch);
        let need = ring::footprint(scratch.len());
        let limit = if limit == Limit::All { slot.ring_size } else { slot.ordinary_limit() };
        if !slot.reserve(need, limit) {
            return false;
        }
        let stored = slot.append(n, my_database(), event.kind, [scratch, &[]]);
        slot.give_back(need);
        stored
    });
    if stored != Some(true) {
        return false;
    }
    count(slot, event.kind, event.decision);
    if !is_set(&slot.ready) {
        slot.want_writer();
    }
    true
}

/// As `push`, waiting for room. A cancel or a termination ends the wait.
fn push_waiting(event: &AuditEvent, limit: Limit) -> bool {
    let Some((_, slot)) = my_slot() else { return false };
    let deadline = Instant::now() + guc_audit::timeout();
    slot.waits.fetch_add(1, Ordering::Relaxed);
    let stored = loop {
        slot.space.prepare();
        if push(event, limit) {
            break true;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || interrupted() {
            break false;
        }
        sleep_held(&slot.space, left);
    };
    SharedCondition::cancel();
    stored
}

/// The reused buffer; `None` when it is in use, that is when an event arises while one is being published.
fn with_scratch<R>(work: impl FnOnce(&mut Vec<u8>) -> R) -> Option<R> {
    let mut scratch = SCRATCH.try_borrow_mut().ok()?;
    scratch.clear();
    Some(work(&mut scratch))
}

/// Counts what `append` does not.
fn count(slot: &Slot, kind: EventKind, decision: AuditDecision) {
    let refused = kind == EventKind::HandshakeRefused;
    if refused || decision == AuditDecision::Deny {
        slot.denied.fetch_add(1, Ordering::Relaxed);
    }
}

fn count_lost() {
    match (my_slot(), shmem::control()) {
        (Some((_, slot)), _) => slot.dropped.fetch_add(1, Ordering::Relaxed),
        (None, Some(control)) => control.homeless.fetch_add(1, Ordering::Relaxed),
        (None, None) => 0,
    };
}

/// Sees to it, once in each process, that its reservations are given back when it ends in any orderly way.
fn register_exit() {
    if !EXIT_REGISTERED.swap(true, Ordering::Relaxed) {
        // SAFETY: registers a plain function without an argument.
        unsafe { pg_sys::before_shmem_exit(Some(give_everything_back), pg_sys::Datum::from(0_usize)) };
    }
}

unsafe extern "C-unwind" fn give_everything_back(_code: i32, _arg: pg_sys::Datum) {
    for (n, mine) in OUTSTANDING.iter().enumerate() {
        let bytes = mine.swap(0, Ordering::Relaxed);
        if bytes > 0
            && let Some(slot) = slot_at(n)
        {
            slot.give_back(bytes);
        }
    }
}
