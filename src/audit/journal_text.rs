//! An event of the journal as JSON, for auditors: by the names and kinds of columns in the file's header alone.

#![forbid(unsafe_code)]

use serde_json::{Map, Value as Json};

use crate::audit::chain::{Value, hex, values};
use crate::audit::journal::Entry;

/// Microseconds from the Unix epoch to PostgreSQL's.
const EPOCH: i64 = 946_684_800_000_000;

/// The columns of an event by name. Times are microseconds since the Unix epoch, spans microseconds; binary values
/// are in hexadecimal. A column that the header does not name is called by its number.
pub fn event(header_columns: &str, entry: &Entry<'_>) -> Map<String, Json> {
    let names: Vec<&str> = header_columns.split(',').collect();
    let mut object = Map::new();
    for (number, value) in values(entry.columns).unwrap_or_default() {
        let described = usize::from(number).checked_sub(1).and_then(|n| names.get(n).copied());
        let (name, kind) = described.and_then(|words| words.split_once(' ')).unwrap_or(("", ""));
        let name = if name.is_empty() { format!("column {number}") } else { name.to_owned() };
        object.insert(name, json(kind, &value));
    }
    object
}

/// When an event began: the column `at`, in microseconds since the Unix epoch.
pub fn time(entry: &Entry<'_>) -> Option<i64> {
    let columns = values(entry.columns)?;
    columns.iter().find_map(|(number, value)| match value {
        Value::Integer(at) if *number == 2 => Some(at.saturating_add(EPOCH)),
        _ => None,
    })
}

/// One event with its place in the chain, as a line of JSON.
pub fn line(header_columns: &str, entry: &Entry<'_>) -> String {
    let mut object = Map::new();
    object.insert("seq".to_owned(), entry.seq.into());
    object.append(&mut event(header_columns, entry));
    object.insert("hash".to_owned(), hex(&entry.hash).into());
    Json::Object(object).to_string()
}

fn json(kind: &str, value: &Value<'_>) -> Json {
    match (kind, value) {
        ("timestamp", Value::Integer(at)) => at.saturating_add(EPOCH).into(),
        (_, Value::Integer(number)) => (*number).into(),
        ("json", Value::Bytes(bytes)) => serde_json::from_slice(bytes).unwrap_or_else(|_| text(bytes)),
        ("uuid" | "bytes", Value::Bytes(bytes)) => {
            bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
        }
        (_, Value::Bytes(bytes)) => text(bytes),
        (_, Value::List(items)) => items.iter().map(|item| item.map_or(Json::Null, text)).collect(),
        (_, Value::Interval(microseconds, 0, 0)) => (*microseconds).into(),
        (_, Value::Interval(microseconds, days, months)) => {
            format!("{months} months {days} days {microseconds} us").into()
        }
        (_, Value::Strange) => "(not a value that the trail stores)".into(),
    }
}

fn text(bytes: &[u8]) -> Json {
    // NUL is in no text of the server's, and jsonb would refuse it.
    String::from_utf8_lossy(bytes).replace('\0', "\u{fffd}").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::chain::Columns;

    #[test]
    fn an_event_is_told_by_its_header() {
        let mut bytes = Vec::new();
        let mut columns = Columns(&mut bytes);
        columns.integer(2, 0);
        columns.interval(3, 15, 0, 0);
        columns.bytes(4, &[1, 255]);
        columns.bytes(5, b"select '\n'");
        columns.bytes(6, br#"[{"oid": 7}]"#);
        columns.list(7, 2);
        columns.item(Some(b"a"));
        columns.item(None);
        columns.integer(9, 4);
        let entry = Entry { seq: 12, hash: [0xab; 32], columns: &bytes };
        let header =
            "seq seq,at timestamp,duration interval,id uuid,statement text,accesses json,lineage list";
        assert_eq!(
            line(header, &entry),
            format!(
                r#"{{"seq":12,"at":946684800000000,"duration":15,"id":"01ff","statement":"select '\n'","accesses":[{{"oid":7}}],"lineage":["a",null],"column 9":4,"hash":"{}"}}"#,
                "ab".repeat(32)
            )
        );
        assert_eq!(time(&entry), Some(EPOCH));
    }
}
