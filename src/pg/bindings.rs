//! Who is bound to what: one slot in shared memory for each backend, written by that backend alone but for the fields
//! of its end, which `endings` writes.
//!
//! Slots are written under the region's lock in exclusive mode and read under it in shared mode; their atomics are read
//! without it. A transaction answers for every token that it ran under, also for those that it has let go of.

use std::sync::atomic::{AtomicI64, AtomicPtr, AtomicU8, AtomicU32, Ordering};

use pgrx::pg_sys;

use super::region::Region;
use super::version;
use crate::limit::Holder;

/// Bytes of a token's public text: 4096 at most by its grammar.
const PUBLIC_MAX: usize = 4096;
/// Blocks of a chain.
const BLOCKS_MAX: usize = 8;
/// Names of a lineage, 64 bytes each at most, with a separator.
const LINEAGE_MAX: usize = 9 * 65;

/// Tokens that one transaction may have let go of. A further one is not bound in it, as nobody could answer for it.
const EARLIER_MAX: usize = 16;

/// What the end of a token is told by.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Hold {
    /// The window.
    pub window: [u8; 16],
    blocks: [[u8; 16]; BLOCKS_MAX],
    block_count: u32,
    /// When it ends by itself, in microseconds since the Unix epoch.
    pub expires_at: i64,
}

impl Hold {
    /// The blocks' ids, the root's first.
    pub fn blocks(&self) -> &[[u8; 16]] {
        self.blocks.get(..self.block_count as usize).unwrap_or(&[])
    }

    fn same(&self, other: &Hold) -> bool {
        self.window == other.window && self.blocks() == other.blocks()
    }
}

/// Why a binding came to its end from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its window or one of its blocks was revoked.
    Revoked,
    /// Its window or one of its blocks has expired.
    Expired,
}

/// What one backend is bound to. All-zero bytes are an unbound slot. What each statement looks at comes first, in one line.
#[repr(C, align(64))]
pub struct Slot {
    /// The backend's process while it is bound; 0 when it is not.
    pub(super) pid: i32,
    /// The local transaction in which a statement last ran under a token of the backend's.
    pub(super) ran_in: AtomicU32,
    /// The local transaction that was open when one of its tokens ended, and has to go; 0 for none.
    pub(super) doomed: AtomicU32,
    /// 0 in force, 1 revoked, 2 expired.
    pub(super) ended: AtomicU8,
    /// A signal was sent to the doomed transaction, which may be on its way.
    pub(super) pressed: AtomicU8,
    /// The doomed transaction is already answering with the error that ends it.
    pub(super) heard: AtomicU8,
    /// Why it was doomed, as `ended`.
    pub(super) doomed_by: u8,
    /// When that transaction was doomed, in microseconds since the Unix epoch.
    pub(super) doomed_at: i64,
    /// The address of the backend's entry in the server's array of processes, which stays its own until it exits; 0 before
    /// it was ever bound.
    pub(super) process: usize,
    /// The backend's process, also after it has let go.
    pub(super) backend: i32,
    /// The database's OID.
    pub database: u32,
    /// The token in force, or the last one.
    pub hold: Hold,
    /// The session.
    pub session: [u8; 16],
    public_len: u32,
    public: [u8; PUBLIC_MAX],
    lineage_len: u32,
    lineage: [u8; LINEAGE_MAX],
    /// The login role's OID.
    pub role: u32,
    /// When it was bound, in microseconds since the Unix epoch.
    pub bound_at: i64,
    /// Tokens that a transaction ran under before the one in force.
    earlier: [Hold; EARLIER_MAX],
    earlier_count: u32,
    /// The local transaction that `earlier` belongs to.
    pub(super) earlier_in: u32,
}

impl Slot {
    /// The backend's process; `None` for a slot without a binding.
    pub fn pid(&self) -> Option<i32> {
        (self.pid != 0).then_some(self.pid)
    }

    /// The names of the lineage.
    pub fn lineage(&self) -> Vec<String> {
        let bytes = self.lineage.get(..self.lineage_len as usize).unwrap_or(&[]);
        String::from_utf8_lossy(bytes).split('\n').map(str::to_owned).collect()
    }

    /// Whether and why it came to its end.
    pub fn ended(&self) -> Option<Ended> {
        Ended::of(self.ended.load(Ordering::SeqCst))
    }

    /// The tokens that the open transaction has let go of.
    pub(super) fn earlier(&self) -> &[Hold] {
        self.earlier.get(..self.earlier_count as usize).unwrap_or(&[])
    }

    /// Keeps the token that is being let go of on the account of the open transaction.
    fn keep(&mut self, transaction: u32) {
        if self.earlier_in != transaction {
            (self.earlier_in, self.earlier_count) = (transaction, 0);
        }
        if self.earlier().iter().any(|one| one.same(&self.hold)) {
            return;
        }
        // INVARIANT: `bind` binds nothing more in a transaction whose account is full.
        if let Some(place) = self.earlier.get_mut(self.earlier_count as usize) {
            *place = self.hold;
            self.earlier_count += 1;
        }
    }

    /// Whether the open transaction can keep no further token.
    fn is_full(&self, transaction: u32) -> bool {
        transaction != 0 && self.earlier_in == transaction && self.earlier_count as usize >= EARLIER_MAX
    }
}

impl Ended {
    /// The byte in the slot.
    pub(super) fn code(self) -> u8 {
        match self {
            Ended::Revoked => 1,
            Ended::Expired => 2,
        }
    }

    /// What the byte stands for; `None` for 0.
    pub(super) fn of(code: u8) -> Option<Ended> {
        match code {
            0 => None,
            1 => Some(Ended::Revoked),
            _ => Some(Ended::Expired),
        }
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
/// This backend's slot, once it was bound.
static OWN: AtomicPtr<Slot> = AtomicPtr::new(std::ptr::null_mut());

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

/// This backend's number among all that can be, from 0 on; `None` in a process that is no backend.
pub(super) fn own_index() -> Option<usize> {
    let index = usize::try_from(version::own_place()).ok()?;
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

/// Visits every slot under the exclusive lock; `visit` must not raise.
pub(super) fn each_mut(mut visit: impl FnMut(&mut Slot)) {
    REGION.locked(pg_sys::LWLockMode::LW_EXCLUSIVE, |shared| {
        // SAFETY: under the exclusive lock; the index stays below slot_count.
        unsafe {
            for index in 0..(*shared).slot_count as usize {
                visit(&mut *slot(shared, index));
            }
        }
    });
}

/// This backend's slot, for its atomics and what this backend alone writes; `None` before it was ever bound.
pub(super) fn own() -> Option<&'static Slot> {
    // SAFETY: set by `bind` to a slot in shared memory, which outlives the process.
    unsafe { OWN.load(Ordering::Relaxed).as_ref() }
}

/// Visits this backend's slot under the exclusive lock.
pub(super) fn with_own<R>(visit: impl FnOnce(&mut Slot) -> R) -> Option<R> {
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

/// Copies as much as fits; how much that is.
fn copy(from: &[u8], into: &mut [u8]) -> u32 {
    into.iter_mut().zip(from).map(|(to, from)| *to = *from).count().try_into().unwrap_or(0)
}

/// What came of publishing a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// It is in force.
    Bound,
    /// As many others are bound to the window as may be.
    WindowFull,
    /// As many others are bound to this block, which stands for so many.
    BlockFull(Holder, usize),
    /// The transaction has run under as many tokens as it can answer for.
    Overburdened,
}

/// Publishes what this backend is bound to, or says why not.
pub fn bind(binding: &Binding<'_>) -> Published {
    let Some(index) = own_index() else { return Published::WindowFull };
    let lineage = binding.lineage.join("\n");
    let published = REGION.locked(pg_sys::LWLockMode::LW_EXCLUSIVE, |shared| {
        // SAFETY: under the exclusive lock.
        let others = unsafe { bound_to(shared, index, |slot| slot.hold.window == *binding.window) };
        if binding.max_sessions.is_some_and(|limit| others >= limit) {
            return Published::WindowFull;
        }
        for (holder, id, limit) in binding.sessions {
            // SAFETY: as above.
            if unsafe { bound_to(shared, index, |slot| slot.hold.blocks().contains(id)) } >= *limit {
                return Published::BlockFull(*holder, *limit);
            }
        }
        // SAFETY: under the exclusive lock; own_index() is below slot_count.
        let slot = unsafe { &mut *slot(shared, index) };
        // SAFETY: plain values of this process.
        let (pid, process) = unsafe { (pg_sys::MyProcPid, pg_sys::MyProc.expose_provenance()) };
        // SAFETY: this process's own entry.
        if slot.is_full(unsafe { open_transaction(process) }) {
            return Published::Overburdened;
        }
        (slot.pid, slot.process, slot.backend) = (pid, process, pid);
        (slot.database, slot.role) = (binding.database, binding.role);
        (slot.hold.window, slot.session) = (*binding.window, *binding.session);
        slot.hold.block_count = 0;
        for (place, block) in slot.hold.blocks.iter_mut().zip(binding.blocks) {
            *place = *block;
            slot.hold.block_count += 1;
        }
        slot.public_len = copy(binding.public.as_bytes(), &mut slot.public);
        slot.lineage_len = copy(lineage.as_bytes(), &mut slot.lineage);
        (slot.bound_at, slot.hold.expires_at) = (binding.bound_at, binding.expires_at);
        slot.ended.store(0, Ordering::Relaxed);
        OWN.store(slot, Ordering::Relaxed);
        Published::Bound
    });
    published.unwrap_or(Published::WindowFull)
}

/// A statement of this backend's open transaction is about to run under its token. Why it must not, where the token has just
/// come to its end: whoever ends tokens tells so before looking for transactions, and this tells of the transaction before
/// looking for the end, so that one of the two sees the other.
#[inline]
pub fn runs() -> Option<Ended> {
    let slot = own()?;
    let transaction = own_transaction();
    if slot.ran_in.load(Ordering::Relaxed) != transaction {
        slot.ran_in.store(transaction, Ordering::SeqCst);
    }
    slot.ended()
}

/// The local transaction that this backend has open; 0 for none.
#[inline]
pub(super) fn own_transaction() -> u32 {
    // SAFETY: this process's own entry, null while it has none.
    unsafe { if pg_sys::MyProc.is_null() { 0 } else { open_transaction(pg_sys::MyProc.addr()) } }
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

/// The session lets go of its token. What the open transaction did under it goes with it all the same: false where its
/// time is over already, so that the transaction has to go.
pub fn unbind(now: i64) -> bool {
    with_own(|slot| {
        if slot.pid == 0 {
            return true;
        }
        slot.pid = 0;
        let transaction = own_transaction();
        if transaction == 0 || slot.ran_in.load(Ordering::Relaxed) != transaction {
            return true;
        }
        slot.keep(transaction);
        slot.hold.expires_at > now
    })
    .unwrap_or(true)
}

/// Arranges that the slot is taken back when the backend exits. Called once a backend, before its first bind.
pub fn unbind_at_exit() {
    // SAFETY: before_shmem_exit keeps a function pointer for the life of the process.
    unsafe { pg_sys::before_shmem_exit(Some(at_exit), pg_sys::Datum::from(0)) };
}

unsafe extern "C-unwind" fn at_exit(_code: i32, _arg: pg_sys::Datum) {
    with_own(|slot| {
        (slot.pid, slot.process, slot.earlier_in) = (0, 0, 0);
        slot.doomed.store(0, Ordering::Relaxed);
        slot.pressed.store(0, Ordering::Relaxed);
        slot.heard.store(0, Ordering::Relaxed);
    });
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
            found = Some((slot.hold.window, slot.session, len));
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
            bound_to(shared, own, |slot| slot.hold.window == *window)
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
                slot.pid != 0 && slot.ended().is_none() && counted(slot)
            })
            .count()
    }
}

/// The local transaction that a process has open; 0 for none, also when what is open has failed already.
///
/// # Safety
/// `process` is the address of a PGPROC.
pub(super) unsafe fn open_transaction(process: usize) -> u32 {
    let process = std::ptr::with_exposed_provenance::<pg_sys::PGPROC>(process);
    // SAFETY: PGPROCs lie in shared memory for the server's life. The field is set when a transaction begins and cleared by
    // ProcArrayEndTransaction (procarray.c); it is read without a lock there too (GetLockConflicts in lock.c).
    unsafe { version::local_transaction(process).read_volatile() }
}
