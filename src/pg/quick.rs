//! The server's functions that cannot raise and that every guarded statement calls, declared without pgrx's guard: its
//! sigsetjmp would cost more than the call.

use pgrx::guc::{GucSetting, GucValue};
use pgrx::pg_sys;

unsafe extern "C" {
    #[link_name = "GetCurrentTimestamp"]
    fn raw_timestamp() -> i64;
    #[link_name = "GetTopTransactionIdIfAny"]
    fn raw_transaction() -> u32;
    #[link_name = "GetCurrentFullTransactionIdIfAny"]
    fn raw_full_transaction() -> pg_sys::FullTransactionId;
    #[link_name = "GetCurrentSubTransactionId"]
    fn raw_subtransaction() -> u32;
    #[link_name = "InNoForceRLSOperation"]
    fn raw_no_force_rls() -> bool;
    #[link_name = "IsTransactionState"]
    fn raw_in_transaction() -> bool;
    #[link_name = "LWLockAcquire"]
    fn raw_lock(lock: *mut pg_sys::LWLock, mode: pg_sys::LWLockMode::Type) -> bool;
    #[link_name = "LWLockRelease"]
    fn raw_unlock(lock: *mut pg_sys::LWLock);
}

/// Runs `work` under an exclusive lock. Taking one raises only in a process that holds two hundred of them, giving one
/// back only where it is not held (lwlock.c).
///
/// # Safety
/// `lock` is an initialised LWLock that this process does not hold. `work` neither raises nor panics.
pub unsafe fn locked<R>(lock: *mut pg_sys::LWLock, work: impl FnOnce() -> R) -> R {
    // SAFETY: the caller's promise.
    unsafe {
        raw_lock(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        let result = work();
        raw_unlock(lock);
        result
    }
}

/// A setting as the server keeps it. `GucSetting::get` asks for the thread each time.
pub fn setting<T: GucValue>(setting: &'static GucSetting<T>) -> T::Raw {
    // SAFETY: the server's only thread reads a variable that it alone writes.
    unsafe { setting.as_ptr().read() }
}

/// The clock, in microseconds since 2000-01-01 (timestamp.c).
pub fn timestamp() -> i64 {
    // SAFETY: reads the system clock.
    unsafe { raw_timestamp() }
}

/// The top transaction's id, 0 while it has none (xact.c).
pub fn transaction() -> u32 {
    // SAFETY: reads this process's transaction state.
    unsafe { raw_transaction() }
}

/// The full id of the innermost transaction, 0 while it has none (xact.c): of the subtransaction in a savepoint or a block
/// with an exception clause, so that its end can be told from the transaction's.
pub fn full_transaction() -> u64 {
    // SAFETY: reads this process's transaction state.
    unsafe { raw_full_transaction() }.value
}

/// The current subtransaction's id (xact.c).
pub fn subtransaction() -> u32 {
    // SAFETY: reads this process's transaction state.
    unsafe { raw_subtransaction() }
}

/// Whether a transaction is open and has not failed (xact.c).
pub fn in_transaction() -> bool {
    // SAFETY: reads this process's transaction state.
    unsafe { raw_in_transaction() }
}

/// Whether a foreign-key trigger is running its own queries (miscinit.c).
pub fn in_foreign_key() -> bool {
    // SAFETY: reads a flag of this process.
    unsafe { raw_no_force_rls() }
}

/// The words of a set; none for a null one.
///
/// # Safety
/// `set` is null or a valid Bitmapset that outlives what is returned.
pub unsafe fn words<'a>(set: *const pg_sys::Bitmapset) -> &'a [pg_sys::bitmapword] {
    // SAFETY: the caller's promise; nwords words follow the header.
    unsafe {
        match set.as_ref() {
            Some(header) => header.words.as_slice(usize::try_from(header.nwords).unwrap_or(0)),
            None => &[],
        }
    }
}

/// The members of a set in their order (bitmapset.h: words of as many bits as `bitmapword`, the lowest first).
///
/// # Safety
/// `set` is a valid Bitmapset that outlives what is returned.
pub unsafe fn members<'a>(set: *const pg_sys::Bitmapset) -> impl Iterator<Item = i32> + 'a {
    // SAFETY: the caller's promise.
    let words = unsafe { words(set) };
    let bits = i32::try_from(pg_sys::bitmapword::BITS).unwrap_or(i32::MAX);
    words.iter().zip(0_i32..).flat_map(move |(word, nth)| {
        let mut left = *word;
        std::iter::from_fn(move || {
            let lowest = i32::try_from(left.trailing_zeros()).ok().filter(|_| left != 0)?;
            left &= left - 1;
            nth.checked_mul(bits)?.checked_add(lowest)
        })
    })
}
