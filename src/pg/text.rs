//! The text of the statement that is being worked on, as it is decided by, recorded and shown.

use std::cell::RefCell;
use std::ffi::CStr;
use std::os::raw::c_char;
use std::rc::Rc;

use pgrx::pg_sys;

use super::secrets;

/// Longer texts are not remembered: a bound on memory, and their copy is cheap beside what they cost anyway.
const REMEMBERED_MAX: usize = 4096;

/// What `query` was last asked, and what it gave. Prepared statements come again and again.
struct Last {
    source: Box<[u8]>,
    location: i32,
    length: i32,
    /// Whether tokens were looked for in it.
    searched: bool,
    text: Rc<str>,
}

thread_local! {
    static LAST: RefCell<Option<Last>> = const { RefCell::new(None) };
}

/// The text that the client sent; empty where the server knows none (fast-path calls).
pub fn current() -> String {
    // SAFETY: NUL-terminated or null; it belongs to the message that is being worked on.
    unsafe {
        let text = pg_sys::debug_query_string;
        if text.is_null() { String::new() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
    }
}

/// The text of a query that is about to run, without its tokens, which are masked in the source too.
///
/// # Safety
/// `source` is null or palloc'd, NUL-terminated text.
pub unsafe fn query(source: *const c_char, location: i32, length: i32) -> Rc<str> {
    if source.is_null() {
        return Rc::default();
    }
    // SAFETY: the caller's promise; nothing writes to it while this is looked at.
    let bytes = unsafe { CStr::from_ptr(source) }.to_bytes();
    if let Some(text) = remembered(bytes, location, length) {
        return text;
    }
    // SAFETY: a portal's copy of a text that was parsed before; Execute shows it.
    unsafe { secrets::hide(source) };
    // SAFETY: the caller's promise.
    let text: Rc<str> = unsafe { statement(source, location, length) }.into();
    // SAFETY: as above; looked at again, because tokens in it are masked now.
    let source = unsafe { CStr::from_ptr(source) }.to_bytes();
    let last = (source.len() <= REMEMBERED_MAX).then(|| Last {
        source: source.into(),
        location,
        length,
        searched: secrets::seen(),
        text: Rc::clone(&text),
    });
    LAST.with(|place| {
        if let Ok(mut place) = place.try_borrow_mut() {
            *place = last;
        }
    });
    text
}

/// Compared by content: the memory of one text is soon that of another. What was remembered before there was a token to
/// look for is forgotten when there is one.
fn remembered(source: &[u8], location: i32, length: i32) -> Option<Rc<str>> {
    LAST.with(|last| {
        let last = last.try_borrow().ok()?;
        let same = |last: &&Last| {
            last.location == location
                && last.length == length
                && last.searched == secrets::seen()
                && *last.source == *source
        };
        last.as_ref().filter(same).map(|last| Rc::clone(&last.text))
    })
}

/// The part of a source text that is one statement of it.
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
    let part = bytes.get(start..end).unwrap_or(bytes);
    String::from_utf8_lossy(part).trim().to_owned()
}
