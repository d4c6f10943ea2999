//! Columns and relations that hold copies of masked columns: referencing columns of foreign keys, generated columns,
//! materialized views. They cannot be read until the DBA masks or exposes them.

use std::ffi::c_void;

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag as T;

use super::super::catalog;
use super::super::gather::names;
use super::super::walk;
use super::compile::Opened;
use super::{Declared, unusable};
use crate::refusal::Refusal;

/// What of the relation is a copy, by column; 0 is the whole relation.
pub fn of(declared: &Declared, opened: &Opened, kind: u8) -> Result<Vec<(i16, String)>, Refusal> {
    // SAFETY: the relation is open; its cache entry is read.
    unsafe {
        let relation = (*opened.0).rd_id;
        Ok(match kind {
            b't' => vec![(0, "It stores parts of other relations' values.".to_owned())],
            b'm' if declared.settled(relation) => Vec::new(),
            b'm' => materialized(declared, opened)?,
            _ => {
                let mut found = references(declared, opened);
                found.extend(generated(declared, opened));
                found
            }
        })
    }
}

fn declared_here(declared: &Declared, relation: pg_sys::Oid, number: i16) -> bool {
    declared.exposed.contains(&(relation, number))
        || declared.masks.get(&relation).is_some_and(|masked| masked.contains(&number))
}

/// The columns of a relation that read masked, whoever of its kin masks them.
fn masked_columns(declared: &Declared, opened: &Opened) -> Vec<i16> {
    // SAFETY: an open relation.
    let relation = unsafe { (*opened.0).rd_id };
    let mut kin = vec![relation];
    kin.extend(catalog::ancestors(relation));
    kin.extend(catalog::descendants(relation));
    let mut numbers = Vec::new();
    for source in kin {
        for number in declared.masked(source) {
            let own = match catalog::column_name(source, number) {
                _ if source == relation => Some(number),
                Some(name) => opened.number(&name),
                None => None,
            };
            numbers.extend(own.filter(|own| !declared.exposed.contains(&(relation, *own))));
        }
    }
    numbers
}

/// Columns that reference masked ones hold the same values.
unsafe fn references(declared: &Declared, opened: &Opened) -> Vec<(i16, String)> {
    // SAFETY: the list belongs to the open relation's cache entry; nkeys elements are valid.
    unsafe {
        let relation = (*opened.0).rd_id;
        let mut found = Vec::new();
        for key in names::members(pg_sys::RelationGetFKeyList(opened.0)) {
            let key = &*key.cast::<pg_sys::ForeignKeyCacheInfo>();
            let count = usize::try_from(key.nkeys).unwrap_or(0);
            if key.confrelid == relation {
                continue;
            }
            let Some(referenced) = Opened::open(key.confrelid) else { continue };
            let masked = masked_columns(declared, &referenced);
            for (own, its) in key.conkey.iter().zip(&key.confkey).take(count) {
                if masked.contains(its) && !declared_here(declared, relation, *own) {
                    let (name, _) = super::place(key.confrelid, None);
                    let column = referenced.name(*its).unwrap_or_default();
                    found.push((*own, format!("It references {name}.{column}, which is masked.")));
                }
            }
        }
        let own_masks = masked_columns(declared, opened);
        found.retain(|(number, _)| !own_masks.contains(number));
        found
    }
}

/// Columns generated from masked ones.
unsafe fn generated(declared: &Declared, opened: &Opened) -> Vec<(i16, String)> {
    // SAFETY: the default expressions belong to the open relation's descriptor.
    unsafe {
        let relation = (*opened.0).rd_id;
        let constraints = (*(*opened.0).rd_att).constr;
        if constraints.is_null() || !has_generated(opened) {
            return Vec::new();
        }
        let masked = masked_columns(declared, opened);
        let defaults = (0..usize::from((*constraints).num_defval)).map(|i| &*(*constraints).defval.add(i));
        let mut found = Vec::new();
        for default in defaults {
            let number = default.adnum;
            let is_generated =
                opened.attributes().iter().any(|one| one.attnum == number && one.attgenerated != 0);
            if !is_generated || masked.contains(&number) || declared_here(declared, relation, number) {
                continue;
            }
            let mut uses = Uses { masked: &masked, found: false };
            uses_node(pg_sys::stringToNode(default.adbin).cast(), (&raw mut uses).cast());
            if uses.found {
                found.push((number, "It is generated from a masked column.".to_owned()));
            }
        }
        found
    }
}

fn has_generated(opened: &Opened) -> bool {
    opened.attributes().iter().any(|one| one.attgenerated != 0)
}

struct Uses<'a> {
    masked: &'a [i16],
    found: bool,
}

unsafe extern "C-unwind" fn uses_node(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: called with valid nodes or null; the tag decides the cast; the context is the caller's Uses.
    unsafe {
        if node.is_null() {
            return false;
        }
        if (*node).type_ != T::T_Var {
            return walk::expression(node, uses_node, context);
        }
        let uses = &mut *context.cast::<Uses<'_>>();
        let number = (*node.cast::<pg_sys::Var>()).varattno;
        uses.found |= number == 0 || uses.masked.contains(&number);
        false
    }
}

/// What a materialized view stores is a copy where its query reads a masked or filtered relation, through views too.
unsafe fn materialized(declared: &Declared, opened: &Opened) -> Result<Vec<(i16, String)>, Refusal> {
    // SAFETY: the relation is open, and its query belongs to its cache entry.
    unsafe {
        let Some(query) = opened.query() else {
            return Err(unusable((*opened.0).rd_id, "The materialized view has no query."));
        };
        let reads = sensitive(declared, query);
        Ok(reads
            .map(|relation| {
                let (name, _) = super::place(relation, None);
                (0, format!("It stores rows of {name}, which is masked or filtered."))
            })
            .into_iter()
            .collect())
    }
}

/// The first masked or filtered relation that a query reads, through views too; a materialized view counts as what it stores.
///
/// # Safety
/// `query` is a valid query.
pub unsafe fn sensitive(declared: &Declared, query: *mut pg_sys::Query) -> Option<pg_sys::Oid> {
    // SAFETY: the caller's query; others belong to open cache entries.
    unsafe {
        let mut open = names::read_by_query(query);
        let mut seen: Vec<pg_sys::Oid> = Vec::new();
        while let Some(next) = open.pop() {
            if seen.contains(&next) {
                continue;
            }
            seen.push(next);
            let Some(facts) = catalog::relation_facts(next) else { continue };
            if matches!(facts.kind, b'v' | b'm') && !declared.settled(next) {
                if let Some(relation) = Opened::open(next)
                    && let Some(query) = relation.query()
                {
                    open.extend(names::read_by_query(query));
                }
                continue;
            }
            if facts.kind == b'm' {
                continue;
            }
            let mut kin = vec![next];
            kin.extend(catalog::ancestors(next));
            kin.extend(catalog::descendants(next));
            if kin
                .iter()
                .any(|one| declared.masked(*one).next().is_some() || declared.filters.contains_key(one))
            {
                return Some(next);
            }
        }
        None
    }
}
