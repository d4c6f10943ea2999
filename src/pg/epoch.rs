//! What all backends must learn at once: policies changed, windows or blocks were revoked, who is bound to what.
//!
//! Shared memory holds two epochs, the revocations of this server's life and one slot for each backend.
//! Lock protocol: `epoch` words are atomics, read without a lock by every guarded statement. `revoked` and the
//! slots are written under the tranche's lock in exclusive mode and read under it in shared mode; nothing that can
//! raise happens while it is held. A slot is written only by its own backend.
//!
//! A revocation takes effect here before its transaction commits and stays after a rollback; the tables keep it
//! across restarts.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use pgrx::pg_sys;

/// Revocations kept in shared memory; beyond that `overflow` sends backends to the tables.
const REVOKED_MAX: usize = 8192;
/// Bytes of a token's public text: 4096 at most by its grammar.
const PUBLIC_MAX: usize = 4096;
/// Blocks of a chain.
const BLOCKS_MAX: usize = 8;
const TRANCHE: &std::ffi::CStr = c"agent_guard";

/// One revoked window (its id) or block (its id).
#[repr(C)]
#[derive(Clone, Copy)]
struct Revoked {
    id: [u8; 16],
    /// Unix seconds after which nothing can be derived from it any more; 0 where that is not known.
    expires: i64,
}

/// What one backend is bound to.
#[repr(C)]
struct Slot {
    pid: i32,
    database: u32,
    window: [u8; 16],
    session: [u8; 16],
    blocks: [[u8; 16]; BLOCKS_MAX],
    block_count: u32,
    public_len: u32,
    public: [u8; PUBLIC_MAX],
}

#[repr(C)]
struct Shared {
    policies: AtomicU64,
    revocations: AtomicU64,
    overflow: AtomicBool,
    /// The latest clock seen by a guarded statement, in microseconds since the Unix epoch.
    clock: AtomicI64,
    slot_count: u32,
    revoked_count: AtomicU32,
    revoked: [Revoked; REVOKED_MAX],
    // followed by slot_count slots
}

static SHARED: AtomicPtr<Shared> = AtomicPtr::new(std::ptr::null_mut());
static LOCK: AtomicPtr<pg_sys::LWLock> = AtomicPtr::new(std::ptr::null_mut());
static CHANGES_AT_COMMIT: AtomicBool = AtomicBool::new(false);

static mut PREV_REQUEST: pg_sys::shmem_request_hook_type = None;
static mut PREV_STARTUP: pg_sys::shmem_startup_hook_type = None;

/// Asks for the shared memory; called once, from `_PG_init`.
pub fn init() {
    // SAFETY: _PG_init runs alone in the postmaster; the hooks are plain function pointers.
    unsafe {
        PREV_REQUEST = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(request);
        PREV_STARTUP = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(startup);
    }
}

fn slots_wanted() -> usize {
    // SAFETY: MaxBackends is final when the request hook runs (InitializeMaxBackends, postmaster.c). Auxiliary
    // processes have backend ids beyond MaxBackends and never a slot.
    usize::try_from(unsafe { pg_sys::MaxBackends }).unwrap_or(0)
}

fn bytes_wanted() -> usize {
    size_of::<Shared>() + slots_wanted() * size_of::<Slot>() + 64
}

unsafe extern "C-unwind" fn request() {
    // SAFETY: the server calls shmem_request_hook once; the previous hook is called first, as it expects.
    unsafe {
        if let Some(previous) = PREV_REQUEST {
            previous();
        }
        pg_sys::RequestAddinShmemSpace(bytes_wanted());
        pg_sys::RequestNamedLWLockTranche(TRANCHE.as_ptr(), 1);
    }
}

unsafe extern "C-unwind" fn startup() {
    // SAFETY: shmem_startup_hook; ShmemInitStruct needs AddinShmemInitLock, as its comment says.
    unsafe {
        if let Some(previous) = PREV_STARTUP {
            previous();
        }
        let mut found = false;
        pg_sys::LWLockAcquire(addin_lock(), pg_sys::LWLockMode::LW_EXCLUSIVE);
        let shared: *mut Shared =
            pg_sys::ShmemInitStruct(c"agent_guard epoch".as_ptr(), bytes_wanted(), &raw mut found).cast();
        if !found {
            std::ptr::write_bytes(shared.cast::<u8>(), 0, bytes_wanted());
            (*shared).slot_count = u32::try_from(slots_wanted()).unwrap_or(0);
            (*shared).policies.store(1, Ordering::Relaxed);
            (*shared).revocations.store(1, Ordering::Relaxed);
        }
        let tranche = pg_sys::GetNamedLWLockTranche(TRANCHE.as_ptr());
        LOCK.store(&raw mut (*tranche).lock, Ordering::Release);
        SHARED.store(shared, Ordering::Release);
        pg_sys::LWLockRelease(addin_lock());
    }
}

/// `AddinShmemInitLock` (src/include/storage/lwlocknames.h: individual lock 21).
///
/// # Safety
/// The main LWLock array exists, as it does when shmem_startup_hook runs.
unsafe fn addin_lock() -> *mut pg_sys::LWLock {
    const ADDIN_SHMEM_INIT_LOCK: usize = 21;
    // SAFETY: see above; the array holds every individual lock.
    unsafe { &raw mut (*pg_sys::MainLWLockArray.add(ADDIN_SHMEM_INIT_LOCK)).lock }
}

fn shared() -> Option<&'static Shared> {
    // SAFETY: set once in the postmaster (or re-attached by the startup hook) to memory that outlives the process.
    unsafe { SHARED.load(Ordering::Acquire).as_ref() }
}

/// Runs `body` under the lock. `body` must not raise, allocate PostgreSQL memory or take another lock.
fn locked<T>(mode: pg_sys::LWLockMode::Type, body: impl FnOnce(*mut Shared) -> T) -> Option<T> {
    let shared = SHARED.load(Ordering::Acquire);
    let lock = LOCK.load(Ordering::Acquire);
    if shared.is_null() || lock.is_null() {
        return None;
    }
    // SAFETY: the lock is ours and not held; body keeps to the promise above, so the release is always reached.
    unsafe {
        pg_sys::LWLockAcquire(lock, mode);
        let value = body(shared);
        pg_sys::LWLockRelease(lock);
        Some(value)
    }
}

/// The slot of this backend, or of another by its index.
///
/// # Safety
/// `index` is below `slot_count`, and the caller holds the lock.
unsafe fn slot(shared: *mut Shared, index: usize) -> *mut Slot {
    // SAFETY: bytes_wanted() made room for slot_count slots behind the header.
    unsafe {
        let after = shared.add(1).cast::<u8>();
        let aligned = after.add(after.align_offset(align_of::<Slot>()));
        aligned.cast::<Slot>().add(index)
    }
}

fn own_index() -> Option<usize> {
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    // SAFETY: a plain integer of this process, -1 (InvalidBackendId) before it has one; ids start at 1.
    let id = unsafe { pg_sys::MyBackendId } - 1;
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    // SAFETY: a plain integer of this process, -1 before it has one.
    let id = unsafe { pg_sys::MyProcNumber };
    let index = usize::try_from(id).ok()?;
    (index < shared()?.slot_count as usize).then_some(index)
}

/// The number that moves whenever a policy, rule or window that somebody may have read is no longer what it was.
pub fn policies() -> u64 {
    shared().map_or(0, |shared| shared.policies.load(Ordering::Acquire))
}

/// The number that moves at every revocation.
pub fn revocations() -> u64 {
    shared().map_or(0, |shared| shared.revocations.load(Ordering::Acquire))
}

/// Moves the policy epoch when this transaction commits. Called by the triggers on the policy tables.
pub fn policy_changes_at_commit() {
    CHANGES_AT_COMMIT.store(true, Ordering::Relaxed);
}

/// The transaction callback's part: after ProcArrayEndTransaction, so that whoever sees the new epoch sees the rows.
pub fn transaction_ended(event: pg_sys::XactEvent::Type) {
    let committed =
        matches!(event, pg_sys::XactEvent::XACT_EVENT_COMMIT | pg_sys::XactEvent::XACT_EVENT_PREPARE);
    let ended = committed || event == pg_sys::XactEvent::XACT_EVENT_ABORT;
    let changed = ended && CHANGES_AT_COMMIT.swap(false, Ordering::Relaxed);
    if let Some(shared) = shared().filter(|_| changed && committed) {
        shared.policies.fetch_add(1, Ordering::AcqRel);
    }
}

/// The clock in microseconds since the Unix epoch, never more than five seconds behind what any guarded session saw:
/// setting the system's clock back does not bring expired windows back to life.
pub fn clock() -> i64 {
    let now = super::scan::clock();
    let Some(shared) = shared() else { return now };
    let floor = shared.clock.load(Ordering::Relaxed);
    if now > floor.saturating_add(1_000_000) {
        shared.clock.fetch_max(now, Ordering::Relaxed);
    } else if now < floor.saturating_sub(5_000_000) {
        return floor;
    }
    now
}

fn add_revoked(id: &[u8; 16], expires: i64) {
    locked(pg_sys::LWLockMode::LW_EXCLUSIVE, |shared| {
        // SAFETY: under the exclusive lock; the count never passes the array's length.
        unsafe {
            let count = (*shared).revoked_count.load(Ordering::Relaxed) as usize;
            if count < REVOKED_MAX {
                let revoked = &mut (*shared).revoked;
                if let Some(place) = revoked.get_mut(count) {
                    *place = Revoked { id: *id, expires };
                    (*shared).revoked_count.fetch_add(1, Ordering::Relaxed);
                }
            } else {
                (*shared).overflow.store(true, Ordering::Relaxed);
            }
            (*shared).revocations.fetch_add(1, Ordering::AcqRel);
        }
    });
}

/// Revokes a window at once in every backend and cancels what its sessions run. `expires` is unix seconds.
/// Returns the number of sessions bound to it.
pub fn revoke_window(window: &[u8; 16], expires: i64) -> usize {
    add_revoked(window, expires);
    signal_sessions(|slot| slot.window == *window)
}

/// Revokes a block, hence all that is derived from it. Returns the number of sessions bound to one of them.
pub fn revoke_block(block: &[u8; 16]) -> usize {
    add_revoked(block, 0);
    signal_sessions(|slot| slot.blocks.iter().take(slot.block_count as usize).any(|own| own == block))
}

fn signal_sessions(affected: impl Fn(&Slot) -> bool) -> usize {
    let mut pids = Vec::with_capacity(64);
    each_slot(|slot| {
        if slot.pid != 0 && affected(slot) {
            pids.push(slot.pid);
        }
    });
    for pid in &pids {
        // SAFETY: a plain signal to a backend of this server; SIGINT cancels its running statement, as pg_cancel_backend does.
        // A pid that ended in between belongs to nobody or to a fellow backend, which a cancel does not harm beyond its statement.
        unsafe { libc_kill(*pid, SIGINT) };
    }
    pids.len()
}

const SIGINT: i32 = 2;

unsafe extern "C" {
    #[link_name = "kill"]
    fn libc_kill(pid: i32, signal: i32) -> i32;
}

fn each_slot(mut visit: impl FnMut(&Slot)) {
    locked(pg_sys::LWLockMode::LW_SHARED, |shared| {
        // SAFETY: under the lock; the index stays below slot_count.
        unsafe {
            for index in 0..(*shared).slot_count as usize {
                visit(&*slot(shared, index));
            }
        }
    });
}

/// Whether a window or block of this id was revoked since the server started.
pub fn is_revoked(id: &[u8; 16]) -> bool {
    locked(pg_sys::LWLockMode::LW_SHARED, |shared| {
        // SAFETY: under the lock; the count never passes the array's length.
        unsafe {
            let count = (*shared).revoked_count.load(Ordering::Relaxed) as usize;
            let revoked = &(*shared).revoked;
            revoked.iter().take(count).any(|revoked| revoked.id == *id)
        }
    })
    .unwrap_or(true)
}

/// Whether more was revoked than shared memory holds, so that the tables have to be asked.
pub fn revocations_overflowed() -> bool {
    shared().is_none_or(|shared| shared.overflow.load(Ordering::Relaxed))
}

/// Publishes what this backend is bound to. `public` is the token without its secret tag.
///
/// False, and nothing is published, where `max_sessions` others are bound to the window already.
pub fn bind(
    database: u32,
    window: &[u8; 16],
    session: &[u8; 16],
    blocks: &[[u8; 16]],
    public: &str,
    max_sessions: Option<usize>,
) -> bool {
    let Some(index) = own_index() else { return false };
    locked(pg_sys::LWLockMode::LW_EXCLUSIVE, |shared| {
        // SAFETY: under the exclusive lock.
        let others = unsafe { bound_to(shared, window, index) };
        if max_sessions.is_some_and(|limit| others >= limit) {
            return false;
        }
        // SAFETY: under the exclusive lock; own_index() is below slot_count.
        let slot = unsafe { &mut *slot(shared, index) };
        // SAFETY: a plain integer of this process.
        slot.pid = unsafe { pg_sys::MyProcPid };
        slot.database = database;
        slot.window = *window;
        slot.session = *session;
        slot.block_count = 0;
        for (place, block) in slot.blocks.iter_mut().zip(blocks) {
            *place = *block;
            slot.block_count += 1;
        }
        slot.public_len = 0;
        for (place, byte) in slot.public.iter_mut().zip(public.bytes()) {
            *place = byte;
            slot.public_len += 1;
        }
        true
    })
    .unwrap_or(false)
}

/// Takes this backend's slot back; also called when the process exits.
pub fn unbind() {
    let Some(index) = own_index() else { return };
    locked(pg_sys::LWLockMode::LW_EXCLUSIVE, |shared| {
        // SAFETY: as in bind().
        let slot = unsafe { &mut *slot(shared, index) };
        slot.pid = 0;
        slot.public_len = 0;
        slot.block_count = 0;
    });
}

/// Arranges that the slot is taken back when the backend exits. Called once a backend, before its first bind.
pub fn unbind_at_exit() {
    // SAFETY: before_shmem_exit keeps a function pointer for the life of the process.
    unsafe { pg_sys::before_shmem_exit(Some(at_exit), pg_sys::Datum::from(0)) };
}

unsafe extern "C-unwind" fn at_exit(_code: i32, _arg: pg_sys::Datum) {
    unbind();
}

/// What the leader of this parallel worker is bound to: window, session, public text of its token.
pub fn leader() -> Option<([u8; 16], [u8; 16], String)> {
    // SAFETY: MyProc is this process's own entry; a worker's leader outlives it (BecomeLockGroupMember).
    let leader = unsafe { pg_sys::MyProc.as_ref()?.lockGroupLeader.as_ref()? };
    let pid = leader.pid;
    let mut found = None;
    let mut text = [0u8; PUBLIC_MAX];
    each_slot(|slot| {
        if slot.pid == pid && found.is_none() {
            let len = (slot.public_len as usize).min(PUBLIC_MAX);
            for (to, from) in text.iter_mut().zip(slot.public.iter()) {
                *to = *from;
            }
            found = Some((slot.window, slot.session, len));
        }
    });
    let (window, session, len) = found?;
    let text = String::from_utf8(text.get(..len)?.to_vec()).ok()?;
    Some((window, session, text))
}

/// The number of other sessions that are bound to a window.
pub fn sessions_of(window: &[u8; 16]) -> usize {
    let own = own_index().unwrap_or(usize::MAX);
    // SAFETY: under the lock.
    locked(pg_sys::LWLockMode::LW_SHARED, |shared| unsafe { bound_to(shared, window, own) })
        .unwrap_or(usize::MAX)
}

/// Counts the slots of a window, but for one of them.
///
/// # Safety
/// The caller holds the lock.
unsafe fn bound_to(shared: *mut Shared, window: &[u8; 16], but: usize) -> usize {
    // SAFETY: the index stays below slot_count.
    unsafe {
        let count = (*shared).slot_count as usize;
        (0..count)
            .filter(|index| *index != but)
            .filter(|index| {
                let slot = &*slot(shared, *index);
                slot.pid != 0 && slot.window == *window
            })
            .count()
    }
}

/// Whether this session is one of a guarded role.
pub fn guarded_session() -> bool {
    super::guc::guarded()
}
