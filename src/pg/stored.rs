//! Reads the trail's rows back in the order of their numbers, as the bytes that were hashed.

use pgrx::memcxt::PgMemoryContexts;
use pgrx::prelude::*;

use super::columns::{self, Kind, Layout, Remembered};
use super::{catalog, own};
use crate::audit::chain::{Found, Hash};

/// Rows fetched at a time.
const FETCH: i64 = 1000;

/// The trail at one moment: while this lives, everything is read as it was when it began, whatever the transaction's isolation;
/// and until the transaction ends no segment is emptied, which a snapshot alone does not keep (TRUNCATE is not MVCC-safe).
pub struct Moment(());

impl Moment {
    /// Calls `before` between the locks and the snapshot: what that tells of is seen. May raise: a cancel.
    pub fn begin<T>(before: impl FnOnce() -> T) -> (Moment, T) {
        if let Some(parent) = own::table(c"audit_segment") {
            for oid in catalog::descendants(parent) {
                // SAFETY: takes a lock, which does not need the relation to exist.
                unsafe { pg_sys::LockRelationOid(oid, pg_sys::AccessShareLock.cast_signed()) };
            }
        }
        let told = before();
        // SAFETY: inside a transaction; popped by Drop, and by the server where the transaction fails.
        unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot()) };
        (Moment(()), told)
    }
}

impl Drop for Moment {
    fn drop(&mut self) {
        // SAFETY: what `begin` has pushed: whatever was pushed on top is gone by now. An error that unwinds leaves it to the end
        // of the transaction.
        if !std::thread::panicking() {
            unsafe { pg_sys::PopActiveSnapshot() };
        }
    }
}

/// Calls `each` for every event from a number on, as the caller's snapshot sees them; until it says that this is enough. Inside a
/// transaction; needs the caller's right to read the segments.
pub fn each_row(from: u64, mut each: impl FnMut(&Found<'_>) -> bool) {
    let query = c"SELECT * FROM agent_guard.audit_segment WHERE seq OPERATOR(pg_catalog.>=) $1 ORDER BY seq";
    let mut types = [pg_sys::INT8OID];
    let mut values = [pg_sys::Datum::from(i64::try_from(from).unwrap_or(i64::MAX))];
    // SAFETY: SPI in its documented order: connect, prepare, open, fetch, close, finish; read-only, which takes the caller's
    // snapshot. An ERROR within ends the transaction, which cleans up.
    unsafe {
        pg_sys::SPI_connect();
        let plan = pg_sys::SPI_prepare(query.as_ptr(), 1, types.as_mut_ptr());
        if plan.is_null() {
            error!("the audit trail cannot be read");
        }
        let portal =
            pg_sys::SPI_cursor_open(std::ptr::null(), plan, values.as_mut_ptr(), std::ptr::null(), true);
        let mut layout: Option<Layout> = None;
        let mut more = true;
        while more {
            pg_sys::SPI_cursor_fetch(portal, true, FETCH);
            let (rows, table) = (pg_sys::SPI_processed, pg_sys::SPI_tuptable);
            if rows == 0 || table.is_null() {
                break;
            }
            if layout.is_none() {
                layout = columns::layout((*table).tupdesc);
            }
            let Some(layout) = &layout else {
                error!("agent_guard's audit tables are of another version of the extension");
            };
            // What detoasting and output functions leave goes with each fetch.
            let mut context = PgMemoryContexts::new("agent_guard audit rows");
            more = context.switch_to(|_| rows_of(table, rows, layout, &mut each));
            drop(context);
            pg_sys::SPI_freetuptable(table);
        }
        pg_sys::SPI_cursor_close(portal);
        pg_sys::SPI_finish();
    }
}

/// # Safety
/// `table` holds `rows` rows of this layout.
unsafe fn rows_of(
    table: *mut pg_sys::SPITupleTable,
    rows: u64,
    layout: &Layout,
    each: &mut impl FnMut(&Found<'_>) -> bool,
) -> bool {
    let mut bytes = Vec::new();
    let mut remembered = Remembered::default();
    let mut values = vec![pg_sys::Datum::from(0_usize); layout.len()];
    let mut nulls = vec![false; layout.len()];
    let at = |kind: Kind| layout.iter().position(|(_, of)| *of == kind);
    let (Some(seq_at), Some(hash_at)) = (at(Kind::Seq), at(Kind::Hash)) else {
        error!("agent_guard's audit tables are of another version of the extension");
    };
    for n in 0..usize::try_from(rows).unwrap_or(0) {
        bytes.clear();
        // SAFETY: the caller's promise.
        let (seq, hash) = unsafe {
            let tuple = *(*table).vals.add(n);
            pg_sys::heap_deform_tuple(tuple, (*table).tupdesc, values.as_mut_ptr(), nulls.as_mut_ptr());
            // JSON values are told apart by their addresses, and this fetch's tuples lie side by side until it is freed.
            columns::put(layout, &values, &nulls, &mut remembered, &mut bytes);
            let cell = |at: usize| {
                let null = nulls.get(at).copied().unwrap_or(true);
                values.get(at).filter(|_| !null).copied()
            };
            let seq = cell(seq_at).map_or(0, |seq| seq.value() as u64);
            let hash = cell(hash_at).and_then(|hash| Vec::<u8>::from_datum(hash, false));
            (seq, hash.and_then(|hash| Hash::try_from(hash).ok()).unwrap_or([0; 32]))
        };
        if !each(&Found { seq, hash, columns: &bytes }) {
            return false;
        }
    }
    true
}
