//! Parts of results: layout, what they read as, and arbitrary bytes.

use proptest::prelude::*;

use super::*;

fn data_row(fields: &[Option<&[u8]>]) -> Vec<u8> {
    let mut body = i16::try_from(fields.len()).unwrap().to_be_bytes().to_vec();
    for field in fields {
        match field {
            None => body.extend_from_slice(&(-1_i32).to_be_bytes()),
            Some(bytes) => {
                body.extend_from_slice(&i32::try_from(bytes.len()).unwrap().to_be_bytes());
                body.extend_from_slice(bytes);
            }
        }
    }
    body
}

fn column(name: &str, of_type: u32, binary: bool) -> Column {
    Column { name: name.to_owned(), of_type, binary }
}

fn read(part: &[u8]) -> Option<Vec<String>> {
    texts(part, &|encoding, bytes| {
        assert_eq!(encoding, 6);
        String::from_utf8_lossy(bytes).into_owned()
    })
}

#[test]
fn rows_read_back_as_they_were_sent() {
    let columns = [column("id", 23, true), column("na\"me", 25, false), column("odd", 600, true)];
    let mut part = Vec::new();
    begin(Shape::Rows, 6, &columns, &mut part);
    let one = data_row(&[Some(&7_i32.to_be_bytes()), Some(b"it's \"here\"\n\x01"), None]);
    assert!(add(&one, 1000, &mut part));
    assert!(add(&data_row(&[None, Some(b""), Some(b"\xff\x00")]), 1000, &mut part));
    assert_eq!(
        read(&part).unwrap(),
        [
            r#"{"shape":"rows","encoding":6,"columns":[{"name":"id","type":23,"format":"binary"},{"name":"na\"me","type":25,"format":"text"},{"name":"odd","type":600,"format":"binary"}]}"#,
            r#"["7","it's \"here\"\n\u0001",null]"#,
            r#"[null,"",{"hex":"ff00"}]"#,
        ]
    );
}

#[test]
fn the_head_of_a_row_is_what_add_puts() {
    let mut part = Vec::new();
    assert!(add(&[7; 300], 1000, &mut part));
    assert_eq!(part.get(..BESIDE_ROW).unwrap(), head_of_row(300));
}

#[test]
fn a_row_larger_than_the_room_is_cut_and_says_so() {
    let long = "x".repeat(500);
    let body = data_row(&[Some(b"first"), Some(long.as_bytes()), Some(b"behind")]);
    let mut part = Vec::new();
    begin(Shape::Rows, 6, &[column("a", 25, false), column("b", 25, false)], &mut part);
    let before = part.len();
    assert!(!add(&body, 200, &mut part));
    assert_eq!(part.len() - before, 200);
    let rows = read(&part).unwrap();
    let row: serde_json::Value = serde_json::from_str(&rows[1]).unwrap();
    assert_eq!(row[0], "first");
    assert!(long.starts_with(row[1].as_str().unwrap()) && !row[1].as_str().unwrap().is_empty());
    assert_eq!(row[2]["cut"], body.len());
    assert_eq!(row[2]["sha256"], hex(&Sha256::digest(&body)));
    assert!(!rows[1].contains("behind"));
}

#[test]
fn lines_of_copy_and_calls_are_one_value() {
    let mut part = Vec::new();
    begin(Shape::CopyText, 6, &[], &mut part);
    add(b"1\ttwo\\n\n", 100, &mut part);
    assert_eq!(read(&part).unwrap()[1], r#"["1\ttwo\\n"]"#);
    begin(Shape::CopyBinary, 6, &[], &mut part);
    add(b"PGCOPY\n\xff", 100, &mut part);
    assert_eq!(read(&part).unwrap()[1], r#"[{"hex":"5047434f50590aff"}]"#);
    begin(Shape::Call, 6, &[], &mut part);
    add(&[0, 0, 0, 1, 9], 100, &mut part);
    add(&[255, 255, 255, 255], 100, &mut part);
    assert_eq!(read(&part).unwrap()[1..], [r#"[{"hex":"09"}]"#, "[null]"]);
}

#[test]
fn secrets_are_taken_out_of_values() {
    let token = format!("agt1.{}", "A".repeat(60));
    let mut part = Vec::new();
    begin(Shape::Rows, 6, &[column("t", 25, false), column("b", 17, true)], &mut part);
    add(&data_row(&[Some(token.as_bytes()), Some(b"1")]), 1000, &mut part);
    begin(Shape::Call, 6, &[], &mut part);
    let mut value = i32::try_from(token.len()).unwrap().to_be_bytes().to_vec();
    value.extend_from_slice(token.as_bytes());
    add(&value, 1000, &mut part);
    assert!(!read(&part).unwrap().concat().contains("AAAA"));
}

#[test]
fn many_columns_leave_out_names_not_types() {
    let name = "n".repeat(63);
    let columns: Vec<Column> = (0..1600).map(|_| column(&name, 25, true)).collect();
    let mut part = Vec::new();
    begin(Shape::Rows, 6, &columns, &mut part);
    assert!(part.len() < MAX_PART / 2, "{}", part.len());
    let head: serde_json::Value = serde_json::from_str(&read(&part).unwrap()[0]).unwrap();
    let told = head["columns"].as_array().unwrap();
    assert_eq!((told.len(), &told[0]["name"], &told[1599]["name"]), (1600, &name.clone().into(), &"".into()));
    assert_eq!((&told[1599]["type"], &told[1599]["format"]), (&25.into(), &"binary".into()));
}

proptest! {
    #[test]
    fn every_text_comes_back(values in proptest::collection::vec(proptest::option::of("(?s).{0,20}"), 0..6)) {
        let fields: Vec<Option<&[u8]>> = values.iter().map(|value| value.as_deref().map(str::as_bytes)).collect();
        let mut part = Vec::new();
        begin(Shape::Rows, 6, &[], &mut part);
        add(&data_row(&fields), 10_000, &mut part);
        let row: Vec<Option<String>> = serde_json::from_str(&read(&part).unwrap()[1]).unwrap();
        prop_assert_eq!(row, values);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), shape in 0_u8..4) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = shape;
        }
        let _ = texts(&bytes, &|_, bytes| String::from_utf8_lossy(bytes).into_owned());
    }

    #[test]
    fn a_cut_row_is_json(length in 0_usize..300, room in 40_usize..200) {
        let body = data_row(&[Some(&vec![b'"'; length]), None]);
        let mut part = Vec::new();
        begin(Shape::Rows, 6, &[], &mut part);
        let whole = add(&body, room, &mut part);
        let row: serde_json::Value = serde_json::from_str(&read(&part).unwrap()[1]).unwrap();
        prop_assert_eq!(whole, row.as_array().unwrap().iter().all(|value| !value.is_object()));
    }
}
