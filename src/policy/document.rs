//! The policy document: a policy with all its rules as one JSON object, for version control.
//!
//! It reads strictly (an unknown key is an error with its path) and compares; it knows no catalogue, so whether
//! the objects exist is not said here.

#![forbid(unsafe_code)]

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::approval::{self, Approval};
use crate::decision::RuleId;
use crate::limit::{self, Limits, Meter, span};
use crate::policy::near::nearest;
use crate::policy::rule::{ActionPattern, Effect, RawRule, Rule, RuleError};
use crate::recording::{Kept, Recording};

/// The keys of a document.
const DOCUMENT_KEYS: [&str; 9] =
    ["name", "description", "mode", "groups", "limits", "recording", "rules", "row_filters", "exposed"];
/// The keys of the limits in a document: numbers, and a length of time at the end.
const LIMIT_KEYS: [&str; 6] =
    ["rows_per_statement", "rows_read", "rows_written", "bytes_read", "statements", "statement_timeout"];
/// The keys of what is recorded.
const RECORDING_KEYS: [&str; 3] = ["results", "max_rows", "max_bytes"];
/// The keys of a row filter in a document.
const FILTER_KEYS: [&str; 2] = ["relation", "predicate"];
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
/// PostgreSQL's NAMEDATALEN - 1: policy names are shown beside identifiers and kept as short.
const MAX_NAME: usize = 63;

/// What a policy does with a denied access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is refused.
    Enforce,
    /// It is recorded as what would have been refused.
    Observe,
}

impl Mode {
    /// The word stored and shown.
    pub fn word(self) -> &'static str {
        match self {
            Mode::Enforce => "enforce",
            Mode::Observe => "observe",
        }
    }

    /// The mode of a word.
    ///
    /// # Errors
    /// A word that is no mode.
    pub fn parse(word: &str) -> Result<Mode, RuleError> {
        match word {
            "enforce" => Ok(Mode::Enforce),
            "observe" => Ok(Mode::Observe),
            _ => wrong(
                "mode",
                format!("unknown mode \"{word}\""),
                "The modes are enforce, and observe (record what would be denied, block nothing).",
            ),
        }
    }
}

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

    fn to_json(&self) -> Value {
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

/// A policy as one document; groups are already replaced by the actions that they name.
#[derive(Clone, Debug)]
pub struct PolicyDocument {
    /// The policy's name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Enforce or observe.
    pub mode: Mode,
    /// What the policy limits.
    pub limits: Limits,
    /// What the policy records of results.
    pub recording: Recording,
    /// The rules, in canonical spelling and the document's order.
    pub rules: Vec<WrittenRule>,
    /// The row filters; `None` where the document does not speak of them, so that they stay as they are.
    pub row_filters: Option<Vec<WrittenFilter>>,
    /// Masked columns that are read unmasked, as `schema.table(column, ...)`; `None` as for the filters.
    pub exposed: Option<Vec<String>>,
}

/// A row filter as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenFilter {
    /// The relation, as `schema.table`.
    pub relation: String,
    /// The condition.
    pub predicate: String,
}

impl PolicyDocument {
    /// Reads a document.
    ///
    /// # Errors
    /// The first part that is wrong, with its path (`rules[2].actions[0]`).
    pub fn parse(text: &str) -> Result<PolicyDocument, RuleError> {
        let value: Value = serde_json::from_str(text).or_else(|error| {
            wrong("", format!("the document cannot be read: {error}"), "Pass one JSON object.")
        })?;
        let document = object(&value, "")?;
        known_keys(document, &DOCUMENT_KEYS, "")?;
        let name = match document.get("name") {
            Some(value) => string(value, "name")?,
            None => {
                return wrong("name", "the document names no policy", "Add \"name\": \"<policy>\".");
            }
        };
        policy_name(&name)?;
        let description = optional(document, "description", string)?.unwrap_or_default();
        let mode = match optional(document, "mode", string)? {
            Some(word) => Mode::parse(&word)?,
            None => Mode::Enforce,
        };
        let groups = match document.get("groups") {
            Some(value) => groups(value)?,
            None => HashMap::new(),
        };
        let limits = match document.get("limits") {
            Some(value) => limits(value)?,
            None => Limits::default(),
        };
        let recording = match document.get("recording") {
            Some(value) => recording(value)?,
            None => Recording::default(),
        };
        let Some(list) = document.get("rules") else {
            return wrong(
                "rules",
                "the document has no rules",
                "Add \"rules\": [...]; a document is the whole policy, so an empty list drops every rule.",
            );
        };
        let rules = array(list, "rules")?
            .iter()
            .enumerate()
            .map(|(i, value)| written_rule(value, &format!("rules[{i}]"), &groups))
            .collect::<Result<Vec<_>, _>>()?;
        let row_filters = document.get("row_filters").map(row_filters).transpose()?;
        let exposed = optional(document, "exposed", strings)?;
        Ok(PolicyDocument { name, description, mode, limits, recording, rules, row_filters, exposed })
    }

    /// Writes the document; `parse` reads it back.
    pub fn to_json(&self) -> Value {
        let mut map = Map::new();
        map.insert("name".to_owned(), self.name.clone().into());
        map.insert("description".to_owned(), self.description.clone().into());
        map.insert("mode".to_owned(), self.mode.word().into());
        if !self.limits.is_none() {
            map.insert("limits".to_owned(), Value::Object(limits_json(&self.limits)));
        }
        if self.recording.wanted() {
            map.insert("recording".to_owned(), recording_json(&self.recording));
        }
        map.insert("rules".to_owned(), self.rules.iter().map(WrittenRule::to_json).collect());
        if let Some(filters) = &self.row_filters {
            map.insert("row_filters".to_owned(), filters.iter().map(WrittenFilter::to_json).collect());
        }
        if let Some(exposed) = &self.exposed {
            map.insert("exposed".to_owned(), exposed.clone().into());
        }
        Value::Object(map)
    }

    /// The limits on one line, for the lists of what changed.
    pub fn limits_text(&self) -> String {
        if self.limits.is_none() {
            return "none".to_owned();
        }
        let each = limits_json(&self.limits);
        let each = each.iter().map(|(name, value)| match value {
            Value::String(text) => format!("{name} {text}"),
            other => format!("{name} {other}"),
        });
        each.collect::<Vec<_>>().join(", ")
    }
}

fn limits_json(limits: &Limits) -> Map<String, Value> {
    let mut map = Map::new();
    let totals = Meter::ALL.map(|meter| (meter.word(), limits.total(meter)));
    for (name, value) in std::iter::once(("rows_per_statement", limits.rows_per_statement)).chain(totals) {
        if let Some(value) = value {
            map.insert(name.to_owned(), value.into());
        }
    }
    if let Some(microseconds) = limits.statement_timeout {
        map.insert("statement_timeout".to_owned(), span::text(microseconds / 1000).into());
    }
    map
}

fn limits(value: &Value) -> Result<Limits, RuleError> {
    let map = object(value, "limits")?;
    known_keys(map, &LIMIT_KEYS, "limits")?;
    let number = |name: &str| -> Result<Option<u64>, RuleError> {
        let path = child("limits", name);
        let Some(value) = map.get(name) else { return Ok(None) };
        limit::proper(whole_number(value, &path)?)
            .map(Some)
            .or_else(|fact| wrong(path, format!("the limit {fact}"), "Leave the key out for no limit."))
    };
    let mut limits = Limits { rows_per_statement: number("rows_per_statement")?, ..Limits::default() };
    for meter in Meter::ALL.into_iter().filter(|meter| LIMIT_KEYS.contains(&meter.word())) {
        if let Some(total) = limits.totals.get_mut(meter.index()) {
            *total = number(meter.word())?;
        }
    }
    if let Some(value) = map.get("statement_timeout") {
        let path = "limits.statement_timeout";
        let text = string(value, path)?;
        let Some(milliseconds) = span::parse(&text) else {
            return wrong(
                path,
                format!("\"{text}\" is no length of time"),
                "Write a whole number and one of ms, s, min and h, such as \"30 s\".",
            );
        };
        limits.statement_timeout = Some(milliseconds.saturating_mul(1000));
    }
    Ok(limits)
}

fn recording_json(recording: &Recording) -> Value {
    let mut map = Map::new();
    map.insert("results".to_owned(), recording.results.word().into());
    for (name, value) in [("max_rows", recording.max_rows), ("max_bytes", recording.max_bytes)] {
        if let Some(value) = value {
            map.insert(name.to_owned(), value.into());
        }
    }
    Value::Object(map)
}

fn recording(value: &Value) -> Result<Recording, RuleError> {
    let map = object(value, "recording")?;
    known_keys(map, &RECORDING_KEYS, "recording")?;
    let path = "recording.results";
    let word = match map.get("results") {
        Some(value) => string(value, path)?,
        None => return wrong(path, "what is to be recorded is missing", "Write rows, digest or none."),
    };
    let Some(results) = Kept::of_word(&word) else {
        let message = format!("\"{word}\" is nothing that can be recorded of results");
        return wrong(path, message, "Write rows, digest or none.");
    };
    let limit = |name: &str| -> Result<Option<u64>, RuleError> {
        let Some(value) = map.get(name) else { return Ok(None) };
        Ok(Some(u64::try_from(whole_number(value, &child("recording", name))?).unwrap_or(0)))
    };
    let recording = Recording { results, max_rows: limit("max_rows")?, max_bytes: limit("max_bytes")? };
    recording.proper().or_else(|(name, fact)| {
        wrong(child("recording", name), format!("{name} {fact}"), "Leave the key out for the default.")
    })?;
    Ok(recording)
}

impl WrittenFilter {
    fn to_json(&self) -> Value {
        let mut map = Map::new();
        map.insert("relation".to_owned(), self.relation.clone().into());
        map.insert("predicate".to_owned(), self.predicate.clone().into());
        Value::Object(map)
    }
}

fn row_filters(value: &Value) -> Result<Vec<WrittenFilter>, RuleError> {
    let mut filters: Vec<WrittenFilter> = Vec::new();
    for (i, value) in array(value, "row_filters")?.iter().enumerate() {
        let path = format!("row_filters[{i}]");
        let map = object(value, &path)?;
        known_keys(map, &FILTER_KEYS, &path)?;
        let part = |key: &str| match map.get(key) {
            Some(value) => string(value, &child(&path, key)),
            None => wrong(
                child(&path, key),
                format!("the row filter has no {key}"),
                "Write {\"relation\": \"schema.table\", \"predicate\": \"...\"}.",
            ),
        };
        filters.push(WrittenFilter { relation: part("relation")?, predicate: part("predicate")? });
    }
    Ok(filters)
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

/// Proves that `name` can be a policy's name.
///
/// # Errors
/// An empty or overlong name, or one with control characters, or with white space at an end, which nobody sees.
pub fn policy_name(name: &str) -> Result<(), RuleError> {
    if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) || name.trim() != name {
        return wrong(
            "name",
            "a policy's name has 1 to 63 bytes, no control characters and no white space around it",
            "Choose a short name, such as \"reporting\".",
        );
    }
    Ok(())
}

fn wrong<T>(path: impl Into<String>, message: impl Into<String>, hint: &str) -> Result<T, RuleError> {
    Err(RuleError { path: path.into(), message: message.into(), hint: hint.to_owned() })
}

fn child(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn wrong_type<T>(value: &Value, path: &str, wanted: &str) -> Result<T, RuleError> {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    let hint = if value.is_null() { "Leave the key out." } else { "Change the value to that type." };
    wrong(path, format!("{found} where {wanted} is expected"), hint)
}

fn object<'a>(value: &'a Value, path: &str) -> Result<&'a Map<String, Value>, RuleError> {
    value.as_object().map_or_else(|| wrong_type(value, path, "an object"), Ok)
}

fn array<'a>(value: &'a Value, path: &str) -> Result<&'a Vec<Value>, RuleError> {
    value.as_array().map_or_else(|| wrong_type(value, path, "an array"), Ok)
}

fn string(value: &Value, path: &str) -> Result<String, RuleError> {
    value.as_str().map_or_else(|| wrong_type(value, path, "a string"), |text| Ok(text.to_owned()))
}

fn strings(value: &Value, path: &str) -> Result<Vec<String>, RuleError> {
    let each = |(i, item)| string(item, &format!("{path}[{i}]"));
    array(value, path)?.iter().enumerate().map(each).collect()
}

fn boolean(value: &Value, path: &str) -> Result<bool, RuleError> {
    value.as_bool().map_or_else(|| wrong_type(value, path, "a boolean"), Ok)
}

fn whole_number(value: &Value, path: &str) -> Result<i64, RuleError> {
    value.as_i64().map_or_else(|| wrong_type(value, path, "a whole number"), Ok)
}

fn optional<T>(
    map: &Map<String, Value>,
    key: &str,
    read: impl Fn(&Value, &str) -> Result<T, RuleError>,
) -> Result<Option<T>, RuleError> {
    map.get(key).map(|value| read(value, key)).transpose()
}

fn known_keys(map: &Map<String, Value>, known: &[&str], path: &str) -> Result<(), RuleError> {
    for key in map.keys() {
        if !known.contains(&key.as_str()) {
            let names: Vec<String> = known.iter().map(|name| (*name).to_owned()).collect();
            let meant = match nearest(key, &names).first() {
                Some(name) => format!("Perhaps \"{name}\" is meant; the keys are {}.", known.join(", ")),
                None => format!("The keys are {}.", known.join(", ")),
            };
            return wrong(child(path, key), format!("unknown key \"{key}\""), &meant);
        }
    }
    Ok(())
}

type Groups = HashMap<String, Vec<String>>;

fn groups(value: &Value) -> Result<Groups, RuleError> {
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

fn written_rule(value: &Value, path: &str, groups: &Groups) -> Result<WrittenRule, RuleError> {
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

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
