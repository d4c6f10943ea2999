//! JSON documents with their leaves masked: all of them, or those under certain keys. Keys and structure stay.
//!
//! Works on the text, because a parsed document loses what a mask must not change: the digits of long numbers, equal
//! keys, the depth that the server accepts. What is no JSON after all is masked as a whole.

#![forbid(unsafe_code)]

use crate::mask::text::REDACTED;

/// Masks the leaves of a document. Texts become `"***"`, numbers `0`, true and false `false`; null stays null. With
/// `keys`, only what stands under one of them, at whatever depth.
pub fn mask(document: &str, keys: &[&str]) -> String {
    let mut writer = Writer { rest: document, out: String::with_capacity(document.len()), keys };
    match writer.document() {
        Some(()) => writer.out,
        None => format!("\"{REDACTED}\""),
    }
}

struct Writer<'a> {
    rest: &'a str,
    out: String,
    keys: &'a [&'a str],
}

/// A container that is open.
#[derive(Clone, Copy)]
enum Open {
    Array,
    Object,
}

impl Writer<'_> {
    /// Without recursion: no depth of nesting exhausts a stack.
    fn document(&mut self) -> Option<()> {
        // Each container with whether its leaves are masked.
        let mut open: Vec<(Open, bool)> = Vec::new();
        let mut masked = self.keys.is_empty();
        loop {
            self.space();
            // A value begins here.
            match self.rest.as_bytes().first()? {
                b'{' => {
                    self.copy(1)?;
                    open.push((Open::Object, masked));
                    self.space();
                    if self.rest.starts_with('}') {
                        self.copy(1)?;
                        open.pop();
                    } else {
                        masked = self.key(masked)?;
                        continue;
                    }
                }
                b'[' => {
                    self.copy(1)?;
                    open.push((Open::Array, masked));
                    self.space();
                    if self.rest.starts_with(']') {
                        self.copy(1)?;
                        open.pop();
                    } else {
                        continue;
                    }
                }
                _ => self.leaf(masked)?,
            }
            // A value has ended here: whatever is around it goes on or ends as well.
            loop {
                self.space();
                let Some((container, inside)) = open.last().copied() else {
                    return self.rest.is_empty().then_some(());
                };
                match (container, self.rest.as_bytes().first()?) {
                    (Open::Array, b',') => {
                        self.copy(1)?;
                        masked = inside;
                        break;
                    }
                    (Open::Object, b',') => {
                        self.copy(1)?;
                        masked = self.key(inside)?;
                        break;
                    }
                    (Open::Array, b']') | (Open::Object, b'}') => {
                        self.copy(1)?;
                        open.pop();
                    }
                    _ => return None,
                }
            }
        }
    }

    /// A key and its colon; whether its value is masked.
    fn key(&mut self, inside: bool) -> Option<bool> {
        self.space();
        let length = string_length(self.rest)?;
        let raw = self.rest.get(1..length.checked_sub(1)?)?;
        let named = inside || self.keys.iter().any(|key| is_key(raw, key));
        self.copy(length)?;
        self.space();
        if !self.rest.starts_with(':') {
            return None;
        }
        self.copy(1)?;
        Some(named)
    }

    fn leaf(&mut self, masked: bool) -> Option<()> {
        let (length, replacement) = match self.rest.as_bytes().first()? {
            b'"' => (string_length(self.rest)?, "\"***\""),
            b't' => (self.word("true")?, "false"),
            b'f' => (self.word("false")?, "false"),
            b'n' => (self.word("null")?, "null"),
            b'-' | b'0'..=b'9' => {
                let number = |c: char| matches!(c, '0'..='9' | '+' | '-' | '.' | 'e' | 'E');
                (self.rest.find(|c| !number(c)).unwrap_or(self.rest.len()), "0")
            }
            _ => return None,
        };
        if !masked {
            return self.copy(length);
        }
        self.out.push_str(replacement);
        self.rest = self.rest.get(length..)?;
        Some(())
    }

    fn word(&self, word: &str) -> Option<usize> {
        self.rest.starts_with(word).then_some(word.len())
    }

    fn space(&mut self) {
        let rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
        let (space, _) = self.rest.split_at(self.rest.len() - rest.len());
        self.out.push_str(space);
        self.rest = rest;
    }

    fn copy(&mut self, length: usize) -> Option<()> {
        let (copied, rest) = self.rest.split_at_checked(length)?;
        self.out.push_str(copied);
        self.rest = rest;
        Some(())
    }
}

/// The length of the string that the text begins with, quotes included.
fn string_length(text: &str) -> Option<usize> {
    let mut escaped = false;
    let mut bytes = text.bytes().enumerate();
    if bytes.next()?.1 != b'"' {
        return None;
    }
    for (at, byte) in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// Whether a string as it is written between its quotes is this key.
fn is_key(raw: &str, key: &str) -> bool {
    if raw.contains('\\') {
        serde_json::from_str::<String>(&format!("\"{raw}\"")).is_ok_and(|decoded| decoded == key)
    } else {
        raw == key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_leaf_is_masked_without_keys() {
        let masked =
            mask(r#"{"a": "x", "b": [1, -2.5e7, true, false, null, {}, []], "c": {"d": "y\"z"}}"#, &[]);
        assert_eq!(masked, r#"{"a": "***", "b": [0, 0, false, false, null, {}, []], "c": {"d": "***"}}"#);
        assert_eq!(mask("\"x\"", &[]), "\"***\"");
        assert_eq!(mask(" 12 ", &[]), " 0 ");
    }

    #[test]
    fn keys_are_found_at_every_depth() {
        let masked =
            mask(r#"{"id": 7, "ssn": "1", "k": [{"ssn": {"x": [1, "2"]}, "z": "shown"}]}"#, &["ssn"]);
        assert_eq!(masked, r#"{"id": 7, "ssn": "***", "k": [{"ssn": {"x": [0, "***"]}, "z": "shown"}]}"#);
    }

    #[test]
    fn an_escaped_key_is_the_same_key() {
        assert_eq!(mask(r#"{"\u0073sn": "1"}"#, &["ssn"]), r#"{"\u0073sn": "***"}"#);
        assert_eq!(mask(r#"{"s\"n": "1"}"#, &["s\"n"]), r#"{"s\"n": "***"}"#);
    }

    #[test]
    fn what_is_not_masked_stays_to_the_letter() {
        let text = r#"{"n": 1.000000000000000000000000000000000001e400, "n": 2,  "s": "\u00e9\/"}"#;
        assert_eq!(mask(text, &["other"]), text);
    }

    #[test]
    fn what_is_no_json_is_masked_as_a_whole() {
        for text in ["", "{", "[1,", "{\"a\" 1}", "x", "1 2", "{\"a\":1]", "\"open"] {
            assert_eq!(mask(text, &["k"]), "\"***\"", "{text}");
        }
    }

    #[test]
    fn no_depth_is_too_deep() {
        let depth = 200_000;
        let text = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(mask(&text, &[]), text.replace('1', "0"));
    }

    fn document() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(serde_json::Value::from),
            any::<i64>().prop_map(serde_json::Value::from),
            "\\PC*".prop_map(|text| serde_json::Value::from(format!("canary{text}"))),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(serde_json::Value::from),
                prop::collection::vec(("\\PC{0,5}", inner), 0..5)
                    .prop_map(|pairs| serde_json::Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_masked_document_is_one_and_shows_nothing(document in document()) {
            let masked = mask(&document.to_string(), &[]);
            prop_assert!(!masked.contains("canary"));
            prop_assert!(serde_json::from_str::<serde_json::Value>(&masked).is_ok());
        }

        #[test]
        fn no_text_panics(text in "\\PC*", key in "\\PC{0,3}") {
            let _ = mask(&text, &[&key]);
        }
    }
}
