//! Rows and notices on their way to the client, held back with `agent_guard.journal = sync`: none leaves before an event of its statement is on
//! disk.
//!
//! From a statement's first one on, messages wait here, in front of the server's own buffer, which flushes when it likes. They go
//! when the statement's event is on disk (`synced`), and are dropped where that fails. Results that do not fit, and portals that
//! the client fetches in pieces, would wait too long: an event of kind `begun` is written then, and rows go when that is on disk.

use std::cell::RefCell;
use std::os::raw::c_char;
use std::sync::atomic::{AtomicU8, Ordering};

use super::process::PerProcess;
use super::trail_refusal::full;
use super::unusual::{self, Unusual};
use super::{statement, synced};
use crate::refusal::Refusal;

/// Bytes that are held back before an event is written for them.
const MOST: usize = 64 * 1024;

/// Nothing is held.
const FREE: u8 = 0;
/// Messages wait for their statement's event.
const HOLDING: u8 = 1;
/// The event is on disk: they go before the next message.
const RELEASED: u8 = 2;

static STATE: AtomicU8 = AtomicU8::new(FREE);
/// The messages: kind, length, body.
static QUEUE: PerProcess<RefCell<Vec<u8>>> = PerProcess::new(RefCell::new(Vec::new()));

fn enter(state: u8) {
    STATE.store(state, Ordering::Relaxed);
    unusual::set(Unusual::Held, state != FREE);
}

/// What is to be done with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It is sent.
    Passes,
    /// What is held is sent first.
    Follows,
    /// It is held.
    Waits,
    /// It is left out: a notice, which cannot raise an error.
    Ends,
}

/// DataRow and CopyData.
pub fn is_row(kind: u8) -> bool {
    kind == b'D' || kind == b'd'
}

/// A row, or a notice, which may tell of one.
pub fn is_result(kind: u8) -> bool {
    is_row(kind) || kind == b'N'
}

/// Whether a message needs `way`.
#[inline]
pub fn concerned(kind: c_char) -> bool {
    unusual::is(Unusual::Held)
        || (is_result(kind.to_ne_bytes()[0]) && synced::wanted() && statement::rows_are_unrecorded())
}

/// Where a message goes; `length` bytes of body come with it.
///
/// # Errors
/// Its statement cannot be recorded: nothing of its result is sent.
pub fn way(kind: c_char, length: usize, way: &mut Way) -> Result<(), Refusal> {
    if STATE.load(Ordering::Relaxed) == RELEASED {
        *way = Way::Follows;
        return Ok(());
    }
    let held = QUEUE.try_borrow().map_or(MOST, |queue| queue.len());
    match kind.to_ne_bytes()[0] {
        b'E' => {
            // Its event is not on disk (hooks::log), so neither is that of the rows.
            drop_rows();
            enter(RELEASED);
            *way = Way::Follows;
        }
        // The end of a piece, and ends of which nobody has told `synced`.
        b's' | b'C' | b'I' | b'Z' => {
            begun()?;
            *way = Way::Follows;
        }
        b'N' if held.saturating_add(length) > MOST => {
            *way = if begun().is_ok() { Way::Follows } else { Way::Ends };
        }
        _ if held.saturating_add(length) > MOST => {
            begun()?;
            *way = Way::Follows;
        }
        _ => {
            enter(HOLDING);
            *way = Way::Waits;
        }
    }
    Ok(())
}

/// Whether messages wait for their statement's event.
pub fn holding() -> bool {
    STATE.load(Ordering::Relaxed) == HOLDING
}

/// Records that the statement has begun and waits until that is on disk: what is held may go.
///
/// # Errors
/// It cannot be recorded.
pub fn begun() -> Result<(), Refusal> {
    if !statement::record_begun() {
        return Err(full());
    }
    synced::wait()?;
    release();
    Ok(())
}

/// An event of the statement is on disk: what is held may go.
pub fn release() {
    let released = if STATE.load(Ordering::Relaxed) == FREE { FREE } else { RELEASED };
    enter(released);
}

/// Holds a message.
pub fn put(kind: c_char, body: &[u8]) {
    if let Ok(mut queue) = QUEUE.try_borrow_mut() {
        append(&mut queue, kind.to_ne_bytes()[0], body);
    }
}

fn append(queue: &mut Vec<u8>, kind: u8, body: &[u8]) {
    queue.push(kind);
    queue.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_ne_bytes());
    queue.extend_from_slice(body);
}

/// Takes what is held, to be sent.
pub fn take() -> Vec<u8> {
    enter(FREE);
    QUEUE.try_borrow_mut().map(|mut queue| std::mem::take(&mut *queue)).unwrap_or_default()
}

/// The first of the messages, and the others.
pub fn split(messages: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (kind, rest) = messages.split_first()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (body, rest) = rest.split_at_checked(usize::try_from(u32::from_ne_bytes(*length)).ok()?)?;
    Some((*kind, body, rest))
}

/// Leaves out rows and what belongs to them; changes of settings and the like stay.
fn drop_rows() {
    let held = take();
    let (mut rest, mut kept) = (held.as_slice(), Vec::new());
    while let Some((kind, body, behind)) = split(rest) {
        if matches!(kind, b'A' | b'S') {
            append(&mut kept, kind, body);
        }
        rest = behind;
    }
    if let Ok(mut queue) = QUEUE.try_borrow_mut() {
        *queue = kept;
    }
}
