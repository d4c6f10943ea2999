//! Deciding again, or for the first time, what nobody runs now: recorded accesses under another policy, and what a role
//! could do under one.

use std::sync::Arc;

use pgrx::pg_sys;

use super::admin_error::{AdminError, AdminResult};
use super::bind;
use super::catalog;
use super::enforce::{Target, Wanted};
use super::gather::functions::{self, Execution};
use super::own;
use super::policies::{self, Policy};
use super::scan::{self, Key};
use super::store::policy::BoundClass;
use crate::policy::document::PolicyDocument;
use crate::policy::rule::{ActionPattern, Binding, Rule};
use crate::refusal::Refusal;
use crate::request::{Action, Columns, Object, ObjectClass, Oid, Verb, Voice};

/// The policy of this name as it is stored. Caches of a session that is not guarded are not kept in step with the
/// catalogue: they are dropped first.
///
/// # Errors
/// 42704 for no such policy, 22023 for one that cannot be read.
pub fn stored(name: &str) -> AdminResult<std::rc::Rc<Policy>> {
    own::forget();
    policies::forget();
    policies::policy(policy_id(name)?).map_err(refused)
}

fn refused(refusal: Refusal) -> AdminError {
    AdminError::invalid(refusal.message).detail(refusal.detail).hint(refusal.hint)
}

fn policy_id(name: &str) -> AdminResult<i64> {
    let mut found = None;
    if let Some(own) = own::own() {
        scan::rows(own.policy, None::<(pg_sys::Oid, i16, Key)>, |row| {
            if row.column::<String>(2).as_deref() == Some(name) {
                found = row.column(1);
            }
        });
    }
    found.ok_or_else(|| {
        AdminError::undefined(format!("policy \"{name}\" does not exist"))
            .hint("SELECT name FROM agent_guard.policies lists the policies.")
    })
}

/// The policy of a document that is not stored. Its rules have the numbers 1, 2, … in the order of the document.
///
/// # Errors
/// 22023 with the path of what is wrong in it.
pub fn of_document(text: &str) -> AdminResult<Policy> {
    own::forget();
    policies::forget();
    let document = PolicyDocument::parse(text)?;
    let mut rules = Vec::with_capacity(document.rules.len());
    for (number, written) in (0_i64..).zip(&document.rules) {
        let bound = bind::bind(written)?.map_err(|mut error| {
            error.path = format!("rules[{number}].{}", error.path);
            error
        })?;
        let mut rule = Rule::parse(&bound.rule.raw)?;
        rule.id = number.saturating_add(1);
        for binding in bound.bindings {
            let place = usize::try_from(binding.ord).ok().and_then(|ord| rule.objects.get_mut(ord));
            if let Some(object) = place {
                let class = match binding.class {
                    BoundClass::Relation => ObjectClass::Relation,
                    BoundClass::Function => ObjectClass::Function,
                    BoundClass::Schema => ObjectClass::Schema,
                    BoundClass::Role => ObjectClass::Role,
                };
                let (oid, attributes) = (catalog::core_oid(binding.oid), binding.attributes);
                object.binding = Some(Binding { class, oid, attributes });
            }
        }
        rules.push(rule);
    }
    Ok(Policy::of_rules(document.name, rules))
}

/// An access as it is told by the trail, or by whoever asks.
#[derive(Clone, Debug)]
pub struct Told<'a> {
    /// `select`, `drop table`.
    pub action: &'a str,
    /// `relation`, `function`, `schema`, `role`, or anything else.
    pub class: &'a str,
    /// 0 for none.
    pub oid: u32,
    /// The object's qualified name; empty for none.
    pub name: &'a str,
    /// Columns by name, separated by commas; `*` for all; empty for none in particular.
    pub columns: &'a str,
    /// Who asks.
    pub voice: Voice,
}

/// The access to be decided; `None` where it needs no rule, or where the action is none.
pub fn wanted(told: &Told<'_>, policy: &Policy) -> Option<Wanted> {
    let action = action(told.action)?;
    let oid = pg_sys::Oid::from(told.oid);
    let gone = || Target::Named(Arc::new(object_by_name(told)));
    let target = match told.class {
        "relation" if told.oid != 0 && catalog::relation_facts(oid).is_some() => Target::Relation(oid),
        "function" if told.oid != 0 && catalog::function_facts(oid).is_some() => Target::Function(oid),
        "schema" if told.oid != 0 && catalog::schema_name(oid).is_some() => Target::Schema(oid),
        "role" if told.oid != 0 && catalog::role_name(oid).is_some() => Target::Role(oid),
        _ if told.name.is_empty() => Target::Nothing,
        _ => gone(),
    };
    if let Target::Function(function) = target
        && action.kind.is_none()
        && runs_a_function(action.verb)
    {
        return match functions::execution(function) {
            Execution::Needs(_) if action.verb == Verb::Execute => {
                Some(Wanted::named(action, target).by(told.voice))
            }
            _ => functions::wanted(function, told.voice)
                .or_else(|| functions::denied_by_name(function, policy)),
        };
    }
    let columns = match &target {
        Target::Relation(relid) => columns(*relid, told.columns),
        _ => Columns::Unnamed,
    };
    Some(Wanted { columns, ..Wanted::named(action, target).by(told.voice) })
}

/// The actions that running a function may need (policy::builtin).
fn runs_a_function(verb: Verb) -> bool {
    matches!(verb, Verb::Execute | Verb::File | Verb::Inspect | Verb::System | Verb::Notify | Verb::Foreign)
}

/// `select`, `drop table`: one action, no pattern.
pub fn action(words: &str) -> Option<Action> {
    let ActionPattern { verb: Some(verb), kind } = ActionPattern::parse(words)? else { return None };
    Some(Action { verb, kind })
}

/// By its words alone: an object that is gone, or was never one of a class with a scope of its own.
fn object_by_name(told: &Told<'_>) -> Object {
    let class = match told.class {
        "relation" => ObjectClass::Relation,
        "function" => ObjectClass::Function,
        "schema" => ObjectClass::Schema,
        "role" => ObjectClass::Role,
        _ => ObjectClass::Other,
    };
    let (path, args) = match told.name.split_once('(').filter(|_| class == ObjectClass::Function) {
        Some((path, args)) => (path, Some(args.trim_end_matches(')').to_owned())),
        None => (told.name, None),
    };
    let plain = matches!(class, ObjectClass::Schema | ObjectClass::Role);
    let (schema, name) = match path.split_once('.').filter(|_| !plain) {
        Some((schema, name)) => (schema.to_owned(), name.to_owned()),
        None => (String::new(), path.to_owned()),
    };
    // What was dropped has no OID: its old one may be another object's by now.
    Object { class, oid: Oid(0), schema, name, args }
}

/// Columns that are no longer there count as all of them: nothing is taken for harmless.
fn columns(relid: pg_sys::Oid, names: &str) -> Columns {
    match names {
        "" => return Columns::Unnamed,
        "*" => return Columns::Whole,
        _ => {}
    }
    let known = catalog::columns(relid);
    let number = |name: &str| {
        let column = known.iter().find(|column| column.1 == name).map(|column| column.0);
        column.or_else(|| name.parse().ok())
    };
    names.split(',').map(number).collect::<Option<Vec<i16>>>().map_or(Columns::Whole, |mut numbers| {
        numbers.sort_unstable();
        Columns::Of(numbers)
    })
}

/// What the server's list of built-ins asks for a function; `None` for an ordinary one.
pub fn action_of_function(function: pg_sys::Oid) -> Option<&'static str> {
    match functions::execution(function) {
        Execution::Needs(verb) => Some(verb.word()),
        Execution::Never => Some("never"),
        Execution::Free | Execution::ServerOnly => None,
    }
}
