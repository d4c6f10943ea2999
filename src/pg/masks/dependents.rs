//! Relations whose indexes, constraints, triggers, policies, defaults and statistics call a function, as pg_depend tells.

use pgrx::pg_sys;

use super::super::catalog;
use super::super::scan::{self, Key};

/// pg_depend and its indexes by referencing and by referenced object (pg_depend.h).
const DEPEND: u32 = 2608;
const BY_DEPENDER: u32 = 2673;
const BY_REFERENCED: u32 = 2674;
/// pg_rewrite.
const REWRITE: u32 = 2618;
/// pg_attrdef, and its index by OID (pg_attrdef.h).
const ATTRIBUTE_DEFAULT: u32 = 2604;
const DEFAULT_BY_OID: u32 = 2657;

/// The relations that depend on a function through something of theirs.
pub fn of_function(function: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    reached(function, |_, _| true)
}

/// Those of them that hand it rows, or columns of rows: all but the ones that call it for a plain default.
pub fn with_rows(function: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    reached(function, |class, object| class.to_u32() != ATTRIBUTE_DEFAULT || is_generated(object))
}

/// Whether an entry of pg_attrdef is the expression of a generated column.
fn is_generated(default: pg_sys::Oid) -> bool {
    let mut generated = false;
    let key = (pg_sys::Oid::from(DEFAULT_BY_OID), 1, Key::Oid(default));
    scan::rows(pg_sys::Oid::from(ATTRIBUTE_DEFAULT), Some(key), |row| {
        if let (Some(relation), Some(column)) = (row.column::<pg_sys::Oid>(2), row.column::<i16>(3)) {
            // SAFETY: a syscache look-up of a column that the row names.
            generated = unsafe { pg_sys::get_attgenerated(relation, column) } != 0;
        }
    });
    generated
}

fn reached(function: pg_sys::Oid, counts: impl Fn(pg_sys::Oid, pg_sys::Oid) -> bool) -> Vec<pg_sys::Oid> {
    let mut found: Vec<pg_sys::Oid> = Vec::new();
    let mut open = vec![(pg_sys::ProcedureRelationId, function)];
    let mut seen = open.clone();
    while let Some((class, object)) = open.pop() {
        for (its_class, it) in dependers(class, object) {
            if its_class == pg_sys::RelationRelationId {
                let table = catalog::table_of_index(it).unwrap_or(it);
                if !found.contains(&table) {
                    found.push(table);
                }
            } else if its_class != pg_sys::Oid::from(REWRITE)
                && !seen.contains(&(its_class, it))
                && counts(its_class, it)
            {
                seen.push((its_class, it));
                // A constraint, trigger, policy, default: its relation. An operator, aggregate, type: who uses it. Not a
                // view, whose query reads through masks.
                for relation in relations_of(its_class, it) {
                    if !found.contains(&relation) {
                        found.push(relation);
                    }
                }
                open.push((its_class, it));
            }
        }
    }
    found
}

/// What uses a type: class, object and, for a column of a relation, its number.
pub fn using_type(of_type: pg_sys::Oid) -> Vec<(pg_sys::Oid, pg_sys::Oid, i32)> {
    let mut found = Vec::new();
    let key = (pg_sys::Oid::from(BY_REFERENCED), 5, Key::Oid(of_type));
    scan_second(key, 4, pg_sys::TypeRelationId, |row| {
        if let (Some(class), Some(it), Some(sub)) = (row.column(1), row.column(2), row.column(3)) {
            found.push((class, it, sub));
        }
    });
    found
}

/// Who depends on an object (columns: 1 classid, 2 objid; 4 refclassid, 5 refobjid).
fn dependers(class: pg_sys::Oid, object: pg_sys::Oid) -> Vec<(pg_sys::Oid, pg_sys::Oid)> {
    let mut found = Vec::new();
    let key = (pg_sys::Oid::from(BY_REFERENCED), 5, Key::Oid(object));
    scan_second(key, 4, class, |row| {
        if let (Some(class), Some(it)) = (row.column(1), row.column(2)) {
            found.push((class, it));
        }
    });
    found
}

/// The relations that an object depends on.
fn relations_of(class: pg_sys::Oid, object: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    let mut found = Vec::new();
    let key = (pg_sys::Oid::from(BY_DEPENDER), 2, Key::Oid(object));
    scan_second(key, 1, class, |row| {
        if row.column::<pg_sys::Oid>(4) == Some(pg_sys::RelationRelationId) {
            found.extend(row.column::<pg_sys::Oid>(5));
        }
    });
    found
}

/// The rows whose column `key.1` has the key's value and whose column `class_column` names the class.
fn scan_second(
    key: (pg_sys::Oid, i16, Key),
    class_column: usize,
    class: pg_sys::Oid,
    mut visit: impl FnMut(&scan::Row<'_>),
) {
    // The object comes second in the index: an index scan by it alone still finds its entries.
    scan::rows(pg_sys::Oid::from(DEPEND), Some(key), |row| {
        if row.column::<pg_sys::Oid>(class_column) == Some(class) {
            visit(row);
        }
    });
}
