//! The trail's table: sixteen unlogged segments used in turn, so that the oldest events go by TRUNCATE.
//!
//! Which segment is current is nowhere stored: it is the one with the highest sequence number. No lock is waited
//! for. An auditor who reads for long keeps the oldest segment from being emptied, and the current one then grows
//! past its share; somebody who locks the current segment keeps the writer from writing.

use std::ffi::CString;
use std::time::{Duration, Instant};

use pgrx::prelude::*;
use pgrx::spi::SpiError;

use super::guc_audit::{self, Journal as Setting};
use super::insert::{CHUNK, Inserter, Rows, Written, truncate};
use super::{anchor, scan, segment_indexes};
use crate::audit::chain::{Hash, Head};

const SEGMENTS: usize = 16;
/// A segment whose index could not be made is left alone for so long.
const INDEX_AGAIN: Duration = Duration::from_secs(5);

/// One segment as the writer knows it; `last` is 0 while it is empty. Times are microseconds since the Unix epoch.
#[derive(Clone, Copy)]
struct Segment {
    relation: pg_sys::Oid,
    first: u64,
    last: u64,
    last_hash: Hash,
    first_at: i64,
    last_at: i64,
    /// Some of its indexes are yet to be made.
    bare: bool,
    /// When that was last tried in vain.
    put_off: Option<Instant>,
}

/// The time before which events are older than a part of `agent_guard.audit_retention`.
fn age_limit(part: u32) -> Option<i64> {
    let age = guc_audit::retention()?.checked_div(part)?;
    let now = scan::clock();
    Some(now.saturating_sub(i64::try_from(age.as_micros()).unwrap_or(i64::MAX)))
}

impl Segment {
    /// Reads what is in the table of this name.
    fn read(&mut self, name: &str) -> Result<(), SpiError> {
        let query = format!(
            "SELECT pg_catalog.min(seq), pg_catalog.max(seq), \
             (pg_catalog.date_part('epoch', pg_catalog.min(at)) OPERATOR(pg_catalog.*) 1e6)::bigint, \
             (pg_catalog.date_part('epoch', pg_catalog.max(at)) OPERATOR(pg_catalog.*) 1e6)::bigint, \
             (SELECT hash FROM ONLY agent_guard.{name} ORDER BY seq DESC LIMIT 1) \
             FROM ONLY agent_guard.{name}"
        );
        Spi::connect(|client| {
            let row = client.select(&query, Some(1), &[])?.first();
            let number = |n: usize| Ok::<_, SpiError>(row.get::<i64>(n)?.unwrap_or(0));
            self.first = u64::try_from(number(1)?).unwrap_or(0);
            self.last = u64::try_from(number(2)?).unwrap_or(0);
            self.first_at = number(3)?;
            self.last_at = number(4)?;
            self.last_hash = row.get::<Vec<u8>>(5)?.and_then(|hash| hash.try_into().ok()).unwrap_or([0; 32]);
            Ok(())
        })
    }

    /// Empties the segment, and keeps its last hash as the one that the trail begins behind.
    fn empty(&mut self) -> Written {
        let emptied = truncate(self.relation);
        if emptied == Written::All {
            anchor::set(Head { seq: self.last, hash: self.last_hash });
            // With new files come all its indexes.
            (self.first, self.last, self.bare) = (0, 0, false);
        }
        emptied
    }

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
        let empty = Segment {
            relation: pg_sys::InvalidOid,
            first: 0,
            last: 0,
            last_hash: [0; 32],
            first_at: 0,
            last_at: 0,
            bare: false,
            put_off: None,
        };
        let mut list = [empty; SEGMENTS];
        for (n, segment) in list.iter_mut().enumerate() {
            let name = format!("audit_segment_{n:02}");
            let c_name = CString::new(name.as_str()).unwrap_or_default();
            // SAFETY: as above.
            segment.relation = unsafe { pg_sys::get_relname_relid(c_name.as_ptr(), schema) };
            if segment.relation == pg_sys::InvalidOid {
                return Ok(None);
            }
            segment.read(&name)?;
            segment.bare = segment_indexes::any_aside(segment.relation);
        }
        let newest = list.iter().enumerate().max_by_key(|(_, segment)| segment.last);
        let current = newest.filter(|(_, segment)| segment.last > 0).map_or(0, |(n, _)| n);
        Ok(Some(Segments { list, current, blocked: false }))
    }

    /// The last event in the trail; `None` while it is empty.
    pub fn head(&self) -> Option<Head> {
        let newest = self.list.iter().max_by_key(|segment| segment.last)?;
        (newest.last > 0).then_some(Head { seq: newest.last, hash: newest.last_hash })
    }

    /// When the newest event of the oldest segment began; 0 while the trail is empty.
    pub fn oldest_at(&self) -> i64 {
        let filled = self.list.iter().filter(|segment| segment.last > 0);
        filled.min_by_key(|segment| segment.last).map_or(0, |segment| segment.last_at)
    }

    /// The highest sequence number in the trail; 0 while it is empty.
    pub fn last(&self) -> u64 {
        self.list.iter().map(|segment| segment.last).max().unwrap_or(0)
    }

    /// Writes rows, in order, inside a transaction that the caller commits. What `self` knows is then right only
    /// if the transaction commits: the caller works on a copy.
    pub fn write(&mut self, rows: Rows<'_>, inserter: &mut Inserter) -> Written {
        let mut rest = rows;
        while rest.len() > 0 {
            let share = (guc_audit::capacity() / 16).max(1);
            match self.make_room(share) {
                Written::All => {}
                other => return other,
            }
            let Some(segment) = self.list.get_mut(self.current) else { return Written::Gone };
            // Who waits for the disk with each statement must not wait for an index.
            if segment.last == 0 && !segment.bare && guc_audit::journal() != Setting::sync {
                segment.bare = segment_indexes::leave_aside(segment.relation);
            }
            let left = usize::try_from(share.saturating_sub(segment.rows())).unwrap_or(CHUNK);
            let take = if left == 0 { CHUNK } else { left.min(CHUNK) };
            let (chunk, behind) = rest.split(take);
            match inserter.insert(segment.relation, chunk) {
                Written::All => {}
                other => return other,
            }
            if let (Some((first, last)), Some((first_at, last_at))) = (chunk.ends(), chunk.times()) {
                if segment.last == 0 {
                    (segment.first, segment.first_at) = (first, first_at);
                }
                (segment.last, segment.last_at) = (last, last_at);
                segment.last_hash = inserter.sealer.head().hash;
            }
            rest = behind;
        }
        Written::All
    }

    /// The number and table of a segment whose indexes are to be made: it is full, or large, and was not put off just now;
    /// and how many others there are.
    pub fn without_indexes(&self) -> Option<(usize, pg_sys::Oid, usize)> {
        let due = |n: usize, segment: &Segment| {
            n != self.current || segment.rows() >= segment_indexes::ROWS_WITHOUT
        };
        let bare = self.list.iter().enumerate().filter(|(_, segment)| segment.bare && segment.last > 0);
        let mut bare = bare.filter(|(n, segment)| {
            due(*n, segment) && segment.put_off.is_none_or(|since| since.elapsed() >= INDEX_AGAIN)
        });
        let (n, segment) = bare.next()?;
        Some((n, segment.relation, bare.count()))
    }

    /// A segment has all its indexes, or one could not be made.
    pub fn note_indexes(&mut self, n: usize, made: bool) {
        if let Some(segment) = self.list.get_mut(n) {
            (segment.bare, segment.put_off) = (!made, (!made).then(Instant::now));
        }
    }

    /// The oldest segment, if it has to go: by age, or because the others are more than the capacity.
    fn due(&mut self) -> Option<&mut Segment> {
        let total: u64 = self.list.iter().map(Segment::rows).sum();
        let (current, limit) = (self.current, age_limit(1));
        let filled = self.list.iter_mut().enumerate().filter(|(_, segment)| segment.last > 0);
        let (n, oldest) = filled.min_by_key(|(_, segment)| segment.last)?;
        let too_many = total > guc_audit::capacity() && n != current;
        let too_old = limit.is_some_and(|limit| oldest.last_at < limit);
        (too_many || too_old).then_some(oldest)
    }

    /// Whether `trim` has something to do.
    pub fn excess(&mut self) -> bool {
        self.due().is_some()
    }

    /// Empties the oldest segments beyond capacity and age, inside a transaction, as `write` does.
    pub fn trim(&mut self) -> Written {
        while let Some(oldest) = self.due() {
            match oldest.empty() {
                Written::All => {}
                Written::Locked => {
                    self.blocked = true;
                    break;
                }
                Written::Gone => return Written::Gone,
            }
        }
        Written::All
    }

    /// Empties every segment, inside a transaction.
    pub fn clear(&mut self) -> Written {
        for segment in self.list.iter_mut().filter(|segment| segment.last > 0) {
            match segment.empty() {
                Written::All => {}
                other => return other,
            }
        }
        Written::All
    }

    /// A segment's table.
    pub fn any_table(&self) -> pg_sys::Oid {
        self.list.first().map_or(pg_sys::InvalidOid, |segment| segment.relation)
    }

    /// Moves on from a full segment, emptying the oldest ones until a share fits. Where that is impossible the
    /// current segment goes on.
    fn make_room(&mut self, share: u64) -> Written {
        let full = self.list.get(self.current).is_none_or(|segment| {
            // Where events leave by age, a segment must not go on for long: it goes as a whole.
            let aged = age_limit(15).is_some_and(|limit| segment.last > 0 && segment.first_at < limit);
            segment.rows() >= share || aged
        });
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
            match oldest.empty() {
                Written::All => {}
                Written::Locked => {
                    self.blocked = true;
                    return Written::All;
                }
                Written::Gone => return Written::Gone,
            }
        }
    }
}
