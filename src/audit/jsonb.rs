//! The accesses of an event as the trail's jsonb, in the server's own binary form: taking them through JSON text cost
//! the writer more than everything else that it does with an event.
//!
//! The form is that of src/include/utils/jsonb.h, the same on every server since 9.4; a number is a short Numeric
//! (src/backend/utils/adt/numeric.c). Integers are the machine's own.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::io::Write;

use crate::audit::event::{AccessRecord, class_word};

const ARRAY: u32 = 0x4000_0000;
const OBJECT: u32 = 0x2000_0000;

const IS_STRING: u32 = 0;
const IS_NUMBER: u32 = 0x1000_0000;
const IS_CONTAINER: u32 = 0x5000_0000;
const HAS_OFFSET: u32 = 0x8000_0000;
/// Each entry tells a length, but one in so many an offset (JB_OFFSET_STRIDE).
const STRIDE: usize = 32;

/// A member of an object.
enum Value<'a> {
    Number(i64),
    Text(Cow<'a, [u8]>),
}

/// What stands behind the header of the datum: an array with one object for each access; keys that have nothing to say
/// are left out. `text` gives a text's bytes in the server's encoding, without NUL.
pub fn accesses<'a>(
    accesses: impl ExactSizeIterator<Item = AccessRecord<'a>>,
    text: impl Fn(&'a str) -> Cow<'a, [u8]>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(accesses.len().saturating_mul(192).saturating_add(8));
    let mut array = Entries::begin(ARRAY, accesses.len(), accesses.len(), &mut out);
    for access in accesses {
        let start = out.len();
        object(access, &text, &mut out);
        array.put(IS_CONTAINER, start, &mut out);
    }
    out
}

/// The keys in the order of jsonb: by length, then by bytes.
fn object<'a>(access: AccessRecord<'a>, text: &impl Fn(&'a str) -> Cow<'a, [u8]>, out: &mut Vec<u8>) {
    let has_object = !access.name.is_empty() || access.oid != 0;
    let word = |word: &'static str| Value::Text(Cow::Borrowed(word.as_bytes()));
    let action = match access.kind {
        None => word(access.verb.word()),
        Some(kind) => Value::Text(format!("{} {}", access.verb.word(), kind.word()).into_bytes().into()),
    };
    let members = [
        ("oid", has_object.then(|| Value::Number(i64::from(access.oid)))),
        ("rule", access.rule.map(Value::Number)),
        ("class", has_object.then(|| word(class_word(access.class)))),
        ("action", Some(action)),
        ("object", has_object.then(|| Value::Text(text(access.name)))),
        ("columns", (!access.columns.is_empty()).then(|| Value::Text(text(access.columns)))),
        ("decision", access.decision.word().map(word)),
    ];
    let present = || members.iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
    let count = present().count();
    let mut entries = Entries::begin(OBJECT, count, count.saturating_mul(2), out);
    for (key, _) in present() {
        let start = out.len();
        out.extend_from_slice(key.as_bytes());
        entries.put(IS_STRING, start, out);
    }
    for (_, value) in present() {
        let start = out.len();
        match value {
            Value::Number(number) => {
                numeric(*number, out);
                entries.put(IS_NUMBER, start, out);
            }
            Value::Text(text) => {
                out.extend_from_slice(text);
                entries.put(IS_STRING, start, out);
            }
        }
    }
}

/// The entries of a container, which stand before what they tell of.
struct Entries {
    at: usize,
    next: usize,
    total: usize,
}

impl Entries {
    /// Puts a container's header and leaves room for its entries.
    fn begin(kind: u32, count: usize, entries: usize, out: &mut Vec<u8>) -> Entries {
        align(out);
        out.extend_from_slice(&(kind | small(count)).to_ne_bytes());
        let at = out.len();
        out.resize(at.saturating_add(entries.saturating_mul(4)), 0);
        Entries { at, next: 0, total: 0 }
    }

    /// Fills the next entry: what it tells of lies between `start` and the end.
    fn put(&mut self, kind: u32, start: usize, out: &mut [u8]) {
        let length = out.len().saturating_sub(start);
        self.total = self.total.saturating_add(length);
        let entry = match self.next.is_multiple_of(STRIDE) {
            true => HAS_OFFSET | small(self.total),
            false => small(length),
        };
        let at = self.at.saturating_add(self.next.saturating_mul(4));
        if let Some(place) = out.get_mut(at..at.saturating_add(4)) {
            place.copy_from_slice(&(kind | entry).to_ne_bytes());
        }
        self.next = self.next.saturating_add(1);
    }
}

/// Lengths and counts have 28 bits; an event has 64 kB.
fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(0) & 0x0fff_ffff
}

fn align(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

/// A whole number as a Numeric: a four-byte header with the length, the short header, digits to the base 10000.
fn numeric(number: i64, out: &mut Vec<u8>) {
    const SHORT: u16 = 0x8000;
    const NEGATIVE: u16 = 0x2000;
    align(out);
    let mut digits = [0_u16; 5];
    let mut left = number.unsigned_abs();
    let mut first = digits.len();
    while left > 0 && first > 0 {
        first = first.saturating_sub(1);
        if let Some(place) = digits.get_mut(first) {
            // Below 10000.
            *place = u16::try_from(left % 10_000).unwrap_or(0);
        }
        left /= 10_000;
    }
    let used = digits.get(first..).unwrap_or(&[]);
    let weight = u16::try_from(used.len().saturating_sub(1)).unwrap_or(0);
    // No zeros at the end.
    let kept = used.iter().rposition(|digit| *digit != 0).map_or(0, |last| last.saturating_add(1));
    let sign = if number < 0 { NEGATIVE } else { 0 };
    let length = small(kept.saturating_mul(2).saturating_add(6));
    let header = if cfg!(target_endian = "little") { length << 2 } else { length };
    out.extend_from_slice(&header.to_ne_bytes());
    out.extend_from_slice(&(SHORT | sign | weight).to_ne_bytes());
    for digit in used.iter().take(kept) {
        out.extend_from_slice(&digit.to_ne_bytes());
    }
}

/// The text of what `accesses` makes, as jsonb_out (src/backend/utils/adt/jsonb.c) gives it; `None` for anything that is
/// not an array of objects with the members of `object`.
pub fn text(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len().saturating_mul(2));
    let mut entries = Items::of(bytes, 0, ARRAY, 1)?;
    out.push(b'[');
    for n in 0..entries.count {
        if n > 0 {
            out.extend_from_slice(b", ");
        }
        let (kind, start, _) = entries.next()?;
        (kind == IS_CONTAINER).then_some(())?;
        object_text(bytes, start.next_multiple_of(4), &mut out)?;
    }
    out.push(b']');
    Some(out)
}

fn object_text(bytes: &[u8], at: usize, out: &mut Vec<u8>) -> Option<()> {
    let mut keys = Items::of(bytes, at, OBJECT, 2)?;
    let mut values = keys;
    for _ in 0..values.count {
        values.next()?;
    }
    out.push(b'{');
    for n in 0..keys.count {
        let (kind, start, end) = keys.next()?;
        (kind == IS_STRING).then_some(())?;
        let key = before_value(bytes.get(start..end)?)?;
        out.extend_from_slice(if n > 0 { key } else { key.get(2..)? });
        let (kind, start, end) = values.next()?;
        match kind {
            IS_STRING => quoted(bytes.get(start..end)?, out),
            IS_NUMBER => {
                let number = whole(bytes.get(start.next_multiple_of(4)..end)?)?;
                match i64::try_from(number) {
                    Ok(number) => out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
                    Err(_) => write!(out, "{number}").ok()?,
                }
            }
            _ => return None,
        }
    }
    out.push(b'}');
    Some(())
}

/// What stands before the value of a key that `object` puts.
fn before_value(key: &[u8]) -> Option<&'static [u8]> {
    Some(match key {
        b"oid" => b", \"oid\": ",
        b"rule" => b", \"rule\": ",
        b"class" => b", \"class\": ",
        b"action" => b", \"action\": ",
        b"object" => b", \"object\": ",
        b"columns" => b", \"columns\": ",
        b"decision" => b", \"decision\": ",
        _ => return None,
    })
}

/// The entries of a container, one after the other: what each one is and where it lies.
#[derive(Clone, Copy)]
struct Items<'a> {
    bytes: &'a [u8],
    count: usize,
    /// Where the next entry stands.
    entry: usize,
    /// Where what it tells of begins, and the first of them.
    start: usize,
    first: usize,
}

impl<'a> Items<'a> {
    fn of(bytes: &'a [u8], at: usize, kind: u32, entries: usize) -> Option<Items<'a>> {
        let header = word(bytes, at)?;
        // An array that stands for a scalar has a bit of its own.
        (header & 0xf000_0000 == kind).then_some(())?;
        let count = usize::try_from(header & 0x0fff_ffff).ok()?;
        let entry = at.checked_add(4)?;
        let first = count.checked_mul(entries)?.checked_mul(4)?.checked_add(entry)?;
        Some(Items { bytes, count, entry, start: first, first })
    }

    fn next(&mut self) -> Option<(u32, usize, usize)> {
        let entry = word(self.bytes, self.entry)?;
        let told = usize::try_from(entry & 0x0fff_ffff).ok()?;
        let from = if entry & HAS_OFFSET != 0 { self.first } else { self.start };
        let (start, end) = (self.start, from.checked_add(told)?);
        (self.entry, self.start) = (self.entry.checked_add(4)?, end);
        Some((entry & 0x7000_0000, start, end))
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// A short Numeric that is a whole number: `numeric` backwards.
fn whole(bytes: &[u8]) -> Option<i128> {
    let mut shorts = bytes.get(4..)?.chunks_exact(2).map(|two| match two {
        [a, b] => u16::from_ne_bytes([*a, *b]),
        _ => 0,
    });
    let header = shorts.next()?;
    // Short, no digits behind the point; the weight has seven bits, the highest for its sign.
    (header & 0xc000 == 0x8000 && header & 0x1fc0 == 0).then_some(())?;
    let weight = header & 0x3f;
    (weight < 8).then_some(())?;
    let mut number: i128 = 0;
    for _ in 0..=weight {
        number = number.checked_mul(10_000)?.checked_add(i128::from(shorts.next().unwrap_or(0)))?;
    }
    shorts.next().is_none().then_some(if header & 0x2000 != 0 { -number } else { number })
}

/// A string as escape_json (src/backend/utils/adt/json.c) writes it.
fn quoted(text: &[u8], out: &mut Vec<u8>) {
    let special = |byte: &u8| *byte < b' ' || matches!(byte, b'"' | b'\\');
    out.push(b'"');
    let mut rest = text;
    // Without a way out of the loop it takes many bytes at once; mostly there is nothing to be found.
    let any = text.iter().fold(false, |any, byte| any | special(byte));
    while any && let Some(at) = rest.iter().position(special) {
        let (plain, behind) = rest.split_at(at);
        out.extend_from_slice(plain);
        let Some((special, behind)) = behind.split_first() else { break };
        match special {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *special]),
            8 => out.extend_from_slice(b"\\b"),
            12 => out.extend_from_slice(b"\\f"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            // Writing to memory does not fail.
            other => drop(write!(out, "\\u{other:04x}")),
        }
        rest = behind;
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::event::AuditDecision;
    use crate::request::{Kind, ObjectClass, Verb};

    fn numeric_of(number: i64) -> Vec<u16> {
        let mut out = Vec::new();
        numeric(number, &mut out);
        let shorts: Vec<u16> = out[4..].chunks(2).map(|two| u16::from_ne_bytes([two[0], two[1]])).collect();
        assert_eq!(u32::from_ne_bytes(out[..4].try_into().unwrap()) as usize / 4, out.len());
        shorts
    }

    #[test]
    fn numbers_have_digits_of_ten_thousand() {
        assert_eq!(numeric_of(0), [0x8000]);
        assert_eq!(numeric_of(7), [0x8000, 7]);
        assert_eq!(numeric_of(10_000), [0x8001, 1]);
        assert_eq!(numeric_of(-12_345_678), [0xa001, 1234, 5678]);
        assert_eq!(numeric_of(i64::MIN), [0xa004, 922, 3372, 368, 5477, 5808]);
    }

    #[test]
    fn an_access_is_one_object() {
        let access = AccessRecord {
            verb: Verb::Drop,
            kind: Some(Kind::Table),
            class: ObjectClass::Relation,
            oid: 7,
            name: "public.a",
            columns: "",
            decision: AuditDecision::Deny,
            rule: None,
        };
        let bytes = accesses([access].into_iter(), |name| name.as_bytes().into());
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        assert_eq!(word(0), ARRAY | 1);
        assert_eq!(word(4), HAS_OFFSET | IS_CONTAINER | small(bytes.len() - 8));
        assert_eq!(word(8), OBJECT | 5);
        // Five keys, the first by its offset; then five values, the first a number.
        assert_eq!(
            [12, 16, 20, 24, 28].map(word),
            [HAS_OFFSET | 3, 5, 6, 6, 8],
            "the lengths of oid, class, action, object, decision"
        );
        let rest = &bytes[52..];
        assert!(rest.starts_with(b"oidclassactionobjectdecision"));
        assert!(rest.ends_with(b"relationdrop tablepublic.adeny"));
    }

    #[test]
    fn no_access_is_an_empty_array() {
        assert_eq!(accesses([].into_iter(), |name| name.as_bytes().into()), ARRAY.to_ne_bytes());
    }

    fn texts(accesses_of: &[AccessRecord]) -> Option<String> {
        let bytes = accesses(accesses_of.iter().copied(), |name| name.as_bytes().into());
        Some(String::from_utf8(text(&bytes)?).unwrap())
    }

    #[test]
    fn the_text_is_that_of_jsonb_out() {
        fn access(name: &str, oid: u32, rule: Option<i64>) -> AccessRecord<'_> {
            AccessRecord {
                verb: Verb::Select,
                kind: None,
                class: ObjectClass::Relation,
                oid,
                name,
                columns: "",
                decision: AuditDecision::Allow,
                rule,
            }
        }
        assert_eq!(texts(&[]).unwrap(), "[]");
        let one = texts(&[access("a\"\\\n\u{1}\u{1f}\u{7f}é", 16_384, Some(-3))]).unwrap();
        assert_eq!(
            one,
            "[{\"oid\": 16384, \"rule\": -3, \"class\": \"relation\", \"action\": \"select\", \
             \"object\": \"a\\\"\\\\\\n\\u0001\\u001f\u{7f}é\", \"decision\": \"allow\"}]"
        );
        // Every entry in 32 tells an offset instead of a length.
        let names: Vec<_> = (0..100).map(|n| format!("t{n}")).collect();
        let many: Vec<_> =
            (0..).zip(&names).map(|(n, name)| access(name, n * 10_000, Some(i64::MAX))).collect();
        let many = texts(&many).unwrap();
        assert_eq!(many.matches("\"object\": \"t").count(), 100);
        assert!(many.contains("\"oid\": 990000, \"rule\": 9223372036854775807, "));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&many).unwrap().as_array().unwrap().len(), 100);
    }

    #[test]
    fn what_is_no_such_array_has_no_text() {
        let bytes = accesses([].into_iter(), |name| name.as_bytes().into());
        assert_eq!(text(&[]), None);
        assert_eq!(text(&bytes[..3]), None);
        assert_eq!(text(&OBJECT.to_ne_bytes()), None);
        assert_eq!(text(&(ARRAY | 1).to_ne_bytes()), None);
        assert_eq!(text(&(ARRAY | 0x1000_0000).to_ne_bytes()), None, "a scalar");
    }
}
