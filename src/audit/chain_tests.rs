use proptest::prelude::*;

use super::*;

type Row = (u64, Hash, Vec<u8>);

fn chain(anchor: Head, events: &[Vec<u8>]) -> Vec<Row> {
    let mut head = anchor;
    let mut rows = Vec::new();
    for columns in events {
        head = head.extended(head.seq + 1, columns);
        rows.push((head.seq, head.hash, columns.clone()));
    }
    rows
}

fn verify(anchor: Head, rows: &[Row], known: Option<Head>) -> Result<Head, Break> {
    let mut rows = rows.to_vec();
    rows.sort_by_key(|row| row.0);
    let mut walk = Walk::behind(anchor);
    for (seq, hash, columns) in &rows {
        walk.step(&Found { seq: *seq, hash: *hash, columns });
    }
    walk.end(known)
}

fn last(rows: &[Row]) -> Head {
    rows.last().map_or(Head::START, |row| Head { seq: row.0, hash: row.1 })
}

fn five() -> Vec<Row> {
    chain(Head::START, &["a", "b", "c", "d", "e"].map(|text| text.as_bytes().to_vec()))
}

fn broken(rows: &[Row]) -> (u64, Fault) {
    let known = last(&five());
    let found = verify(Head::START, rows, Some(known)).unwrap_err();
    (found.seq, found.fault)
}

#[test]
fn a_whole_chain_verifies() {
    let rows = five();
    assert_eq!(verify(Head::START, &rows, Some(last(&rows))), Ok(last(&rows)));
    assert_eq!(verify(Head::START, &[], None), Ok(Head::START));
    let anchor = Head { seq: rows[1].0, hash: rows[1].1 };
    assert_eq!(verify(anchor, &rows[2..], None), Ok(last(&rows)));
}

#[test]
fn each_kind_of_break_has_its_word() {
    let mut rows = five();
    rows[2].2 = b"C".to_vec();
    assert_eq!(broken(&rows), (3, Fault::Altered));

    let mut rows = five();
    rows[2].1[0] ^= 1;
    assert_eq!(broken(&rows), (3, Fault::Altered));

    let mut rows = five();
    rows.remove(2);
    assert_eq!(broken(&rows), (3, Fault::Missing));
    assert_eq!(broken(&five()[..4]), (5, Fault::Missing));
    assert_eq!(broken(&five()[1..]), (1, Fault::Missing));

    let mut rows = five();
    rows.insert(2, (3, [7; 32], b"x".to_vec()));
    assert_eq!(broken(&rows), (3, Fault::Inserted));
    let mut rows = five();
    rows.insert(3, rows[2].clone());
    assert_eq!(broken(&rows), (3, Fault::Inserted));
    let mut rows = five();
    rows.push((9, [7; 32], b"x".to_vec()));
    assert_eq!(broken(&rows), (6, Fault::Missing));

    // Numbers swapped, then contents swapped with the hashes left in place.
    let mut rows = five();
    (rows[2].0, rows[3].0) = (rows[3].0, rows[2].0);
    assert_eq!(broken(&rows), (3, Fault::Reordered));
    let mut rows = five();
    (rows[2].2, rows[3].2) = (rows[3].2.clone(), rows[2].2.clone());
    assert_eq!(broken(&rows), (3, Fault::Reordered));
    let mut rows = five();
    rows[2].0 = 9;
    assert_eq!(broken(&rows), (3, Fault::Reordered));
}

#[test]
fn a_chain_that_was_made_anew_is_not_the_one_that_is_known() {
    let rewritten = chain(Head::START, &["a", "b", "X", "d", "e"].map(|text| text.as_bytes().to_vec()));
    assert_eq!(verify(Head::START, &rewritten, None), Ok(last(&rewritten)));
    assert_eq!(broken(&rewritten), (5, Fault::Rewritten));
}

#[test]
fn hashes_are_shown_and_read() {
    let hash = digest(&[0; 32], 1, b"x");
    assert_eq!(unhex(&hex(&hash)), Some(hash));
    assert_eq!(unhex(&hex(&hash).to_uppercase()), Some(hash));
    assert_eq!(unhex("00"), None);
    assert_eq!(unhex(&"zz".repeat(32)), None);
}

#[test]
fn columns_come_back() {
    let mut bytes = Vec::new();
    let mut columns = Columns(&mut bytes);
    columns.integer(1, -7);
    columns.bytes(3, b"text");
    columns.list(4, 2);
    columns.item(None);
    columns.item(Some(b""));
    columns.interval(9, 5, 1, -2);
    columns.strange(10);
    assert_eq!(
        values(&bytes),
        Some(vec![
            (1, Value::Integer(-7)),
            (3, Value::Bytes(b"text")),
            (4, Value::List(vec![None, Some(b"")])),
            (9, Value::Interval(5, 1, -2)),
            (10, Value::Strange),
        ])
    );
    for end in [1, 5, bytes.len() - 1] {
        assert_eq!(values(&bytes[..end]), None);
    }
    assert_eq!(values(&[2, 5, 1, 5]), None, "out of order");
}

fn events() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 2..20)
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = values(&bytes);
    }

    #[test]
    fn an_altered_byte_is_found(events in events(), at in any::<prop::sample::Index>(), bit in 0..8u8, byte in any::<prop::sample::Index>()) {
        let mut rows = chain(Head::START, &events);
        let known = last(&rows);
        let n = at.index(rows.len());
        let mut all = [rows[n].1.to_vec(), rows[n].2.clone()].concat();
        let b = byte.index(all.len());
        all[b] ^= 1 << bit;
        rows[n].1 = all[..32].try_into().unwrap();
        rows[n].2 = all[32..].to_vec();
        let found = verify(Head::START, &rows, Some(known)).unwrap_err();
        prop_assert_eq!((found.seq, found.fault), (rows[n].0, Fault::Altered));
    }

    #[test]
    fn a_missing_event_is_found(events in events(), at in any::<prop::sample::Index>()) {
        let mut rows = chain(Head::START, &events);
        let known = last(&rows);
        let gone = rows.remove(at.index(rows.len()));
        let found = verify(Head::START, &rows, Some(known)).unwrap_err();
        prop_assert_eq!((found.seq, found.fault), (gone.0, Fault::Missing));
    }

    #[test]
    fn swapped_events_are_found(events in events(), one in any::<prop::sample::Index>(), two in any::<prop::sample::Index>(), numbers_only in any::<bool>()) {
        let mut rows = chain(Head::START, &events);
        let known = last(&rows);
        let (one, two) = (one.index(rows.len()), two.index(rows.len()));
        prop_assume!(one != two && rows[one].2 != rows[two].2);
        let first = rows[one.min(two)].0;
        if numbers_only {
            let number = rows[one].0;
            rows[one].0 = rows[two].0;
            rows[two].0 = number;
        } else {
            let columns = rows[one].2.clone();
            rows[one].2 = rows[two].2.clone();
            rows[two].2 = columns;
        }
        let found = verify(Head::START, &rows, Some(known)).unwrap_err();
        prop_assert_eq!((found.seq, found.fault), (first, Fault::Reordered));
    }

    #[test]
    fn a_doubled_event_is_found(events in events(), at in any::<prop::sample::Index>()) {
        let mut rows = chain(Head::START, &events);
        let known = last(&rows);
        let row = rows[at.index(rows.len())].clone();
        let seq = row.0;
        rows.push(row);
        let found = verify(Head::START, &rows, Some(known)).unwrap_err();
        prop_assert_eq!((found.seq, found.fault), (seq, Fault::Inserted));
    }
}
