//! Compiles the rules of a policy for one (object, action) and decides accesses against the result.
//!
//! Compiling walks the rules once for an object; deciding looks only at what was found, so the cost of a check
//! does not grow with the number of rules. Order never matters: deny > approve > allow > nothing matches: deny.

#![forbid(unsafe_code)]

use regex::Regex;

use super::rule::{Effect, Rule, RuleObject, has_columns};
use crate::decision::{Decision, Denial, Obligations, RuleId, tighter};
use crate::request::{Action, Columns, Object, Voice};

/// A column of a relation: attribute number and name.
pub type Column = (i16, String);

/// What holds only for some columns, or only for some statements.
#[derive(Debug, Clone)]
struct Clause {
    rule: RuleId,
    /// Sorted attribute numbers; `None` for the whole object.
    columns: Option<Vec<i16>>,
    /// The statement's text must match.
    pattern: Option<Regex>,
    obligations: Obligations,
}

impl Clause {
    fn covers(&self, attribute: i16) -> bool {
        self.columns.as_ref().is_none_or(|columns| columns.binary_search(&attribute).is_ok())
    }

    /// The first column of the access that the clause covers; 0 for the object as a whole.
    fn touched(&self, columns: &Columns) -> Option<i16> {
        let Some(own) = &self.columns else { return Some(0) };
        match columns {
            Columns::Unnamed => None,
            Columns::Whole => own.first().copied(),
            Columns::Of(named) => named.iter().copied().find(|attribute| self.covers(*attribute)),
        }
    }

    fn applies(&self, statement: &str) -> bool {
        self.pattern.as_ref().is_none_or(|pattern| pattern.is_match(statement))
    }
}

/// The rules of a policy as they bear on one action on one object.
#[derive(Debug, Clone, Default)]
pub struct ActionScope {
    deny: Vec<Clause>,
    /// What is held until people agree; `obligations.max_rows` is the number of rows above which.
    approve: Vec<Clause>,
    allow: Vec<Clause>,
    /// Every column of the relation, sorted; for whole-row reads under column rules.
    columns: Vec<i16>,
    /// A whole-object allow without conditions, and nothing else that matters: the fast path.
    plain: Option<RuleId>,
    /// An unconditional allow rule is bound to this very object.
    exact: bool,
}

/// The attribute numbers that a rule's object and columns narrow it to; `None` for no narrowing.
///
/// A deny or approve names its columns by name *and* by the number bound when it was written, so that renaming a column does
/// not lift it; an allow needs the name to be what it was.
fn narrowed(rule: &Rule, object: &RuleObject, columns: &[Column]) -> Option<Vec<i16>> {
    let own = object.pattern.columns();
    if own.is_empty() && rule.columns.is_empty() {
        return None;
    }
    let named = |name: &String| own.contains(name) || rule.columns.contains(name);
    let mut numbers: Vec<i16> =
        columns.iter().filter(|(_, name)| named(name)).map(|(attribute, _)| *attribute).collect();
    if let (Effect::Deny | Effect::Approve, Some(binding)) = (rule.effect, &object.binding) {
        numbers.extend(&binding.attributes);
    }
    numbers.sort_unstable();
    numbers.dedup();
    Some(numbers)
}

impl ActionScope {
    /// Compiles the rules for `action` on `object`, whose columns are `columns` (empty for no relation).
    pub fn compile(
        rules: &[Rule],
        action: Action,
        object: Option<&Object>,
        columns: &[Column],
    ) -> ActionScope {
        let mut scope =
            ActionScope { columns: columns.iter().map(|column| column.0).collect(), ..Self::default() };
        scope.columns.sort_unstable();
        for rule in rules.iter().filter(|rule| rule.covers_action(action)) {
            for rule_object in &rule.objects {
                if !rule_object.covers(rule.effect, object, action.verb) {
                    continue;
                }
                let columns = narrowed(rule, rule_object, columns);
                if columns.is_some() && !has_columns(action.verb) {
                    continue;
                }
                let obligations = Obligations {
                    require_where: rule.require_where.then_some(rule.id),
                    max_rows: rule.max_rows.map(|rows| (rows, rule.id)),
                    approve_above: None,
                };
                let clause =
                    Clause { rule: rule.id, columns, pattern: rule.statement_pattern.clone(), obligations };
                scope.exact |= rule.effect == Effect::Allow
                    && rule_object.binding.is_some()
                    && clause.columns.is_none()
                    && clause.pattern.is_none();
                scope.add(rule.effect, clause);
            }
        }
        let simple = |clause: &Clause| {
            clause.columns.is_none() && clause.pattern.is_none() && clause.obligations.is_empty()
        };
        if scope.deny.is_empty() && scope.approve.is_empty() && scope.allow.iter().all(simple) {
            scope.plain = scope.allow.first().map(|clause| clause.rule);
        }
        scope
    }

    /// Adds the deny and approve rules on a relative (parent, partition, child) whose data this relation shares. Columns are
    /// carried over by name, as inheritance itself does; a relative's allows lend nothing.
    pub fn inherit_denies(
        &mut self,
        rules: &[Rule],
        action: Action,
        relative: &Object,
        its_columns: &[Column],
        own_columns: &[Column],
    ) {
        let holding = rules.iter().filter(|rule| rule.effect != Effect::Allow && rule.covers_action(action));
        for rule in holding {
            for rule_object in &rule.objects {
                if !rule_object.covers(rule.effect, Some(relative), action.verb) {
                    continue;
                }
                let columns = narrowed(rule, rule_object, its_columns).map(|numbers| {
                    let shares = |(_, name): &&Column| {
                        its_columns.iter().any(|(number, its)| its == name && numbers.contains(number))
                    };
                    let mut own: Vec<i16> =
                        own_columns.iter().filter(shares).map(|column| column.0).collect();
                    own.sort_unstable();
                    own
                });
                if columns.is_some() && !has_columns(action.verb) {
                    continue;
                }
                let pattern = rule.statement_pattern.clone();
                let obligations = Obligations {
                    max_rows: rule.max_rows.map(|rows| (rows, rule.id)),
                    ..Obligations::default()
                };
                self.add(rule.effect, Clause { rule: rule.id, columns, pattern, obligations });
                self.plain = None;
            }
        }
    }

    /// Adds a clause unless one that says the same is there, so that ten thousand rules of one kind stay one clause.
    fn add(&mut self, effect: Effect, clause: Clause) {
        let list = match effect {
            Effect::Deny => &mut self.deny,
            Effect::Allow => &mut self.allow,
            // Each has approvers of its own, so none stands for another.
            Effect::Approve => {
                if !self
                    .approve
                    .iter()
                    .any(|other| other.rule == clause.rule && other.columns == clause.columns)
                {
                    self.approve.push(clause);
                }
                return;
            }
        };
        let same = |other: &Clause| {
            other.pattern.is_none() && clause.pattern.is_none() && other.columns == clause.columns
        };
        match list.iter_mut().find(|other| same(other)) {
            Some(other) => other.obligations = other.obligations.and(clause.obligations),
            None => list.push(clause),
        }
    }

    /// Decides one access: its columns, who asks, and the text of the statement for rules with a pattern.
    pub fn decide(&self, columns: &Columns, voice: Voice, statement: &str) -> Decision {
        if let Some(rule) = self.plain {
            return Decision::Allow(Some(rule), Obligations::default());
        }
        for clause in &self.deny {
            match clause.touched(columns) {
                Some(attribute) if clause.applies(statement) => {
                    return Decision::Deny(match clause.columns {
                        None => Denial::Rule(clause.rule),
                        Some(_) => Denial::Column(clause.rule, attribute),
                    });
                }
                _ => {}
            }
        }
        let mut above = None;
        for clause in &self.approve {
            if clause.touched(columns).is_some() && clause.applies(statement) {
                let Some(threshold) = clause.obligations.max_rows else {
                    return Decision::Approve(clause.rule);
                };
                above = tighter(above, Some(threshold));
            }
        }
        let decision = match voice {
            Voice::Named => self.decide_allow(columns, statement),
            Voice::View | Voice::Function => Decision::Allow(None, Obligations::default()),
        };
        match decision {
            Decision::Allow(rule, obligations) => {
                Decision::Allow(rule, Obligations { approve_above: above, ..obligations })
            }
            other => other,
        }
    }

    /// The approve rules that hold an access, those that look at the number of rows among them. All of them have to be met.
    pub fn holding(&self, columns: &Columns, statement: &str) -> Vec<RuleId> {
        let holds = |clause: &&Clause| clause.touched(columns).is_some() && clause.applies(statement);
        let mut rules: Vec<RuleId> = self.approve.iter().filter(holds).map(|clause| clause.rule).collect();
        rules.sort_unstable();
        rules.dedup();
        rules
    }

    fn decide_allow(&self, columns: &Columns, statement: &str) -> Decision {
        let applying: Vec<&Clause> = self.allow.iter().filter(|clause| clause.applies(statement)).collect();
        let Some(first) = applying.first() else {
            return Decision::Deny(
                self.allow.first().map_or(Denial::NoAllow, |clause| Denial::PatternMismatch(clause.rule)),
            );
        };
        let needed: &[i16] = match columns {
            Columns::Unnamed => &[],
            Columns::Whole => &self.columns,
            Columns::Of(named) => named,
        };
        // System columns (negative numbers) tell nothing that a column rule could hide.
        for attribute in needed.iter().copied().filter(|attribute| *attribute > 0) {
            if !applying.iter().any(|clause| clause.covers(attribute)) {
                return Decision::Deny(Denial::ColumnNotAllowed(attribute));
            }
        }
        let bears = |clause: &&&Clause| {
            clause.columns.is_none()
                || needed.is_empty()
                || needed.iter().any(|attribute| clause.covers(*attribute))
        };
        let mut rule = first.rule;
        let mut obligations = Obligations::default();
        for (i, clause) in applying.iter().filter(bears).enumerate() {
            if i == 0 {
                rule = clause.rule;
            }
            obligations = obligations.and(clause.obligations);
        }
        Decision::Allow(Some(rule), obligations)
    }

    /// Whether an allow rule names this very object, by its bound OID and not by a pattern with `*`.
    pub fn allows_exactly(&self) -> bool {
        self.exact
    }

    /// Whether any allow rule bears on the action and object, whatever its conditions.
    pub fn has_allow(&self) -> bool {
        !self.allow.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::rule::{Binding, RawRule};
    use super::*;
    use crate::request::{ObjectClass, Oid, Verb};
    use proptest::prelude::*;

    const SELECT: Action = Action::plain(Verb::Select);

    fn rule(id: i64, effect: &str, actions: &str, object: &str) -> RawRule {
        RawRule {
            id,
            effect: effect.into(),
            actions: vec![actions.into()],
            objects: vec![object.into()],
            ..RawRule::default()
        }
    }

    fn orders() -> Object {
        Object {
            class: ObjectClass::Relation,
            oid: Oid(9),
            schema: "app".into(),
            name: "orders".into(),
            args: None,
        }
    }

    fn columns() -> Vec<Column> {
        vec![(1, "id".into()), (2, "total".into()), (4, "card".into())]
    }

    fn decide(raws: &[RawRule], columns_read: &Columns, voice: Voice, statement: &str) -> Decision {
        let rules: Vec<Rule> = raws.iter().map(|raw| Rule::parse(raw).unwrap()).collect();
        ActionScope::compile(&rules, SELECT, Some(&orders()), &columns()).decide(
            columns_read,
            voice,
            statement,
        )
    }

    #[test]
    fn nothing_matches_is_a_denial() {
        assert_eq!(decide(&[], &Columns::Unnamed, Voice::Named, ""), Decision::Deny(Denial::NoAllow));
        let other = [rule(1, "allow", "select", "app.customers")];
        assert_eq!(decide(&other, &Columns::Unnamed, Voice::Named, ""), Decision::Deny(Denial::NoAllow));
    }

    #[test]
    fn deny_wins_and_follows_the_data_while_allow_does_not() {
        let allow = rule(1, "allow", "*", "app.*");
        let deny = rule(2, "deny", "select", "app.orders");
        let both = [allow.clone(), deny.clone()];
        for voice in [Voice::Named, Voice::View, Voice::Function] {
            assert_eq!(decide(&both, &Columns::Unnamed, voice, ""), Decision::Deny(Denial::Rule(2)));
        }
        assert!(matches!(decide(&[], &Columns::Whole, Voice::View, ""), Decision::Allow(None, _)));
        assert!(matches!(decide(&[allow], &Columns::Whole, Voice::Named, ""), Decision::Allow(Some(1), _)));
    }

    #[test]
    fn columns_are_decided_one_by_one() {
        let allow = rule(1, "allow", "select", "app.orders(id, total)");
        let read = |columns: &Columns| decide(std::slice::from_ref(&allow), columns, Voice::Named, "");
        assert!(matches!(read(&Columns::Of(vec![1, 2])), Decision::Allow(Some(1), _)));
        assert_eq!(read(&Columns::Of(vec![1, 4])), Decision::Deny(Denial::ColumnNotAllowed(4)));
        assert_eq!(read(&Columns::Whole), Decision::Deny(Denial::ColumnNotAllowed(4)));
        assert!(matches!(read(&Columns::Unnamed), Decision::Allow(Some(1), _)));
        assert!(matches!(read(&Columns::Of(vec![-1, 1])), Decision::Allow(Some(1), _)));
    }

    #[test]
    fn a_column_deny_spares_the_other_columns() {
        let rules = [rule(1, "allow", "select", "app.*"), rule(2, "deny", "select", "app.orders(card)")];
        assert!(matches!(
            decide(&rules, &Columns::Of(vec![1]), Voice::Named, ""),
            Decision::Allow(Some(1), _)
        ));
        assert_eq!(
            decide(&rules, &Columns::Of(vec![1, 4]), Voice::View, ""),
            Decision::Deny(Denial::Column(2, 4))
        );
        assert_eq!(decide(&rules, &Columns::Whole, Voice::Named, ""), Decision::Deny(Denial::Column(2, 4)));
    }

    #[test]
    fn renaming_a_denied_column_does_not_lift_the_deny() {
        let mut deny = Rule::parse(&rule(2, "deny", "select", "app.orders(ssn)")).unwrap();
        deny.objects[0].binding =
            Some(Binding { class: ObjectClass::Relation, oid: Oid(9), attributes: vec![4] });
        let scope = ActionScope::compile(&[deny], SELECT, Some(&orders()), &columns());
        assert_eq!(
            scope.decide(&Columns::Of(vec![4]), Voice::View, ""),
            Decision::Deny(Denial::Column(2, 4))
        );
    }

    #[test]
    fn a_statement_pattern_is_a_further_condition() {
        let only_reports =
            RawRule { statement_pattern: Some("^/\\* report".into()), ..rule(1, "allow", "select", "app.*") };
        let rules = [only_reports];
        assert!(matches!(
            decide(&rules, &Columns::Unnamed, Voice::Named, "/* report */ select"),
            Decision::Allow(Some(1), _)
        ));
        assert_eq!(
            decide(&rules, &Columns::Unnamed, Voice::Named, "select"),
            Decision::Deny(Denial::PatternMismatch(1))
        );
    }

    #[test]
    fn obligations_of_all_matching_allows_hold_together() {
        let loose = rule(1, "allow", "select", "app.*");
        let capped = RawRule { max_rows: Some(10), ..rule(2, "allow", "select", "app.orders") };
        let with_where =
            RawRule { require_where: true, max_rows: Some(50), ..rule(3, "allow", "select", "*") };
        let Decision::Allow(_, obligations) =
            decide(&[loose, capped, with_where], &Columns::Unnamed, Voice::Named, "")
        else {
            panic!("denied");
        };
        let expected = Obligations { require_where: Some(3), max_rows: Some((10, 2)), approve_above: None };
        assert_eq!(obligations, expected);
    }

    #[test]
    fn an_approve_stands_between_deny_and_allow_and_follows_the_data() {
        let allow = rule(1, "allow", "*", "app.*");
        let approve = rule(2, "approve", "select", "app.orders");
        let deny = rule(3, "deny", "select", "app.orders");
        for voice in [Voice::Named, Voice::View, Voice::Function] {
            let both = [allow.clone(), approve.clone()];
            assert_eq!(decide(&both, &Columns::Unnamed, voice, ""), Decision::Approve(2));
            let all = [allow.clone(), approve.clone(), deny.clone()];
            assert_eq!(decide(&all, &Columns::Unnamed, voice, ""), Decision::Deny(Denial::Rule(3)));
        }
        assert_eq!(decide(&[approve], &Columns::Unnamed, Voice::Named, ""), Decision::Approve(2));
        let card = [allow.clone(), rule(2, "approve", "select", "app.orders(card)")];
        assert_eq!(decide(&card, &Columns::Whole, Voice::Named, ""), Decision::Approve(2));
        assert!(matches!(
            decide(&card, &Columns::Of(vec![1]), Voice::Named, ""),
            Decision::Allow(Some(1), _)
        ));
    }

    #[test]
    fn an_approve_above_a_number_of_rows_rides_on_the_allow() {
        // Whether the action counts rows is the rule's to say.
        let above = RawRule { max_rows: Some(10), ..rule(2, "approve", "update", "app.orders") };
        let update = Action::plain(Verb::Update);
        let decide = |raws: &[RawRule], read: &Columns, voice: Voice, statement: &str| {
            let rules: Vec<Rule> = raws.iter().map(|raw| Rule::parse(raw).unwrap()).collect();
            ActionScope::compile(&rules, update, Some(&orders()), &columns()).decide(read, voice, statement)
        };
        assert_eq!(
            decide(std::slice::from_ref(&above), &Columns::Unnamed, Voice::Named, ""),
            Decision::Deny(Denial::NoAllow)
        );
        let rules = [rule(1, "allow", "*", "*"), above];
        let Decision::Allow(Some(1), obligations) = decide(&rules, &Columns::Unnamed, Voice::Named, "")
        else {
            panic!("not allowed");
        };
        assert_eq!((obligations.approve_above, obligations.max_rows), (Some((10, 2)), None));
        let without = [rules.to_vec(), vec![rule(3, "approve", "update", "*")]].concat();
        assert_eq!(decide(&without, &Columns::Unnamed, Voice::Named, ""), Decision::Approve(3));
        let parsed: Vec<Rule> = without.iter().map(|raw| Rule::parse(raw).unwrap()).collect();
        let scope = ActionScope::compile(&parsed, update, Some(&orders()), &columns());
        assert_eq!(scope.holding(&Columns::Unnamed, ""), vec![2, 3]);
    }

    #[test]
    fn an_approve_on_a_parent_holds_its_partition() {
        let rules: Vec<Rule> = [rule(1, "allow", "*", "*"), rule(2, "approve", "select", "app.parent")]
            .iter()
            .map(|raw| Rule::parse(raw).unwrap())
            .collect();
        let parent = Object { name: "parent".into(), oid: Oid(3), ..orders() };
        let mut scope = ActionScope::compile(&rules, SELECT, Some(&orders()), &columns());
        scope.inherit_denies(&rules, SELECT, &parent, &columns(), &columns());
        assert_eq!(scope.decide(&Columns::Unnamed, Voice::View, ""), Decision::Approve(2));
    }

    #[test]
    fn ten_thousand_rules_compile_to_one_clause() {
        let rules: Vec<Rule> =
            (0..10_000).map(|id| Rule::parse(&rule(id, "allow", "select", "app.*")).unwrap()).collect();
        let scope = ActionScope::compile(&rules, SELECT, Some(&orders()), &columns());
        assert_eq!(scope.allow.len(), 1);
        assert!(scope.plain.is_some());
    }

    #[test]
    fn a_deny_on_a_parent_covers_its_partition_by_column_name() {
        let deny = Rule::parse(&rule(2, "deny", "select", "app.parent(card)")).unwrap();
        let allow = Rule::parse(&rule(1, "allow", "select", "app.orders")).unwrap();
        let rules = [allow, deny];
        let parent = Object { name: "parent".into(), oid: Oid(3), ..orders() };
        let its_columns = vec![(7, "card".into()), (8, "id".into())];
        let mut scope = ActionScope::compile(&rules, SELECT, Some(&orders()), &columns());
        scope.inherit_denies(&rules, SELECT, &parent, &its_columns, &columns());
        let decide = |read: &Columns| scope.decide(read, Voice::Named, "");
        assert_eq!(decide(&Columns::Of(vec![4])), Decision::Deny(Denial::Column(2, 4)));
        assert!(matches!(decide(&Columns::Of(vec![1])), Decision::Allow(Some(1), _)));
    }

    proptest! {
        #[test]
        fn the_order_of_rules_does_not_matter(order in Just((0..6usize).collect::<Vec<_>>()).prop_shuffle(), which in 0..4usize) {
            let raws = [
                rule(1, "allow", "select", "app.*"),
                rule(2, "deny", "select", "app.orders(card)"),
                RawRule { max_rows: Some(5), ..rule(3, "allow", "*", "app.orders") },
                rule(4, "allow", "insert", "*"),
                RawRule { statement_pattern: Some("x".into()), ..rule(5, "deny", "select", "*") },
                RawRule { max_rows: Some(7), require_where: true, ..rule(6, "allow", "select", "app.orders(id)") },
            ];
            let shuffled: Vec<RawRule> = order.iter().map(|i| raws[*i].clone()).collect();
            let reads = [Columns::Unnamed, Columns::Whole, Columns::Of(vec![1]), Columns::Of(vec![4])];
            for statement in ["x", "y"] {
                let a = decide(&raws, &reads[which], Voice::Named, statement);
                let b = decide(&shuffled, &reads[which], Voice::Named, statement);
                match (a, b) {
                    (Decision::Allow(_, x), Decision::Allow(_, y)) => {
                        prop_assert_eq!(x.max_rows.map(|m| m.0), y.max_rows.map(|m| m.0));
                        prop_assert_eq!(x.require_where.is_some(), y.require_where.is_some());
                    }
                    (Decision::Deny(_), Decision::Deny(_)) => {}
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
    }
}
