//! The writer of one database of a hot standby: takes events out of the ring and appends them to the standby's own journal.
//!
//! There are no tables to write to. The chain is the standby's own and goes on from start to start. When the server is promoted
//! this writer leaves, and the one that follows it writes to the tables, behind a chain that begins anew.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgrx::prelude::*;

use super::checkpoint::Checkpoints;
use super::drained::{Drained, drained};
use super::encoding::ServerText;
use super::guc_audit::{self, Journal as Setting};
use super::insert::Inserter;
use super::journal::Journal;
use super::launcher::{asked_to_end, serve, wait};
use super::resume::{News, tell};
use super::row::fault;
use super::shmem::is_set;
use super::slot::{Slot, writer_state};
use super::writer::{GATHER, LAST_EVENTS, REST_AFTER, RETRY, gather};
use super::writer_transaction::{Stuck, Trouble, in_transaction};
use super::{columns, log_json, standby};
use crate::audit::chain::Head;
use crate::audit::event::EventKind;
use crate::audit::record::OwnedEvent;
use crate::audit::ring::{Batch, Position};

/// How long a revocation on the primary, once it is replayed, goes unnoticed by what runs.
const PATROL: Duration = Duration::from_millis(50);

struct StandbyWriter {
    n: usize,
    slot: &'static Slot,
    database: u32,
    inserter: Inserter,
    journal: Journal,
    checkpoints: Checkpoints,
    batch: Batch,
    stuck: Stuck,
    patrolled: Instant,
}

/// Why the writer leaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nobody needs it, or it has been asked to.
    Rest,
    /// The server is a standby no longer.
    Promoted,
}

/// Runs until it is no longer needed; false where the extension is not in this database.
pub fn run(n: usize, slot: &'static Slot) -> bool {
    let database = slot.database.load(Ordering::SeqCst);
    let mut stuck = Stuck::default();
    let (inserter, journal, checkpoints) = loop {
        serve();
        if guc_audit::journal() == Setting::off {
            // Whoever wants it is refused in words (trail).
            slot.wanted.store(0, Ordering::SeqCst);
            return true;
        }
        match begin(database) {
            Ok(begun) => break begun,
            Err(Trouble::Gone) => return false,
            Err(Trouble::Outside(why) | Trouble::Event(why)) => {
                stuck.say(&why);
            }
        }
        if asked_to_end() || is_set(&slot.leave) || !standby::is_one() {
            return true;
        }
        wait(Some(RETRY));
    };
    let (batch, patrolled) = (Batch::default(), Instant::now());
    let mut writer =
        StandbyWriter { n, slot, database, inserter, journal, checkpoints, batch, stuck, patrolled };
    writer.take_up();
    let end = writer.serve_ring();
    slot.ready.store(0, Ordering::SeqCst);
    writer.checkpoints.now(writer.inserter.sealer.head());
    if end == End::Promoted {
        slot.want_writer();
    }
    true
}

fn begin(database: u32) -> Result<(Inserter, Journal, Checkpoints), Trouble> {
    let (mut inserter, checkpoints) = in_transaction(|| {
        let mut inserter = Inserter::new(ServerText::of_database());
        // SAFETY: look-ups of names that need not exist.
        let table = unsafe {
            let schema = pg_sys::get_namespace_oid(c"agent_guard".as_ptr(), true);
            pg_sys::get_relname_relid(c"audit_segment_00".as_ptr(), schema)
        };
        if !inserter.sealer.learn(table) {
            return Err(Trouble::Gone);
        }
        Ok((inserter, Checkpoints::of_database()))
    })?;
    let described = columns::described(inserter.sealer.layout());
    let journal = Journal::open_at(standby::journal_directory(database), database, described)
        .map_err(|error| Trouble::Outside(format!("the journal cannot be opened: {error}")))?;
    inserter.sealer.set_head(journal.head().unwrap_or(Head::START));
    inserter.sealer.set_journaling(true);
    Ok((inserter, journal, checkpoints))
}

impl StandbyWriter {
    /// The chain goes on where the journal ends.
    fn take_up(&mut self) {
        let head = self.inserter.sealer.head();
        let mut news = News::new();
        news.extend(self.journal.repaired.take().map(|words| (EventKind::Fault, words)));
        if head == Head::START {
            news.push((EventKind::ChainBegin, "a standby's own hash chain begins".to_owned()));
        }
        if self.slot.base.load(Ordering::SeqCst) == 0 {
            self.slot.base.store(head.seq.saturating_add(1), Ordering::SeqCst);
        }
        self.slot.set_head(head);
        tell(news);
        self.slot.of_standby.store(1, Ordering::SeqCst);
        self.slot.journaled.store(1, Ordering::SeqCst);
        self.slot.ready.store(1, Ordering::SeqCst);
        self.slot.space.broadcast();
    }

    fn serve_ring(&mut self) -> End {
        let mut told_at: Option<Instant> = None;
        let mut quiet_since = Instant::now();
        loop {
            serve();
            if !standby::is_one() {
                return End::Promoted;
            }
            self.upkeep();
            let (back, front) = (self.slot.back(), self.slot.front(self.n));
            let off = guc_audit::journal() == Setting::off;
            if asked_to_end() || is_set(&self.slot.leave) || off {
                told_at.get_or_insert_with(Instant::now);
            }
            let late = told_at.is_some_and(|since| since.elapsed() >= LAST_EVENTS);
            let empty = back.at == front.at;
            if told_at.is_some() && (late || (empty && self.slot.reserved.load(Ordering::SeqCst) == 0)) {
                if asked_to_end() || off || self.slot.rest(|| true) {
                    return End::Rest;
                }
                self.slot.leave.store(0, Ordering::SeqCst);
                told_at = None;
            } else if !empty {
                if self.take(back, front) {
                    quiet_since = Instant::now();
                } else if asked_to_end() {
                    return End::Rest;
                } else {
                    wait(Some(RETRY));
                }
            } else if told_at.is_some() {
                wait(Some(GATHER));
            } else if quiet_since.elapsed() < REST_AFTER || standby::any_bound(self.database) {
                self.idle();
            } else if self.slot.rest(|| true) {
                return End::Rest;
            } else {
                quiet_since = Instant::now();
            }
        }
    }

    /// Waits for an event, then for others to gather behind it, unless somebody waits for the disk.
    fn idle(&self) {
        let pause = if standby::any_bound(self.database) { PATROL } else { Duration::from_secs(5) };
        self.slot.state.store(writer_state::IDLE, Ordering::SeqCst);
        // INVARIANT: looked at after the state is visible; an append after this look sets the latch.
        if self.slot.used() == 0 {
            wait(Some(pause));
        }
        gather(self.slot, false);
    }

    fn upkeep(&mut self) {
        if self.patrolled.elapsed() >= PATROL {
            self.patrolled = Instant::now();
            let database = self.database;
            let looked = in_transaction(|| {
                standby::look_around(database);
                Ok(())
            });
            if let Err(Trouble::Outside(why) | Trouble::Event(why)) = looked {
                warning!("revocations on the primary cannot be looked for: {why}");
            }
        }
        if self.checkpoints.look_again() {
            self.checkpoints.by_time(self.inserter.sealer.head());
            if let Err(error) = self.journal.remove_old() {
                warning!("old files of the audit journal cannot be removed: {error}");
            }
        }
    }

    /// Appends one batch and gives its room back; false if that failed.
    fn take(&mut self, back: Position, front: Position) -> bool {
        let stored = self.inserter.sealer.head().seq;
        let mut rows = Vec::new();
        let Some(Drained { end, mut faults }) =
            drained(self.slot, (back, front), stored, &mut self.batch, &mut rows)
        else {
            return false;
        };
        match self.append(&mut rows, &mut faults) {
            Ok(()) => {
                log_json::emit(&rows);
                self.slot.set_head(self.inserter.sealer.head());
                self.checkpoints.by_events(self.inserter.sealer.head());
                self.stuck.over();
                self.slot.faults.fetch_add(faults, Ordering::SeqCst);
                self.slot.advance(self.n, end);
                true
            }
            Err(Trouble::Gone) => false,
            Err(Trouble::Outside(why) | Trouble::Event(why)) => {
                self.stuck.say(&why);
                false
            }
        }
    }

    fn append(&mut self, rows: &mut [(u64, OwnedEvent)], faults: &mut u64) -> Result<(), Trouble> {
        let mark = self.inserter.sealer.mark();
        if let Err(trouble) = self.seal(rows) {
            let Trouble::Event(_) = trouble else { return Err(trouble) };
            for row in rows.iter_mut() {
                if let Err(Trouble::Event(why)) = self.seal(std::slice::from_ref(row)) {
                    *faults = faults.saturating_add(1);
                    row.1 = fault(row.0, &why);
                    self.seal(std::slice::from_ref(row))?;
                }
            }
        }
        let sealer = &mut self.inserter.sealer;
        let (records, before) = sealer.pending();
        let appended =
            if records.is_empty() { Ok(()) } else { self.journal.append(records, before, sealer.head()) };
        match appended {
            Ok(()) => {
                sealer.written();
                Ok(())
            }
            Err(error) => {
                sealer.back_to(mark);
                Err(Trouble::Outside(format!("the journal cannot be written: {error}")))
            }
        }
    }

    fn seal(&mut self, rows: &[(u64, OwnedEvent)]) -> Result<(), Trouble> {
        let mark = self.inserter.sealer.mark();
        let inserter = &mut self.inserter;
        let sealed = in_transaction(|| {
            inserter.seal(rows);
            log_json::prepare();
            Ok(())
        });
        if sealed.is_err() {
            self.inserter.sealer.back_to(mark);
        }
        sealed
    }
}
