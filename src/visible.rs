//! Which characters a reader would not see, or would see in another place than they stand.
//!
//! Recorded texts are the agent's: what shows them, in a terminal or on a page, shows these characters by name, so that
//! no text drives the terminal, hides a part of itself or turns the line around. How they are drawn is not decided here.

#![forbid(unsafe_code)]

/// A part of a text: what can be shown as it is, or one character that cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Shown as it is.
    Plain(&'a str),
    /// Shown by name.
    Hidden(char),
}

/// Whether a character is to be shown by name: controls, separators of lines, marks of direction and what has no width.
pub fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(
            u32::from(c),
            0xAD | 0x34F
                | 0x61C
                | 0x115F
                | 0x1160
                | 0x17B4
                | 0x17B5
                | 0x180B..=0x180F
                | 0x200B..=0x200F
                | 0x2028..=0x202E
                | 0x2060..=0x206F
                | 0x3164
                | 0xFE00..=0xFE0F
                | 0xFEFF
                | 0xFFA0
                | 0xFFF0..=0xFFFB
                | 0xE0000..=0xE0FFF
                // What stands for a byte that is part of no character (lossless).
                | 0x10FF00..=0x10FFFF
        )
}

/// The pieces of a text; `keep` names the hidden characters that the place where it is shown deals with itself.
pub fn pieces(text: &str, keep: fn(char) -> bool) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let shown_by_name = |c: char| is_hidden(c) && !keep(c);
        if shown_by_name(first) {
            rest = rest.get(first.len_utf8()..).unwrap_or("");
            return Some(Piece::Hidden(first));
        }
        let end = rest.find(shown_by_name).unwrap_or(rest.len());
        let (plain, behind) = rest.split_at_checked(end).unwrap_or((rest, ""));
        rest = behind;
        Some(Piece::Plain(plain))
    })
}

/// The name of a hidden character: `^[` for the ASCII controls, as terminals print them, `U+202E` for the others.
pub fn name(c: char) -> String {
    match u32::from(c) {
        byte @ 0x10FF00..=0x10FFFF => format!("\\x{:02x}", byte & 0xFF),
        code @ 0..=0x1F => format!("^{}", char::from_u32(code + 0x40).unwrap_or('?')),
        0x7F => "^?".to_owned(),
        code => format!("U+{code:04X}"),
    }
}

/// How many places a text takes, with what is hidden shown by name.
pub fn width(text: &str, keep: fn(char) -> bool) -> usize {
    let one = |piece| match piece {
        Piece::Plain(plain) => plain.chars().count(),
        Piece::Hidden(c) => name(c).len(),
    };
    pieces(text, keep).map(one).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> String {
        pieces(text, |c| c == '\n')
            .map(|piece| match piece {
                Piece::Plain(plain) => plain.to_owned(),
                Piece::Hidden(c) => format!("<{}>", name(c)),
            })
            .collect()
    }

    #[test]
    fn hidden_characters_are_named() {
        assert_eq!(shown("select\t1\u{1b}[2J\nx"), "select<^I>1<^[>[2J\nx");
        assert_eq!(
            shown("a\u{202e}b\u{2028}c\u{7f}d\u{9b}e\u{e0041}"),
            "a<U+202E>b<U+2028>c<^?>d<U+009B>e<U+E0041>"
        );
        assert_eq!(shown("gr\u{fc}\u{df} \u{1f600} \u{5d0}"), "gr\u{fc}\u{df} \u{1f600} \u{5d0}");
        assert_eq!(shown(""), "");
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_hidden_is_plain(text in "(?s)(.|[\u{0}-\u{1f}]|[\u{2000}-\u{206f}]){0,40}") {
            let mut back = String::new();
            for piece in pieces(&text, |_| false) {
                match piece {
                    Piece::Plain(plain) => {
                        prop_assert!(!plain.is_empty() && !plain.chars().any(is_hidden));
                        back.push_str(plain);
                    }
                    Piece::Hidden(c) => {
                        prop_assert!(is_hidden(c) && name(c).is_ascii());
                        back.push(c);
                    }
                }
            }
            prop_assert_eq!(back, text);
        }
    }
}
