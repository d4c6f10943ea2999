//! Tests of what is found in rules.

use super::super::rule::{Binding, RawRule};
use super::*;
use crate::request::Action;

fn rule(id: RuleId, effect: &str, actions: &[&str], objects: &[&str], columns: &[&str]) -> Rule {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let raw = RawRule {
        id,
        effect: effect.to_owned(),
        actions: owned(actions),
        objects: owned(objects),
        columns: owned(columns),
        ..RawRule::default()
    };
    Rule::parse(&raw).unwrap()
}

fn known() -> Vec<Known> {
    let one = |class, oid, schema: &str, name: &str, columns: &[&str]| Known {
        object: Object {
            class,
            oid: Oid(oid),
            schema: schema.to_owned(),
            name: name.to_owned(),
            args: (class == ObjectClass::Function).then(String::new),
        },
        columns: columns.iter().zip(1..).map(|(name, number)| (number, (*name).to_owned())).collect(),
    };
    vec![
        one(ObjectClass::Relation, 1, "shop", "orders", &["id", "total"]),
        one(ObjectClass::Relation, 2, "shop", "people", &["id", "email"]),
        one(ObjectClass::Function, 3, "shop", "f", &[]),
        one(ObjectClass::Schema, 4, "", "shop", &[]),
        one(ObjectClass::Role, 5, "", "clerk", &[]),
    ]
}

fn of(rules: &[Rule]) -> Vec<(RuleId, Option<usize>, Kind)> {
    findings(rules, &known()).into_iter().map(|one| (one.rule, one.object, one.kind)).collect()
}

#[test]
fn a_sensible_policy_has_no_findings() {
    let rules = [
        rule(1, "allow", &["select", "insert"], &["shop.*"], &[]),
        rule(2, "deny", &["select"], &["shop.people"], &["email"]),
        rule(3, "deny", &["delete"], &["*"], &[]),
        rule(4, "allow", &["execute"], &["function shop.*"], &[]),
        rule(5, "allow", &["create table"], &["schema shop", "later.*"], &[]),
        rule(6, "allow", &["*"], &["*"], &[]),
        rule(7, "allow", &["inspect"], &["pg_catalog.pg_stat_activity"], &[]),
    ];
    assert_eq!(of(&rules), []);
}

#[test]
fn what_can_never_match_is_found() {
    let rules = [
        rule(1, "allow", &["execute"], &["shop.*"], &[]),
        rule(2, "allow", &["select", "execute"], &["shop.orders"], &[]),
        rule(3, "allow", &["select"], &["function shop.f()", "shop.orders"], &[]),
        rule(4, "allow", &["select"], &["role clerk"], &[]),
        rule(5, "allow", &["select"], &["shop.gone"], &[]),
        rule(6, "allow", &["select"], &["old_*.*"], &[]),
        rule(7, "deny", &["select"], &["shop.gone"], &[]),
    ];
    assert_eq!(
        of(&rules),
        [
            (1, Some(0), Kind::NeverMatches),
            (2, None, Kind::NeverMatches),
            (3, Some(0), Kind::NeverMatches),
            (4, Some(0), Kind::NeverMatches),
            (5, Some(0), Kind::MatchesNothing),
            (6, Some(0), Kind::MatchesNothingYet),
            (7, Some(0), Kind::MatchesNothingYet),
        ]
    );
}

#[test]
fn a_bound_allow_whose_object_was_made_anew_matches_nothing() {
    let mut bound = rule(1, "allow", &["select"], &["shop.orders"], &[]);
    let at = |oid| Some(Binding { class: ObjectClass::Relation, oid: Oid(oid), attributes: vec![] });
    bound.objects.iter_mut().for_each(|object| object.binding = at(99));
    assert_eq!(of(&[bound.clone()]), [(1, Some(0), Kind::MatchesNothing)]);
    bound.objects.iter_mut().for_each(|object| object.binding = at(1));
    assert_eq!(of(&[bound]), []);
}

#[test]
fn columns_that_nothing_has_are_found() {
    let rules = [
        rule(1, "allow", &["select"], &["shop.orders(id, price)"], &[]),
        rule(2, "deny", &["select"], &["shop.*"], &["email"]),
        rule(3, "deny", &["select"], &["shop.orders"], &["phone"]),
    ];
    assert_eq!(of(&rules), [(1, Some(0), Kind::NoSuchColumn), (3, None, Kind::NoSuchColumn)]);
}

#[test]
fn what_denies_swallow_is_found_and_what_they_leave_is_not() {
    let rules = [
        rule(1, "allow", &["select"], &["shop.orders"], &[]),
        rule(2, "allow", &["select", "delete"], &["shop.*"], &[]),
        rule(3, "allow", &["select"], &["shop.people"], &["email"]),
        rule(4, "allow", &["delete"], &["shop.orders", "shop.people"], &[]),
        rule(5, "approve", &["delete"], &["shop.orders"], &[]),
        rule(6, "deny", &["select"], &["shop.orders"], &[]),
        rule(7, "deny", &["select"], &["shop.people"], &["email"]),
        rule(8, "deny", &["delete"], &["shop.*"], &[]),
    ];
    assert_eq!(
        of(&rules),
        [
            (1, None, Kind::Swallowed),
            (2, Some(0), Kind::Swallowed),
            (3, None, Kind::Swallowed),
            (4, None, Kind::Swallowed),
            (5, None, Kind::Swallowed),
        ]
    );
    let some = [
        rule(1, "allow", &["execute"], &["function *.*"], &[]),
        rule(2, "deny", &["execute"], &["function shop.*"], &[]),
        rule(3, "allow", &["select"], &["shop.orders"], &[]),
        rule(4, "deny", &["select"], &["shop.orders"], &["total"]),
        rule(5, "allow", &["create"], &["shop.*"], &[]),
        rule(6, "deny", &["create"], &["shop.orders"], &[]),
        rule(7, "allow", &["*"], &["*"], &[]),
        rule(8, "deny", &["drop"], &["*"], &[]),
    ];
    assert_eq!(of(&some), []);
    let all = [rule(1, "allow", &["*"], &["*"], &[]), rule(2, "deny", &["*"], &["*"], &[])];
    assert_eq!(of(&all), [(1, None, Kind::Swallowed)]);
    let conditional = [
        rule(1, "allow", &["select"], &["shop.orders"], &[]),
        Rule {
            statement_pattern: Some(regex::Regex::new("x").unwrap()),
            ..rule(2, "deny", &["select"], &["shop.orders"], &[])
        },
    ];
    assert_eq!(of(&conditional), []);
}

#[test]
fn every_swallowed_rule_changes_no_decision() {
    use super::super::scope::ActionScope;
    use crate::decision::Decision;
    use crate::request::{Columns, Voice};
    let rules = [
        rule(1, "allow", &["select"], &["shop.orders"], &[]),
        rule(2, "deny", &["select"], &["shop.*"], &[]),
    ];
    for finding in findings(&rules, &known()).iter().filter(|one| one.kind == Kind::Swallowed) {
        for one in known() {
            let decide = |rules: &[Rule]| {
                let scope =
                    ActionScope::compile(rules, Action::plain(Verb::Select), Some(&one.object), &one.columns);
                matches!(scope.decide(&Columns::Whole, Voice::Named, ""), Decision::Allow(..))
            };
            let without: Vec<Rule> = rules.iter().filter(|rule| rule.id != finding.rule).cloned().collect();
            assert_eq!(decide(&rules), decide(&without));
        }
    }
}
