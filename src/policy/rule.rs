//! A rule: effect, actions, objects and conditions, parsed from the rows and documents that DBAs write.
//!
//! It proves the form of a rule; whether the objects exist is the catalogue's to say.

#![forbid(unsafe_code)]

use regex::Regex;

use crate::approval::Approval;
use crate::decision::RuleId;
use crate::pattern::ObjectPattern;
use crate::request::{Action, Kind, Object, ObjectClass, Oid, Verb};

/// What a matching rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The access is allowed, unless something denies it.
    Allow,
    /// The access is denied, whatever allows it.
    Deny,
    /// The access is held until people have agreed to it, unless something denies it.
    Approve,
}

impl Effect {
    /// The word stored and shown.
    pub fn word(self) -> &'static str {
        match self {
            Effect::Allow => "allow",
            Effect::Deny => "deny",
            Effect::Approve => "approve",
        }
    }

    /// The effect of a word.
    pub fn of_word(word: &str) -> Option<Effect> {
        match word {
            "allow" => Some(Effect::Allow),
            "deny" => Some(Effect::Deny),
            "approve" => Some(Effect::Approve),
            _ => None,
        }
    }
}

/// Which actions a rule covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActionPattern {
    /// `None` is `*`.
    pub verb: Option<Verb>,
    /// Narrows a DDL verb; `None` is every kind.
    pub kind: Option<Kind>,
}

impl ActionPattern {
    /// Parses `select`, `drop`, `drop table`, `*`; case and runs of spaces do not matter. `None` for anything else.
    pub fn parse(text: &str) -> Option<ActionPattern> {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase();
        if text == "*" {
            return Some(ActionPattern { verb: None, kind: None });
        }
        match text.split_once(' ') {
            None => Some(ActionPattern { verb: Some(Verb::of_word(&text)?), kind: None }),
            Some((verb, kind)) => {
                let verb = Verb::of_word(verb).filter(|verb| verb.takes_kind())?;
                Some(ActionPattern { verb: Some(verb), kind: Some(Kind::of_word(kind)?) })
            }
        }
    }

    /// The canonical text.
    pub fn text(self) -> String {
        match (self.verb, self.kind) {
            (None, _) => "*".to_owned(),
            (Some(verb), kind) => Action { verb, kind }.to_string(),
        }
    }

    /// Whether the pattern covers `action`.
    pub fn covers(self, action: Action) -> bool {
        self.verb.is_none_or(|verb| verb == action.verb)
            && self.kind.is_none_or(|kind| action.kind == Some(kind))
    }
}

/// The object that a literal pattern named when the rule was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The object's class.
    pub class: ObjectClass,
    /// Its OID.
    pub oid: Oid,
    /// The attribute numbers of the pattern's (or the rule's) columns, in no order.
    pub attributes: Vec<i16>,
}

/// One object of a rule: its pattern, and what a literal pattern was bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleObject {
    /// The pattern.
    pub pattern: ObjectPattern,
    /// The object bound; `None` for patterns with `*`, and after a restore until the rule is bound again.
    pub binding: Option<Binding>,
}

impl RuleObject {
    /// Whether a rule of `effect` with this object covers `object`.
    ///
    /// A bound allow follows its object through renames and covers nothing else; a bound deny or approve covers the object
    /// that it named *and* whatever has the name now, so that neither a rename nor a re-creation slips out.
    pub fn covers(&self, effect: Effect, object: Option<&Object>, verb: Verb) -> bool {
        let by_name = self.pattern.matches(object, verb);
        match (&self.binding, object) {
            (Some(binding), Some(object)) if object.oid != Oid(0) => {
                let by_oid = binding.class == object.class && binding.oid == object.oid;
                match effect {
                    Effect::Allow if binding.class != object.class => by_name,
                    Effect::Allow => by_oid,
                    Effect::Deny | Effect::Approve => by_oid || by_name,
                }
            }
            _ => by_name,
        }
    }
}

/// A rule, proven well-formed.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The identifier.
    pub id: RuleId,
    /// Allow, deny or approve.
    pub effect: Effect,
    /// The actions; never empty.
    pub actions: Vec<ActionPattern>,
    /// The objects; never empty.
    pub objects: Vec<RuleObject>,
    /// Columns that narrow every object of the rule; empty for none.
    pub columns: Vec<String>,
    /// The statement must restrict the relation by a condition.
    pub require_where: bool,
    /// At most so many rows returned or changed by the statement; on an approve rule, held only above so many.
    pub max_rows: Option<i64>,
    /// The statement's text must match, on top of the objects.
    pub statement_pattern: Option<Regex>,
}

/// A rule as it is written: texts and numbers, nothing proven.
#[derive(Clone, Debug, Default)]
pub struct RawRule {
    /// The identifier; 0 for a rule that is only being written.
    pub id: RuleId,
    /// `allow`, `deny` or `approve`.
    pub effect: String,
    /// Action patterns.
    pub actions: Vec<String>,
    /// Object patterns.
    pub objects: Vec<String>,
    /// Columns that narrow every object.
    pub columns: Vec<String>,
    /// See `Rule`.
    pub require_where: bool,
    /// See `Rule`.
    pub max_rows: Option<i64>,
    /// See `Rule`.
    pub statement_pattern: Option<String>,
    /// Who has to agree, on an approve rule. Not read on the agent's path, where nobody is asked by name.
    pub approval: Option<Approval>,
}

/// What is wrong with a rule, with the path of the offending part (`objects[2]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleError {
    /// The part, in the words of the function's parameters and the policy document.
    pub path: String,
    /// A lower-case fact.
    pub message: String,
    /// What to write instead; a full sentence.
    pub hint: String,
}

/// The longest statement_pattern, in bytes; compiled programs are bounded by the regex crate beside it.
const MAX_PATTERN: usize = 4096;

impl Rule {
    /// Parses and proves the form of a rule.
    ///
    /// # Errors
    /// The first part that is wrong, as a `RuleError`.
    pub fn parse(raw: &RawRule) -> Result<Rule, RuleError> {
        let error = |path: &str, message: String, hint: &str| {
            Err(RuleError { path: path.to_owned(), message, hint: hint.to_owned() })
        };
        let Some(effect) = Effect::of_word(&raw.effect) else {
            return error(
                "effect",
                format!("unknown effect \"{}\"", raw.effect),
                "The effects are allow, deny and approve.",
            );
        };
        let actions = parse_actions(&raw.actions)?;
        let objects = parse_objects(&raw.objects)?;
        if let Some(i) = raw.columns.iter().position(String::is_empty) {
            return error(
                &format!("columns[{i}]"),
                "an empty column name".to_owned(),
                "Name each column as the catalogue does.",
            );
        }
        let narrowed =
            !raw.columns.is_empty() || objects.iter().any(|object| !object.pattern.columns().is_empty());
        if narrowed && !actions.iter().any(|action| action.verb.is_none_or(has_columns)) {
            return error(
                "columns",
                "none of the actions reads or writes columns".to_owned(),
                "Columns narrow select, insert and update.",
            );
        }
        if effect == Effect::Approve && raw.require_where {
            return error(
                "require_where",
                "an obligation on an approve rule".to_owned(),
                "Put require_where on the allow rule that it limits; max_rows says from how many rows on people are asked.",
            );
        }
        if effect == Effect::Approve && raw.max_rows.is_some() && !actions.iter().all(counts_rows) {
            return error(
                "max_rows",
                "not all of the actions count rows".to_owned(),
                "On an approve rule max_rows goes with insert, update and delete; write a rule of its own for the others.",
            );
        }
        match (&raw.approval, effect) {
            (Some(approval), Effect::Approve) => {
                if let Err(fault) = approval.check() {
                    return error(fault.path, fault.message, fault.hint);
                }
            }
            (Some(_), _) => {
                return error(
                    "approvers",
                    format!("approvers on a rule that says {}", effect.word()),
                    "Approvers, approvals, approval_ttl and max_wait belong to rules with the effect approve.",
                );
            }
            (None, _) => {}
        }
        if effect == Effect::Deny && (raw.require_where || raw.max_rows.is_some()) {
            return error(
                if raw.require_where { "require_where" } else { "max_rows" },
                "an obligation on a deny rule".to_owned(),
                "Obligations ride on allow rules; put it on the allow rule that it limits.",
            );
        }
        if raw.max_rows.is_some_and(|rows| rows < 0) {
            return error("max_rows", "a negative number of rows".to_owned(), "Use 0 or more.");
        }
        let statement_pattern = raw.statement_pattern.as_deref().map(parse_regex).transpose()?;
        Ok(Rule {
            id: raw.id,
            effect,
            actions,
            objects,
            columns: raw.columns.clone(),
            require_where: raw.require_where,
            max_rows: raw.max_rows,
            statement_pattern,
        })
    }

    /// Whether the rule denies or holds built-in functions by name. A deny of `*` or `function *.*` does not reach those
    /// that need no rule: without operators and casts no statement would run.
    pub fn denies_built_ins(&self) -> bool {
        self.effect != Effect::Allow
            && self.covers_action(Action::plain(Verb::Execute))
            && self.objects.iter().any(|object| object.pattern.names_built_ins())
    }

    /// Whether it is such a rule and the function is among them.
    pub fn denies_built_in(&self, function: &Object) -> bool {
        let named = |object: &RuleObject| {
            object.pattern.names_built_ins() && object.covers(Effect::Deny, Some(function), Verb::Execute)
        };
        self.denies_built_ins() && self.objects.iter().any(named)
    }

    /// Whether one of the rule's actions covers `action`.
    pub fn covers_action(&self, action: Action) -> bool {
        self.actions.iter().any(|pattern| pattern.covers(action))
    }
}

/// Whether statements that do this report a number of rows that can still be undone.
fn counts_rows(action: &ActionPattern) -> bool {
    matches!(action.verb, Some(Verb::Insert | Verb::Update | Verb::Delete))
}

/// Whether accesses of the verb name columns.
pub fn has_columns(verb: Verb) -> bool {
    matches!(verb, Verb::Select | Verb::Insert | Verb::Update)
}

fn parse_actions(texts: &[String]) -> Result<Vec<ActionPattern>, RuleError> {
    if texts.is_empty() {
        return Err(RuleError {
            path: "actions".to_owned(),
            message: "a rule without actions".to_owned(),
            hint: "Name at least one action, or * for all of them.".to_owned(),
        });
    }
    let parse = |(i, text): (usize, &String)| {
        ActionPattern::parse(text).ok_or_else(|| RuleError {
            path: format!("actions[{i}]"),
            message: format!("unknown action \"{text}\""),
            hint: format!(
                "The actions are {}, or *; create, alter, drop and comment may be followed by an object kind, as in \"drop table\".",
                Verb::ALL.map(Verb::word).join(", ")
            ),
        })
    };
    texts.iter().enumerate().map(parse).collect()
}

fn parse_objects(texts: &[String]) -> Result<Vec<RuleObject>, RuleError> {
    if texts.is_empty() {
        return Err(RuleError {
            path: "objects".to_owned(),
            message: "a rule without objects".to_owned(),
            hint: "Name at least one object pattern, or * for all objects.".to_owned(),
        });
    }
    let parse = |(i, text): (usize, &String)| match ObjectPattern::parse(text) {
        Ok(pattern) => Ok(RuleObject { pattern, binding: None }),
        Err(error) => Err(RuleError {
            path: format!("objects[{i}]"),
            message: error.message,
            hint: error.hint.to_owned(),
        }),
    };
    texts.iter().enumerate().map(parse).collect()
}

fn parse_regex(text: &str) -> Result<Regex, RuleError> {
    let failed = |message: String| {
        RuleError {
        path: "statement_pattern".to_owned(),
        message,
        hint: "The syntax is that of Rust's regex crate: no back-references and no look-around; (?i) ignores case.".to_owned(),
    }
    };
    if text.len() > MAX_PATTERN {
        return Err(failed(format!("the regular expression is longer than {MAX_PATTERN} bytes")));
    }
    Regex::new(text).map_err(|error| failed(format!("the regular expression does not compile: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(actions: &[&str], objects: &[&str]) -> RawRule {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        RawRule {
            effect: "allow".to_owned(),
            actions: owned(actions),
            objects: owned(objects),
            ..RawRule::default()
        }
    }

    #[test]
    fn actions_parse_with_kinds() {
        let drop_table = ActionPattern::parse("DROP  Table").unwrap();
        assert!(drop_table.covers(Action::on(Verb::Drop, Kind::Table)));
        assert!(!drop_table.covers(Action::on(Verb::Drop, Kind::View)));
        assert!(ActionPattern::parse("drop").unwrap().covers(Action::on(Verb::Drop, Kind::View)));
        assert!(ActionPattern::parse("*").unwrap().covers(Action::plain(Verb::System)));
        for text in ["", "selekt", "select table", "drop tabel", "drop *", "* table"] {
            assert!(ActionPattern::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn bad_rules_name_the_part() {
        let path = |raw: &RawRule| Rule::parse(raw).unwrap_err().path;
        assert_eq!(path(&raw(&["select", "fly"], &["*"])), "actions[1]");
        assert_eq!(path(&raw(&[], &["*"])), "actions");
        assert_eq!(path(&raw(&["select"], &["orders"])), "objects[0]");
        assert_eq!(path(&RawRule { max_rows: Some(-1), ..raw(&["select"], &["*"]) }), "max_rows");
        assert_eq!(
            path(&RawRule { statement_pattern: Some("(".into()), ..raw(&["select"], &["*"]) }),
            "statement_pattern"
        );
        assert_eq!(path(&RawRule { columns: vec!["a".into()], ..raw(&["delete"], &["a.b"]) }), "columns");
        assert_eq!(path(&RawRule { effect: "maybe".into(), ..raw(&["select"], &["*"]) }), "effect");
        assert_eq!(
            path(&RawRule { effect: "deny".into(), require_where: true, ..raw(&["select"], &["*"]) }),
            "require_where"
        );
        assert!(Rule::parse(&raw(&["select"], &["*"])).is_ok());
    }

    #[test]
    fn a_bound_allow_follows_the_object_and_a_bound_deny_both() {
        let object = |oid: u32, name: &str| Object {
            class: ObjectClass::Relation,
            oid: Oid(oid),
            schema: "a".into(),
            name: name.into(),
            args: None,
        };
        let bound = RuleObject {
            pattern: ObjectPattern::parse("a.t").unwrap(),
            binding: Some(Binding { class: ObjectClass::Relation, oid: Oid(7), attributes: vec![] }),
        };
        let renamed = object(7, "u");
        let recreated = object(8, "t");
        assert!(bound.covers(Effect::Allow, Some(&renamed), Verb::Select));
        assert!(!bound.covers(Effect::Allow, Some(&recreated), Verb::Select));
        assert!(bound.covers(Effect::Deny, Some(&renamed), Verb::Select));
        assert!(bound.covers(Effect::Deny, Some(&recreated), Verb::Select));
        assert!(!bound.covers(Effect::Deny, Some(&object(9, "v")), Verb::Select));
    }
}
