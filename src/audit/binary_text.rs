//! Values in the protocol's binary format as the text that they are: what a type's `send` function of the server has
//! written, for the common built-in types.
//!
//! Depends on no setting: dates are ISO, moments in UTC, floating-point numbers as short as they are exact. `None` for a
//! type that is not known here and for bytes that are none of its values.

#![forbid(unsafe_code)]

use std::fmt::Write;

use crate::mask::calendar::year_month_day;

const BOOL: u32 = 16;
const BYTEA: u32 = 17;
const CHAR: u32 = 18;
const NAME: u32 = 19;
const INT8: u32 = 20;
const INT2: u32 = 21;
const INT4: u32 = 23;
const TEXT: u32 = 25;
const OID: u32 = 26;
const JSON: u32 = 114;
const XML: u32 = 142;
const FLOAT4: u32 = 700;
const FLOAT8: u32 = 701;
const UNKNOWN: u32 = 705;
const BPCHAR: u32 = 1042;
const VARCHAR: u32 = 1043;
const DATE: u32 = 1082;
const TIME: u32 = 1083;
const TIMESTAMP: u32 = 1114;
const TIMESTAMPTZ: u32 = 1184;
const NUMERIC: u32 = 1700;
const CSTRING: u32 = 2275;
const UUID: u32 = 2950;
const JSONB: u32 = 3802;

/// Array types with the types of their elements.
const ARRAYS: [(u32, u32); 21] = [
    (1000, BOOL),
    (1001, BYTEA),
    (1002, CHAR),
    (1003, NAME),
    (1005, INT2),
    (1007, INT4),
    (1009, TEXT),
    (1014, BPCHAR),
    (1015, VARCHAR),
    (1016, INT8),
    (1021, FLOAT4),
    (1022, FLOAT8),
    (1028, OID),
    (1115, TIMESTAMP),
    (1182, DATE),
    (1183, TIME),
    (1185, TIMESTAMPTZ),
    (1231, NUMERIC),
    (2951, UUID),
    (199, JSON),
    (3807, JSONB),
];

const DAY: i64 = 86_400_000_000;

/// The value as text; `text` reads what is a text in the client's encoding.
pub fn binary_text(of_type: u32, bytes: &[u8], text: &dyn Fn(&[u8]) -> String) -> Option<String> {
    if let Some((_, element)) = ARRAYS.iter().find(|(array, _)| *array == of_type) {
        return array(*element, bytes, text);
    }
    Some(match of_type {
        BOOL => match bytes {
            [0] => "f".to_owned(),
            [1] => "t".to_owned(),
            _ => return None,
        },
        BYTEA => bytes.iter().fold("\\x".to_owned(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        }),
        CHAR => match bytes {
            [0] => String::new(),
            [byte @ 1..=127] => char::from(*byte).to_string(),
            [byte] => format!("\\{byte:03o}"),
            _ => return None,
        },
        NAME | TEXT | UNKNOWN | BPCHAR | VARCHAR | CSTRING | JSON | XML => text(bytes),
        JSONB => match bytes.split_first() {
            Some((1, json)) => text(json),
            _ => return None,
        },
        INT2 => i16::from_be_bytes(bytes.try_into().ok()?).to_string(),
        INT4 => i32::from_be_bytes(bytes.try_into().ok()?).to_string(),
        INT8 => i64::from_be_bytes(bytes.try_into().ok()?).to_string(),
        OID => u32::from_be_bytes(bytes.try_into().ok()?).to_string(),
        FLOAT4 => {
            let value = f32::from_be_bytes(bytes.try_into().ok()?);
            float(&format!("{value:e}"), f64::from(value), 6)
        }
        FLOAT8 => {
            let value = f64::from_be_bytes(bytes.try_into().ok()?);
            float(&format!("{value:e}"), value, 15)
        }
        NUMERIC => numeric(bytes)?,
        DATE => match i32::from_be_bytes(bytes.try_into().ok()?) {
            i32::MAX => "infinity".to_owned(),
            i32::MIN => "-infinity".to_owned(),
            days => date(i64::from(days), ""),
        },
        TIME => time(i64::from_be_bytes(bytes.try_into().ok()?)),
        TIMESTAMP | TIMESTAMPTZ => match i64::from_be_bytes(bytes.try_into().ok()?) {
            i64::MAX => "infinity".to_owned(),
            i64::MIN => "-infinity".to_owned(),
            micros => {
                let zone = if of_type == TIMESTAMPTZ { "+00" } else { "" };
                let clock = format!(" {}{zone}", time(micros.rem_euclid(DAY)));
                date(micros.div_euclid(DAY), &clock)
            }
        },
        UUID => {
            let id: [u8; 16] = bytes.try_into().ok()?;
            let hex = crate::token::hex(&id);
            let part = |from: usize, to: usize| hex.get(from..to).unwrap_or("");
            [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
        }
        _ => return None,
    })
}

/// A floating-point number from its shortest digits (`d.ddde-7`), written out where its exponent is small.
fn float(shortest: &str, value: f64, fixed_below: i32) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity".to_owned() } else { "-Infinity".to_owned() };
    }
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((shortest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, digits) = match mantissa.strip_prefix('-') {
        Some(digits) => ("-", digits.replace('.', "")),
        None => ("", mantissa.replace('.', "")),
    };
    if !(-4..fixed_below).contains(&exponent) {
        let sign_of_exponent = if exponent < 0 { '-' } else { '+' };
        return format!("{sign}{}e{sign_of_exponent}{:02}", mantissa.trim_start_matches('-'), exponent.abs());
    }
    let before = usize::try_from(exponent.saturating_add(1)).unwrap_or(0);
    if exponent < 0 {
        let zeros = "0".repeat(usize::try_from(exponent.saturating_add(1).abs()).unwrap_or(0));
        format!("{sign}0.{zeros}{digits}")
    } else if digits.len() <= before {
        format!("{sign}{digits:0<before$}")
    } else {
        let (whole, fraction) = digits.split_at_checked(before).unwrap_or((&digits, ""));
        format!("{sign}{whole}.{fraction}")
    }
}

fn numeric(bytes: &[u8]) -> Option<String> {
    let (head, digits) = bytes.split_at_checked(8)?;
    let word = |at: usize| {
        let two: [u8; 2] = head.get(at..at.saturating_add(2))?.try_into().ok()?;
        Some(u16::from_be_bytes(two))
    };
    let (count, weight, sign, scale) = (word(0)?, word(2)?.cast_signed(), word(4)?, usize::from(word(6)?));
    let sign = match sign {
        0 => "",
        0x4000 => "-",
        0xC000 => return Some("NaN".to_owned()),
        0xD000 => return Some("Infinity".to_owned()),
        0xF000 => return Some("-Infinity".to_owned()),
        _ => return None,
    };
    let groups: Vec<u16> =
        digits.chunks_exact(2).filter_map(|two| Some(u16::from_be_bytes(two.try_into().ok()?))).collect();
    if groups.len() != usize::from(count) || digits.len() % 2 != 0 {
        return None;
    }
    let group = |at: i32| usize::try_from(at).ok().and_then(|at| groups.get(at)).copied().unwrap_or(0);
    let weight = i32::from(weight);
    let mut out = sign.to_owned();
    if weight < 0 {
        out.push('0');
    }
    for at in 0..=weight {
        let _ = if at == 0 { write!(out, "{}", group(at)) } else { write!(out, "{:04}", group(at)) };
    }
    if scale > 0 {
        out.push('.');
        let end = out.len().saturating_add(scale);
        let mut at = weight.saturating_add(1);
        while out.len() < end {
            let _ = write!(out, "{:04}", group(at));
            at = at.saturating_add(1);
        }
        out.truncate(end);
    }
    Some(out)
}

/// A date, with what stands between it and its era.
fn date(day: i64, clock: &str) -> String {
    let (year, month, day) = year_month_day(day);
    let (shown, era) = if year > 0 { (year, "") } else { (1 - year, " BC") };
    format!("{shown:04}-{month:02}-{day:02}{clock}{era}")
}

fn time(micros: i64) -> String {
    let (seconds, fraction) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
    let mut out = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    if fraction > 0 {
        let digits = format!("{fraction:06}");
        out.push('.');
        out.push_str(digits.trim_end_matches('0'));
    }
    out
}

/// How many dimensions an array has at most (MAXDIM).
const DIMENSIONS: usize = 6;

fn array(element: u32, bytes: &[u8], text: &dyn Fn(&[u8]) -> String) -> Option<String> {
    let mut rest = bytes;
    let dimensions = usize::try_from(number(&mut rest)?).ok().filter(|count| *count <= DIMENSIONS)?;
    let (_nulls, found) = (number(&mut rest)?, number(&mut rest)?);
    if u32::try_from(found) != Ok(element) {
        return None;
    }
    if dimensions == 0 {
        return Some("{}".to_owned());
    }
    let (mut sizes, mut bounds) = (Vec::new(), String::new());
    let mut plain = true;
    for _ in 0..dimensions {
        let (size, lower) = (number(&mut rest)?, number(&mut rest)?);
        plain &= lower == 1;
        let _ = write!(bounds, "[{lower}:{}]", i64::from(lower) + i64::from(size) - 1);
        sizes.push(usize::try_from(size).ok()?);
    }
    let mut out = if plain { String::new() } else { format!("{bounds}=") };
    part(element, &sizes, &mut rest, text, &mut out)?;
    rest.is_empty().then_some(out)
}

fn part(
    element: u32,
    sizes: &[usize],
    rest: &mut &[u8],
    text: &dyn Fn(&[u8]) -> String,
    out: &mut String,
) -> Option<()> {
    let (size, inner) = sizes.split_first()?;
    out.push('{');
    for n in 0..*size {
        if n > 0 {
            out.push(',');
        }
        if !inner.is_empty() {
            part(element, inner, rest, text, out)?;
            continue;
        }
        match usize::try_from(number(rest)?) {
            Ok(length) => {
                let (value, behind) = rest.split_at_checked(length)?;
                *rest = behind;
                quoted(&binary_text(element, value, text)?, out);
            }
            Err(_) => out.push_str("NULL"),
        }
    }
    out.push('}');
    Some(())
}

/// An element as array_out writes it: quoted where it could be taken for something else.
fn quoted(value: &str, out: &mut String) {
    let special =
        |c: char| matches!(c, '"' | '\\' | '{' | '}' | ',') || c.is_ascii_whitespace() || c == '\u{b}';
    if !value.is_empty() && !value.eq_ignore_ascii_case("null") && !value.contains(special) {
        out.push_str(value);
        return;
    }
    out.push('"');
    for c in value.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

fn number(rest: &mut &[u8]) -> Option<i32> {
    let (four, behind) = rest.split_first_chunk::<4>()?;
    *rest = behind;
    Some(i32::from_be_bytes(*four))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(of_type: u32, bytes: &[u8]) -> Option<String> {
        binary_text(of_type, bytes, &|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    #[test]
    fn numbers_read_as_the_server_writes_them() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (0.1, "0.1"),
            (-1.5, "-1.5"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (123_456_789_012_345.0, "123456789012345"),
            (1e15, "1e+15"),
            (1.25e300, "1.25e+300"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(shown(FLOAT8, &value.to_be_bytes()).unwrap(), text);
        }
        assert_eq!(shown(FLOAT4, &1e6_f32.to_be_bytes()).unwrap(), "1e+06");
        assert_eq!(shown(FLOAT4, &123_456_f32.to_be_bytes()).unwrap(), "123456");
        // 12345.6789: groups 1, 2345, 6789.
        assert_eq!(shown(NUMERIC, &[0, 3, 0, 1, 0, 0, 0, 4, 0, 1, 9, 41, 26, 133]).unwrap(), "12345.6789");
        // -0.0100: group 100 at weight -1.
        assert_eq!(shown(NUMERIC, &[0, 1, 255, 255, 64, 0, 0, 4, 0, 100]).unwrap(), "-0.0100");
        assert_eq!(shown(NUMERIC, &[0, 0, 0, 0, 0, 0, 0, 2]).unwrap(), "0.00");
        assert_eq!(shown(INT8, &(-5_i64).to_be_bytes()).unwrap(), "-5");
        assert_eq!(shown(INT4, &[0, 0]), None);
    }

    #[test]
    fn moments_are_iso_and_utc() {
        assert_eq!(shown(DATE, &0_i32.to_be_bytes()).unwrap(), "2000-01-01");
        assert_eq!(shown(DATE, &59_i32.to_be_bytes()).unwrap(), "2000-02-29");
        assert_eq!(shown(DATE, &(-730_120_i32).to_be_bytes()).unwrap(), "0001-12-31 BC");
        assert_eq!(shown(TIMESTAMPTZ, &(-1_i64).to_be_bytes()).unwrap(), "1999-12-31 23:59:59.999999+00");
        assert_eq!(shown(TIMESTAMP, &i64::MAX.to_be_bytes()).unwrap(), "infinity");
        assert_eq!(shown(TIME, &86_400_000_000_i64.to_be_bytes()).unwrap(), "24:00:00");
    }

    #[test]
    fn arrays_are_written_as_the_server_does() {
        let mut bytes = Vec::new();
        for n in [1, 1, 25, 5, 1] {
            bytes.extend_from_slice(&i32::to_be_bytes(n));
        }
        for value in [Some("a"), None, Some("NULL"), Some("x,\"y\\"), Some("")] {
            match value {
                None => bytes.extend_from_slice(&(-1_i32).to_be_bytes()),
                Some(value) => {
                    bytes.extend_from_slice(&i32::try_from(value.len()).unwrap().to_be_bytes());
                    bytes.extend_from_slice(value.as_bytes());
                }
            }
        }
        assert_eq!(shown(1009, &bytes).unwrap(), r#"{a,NULL,"NULL","x,\"y\\",""}"#);
        assert_eq!(shown(1007, &bytes), None, "elements of another type");
        assert_eq!(shown(1007, &[0; 12]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(which in 0_usize..30, bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let types: Vec<u32> = ARRAYS.iter().flat_map(|(array, element)| [*array, *element]).collect();
            let _ = shown(*types.get(which % types.len()).unwrap(), &bytes);
        }
    }
}
