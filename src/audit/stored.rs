//! An event as it is read back: the same fields, owned, and what is missing of it.

#![forbid(unsafe_code)]

use crate::audit::event::{AuditDecision, EventKind};
use crate::refusal::Decider;
use crate::request::{Kind, ObjectClass, Verb};

/// An access read back.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of AccessRecord")]
pub struct OwnedAccess {
    pub verb: Verb,
    pub kind: Option<Kind>,
    pub class: ObjectClass,
    pub oid: u32,
    pub name: String,
    pub columns: String,
    pub decision: AuditDecision,
    pub rule: Option<i64>,
}

/// Which parts of an event are not whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// Parameters are missing, or the last one is cut.
    pub parameters: bool,
    /// Accesses are missing.
    pub accesses: bool,
    /// The message, a name or the lineage is cut.
    pub other: bool,
}

/// An event read back. The fields are those of `AuditEvent`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of AuditEvent")]
pub struct OwnedEvent {
    pub kind: EventKind,
    pub at: i64,
    pub session_id: [u8; 16],
    pub window_id: Option<[u8; 16]>,
    pub lineage: Vec<String>,
    pub role: String,
    pub client_addr: String,
    pub application_name: String,
    pub pid: i32,
    pub xid: u64,
    pub level: u16,
    pub command: String,
    pub statement: String,
    pub statement_len: u64,
    pub statement_sha256: Option<[u8; 32]>,
    pub parameters: Option<Vec<Option<String>>>,
    pub accesses: Vec<OwnedAccess>,
    pub decision: AuditDecision,
    pub rule_id: Option<i64>,
    pub rows: i64,
    pub duration_us: i64,
    pub sqlstate: Option<[u8; 5]>,
    pub message: String,
    pub policy_version: i64,
    pub decided_by: Option<Decider>,
    pub results: Vec<u8>,
    pub cut: Cut,
}
