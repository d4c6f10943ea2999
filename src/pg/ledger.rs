//! The ledger: what is used up of every total, in shared memory, for all sessions of the server.
//!
//! An entry stands for a window or a block that declares a total. Sessions look their entries up when they bind and hold
//! them; charging is atomics alone (`limit::counter`). What an entry stands for changes under the region's lock in
//! exclusive mode. INVARIANT: an entry is given to another id only when its own has been over for a while: throwing a
//! live one out would refill it. Where there is no room, a token is refused.
//!
//! It stores nothing: `mark` asks the writer for that, and `ledger_store` is the writer's part.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU64, Ordering};

use pgrx::pg_sys;

use super::region::Region;
use super::shmem::SharedCondition;
use crate::limit::METERS;
use crate::limit::counter::Counter;

/// Entries of the whole server: sixty-four windows with all that they may have.
const ENTRIES: usize = 16_384;
/// Entries that the blocks of one window, and the window itself, may have at a time.
pub const ENTRIES_OF_WINDOW: usize = 256;
/// How long after its end an entry stays: what runs under it has been cancelled by then.
const GRACE: i64 = 60_000_000;

/// The counters of an entry: atomics alone, so that they may be held without a lock.
#[repr(C)]
pub struct Tally {
    counters: [Counter; METERS],
    /// To what somebody wants the marks raised.
    wanted: [AtomicU64; METERS],
}

impl Tally {
    /// The counter with this index, which is a meter's.
    pub fn counter(&self, meter: usize) -> &Counter {
        // Meters have indexes below METERS; another one would be the last.
        self.counters.get(meter).unwrap_or(&self.counters[METERS - 1])
    }

    /// Asks for a mark; whether nobody has asked for as much before.
    pub fn want(&self, meter: usize, mark: u64) -> bool {
        self.wanted.get(meter).is_some_and(|wanted| wanted.fetch_max(mark, Ordering::SeqCst) < mark)
    }

    fn used(&self) -> [u64; METERS] {
        std::array::from_fn(|meter| self.counter(meter).used())
    }

    /// What the table should hold if all that is wanted is granted.
    fn marks_wanted(&self) -> [u64; METERS] {
        std::array::from_fn(|meter| {
            let wanted = self.wanted.get(meter).map_or(0, |wanted| wanted.load(Ordering::SeqCst));
            self.counter(meter).mark().max(wanted)
        })
    }

    fn wants(&self) -> bool {
        (0..METERS).any(|meter| {
            self.wanted
                .get(meter)
                .is_some_and(|wanted| wanted.load(Ordering::SeqCst) > self.counter(meter).mark())
        })
    }
}

/// What an entry stands for. All zero for a free one.
#[derive(Clone, Copy)]
pub struct Label {
    /// The window's or the block's id.
    pub id: [u8; 16],
    /// The window.
    pub window: [u8; 16],
    /// The database's OID; 0 for a free entry.
    pub database: u32,
    /// When it is over, in microseconds since the Unix epoch.
    pub ends: i64,
}

#[repr(C)]
struct Entry {
    /// Under the region's lock.
    label: UnsafeCell<Label>,
    tally: Tally,
}

#[repr(C)]
struct Shared {
    /// Entries that were ever used. Under the region's lock.
    count: usize,
    /// Woken when marks have been raised.
    raised: SharedCondition,
    entries: [Entry; ENTRIES],
}

// SAFETY: labels are read and written under the region's lock, everything else is atomics and a condition variable.
unsafe impl Sync for Shared {}

static REGION: Region<Shared> = Region::new(c"agent_guard ledger");

/// Asks for the memory.
///
/// # Safety
/// Called from shmem_request_hook.
pub unsafe fn request() {
    // SAFETY: the caller's promise.
    unsafe { REGION.request(size_of::<Shared>()) };
}

/// Attaches to the memory.
///
/// # Safety
/// Called from shmem_startup_hook.
pub unsafe fn attach() {
    // SAFETY: the caller's promise; zero bytes are free entries with fresh counters.
    unsafe { REGION.attach(size_of::<Shared>(), |shared| shared.raised.init()) };
}

/// The condition that is woken when marks have been raised.
pub fn raised() -> Option<&'static SharedCondition> {
    REGION.get().map(|shared| &shared.raised)
}

/// Why there is no entry to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// The window has all that it may have.
    Window,
    /// The table is full.
    Server,
}

/// Visits the labels and tallies of all entries that were ever used, under the lock, until `visit` gives something. `visit`
/// must not raise.
fn search<R>(mut visit: impl FnMut(&mut Label, &'static Tally) -> Option<R>) -> Option<R> {
    let entries = &REGION.get()?.entries;
    REGION
        .locked(pg_sys::LWLockMode::LW_EXCLUSIVE, |shared| {
            // SAFETY: under the exclusive lock.
            let count = unsafe { (*shared).count };
            entries.iter().take(count).find_map(|entry| {
                // SAFETY: as above.
                visit(unsafe { &mut *entry.label.get() }, &entry.tally)
            })
        })
        .flatten()
}

/// The entry of a window or block, if it has one.
pub fn known(id: &[u8; 16], database: u32) -> Option<&'static Tally> {
    search(|label, tally| (label.database == database && label.id == *id).then_some(tally))
}

/// The entry of a window or block, made now if it has none, with `stored` as what is used up: what the table says.
///
/// # Errors
/// Where there is no room for another one.
pub fn open(wanted: Label, stored: [u64; METERS], now: i64) -> Result<&'static Tally, NoRoom> {
    let Some(memory) = REGION.get() else { return Err(NoRoom::Server) };
    let opened = REGION.locked(pg_sys::LWLockMode::LW_EXCLUSIVE, |shared| {
        // SAFETY: under the exclusive lock.
        let count = unsafe { &mut (*shared).count };
        let mut siblings = 0;
        let mut free = None;
        for entry in memory.entries.iter().take(*count) {
            // SAFETY: under the exclusive lock.
            let label = unsafe { &*entry.label.get() };
            if label.database == wanted.database && label.id == wanted.id {
                return Ok(&entry.tally);
            }
            if label.database == 0 || label.ends.saturating_add(GRACE) < now {
                free = free.or(Some(entry));
            } else if label.window == wanted.window {
                siblings += 1;
            }
        }
        if siblings >= ENTRIES_OF_WINDOW {
            return Err(NoRoom::Window);
        }
        if free.is_none() {
            free = memory.entries.get(*count);
            *count += usize::from(free.is_some());
        }
        let entry = free.ok_or(NoRoom::Server)?;
        for (meter, stored) in stored.into_iter().enumerate() {
            entry.tally.counter(meter).load(stored);
            if let Some(wanted) = entry.tally.wanted.get(meter) {
                wanted.store(0, Ordering::SeqCst);
            }
        }
        // SAFETY: under the exclusive lock.
        unsafe { *entry.label.get() = wanted };
        Ok(&entry.tally)
    });
    opened.unwrap_or(Err(NoRoom::Server))
}

/// A window was revoked: its entries may go when what runs under them has been cancelled.
pub fn window_over(window: &[u8; 16], now: i64) {
    search::<()>(|label, _| {
        if label.window == *window {
            label.ends = label.ends.min(now);
        }
        None
    });
}

/// What the writer is to store for one entry.
pub struct Marks {
    /// What it stands for.
    pub label: Label,
    /// The marks.
    pub marks: [u64; METERS],
}

/// The entries of a database whose marks somebody wants raised.
pub fn wanted(database: u32) -> Vec<Marks> {
    let mut found = Vec::new();
    search::<()>(|label, tally| {
        if label.database == database && tally.wants() {
            found.push(Marks { label: *label, marks: tally.marks_wanted() });
        }
        None
    });
    found
}

/// The table holds these marks, durably: they may be used.
pub fn raise(stored: &[Marks]) {
    search::<()>(|label, tally| {
        let mine = stored.iter().find(|one| one.label.id == label.id && one.label.database == label.database);
        for (meter, mark) in mine.iter().flat_map(|one| one.marks).enumerate() {
            tally.counter(meter).raise(mark);
        }
        None
    });
    if let Some(raised) = raised() {
        raised.broadcast();
    }
}

/// Lowers the marks of a database to what is used, where nobody is charging; what is to be stored then.
pub fn lower(database: u32) -> Vec<Marks> {
    let mut found = Vec::new();
    search::<()>(|label, tally| {
        if label.database == database && !tally.wants() {
            let mut lowered = false;
            for meter in 0..METERS {
                lowered |= tally.counter(meter).lower().is_some();
                // What was wanted has been granted, and is no longer so.
                if let Some(wanted) = tally.wanted.get(meter) {
                    wanted.store(tally.counter(meter).mark(), Ordering::SeqCst);
                }
            }
            if lowered {
                let marks = std::array::from_fn(|meter| tally.counter(meter).mark());
                found.push(Marks { label: *label, marks });
            }
        }
        None
    });
    found
}

/// What is used of every entry of a database.
pub fn list(database: u32) -> Vec<(Label, [u64; METERS])> {
    let mut found = Vec::new();
    search::<()>(|label, tally| {
        if label.database == database {
            found.push((*label, tally.used()));
        }
        None
    });
    found
}
