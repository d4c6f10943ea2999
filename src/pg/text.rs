//! The text of the statement that is being worked on.

use std::ffi::CStr;
use std::os::raw::c_char;

use pgrx::pg_sys;

use super::encoding;
use crate::leading;

/// The text that the client sent; empty where the server knows none (fast-path calls).
pub fn current() -> String {
    // SAFETY: NUL-terminated or null; it belongs to the message that is being worked on.
    unsafe {
        let text = pg_sys::debug_query_string;
        if text.is_null() { String::new() } else { encoding::from_server(CStr::from_ptr(text)) }
    }
}

/// The part of a source text that is one statement of it, with the comments before it.
///
/// # Safety
/// `source` is null or NUL-terminated.
pub unsafe fn statement(source: *const c_char, location: i32, length: i32) -> String {
    if source.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    let bytes = unsafe { CStr::from_ptr(source) }.to_bytes();
    let start = usize::try_from(location).unwrap_or(0).min(bytes.len());
    let end = match usize::try_from(length) {
        Ok(length) if length > 0 => start.saturating_add(length).min(bytes.len()),
        _ => bytes.len(),
    };
    // Up to 17 the server's location is the end of the statement before, from 18 on it is the first word.
    let part = bytes.get(leading::comments(bytes, start)..end).unwrap_or(bytes);
    encoding::text_of(part.trim_ascii())
}
