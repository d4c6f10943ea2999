//! What in a policy says nothing: rules that can never match, columns that nothing has, allows that denies swallow.
//!
//! It looks at rules and at the objects that there are; it decides no access. Where it cannot be sure it stays silent: a rule
//! that it names can be taken away without changing a decision on what exists today.

#![forbid(unsafe_code)]

use super::rule::{ActionPattern, Effect, Rule, RuleObject, has_columns};
use super::scope::Column;
use crate::decision::RuleId;
use crate::pattern::{ObjectPattern, Part};
use crate::request::{Object, ObjectClass, Oid, Verb};

/// An object that exists, with its columns where it is a relation.
#[derive(Clone, Debug)]
pub struct Known {
    /// The object.
    pub object: Object,
    /// Empty for anything but a relation.
    pub columns: Vec<Column>,
}

/// One thing that a rule says in vain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The rule.
    pub rule: RuleId,
    /// Which of its objects, counted from 0; `None` for the rule as a whole.
    pub object: Option<usize>,
    /// What is wrong.
    pub kind: Kind,
    /// In words.
    pub detail: String,
}

/// The kinds of findings about rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// None of the actions can be done to such an object.
    NeverMatches,
    /// Nothing that exists is covered.
    MatchesNothing,
    /// As `MatchesNothing`, of a pattern with `*` or a deny: it may have something to say tomorrow.
    MatchesNothingYet,
    /// A column that nothing covered has.
    NoSuchColumn,
    /// Denies cover all that it covers.
    Swallowed,
}

impl Kind {
    /// How much it matters, the word of the finding, and what to do.
    pub fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Kind::NeverMatches => (
                "warning",
                "never_matches",
                "Write the object in the form that the action takes, such as function schema.name for execute, or drop the rule.",
            ),
            Kind::MatchesNothing => (
                "warning",
                "matches_nothing",
                "Drop the rule, or write it anew for the object that is there now.",
            ),
            Kind::MatchesNothingYet => (
                "info",
                "matches_nothing",
                "Nothing to do where objects of this name are still to come; otherwise drop the rule.",
            ),
            Kind::NoSuchColumn => {
                ("warning", "no_such_column", "Name a column that is there, or drop the rule.")
            }
            Kind::Swallowed => {
                ("warning", "swallowed", "A deny always wins: narrow the deny, or drop this rule.")
            }
        }
    }
}

/// Everything that the rules say in vain, in their order.
pub fn findings(rules: &[Rule], known: &[Known]) -> Vec<Finding> {
    let denies: Vec<&Rule> = rules.iter().filter(|rule| rule.effect == Effect::Deny).collect();
    // For the server's own functions: a `function *.*` speaks of those among them that need a rule.
    let mut things = known.to_vec();
    things.push(built_in());
    let mut found = Vec::new();
    for rule in rules {
        let before = found.len();
        matching(rule, known, &mut found);
        columns(rule, known, &mut found);
        if rule.effect != Effect::Deny && found.len() == before {
            swallowed(rule, &denies, &things, &mut found);
        }
    }
    found
}

fn built_in() -> Known {
    let object = Object {
        class: ObjectClass::Function,
        oid: Oid(0),
        schema: "pg_catalog".to_owned(),
        name: "random".to_owned(),
        args: Some(String::new()),
    };
    Known { object, columns: Vec::new() }
}

/// Whether an action can be done to objects of a class. Generous: what is not known to be impossible counts.
fn acts_on(verb: Verb, class: ObjectClass) -> bool {
    use ObjectClass as C;
    match verb {
        Verb::Select
        | Verb::Insert
        | Verb::Update
        | Verb::Delete
        | Verb::Truncate
        | Verb::Lock
        | Verb::Maintain => class == C::Relation,
        Verb::Usage => matches!(class, C::Relation | C::Other),
        Verb::Execute => class == C::Function,
        Verb::Role => class == C::Role,
        Verb::Temporary => matches!(class, C::Relation | C::Schema),
        Verb::Notify => matches!(class, C::Function | C::Other),
        Verb::Create | Verb::Alter | Verb::Drop | Verb::Comment | Verb::Grant => true,
        Verb::File | Verb::Foreign | Verb::Inspect | Verb::System => true,
    }
}

fn may_bear(action: ActionPattern, pattern: &ObjectPattern) -> bool {
    let Some(verb) = action.verb else { return true };
    match pattern {
        ObjectPattern::Everything => true,
        ObjectPattern::Relation { .. } => {
            acts_on(verb, ObjectClass::Relation) || acts_on(verb, ObjectClass::Other)
        }
        ObjectPattern::Function { .. } => acts_on(verb, ObjectClass::Function),
        ObjectPattern::Schema(_) => verb == Verb::Create || acts_on(verb, ObjectClass::Schema),
        ObjectPattern::Role(_) => acts_on(verb, ObjectClass::Role),
    }
}

fn covers(rule: &Rule, object: &RuleObject, known: &Known) -> bool {
    rule.actions.iter().any(|action| {
        let verbs = action.verb.map_or_else(|| Verb::ALL.to_vec(), |verb| vec![verb]);
        verbs.into_iter().any(|verb| {
            (acts_on(verb, known.object.class) || verb == Verb::Create)
                && object.covers(rule.effect, Some(&known.object), verb)
        })
    })
}

/// The server's own objects are not among those that are known.
fn of_the_server(pattern: &ObjectPattern) -> bool {
    let (ObjectPattern::Relation { schema, .. }
    | ObjectPattern::Function { schema, .. }
    | ObjectPattern::Schema(schema)) = pattern
    else {
        return false;
    };
    ["pg_catalog", "information_schema", "pg_temp"]
        .iter()
        .any(|name| *schema != Part::Any && schema.matches(name))
}

fn matching(rule: &Rule, known: &[Known], found: &mut Vec<Finding>) {
    let mut push = |object, kind, detail| found.push(Finding { rule: rule.id, object, kind, detail });
    let bears = |object: &RuleObject| rule.actions.iter().any(|action| may_bear(*action, &object.pattern));
    for (nth, object) in rule.objects.iter().enumerate() {
        if !bears(object) {
            push(
                Some(nth),
                Kind::NeverMatches,
                "none of its actions can be done to such an object".to_owned(),
            );
            continue;
        }
        let may_come = rule.actions.iter().any(|action| action.verb.is_none_or(|verb| verb == Verb::Create));
        let settled = object.pattern == ObjectPattern::Everything || of_the_server(&object.pattern);
        if may_come || settled || known.iter().any(|one| covers(rule, object, one)) {
            continue;
        }
        let gone = object.binding.is_some();
        let (kind, detail) = if rule.effect == Effect::Allow && (gone || object.pattern.is_literal()) {
            (Kind::MatchesNothing, "what it named is gone, and it covers nothing that came after it")
        } else {
            (Kind::MatchesNothingYet, "it covers nothing that exists")
        };
        push(Some(nth), kind, detail.to_owned());
    }
    let idle =
        |action: &&ActionPattern| !rule.objects.iter().any(|object| may_bear(**action, &object.pattern));
    if rule.objects.iter().any(bears) {
        for action in rule.actions.iter().filter(idle) {
            let detail = format!("its action {} can be done to none of its objects", action.text());
            push(None, Kind::NeverMatches, detail);
        }
    }
}

/// Columns by name: a deny that was bound to the column's number follows it.
fn columns(rule: &Rule, known: &[Known], found: &mut Vec<Finding>) {
    let covered = |object: &RuleObject| -> Vec<&Known> {
        let relation = |one: &&Known| one.object.class == ObjectClass::Relation;
        known.iter().filter(relation).filter(|one| covers(rule, object, one)).collect()
    };
    let missing = |name: &String, relations: &[&Known]| {
        !relations.is_empty()
            && !relations.iter().any(|one| one.columns.iter().any(|(_, column)| column == name))
    };
    let follows = |object: &RuleObject| {
        rule.effect != Effect::Allow
            && object.binding.as_ref().is_some_and(|binding| !binding.attributes.is_empty())
    };
    let mut all: Vec<&Known> = Vec::new();
    for (nth, object) in rule.objects.iter().enumerate() {
        if follows(object) {
            return;
        }
        let relations = covered(object);
        for name in object.pattern.columns().iter().filter(|name| missing(name, &relations)) {
            let detail = format!("no column \"{name}\" in what it covers");
            found.push(Finding { rule: rule.id, object: Some(nth), kind: Kind::NoSuchColumn, detail });
        }
        all.extend(relations);
    }
    for name in rule.columns.iter().filter(|name| missing(name, &all)) {
        let detail = format!("no column \"{name}\" in what it covers");
        found.push(Finding { rule: rule.id, object: None, kind: Kind::NoSuchColumn, detail });
    }
}

/// Whether a deny takes all that `object` of `rule` says of this action on this thing; `None` is an action without object.
fn takes(
    deny: &Rule,
    rule: &Rule,
    object: &RuleObject,
    action: ActionPattern,
    what: Option<&Object>,
) -> bool {
    let acts = deny.actions.iter().any(|denied| {
        denied.verb.is_none_or(|verb| Some(verb) == action.verb)
            && denied.kind.is_none_or(|kind| Some(kind) == action.kind)
    });
    let Some(verb) = action.verb else {
        // A rule over every action is swallowed by such a deny alone.
        return acts
            && deny
                .objects
                .iter()
                .any(|one| whole(deny, one) && one.covers(Effect::Deny, what, Verb::System));
    };
    acts && deny.statement_pattern.is_none()
        && deny.objects.iter().any(|denied| {
            denied.covers(Effect::Deny, what, verb)
                && (whole(deny, denied) || (has_columns(verb) && within(rule, object, deny, denied)))
        })
}

fn whole(rule: &Rule, object: &RuleObject) -> bool {
    rule.statement_pattern.is_none() && rule.columns.is_empty() && object.pattern.columns().is_empty()
}

/// Whether a rule is narrowed to columns, all of which the deny names.
fn within(rule: &Rule, object: &RuleObject, deny: &Rule, denied: &RuleObject) -> bool {
    let own: Vec<&String> = rule.columns.iter().chain(object.pattern.columns()).collect();
    !own.is_empty()
        && own.iter().all(|name| deny.columns.contains(name) || denied.pattern.columns().contains(name))
}

/// The denies that together take all that one object of a rule says of one action; none where something is left of it.
fn taken_by(
    rule: &Rule,
    object: &RuleObject,
    action: ActionPattern,
    denies: &[&Rule],
    known: &[Known],
) -> Vec<RuleId> {
    let verb = action.verb.unwrap_or(Verb::System);
    let concerned = |what: &&Object| {
        (action.verb.is_none() || acts_on(verb, what.class)) && object.covers(rule.effect, Some(what), verb)
    };
    let mut things: Vec<Option<&Object>> =
        known.iter().map(|one| &one.object).filter(concerned).map(Some).collect();
    if object.pattern == ObjectPattern::Everything {
        things.push(None);
    }
    let takes = |deny: &Rule, what: &Option<&Object>| takes(deny, rule, object, action, *what);
    let ids: Option<Vec<RuleId>> = if verb == Verb::Create || action.verb.is_none() {
        // Also of what does not exist yet: the deny has to be over everything, or say the very same.
        let same = |deny: &&&Rule| {
            let alike = |one: &RuleObject| one.pattern == ObjectPattern::Everything || one == object;
            deny.objects.iter().any(alike) && things.iter().all(|what| takes(deny, what))
        };
        denies.iter().find(same).map(|deny| vec![deny.id])
    } else {
        things.iter().map(|what| denies.iter().find(|deny| takes(deny, what)).map(|deny| deny.id)).collect()
    };
    let mut ids = ids.filter(|_| !things.is_empty()).unwrap_or_default();
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn swallowed(rule: &Rule, denies: &[&Rule], known: &[Known], found: &mut Vec<Finding>) {
    let mut taken: Vec<(usize, String, Vec<RuleId>)> = Vec::new();
    let mut left = denies.is_empty();
    for (nth, object) in rule.objects.iter().enumerate() {
        for action in &rule.actions {
            let ids = taken_by(rule, object, *action, denies, known);
            if ids.is_empty() {
                left = true;
            } else {
                taken.push((nth, action.text(), ids));
            }
        }
    }
    if !left {
        let mut ids: Vec<RuleId> = taken.into_iter().flat_map(|(_, _, ids)| ids).collect();
        ids.sort_unstable();
        ids.dedup();
        let detail = format!("all that it covers is denied by {}", numbered(&ids));
        found.push(Finding { rule: rule.id, object: None, kind: Kind::Swallowed, detail });
        return;
    }
    for (nth, action, ids) in taken {
        let detail = format!("its action {action} is denied there by {}", numbered(&ids));
        found.push(Finding { rule: rule.id, object: Some(nth), kind: Kind::Swallowed, detail });
    }
}

fn numbered(rules: &[RuleId]) -> String {
    let ids: Vec<String> = rules.iter().map(ToString::to_string).collect();
    format!("rule{} {}", if ids.len() == 1 { "" } else { "s" }, ids.join(", "))
}

#[cfg(test)]
#[path = "lint_tests.rs"]
mod tests;
