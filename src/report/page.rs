//! The frame of every page: one file without outside resources, for dark and light, wide and narrow screens.
//!
//! The content security policy in its head lets run exactly this crate's style and script, by their SHA-256: even a text
//! that got past the escaping would neither run nor load anything.

#![forbid(unsafe_code)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::html::Html;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// A whole page around its body.
pub fn page(title: &str, body: &Html) -> String {
    let mut html = Html::default();
    html.raw("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n")
        .raw("<meta http-equiv=\"Content-Security-Policy\" content=")
        .quoted(&policy())
        .raw(">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n")
        .raw("<meta name=\"referrer\" content=\"no-referrer\">\n<meta name=\"color-scheme\" content=\"light dark\">\n<title>")
        .text(title)
        .raw("</title>\n<style>")
        .raw(STYLE)
        .raw("</style>\n</head>\n<body>\n")
        .part(body)
        .raw("<script>")
        .raw(SCRIPT)
        .raw("</script>\n</body>\n</html>\n");
    html.into_string()
}

fn policy() -> String {
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; base-uri 'none'; form-action 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn style_and_script_stay_within_their_elements() {
        assert!(STYLE.is_ascii() && !STYLE.contains("</") && !STYLE.contains("url("));
        assert!(SCRIPT.is_ascii() && !SCRIPT.contains("</") && !SCRIPT.contains("<!--"));
        for word in ["innerHTML", "eval", "fetch", "document.write", "XMLHttp", "import"] {
            assert!(!SCRIPT.contains(word), "{word}");
        }
    }

    #[test]
    fn a_page_asks_for_nothing_from_outside() {
        let page = page("</title><script>", Html::default().raw("<p>body</p>"));
        assert!(page.starts_with("<!DOCTYPE html>") && page.is_ascii());
        assert!(page.contains("<title>&lt;/title&gt;&lt;script&gt;</title>"));
        assert_eq!(page.matches("<script").count(), 1);
        for word in ["http:", "https:", "src=", "@import"] {
            assert!(!page.contains(word), "{word}");
        }
    }
}
