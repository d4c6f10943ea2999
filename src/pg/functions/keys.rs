//! rotate_key, and the function behind the view signing_keys.

use pgrx::datum::TimestampWithTimeZone;
use pgrx::iter::TableIterator;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::pg::admin_error::{AdminError, AdminResult};
use crate::pg::functions::{administrator, done};
use crate::pg::keys;

#[pg_extern(sql = false)]
fn rotate_key() -> Result<i32, ErrorReport> {
    let rotate = || -> AdminResult<i32> {
        administrator()?;
        let kid = keys::rotate()?;
        done("rotate_key", format!("key {kid}"));
        i32::try_from(kid).map_err(|_| AdminError::state("the key's number is out of range"))
    };
    Ok(rotate()?)
}

#[pg_extern(sql = false)]
fn list_signing_keys() -> Result<
    TableIterator<'static, (name!(kid, i32), name!(state, String), name!(created_at, TimestampWithTimeZone))>,
    ErrorReport,
> {
    let list = || -> AdminResult<Vec<(i32, String, TimestampWithTimeZone)>> {
        administrator()?;
        let row = |(kid, state, created): (u32, crate::keyring::KeyState, i64)| {
            Some((i32::try_from(kid).ok()?, state.word().to_owned(), timestamp(created)?))
        };
        Ok(keys::listed()?.into_iter().filter_map(row).collect())
    };
    Ok(TableIterator::new(list()?))
}

/// A time of the key file as the server counts it: microseconds since 2000.
fn timestamp(unix: i64) -> Option<TimestampWithTimeZone> {
    const SECONDS_1970_TO_2000: i64 = 946_684_800;
    let microseconds = unix.checked_sub(SECONDS_1970_TO_2000)?.checked_mul(1_000_000)?;
    TimestampWithTimeZone::try_from(microseconds).ok()
}
