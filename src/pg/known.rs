//! Statements that this backend has seen, and what was found out about each, so that one that comes again costs little.
//!
//! Found by content: the memory of one text is soon that of another. Nothing here decides anything; `repeated` says
//! when what was decided about a statement counts again.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString};
use std::os::raw::{c_char, c_int};
use std::rc::Rc;

use super::process::PerProcess;
use super::repeated::Repeated;
use super::{secrets, text};
use crate::audit::record::Tail;

/// Longer texts are not remembered: a bound on memory, and their copy is cheap beside what they cost anyway.
const REMEMBERED_MAX: usize = 4096;
/// How many statements are remembered at a time, each in the place that the address of its text gives it.
const PLACES: usize = 64;

/// A statement's text, and what is remembered about it.
pub struct Known {
    source: CString,
    location: i32,
    length: i32,
    /// Whether tokens were looked for in it.
    searched: bool,
    text: Rc<str>,
    came_again: Cell<bool>,
    /// What was decided on its relations when it last was decided.
    pub decided: RefCell<Option<Rc<Repeated>>>,
    /// The end of its event when that last was encoded.
    pub ending: RefCell<Option<Ending>>,
}

/// The end of an event, and what it was made of.
pub struct Ending {
    /// The outcome that it tells.
    pub repeated: Rc<Repeated>,
    /// The client's application_name.
    pub application: CString,
    /// The command tag.
    pub command: &'static str,
    /// Its bytes.
    pub tail: Tail,
}

impl Known {
    /// The text of the statement.
    pub fn text(&self) -> Rc<str> {
        Rc::clone(&self.text)
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
    let place = ((source.addr() / 16) ^ location.unsigned_abs() as usize) % PLACES;
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

/// What was remembered before there was a token to look for is forgotten when there is one.
///
/// # Safety
/// As `query`.
unsafe fn remembered(place: usize, source: *const c_char, location: i32, length: i32) -> Option<Rc<Known>> {
    let places = KNOWN.try_borrow().ok()?;
    let known = places.get(place)?.as_ref()?;
    let same = known.location == location
        && known.length == length
        && known.searched == secrets::seen()
        && !source.is_null()
        // SAFETY: the caller's promise; both are NUL-terminated.
        && unsafe { strcmp(known.source.as_ptr(), source) } == 0;
    same.then(|| Rc::clone(known))
}
