//! Where a writer takes up: the head of the chain, the table refilled from the journal after a crash, the journal
//! brought up to the table. All of it before the writer is ready, so before any agent runs.
//!
//! In order of trust: the head in shared memory, which a writer of this server's life has left; the last event of the
//! table; the last event of the journal. Without any of them a new chain begins, and an event says so.

use pgrx::prelude::*;

use super::express::Lead;
use super::guc_audit::{self, Journal as Setting};
use super::insert::{Rows, Written};
use super::journal::Journal;
use super::segments::Segments;
use super::shmem::is_set;
use super::trail::{self, Waiting};
use super::writer::{Writer, store};
use super::writer_transaction::{Trouble, in_transaction};
use super::{anchor, columns, scan, stored};
use crate::audit::chain::{self, Head, Value, Walk};
use crate::audit::event::{AuditEvent, EventKind};
use crate::audit::journal::{self as format, Entry, Reader};
use std::sync::atomic::Ordering;

/// Rows restored in one transaction.
const RESTORED: usize = 4096;

fn outside(why: impl std::fmt::Display) -> Trouble {
    Trouble::Outside(why.to_string())
}

/// See the module.
///
/// # Errors
/// Nothing is resumed; the caller tries again.
pub fn resume(writer: &mut Writer) -> Result<(), Trouble> {
    writer.lead = Lead::default();
    let mut news = Vec::new();
    let (table, sealer) = (writer.segments.any_table(), &mut writer.inserter.sealer);
    in_transaction(|| if sealer.learn(table) { Ok(()) } else { Err(Trouble::Gone) })?;
    let anchored = in_transaction(|| Ok(anchor::read()))?;
    open_journal(writer, &mut news)?;
    let kept = writer.journal.as_ref().and_then(Journal::head);
    let base = writer.slot.base.load(Ordering::SeqCst);
    // A standby's chain ends with its promotion.
    let promoted = is_set(&writer.slot.of_standby);
    let known = writer.slot.head_of_chain().filter(|_| base != 0 && !promoted);
    let in_table = writer.segments.head();
    writer.inserter.sealer.set_journaling(false);

    let head = if let Some(known) = known {
        let head = in_table.filter(|stored| stored.seq > known.seq).unwrap_or(known);
        if in_table.is_none() && anchored.is_none() {
            set_anchor(head)?;
            news.push((
                EventKind::ChainBegin,
                "the trail's tables are new: events before this one are gone".to_owned(),
            ));
        }
        head
    } else if let Some(in_table) = in_table {
        match kept {
            Some(kept) if kept.seq > in_table.seq => restore(writer, Some(in_table), &mut news)?,
            _ => in_table,
        }
    } else if let Some(kept) =
        kept.filter(|kept| !promoted && anchored.is_none_or(|anchored| anchored.seq <= kept.seq))
    {
        let head = restore(writer, None, &mut news)?;
        log!("the audit trail is restored from the journal, up to event {}", kept.seq);
        head
    } else {
        let done = writer.slot.done.load(Ordering::SeqCst);
        // Behind every number that is known: of the primary's trail what was replicated and what came with the data directory.
        let behind = anchored.into_iter().chain(kept.filter(|_| promoted)).map(|head| head.seq).max();
        let seq = behind.unwrap_or(0).max(if promoted { done } else { 0 });
        let head = Head { seq, ..Head::START };
        set_anchor(head)?;
        let why = if promoted {
            "a new hash chain begins: the standby was promoted; its own events are in its journal"
        } else {
            "a new hash chain begins: no earlier events are at hand"
        };
        news.push((EventKind::ChainBegin, why.to_owned()));
        head
    };
    writer.inserter.sealer.set_head(head);
    if base == 0 || promoted {
        let done = writer.slot.done.load(Ordering::SeqCst);
        writer.slot.base.store(head.seq.saturating_add(1).saturating_sub(done), Ordering::SeqCst);
        writer.slot.of_standby.store(0, Ordering::SeqCst);
    }
    writer.slot.set_head(head);
    writer.inserter.sealer.set_journaled(None);
    if let Some(ahead) = kept.filter(|kept| base != 0 && kept.seq > head.seq) {
        writer.take_over(ahead, head);
    }
    bring_up(writer, anchored, &mut news)?;
    tell(news);
    Ok(())
}

/// Opens or closes the journal as the setting wants it; called before every batch.
///
/// # Errors
/// The journal cannot be opened: nothing is stored until it can, or the setting changes.
pub fn follow_setting(writer: &mut Writer) -> Result<(), Trouble> {
    let wanted = guc_audit::journal() != Setting::off;
    if wanted == writer.journal.is_some() {
        return Ok(());
    }
    let mut news = Vec::new();
    if wanted {
        open_journal(writer, &mut news)?;
        let anchored = in_transaction(|| Ok(anchor::read()))?;
        if let Err(trouble) = bring_up(writer, anchored, &mut news) {
            writer.journal = None;
            return Err(trouble);
        }
        tell(news);
    } else {
        writer.slot.journaled.store(0, Ordering::SeqCst);
        writer.journal = None;
        writer.inserter.sealer.set_journaling(false);
    }
    Ok(())
}

/// What a writer has to say of itself.
pub type News = Vec<(EventKind, String)>;

/// Events of the writer's own, through the ring like all others.
pub fn tell(news: News) {
    for (kind, message) in news {
        let event = AuditEvent { message: &message, ..AuditEvent::bare(kind, scan::clock(), [0; 16]) };
        trail::publish_unreserved(&event, Waiting::Never);
    }
}

fn set_anchor(head: Head) -> Result<(), Trouble> {
    in_transaction(|| {
        anchor::set(head);
        Ok(())
    })
}

fn open_journal(writer: &mut Writer, news: &mut News) -> Result<(), Trouble> {
    writer.journal = None;
    if guc_audit::journal() == Setting::off {
        return Ok(());
    }
    let database = writer.slot.database.load(Ordering::SeqCst);
    let columns = columns::described(writer.inserter.sealer.layout());
    let mut journal = Journal::open(database, columns)
        .map_err(|error| outside(format!("the journal cannot be opened: {error}")))?;
    news.extend(journal.repaired.take().map(|repaired| (EventKind::Fault, repaired)));
    writer.journal = Some(journal);
    Ok(())
}

/// Fills the table from the journal, behind what it holds; the head then.
fn restore(writer: &mut Writer, behind: Option<Head>, news: &mut News) -> Result<Head, Trouble> {
    let Some(journal) = writer.journal.take() else { return Err(outside("there is no journal")) };
    let outcome = Restoring { writer, news, head: None, behind }.run(&journal);
    writer.journal = Some(journal);
    outcome
}

struct Restoring<'a> {
    writer: &'a mut Writer,
    news: &'a mut News,
    /// Where the restored run of events ends; `None` before the first one.
    head: Option<Head>,
    behind: Option<Head>,
}

impl Restoring<'_> {
    fn run(mut self, journal: &Journal) -> Result<Head, Trouble> {
        let read = |error| outside(format!("the journal cannot be read: {error}"));
        let files = journal.files().map_err(read)?;
        let newest = files.last().map_or(0, |(first, _)| *first);
        let least = match self.behind {
            Some(behind) => behind.seq,
            None => newest.saturating_sub(guc_audit::capacity()),
        };
        let old = files.iter().skip(1).take_while(|(first, _)| *first <= least).count();
        for (_, path) in files.into_iter().skip(old) {
            let bytes = journal.read(&path).map_err(read)?;
            match Reader::new(&bytes) {
                Ok(reader) => self.file(reader, &path.display().to_string())?,
                Err(damage) => self.damaged(&path.display().to_string(), damage),
            }
        }
        self.head.or(self.behind).ok_or_else(|| outside("the journal is empty"))
    }

    fn damaged(&mut self, name: &str, damage: format::Damage) {
        warning!("the audit journal is damaged, or tampered with: {} in {name}", damage.word());
        let words = format!("the journal was damaged, or tampered with: {} in {name}", damage.word());
        self.news.push((EventKind::Fault, words));
    }

    fn file(&mut self, mut reader: Reader<'_>, name: &str) -> Result<(), Trouble> {
        let before = reader.header().before;
        if self.behind.is_none() && self.head != Some(before) {
            if let Some(head) = self.head {
                let gap = format!(
                    "the journal has a gap behind event {}: the trail begins behind event {}",
                    head.seq, before.seq
                );
                self.news.push((EventKind::Fault, gap));
            }
            self.begin_behind(before)?;
        }
        let mut rows: Vec<(u64, Vec<(u8, Value<'_>)>)> = Vec::new();
        loop {
            match reader.next_entry() {
                Ok(Some(entry)) => {
                    if self.wanted(&entry, name)?
                        && let Some(values) = chain::values(entry.columns)
                    {
                        rows.push((entry.seq, values));
                    }
                    if rows.len() == RESTORED {
                        self.store(&mut rows, reader.head())?;
                    }
                }
                Ok(None) => return self.store(&mut rows, reader.head()),
                Err(damage) => {
                    let head = reader.head();
                    self.damaged(name, damage);
                    return self.store(&mut rows, head);
                }
            }
        }
    }

    /// Empties the table; what is restored then begins here.
    fn begin_behind(&mut self, before: Head) -> Result<(), Trouble> {
        let mut segments: Segments = self.writer.segments;
        in_transaction(|| match segments.clear() {
            Written::All => {
                anchor::set(before);
                Ok(())
            }
            Written::Locked => Err(outside("somebody holds a lock on a segment")),
            Written::Gone => Err(Trouble::Gone),
        })?;
        self.writer.segments = segments;
        self.writer.inserter.sealer.set_head(before);
        self.head = Some(before);
        Ok(())
    }

    /// Whether an event is missing in the table. The last one that is there must be the same.
    fn wanted(&mut self, entry: &Entry<'_>, name: &str) -> Result<bool, Trouble> {
        let Some(behind) = self.behind else { return Ok(true) };
        if entry.seq == behind.seq {
            if entry.hash != behind.hash {
                let why = format!(
                    "event {} of {name} is not the one in the trail; move one of them away",
                    entry.seq
                );
                return Err(outside(why));
            }
            self.writer.inserter.sealer.set_head(behind);
            self.head = Some(behind);
        }
        Ok(entry.seq > behind.seq && self.head.is_some())
    }

    fn store(&mut self, rows: &mut Vec<(u64, Vec<(u8, Value<'_>)>)>, head: Head) -> Result<(), Trouble> {
        if rows.is_empty() {
            return Ok(());
        }
        let inserter = &mut self.writer.inserter;
        store(&mut self.writer.segments, inserter, Rows::Restored(rows))?;
        if inserter.sealer.head() != head {
            return Err(outside("what was restored from the journal has another hash"));
        }
        rows.clear();
        self.head = Some(head);
        Ok(())
    }
}

/// Gives the journal the events that only the table has; then both go on together.
fn bring_up(writer: &mut Writer, anchored: Option<Head>, news: &mut News) -> Result<(), Trouble> {
    let Some(journal) = &mut writer.journal else { return Ok(()) };
    let head = writer.inserter.sealer.head();
    let kept = journal.head();
    if kept.is_none_or(|kept| kept.seq < head.seq) && writer.segments.head().is_some() {
        let begun = kept.filter(|kept| anchored.is_none_or(|anchored| anchored.seq <= kept.seq));
        let begun = begun.or(anchored).unwrap_or(Head::START);
        let mut walk = Walk::behind(begun);
        let mut records = Vec::new();
        let mut done = begun;
        let mut failure = None;
        in_transaction(|| {
            stored::each_row(begun.seq.saturating_add(1), |found| {
                walk.step(found);
                if !walk.holds() {
                    return false;
                }
                format::put(found.seq, &found.hash, found.columns, &mut records);
                if records.len() >= 1024 * 1024 {
                    failure = journal.append(&records, done, walk.head()).err();
                    (done, records) = (walk.head(), Vec::new());
                }
                failure.is_none()
            });
            Ok(())
        })?;
        if failure.is_none() && !records.is_empty() {
            failure = journal.append(&records, done, walk.head()).err();
        }
        if let Some(error) = failure {
            return Err(outside(format!("the journal cannot be written: {error}")));
        }
        if walk.head() != head {
            let why = format!(
                "the trail's chain is broken behind event {}: the journal goes on behind event {}",
                walk.head().seq,
                head.seq
            );
            news.push((EventKind::Fault, why));
        }
    }
    writer.inserter.sealer.set_journaling(true);
    writer.slot.journaled.store(1, Ordering::SeqCst);
    Ok(())
}
