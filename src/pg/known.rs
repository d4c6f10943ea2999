//! Statements that this backend has seen, and what was found out about each, so that one that comes again costs little.
//!
//! Found by content: the memory of one text is soon that of another. Nothing here decides anything; `repeated` says
//! when what was decided about a statement counts again.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString};
use std::hash::Hasher;
use std::os::raw::{c_char, c_int};
use std::rc::Rc;

use rustc_hash::FxHasher;

use super::process::PerProcess;
use super::repeated::Repeated;
use super::{secrets, text};
use crate::audit::record::Again;

/// Longer texts are not remembered: a bound on memory, and their copy is cheap beside what they cost anyway.
const REMEMBERED_MAX: usize = 4096;
/// How many statements are remembered at a time, each in the place that its text gives it.
pub const PLACES: usize = 64;

/// A statement's text, and what is remembered about it.
pub struct Known {
    source: CString,
    location: i32,
    length: i32,
    /// Whether tokens were looked for in it.
    searched: bool,
    text: Rc<str>,
    /// Where it is remembered.
    place: usize,
    came_again: Cell<bool>,
    /// What was decided on its relations when it last was decided.
    pub decided: RefCell<Option<Rc<Repeated>>>,
    /// Its event when that last was encoded.
    pub ending: RefCell<Option<Rc<Ending>>>,
}

/// The event of a statement, and what it was made of.
pub struct Ending {
    /// The outcome that it tells.
    pub repeated: Rc<Repeated>,
    /// The client's application_name.
    pub application: CString,
    /// The command tag.
    pub command: &'static str,
    /// How deep it was in other statements.
    pub level: u16,
    /// Its bytes.
    pub event: Again,
}

impl Ending {
    /// Whether the client still calls itself what the event says.
    pub fn has_application(&self, name: &CStr) -> bool {
        // SAFETY: both are NUL-terminated.
        unsafe { strcmp(self.application.as_ptr(), name.as_ptr()) == 0 }
    }
}

impl Known {
    /// Whether it is this statement. What was remembered before there was a token to look for is not, when there is one.
    ///
    /// # Safety
    /// As `query`.
    #[inline]
    pub unsafe fn is(&self, source: *const c_char, location: i32, length: i32) -> bool {
        self.location == location
            && self.length == length
            && self.searched == secrets::seen()
            && !source.is_null()
            // SAFETY: the caller's promise; both are NUL-terminated.
            && unsafe { strcmp(self.source.as_ptr(), source) } == 0
    }

    /// The text of the statement.
    pub fn text(&self) -> Rc<str> {
        Rc::clone(&self.text)
    }

    /// Where it is remembered, if it is.
    pub fn place(&self) -> usize {
        self.place
    }

    /// Whether it has come more than once: only then it is worth its while to remember more.
    pub fn came_again(&self) -> bool {
        self.came_again.get()
    }
}

static KNOWN: PerProcess<RefCell<[Option<Rc<Known>>; PLACES]>> =
    PerProcess::new(RefCell::new([const { None }; PLACES]));

unsafe extern "C" {
    fn strcmp(one: *const c_char, other: *const c_char) -> c_int;
}

/// A query that is about to run, its text without tokens, which are masked in the source too.
///
/// # Safety
/// `source` is null or palloc'd, NUL-terminated text.
pub unsafe fn query(source: *const c_char, location: i32, length: i32) -> Rc<Known> {
    // SAFETY: the caller's promise.
    let place = unsafe { place(source, location) };
    // SAFETY: the caller's promise.
    if let Some(known) = unsafe { remembered(place, source, location, length) } {
        known.came_again.set(true);
        return known;
    }
    if !source.is_null() {
        // SAFETY: a portal's copy of a text that was parsed before; Execute shows it.
        unsafe { secrets::hide(source) };
    }
    // SAFETY: the caller's promise.
    let text: Rc<str> = unsafe { text::statement(source, location, length) }.into();
    // SAFETY: as above; looked at only here, because tokens in it are masked now.
    let source = if source.is_null() { c"" } else { unsafe { CStr::from_ptr(source) } };
    let keep = !source.is_empty() && source.count_bytes() <= REMEMBERED_MAX;
    let known = Rc::new(Known {
        source: if keep { source.to_owned() } else { CString::default() },
        location,
        length,
        searched: secrets::seen(),
        text,
        place,
        came_again: Cell::new(false),
        decided: RefCell::new(None),
        ending: RefCell::new(None),
    });
    if keep
        && let Ok(mut places) = KNOWN.try_borrow_mut()
        && let Some(place) = places.get_mut(place)
    {
        *place = Some(Rc::clone(&known));
    }
    known
}

/// Where a statement is remembered. Told by what the text says: one after the other, the texts of a session lie at one address.
///
/// # Safety
/// As `query`.
#[cfg_attr(target_os = "linux", unsafe(link_section = ".text.guarded"))]
pub unsafe fn place(source: *const c_char, location: i32) -> usize {
    // SAFETY: the caller's promise.
    let text = if source.is_null() { &[] } else { unsafe { CStr::from_ptr(source) }.to_bytes() };
    let mut hasher = FxHasher::default();
    hasher.write(text.get(..REMEMBERED_MAX).unwrap_or(text));
    hasher.write_i32(location);
    usize::try_from(hasher.finish()).unwrap_or(0) % PLACES
}

/// # Safety
/// As `query`.
unsafe fn remembered(place: usize, source: *const c_char, location: i32, length: i32) -> Option<Rc<Known>> {
    let places = KNOWN.try_borrow().ok()?;
    let known = places.get(place)?.as_ref()?;
    // SAFETY: the caller's promise.
    unsafe { known.is(source, location, length) }.then(|| Rc::clone(known))
}
