//! What is out of the ordinary in this process right now: one word, so that an ordinary statement or message asks once.
//!
//! Each bit belongs to one module, which sets it and says what it means. Nothing is decided here.

use std::sync::atomic::{AtomicU16, Ordering};

/// Something out of the ordinary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Unusual {
    /// What leaves is charged (`door`).
    Charged = 1,
    /// Rows are recorded (`results`).
    Recorded = 2,
    /// Messages are held back (`held`).
    Held = 4,
    /// The session is limited (`meter`).
    Limited = 8,
    /// The statement's clock runs (`limit_timer`).
    Timed = 16,
    /// Texts of reports are withheld (`withhold`).
    Withheld = 32,
    /// Secrets are taken out of events (`statement::within`).
    Secrets = 64,
    /// This transaction has changed policies, masks or filters (`epoch`).
    Changing = 128,
    /// A function that is not built in is running (`calls`).
    Calling = 256,
    /// Schemas changed: whether the extension is still the one that the session was bound under is not known (`session`).
    Moved = 512,
}

/// What messages to the client are looked at for.
const MESSAGES: u16 = Unusual::Charged as u16 | Unusual::Recorded as u16 | Unusual::Held as u16;

static ALL: AtomicU16 = AtomicU16::new(0);

/// Whether there is anything.
#[inline]
pub fn any() -> bool {
    ALL.load(Ordering::Relaxed) != 0
}

/// Whether messages are looked at.
#[inline]
pub fn messages() -> bool {
    ALL.load(Ordering::Relaxed) & MESSAGES != 0
}

/// Whether this is so.
#[inline]
pub fn is(what: Unusual) -> bool {
    ALL.load(Ordering::Relaxed) & what as u16 != 0
}

/// Says whether it is. Not called by signal handlers, which may ask.
#[inline]
pub fn set(what: Unusual, so: bool) {
    let others = ALL.load(Ordering::Relaxed) & !(what as u16);
    ALL.store(if so { others | what as u16 } else { others }, Ordering::Relaxed);
}
