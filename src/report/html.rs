//! HTML under construction: markup comes from literals of this crate alone, everything else is escaped.

#![forbid(unsafe_code)]

use std::fmt::Write;

use crate::visible::{self, Piece};

/// A page or a part of one.
#[derive(Default)]
pub struct Html(String);

impl Html {
    /// Markup. Only a literal can be passed, so no recorded text comes this way.
    pub fn raw(&mut self, markup: &'static str) -> &mut Html {
        self.0.push_str(markup);
        self
    }

    /// Any text, as text: markup in it is shown and not obeyed, what would not be seen is shown by name.
    pub fn text(&mut self, text: &str) -> &mut Html {
        for piece in visible::pieces(text, |c| c == '\n' || c == '\t') {
            match piece {
                Piece::Plain(plain) => self.escape(plain),
                Piece::Hidden(c) => {
                    self.0.push_str("<span class=\"h\">");
                    self.escape(&visible::name(c));
                    self.0.push_str("</span>");
                }
            }
        }
        self
    }

    /// Any text in an element of its own whose direction does not reach what stands beside it.
    pub fn isolated(&mut self, text: &str) -> &mut Html {
        self.raw("<bdi>").text(text).raw("</bdi>")
    }

    /// Any text as an attribute's value, with its quotes.
    pub fn quoted(&mut self, text: &str) -> &mut Html {
        self.0.push('"');
        for piece in visible::pieces(text, |_| false) {
            match piece {
                Piece::Plain(plain) => self.escape(plain),
                Piece::Hidden(' ' | '\n' | '\t') => self.0.push(' '),
                Piece::Hidden(c) => self.escape(&visible::name(c)),
            }
        }
        self.0.push('"');
        self
    }

    /// A number.
    pub fn number(&mut self, number: impl Into<i128>) -> &mut Html {
        // Writing to a String cannot fail.
        let _ = write!(self.0, "{}", number.into());
        self
    }

    /// Another part.
    pub fn part(&mut self, part: &Html) -> &mut Html {
        self.0.push_str(&part.0);
        self
    }

    /// The text of it.
    pub fn into_string(self) -> String {
        self.0
    }

    fn escape(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                c if c.is_ascii() => self.0.push(c),
                c => {
                    let _ = write!(self.0, "&#x{:x};", u32::from(c));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn markup_in_a_text_is_text() {
        let mut html = Html::default();
        html.raw("<p>").text("</p><script>alert('1')</script>\u{202e}&amp; \u{e9}").raw("</p>");
        assert_eq!(
            html.into_string(),
            "<p>&lt;/p&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;<span class=\"h\">U+202E</span>&amp;amp; &#xe9;</p>"
        );
        let mut html = Html::default();
        html.raw("<a title=").quoted("\" onclick='x'\n\u{1b}").raw(">");
        assert_eq!(html.into_string(), "<a title=\"&quot; onclick=&#39;x&#39; ^[\">");
    }

    /// What a browser makes of the escaped text.
    fn unescape(html: &str) -> String {
        let mut text = String::new();
        let mut rest = html;
        while let Some((before, entity)) = rest.split_once('&') {
            text.push_str(before);
            let (entity, behind) = entity.split_once(';').unwrap();
            match entity {
                "amp" => text.push('&'),
                "lt" => text.push('<'),
                "gt" => text.push('>'),
                "quot" => text.push('"'),
                "#39" => text.push('\''),
                hex => text.push(
                    char::from_u32(u32::from_str_radix(hex.trim_start_matches("#x"), 16).unwrap()).unwrap(),
                ),
            }
            rest = behind;
        }
        text + rest
    }

    proptest! {
        #[test]
        fn any_text_stays_within_its_element(text in "(?s)(.|[<>&\"'\u{0}-\u{1f}\u{202a}-\u{202e}]){0,40}") {
            let mut html = Html::default();
            html.text(&text);
            let html = html.into_string();
            prop_assert!(html.is_ascii());
            let bare = html.replace("<span class=\"h\">", "").replace("</span>", "");
            prop_assert!(!bare.contains(['<', '>', '"', '\'']), "{}", bare);
            let plain: String = text.chars().filter(|c| !visible::is_hidden(*c)).collect();
            if plain == text {
                prop_assert_eq!(unescape(&html), text);
            }
        }

        #[test]
        fn any_text_stays_within_its_quotes(text in "(?s)(.|[<>&\"'\u{0}-\u{1f}\u{202a}-\u{202e}]){0,40}") {
            let mut html = Html::default();
            html.quoted(&text);
            let html = html.into_string();
            let inside = html.strip_prefix('"').and_then(|html| html.strip_suffix('"')).unwrap();
            prop_assert!(inside.is_ascii() && !inside.contains(['<', '>', '"', '\'', '\n']));
        }
    }
}
