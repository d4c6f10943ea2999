//! The last look at messages on their way to the client: what was computed while a token was good is not sent after its end,
//! what is limited is charged (`door`), and what is recorded is copied (`results`).
//!
//! Rows that the server has stored, those of WITH HOLD cursors and of portals like RETURNING's, pass no hook when they are
//! fetched by the protocol's Execute. So the message itself is looked at: `PqCommMethods` of such a session is a copy of the
//! server's, with one function in front.

use std::os::raw::{c_char, c_int};
use std::sync::atomic::{AtomicPtr, Ordering};

use pgrx::pg_sys;

use super::held::{self, Way};
use super::hooks::{checked, guarded, raise_if};
use super::{door, endings, guc, lane, results, session, synced, unusual, warden};
use crate::refusal::Refusal;

/// `PQcommMethods` (src/include/libpq/libpq.h), the same from 15 to 18.
#[repr(C)]
#[derive(Clone, Copy)]
struct Methods {
    comm_reset: Option<unsafe extern "C-unwind" fn()>,
    flush: Option<unsafe extern "C-unwind" fn() -> c_int>,
    flush_if_writable: Option<unsafe extern "C-unwind" fn() -> c_int>,
    is_send_pending: Option<unsafe extern "C-unwind" fn() -> bool>,
    putmessage: Option<unsafe extern "C-unwind" fn(c_char, *const c_char, usize) -> c_int>,
    putmessage_noblock: Option<unsafe extern "C-unwind" fn(c_char, *const c_char, usize)>,
}

unsafe extern "C" {
    #[link_name = "PqCommMethods"]
    static mut METHODS_IN_USE: *const Methods;
}

/// The methods that ours stand in front of.
static PREVIOUS: AtomicPtr<Methods> = AtomicPtr::new(std::ptr::null_mut());
static OURS: AtomicPtr<Methods> = AtomicPtr::new(std::ptr::null_mut());
/// The one of them that is called for each message.
static mut PREVIOUS_PUT: Option<unsafe extern "C-unwind" fn(c_char, *const c_char, usize) -> c_int> = None;

/// Puts ours in front, once in each backend that binds a token, or whose denials are only recorded.
pub fn init() {
    // SAFETY: the pointer is this process's own, to a table that lives as long as it; ours is never freed.
    unsafe {
        let Some(previous) = METHODS_IN_USE.as_ref() else { return };
        if !OURS.load(Ordering::Relaxed).is_null() {
            return;
        }
        PREVIOUS.store(METHODS_IN_USE.cast_mut(), Ordering::Relaxed);
        PREVIOUS_PUT = previous.putmessage;
        let ours = Box::leak(Box::new(Methods {
            putmessage: Some(put),
            putmessage_noblock: Some(put_noblock),
            ..*previous
        }));
        OURS.store(ours, Ordering::Relaxed);
        METHODS_IN_USE = ours;
    }
}

#[cfg_attr(target_os = "linux", unsafe(link_section = ".text.guarded"))]
unsafe extern "C-unwind" fn put(kind: c_char, body: *const c_char, length: usize) -> c_int {
    // SAFETY: outer frame; see hooks/mod.rs. An error here leaves between two messages, as one of an output function does.
    unsafe {
        if unusual::messages() || held::is_result(kind.to_ne_bytes()[0]) {
            return put_result(kind, body, length);
        }
        hand_on(kind, body, length)
    }
}

/// A message that somebody looks at, or a row or notice. Apart, so that the others cost next to nothing.
#[inline(never)]
#[cfg_attr(target_os = "linux", unsafe(link_section = ".text.guarded"))]
unsafe fn put_result(kind: c_char, body: *const c_char, length: usize) -> c_int {
    // SAFETY: as in `put`. What is known of a row before it is handed on still holds behind that.
    unsafe {
        if !unusual::messages() && !synced::wanted() && !endings::doomed() && !sends_held_rows() {
            return hand_on(kind, body, length);
        }
        let recorded = results::is_watched();
        if looks_beside_record(kind) || (recorded && !results::has_room(kind.to_ne_bytes()[0], length)) {
            return put_looking(kind, body, length);
        }
        let outcome = hand_on(kind, body, length);
        if recorded && outcome == 0 {
            lane::gone(body, length);
        }
        outcome
    }
}

#[inline]
unsafe fn hand_on(kind: c_char, body: *const c_char, length: usize) -> c_int {
    // SAFETY: the server's own function with its own message.
    unsafe {
        match PREVIOUS_PUT {
            Some(previous) => previous(kind, body, length),
            None => -1,
        }
    }
}

#[inline(never)]
unsafe fn put_looking(kind: c_char, body: *const c_char, length: usize) -> c_int {
    // SAFETY: as in `put`.
    unsafe {
        if !passes(kind, body, length) {
            return 0;
        }
        // What waits goes when its statement's event is on disk.
        let waiting = waits(kind, body, length);
        let outcome = if waiting { 0 } else { hand_on(kind, body, length) };
        if outcome == 0 && results::is_watched() {
            guarded(|| results::after(kind.to_ne_bytes()[0], body, length, waiting));
        }
        outcome
    }
}

unsafe extern "C-unwind" fn put_noblock(kind: c_char, body: *const c_char, length: usize) {
    // SAFETY: as above.
    unsafe {
        if (!looks(kind) || goes(kind, body, length))
            && let Some(previous) =
                PREVIOUS.load(Ordering::Relaxed).as_ref().and_then(|previous| previous.putmessage_noblock)
        {
            previous(kind, body, length);
        }
    }
}

/// Whether a message is held back until its statement is recorded; raises where that fails. Sends what was held before it.
unsafe fn waits(kind: c_char, body: *const c_char, length: usize) -> bool {
    if !held::concerned(kind) {
        return false;
    }
    let mut way = Way::Passes;
    // SAFETY: part of the outer frame; the message is the server's.
    unsafe { raise_if(checked(|| held::way(kind, length, &mut way))) };
    guarded(|| {
        if way == Way::Follows {
            let messages = held::take();
            let mut rest = messages.as_slice();
            while let Some((kind, body, behind)) = held::split(rest) {
                // SAFETY: a whole message; the server's function reports a lost connection and raises nothing.
                unsafe { hand_on(c_char::from_ne_bytes([kind]), body.as_ptr().cast(), body.len()) };
                rest = behind;
            }
        } else if way == Way::Waits {
            // SAFETY: the server hands `length` bytes; a null body has none.
            let body = unsafe {
                if body.is_null() { &[] } else { std::slice::from_raw_parts(body.cast::<u8>(), length) }
            };
            held::put(kind, body);
        }
    });
    matches!(way, Way::Waits | Way::Ends)
}

/// Whether there is anything to be looked at with such a message: mostly there is not.
#[inline]
unsafe fn looks(kind: c_char) -> bool {
    // SAFETY: part of the outer frame.
    unsafe { results::is_watched() || looks_beside_record(kind) }
}

/// Whether there is anything to be looked at but whether it is recorded.
#[inline]
unsafe fn looks_beside_record(kind: c_char) -> bool {
    // SAFETY: part of the outer frame.
    unsafe {
        door::is_watched()
            || held::concerned(kind)
            || (held::is_row(kind.to_ne_bytes()[0]) && (endings::doomed() || sends_held_rows()))
    }
}

/// Whether a message that is looked at goes now.
unsafe fn goes(kind: c_char, body: *const c_char, length: usize) -> bool {
    // SAFETY: part of the outer frame; the message is the server's.
    unsafe { passes(kind, body, length) && !waits(kind, body, length) }
}

/// Whether a message is to be sent; raises where what it is part of has to end.
unsafe fn passes(kind: c_char, body: *const c_char, length: usize) -> bool {
    // SAFETY: part of the outer frame; the message is the server's.
    unsafe {
        if held::is_row(kind.to_ne_bytes()[0]) && (endings::doomed() || sends_held_rows()) {
            raise_if(checked(may_send));
        }
        let mut drop = false;
        if door::is_watched() {
            raise_if(checked(|| door::before(kind, body, length, &raw mut drop)));
        }
        let code = kind.to_ne_bytes()[0];
        if results::is_watched() && !drop && !results::has_room(code, length) {
            raise_if(checked(|| results::before(code, body, length)));
        }
        !drop
    }
}

/// Whether the rows are those that a WITH HOLD cursor has kept beyond its transaction.
#[inline]
unsafe fn sends_held_rows() -> bool {
    // SAFETY: the portal that runs, or null.
    unsafe {
        pg_sys::ActivePortal.as_ref().is_some_and(|portal| {
            !portal.holdStore.is_null()
                && u32::try_from(portal.cursorOptions)
                    .is_ok_and(|options| options & pg_sys::CURSOR_OPT_HOLD != 0)
        })
    }
}

fn may_send() -> Result<(), Refusal> {
    if let Some(ended) = endings::own_doom().filter(|_| endings::doomed()) {
        return Err(warden::too_late(ended));
    }
    match session::current() {
        Err(_) if guc::observing() => Ok(()),
        session => session.map(|_| ()),
    }
}
