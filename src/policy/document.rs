//! The policy document: a policy with all its rules as one JSON object, for version control.
//!
//! It reads strictly (an unknown key is an error with its path); it knows no catalogue, so whether the objects exist is not
//! said here. Its rules are read in `written`.

#![forbid(unsafe_code)]

use serde_json::{Map, Value};

use crate::limit::{self, Limits, Meter, span};
use crate::policy::json::{array, child, known_keys, object, optional, string, strings, whole_number, wrong};
use crate::policy::rule::RuleError;
use crate::policy::written::{Groups, WrittenRule, groups, written_rule};
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
            None => Groups::new(),
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

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
