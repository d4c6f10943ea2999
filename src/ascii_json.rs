//! JSON strings in ASCII alone: one line whatever they hold, in every encoding that a server or a log may have.

#![forbid(unsafe_code)]

use std::fmt::Write;

/// Appends a text as a JSON string.
pub fn push_string(text: &str, json: &mut String) {
    json.push('"');
    let mut units = [0; 2];
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                json.push('\\');
                json.push(c);
            }
            '\n' => json.push_str("\\n"),
            ' '..='~' => json.push(c),
            _ => {
                for unit in c.encode_utf16(&mut units) {
                    // Writing to a String cannot fail.
                    let _ = write!(json, "\\u{unit:04x}");
                }
            }
        }
    }
    json.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_string_is_one_line_of_ascii() {
        let mut json = String::new();
        push_string("a\"\\\n\t\u{7f}\u{e9}\u{2028}\u{1f600}", &mut json);
        assert_eq!(json, r#""a\"\\\n\u0009\u007f\u00e9\u2028\ud83d\ude00""#);
    }

    proptest! {
        #[test]
        fn any_text_comes_back(text in "(?s).{0,40}") {
            let mut json = String::new();
            push_string(&text, &mut json);
            prop_assert!(json.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        }
    }
}
