//! Tests of the policy document.

use super::*;
use crate::policy::rule::RawRule;
use crate::policy::written::{Difference, difference};

fn parse(text: &str) -> Result<PolicyDocument, RuleError> {
    PolicyDocument::parse(text)
}

fn path(text: &str) -> String {
    parse(text).expect_err(text).path
}

const WHOLE: &str = r#"{"name": "reporting", "description": "d", "mode": "observe",
    "groups": {"read": ["SELECT", "usage"]},
    "rules": [
      {"effect": "allow", "actions": ["read", "Drop  Table"], "objects": ["App.Orders"], "note": "n"},
      {"effect": "allow", "actions": ["update"], "objects": ["app.t"], "columns": ["a"], "require_where": true,
       "max_rows": 10, "statement_pattern": "^update"},
      {"effect": "deny", "actions": ["*"], "objects": ["schema secret"]},
      {"effect": "approve", "actions": ["drop"], "approvers": ["dba", "lead"], "approvals": 2,
       "approval_ttl": "90 min", "allow_granter": true, "max_wait": "2 min"}]}"#;

#[test]
fn a_document_reads_canonically() {
    let document = parse(WHOLE).unwrap();
    assert_eq!((document.name.as_str(), document.mode), ("reporting", Mode::Observe));
    assert_eq!(document.rules[0].raw.actions, ["select", "usage", "drop table"]);
    assert_eq!(document.rules[0].raw.objects, ["app.orders"]);
    assert_eq!(document.rules[1].raw.max_rows, Some(10));
    assert_eq!(document.rules[2].raw.effect, "deny");
    let approval = document.rules[3].raw.approval.as_ref().unwrap();
    assert_eq!(approval.approvers, ["dba", "lead"]);
    assert_eq!((approval.approvals, approval.ttl, approval.granter), (2, 5400, true));
    assert_eq!(approval.wait, Some(120));
}

#[test]
fn what_is_written_reads_back_without_a_difference() {
    let document = parse(WHOLE).unwrap();
    let again = parse(&document.to_json().to_string()).unwrap();
    assert_eq!(again.description, document.description);
    assert_eq!(difference(&document.rules, &again.rules), Difference::default());
    assert_eq!(again.to_json(), document.to_json());
}

#[test]
fn objects_default_to_everything_and_the_mode_to_enforce() {
    let document = parse(r#"{"name": "p", "rules": [{"effect": "allow", "actions": ["select"]}]}"#).unwrap();
    assert_eq!(document.rules[0].raw.objects, ["*"]);
    assert_eq!(document.mode, Mode::Enforce);
}

#[test]
fn errors_carry_the_path() {
    assert_eq!(path("[]"), "");
    assert_eq!(path("nonsense"), "");
    assert_eq!(path(r#"{"rules": []}"#), "name");
    assert_eq!(path(r#"{"name": 1, "rules": []}"#), "name");
    assert_eq!(path(r#"{"name": "", "rules": []}"#), "name");
    assert_eq!(path(r#"{"name": "a\u0007", "rules": []}"#), "name");
    assert_eq!(path(r#"{"name": "p"}"#), "rules");
    assert_eq!(path(r#"{"name": "p", "ruels": []}"#), "ruels");
    assert_eq!(path(r#"{"name": "p", "mode": "off", "rules": []}"#), "mode");
    assert_eq!(path(r#"{"name": "p", "description": null, "rules": []}"#), "description");
    assert_eq!(path(r#"{"name": "p", "rules": {}}"#), "rules");
    assert_eq!(path(r#"{"name": "p", "rules": [1]}"#), "rules[0]");
    assert_eq!(path(r#"{"name": "p", "groups": {"select": []}, "rules": []}"#), "groups.select");
    assert_eq!(path(r#"{"name": "p", "groups": {"g": ["fly"]}, "rules": []}"#), "groups.g[0]");
    let rule = |body: &str| path(&format!(r#"{{"name": "p", "rules": [{{{body}}}]}}"#));
    assert_eq!(rule(r#""effect": "allow", "actions": ["select", "fly"]"#), "rules[0].actions[1]");
    assert_eq!(rule(r#""effect": "allow", "actions": []"#), "rules[0].actions");
    assert_eq!(rule(r#""effect": "maybe", "actions": ["select"]"#), "rules[0].effect");
    assert_eq!(rule(r#""actions": ["select"]"#), "rules[0].effect");
    assert_eq!(rule(r#""effect": "allow", "actions": "select""#), "rules[0].actions");
    assert_eq!(
        rule(r#""effect": "allow", "actions": ["select"], "objects": ["orders"]"#),
        "rules[0].objects[0]"
    );
    assert_eq!(rule(r#""effect": "allow", "actions": ["select"], "max_rows": 1.5"#), "rules[0].max_rows");
    assert_eq!(rule(r#""effect": "allow", "actions": ["select"], "max_rows": -1"#), "rules[0].max_rows");
    assert_eq!(
        rule(r#""effect": "allow", "actions": ["select"], "require_where": 1"#),
        "rules[0].require_where"
    );
    assert_eq!(
        rule(r#""effect": "allow", "actions": ["select"], "statement_pattern": "(""#),
        "rules[0].statement_pattern"
    );
    assert_eq!(
        rule(r#""effect": "allow", "actions": ["select"], "statement_pattern": """#),
        "rules[0].statement_pattern"
    );
    assert_eq!(rule(r#""effect": "allow", "actions": ["select"], "columns": []"#), "rules[0].columns");
    assert_eq!(
        rule(r#""effect": "allow", "actions": ["select"], "columns": ["a", ""]"#),
        "rules[0].columns[1]"
    );
    assert_eq!(rule(r#""effect": "allow", "actions": ["select"], "maxrows": 1"#), "rules[0].maxrows");
    let approve = |body: &str| rule(&format!(r#""effect": "approve", "actions": ["drop"]{body}"#));
    assert_eq!(approve(""), "rules[0].approvers");
    assert_eq!(approve(r#", "approvers": []"#), "rules[0].approvers");
    assert_eq!(approve(r#", "approvers": ["a"], "approvals": 0"#), "rules[0].approvals");
    assert_eq!(approve(r#", "approvers": ["a"], "approvals": 4294967297"#), "rules[0].approvals");
    assert_eq!(approve(r#", "approvers": ["a"], "approval_ttl": "soon""#), "rules[0].approval_ttl");
    assert_eq!(approve(r#", "approvers": ["a"], "approval_ttl": "0 s""#), "rules[0].approval_ttl");
    assert_eq!(approve(r#", "approvers": ["a"], "max_wait": "2 hours""#), "rules[0].max_wait");
    assert_eq!(approve(r#", "approvers": ["a"], "max_rows": 1"#), "rules[0].max_rows");
    assert_eq!(approve(r#", "approvers": ["a"], "require_where": true"#), "rules[0].require_where");
    assert_eq!(rule(r#""effect": "allow", "actions": ["select"], "approvers": ["a"]"#), "rules[0].approvers");
    assert_eq!(rule(r#""effect": "allow", "actions": ["select"], "max_wait": "0 s""#), "rules[0].approvers");
}

#[test]
fn an_unknown_key_is_answered_with_the_near_one() {
    let error = parse(r#"{"name": "p", "ruels": []}"#).unwrap_err();
    assert!(error.hint.contains("\"rules\""), "{}", error.hint);
}

#[test]
fn deep_nesting_is_an_error_and_no_crash() {
    let text = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(path(&text), "");
}

#[test]
fn rules_are_compared_as_bags() {
    let rule = |id: i64, object: &str| WrittenRule {
        raw: RawRule {
            id,
            effect: "allow".into(),
            actions: vec!["select".into()],
            objects: vec![object.into()],
            ..RawRule::default()
        },
        note: None,
    };
    let present = [rule(1, "a.a"), rule(2, "a.b"), rule(3, "a.b")];
    let wanted = [rule(0, "a.b"), rule(0, "a.c"), rule(0, "a.a")];
    let found = difference(&present, &wanted);
    assert_eq!(found, Difference { missing: vec![1], superfluous: vec![3] });
}

#[test]
fn names_are_short_and_printable() {
    assert!(policy_name(&"x".repeat(63)).is_ok());
    assert!(policy_name(&"x".repeat(64)).is_err());
    assert!(policy_name("a\nb").is_err());
    assert!(policy_name("").is_err());
    assert!(policy_name(" ").is_err());
    assert!(policy_name("p ").is_err());
    assert!(policy_name("two words").is_ok());
}

fn limited(limits: &str) -> String {
    format!(r#"{{"name": "p", "rules": [], "limits": {limits}}}"#)
}

#[test]
fn limits_read_back_as_written() {
    let whole = r#"{"rows_per_statement":1,"rows_read":2,"rows_written":3,"bytes_read":4,"statements":9007199254740991,"statement_timeout":"90 s"}"#;
    let document = parse(&limited(whole)).unwrap();
    assert_eq!(document.limits.totals, [Some(2), Some(3), Some(4), Some(9_007_199_254_740_991), None]);
    assert_eq!(
        (document.limits.rows_per_statement, document.limits.statement_timeout),
        (Some(1), Some(90_000_000))
    );
    assert_eq!(document.to_json()["limits"].to_string(), whole);
    assert_eq!(document.limits_text().split(", ").count(), 6);
    let none = parse(&limited("{}")).unwrap();
    assert!(none.limits.is_none() && none.to_json().get("limits").is_none());
    assert_eq!(none.limits_text(), "none");
}

#[test]
fn limits_that_are_none_carry_the_path() {
    assert_eq!(path(&limited("[]")), "limits");
    assert_eq!(path(&limited(r#"{"rows": 1}"#)), "limits.rows");
    assert_eq!(path(&limited(r#"{"uses": 1}"#)), "limits.uses");
    for value in ["0", "-1", "1.5", "\"1\"", "null", "9007199254740992", "1e30"] {
        assert_eq!(path(&limited(&format!(r#"{{"rows_read": {value}}}"#))), "limits.rows_read", "{value}");
    }
    for value in ["30", "\"30\"", "\"0 s\"", "\"1 day\"", "null"] {
        let text = limited(&format!(r#"{{"statement_timeout": {value}}}"#));
        assert_eq!(path(&text), "limits.statement_timeout", "{value}");
    }
}

#[test]
fn row_filters_and_exposures_read_back() {
    let text = r#"{"name": "p", "rules": [], "row_filters": [{"relation": "a.t", "predicate": "id > 0"}], "exposed": ["a.t(x)"]}"#;
    let document = PolicyDocument::parse(text).unwrap();
    assert_eq!(document.row_filters.as_deref().map(<[_]>::len), Some(1));
    let again = PolicyDocument::parse(&document.to_json().to_string()).unwrap();
    assert_eq!((again.row_filters, again.exposed), (document.row_filters, document.exposed));
    let silent = PolicyDocument::parse(r#"{"name": "p", "rules": []}"#).unwrap();
    assert!(silent.row_filters.is_none() && silent.exposed.is_none());
    for (part, path) in [
        (r#""row_filters": {}"#, "row_filters"),
        (r#""row_filters": [{"relation": "a.t"}]"#, "row_filters[0].predicate"),
        (r#""row_filters": [{"relation": "a.t", "predicate": 1}]"#, "row_filters[0].predicate"),
        (r#""row_filters": [{"relation": "a.t", "predicat": "x"}]"#, "row_filters[0].predicat"),
        (r#""exposed": ["a.t(x)", 1]"#, "exposed[1]"),
    ] {
        let error = PolicyDocument::parse(&format!(r#"{{"name": "p", "rules": [], {part}}}"#)).unwrap_err();
        assert_eq!(error.path, path);
    }
}
