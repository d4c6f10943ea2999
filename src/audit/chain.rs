//! The hash chain over the events of one trail: what is hashed, how the chain goes on, and where it breaks.
//!
//! An event is hashed as it is *stored*, from its columns: `SHA-256(domain, previous hash, seq, columns)`. Columns
//! without a value leave no bytes, so a column that a later version adds does not change what was hashed before.
//! Who keeps the head safe is not decided here: whoever can rewrite every event and the head can rewrite the chain,
//! which is what checkpoints in the server log are for.
//!
//! ```text
//! columns: for each one that has a value, in the order of their numbers
//!   number u8  tag u8  and by the tag
//!     1 integer   i64
//!     2 bytes     u32 length, bytes                        texts too, and JSON and addresses as their texts
//!     3 list      u16 count, each u32 length (u32::MAX for NULL), bytes
//!     4 interval  i64 microseconds, i32 days, i32 months
//!     5 strange   nothing: a value of a form that is never stored
//! ```

#![forbid(unsafe_code)]

use sha2::{Digest, Sha256};

/// A SHA-256.
pub type Hash = [u8; 32];

const DOMAIN: &[u8] = b"agent_guard audit 1";
const INTEGER: u8 = 1;
const BYTES: u8 = 2;
const LIST: u8 = 3;
const INTERVAL: u8 = 4;
const STRANGE: u8 = 5;
const NULL: u32 = u32::MAX;

/// Where a chain stands: its last event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The event's number; 0 before the first one.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
}

impl Head {
    /// Before any event.
    pub const START: Head = Head { seq: 0, hash: [0; 32] };

    /// The head behind a further event.
    pub fn extended(&self, seq: u64, columns: &[u8]) -> Head {
        Head { seq, hash: digest(&self.hash, seq, columns) }
    }
}

/// The hash of an event behind the one with the hash `previous`.
pub fn digest(previous: &Hash, seq: u64, columns: &[u8]) -> Hash {
    Sha256::new()
        .chain_update(DOMAIN)
        .chain_update(previous)
        .chain_update(seq.to_le_bytes())
        .chain_update(columns)
        .finalize()
        .into()
}

/// A hash as it is shown.
pub fn hex(hash: &Hash) -> String {
    hash.iter().fold(String::with_capacity(64), |mut text, byte| {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
        }
        text
    })
}

/// A hash as `hex` shows it, in either case.
pub fn unhex(text: &str) -> Option<Hash> {
    let mut hash = [0; 32];
    let digits: Vec<u8> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = pair.iter().fold(0, |byte, digit| byte << 4 | digit);
    }
    Some(hash)
}

// --- the bytes of an event ---

/// Puts the columns of one event, each once, in the order of their numbers.
#[derive(Debug)]
pub struct Columns<'a>(pub &'a mut Vec<u8>);

impl Columns<'_> {
    /// A number.
    pub fn integer(&mut self, column: u8, value: i64) {
        self.0.extend_from_slice(&[column, INTEGER]);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// Bytes or a text.
    pub fn bytes(&mut self, column: u8, value: &[u8]) {
        self.0.extend_from_slice(&[column, BYTES]);
        self.item(Some(value));
    }

    /// A list of so many items, which `item` puts.
    pub fn list(&mut self, column: u8, count: u16) {
        self.0.extend_from_slice(&[column, LIST]);
        self.0.extend_from_slice(&count.to_le_bytes());
    }

    /// An item of a list.
    pub fn item(&mut self, value: Option<&[u8]>) {
        let length = value.map_or(NULL, |value| u32::try_from(value.len()).unwrap_or(NULL - 1));
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.extend_from_slice(value.unwrap_or(&[]));
    }

    /// A span of time.
    pub fn interval(&mut self, column: u8, microseconds: i64, days: i32, months: i32) {
        self.0.extend_from_slice(&[column, INTERVAL]);
        self.0.extend_from_slice(&microseconds.to_le_bytes());
        self.0.extend_from_slice(&days.to_le_bytes());
        self.0.extend_from_slice(&months.to_le_bytes());
    }

    /// A value that the writer never stores: whatever it is, it is not what was hashed.
    pub fn strange(&mut self, column: u8) {
        self.0.extend_from_slice(&[column, STRANGE]);
    }
}

/// A column's value, read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A number.
    Integer(i64),
    /// Bytes or a text.
    Bytes(&'a [u8]),
    /// A list.
    List(Vec<Option<&'a [u8]>>),
    /// Microseconds, days, months.
    Interval(i64, i32, i32),
    /// See `Columns::strange`.
    Strange,
}

/// The columns with their numbers; `None` for bytes that `Columns` does not write.
pub fn values(mut bytes: &[u8]) -> Option<Vec<(u8, Value<'_>)>> {
    let mut values: Vec<(u8, Value<'_>)> = Vec::new();
    while !bytes.is_empty() {
        let [column, tag] = array(&mut bytes)?;
        if values.last().is_some_and(|(before, _)| *before >= column) {
            return None;
        }
        let value = match tag {
            INTEGER => Value::Integer(i64::from_le_bytes(array(&mut bytes)?)),
            BYTES => Value::Bytes(item(&mut bytes)??),
            LIST => {
                let count = u16::from_le_bytes(array(&mut bytes)?);
                Value::List((0..count).map(|_| item(&mut bytes)).collect::<Option<_>>()?)
            }
            INTERVAL => Value::Interval(
                i64::from_le_bytes(array(&mut bytes)?),
                i32::from_le_bytes(array(&mut bytes)?),
                i32::from_le_bytes(array(&mut bytes)?),
            ),
            STRANGE => Value::Strange,
            _ => return None,
        };
        values.push((column, value));
    }
    Some(values)
}

fn array<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*taken)
}

fn item<'a>(bytes: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let length = u32::from_le_bytes(array(bytes)?);
    if length == NULL {
        return Some(None);
    }
    let (taken, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some(Some(taken))
}

// --- verifying ---

/// How a chain is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The event is not what was hashed.
    Altered,
    /// The event is gone.
    Missing,
    /// There is an event too many.
    Inserted,
    /// The event is there, in another place.
    Reordered,
    /// The chain is whole but is not the one that was vouched for.
    Rewritten,
}

impl Fault {
    /// The word that auditors see.
    pub fn word(self) -> &'static str {
        match self {
            Fault::Altered => "altered",
            Fault::Missing => "missing",
            Fault::Inserted => "inserted",
            Fault::Reordered => "reordered",
            Fault::Rewritten => "rewritten",
        }
    }
}

/// The first break of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Break {
    /// The event.
    pub seq: u64,
    /// What became of it.
    pub fault: Fault,
}

/// An event as it was found.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// Its number.
    pub seq: u64,
    /// The hash stored with it.
    pub hash: Hash,
    /// Its columns.
    pub columns: &'a [u8],
}

/// Goes along a chain, event by event in the order of their numbers.
#[derive(Debug)]
pub struct Walk {
    head: Head,
    inquest: Option<Inquest>,
}

/// Looks behind a break for the event that belongs there.
#[derive(Debug)]
struct Inquest {
    seq: u64,
    fault: Fault,
    /// The hash stored at the break.
    hash: Hash,
    settled: bool,
}

impl Walk {
    /// A walk that begins behind `anchor`.
    pub fn behind(anchor: Head) -> Walk {
        Walk { head: anchor, inquest: None }
    }

    /// The last event that the chain holds to.
    pub fn head(&self) -> Head {
        self.head
    }

    /// Whether the chain has held so far.
    pub fn holds(&self) -> bool {
        self.inquest.is_none()
    }

    /// Whether nothing that follows can change the outcome.
    pub fn settled(&self) -> bool {
        self.inquest.as_ref().is_some_and(|inquest| inquest.settled)
    }

    /// Takes the next event. After a break, the events that follow tell what it is.
    pub fn step(&mut self, found: &Found<'_>) {
        let due = self.head.seq.saturating_add(1);
        let computed = digest(&self.head.hash, due, found.columns);
        if let Some(inquest) = &mut self.inquest {
            if !inquest.settled && (computed == found.hash || computed == inquest.hash) {
                inquest.settled = true;
                let stranger = found.seq == due;
                inquest.fault = if stranger { Fault::Inserted } else { Fault::Reordered };
            }
            return;
        }
        if found.seq == due && computed == found.hash {
            self.head = Head { seq: due, hash: computed };
            return;
        }
        let inquest = match found.seq {
            seq if seq > due && computed == found.hash => (due, Fault::Reordered, true),
            seq if seq > due => (due, Fault::Missing, false),
            seq if seq < due => (seq, Fault::Inserted, true),
            _ => (due, Fault::Altered, false),
        };
        let (seq, fault, settled) = inquest;
        self.inquest = Some(Inquest { seq, fault, hash: found.hash, settled });
    }

    /// The outcome, when there are no more events. `known` is the head as somebody else knows it.
    ///
    /// # Errors
    /// The first break.
    pub fn end(self, known: Option<Head>) -> Result<Head, Break> {
        if let Some(Inquest { seq, fault, .. }) = self.inquest {
            return Err(Break { seq, fault });
        }
        match known {
            Some(known) if known.seq > self.head.seq => {
                Err(Break { seq: self.head.seq.saturating_add(1), fault: Fault::Missing })
            }
            Some(known) if known.seq == self.head.seq && known.hash != self.head.hash => {
                Err(Break { seq: known.seq, fault: Fault::Rewritten })
            }
            _ => Ok(self.head),
        }
    }
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
