//! Seals rows of the trail: gives each its hash, and keeps the journal's record of it until that is written.
//!
//! What a transaction seals holds only when it commits: `Writer::commit` (writer.rs) takes a mark before and goes back
//! to it otherwise.

use pgrx::prelude::*;

use super::columns::{self, Layout, Remembered};
use super::row::varlena;
use crate::audit::chain::Head;
use crate::audit::journal;

/// See the module.
#[derive(Default)]
pub struct Sealer {
    layout: Layout,
    head: Option<Head>,
    /// Whether records are kept for the journal.
    journaling: bool,
    /// The last event that the journal has; it may be ahead of the tables.
    journaled: Option<Head>,
    /// That event came out with another hash when it was sealed for the tables.
    diverged: bool,
    /// Records that the journal does not have yet.
    pending: Vec<u8>,
    /// The first of them continues this event.
    before: Option<Head>,
    columns: Vec<u8>,
    remembered: Remembered,
}

/// Where a sealer stood.
#[derive(Clone, Copy)]
pub struct Mark {
    head: Option<Head>,
    before: Option<Head>,
    pending: usize,
}

impl Sealer {
    /// The event that the next one continues.
    pub fn head(&self) -> Head {
        self.head.unwrap_or(Head::START)
    }

    /// Goes on from another event.
    pub fn set_head(&mut self, head: Head) {
        self.head = Some(head);
    }

    /// Whether to keep records for the journal.
    pub fn set_journaling(&mut self, journaling: bool) {
        self.journaling = journaling;
        if !journaling {
            self.written();
        }
    }

    /// What the journal has, up to which nothing is kept for it.
    pub fn set_journaled(&mut self, head: Option<Head>) {
        (self.journaled, self.diverged) = (head, false);
    }

    /// Whether the tables and the journal tell different stories of the last event that the journal had before.
    pub fn diverged(&self) -> bool {
        self.diverged
    }

    /// Whether nothing is in the journal alone.
    pub fn caught_up(&self) -> bool {
        self.journaled.is_none_or(|journaled| self.head().seq >= journaled.seq)
    }

    /// Forgets what it remembered of the rows before, whose memory may serve others by now.
    pub fn forget(&mut self) {
        self.remembered.forget();
    }

    /// The records that the journal does not have yet, and what the first of them continues.
    pub fn pending(&self) -> (&[u8], Head) {
        (&self.pending, self.before.unwrap_or(self.head()))
    }

    /// The journal has them.
    pub fn written(&mut self) {
        self.pending.clear();
        self.before = None;
    }

    /// Before a transaction.
    pub fn mark(&self) -> Mark {
        Mark { head: self.head, before: self.before, pending: self.pending.len() }
    }

    /// The transaction has failed.
    pub fn back_to(&mut self, mark: Mark) {
        self.head = mark.head;
        self.before = mark.before;
        self.pending.truncate(mark.pending);
    }

    /// The columns of the trail; empty before the first chunk.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Learns the columns, once, and forgets what it remembered of the chunk before.
    ///
    /// # Safety
    /// `descriptor` is a segment's.
    pub unsafe fn begin(&mut self, descriptor: pg_sys::TupleDesc) {
        self.remembered.forget();
        if self.layout.is_empty() {
            // SAFETY: the caller's promise.
            match unsafe { columns::layout(descriptor) } {
                Some(layout) => self.layout = layout,
                None => error!("agent_guard's audit tables are of another version of the extension"),
            }
        }
    }

    /// As `begin`, with the columns of a table; false where it is gone. Inside a transaction.
    pub fn learn(&mut self, table: pg_sys::Oid) -> bool {
        // SAFETY: opens and closes a relation under a lock; null when it is gone.
        unsafe {
            let lock = i32::try_from(pg_sys::AccessShareLock).unwrap_or(1);
            let relation = pg_sys::try_relation_open(table, lock);
            if relation.is_null() {
                return false;
            }
            self.begin((*relation).rd_att);
            pg_sys::relation_close(relation, lock);
        }
        true
    }

    /// Hashes a row and puts the hash into its last column.
    ///
    /// # Safety
    /// `values` and `nulls` are a row of the segment that `begin` was told of, whose last column is the hash.
    pub unsafe fn seal(&mut self, seq: u64, values: &mut [pg_sys::Datum], nulls: &mut [bool]) {
        self.columns.clear();
        // SAFETY: the caller's promise.
        unsafe { columns::put(&self.layout, values, nulls, &mut self.remembered, &mut self.columns) };
        let before = self.head();
        let head = before.extended(seq, &self.columns);
        let ahead = self.journaled.filter(|journaled| seq <= journaled.seq);
        self.diverged |= ahead.is_some_and(|journaled| seq == journaled.seq && head != journaled);
        if self.journaling && ahead.is_none() {
            self.before.get_or_insert(before);
            journal::put(seq, &head.hash, &self.columns, &mut self.pending);
        }
        self.head = Some(head);
        if let (Some(value), Some(null)) = (values.last_mut(), nulls.last_mut()) {
            *value = varlena(&head.hash);
            *null = false;
        }
    }
}
