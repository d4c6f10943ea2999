//! The masks by name, their options, and the kinds of values that they are made for.

#![forbid(unsafe_code)]

use crate::policy::near::nearest;
use crate::policy::rule::RuleError;

/// What kind of values a column holds; domains count as what they are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// text, varchar, char, name, citext: whatever casts to text and back.
    Text,
    /// bytea
    Bytes,
    /// smallint
    Small,
    /// integer
    Integer,
    /// bigint
    Bigint,
    /// numeric
    Numeric,
    /// real
    Real,
    /// double precision
    Double,
    /// money
    Money,
    /// boolean
    Boolean,
    /// date
    Date,
    /// timestamp
    Timestamp,
    /// timestamp with time zone
    TimestampTz,
    /// time
    Time,
    /// time with time zone
    TimeTz,
    /// interval
    Interval,
    /// uuid
    Uuid,
    /// json
    Json,
    /// jsonb
    Jsonb,
    /// inet
    Inet,
    /// cidr
    Cidr,
    /// macaddr
    Macaddr,
    /// macaddr8
    Macaddr8,
    /// bit, bit varying
    Bits,
    /// Anything else: enums, composites, ranges, geometry, the server's own.
    Other,
}

/// The type of a column, as far as masks care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnType {
    /// The kind of its values, or of its elements' values.
    pub class: Class,
    /// Whether it is an array.
    pub array: bool,
    /// The most characters that it takes, where it is limited.
    pub length: Option<u32>,
    /// The type as the server writes it, quoted where it has to be.
    pub name: String,
}

/// A masking function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mask {
    /// A constant in the place of every value.
    Redact,
    /// NULL in the place of every value.
    Null,
    /// Zero.
    Zero,
    /// A keyed pseudonym, the same for the same value.
    Hash,
    /// The ends of a text.
    Partial,
    /// An e-mail address by its first letter and its top-level domain.
    Email,
    /// A card number by its last four digits.
    Card,
    /// A telephone number by its last two digits.
    Phone,
    /// The year of a date.
    Year,
    /// The month of a date.
    Month,
    /// A number down to a multiple.
    Bucket,
    /// The network of an address.
    Network,
    /// The leaves of a document.
    Json,
    /// A keyed pseudonym of a UUID.
    Uuid,
}

/// Every mask with its word.
pub const MASKS: [(&str, Mask); 14] = [
    ("redact", Mask::Redact),
    ("null", Mask::Null),
    ("zero", Mask::Zero),
    ("hash", Mask::Hash),
    ("partial", Mask::Partial),
    ("email", Mask::Email),
    ("card", Mask::Card),
    ("phone", Mask::Phone),
    ("year", Mask::Year),
    ("month", Mask::Month),
    ("bucket", Mask::Bucket),
    ("network", Mask::Network),
    ("json", Mask::Json),
    ("uuid", Mask::Uuid),
];

/// What refines a mask. `None` is a mask's own default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// `partial`: characters kept at the beginning.
    pub prefix: Option<i32>,
    /// `partial`: what stands between.
    pub pad: Option<String>,
    /// `partial`: characters kept at the end.
    pub suffix: Option<i32>,
    /// `bucket`: the width, as the server writes numbers.
    pub size: Option<String>,
    /// `json`: the keys under which leaves are masked; all leaves where there are none.
    pub keys: Option<Vec<String>>,
}

/// What is wrong with a mask or an option, as an error at `path`.
pub fn refused(path: &str, message: impl Into<String>, hint: impl Into<String>) -> RuleError {
    RuleError { path: path.to_owned(), message: message.into(), hint: hint.into() }
}

impl Mask {
    /// The mask of this word.
    ///
    /// # Errors
    /// For a word that is none, with the one that was meant.
    pub fn parse(word: &str) -> Result<Mask, RuleError> {
        if let Some((_, mask)) = MASKS.iter().find(|(name, _)| *name == word) {
            return Ok(*mask);
        }
        let words = MASKS.map(|(name, _)| name.to_owned());
        let hint = match nearest(word, &words).first() {
            Some(near) => format!("Did you mean \"{near}\"? Masks are {}.", words.join(", ")),
            None => format!("Masks are {}; expression => '...' takes any SQL expression.", words.join(", ")),
        };
        Err(refused("mask", format!("there is no mask \"{word}\""), hint))
    }

    /// Its word.
    pub fn word(self) -> &'static str {
        MASKS.iter().find(|(_, mask)| *mask == self).map_or("", |(word, _)| word)
    }

    /// The options that it takes.
    pub fn takes(self) -> &'static [&'static str] {
        match self {
            Mask::Partial => &["prefix", "pad", "suffix"],
            Mask::Bucket => &["size"],
            Mask::Json => &["keys"],
            _ => &[],
        }
    }
}

impl Options {
    /// The names of those that are given.
    pub fn given(&self) -> Vec<&'static str> {
        let all = [
            ("prefix", self.prefix.is_some()),
            ("pad", self.pad.is_some()),
            ("suffix", self.suffix.is_some()),
            ("size", self.size.is_some()),
            ("keys", self.keys.is_some()),
        ];
        all.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect()
    }

    /// Whether any is given.
    pub fn any(&self) -> bool {
        !self.given().is_empty()
    }

    /// As they are stored.
    pub fn to_json(&self) -> serde_json::Value {
        let mut object = serde_json::Map::new();
        let mut put = |name: &str, value: Option<serde_json::Value>| {
            if let Some(value) = value {
                object.insert(name.to_owned(), value);
            }
        };
        put("prefix", self.prefix.map(Into::into));
        put("pad", self.pad.clone().map(Into::into));
        put("suffix", self.suffix.map(Into::into));
        put("size", self.size.clone().map(Into::into));
        put("keys", self.keys.clone().map(Into::into));
        serde_json::Value::Object(object)
    }

    /// What `to_json` wrote; what is missing or of another kind counts as not given.
    pub fn from_json(value: &serde_json::Value) -> Options {
        let number = |name: &str| value.get(name)?.as_i64().and_then(|number| i32::try_from(number).ok());
        let text = |name: &str| value.get(name)?.as_str().map(str::to_owned);
        Options {
            prefix: number("prefix"),
            pad: text("pad"),
            suffix: number("suffix"),
            size: text("size"),
            keys: value.get("keys").and_then(|keys| {
                keys.as_array()
                    .map(|keys| keys.iter().filter_map(|key| Some(key.as_str()?.to_owned())).collect())
            }),
        }
    }
}
