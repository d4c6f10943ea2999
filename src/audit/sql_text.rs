//! SQL text in pieces: where comments, literals and names begin and end, and what literals say. Nothing is judged here.
//!
//! Takes any text, also one that was cut: what is not ended goes to the text's end.

#![forbid(unsafe_code)]

use std::borrow::Cow;

/// What a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// White space.
    Blank,
    /// A comment; what it says lies within.
    Comment,
    /// A word or a number without quotes.
    Word,
    /// A name in double quotes.
    Name,
    /// `'...'`.
    Plain,
    /// `E'...'`.
    Escape,
    /// `U&'...'`, and `U&"..."` as a name.
    Unicode,
    /// `$tag$...$tag$`.
    Dollar,
    /// `$1`.
    Parameter,
    /// One character of anything else.
    Other,
}

/// A piece of a text.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// What it is.
    pub kind: Kind,
    /// Where it begins.
    pub start: usize,
    /// All of it.
    pub whole: &'a str,
    /// What lies within its quotes.
    pub within: &'a str,
    /// It is a name: `U&"..."` is one.
    pub name: bool,
}

impl Piece<'_> {
    /// Whether it is a string.
    pub fn is_literal(&self) -> bool {
        !self.name && matches!(self.kind, Kind::Plain | Kind::Escape | Kind::Unicode | Kind::Dollar)
    }

    /// What a literal or a name says.
    pub fn said(&self) -> Cow<'_, str> {
        let quote = if self.name { "\"\"" } else { "''" };
        match self.kind {
            Kind::Escape => Cow::Owned(unescaped(self.within)),
            Kind::Unicode => Cow::Owned(code_points(&self.within.replace(quote, &quote[..1]))),
            Kind::Plain | Kind::Name if self.within.contains(quote) => {
                Cow::Owned(self.within.replace(quote, &quote[..1]))
            }
            _ => Cow::Borrowed(self.within),
        }
    }
}

/// The pieces of a text. `escapes` reads plain literals as standard_conforming_strings = off has them.
pub fn pieces(text: &str, escapes: bool) -> Vec<Piece<'_>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let (kind, length, from, to, name) = first(rest, escapes);
        let whole = rest.get(..length).unwrap_or(rest);
        let within = rest.get(from..to.max(from)).unwrap_or(whole);
        found.push(Piece { kind, start: at, whole, within, name });
        at = at.saturating_add(length.max(1));
    }
    found
}

/// The one of several statements in which a byte of the text lies, with the comments before it; the whole text where that cannot
/// be told: the body of a function written with BEGIN ATOMIC has semicolons of its own, and what a backslash before a quote means
/// is the session's to say.
pub fn statement_at(text: &str, at: usize) -> &str {
    let (mut start, mut end) = (0, text.len());
    for piece in pieces(text, false) {
        match piece.kind {
            Kind::Word if piece.whole.eq_ignore_ascii_case("atomic") => return text,
            Kind::Plain if piece.within.contains('\\') => return text,
            Kind::Other if piece.whole == ";" && piece.start < at => start = piece.start.saturating_add(1),
            Kind::Other if piece.whole == ";" => end = end.min(piece.start),
            _ => {}
        }
    }
    text.get(start..end).map_or(text, str::trim)
}

/// The first piece: its kind and length, what lies within it, whether it is a name.
fn first(rest: &str, escapes: bool) -> (Kind, usize, usize, usize, bool) {
    let bytes = rest.as_bytes();
    let byte = |at: usize| bytes.get(at).copied().unwrap_or(0);
    let quoted = |kind: Kind, open: usize, quote: u8, escapes: bool| {
        let (end, length) = closed(bytes, open, quote, escapes);
        (kind, length, open, end, quote == b'"')
    };
    let run = |of: &dyn Fn(char) -> bool| rest.find(|c: char| !of(c)).unwrap_or(rest.len());
    match (byte(0), byte(1), byte(2)) {
        (b'\'', ..) => quoted(Kind::Plain, 1, b'\'', escapes),
        (b'"', ..) => quoted(Kind::Name, 1, b'"', false),
        (b'e' | b'E', b'\'', _) => quoted(Kind::Escape, 2, b'\'', true),
        (b'b' | b'B' | b'x' | b'X' | b'n' | b'N', b'\'', _) => quoted(Kind::Plain, 2, b'\'', escapes),
        (b'u' | b'U', b'&', quote @ (b'\'' | b'"')) => quoted(Kind::Unicode, 3, quote, false),
        (b'-', b'-', _) => {
            let end = rest.find('\n').unwrap_or(rest.len());
            (Kind::Comment, end, 2, end, false)
        }
        (b'/', b'*', _) => {
            let (end, length) = comment(bytes);
            (Kind::Comment, length, 2, end, false)
        }
        (b'$', next, _) if next.is_ascii_digit() => {
            let digits = bytes.iter().skip(1).take_while(|byte| byte.is_ascii_digit()).count();
            (Kind::Parameter, digits.saturating_add(1), 0, 0, false)
        }
        (b'$', ..) => match dollar(rest) {
            Some((from, to, length)) => (Kind::Dollar, length, from, to, false),
            None => (Kind::Other, 1, 0, 1, false),
        },
        (one, ..) if one.is_ascii_whitespace() => {
            let length = run(&|c| c.is_ascii_whitespace());
            (Kind::Blank, length, 0, length, false)
        }
        (one, ..) if one.is_ascii_alphanumeric() || one == b'_' || one >= 0x80 => {
            let length = run(&|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '$') || !c.is_ascii());
            (Kind::Word, length, 0, length, false)
        }
        _ => (Kind::Other, 1, 0, 1, false),
    }
}

/// Where what stands in quotes ends, and the whole behind its quote.
fn closed(bytes: &[u8], open: usize, quote: u8, escapes: bool) -> (usize, usize) {
    let mut at = open;
    while let Some(byte) = bytes.get(at) {
        let next = bytes.get(at.saturating_add(1));
        if (escapes && *byte == b'\\') || (*byte == quote && next == Some(&quote)) {
            at = at.saturating_add(2);
        } else if *byte == quote {
            return (at, at.saturating_add(1));
        } else {
            at = at.saturating_add(1);
        }
    }
    (bytes.len(), bytes.len())
}

/// Comments nest.
fn comment(bytes: &[u8]) -> (usize, usize) {
    let (mut at, mut depth) = (2_usize, 1_usize);
    while let Some(two) = bytes.get(at..at.saturating_add(2)) {
        match two {
            b"*/" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return (at, at.saturating_add(2));
                }
                at = at.saturating_add(2);
            }
            b"/*" => {
                depth = depth.saturating_add(1);
                at = at.saturating_add(2);
            }
            _ => at = at.saturating_add(1),
        }
    }
    (bytes.len(), bytes.len())
}

/// What a dollar-quoted literal holds, and how long it is; `None` where none begins.
fn dollar(rest: &str) -> Option<(usize, usize, usize)> {
    let tag = rest.get(1..)?.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || !c.is_ascii()))?;
    let from = tag.checked_add(2)?;
    let delimiter = rest.get(..from).filter(|delimiter| delimiter.ends_with('$'))?;
    match rest.get(from..)?.find(delimiter) {
        Some(length) => {
            let to = from.checked_add(length)?;
            Some((from, to, to.checked_add(from)?))
        }
        None => Some((from, rest.len(), rest.len())),
    }
}

/// What stands within `E'...'`.
fn unescaped(within: &str) -> String {
    let mut said: Vec<u8> = Vec::with_capacity(within.len());
    let mut rest = within;
    while let Some(c) = rest.chars().next() {
        rest = rest.get(c.len_utf8()..).unwrap_or("");
        if c == '\'' {
            rest = rest.strip_prefix('\'').unwrap_or(rest);
        }
        let escaped = if c == '\\' { rest.chars().next() } else { None };
        let Some(escaped) = escaped else {
            said.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        };
        let (digits, most, radix) = match escaped {
            'x' => (rest.get(1..), 2, 16),
            'u' => (rest.get(1..), 4, 16),
            'U' => (rest.get(1..), 8, 16),
            '0'..='7' => (Some(rest), 3, 8),
            _ => (None, 0, 10),
        };
        let digits = digits.map_or("", |digits| {
            let end = digits.bytes().take(most).take_while(|byte| char::from(*byte).is_digit(radix)).count();
            digits.get(..end).unwrap_or("")
        });
        match u32::from_str_radix(digits, radix) {
            Ok(value) => {
                let prefix = if radix == 16 { 1 } else { 0 };
                rest = rest.get(digits.len().saturating_add(prefix)..).unwrap_or("");
                match (escaped, u8::try_from(value)) {
                    // One byte of the text's encoding.
                    ('x' | '0'..='7', Ok(byte)) => said.push(byte),
                    _ => {
                        let c = char::from_u32(value).unwrap_or(char::REPLACEMENT_CHARACTER);
                        said.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                    }
                }
            }
            Err(_) => {
                rest = rest.get(escaped.len_utf8()..).unwrap_or("");
                let c = match escaped {
                    'b' => '\u{8}',
                    'f' => '\u{c}',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    other => other,
                };
                said.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
    }
    String::from_utf8_lossy(&said).into_owned()
}

/// What stands within `U&'...'`: `\XXXX` and `\+XXXXXX`.
fn code_points(within: &str) -> String {
    let mut said = String::with_capacity(within.len());
    let mut rest = within;
    while let Some(at) = rest.find('\\') {
        said.push_str(rest.get(..at).unwrap_or(""));
        let behind = rest.get(at.saturating_add(1)..).unwrap_or("");
        let (digits, behind) = match behind.strip_prefix('+') {
            Some(behind) => (behind.get(..6), behind.get(6..)),
            None => (behind.get(..4), behind.get(4..)),
        };
        match digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()).and_then(char::from_u32) {
            Some(c) => {
                said.push(c);
                rest = behind.unwrap_or("");
            }
            None => {
                said.push('\\');
                let behind = rest.get(at.saturating_add(1)..).unwrap_or("");
                rest = behind.strip_prefix('\\').unwrap_or(behind);
            }
        }
    }
    said.push_str(rest);
    said
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kinds(text: &str) -> Vec<(Kind, String)> {
        let found = pieces(text, false);
        found
            .iter()
            .filter(|piece| piece.kind != Kind::Blank)
            .map(|piece| (piece.kind, piece.said().into_owned()))
            .collect()
    }

    #[test]
    fn a_place_is_in_one_statement_of_several() {
        let at = |text: &'static str| super::statement_at(text, text.find('X').unwrap_or(0));
        assert_eq!(at("select 1; select X; select 3"), "select X");
        assert_eq!(at("select X"), "select X");
        assert_eq!(
            at("select ';'; /* a;b */ select ';', X, $$;$$, \";\" -- c;\n ; d"),
            "/* a;b */ select ';', X, $$;$$, \";\" -- c;"
        );
        assert_eq!(at("a; X"), "X");
        assert_eq!(at("X;"), "X");
        for whole in
            ["a; create function f() begin atomic select 1; select X; end; b", "a; select '\\'; X'; b"]
        {
            assert_eq!(at(whole), whole);
        }
    }

    #[test]
    fn literals_say_what_the_server_reads() {
        for (text, kind, said) in [
            ("'it''s'", Kind::Plain, "it's"),
            ("'a\\'", Kind::Plain, "a\\"),
            ("E'a\\'b\\x41\\101\\u00e9\\n\\q''c'", Kind::Escape, "a'bAAé\nq'c"),
            ("E'\\xc3\\xa9'", Kind::Escape, "é"),
            ("U&'p\\0061ss\\+000041\\\\'", Kind::Unicode, "passA\\"),
            ("U&\"tok\\0065n\"\"x\"", Kind::Unicode, "token\"x"),
            ("$a$it's $b$ $a$", Kind::Dollar, "it's $b$ "),
            ("$$cut", Kind::Dollar, "cut"),
            ("'cut", Kind::Plain, "cut"),
            ("E'cut\\", Kind::Escape, "cut\\"),
            ("\"a \"\"b\"", Kind::Name, "a \"b"),
            ("/* a /* b */ c */", Kind::Comment, " a /* b */ c "),
            ("-- a 'b'", Kind::Comment, " a 'b'"),
            ("$12", Kind::Parameter, ""),
        ] {
            assert_eq!(kinds(text), [(kind, said.to_owned())], "{text}");
        }
        assert_eq!(kinds("a$b$c$b$"), [(Kind::Word, "a$b$c$b$".to_owned())]);
        let words: Vec<_> =
            pieces("select a.b->>'c',$1/*x*/--y\n::int", false).iter().map(|piece| piece.kind).collect();
        assert_eq!(words.len(), 17, "{words:?}");
        assert_eq!(pieces("'a\\'z' c", true).len(), 3);
        assert_eq!(pieces("'a\\'z' c", false).len(), 3);
    }

    proptest! {
        #[test]
        fn pieces_are_the_whole_text(text in "(?s)(.{0,3}|'|''|\"|\\$|\\$a\\$|E'|U&'|U&\"|\\\\|/\\*|\\*/|--|\n){0,30}", escapes: bool) {
            let found = pieces(&text, escapes);
            prop_assert_eq!(&found.iter().map(|piece| piece.whole).collect::<String>(), &text);
            for piece in &found {
                let _ = piece.said();
            }
        }
    }
}
