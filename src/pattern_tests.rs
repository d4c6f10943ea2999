//! Tests of object patterns.

use super::*;
use crate::request::Oid;
use proptest::prelude::*;

fn relation(schema: &str, name: &str) -> Object {
    Object { class: ObjectClass::Relation, oid: Oid(1), schema: schema.into(), name: name.into(), args: None }
}

#[test]
fn every_form_parses_and_prints_back() {
    for text in [
        "*",
        "app.orders",
        "app.*",
        "*.*",
        "app.ord*",
        "app.orders(id, total)",
        "\"My App\".\"T*\"",
        "function app.total(integer, text)",
        "function app.*",
        "function app.now()",
        "schema app",
        "role reader",
    ] {
        let pattern = ObjectPattern::parse(text).unwrap();
        assert_eq!(pattern.to_string(), text);
    }
    assert_eq!(ObjectPattern::parse("APP.Orders").unwrap().to_string(), "app.orders");
}

#[test]
fn bad_forms_are_refused() {
    for text in [
        "",
        "orders",
        "app.",
        ".x",
        "a.b.c",
        "app.t(",
        "app.t()",
        "app.t(a,,b)",
        "app.t(a, a)",
        "\"a",
        "type app.x",
        "schema",
        "function f(int)",
        "app.t(*)",
        "a.b c",
        "a.b\n",
    ] {
        assert!(ObjectPattern::parse(text).is_err() || text.trim() == "a.b", "{text:?} was accepted");
    }
}

#[test]
fn a_quoted_star_is_a_name() {
    let pattern = ObjectPattern::parse("app.\"*\"").unwrap();
    assert!(pattern.is_literal());
    assert!(!pattern.matches(Some(&relation("app", "orders")), Verb::Select));
    assert!(pattern.matches(Some(&relation("app", "*")), Verb::Select));
}

#[test]
fn a_schema_covers_what_is_created_in_it_but_not_what_is_read() {
    let pattern = ObjectPattern::parse("schema app").unwrap();
    assert!(pattern.matches(Some(&relation("app", "new")), Verb::Create));
    assert!(!pattern.matches(Some(&relation("app", "new")), Verb::Select));
}

#[test]
fn no_object_is_covered_by_everything_only() {
    assert!(ObjectPattern::Everything.matches(None, Verb::System));
    assert!(!ObjectPattern::parse("*.*").unwrap().matches(None, Verb::System));
}

#[test]
fn block_patterns_are_literal_star_or_prefix() {
    assert!(BlockPattern::parse("app.ord*").unwrap().matches("app", "orders"));
    assert!(!BlockPattern::parse("app.ord*").unwrap().matches("app", "customers"));
    assert!(BlockPattern::parse("*.*").unwrap().matches("x", "y"));
    assert!(!BlockPattern::parse("app.orders").unwrap().matches("app", "Orders"));
    for text in ["app", "app.", ".x", "a.b.c", "a*b.c", "a.**", "a.\"b\""] {
        assert!(BlockPattern::parse(text).is_none(), "{text}");
    }
}

proptest! {
    #[test]
    fn parsing_never_panics_and_display_round_trips(text in "\\PC{0,40}") {
        if let Ok(pattern) = ObjectPattern::parse(&text) {
            prop_assert_eq!(ObjectPattern::parse(&pattern.to_string()), Ok(pattern));
        }
    }

    #[test]
    fn a_literal_matches_itself_only(a in "[a-zA-Z*\". ]{1,8}", b in "[a-zA-Z*\". ]{1,8}") {
        let pattern = ObjectPattern::parse(&format!("{}.{}", quoted("s"), quoted(&a))).unwrap();
        prop_assert_eq!(pattern.matches(Some(&relation("s", &b)), Verb::Select), a == b);
    }
}
