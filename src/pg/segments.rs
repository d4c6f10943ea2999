//! The trail's table: sixteen unlogged segments used in turn, so that the oldest events go by TRUNCATE.
//!
//! Which segment is current is nowhere stored: it is the one with the highest sequence number. No lock is waited
//! for. An auditor who reads for long keeps the oldest segment from being emptied, and the current one then grows
//! past its share; somebody who locks the current segment keeps the writer from writing.

use std::ffi::CString;

use pgrx::prelude::*;
use pgrx::spi::SpiError;

use super::guc_audit;
use super::insert::{CHUNK, Inserter, Written, truncate};
use crate::audit::record::OwnedEvent;

const SEGMENTS: usize = 16;

/// One segment as the writer knows it; `last` is 0 while it is empty.
#[derive(Clone, Copy)]
struct Segment {
    relation: pg_sys::Oid,
    first: u64,
    last: u64,
}

impl Segment {
    fn rows(&self) -> u64 {
        if self.last == 0 { 0 } else { self.last.saturating_sub(self.first).saturating_add(1) }
    }
}

/// The segments of this database's trail.
#[derive(Clone, Copy)]
pub struct Segments {
    list: [Segment; SEGMENTS],
    current: usize,
    /// Whether the oldest segment could not be emptied when that was due.
    pub blocked: bool,
}

impl Segments {
    /// Finds the segments; `None` in a database without the extension. Inside a transaction with a snapshot.
    pub fn locate() -> Result<Option<Segments>, SpiError> {
        // SAFETY: catalogue look-ups of names that need not exist.
        let schema = unsafe {
            if pg_sys::get_extension_oid(c"agent_guard".as_ptr(), true) == pg_sys::InvalidOid {
                return Ok(None);
            }
            pg_sys::get_namespace_oid(c"agent_guard".as_ptr(), true)
        };
        let mut list = [Segment { relation: pg_sys::InvalidOid, first: 0, last: 0 }; SEGMENTS];
        for (n, segment) in list.iter_mut().enumerate() {
            let name = format!("audit_segment_{n:02}");
            let c_name = CString::new(name.as_str()).unwrap_or_default();
            // SAFETY: as above.
            segment.relation = unsafe { pg_sys::get_relname_relid(c_name.as_ptr(), schema) };
            if segment.relation == pg_sys::InvalidOid {
                return Ok(None);
            }
            let (first, last) = Spi::get_two::<i64, i64>(&format!(
                "SELECT pg_catalog.min(seq), pg_catalog.max(seq) FROM ONLY agent_guard.{name}"
            ))?;
            segment.first = first.and_then(|seq| u64::try_from(seq).ok()).unwrap_or(0);
            segment.last = last.and_then(|seq| u64::try_from(seq).ok()).unwrap_or(0);
        }
        let newest = list.iter().enumerate().max_by_key(|(_, segment)| segment.last);
        let current = newest.filter(|(_, segment)| segment.last > 0).map_or(0, |(n, _)| n);
        Ok(Some(Segments { list, current, blocked: false }))
    }

    /// The highest sequence number in the trail; 0 while it is empty.
    pub fn last(&self) -> u64 {
        self.list.iter().map(|segment| segment.last).max().unwrap_or(0)
    }

    /// Writes rows, in order, inside a transaction that the caller commits. What `self` knows is then right only
    /// if the transaction commits: the caller works on a copy.
    pub fn write(&mut self, rows: &[(u64, OwnedEvent)], inserter: &mut Inserter) -> Written {
        let mut rest = rows;
        while !rest.is_empty() {
            let share = (guc_audit::capacity() / 16).max(1);
            match self.make_room(share) {
                Written::All => {}
                other => return other,
            }
            let Some(segment) = self.list.get_mut(self.current) else { return Written::Gone };
            let left = usize::try_from(share.saturating_sub(segment.rows())).unwrap_or(CHUNK);
            let take = if left == 0 { CHUNK } else { left.min(CHUNK) };
            let (chunk, behind) = rest.split_at_checked(take).unwrap_or((rest, &[]));
            match inserter.insert(segment.relation, chunk) {
                Written::All => {}
                other => return other,
            }
            if let (Some((first, _)), Some((last, _))) = (chunk.first(), chunk.last()) {
                if segment.last == 0 {
                    segment.first = *first;
                }
                segment.last = *last;
            }
            rest = behind;
        }
        Written::All
    }

    /// Moves on from a full segment, emptying the oldest ones until a share fits. Where that is impossible the
    /// current segment goes on.
    fn make_room(&mut self, share: u64) -> Written {
        let full = self.list.get(self.current).is_none_or(|segment| segment.rows() >= share);
        if !full {
            return Written::All;
        }
        let next = self.current.saturating_add(1) % SEGMENTS;
        loop {
            let total: u64 = self.list.iter().map(Segment::rows).sum();
            let next_in_use = self.list.get(next).is_some_and(|segment| segment.last > 0);
            if !next_in_use && total.saturating_add(share) <= guc_audit::capacity() {
                self.blocked = false;
                self.current = next;
                return Written::All;
            }
            let current = self.current;
            let others = self.list.iter_mut().enumerate().filter(|(n, s)| *n != current && s.last > 0);
            let Some((_, oldest)) = others.min_by_key(|(_, segment)| segment.last) else {
                // Only the current segment has rows, more than the capacity that was just lowered.
                self.current = next;
                return Written::All;
            };
            match truncate(oldest.relation) {
                Written::All => {
                    oldest.first = 0;
                    oldest.last = 0;
                }
                Written::Locked => {
                    self.blocked = true;
                    return Written::All;
                }
                Written::Gone => return Written::Gone,
            }
        }
    }
}
