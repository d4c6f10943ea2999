//! What masks say about the permission entries of a plan or a COPY: copies of masked columns, statistics, plain COPY.

use pgrx::pg_sys;

use super::super::enforce;
use super::super::masks;
use super::super::policies::{self, Policy};
use super::super::statement;
use super::super::withhold::{self, Texts};
use super::super::{calls, catalog};
use super::relations::Entry;
use crate::decision::Decision;
use crate::refusal::Refusal;
use crate::request::{Action, Columns, Form, ObjectClass, Verb, Voice};

/// pg_statistic and pg_statistic_ext_data, which every view over statistics reads (pg_statistic.h, pg_statistic_ext_data.h).
const STATISTICS: [u32; 2] = [2619, 3429];

/// Refuses what would show raw values of masked columns past any plan, also where denials are only recorded. Without a policy
/// (nobody has a token, the server observes) every mask holds.
///
/// # Errors
/// The refusal, which is noted with the statement.
pub fn check(entries: &[Entry], policy: Option<&Policy>, form: Form) -> Result<(), Refusal> {
    if let Some(policy) = policy.filter(|_| entries.iter().any(Entry::changes)) {
        withhold_rows(entries, policy);
    }
    let statistics = entries.iter().find(|one| STATISTICS.contains(&one.relation().to_u32()));
    if let Some(entry) = statistics.filter(|one| one.read().is_some())
        && policy.is_some_and(Policy::keeps_from_reading)
    {
        let refusal = kept_statistics(entry.relation());
        enforce::note_refusal(&refusal);
        return Err(refusal);
    }
    if !masks::any() || calls::in_foreign_key() {
        return Ok(());
    }
    let plain_copy = form == Form::Copy && statement::with_current(|open| open.is_utility()).unwrap_or(false);
    for entry in entries {
        let outcome = one(entry, plain_copy);
        outcome.inspect_err(enforce::note_refusal)?;
    }
    Ok(())
}

fn one(entry: &Entry, plain_copy: bool) -> Result<(), Refusal> {
    let relation = entry.relation();
    if let Some(read) = entry.read() {
        if STATISTICS.contains(&relation.to_u32()) {
            return Err(statistics(relation));
        }
        if let Some(masked) = masks::of(relation)? {
            let hit = masked.withheld.iter().find(|(number, _)| touches(&read, *number));
            if let Some((number, why)) = hit {
                return Err(copy(relation, *number, why));
            }
            if plain_copy && (masked.masks() || masked.filters_rows()) {
                return Err(copied(relation));
            }
        }
    }
    if entry.changes() && fills_by_trigger(relation) {
        return Err(filled_by_trigger(relation));
    }
    if plain_copy
        && entry.changes()
        && let Some(masked) = masks::of(relation)?
    {
        if masked.filters_rows() {
            return Err(filled(relation));
        }
        if masked.masks() {
            withhold_all();
        }
    }
    Ok(())
}

/// A temporary table in the way of one that a trigger means would take its raw rows.
fn fills_by_trigger(relation: pg_sys::Oid) -> bool {
    withhold::inside_raw()
        && calls::any()
        && catalog::relation_facts(relation).is_some_and(|facts| facts.temporary)
}

fn filled_by_trigger(relation: pg_sys::Oid) -> Refusal {
    masks::refusal(
        "masked_relation",
        relation,
        None,
        |name| {
            format!("the temporary table {name} cannot be filled while rows with masked columns are changed")
        },
        "Triggers see these rows as they are.",
        "Drop the temporary table, or give it a name that no trigger uses.",
    )
}

fn touches(read: &Columns, number: i16) -> bool {
    match read {
        Columns::Unnamed => number == 0,
        Columns::Whole => true,
        Columns::Of(numbers) => number == 0 || numbers.contains(&number),
    }
}

fn withhold_all() {
    statement::with_current(|open| open.texts = Texts::RAW);
    withhold::begin(Texts::RAW);
}

/// The server prints the row that violates a constraint, as far as the role may read it. Where the policy lets the agent
/// read less than that, it is not shown.
fn withhold_rows(entries: &[Entry], policy: &Policy) {
    let hides = |entry: &Entry| {
        let select = Action::plain(Verb::Select);
        policies::compiled(policy, select, ObjectClass::Relation, entry.relation()).is_some_and(|compiled| {
            matches!(compiled.scope.decide(&Columns::Whole, Voice::View, ""), Decision::Deny(_))
        })
    };
    if entries.iter().filter(|entry| entry.changes()).any(hides) {
        statement::with_current(|open| open.texts = open.texts.and(Texts::ROWS));
        withhold::begin(Texts::ROWS);
    }
}

/// Statistics hold values of every relation's columns, so they are read by no agent that a rule keeps from one of them.
fn kept_statistics(relation: pg_sys::Oid) -> Refusal {
    masks::refusal(
        "denied_statistics",
        relation,
        None,
        |name| {
            format!("{name} cannot be read, because a rule of the policy keeps a relation from being read")
        },
        "Statistics hold values of its columns.",
        "Use pg_class.reltuples for sizes, or ask a DBA.",
    )
}

fn statistics(relation: pg_sys::Oid) -> Refusal {
    masks::refusal(
        "masked_statistics",
        relation,
        None,
        |name| format!("{name} cannot be read, because relations are masked or filtered"),
        "Statistics hold values of their columns as they are.",
        "Use pg_class.reltuples for sizes, or ask a DBA.",
    )
}

fn copy(relation: pg_sys::Oid, number: i16, why: &str) -> Refusal {
    let column = if number > 0 { catalog::column_name(relation, number) } else { None };
    let what = column.clone();
    masks::refusal(
        "copy_of_masked",
        relation,
        column.as_deref(),
        |name| match &what {
            Some(column) => format!("column {column} of {name} holds copies of masked values"),
            None => format!("{name} holds copies of masked values"),
        },
        why,
        "Read other columns, or ask a DBA to mask or expose it (agent_guard.mask_column, agent_guard.expose_columns).",
    )
}

fn copied(relation: pg_sys::Oid) -> Refusal {
    masks::refusal(
        "masked_relation",
        relation,
        None,
        |name| format!("{name} has masked columns or filtered rows and cannot be copied as a whole"),
        "COPY of a table reads past masks and row filters.",
        "Use COPY (SELECT ...) TO STDOUT.",
    )
}

fn filled(relation: pg_sys::Oid) -> Refusal {
    masks::refusal(
        "masked_relation",
        relation,
        None,
        |name| format!("rows cannot be copied into {name}, because a row filter holds for it"),
        "COPY does not check new rows against a row filter.",
        "Use INSERT, also with many rows at once, or copy into a temporary table first.",
    )
}
