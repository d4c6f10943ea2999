//! What all backends must learn at once: policies changed, windows or blocks were revoked, how late it is.
//!
//! Shared memory holds two epochs, the clock's floor and the revocations of this server's life. The epochs and the clock
//! are atomics, read without a lock by every guarded statement; `revoked` is written under the region's lock in exclusive
//! mode and read under it in shared mode.
//!
//! A revocation takes effect here before its transaction commits and stays after a rollback; the tables keep it
//! across restarts.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};

use pgrx::pg_sys;

use super::region::Region;
use super::unusual::{self, Unusual};

/// Revocations kept in shared memory; beyond that `overflow` sends backends to the tables.
const REVOKED_MAX: usize = 8192;

#[repr(C)]
struct Shared {
    policies: AtomicU64,
    revocations: AtomicU64,
    overflow: AtomicBool,
    /// The latest clock seen by a guarded statement, in microseconds since the Unix epoch.
    clock: AtomicI64,
    revoked_count: AtomicU32,
    /// Ids of revoked windows and blocks.
    revoked: [[u8; 16]; REVOKED_MAX],
}

static REGION: Region<Shared> = Region::new(c"agent_guard epoch");

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
    // SAFETY: the caller's promise; atomics and bytes are valid when all zero.
    unsafe {
        REGION.attach(size_of::<Shared>(), |shared| {
            shared.policies.store(1, Ordering::Relaxed);
            shared.revocations.store(1, Ordering::Relaxed);
        });
    }
}

/// The number that moves whenever a policy, rule or window that somebody may have read is no longer what it was.
pub fn policies() -> u64 {
    REGION.get().map_or(0, |shared| shared.policies.load(Ordering::Acquire))
}

/// The number that moves at every revocation.
pub fn revocations() -> u64 {
    REGION.get().map_or(0, |shared| shared.revocations.load(Ordering::Acquire))
}

/// Whether neither has moved.
#[inline]
pub fn are(policies: u64, revocations: u64) -> bool {
    REGION.get().is_some_and(|shared| {
        shared.policies.load(Ordering::Acquire) == policies
            && shared.revocations.load(Ordering::Acquire) == revocations
    })
}

/// Moves the policy epoch when this transaction commits. Called by the triggers on the policy tables.
pub fn policy_changes_at_commit() {
    unusual::set(Unusual::Changing, true);
}

/// Moves the policy epoch at once: what was read may be out of date.
pub fn policies_changed() {
    if let Some(shared) = REGION.get() {
        shared.policies.fetch_add(1, Ordering::AcqRel);
    }
}

/// Whether this transaction has itself changed policies, masks or filters: what was read before it did is out of date here.
pub fn changed_here() -> bool {
    unusual::is(Unusual::Changing)
}

/// The transaction callback's part: after ProcArrayEndTransaction, so that whoever sees the new epoch sees the rows.
#[inline]
pub fn transaction_ended(event: pg_sys::XactEvent::Type) {
    if changed_here() {
        changed_until(event);
    }
}

#[cold]
#[inline(never)]
fn changed_until(event: pg_sys::XactEvent::Type) {
    let committed =
        matches!(event, pg_sys::XactEvent::XACT_EVENT_COMMIT | pg_sys::XactEvent::XACT_EVENT_PREPARE);
    if committed || event == pg_sys::XactEvent::XACT_EVENT_ABORT {
        unusual::set(Unusual::Changing, false);
    }
    if let Some(shared) = REGION.get().filter(|_| committed) {
        shared.policies.fetch_add(1, Ordering::AcqRel);
    }
}

/// The clock in microseconds since the Unix epoch, never more than five seconds behind what any guarded session saw:
/// setting the system's clock back does not bring expired windows back to life.
#[inline(never)]
#[cfg_attr(target_os = "linux", unsafe(link_section = ".text.guarded"))]
pub fn clock() -> i64 {
    const BEHIND: i64 = 5_000_000;
    const AHEAD: i64 = 1_000_000;
    let now = super::scan::clock();
    let Some(shared) = REGION.get() else { return now };
    let floor = shared.clock.load(Ordering::Relaxed);
    // One comparison for both sides; a clock that is set is a date of this era, so that nothing wraps around.
    let above = now.wrapping_sub(floor).wrapping_add(BEHIND).cast_unsigned();
    if above <= (BEHIND + AHEAD).cast_unsigned() {
        return now;
    }
    far_from(&shared.clock, now, floor)
}

#[cold]
#[inline(never)]
fn far_from(clock: &AtomicI64, now: i64, floor: i64) -> i64 {
    if now < floor {
        return floor;
    }
    clock.fetch_max(now, Ordering::Relaxed);
    now
}

/// Revokes a window or a block in every backend at once.
pub fn revoke(id: &[u8; 16]) {
    REGION.locked(pg_sys::LWLockMode::LW_EXCLUSIVE, |shared| {
        // SAFETY: under the exclusive lock; the count never passes the array's length.
        let shared = unsafe { &mut *shared };
        let count = shared.revoked_count.load(Ordering::Relaxed) as usize;
        let known = shared.revoked.iter().take(count).any(|revoked| revoked == id);
        match shared.revoked.get_mut(count) {
            _ if known => {}
            Some(place) => {
                *place = *id;
                shared.revoked_count.fetch_add(1, Ordering::Relaxed);
            }
            None => shared.overflow.store(true, Ordering::Relaxed),
        }
        shared.revocations.fetch_add(1, Ordering::AcqRel);
    });
}

/// Whether a window or block of this id was revoked since the server started.
pub fn is_revoked(id: &[u8; 16]) -> bool {
    REGION
        .locked(pg_sys::LWLockMode::LW_SHARED, |shared| {
            // SAFETY: under the lock; the count never passes the array's length.
            let shared = unsafe { &*shared };
            let count = shared.revoked_count.load(Ordering::Relaxed) as usize;
            shared.revoked.iter().take(count).any(|revoked| revoked == id)
        })
        .unwrap_or(true)
}

/// Whether more was revoked than shared memory holds, so that the tables have to be asked.
pub fn revocations_overflowed() -> bool {
    REGION.get().is_none_or(|shared| shared.overflow.load(Ordering::Relaxed))
}

/// Whether this session is one of a guarded role.
pub fn guarded_session() -> bool {
    super::guc::guarded()
}
