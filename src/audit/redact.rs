//! Secrets out of statement text, before anything keeps it.
//!
//! Works on text alone, so it may take out too much, never on purpose too little: tokens and proofs of agent_guard
//! wherever they stand, what follows PASSWORD, the value of agent_guard.token, and passwords in connection strings.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};

/// What stands in a secret's place.
pub const REDACTED: &str = "<redacted>";

/// A quoted literal, possibly unterminated: the text may have been cut within it. Doubled quotes stay inside. A
/// dollar-quoted one goes to the text's end: what might end it earlier may be part of the secret.
const LITERAL: &str = r"(?:[eEuU]?&?'(?:[^'\\]|''|\\.)*(?:'|\\?\z)|\$\w*\$(?s:.*))";

static SECRETS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let blank = r"(?:\s|/\*(?s:.*?)\*/|--[^\n]*(?:\n|\z))*";
    [
        // A token or a proof, whole or cut, in any position.
        (r"\bag([tp])1\.[A-Za-z0-9_.-]{8,}".to_owned(), "ag${1}1.<redacted>"),
        // PASSWORD 'x', password = 'x', OPTIONS (password 'x').
        (format!(r#"(?i)(\bpassword"?{blank}=?{blank}){LITERAL}"#), "${1}'<redacted>'"),
        // SET agent_guard.token = x | TO x, set_config('agent_guard.token', x, ...).
        (
            format!(
                r#"(?i)(\bagent_guard"?{blank}\.{blank}"?token["']?{blank}(?:=|,|\bto\b){blank})(?:{LITERAL}|[^\s;,)']+)"#
            ),
            "${1}'<redacted>'",
        ),
        // Connection strings: password=x, postgresql://user:x@host.
        (r"(?i)(\b(?:password|passwd|pgpassword|sslpassword)\s*=\s*)(?:''[^']*''|[^\s'&;]+)".to_owned(), "${1}<redacted>"),
        (r"(?i)(\b[a-z][a-z0-9+.-]*://[^\s/:@']*:)[^\s@']+@".to_owned(), "${1}<redacted>@"),
    ]
    .into_iter()
    .filter_map(|(pattern, with)| Regex::new(&pattern).ok().map(|regex| (regex, with)))
    .collect()
});

/// Cheap signs of a secret; a text with none of them is left alone at the cost of one scan.
static SIGN: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(?i)passw|pgpassword|agent_guard|ag[tp]1\.|://").ok());

/// The text without secrets; borrowed where it has none.
pub fn redact(text: &str) -> Cow<'_, str> {
    if SIGN.as_ref().is_some_and(|sign| !sign.is_match(text)) {
        return Cow::Borrowed(text);
    }
    let mut clean = Cow::Borrowed(text);
    for (regex, with) in SECRETS.iter() {
        let replaced = match regex.replace_all(&clean, |captures: &Captures| {
            let mut replacement = String::new();
            captures.expand(with, &mut replacement);
            replacement
        }) {
            Cow::Borrowed(_) => continue,
            Cow::Owned(replaced) => replaced,
        };
        clean = Cow::Owned(replaced);
    }
    clean
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_pattern_compiles() {
        assert_eq!(SECRETS.len(), 5);
        assert!(SIGN.is_some());
    }

    #[test]
    fn ordinary_statements_are_left_alone() {
        for text in ["select 1", "select password from users where id = 1", "select 'https://example.org/a'"]
        {
            assert_eq!(redact(text), text);
        }
        assert!(matches!(redact("select 1"), Cow::Borrowed(_)));
    }

    #[test]
    fn secrets_are_taken_out() {
        for (text, clean) in [
            ("ALTER ROLE a PASSWORD 's3cret'", "ALTER ROLE a PASSWORD '<redacted>'"),
            ("alter role a password E's3\\'cret' login", "alter role a password '<redacted>' login"),
            ("alter role a password 's3''cret' login", "alter role a password '<redacted>' login"),
            (
                "alter role a encrypted password /* x */ $a$s3cret$a$",
                "alter role a encrypted password /* x */ '<redacted>'",
            ),
            ("alter role a password $a$x$b$s3cret$a$ login", "alter role a password '<redacted>'"),
            ("alter role a password 's3cre", "alter role a password '<redacted>'"),
            (
                "create user mapping for a server s options (user 'b', password 's3cret')",
                "create user mapping for a server s options (user 'b', password '<redacted>')",
            ),
            ("set agent_guard.token = 's3cret'", "set agent_guard.token = '<redacted>'"),
            (
                "SET LOCAL \"Agent_Guard\".\"Token\" TO s3cret;",
                "SET LOCAL \"Agent_Guard\".\"Token\" TO '<redacted>';",
            ),
            (
                "select set_config('agent_guard.token', 's3cret', false)",
                "select set_config('agent_guard.token', '<redacted>', false)",
            ),
            (
                "select dblink_connect('host=h password=s3cret user=b')",
                "select dblink_connect('host=h password=<redacted> user=b')",
            ),
            (
                "create subscription s connection 'postgresql://u:s3cret@h/d' publication p",
                "create subscription s connection 'postgresql://u:<redacted>@h/d' publication p",
            ),
            ("-- agt1.AAAAAAAAAAAAAAAAAAAAAAAAAAA.s3cret.s3cret", "-- agt1.<redacted>"),
        ] {
            assert_eq!(redact(text), clean);
            assert!(!redact(text).contains("s3cre"));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken(text in "(?s)(.{0,5}|password|agent_guard|token|'|\\$|=|://|@| |;|\\\\|/\\*){0,30}") {
            let once = redact(&text).into_owned();
            prop_assert_eq!(redact(&once).is_empty(), text.is_empty());
        }

        #[test]
        fn tokens_never_pass(before in ".{0,20}", body in "[A-Za-z0-9_-]{20,60}") {
            let text = format!("{before} agt1.{body}");
            prop_assert!(!redact(&text).contains(&body));
        }
    }
}
