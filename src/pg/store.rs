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

use pgrx::datum::DatumWithOid;
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

/// Runs a statement and reads each row that it returns. Not read-only: a statement sees what the ones before it did.
fn rows<T>(
    sql: &str,
    args: &[DatumWithOid<'_>],
    read: impl Fn(Row<'_>) -> AdminResult<T>,
) -> AdminResult<Vec<T>> {
    Spi::connect_mut(|client| {
        let table = client.update(sql, None, &parameters(args))?;
        table.map(|row| read(Row(row))).collect()
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
    // Only what names a role in its text is not ASCII.
    let text = encoding::c_string(sql);
    Spi::connect_mut(|client| client.update(text.as_c_str(), None, &parameters(args)).map(|_| ()))?;
    Ok(())
}
