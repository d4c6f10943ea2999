//! What every message to the client costs, in a session whose rows or bytes are limited.
//!
//! Queries, cursors, portals in pieces, RETURNING, COPY, EXPLAIN, SHOW, fast-path calls and notices all pass `outgoing`;
//! parallel workers send through their leader. A message is charged before it is handed on. What then
//! cannot be paid for is not sent: results end in the refusal, notices are dropped and the statement is cancelled,
//! other asides are dropped. Errors pass: `cap_error` has seen to their texts before, in emit_log_hook.

use std::cell::{Cell, RefCell};
use std::ffi::CStr;
use std::os::raw::c_char;

use pgrx::pg_sys;

use super::process::PerProcess;
use super::unusual::{self, Unusual};
use super::{challenge, encoding, guc, limit_timer, meter, raise, warden};
use crate::refusal::{Refusal, SqlState};

/// A notice was dropped, and the statement is being cancelled for it.
static DROPPED: PerProcess<RefCell<Option<Refusal>>> = PerProcess::new(RefCell::new(None));
/// A message is being looked at: what that itself brings about is let through.
static INSIDE: PerProcess<Cell<bool>> = PerProcess::new(Cell::new(false));

/// Watches what leaves from here on, or lets it pass.
pub fn watch(results: bool) {
    unusual::set(Unusual::Charged, results);
}

/// Whether anything is looked at.
#[inline]
pub fn is_watched() -> bool {
    unusual::is(Unusual::Charged)
}

/// A message is about to be sent: charges it. `drop` tells to leave it out.
///
/// # Errors
/// Why the results end here.
pub fn before(kind: c_char, body: *const c_char, length: usize, drop: *mut bool) -> Result<(), Refusal> {
    if INSIDE.replace(true) {
        return Ok(());
    }
    let _inside = Inside;
    // SAFETY: the server hands `length` bytes, which nobody changes meanwhile; a null body has none.
    let body =
        unsafe { if body.is_null() { &[] } else { std::slice::from_raw_parts(body.cast::<u8>(), length) } };
    match charge(kind.to_ne_bytes()[0], body) {
        Ok(Passage::Sent) => Ok(()),
        Ok(Passage::Dropped) => {
            // SAFETY: the outer frame's local.
            unsafe { *drop = true };
            Ok(())
        }
        Err(refusal) => Err(refusal),
    }
}

/// The end of a look at a message, also where an interrupt ends the wait for a mark: what follows is looked at again.
struct Inside;

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(false);
    }
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Passage {
    Sent,
    Dropped,
}

/// The end of a binary COPY: a field count of -1, which no row has.
const BINARY_TRAILER: [u8; 2] = [0xff, 0xff];

/// Charges a message. The codes are those of the frontend/backend protocol.
fn charge(kind: u8, body: &[u8]) -> Result<Passage, Refusal> {
    let length = u64::try_from(body.len()).unwrap_or(u64::MAX);
    let paid = |paid: Result<(), Refusal>| Ok(if paid.is_ok() { Passage::Sent } else { Passage::Dropped });
    match kind {
        b'D' if challenge::is_row_of(body) => Ok(Passage::Sent),
        b'd' if body == BINARY_TRAILER => Ok(Passage::Sent),
        b'D' | b'd' | b'V' => meter::row(length).map(|()| Passage::Sent),
        b'T' => meter::bytes(names(body)).map(|()| Passage::Sent),
        b'N' => match meter::aside(length) {
            Ok(()) => Ok(Passage::Sent),
            Err(refusal) => {
                cancel(refusal);
                Ok(Passage::Dropped)
            }
        },
        b'S' if body.starts_with(b"agent_guard.challenge\0") => Ok(Passage::Sent),
        b'A' | b'S' => paid(meter::aside(length)),
        _ => Ok(Passage::Sent),
    }
}

/// The bytes of the names in a description of rows: a column can be named after a value. The challenge's is free.
fn names(body: &[u8]) -> u64 {
    // The number of columns; behind each name's terminator 18 bytes that the server makes up.
    const BESIDE_NAME: usize = 19;
    if body.get(2..).is_some_and(|columns| columns.starts_with(b"agent_guard.challenge\0")) {
        return 0;
    }
    let columns = body.first_chunk::<2>().map_or(0, |count| usize::from(u16::from_be_bytes(*count)));
    u64::try_from(body.len().saturating_sub(2 + columns.saturating_mul(BESIDE_NAME))).unwrap_or(u64::MAX)
}

/// A notice is inside a report already and cannot raise: the statement is cancelled where it next looks.
fn cancel(refusal: Refusal) {
    DROPPED.with(|place| {
        if let Ok(mut place) = place.try_borrow_mut() {
            *place = Some(refusal);
        }
    });
    // SAFETY: flags of this process, as its signal handlers set them.
    unsafe {
        pg_sys::QueryCancelPending = 1;
        pg_sys::InterruptPending = 1;
    }
}

/// Sees an error before it is written anywhere (emit_log_hook): a cancel for a dropped notice gets its reason, and a text
/// that the session cannot pay for another text. A value must not leave as the message of an error.
pub fn cap_error(data: &mut pg_sys::ErrorData) {
    let cancelled = data.sqlerrcode == raise::sqlstate_number(SqlState::QueryCanceled.code());
    if let Some(limit) = limit_timer::passed().filter(|_| warden::is_end(data.sqlerrcode)) {
        // A terminated connection keeps the code that drivers know it by.
        let code = data.sqlerrcode;
        replace(data, &crate::limit::refusal::statement_timeout(limit));
        data.sqlerrcode = code;
        return;
    }
    let dropped = DROPPED.with(|place| place.try_borrow_mut().ok()?.take());
    if let Some(refusal) = dropped.filter(|_| cancelled) {
        replace(data, &refusal);
        return;
    }
    if !is_watched() || !guc::guarded() || is_limit_of_ours(data) {
        return;
    }
    // SAFETY: texts of the report, NUL-terminated or null.
    let length = unsafe {
        [
            data.message,
            data.detail,
            data.hint,
            data.context,
            data.internalquery,
            data.schema_name,
            data.table_name,
            data.column_name,
            data.datatype_name,
            data.constraint_name,
        ]
        .iter()
        .filter(|text| !text.is_null())
        .map(|text| CStr::from_ptr(*text).to_bytes().len())
        .sum::<usize>()
    };
    if let Err(refusal) = meter::error_text(u64::try_from(length).unwrap_or(u64::MAX)) {
        replace(data, &refusal);
    }
}

/// A limit's refusal, which carries no value and has to reach an exhausted session.
fn is_limit_of_ours(data: &pg_sys::ErrorData) -> bool {
    // SAFETY: the file's name is a constant, NUL-terminated; only `raise` calls itself that.
    let ours = unsafe { !data.filename.is_null() && CStr::from_ptr(data.filename) == c"agent_guard" };
    ours && data.sqlerrcode == raise::sqlstate_number(SqlState::ConfigurationLimitExceeded.code())
}

fn replace(data: &mut pg_sys::ErrorData, refusal: &Refusal) {
    // SAFETY: the report's own memory context is current (EmitErrorReport in elog.c), and its texts are freed there.
    let copy = |text: &str| unsafe { pg_sys::pstrdup(encoding::c_string(text).as_ptr()) };
    data.sqlerrcode = raise::sqlstate_number(refusal.sqlstate.code());
    data.message = copy(&refusal.message);
    data.detail = copy(&refusal.full_detail());
    data.hint = copy(&refusal.hint);
    data.context = std::ptr::null_mut();
    data.internalquery = std::ptr::null_mut();
    (data.cursorpos, data.internalpos) = (0, 0);
    data.schema_name = std::ptr::null_mut();
    data.table_name = std::ptr::null_mut();
    data.column_name = std::ptr::null_mut();
    data.datatype_name = std::ptr::null_mut();
    data.constraint_name = std::ptr::null_mut();
}
