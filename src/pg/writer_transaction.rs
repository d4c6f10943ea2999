//! What the writers of the trail run in: settings of their own, and transactions whose errors are values.

use std::ffi::CStr;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;

/// Why a batch is not in the trail.
pub enum Trouble {
    /// Not because of any event: a lock, a full disk. To be tried again as it is.
    Outside(String),
    /// Perhaps because of one of the events.
    Event(String),
    /// The extension is gone.
    Gone,
}

/// Whether events cannot be stored, and when that was last said: once a minute while it lasts.
#[derive(Default)]
pub struct Stuck(Option<Instant>);

impl Stuck {
    /// Says why nothing is stored.
    pub fn say(&mut self, why: &str) {
        if self.0.is_none_or(|since| since.elapsed() > Duration::from_secs(60)) {
            self.0 = Some(Instant::now());
            warning!("audit events cannot be stored, agents wait: {why}");
        }
    }

    /// Whether the last attempt failed.
    pub fn is_so(&self) -> bool {
        self.0.is_some()
    }

    /// Events are stored again.
    pub fn over(&mut self) {
        self.0 = None;
    }
}

/// A database's or the bootstrap role's own settings must not change how the trail is written.
pub fn pin_settings() {
    for (name, value) in [
        (c"search_path", c"pg_catalog, pg_temp"),
        (c"default_transaction_read_only", c"off"),
        (c"default_transaction_isolation", c"read committed"),
        (c"default_transaction_deferrable", c"off"),
        (c"statement_timeout", c"0"),
        (c"lock_timeout", c"0"),
        (c"idle_in_transaction_session_timeout", c"0"),
        (c"synchronous_commit", c"off"),
        (c"row_security", c"off"),
        (c"default_tablespace", c""),
        (c"maintenance_work_mem", c"64MB"),
        (c"max_parallel_maintenance_workers", c"0"),
        (c"application_name", c"agent_guard audit writer"),
    ] {
        set(name, value);
    }
}

/// Sets a setting of this process, between transactions.
pub fn set(name: &CStr, value: &CStr) {
    // SAFETY: settings of the server itself with values that they take.
    unsafe {
        pg_sys::SetConfigOption(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
        );
    }
}

/// Runs `work` in a transaction of its own, and turns an ERROR into a value.
pub fn in_transaction<R>(work: impl FnOnce() -> Result<R, Trouble>) -> Result<R, Trouble> {
    let outcome = PgTryBuilder::new(AssertUnwindSafe(|| {
        // SAFETY: the process is between transactions, at its top level.
        unsafe {
            pg_sys::SetCurrentStatementStartTimestamp();
            pg_sys::StartTransactionCommand();
            pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        }
        let result = work()?;
        // SAFETY: ends what was begun above.
        unsafe {
            pg_sys::PopActiveSnapshot();
            pg_sys::CommitTransactionCommand();
        }
        Ok(result)
    }))
    .catch_others(|caught| Err(trouble(&caught)))
    .catch_rust_panic(|caught| Err(trouble(&caught)))
    .execute();
    if outcome.is_err() {
        // SAFETY: as the server's own top-level error handling does; legal in any state of a transaction.
        unsafe { pg_sys::AbortCurrentTransaction() };
    }
    outcome
}

fn trouble(caught: &CaughtError) -> Trouble {
    let (CaughtError::PostgresError(report)
    | CaughtError::ErrorReport(report)
    | CaughtError::RustPanic { ereport: report, .. }) = caught;
    let code = crate::pg::raise::sqlstate_text(report.sql_error_code() as i32);
    let why = format!("{} (SQLSTATE {})", report.message(), String::from_utf8_lossy(&code));
    match &code {
        // Data exceptions, program limits, and faults of this very code.
        [b'2', b'2', ..] | [b'5', b'4', ..] | b"XX000" => Trouble::Event(why),
        _ => Trouble::Outside(why),
    }
}
