//! Raw JSON values to the types that claims have: the sizes and alphabets of each.
//!
//! Every function gives the value or the fact to state about it; the key is named by the caller.

use super::json::Raw;
use super::wire;

/// The largest integer that every JSON implementation keeps exact.
pub(super) const MAX_INT: u64 = (1 << 53) - 1;
/// The deepest chain has eight blocks.
pub(super) const MAX_DEPTH: u8 = 7;
const MAX_STRING: usize = 128;
const MAX_WHY: usize = 200;
const MAX_SUB: usize = 64;

/// A string of a size in bytes.
fn text(raw: Raw, least: usize, most: usize, fact: &'static str) -> Result<String, &'static str> {
    match raw {
        Raw::Text(text) if (least..=most).contains(&text.len()) => Ok(text),
        _ => Err(fact),
    }
}

/// A name.
pub(super) fn name(raw: Raw) -> Result<String, &'static str> {
    text(raw, 1, MAX_STRING, "is not a string of 1 to 128 bytes")
}

/// A purpose, which may be empty: it has no authority.
pub(super) fn why(raw: Raw) -> Result<String, &'static str> {
    text(raw, 0, MAX_WHY, "is not a string of at most 200 bytes")
}

/// 16 bytes in base64url.
pub(super) fn jti(raw: Raw) -> Result<String, &'static str> {
    let fact = "is not 16 bytes in base64url";
    let text = text(raw, 22, 22, fact)?;
    if wire::decode(&text).is_some() { Ok(text) } else { Err(fact) }
}

/// An agent's name: nothing that could be mistaken for a separator or markup where it is shown.
pub(super) fn sub(raw: Raw) -> Result<String, &'static str> {
    let fact = "is not 1 to 64 letters, digits and characters of ._:@/-";
    let text = text(raw, 1, MAX_SUB, fact)?;
    let plain = text
        .bytes()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b':' | b'@' | b'/' | b'-'));
    if plain { Ok(text) } else { Err(fact) }
}

/// A number that every JSON implementation keeps exact.
fn number(raw: Raw) -> Result<u64, &'static str> {
    match raw {
        Raw::Number(number) if number <= MAX_INT => Ok(number),
        _ => Err("is not a whole number below 2^53"),
    }
}

/// Unix seconds.
pub(super) fn time(raw: Raw) -> Result<i64, &'static str> {
    i64::try_from(number(raw)?).map_err(|_| "is not a whole number below 2^53")
}

/// Derivations.
pub(super) fn depth(raw: Raw) -> Result<u8, &'static str> {
    let fact = "is not a whole number from 0 to 7";
    u8::try_from(number(raw)?).ok().filter(|depth| *depth <= MAX_DEPTH).ok_or(fact)
}

/// A limit; a limit of nothing would be a token for nothing.
pub(super) fn count(raw: Raw) -> Result<u64, &'static str> {
    match number(raw)? {
        0 => Err("is not at least 1"),
        count => Ok(count),
    }
}

/// A list whose items all parse.
pub(super) fn each<T>(
    raw: Raw,
    fact: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, &'static str> {
    match raw {
        Raw::List(items) => items
            .iter()
            .map(|item| parse(item).filter(|_| (1..=MAX_STRING).contains(&item.len())).ok_or(fact))
            .collect(),
        Raw::Text(_) | Raw::Number(_) | Raw::True => Err("is not a list"),
    }
}

/// A list of names.
pub(super) fn names(raw: Raw) -> Result<Vec<String>, &'static str> {
    each(raw, "has an item that is not a string of 1 to 128 bytes", |item| Some(item.to_owned()))
}
