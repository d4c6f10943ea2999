//! The audit rings' shared memory: a table of slots, one for each database with a trail, and their rings.
//!
//! Locks, all from one named tranche, taken in this order and never across anything that can raise:
//! - *table* (lock 0), exclusive: giving a slot to a database, taking it away.
//! - *slot* (lock 1 + n), exclusive: appending a record, that is `head`, `next` and the bytes at `head`; freeing
//!   the slot. Held for a copy of at most 64 KiB, so a backend that dies never leaves half a record.
//!
//! Everything else is an atomic; `slot.rs` says who writes which. Bytes between `tail` and `head` change for
//! nobody: the writer reads them without a lock.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use pgrx::prelude::*;

use super::guc_audit;
use super::slot::Slot;

/// What all processes share beside the slots.
#[repr(C)]
pub struct Control {
    /// How many slots follow.
    slots: u32,
    /// Bytes of each ring.
    pub ring_size: u64,
    /// The launcher's process id; 0 while there is none.
    pub launcher_pid: AtomicI32,
    /// The launcher's latch; stays valid after its death (it then is another process's, or nobody's).
    pub launcher_latch: AtomicPtr<pg_sys::Latch>,
    /// When the last launcher began, in microseconds since the Unix epoch.
    launcher_began: AtomicI64,
    /// Events of backends for which there was no slot at all.
    pub homeless: AtomicU64,
}

static CONTROL: AtomicPtr<Control> = AtomicPtr::new(std::ptr::null_mut());
static LOCKS: AtomicPtr<pg_sys::LWLockPadded> = AtomicPtr::new(std::ptr::null_mut());

static mut PREVIOUS_REQUEST: pg_sys::shmem_request_hook_type = None;
static mut PREVIOUS_STARTUP: pg_sys::shmem_startup_hook_type = None;

const TRANCHE: &std::ffi::CStr = c"agent_guard";
const ALIGNMENT: usize = 128;

/// Installs the hooks that reserve and set up the memory. Called once, from `_PG_init`.
pub fn init() {
    // SAFETY: `_PG_init` runs in the postmaster, which has one thread; hooks are plain function pointers.
    unsafe {
        PREVIOUS_REQUEST = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(request_hook);
        PREVIOUS_STARTUP = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(startup_hook);
    }
}

unsafe extern "C-unwind" fn request_hook() {
    // SAFETY: set once by `init` before the server calls any hook.
    if let Some(previous) = unsafe { PREVIOUS_REQUEST } {
        // SAFETY: the hook that was installed before ours, called as the server would.
        unsafe { previous() };
    }
    request();
}

unsafe extern "C-unwind" fn startup_hook() {
    // SAFETY: set once by `init` before the server calls any hook.
    if let Some(previous) = unsafe { PREVIOUS_STARTUP } {
        // SAFETY: the hook that was installed before ours, called as the server would.
        unsafe { previous() };
    }
    startup();
}

#[pg_guard]
extern "C-unwind" fn request() {
    let locks = i32::try_from(guc_audit::databases()).unwrap_or(0).saturating_add(1);
    // SAFETY: called from shmem_request_hook, the only place where both are allowed.
    unsafe {
        pg_sys::RequestAddinShmemSpace(layout().total);
        pg_sys::RequestNamedLWLockTranche(TRANCHE.as_ptr(), locks);
    }
}

#[pg_guard]
extern "C-unwind" fn startup() {
    let layout = layout();
    let mut found = false;
    // SAFETY: called from shmem_startup_hook; the name is ours and the size is that of the request.
    let base = unsafe { pg_sys::ShmemInitStruct(TRANCHE.as_ptr(), layout.total, &mut found) };
    let control = base.cast::<Control>();
    if !found {
        // SAFETY: `base` is fresh memory of `layout.total` bytes, MAXALIGNed; nobody else knows it yet. All-zero
        // bytes are a valid Control and valid Slots but for what is set here. The rings need no content.
        unsafe {
            std::ptr::write_bytes(base.cast::<u8>(), 0, layout.rings);
            (*control).slots = u32::try_from(guc_audit::databases()).unwrap_or(0);
            (*control).ring_size = guc_audit::buffer();
            for n in 0..guc_audit::databases() {
                let slot = slot_at(control, n);
                let bytes = (*control).ring_size;
                (*slot).ring_size = bytes;
                (*slot).ring_at = (layout.rings as u64).saturating_add(bytes.saturating_mul(n as u64));
                pg_sys::ConditionVariableInit((*slot).space.get());
                pg_sys::ConditionVariableInit((*slot).flushed.get());
                pg_sys::ConditionVariableInit((*slot).decided.get());
            }
        }
    }
    CONTROL.store(control, Ordering::Release);
    // SAFETY: the tranche was requested under this name.
    LOCKS.store(unsafe { pg_sys::GetNamedLWLockTranche(TRANCHE.as_ptr()) }, Ordering::Release);
}

struct Layout {
    rings: usize,
    total: usize,
}

/// Where the slots begin.
const SLOTS: usize = size_of::<Control>().next_multiple_of(ALIGNMENT);

/// Where the rings begin behind so many slots.
fn rings_at(slots: usize) -> usize {
    SLOTS.saturating_add(size_of::<Slot>().saturating_mul(slots)).next_multiple_of(ALIGNMENT)
}

fn layout() -> Layout {
    let databases = guc_audit::databases();
    let ring = usize::try_from(guc_audit::buffer()).unwrap_or(usize::MAX);
    let rings = rings_at(databases);
    Layout { rings, total: rings.saturating_add(ring.saturating_mul(databases)) }
}

/// # Safety
/// `control` is the start of the shared area and `n` below the number of slots.
unsafe fn slot_at(control: *mut Control, n: usize) -> *mut Slot {
    // SAFETY: the slots follow the control block at `SLOTS`, as `startup` laid them out.
    unsafe { control.cast::<u8>().add(SLOTS).cast::<Slot>().add(n) }
}

/// The shared memory; `None` where the server did not set it up (a standalone backend, or before startup).
pub fn control() -> Option<&'static Control> {
    // SAFETY: either null or what `startup` set up, which lives as long as the process. All fields that change
    // are atomics.
    unsafe { CONTROL.load(Ordering::Acquire).as_ref() }
}

impl Control {
    /// The slot with this index.
    pub fn slot(&self, n: usize) -> Option<&'static Slot> {
        if n >= self.len() {
            return None;
        }
        // SAFETY: `n` is in range; slots live as long as the process and change only by atomics and cells whose
        // access rules `Slot` keeps.
        Some(unsafe { &*slot_at(CONTROL.load(Ordering::Acquire), n) })
    }

    /// All slots, with their indexes.
    pub fn slots(&self) -> impl Iterator<Item = (usize, &'static Slot)> {
        (0..self.len()).filter_map(|n| Some((n, self.slot(n)?)))
    }

    fn len(&self) -> usize {
        usize::try_from(self.slots).unwrap_or(0)
    }

    /// The slot of a database.
    pub fn slot_of(&self, database: pg_sys::Oid) -> Option<(usize, &'static Slot)> {
        let wanted = u32::from(database);
        // 0 marks free slots; a process without a database has none.
        self.slots().filter(|_| wanted != 0).find(|(_, slot)| slot.database.load(Ordering::Acquire) == wanted)
    }

    /// The slot of a database, given to it now if it has none. Free slots first, then one that rests: whose writer
    /// has ended and whose ring is empty. `None` when every slot is in use.
    pub fn claim_slot(&self, database: pg_sys::Oid) -> Option<(usize, &'static Slot)> {
        if let Some(found) = self.slot_of(database) {
            return Some(found);
        }
        if database == pg_sys::InvalidOid {
            return None;
        }
        locked(0, || {
            // Another backend may have been faster.
            self.slot_of(database).or_else(|| {
                let free = self.slots().find(|(_, slot)| slot.database.load(Ordering::Acquire) == 0);
                let (n, slot) = free.or_else(|| self.slots().find(|(n, slot)| slot.retire(*n)))?;
                slot.adopt(u32::from(database));
                Some((n, slot))
            })
        })
    }

    /// A launcher begins; whether the one before began less than a second ago.
    pub fn launcher_is_hasty(&self, now: i64) -> bool {
        now.saturating_sub(self.launcher_began.swap(now, Ordering::SeqCst)) < 1_000_000
    }

    /// Wakes the launcher, if there is one.
    pub fn wake_launcher(&self) {
        set_latch(&self.launcher_latch);
    }
}

/// The bytes of one slot's ring.
pub struct RingBytes {
    start: *mut u8,
    size: u64,
}

impl RingBytes {
    /// The ring of a slot. Reading is sound between `tail` and `head`, writing only under the slot's lock.
    #[inline]
    pub fn of(slot: &Slot) -> Option<RingBytes> {
        let base = CONTROL.load(Ordering::Acquire).cast::<u8>();
        let at = usize::try_from(slot.ring_at).ok().filter(|at| *at != 0 && !base.is_null())?;
        // SAFETY: `startup` wrote where the ring is within the shared memory, which begins at `base`.
        Some(RingBytes { start: unsafe { base.add(at) }, size: slot.ring_size })
    }

    /// Asks the processor for the bytes at a position, to write to them, without waiting.
    pub fn fetch(&self, position: u64, length: usize) {
        let offset = position.checked_rem(self.size).unwrap_or(0);
        #[cfg(target_arch = "x86_64")]
        if let Some(start) = self.span(offset, length) {
            for line in (0..length).step_by(64) {
                // SAFETY: a hint, which cannot fault, and does nothing on a processor that does not know it; `span` checked the
                // range. Fetched for reading the line would be the writer's as well, and storing would wait for that core.
                unsafe {
                    std::arch::asm!("prefetchw [{}]", in(reg) start.add(line), options(nostack, preserves_flags));
                };
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (offset, length);
    }

    fn span(&self, offset: u64, length: usize) -> Option<*mut u8> {
        let offset = usize::try_from(offset).ok()?;
        let end = u64::try_from(offset.checked_add(length)?).ok()?;
        // SAFETY: within the ring, as checked beside it.
        (end <= self.size).then(|| unsafe { self.start.add(offset) })
    }
}

impl crate::audit::ring::Storage for RingBytes {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, into: &mut [u8]) {
        if let Some(from) = self.span(offset, into.len()) {
            // SAFETY: `span` checked the range; nobody writes between tail and head, where the ring's reader is.
            unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
        }
    }

    fn write(&mut self, offset: u64, from: &[u8]) {
        if let Some(into) = self.span(offset, from.len()) {
            // SAFETY: `span` checked the range; the caller holds the slot's lock and writes outside tail..head.
            unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), into, from.len()) };
        }
    }
}

/// Runs `work` under lock `n` of the tranche. `work` neither raises nor panics nor takes another lock of a
/// higher place in the order.
pub fn locked<R>(n: usize, work: impl FnOnce() -> R) -> R {
    // SAFETY: `startup` stored the tranche of 1 + slots locks and `n` is 0 or 1 + a slot's index.
    unsafe {
        let lock = &raw mut (*LOCKS.load(Ordering::Acquire).add(n)).lock;
        super::quick::locked(lock, work)
    }
}

/// Sets a latch that another process left in shared memory; nothing where none is known.
pub fn set_latch(latch: &AtomicPtr<pg_sys::Latch>) {
    let latch = latch.load(Ordering::Acquire);
    if !latch.is_null() {
        // SAFETY: a PGPROC's latch: that memory is never freed, and setting the latch of whoever has it now only
        // wakes it for nothing.
        unsafe { pg_sys::SetLatch(latch) };
    }
}

/// A condition variable in shared memory.
#[repr(transparent)]
pub struct SharedCondition(UnsafeCell<pg_sys::ConditionVariable>);

impl SharedCondition {
    fn get(&self) -> *mut pg_sys::ConditionVariable {
        self.0.get()
    }

    /// Makes it ready for use.
    ///
    /// # Safety
    /// Nobody else knows the memory yet.
    pub unsafe fn init(&self) {
        // SAFETY: the caller's promise.
        unsafe { pg_sys::ConditionVariableInit(self.get()) };
    }

    /// Wakes everybody who waits.
    pub fn broadcast(&self) {
        // SAFETY: initialised by `startup`; its own spinlock guards it.
        unsafe { pg_sys::ConditionVariableBroadcast(self.get()) };
    }

    /// Joins the waiters; what is checked after this and before `sleep` cannot be missed.
    pub fn prepare(&self) {
        // SAFETY: initialised by `startup`; the process has a PGPROC, since it holds a slot.
        unsafe { pg_sys::ConditionVariablePrepareToSleep(self.get()) };
    }

    /// Waits to be woken, at most so long. Raises on an interrupt, unless the caller holds interrupts.
    pub fn sleep(&self, milliseconds: i64) {
        // SAFETY: as in `prepare`.
        unsafe {
            pg_sys::ConditionVariableTimedSleep(self.get(), milliseconds.max(1), pg_sys::PG_WAIT_EXTENSION);
        }
    }

    /// Leaves the waiters.
    pub fn cancel() {
        // SAFETY: legal at any time, also when nothing was prepared.
        unsafe { pg_sys::ConditionVariableCancelSleep() };
    }
}

/// A flag shared between processes.
pub fn is_set(flag: &AtomicU32) -> bool {
    flag.load(Ordering::SeqCst) != 0
}
