//! The writer's short way for events that somebody waits for, with `agent_guard.journal = sync`: into the journal first, into the
//! tables behind the answer.
//!
//! A batch that is not awaited goes into the tables first, because a row may still turn into a `fault`. One that is awaited is
//! sealed twice: once for the journal alone, and again, to the same hash, when it is stored. Should the tables after all come to
//! tell another story, they win: the journal is cut back to where both agreed and brought up from them. Between the two the ring
//! still holds the events, so a writer that dies leaves nothing to its successor but to store them.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::insert::Inserter;
use super::resume;
use super::row::{COLUMNS, RowMaker};
use super::writer::{Trouble, Writer, in_transaction};
use crate::audit::chain::Head;
use crate::audit::record::OwnedEvent;

use pgrx::pg_sys;

/// Larger batches are not worth sealing twice: the agents wait for the tables too.
const SHORT: usize = 256;
/// How long one look at those who are still to come is from the next.
const LOOK: Duration = Duration::from_micros(50);
/// How long others are waited for at most.
const LONGEST: Duration = Duration::from_millis(1);

/// What the writer knows of those who wait.
#[derive(Default)]
pub struct Queue {
    /// How many waited when the last batch was on disk: so many will probably wait again.
    expected: u32,
    /// What the last write to the disk took.
    took: Duration,
    /// Where journal and tables last agreed, while the journal is ahead.
    agreed: Option<Head>,
}

impl Inserter {
    /// Seals rows, for the journal alone. Inside a transaction.
    pub fn seal(&mut self, rows: &[(u64, OwnedEvent)]) {
        let mut maker = RowMaker::new(&self.text, &mut self.blocks);
        let mut values = [pg_sys::Datum::from(0_usize); COLUMNS + 1];
        let mut nulls = [true; COLUMNS + 1];
        self.sealer.forget();
        for (seq, event) in rows {
            maker.fill(*seq, event, &mut values, &mut nulls);
            // SAFETY: a row as `insert` makes it; the datums live until the transaction ends.
            unsafe { self.sealer.seal(*seq, &mut values, &mut nulls) };
        }
        self.sealer.forget();
    }
}

impl Writer {
    /// Lets those come who were answered together with the ones that wait: one write to the disk then serves them all. For a
    /// part of what such a write takes, and not at all where nobody waits.
    pub(super) fn gather_waiting(&self) {
        let waiting = || self.slot.waiting.load(Ordering::SeqCst);
        let (began, limit) = (Instant::now(), LONGEST.min(self.queue.took / 3));
        // Shorter than what a latch can wait for.
        while (1..self.queue.expected).contains(&waiting()) && began.elapsed() < limit {
            std::thread::sleep(LOOK);
        }
    }

    /// Puts the rows into the journal and lets those go on who wait for that; records end before number `end`. What goes wrong
    /// here is told by the ordinary way, which comes after.
    pub(super) fn express(&mut self, end: u64) {
        let waiting = self.slot.waiting.load(Ordering::SeqCst);
        let Some(journal) = &mut self.journal else { return };
        let sealer = &mut self.inserter.sealer;
        let level = journal.head().is_none_or(|head| head == sealer.head()) && sealer.pending().0.is_empty();
        if waiting == 0 || !level || self.rows.is_empty() || self.rows.len() > SHORT {
            return;
        }
        let mark = sealer.mark();
        let (rows, inserter) = (&self.rows, &mut self.inserter);
        let sealed = in_transaction(|| {
            inserter.seal(rows);
            Ok(())
        });
        let sealer = &mut self.inserter.sealer;
        let (records, before) = sealer.pending();
        let (began, head) = (Instant::now(), sealer.head());
        let kept = sealed.is_ok() && journal.append(records, before, head).is_ok();
        sealer.back_to(mark);
        if kept {
            sealer.set_journaled(Some(head));
            let waiting = self.slot.waiting.load(Ordering::SeqCst);
            self.queue = Queue { expected: waiting, took: began.elapsed(), agreed: Some(before) };
            self.slot.kept_until(end);
        }
    }

    /// The writer before this one has left the journal ahead of the tables: it agrees with them up to `agreed`.
    pub(super) fn take_over(&mut self, ahead: Head, agreed: Head) {
        self.inserter.sealer.set_journaled(Some(ahead));
        self.queue.agreed = Some(agreed);
    }

    /// The tables have what the journal has; sees to it where they do not agree.
    pub(super) fn agree(&mut self) -> Result<(), Trouble> {
        if self.inserter.sealer.diverged() { self.withdraw() } else { Ok(()) }
    }

    /// Takes back what the journal has ahead of the tables, and brings it up from them.
    pub(super) fn withdraw(&mut self) -> Result<(), Trouble> {
        let Some(agreed) = self.queue.agreed.take() else { return Ok(()) };
        if let Some(mut journal) = self.journal.take()
            && journal.head().is_some_and(|head| head.seq > agreed.seq)
        {
            journal
                .cut_behind(agreed)
                .map_err(|error| Trouble::Outside(format!("the journal cannot be cut: {error}")))?;
        }
        let sealer = &mut self.inserter.sealer;
        sealer.set_journaled(None);
        sealer.written();
        resume::follow_setting(self)
    }
}
