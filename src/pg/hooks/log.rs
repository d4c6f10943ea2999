//! emit_log_hook: sees errors that reach the top, also those that no executor hook could, and hides tokens in what
//! goes to the server's log.

use std::ffi::CStr;
use std::sync::atomic::{AtomicI32, Ordering};

use pgrx::pg_sys;

use super::super::{
    door, encoding, endings, guc, held, raise, record, results, secrets, statement, synced, text, warden,
    withhold,
};
use super::{guarded, planner};
use crate::audit::sql_text;

static mut PREVIOUS: pg_sys::emit_log_hook_type = None;

/// Saves the previous hook and installs ours.
pub fn init() {
    // SAFETY: _PG_init runs alone; a plain function pointer.
    unsafe {
        PREVIOUS = pg_sys::emit_log_hook;
        pg_sys::emit_log_hook = Some(emit);
    }
}

/// The server's own threshold where that is above ERROR; 0 where it is not.
static THRESHOLD: AtomicI32 = AtomicI32::new(0);

/// The server calls the hook only for what goes to its log: with log_min_messages above ERROR a guarded session's errors
/// would miss the trail. Called at login, before the settings of the role; these do not override it.
pub fn see_every_error() {
    // SAFETY: SetConfigOption copies both texts; GetConfigOption gives a static text for an enum.
    unsafe {
        let error = i32::try_from(pg_sys::PGERROR).unwrap_or(21);
        let name = c"log_min_messages".as_ptr();
        let value = if pg_sys::log_min_messages > error {
            THRESHOLD.store(pg_sys::log_min_messages, Ordering::Relaxed);
            c"error".as_ptr()
        } else {
            pg_sys::GetConfigOption(name, false, false)
        };
        let (context, source) = (pg_sys::GucContext::PGC_SUSET, pg_sys::GucSource::PGC_S_OVERRIDE);
        pg_sys::SetConfigOption(name, value, context, source);
    }
}

unsafe extern "C-unwind" fn emit(data: *mut pg_sys::ErrorData) {
    // SAFETY: outer frame; the server hands its own ErrorData, whose texts are palloc'd or constants.
    unsafe {
        if withhold::answer(data) {
            return;
        }
        if guc::guarded() {
            withhold::at_last(data);
        }
        hide(&mut *data);
        if (*data).elevel >= i32::try_from(pg_sys::PGERROR).unwrap_or(21) && guc::guarded() {
            guarded(|| {
                let explained = explain_end(&mut *data);
                note(data);
                // The warden's words carry nothing of anybody's.
                if !explained {
                    door::cap_error(&mut *data);
                }
                if synced::wanted() {
                    answer_when_recorded(&mut *data);
                }
            });
            // The server's log stays as it was asked for.
            if (*data).elevel < THRESHOLD.load(Ordering::Relaxed) {
                (*data).output_to_server = false;
            }
        }
        if let Some(previous) = PREVIOUS {
            previous(data);
        }
    }
}

/// Masks tokens in every text of the report. Texts without a token are only read: constants of the server are never
/// written. The statement that would be printed under a mere message may not be parsed yet: it is left out instead.
unsafe fn hide(data: &mut pg_sys::ErrorData) {
    // SAFETY: NUL-terminated texts or null. A text that holds a token was made at run time, hence is writable.
    unsafe {
        if is_dump(data) && secrets::shows_in_dump(data.detail) {
            // The report's own memory context is current (EmitErrorReport in elog.c).
            data.detail = pg_sys::pstrdup(c"(not shown: the statement holds a token)".as_ptr());
        }
        for text in [data.message, data.detail, data.detail_log, data.hint, data.context, data.internalquery]
        {
            secrets::mask_in_place(text);
        }
        if data.elevel >= i32::try_from(pg_sys::PGERROR).unwrap_or(21) {
            secrets::hide_current();
        } else if secrets::current_has_token() {
            data.hide_stmt = true;
        }
    }
}

/// Whether a report is what debug_print_parse and its like have logged: the tree is its detail (elog_node_display in print.c).
unsafe fn is_dump(data: &pg_sys::ErrorData) -> bool {
    if data.message.is_null() || data.elevel >= i32::try_from(pg_sys::PGERROR).unwrap_or(21) {
        return false;
    }
    // SAFETY: NUL-terminated.
    let message = unsafe { CStr::from_ptr(data.message) }.to_bytes();
    message.ends_with(b" tree:") || message == b"plan:"
}

/// A cancel that the warden sent reads as one of anybody until here, where the report goes to its readers. Whether it was one.
fn explain_end(data: &mut pg_sys::ErrorData) -> bool {
    let verdict = if warden::is_end(data.sqlerrcode) { warden::verdict() } else { None };
    if let Some((message, detail)) = verdict {
        // SAFETY: the report's own memory context is current (EmitErrorReport in elog.c), and its texts are freed there one
        // by one when it is done with a FATAL.
        let copy = |text: &CStr| unsafe { pg_sys::pstrdup(text.as_ptr()) };
        data.message = copy(message);
        data.detail = copy(detail);
        data.hint = copy(warden::HINT);
    }
    verdict.is_some()
}

/// The client must not read of a failure that is not recorded: if that fails, it reads of this failure instead.
fn answer_when_recorded(data: &mut pg_sys::ErrorData) {
    if data.elevel > i32::try_from(pg_sys::PGERROR).unwrap_or(21) {
        // The connection ends: nothing is answered.
        return;
    }
    endings::heard();
    // What was sent before the error; rows that are held are known to leave only when this one's event is on disk.
    if !held::holding() {
        results::ends_by_error();
    }
    statement::publish_failed();
    // SAFETY: an error that reaches this hook has reached the top, and the first thing that the server does with it
    // afterwards is this (AbortTransaction in xact.c). Nothing may be held while the writer is waited for.
    unsafe { pg_sys::LWLockReleaseAll() };
    let recorded = synced::wait().and_then(|()| {
        held::release();
        if results::ends_by_error() { synced::wait() } else { Ok(()) }
    });
    if let Err(refusal) = recorded {
        raise::prepare(&refusal).replace(data);
    }
}

fn note(data: *mut pg_sys::ErrorData) {
    // SAFETY: the server's ErrorData; the message is NUL-terminated or null.
    let (code, message) = unsafe {
        let data = &*data;
        let message = if data.message.is_null() {
            String::new()
        } else {
            encoding::from_server(CStr::from_ptr(data.message))
        };
        (data.sqlerrcode, message)
    };
    // SAFETY: as above.
    let fatal = unsafe { (*data).elevel > i32::try_from(pg_sys::PGERROR).unwrap_or(21) };
    if fatal {
        record::connection_ends_by(raise::sqlstate_text(code), &message);
    }
    let whole = text::current();
    // SAFETY: as above.
    statement::failing(code, &message, unsafe { failed(&*data, &whole) });
}

/// The statement that failed, of several in one text. What does not parse fails as a whole.
unsafe fn failed<'a>(data: &pg_sys::ErrorData, whole: &'a str) -> &'a str {
    let planned = planner::failed_in();
    if !whole.trim_end().trim_end_matches(';').contains(';') {
        return whole;
    }
    // SAFETY: a constant of the server's, or null.
    let file = unsafe { if data.filename.is_null() { c"" } else { CStr::from_ptr(data.filename) } };
    if [&b"scan.l"[..], b"gram.y", b"parser.c"].iter().any(|name| file.to_bytes().ends_with(name)) {
        return whole;
    }
    let characters = usize::try_from(data.cursorpos).unwrap_or(0);
    let place = match characters.checked_sub(1) {
        Some(before) => whole.char_indices().nth(before).map(|(at, _)| at),
        // The server's places are bytes of a text that may be in another encoding; up to 17 they lie behind the semicolon before.
        None => planned
            .filter(|_| encoding::is_utf8())
            .and_then(|(location, _)| usize::try_from(location).ok())
            .and_then(|location| first_word(whole, location)),
    };
    place.map_or(whole, |place| sql_text::statement_at(whole, place))
}

/// The first byte behind blanks: in the statement itself, whether or not the place is.
fn first_word(whole: &str, location: usize) -> Option<usize> {
    let rest = whole.get(location..)?;
    Some(location.saturating_add(rest.len()).saturating_sub(rest.trim_start().len()))
}
