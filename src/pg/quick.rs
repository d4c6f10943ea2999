//! The server's functions that cannot raise and that every guarded statement calls, declared without pgrx's guard: its
//! sigsetjmp would cost more than the call.

use pgrx::pg_sys;

unsafe extern "C" {
    #[link_name = "GetCurrentTimestamp"]
    fn raw_timestamp() -> i64;
    #[link_name = "GetTopTransactionIdIfAny"]
    fn raw_transaction() -> u32;
    #[link_name = "GetCurrentSubTransactionId"]
    fn raw_subtransaction() -> u32;
    #[link_name = "InNoForceRLSOperation"]
    fn raw_no_force_rls() -> bool;
    #[link_name = "bms_next_member"]
    fn raw_next_member(set: *const pg_sys::Bitmapset, previous: i32) -> i32;
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

/// The current subtransaction's id (xact.c).
pub fn subtransaction() -> u32 {
    // SAFETY: reads this process's transaction state.
    unsafe { raw_subtransaction() }
}

/// Whether a foreign-key trigger is running its own queries (miscinit.c).
pub fn in_foreign_key() -> bool {
    // SAFETY: reads a flag of this process.
    unsafe { raw_no_force_rls() }
}

/// The next member of a set after `previous`; negative at the end (bitmapset.c).
///
/// # Safety
/// `set` is null or a valid Bitmapset.
pub unsafe fn next_member(set: *const pg_sys::Bitmapset, previous: i32) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { raw_next_member(set, previous) }
}
