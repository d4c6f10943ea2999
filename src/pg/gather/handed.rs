//! DDL that has whole rows of a table handed to something: a trigger's function, the actions of a rule, the subscribers of a
//! publication. It takes reading the table, whoever then changes or fetches the rows.

use pgrx::pg_sys;

use super::super::enforce::{Target, Wanted};
use super::super::masks::dependents;
use super::super::{calls, catalog};
use super::needs::whole;
use super::{evaluated, functions, names, swept};
use crate::request::{Action, Columns, Verb, Voice};

/// Reading all of what holds rows and is not the session's own.
fn read(target: &Target) -> Option<Wanted> {
    let Target::Relation(relation) = *target else { return None };
    let own = catalog::relation_facts(relation).is_some_and(|facts| facts.temporary);
    (!own).then(|| whole(relation))
}

/// A trigger: it takes running its function, which gets the rows. In a function that is not the agent's they stay in other hands, so that only what
/// is denied counts.
///
/// # Safety
/// `statement` is a valid CREATE TRIGGER statement.
pub unsafe fn to_trigger(statement: &pg_sys::CreateTrigStmt, target: &Target) -> Vec<Wanted> {
    // SAFETY: a list of String nodes; with missing_ok an unknown function gives InvalidOid.
    let function = unsafe { pg_sys::LookupFuncName(statement.funcname, 0, std::ptr::null(), true) };
    let others = catalog::function_facts(function).is_some_and(|facts| !calls::is_agents(facts.owner));
    let mut wanted: Vec<Wanted> = read(target).into_iter().collect();
    if others {
        wanted = swept::not_simply_allowed(wanted.into_iter().map(|read| read.by(Voice::View)).collect());
    }
    // The server calls it without telling any hook, and what it reaches is then its owner's matter.
    if function != pg_sys::InvalidOid {
        wanted.extend(functions::wanted(function, Voice::Named));
    }
    wanted
}

/// The functions of a range type, which the server calls without telling any hook.
///
/// # Safety
/// `statement` is a valid CREATE TYPE ... AS RANGE statement.
pub unsafe fn to_range(statement: &pg_sys::CreateRangeStmt) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    // SAFETY: a list of DefElems; the value of these options is a possibly qualified name.
    unsafe {
        for node in names::members(statement.params) {
            let option = node.cast::<pg_sys::DefElem>();
            let name = catalog::text((*option).defname).unwrap_or_default();
            if (name == "subtype_diff" || name == "canonical") && !(*option).arg.is_null() {
                let candidates = super::routines::overloads(pg_sys::defGetQualifiedName(option));
                wanted.extend(
                    candidates.into_iter().filter_map(|function| functions::wanted(function, Voice::Named)),
                );
            }
        }
    }
    wanted
}

/// A rule, whose condition and actions get the rows.
///
/// # Safety
/// `statement` is a valid CREATE RULE statement.
pub unsafe fn to_rule(statement: &pg_sys::RuleStmt, target: &Target) -> Option<Wanted> {
    let nothing = statement.whereClause.is_null() && statement.actions.is_null();
    (!nothing).then(|| read(target)).flatten()
}

/// A function that comes with another body or another way of running: what hands it rows already will hand them to that.
pub fn to_changed_function(function: pg_sys::Oid) -> Vec<Wanted> {
    let relations = dependents::with_rows(function).into_iter();
    let read = relations.filter_map(|relation| read(&Target::Relation(relation)));
    swept::not_simply_allowed(read.collect())
}

/// The relations that a publication takes.
///
/// # Safety
/// `objects` is the list of a CREATE or ALTER PUBLICATION statement.
pub unsafe fn to_subscribers(objects: *mut pg_sys::List, all: bool) -> Vec<Wanted> {
    use pg_sys::PublicationObjSpecType as P;
    let mut wanted = if all { swept::published(None) } else { Vec::new() };
    // SAFETY: PublicationObjSpec nodes, as gram.y has put them in order.
    unsafe {
        for node in names::members(objects) {
            let object: &pg_sys::PublicationObjSpec = &*node.cast();
            match object.pubobjtype {
                P::PUBLICATIONOBJ_TABLE => match object.pubtable.as_ref() {
                    Some(table) => wanted.extend(published(table)),
                    None => wanted.extend(swept::published(None)),
                },
                P::PUBLICATIONOBJ_TABLES_IN_SCHEMA => {
                    let schema = catalog::text(object.name).map(|name| names::schema(&name));
                    wanted.extend(swept::published(schema.as_ref()));
                }
                // The first schema of the path, and what a later server adds.
                _ => wanted.extend(swept::published(None)),
            }
        }
    }
    wanted
}

/// One table, or some of its columns, and what the condition looks at.
unsafe fn published(table: &pg_sys::PublicationTable) -> Vec<Wanted> {
    // SAFETY: a RangeVar, a list of String nodes, and an expression or null.
    unsafe {
        let target = names::relation_target(table.relation);
        let Target::Relation(relation) = target else { return Vec::new() };
        let named = names::strings(table.columns);
        let numbers: Option<Vec<i16>> =
            named.iter().map(|name| catalog::column_number(relation, name)).collect();
        let columns = match numbers {
            Some(numbers) if !numbers.is_empty() => Columns::Of(numbers),
            _ => Columns::Whole,
        };
        let read = Wanted { columns, ..Wanted::named(Action::plain(Verb::Select), target.clone()) };
        [Some(read), evaluated::conditions(&[table.whereClause], &target)].into_iter().flatten().collect()
    }
}
