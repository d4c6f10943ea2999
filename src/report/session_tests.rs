//! Hostile texts in every field leave the page's elements as they are.

use proptest::prelude::*;

use super::*;

fn with(text: &str) -> Session {
    let event = |seq: i64, level: i64| Event {
        seq,
        at: seq,
        duration: Some(10),
        level,
        event: "statement".into(),
        command: Some(text.into()),
        statement: Some(text.into()),
        parameters: Some(vec![Some(text.into()), None]),
        accesses: Some(vec![Access {
            action: text.into(),
            object: Some(text.into()),
            columns: Some(text.into()),
            decision: Some("deny".into()),
            ..Access::default()
        }]),
        decision: Some("deny".into()),
        sqlstate: Some(text.into()),
        message: Some(text.into()),
        truncated: Some(vec![text.into()]),
        ..Event::default()
    };
    let allowed = Event { decision: Some("allow".into()), sqlstate: None, ..event(3, 0) };
    Session {
        session_id: text.into(),
        window_id: Some(text.into()),
        lineage: vec![text.into(), text.into()],
        block_ids: vec![text.into()],
        policy: Some(text.into()),
        role: Some(text.into()),
        database: text.into(),
        client_addr: Some(text.into()),
        application_name: Some(text.into()),
        state: Some(text.into()),
        granted_by: Some(text.into()),
        reason: Some(text.into()),
        events: vec![event(1, 0), Event { event: text.into(), ..event(2, 0) }, allowed],
        ..Session::default()
    }
}

/// The page without its texts: the tags with their attributes' names, which no text may change.
fn skeleton(page: &str) -> Vec<String> {
    let tags = page.split('<').skip(1).map(|tag| tag.split_once('>').unwrap().0);
    let shown = tags.filter(|tag| *tag != "span class=\"h\"" && *tag != "/span");
    shown.map(|tag| tag.split('"').step_by(2).collect::<String>()).collect()
}

#[test]
fn the_page_tells_of_the_session() {
    let mut told = with("plain");
    told.events[0].message = Some("no rule allows it".into());
    told.left_out = 12_345;
    let page = session(&told);
    for words in ["no rule allows it", "12,345", "1970-01-01 00:00:00", "would be denied", " NULL"] {
        assert!(page.contains(words), "{words}");
    }
    assert_eq!(page.matches("<article").count(), 3);
}

#[test]
fn known_ways_out_lead_nowhere() {
    let expected = skeleton(&session(&with("plain")));
    for text in [
        "</script><script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "' onmouseover='alert(1)",
        "--></style><!-- <![CDATA[",
        "</title></pre></article></svg><iframe>",
        "\u{202e}\u{2028}\u{2029}\u{0}\u{1b}[2J",
        "&lt;script&gt;&#x3c;",
        "javascript:alert(1)",
    ] {
        let page = session(&with(text));
        assert_eq!(skeleton(&page), expected, "{text}");
        assert!(page.is_ascii());
        assert!(!page.contains("<script>alert") && !page.contains("<img"));
    }
}

proptest! {
    #[test]
    fn no_text_changes_the_page(text in "(?s)(.|[<>&\"'/=!\\-]|script|style|\u{202e}|\u{0}){1,30}") {
        prop_assume!(!text.trim_end_matches(|c: char| c == ';' || c.is_ascii_whitespace()).is_empty());
        prop_assert_eq!(skeleton(&session(&with(&text))), skeleton(&session(&with("plain"))));
    }
}
