//! Strict JSON: the bytes of a block to its keys and raw values.
//!
//! One object and nothing else; values are strings, whole numbers, `true` and lists of strings. What a key means is
//! for `claims`. Parsers that accept more than was meant are how tokens get two readings, so everything that is not
//! listed here is refused: null, false, floats and exponents, negatives, nesting, a key twice, control characters,
//! anything around the object. Order of keys and white space inside it are free.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor};

/// The most items of a list.
const MAX_ITEMS: usize = 64;

/// A value as it stands in the block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Raw {
    /// A string without control characters.
    Text(String),
    /// A whole number.
    Number(u64),
    /// `true`.
    True,
    /// One to 64 different strings.
    List(Vec<String>),
}

/// Why a block is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    /// The key at fault, where there is one.
    pub(super) key: Option<String>,
    /// What is wrong, to follow "the block" or the key's name.
    pub(super) fact: &'static str,
}

impl Malformed {
    /// A fault of the whole block.
    pub(super) fn block(fact: &'static str) -> Malformed {
        Malformed { key: None, fact }
    }

    /// A fault of one key's value.
    pub(super) fn at(key: &str, fact: &'static str) -> Malformed {
        Malformed { key: Some(key.to_owned()), fact }
    }
}

/// Reads one object, of which only `known` keys are accepted.
pub(super) fn read(bytes: &[u8], known: &[&str]) -> Result<Vec<(String, Raw)>, Malformed> {
    // The two ends are looked at here because serde_json skips white space around a value.
    if bytes.first() != Some(&b'{') || bytes.last() != Some(&b'}') {
        return Err(Malformed::block("is not one JSON object"));
    }
    let text = str::from_utf8(bytes).map_err(|_| Malformed::block("is not UTF-8"))?;
    let mut fault = Malformed::block("is not one JSON object");
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let pairs = deserializer.deserialize_map(Object { known, fault: &mut fault });
    match pairs.and_then(|pairs| deserializer.end().map(|()| pairs)) {
        Ok(pairs) => Ok(pairs),
        Err(_) => Err(fault),
    }
}

/// Reads the object; leaves in `fault` what to say if that fails.
struct Object<'a> {
    known: &'a [&'a str],
    fault: &'a mut Malformed,
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = Vec<(String, Raw)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs: Vec<(String, Raw)> = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            let seen = pairs.iter().any(|(other, _)| *other == key);
            if seen || !self.known.contains(&key.as_str()) {
                *self.fault = Malformed {
                    key: Some(key),
                    fact: if seen { "stands twice" } else { "is not a key of version 1" },
                };
                return Err(A::Error::custom(""));
            }
            *self.fault = Malformed::at(&key, "has a value that no key takes");
            let value = map.next_value_seed(Value { fault: self.fault })?;
            pairs.push((key, value));
            *self.fault = Malformed::block("is not one JSON object");
        }
        Ok(pairs)
    }
}

/// Reads one value.
struct Value<'a> {
    fault: &'a mut Malformed,
}

impl Value<'_> {
    fn refuse<E: Error>(self, fact: &'static str) -> E {
        self.fault.fact = fact;
        E::custom("")
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = Raw;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a whole number, true or a list of strings")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Raw, E> {
        if text.chars().any(char::is_control) {
            return Err(self.refuse("holds a control character"));
        }
        Ok(Raw::Text(text.to_owned()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Raw, E> {
        Ok(Raw::Number(number))
    }

    fn visit_bool<E: Error>(self, truth: bool) -> Result<Raw, E> {
        if truth { Ok(Raw::True) } else { Err(E::invalid_type(Unexpected::Bool(false), &self)) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut items: Vec<String> = Vec::new();
        while let Some(item) = seq.next_element_seed(Item { fault: self.fault })? {
            if items.contains(&item) {
                return Err(self.refuse("has an item twice"));
            }
            if items.len() >= MAX_ITEMS {
                return Err(self.refuse("has more than 64 items"));
            }
            items.push(item);
        }
        if items.is_empty() { Err(self.refuse("is an empty list")) } else { Ok(Raw::List(items)) }
    }
}

/// Reads one item of a list: a string, so that nothing nests.
struct Item<'a> {
    fault: &'a mut Malformed,
}

impl<'de> DeserializeSeed<'de> for Item<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        self.fault.fact = "has an item that is not a plain string";
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Item<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        if text.chars().any(char::is_control) { Err(E::custom("")) } else { Ok(text.to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fault(text: &str) -> Malformed {
        read(text.as_bytes(), &["a", "b"]).expect_err(text)
    }

    #[test]
    fn an_object_is_read_in_any_order_and_spacing() {
        let pairs = read(b"{ \"b\" : [\"x\",\n\"y\"] , \"\\u0061\":7}", &["a", "b"]).unwrap();
        let list = Raw::List(vec!["x".into(), "y".into()]);
        assert_eq!(pairs, [("b".to_owned(), list), ("a".to_owned(), Raw::Number(7))]);
        assert_eq!(read(b"{}", &[]).unwrap(), []);
    }

    #[test]
    fn whatever_is_not_one_object_is_refused() {
        for text in [
            "",
            "[]",
            "[\"a\"]",
            "null",
            "1",
            "\"{}\"",
            " {}",
            "{} ",
            "{}{}",
            "{},{}",
            "\u{feff}{}",
            "{",
            "}",
            "{]}",
            "{\"a\":1,}",
            "{\"a\":1 \"b\":1}",
            "{a:1}",
            "{'a':1}",
            "{\"a\":1}//}",
            "{/**/}",
            "{}\0}",
            "{\"a\":0x1}",
        ] {
            assert_eq!(fault(text).key, None, "{text:?}");
        }
        assert!(read(b"{\"a\":\"\xff\"}", &["a"]).is_err());
        assert!(read(b"{\"a\":\"\xed\xa0\x80\"}", &["a"]).is_err());
    }

    #[test]
    fn values_that_no_key_takes_are_refused_by_name() {
        for value in [
            "null",
            "false",
            "1.0",
            "1e3",
            "1E0",
            "-1",
            "-0",
            "0.0",
            "18446744073709551616",
            "01",
            "+1",
            "NaN",
            "{}",
            "{\"a\":1}",
            "[[\"x\"]]",
            "[1]",
            "[true]",
            "[null]",
            "[\"x\",{}]",
            "[]",
            "[\"x\",\"x\"]",
            "\"\\u0000\"",
            "\"\\n\"",
            "\"\\u007f\"",
            "\"\\u0085\"",
            "\"\t\"",
            "[\"\\u0000\"]",
            "\"\\ud800\"",
            "\"\\x41\"",
            "[\"x\",]",
            "\"open",
            "True",
        ] {
            let fault = fault(&format!("{{\"a\":{value}}}"));
            assert_eq!(fault.key.as_deref(), Some("a"), "{value}");
        }
    }

    #[test]
    fn a_key_twice_is_refused_however_it_is_spelled() {
        for text in ["{\"a\":1,\"a\":1}", "{\"a\":1,\"\\u0061\":2}", "{\"a\":[\"x\"],\"b\":1,\"a\":[\"y\"]}"]
        {
            assert_eq!(fault(text), Malformed::at("a", "stands twice"));
        }
        assert_eq!(fault("{\"A\":1}").fact, "is not a key of version 1");
    }

    #[test]
    fn lists_end_at_64_items() {
        let list = |count: usize| {
            let items: Vec<String> = (0..count).map(|i| format!("\"{i}\"")).collect();
            format!("{{\"a\":[{}]}}", items.join(","))
        };
        assert!(read(list(64).as_bytes(), &["a"]).is_ok());
        assert_eq!(fault(&list(65)).fact, "has more than 64 items");
    }

    #[test]
    fn deep_nesting_is_refused_at_the_first_level() {
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(500), "]".repeat(500));
        assert!(read(deep.as_bytes(), &["a"]).is_err());
        let deep = format!("{}1{}", "{\"a\":".repeat(500), "}".repeat(500));
        assert!(read(deep.as_bytes(), &["a"]).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut object = b"{".to_vec();
            object.extend(&bytes);
            object.push(b'}');
            let _ = read(&bytes, &["a"]);
            let _ = read(&object, &["a"]);
        }

        #[test]
        fn what_is_accepted_is_what_serde_json_reads(text in "\\{(\"[ab]\":([0-9]{1,3}|true|\"[a-c\\\\]\"|\\[\"x\"\\]|null|1e2),?){0,3}\\}") {
            if let Ok(pairs) = read(text.as_bytes(), &["a", "b"]) {
                let value: serde_json::Value = serde_json::from_str(&text).unwrap();
                prop_assert_eq!(value.as_object().unwrap().len(), pairs.len());
            }
        }
    }
}
