//! Counts rows for approvers: those of a table, or those that conditions match which `plan` has found plain.
//!
//! Past planner and executor, with a scan of its own: planning alone would run functions that belong to the agent, as in
//! the expressions of an index, with the rights of whoever asks. What cannot be counted like that is not counted.

use std::panic::AssertUnwindSafe;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;

use super::super::gather::names;
use super::super::{catalog, scan, version, walk};
use super::plan;

const ACCESS_SHARE: i32 = 1;
/// How many rows are looked at between two looks at the clock.
const STRIDE: u32 = 256;

/// The rows of a relation that meet the conditions, or all of them, as committed now. `None` where that is not known: no
/// plain table, locked, gone, not counted until then (microseconds of the Unix epoch), or the conditions fail on a row.
pub fn rows(relation: pg_sys::Oid, conditions: Option<&str>, until: i64) -> Option<i64> {
    // SAFETY: as PL/pgSQL does for a block with EXCEPTION; context and owner are put back either way.
    unsafe {
        let (memory, owner) = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        pg_sys::MemoryContextSwitchTo(memory);
        let outcome = PgTryBuilder::new(AssertUnwindSafe(|| Ok(family(relation, conditions, until))))
            .catch_others(Err)
            .execute();
        match &outcome {
            Ok(_) => pg_sys::ReleaseCurrentSubTransaction(),
            Err(_) => pg_sys::RollbackAndReleaseCurrentSubTransaction(),
        }
        pg_sys::MemoryContextSwitchTo(memory);
        pg_sys::CurrentResourceOwner = owner;
        match outcome {
            Ok(counted) => counted,
            // Whatever is wrong with a row is nothing to end the approver's statement for; a cancel is.
            Err(caught) if is_about_data(&caught) => None,
            Err(caught) => caught.rethrow(),
        }
    }
}

fn is_about_data(caught: &CaughtError) -> bool {
    let (CaughtError::PostgresError(report)
    | CaughtError::ErrorReport(report)
    | CaughtError::RustPanic { ereport: report, .. }) = caught;
    let code = super::super::raise::sqlstate_text(report.sql_error_code() as i32);
    // Data exceptions, objects that are no more, what is not supported, limits.
    [*b"22", *b"42", *b"0A", *b"54"].iter().any(|class| code.starts_with(class))
}

/// A partitioned table has the rows of its leaves.
fn family(relation: pg_sys::Oid, conditions: Option<&str>, until: i64) -> Option<i64> {
    const PARTITIONED: u8 = b'p';
    let kind = catalog::relation_facts(relation)?.kind;
    if kind != PARTITIONED {
        return count(relation, conditions, until);
    }
    if conditions.is_some() {
        return None;
    }
    let is_leaf =
        |one: &pg_sys::Oid| catalog::relation_facts(*one).is_none_or(|facts| facts.kind != PARTITIONED);
    let leaves = catalog::descendants(relation).into_iter().filter(|one| *one != relation && is_leaf(one));
    leaves.map(|leaf| count(leaf, None, until)).try_fold(0_i64, |sum, rows| sum.checked_add(rows?))
}

fn count(relid: pg_sys::Oid, conditions: Option<&str>, until: i64) -> Option<i64> {
    // SAFETY: the lock is held while the relation is open; nobody is waited for.
    unsafe {
        if !pg_sys::ConditionalLockRelationOid(relid, ACCESS_SHARE) {
            return None;
        }
        let relation = pg_sys::try_relation_open(relid, 0);
        if relation.is_null() {
            pg_sys::UnlockRelationOid(relid, ACCESS_SHARE);
            return None;
        }
        let counted = count_in(relation, conditions, until);
        pg_sys::relation_close(relation, ACCESS_SHARE);
        counted
    }
}

/// # Safety
/// The relation is open and locked.
unsafe fn count_in(relation: pg_sys::Relation, conditions: Option<&str>, until: i64) -> Option<i64> {
    // SAFETY: the caller's promise, and a heap table is read as the server's own sequential scan does; what is evaluated was
    // found plain, against this very table.
    unsafe {
        let heap = (*relation).rd_tableam == pg_sys::GetHeapamTableAmRoutine();
        let kind = (*(*relation).rd_rel).relkind.cast_unsigned();
        // Another session's temporary table is in that session's memory.
        let temporary = (*(*relation).rd_rel).relpersistence.cast_unsigned() == pg_sys::RELPERSISTENCE_TEMP;
        if !heap || !matches!(kind, b'r' | b'm') || temporary {
            return None;
        }
        let state = match conditions {
            None => std::ptr::null_mut(),
            Some(text) => pg_sys::ExecInitQual(read(text, (*relation).rd_att)?, std::ptr::null_mut()),
        };
        let context = pg_sys::CreateStandaloneExprContext();
        let slot =
            pg_sys::MakeSingleTupleTableSlot((*relation).rd_att, &raw const pg_sys::TTSOpsBufferHeapTuple);
        (*context).ecxt_scantuple = slot;
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot());
        let flags = pg_sys::ScanOptions::SO_TYPE_SEQSCAN
            | pg_sys::ScanOptions::SO_ALLOW_STRAT
            | pg_sys::ScanOptions::SO_ALLOW_SYNC
            | pg_sys::ScanOptions::SO_ALLOW_PAGEMODE;
        let cursor =
            pg_sys::heap_beginscan(relation, snapshot, 0, std::ptr::null_mut(), std::ptr::null_mut(), flags);
        let mut seen = 0_u32;
        let mut counted = Some(0_i64);
        while let Some(sum) = counted
            && pg_sys::heap_getnextslot(cursor, pg_sys::ScanDirection::ForwardScanDirection, slot)
        {
            pgrx::check_for_interrupts!();
            seen = seen.wrapping_add(1);
            if seen.is_multiple_of(STRIDE) && scan::clock() >= until {
                counted = None;
            } else if meets(state, context) {
                counted = Some(sum.saturating_add(1));
            }
            pg_sys::MemoryContextReset((*context).ecxt_per_tuple_memory);
        }
        pg_sys::heap_endscan(cursor);
        pg_sys::UnregisterSnapshot(snapshot);
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::FreeExprContext(context, true);
        counted
    }
}

/// Whether the row in the context's slot meets the conditions; NULL is no.
///
/// # Safety
/// The state was made for the table whose row is in the slot.
unsafe fn meets(state: *mut pg_sys::ExprState, context: *mut pg_sys::ExprContext) -> bool {
    if state.is_null() {
        return true;
    }
    let mut null = false;
    // SAFETY: the caller's promise.
    unsafe { pg_sys::ExecEvalExprSwitchContext(state, context, &raw mut null).value() != 0 && !null }
}

/// Reads conditions that `plan` has written, and proves again that they are plain and that the table still has the columns
/// that they name.
unsafe fn read(text: &str, of: pg_sys::TupleDesc) -> Option<*mut pg_sys::List> {
    let text = std::ffi::CString::new(text).ok()?;
    // SAFETY: nodeToString wrote it; the walkers visit valid nodes; the descriptor lives as long as the relation is open.
    unsafe {
        let list = pg_sys::stringToNode(text.as_ptr()).cast::<pg_sys::List>();
        if list.is_null() {
            return Some(list);
        }
        if (*list).type_ != pg_sys::NodeTag::T_List || !plan::plain(list) {
            return None;
        }
        let strange = names::members(list)
            .into_iter()
            .any(|clause| names_other_column(clause, of.cast::<std::ffi::c_void>()));
        (!strange).then_some(list)
    }
}

unsafe extern "C-unwind" fn names_other_column(node: *mut pg_sys::Node, of: *mut std::ffi::c_void) -> bool {
    // SAFETY: expression_tree_walker hands valid nodes or null; the context is the tuple descriptor.
    unsafe {
        if node.is_null() {
            return false;
        }
        if (*node).type_ != pg_sys::NodeTag::T_Var {
            return walk::expression(node, names_other_column, of);
        }
        let var = &*node.cast::<pg_sys::Var>();
        let descriptor = of.cast::<pg_sys::TupleDescData>();
        let at = usize::try_from(var.varattno).unwrap_or(0);
        let Some(column) = version::attributes(descriptor).get(at.wrapping_sub(1)) else { return true };
        column.attisdropped || column.atttypid != var.vartype
    }
}
