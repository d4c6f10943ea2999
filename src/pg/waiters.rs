//! Backends that wait for their events to be on disk, each in a place of its own, so that the writer wakes those whose wait is
//! over and nobody else.
//!
//! A condition variable would wake all of them at each write to the disk, half of them for nothing: they wait for the next one.

use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use pgrx::pg_sys;

use super::bindings::own_index;
use super::region::Region;
use super::shmem::set_latch;
use super::slot::Slot;

/// Where one backend waits.
#[repr(C, align(64))]
pub struct Place {
    /// The number of the first event that need not be on disk; 0 while nobody waits here. Set by the backend, cleared by whoever ends
    /// the wait: the writer, or the backend itself.
    target: AtomicU64,
    /// The index of the audit slot whose writer is to end it. Written by the backend.
    slot: AtomicU32,
    /// The backend's latch.
    latch: AtomicPtr<pg_sys::Latch>,
}

#[repr(C, align(64))]
struct Shared {
    count: u32,
    // followed by that many places
}

static REGION: Region<Shared> = Region::new(c"agent_guard waiters");

fn places_wanted() -> usize {
    // SAFETY: MaxBackends is final when the request hook runs (InitializeMaxBackends, postmaster.c).
    usize::try_from(unsafe { pg_sys::MaxBackends }).unwrap_or(0)
}

fn bytes_wanted() -> usize {
    // Shared memory is aligned to cache lines (ShmemAlloc in shmem.c); what is left over is for a server where they are shorter.
    size_of::<Shared>() + places_wanted() * size_of::<Place>() + align_of::<Place>()
}

/// Asks for the memory.
///
/// # Safety
/// Called from shmem_request_hook.
pub unsafe fn request() {
    // SAFETY: the caller's promise.
    unsafe { REGION.request(bytes_wanted()) };
}

/// Attaches to the memory.
///
/// # Safety
/// Called from shmem_startup_hook.
pub unsafe fn attach() {
    // SAFETY: the caller's promise; all-zero bytes are a valid header and places where nobody waits.
    unsafe {
        REGION.attach(bytes_wanted(), |shared| {
            shared.count = u32::try_from(places_wanted()).unwrap_or(0);
        });
    }
}

/// All places.
fn places() -> &'static [Place] {
    let Some(shared) = REGION.get() else { return &[] };
    // SAFETY: bytes_wanted() made room for `count` places behind the header, wherever they begin; all that changes is atomic.
    unsafe {
        let after = std::ptr::from_ref(shared).add(1).cast::<u8>();
        let first = after.add(after.align_offset(align_of::<Place>())).cast::<Place>();
        std::slice::from_raw_parts(first, shared.count as usize)
    }
}

/// This backend's place; `None` in a process that is no backend.
pub fn mine() -> Option<&'static Place> {
    places().get(own_index()?)
}

impl Place {
    /// Waits from now on for the events before `target` of slot `n`. What is looked at after this cannot be missed.
    pub fn join(&self, n: usize, slot: &Slot, target: u64) {
        if self.target.load(Ordering::SeqCst) != 0 {
            return;
        }
        // SAFETY: a plain variable of this process.
        self.latch.store(unsafe { pg_sys::MyLatch }, Ordering::SeqCst);
        self.slot.store(u32::try_from(n).unwrap_or(u32::MAX), Ordering::SeqCst);
        slot.waiting.fetch_add(1, Ordering::SeqCst);
        self.target.store(target, Ordering::SeqCst);
    }

    /// Waits no longer.
    pub fn leave(&self, slot: &Slot) {
        if self.target.swap(0, Ordering::SeqCst) != 0 {
            slot.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Sleeps until woken, at most so long; with interrupts held, see `trail::sleep_held`.
    pub fn sleep(&self, longest: Duration) {
        let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
        let timeout = i64::try_from(longest.as_millis()).unwrap_or(i64::MAX).max(1);
        // SAFETY: HOLD_INTERRUPTS and RESUME_INTERRUPTS around a wait on the process's own latch. Nothing between them raises but a
        // failure of epoll, after which the server resets the count (AbortTransaction).
        unsafe {
            pg_sys::InterruptHoldoffCount += 1;
            if self.target.load(Ordering::SeqCst) != 0 {
                let events = i32::try_from(events).unwrap_or(0);
                pg_sys::WaitLatch(pg_sys::MyLatch, events, timeout, pg_sys::PG_WAIT_EXTENSION);
                pg_sys::ResetLatch(pg_sys::MyLatch);
            }
            pg_sys::InterruptHoldoffCount -= 1;
        }
    }
}

/// Ends the waits for events before `kept` of slot `n`. Called by the slot's writer.
pub fn end_before(n: usize, slot: &Slot, kept: u64) {
    if slot.waiting.load(Ordering::SeqCst) == 0 {
        return;
    }
    for place in places() {
        let target = place.target.load(Ordering::SeqCst);
        let over =
            target != 0 && target <= kept && usize::try_from(place.slot.load(Ordering::SeqCst)) == Ok(n);
        // The backend may just be leaving by itself.
        if over && place.target.compare_exchange(target, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            slot.waiting.fetch_sub(1, Ordering::SeqCst);
            set_latch(&place.latch);
        }
    }
}
