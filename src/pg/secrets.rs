//! Keeps tokens out of what others can read: the activity view, the text that later hooks see, the server log.
//!
//! Works on the text in place and keeps its length, so that every position that the server noted stays true.

use std::os::raw::c_char;
use std::sync::atomic::{AtomicBool, Ordering};

use pgrx::pg_sys;

use super::connection;

/// A text of this backend held a token: copies of it may be about.
static SEEN: AtomicBool = AtomicBool::new(false);

/// What a bearer token begins with. Proofs are harmless and stay readable.
const PREFIX: &[u8; 5] = b"agt1.";
/// Shorter runs are no tokens (the shortest has more than a hundred characters) but words in a text about them.
const SHORTEST: usize = 20;

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-')
}

/// The secret part of the first token at or after `from`: where it begins, and its length.
fn find(text: &[u8], from: usize) -> Option<(usize, usize)> {
    let mut at = from;
    loop {
        let found = memchr::memmem::find(text.get(at..)?, PREFIX)?;
        let start = at + found + PREFIX.len();
        let length = text.iter().skip(start).take_while(|byte| is_token_byte(**byte)).count();
        if length >= SHORTEST {
            return Some((start, length));
        }
        at = start + length;
    }
}

/// Overwrites the secret part of every token in `text`; whether there was one.
pub fn mask(text: &mut [u8]) -> bool {
    let mut at = 0;
    while let Some((start, length)) = find(text, at) {
        text.iter_mut().skip(start).take(length).for_each(|byte| *byte = b'*');
        at = start + length;
    }
    at > 0
}

/// Whether a token was masked in a text: many different texts look like this one.
pub fn was_masked(text: &str) -> bool {
    let masked = |at: usize| text.as_bytes().iter().skip(at + PREFIX.len()).take(SHORTEST);
    memchr::memmem::find_iter(text.as_bytes(), PREFIX)
        .any(|at| masked(at).count() == SHORTEST && masked(at).all(|byte| *byte == b'*'))
}

/// Whether the dump of a statement's tree shows a token: as a text, which is broken into lines at any place, or byte by byte
/// as a number, which only the statement itself tells.
///
/// # Safety
/// `dump` is null or NUL-terminated.
pub unsafe fn shows_in_dump(dump: *const c_char) -> bool {
    if dump.is_null() {
        return false;
    }
    // SAFETY: the caller's promise; the message that this backend is working on is NUL-terminated or null.
    unsafe {
        let dump = std::ffi::CStr::from_ptr(dump).to_bytes();
        let unbroken: Vec<u8> = dump.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
        let current = pg_sys::debug_query_string;
        find(&unbroken, 0).is_some()
            || (!current.is_null() && {
                let text = std::ffi::CStr::from_ptr(current);
                find(text.to_bytes(), 0).is_some() || was_masked(&text.to_string_lossy())
            })
    }
}

/// Masks tokens in a NUL-terminated text of the server's, in place.
///
/// # Safety
/// `text` is null or points to writable, NUL-terminated memory of this process: a message buffer or palloc'd text.
pub unsafe fn mask_in_place(text: *mut c_char) -> bool {
    if text.is_null() {
        return false;
    }
    // SAFETY: the caller's promise; the length is that of the text.
    unsafe {
        let length = std::ffi::CStr::from_ptr(text).to_bytes().len();
        let masked = mask(std::slice::from_raw_parts_mut(text.cast::<u8>(), length));
        if masked {
            SEEN.store(true, Ordering::Relaxed);
        }
        masked
    }
}

/// Whether a text of this backend held a token.
pub fn seen() -> bool {
    SEEN.load(Ordering::Relaxed)
}

/// Whether the message that this backend is working on holds a token.
pub fn current_has_token() -> bool {
    // SAFETY: NUL-terminated or null; it belongs to the message.
    unsafe {
        let text = pg_sys::debug_query_string;
        !text.is_null() && find(std::ffi::CStr::from_ptr(text).to_bytes(), 0).is_some()
    }
}

/// Masks tokens in the message that this backend is working on and in what the activity view shows of it.
///
/// The text has been parsed by then: its constants are copies (scan.l), so what the statement does is not changed.
pub fn hide_current() {
    // SAFETY: only client backends have a message buffer behind debug_query_string, and that is palloc'd (pqformat.c);
    // the source text of a portal is palloc'd too.
    unsafe {
        if !connection::has_client() || pg_sys::debug_query_string.is_null() {
            return;
        }
        if mask_in_place(pg_sys::debug_query_string.cast_mut()) {
            pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, pg_sys::debug_query_string);
        }
    }
}

/// Masks tokens in a source text that a hook was given, where an earlier copy of it may have held one: every text passes
/// `hide_current` first.
///
/// # Safety
/// `source` is null or palloc'd, NUL-terminated text.
pub unsafe fn hide(source: *const c_char) {
    // SAFETY: the caller's promise.
    unsafe {
        if SEEN.load(Ordering::Relaxed) && mask_in_place(source.cast_mut()) {
            pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_masked_and_lengths_kept() {
        let mut text =
            b"SET agent_guard.token = 'agt1.AAAAAQABAgMEBQYHCAkKCwwNDg8.eyJq-_x.T'; SELECT 'agt1.short'"
                .to_vec();
        let before = text.len();
        assert!(mask(&mut text));
        assert_eq!(text.len(), before);
        let text = String::from_utf8(text).unwrap();
        assert!(was_masked(&text) && !was_masked("agt1.****") && !was_masked("SELECT 'agt1.short'"));
        assert!(!text.contains("AAAAAQ") && text.contains("'; SELECT 'agt1.short'"));
        assert!(!mask(&mut b"SELECT 1".to_vec()));
    }
}
