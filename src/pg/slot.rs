//! One database's place in the audit path: its ring's positions, its writer, its counters.
//!
//! Room is given out by reservation. INVARIANT: `head - tail + reserved <= ring size`, so whoever holds a
//! reservation can append that much. A reservation adds to `reserved` first and looks then; an append moves `head`
//! first and gives the reservation back then. Both orders are sequentially consistent: a race can make a ring look
//! fuller than it is, never emptier. The same order, add first and look then, settles the race between a
//! reservation and a writer that ends or a slot that changes hands.

use std::sync::atomic::{AtomicI32, AtomicI64, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use pgrx::prelude::*;

use super::shmem::{RingBytes, SharedCondition, control, is_set, locked, set_latch};
use super::waiters;
use crate::audit::chain::Head;
use crate::audit::event::EventKind;
use crate::audit::ring;

/// How the writer waits, and so what wakes it.
pub mod writer_state {
    /// It works, and looks at the ring again before it waits.
    pub const BUSY: u32 = 0;
    /// It waits for any event.
    pub const IDLE: u32 = 1;
    /// It lets events gather; only a flush or a filling ring should wake it.
    pub const GATHERING: u32 = 2;
}

/// See the module. Counters only grow.
#[repr(C, align(128))]
pub struct Slot {
    /// The database's OID; 0 while the slot is free. Written under the table's lock.
    pub database: AtomicU32,
    /// Whether the launcher should see to it that there is a writer. Set by anyone, cleared by writer and launcher.
    pub wanted: AtomicU32,
    /// The writer's process id from its first step on; 0 while there is none.
    pub writer_pid: AtomicI32,
    /// Whether the writer takes events. Written by the writer.
    pub ready: AtomicU32,
    /// One of `writer_state`.
    pub state: AtomicU32,
    /// The server asks the writer to leave the database for a while. Set by anyone, cleared by the next claim.
    pub leave: AtomicU32,
    /// Somebody wants marks of the ledger raised. Set by anyone, cleared by the writer before it looks.
    pub ledger_due: AtomicU32,
    /// The writer's latch.
    pub writer_latch: AtomicPtr<pg_sys::Latch>,
    /// Bytes ever appended. Written under the slot's lock.
    pub head: AtomicU64,
    /// The number of the next record. Written under the slot's lock.
    pub next: AtomicU64,
    /// Bytes ever committed to the trail. Written by the writer.
    pub tail: AtomicU64,
    /// The number of the first record not yet in the trail. Written by the writer.
    pub done: AtomicU64,
    /// The number of the first record that is not on disk, in the journal. Written by the writer.
    pub kept: AtomicU64,
    /// How many backends wait for that mark (`waiters`).
    pub waiting: AtomicU32,
    /// Bytes promised to backends. Never reset: each holder gives its own back, even after the slot changed hands.
    pub reserved: AtomicU64,
    /// Where its ring is, in bytes from the beginning of the shared memory. Written before anybody knows the slot, as its size is.
    pub ring_at: u64,
    /// The bytes of its ring.
    pub ring_size: u64,
    /// Events taken. Written under the slot's lock.
    pub events: AtomicU64,
    /// Of these, statements. Written under the slot's lock.
    pub statements: AtomicU64,
    /// The sequence number of record 0; 0 while the first writer has not found it. Written by the writer.
    pub base: AtomicU64,
    /// The number up to which somebody waits for a flush.
    pub flush: AtomicU64,
    /// Of these, denials and refusals.
    pub denied: AtomicU64,
    /// Times that a backend had to wait for room or for the writer.
    pub waits: AtomicU64,
    /// Events lost.
    pub dropped: AtomicU64,
    /// Statements refused because the trail could not take their event.
    pub refused: AtomicU64,
    /// Events that could not be stored as they were.
    pub faults: AtomicU64,
    /// How many writers have begun.
    pub writers: AtomicU64,
    /// Whether what is in the trail is in the journal too. Written by the writer.
    pub journaled: AtomicU32,
    /// When the newest event of the oldest segment began, in microseconds since the Unix epoch; 0 for none. Told by a writer that
    /// goes to rest.
    pub oldest_at: AtomicI64,
    /// Whether the chain was last a standby's own. Written by the writer.
    pub of_standby: AtomicU32,
    /// The number of the last event in the trail; 0 while none is known. Written by the writer.
    head_seq: AtomicU64,
    /// Its hash. Written by the writer, between two changes of `head_seq`.
    head_hash: [AtomicU64; 4],
    /// Woken when there is room again, and when a writer is ready.
    pub space: SharedCondition,
    /// Woken when events have become queryable; those who wait for the disk alone are not among the waiters.
    pub flushed: SharedCondition,
    /// Woken when approvers have decided on a request.
    pub decided: SharedCondition,
    /// How often that was; never reset.
    pub decisions: AtomicU64,
}

impl Slot {
    /// Bytes of events in the ring.
    pub fn used(&self) -> u64 {
        let head = self.head.load(Ordering::SeqCst);
        head.saturating_sub(self.tail.load(Ordering::SeqCst))
    }

    /// Whether more waits in the ring than should gather there.
    pub fn is_filling(&self) -> bool {
        self.used() > self.ring_size / 4
    }

    /// Whether somebody waits for events to be in the tables.
    pub fn flush_is_due(&self) -> bool {
        self.flush.load(Ordering::SeqCst) > self.done.load(Ordering::SeqCst)
    }

    /// What reservations may fill: they leave a sixteenth of the ring to refusals and failures.
    #[inline]
    pub fn ordinary_limit(&self) -> u64 {
        self.ring_size.saturating_sub(self.ring_size / 16)
    }

    /// Adds `bytes` to the reservations if everything together stays within `limit`.
    pub fn reserve(&self, bytes: u64, limit: u64) -> bool {
        let others = self.reserved.fetch_add(bytes, Ordering::SeqCst);
        // INVARIANT: tail is read after head, so that `used` can only be too small by what was committed between.
        if self.used().saturating_add(others).saturating_add(bytes) <= limit {
            return true;
        }
        self.give_back(bytes);
        false
    }

    /// Fetches the memory that the next event will probably be written to while its statement runs: by then a ring's worth of
    /// events lies between this lap and the last, so that it is in no near cache.
    #[inline]
    pub fn fetch_ahead(&self) {
        /// An ordinary event and its header.
        const AHEAD: usize = 384;
        if let Some(bytes) = RingBytes::of(self) {
            bytes.fetch(self.head.load(Ordering::Relaxed), AHEAD);
        }
    }

    /// Gives a reservation back.
    pub fn give_back(&self, bytes: u64) {
        self.reserved.fetch_sub(bytes, Ordering::SeqCst);
    }

    /// Whether a writer takes events of this database.
    pub fn serves(&self, database: u32) -> bool {
        self.database.load(Ordering::SeqCst) == database && is_set(&self.ready)
    }

    /// Appends a record, in two parts, for which room is reserved; false if the slot has changed hands. Then wakes the writer, if
    /// it waits for this.
    #[cfg_attr(target_os = "linux", unsafe(link_section = ".text.guarded"))]
    pub fn append(&self, n: usize, database: u32, kind: EventKind, payload: [&[u8]; 2]) -> bool {
        let Some(mut bytes) = RingBytes::of(self) else { return false };
        let appended = locked(n.saturating_add(1), || {
            if self.database.load(Ordering::SeqCst) != database {
                return false;
            }
            let number = self.next.load(Ordering::Relaxed);
            let head = ring::put(&mut bytes, self.head.load(Ordering::Relaxed), number, payload);
            self.next.store(number.wrapping_add(1), Ordering::Relaxed);
            // INVARIANT: before the reservation is given back, which is an atomic step behind this one, and before the
            // look at the writer's state: giving the lock back is a full barrier (LWLockRelease in lwlock.c).
            self.head.store(head, Ordering::Release);
            let count = |counter: &AtomicU64| {
                counter.store(counter.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
            };
            count(&self.events);
            if kind == EventKind::Statement {
                count(&self.statements);
            }
            true
        });
        if appended {
            self.nudge();
        }
        appended
    }

    /// Wakes the writer if what is in the ring is what it waits for.
    fn nudge(&self) {
        let due = match self.state.load(Ordering::SeqCst) {
            writer_state::IDLE => true,
            writer_state::GATHERING => self.is_filling(),
            _ => false,
        };
        // Only the one who turns the state pays for the signal.
        if due && self.state.swap(writer_state::BUSY, Ordering::SeqCst) != writer_state::BUSY {
            set_latch(&self.writer_latch);
        }
    }

    /// Wakes the writer whatever it waits for.
    pub fn wake_writer(&self) {
        set_latch(&self.writer_latch);
    }

    /// Lets the writer go, where no event waits for it and it is `free`; otherwise it goes on, and this is false.
    pub fn rest(&self, free: impl FnOnce() -> bool) -> bool {
        self.wanted.store(0, Ordering::SeqCst);
        self.ready.store(0, Ordering::SeqCst);
        // INVARIANT: looked at after it is visible that the writer leaves.
        if free() && self.used() == 0 && self.reserved.load(Ordering::SeqCst) == 0 {
            return true;
        }
        self.ready.store(1, Ordering::SeqCst);
        self.wanted.store(1, Ordering::SeqCst);
        self.space.broadcast();
        false
    }

    /// Asks for a writer.
    pub fn want_writer(&self) {
        self.wanted.store(1, Ordering::SeqCst);
        if let Some(control) = control() {
            control.wake_launcher();
        }
    }

    /// Asks the writer to store the events before this number now.
    pub fn ask_for(&self, number: u64) {
        self.flush.fetch_max(number, Ordering::SeqCst);
        if is_set(&self.ready) {
            self.wake_writer();
        } else {
            self.want_writer();
        }
    }

    /// Asks the writer to put everything on disk now; called by a backend that waits for that.
    pub fn ask_to_keep(&self) {
        if !is_set(&self.ready) {
            self.want_writer();
        } else if self.state.swap(writer_state::BUSY, Ordering::SeqCst) != writer_state::BUSY {
            set_latch(&self.writer_latch);
        }
    }

    /// The numbers and positions up to which records are complete.
    pub fn front(&self, n: usize) -> ring::Position {
        locked(n.saturating_add(1), || ring::Position {
            at: self.head.load(Ordering::SeqCst),
            number: self.next.load(Ordering::SeqCst),
        })
    }

    /// Where the writer stands.
    pub fn back(&self) -> ring::Position {
        ring::Position { at: self.tail.load(Ordering::SeqCst), number: self.done.load(Ordering::SeqCst) }
    }

    /// What lies before `position` is in the trail: gives its room back and tells those who wait.
    pub fn advance(&self, n: usize, position: ring::Position) {
        self.done.store(position.number, Ordering::SeqCst);
        self.tail.store(position.at, Ordering::SeqCst);
        self.kept_until(n, position.number);
        self.space.broadcast();
        self.flushed.broadcast();
    }

    /// What lies before the record of this number is in the journal, where there is one, though perhaps not yet in the tables: tells
    /// those who wait for that.
    pub fn kept_until(&self, n: usize, number: u64) {
        // INVARIANT: stored before the places are looked at; whoever joins looks at it afterwards.
        self.kept.store(number, Ordering::SeqCst);
        waiters::end_before(n, self, number);
    }

    /// Tells where the chain stands. Called by the writer only.
    pub fn set_head(&self, head: Head) {
        // INVARIANT: whoever reads sees 0 while the hash is not whole.
        self.head_seq.store(0, Ordering::SeqCst);
        for (word, bytes) in self.head_hash.iter().zip(head.hash.chunks_exact(8)) {
            word.store(u64::from_le_bytes(bytes.try_into().unwrap_or_default()), Ordering::SeqCst);
        }
        self.head_seq.store(head.seq, Ordering::SeqCst);
    }

    /// Where the chain stands; `None` where that is not known, or is just changing.
    pub fn head_of_chain(&self) -> Option<Head> {
        let seq = self.head_seq.load(Ordering::SeqCst);
        let mut hash = [0; 32];
        for (bytes, word) in hash.chunks_exact_mut(8).zip(&self.head_hash) {
            bytes.copy_from_slice(&word.load(Ordering::SeqCst).to_le_bytes());
        }
        (seq != 0 && seq == self.head_seq.load(Ordering::SeqCst)).then_some(Head { seq, hash })
    }

    /// Takes a resting slot from its database: no writer, no events, no reservations. Under the table's lock.
    pub fn retire(&self, n: usize) -> bool {
        locked(n.saturating_add(1), || {
            let database = self.database.load(Ordering::SeqCst);
            if database == 0 || self.writer_pid.load(Ordering::SeqCst) != 0 || is_set(&self.wanted) {
                return false;
            }
            self.database.store(0, Ordering::SeqCst);
            if self.used() == 0 && self.reserved.load(Ordering::SeqCst) == 0 {
                return true;
            }
            self.database.store(database, Ordering::SeqCst);
            false
        })
    }

    /// Frees the slot of a database that is gone or has no trail any more; how many events that loses. The caller
    /// is its writer, or the launcher where there is no writer.
    pub fn free(&self, n: usize) -> u64 {
        locked(0, || {
            locked(n.saturating_add(1), || {
                let lost = self.next.load(Ordering::SeqCst).saturating_sub(self.done.load(Ordering::SeqCst));
                self.dropped.fetch_add(lost, Ordering::SeqCst);
                self.database.store(0, Ordering::SeqCst);
                self.wanted.store(0, Ordering::SeqCst);
                self.ready.store(0, Ordering::SeqCst);
                self.tail.store(self.head.load(Ordering::SeqCst), Ordering::SeqCst);
                self.done.store(self.next.load(Ordering::SeqCst), Ordering::SeqCst);
                self.kept.store(self.next.load(Ordering::SeqCst), Ordering::SeqCst);
                lost
            })
        })
    }

    /// Gives a free slot to a database. Under the table's lock; nobody else looks at a slot without a database,
    /// except those who give a reservation back.
    pub fn adopt(&self, database: u32) {
        for counter in [
            &self.base,
            &self.flush,
            &self.events,
            &self.statements,
            &self.denied,
            &self.waits,
            &self.dropped,
            &self.refused,
            &self.faults,
            &self.writers,
            &self.head_seq,
            &self.next,
            &self.done,
            &self.kept,
        ] {
            counter.store(0, Ordering::SeqCst);
        }
        self.leave.store(0, Ordering::SeqCst);
        self.journaled.store(0, Ordering::SeqCst);
        self.of_standby.store(0, Ordering::SeqCst);
        self.oldest_at.store(0, Ordering::SeqCst);
        self.ledger_due.store(0, Ordering::SeqCst);
        self.tail.store(self.head.load(Ordering::SeqCst), Ordering::SeqCst);
        self.database.store(database, Ordering::SeqCst);
    }
}
