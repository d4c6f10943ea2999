//! The writer of one database: takes events out of the ring, in order, and commits them to the trail.
//!
//! The ring's tail moves only after the commit, so a writer that dies loses nothing; its successor sees by the
//! sequence numbers what is there already, so nothing is doubled. Transactions are as short as one batch.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pgrx::prelude::*;

use super::approvals;
use super::checkpoint::Checkpoints;
use super::drained::drained;
use super::encoding::ServerText;
use super::express::Lead;
use super::insert::{Inserter, Rows, Written};
use super::journal::Journal;
use super::launcher::{asked_to_end, attach_signals, serve, wait};
use super::ledger_store;
use super::log_json;
use super::resume;
use super::row::fault;
use super::segment_indexes::make_one;
use super::segments::Segments;
use super::shmem::{self, is_set};
use super::slot::{Slot, writer_state};
use super::writer_transaction::{Stuck, Trouble, in_transaction, pin_settings};
use super::{standby, standby_writer};
use crate::audit::record::OwnedEvent;
use crate::audit::ring::{Batch, Budget, Position};

/// What one transaction takes.
pub const BUDGET: Budget = Budget { records: 4096, bytes: 1024 * 1024 };
/// How long events gather after the first one has woken the writer.
pub const GATHER: Duration = Duration::from_millis(10);
/// A writer that has had nothing to do for so long leaves, so that its slot and its connection are free.
pub const REST_AFTER: Duration = Duration::from_secs(60);
/// An idle writer looks after the trail so often.
const UPKEEP: Duration = Duration::from_secs(5);
/// How long a writer that is to end waits for events of statements that are ending too.
pub const LAST_EVENTS: Duration = Duration::from_secs(1);
/// How long it waits before it tries again what failed for a reason outside the events.
pub const RETRY: Duration = Duration::from_millis(500);

pub struct Writer {
    pub(super) n: usize,
    pub(super) slot: &'static Slot,
    pub(super) segments: Segments,
    pub(super) inserter: Inserter,
    pub(super) journal: Option<Journal>,
    checkpoints: Checkpoints,
    batch: Batch,
    /// What was taken out of the ring and is not stored yet.
    pub(super) rows: Vec<(u64, OwnedEvent)>,
    /// How many of them stand for others that cannot be read.
    faults: u64,
    pub(super) lead: Lead,
    stuck: Stuck,
    said_blocked: bool,
}

/// A writer has been told to end.
struct Ending {
    since: Instant,
    /// The number of the first record that came after.
    behind: u64,
}

/// The writer's main function; the argument is its slot's index.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn agent_guard_audit_writer(arg: pg_sys::Datum) {
    attach_signals();
    let n = arg.value();
    let Some(slot) = shmem::control().and_then(|control| control.slot(n)) else { return };
    // SAFETY: plain variables of this process.
    let (pid, latch) = unsafe { (pg_sys::MyProcPid, pg_sys::MyLatch) };
    if slot.writer_pid.compare_exchange(0, pid, Ordering::SeqCst, Ordering::SeqCst).is_err() {
        return;
    }
    // SAFETY: registers a plain function; the connection is to a database that may be gone, which ends the process.
    unsafe {
        pg_sys::before_shmem_exit(Some(writer_gone), pg_sys::Datum::from(n));
        slot.writer_latch.store(latch, Ordering::SeqCst);
        let database = pg_sys::Oid::from(slot.database.load(Ordering::SeqCst));
        if database == pg_sys::InvalidOid {
            return;
        }
        pg_sys::BackgroundWorkerInitializeConnectionByOid(
            database,
            pg_sys::InvalidOid,
            pg_sys::BGWORKER_BYPASS_ALLOWCONN,
        );
    }
    pin_settings();
    slot.writers.fetch_add(1, Ordering::SeqCst);
    slot.leave.store(0, Ordering::SeqCst);
    if standby::is_one() {
        if !standby_writer::run(n, slot) {
            leave_for_good(n, slot);
        }
        return;
    }
    match in_transaction(|| {
        let segments = Segments::locate().map_err(|e| Trouble::Outside(e.to_string()))?;
        Ok((segments, ServerText::of_database(), Checkpoints::of_database()))
    }) {
        Ok((Some(segments), text, checkpoints)) => {
            let (batch, rows) = (Batch::default(), Vec::new());
            let inserter = Inserter::new(text);
            let (journal, stuck) = (None, Stuck::default());
            let lead = Lead::default();
            let said_blocked = false;
            let mut writer = Writer {
                n,
                slot,
                segments,
                inserter,
                journal,
                checkpoints,
                batch,
                rows,
                faults: 0,
                lead,
                stuck,
                said_blocked,
            };
            if writer.resume() {
                writer.run();
            }
        }
        Ok((None, ..)) => leave_for_good(n, slot),
        Err(Trouble::Outside(why) | Trouble::Event(why)) => {
            warning!("the audit writer cannot read its tables: {why}");
        }
        Err(Trouble::Gone) => leave_for_good(n, slot),
    }
}

unsafe extern "C-unwind" fn writer_gone(_code: i32, arg: pg_sys::Datum) {
    if let Some(control) = shmem::control()
        && let Some(slot) = control.slot(arg.value())
    {
        slot.ready.store(0, Ordering::SeqCst);
        slot.writer_pid.store(0, Ordering::SeqCst);
        control.wake_launcher();
    }
}

fn leave_for_good(n: usize, slot: &Slot) {
    let lost = slot.free(n);
    if lost > 0 {
        log!("{lost} audit events of a database without the extension agent_guard are lost");
    }
}

/// The end of a writer's rest: waits for others behind the first event, where nobody waits for it and nothing else is due.
pub fn gather(slot: &Slot, due: bool) {
    slot.state.store(writer_state::GATHERING, Ordering::SeqCst);
    let awaited = slot.flush_is_due() || slot.waiting.load(Ordering::SeqCst) > 0;
    if slot.used() > 0 && !slot.is_filling() && !due && !awaited && !asked_to_end() {
        wait(Some(GATHER));
    }
    slot.state.store(writer_state::BUSY, Ordering::SeqCst);
}

/// Commits rows; if that fails, segments and chain are as they were.
pub fn store(segments: &mut Segments, inserter: &mut Inserter, rows: Rows<'_>) -> Result<(), Trouble> {
    let mut tried = *segments;
    let mark = inserter.sealer.mark();
    let outcome = in_transaction(|| match tried.write(rows, inserter) {
        Written::All => {
            log_json::prepare();
            match rows {
                // Requests among the events are stored with them.
                Rows::Events(rows) => approvals::store_requests(rows.iter().map(|(_, event)| event))
                    .map_err(|error| Trouble::Event(format!("{error:?}"))),
                Rows::Restored(_) => Ok(()),
            }
        }
        Written::Locked => Err(Trouble::Outside("somebody holds a lock on the current segment".to_owned())),
        Written::Gone => Err(Trouble::Gone),
    });
    match outcome {
        Ok(()) => *segments = tried,
        Err(_) => inserter.sealer.back_to(mark),
    }
    outcome
}

impl Writer {
    /// Takes up the chain and the journal where they were left; false if the process is to end before that succeeds.
    fn resume(&mut self) -> bool {
        loop {
            match resume::resume(self) {
                Ok(()) => return true,
                Err(Trouble::Gone) => {
                    leave_for_good(self.n, self.slot);
                    return false;
                }
                Err(Trouble::Outside(why) | Trouble::Event(why)) => self.stuck.say(&why),
            }
            if asked_to_end() || is_set(&self.slot.leave) {
                return false;
            }
            wait(Some(RETRY));
        }
    }

    fn run(&mut self) {
        self.slot.ready.store(1, Ordering::SeqCst);
        self.slot.space.broadcast();
        let mut ending: Option<Ending> = None;
        let mut quiet_since = Instant::now();
        while is_set(&self.slot.ready) {
            serve();
            self.upkeep();
            if ledger_store::is_due(self.slot) {
                ledger_store::serve(self.slot);
            }
            let front = self.slot.front(self.n);
            let back = self.slot.back();
            if ending.is_none() && (asked_to_end() || is_set(&self.slot.leave)) {
                ending = Some(Ending { since: Instant::now(), behind: front.number });
            }
            // A writer that is to end first takes at least what was there when it was told.
            let late = ending.as_ref().is_some_and(|ending| ending.since.elapsed() >= LAST_EVENTS);
            if let Some(Ending { behind, .. }) = ending
                && back.number >= behind
                && (late || (back.at == front.at && self.slot.reserved.load(Ordering::SeqCst) == 0))
            {
                ledger_store::settle(self.slot);
                // Terminated, it stays wanted, and the launcher starts another one.
                if asked_to_end() || self.rest() {
                    self.checkpoints.now(self.inserter.sealer.head());
                    return;
                }
                self.slot.leave.store(0, Ordering::SeqCst);
                ending = None;
            } else if back.at != front.at
                && (self.reached().at != front.at || ending.is_some() || self.is_due())
            {
                if self.take(ending.is_some()) {
                    quiet_since = Instant::now();
                } else if asked_to_end() {
                    return;
                } else {
                    wait(Some(RETRY));
                }
            } else if ending.is_some() {
                wait(Some(GATHER));
            } else if quiet_since.elapsed() < REST_AFTER {
                self.idle(REST_AFTER.saturating_sub(quiet_since.elapsed()));
            } else if self.settle_and_rest() {
                self.checkpoints.now(self.inserter.sealer.head());
                return;
            } else {
                quiet_since = Instant::now();
            }
        }
    }

    /// Waits for an event, then for others to gather behind it.
    fn idle(&self, longest: Duration) {
        // SAFETY: between transactions; reports to the statistics that this process is idle.
        unsafe {
            pg_sys::pgstat_report_stat(false);
            pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_IDLE, std::ptr::null());
        }
        self.slot.state.store(writer_state::IDLE, Ordering::SeqCst);
        // INVARIANT: looked at after the state is visible; an append after this look sets the latch.
        let nothing_new = self.slot.head.load(Ordering::SeqCst) == self.reached().at;
        let idle = nothing_new && !self.is_due() && !ledger_store::is_due(self.slot);
        if idle && self.segments.without_indexes().is_none() {
            wait(Some(self.may_wait().unwrap_or(longest.clamp(GATHER, UPKEEP))));
        }
        gather(self.slot, ledger_store::is_due(self.slot) || self.is_due());
    }

    /// What is due by time: segments beyond age or a lowered capacity, and checkpoints.
    fn upkeep(&mut self) {
        if let Err(Trouble::Outside(why) | Trouble::Event(why)) = resume::follow_setting(self) {
            self.stuck.say(&why);
        }
        self.make_index();
        if !self.checkpoints.look_again() {
            return;
        }
        self.checkpoints.by_time(self.inserter.sealer.head());
        if self.segments.excess() {
            let mut segments = self.segments;
            // Whoever read the oldest ones a moment ago may be done by now.
            segments.blocked = false;
            let trimmed = in_transaction(|| match segments.trim() {
                Written::Gone => Err(Trouble::Gone),
                Written::All | Written::Locked => Ok(()),
            });
            match trimmed {
                Ok(()) => self.segments = segments,
                Err(Trouble::Gone) => {}
                Err(Trouble::Outside(why) | Trouble::Event(why)) => {
                    warning!("audit segments cannot be emptied: {why}");
                }
            }
        }
        if let Some(journal) = &self.journal
            && let Err(error) = journal.remove_old()
        {
            warning!("old files of the audit journal cannot be removed: {error}");
        }
    }

    /// Makes one index of a segment that is full: one at a time, and where that is possible in a quiet moment. While there
    /// is none, events come first: a segment may be emptied before anybody has missed its indexes.
    fn make_index(&mut self) {
        let Some((n, relation, others)) = self.segments.without_indexes() else { return };
        let used = self.slot.used();
        let size = shmem::control().map_or(0, |control| control.ring_size);
        if used > 0 && (others == 0 || used > size / 8) {
            return;
        }
        match in_transaction(|| Ok(make_one(relation))) {
            Ok(None) => self.segments.note_indexes(n, true),
            Ok(Some(Written::All)) => {}
            // Whoever reads the segment is done some time.
            Ok(Some(Written::Locked | Written::Gone)) | Err(Trouble::Gone) => {
                self.segments.note_indexes(n, false);
            }
            Err(Trouble::Outside(why) | Trouble::Event(why)) => {
                self.segments.note_indexes(n, false);
                warning!("an index of the audit trail cannot be made: {why}");
            }
        }
    }

    /// As `rest`, with the exact numbers of limits stored before.
    fn settle_and_rest(&self) -> bool {
        ledger_store::settle(self.slot);
        self.rest()
    }

    /// Leaves the database if nobody counts on this writer; false if somebody does.
    fn rest(&self) -> bool {
        // The launcher sends for a writer when that is too old.
        self.slot.oldest_at.store(self.segments.oldest_at(), Ordering::SeqCst);
        self.slot.rest(|| !ledger_store::is_due(self.slot))
    }

    /// Takes one batch and commits it, unless that has time, and gives its room back; false if there is no getting on.
    fn take(&mut self, at_once: bool) -> bool {
        let (stored, fresh) = (self.segments.last(), self.rows.len());
        let range = (self.reached(), self.slot.front(self.n));
        let Some(drained) = drained(self.slot, range, stored, &mut self.batch, &mut self.rows) else {
            return false;
        };
        self.faults = self.faults.saturating_add(drained.faults);
        if self.express(fresh, drained.end) && !at_once && !self.is_due() {
            return true;
        }
        self.read_from_tables();
        let committed = self.store(drained.end);
        // Where that failed, all of it is taken out of the ring again.
        self.rows.clear();
        self.faults = 0;
        committed
    }

    /// Commits the rows and gives their room back; false if nothing was committed.
    fn store(&mut self, end: Position) -> bool {
        let mut faults = self.faults;
        let all = self.rows.len();
        // What could not be written a moment ago is tried with one row: a failed batch leaves dead rows behind.
        let probed = if self.stuck.is_so() { 1.min(all) } else { 0 };
        let committed = resume::follow_setting(self)
            .and_then(|()| self.commit(0..probed))
            .and_then(|()| self.commit(probed..all));
        let committed = match committed {
            Err(Trouble::Event(why)) => {
                if !self.stuck.is_so() {
                    warning!("a batch of audit events failed and is stored one by one: {why}");
                }
                self.withdraw().and_then(|()| self.one_by_one(&mut faults))
            }
            other => other,
        };
        match committed.and_then(|()| self.keep()) {
            Ok(()) => {
                self.checkpoints.by_events(self.inserter.sealer.head());
                self.stuck.over();
                self.slot.faults.fetch_add(faults, Ordering::SeqCst);
                self.slot.advance(self.n, end);
                true
            }
            Err(Trouble::Gone) => {
                self.lost_tables();
                false
            }
            Err(Trouble::Outside(why) | Trouble::Event(why)) => {
                self.stuck.say(&why);
                false
            }
        }
    }

    /// Puts what is committed into the journal. What fails here is tried again with the next batch; should the writer die
    /// before, its successor finds it in the table.
    fn keep(&mut self) -> Result<(), Trouble> {
        self.agree()?;
        let sealer = &mut self.inserter.sealer;
        let (records, before) = sealer.pending();
        if let Some(journal) = &mut self.journal
            && !records.is_empty()
        {
            journal
                .append(records, before, sealer.head())
                .map_err(|error| Trouble::Outside(format!("the journal cannot be written: {error}")))?;
        }
        sealer.written();
        Ok(())
    }

    /// Commits the rows one by one; a row that still fails is replaced by the news of it, under its own number.
    fn one_by_one(&mut self, faults: &mut u64) -> Result<(), Trouble> {
        for at in 0..self.rows.len() {
            let Some(seq) = self.rows.get(at).map(|(seq, _)| *seq) else { break };
            // A second attempt after trouble from outside finds some of them stored.
            if seq <= self.segments.last() {
                continue;
            }
            if let Err(why) = self.commit(at..at.saturating_add(1)) {
                let Trouble::Event(why) = why else { return Err(why) };
                *faults = faults.saturating_add(1);
                if let Some(row) = self.rows.get_mut(at) {
                    row.1 = fault(seq, &why);
                }
                self.commit(at..at.saturating_add(1))?;
            }
        }
        Ok(())
    }

    fn commit(&mut self, range: std::ops::Range<usize>) -> Result<(), Trouble> {
        let Some(rows) = self.rows.get(range).filter(|rows| !rows.is_empty()) else { return Ok(()) };
        store(&mut self.segments, &mut self.inserter, Rows::Events(rows))?;
        self.slot.set_head(self.inserter.sealer.head());
        let segments = self.segments;
        log_json::emit(rows);
        if segments.blocked && !self.said_blocked {
            warning!(
                "the oldest audit segment is in use and cannot be emptied; the trail grows past its capacity"
            );
        }
        self.said_blocked = segments.blocked;
        Ok(())
    }

    /// The tables are not what they were: DROP EXTENSION, perhaps with a CREATE EXTENSION behind it.
    fn lost_tables(&mut self) {
        match in_transaction(|| Segments::locate().map_err(|e| Trouble::Outside(e.to_string()))) {
            Ok(Some(segments)) => {
                self.segments = segments;
                if let Err(Trouble::Outside(why) | Trouble::Event(why)) = resume::resume(self) {
                    self.stuck.say(&why);
                }
            }
            Ok(None) => leave_for_good(self.n, self.slot),
            Err(_) => {}
        }
    }
}
