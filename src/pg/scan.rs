//! Reads rows straight from heap tables, past SPI, permissions, hooks and the transaction's snapshot.
//!
//! The agent's path reads policies and windows this way: no SQL runs, no user id is switched, no other extension's
//! hook is called, and a snapshot older than a revocation is never used.

use pgrx::datum::FromDatum;
use pgrx::pg_sys;

use super::text_datum::Column;
use super::version;

/// A key of an equality search on an index's column.
pub enum Key {
    /// A bigint.
    Big(i64),
    /// A uuid.
    Uuid([u8; 16]),
    /// A bytea.
    Bytes([u8; 16]),
    /// An oid.
    Oid(pg_sys::Oid),
}

/// One row while the scan stands on it.
pub struct Row<'a> {
    values: &'a [pg_sys::Datum],
    nulls: &'a [bool],
}

impl<'a> Row<'a> {
    /// A row of values that were taken out of a tuple.
    pub fn new(values: &'a [pg_sys::Datum], nulls: &'a [bool]) -> Row<'a> {
        Row { values, nulls }
    }

    /// The column of this number (from 1); `None` for NULL.
    pub fn column<T: Column>(&self, number: usize) -> Option<T> {
        let index = number.checked_sub(1)?;
        let (value, null) = (self.values.get(index)?, *self.nulls.get(index)?);
        // SAFETY: the caller names the type that the column has (sql/tables.sql, PostgreSQL's catalogues).
        unsafe { T::Raw::from_datum(*value, null) }.map(T::of)
    }

    /// A text[] without its NULL elements.
    pub fn texts(&self, number: usize) -> Vec<String> {
        self.column::<Vec<Option<String>>>(number).unwrap_or_default().into_iter().flatten().collect()
    }

    /// The sixteen bytes of a uuid or a bytea of that length.
    pub fn sixteen(&self, number: usize) -> Option<[u8; 16]> {
        self.column::<Vec<u8>>(number)?.try_into().ok()
    }

    /// A timestamptz as microseconds since the Unix epoch.
    pub fn unix_micros(&self, number: usize) -> Option<i64> {
        self.column::<pgrx::datum::TimestampWithTimeZone>(number)
            .map(|at| pg_sys::TimestampTz::from(at).saturating_add(POSTGRES_EPOCH_MICROS))
    }

    /// The raw datum; `None` for NULL.
    pub fn datum(&self, number: usize) -> Option<pg_sys::Datum> {
        let index = number.checked_sub(1)?;
        (!*self.nulls.get(index)?).then_some(*self.values.get(index)?)
    }
}

/// Microseconds between 1970-01-01 and 2000-01-01, PostgreSQL's epoch.
pub const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The clock as microseconds since the Unix epoch.
pub fn clock() -> i64 {
    super::quick::timestamp().wrapping_add(POSTGRES_EPOCH_MICROS)
}

/// Visits the rows of `table` that match `key` on the first column of `index`, or all of them without an index.
///
/// Rows committed up to now are seen, whatever the transaction's isolation: without a snapshot of the caller's,
/// systable_beginscan takes a catalogue snapshot, which is a fresh one for every scan of a table that has no system
/// cache (GetCatalogSnapshot in snapmgr.c). It is legal in parallel workers and leaves the transaction without a
/// snapshot of its own, so that SET TRANSACTION may still follow. A missing table has no rows.
pub fn rows(table: pg_sys::Oid, index: Option<(pg_sys::Oid, i16, Key)>, mut visit: impl FnMut(&Row<'_>)) {
    match index {
        None => tuples(table, None, |_, row| visit(row)),
        Some((index, column, key)) => tuples(table, Some((index, &[(column, key)])), |_, row| visit(row)),
    }
}

/// Sixteen bytes behind a four-byte header.
const VARLENA: usize = 20;

fn varlena(id: &[u8; 16]) -> [u8; VARLENA] {
    let mut bytes = [0; VARLENA];
    for (to, from) in bytes.iter_mut().skip(4).zip(id) {
        *to = *from;
    }
    // SAFETY: the header of a value of 20 bytes.
    unsafe { pgrx::set_varsize_4b(bytes.as_mut_ptr().cast(), 20) };
    bytes
}

/// Hands `body` the question whether `table`, whose first column is a bytea under the unique `index`, has a row of these
/// sixteen bytes: opened once for all that are asked, and not at all searched while the table has no pages. What is seen is
/// as with `rows`. A missing table has none.
pub fn with_lookup<R>(
    table: pg_sys::Oid,
    index: pg_sys::Oid,
    body: impl FnOnce(&dyn Fn(&[u8; 16]) -> bool) -> R,
) -> R {
    const ACCESS_SHARE: i32 = 1;
    // SAFETY: what is opened is closed below; after an ERROR the transaction's resource owner does. The key lives as long
    // as each search.
    unsafe {
        let relation = pg_sys::try_relation_open(table, ACCESS_SHARE);
        if relation.is_null() {
            return body(&|_| false);
        }
        if pg_sys::RelationGetNumberOfBlocksInFork(relation, pg_sys::ForkNumber::MAIN_FORKNUM) == 0 {
            let answer = body(&|_| false);
            pg_sys::relation_close(relation, ACCESS_SHARE);
            return answer;
        }
        let opened = pg_sys::index_open(index, ACCESS_SHARE);
        let snapshot = pg_sys::RegisterSnapshot(pg_sys::GetCatalogSnapshot(table));
        let scan = version::begin_index_scan(relation, opened, snapshot);
        let slot = pg_sys::table_slot_create(relation, std::ptr::null_mut());
        let answer = body(&|id| {
            let bytes = varlena(id);
            let mut key = pg_sys::ScanKeyData::default();
            let equal = pg_sys::RegProcedure::from(pg_sys::F_BYTEAEQ);
            pg_sys::ScanKeyInit(&mut key, 1, 3, equal, pg_sys::Datum::from(bytes.as_ptr()));
            pg_sys::index_rescan(scan, &mut key, 1, std::ptr::null_mut(), 0);
            pg_sys::index_getnext_slot(scan, pg_sys::ScanDirection::ForwardScanDirection, slot)
        });
        pg_sys::ExecDropSingleTupleTableSlot(slot);
        pg_sys::index_endscan(scan);
        pg_sys::UnregisterSnapshot(snapshot);
        pg_sys::index_close(opened, ACCESS_SHARE);
        pg_sys::relation_close(relation, ACCESS_SHARE);
        answer
    }
}

/// The most keys of a search.
const KEYS_MAX: usize = 2;

/// As `rows`, with the place of each, and with a key on each of several columns.
pub fn tuples(
    table: pg_sys::Oid,
    index: Option<(pg_sys::Oid, &[(i16, Key)])>,
    mut visit: impl FnMut(pg_sys::ItemPointerData, &Row<'_>),
) {
    const ACCESS_SHARE: i32 = 1;
    // SAFETY: the table is opened and locked for the length of the scan; tuples are read while the scan stands on
    // them; every value that leaves is an owned Rust copy (FromDatum).
    unsafe {
        let relation = pg_sys::try_relation_open(table, ACCESS_SHARE);
        if relation.is_null() {
            return;
        }
        let mut keys = [pg_sys::ScanKeyData::default(); KEYS_MAX];
        let mut bytes = [[0u8; VARLENA]; KEYS_MAX];
        let (index_oid, wanted) = index.unwrap_or((pg_sys::InvalidOid, &[]));
        let mut count = 0;
        for (((column, wanted), key), bytes) in wanted.iter().zip(&mut keys).zip(&mut bytes) {
            let (procedure, datum) = match wanted {
                Key::Big(number) => (pg_sys::F_INT8EQ, pg_sys::Datum::from(*number)),
                Key::Oid(oid) => (pg_sys::F_OIDEQ, pg_sys::Datum::from(*oid)),
                Key::Uuid(uuid) => (pg_sys::F_UUID_EQ, pg_sys::Datum::from(uuid.as_ptr())),
                Key::Bytes(id) => {
                    *bytes = varlena(id);
                    (pg_sys::F_BYTEAEQ, pg_sys::Datum::from(bytes.as_ptr()))
                }
            };
            pg_sys::ScanKeyInit(key, *column, 3, pg_sys::RegProcedure::from(procedure), datum);
            count += 1;
        }
        let descriptor = (*relation).rd_att;
        let natts = usize::try_from((*descriptor).natts).unwrap_or(0);
        let mut values = vec![pg_sys::Datum::from(0); natts];
        let mut nulls = vec![true; natts];
        let scan = pg_sys::systable_beginscan(
            relation,
            index_oid,
            index_oid != pg_sys::InvalidOid,
            std::ptr::null_mut(),
            count,
            keys.as_mut_ptr(),
        );
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            pg_sys::heap_deform_tuple(tuple, descriptor, values.as_mut_ptr(), nulls.as_mut_ptr());
            visit((*tuple).t_self, &Row { values: &values, nulls: &nulls });
        }
        pg_sys::systable_endscan(scan);
        pg_sys::relation_close(relation, ACCESS_SHARE);
    }
}
