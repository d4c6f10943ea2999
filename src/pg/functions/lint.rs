//! lint_rules: what rules of a stored policy say in vain, for lint_policy.

use pgrx::iter::TableIterator;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;
use serde::Deserialize;

use crate::pg::admin_error::{AdminResult, given};
use crate::pg::functions::replay::document;
use crate::pg::functions::{Untouched, administrator};
use crate::pg::policies::{self, Policy};
use crate::pg::{catalog, redecide};
use crate::policy::lint::{self, Known};
use crate::request::{Object, ObjectClass};

/// rule_id, ord, severity, finding, detail, hint.
type Answer = (i64, Option<i32>, &'static str, &'static str, String, &'static str);

/// An object that there is.
#[derive(Deserialize)]
struct Existing {
    class: String,
    oid: u32,
}

/// What the rules say in vain; objects of rules are counted from 0.
#[pg_extern(sql = false)]
#[expect(clippy::type_complexity, reason = "the columns of the function's result")]
fn lint_rules(
    policy: Option<&str>,
    objects: Option<Untouched>,
) -> Result<
    TableIterator<
        'static,
        (
            name!(rule_id, i64),
            name!(ord, Option<i32>),
            name!(severity, &'static str),
            name!(finding, &'static str),
            name!(detail, String),
            name!(hint, &'static str),
        ),
    >,
    ErrorReport,
> {
    let find = || -> AdminResult<Vec<Answer>> {
        administrator()?;
        let policy = redecide::stored(given(policy, "policy")?)?;
        let existing: Vec<Existing> = document(objects, "objects")?;
        let found = lint::findings(&policy.rules, &known(&policy, &existing));
        Ok(found.into_iter().map(answer).collect())
    };
    let answers = find();
    policies::forget();
    Ok(TableIterator::new(answers?))
}

fn answer(finding: lint::Finding) -> Answer {
    let (severity, word, hint) = finding.kind.words();
    let ord = finding.object.and_then(|object| i32::try_from(object).ok());
    (finding.rule, ord, severity, word, finding.detail, hint)
}

/// The objects that were told, and those that rules are bound to wherever they are: the server's own are not told.
fn known(policy: &Policy, existing: &[Existing]) -> Vec<Known> {
    let told = existing.iter().filter_map(|one| {
        let class = match one.class.as_str() {
            "relation" => ObjectClass::Relation,
            "function" => ObjectClass::Function,
            "schema" => ObjectClass::Schema,
            "role" => ObjectClass::Role,
            _ => return None,
        };
        look_up(class, pg_sys::Oid::from(one.oid))
    });
    let mut known: Vec<Known> = told.collect();
    let bound =
        policy.rules.iter().flat_map(|rule| &rule.objects).filter_map(|object| object.binding.as_ref());
    for binding in bound {
        let there = |one: &Known| one.object.class == binding.class && one.object.oid == binding.oid;
        if !known.iter().any(there) {
            known.extend(look_up(binding.class, pg_sys::Oid::from(binding.oid.0)));
        }
    }
    known
}

fn look_up(class: ObjectClass, oid: pg_sys::Oid) -> Option<Known> {
    let object: Object = match class {
        ObjectClass::Relation => catalog::relation_object(oid),
        ObjectClass::Function => catalog::function_object(oid),
        ObjectClass::Schema => catalog::schema_object(oid),
        ObjectClass::Role => catalog::role_object(oid),
        ObjectClass::Other => None,
    }?;
    let columns = if class == ObjectClass::Relation { catalog::columns(oid) } else { Vec::new() };
    Some(Known { object, columns })
}
