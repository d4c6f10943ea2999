//! A ring of bytes holding numbered records, first in, first out: the arithmetic, over any storage.
//!
//! Positions count bytes since the beginning and never wrap; a record may lie across the storage's end. Who may
//! write when, and how positions are shared, is the business of whoever owns the storage. A record is
//! `length u32, check u32, number u64, payload`.

#![forbid(unsafe_code)]

use std::ops::Range;

/// Bytes that a record takes beside its payload.
pub const HEADER: u64 = 16;

const CHECK: u32 = 0xa61d_91d1;

/// A fixed number of bytes. Callers stay within `offset + slice.len() <= size()`.
pub trait Storage {
    /// How many bytes there are; not 0.
    fn size(&self) -> u64;
    /// Copies bytes out.
    fn read(&self, offset: u64, into: &mut [u8]);
    /// Copies bytes in.
    fn write(&mut self, offset: u64, from: &[u8]);
}

/// Bytes taken by a record with a payload of so many bytes.
pub fn footprint(payload: usize) -> u64 {
    u64::try_from(payload).unwrap_or(u64::MAX).saturating_add(HEADER)
}

/// Writes a record at `head`, whose payload comes in two parts; the new head. The caller knows that there is room for its
/// `footprint`.
pub fn put(storage: &mut impl Storage, head: u64, number: u64, payload: [&[u8]; 2]) -> u64 {
    let [front_part, back_part] = payload;
    let bytes = front_part.len().saturating_add(back_part.len());
    let length = u32::try_from(bytes).unwrap_or(u32::MAX);
    let mut header = [0_u8; 16];
    let (front, back) = header.split_at_mut(8);
    let (size, check) = front.split_at_mut(4);
    size.copy_from_slice(&length.to_le_bytes());
    check.copy_from_slice(&check_of(length, number).to_le_bytes());
    back.copy_from_slice(&number.to_le_bytes());
    let offset = head.checked_rem(storage.size()).unwrap_or(0);
    let behind = |offset: u64, part: &[u8]| offset.saturating_add(u64::try_from(part.len()).unwrap_or(0));
    if offset.saturating_add(footprint(bytes)) <= storage.size() {
        let front_at = behind(offset, &header);
        storage.write(offset, &header);
        storage.write(front_at, front_part);
        storage.write(behind(front_at, front_part), back_part);
    } else {
        put_across(storage, offset, [&header, front_part, back_part]);
    }
    head.wrapping_add(footprint(bytes))
}

/// Writes what lies across the storage's end.
#[cold]
#[inline(never)]
fn put_across(storage: &mut impl Storage, offset: u64, parts: [&[u8]; 3]) {
    parts.iter().fold(offset, |offset, part| write_across(storage, offset, part));
}

/// Where a reader stands: at which byte, and which number the record there must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Byte position.
    pub at: u64,
    /// The number of the next record.
    pub number: u64,
}

/// Records copied out of the ring. Reused from drain to drain.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    records: Vec<(u64, Range<usize>)>,
    damaged: bool,
}

impl Batch {
    /// The records in order: number and payload.
    pub fn records(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.records.iter().map(|(number, range)| (*number, self.bytes.get(range.clone()).unwrap_or(&[])))
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Whether what follows the records is not a record with the number that is due: nothing behind it can be read.
    pub fn damaged(&self) -> bool {
        self.damaged
    }
}

/// The most that one drain takes.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Records.
    pub records: usize,
    /// Payload bytes; one record is taken even if it alone is larger.
    pub bytes: usize,
}

/// Copies records from `from` up to `head` into `batch`, which is emptied first; the position behind the last one.
pub fn drain(
    storage: &impl Storage,
    from: Position,
    head: u64,
    budget: Budget,
    batch: &mut Batch,
) -> Position {
    batch.bytes.clear();
    batch.records.clear();
    batch.damaged = false;
    let mut position = from;
    while position.at != head && batch.records.len() < budget.records && batch.bytes.len() < budget.bytes {
        let left = head.wrapping_sub(position.at);
        let mut header = [0_u8; 16];
        let length = if left < HEADER || left > storage.size() {
            None
        } else {
            read_across(storage, position.at, &mut header);
            length_in(header, position.number).filter(|length| footprint(*length) <= left)
        };
        let Some(length) = length else {
            batch.damaged = true;
            break;
        };
        let start = batch.bytes.len();
        batch.bytes.resize(start.saturating_add(length), 0);
        if let Some(payload) = batch.bytes.get_mut(start..) {
            read_across(storage, position.at.wrapping_add(HEADER), payload);
        }
        batch.records.push((position.number, start..start.saturating_add(length)));
        position = Position {
            at: position.at.wrapping_add(footprint(length)),
            number: position.number.wrapping_add(1),
        };
    }
    position
}

/// The payload's length, if the header is one of the record with this number.
fn length_in(header: [u8; 16], number: u64) -> Option<usize> {
    let (front, back) = header.split_at(8);
    let (length, check) = front.split_at(4);
    let length = u32::from_le_bytes(length.try_into().ok()?);
    let check = u32::from_le_bytes(check.try_into().ok()?);
    let stored = u64::from_le_bytes(back.try_into().ok()?);
    (stored == number && check == check_of(length, number)).then(|| usize::try_from(length).ok())?
}

fn check_of(length: u32, number: u64) -> u32 {
    let low = u32::try_from(number & u64::from(u32::MAX)).unwrap_or(0);
    length.rotate_left(7) ^ low ^ CHECK
}

/// How many bytes lie between an offset and the storage's end.
fn before_end(size: u64, offset: u64) -> usize {
    usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX)
}

/// Writes at an offset, and at the storage's beginning what does not fit before its end; the offset behind it.
fn write_across(storage: &mut impl Storage, offset: u64, from: &[u8]) -> u64 {
    let room = before_end(storage.size(), offset);
    match from.split_at_checked(room) {
        Some((front, back)) => {
            storage.write(offset, front);
            storage.write(0, back);
            u64::try_from(back.len()).unwrap_or(0)
        }
        None => {
            storage.write(offset, from);
            offset.saturating_add(u64::try_from(from.len()).unwrap_or(0))
        }
    }
}

fn read_across(storage: &impl Storage, position: u64, into: &mut [u8]) {
    let offset = position.checked_rem(storage.size()).unwrap_or(0);
    let first = into.len().min(before_end(storage.size(), offset));
    if let Some((front, back)) = into.split_at_mut_checked(first) {
        storage.read(offset, front);
        if !back.is_empty() {
            storage.read(0, back);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    struct Heap(Vec<u8>);

    impl Storage for Heap {
        fn size(&self) -> u64 {
            self.0.len() as u64
        }
        fn read(&self, offset: u64, into: &mut [u8]) {
            let at = offset as usize;
            into.copy_from_slice(&self.0[at..at + into.len()]);
        }
        fn write(&mut self, offset: u64, from: &[u8]) {
            let at = offset as usize;
            self.0[at..at + from.len()].copy_from_slice(from);
        }
    }

    const ALL: Budget = Budget { records: usize::MAX, bytes: usize::MAX };

    #[derive(Clone, Debug)]
    enum Step {
        Push(Vec<u8>),
        Drain(usize, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            vec(any::<u8>(), 0..90).prop_map(Step::Push),
            (1_usize..6, 1_usize..200).prop_map(|(records, bytes)| Step::Drain(records, bytes)),
        ]
    }

    proptest! {
        #[test]
        fn records_come_out_whole_and_in_order(
            size in 32_usize..400, start in 0_u64..1000, steps in vec(step(), 0..200),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut ring = Heap(vec![0; size]);
            let mut expected = std::collections::VecDeque::new();
            let (mut head, mut next) = (start, 0_u64);
            let mut tail = Position { at: start, number: 0 };
            let mut batch = Batch::default();
            for step in steps {
                match step {
                    Step::Push(payload) => {
                        if head - tail.at + footprint(payload.len()) <= size as u64 {
                            let (front, back) = payload.split_at(cut.index(payload.len() + 1));
                            head = put(&mut ring, head, next, [front, back]);
                            expected.push_back((next, payload));
                            next += 1;
                        }
                    }
                    Step::Drain(records, bytes) => {
                        tail = drain(&ring, tail, head, Budget { records, bytes }, &mut batch);
                        prop_assert!(!batch.damaged());
                        prop_assert!(batch.len() <= records);
                        for (number, payload) in batch.records() {
                            let (due, whole) = expected.pop_front().unwrap();
                            prop_assert_eq!((number, payload), (due, whole.as_slice()));
                        }
                    }
                }
            }
            tail = drain(&ring, tail, head, ALL, &mut batch);
            prop_assert_eq!(tail, Position { at: head, number: next });
            prop_assert_eq!(batch.len(), expected.len());
        }

        #[test]
        fn any_content_is_read_without_panic(
            bytes in vec(any::<u8>(), 1..200), at: u64, ahead in 0_u64..300, number: u64,
        ) {
            let mut batch = Batch::default();
            let ring = Heap(bytes);
            let end = drain(&ring, Position { at, number }, at.wrapping_add(ahead), ALL, &mut batch);
            prop_assert!(batch.damaged() || end.at == at.wrapping_add(ahead));
        }
    }

    #[test]
    fn a_record_with_another_number_is_damage() {
        let mut ring = Heap(vec![0; 100]);
        let head = put(&mut ring, 0, 7, [b"sev", b"en"]);
        let mut batch = Batch::default();
        let end = drain(&ring, Position { at: 0, number: 8 }, head, ALL, &mut batch);
        assert!(batch.damaged() && batch.is_empty());
        assert_eq!(end, Position { at: 0, number: 8 });
    }
}
