//! A rule as it is written: in a document, in canonical spelling, compared with others.

#![forbid(unsafe_code)]

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::approval::{self, Approval};
use crate::decision::RuleId;
use crate::policy::json::{
    boolean, child, known_keys, object, optional, string, strings, whole_number, wrong,
};
use crate::policy::rule::{ActionPattern, Effect, RawRule, Rule, RuleError};

/// The keys of a rule in a document.
const RULE_KEYS: [&str; 13] = [
    "effect",
    "actions",
    "objects",
    "columns",
    "require_where",
    "max_rows",
    "statement_pattern",
    "note",
    "approvers",
    "approvals",
    "approval_ttl",
    "allow_granter",
    "max_wait",
];

/// A rule as it is written, with its note.
#[derive(Clone, Debug, Default)]
pub struct WrittenRule {
    /// The parts that decide.
    pub raw: RawRule,
    /// What the author says about it.
    pub note: Option<String>,
}

impl WrittenRule {
    /// The rule in canonical spelling (`SELECT` is `select`, `table App.T` is `app.t`), its form proven.
    ///
    /// # Errors
    /// The first part that is wrong.
    pub fn canonical(&self) -> Result<WrittenRule, RuleError> {
        let rule = Rule::parse(&self.raw)?;
        // It would match every statement, as no pattern does.
        if self.raw.statement_pattern.as_deref() == Some("") {
            return wrong(
                "statement_pattern",
                "the regular expression is empty",
                "Leave it out for every statement.",
            );
        }
        if rule.effect == Effect::Approve && self.raw.approval.is_none() {
            return wrong("approvers", "nobody may approve", "Name the roles whose members may approve.");
        }
        let raw = RawRule {
            actions: rule.actions.iter().map(|action| action.text()).collect(),
            objects: rule.objects.iter().map(|object| object.pattern.to_string()).collect(),
            ..self.raw.clone()
        };
        Ok(WrittenRule { raw, note: self.note.clone() })
    }

    /// Everything that the rule says; its identifier does not count.
    fn content(&self) -> Content<'_> {
        let raw = &self.raw;
        (
            (&raw.effect, &raw.actions, &raw.objects, &raw.columns),
            (raw.require_where, raw.max_rows, raw.statement_pattern.as_deref(), self.note.as_deref()),
            raw.approval.as_ref(),
        )
    }

    /// The rule on one line, for the lists of what changed.
    pub fn summary(&self) -> String {
        let mut text =
            format!("{} {} on {}", self.raw.effect, self.raw.actions.join(", "), self.raw.objects.join(", "));
        if !self.raw.columns.is_empty() {
            text.push_str(&format!(" columns {}", self.raw.columns.join(", ")));
        }
        if self.raw.require_where {
            text.push_str(" require_where");
        }
        if let Some(rows) = self.raw.max_rows {
            text.push_str(&format!(" max_rows {rows}"));
        }
        if let Some(pattern) = &self.raw.statement_pattern {
            text.push_str(&format!(" statement_pattern {pattern}"));
        }
        if let Some(approval) = &self.raw.approval {
            text.push_str(&format!(" approvers {}", approval.approvers.join(", ")));
        }
        text
    }

    /// The rule as it stands in a document.
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        map.insert("effect".to_owned(), self.raw.effect.clone().into());
        map.insert("actions".to_owned(), self.raw.actions.clone().into());
        map.insert("objects".to_owned(), self.raw.objects.clone().into());
        if !self.raw.columns.is_empty() {
            map.insert("columns".to_owned(), self.raw.columns.clone().into());
        }
        if self.raw.require_where {
            map.insert("require_where".to_owned(), true.into());
        }
        if let Some(rows) = self.raw.max_rows {
            map.insert("max_rows".to_owned(), rows.into());
        }
        if let Some(pattern) = &self.raw.statement_pattern {
            map.insert("statement_pattern".to_owned(), pattern.clone().into());
        }
        if let Some(approval) = &self.raw.approval {
            map.insert("approvers".to_owned(), approval.approvers.clone().into());
            map.insert("approvals".to_owned(), approval.approvals.into());
            map.insert("approval_ttl".to_owned(), approval::duration(approval.ttl).into());
            if approval.granter {
                map.insert("allow_granter".to_owned(), true.into());
            }
            if let Some(wait) = approval.wait {
                map.insert("max_wait".to_owned(), approval::duration(wait).into());
            }
        }
        if let Some(note) = &self.note {
            map.insert("note".to_owned(), note.clone().into());
        }
        Value::Object(map)
    }
}

type Content<'a> = (
    (&'a str, &'a [String], &'a [String], &'a [String]),
    (bool, Option<i64>, Option<&'a str>, Option<&'a str>),
    Option<&'a Approval>,
);

/// Names that stand for several actions in a document.
pub type Groups = HashMap<String, Vec<String>>;

/// Reads the groups.
///
/// # Errors
/// The first name or action that is none.
pub fn groups(value: &Value) -> Result<Groups, RuleError> {
    let mut groups = Groups::new();
    for (name, actions) in object(value, "groups")? {
        let path = child("groups", name);
        if name.is_empty() || ActionPattern::parse(name).is_some() {
            return wrong(
                path,
                format!("a group cannot be named \"{name}\""),
                "Choose a name that is no action.",
            );
        }
        let actions = strings(actions, &path)?;
        for (i, action) in actions.iter().enumerate() {
            if ActionPattern::parse(action).is_none() {
                return wrong(
                    format!("{path}[{i}]"),
                    format!("unknown action \"{action}\""),
                    "A group lists actions, such as select or \"drop table\"; groups do not nest.",
                );
            }
        }
        groups.insert(name.clone(), actions);
    }
    Ok(groups)
}

/// Reads a rule, in canonical spelling.
///
/// # Errors
/// The first part that is wrong.
pub fn written_rule(value: &Value, path: &str, groups: &Groups) -> Result<WrittenRule, RuleError> {
    let map = object(value, path)?;
    known_keys(map, &RULE_KEYS, path)?;
    let below = |mut error: RuleError| {
        error.path = child(path, &error.path);
        error
    };
    let mut actions = Vec::new();
    for (i, action) in
        optional(map, "actions", strings).map_err(below)?.unwrap_or_default().iter().enumerate()
    {
        match groups.get(action) {
            Some(group) => actions.extend(group.iter().cloned()),
            None if ActionPattern::parse(action).is_some() => actions.push(action.clone()),
            None => {
                return wrong(
                    format!("{path}.actions[{i}]"),
                    format!("unknown action or group \"{action}\""),
                    "Name actions, such as select or \"drop table\", or groups that the document defines under \"groups\".",
                );
            }
        }
    }
    let raw = RawRule {
        id: 0,
        effect: optional(map, "effect", string).map_err(below)?.unwrap_or_default(),
        actions,
        objects: optional(map, "objects", strings).map_err(below)?.unwrap_or_else(|| vec!["*".to_owned()]),
        columns: optional(map, "columns", some_columns).map_err(below)?.unwrap_or_default(),
        require_where: optional(map, "require_where", boolean).map_err(below)?.unwrap_or(false),
        max_rows: optional(map, "max_rows", whole_number).map_err(below)?,
        statement_pattern: optional(map, "statement_pattern", string).map_err(below)?,
        approval: written_approval(map).map_err(below)?,
    };
    let note = optional(map, "note", string).map_err(below)?;
    WrittenRule { raw, note }.canonical().map_err(below)
}

fn some_columns(value: &Value, path: &str) -> Result<Vec<String>, RuleError> {
    let columns = strings(value, path)?;
    if columns.is_empty() { Err(no_columns(path)) } else { Ok(columns) }
}

/// The error for an empty list of columns. A rule without columns is about all of them, which is the last thing that
/// whoever passes an empty list of them may have meant.
pub fn no_columns(path: &str) -> RuleError {
    RuleError {
        path: path.to_owned(),
        message: "an empty list of columns".to_owned(),
        hint: "Name at least one column, or leave columns out for a rule about all of them.".to_owned(),
    }
}

/// What the keys of an approve rule ask for; `None` where there is none of them.
fn written_approval(map: &Map<String, Value>) -> Result<Option<Approval>, RuleError> {
    let length = |value: &Value, path: &str| match approval::seconds(&string(value, path)?) {
        Some(seconds) => Ok(seconds),
        None => {
            wrong(path, "not a length of time", "Write it as in \"10 minutes\" or \"1 hour 30 minutes\".")
        }
    };
    let approvers = optional(map, "approvers", strings)?;
    let approvals = optional(map, "approvals", whole_number)?;
    let ttl = optional(map, "approval_ttl", length)?;
    let granter = optional(map, "allow_granter", boolean)?;
    let wait = optional(map, "max_wait", length)?;
    if approvers.is_none() && approvals.is_none() && ttl.is_none() && granter.is_none() && wait.is_none() {
        return Ok(None);
    }
    Ok(Some(Approval {
        approvers: approvers.unwrap_or_default(),
        // What is out of range is refused with the rest.
        approvals: approvals.map_or(approval::DEFAULT_APPROVALS, |count| i32::try_from(count).unwrap_or(0)),
        ttl: ttl.unwrap_or(approval::DEFAULT_TTL),
        granter: granter.unwrap_or(false),
        wait,
    }))
}

/// What has to change so that a policy has the wanted rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Indexes into the wanted rules that no present rule says.
    pub missing: Vec<usize>,
    /// Present rules that no wanted rule says.
    pub superfluous: Vec<RuleId>,
}

/// Compares rules as bags: their order decides nothing, so it is no difference; a rule that stands twice counts twice.
pub fn difference(present: &[WrittenRule], wanted: &[WrittenRule]) -> Difference {
    let mut unclaimed: HashMap<Content<'_>, usize> = HashMap::new();
    for rule in wanted {
        *unclaimed.entry(rule.content()).or_default() += 1;
    }
    // The first of equal rules stays: dropping the newer one changes less.
    let mut superfluous = Vec::new();
    for rule in present {
        match unclaimed.get_mut(&rule.content()).filter(|count| **count > 0) {
            Some(count) => *count -= 1,
            None => superfluous.push(rule.raw.id),
        }
    }
    let mut missing = Vec::new();
    for (i, rule) in wanted.iter().enumerate() {
        if let Some(count) = unclaimed.get_mut(&rule.content()).filter(|count| **count > 0) {
            *count -= 1;
            missing.push(i);
        }
    }
    Difference { missing, superfluous }
}
