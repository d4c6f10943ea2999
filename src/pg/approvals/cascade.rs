//! What a DROP or TRUNCATE would take along, found without running it and without a lock that anybody waits for.
//!
//! Follows pg_depend as findDependentObjects does (dependency.c), and foreign keys as ExecuteTruncate does. It need not be
//! perfect: what the server then takes along and is not in the list ends the statement (`approvals::Held`).

use std::collections::HashSet;

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag as T;

use super::super::enforce::{Target, Wanted};
use super::super::gather::names;
use super::super::scan::{self, Key};
use super::super::{catalog, drops};
use crate::approval;
use crate::request::{Action, ObjectClass, Verb};

/// pg_depend with its indexes (src/include/catalog/pg_depend.h).
const DEPEND: u32 = 2608;
const BY_DEPENDER: u32 = 2673;
const BY_REFERENCE: u32 = 2674;

/// More is not followed: the request would be too large for anybody to read.
const MOST: usize = 2000;

/// class, object, sub-object.
type Address = (u32, u32, i32);

/// What goes along with the utility statement at this address, in the words of requests.
pub fn of(node: usize) -> Vec<String> {
    if node == 0 {
        return Vec::new();
    }
    let node = std::ptr::with_exposed_provenance_mut::<pg_sys::Node>(node);
    // SAFETY: the statement that ProcessUtility's hook is working on; the tag decides the casts.
    unsafe {
        match (*node).type_ {
            T::T_DropStmt => {
                let drop: &pg_sys::DropStmt = &*node.cast();
                dropped(named(drop), drop.behavior == pg_sys::DropBehavior::DROP_CASCADE)
            }
            T::T_TruncateStmt => truncated(&*node.cast()),
            _ => Vec::new(),
        }
    }
}

/// The addresses of what a DROP names.
///
/// # Safety
/// A statement of the parser's making.
unsafe fn named(drop: &pg_sys::DropStmt) -> Vec<Address> {
    // SAFETY: the caller's promise; get_object_address with missing_ok takes the lock that is asked for, here none.
    unsafe {
        let mut list = Vec::new();
        for object in names::members(drop.objects) {
            let mut relation: pg_sys::Relation = std::ptr::null_mut();
            let address = pg_sys::get_object_address(drop.removeType, object, &raw mut relation, 1, true);
            if !relation.is_null() {
                pg_sys::relation_close(relation, 0);
            }
            if address.objectId != pg_sys::InvalidOid {
                list.push((address.classId.to_u32(), address.objectId.to_u32(), address.objectSubId));
            }
        }
        list
    }
}

/// What dropping these takes along.
fn dropped(start: Vec<Address>, cascade: bool) -> Vec<String> {
    let mut seen: HashSet<Address> = start.iter().copied().collect();
    let mut open = start;
    while let Some(next) = open.pop() {
        if seen.len() > MOST {
            break;
        }
        for found in dependents(next, cascade) {
            for one in std::iter::once(found).chain(owners(found)) {
                if seen.insert(one) {
                    open.push(one);
                }
            }
        }
    }
    let relations: HashSet<u32> = seen
        .iter()
        .filter(|one| one.0 == pg_sys::RelationRelationId.to_u32() && one.2 == 0)
        .map(|one| one.1)
        .collect();
    let mut items = Vec::new();
    for (class, object, sub) in seen {
        match drops::dropped(pg_sys::Oid::from(class), pg_sys::Oid::from(object), sub) {
            drops::Drop::Nothing => {}
            drops::Drop::Object(wanted) => items.extend(item(&wanted)),
            drops::Drop::Part(relation, wanted) if !relations.contains(&relation.to_u32()) => {
                items.extend(item(&wanted));
            }
            drops::Drop::Part(..) => {}
        }
    }
    items
}

/// What depends on an object so that it goes with it.
fn dependents(of: Address, cascade: bool) -> Vec<Address> {
    let mut found = Vec::new();
    let keys = [(4, Key::Oid(pg_sys::Oid::from(of.0))), (5, Key::Oid(pg_sys::Oid::from(of.1)))];
    scan::tuples(pg_sys::Oid::from(DEPEND), Some((pg_sys::Oid::from(BY_REFERENCE), &keys)), |_, row| {
        let reference = address(row, 4);
        let kind = row.column::<i8>(7).unwrap_or(0).cast_unsigned();
        let same = reference.0 == of.0 && (of.2 == 0 || reference.2 == of.2);
        let goes = matches!(kind, b'a' | b'i' | b'P' | b'S' | b'e') || (kind == b'n' && cascade);
        if same && goes {
            found.push(address(row, 1));
        }
    });
    found
}

/// The objects that an object is an inner part of: dropping the part drops them (a view's rule, for one).
fn owners(part: Address) -> Vec<Address> {
    let mut found = Vec::new();
    let keys = [(1, Key::Oid(pg_sys::Oid::from(part.0))), (2, Key::Oid(pg_sys::Oid::from(part.1)))];
    scan::tuples(pg_sys::Oid::from(DEPEND), Some((pg_sys::Oid::from(BY_DEPENDER), &keys)), |_, row| {
        let kind = row.column::<i8>(7).unwrap_or(0).cast_unsigned();
        if address(row, 1) == part && matches!(kind, b'i' | b'e') {
            found.push(address(row, 4));
        }
    });
    found
}

fn address(row: &scan::Row<'_>, first: usize) -> Address {
    let oid = |column: usize| row.column::<pg_sys::Oid>(column).unwrap_or(pg_sys::InvalidOid).to_u32();
    (oid(first), oid(first + 1), row.column::<i32>(first + 2).unwrap_or(0))
}

/// What TRUNCATE empties: the tables, their children, and with CASCADE whatever has a foreign key to one of them.
///
/// # Safety
/// A statement of the parser's making.
unsafe fn truncated(statement: &pg_sys::TruncateStmt) -> Vec<String> {
    let mut tables: Vec<pg_sys::Oid> = Vec::new();
    // SAFETY: the caller's promise.
    for range in unsafe { names::members(statement.relations) } {
        // SAFETY: a list of RangeVars.
        let (relid, alone) =
            unsafe { (names::relation(range.cast()), !(*range.cast::<pg_sys::RangeVar>()).inh) };
        tables.push(relid);
        if !alone {
            tables.extend(catalog::descendants(relid));
        }
    }
    if statement.behavior == pg_sys::DropBehavior::DROP_CASCADE {
        loop {
            // SAFETY: lists of OIDs in the current memory context; reads pg_constraint.
            let more = unsafe {
                let list =
                    tables.iter().fold(std::ptr::null_mut(), |list, oid| pg_sys::lappend_oid(list, *oid));
                let found = pg_sys::heap_truncate_find_FKs(list);
                let count = if found.is_null() { 0 } else { usize::try_from((*found).length).unwrap_or(0) };
                (0..count).map(|i| (*(*found).elements.add(i)).oid_value).collect::<Vec<_>>()
            };
            let before = tables.len();
            for relid in more {
                for one in std::iter::once(relid).chain(catalog::descendants(relid)) {
                    if !tables.contains(&one) {
                        tables.push(one);
                    }
                }
            }
            if tables.len() == before || tables.len() > MOST {
                break;
            }
        }
    }
    let wanted = |relid: &pg_sys::Oid| Wanted::named(Action::plain(Verb::Truncate), Target::Relation(*relid));
    tables.iter().filter_map(|relid| item(&wanted(relid))).collect()
}

/// An access in the words of requests.
fn item(wanted: &Wanted) -> Option<String> {
    let (class, oid, name) = match &wanted.target {
        Target::Relation(oid) => (ObjectClass::Relation, *oid, catalog::relation_object(*oid)?.to_string()),
        Target::Function(oid) => (ObjectClass::Function, *oid, catalog::function_object(*oid)?.to_string()),
        Target::Schema(oid) => (ObjectClass::Schema, *oid, catalog::schema_object(*oid)?.to_string()),
        Target::Role(oid) => (ObjectClass::Role, *oid, catalog::role_object(*oid)?.to_string()),
        Target::Named(object) => (object.class, pg_sys::Oid::from(object.oid.0), object.to_string()),
        Target::Nothing => return None,
    };
    Some(approval::item(class, oid.to_u32(), wanted.action, &name, ""))
}
