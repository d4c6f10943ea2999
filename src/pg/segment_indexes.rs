//! The indexes of a segment: left aside while it is filled, then made at once.
//!
//! Entries that are made one by one were half of what an event cost the writer; made in bulk, sorted first, they are a fifth of that.
//! Until then queries read the segment as it is, which a segment of the usual size stands. An index that is left aside is one
//! that is neither ready nor valid in `pg_index`, as a failed CREATE INDEX CONCURRENTLY leaves it: the planner and
//! inserts pass it by, and REINDEX by anybody puts it in force.

use pgrx::prelude::*;

use super::insert::Written;
use super::version;

/// A segment that has so many rows gets its indexes though it is not full.
pub const ROWS_WITHOUT: u64 = 65_536;

/// Whether an index is kept with every row, and whether it may be left aside.
#[derive(Clone, Copy)]
struct State {
    ready: bool,
    optional: bool,
}

fn state(index: pg_sys::Oid) -> Option<State> {
    // SAFETY: the tuple is that of pg_index and is released.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::INDEXRELID as i32;
        let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(index));
        if tuple.is_null() {
            return None;
        }
        let row = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_index>();
        let optional = !(*row).indisunique && !(*row).indisexclusion;
        let state = State { ready: (*row).indisready && (*row).indisvalid, optional };
        pg_sys::ReleaseSysCache(tuple);
        Some(state)
    }
}

/// The indexes of a table that is open or locked.
fn of(relation: pg_sys::Oid) -> Vec<pg_sys::Oid> {
    // SAFETY: null for a table that is gone; the list is a copy, and its cells are OIDs.
    unsafe {
        let table = pg_sys::RelationIdGetRelation(relation);
        if table.is_null() {
            return Vec::new();
        }
        let list = pg_sys::RelationGetIndexList(table);
        let count = if list.is_null() { 0 } else { usize::try_from((*list).length).unwrap_or(0) };
        let indexes = (0..count).map(|n| (*(*list).elements.add(n)).oid_value).collect();
        pg_sys::list_free(list);
        pg_sys::RelationClose(table);
        indexes
    }
}

/// Whether a segment has indexes that are yet to be made. Inside a transaction.
pub fn any_aside(relation: pg_sys::Oid) -> bool {
    of(relation).into_iter().any(|index| state(index).is_some_and(|state| !state.ready))
}

/// Leaves the indexes of an empty segment aside, in the caller's transaction; false, and all as it was, where somebody
/// holds a lock.
pub fn leave_aside(relation: pg_sys::Oid) -> bool {
    // A plan that uses an index would miss the rows to come; whoever has one holds a lock that this one excludes.
    // SAFETY: a lock by OID is legal for relations that are gone; it lasts until the transaction ends.
    if !unsafe { pg_sys::ConditionalLockRelationOid(relation, pg_sys::AccessExclusiveLock as i32) } {
        return false;
    }
    for index in of(relation) {
        if state(index).is_some_and(|state| state.ready && state.optional) {
            mark(index);
        }
    }
    // SAFETY: makes the change visible to what follows in this transaction.
    unsafe { pg_sys::CommandCounterIncrement() };
    true
}

/// Marks an index as neither ready nor valid, as index_set_state_flags (catalog/index.c) does in its own steps.
fn mark(index: pg_sys::Oid) {
    // SAFETY: a copy of the tuple is changed and stored; fixed columns of pg_index lie where the struct has them.
    unsafe {
        let catalogue = pg_sys::table_open(pg_sys::IndexRelationId, pg_sys::RowExclusiveLock as i32);
        let none = pg_sys::Datum::from(0_usize);
        let cache = pg_sys::SysCacheIdentifier::INDEXRELID as i32;
        let tuple = pg_sys::SearchSysCacheCopy(cache, pg_sys::Datum::from(index), none, none, none);
        if !tuple.is_null() {
            let row = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_index>();
            ((*row).indisready, (*row).indisvalid) = (false, false);
            pg_sys::CatalogTupleUpdate(catalogue, &mut (*tuple).t_self, tuple);
            pg_sys::heap_freetuple(tuple);
        }
        pg_sys::table_close(catalogue, pg_sys::RowExclusiveLock as i32);
    }
}

/// Makes one of the indexes that were left aside, in the caller's transaction. `None` where there is none left;
/// `Locked` where somebody who reads the segment keeps it from being made.
pub fn make_one(relation: pg_sys::Oid) -> Option<Written> {
    // SAFETY: as in `leave_aside`. reindex_index takes these same locks, so that it waits for nobody.
    unsafe {
        if !pg_sys::ConditionalLockRelationOid(relation, pg_sys::ShareLock as i32) {
            return Some(Written::Locked);
        }
        let index = of(relation).into_iter().find(|index| state(*index).is_some_and(|state| !state.ready))?;
        if !pg_sys::ConditionalLockRelationOid(index, pg_sys::AccessExclusiveLock as i32) {
            return Some(Written::Locked);
        }
        version::reindex_unlogged(index);
    }
    Some(Written::All)
}
