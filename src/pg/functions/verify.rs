//! `verify_audit()` and `journal_read()`: the hash chain of the trail and of the journal, walked for auditors.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pgrx::datum::TimestampWithTimeZone;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use pgrx::{JsonB, pg_sys};

use super::administrator;
use crate::audit::chain::{Break, Fault, Head, Walk, hex, unhex};
use crate::audit::journal::{Reader, first_of_name};
use crate::audit::journal_text;
use crate::pg::admin_error::{AdminError, AdminResult};
use crate::pg::text_datum::Text;
use crate::pg::{anchor, stored, trail};

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
    // Before the rows: what a writer has told of is committed, so the rows that are read next have it.
    let known = trail::my_slot().and_then(|(_, slot)| slot.head_of_chain()).filter(|_| !old_snapshot());
    let anchor = anchor::read()
        .map_err(|error| AdminError::invalid(format!("the anchor cannot be read: {error}")))?
        .unwrap_or(Head::START);
    let (outcome, seen) = walk(anchor, known, checkpoint);
    let outcome = outcome.and_then(|head| match checkpoint {
        Some(checkpoint) => against(checkpoint, anchor, seen.at_checkpoint, head).map(|()| head),
        None => Ok(head),
    });
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let first = seen.first.map(signed);
    Ok(TableIterator::once(match outcome {
        Ok(head) => {
            let held = match checkpoint {
                Some(checkpoint) if checkpoint.seq < anchor.seq => {
                    "the chain holds; the checkpoint is older than the trail and was not held against it"
                        .to_owned()
                }
                Some(_) => "the chain holds, and holds to the checkpoint".to_owned(),
                None => "the chain holds".to_owned(),
            };
            (true, seen.events, first, Some(signed(head.seq)), Some(hex(&head.hash)), None, None, held)
        }
        Err(Break { seq, fault }) => {
            let detail = words(seq, fault);
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

/// In a REPEATABLE READ transaction the rows are those of its beginning, and newer ones are not missing.
fn old_snapshot() -> bool {
    // SAFETY: a plain variable of this process.
    unsafe { pg_sys::XactIsoLevel >= i32::try_from(pg_sys::XACT_REPEATABLE_READ).unwrap_or(2) }
}

fn walk(anchor: Head, known: Option<Head>, checkpoint: Option<Head>) -> (Result<Head, Break>, Seen) {
    let mut walk = Walk::behind(anchor);
    let mut seen = Seen::default();
    let mut told = Instant::now();
    stored::each_row(0, |found| {
        pgrx::check_for_interrupts!();
        seen.events = seen.events.saturating_add(1);
        seen.first.get_or_insert(found.seq);
        walk.step(found);
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
    let unreadable =
        |path: &Path, error: std::io::Error| AdminError::invalid(format!("{}: {error}", path.display()));
    let path = PathBuf::from(path);
    let mut files = Vec::new();
    if path.is_dir() {
        for entry in std::fs::read_dir(&path).map_err(|error| unreadable(&path, error))? {
            let file = entry.map_err(|error| unreadable(&path, error))?.path();
            if file.file_name().and_then(|name| name.to_str()).and_then(first_of_name).is_some() {
                files.push(file);
            }
        }
        files.sort();
    } else {
        files.push(path);
    }
    let mut head: Option<Head> = None;
    let rows = files.into_iter().flat_map(move |file| {
        pgrx::check_for_interrupts!();
        read_file(&file, &mut head)
    });
    Ok(TableIterator::new(rows))
}

type EntryRow =
    (String, Option<i64>, Option<TimestampWithTimeZone>, Option<JsonB>, Option<String>, Option<String>);

fn read_file(file: &Path, head: &mut Option<Head>) -> Vec<EntryRow> {
    let name = file.display().to_string();
    let problem = |what: String| (name.clone(), None, None, None, None, Some(what));
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) => return vec![problem(error.to_string())],
    };
    let mut reader = match Reader::new(&bytes) {
        Ok(reader) => reader,
        Err(damage) => return vec![problem(damage.word().to_owned())],
    };
    let mut rows = Vec::new();
    let before = reader.header().before;
    if let Some(head) = *head
        && head != before
    {
        rows.push(problem(format!(
            "it does not continue the file before, which ends with event {}",
            head.seq
        )));
    }
    loop {
        let columns = reader.header().columns.clone();
        match reader.next_entry() {
            Ok(Some(entry)) => {
                let at = journal_text::time(&entry).and_then(timestamp);
                let event = JsonB(journal_text::event(&columns, &entry).into());
                let seq = i64::try_from(entry.seq).ok();
                rows.push((name.clone(), seq, at, Some(event), Some(hex(&entry.hash)), None));
            }
            Ok(None) => break,
            Err(damage) => {
                rows.push(problem(format!("{}, behind event {}", damage.word(), reader.head().seq)));
                break;
            }
        }
    }
    *head = Some(reader.head());
    rows
}

fn timestamp(unix_micros: i64) -> Option<TimestampWithTimeZone> {
    let micros = unix_micros.saturating_sub(crate::pg::scan::POSTGRES_EPOCH_MICROS);
    TimestampWithTimeZone::try_from(micros).ok()
}
