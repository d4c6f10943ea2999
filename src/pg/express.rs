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
use super::writer::Writer;
use super::writer_transaction::{Trouble, in_transaction};
use crate::audit::chain::Head;
use crate::audit::record::OwnedEvent;
use crate::audit::ring::Position;

use pgrx::pg_sys;

/// Larger batches are not worth sealing twice: the agents wait for the tables too.
const SHORT: usize = 256;
/// So many events, and for so long, may be in the journal alone: a transaction for each handful would cost more than its rows.
const LATER: usize = 128;
const SOON: Duration = Duration::from_millis(20);

/// How far the journal is ahead of the tables.
#[derive(Default)]
pub struct Lead {
    /// Where journal and tables last agreed, while the journal is ahead.
    agreed: Option<Head>,
    /// What this writer has put into the journal alone.
    ahead: Option<Ahead>,
}

/// Events that are in the journal, and among the writer's rows, but not yet in the tables.
#[derive(Clone, Copy)]
struct Ahead {
    /// They end before this place in the ring.
    end: Position,
    since: Instant,
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
    /// Where the ring is to be read on: behind what waits to be stored.
    pub(super) fn reached(&self) -> Position {
        self.lead.ahead.map_or(self.slot.back(), |ahead| ahead.end)
    }

    /// How long what is in the journal alone may still wait; `None` where there is none.
    pub(super) fn may_wait(&self) -> Option<Duration> {
        Some(SOON.saturating_sub(self.lead.ahead?.since.elapsed()))
    }

    /// Puts the rows from `fresh` on, which end before a place in the ring, into the journal and lets those go on who wait for that;
    /// whether the tables may come later. What goes wrong here is told by the ordinary way, which comes after.
    pub(super) fn express(&mut self, fresh: usize, end: Position) -> bool {
        let waiting = self.slot.waiting.load(Ordering::SeqCst);
        let ahead = self.lead.ahead;
        let (Some(journal), Some(rows)) = (&mut self.journal, self.rows.get(fresh..)) else { return false };
        let sealer = &mut self.inserter.sealer;
        let level = journal.head().is_none_or(|head| head == sealer.head()) && sealer.pending().0.is_empty();
        if waiting == 0 || rows.is_empty() || rows.len() > SHORT || !(level || ahead.is_some()) {
            return false;
        }
        let (mark, agreed) = (sealer.mark(), sealer.head());
        if let Some(head) = journal.head().filter(|_| ahead.is_some()) {
            sealer.set_head(head);
        }
        let inserter = &mut self.inserter;
        let sealed = in_transaction(|| {
            inserter.seal(rows);
            Ok(())
        });
        let sealer = &mut self.inserter.sealer;
        let (records, before) = sealer.pending();
        let head = sealer.head();
        let kept = sealed.is_ok() && journal.append(records, before, head).is_ok();
        sealer.back_to(mark);
        if !kept {
            return false;
        }
        sealer.set_journaled(Some(head));
        self.slot.kept_until(self.n, end.number);
        let since = ahead.map_or_else(Instant::now, |ahead| ahead.since);
        self.lead = Lead { agreed: self.lead.agreed.or(Some(agreed)), ahead: Some(Ahead { end, since }) };
        true
    }

    /// Whether what is in the journal alone is to be stored now.
    pub(super) fn is_due(&self) -> bool {
        let Some(left) = self.may_wait() else { return false };
        left.is_zero()
            || self.rows.len() >= LATER
            || self.slot.flush_is_due()
            || self.slot.is_filling()
            || self.journal.is_none()
    }

    /// Nothing is in the journal alone any more, or the ring is read again from where the tables end.
    pub(super) fn read_from_tables(&mut self) {
        self.lead.ahead = None;
    }

    /// The writer before this one has left the journal ahead of the tables: it agrees with them up to `agreed`.
    pub(super) fn take_over(&mut self, ahead: Head, agreed: Head) {
        self.inserter.sealer.set_journaled(Some(ahead));
        self.lead.agreed = Some(agreed);
    }

    /// The tables have what the journal has; sees to it where they do not agree.
    pub(super) fn agree(&mut self) -> Result<(), Trouble> {
        if self.inserter.sealer.diverged() {
            return self.withdraw();
        }
        if self.inserter.sealer.caught_up() {
            self.lead.agreed = None;
        }
        Ok(())
    }

    /// Takes back what the journal has ahead of the tables, and brings it up from them.
    pub(super) fn withdraw(&mut self) -> Result<(), Trouble> {
        let Some(agreed) = self.lead.agreed.take() else { return Ok(()) };
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
