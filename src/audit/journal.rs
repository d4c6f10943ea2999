//! The journal's files: a header, then one record for each event, appended and never changed (docs/journal.md).
//!
//! Pure bytes: who writes, syncs, rotates and removes files is the server side's business. Little-endian throughout.
//!
//! ```text
//! header: magic "AGJRNL01"  length u32  crc32c u32 (of what follows)
//!         system u64  database u32  created i64  before seq u64  before hash 32  columns text
//! record: magic "AGJR"  length u32 (of columns)  crc32c u32 (of what follows)  seq u64  hash 32  columns
//! ```
//! A file that grows, and one that a crash left, ends with zero bytes: room for records to come.

#![forbid(unsafe_code)]

use crc32c::{crc32c, crc32c_append};

use crate::audit::chain::{Hash, Head};

const FILE_MAGIC: &[u8; 8] = b"AGJRNL01";
const RECORD_MAGIC: &[u8; 4] = b"AGJR";
/// Magic, length, checksum, number and hash of a record.
const RECORD_HEAD: usize = 52;
/// No record is larger: a longer length is damage.
const MAX_COLUMNS: usize = 16 * 1024 * 1024;

/// What a file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The server's system identifier.
    pub system: u64,
    /// The database's OID.
    pub database: u32,
    /// When the file was begun: microseconds since the Unix epoch.
    pub created: i64,
    /// The event before the first one of this file.
    pub before: Head,
    /// `name type` of each column, in the order of their numbers from 1 on, separated by commas.
    pub columns: String,
}

impl Header {
    /// The header's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(512);
        body.extend_from_slice(&self.system.to_le_bytes());
        body.extend_from_slice(&self.database.to_le_bytes());
        body.extend_from_slice(&self.created.to_le_bytes());
        body.extend_from_slice(&self.before.seq.to_le_bytes());
        body.extend_from_slice(&self.before.hash);
        body.extend_from_slice(self.columns.as_bytes());
        let mut bytes = Vec::with_capacity(body.len().saturating_add(16));
        bytes.extend_from_slice(FILE_MAGIC);
        bytes.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(&crc32c(&body).to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes
    }

    fn read(bytes: &mut &[u8]) -> Option<Header> {
        if take::<8>(bytes)? != *FILE_MAGIC {
            return None;
        }
        let length = usize::try_from(u32::from_le_bytes(take(bytes)?)).ok()?;
        let crc = u32::from_le_bytes(take(bytes)?);
        let (mut body, rest) = bytes.split_at_checked(length)?;
        if crc32c(body) != crc {
            return None;
        }
        *bytes = rest;
        let body = &mut body;
        Some(Header {
            system: u64::from_le_bytes(take(body)?),
            database: u32::from_le_bytes(take(body)?),
            created: i64::from_le_bytes(take(body)?),
            before: Head { seq: u64::from_le_bytes(take(body)?), hash: take(body)? },
            columns: std::str::from_utf8(body).ok()?.to_owned(),
        })
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*taken)
}

/// The name of the file whose first event has this number: names sort as the events do.
pub fn file_name(first: u64) -> String {
    format!("{first:020}.journal")
}

/// The number of the first event of a file with this name.
pub fn first_of_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".journal")?;
    (digits.len() == 20).then(|| digits.parse().ok())?
}

/// Appends a record to `out`.
pub fn put(seq: u64, hash: &Hash, columns: &[u8], out: &mut Vec<u8>) {
    let crc = crc32c_append(crc32c_append(crc32c(&seq.to_le_bytes()), hash), columns);
    out.extend_from_slice(RECORD_MAGIC);
    out.extend_from_slice(&u32::try_from(columns.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&seq.to_le_bytes());
    out.extend_from_slice(hash);
    out.extend_from_slice(columns);
}

/// An event of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its number.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
    /// Its columns (`chain::values`).
    pub columns: &'a [u8],
}

/// Why a file does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It has no header, or a damaged one.
    Header,
    /// What follows is no whole record, and no whole record comes behind it: the write was cut off.
    Torn,
    /// What follows is no whole record, but records come behind it.
    Inside,
    /// The record is whole, but it is not what the chain says comes next.
    Chain,
}

impl Damage {
    /// What auditors read.
    pub fn word(self) -> &'static str {
        match self {
            Damage::Header => "the file has no valid header",
            Damage::Torn => "the last record is torn",
            Damage::Inside => "a record is damaged, and others follow it",
            Damage::Chain => "a record does not continue the hash chain",
        }
    }
}

/// Reads one file, record by record, and holds each against the chain.
#[derive(Debug)]
pub struct Reader<'a> {
    whole: &'a [u8],
    rest: &'a [u8],
    header: Header,
    head: Head,
}

impl<'a> Reader<'a> {
    /// A reader of a file with these bytes.
    ///
    /// # Errors
    /// `Damage::Header`.
    pub fn new(whole: &'a [u8]) -> Result<Reader<'a>, Damage> {
        let mut rest = whole;
        let header = Header::read(&mut rest).ok_or(Damage::Header)?;
        Ok(Reader { whole, rest, head: header.before, header })
    }

    /// What the file says of itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The last event read.
    pub fn head(&self) -> Head {
        self.head
    }

    /// How many bytes are good so far: header and records.
    pub fn position(&self) -> usize {
        self.whole.len().saturating_sub(self.rest.len())
    }

    /// The next event; `None` at the end, which may be one of zero bytes.
    ///
    /// # Errors
    /// Why there is no event although there are bytes. Nothing more can be read then.
    pub fn next_entry(&mut self) -> Result<Option<Entry<'a>>, Damage> {
        let next = entry_behind(self.rest, self.head)?;
        Ok(next.map(|(entry, rest)| {
            self.rest = rest;
            self.head = Head { seq: entry.seq, hash: entry.hash };
            entry
        }))
    }
}

/// The event that `rest` of a file begins with and that continues `head`, and what follows it; `None` at the end, which may be
/// one of zero bytes. For whoever goes through a file without borrowing it all the while.
///
/// # Errors
/// Why there is no event although there are bytes.
pub fn entry_behind(rest: &[u8], head: Head) -> Result<Option<(Entry<'_>, &[u8])>, Damage> {
    if rest.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let Some((entry, behind)) = record(rest) else {
        return Err(if records_follow(rest) { Damage::Inside } else { Damage::Torn });
    };
    let next = head.extended(head.seq.saturating_add(1), entry.columns);
    if next.seq != entry.seq || next.hash != entry.hash {
        return Err(Damage::Chain);
    }
    Ok(Some((entry, behind)))
}

/// Whether a whole record begins anywhere behind this place.
fn records_follow(rest: &[u8]) -> bool {
    memchr::memmem::find_iter(rest, RECORD_MAGIC)
        .any(|at| at > 0 && rest.get(at..).is_some_and(|bytes| record(bytes).is_some()))
}

/// The number of the whole record that `rest` begins with, whatever the chain says of it.
pub fn seq_of(rest: &[u8]) -> Option<u64> {
    record(rest).map(|(entry, _)| entry.seq)
}

/// Whether bytes begin as a file of a journal does.
pub fn is_one(bytes: &[u8]) -> bool {
    bytes.starts_with(FILE_MAGIC)
}

fn record(bytes: &[u8]) -> Option<(Entry<'_>, &[u8])> {
    let (mut head, rest) = bytes.split_at_checked(RECORD_HEAD)?;
    let head = &mut head;
    if take::<4>(head)? != *RECORD_MAGIC {
        return None;
    }
    let length = usize::try_from(u32::from_le_bytes(take(head)?)).ok()?;
    let crc = u32::from_le_bytes(take(head)?);
    if length > MAX_COLUMNS {
        return None;
    }
    let (columns, rest) = rest.split_at_checked(length)?;
    if crc32c_append(crc32c(head), columns) != crc {
        return None;
    }
    Some((Entry { seq: u64::from_le_bytes(take(head)?), hash: take(head)?, columns }, rest))
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
