//! Where a statement begins in a text of several: with the comments before its first word, which tag it for rules and people.
//!
//! Only blanks and comments are read, so nothing here depends on how the server reads strings. Where more than one place may
//! be the beginning, it is the first: that takes in more of what was sent, and never less.

#![forbid(unsafe_code)]

/// How far back comments are looked for.
const REACH: usize = 8192;
/// How many places are tried.
const TRIES: usize = 64;

/// The beginning of what leads up to the word at `start` by nothing but blanks and comments: the text's own, or what follows a
/// semicolon.
pub fn comments(text: &[u8], start: usize) -> usize {
    let Some(before) = text.get(..start) else { return start };
    if before.is_empty() || before.ends_with(b";") {
        return start;
    }
    let from = start.saturating_sub(REACH);
    let after_semicolons =
        before.iter().enumerate().skip(from).filter(|(_, byte)| **byte == b';').map(|(at, _)| at + 1);
    let candidates = (from == 0).then_some(0).into_iter().chain(after_semicolons).take(TRIES);
    let leads = |at: &usize| before.get(*at..).is_some_and(is_blank);
    candidates.into_iter().find(leads).unwrap_or(start)
}

/// Whether a text is nothing but blanks and whole comments; block comments nest (scan.l).
fn is_blank(mut text: &[u8]) -> bool {
    loop {
        text = text.trim_ascii_start();
        let rest = match text {
            [] => return true,
            // Blank for the server, and not for trim_ascii_start.
            [0x0b, rest @ ..] => Some(rest),
            [b'-', b'-', rest @ ..] => {
                rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')).and_then(|at| rest.get(at..))
            }
            [b'/', b'*', rest @ ..] => after_block(rest),
            _ => None,
        };
        let Some(rest) = rest else { return false };
        text = rest;
    }
}

/// What follows a block comment that has been opened; `None` where it does not end.
fn after_block(mut text: &[u8]) -> Option<&[u8]> {
    let mut depth = 1_usize;
    while depth > 0 {
        text = match text {
            [b'/', b'*', rest @ ..] => {
                depth += 1;
                rest
            }
            [b'*', b'/', rest @ ..] => {
                depth -= 1;
                rest
            }
            [_, rest @ ..] => rest,
            [] => return None,
        };
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::comments;

    /// Finds the word `select 2`, and gives what a statement that begins there gets.
    fn text(source: &str) -> &str {
        let start = source.rfind("select 2").unwrap_or(0);
        source.get(comments(source.as_bytes(), start)..).unwrap_or_default().trim_ascii()
    }

    #[test]
    fn comments_before_a_statement_are_its_own() {
        for (source, expected) in [
            ("select 2", "select 2"),
            ("  select 2", "select 2"),
            ("/* a */ select 2", "/* a */ select 2"),
            (
                "-- a\n /* b /* c */ ; */ -- d; e\r\n\x0bselect 2",
                "-- a\n /* b /* c */ ; */ -- d; e\r\n\x0bselect 2",
            ),
            ("select 1; /* a;b */ select 2", "/* a;b */ select 2"),
            ("select 1;-- a; b\nselect 2", "-- a; b\nselect 2"),
            ("select 1;select 2", "select 2"),
            ("select 1; ; /* a */ select 2", "/* a */ select 2"),
            ("explain /* a */ select 2", "select 2"),
            ("select ';', 1; /* a */ select 2", "/* a */ select 2"),
            ("/* open select 2", "select 2"),
            ("-- all one line select 2", "select 2"),
        ] {
            assert_eq!(text(source), expected, "{source:?}");
        }
    }

    #[test]
    fn the_search_is_bounded() {
        let source = format!("/*{}*/ select 2", ";/*".repeat(400_000));
        assert_eq!(text(&source), "select 2");
        let source = format!("/*{}*/ select 2", " ".repeat(100_000));
        assert_eq!(text(&source), "select 2");
        assert_eq!(comments(b"select 2", 99), 99);
    }
}
