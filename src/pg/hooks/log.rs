//! emit_log_hook: sees errors that reach the top, also those that no executor hook could, and hides tokens in what
//! goes to the server's log.

use std::ffi::CStr;

use pgrx::pg_sys;

use super::super::{guc, secrets, statement};
use super::{current_text, guarded};

static mut PREVIOUS: pg_sys::emit_log_hook_type = None;

/// Saves the previous hook and installs ours.
pub fn init() {
    // SAFETY: _PG_init runs alone; a plain function pointer.
    unsafe {
        PREVIOUS = pg_sys::emit_log_hook;
        pg_sys::emit_log_hook = Some(emit);
    }
}

unsafe extern "C-unwind" fn emit(data: *mut pg_sys::ErrorData) {
    // SAFETY: outer frame; the server hands its own ErrorData, whose texts are palloc'd or constants.
    unsafe {
        hide(&mut *data);
        if (*data).elevel >= i32::try_from(pg_sys::PGERROR).unwrap_or(21) && guc::guarded() {
            guarded(|| note(data));
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

fn note(data: *mut pg_sys::ErrorData) {
    // SAFETY: the server's ErrorData; the message is NUL-terminated or null.
    let (code, message) = unsafe {
        let data = &*data;
        let message =
            if data.message.is_null() { "" } else { CStr::from_ptr(data.message).to_str().unwrap_or("") };
        (data.sqlerrcode, message)
    };
    statement::failing(code, message, &current_text());
}
