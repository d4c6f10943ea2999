//! Result rows on their way to the record: how a part of a result lies in an event, and how it reads back.
//!
//! A part holds messages as they went to the client, so that the agent's path only copies; the writer makes texts of them.
//! Each part tells the columns again and can be read by itself.
//!
//! ```text
//! shape encoding columns { type format name }  { length kept [sha256] bytes }
//! ```
//!
//! Little-endian. A row that is larger than a part is kept to where the part ends, with its length and SHA-256.

#![forbid(unsafe_code)]

use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::binary_text::binary_text;
use super::redact::redact;
use crate::token::hex;

/// The most bytes of one part.
pub const MAX_PART: usize = 40 * 1024;
/// The most bytes of a part that names of columns take; further ones are left out.
const MAX_NAMES: usize = 8 * 1024;
/// The bytes beside a row's own.
pub const BESIDE_ROW: usize = 8;
const SHA256: usize = 32;

/// What the messages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Shape {
    /// DataRow: fields.
    Rows = 0,
    /// CopyData: a line of text.
    CopyText = 1,
    /// CopyData of the binary format.
    CopyBinary = 2,
    /// FunctionCallResponse: one value.
    Call = 3,
}

impl Shape {
    fn of_byte(byte: u8) -> Option<Shape> {
        [Shape::Rows, Shape::CopyText, Shape::CopyBinary, Shape::Call]
            .into_iter()
            .find(|shape| *shape as u8 == byte)
    }

    /// The word in the record.
    pub fn word(self) -> &'static str {
        match self {
            Shape::Rows => "rows",
            Shape::CopyText => "copy",
            Shape::CopyBinary => "copy binary",
            Shape::Call => "call",
        }
    }
}

/// A column as the client was to read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The name.
    pub name: String,
    /// The type's OID.
    pub of_type: u32,
    /// The format is the binary one.
    pub binary: bool,
}

/// Begins a part. `encoding` is the server's number of the encoding that texts have.
pub fn begin(shape: Shape, encoding: i32, columns: &[Column], out: &mut Vec<u8>) {
    out.clear();
    out.push(shape as u8);
    out.extend_from_slice(&encoding.to_le_bytes());
    // The protocol counts them in 16 bits, too.
    out.extend_from_slice(&u16::try_from(columns.len()).unwrap_or(u16::MAX).to_le_bytes());
    let mut names = MAX_NAMES;
    for column in columns.iter().take(usize::from(u16::MAX)) {
        let name = if column.name.len() <= names { column.name.as_str() } else { "" };
        let name = name.get(..usize::from(u8::MAX)).unwrap_or(name);
        names = names.saturating_sub(name.len());
        out.extend_from_slice(&column.of_type.to_le_bytes());
        out.push(u8::from(column.binary));
        out.push(u8::try_from(name.len()).unwrap_or(0));
        out.extend_from_slice(name.as_bytes().get(..usize::from(u8::MAX)).unwrap_or(name.as_bytes()));
    }
}

/// What stands before a message that is kept whole.
#[inline]
pub fn head_of_row(length: usize) -> [u8; BESIDE_ROW] {
    // A message's length is an i32.
    let length = u64::from(u32::try_from(length).unwrap_or(u32::MAX));
    (length | length << 32).to_le_bytes()
}

/// Adds a message to a part that has `room` bytes left for it; false where only its beginning is kept.
pub fn add(body: &[u8], room: usize, out: &mut Vec<u8>) -> bool {
    let whole = body.len().saturating_add(BESIDE_ROW) <= room;
    let kept = if whole {
        body
    } else {
        let most = room.saturating_sub(BESIDE_ROW + SHA256).min(body.len().saturating_sub(1));
        body.get(..most).unwrap_or(&[])
    };
    // A message's length is an i32.
    out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&u32::try_from(kept.len()).unwrap_or(0).to_le_bytes());
    if !whole {
        out.extend_from_slice(&Sha256::digest(body));
    }
    out.extend_from_slice(kept);
    whole
}

/// Reads texts of an encoding, by its number, as UTF-8.
pub type Reader<'a> = &'a dyn Fn(i32, &[u8]) -> String;

/// A part as JSON texts: first what its rows are, then one array for each row, of strings and nulls. What cannot be shown as
/// text is `{"hex": …}`; a row that was cut ends with `{"cut": …}`. `None` for bytes that are no part.
pub fn texts(part: &[u8], read: Reader<'_>) -> Option<Vec<String>> {
    let mut rest = part;
    let [shape] = take(&mut rest)?;
    let shape = Shape::of_byte(shape)?;
    let encoding = i32::from_le_bytes(take(&mut rest)?);
    let count = usize::from(u16::from_le_bytes(take(&mut rest)?));
    let mut columns = Vec::with_capacity(count);
    for _ in 0..count {
        let of_type = u32::from_le_bytes(take(&mut rest)?);
        let [binary, length] = take(&mut rest)?;
        let (name, behind) = rest.split_at_checked(usize::from(length))?;
        rest = behind;
        let name = std::str::from_utf8(name).ok()?.to_owned();
        columns.push(Column { name, of_type, binary: binary != 0 });
    }
    let text = |bytes: &[u8]| read(encoding, bytes);
    let mut texts = vec![head(shape, encoding, &columns)];
    while !rest.is_empty() {
        let length = usize::try_from(u32::from_le_bytes(take(&mut rest)?)).ok()?;
        let kept = usize::try_from(u32::from_le_bytes(take(&mut rest)?)).ok()?;
        let sha256: Option<[u8; SHA256]> = if kept < length { Some(take(&mut rest)?) } else { None };
        let (body, behind) = rest.split_at_checked(kept)?;
        rest = behind;
        let mut row = String::with_capacity(body.len().saturating_add(16));
        row.push('[');
        match shape {
            Shape::Rows => fields(body, &columns, &text, &mut row),
            Shape::CopyText => {
                let line = body.strip_suffix(b"\n").unwrap_or(body);
                push_text(&text(line), &mut row);
            }
            Shape::CopyBinary => push_hex(body, &mut row),
            Shape::Call => match body.split_first_chunk::<4>() {
                Some((length, value)) if i32::from_be_bytes(*length) >= 0 => push_hex(value, &mut row),
                _ => row.push_str("null"),
            },
        }
        if let Some(sha256) = sha256 {
            let comma = if row.len() > 1 { "," } else { "" };
            let _ = write!(row, "{comma}{{\"cut\":{length},\"sha256\":\"{}\"}}", hex(&sha256));
        }
        row.push(']');
        texts.push(row);
    }
    Some(texts)
}

/// What the rows of a part are, as one JSON object.
fn head(shape: Shape, encoding: i32, columns: &[Column]) -> String {
    let mut head = format!("{{\"shape\":\"{}\",\"encoding\":{encoding},\"columns\":[", shape.word());
    for (n, column) in columns.iter().enumerate() {
        head.push_str(if n > 0 { ",{\"name\":" } else { "{\"name\":" });
        push_text(&column.name, &mut head);
        let format = if column.binary { "binary" } else { "text" };
        let _ = write!(head, ",\"type\":{},\"format\":\"{format}\"}}", column.of_type);
    }
    head.push_str("]}");
    head
}

/// The fields of a DataRow, as far as they go: the last may be cut.
fn fields(body: &[u8], columns: &[Column], text: &dyn Fn(&[u8]) -> String, row: &mut String) {
    let Some((_count, mut rest)) = body.split_first_chunk::<2>() else { return };
    let mut columns = columns.iter();
    let mut first = true;
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        row.push_str(if std::mem::take(&mut first) { "" } else { "," });
        let column = columns.next();
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            row.push_str("null");
            rest = behind;
            continue;
        };
        let whole = length <= behind.len();
        let (value, next) = behind.split_at_checked(length).unwrap_or((behind, &[]));
        rest = next;
        match column {
            Some(column) if column.binary => {
                let shown = if whole { binary_text(column.of_type, value, text) } else { None };
                match shown {
                    Some(shown) => push_text(&shown, row),
                    None => push_hex(value, row),
                }
            }
            _ => push_text(&text(value), row),
        }
    }
}

/// A text as a JSON string, secrets taken out.
fn push_text(text: &str, json: &mut String) {
    let clean = redact(text);
    json.push('"');
    for c in clean.chars() {
        match c {
            '"' => json.push_str("\\\""),
            '\\' => json.push_str("\\\\"),
            '\n' => json.push_str("\\n"),
            '\t' => json.push_str("\\t"),
            '\r' => json.push_str("\\r"),
            '\0'..='\u{1f}' => {
                let _ = write!(json, "\\u{:04x}", u32::from(c));
            }
            c => json.push(c),
        }
    }
    json.push('"');
}

fn push_hex(bytes: &[u8], json: &mut String) {
    // A token is as readable in bytes.
    let clean = std::str::from_utf8(bytes).map(redact);
    match clean {
        Ok(clean) if clean.as_bytes() != bytes => push_text(&clean, json),
        _ => {
            let _ = write!(json, "{{\"hex\":\"{}\"}}", hex(bytes));
        }
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, behind) = rest.split_first_chunk::<N>()?;
    *rest = behind;
    Some(*taken)
}

#[cfg(test)]
#[path = "results_tests.rs"]
mod tests;
