//! References to an entry: found at whatever depth they stand, renumbered, or replaced by masks.

use std::ffi::c_void;

use pgrx::pg_sys;
use pgrx::pg_sys::NodeTag as T;

use super::super::gather::names;
use super::super::{version, walk};
use crate::refusal::Refusal;

/// `tree` with the references to columns of entry `index` replaced by the target entries of their numbers; references to other
/// columns stay.
///
/// # Safety
/// `entry` is the relation's entry, `tree` a part of its query or the query itself.
pub unsafe fn replaced(
    tree: *mut pg_sys::Node,
    index: i32,
    entry: *mut pg_sys::RangeTblEntry,
    targets: *mut pg_sys::List,
) -> *mut pg_sys::Node {
    // SAFETY: the caller's promise. No mask holds a sublink, so none needs to be told of; a tree that has some already says so.
    unsafe {
        let mut has_sublinks = true;
        pg_sys::ReplaceVarsFromTargetList(
            tree,
            index,
            0,
            entry,
            targets,
            // What OLD and NEW stand for in RETURNING: the masks are computed over the row that the reference means.
            #[cfg(feature = "pg18")]
            index,
            pg_sys::ReplaceVarsNoMatchOption::REPLACEVARS_CHANGE_VARNO,
            index,
            &raw mut has_sublinks,
        )
    }
}

/// What a walk over references looks for.
struct Walk<'a> {
    index: i32,
    /// How many query levels the walk is below the entry's own.
    depth: u32,
    visit: &'a mut dyn FnMut(&mut pg_sys::Var) -> bool,
}

/// Visits every reference to entry `index`, at any depth, until one visit says that it is enough.
///
/// # Safety
/// `tree` is the entry's query or a part of it.
pub unsafe fn each(tree: *mut pg_sys::Node, index: i32, visit: &mut dyn FnMut(&mut pg_sys::Var) -> bool) {
    let mut walk = Walk { index, depth: 0, visit };
    // SAFETY: the walkers visit valid nodes; the context is our Walk.
    unsafe {
        let context: *mut c_void = (&raw mut walk).cast();
        if !tree.is_null() && (*tree).type_ == T::T_Query {
            // Its own level, not one below.
            walk::query(tree.cast(), reference, context, 0);
        } else {
            reference(tree, context);
        }
    }
}

unsafe extern "C-unwind" fn reference(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: called with valid nodes or null; the tag decides the cast; the context is our Walk.
    unsafe {
        if node.is_null() {
            return false;
        }
        let walk = &mut *context.cast::<Walk<'_>>();
        match (*node).type_ {
            T::T_Var => {
                let var = &mut *node.cast::<pg_sys::Var>();
                var.varno == walk.index && var.varlevelsup == walk.depth && (walk.visit)(var)
            }
            T::T_Query => {
                walk.depth += 1;
                let enough = walk::query(node.cast(), reference, context, 0);
                (*context.cast::<Walk<'_>>()).depth -= 1;
                enough
            }
            _ => walk::expression(node, reference, context),
        }
    }
}

/// Puts a row of columns in the place of references to the whole row of entry `index`, where its system columns are read too:
/// these become columns of the subquery, and the whole row must stay what it was.
///
/// # Errors
/// Where the row may be missing altogether, on the nullable side of an outer join: a row of columns is never that.
///
/// # Safety
/// `entry` is the relation's entry in the query.
pub unsafe fn expand_whole_rows(
    query: *mut pg_sys::Query,
    index: i32,
    entry: *mut pg_sys::RangeTblEntry,
) -> Result<(), Refusal> {
    let (mut system, mut whole, mut nullable) = (false, false, false);
    // SAFETY: the caller's promise; the changed copy takes the query's place.
    unsafe {
        each(query.cast(), index, &mut |var| {
            system |= var.varattno < 0;
            whole |= var.varattno == 0;
            nullable |= var.varattno == 0 && version::may_be_nulled(var);
            false
        });
        if !system || !whole {
            return Ok(());
        }
        if nullable {
            return Err(super::not_understood(
                "It reads system columns and the whole row of one that an outer join may leave out.",
            ));
        }
        let changed = replaced(query.cast(), index, entry, std::ptr::null_mut()).cast::<pg_sys::Query>();
        std::ptr::copy_nonoverlapping(changed, query, 1);
    }
    Ok(())
}

/// Gives the subquery of entry `index` the system columns that the query reads, and renumbers the references. Returns the
/// names of all its columns: as many as it has entries, which a stored rule's list may not have been.
///
/// # Safety
/// `subquery` is new and has one target entry for each attribute of the relation, which is its entry 1.
pub unsafe fn columns_for(
    query: *mut pg_sys::Query,
    index: i32,
    subquery: *mut pg_sys::Query,
    names_before: *mut pg_sys::Alias,
) -> *mut pg_sys::Alias {
    // SAFETY: nodes of the query or made in the planner's context.
    unsafe {
        let alias: *mut pg_sys::Alias = pg_sys::copyObjectImpl(names_before.cast()).cast();
        let attributes = names::members((*subquery).targetList);
        let known = names::members((*alias).colnames).len();
        for target in attributes.iter().skip(known) {
            let name = pg_sys::pstrdup((*target.cast::<pg_sys::TargetEntry>()).resname);
            (*alias).colnames = pg_sys::lappend((*alias).colnames, pg_sys::makeString(name).cast());
        }
        let mut system: Vec<(i16, i16)> = Vec::new();
        let first = i16::try_from(attributes.len()).unwrap_or(i16::MAX);
        each(query.cast(), index, &mut |var| {
            if var.varattno < 0 {
                let known = system.iter().find(|(number, _)| *number == var.varattno).map(|known| known.1);
                let place = known.unwrap_or_else(|| {
                    let place = first + 1 + i16::try_from(system.len()).unwrap_or(0);
                    system.push((var.varattno, place));
                    let inner =
                        pg_sys::makeVar(1, var.varattno, var.vartype, var.vartypmod, var.varcollid, 0);
                    let name = super::text(c"system");
                    // Junk, so that the whole row stays what it was.
                    let junk = version::JUNK_IS_PULLED_UP;
                    let entry = pg_sys::makeTargetEntry(inner.cast(), place, name, junk);
                    (*subquery).targetList = pg_sys::lappend((*subquery).targetList, entry.cast());
                    (*alias).colnames =
                        pg_sys::lappend((*alias).colnames, pg_sys::makeString(super::text(c"system")).cast());
                    place
                });
                var.varattno = place;
            }
            false
        });
        alias
    }
}
