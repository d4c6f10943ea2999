//! `verify_audit()` and `journal_read()`: the hash chain of the trail and of the journal, walked for auditors.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{JsonB, pg_sys};

use super::administrator;
use crate::audit::chain::{Break, Fault, Head, Walk, hex, unhex};
use crate::audit::journal_text;
use crate::pg::admin_error::{AdminError, AdminResult};
use crate::pg::guc_audit::{self, Journal};
use crate::pg::journal_walk::{self, Broken, Journaled, Open};
use crate::pg::text_datum::Text;
use crate::pg::{anchor, standby, stored, trail};

/// How long the journal may take to come up to the table.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a long walk tells where it is.
const PROGRESS: Duration = Duration::from_secs(5);

type Verdict = TableIterator<
    'static,
    (
        name!(intact, bool),
        name!(events, i64),
        name!(first_seq, Option<i64>),
        name!(last_seq, Option<i64>),
        name!(last_hash, Option<String>),
        name!(broken_seq, Option<i64>),
        name!(r#break, Option<String>),
        name!(detail, String),
    ),
>;

/// What was seen on the way.
#[derive(Default)]
struct Seen {
    events: i64,
    first: Option<u64>,
    at_checkpoint: Option<Head>,
    /// The first event that is another one in the journal.
    other: Option<u64>,
}

/// One row: whether the chain holds, and where it does not.
#[pg_extern(sql = false)]
fn verify_audit(checkpoint_seq: Option<i64>, checkpoint_hash: Option<Text>) -> Result<Verdict, ErrorReport> {
    let checkpoint_hash = checkpoint_hash.as_deref();
    Ok(verdict(checkpoint_seq, checkpoint_hash)?)
}

fn verdict(checkpoint_seq: Option<i64>, checkpoint_hash: Option<&str>) -> AdminResult<Verdict> {
    administrator()?;
    let checkpoint = checkpoint(checkpoint_seq, checkpoint_hash)?;
    // What the writer has told of is committed, so the rows of the moment have it.
    let told = || trail::my_slot().and_then(|(_, slot)| slot.head_of_chain());
    let (_moment, known) = stored::Moment::begin(told);
    let anchor = anchor::read().unwrap_or(Head::START);
    let journal = journal(anchor, known);
    let (outcome, seen) = walk(anchor, known, checkpoint, journal.as_ref().and_then(|it| it.as_ref().ok()));
    let outcome = outcome.and_then(|head| match checkpoint {
        Some(checkpoint) => against(checkpoint, anchor, seen.at_checkpoint, head).map(|()| head),
        None => Ok(head),
    });
    // The table's own break comes first; then what the journal says.
    let outcome = outcome.map_err(|broken| (broken, words(broken.seq, broken.fault)));
    let outcome = match (outcome, journal) {
        (Ok(head), Some(journal)) => {
            let due = known.map_or(0, |known| known.seq.min(head.seq));
            beside(due, journal, seen.other).map(|told| (head, told))
        }
        (Ok(head), None) => Ok((head, String::new())),
        (Err(broken), _) => Err(broken),
    };
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let first = seen.first.map(signed);
    Ok(TableIterator::once(match outcome {
        Ok((head, told)) => {
            let held = match checkpoint {
                Some(checkpoint) if checkpoint.seq < anchor.seq => {
                    "the chain holds; the checkpoint is older than the trail and was not held against it"
                        .to_owned()
                }
                Some(_) => "the chain holds, and holds to the checkpoint".to_owned(),
                None => "the chain holds".to_owned(),
            };
            let held = held + &told;
            (true, seen.events, first, Some(signed(head.seq)), Some(hex(&head.hash)), None, None, held)
        }
        Err((Break { seq, fault }, detail)) => {
            let fault = fault.word().to_owned();
            (false, seen.events, first, None, None, Some(signed(seq)), Some(fault), detail)
        }
    }))
}

fn checkpoint(seq: Option<i64>, hash: Option<&str>) -> AdminResult<Option<Head>> {
    let hint = "Take both from a line \"audit checkpoint\" of the server log.";
    match (seq, hash) {
        (None, None) => Ok(None),
        (Some(seq), Some(hash)) => {
            let seq = u64::try_from(seq)
                .map_err(|_| AdminError::invalid("checkpoint_seq: not the number of an event").hint(hint))?;
            let hash = unhex(hash).ok_or_else(|| {
                AdminError::invalid("checkpoint_hash: not a SHA-256 in hexadecimal").hint(hint)
            })?;
            Ok(Some(Head { seq, hash }))
        }
        _ => Err(AdminError::invalid("a checkpoint is a number and a hash").hint(hint)),
    }
}

/// The journal beside the table; `None` where there is none. With `known` it is waited for: the writer appends to it after it has
/// committed, and one that rests has yet to bring it up.
fn journal(anchor: Head, known: Option<Head>) -> Option<Result<Journaled, Broken>> {
    if guc_audit::journal() == Journal::off || standby::is_one() {
        return None;
    }
    // SAFETY: a plain variable of this process.
    let database = u32::from(unsafe { pg_sys::MyDatabaseId });
    if let Some((known, (_, slot))) = known.zip(trail::my_slot()) {
        let deadline = Instant::now() + PATIENCE;
        while journal_walk::last_event(database).is_none_or(|last| last < known.seq)
            && Instant::now() < deadline
        {
            slot.want_writer();
            pgrx::check_for_interrupts!();
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Some(journal_walk::walk(database, anchor))
}

/// What to say of the journal beside a table that holds. It has to have the events up to `due`, which it was awaited for: what the
/// table has behind that was recorded after the journal was read, or is being brought up where no writer has been here since the
/// server's start. `other` is the first event that differs.
fn beside(
    due: u64,
    journal: Result<Journaled, Broken>,
    other: Option<u64>,
) -> Result<String, (Break, String)> {
    let journal = journal.map_err(|broken| (broken.at, broken.words))?;
    if let Some(seq) = other {
        let words = format!("event {seq} is another one in the journal: one of both was rewritten");
        return Err((Break { seq, fault: Fault::Rewritten }, words));
    }
    match journal.range() {
        Some((_, last)) if last < due => {
            let seq = last.saturating_add(1);
            let words = format!("in the journal: event {seq} is gone; the table has it");
            Err((Break { seq, fault: Fault::Missing }, words))
        }
        Some((first, last)) => Ok(format!("; the journal has events {first} to {last} of it")),
        None if due > 0 => {
            let words = "the journal has no events although agent_guard.journal is on".to_owned();
            Err((Break { seq: due, fault: Fault::Missing }, words))
        }
        None => Ok(String::new()),
    }
}

fn walk(
    anchor: Head,
    known: Option<Head>,
    checkpoint: Option<Head>,
    journal: Option<&Journaled>,
) -> (Result<Head, Break>, Seen) {
    let mut walk = Walk::behind(anchor);
    let mut seen = Seen::default();
    let mut told = Instant::now();
    stored::each_row(0, |found| {
        pgrx::check_for_interrupts!();
        seen.events = seen.events.saturating_add(1);
        seen.first.get_or_insert(found.seq);
        walk.step(found);
        if walk.holds()
            && seen.other.is_none()
            && journal.is_some_and(|journal| journal.contradicts(walk.head()))
        {
            seen.other = Some(found.seq);
        }
        if walk.holds() && checkpoint.is_some_and(|checkpoint| checkpoint.seq == found.seq) {
            seen.at_checkpoint = Some(walk.head());
        }
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            let (events, at) = (seen.events, found.seq);
            notice!("{events} events verified, up to event {at}");
        }
        !walk.settled()
    });
    (walk.end(known), seen)
}

fn against(checkpoint: Head, anchor: Head, passed: Option<Head>, head: Head) -> Result<(), Break> {
    if checkpoint.seq > head.seq {
        return Err(Break { seq: head.seq.saturating_add(1), fault: Fault::Missing });
    }
    let there = if checkpoint.seq == anchor.seq { Some(anchor) } else { passed };
    match there {
        Some(there) if there.hash != checkpoint.hash => {
            Err(Break { seq: checkpoint.seq, fault: Fault::Rewritten })
        }
        _ => Ok(()),
    }
}

fn words(seq: u64, fault: Fault) -> String {
    match fault {
        Fault::Altered => format!("event {seq} is not what was recorded"),
        Fault::Missing => format!("event {seq} is gone"),
        Fault::Inserted => format!("an event with the number {seq} was not recorded by the writer"),
        Fault::Reordered => format!("event {seq} stands in another place"),
        Fault::Rewritten => {
            format!("the chain up to event {seq} is another one than was vouched for: it was rewritten")
        }
    }
}

type Entries = TableIterator<
    'static,
    (
        name!(file, String),
        name!(seq, Option<i64>),
        name!(at, Option<TimestampWithTimeZone>),
        name!(event, Option<JsonB>),
        name!(hash, Option<String>),
        name!(problem, Option<String>),
    ),
>;

/// The events of one file, or of all files of a directory, in order.
#[pg_extern(sql = false)]
fn journal_read(path: &str) -> Result<Entries, ErrorReport> {
    Ok(entries(path)?)
}

fn entries(path: &str) -> AdminResult<Entries> {
    administrator()?;
    let readers = pg_sys::Oid::from(pg_sys::ROLE_PG_READ_SERVER_FILES);
    // SAFETY: asks for a membership of the current user.
    if !unsafe { pg_sys::has_privs_of_role(pg_sys::GetUserId(), readers) } {
        return Err(AdminError::forbidden("permission denied to read the audit journal")
            .hint("Only members of pg_read_server_files may read server files."));
    }
    let path = PathBuf::from(path);
    let files = if path.is_dir() {
        journal_walk::files(&path)
            .map_err(|error| AdminError::invalid(format!("{}: {error}", path.display())))?
    } else {
        vec![path]
    };
    Ok(TableIterator::new(Files { left: files.into_iter(), open: None, head: None }))
}

type EntryRow =
    (String, Option<i64>, Option<TimestampWithTimeZone>, Option<JsonB>, Option<String>, Option<String>);

/// Files that are read one after the other, a row at a time: what a journal holds may be more than fits into memory.
struct Files {
    left: std::vec::IntoIter<PathBuf>,
    open: Option<Open>,
    head: Option<Head>,
}

fn problem(file: &str, what: String) -> EntryRow {
    (file.to_owned(), None, None, None, None, Some(what))
}

impl Iterator for Files {
    type Item = EntryRow;

    fn next(&mut self) -> Option<EntryRow> {
        loop {
            pgrx::check_for_interrupts!();
            let Some(open) = &mut self.open else {
                let file = self.left.next()?;
                match Open::new(&file) {
                    Err(why) => return Some(problem(&file.display().to_string(), why)),
                    Ok((open, before)) => {
                        let name = open.name.clone();
                        self.open = Some(open);
                        match self.head.filter(|head| *head != before) {
                            None => continue,
                            Some(head) => {
                                let what = "it does not continue the file before, which ends with event";
                                return Some(problem(&name, format!("{what} {}", head.seq)));
                            }
                        }
                    }
                }
            };
            let row = open.next(|name, columns, entry| {
                let at = journal_text::time(entry).and_then(timestamp);
                let event = JsonB(journal_text::event(columns, entry).into());
                let seq = i64::try_from(entry.seq).ok();
                (name.to_owned(), seq, at, Some(event), Some(hex(&entry.hash)), None)
            });
            let head = open.head();
            match row {
                Ok(Some(row)) => return Some(row),
                Ok(None) => (self.open, self.head) = (None, Some(head)),
                Err(damage) => {
                    let row = problem(&open.name, format!("{}, behind event {}", damage.word(), head.seq));
                    (self.open, self.head) = (None, Some(head));
                    return Some(row);
                }
            }
        }
    }
}

fn timestamp(unix_micros: i64) -> Option<TimestampWithTimeZone> {
    let micros = unix_micros.saturating_sub(crate::pg::scan::POSTGRES_EPOCH_MICROS);
    TimestampWithTimeZone::try_from(micros).ok()
}
