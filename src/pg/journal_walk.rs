//! A journal's files read by somebody who is not its writer: whole, bounded, and against the chain in the table.
//!
//! Only regular files are opened, and none that is larger than a journal makes them: whoever names a path gets an answer about it,
//! and the server its memory.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::guc_audit;
use crate::audit::chain::{Break, Fault, Head};
use crate::audit::journal::{Damage, Reader, entry_behind, first_of_name, is_one, seq_of};

/// The largest `journal_file_size`, and a batch that a file takes beyond it.
const LARGEST: u64 = (1024 + 64) * 1024 * 1024;
/// Read at once, between two looks for a cancel.
const PIECE: usize = 1024 * 1024;
/// How often the file that grows is looked at again where it seems to be damaged, and at which distance: reading is not atomic
/// beside writing.
const LOOKS: u32 = 3;
const BETWEEN_LOOKS: Duration = Duration::from_millis(20);
/// Events between two looks for a cancel.
const EVENTS: usize = 1024;

/// The files of a journal in a directory, oldest first.
///
/// # Errors
/// Of the file system.
pub fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let file = entry?.path();
        if first(&file).is_some() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn first(file: &Path) -> Option<u64> {
    file.file_name().and_then(|name| name.to_str()).and_then(first_of_name)
}

/// The bytes of a file that may be a journal's. May raise: a cancel.
///
/// # Errors
/// Of the file system, and where it can be none.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let refused = |why: &str| io::Error::new(ErrorKind::InvalidData, why);
    // Before it is opened: a FIFO would keep whoever opens it.
    let about = fs::metadata(path)?;
    if !about.is_file() {
        return Err(refused("not a regular file"));
    }
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut bytes = Vec::new();
    file.by_ref().take(8).read_to_end(&mut bytes)?;
    if !is_one(&bytes) {
        return Err(refused(Damage::Header.word()));
    }
    if length > LARGEST {
        return Err(refused("larger than a file of a journal"));
    }
    let length = usize::try_from(length).map_err(|_| ErrorKind::OutOfMemory)?;
    bytes.try_reserve_exact(length.saturating_sub(bytes.len())).map_err(|_| ErrorKind::OutOfMemory)?;
    while bytes.len() < length {
        pgrx::check_for_interrupts!();
        let piece = u64::try_from(PIECE.min(length.saturating_sub(bytes.len()))).unwrap_or(0);
        if file.by_ref().take(piece).read_to_end(&mut bytes)? == 0 {
            break;
        }
    }
    Ok(bytes)
}

/// The journal of this database as it was found.
#[derive(Debug, Default)]
pub struct Journaled {
    /// The first event that it has.
    first: u64,
    /// The beginnings of the hashes of the events from the first one on.
    hashes: VecDeque<u64>,
}

/// Where a journal does not hold, and in which file.
#[derive(Debug)]
pub struct Broken {
    /// The event.
    pub at: Break,
    /// What auditors read of it.
    pub words: String,
}

impl Journaled {
    /// The last event, and the first one; `None` where there is none.
    pub fn range(&self) -> Option<(u64, u64)> {
        let count = u64::try_from(self.hashes.len()).ok().filter(|count| *count > 0)?;
        Some((self.first, self.first.saturating_add(count).saturating_sub(1)))
    }

    /// Whether an event has another hash here.
    pub fn contradicts(&self, event: Head) -> bool {
        let place = event.seq.checked_sub(self.first).and_then(|place| usize::try_from(place).ok());
        place.and_then(|place| self.hashes.get(place)).is_some_and(|hash| *hash != beginning(event))
    }

    fn add(&mut self, event: Head) {
        if self.hashes.is_empty() {
            self.first = event.seq;
        }
        self.hashes.push_back(beginning(event));
    }
}

fn beginning(event: Head) -> u64 {
    event.hash.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Where the files of a database are.
pub fn directory(database: u32) -> PathBuf {
    guc_audit::journal_directory().join(database.to_string())
}

/// The last event of a journal as its last file has it; `None` where there is nothing to be read.
pub fn last_event(database: u32) -> Option<u64> {
    let file = files(&directory(database)).ok()?.pop()?;
    let bytes = read(&file).ok()?;
    let mut reader = Reader::new(&bytes).ok()?;
    while let Ok(Some(_)) = reader.next_entry() {}
    Some(reader.head().seq)
}

/// Goes through a database's journal. `anchor` is what the chain in the table begins behind: older files may have gaps, where
/// there was no journal for a time.
///
/// # Errors
/// The first break.
pub fn walk(database: u32, anchor: Head) -> Result<Journaled, Broken> {
    let mut found = Journaled::default();
    let mut head: Option<Head> = None;
    let files = files(&directory(database)).unwrap_or_default();
    let count = files.len();
    for (n, file) in files.into_iter().enumerate() {
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let named = first(&file).unwrap_or(0);
        let broken = |seq: u64, fault: Fault, what: &str| Broken {
            at: Break { seq, fault },
            words: format!("in the journal, file {name}: event {seq}: {what}"),
        };
        let mut bytes = match read(&file) {
            Ok(bytes) => bytes,
            // The writer may have removed the oldest since they were listed.
            Err(error) if error.kind() == ErrorKind::NotFound && head.is_none() => continue,
            Err(error) => return Err(broken(named, Fault::Altered, &error.to_string())),
        };
        let reader = Reader::new(&bytes).map_err(|damage| broken(named, Fault::Altered, damage.word()))?;
        let (before, mut position) = (reader.header().before, reader.position());
        if before.seq.saturating_add(1) != named {
            return Err(broken(named, Fault::Reordered, "the file has other events than its name says"));
        }
        if let Some(head) = head.filter(|head| *head != before) {
            if before.seq > anchor.seq {
                let due = head.seq.saturating_add(1);
                return Err(match before.seq {
                    seq if seq > head.seq => {
                        broken(due, Fault::Missing, "it is gone, and all before this file")
                    }
                    seq if seq < head.seq => broken(named, Fault::Inserted, "it was there before this file"),
                    _ => broken(named, Fault::Altered, "the file does not continue the one before"),
                });
            }
            found = Journaled::default();
        }
        let (mut events, mut looks) = (0, 0);
        let mut here = before;
        loop {
            events += 1;
            if events % EVENTS == 0 {
                pgrx::check_for_interrupts!();
            }
            let rest = bytes.get(position..).unwrap_or(&[]);
            match entry_behind(rest, here) {
                Ok(Some((entry, behind))) => {
                    here = Head { seq: entry.seq, hash: entry.hash };
                    position = bytes.len().saturating_sub(behind.len());
                    found.add(here);
                }
                Ok(None) => break,
                // What is just being written, or what the writer cuts at its next start.
                Err(Damage::Torn) if n + 1 == count => break,
                // A batch that is just being written may be seen without its beginning.
                Err(_) if n + 1 == count && looks < LOOKS => {
                    looks += 1;
                    pgrx::check_for_interrupts!();
                    std::thread::sleep(BETWEEN_LOOKS);
                    bytes = read(&file).map_err(|error| broken(named, Fault::Altered, &error.to_string()))?;
                }
                Err(damage) => {
                    let due = here.seq.saturating_add(1);
                    let fault = match seq_of(rest) {
                        Some(seq) if seq > due => Fault::Missing,
                        Some(seq) if seq < due => Fault::Inserted,
                        _ => Fault::Altered,
                    };
                    return Err(broken(due, fault, damage.word()));
                }
            }
        }
        head = Some(here);
    }
    Ok(found)
}

/// A file that is read event by event, and what it is called.
#[derive(Debug)]
pub struct Open {
    /// Its path as it was given.
    pub name: String,
    /// The names of its columns.
    pub columns: String,
    bytes: Vec<u8>,
    position: usize,
    head: Head,
}

impl Open {
    /// Opens it; with the event that it continues.
    ///
    /// # Errors
    /// In words.
    pub fn new(path: &Path) -> Result<(Open, Head), String> {
        let bytes = read(path).map_err(|error| error.to_string())?;
        let reader = Reader::new(&bytes).map_err(|damage| damage.word().to_owned())?;
        let (columns, position, head) = (reader.header().columns.clone(), reader.position(), reader.head());
        Ok((Open { name: path.display().to_string(), columns, bytes, position, head }, head))
    }

    /// The last event read.
    pub fn head(&self) -> Head {
        self.head
    }

    /// Takes the next event, as `row` makes something of it; `None` at the end.
    ///
    /// # Errors
    /// Why it does not go on.
    pub fn next<T>(
        &mut self,
        row: impl FnOnce(&str, &str, &crate::audit::journal::Entry<'_>) -> T,
    ) -> Result<Option<T>, Damage> {
        let rest = self.bytes.get(self.position..).unwrap_or(&[]);
        let Some((entry, behind)) = entry_behind(rest, self.head)? else { return Ok(None) };
        let taken = rest.len().saturating_sub(behind.len());
        self.head = Head { seq: entry.seq, hash: entry.hash };
        let row = row(&self.name, &self.columns, &entry);
        self.position = self.position.saturating_add(taken);
        Ok(Some(row))
    }
}
