//! What comes under another name or into another schema: rules and tokens that go by name must not show then what they did not
//! before.

use pgrx::pg_sys;

use super::super::catalog;
use super::super::enforce::{Target, Wanted};
use super::needs::{Needs, on, on_relation};
use super::tables::usable;
use super::{functions, names, parts, swept};
use crate::request::{Action, Kind, Verb, Voice};

/// ALTER ... RENAME; `None` for a kind of object that is not in the list.
///
/// # Safety
/// The statement is a valid one of its kind.
pub unsafe fn rename(statement: &pg_sys::RenameStmt) -> Option<Needs> {
    // SAFETY: parse tree of ALTER ... RENAME.
    unsafe {
        let kind = names::kind(statement.renameType)?;
        if kind == Kind::Role {
            let target = catalog::text(statement.subname).map_or(Target::Nothing, |name| names::role(&name));
            return Some(Needs::of(vec![Wanted::named(Action::plain(Verb::Role), target)]));
        }
        if statement.relation.is_null() {
            let target = match catalog::text(statement.subname) {
                Some(name) if kind == Kind::Schema => names::schema(&name),
                Some(name) if statement.object.is_null() => names::named(String::new(), name),
                _ => names::existing(statement.renameType, statement.object),
            };
            let mut needs = on(Verb::Alter, kind, target.clone());
            needs.wanted.extend(swept::renamed(&target));
            needs.wanted.extend(callable(&target));
            return Some(needs);
        }
        let target = names::relation_target(statement.relation);
        let mut wanted = vec![on_relation(Action::on(Verb::Alter, kind), target.clone())];
        if statement.renameType == pg_sys::ObjectType::OBJECT_ATTRIBUTE {
            wanted.extend(parts::typed_tables(&target));
        }
        if let Target::Relation(relid) = target {
            // Rules with * and the token's patterns go by name: a new name must not show what the old one did not.
            wanted.extend(usable(relid));
        }
        Some(Needs::of(wanted))
    }
}

/// Running a function that comes under another name.
fn callable(target: &Target) -> Option<Wanted> {
    match target {
        Target::Function(function) => functions::wanted(*function, Voice::Named),
        _ => None,
    }
}

/// ALTER ... SET SCHEMA; `None` likewise.
///
/// # Safety
/// The statement is a valid one of its kind.
pub unsafe fn set_schema(statement: &pg_sys::AlterObjectSchemaStmt) -> Option<Needs> {
    // SAFETY: parse tree of ALTER ... SET SCHEMA.
    unsafe {
        let kind = names::kind(statement.objectType)?;
        let schema = catalog::text(statement.newschema).map_or(Target::Nothing, |name| names::schema(&name));
        let target = if statement.relation.is_null() {
            names::existing(statement.objectType, statement.object)
        } else {
            names::relation_target(statement.relation)
        };
        let mut wanted = vec![
            on_relation(Action::on(Verb::Alter, kind), target.clone()),
            Wanted::named(Action::on(Verb::Create, kind), schema),
        ];
        wanted.extend(callable(&target));
        if let Target::Relation(relid) = target {
            wanted.extend(usable(relid));
        }
        Some(Needs::of(wanted))
    }
}
