//! Who is bound to what: one slot in shared memory for each backend, written by that backend alone but for the fields
//! of its end, which the warden and whoever revokes write.
//!
//! Slots are written under the region's lock in exclusive mode and read under it in shared mode.

use std::sync::atomic::{AtomicI64, Ordering};

use pgrx::pg_sys;

use super::region::Region;
use crate::limit::Holder;

/// Bytes of a token's public text: 4096 at most by its grammar.
const PUBLIC_MAX: usize = 4096;
/// Blocks of a chain.
const BLOCKS_MAX: usize = 8;
/// Names of a lineage, 64 bytes each at most, with a separator.
const LINEAGE_MAX: usize = 9 * 65;

/// Why a binding came to its end from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its window or one of its blocks was revoked.
    Revoked,
    /// Its window or one of its blocks has expired.
    Expired,
}

/// What one backend is bound to. All-zero bytes are an unbound slot.
#[repr(C)]
pub struct Slot {
    pid: i32,
    /// The address of the backend's entry in the server's array of processes, which stays its own until it exits.
    process: usize,
    /// The database's OID.
    pub database: u32,
    /// The window.
    pub window: [u8; 16],
    /// The session.
    pub session: [u8; 16],
    blocks: [[u8; 16]; BLOCKS_MAX],
    block_count: u32,
    public_len: u32,
    public: [u8; PUBLIC_MAX],
    lineage_len: u32,
    lineage: [u8; LINEAGE_MAX],
    /// The login role's OID.
    pub role: u32,
    /// When it was bound, in microseconds since the Unix epoch.
    pub bound_at: i64,
    /// When it ends by itself, in microseconds since the Unix epoch.
    pub expires_at: i64,
    /// 0 in force, 1 revoked, 2 expired.
    ended: u8,
    /// The local transaction in which the session let go of its token (`pid` is 0 then); 0 for none. What that transaction
    /// holds goes with the token all the same.
    released_in: u32,
    /// The backend's process, also after it has let go.
    backend: i32,
    /// The local transaction that was open at the end and has to go; 0 for none. Stays when the slot is bound anew.
    doomed: u32,
    /// When that transaction was doomed, in microseconds since the Unix epoch.
    doomed_at: i64,
    /// Why it was doomed, as `ended`.
    doomed_by: u8,
}

impl Slot {
    /// The backend's process; `None` for a slot without a binding.
    pub fn pid(&self) -> Option<i32> {
        (self.pid != 0).then_some(self.pid)
    }

    /// The blocks' ids, the root's first.
    pub fn blocks(&self) -> &[[u8; 16]] {
        self.blocks.get(..self.block_count as usize).unwrap_or(&[])
    }

    /// The names of the lineage.
    pub fn lineage(&self) -> Vec<String> {
        let bytes = self.lineage.get(..self.lineage_len as usize).unwrap_or(&[]);
        String::from_utf8_lossy(bytes).split('\n').map(str::to_owned).collect()
    }

    /// Whether and why it came to its end.
    pub fn ended(&self) -> Option<Ended> {
        ended(self.ended)
    }
}

fn ended(code: u8) -> Option<Ended> {
    match code {
        0 => None,
        1 => Some(Ended::Revoked),
        _ => Some(Ended::Expired),
    }
}

fn code(ended: Ended) -> u8 {
    match ended {
        Ended::Revoked => 1,
        Ended::Expired => 2,
    }
}

#[repr(C)]
struct Shared {
    slot_count: u32,
    /// When the warden looks next by itself, in microseconds since the Unix epoch.
    next_look: AtomicI64,
    // followed by slot_count slots
}

static REGION: Region<Shared> = Region::new(c"agent_guard bindings");

fn slots_wanted() -> usize {
    // SAFETY: MaxBackends is final when the request hook runs (InitializeMaxBackends, postmaster.c). Auxiliary
    // processes have backend ids beyond MaxBackends and never a slot.
    usize::try_from(unsafe { pg_sys::MaxBackends }).unwrap_or(0)
}

fn bytes_wanted() -> usize {
    size_of::<Shared>() + slots_wanted() * size_of::<Slot>() + 64
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
    // SAFETY: the caller's promise; all-zero bytes are a valid header and unbound slots.
    unsafe {
        REGION.attach(bytes_wanted(), |shared| {
            shared.slot_count = u32::try_from(slots_wanted()).unwrap_or(0);
        });
    }
}

/// The slot of this index.
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
    (index < REGION.get()?.slot_count as usize).then_some(index)
}

/// Visits every slot under the lock; `visit` must not raise.
pub fn each(mut visit: impl FnMut(&Slot)) {
    REGION.locked(pg_sys::LWLockMode::LW_SHARED, |shared| {
        // SAFETY: under the lock; the index stays below slot_count.
        unsafe {
            for index in 0..(*shared).slot_count as usize {
                visit(&*slot(shared, index));
            }
        }
    });
}

/// Visits this backend's slot under the exclusive lock.
fn with_own<R>(visit: impl FnOnce(&mut Slot) -> R) -> Option<R> {
    let index = own_index()?;
    // SAFETY: under the exclusive lock; own_index() is below slot_count.
    REGION.locked(pg_sys::LWLockMode::LW_EXCLUSIVE, |shared| visit(unsafe { &mut *slot(shared, index) }))
}

/// What a session publishes of itself.
pub struct Binding<'a> {
    /// The database's OID.
    pub database: u32,
    /// The login role's OID.
    pub role: u32,
    /// The window.
    pub window: &'a [u8; 16],
    /// The session.
    pub session: &'a [u8; 16],
    /// The blocks, the root's first.
    pub blocks: &'a [[u8; 16]],
    /// The token without its secret tag.
    pub public: &'a str,
    /// The names of the lineage.
    pub lineage: &'a [String],
    /// Now, in microseconds since the Unix epoch.
    pub bound_at: i64,
    /// The end, in microseconds since the Unix epoch.
    pub expires_at: i64,
    /// How many sessions may be bound to the window at a time.
    pub max_sessions: Option<usize>,
    /// How many sessions may be bound at a time to a block or what is derived from it.
    pub sessions: &'a [(Holder, [u8; 16], usize)],
}

/// Whether there was a slot for a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// It is published.
    Yes,
    /// The window has as many sessions as it may have.
    WindowFull,
    /// A block has as many as it may have.
    BlockFull(Holder, usize),
}

/// Copies as much as fits; how much that is.
fn copy(from: &[u8], into: &mut [u8]) -> u32 {
    into.iter_mut().zip(from).map(|(to, from)| *to = *from).count().try_into().unwrap_or(0)
}

/// Publishes what this backend is bound to, unless as many others are bound as may be.
pub fn bind(binding: &Binding<'_>) -> Bound {
    let Some(index) = own_index() else { return Bound::WindowFull };
    let lineage = binding.lineage.join("\n");
    let bound = REGION.locked(pg_sys::LWLockMode::LW_EXCLUSIVE, |shared| {
        // SAFETY: under the exclusive lock.
        let others = unsafe { bound_to(shared, index, |slot| slot.window == *binding.window) };
        if binding.max_sessions.is_some_and(|limit| others >= limit) {
            return Bound::WindowFull;
        }
        for (holder, id, limit) in binding.sessions {
            // SAFETY: as above.
            if unsafe { bound_to(shared, index, |slot| slot.blocks().contains(id)) } >= *limit {
                return Bound::BlockFull(*holder, *limit);
            }
        }
        // SAFETY: under the exclusive lock; own_index() is below slot_count.
        let slot = unsafe { &mut *slot(shared, index) };
        // SAFETY: plain values of this process.
        (slot.pid, slot.process) = unsafe { (pg_sys::MyProcPid, pg_sys::MyProc.expose_provenance()) };
        (slot.database, slot.role) = (binding.database, binding.role);
        (slot.window, slot.session) = (*binding.window, *binding.session);
        slot.block_count = 0;
        for (place, block) in slot.blocks.iter_mut().zip(binding.blocks) {
            *place = *block;
            slot.block_count += 1;
        }
        slot.public_len = copy(binding.public.as_bytes(), &mut slot.public);
        slot.lineage_len = copy(lineage.as_bytes(), &mut slot.lineage);
        (slot.bound_at, slot.expires_at) = (binding.bound_at, binding.expires_at);
        (slot.ended, slot.released_in, slot.backend) = (0, 0, slot.pid);
        Bound::Yes
    });
    bound.unwrap_or(Bound::WindowFull)
}

/// Whether the warden sleeps beyond this moment, so that it has to be woken.
pub fn sleeps_beyond(moment: i64) -> bool {
    REGION.get().is_some_and(|shared| moment < shared.next_look.load(Ordering::SeqCst))
}

/// The warden tells when it looks next.
pub fn looks_next(moment: i64) {
    if let Some(shared) = REGION.get() {
        shared.next_look.store(moment, Ordering::SeqCst);
    }
}

/// The session lets go of its token.
pub fn unbind() {
    with_own(|slot| {
        if slot.pid != 0 {
            // SAFETY: this backend's own entry.
            slot.released_in = unsafe { open_transaction(slot.process) };
            slot.pid = 0;
        }
    });
}

/// Arranges that the slot is taken back when the backend exits. Called once a backend, before its first bind.
pub fn unbind_at_exit() {
    // SAFETY: before_shmem_exit keeps a function pointer for the life of the process.
    unsafe { pg_sys::before_shmem_exit(Some(at_exit), pg_sys::Datum::from(0)) };
}

unsafe extern "C-unwind" fn at_exit(_code: i32, _arg: pg_sys::Datum) {
    with_own(|slot| (slot.pid, slot.released_in, slot.doomed) = (0, 0, 0));
}

/// What the leader of this parallel worker is bound to: window, session, public text of its token.
pub fn leader() -> Option<([u8; 16], [u8; 16], String)> {
    // SAFETY: MyProc is this process's own entry; a worker's leader outlives it (BecomeLockGroupMember).
    let leader = unsafe { pg_sys::MyProc.as_ref()?.lockGroupLeader.as_ref()? };
    let pid = leader.pid;
    let mut found = None;
    let mut text = [0u8; PUBLIC_MAX];
    each(|slot| {
        if slot.pid == pid && found.is_none() {
            let len = (slot.public_len as usize).min(PUBLIC_MAX);
            copy(slot.public.get(..len).unwrap_or(&[]), &mut text);
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
    REGION
        .locked(pg_sys::LWLockMode::LW_SHARED, |shared| unsafe {
            bound_to(shared, own, |slot| slot.window == *window)
        })
        .unwrap_or(usize::MAX)
}

/// Counts the slots in force that `counted` picks, but for one of them.
///
/// # Safety
/// The caller holds the lock.
unsafe fn bound_to(shared: *mut Shared, but: usize, counted: impl Fn(&Slot) -> bool) -> usize {
    // SAFETY: the index stays below slot_count.
    unsafe {
        let count = (*shared).slot_count as usize;
        (0..count)
            .filter(|index| *index != but)
            .filter(|index| {
                let slot = &*slot(shared, *index);
                slot.pid != 0 && slot.ended == 0 && counted(slot)
            })
            .count()
    }
}

/// A transaction that has to go.
#[derive(Clone, Copy, Debug)]
pub struct Doomed {
    /// The backend.
    pub pid: i32,
    /// When it was doomed, in microseconds since the Unix epoch.
    pub since: i64,
}

/// The local transaction that a process has open; 0 for none, also when what is open has failed already.
///
/// # Safety
/// `process` is the address of a PGPROC.
unsafe fn open_transaction(process: usize) -> u32 {
    let process = std::ptr::with_exposed_provenance::<pg_sys::PGPROC>(process);
    // SAFETY: PGPROCs lie in shared memory for the server's life. The field is set when a transaction begins and cleared by
    // ProcArrayEndTransaction (procarray.c); it is read without a lock there too (GetLockConflicts in lock.c).
    unsafe {
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        return (&raw const (*process).lxid).read_volatile();
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        return (&raw const (*process).vxid.lxid).read_volatile();
    }
}

/// Whether a slot's token still answers for something: a session, or the transaction in which a session let go of it.
///
/// # Safety
/// The caller holds the lock.
unsafe fn in_charge(slot: &Slot) -> bool {
    // SAFETY: a slot that was ever bound has its backend's entry.
    slot.pid != 0 || (slot.released_in != 0 && unsafe { open_transaction(slot.process) } == slot.released_in)
}

/// Puts every binding to its end that `affected` gives a reason for, and dooms the transaction that its backend has open.
/// Returns how many there were. `affected` must not raise.
pub fn end(now: i64, affected: impl Fn(&Slot) -> Option<Ended>) -> usize {
    let mut count = 0;
    REGION.locked(pg_sys::LWLockMode::LW_EXCLUSIVE, |shared| {
        // SAFETY: under the exclusive lock; the index stays below slot_count.
        unsafe {
            for index in 0..(*shared).slot_count as usize {
                let slot = &mut *slot(shared, index);
                if slot.ended != 0 || !in_charge(slot) {
                    continue;
                }
                let Some(ended) = affected(slot) else { continue };
                count += 1;
                slot.ended = code(ended);
                slot.doomed = open_transaction(slot.process);
                (slot.doomed_at, slot.doomed_by) = (now, slot.ended);
            }
        }
    });
    count
}

/// The transactions that have to go and are still open, and the earliest moment at which a binding in force expires.
pub fn survey() -> (Vec<Doomed>, i64) {
    let mut doomed = Vec::new();
    let mut earliest = i64::MAX;
    REGION.locked(pg_sys::LWLockMode::LW_EXCLUSIVE, |shared| {
        // SAFETY: under the exclusive lock; the index stays below slot_count.
        unsafe {
            for index in 0..(*shared).slot_count as usize {
                let slot = &mut *slot(shared, index);
                if slot.doomed != 0 && open_transaction(slot.process) == slot.doomed {
                    doomed.push(Doomed { pid: slot.backend, since: slot.doomed_at });
                } else {
                    slot.doomed = 0;
                }
                if slot.ended == 0 && in_charge(slot) {
                    earliest = earliest.min(slot.expires_at);
                }
            }
        }
    });
    (doomed, earliest)
}

/// Why this backend's open transaction has to go, if it has to.
pub fn own_doom() -> Option<Ended> {
    with_own(|slot| if slot.doomed == 0 { None } else { ended(slot.doomed_by) }).flatten()
}
