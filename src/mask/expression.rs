//! Which mask fits which type, and the expression that each makes of a column.
//!
//! The expression is text for the server to parse and check like one that a DBA wrote; names and values get into it
//! through `quote` only. Whether the result fits the column is the server's to say.

#![forbid(unsafe_code)]

use crate::mask::quote::{identifier, literal, literals};
use crate::mask::rule::{Class, ColumnType, MASKS, Mask, Options, refused};
use crate::policy::rule::RuleError;

/// The fewest characters of a pseudonym that still tell values apart.
const SHORTEST_HASH: u32 = 16;

/// The expression that a mask makes of a column.
///
/// # Errors
/// Where the mask does not fit the type, or an option the mask; nothing is guessed.
pub fn expression(mask: Mask, options: &Options, column: &str, of: &ColumnType) -> Result<String, RuleError> {
    if let Some(odd) = options.given().into_iter().find(|name| !mask.takes().contains(name)) {
        let hint = match mask.takes() {
            [] => format!("Leave it out: \"{}\" takes no options.", mask.word()),
            takes => format!("\"{}\" takes {}.", mask.word(), takes.join(", ")),
        };
        return Err(refused(odd, format!("the mask \"{}\" has no option \"{odd}\"", mask.word()), hint));
    }
    made(mask, options, &identifier(column), of)?.ok_or_else(|| unfit(mask, of))
}

/// The expression over the quoted column `c`; `None` where the mask does not fit the type.
fn made(mask: Mask, options: &Options, c: &str, of: &ColumnType) -> Result<Option<String>, RuleError> {
    Ok(match mask {
        Mask::Null => Some("NULL".to_owned()),
        Mask::Redact => redact(c, of),
        Mask::Zero => zero(c, of),
        Mask::Hash => hash(c, of)?,
        Mask::Uuid if of.class == Class::Uuid => hash(c, of)?,
        Mask::Partial => partial(options, c, of)?,
        Mask::Email | Mask::Card | Mask::Phone => text_function(mask, c, of),
        Mask::Year | Mask::Month => {
            (!of.array && is_date(of.class)).then(|| format!("agent_guard.mask_{}({c})", mask.word()))
        }
        Mask::Bucket => bucket(options, c, of)?,
        Mask::Network => network(c, of),
        Mask::Json => json(options, c, of),
        Mask::Uuid => None,
    })
}

fn unfit(mask: Mask, of: &ColumnType) -> RuleError {
    let fitting = MASKS.into_iter().filter(|(_, other)| fits(*other, of)).map(|(word, _)| word);
    let hint = format!(
        "Masks that fit are {}; or write what agents read as expression => '...'.",
        fitting.collect::<Vec<_>>().join(", ")
    );
    refused("mask", format!("the mask \"{}\" does not fit the type {}", mask.word(), of.name), hint)
}

/// Whether a mask fits a type.
pub fn fits(mask: Mask, of: &ColumnType) -> bool {
    let options = match mask {
        Mask::Bucket => Options { size: Some("10".to_owned()), ..Options::default() },
        _ => Options::default(),
    };
    made(mask, &options, "c", &ColumnType { length: None, ..of.clone() }).is_ok_and(|made| made.is_some())
}

fn is_date(class: Class) -> bool {
    matches!(class, Class::Date | Class::Timestamp | Class::TimestampTz)
}

fn as_text(c: &str, of: &ColumnType) -> String {
    format!("({c})::pg_catalog.text{}", if of.array { "[]" } else { "" })
}

/// A constant for what is not NULL.
fn constant(c: &str, value: &str) -> String {
    format!("CASE WHEN {c} IS NULL THEN NULL ELSE {value} END")
}

fn redact(c: &str, of: &ColumnType) -> Option<String> {
    if of.array {
        return match of.class {
            Class::Text => Some(format!("agent_guard.mask_redact({})", as_text(c, of))),
            Class::Other => None,
            _ => Some(constant(c, &format!("'{{}}'::{}", of.name))),
        };
    }
    let value = match of.class {
        Class::Text => "'***'",
        Class::Bytes => "''::pg_catalog.bytea",
        Class::Small | Class::Integer | Class::Bigint | Class::Numeric | Class::Real | Class::Double => "0",
        Class::Money => "0::pg_catalog.money",
        Class::Boolean => "false",
        Class::Date => "'1970-01-01'::pg_catalog.date",
        Class::Timestamp => "'1970-01-01 00:00:00'::pg_catalog.timestamp",
        Class::TimestampTz => "'1970-01-01 00:00:00+00'::pg_catalog.timestamptz",
        Class::Time => "'00:00:00'::pg_catalog.time",
        Class::TimeTz => "'00:00:00+00'::pg_catalog.timetz",
        Class::Interval => "'0'::pg_catalog.interval",
        Class::Uuid => "'00000000-0000-0000-0000-000000000000'::pg_catalog.uuid",
        Class::Json => "'\"***\"'::pg_catalog.json",
        Class::Jsonb => "'\"***\"'::pg_catalog.jsonb",
        Class::Inet => "'0.0.0.0'::pg_catalog.inet",
        Class::Cidr => "'0.0.0.0/0'::pg_catalog.cidr",
        Class::Macaddr => "'00:00:00:00:00:00'::pg_catalog.macaddr",
        Class::Macaddr8 => "'00:00:00:00:00:00:00:00'::pg_catalog.macaddr8",
        Class::Bits => "B'0'::pg_catalog.varbit",
        Class::Other => return None,
    };
    Some(constant(c, value))
}

fn zero(c: &str, of: &ColumnType) -> Option<String> {
    let counts = matches!(
        of.class,
        Class::Small
            | Class::Integer
            | Class::Bigint
            | Class::Numeric
            | Class::Real
            | Class::Double
            | Class::Money
            | Class::Boolean
            | Class::Interval
            | Class::Time
            | Class::Bits
    );
    (counts && !of.array).then(|| redact(c, of)).flatten()
}

fn hash(c: &str, of: &ColumnType) -> Result<Option<String>, RuleError> {
    Ok(match of.class {
        Class::Text => match of.length {
            Some(length) if length < SHORTEST_HASH => {
                return Err(refused(
                    "mask",
                    format!(
                        "a hash does not fit into {}: of {length} characters too many would be equal",
                        of.name
                    ),
                    format!(
                        "Use redact, null or partial, or widen the column to at least {SHORTEST_HASH} characters."
                    ),
                ));
            }
            _ => Some(format!("agent_guard.mask_hash({})", as_text(c, of))),
        },
        Class::Integer | Class::Bigint | Class::Uuid => Some(format!("agent_guard.mask_hash({c})")),
        Class::Bytes if !of.array => Some(format!("agent_guard.mask_hash({c})")),
        _ => None,
    })
}

fn text_function(mask: Mask, c: &str, of: &ColumnType) -> Option<String> {
    (of.class == Class::Text).then(|| format!("agent_guard.mask_{}({})", mask.word(), as_text(c, of)))
}

/// The longest text that may stand between the ends of a value.
const LONGEST_PAD: usize = 64;
/// More characters than this at an end are no mask.
const MOST_SHOWN: i32 = 64;

fn partial(options: &Options, c: &str, of: &ColumnType) -> Result<Option<String>, RuleError> {
    let end = |name: &str, given: Option<i32>, default: i32| match given.unwrap_or(default) {
        count @ 0..=MOST_SHOWN => Ok(count),
        count => Err(refused(
            name,
            format!("{count} characters cannot be shown"),
            format!("Give a number from 0 to {MOST_SHOWN}."),
        )),
    };
    let prefix = end("prefix", options.prefix, 1)?;
    let suffix = end("suffix", options.suffix, 0)?;
    let pad = options.pad.as_deref().unwrap_or(crate::mask::text::REDACTED);
    if pad.is_empty() || pad.chars().count() > LONGEST_PAD || pad.contains('\0') {
        return Err(refused(
            "pad",
            "the padding is empty or too long",
            format!("Give a text of 1 to {LONGEST_PAD} characters."),
        ));
    }
    Ok((of.class == Class::Text).then(|| {
        format!("agent_guard.mask_partial({}, {prefix}, {}, {suffix})", as_text(c, of), literal(pad))
    }))
}

/// Towards zero, so that no value gets larger than its type takes.
fn bucket(options: &Options, c: &str, of: &ColumnType) -> Result<Option<String>, RuleError> {
    let limit = match of.class {
        _ if of.array => return Ok(None),
        Class::Small => Some(i64::from(i16::MAX)),
        Class::Integer => Some(i64::from(i32::MAX)),
        Class::Bigint => Some(i64::MAX),
        Class::Numeric | Class::Real | Class::Double => None,
        _ => return Ok(None),
    };
    let wrong = |message: String, hint: &str| refused("size", message, hint.to_owned());
    let size = options.size.as_deref().unwrap_or_default();
    if size.is_empty() {
        return Err(wrong(
            "a bucket needs a size".to_owned(),
            "Give the width of a bucket, such as size => 1000.",
        ));
    }
    let plain = size.len() <= 40
        && size.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        && size.bytes().filter(|b| *b == b'.').count() <= 1
        && size.bytes().any(|b| matches!(b, b'1'..=b'9'))
        && size.starts_with(|c: char| c.is_ascii_digit());
    if !plain {
        return Err(wrong(format!("{size} is no size of a bucket"), "Give a number greater than zero."));
    }
    if let Some(limit) = limit {
        let whole = size
            .split_once('.')
            .map_or(size, |(whole, fraction)| if fraction.bytes().all(|b| b == b'0') { whole } else { "" });
        return match whole.parse::<i64>() {
            Ok(width) if width > 0 && width <= limit => {
                let name = match of.class {
                    Class::Small => "int2",
                    Class::Integer => "int4",
                    _ => "int8",
                };
                Ok(Some(format!(
                    "{c} OPERATOR(pg_catalog.-) ({c} OPERATOR(pg_catalog.%) {width}::pg_catalog.{name})"
                )))
            }
            _ => Err(wrong(
                format!("{size} is no size of a bucket of {}", of.name),
                "Give a whole number within the type's range.",
            )),
        };
    }
    Ok(Some(match of.class {
        Class::Numeric => {
            format!("{c} OPERATOR(pg_catalog.-) ({c} OPERATOR(pg_catalog.%) {size}::pg_catalog.numeric)")
        }
        _ => format!("agent_guard.mask_bucket({c}, {size}::pg_catalog.float8)"),
    }))
}

fn network(c: &str, of: &ColumnType) -> Option<String> {
    if of.array {
        return None;
    }
    let masked = |bits: u32| {
        format!("pg_catalog.network(pg_catalog.set_masklen({c}, LEAST(pg_catalog.masklen({c}), {bits})))")
    };
    match of.class {
        Class::Inet | Class::Cidr => {
            Some(format!("CASE pg_catalog.family({c}) WHEN 4 THEN {} ELSE {} END", masked(24), masked(48)))
        }
        Class::Macaddr | Class::Macaddr8 => Some(format!("pg_catalog.trunc({c})")),
        _ => None,
    }
}

fn json(options: &Options, c: &str, of: &ColumnType) -> Option<String> {
    let keys = options.keys.clone().unwrap_or_default();
    (matches!(of.class, Class::Json | Class::Jsonb) && !of.array)
        .then(|| format!("agent_guard.mask_json({c}, {})", literals(&keys)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(class: Class) -> ColumnType {
        ColumnType { class, array: false, length: None, name: "t".to_owned() }
    }

    fn written(mask: Mask, options: &Options, class: Class) -> String {
        expression(mask, options, "c", &of(class)).unwrap_or_else(|error| format!("refused {}", error.path))
    }

    #[test]
    fn every_word_reads_back() {
        for (word, mask) in MASKS {
            assert_eq!(Mask::parse(word), Ok(mask));
            assert_eq!(mask.word(), word);
        }
        let error = Mask::parse("emial").map_err(|error| error.hint);
        assert!(error.is_err_and(|hint| hint.contains("Did you mean \"email\"?")));
    }

    #[test]
    fn every_type_has_a_mask_and_null_fits_all() {
        for class in [Class::Text, Class::Other, Class::Json, Class::Bits, Class::Cidr, Class::Money] {
            for array in [false, true] {
                assert!(fits(Mask::Null, &ColumnType { array, ..of(class) }));
            }
        }
        assert!(!fits(Mask::Redact, &of(Class::Other)));
    }

    #[test]
    fn names_and_values_are_quoted() {
        let options = Options { pad: Some("'); drop table t; --".to_owned()), ..Options::default() };
        let made = expression(Mask::Partial, &options, "x\"; drop table t; --", &of(Class::Text));
        assert_eq!(
            made.as_deref(),
            Ok(
                "agent_guard.mask_partial((\"x\"\"; drop table t; --\")::pg_catalog.text, 1, '''); drop table t; --', 0)"
            )
        );
        let options = Options { keys: Some(vec!["a'b".to_owned()]), ..Options::default() };
        assert!(made_contains(Mask::Json, &options, Class::Json, "ARRAY['a''b']"));
    }

    fn made_contains(mask: Mask, options: &Options, class: Class, part: &str) -> bool {
        written(mask, options, class).contains(part)
    }

    #[test]
    fn a_mask_of_another_type_is_refused_with_those_that_fit() {
        let error = expression(Mask::Email, &Options::default(), "c", &of(Class::Integer));
        assert!(error.is_err_and(|error| {
            error.path == "mask" && error.hint.contains("redact, null, zero, hash, bucket")
        }));
    }

    #[test]
    fn a_bucket_takes_a_positive_size_of_its_type() {
        let size = |size: &str| Options { size: Some(size.to_owned()), ..Options::default() };
        assert!(made_contains(Mask::Bucket, &size("1000"), Class::Integer, "1000::pg_catalog.int4"));
        assert!(made_contains(Mask::Bucket, &size("1000.0"), Class::Integer, "1000::pg_catalog.int4"));
        assert!(made_contains(Mask::Bucket, &size("0.5"), Class::Numeric, "0.5::pg_catalog.numeric"));
        for bad in ["", "0", "-1", "0.0", "1e3", "NaN", "1; drop", "40000", "0.5", ".5", "1.2.3"] {
            assert_eq!(written(Mask::Bucket, &size(bad), Class::Small), "refused size", "{bad}");
        }
    }

    #[test]
    fn options_belong_to_their_masks() {
        let options = Options { prefix: Some(2), ..Options::default() };
        assert_eq!(written(Mask::Email, &options, Class::Text), "refused prefix");
        let options = Options { prefix: Some(-1), ..Options::default() };
        assert_eq!(written(Mask::Partial, &options, Class::Text), "refused prefix");
        let options = Options { pad: Some(String::new()), ..Options::default() };
        assert_eq!(written(Mask::Partial, &options, Class::Text), "refused pad");
    }

    #[test]
    fn a_hash_needs_room() {
        let short = ColumnType { length: Some(10), ..of(Class::Text) };
        assert!(expression(Mask::Hash, &Options::default(), "c", &short).is_err());
        let long = ColumnType { length: Some(16), ..of(Class::Text) };
        assert!(expression(Mask::Hash, &Options::default(), "c", &long).is_ok());
    }

    #[test]
    fn options_read_back() {
        let options = Options {
            prefix: Some(2),
            pad: Some("-".to_owned()),
            suffix: Some(0),
            size: Some("10".to_owned()),
            keys: Some(vec!["a".to_owned()]),
        };
        assert_eq!(Options::from_json(&options.to_json()), options);
        assert_eq!(Options::from_json(&serde_json::json!({})), Options::default());
    }
}
