//! Names and values as SQL text. The only way in which either gets into generated SQL.

#![forbid(unsafe_code)]

/// An identifier, always quoted: whatever characters a name has, it stays one name.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string literal that reads the same whatever `standard_conforming_strings` says.
pub fn literal(value: &str) -> String {
    let doubled = value.replace('\'', "''");
    if doubled.contains('\\') {
        format!("E'{}'", doubled.replace('\\', "\\\\"))
    } else {
        format!("'{doubled}'")
    }
}

/// A `text[]` constructor of string literals.
pub fn literals(values: &[String]) -> String {
    let list: Vec<_> = values.iter().map(|value| literal(value)).collect();
    format!("ARRAY[{}]::pg_catalog.text[]", list.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_cannot_end_its_quotes() {
        assert_eq!(identifier("x\"; drop table t; --"), "\"x\"\"; drop table t; --\"");
    }

    #[test]
    fn a_backslash_is_one_under_either_setting() {
        assert_eq!(literal("a\\'; drop"), "E'a\\\\''; drop'");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literals(&["a".to_owned(), "b'".to_owned()]), "ARRAY['a', 'b''']::pg_catalog.text[]");
    }

    /// The value that PostgreSQL's lexer reads from a literal.
    fn read(literal: &str) -> Option<String> {
        let (escapes, body) = match literal.strip_prefix('E') {
            Some(rest) => (true, rest),
            None => (false, literal),
        };
        let mut chars = body.strip_prefix('\'')?.strip_suffix('\'')?.chars();
        let mut value = String::new();
        while let Some(c) = chars.next() {
            match c {
                '\'' => (chars.next()? == '\'').then(|| value.push('\''))?,
                '\\' if escapes => (chars.next()? == '\\').then(|| value.push('\\'))?,
                '\\' => return None,
                other => value.push(other),
            }
        }
        Some(value)
    }

    proptest! {
        #[test]
        fn what_is_quoted_reads_back(value in "\\PC*") {
            prop_assert_eq!(read(&literal(&value)), Some(value.clone()));
            let name = identifier(&value);
            let inner = name.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or_default();
            prop_assert_eq!(inner.replace("\"\"", ""), value.replace('"', ""));
            prop_assert_eq!(inner.replace("\"\"", "\""), value);
        }
    }
}
