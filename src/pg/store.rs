//! The tables of the extension and the catalogue, as the administrative functions read and write them.
//! The only SPI on the administrative side.
//!
//! INVARIANT: every statement text is a constant with schema-qualified names and operators; values are parameters.
//! The two exceptions (role.rs) are utility statements, which take none: they quote one identifier.

pub mod approval;
pub mod catalogue;
pub mod mask;
pub mod policy;
pub mod role;
pub mod trail;
pub mod window;

use std::ffi::CStr;

use pgrx::datum::DatumWithOid;
use pgrx::pg_sys;
use pgrx::spi::{Error, Spi, SpiHeapTupleData};

use crate::pg::admin_error::{AdminError, AdminResult};
use crate::pg::encoding;
use crate::pg::text_datum::{Column, parameters};

/// One row of a result.
pub struct Row<'a>(SpiHeapTupleData<'a>);

impl Row<'_> {
    /// The column at `ordinal` (from 1), which the statement makes sure is not NULL.
    pub fn need<T: Column>(&self, ordinal: usize) -> AdminResult<T> {
        self.may::<T>(ordinal)?.ok_or_else(|| AdminError::from(Error::InvalidPosition))
    }

    /// The column at `ordinal` (from 1).
    pub fn may<T: Column>(&self, ordinal: usize) -> AdminResult<Option<T>> {
        Ok(self.0.get::<T::Raw>(ordinal)?.map(T::of))
    }
}

/// Runs a statement and reads each row that it returns. A statement sees what the ones before it did.
fn rows<T>(
    sql: &str,
    args: &[DatumWithOid<'_>],
    read: impl Fn(Row<'_>) -> AdminResult<T>,
) -> AdminResult<Vec<T>> {
    // Only what names a role in its text is not ASCII.
    let text = encoding::c_string(sql);
    Spi::connect_mut(|_| {
        // SAFETY: connected to SPI.
        let rows = unsafe { now(&text, &parameters(args)) }?;
        rows.into_iter().map(|row| read(Row(row))).collect()
    })
}

/// The first row of a statement.
fn row<T>(
    sql: &str,
    args: &[DatumWithOid<'_>],
    read: impl Fn(Row<'_>) -> AdminResult<T>,
) -> AdminResult<Option<T>> {
    Ok(rows(sql, args, read)?.into_iter().next())
}

/// Runs a statement for its effect.
fn run(sql: &str, args: &[DatumWithOid<'_>]) -> AdminResult<()> {
    rows(sql, args, |_| Ok(())).map(drop)
}

/// Runs a statement on what is committed at this moment, as the server's own commands do with the catalogue, also in a transaction
/// whose snapshot is older (REPEATABLE READ): what was masked since would be left out of the view that is made, and of what a
/// partition takes along that leaves. A row that changes while it is waited for is still told as a serialization failure there.
///
/// # Safety
/// Connected to SPI, to which the rows belong.
unsafe fn now<'a>(text: &CStr, args: &[DatumWithOid<'_>]) -> AdminResult<Vec<SpiHeapTupleData<'a>>> {
    let count = i32::try_from(args.len()).unwrap_or(0);
    let mut types: Vec<_> = args.iter().map(DatumWithOid::oid).collect();
    let mut values: Vec<_> = args
        .iter()
        .map(|one| one.datum().map_or(pg_sys::Datum::from(0), |datum| datum.sans_lifetime()))
        .collect();
    let nulls: Vec<_> =
        args.iter().map(|one| if one.datum().is_some() { b' ' } else { b'n' }.cast_signed()).collect();
    // SAFETY: types, values and marks of as many parameters; SPI copies the snapshot. The rows live until SPI is left.
    unsafe {
        let plan = pg_sys::SPI_prepare(text.as_ptr(), count, types.as_mut_ptr());
        if plan.is_null() {
            Spi::check_status(pg_sys::SPI_result)?;
        }
        pg_sys::CommandCounterIncrement();
        let snapshot = pg_sys::GetLatestSnapshot();
        let nothing = std::ptr::null_mut();
        let status = pg_sys::SPI_execute_snapshot(
            plan,
            values.as_mut_ptr(),
            nulls.as_ptr(),
            snapshot,
            nothing,
            false,
            true,
            0,
        );
        Spi::check_status(status)?;
        let Some(table) = pg_sys::SPI_tuptable.as_ref() else { return Ok(Vec::new()) };
        let mut rows = Vec::new();
        for n in 0..usize::try_from(table.numvals).unwrap_or(0) {
            rows.extend(SpiHeapTupleData::new(table.tupdesc, *table.vals.add(n))?);
        }
        Ok(rows)
    }
}
