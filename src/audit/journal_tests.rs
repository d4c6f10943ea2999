use proptest::prelude::*;

use super::*;

fn header(before: Head) -> Header {
    Header { system: 7, database: 5, created: 1, before, columns: "seq integer,at timestamp".to_owned() }
}

fn file(events: &[Vec<u8>]) -> (Vec<u8>, Vec<usize>) {
    let before = Head { seq: 41, hash: [3; 32] };
    let mut bytes = header(before).bytes();
    let mut ends = vec![bytes.len()];
    let mut head = before;
    for columns in events {
        head = head.extended(head.seq + 1, columns);
        put(head.seq, &head.hash, columns, &mut bytes);
        ends.push(bytes.len());
    }
    (bytes, ends)
}

fn read(bytes: &[u8]) -> (Vec<Vec<u8>>, Option<Damage>, usize) {
    let mut reader = match Reader::new(bytes) {
        Ok(reader) => reader,
        Err(damage) => return (Vec::new(), Some(damage), 0),
    };
    let mut found = Vec::new();
    loop {
        match reader.next_entry() {
            Ok(Some(entry)) => found.push(entry.columns.to_vec()),
            Ok(None) => return (found, None, reader.position()),
            Err(damage) => return (found, Some(damage), reader.position()),
        }
    }
}

fn three() -> Vec<Vec<u8>> {
    ["one", "two", "three"].map(|text| text.as_bytes().to_vec()).to_vec()
}

#[test]
fn the_checksum_is_that_of_the_format() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}

#[test]
fn a_file_comes_back() {
    let (bytes, ends) = file(&three());
    assert_eq!(read(&bytes), (three(), None, ends[3]));
    let reader = Reader::new(&bytes).unwrap();
    assert_eq!(reader.header(), &header(Head { seq: 41, hash: [3; 32] }));
}

#[test]
fn a_torn_end_is_told_from_damage_inside() {
    let (bytes, ends) = file(&three());
    assert_eq!(read(&bytes[..ends[3] - 1]), (three()[..2].to_vec(), Some(Damage::Torn), ends[2]));
    let mut inside = bytes.clone();
    inside[ends[2] - 1] ^= 1;
    assert_eq!(read(&inside), (three()[..1].to_vec(), Some(Damage::Inside), ends[1]));
    let mut behind_zeros = [bytes.as_slice(), &[0; 100], &bytes[ends[2]..]].concat();
    assert_eq!(read(&behind_zeros), (three(), Some(Damage::Inside), ends[3]));
    behind_zeros.pop();
    assert_eq!(read(&behind_zeros), (three(), Some(Damage::Torn), ends[3]));
    assert_eq!(read(&bytes[..20]), (Vec::new(), Some(Damage::Header), 0));
}

#[test]
fn room_for_records_to_come_is_an_end() {
    let (bytes, ends) = file(&three());
    for room in [1, 51, 52, 4096] {
        assert_eq!(read(&[bytes.as_slice(), &vec![0; room]].concat()), (three(), None, ends[3]));
    }
    let torn = [&bytes[..ends[3] - 1], &[0; 100]].concat();
    assert_eq!(read(&torn), (three()[..2].to_vec(), Some(Damage::Torn), ends[2]));
}

#[test]
fn a_record_with_a_good_checksum_still_has_to_continue_the_chain() {
    let (bytes, ends) = file(&three());
    let mut forged = bytes[..ends[1]].to_vec();
    put(43, &[9; 32], b"forged", &mut forged);
    forged.extend_from_slice(&bytes[ends[2]..]);
    assert_eq!(read(&forged), (three()[..1].to_vec(), Some(Damage::Chain), ends[1]));
    let without = [&bytes[..ends[1]], &bytes[ends[2]..]].concat();
    assert_eq!(read(&without), (three()[..1].to_vec(), Some(Damage::Chain), ends[1]));
}

#[test]
fn names_sort_as_numbers() {
    assert_eq!(first_of_name(&file_name(12)), Some(12));
    assert_eq!(first_of_name(&file_name(u64::MAX)), Some(u64::MAX));
    assert!(file_name(9) < file_name(10));
    assert_eq!(first_of_name("12.journal"), None);
    assert_eq!(first_of_name("00000000000000000012.journal.damaged"), None);
}

proptest! {
    #[test]
    fn any_flipped_bit_is_noticed(
        events in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..8),
        at in any::<prop::sample::Index>(), bit in 0..8u8,
    ) {
        let (mut bytes, _) = file(&events);
        let n = at.index(bytes.len());
        bytes[n] ^= 1 << bit;
        let (found, damage, _) = read(&bytes);
        prop_assert!(damage.is_some());
        prop_assert!(found.len() < events.len());
        prop_assert_eq!(&found[..], &events[..found.len()]);
    }

    #[test]
    fn any_cut_leaves_the_records_before_it(
        events in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 1..8),
        at in any::<prop::sample::Index>(),
    ) {
        let (bytes, ends) = file(&events);
        let cut = ends[0] + at.index(bytes.len() - ends[0]);
        let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
        let (found, damage, position) = read(&bytes[..cut]);
        prop_assert_eq!(found, events[..whole].to_vec());
        prop_assert_eq!(position, ends[whole]);
        prop_assert_eq!(damage, (cut != ends[whole]).then_some(Damage::Torn));
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&bytes);
        let (mut good, _) = file(&three());
        good.extend_from_slice(&bytes);
        let (found, _, _) = read(&good);
        prop_assert_eq!(found.len(), 3);
    }
}
