//! Texts of statements that are too long for the statement's own event: pieces of them as events of their own, before it.
//!
//! A piece is told to be a statement's by process, time and the SHA-256 of the whole text. Secrets are taken out of the whole
//! here, before it is cut: a piece alone may begin inside a literal.

use super::guc_audit;
use super::record;
use super::session::Session;
use super::trail::{self, Waiting};
use super::trail_refusal;
use crate::audit::event::{
    AuditEvent, BoundedText, EventKind, MAX_STATEMENT, bounded_text, prefix, text_pieces,
};
use crate::audit::redact::redact;
use crate::refusal::Refusal;

/// Records the text of a statement that is about to run, where its event will not have all of it. Waits for room.
///
/// # Errors
/// 53100 when the trail does not take it; 57014 where the wait is cancelled.
#[inline]
pub fn record(text: &str, at: i64, command: &str, session: Option<&Session>) -> Result<(), Refusal> {
    if text.len() <= MAX_STATEMENT { Ok(()) } else { record_long(text, at, command, session) }
}

#[cold]
fn record_long(text: &str, at: i64, command: &str, session: Option<&Session>) -> Result<(), Refusal> {
    let event = AuditEvent { command, ..record::who(EventKind::Text, at, session) };
    let stored =
        pieces(text, &bounded_text(text), &event, |event| trail::publish_unreserved(event, Waiting::Allowed));
    match stored {
        true => Ok(()),
        false if trail::interrupted() => Err(trail_refusal::cancelled()),
        false => Err(trail_refusal::full()),
    }
}

/// Records the text beside an event that cannot wait, as far as there is room without.
pub fn record_beside(text: &str, event: &AuditEvent<'_>) {
    if let Some(sha256) = event.statement_sha256 {
        let whole = BoundedText { text: "", full_len: event.statement_len, sha256: Some(sha256) };
        let of = AuditEvent { kind: EventKind::Text, ..record::who(EventKind::Text, event.at, None) };
        let of = AuditEvent {
            session_id: event.session_id,
            window_id: event.window_id,
            lineage: event.lineage,
            role: event.role,
            client_addr: event.client_addr,
            command: event.command,
            ..of
        };
        pieces(text, &whole, &of, trail::publish_if_room);
    }
}

/// Each piece says how many there are, and whether there is more of the text.
fn pieces(
    text: &str,
    whole: &BoundedText<'_>,
    event: &AuditEvent<'_>,
    mut publish: impl FnMut(&AuditEvent<'_>) -> bool,
) -> bool {
    let redacted = redact(text);
    let kept = prefix(&redacted, guc_audit::statement_size());
    let all = kept.len() == redacted.len();
    let count = text_pieces(kept).count();
    text_pieces(kept).all(|piece| {
        publish(&AuditEvent {
            statement: piece,
            statement_len: whole.full_len,
            statement_sha256: whole.sha256,
            rows: i64::try_from(count).unwrap_or(-1),
            message: if all { "" } else { "the text goes on beyond agent_guard.audit_statement_size" },
            ..*event
        })
    })
}
