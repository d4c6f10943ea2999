//! set_limits, set_recording, list_ledger, and the limits that grant_window and delegate take.

use pgrx::datum::{Interval, Uuid};
use pgrx::iter::TableIterator;
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

use crate::limit::{self, Limits, Meter, span};
use crate::pg::admin_error::{AdminError, AdminResult, given};
use crate::pg::functions::{administrator, done, policy};
use crate::pg::store::policy as store;
use crate::pg::text_datum::Text;
use crate::pg::{handshake, ledger, policies};
use crate::recording::{Kept, Recording};

/// A limit as an argument; NULL is none.
pub(super) fn number(value: Option<i64>, name: &str) -> AdminResult<Option<u64>> {
    value.map(limit::proper).transpose().map_err(|fact| {
        AdminError::invalid(format!("{name} {fact}"))
            .hint("Leave it NULL for no limit; to let nothing through, revoke the window or drop the rule.")
    })
}

/// A length of time as an argument, in microseconds; NULL is none.
fn time(value: Option<Interval>, name: &str) -> AdminResult<Option<u64>> {
    let Some(interval) = value else { return Ok(None) };
    let microseconds = policies::microseconds(&interval);
    if !(1..=span::LONGEST).contains(&(microseconds / 1000)) {
        return Err(AdminError::invalid(format!("{name} must be at least 1 ms and less than 25 days"))
            .hint("Pass a short time, such as '30 s', or leave it NULL for no limit."));
    }
    // Whole milliseconds, as documents and timers have them.
    Ok(Some(microseconds - microseconds % 1000))
}

/// The limits that set_limits and grant_window have in common.
pub(super) fn limits(
    rows_per_statement: Option<i64>,
    rows_read: Option<i64>,
    rows_written: Option<i64>,
    bytes_read: Option<i64>,
    statements: Option<i64>,
    statement_timeout: Option<Interval>,
) -> AdminResult<Limits> {
    let mut limits = Limits {
        rows_per_statement: number(rows_per_statement, "rows_per_statement")?,
        statement_timeout: time(statement_timeout, "statement_timeout")?,
        ..Limits::default()
    };
    for (meter, value) in [
        (Meter::RowsRead, rows_read),
        (Meter::RowsWritten, rows_written),
        (Meter::BytesRead, bytes_read),
        (Meter::Statements, statements),
    ] {
        if let Some(total) = limits.totals.get_mut(meter.index()) {
            *total = number(value, meter.word())?;
        }
    }
    Ok(limits)
}

#[pg_extern(sql = false)]
fn set_limits(
    policy: Option<Text>,
    rows_per_statement: Option<i64>,
    rows_read: Option<i64>,
    rows_written: Option<i64>,
    bytes_read: Option<i64>,
    statements: Option<i64>,
    statement_timeout: Option<Interval>,
) -> Result<(), ErrorReport> {
    let policy = policy.as_deref();
    let set = || -> AdminResult<()> {
        administrator()?;
        let limits =
            limits(rows_per_statement, rows_read, rows_written, bytes_read, statements, statement_timeout)?;
        let name = given(policy, "policy")?;
        let policy = policy::locked(name)?;
        store::set_limits(policy.id, &limits)?;
        store::policy_changed(policy.id)?;
        done("set_limits", format!("policy {name}"));
        Ok(())
    };
    Ok(set()?)
}

#[pg_extern(sql = false)]
fn set_recording(
    policy: Option<Text>,
    results: Option<Text>,
    max_rows: Option<i64>,
    max_bytes: Option<i64>,
) -> Result<(), ErrorReport> {
    let (policy, results) = (policy.as_deref(), results.as_deref());
    let set = || -> AdminResult<()> {
        administrator()?;
        let word = given(results, "results")?;
        let results = Kept::of_word(word).ok_or_else(|| {
            AdminError::invalid(format!("\"{word}\" is nothing that can be recorded of results"))
                .hint("Pass rows, digest (their number, bytes and SHA-256) or none.")
        })?;
        let limit = |value: Option<i64>| value.map(|value| u64::try_from(value).unwrap_or(0));
        let recording = Recording { results, max_rows: limit(max_rows), max_bytes: limit(max_bytes) };
        recording.proper().map_err(|(name, fact)| {
            AdminError::invalid(format!("{name} {fact}")).hint("Leave it NULL for the default.")
        })?;
        let name = given(policy, "policy")?;
        let policy = policy::locked(name)?;
        store::set_recording(policy.id, &recording)?;
        store::policy_changed(policy.id)?;
        done("set_recording", format!("policy {name}: {}", recording.text()));
        Ok(())
    };
    Ok(set()?)
}

type Listed = (Vec<u8>, Uuid, i64, i64, i64, i64, i64);

/// What is used of the totals of this database's windows and blocks, as shared memory has it now.
#[pg_extern(sql = false)]
#[expect(clippy::type_complexity, reason = "the columns of the function's result")]
fn list_ledger() -> TableIterator<
    'static,
    (
        name!(id, Vec<u8>),
        name!(window_id, Uuid),
        name!(rows_read, i64),
        name!(rows_written, i64),
        name!(bytes_read, i64),
        name!(statements, i64),
        name!(uses, i64),
    ),
> {
    let (_, database) = handshake::realm();
    let listed = ledger::list(database).into_iter().map(|(label, used)| -> Listed {
        let [rows_read, rows_written, bytes_read, statements, uses] =
            used.map(|used| i64::try_from(used).unwrap_or(i64::MAX));
        let window = Uuid::from_bytes(label.window);
        (label.id.to_vec(), window, rows_read, rows_written, bytes_read, statements, uses)
    });
    TableIterator::new(listed.collect::<Vec<_>>())
}
