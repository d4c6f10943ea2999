//! Shared-memory generations: what tells every backend that policies changed or a window was revoked.
//!
//! A stand-in with the interface only: nothing here reaches another backend.

/// Moves the policy epoch when the running transaction commits.
pub fn policy_changes_at_commit() {}

/// Revokes a window in shared memory, at once and whatever becomes of the transaction.
pub fn revoke_window(_window: &[u8; 16], _expires_unix: i64) {}

/// Revokes a block in shared memory, at once and whatever becomes of the transaction.
pub fn revoke_block(_block: &[u8; 16]) {}

/// Whether this session belongs to a guarded role.
pub fn guarded_session() -> bool {
    false
}
