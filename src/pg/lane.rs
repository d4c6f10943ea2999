//! Rows that need no look before they leave: copied as they go, counted, and told to their result all at once (`results`).
//!
//! There is one lane, open for the portal that sends and for as many bytes and rows as are known to fit. Nothing here raises,
//! panics, allocates or decides; whatever the lane is not open for goes the long way.

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::os::raw::c_char;

use super::process::PerProcess;
use crate::audit::results::{BESIDE_ROW, head_of_row};

/// Where rows are copied to.
pub enum Sink<'a> {
    /// As rows of a part.
    Rows(&'a mut [MaybeUninit<u8>]),
    /// Their bytes alone.
    Bytes(&'a mut [MaybeUninit<u8>]),
    /// Nowhere: they are counted.
    Nothing,
}

struct Lane {
    /// The portal that it is open for, by its address; 0 while it is closed.
    portal: Cell<usize>,
    /// Where the next row goes; null for nowhere.
    next: Cell<*mut u8>,
    /// Whether a head stands before each row.
    heads: Cell<bool>,
    /// Bytes that it is still open for, those of heads among them.
    room: Cell<usize>,
    /// Rows likewise.
    rows: Cell<u64>,
    /// What has gone.
    rows_gone: Cell<u64>,
    bytes_gone: Cell<u64>,
}

static LANE: PerProcess<Lane> = PerProcess::new(Lane {
    portal: Cell::new(0),
    next: Cell::new(std::ptr::null_mut()),
    heads: Cell::new(false),
    room: Cell::new(0),
    rows: Cell::new(0),
    rows_gone: Cell::new(0),
    bytes_gone: Cell::new(0),
});

/// Opens it. Until it is closed nobody else touches what the sink is a part of.
pub fn open(portal: usize, sink: Sink<'_>, room: usize, rows: u64) {
    let (next, heads, room) = match sink {
        Sink::Rows(place) => (place.as_mut_ptr().cast(), true, room.min(place.len())),
        Sink::Bytes(place) => (place.as_mut_ptr().cast(), false, room.min(place.len())),
        Sink::Nothing => (std::ptr::null_mut(), false, room),
    };
    LANE.next.set(next);
    LANE.heads.set(heads);
    LANE.room.set(room);
    LANE.rows.set(rows);
    LANE.portal.set(portal);
}

/// Closes it; how many rows and bytes of them have gone since it was opened.
pub fn close() -> (u64, u64) {
    LANE.portal.set(0);
    LANE.next.set(std::ptr::null_mut());
    (LANE.rows_gone.take(), LANE.bytes_gone.take())
}

/// Whether it is open for a row of this length.
#[inline]
pub fn has_room(portal: usize, length: usize) -> bool {
    LANE.portal.get() == portal
        && portal != 0
        && length.saturating_add(BESIDE_ROW) <= LANE.room.get()
        && LANE.rows.get() > 0
}

/// A row has left for which there was room.
///
/// # Safety
/// `has_room` was true of it, and nothing has happened to the lane since; `body` has `length` bytes.
#[inline]
pub unsafe fn gone(body: *const c_char, length: usize) {
    let next = LANE.next.get();
    if !next.is_null() {
        // SAFETY: `open` was given room for as many bytes, which belong to nobody else until `close`.
        unsafe {
            let mut at = next;
            if LANE.heads.get() {
                at.cast::<[u8; BESIDE_ROW]>().write_unaligned(head_of_row(length));
                at = at.add(BESIDE_ROW);
            }
            std::ptr::copy_nonoverlapping(body.cast::<u8>(), at, length);
            at = at.add(length);
            LANE.room.set(LANE.room.get().wrapping_sub(at.addr().wrapping_sub(next.addr())));
            LANE.next.set(at);
        }
    }
    LANE.rows.set(LANE.rows.get().wrapping_sub(1));
    LANE.rows_gone.set(LANE.rows_gone.get().wrapping_add(1));
    LANE.bytes_gone.set(LANE.bytes_gone.get().wrapping_add(length as u64));
}
