//! Why a statement is refused when its event cannot be recorded (docs/errors.md, SQLSTATE 53100).

use crate::refusal::{Refusal, SqlState};

/// The trail is out of reach, for the reason in `detail`.
pub fn unavailable(detail: &str, hint: &str) -> Refusal {
    Refusal::new(
        SqlState::DiskFull,
        "audit_unavailable",
        "the audit trail cannot take the event",
        detail,
        hint,
    )
}

/// Nobody takes events out of the ring.
pub fn no_writer() -> Refusal {
    unavailable(
        "the audit writer of this database is not running",
        "Look for the writer's messages in the server log, and see that max_worker_processes leaves room for it.",
    )
}

/// The wait ended before there was room.
pub fn cancelled() -> Refusal {
    Refusal::new(
        SqlState::QueryCanceled,
        "audit_wait_cancelled",
        "canceling statement while it waits for the audit trail",
        "the statement has not run",
        "",
    )
}

/// There is a writer, but no room.
pub fn full() -> Refusal {
    Refusal::new(
        SqlState::DiskFull,
        "audit_full",
        "the audit trail cannot take the event",
        "the audit ring of this database is full and its writer does not keep up",
        "Try again; if it stays so, raise agent_guard.audit_buffer or look for the writer's messages in the server log.",
    )
}

/// One session holds more of the ring than its share.
pub fn hoarding() -> Refusal {
    Refusal::new(
        SqlState::DiskFull,
        "audit_share",
        "the session has too many statements open at the same time",
        "each open statement and cursor keeps room for its event, and one session may not take it from the others",
        "Close cursors that are not needed any more.",
    )
}

/// The event waits, but is not on disk.
pub fn unsynced() -> Refusal {
    Refusal::new(
        SqlState::DiskFull,
        "audit_unsynced",
        "the audit journal has not taken the event",
        "agent_guard.journal is sync, and the event did not reach the disk within agent_guard.audit_timeout; the statement is undone",
        "Look for the audit writer's messages in the server log: the disk of the journal may be full.",
    )
}

/// The wait for the disk was ended from outside.
pub fn unsynced_cancelled() -> Refusal {
    Refusal::new(
        SqlState::QueryCanceled,
        "audit_wait_cancelled",
        "canceling statement while it waits for the audit journal",
        "the statement is undone",
        "",
    )
}
