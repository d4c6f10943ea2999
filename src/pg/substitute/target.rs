//! The entry that a statement changes: RETURNING gives masks, every other read of a masked column is refused, and filters
//! bind the rows that are changed and those that come of it.

use std::os::raw::c_char;

use pgrx::pg_sys;
use pgrx::pg_sys::CmdType as C;
use pgrx::pg_sys::NodeTag as T;

use super::super::catalog;
use super::super::gather::names;
use super::super::masks::{self, Masked};
use super::{Mark, mark, node, text, vars};
use crate::refusal::Refusal;

/// Deals with the result relation of a query.
///
/// # Safety
/// `index` is the query's result relation, `masked` what bears on it.
pub unsafe fn changed(query: *mut pg_sys::Query, index: i32, masked: &Masked) -> Result<(), Refusal> {
    // SAFETY: the caller's promise.
    unsafe {
        let nth = usize::try_from(index - 1).unwrap_or(0);
        let entries = names::members((*query).rtable);
        let Some(entry) = entries.get(nth) else {
            return Err(super::not_understood("Its result relation is missing."));
        };
        let entry = entry.cast::<pg_sys::RangeTblEntry>();
        if let Some(number) = raw_read(query, index, entry, masked) {
            return Err(refused(masked.relation, number));
        }
        if masked.masks() && !(*query).returningList.is_null() {
            let targets = masked.masked_targets(index);
            (*query).returningList =
                vars::replaced((*query).returningList.cast(), index, entry, targets).cast();
        }
        if masked.filters_rows() {
            filter(query, index, entry, masked);
        }
        mark(entry, Mark::Target(masked.fingerprint));
        Ok(())
    }
}

/// A masked column of the result relation that is read anywhere but in RETURNING.
unsafe fn raw_read(
    query: *mut pg_sys::Query,
    index: i32,
    entry: *mut pg_sys::RangeTblEntry,
    masked: &Masked,
) -> Option<i16> {
    // SAFETY: what is left out of the walk is put back at once.
    unsafe {
        let returning = std::mem::replace(&mut (*query).returningList, std::ptr::null_mut());
        // New rows are checked as they are: by row security, by views, and by our own filters.
        let checks = std::mem::replace(&mut (*query).withCheckOptions, std::ptr::null_mut());
        let policies = (*query).hasRowSecurity && masked.row_security;
        let quals = policies.then(|| std::mem::replace(&mut (*entry).securityQuals, std::ptr::null_mut()));
        // Which index a conflict is looked for in tells no more than the index itself.
        let conflict = (*query).onConflict.as_mut();
        let arbiters = conflict.map(|conflict| {
            let arbiters = (conflict.arbiterElems, conflict.arbiterWhere);
            conflict.arbiterElems = std::ptr::null_mut();
            conflict.arbiterWhere = std::ptr::null_mut();
            arbiters
        });
        let mut found = None;
        vars::each(query.cast(), index, &mut |var| {
            if var.varattno == 0 {
                found = masked.columns.first().copied();
            } else if masked.columns.contains(&var.varattno) {
                found = Some(var.varattno);
            }
            found.is_some()
        });
        (*query).returningList = returning;
        (*query).withCheckOptions = checks;
        if let Some(quals) = quals {
            (*entry).securityQuals = quals;
        }
        if let (Some(conflict), Some((elements, condition))) = ((*query).onConflict.as_mut(), arbiters) {
            conflict.arbiterElems = elements;
            conflict.arbiterWhere = condition;
        }
        found
    }
}

fn refused(relation: pg_sys::Oid, number: i16) -> Refusal {
    let column = catalog::column_name(relation, number).unwrap_or_default();
    masks::refusal(
        "masked_column",
        relation,
        Some(&column),
        |name| format!("column {column} of {name} is masked and cannot decide what this statement changes"),
        "Which rows change would tell its value.",
        "Choose the rows and the new values by columns that are not masked; RETURNING gives the masked value.",
    )
}

/// Filters on what is changed, and on what it becomes.
unsafe fn filter(query: *mut pg_sys::Query, index: i32, entry: *mut pg_sys::RangeTblEntry, masked: &Masked) {
    use pg_sys::WCOKind as W;
    // SAFETY: nodes made in the planner's context.
    unsafe {
        let kinds: &[W::Type] = match (*query).commandType {
            C::CMD_INSERT => {
                let conflict = (*query).onConflict.as_ref();
                let updates = conflict
                    .is_some_and(|conflict| conflict.action == pg_sys::OnConflictAction::ONCONFLICT_UPDATE);
                if updates {
                    &[W::WCO_RLS_INSERT_CHECK, W::WCO_RLS_CONFLICT_CHECK, W::WCO_RLS_UPDATE_CHECK]
                } else {
                    &[W::WCO_RLS_INSERT_CHECK]
                }
            }
            C::CMD_DELETE => &[],
            C::CMD_UPDATE => &[W::WCO_RLS_UPDATE_CHECK],
            _ => &[W::WCO_RLS_INSERT_CHECK, W::WCO_RLS_UPDATE_CHECK],
        };
        if (*query).commandType != C::CMD_INSERT {
            super::filter(entry, index, masked);
        }
        let mut checks: *mut pg_sys::List = std::ptr::null_mut();
        for kind in kinds {
            for condition in names::members(masked.filters(index)) {
                let check: *mut pg_sys::WithCheckOption = node(T::T_WithCheckOption);
                (*check).kind = *kind;
                (*check).relname = relation_name(masked.relation);
                (*check).polname = text(c"agent_guard row filter");
                (*check).qual = condition;
                checks = pg_sys::lappend(checks, check.cast());
            }
        }
        // Before the view's own, which are checked in this order.
        (*query).withCheckOptions = pg_sys::list_concat_copy(checks, (*query).withCheckOptions);
    }
}

unsafe fn relation_name(relation: pg_sys::Oid) -> *mut c_char {
    // SAFETY: palloc'd, or null for a relation that is gone.
    unsafe {
        let name = pg_sys::get_rel_name(relation);
        if name.is_null() { text(c"") } else { name }
    }
}
